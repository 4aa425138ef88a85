# SPDX-License-Identifier: Apache-2.0
"""Readings and events into their hypertables, by binary COPY; which alarms are over."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from psycopg import Connection, sql

from ingest.kinds.base import Table


def copy_in(conn: Connection, table: Table, rows: Iterable[Sequence[object]]) -> None:
    """Append rows ``(device_id, at, received_at, *table.columns)``."""
    columns = sql.SQL(", ").join(
        map(sql.Identifier, ("device_id", "at", "received_at", *table.columns))
    )
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(table.name), columns
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["int4", "timestamptz", "timestamptz", *table.types])
        for row in rows:
            copy.write_row(row)


class Ended(NamedTuple):
    """How and when (device time) the alarm ended that was named at this place."""

    number: int
    phase: Literal["restored", "aborted"]
    at: datetime


def ends(conn: Connection, raised: Sequence[tuple[int, str, datetime]]) -> list[Ended]:
    """Return which alarms' occurrences are over, as far as is stored.

    Args:
        conn: The transaction that stored what is asked about.
        raised: Device id, occurrence, and when it was raised (device time).
    """
    rows = conn.execute(
        """
        SELECT k.number::int - 1, e.phase, e.at
        FROM unnest(%(devices)s::int[], %(occurrences)s::text[], %(raised)s::timestamptz[])
            WITH ORDINALITY AS k (device_id, occurrence, raised_at, number)
        CROSS JOIN LATERAL (
            SELECT a.phase, a.at FROM event_alarm AS a
            WHERE a.device_id = k.device_id AND a.at >= k.raised_at
              AND a.at >= %(since)s  -- known when it is planned: older chunks are left out
              AND a.occurrence = k.occurrence AND a.phase IN ('restored', 'aborted')
            ORDER BY a.at
            LIMIT 1
        ) AS e
        """,
        {
            "devices": [device_id for device_id, _, _ in raised],
            "occurrences": [occurrence for _, occurrence, _ in raised],
            "raised": [at for _, _, at in raised],
            "since": min(at for _, _, at in raised),
        },
    )
    return [Ended(*row) for row in rows]
