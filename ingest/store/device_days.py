# SPDX-License-Identifier: Apache-2.0
"""Devices' days in short: how many readings, and least, mean and greatest of each field."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, LiteralString

from psycopg import Connection, sql
from psycopg.rows import class_row

from ingest.kinds import KINDS
from ingest.kinds.base import Table

# What least, mean and greatest can be said of; true counts as 1.
_NUMBERS: Final[Mapping[str, sql.SQL]] = {
    "float4": sql.SQL("{}"),
    "float8": sql.SQL("{}"),
    "bool": sql.SQL("{}::int"),
}
_ARRAYS: Final[Mapping[str, LiteralString]] = {"least": "min", "mean": "avg", "greatest": "max"}


@dataclass(frozen=True, slots=True)
class Due:
    """A community's day that is final, and whose devices' days are not made of it yet."""

    day: date
    community: str
    time_zone: str
    computed_at: datetime


def numbers(table: Table) -> list[str]:
    """Return the columns that are summed up, in the order in which arrays of `summary` have them.

    Stored arrays have no names: a class's new column comes after those that are there.
    """
    return [
        column for column, kind in zip(table.columns, table.types, strict=True) if kind in _NUMBERS
    ]


def summary(table: Table) -> sql.Composed:
    """Return what sums up rows of a reading table: ``readings, faults, least, mean, greatest``.

    The last three are arrays, an element for each of `numbers`; null where no row says anything.
    """
    types = dict(zip(table.columns, table.types, strict=True))
    values = [_NUMBERS[types[name]].format(sql.Identifier(name)) for name in numbers(table)]
    arrays = sql.SQL(", ").join(
        sql.SQL("ARRAY[{}]::real[] AS {}").format(
            sql.SQL(", ").join(sql.SQL("{}({})").format(sql.SQL(function), one) for one in values),
            sql.Identifier(name),
        )
        for name, function in _ARRAYS.items()
    )
    return sql.SQL("count(*)::int AS readings, count(fault)::int AS faults, {}").format(arrays)


def due(conn: Connection, first: date, limit: int) -> list[Due]:
    """Return days from ``first`` on that are to be made, or made anew, the oldest first."""
    with conn.cursor(row_factory=class_row(Due)) as cursor:
        return cursor.execute(
            """
            SELECT c.day, c.community, a.time_zone, c.computed_at
            FROM community_day AS c
            JOIN area AS a ON a.area = c.community
            LEFT JOIN device_day_made AS m ON m.day = c.day AND m.community = c.community
            LEFT JOIN raw_kept AS k ON k.domain = c.domain
            WHERE c.domain = 'equipment' AND c.day >= %s
              AND c.status = 'final' AND c.dirty IS NULL
              AND m.computed_at IS DISTINCT FROM c.computed_at
              AND (k.since IS NULL OR c.ends_at - interval '25 hours' >= k.since)
            ORDER BY c.day, c.community
            LIMIT %s
            """,
            (first, limit),
        ).fetchall()


def make(conn: Connection, one: Due, start: datetime, end: datetime) -> int:
    """Make the days of a community's devices from raw readings in ``[start, end)``.

    Returns:
        How many there are.
    """
    made = 0
    with conn.transaction():
        for table in _tables():
            made += conn.execute(
                sql.SQL(
                    """
                    INSERT INTO device_day
                        (device_id, day, readings, faults, least, mean, greatest)
                    SELECT device_id, %(day)s, {summary}
                    FROM {table}
                    WHERE device_id = ANY (ARRAY(
                              SELECT id FROM device WHERE community = %(community)s))
                      AND at >= %(start)s AND at < %(end)s
                    GROUP BY device_id
                    ON CONFLICT (device_id, day) DO UPDATE SET
                        readings = excluded.readings, faults = excluded.faults,
                        least = excluded.least, mean = excluded.mean, greatest = excluded.greatest
                    """
                ).format(summary=summary(table), table=sql.Identifier(table.name)),
                {"day": one.day, "community": one.community, "start": start, "end": end},
            ).rowcount
        conn.execute(
            """
            INSERT INTO device_day_made AS m (day, community, computed_at) VALUES (%s, %s, %s)
            ON CONFLICT (day, community) DO UPDATE SET computed_at = excluded.computed_at
            """,
            (one.day, one.community, one.computed_at),
        )
    return made


def _tables() -> Iterator[Table]:
    return (kind.readings for kind in KINDS.values())
