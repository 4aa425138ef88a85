# SPDX-License-Identifier: Apache-2.0
"""The reading tables over a real database: chunks, what is dropped, what stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateEvent, GateReading
from edge_agent.kinds.lamp import LampReading
from ingest import days, retention
from ingest.capacity import CHUNKS_MAX
from ingest.daily import DailyKeeper
from ingest.domains import DOMAINS
from ingest.indicators.spans import day_span, from_us
from ingest.kinds import KINDS
from ingest.maintenance import add_maintenance
from ingest.retention import DEFAULT_DAYS, EVENTS, READINGS, StorageKeeper
from ingest.store import connect, device_days
from ingest.store.devices import load_registry
from tests.ingest.community import Bench, feed, found
from tests.services import Broker

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
ZONE = "Asia/Shanghai"
NOW = datetime.now(UTC)
# Local days: the youngest is over, and final for long.
DAYS = [(NOW - back * DAY).date() for back in (28, 27, 20, 3)]
LATE_LIMIT = timedelta(days=30)


def midnight(day: date) -> datetime:
    return from_us(day_span(day, ZONE)[0])


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=NOW - 29 * DAY)
    made = Bench(database, broker)
    seq = 0
    writer = made.telemetry()
    for day in DAYS:
        for hour in (9, 21):
            seq += 1
            at = midnight(day) + hour * HOUR
            feed(
                writer,
                made.batch(
                    seq,
                    LampReading(device="c01-lamp-001", at=at, lit=hour == 21, power_w=40.0 + hour),
                    BinReading(device="c01-bin-001", at=at, fill_pct=10.0, fault="lid"),
                    GateReading(device="c01-gate-001", at=at, door="closed", lock="locked"),
                ),
            )
    made.close()
    yield made
    made.close()


def keep_days(bench: Bench, now: datetime = NOW) -> None:
    with connect(bench.dsn, "test") as conn:
        registry = load_registry(conn)
        keeper = DailyKeeper(bench.dsn, lambda: registry)
        while keeper.keep(conn, now):
            pass


def keep_storage(bench: Bench, now: datetime = NOW, /, **kept_days: float) -> None:
    with connect(bench.dsn, "test") as conn:
        StorageKeeper(bench.dsn, kept_days, LATE_LIMIT).keep(conn, now)


def stored_days(bench: Bench, table: str) -> list[date]:
    return [
        row["day"]
        for row in bench.rows(
            f"SELECT DISTINCT (at AT TIME ZONE '{ZONE}')::date AS day FROM {table} ORDER BY day"
        )
    ]


def numbers(bench: Bench) -> list[dict[str, Any]]:
    """All that was computed for good."""
    return bench.rows(
        """
        SELECT 'area' AS what, indicator || day || area || kind AS key,
               good || '/' || bad || '/' || total || '/' || revision AS value
        FROM area_day WHERE status = 'final'
        UNION ALL SELECT 'night', device_id || '/' || night, lit_us || '/' || dark_us
        FROM lamp_night
        UNION ALL SELECT 'device', device_id || '/' || day,
               least::text || mean::text || greatest::text
        FROM device_day
        ORDER BY what, key
        """
    )


def test_old_chunks_go_and_numbers_stay(bench: Bench) -> None:
    keep_days(bench)
    keep_storage(bench)
    before = numbers(bench)
    assert {row["what"] for row in before} == {"area", "night", "device"}
    assert stored_days(bench, "reading_lamp") == DAYS
    keep_storage(bench, reading_lamp=10)
    assert stored_days(bench, "reading_lamp") == DAYS[3:]
    assert stored_days(bench, "reading_bin") == DAYS  # kept as usual
    # Days whose readings are gone are neither computed again nor compared.
    keep_days(bench)
    assert numbers(bench) == before
    with connect(bench.dsn, "test") as conn:
        compared, differences = days.verify(conn, DAYS[0], NOW.date() + DAY, lambda done, of: None)
    assert (compared > 0, differences) == (True, [])


def test_days_that_are_not_final_keep_their_readings(bench: Bench) -> None:
    keep_storage(bench, reading_lamp=10)
    assert stored_days(bench, "reading_lamp") == DAYS
    keep_days(bench)
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(
            "UPDATE community_day SET dirty = 'late' WHERE domain = 'lighting' AND day = %s",
            (DAYS[1],),
        )
    keep_storage(bench, reading_lamp=10, reading_bin=10)
    assert stored_days(bench, "reading_lamp") == DAYS  # what reaches into the marked day as well
    assert stored_days(bench, "reading_bin") == DAYS[3:]


def test_lamp_night_to_be_restated_keeps_its_readings(bench: Bench) -> None:
    keep_days(bench)
    lamp = bench.value("SELECT id FROM device WHERE device = 'c01-lamp-001'")
    with psycopg.connect(bench.dsn) as conn:
        marked = conn.execute(
            "UPDATE lamp_night SET dirty = true WHERE device_id = %s AND night = %s",
            (lamp, DAYS[2]),
        )
        assert marked.rowcount == 1
    keep_storage(bench, reading_lamp=10)
    assert DAYS[2] in stored_days(bench, "reading_lamp")


def test_readings_stay_until_devices_days_are_made_of_them(bench: Bench) -> None:
    keep_days(bench)
    with connect(bench.dsn, "test") as conn:
        assert list(retention.drop_old(conn, "reading_lamp", NOW)) == []
    keep_storage(bench)
    with connect(bench.dsn, "test") as conn:
        dropped = list(retention.drop_old(conn, "reading_lamp", NOW - 10 * DAY))
    assert dropped == sorted(dropped)
    assert len(dropped) == 3  # a chunk a day
    assert stored_days(bench, "reading_lamp") == DAYS[3:]


def test_maintenance_of_dropped_days_changes_no_number(bench: Bench) -> None:
    keep_days(bench)
    keep_storage(bench, **dict.fromkeys(READINGS, 10.0))
    before = numbers(bench)
    with psycopg.connect(bench.dsn, autocommit=True) as conn:
        nights = add_maintenance(
            conn, "c01-lamp-001", midnight(DAYS[0]), midnight(DAYS[1]) + DAY, "mast"
        )
    assert nights == 0
    assert bench.value("SELECT count(*) FROM community_day WHERE dirty IS NOT NULL") == 0
    keep_days(bench)
    assert numbers(bench) == before


def test_reading_later_than_what_is_kept_changes_no_number(bench: Bench) -> None:
    """As when more lateness is allowed than before, and what would be needed is gone."""
    keep_days(bench)
    keep_storage(bench, **dict.fromkeys(READINGS, 10.0))
    before = numbers(bench)
    late = LampReading(device="c01-lamp-001", at=midnight(DAYS[1]) + 22 * HOUR, lit=False)
    writer = bench.telemetry()
    feed(writer, bench.batch(99, late))
    assert bench.value("SELECT count(*) FROM lamp_night WHERE dirty") == 0
    with connect(bench.dsn, "test") as conn:
        writer.tick(conn, NOW + HOUR)
    keep_days(bench, NOW + HOUR)
    stored = "SELECT count(*) FROM reading_lamp WHERE at = %s"
    assert bench.value(stored, late.at) == 1
    after = [row for row in numbers(bench) if row["key"] in {one["key"] for one in before}]
    assert after == before


def test_gate_events_go_after_ninety_days_and_lamps_do_not(bench: Bench) -> None:
    old = NOW - 100 * DAY
    with psycopg.connect(bench.dsn) as conn:
        for table, column, value in (
            ("event_gate", "event", "'granted'"),
            ("reading_lamp", "lit", "true"),
        ):
            conn.execute(
                f"""
                INSERT INTO {table} (at, received_at, device_id, {column})
                SELECT %s, %s, id, {value} FROM device
                """.encode(),
                (old, old),
            )
    event = GateEvent(device="c01-gate-001", at=NOW - DAY, event="granted", direction="in")
    feed(bench.events(), bench.event(1, event))
    keep_days(bench)
    keep_storage(bench)
    assert bench.value("SELECT min(at) >= %s FROM event_gate", NOW - 90 * DAY) is True
    assert bench.value("SELECT count(*) FROM event_gate") == 1
    assert bench.value("SELECT min(at) = %s FROM reading_lamp", old) is True


def test_next_chunk_is_there_before_its_time(bench: Bench) -> None:
    at = NOW + 12 * HOUR
    held = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = %s"
    ahead = f"{held} AND range_start <= %s AND range_end > %s"
    assert bench.value(ahead, "reading_lamp", at + HOUR, at + HOUR) == 0
    keep_storage(bench, NOW + HOUR)
    assert bench.value(ahead, "reading_lamp", at + HOUR, at + HOUR) == 1
    assert bench.value("SELECT count(*) FROM reading_lamp WHERE device_id = 0") == 0
    # A class without devices gets none, and what is there is not made twice.
    assert bench.value(held, "reading_alarm") == 0
    with connect(bench.dsn, "test") as conn:
        assert retention.make_ahead(conn, NOW + HOUR) == []


@pytest.mark.parametrize("table", [*READINGS, *EVENTS])
def test_chunk_can_be_made_ahead_in_every_table(database: str, table: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        names = [
            name
            for (name,) in conn.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::text::regclass"
                " AND attnotnull AND attnum > 0 AND atttypid = 'text'::regtype",
                (table,),
            )
        ]
        columns = ", ".join(["device_id", "at", "received_at", *names])
        values = ", ".join(["1", "%(at)s", "%(at)s", *["'x'"] * len(names)])
        conn.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({values})".encode(), {"at": NOW - 3 * DAY}
        )
        assert retention.make_ahead(conn, NOW) == [table]


def test_chunks_are_as_long_as_the_registered_rate_allows(bench: Bench) -> None:
    length = (
        "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = %s"
    )
    keep_storage(bench)
    assert bench.value(length, "reading_lamp") == DAY
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE device SET reporting_period_s = 0.001")
    keep_storage(bench)
    shorter = bench.value(length, "reading_lamp")
    assert shorter < DAY
    assert shorter * CHUNKS_MAX >= timedelta(days=DEFAULT_DAYS["reading_lamp"])
    assert bench.value(length, "event_gate") == DAY


def test_configured_chunk_length_wins(bench: Bench) -> None:
    with connect(bench.dsn, "test") as conn:
        StorageKeeper(bench.dsn, {}, LATE_LIMIT, 2 * HOUR).keep(conn, NOW)
    feed(bench.telemetry(), bench.batch(99, LampReading(device="c01-lamp-001", at=NOW, lit=True)))
    assert bench.value(
        "SELECT max(range_end - range_start) FROM timescaledb_information.chunks"
        " WHERE hypertable_name = 'reading_lamp' AND range_end > %s AND range_start <= %s",
        NOW,
        NOW,
    ) in (2 * HOUR, timedelta(hours=2))


def test_one_process_keeps_the_tables_at_a_time(bench: Bench) -> None:
    keep_days(bench)
    with connect(bench.dsn, "other") as other, connect(bench.dsn, "test") as conn:
        assert other.execute("SELECT pg_try_advisory_lock(%s)", (retention._LOCK,)).fetchone()  # pyright: ignore[reportPrivateUsage]
        keeper = StorageKeeper(bench.dsn, {"reading_lamp": 10}, LATE_LIMIT)
        keeper.keep(conn, NOW)
        assert stored_days(bench, "reading_lamp") == DAYS
    keep_storage(bench, reading_lamp=10)
    assert stored_days(bench, "reading_lamp") == DAYS[3:]


def test_every_table_has_the_domains_that_are_computed_from_it() -> None:
    assert {table: set(retention.domains_of(table)) for table in (*READINGS, *EVENTS)} == {
        "reading_lamp": {"lighting", "equipment"},
        "reading_bin": {"equipment", "refuse"},
        "reading_gate": {"equipment", "access"},
        "reading_alarm": {"equipment"},
        "event_bin": {"refuse"},
        "event_gate": {"access"},
        "event_alarm": set(),
    }
    assert DOMAINS.keys() >= {"lighting", "equipment", "access", "refuse"}


# -- devices' days


def test_devices_days_say_what_their_readings_say(bench: Bench) -> None:
    keep_days(bench)
    keep_storage(bench)
    rows = bench.rows(
        """
        SELECT d.device, d.kind, s.readings, s.faults, s.least, s.mean, s.greatest
        FROM device_day AS s
        JOIN device AS d ON d.id = s.device_id WHERE s.day = %s ORDER BY d.device
        """,
        DAYS[1],
    )
    told = [
        (
            row["device"],
            row["readings"],
            row["faults"],
            {
                name: values
                for name, *values in zip(
                    device_days.numbers(KINDS[row["kind"]].readings),
                    row["least"],
                    row["mean"],
                    row["greatest"],
                    strict=True,
                )
                if values != [None, None, None]
            },
        )
        for row in rows
    ]
    assert told == [
        ("c01-bin-001", 2, 2, {"fill_pct": [10, 10, 10]}),
        ("c01-gate-001", 2, 0, {}),
        ("c01-lamp-001", 2, 0, {"lit": [0, 0.5, 1], "power_w": [49, 55, 61]}),
    ]


def test_numbers_of_stored_arrays_keep_their_places() -> None:
    """Add to the end; whatever moves would be read as something else in every stored day."""
    assert {kind: device_days.numbers(one.readings) for kind, one in KINDS.items()} == {
        "lamp": [
            "lit", "level_pct", "power_w", "voltage_v", "current_a", "energy_kwh", "burn_hours",
            "lux", "battery_pct", "solar_w",
        ],
        "bin": ["fill_pct", "weight_kg", "temperature_c", "lid_open", "tilt"],
        "gate": [],
        "alarm": ["armed", "battery_pct"],
    }  # fmt: skip


def test_devices_day_is_made_anew_when_its_day_is(bench: Bench) -> None:
    keep_days(bench)
    keep_storage(bench)
    late = LampReading(device="c01-lamp-001", at=midnight(DAYS[2]) + HOUR, lit=True, power_w=100.0)
    feed(bench.telemetry(), bench.batch(99, late))
    keep_days(bench, NOW + HOUR)
    keep_storage(bench, NOW + HOUR)
    assert bench.value(
        """
        SELECT ARRAY[least[3], mean[3], greatest[3]]
        FROM device_day AS s JOIN device AS d ON d.id = s.device_id
        WHERE d.device = 'c01-lamp-001' AND s.day = %s
        """,
        DAYS[2],
    ) == [49, 70, 100]
    with connect(bench.dsn, "test") as conn:
        assert device_days.due(conn, date.min, 10) == []
