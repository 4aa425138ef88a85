# SPDX-License-Identifier: Apache-2.0
"""Days over a real database: opened, computed, restated when something comes late, verified."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from edge_agent.kinds.bin import BinReading, DepositEvent
from edge_agent.kinds.gate import GateEvent, GateReading
from edge_agent.kinds.lamp import LampReading
from ingest import daily, days
from ingest.daily import DailyKeeper
from ingest.domains import DOMAINS
from ingest.store import chunks, claim, community_days, connect, faults
from ingest.store.devices import load_registry
from tests.ingest.community import GATEWAY, OTHER_GATEWAY, Bench, feed, found
from tests.services import Broker

# Two days ago: over, and final an hour later. Shanghai is eight hours ahead.
DAY = (datetime.now(UTC) - timedelta(days=2)).date()
MIDNIGHT = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) - timedelta(hours=8)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=MIDNIGHT - timedelta(days=5))
    made = Bench(database, broker)
    yield made
    made.close()


def keep(bench: Bench, now: datetime) -> None:
    """Do all that is due at one moment."""
    with connect(bench.dsn, "test") as conn:
        registry = load_registry(conn)
        keeper = DailyKeeper(bench.dsn, lambda: registry)
        while keeper.keep(conn, now):
            pass


def numbers(bench: Bench, indicator: str, day: date = DAY) -> list[dict[str, Any]]:
    return bench.rows(
        """
        SELECT area, kind, good, bad, total, revision, status FROM area_day
        WHERE indicator = %s AND day = %s AND total > 0 ORDER BY area, kind
        """,
        indicator,
        day,
    )


def lamp_hour(bench: Bench, seq: int, start: datetime, *, fault: str | None = None) -> None:
    """One lamp lit for an hour, told every ten minutes, the last at its end."""
    readings = [
        LampReading(device="c01-lamp-001", at=start + n * 10 * MINUTE, lit=True, fault=fault)
        for n in range(7)
    ]
    feed(bench.telemetry(), bench.batch(seq, *readings))


def verify(bench: Bench) -> tuple[int, list[str]]:
    with connect(bench.dsn, "test") as conn:
        compared, differences = days.verify(
            conn, DAY - timedelta(days=3), DAY + timedelta(days=3), lambda done, of: None
        )
    return compared, [str(one) for one in differences]


def test_day_that_is_over_is_marked_computed_once_and_final(bench: Bench) -> None:
    lamp_hour(bench, 1, MIDNIGHT + 20 * HOUR)
    assert bench.value("SELECT DISTINCT dirty FROM community_day") == "late"
    keep(bench, datetime.now(UTC))
    (uptime,) = numbers(bench, "lighting-uptime")
    # The last of seven holds for three periods: an hour and a half in all.
    assert (uptime["good"], uptime["bad"]) == (90 * 60 * 10**6, 0)
    assert (uptime["revision"], uptime["status"]) == (1, "final")
    good = numbers(bench, "equipment-good")
    assert {row["kind"] for row in good} >= {"", "lamp"}
    assert {row["good"] for row in good if row["kind"] in {"", "lamp"}} == {90 * 60 * 10**6}
    assert bench.value("SELECT count(*) FROM community_day WHERE dirty IS NOT NULL") == 0
    assert verify(bench)[1] == []


def test_late_reading_restates_and_the_history_is_kept(bench: Bench) -> None:
    lamp_hour(bench, 1, MIDNIGHT + 20 * HOUR)
    now = datetime.now(UTC)
    keep(bench, now)
    lamp_hour(bench, 2, MIDNIGHT + 22 * HOUR, fault="lamp")
    # A backlog marks the day in each flush; it is computed once in a while.
    keep(bench, now + timedelta(seconds=5))
    assert numbers(bench, "lighting-uptime")[0]["revision"] == 1
    keep(bench, now + MINUTE)
    (uptime,) = numbers(bench, "lighting-uptime")
    assert (uptime["good"], uptime["revision"]) == (180 * 60 * 10**6, 2)
    (together, *_) = numbers(bench, "equipment-good")
    assert (together["good"], together["bad"]) == (90 * 60 * 10**6, 90 * 60 * 10**6)
    history = bench.rows(
        "SELECT revision, good, reason FROM area_day_revision WHERE indicator = 'lighting-uptime'"
    )
    assert history == [{"revision": 1, "good": 90 * 60 * 10**6, "reason": "late"}]
    assert verify(bench)[1] == []
    # The same again changes nothing.
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE community_day SET dirty = 'asked', marks = marks + 1")
    keep(bench, now + 3 * MINUTE)
    assert numbers(bench, "lighting-uptime")[0]["revision"] == 2


def test_day_is_computed_as_far_as_its_readings_are_indexed(bench: Bench) -> None:
    lamp_hour(bench, 1, MIDNIGHT + 2 * HOUR)
    lamp_hour(bench, 2, MIDNIGHT + 20 * HOUR)
    now = datetime.now(UTC)
    with connect(bench.dsn, "test") as conn:
        first, second = chunks.load(conn)
        assert first.end == second.start < MIDNIGHT + 20 * HOUR
        assert chunks.index(conn, second, "brin")
    keep(bench, now)
    (together, *_) = numbers(bench, "equipment-good")
    assert (together["good"], together["status"]) == (90 * 60 * 10**6, "provisional")
    # Of what begins later nothing is said yet.
    assert numbers(bench, "equipment-good", DAY + timedelta(days=1)) == []
    with connect(bench.dsn, "test") as conn:
        assert chunks.index(conn, chunks.load(conn)[1], "btree")
    keep(bench, now + MINUTE)
    (together, *_) = numbers(bench, "equipment-good")
    assert (together["good"], together["status"]) == (180 * 60 * 10**6, "final")
    assert verify(bench)[1] == []


def test_mark_made_while_a_day_is_computed_stays(bench: Bench) -> None:
    lamp_hour(bench, 1, MIDNIGHT + 20 * HOUR)
    now = datetime.now(UTC)
    with connect(bench.dsn, "test") as conn:
        places = days.Places(load_registry(conn))
        due = community_days.due(conn, now, 100, running=HOUR)
        conn.execute("UPDATE community_day SET marks = marks + 1")
        for day in due:
            daily.keep_day(conn, places, day, now)
    assert bench.value("SELECT count(*) FROM community_day WHERE dirty IS NULL") == 0


def test_refuse_and_access_count_what_is_told(bench: Bench) -> None:
    at = MIDNIGHT + 10 * HOUR
    feed(
        bench.telemetry(),
        bench.batch(1, BinReading(device="c01-bin-001", at=at, fill_pct=40.0, stream="kitchen")),
        bench.batch(2, GateReading(device="c01-gate-001", at=at, door="closed")),
    )
    feed(
        bench.events(),
        bench.event(1, DepositEvent(device="c01-bin-001", at=at, weight_kg=1.5, sorted_ok=True)),
        bench.event(2, DepositEvent(device="c01-bin-001", at=at, weight_kg=0.5, sorted_ok=False)),
        bench.event(3, GateEvent(device="c01-gate-001", at=at + MINUTE, event="forced")),
    )
    keep(bench, datetime.now(UTC))
    (sorted_,) = numbers(bench, "refuse-sorted")
    assert (sorted_["good"], sorted_["bad"], sorted_["total"]) == (1_500, 500, 2_000)
    (recovered,) = numbers(bench, "refuse-recovered")
    assert (recovered["good"], recovered["bad"]) == (0, 2_000)
    assert numbers(bench, "gate-forced")[0]["good"] == 1
    assert verify(bench)[1] == []


def test_running_day_is_opened_and_brought_up_to_date(bench: Bench) -> None:
    now = MIDNIGHT + 20 * HOUR
    keep(bench, now)
    opened = bench.rows("SELECT domain, status FROM community_day ORDER BY domain")
    assert [row["domain"] for row in opened] == sorted(DOMAINS)
    assert {row["status"] for row in opened} == {"provisional"}
    (installed,) = numbers(bench, "lamps-installed")
    assert installed["status"] == "provisional"
    # Over for an hour: final, without anybody having marked it.
    keep(bench, now + timedelta(days=1))
    assert numbers(bench, "lamps-installed")[0]["status"] == "final"


def test_days_that_nobody_opened_are_unknown_and_not_left_out(bench: Bench) -> None:
    noon = MIDNIGHT + 12 * HOUR
    keep(bench, noon - timedelta(days=2))
    # Neither this system nor a gateway was at work until the day after.
    keep(bench, noon + timedelta(days=1))
    for day in (DAY - timedelta(days=1), DAY):
        together = next(row for row in numbers(bench, "equipment-good", day) if not row["kind"])
        assert (together["good"], together["bad"], together["status"]) == (0, 0, "final")
        assert together["total"] == 6 * 24 * HOUR // timedelta(microseconds=1)
    assert verify(bench)[1] == []


def test_days_before_the_first_one_are_nobodys(bench: Bench) -> None:
    keep(bench, MIDNIGHT + 20 * HOUR)
    assert bench.value("SELECT min(day) FROM community_day WHERE domain = 'equipment'") == DAY


@pytest.mark.parametrize("life", ["in_service", "planned"])
def test_a_device_registered_today_changes_no_day_of_the_past(bench: Bench, life: str) -> None:
    lamp_hour(bench, 1, MIDNIGHT + 20 * HOUR)
    keep(bench, datetime.now(UTC))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area, life, in_service_from,
                                reporting_period_s, programme)
            VALUES ('c01-lamp-900', 'lamp', %s, 'c01', 'c01', %s, now(), 600, 'always')
            """,
            (GATEWAY, life),
        )
    assert verify(bench)[1] == []


