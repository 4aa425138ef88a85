# SPDX-License-Identifier: Apache-2.0
"""Bytes and COPY: our wide rows beside other layouts of the same readings, in the same run.

Lamps at real cardinality report in the order in which gateways' messages would come: blocks of
neighbouring devices, shuffled. What is stored is counted and added up again in every layout.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from deploy.bench.city import ZONE
from deploy.bench.report import Measured
from ingest import capacity
from ingest.store import connect, device_days, devices
from ingest.store.devices import State

BLOCK: Final = 13
BATCH: Final = 5_000
# At most: how much longer COPY may take into a hypertable, and what a value may take beside
# entity, attribute, value (goals 5 and 14).
SLOWER_MAX: Final = round(1 / 0.85, 3)
BYTES_MAX: Final = 0.3
_NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)

VALUES: Final = (
    "lit", "level_pct", "power_w", "voltage_v", "current_a", "energy_kwh", "burn_hours",
)  # fmt: skip
COLUMNS: Final = ("device_id", "at", "received_at", *VALUES)
_EAV: Final[LiteralString] = """
    CREATE TABLE eav (
        at timestamptz NOT NULL, device_id int NOT NULL, key int NOT NULL,
        value double precision NOT NULL
    );
    CREATE INDEX ON eav (device_id, key, at)
