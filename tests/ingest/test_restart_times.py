# SPDX-License-Identifier: Apache-2.0
"""What time alone decides: not before all is heard that was said until then, however it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from edge_agent.kinds.alarm import AlarmReading
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateEvent
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import Status
from ingest.owed import WAIT_MAX, Owed
from ingest.presence import Hearing, Listening, Presence, is_silent
from ingest.writer import Writer
from tests.ingest.community import EVENT_STREAM, GATEWAY, Bench, feed, found
from tests.services import Broker

START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
TUNED: Mapping[str, dict[str, object]] = {
    "gate.forced": {"on_delay_s": 30},
    "detector.low_battery": {"on_delay_s": 3600},
    "device.fault": {"on_delay_s": 3600},
}


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=START - timedelta(hours=1))
    made = Bench(database, broker, dict(TUNED))
    yield made
    made.close()


def own_rule(bench: Bench, name: str, kind: str, when: dict[str, Any], **more: object) -> None:
    definition = {"name": {"zh-CN": "规则", "en": "rule"}, "kind": kind, "severity": "minor",
                  "when": when, **more}  # fmt: skip
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(
            """
            INSERT INTO rule_version (rule, area, version, revision, definition, author, reason, at)
            VALUES (%s, 'city', 1, 1, %s, 'police', 'a test', now())
            """,
            (f"custom.{name}", Jsonb(definition)),
        )
        conn.execute("UPDATE installation SET rules_revision = rules_revision + 1")


def listen(writer: Writer, since: datetime, until: datetime) -> None:
    """The lane has heard without a break what was published in between; and does what is due."""
    feed(writer)
    writer.healthy_since = since
    hearing = writer.consumer.hearing
    hearing.lost()
    hearing.came_round(since)
    for second in range(1, (until - since) // SECOND + 1):
        hearing.came_round(since + second * SECOND)
    feed(writer)


def gate(event: str, second: float) -> GateEvent:
    at = START + second * SECOND
    return GateEvent.model_validate({"device": "c01-gate-001", "at": at, "event": event})


def history(bench: Bench) -> list[tuple[str, datetime]]:
    rows = bench.rows("SELECT action, at FROM alert_history ORDER BY id")
    return [(row["action"], row["at"]) for row in rows]


def status(upto: int) -> Status:
    streams = [{"lane": "event", "stream": EVENT_STREAM, "oldest": 1, "next": upto}]
    return Status.model_validate({"state": "online", "streams": streams})


def test_a_delay_ends_only_once_what_waits_at_the_broker_is_heard(bench: Bench) -> None:
    feed(bench.events(), bench.event(1, gate("forced", 0)))
    restarted = bench.events()
    feed(restarted)  # nothing proves yet that we hear all
    assert history(bench) == []
    listen(restarted, START + 20 * SECOND, START + 25 * SECOND)
    assert history(bench) == []
    feed(restarted, bench.event(2, gate("restored", 10)))
    listen(restarted, START + 20 * SECOND, START + 90 * SECOND)
    assert history(bench) == []


def test_a_delay_that_nothing_ended_is_told_with_its_instant(bench: Bench) -> None:
    feed(bench.events(), bench.event(1, gate("forced", 0)))
    restarted = bench.events()
    listen(restarted, START, START + 32 * SECOND)
    assert history(bench) == [("raised", START + 30 * SECOND)]


@pytest.mark.parametrize("comes", [True, False])
def test_events_that_a_gateway_still_has_are_waited_for(bench: Bench, comes: bool) -> None:
    """By its own word; but not for ever, or nobody would be told that the gate was forced."""
    feed(bench.events(), bench.event(1, gate("forced", 0)))
    restarted = bench.events()
    feed(restarted, bench.status(status(3)))
    listen(restarted, START, START + 40 * SECOND)
    assert history(bench) == []
    if comes:
        feed(restarted, bench.event(2, gate("granted", 20)))
        listen(restarted, START, START + 40 * SECOND)
    else:
        assert restarted.connection is not None
        now = datetime.now(UTC)
        for second in range(0, WAIT_MAX // SECOND + 10, 5):
            restarted.tick(restarted.connection, now + second * SECOND)
    assert history(bench) == [("raised", START + 30 * SECOND)]


def test_a_gateway_is_waited_for_wherever_the_link_broke(bench: Bench) -> None:
    """Its link may have broken with ours, and what it could not send be on its way."""
    feed(bench.events(), bench.event(1, gate("forced", 0)))
    bench.presence = Presence()
    bench.presence.heard([(GATEWAY, START + 59 * SECOND)])
    writer = bench.events()
    listen(writer, START + MINUTE, START + 80 * SECOND)
    assert history(bench) == []
    feed(writer, bench.event(2, gate("restored", 10)))
    listen(writer, START + MINUTE, START + 80 * SECOND)
    assert history(bench) == []


@pytest.mark.parametrize("how", ["heard", "silent", "in vain"])
def test_a_gateway_that_has_to_come_back_is_waited_for(bench: Bench, how: str) -> None:
    feed(bench.events(), bench.event(1, gate("forced", 0)))
    bench.presence = Presence()  # another process
    restarted = bench.events()
    listen(restarted, START + MINUTE, START + 2 * MINUTE - SECOND)
    assert history(bench) == []
    if how == "heard":
        feed(restarted, bench.status(status(2)))
        feed(restarted)
    elif how == "silent":
        with psycopg.connect(bench.dsn) as conn:
            conn.execute("UPDATE gateway SET silent = true")
            conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
        restarted = bench.events()
        listen(restarted, START + MINUTE, START + 2 * MINUTE - SECOND)
    else:
        listen(restarted, START + MINUTE, START + 2 * MINUTE)
    assert [row for row in history(bench) if row[0] == "raised"][:1] == [
        ("raised", START + 30 * SECOND)
    ]


def test_a_count_of_events_ends_when_it_did(bench: Bench) -> None:
    """Restarted long after, with more of them waiting: each end has its own instant."""
    own_rule(
        bench, "denied", "gate",
        {"type": "count", "times": 3, "within_s": 60,
         "of": {"type": "event", "events": ["denied"]}}, reopen_s=0,
    )  # fmt: skip
    first = [bench.event(seq, gate("denied", seq)) for seq in (1, 2, 3)]
    feed(bench.events(), *first)
    restarted = bench.events()
    feed(restarted)
    second = [bench.event(seq, gate("denied", 50 + seq)) for seq in (4, 5)]
    third = [bench.event(seq, gate("denied", 400 + seq)) for seq in (6, 7, 8)]
    feed(restarted, *second, *third)
    listen(restarted, START, START + 1000 * SECOND)
    told = [(action, (at - START) // SECOND) for action, at in history(bench)]
    # The last three are those of 3 s, 54 s and 55 s: no three within a minute from 63 s on.
    assert told == [("raised", 3), ("cleared", 63), ("raised", 408), ("cleared", 466)]


FILLING: Mapping[str, Any] = {
    "type": "count", "times": 3, "within_s": 900,
    "of": {"type": "threshold", "field": "fill_pct", "above": 50},
}  # fmt: skip


def fills() -> list[BinReading]:
    """Full, empty and full again: four times within minutes, and much later once more."""
    told = [(minute, 60 if minute % 2 else 10) for minute in (0, 1, 2, 3, 4, 5, 8, 9, 40, 41)]
    return [
        BinReading(device="c01-bin-001", at=START + minute * MINUTE, fill_pct=fill)
        for minute, fill in told
    ]


@pytest.mark.parametrize("pieces", [1, 4, 30])
def test_a_backlog_is_judged_alike_however_fast_it_comes(bench: Bench, pieces: int) -> None:
    own_rule(bench, "filling", "bin", dict(FILLING))
    others = [
        LampReading(device="c01-lamp-001", at=START + minute * MINUTE, lit=True)
        for minute in range(0, 60, 3)
    ]
    backlog = sorted([*fills(), *others], key=lambda one: one.at)
    size = len(backlog) // pieces
    writer = bench.telemetry()
    for seq, first in enumerate(range(0, len(backlog), size), start=1):
        feed(writer, bench.batch(seq, *backlog[first : first + size]))
        listen(writer, START, datetime.now(UTC))
    assert history(bench) == [
        ("raised", START + 5 * MINUTE),
        ("cleared", START + 18 * MINUTE),
    ]


def test_behind_a_gateway_that_is_live_time_goes_on_without_readings(bench: Bench) -> None:
    own_rule(bench, "filling", "bin", dict(FILLING))
    writer = bench.telemetry()
    told = [one for one in fills() if one.at < START + 10 * MINUTE]
    for seq, one in enumerate(told, start=1):
        feed(writer, bench.batch(seq, one, at=one.at + SECOND))
    listen(writer, START, START + 18 * MINUTE)
    assert [action for action, _ in history(bench)] == ["raised"]
    listen(writer, START, START + 19 * MINUTE)
    assert history(bench)[1:] == [("cleared", START + 18 * MINUTE)]


def test_after_a_restart_a_count_ends_when_it_did_and_not_when_we_look(bench: Bench) -> None:
    own_rule(bench, "filling", "bin", dict(FILLING))
    first = [one for one in fills() if one.at < START + 10 * MINUTE]
    feed(bench.telemetry(), bench.batch(1, *first))
    bench.presence = Presence()
    restarted = bench.telemetry()
    listen(restarted, START, datetime.now(UTC))  # its gateway is not heard yet
    assert [action for action, _ in history(bench)] == ["raised"]
    lamp = LampReading(device="c01-lamp-001", at=START + 60 * MINUTE, lit=True)
    feed(restarted, bench.batch(2, lamp))
    listen(restarted, START, datetime.now(UTC))
    assert history(bench)[1:] == [("cleared", START + 18 * MINUTE)]


BROKEN: Mapping[str, Any] = {"type": "equals", "field": "state", "value": "fault"}


def broken(at: datetime, fault: str | None = "jam") -> BinReading:
    return BinReading(device="c01-bin-001", at=at, fault=fault)


@pytest.mark.parametrize("fault", ["jam", None])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_state_in_a_backlog_is_asked_as_late_as_the_backlog_is(
    bench: Bench, fault: str | None, restarts: bool
) -> None:
    """A gateway was away for ten minutes: the end of its fault waits in its outbox, or nothing."""
    own_rule(bench, "broken", "bin", dict(BROKEN), on_delay_s=300)
    now = datetime.now(UTC)
    began, listens = now - 10 * MINUTE, now - 30 * SECOND
    writer = bench.telemetry()
    feed(writer, bench.batch(1, broken(began)))
    if restarts:
        bench.presence = Presence()
        bench.presence.heard([(GATEWAY, now)])
        writer = bench.telemetry()
    listen(writer, listens, now)
    feed(writer, bench.batch(2, broken(began + 10 * SECOND, fault)))
    listen(writer, listens, now)
    assert history(bench) == []
    lamp = LampReading(device="c01-lamp-001", at=datetime.now(UTC), lit=True)
    feed(writer, bench.batch(3, lamp))
    listen(writer, listens, now + 10 * SECOND)
    assert history(bench) == ([] if fault is None else [("raised", began + 5 * MINUTE)])


def test_after_a_break_of_our_own_link_a_state_waits_for_the_gateway(bench: Bench) -> None:
    own_rule(bench, "broken", "bin", dict(BROKEN), on_delay_s=300)
    began = datetime.now(UTC) - 10 * MINUTE
    writer = bench.telemetry()
    feed(writer, bench.batch(1, broken(began), at=began + SECOND))
    listen(writer, began, began + 200 * SECOND)
    listen(writer, began + 310 * SECOND, began + 320 * SECOND)
    feed(writer, bench.batch(2, broken(began + 10 * SECOND, None), at=began + 321 * SECOND))
    listen(writer, began + 310 * SECOND, began + 400 * SECOND)
    assert history(bench) == []


def test_a_state_waits_for_no_stream_that_does_not_come(bench: Bench) -> None:
    own_rule(bench, "broken", "bin", dict(BROKEN), on_delay_s=300)
    now = datetime.now(UTC)
    began = now - 10 * MINUTE
    writer = bench.telemetry()
    feed(writer, bench.batch(1, broken(began), at=now))
    listen(writer, now - MINUTE, now + WAIT_MAX - SECOND)
    assert history(bench) == []
    listen(writer, now - MINUTE, now + WAIT_MAX)
    assert history(bench) == [("raised", began + 5 * MINUTE)]


def test_a_gateway_with_a_slow_clock_delays_no_state_for_ever(bench: Bench) -> None:
    own_rule(bench, "broken", "bin", dict(BROKEN), on_delay_s=300)
    now = datetime.now(UTC)
    writer = bench.telemetry()
    feed(writer, bench.batch(1, broken(START), at=now))
    listen(writer, now - SECOND, now)
    assert history(bench) == [("raised", START + 5 * MINUTE)]


def test_a_state_lasts_until_its_gateway_is_heard_again(bench: Bench) -> None:
    """By our clock, however old what the gateway tells then is; across a restart, too."""
    offline = {"type": "equals", "field": "state", "value": "offline"}
    own_rule(bench, "gone", "bin", offline, on_delay_s=300)
    now = datetime.now(UTC).replace(microsecond=0)
    silent, back = now - 10 * MINUTE, now - 5 * SECOND
    writer = bench.telemetry()
    feed(writer, bench.batch(1, broken(silent - 3 * MINUTE, None), at=silent - 3 * MINUTE))
    listen(writer, silent - MINUTE, silent)
    bench.presence.set_silent(GATEWAY, silent=True, now=silent)
    listen(writer, silent - MINUTE, silent)
    bench.presence = Presence()
    bench.presence.set_silent(GATEWAY, silent=True, now=back)
    bench.presence.heard([(GATEWAY, back)])
    bench.presence.set_silent(GATEWAY, silent=False, now=back)
    writer = bench.telemetry()
    listen(writer, back, now)
    assert history(bench) == [("raised", silent + 5 * MINUTE), ("cleared", back)]


@pytest.mark.parametrize("restarts", [False, True])
def test_what_is_not_known_any_more_is_raised_by_no_restart(bench: Bench, restarts: bool) -> None:
    """A battery was low once; what its detector said later does not tell of it."""
    writer = bench.telemetry()
    for seq, minute in enumerate(range(0, 80, 10), start=1):
        at = START + minute * MINUTE
        low = AlarmReading(device="c01-alarm-001", at=at, armed=True,
                           battery_pct=5 if minute == 0 else None)  # fmt: skip
        if restarts:
            writer = bench.telemetry()
        feed(writer, bench.batch(seq, low))
    assert history(bench) == []


@pytest.mark.parametrize("restarts", [False, True])
def test_what_is_confirmed_again_and_again_is_raised_after_a_restart(
    bench: Bench, restarts: bool
) -> None:
    """A lamp's fault is told by readings that say nothing of its light."""
    writer = bench.telemetry()
    for seq, minute in enumerate(range(0, 80, 10), start=1):
        at = START + minute * MINUTE
        broken = LampReading(device="c01-lamp-001", at=at, lit=True if minute == 0 else None,
                             fault="driver")  # fmt: skip
        if restarts:
            writer = bench.telemetry()
        feed(writer, bench.batch(seq, broken))
    assert history(bench) == [("raised", START + 60 * MINUTE)]
    assert bench.value("SELECT count(*) FROM alert_pending") == 0