def test_of_two_that_keep_the_days_one_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daily, "_RETRY_S", 0.01)
    monkeypatch.setattr(daily, "_IDLE_S", 0.01)
    with connect(bench.dsn, "test") as conn:
        registry = load_registry(conn)
    keeper = DailyKeeper(bench.dsn, lambda: registry)
    waiting = threading.Thread(target=keeper.run)
    deadline = time.monotonic() + 30
    try:
        with connect(bench.dsn, "first") as first:
            assert claim(first, "days")
            waiting.start()
            while "another ingest keeps the days" not in caplog.text:
                assert time.monotonic() < deadline
            assert bench.value("SELECT count(*) FROM community_day") == 0
        while not bench.value("SELECT count(*) FROM community_day"):
            assert time.monotonic() < deadline
    finally:
        keeper.stop()
        waiting.join()


def test_a_day_that_cannot_be_computed_keeps_no_other_from_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    lamp_hour(bench, 1, MIDNIGHT + 20 * HOUR)
    with psycopg.connect(bench.dsn) as conn:
        # Nobody can send it: a counter that is no number.
        conn.execute("UPDATE reading_lamp SET energy_kwh = 'NaN'")
    now = datetime.now(UTC)
    with connect(bench.dsn, "test") as conn:
        registry = load_registry(conn)
        keeper = DailyKeeper(bench.dsn, lambda: registry)
        while keeper.keep(conn, now):
            pass
        assert "day not computed domain=lighting" in caplog.text
        assert numbers(bench, "lighting-uptime") == []
        assert numbers(bench, "equipment-good")[0]["status"] == "final"
        # It is tried again later, by the same keeper.
        conn.execute("UPDATE reading_lamp SET energy_kwh = NULL")
        keeper.keep(conn, now + MINUTE)
        assert numbers(bench, "lighting-uptime") == []
        keeper.keep(conn, now + daily.FAILED_INTERVAL)
    assert numbers(bench, "lighting-uptime")[0]["status"] == "final"