"""


def lamp(device: int, at: datetime) -> tuple[Any, ...]:
    """Return a reading of a street lamp as its driver tells it: seven values of eleven."""
    lit = device % 5 != 0
    power = round(40 + device % 37 / 4, 2) if lit else 0.4
    return (device, at, at + timedelta(milliseconds=700), lit, 100.0 if lit else 0.0, power,
            round(228 + device % 41 / 10, 1), round(power / 228, 3), 9_000 + device % 9_973 / 10,
            float(3_000 + device % 977))  # fmt: skip


def text(rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """Yield rows in batches as COPY takes them, so that no client time is measured."""
    for batch in batched_rows(rows):
        yield "".join(
            "\t".join("\\N" if one is None else str(one) for one in row) + "\n" for row in batch
        ).encode()


def batched_rows(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    """Yield rows as many at once as a flush at city rate has."""
    batch: list[Sequence[Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class Copied:
    """How long COPY took, and what it left."""

    seconds: float
    rows: int
    wal_bytes: int

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def measure(dsn: str, count: int, rounds: int, tell: Callable[[str], None]) -> list[Measured]:
    """Measure both: COPY in turns, then bytes of what is stored."""
    order = shuffled(count)
    blobs = list(text(lamp(device, _NOW) for device in order))
    with connect(dsn, "bench") as conn:
        conn.execute("SET statement_timeout = 0")
        _layouts(conn)
        hyper: list[Copied] = []
        plain: list[Copied] = []
        wrong: list[str] = []
        for turn in range(rounds + 1):
            for name, into in (("wide_hyper", hyper), ("wide_plain", plain)):
                tell(f"COPY into {name}")
                conn.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(name)))
                copied = _copy(conn, name, blobs, count)
                wrong += _wrong(conn, name, order)
                if turn:  # the first one warms up
                    into.append(copied)
        tell("the same as entity, attribute, value")
        wide = size_of(conn, "wide_hyper")
        eav, values = _as_eav(conn, wrong)
        runs = [
            Measured(
                "hypertable COPY time / plain table's, same index", "",
                [one.seconds / other.seconds for one, other in zip(hyper, plain, strict=True)],
                SLOWER_MAX, wrong[:5],
            ),
            Measured(
                "bytes a value, heap and index / entity, attribute, value", "",
                [(wide[0] + wide[1]) / (eav[0] + eav[1])], BYTES_MAX, wrong[:5],
            ),
            Measured("COPY into the hypertable", "rows/s", [one.rate for one in hyper]),
            Measured("COPY into the plain table", "rows/s", [one.rate for one in plain]),
            Measured("bytes a value: wide", "B", [sum(wide) / values]),
            Measured("bytes a value: entity, attribute, value", "B", [sum(eav) / values]),
            Measured("a lamp reading: WAL", "B", [one.wal_bytes / one.rows for one in hyper]),
            Measured("a lamp reading: index", "B", [wide[1] / count]),
        ]  # fmt: skip
        tell("what else is kept")
        return runs + _others(conn, min(count, 100_000))


def copy_lamps(conn: psycopg.Connection, order: Sequence[int], at: datetime) -> None:
    """Store one reading of each lamp, in batches, in the order in which their devices stand."""
    for batch in batched_rows(lamp(device, at) for device in order):
        with conn.cursor() as cursor, cursor.copy(_copy_into("reading_lamp")) as copy:
            for row in batch:
                copy.write_row(row)


def _copy_into(table: str) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    )


def shuffled(count: int) -> list[int]:
    """Return devices 1 to ``count`` in blocks of neighbours, the blocks in any order."""
    blocks = [range(first, min(first + BLOCK, count + 1)) for first in range(1, count + 1, BLOCK)]
    random.Random(20261121).shuffle(blocks)  # noqa: S311 - an order, no secret
    return [device for block in blocks for device in block]


def _layouts(conn: psycopg.Connection) -> None:
    for name in ("wide_hyper", "wide_plain"):
        conn.execute(sql.SQL("CREATE TABLE {} (LIKE reading_lamp)").format(sql.Identifier(name)))
    conn.execute(
        "SELECT create_hypertable('wide_hyper', by_range('at', INTERVAL '1 day'),"
        " create_default_indexes => false)"
    )
    for name in ("wide_hyper", "wide_plain"):
        conn.execute(sql.SQL("CREATE INDEX ON {} (device_id, at)").format(sql.Identifier(name)))
    conn.execute(_EAV)


def _copy(conn: psycopg.Connection, table: str, blobs: Sequence[bytes], rows: int) -> Copied:
    """COPY everything in batches with a COMMIT each, as raw COPY is measured (C0)."""
    statement = _copy_into(table)
    before = _wal(conn)
    begun = time.perf_counter()
    for blob in blobs:
        with conn.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(blob)
    return Copied(time.perf_counter() - begun, rows, _wal(conn) - before)


def _wal(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    assert row is not None
    return row[0]


def _wrong(conn: psycopg.Connection, table: str, order: Sequence[int]) -> list[str]:
    """Say whether every device is there once, with what it told."""
    row = conn.execute(
        sql.SQL(
            "SELECT count(*), count(DISTINCT device_id), count(*) FILTER (WHERE lit),"
            " sum(energy_kwh::numeric) FROM {}"
        ).format(sql.Identifier(table))
    ).fetchone()
    told = [lamp(device, _NOW) for device in order]
    wanted = (
        len(order), len(order), sum(one[3] for one in told),
        round(sum(round(10 * one[8]) for one in told) / 10, 1),
    )  # fmt: skip
    assert row is not None
    found = (*row[:3], round(float(row[3]), 1))
    return [] if found == wanted else [f"{table} holds {found}, not {wanted}"]


def _as_eav(conn: psycopg.Connection, wrong: list[str]) -> tuple[tuple[int, int], int]:
    """Store the same values one a row, in the order in which they came; return bytes and number."""
    pairs = sql.SQL(", ").join(
        sql.SQL("({}, {}::float8)").format(
            sql.Literal(number),
            sql.SQL("lit::int") if name == "lit" else sql.Identifier(name),
        )
        for number, name in enumerate(VALUES, start=1)
    )
    conn.execute(
        sql.SQL(
            "INSERT INTO eav SELECT at, device_id, key, value FROM wide_hyper,"
            " LATERAL (VALUES {}) AS v (key, value) WHERE value IS NOT NULL"
        ).format(pairs)
    )
    counted = sql.SQL(" + ").join(
        sql.SQL("count({})").format(sql.Identifier(name)) for name in VALUES
    )
    there = conn.execute(
        sql.SQL("SELECT {}, sum(power_w::float8)::numeric(20,0) FROM wide_hyper").format(counted)
    ).fetchone()
    here = conn.execute(
        "SELECT count(*), sum(value) FILTER (WHERE key = 3)::numeric(20,0) FROM eav"
    ).fetchone()
    assert there is not None
    assert here is not None
    if there[0] != here[0] or abs(there[1] - here[1]) > there[1] / 10_000:
        wrong.append(f"entity, attribute, value holds {here}, not {there}")
    return size_of(conn, "eav"), there[0]


def size_of(conn: psycopg.Connection, table: str) -> tuple[int, int]:
    """Return bytes of a table's rows and of its indexes, chunks included."""
    parts = [table]
    if table.startswith("reading_") or table == "wide_hyper":
        found = conn.execute("SELECT show_chunks(%s::text::regclass)::text", (table,))
        parts += [name for (name,) in found]
    row = conn.execute(
        """
        SELECT sum(pg_table_size(part::regclass))::bigint,
               sum(pg_indexes_size(part::regclass))::bigint
        FROM unnest(%s::text[]) AS part
        """,
        (parts,),
    ).fetchone()
    assert row is not None
    return row[0], row[1]