def test_what_is_known_for_long_enough_is_written_once(bench: Bench) -> None:
    """A delay shorter than readings hold costs no writing while it runs."""
    bench.rules["device.fault"] = {"on_delay_s": 600}
    writer = bench.telemetry()
    rows: set[str] = set()
    for seq, minute in enumerate((0, 3, 6), start=1):
        at = START + minute * MINUTE
        feed(writer, bench.batch(seq, LampReading(device="c01-lamp-001", at=at, fault="driver")))
        rows.add(bench.value("SELECT xmin::text FROM alert_pending WHERE rule = 'device.fault'"))
    assert len(rows) == 1


def test_a_probe_that_comes_late_says_how_far_we_are_and_nothing_of_silence() -> None:
    """A broker that was frozen hands over at once what it was given meanwhile."""
    hearing = Hearing(2 * SECOND)
    for second in (0, 1):
        hearing.came_round(START + second * SECOND, START + second * SECOND)
    assert hearing.listening == Listening(START, START + SECOND)
    for second in (2, 3):
        hearing.came_round(START + second * SECOND, START + 30 * SECOND)
        assert hearing.listening == Listening(START + 30 * SECOND, START + second * SECOND)


def test_who_hears_everything_late_finds_silence_all_the_same() -> None:
    """Probes wait behind a backlog like everything else; they keep coming."""
    hearing, late, limit = Hearing(2 * SECOND), 13 * SECOND, 30 * SECOND
    for half in range(120):
        sent_at = START + half * SECOND / 2
        hearing.came_round(sent_at, sent_at + late)
    listening = hearing.listening
    assert listening == Listening(START + late, START + 59.5 * SECOND)
    assert is_silent(START + 29 * SECOND, listening, limit) is True
    assert is_silent(START + 30 * SECOND, listening, limit) is False
    # What the broker dropped was dropped between two that came together.
    hearing.came_round(START + 70 * SECOND, START + 59.6 * SECOND + late)
    assert is_silent(START + 29 * SECOND, hearing.listening, limit) is None