@pytest.mark.parametrize(
    ("total_s", "busy", "interval_s"),
    [
        pytest.param(0.2, 0.0, 30, id="never-more-often"),
        pytest.param(30.0, 0.0, 300, id="of-an-idle-processor-a-tenth"),
        pytest.param(30.0, 0.25, 400, id="of-what-is-left"),
        pytest.param(30.0, 0.8, 750, id="of-a-busy-one-a-twentieth-of-what-it-does"),
    ],
)
def test_running_days_take_a_small_share(total_s: float, busy: float, interval_s: int) -> None:
    found = daily.running_interval(total_s, busy)
    assert found.total_seconds() == pytest.approx(interval_s)


def test_verification_names_a_number_that_was_tampered_with(bench: Bench) -> None:
    lamp_hour(bench, 1, MIDNIGHT + 20 * HOUR)
    keep(bench, datetime.now(UTC))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(
            "UPDATE area_day SET good = good - 1 WHERE good > 0 AND indicator = 'lighting-uptime'"
        )
    compared, (difference,) = verify(bench)
    assert compared > 1
    assert "lighting-uptime" in difference
    assert "computed good=5400000000 " in difference


def bin_levels(bench: Bench, seq: int, start: datetime, *fills: float) -> None:
    """A bin told every twenty minutes."""
    readings = [
        BinReading(device="c01-bin-001", at=start + n * 20 * MINUTE, fill_pct=fill)
        for n, fill in enumerate(fills)
    ]
    feed(bench.telemetry(), bench.batch(seq, *readings))


