# SPDX-License-Identifier: Apache-2.0
"""Lighting as it stands at this moment: nights that are over as stored, running ones by the lamp.

Lamp-nights hold what readings settled, in whole microseconds; what a lamp's latest reading still
holds is added here up to now. Time that has not come is not due yet, so the number of a night in
progress says how it has gone so far. Where states are held back (`ingest.state_interval_s`) the
latest instant from which all are in the tables stands for now.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import class_row

from ingest.indicators import lighting
from ingest.indicators.lighting_nights import UPTIME
from ingest.indicators.tally import Tally
from ingest.store import sums
from ingest.store.sums import Sum


@dataclass(frozen=True, slots=True)
class LightSum:
    """Lighting of many lamp-nights together, microseconds.

    Attributes:
        period: What they share.
        as_of: Until when time of nights in progress counts.
    """

    period: str
    first: date
    last: date
    lamps: int
    due_us: int
    lit_us: int
    dark_us: int
    revision: int
    is_final: bool
    as_of: datetime
    excluded: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def tally(self) -> Tally:
        """Lit, dark and due time, as of any indicator."""
        return Tally(self.lit_us, self.dark_us, self.due_us, self.lamps)

    def plus(self, other: "LightSum", lamps: int) -> "LightSum":
        """Return both together, with how many lamps that are."""
        return LightSum(
            self.period,
            min(self.first, other.first),
            max(self.last, other.last),
            lamps,
            self.due_us + other.due_us,
            self.lit_us + other.lit_us,
            self.dark_us + other.dark_us,
            max(self.revision, other.revision),
            self.is_final and other.is_final,
            min(self.as_of, other.as_of),
            self.excluded or other.excluded,
        )


# Longer than states are ever held back, and some more.
_LAG_MAX: Final = timedelta(hours=1)

By = Literal["night", "month", "total", "child"]
# The lamp-nights of which no final number is stored yet, each as far as it has come.
_RUNNING_NIGHTS: Final[LiteralString] = """
    WITH as_of AS MATERIALIZED (
        -- States before `held_since` are in the tables. It stands still while ingest does: that
        -- becomes time of which nothing is known.
        SELECT greatest(least(%(now)s::timestamptz, min(held_since)),
                        %(now)s::timestamptz - %(lag_max)s) AS at
        FROM ingest_lane
    ), place AS MATERIALIZED (
        SELECT area, path FROM area
        WHERE path <@ %(area)s::ltree OR path @> %(area)s::ltree
    ), open_night AS MATERIALIZED (
        SELECT p.area AS community, p.path, f.day AS night
        FROM place AS p
        JOIN community_day AS f ON f.community = p.area
        WHERE f.domain = 'lighting' AND f.status = 'provisional'
          AND f.day >= %(first)s AND f.day < %(end)s
        UNION ALL
        -- A night that has just begun may not be opened yet.
        SELECT p.area, p.path, g.night::date
        FROM place AS p
        CROSS JOIN generate_series(
            greatest(%(first)s::date, %(now)s::date - 2),
            least(%(end)s::date - 1, %(now)s::date + 1), interval '1 day') AS g (night)
        WHERE NOT EXISTS (
            SELECT FROM community_day AS f
            WHERE f.domain = 'lighting' AND f.day = g.night::date
              AND f.community = p.area)
    ), open_lamp AS MATERIALIZED (
        -- OFFSET 0: few of a month's lamp-nights are open, the others may not be touched.
        SELECT n.*, o.path AS community_path
        FROM open_night AS o
        CROSS JOIN LATERAL (
            SELECT device_id, night, community, lit_us, dark_us, revision,
                   status = 'final' AS is_final, due, due_us, due_to
            FROM lamp_night
            WHERE community = o.community AND night = o.night
            OFFSET 0
        ) AS n
    ), due_so_far AS MATERIALIZED (
        -- Lamps of one programme are due at the same time: reckoned once.
        SELECT due, covered_us(
                   due * tstzmultirange(tstzrange(NULL, (SELECT at FROM as_of)))) AS us
        FROM (SELECT DISTINCT due FROM open_lamp) AS programme
    ), lamp AS (
        SELECT n.night, n.lit_us, n.dark_us, n.revision, n.is_final, n.due,
               n.due_us, n.due_to, f.us AS due_now_us,
               CASE WHEN d.community = n.community THEN a.path ELSE n.community_path END
                   AS path,
               -- Gateways' clocks may run ahead a little: settled time has come.
               greatest((SELECT at FROM as_of), s.lit_at) AS until,
               s.lit, s.lit_at,
               s.lit_at + make_interval(secs => d.reporting_period_s * %(periods)s)
                   AS known_until
        FROM open_lamp AS n
        JOIN due_so_far AS f ON f.due = n.due
        JOIN device AS d ON d.id = n.device_id
        JOIN area AS a ON a.area = d.area
        LEFT JOIN device_state AS s ON s.device_id = n.device_id
    ), held AS (
        SELECT *, CASE WHEN lit IS NULL OR lit_at >= due_to OR known_until <= lower(due)
                       THEN 'empty'::tstzrange
                       ELSE tstzrange(lit_at, least(until, known_until)) END AS hold
        FROM lamp
        WHERE path <@ %(area)s::ltree AND path <@ %(scope)s::ltree  -- invariant 9
    ), so_far AS (
        SELECT night, path, lit_us, dark_us, revision, is_final, lit,
               CASE WHEN due_to <= until THEN due_us
                    WHEN until = (SELECT at FROM as_of) THEN due_now_us
                    ELSE covered_us(due * tstzmultirange(tstzrange(NULL, until)))
               END AS due_us,
               CASE WHEN isempty(hold) THEN 0
                    WHEN due @> hold
                    THEN (extract(epoch FROM upper(hold) - lower(hold)) * 1000000)::bigint
                    ELSE covered_us(due * tstzmultirange(hold))
               END AS open_us
        FROM held
    ), by_night AS (
        SELECT night, {period} AS period, count(*) AS lamps, sum(due_us) AS due_us,
               sum(lit_us + CASE WHEN lit THEN open_us ELSE 0 END) AS lit_us,
               sum(dark_us + CASE WHEN NOT lit THEN open_us ELSE 0 END) AS dark_us,
               max(revision) AS revision, bool_and(is_final) AS is_final
        FROM so_far
        WHERE due_us > 0
        GROUP BY night, period
    )
    SELECT period, min(night) AS first, max(night) AS last, max(lamps) AS lamps,
           sum(due_us)::bigint AS due_us, sum(lit_us)::bigint AS lit_us,
           sum(dark_us)::bigint AS dark_us, max(revision) AS revision,
           bool_and(is_final) AS is_final, (SELECT at FROM as_of) AS as_of
    FROM by_night
    WHERE period IS NOT NULL
    GROUP BY period
    ORDER BY period