# -- what the planner of capacity reckons with ----------------------------------------------------

# A row of each class, as the simulators' devices tell it.
_ROWS: Final[dict[str, LiteralString]] = {
    "lamp": "INSERT INTO reading_lamp (at, received_at, device_id, lit, level_pct, power_w,"
    " voltage_v, current_a, energy_kwh, burn_hours)"
    " SELECT %(at)s, %(at)s, id, true, 100, 41.5, 228.4, 0.18, 9121.5, 4012 FROM device"
    " WHERE id <= %(count)s",
    "bin": "INSERT INTO reading_bin (at, received_at, device_id, fill_pct, weight_kg,"
    " temperature_c, lid_open, tilt, stream)"
    " SELECT %(at)s, %(at)s, id, 41.5, 12.5, 21, false, false, 'kitchen' FROM device"
    " WHERE id <= %(count)s",
    "gate": "INSERT INTO reading_gate (at, received_at, device_id, door, lock)"
    " SELECT %(at)s, %(at)s, id, 'closed', 'locked' FROM device WHERE id <= %(count)s",
    "alarm": "INSERT INTO reading_alarm (at, received_at, device_id, battery_pct, armed)"
    " SELECT %(at)s, %(at)s, id, 91.5, true FROM device WHERE id <= %(count)s",
}


def _others(conn: psycopg.Connection, count: int) -> list[Measured]:
    """Measure rows of each class, a device with its state, nights, devices' days, area days."""
    registered(conn, count)
    runs: list[Measured] = []
    for kind, statement in _ROWS.items():
        conn.execute(statement, {"at": _NOW, "count": count})
        heap, _ = size_of(conn, f"reading_{kind}")
        runs.append(Measured(f"a {kind} reading: row", "B", [heap / count]))
        if kind != "lamp":  # which these devices are not
            conn.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(f"reading_{kind}")))
    wal = write_states(conn, count)
    known = sum(sum(size_of(conn, table)) for table in ("device", "device_version", "device_state"))
    runs.append(Measured("a latest state updated: WAL", "B", [wal]))
    runs.append(Measured("a device, its history and state", "B", [known / count]))
    runs.append(Measured("a device in ingest's memory", "B", [_memory(conn) / count]))
    runs.append(Measured("a lamp-night", "B", [_nights(conn, count)]))
    runs.append(Measured("a device's day", "B", [_device_days(conn, count)]))
    runs.append(Measured("an area day", "B", [_area_days(conn)]))
    return runs


