# SPDX-License-Identifier: Apache-2.0
"""States that are held back: since when, and what a process that comes back finds of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import Connection, sql

from ingest.kinds.base import Table

# A city tells a third of a million readings within this time.
_SLICE: Final = timedelta(seconds=10)
# A slice takes about so long: far less than a database that hangs is waited for.
_QUICK_S: Final = 0.5
_SLOW_S: Final = 3.0
_ROWS: Final = 20_000


def load_held(
    conn: Connection,
    table: Table,
    since: datetime,
    states: Mapping[int, datetime],
    now: datetime,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, datetime, datetime, dict[str, Any]]]:
    """Yield the newest reading of each device that is newer than the device's state.

    Its numbers are as exact as the table of readings keeps them. What was told last is read first,
    and only of whom nothing was found what was told before: a city tells millions of readings
    within the time that is looked through, and all at once would be sorted for longer than a
    database may be silent.

    Args:
        conn: No transaction is open; one is until the last row was taken.
        table: The readings of one class.
        since: No state before this instant is looked at (`load_held_since`).
        states: Whose readings are looked for, by id, with the instant of the state in the table.
        now: How late it is about; readings may be of later instants.
        progress: Called whenever a part was read.

    Yields:
        Device id, instants of the reading and of its receipt, the fields that say something.
    """
    wanted = {device_id: at for device_id, at in states.items() if at >= since}
    if not wanted:
        return
    query = sql.SQL(
        """
        SELECT DISTINCT ON (r.device_id) r.device_id, r.at, r.received_at, {columns}
        FROM {table} AS r
        JOIN stage_held AS s ON s.device_id = r.device_id
        WHERE r.at > %(after)s AND r.at <= %(upto)s AND r.at > s.at
        ORDER BY r.device_id, r.at DESC
        """
    ).format(
        columns=sql.SQL(", ").join(sql.Identifier("r", name) for name in table.columns),
        table=sql.Identifier(table.name),
    )
    with conn.transaction():
        _stage(conn, wanted)
        progress()
        upto: datetime | str = "infinity"
        after, width = max(since, now - _SLICE), _SLICE
        while True:
            begun, found = time.monotonic(), list[int]()
            # Planned each time: which chunks are read depends on the instants.
            for device_id, at, received_at, *values in conn.execute(
                query, {"after": after, "upto": upto}, prepare=False
            ):
                found.append(device_id)
                if len(found) % _ROWS == 0:
                    progress()
                told = zip(table.columns, values, strict=True)
                yield (
                    device_id,
                    at,
                    received_at,
                    {name: value for name, value in told if value is not None},
                )
            conn.execute("DELETE FROM stage_held WHERE device_id = ANY (%s)", (found,))
            progress()
            if after <= since:
                break
            took_s = time.monotonic() - begun
            if took_s < _QUICK_S:
                width *= 2
            elif took_s > _SLOW_S:
                width = max(width / 2, timedelta(seconds=1))
            upto, after = after, max(since, after - width)
        conn.execute("DROP TABLE stage_held")


def _stage(conn: Connection, states: Mapping[int, datetime]) -> None:
    """Put the instants of states beside the readings, within the transaction."""
    conn.execute("CREATE TEMPORARY TABLE stage_held (device_id int4, at timestamptz)")
    with conn.cursor().copy("COPY stage_held FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "timestamptz"])
        for row in states.items():
            copy.write_row(row)
    conn.execute("ANALYZE stage_held")
    # What came last lies beyond all statistics: a nested loop could take it for a single row, and
    # read a chunk for each of a million devices.
    conn.execute(
        "SELECT set_config('enable_nestloop', 'off', true), set_config('work_mem', '64MB', true),"
        " set_config('statement_timeout', '50s', true)"
    )


def load_held_since(conn: Connection) -> datetime | None:
    """Return since when any process holds states back: those before are stored; None: all are."""
    held = held_longest(conn)
    return None if held is None else held[1]


def held_longest(conn: Connection) -> tuple[str, datetime] | None:
    """Return which member of ingest holds states back since the earliest instant, and since when.

    None: all states are stored.
    """
    return conn.execute(
        """
        SELECT lane, held_since FROM ingest_lane WHERE held_since IS NOT NULL
        ORDER BY held_since, lane LIMIT 1
        """
    ).fetchone()


def save_held_since(conn: Connection, lane: str, since: datetime | None) -> None:
    """Note since when a process holds states back; before the first one is."""
    conn.execute(
        """
        INSERT INTO ingest_lane (lane, clean, held_since) VALUES (%s, true, %s)
        ON CONFLICT (lane) DO UPDATE SET held_since = excluded.held_since
        """,
        (lane, since),
    )