"""
_PERIODS: Final[Mapping[By, LiteralString]] = {
    "night": "night::text",
    "month": "to_char(night, 'YYYY-MM')",
    "total": "''::text",
    "child": "CASE WHEN nlevel(path) > nlevel(%(area)s::ltree)"
    " THEN subpath(path, nlevel(%(area)s::ltree), 1)::text END",
}
_RUNNING: Final[Mapping[By, LiteralString]] = {
    by: _RUNNING_NIGHTS.format(period=period) for by, period in _PERIODS.items()
}


async def sum_light(
    conn: AsyncConnection[Any],
    scope: str,
    path: str,
    nights: tuple[date, date],
    by: By,
    *,
    now: datetime,
) -> list[LightSum]:
    """Sum the lighting of an area, ordered by period: final nights as stored, others as they are.

    Args:
        conn: Any connection.
        scope: The path of what the asker may see.
        path: The area's path; a lamp counts where it stood that night.
        nights: ``[first, end)``, dates of dusk.
        by: What to sum over; ``child`` gives one sum per sub-area, named by its path label.
        now: Until when time counts.
    """
    found = {one.period: one for one in await _sum_running(conn, scope, path, nights, by, now=now)}
    async with conn.cursor(row_factory=class_row(Sum)) as cursor:
        stored: sums.By = "day" if by == "night" else by
        await cursor.execute(
            sums.query(stored), sums.parameters([UPTIME], path, scope, nights, stored, final=True)
        )
        async for one in cursor:
            if not one.total:
                continue
            final = LightSum(
                one.period, one.first, one.last, one.subjects, one.total, one.good, one.bad,
                one.revision, one.is_final, now, one.excluded,
            )  # fmt: skip
            other = found.get(one.period)
            if other is not None:
                # In one night these are other lamps, over some nights mostly the same.
                together = sum if by == "night" else max
                final = final.plus(other, together((final.lamps, other.lamps)))
            found[one.period] = final
    return [found[period] for period in sorted(found)]


async def _sum_running(
    conn: AsyncConnection[Any],
    scope: str,
    path: str,
    nights: tuple[date, date],
    by: By,
    *,
    now: datetime,
) -> list[LightSum]:
    """Sum the lamp-nights of which no final number is stored yet."""
    async with conn.cursor(row_factory=class_row(LightSum)) as cursor:
        await cursor.execute(
            _RUNNING[by],
            {
                "now": now,
                "lag_max": _LAG_MAX,
                "periods": lighting.SILENCE_PERIODS,
                "first": nights[0],
                "end": nights[1],
                "area": path,
                "scope": scope,
            },
        )
        return await cursor.fetchall()
