# SPDX-License-Identifier: Apache-2.0
"""The telemetry lane over a real database: once, in order, restated, restored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.lamp import LampReading
from ingest.judge import Received
from ingest.store import attempts, dead_letters, streams
from tests.ingest.community import GATEWAY, OTHER_GATEWAY, Bench, feed, found, heard
from tests.services import Broker

MINUTE = timedelta(minutes=1)


@pytest.fixture
def start() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5)


@pytest.fixture
def bench(database: str, broker: Broker, start: datetime) -> Iterator[Bench]:
    found(database, in_service_from=start)
    made = Bench(database, broker)
    yield made
    made.close()


def lamp(at: datetime, *, lit: bool | None = True, device: str = "c01-lamp-001") -> LampReading:
    return LampReading(device=device, at=at, lit=lit)


def nights(bench: Bench) -> list[tuple[int, int, int]]:
    rows = bench.rows(
        """
        SELECT lit_us, dark_us, revision
        FROM lamp_night AS n JOIN device AS d ON d.id = n.device_id
        WHERE d.device = 'c01-lamp-001' AND lit_us + dark_us > 0
        ORDER BY night
        """
    )
    return [(row["lit_us"], row["dark_us"], row["revision"]) for row in rows]


def total(bench: Bench) -> tuple[int, int]:
    found_nights = nights(bench)
    return sum(lit for lit, _, _ in found_nights), sum(dark for _, dark, _ in found_nights)


def test_a_message_stored_twice_is_stored_once(bench: Bench, start: datetime) -> None:
    writer = bench.telemetry()
    message = bench.batch(1, lamp(start), BinReading(device="c01-bin-001", at=start, fill_pct=20))
    feed(writer, message)
    feed(writer, message, message)
    feed(bench.telemetry(), message)  # after a restart
    assert bench.value("SELECT count(*) FROM reading_lamp") == 1
    assert bench.value("SELECT count(*) FROM reading_bin") == 1
    assert bench.value("SELECT seen::text FROM gateway_stream") == "{[1,2)}"


def test_what_is_stored_is_known_by_its_number_for_as_long_as_the_connection(
    bench: Bench, start: datetime
) -> None:
    writer = bench.telemetry()
    first, third = bench.batch(1, lamp(start)), bench.batch(3, lamp(start + 2 * MINUTE))
    feed(writer, first, third)
    second = bench.batch(2, lamp(start + MINUTE))
    judged = writer.judge([first, second, third])
    assert [item.is_stored for item in judged] == [True, False, True]
    feed(writer, first, second, third)
    again = bench.received(first.topic, first.payload)
    feed(writer, again)
    assert bench.value("SELECT count(*) FROM reading_lamp") == 3
    assert bench.value("SELECT seen::text FROM gateway_stream") == "{[1,4)}"
    assert bench.presence.last_heard(GATEWAY) == again.received_at
    writer.close()  # what comes next may be another course of the database
    assert not writer.judge([first])[0].is_stored


def test_number_stored_at_the_head_of_something_else_is_not_taken_for_it(
    bench: Bench, start: datetime
) -> None:
    writer = bench.telemetry()
    message = bench.batch(1, lamp(start))
    feed(writer, message)
    another = message.payload[:-1] + b',"seq":2}'  # of equal keys the last one counts
    cut = message.payload[:-1]
    feed(writer, *(bench.received(message.topic, payload) for payload in (another, cut)))
    assert bench.value("SELECT seen::text FROM gateway_stream") == "{[1,3)}"
    (letter,) = bench.rows("SELECT reason, raw FROM dead_letter")
    assert letter == {"reason": "payload.not_json", "raw": cut}


def test_readings_hold_until_the_next_one(bench: Bench, start: datetime) -> None:
    feed(
        bench.telemetry(),
        bench.batch(1, lamp(start), lamp(start + 10 * MINUTE, lit=False)),
        bench.batch(2, lamp(start + 15 * MINUTE), lamp(start + 100 * MINUTE)),
    )
    # 10 min lit, 5 dark, then lit for at most three reporting periods of 10 min; the rest unknown.
    assert total(bench) == (40 * 60 * 10**6, 5 * 60 * 10**6)


def test_nights_that_are_long_over_are_not_kept(bench: Bench, start: datetime) -> None:
    writer = bench.telemetry()
    feed(writer)
    assert writer.connection is not None
    made, known = writer.projection, writer.registry.devices["c01-lamp-001"]
    for day in range(8):
        at = start + timedelta(days=day)
        writer.tick(writer.connection, at + timedelta(hours=6))
        made.fold([heard(known, lamp(at))])
        made.commit()
        kept = {night for _, night in made.nights._nights}  # pyright: ignore[reportPrivateUsage]
        assert kept == {night for _, night in made.nights._due}  # pyright: ignore[reportPrivateUsage]
        assert 1 <= len(kept) <= 4
    made.fold([heard(known, lamp(start - timedelta(days=1)))])  # told late: opened anew
    assert made.gather().opened
    made.rollback()


def test_late_readings_restate_the_night(bench: Bench, start: datetime) -> None:
    writer = bench.telemetry()
    feed(writer, bench.batch(1, lamp(start)), bench.batch(3, lamp(start + 20 * MINUTE)))
    assert total(bench) == (20 * 60 * 10**6, 0)
    feed(writer, bench.batch(2, lamp(start + 10 * MINUTE, lit=False)))
    restated = bench.telemetry()
    feed(restated)  # recomputes what is dirty, as every pass does
    assert total(bench) == (10 * 60 * 10**6, 10 * 60 * 10**6)
    assert max(revision for _, _, revision in nights(bench)) == 2


def test_latest_state_only_moves_forward(bench: Bench, start: datetime) -> None:
    feed(
        bench.telemetry(),
        bench.batch(2, lamp(start + MINUTE, lit=False)),
        bench.batch(1, lamp(start, lit=True)),
    )
    assert bench.value("SELECT lit FROM device_state") is False


@pytest.mark.parametrize(
    ("device", "at", "reason"),
    [
        pytest.param("c01-lamp-999", timedelta(0), "device.unknown", id="unknown-device"),
        pytest.param("c01-lamp-101", timedelta(0), "device.wrong_gateway", id="foreign-device"),
        pytest.param("c01-bin-001", timedelta(0), "device.wrong_kind", id="bin-as-lamp"),
        pytest.param("c01-lamp-001", timedelta(hours=6), "time.future", id="future"),
        pytest.param("c01-lamp-001", -timedelta(days=31), "time.too_old", id="too-old"),
    ],
)
def test_one_bad_reading_is_set_apart_from_99_good_ones(
    bench: Bench, start: datetime, device: str, at: timedelta, reason: str
) -> None:
    good = [lamp(start + timedelta(seconds=second)) for second in range(99)]
    message = bench.batch(1, *good[:50], lamp(start + at, device=device), *good[50:])
    feed(bench.telemetry(), message)
    assert bench.value("SELECT count(*) FROM reading_lamp") == 99
    (letter,) = bench.rows("SELECT * FROM dead_letter")
    assert (letter["reason"], letter["at_index"]) == (reason, 50)
    assert letter["raw"] == message.payload


def test_payload_that_is_no_message_is_kept_with_its_reason(bench: Bench, start: datetime) -> None:
    topic = f"linli/v1/{'00'}/{GATEWAY}/up/telemetry"
    good = bench.batch(1, lamp(start))
    feed(
        bench.telemetry(),
        bench.received(good.topic, b"{"),
        good,
        bench.received(topic, good.payload),
        bench.received(good.topic.replace(GATEWAY, OTHER_GATEWAY), good.payload),
    )
    letters = bench.rows("SELECT reason, raw FROM dead_letter ORDER BY id")
    reasons = [letter["reason"] for letter in letters]
    assert reasons == ["payload.not_json", "topic.partition", "topic.partition"]
    assert letters[0]["raw"] == b"{"
    assert bench.value("SELECT count(*) FROM reading_lamp") == 1


def test_dark_lamp_is_raised_when_its_delay_ends_and_cleared_when_lit(
    bench: Bench, start: datetime
) -> None:
    writer = bench.telemetry()
    feed(writer, bench.batch(1, lamp(start, lit=False)))
    assert bench.value("SELECT count(*) FROM alert") == 0
    assert bench.value("SELECT count(*) FROM alert_pending") == 1
    # After a restart, another device of the gateway tells how late it is.
    later = bench.telemetry()
    feed(later, bench.batch(2, lamp(start + 6 * MINUTE, device="c01-lamp-002")))
    (alert,) = bench.rows("SELECT * FROM alert")
    assert (alert["rule"], alert["raised_at"]) == ("lamp.dark", start + 5 * MINUTE)
    assert (alert["active"], alert["late"]) == (True, True)
    assert bench.value("SELECT count(*) FROM alert_pending") == 0
    feed(later, bench.batch(3, lamp(start + 7 * MINUTE)))
    (alert,) = bench.rows("SELECT * FROM alert")
    assert (alert["active"], alert["cleared_at"]) == (False, start + 7 * MINUTE)
    actions = bench.rows("SELECT action FROM alert_history ORDER BY id")
    assert [row["action"] for row in actions] == ["raised", "cleared"]


def test_full_bin_is_raised_once_between_its_limits(bench: Bench, start: datetime) -> None:
    fills = (80, 91, 95, 88, 92, 71, 60, 93)
    writer = bench.telemetry()
    for seq, fill in enumerate(fills, start=1):
        at = start + seq * MINUTE
        feed(writer, bench.batch(seq, BinReading(device="c01-bin-001", at=at, fill_pct=fill)))
    times = bench.rows("SELECT active, params FROM alert_occurrence ORDER BY raised_at")
    assert [one["active"] for one in times] == [False, True]
    assert times[0]["params"] == {"fill_pct": 91}
    # Full again within minutes: people have one alert, which says so.
    (alert,) = bench.rows("SELECT active, repeats, params FROM alert")
    assert alert == {"active": True, "repeats": 1, "params": {"fill_pct": 93}}


def test_device_registered_a_moment_ago_is_known_at_once(bench: Bench, start: datetime) -> None:
    writer = bench.telemetry()
    feed(writer)
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area, in_service_from)
            VALUES ('c01-lamp-003', 'lamp', %s, 'c01', 'c01', %s)
            """,
            (GATEWAY, start),
        )
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
    feed(writer, bench.batch(1, lamp(start, device="c01-lamp-003")))
    assert bench.value("SELECT count(*) FROM reading_lamp") == 1
    assert bench.value("SELECT count(*) FROM dead_letter") == 0