def test_each_debt_is_waited_for(bench: Bench) -> None:
    writer = bench.events()
    feed(writer, bench.event(1, gate("forced", 0)))
    owed, hour, one = Owed(), timedelta(hours=1), {GATEWAY}
    with psycopg.connect(bench.dsn) as conn:
        owed.note(GATEWAY, status(3))
        for waited in (0, 10, 20, 30, 40, 50, 60):
            assert owed.owing(conn, [GATEWAY], START + waited * SECOND) == one
        assert owed.owing(conn, [GATEWAY], START + 61 * SECOND) == set()
        # What was waited for came to its end, so nobody asked any more whether it came.
        feed(writer, bench.event(2, gate("restored", 10)))
        conn.rollback()
        owed.note(GATEWAY, status(4))
        assert owed.owing(conn, [GATEWAY], START + hour) == one
        assert owed.owing(conn, [GATEWAY], START) == one  # our clock was set back
        for waited in (10, 20, 30, 40, 50, 60):
            assert owed.owing(conn, [GATEWAY], START + waited * SECOND) == one
        assert owed.owing(conn, [GATEWAY], START + 61 * SECOND) == set()


def test_a_reading_received_long_ago_makes_no_gateway_quiet(bench: Bench) -> None:
    """A dead letter that is judged again."""
    writer, now = bench.telemetry(), START + 3 * timedelta(hours=1)
    for seq, at in ((1, now), (2, START)):
        lamp = LampReading(device="c01-lamp-001", at=at, lit=True)
        feed(writer, bench.batch(seq, lamp, at=at))
    assert writer.projection.told_upto(GATEWAY) == (now, now)