def test_late_reading_restates_how_long_a_bin_took_to_be_emptied(bench: Bench) -> None:
    took = "SELECT took_us, finished FROM device_duration WHERE indicator = 'time-to-empty'"
    bin_levels(bench, 1, MIDNIGHT + 10 * HOUR, *[95.0] * 7, 5.0)
    now = datetime.now(UTC)
    keep(bench, now)
    assert bench.rows(took) == [{"took_us": 140 * 60 * 10**6, "finished": True}]
    bin_levels(bench, 2, MIDNIGHT + 10 * HOUR - 20 * MINUTE, 92.0)
    keep(bench, now + MINUTE)
    assert bench.rows(took) == [{"took_us": 160 * 60 * 10**6, "finished": True}]
    (row,) = numbers(bench, "time-to-empty")
    assert (row["good"], row["revision"]) == (160 * 60 * 10**6, 2)
    assert verify(bench)[1] == []
    # What was wrong altogether goes away again.
    bin_levels(bench, 3, MIDNIGHT + 12 * HOUR + 20 * MINUTE, 94.0)
    keep(bench, now + 2 * MINUTE)
    (silent,) = bench.rows(took)
    assert not silent["finished"]
    assert verify(bench)[1] == []


def dark_night(bench: Bench, seq: int, device: str) -> None:
    """A lamp that is dark from noon to noon, told every half hour."""
    readings = [
        LampReading(device=device, at=MIDNIGHT + 12 * HOUR + n * 30 * MINUTE, lit=False)
        for n in range(48)
    ]
    gateway = OTHER_GATEWAY if device == "c01-lamp-101" else GATEWAY
    feed(bench.telemetry(), bench.batch(seq, *readings, gateway=gateway, stream=f"s-{device}"))


def test_late_readings_restate_a_road_of_too_many_dark_lamps(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE device_version SET road = 'Hua Road' WHERE device_id IN (1, 2, 6)")
        conn.execute("UPDATE device SET road = 'Hua Road' WHERE kind = 'lamp'")
    road = "SELECT road, lamps, lit, dark, dark_max, verdict FROM road_night WHERE night = %s"
    for seq, device in enumerate(("c01-lamp-001", "c01-lamp-002"), start=1):
        dark_night(bench, seq, device)
    now = datetime.now(UTC)
    keep(bench, now)
    before = {"road": "Hua Road", "lamps": 3, "lit": 0, "dark": 2, "dark_max": 2}
    assert bench.rows(road, DAY) == [{**before, "verdict": "undetermined"}]
    dark_night(bench, 3, "c01-lamp-101")
    keep(bench, now + MINUTE)
    assert bench.rows(road, DAY) == [{**before, "dark": 3, "verdict": "not_met"}]
    (row,) = numbers(bench, "roads-within-limit")
    assert (row["good"], row["bad"], row["total"], row["revision"]) == (0, 1, 1, 2)
    assert verify(bench)[1] == []


def test_solar_lamp_tells_its_autonomy_of_each_night(bench: Bench) -> None:
    readings = [
        LampReading(
            device="c01-lamp-001",
            at=MIDNIGHT + 20 * HOUR + n * 20 * MINUTE,
            lit=True,
            battery_pct=90.1 - n,
        )
        for n in range(13)
    ]
    feed(bench.telemetry(), bench.batch(1, *readings))
    keep(bench, datetime.now(UTC))
    (row,) = bench.rows("SELECT day, took_us, finished FROM device_duration")
    # Four hours take twelve points.
    assert (row["day"], row["took_us"], row["finished"]) == (DAY, 400 * 3600 * 10**6 // 12, True)
    assert verify(bench)[1] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE device_duration SET took_us = took_us + 1", "took_us=8400000001"),
        ("DELETE FROM device_duration", "stored nothing, computed took_us=8400000000"),
    ],
)
def test_verification_names_a_time_that_was_tampered_with(
    bench: Bench, change: str, named: str
) -> None:
    bin_levels(bench, 1, MIDNIGHT + 10 * HOUR, *[95.0] * 7, 5.0)
    keep(bench, datetime.now(UTC))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(change.encode())
    _, (difference,) = verify(bench)
    assert named in difference


def test_verification_names_a_road_that_was_tampered_with(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE device_version SET road = 'Hua Road'")
        conn.execute("UPDATE device SET road = 'Hua Road' WHERE kind = 'lamp'")
    dark_night(bench, 1, "c01-lamp-001")
    keep(bench, datetime.now(UTC))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE road_night SET lit = lit + 1 WHERE dark > 0")
    _, (difference,) = verify(bench)
    assert "road Hua Road: stored lamps=3 lit=1 dark=1" in difference


def test_configuration_of_faults_replaces_what_stood_there(bench: Bench) -> None:
    with psycopg.connect(bench.dsn, autocommit=True) as conn:
        faults.configure(conn, {"driver": "major", "lock": "ordinary"}, [DAY, DAY])
        faults.configure(conn, {"driver": "emergency"}, [DAY])
    assert bench.rows("SELECT * FROM fault_class") == [{"fault": "driver", "class": "emergency"}]
    assert bench.rows("SELECT * FROM holiday") == [{"day": DAY}]