def test_device_that_turns_bad_is_told_once_and_refusals_are_counted(
    bench: Bench, start: datetime
) -> None:
    writer = bench.telemetry()
    future = datetime.now(UTC) + timedelta(hours=1)
    for seq in range(1, 9):
        feed(writer, bench.batch(seq, lamp(future), lamp(start + seq * MINUTE)))
    (alert,) = bench.rows("SELECT rule, device, params, active FROM alert")
    assert (alert["rule"], alert["device"]) == ("device.refused", "c01-lamp-001")
    assert alert["params"] == {"reason": "time.future"}
    assert bench.value("SELECT sum(count)::int FROM dead_letter_count") == 8


def test_raw_bytes_are_kept_for_the_first_refusals_of_a_day_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "KEPT_A_DAY_MAX", 3)
    topic = bench.batch(1, lamp(datetime.now(UTC))).topic
    writer = bench.telemetry()
    for _ in range(2):
        feed(writer, *(bench.received(topic, b"nonsense") for _ in range(2)))
    assert bench.value("SELECT count(*) FROM dead_letter") == 3
    assert bench.value("SELECT sum(count)::int FROM dead_letter_count") == 4


def test_hole_attack_freezes_the_stream_and_leaves_others_alone(
    bench: Bench, start: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RANGES_MAX", 10)
    writer = bench.telemetry()
    for seq in range(1, 31, 2):
        feed(writer, bench.batch(seq, lamp(start + seq * MINUTE)))
    stored = bench.value("SELECT count(*) FROM reading_lamp")
    assert stored == 11
    feed(writer, bench.batch(1, lamp(start, device="c01-lamp-002"), stream="another"))
    assert bench.value("SELECT count(*) FROM reading_lamp") == stored + 1
    assert bench.value("SELECT DISTINCT reason FROM dead_letter") == "stream.too_sparse"


def test_frozen_stream_heals_by_what_fills_its_holes(
    bench: Bench, start: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RANGES_MAX", 10)
    writer = bench.telemetry()
    feed(writer, *(bench.batch(seq, lamp(start + seq * MINUTE)) for seq in range(1, 45, 4)))
    assert bench.value("SELECT count(*) FROM dead_letter") == 0
    # 11 ranges, 1 to 41: at both sides of a range, and on from there within the flush.
    feed(writer, *(bench.batch(seq, lamp(start + seq * MINUTE)) for seq in (3, 4, 6, 7, 42, 43)))
    assert bench.value("SELECT count(*) FROM dead_letter") == 0
    feed(writer, bench.batch(46, lamp(start + 46 * MINUTE)))
    assert bench.value("SELECT reason FROM dead_letter") == "stream.too_sparse"
    feed(writer, bench.batch(2, lamp(start + 2 * MINUTE)))
    feed(writer, bench.batch(8, lamp(start + 8 * MINUTE)))
    assert bench.value("SELECT seen::text FROM gateway_stream").startswith("{[1,10),[13,14),")
    feed(writer, bench.batch(46, lamp(start + 46 * MINUTE)))
    assert bench.value("SELECT upper(seen) FROM gateway_stream") == 47


def test_endless_new_streams_are_refused(bench: Bench, start: datetime) -> None:
    writer = bench.telemetry()
    for number in range(20):
        at = start + number * MINUTE
        feed(writer, bench.batch(1, lamp(at), stream=f"stream-{number}"))
    assert bench.value("SELECT count(*) FROM gateway_stream") == streams.NEW_STREAMS_A_DAY_MAX
    assert bench.value("SELECT DISTINCT reason FROM dead_letter") == "stream.too_many"


def begun_in_vain(bench: Bench, message: Received, times: int) -> None:
    """As if so many processes had begun it, and were never heard of again."""
    for _ in range(times):
        bench.telemetry()
        with psycopg.connect(bench.dsn, autocommit=True) as conn:
            attempts.start(conn, "telemetry")
            attempts.begin(conn, "telemetry", message.sha256)


def test_message_that_ends_the_process_becomes_a_dead_letter(bench: Bench, start: datetime) -> None:
    poison = replace(bench.batch(1, lamp(start)), dup=True)
    neighbour = replace(bench.batch(2, lamp(start + MINUTE)), dup=True)
    begun_in_vain(bench, poison, attempts.ATTEMPTS_MAX)
    feed(bench.telemetry(), poison, neighbour)
    assert bench.value("SELECT reason FROM dead_letter") == "process.crashed"
    assert bench.value("SELECT count(*) FROM reading_lamp") == 1


def test_what_comes_again_after_a_crash_does_not_look_like_a_database_that_hangs(
    bench: Bench, start: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, a flush of it takes longer than a single statement may."""
    writer = bench.telemetry()
    with psycopg.connect(bench.dsn, autocommit=True) as conn:
        attempts.start(conn, "telemetry")
    asked: list[float | None] = []
    begin = attempts.begin

    def noted(conn: psycopg.Connection, lane: str, sha256: bytes) -> None:
        asked.append(writer.asking_since)
        begin(conn, lane, sha256)

    monkeypatch.setattr(attempts, "begin", noted)
    again = [replace(bench.batch(n, lamp(start + n * MINUTE)), dup=True) for n in range(1, 4)]
    feed(writer, *again)
    assert bench.value("SELECT count(*) FROM reading_lamp") == 3
    assert len(asked) == len(set(asked)) == 3


def test_stream_in_hand_when_its_process_was_killed_goes_last_in_its_order(
    bench: Bench, start: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = replace(bench.batch(1, lamp(start)), dup=True)
    innocent = replace(bench.batch(2, lamp(start + MINUTE)), dup=True)
    other = OTHER_GATEWAY
    elsewhere = replace(
        bench.batch(1, lamp(start, device="c01-lamp-101"), gateway=other, stream="s"), dup=True
    )
    begun_in_vain(bench, innocent, attempts.ATTEMPTS_MAX - 1)
    writer = bench.telemetry()
    begun: list[bytes] = []
    begin = attempts.begin

    def noted(conn: psycopg.Connection, lane: str, sha256: bytes) -> None:
        begun.append(sha256)
        begin(conn, lane, sha256)

    monkeypatch.setattr(attempts, "begin", noted)
    feed(writer, earlier, innocent, elsewhere)
    assert begun == [elsewhere.sha256, earlier.sha256, innocent.sha256]
    # The same process, once more: the database was away, which is nobody's fault.
    feed(writer, innocent)
    assert len(begun) == 3
    assert bench.value("SELECT count(*) FROM dead_letter") == 0
    assert bench.value("SELECT count(*) FROM reading_lamp") == 3


def ask(bench: Bench, where: str = "true") -> None:
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(
            f"UPDATE dead_letter SET replay_asked_at = now() WHERE {where}".encode()  # our own text
        )


def test_refused_reading_is_stored_once_when_it_is_replayed_after_a_fix(
    bench: Bench, start: datetime
) -> None:
    writer = bench.telemetry()
    message = bench.batch(1, lamp(start), lamp(start, device="c01-lamp-003"))
    feed(writer, message)
    assert bench.value("SELECT reason FROM dead_letter") == "device.unknown"
    ask(bench)
    feed(bench.telemetry())
    (letter,) = bench.rows("SELECT replayed_at, replay_result FROM dead_letter")
    assert letter == {"replayed_at": None, "replay_result": "device.unknown"}
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area, in_service_from)
            VALUES ('c01-lamp-003', 'lamp', %s, 'c01', 'c01', %s)
            """,
            (GATEWAY, start),
        )
    for _ in range(2):
        ask(bench, "replayed_at IS NULL")
        feed(bench.telemetry())
    feed(bench.telemetry(), message)  # and redelivered once more
    assert bench.value("SELECT count(*) FROM reading_lamp") == 2
    assert bench.value("SELECT replay_result FROM dead_letter") == "stored"
    assert bench.value("SELECT count(*) FROM device_state") == 2


def test_whole_message_of_a_gateway_registered_later_is_replayed(
    bench: Bench, start: datetime
) -> None:
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE gateway SET status = 'revoked' WHERE gateway = %s", (GATEWAY,))
    feed(bench.telemetry(), bench.batch(1, lamp(start), lamp(start + MINUTE)))
    assert bench.value("SELECT reason FROM dead_letter") == "gateway.revoked"
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE gateway SET status = 'active'")
    ask(bench)
    feed(bench.telemetry())
    feed(bench.telemetry())
    assert bench.value("SELECT count(*) FROM reading_lamp") == 2
