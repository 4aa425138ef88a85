# SPDX-License-Identifier: Apache-2.0
"""Faults as repair clocks see them, and what the configuration says of fault codes and holidays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row

from ingest.indicators.repairs import Fault, FaultClass
from ingest.indicators.tally import Exclusion


@dataclass(frozen=True, slots=True)
class Calendar:
    """What an installation says: fault codes that are of another class, days nobody works."""

    classes: Mapping[str, FaultClass]
    holidays: frozenset[date]


def configure(
    conn: Connection, classes: Mapping[str, FaultClass], holidays: Iterable[date]
) -> None:
    """Let the database say what the configuration says, whole, for whoever computes."""
    with conn.transaction():
        # Two services that start together must not both insert.
        conn.execute("LOCK TABLE fault_class, holiday IN SHARE ROW EXCLUSIVE MODE")
        conn.execute("DELETE FROM fault_class")
        conn.execute("DELETE FROM holiday")
        conn.execute(
            "INSERT INTO fault_class (fault, class) SELECT * FROM unnest(%s::text[], %s::text[])",
            (list(classes.keys()), list(classes.values())),
        )
        conn.execute(
            "INSERT INTO holiday (day) SELECT DISTINCT * FROM unnest(%s::date[])",
            (list(holidays),),
        )


async def calendar(conn: AsyncConnection[Any]) -> Calendar:
    """Return what `configure` left."""
    cursor = await conn.execute("SELECT fault, class FROM fault_class")
    classes: dict[str, FaultClass] = dict(await cursor.fetchall())
    cursor = await conn.execute("SELECT day FROM holiday")
    return Calendar(classes, frozenset(day for (day,) in await cursor.fetchall()))


@dataclass(frozen=True, slots=True)
class FaultRow:
    """A fault, the device that had it, and where the area it happened in lay that day, a path."""

    path: str
    device: str
    kind: str
    code: str
    time_zone: str
    raised_us: int
    cleared_us: int | None
    excluded: Exclusion | None

    @property
    def fault(self) -> Fault:
        """As repair clocks take it."""
        return Fault(
            self.kind, self.code, self.time_zone, self.raised_us, self.cleared_us, self.excluded
        )


# What stands in the registry for the instant the fault began decides whether it counts.
_FAULTS: Final[LiteralString] = """
    SELECT l.path::text AS path, t.device, t.kind, coalesce(o.params ->> 'fault', '') AS code,
           a.time_zone,
           (extract(epoch FROM o.raised_at) * 1000000)::bigint AS raised_us,
           (extract(epoch FROM o.cleared_at) * 1000000)::bigint AS cleared_us,
           CASE
               WHEN v.life NOT IN ('in_service', 'maintenance') OR o.raised_at < d.in_service_from
                   THEN 'not_in_service'
               WHEN v.life = 'maintenance' OR EXISTS (
                       SELECT FROM maintenance AS m
                       WHERE m.device_id = d.id AND m.during @> o.raised_at)
                   OR EXISTS (
                       SELECT FROM maintenance_window AS w
                       WHERE w.during @> o.raised_at
                         AND (w.device = t.device OR w.gateway = v.gateway
                              OR lies_in(av.path, w.area)))
                   THEN 'maintenance'
           END AS excluded
    FROM alert_occurrence AS o
    JOIN alert AS t ON t.id = o.alert
    JOIN area AS a ON a.area = t.area
    JOIN area_lay AS l ON l.area = t.area
        AND l.since <= (o.raised_at AT TIME ZONE a.time_zone)::date
        AND l.until > (o.raised_at AT TIME ZONE a.time_zone)::date
    JOIN device AS d ON d.device = t.device
    LEFT JOIN device_version AS v ON v.device_id = d.id AND v.during @> o.raised_at
    LEFT JOIN area_version AS av ON av.area = v.area AND av.during @> o.raised_at
    WHERE o.rule = 'device.fault'
      AND o.raised_at >= %(start)s AND o.raised_at < %(end)s
      AND l.path ~ ('*.' || subpath(%(area)s::ltree, -1)::text || '.*')::lquery
      AND %(area)s::ltree <@ %(scope)s::ltree  -- invariant 9
    ORDER BY o.raised_at, o.id
"""


async def below(
    conn: AsyncConnection[Any], path: str, scope: str, start: datetime, end: datetime
) -> list[FaultRow]:
    """Return the faults of an area that began in ``[start, end)``, for one person."""
    async with conn.cursor(row_factory=class_row(FaultRow)) as cursor:
        await cursor.execute(_FAULTS, {"start": start, "end": end, "area": path, "scope": scope})
        return await cursor.fetchall()