def registered(conn: psycopg.Connection, count: int) -> None:
    """Register lamps in communities of `capacity.COMMUNITY_DEVICES`."""
    per = capacity.COMMUNITY_DEVICES
    conn.execute(
        "INSERT INTO area (area, path, level, name, time_zone)"
        " VALUES ('city', 'city', 'city', '城', %s)", (ZONE,),
    )  # fmt: skip
    conn.execute(
        """
        INSERT INTO area (area, parent, path, level, name, time_zone)
        SELECT 'c' || n, 'city', ('city.c' || n)::ltree, 'community', '社区' || n, %s
        FROM generate_series(0, %s) AS n
        """,
        (ZONE, (count - 1) // per),
    )
    conn.execute(
        "INSERT INTO gateway (gateway, community)"
        " SELECT 'gw-' || area, area FROM area WHERE level = 'community'"
    )
    conn.execute(
        """
        INSERT INTO device (device, kind, gateway, community, area, name, rated_power_w)
        SELECT 'c' || n / %(per)s || '-lamp-' || lpad((n %% %(per)s)::text, 4, '0'), 'lamp',
               'gw-c' || n / %(per)s, 'c' || n / %(per)s, 'c' || n / %(per)s, '路灯 ' || n, 60
        FROM generate_series(0, %(count)s - 1) AS n ORDER BY n
        """,
        {"per": per, "count": count},
    )


def write_states(conn: psycopg.Connection, count: int) -> float:
    """Update every state once as a flush does; return bytes of WAL for each."""
    reading = {"lit": True, "level_pct": 100.0, "power_w": 41.5, "voltage_v": 228.4,
               "current_a": 0.18, "energy_kwh": 9121.5, "burn_hours": 4012.0}  # fmt: skip
    spent = 0
    for turn in range(2):
        at = _NOW + turn * timedelta(seconds=30)
        state = State(at, at, _NOW, reading, lit=True, lit_at=at)
        for ids in batched_rows([(device,) for device in range(1, count + 1)]):
            before = _wal(conn)
            with conn.transaction():
                devices.save_states(conn, [(device, state) for (device,) in ids])
            spent += _wal(conn) - before if turn else 0
    return spent / count


def _memory(conn: psycopg.Connection) -> int:
    """Return bytes of what ingest keeps of devices: a registry in each lane, and their states."""
    tracemalloc.start()
    try:
        kept = (
            devices.load_registry(conn), devices.load_registry(conn), devices.load_states(conn),
        )  # fmt: skip
        size, _ = tracemalloc.get_traced_memory()
        assert all(kept)
    finally:
        tracemalloc.stop()
    return size


def _nights(conn: psycopg.Connection, count: int) -> float:
    conn.execute(
        """
        INSERT INTO lamp_night (device_id, night, community, due, due_us, due_to, lit_us, dark_us)
        SELECT id, '2026-02-28', community,
               tstzmultirange(tstzrange('2026-02-28 10:00Z', '2026-02-28 22:00Z')),
               43200000000, '2026-03-01 04:00Z', 43100000000, 1000000 FROM device WHERE id <= %s
        """,
        (count,),
    )
    return sum(size_of(conn, "lamp_night")) / count


def _device_days(conn: psycopg.Connection, count: int) -> float:
    """Make days of devices from the readings that are there."""
    for (community,) in conn.execute("SELECT area FROM area WHERE level = 'community'").fetchall():
        due = device_days.Due(date(2026, 3, 1), community, ZONE, _NOW)
        device_days.make(conn, due, _NOW - timedelta(hours=12), _NOW + timedelta(hours=12))
    row = conn.execute("SELECT count(*) FROM device_day").fetchone()
    assert row == (count,), f"{row} days of {count} devices"
    return sum(size_of(conn, "device_day")) / count


def _area_days(conn: psycopg.Connection) -> float:
    days = 60
    conn.execute(
        """
        INSERT INTO area_day (indicator, day, area, good, bad, total, subjects, status,
                              rule_version, computed_at)
        SELECT 'lighting-uptime', date '2026-01-01' + n, area, 43000000000, 1000000, 43200000000,
               400, 'final', 1, now()
        FROM generate_series(1, %s) AS n, area WHERE level = 'community'
        """,
        (days,),
    )
    row = conn.execute("SELECT count(*) FROM area_day").fetchone()
    assert row is not None
    return sum(size_of(conn, "area_day")) / row[0]
