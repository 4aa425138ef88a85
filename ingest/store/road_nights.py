# SPDX-License-Identifier: Apache-2.0
"""How many lamps of each road were dark, by community and night."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row

from ingest.indicators.lighting_nights import RoadNight
from ingest.store.community_days import DayKey


def load(conn: Connection, day: DayKey) -> list[RoadNight]:
    """Return a community's roads in one night, in order of their names."""
    rows = conn.execute(
        """
        SELECT road, lamps, lit, dark, dark_max, verdict FROM road_night
        WHERE community = %s AND night = %s
        """,
        (day.community, day.day),
    )
    return sorted((RoadNight(*row) for row in rows), key=lambda road: road.road)


def replace(conn: Connection, day: DayKey, roads: Sequence[RoadNight]) -> None:
    """Bring a community's night to what was computed; untouched where that is what stands there."""
    if load(conn, day) == sorted(roads, key=lambda road: road.road):
        return
    conn.execute(
        "DELETE FROM road_night WHERE community = %s AND night = %s", (day.community, day.day)
    )
    conn.execute(
        """
        INSERT INTO road_night (community, night, road, lamps, lit, dark, dark_max, verdict)
        SELECT %s, %s, r.*
        FROM unnest(%s::text[], %s::int[], %s::int[], %s::int[], %s::int[], %s::text[]) AS r
        """,
        (
            day.community,
            day.day,
            [road.road for road in roads],
            [road.lamps for road in roads],
            [road.lit for road in roads],
            [road.dark for road in roads],
            [road.limit for road in roads],
            [road.verdict for road in roads],
        ),
    )


@dataclass(frozen=True, slots=True)
class RoadNights:
    """One road over some nights.

    Attributes:
        nights: In which it had lamps with due time.
        met: Nights with no more dark lamps than allowed; ``not_met`` with more; ``undetermined``
            with lamps that might be; in the others no rule applied.
        lamps: Of the night with the most.
        dark: Known dark in the worst night, the latest such.
        unknown: Not assessable in that night: they may be dark.
        dark_max: How many might be in that night; None: no rule applied.
        worst_night: Which.
    """

    community: str
    road: str
    nights: int
    met: int
    not_met: int
    undetermined: int
    lamps: int
    dark: int
    unknown: int
    dark_max: int | None
    worst_night: date


#: Rows fit `RoadNights`, the worst first: over the limit most often, then perhaps so, then darkest.
_ROADS: Final[LiteralString] = """
    SELECT r.community, r.road, count(*) AS nights,
           count(*) FILTER (WHERE r.verdict = 'met') AS met,
           count(*) FILTER (WHERE r.verdict = 'not_met') AS not_met,
           count(*) FILTER (WHERE r.verdict = 'undetermined') AS undetermined,
           max(r.lamps) AS lamps,
           max(r.dark) AS dark,
           (array_agg(r.lamps - r.lit - r.dark ORDER BY r.dark DESC, r.night DESC))[1] AS unknown,
           (array_agg(r.dark_max ORDER BY r.dark DESC, r.night DESC))[1] AS dark_max,
           (array_agg(r.night ORDER BY r.dark DESC, r.night DESC))[1] AS worst_night
    FROM road_night AS r
    JOIN area_lay AS l ON l.area = r.community AND r.night >= l.since AND r.night < l.until
    WHERE r.night >= %(first)s AND r.night < %(end)s
      AND l.path ~ ('*.' || subpath(%(area)s::ltree, -1)::text || '.*')::lquery
      AND %(area)s::ltree <@ %(scope)s::ltree  -- invariant 9
    GROUP BY r.community, r.road
    ORDER BY not_met DESC, undetermined DESC, dark DESC, r.community, r.road
    LIMIT %(limit)s
"""


async def worst(
    conn: AsyncConnection[Any],
    path: str,
    scope: str,
    days: tuple[date, date],
    limit: int,
) -> list[RoadNights]:
    """Return the roads of the communities in an area over nights ``[first, end)``, worst first.

    Args:
        conn: For reading.
        path: The area's; an area within a community has no roads of its own.
        scope: The path of what the asker may see.
        days: Dates of dusk.
        limit: How many at most.
    """
    async with conn.cursor(row_factory=class_row(RoadNights)) as cursor:
        await cursor.execute(
            _ROADS,
            {"first": days[0], "end": days[1], "area": path, "scope": scope, "limit": limit},
        )
        return await cursor.fetchall()
