# SPDX-License-Identifier: Apache-2.0
"""How long single things took, by device and day: what medians of larger areas are read from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import Connection

from ingest.indicators.duration import Duration
from ingest.indicators.security import Quantile, Times
from ingest.indicators.spans import from_us, to_us
from ingest.store.community_days import DayKey


def load(conn: Connection, indicators: Sequence[str], day: DayKey) -> list[Duration]:
    """Return what is stored of a community's day, in the order of `Duration`."""
    rows = conn.execute(
        """
        SELECT indicator, area, device_id, at, took_us, finished
        FROM device_duration
        WHERE community = %s AND indicator = ANY (%s) AND day = %s
        """,
        (day.community, list(indicators), day.day),
    )
    return sorted(
        Duration(indicator, area, device_id, to_us(at), took_us, finished)
        for indicator, area, device_id, at, took_us, finished in rows
    )


def replace(
    conn: Connection, indicators: Sequence[str], day: DayKey, durations: Sequence[Duration]
) -> None:
    """Bring a community's day to what was computed; untouched where that is what stands there."""
    if load(conn, indicators, day) == sorted(durations):
        return
    conn.execute(
        "DELETE FROM device_duration WHERE community = %s AND indicator = ANY (%s) AND day = %s",
        (day.community, list(indicators), day.day),
    )
    conn.execute(
        """
        INSERT INTO device_duration (indicator, day, community, area, device_id, at, took_us,
                                     finished)
        SELECT d.indicator, %s, %s, d.area, d.device_id, d.at, d.took_us, d.finished
        FROM unnest(%s::text[], %s::text[], %s::int[], %s::timestamptz[], %s::bigint[],
                    %s::boolean[])
            AS d (indicator, area, device_id, at, took_us, finished)
        """,
        (
            day.day,
            day.community,
            [one.indicator for one in durations],
            [one.area for one in durations],
            [one.device_id for one in durations],
            [from_us(one.at_us) for one in durations],
            [one.took_us for one in durations],
            [one.finished for one in durations],
        ),
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and p90 of the times of one indicator in one period, as the database finds them.

    ``median`` and ``p90`` are those of the finished ones, None without; ``lower_`` takes what is
    unfinished for its end, ``upper_`` for endless, which is None.
    """

    indicator: str
    period: str
    finished: int
    unfinished: int
    median: int | None
    p90: int | None
    lower_median: int
    lower_p90: int
    upper_median: int | None
    upper_p90: int | None

    @property
    def times(self) -> Times:
        """As `security.times` would find them in the single times."""
        return Times(
            self.finished,
            self.unfinished,
            _quantile(self.median, self.lower_median, self.upper_median),
            _quantile(self.p90, self.lower_p90, self.upper_p90),
        )


def _quantile(done: int | None, lower: int, upper: int | None) -> Quantile:
    return Quantile(None if done is None else max(done, lower), lower, upper)


#: Rows fit `Spread`; asked with `sums.parameters`. ``percentile_disc`` is the nearest rank; what is
#: unfinished and taken for endless stands behind all that can be stored.
SPREADS: Final[LiteralString] = """
    WITH asked AS (
        SELECT subpath(path, -1) AS label FROM area
        WHERE path = %(area)s::ltree
          AND path <@ %(scope)s::ltree  -- invariant 9
    ), lay AS MATERIALIZED (
        SELECT l.area, l.since, l.until,
               CASE WHEN l.path ~ ('*.' || a.label::text || '.*{1,}')::lquery
                    THEN subpath(l.path, index(l.path, a.label) + 1, 1)::text END AS child
        FROM asked AS a
        JOIN area_lay AS l ON l.path ~ ('*.' || a.label::text || '.*')::lquery
    ), chosen AS (
        SELECT d.indicator, d.took_us, d.finished,
               CASE WHEN d.finished THEN d.took_us ELSE 9223372036854775807 END AS at_most_us,
               CASE %(by)s
                   WHEN 'day' THEN d.day::text
                   WHEN 'month' THEN to_char(d.day, 'YYYY-MM')
                   WHEN 'total' THEN ''
                   WHEN 'child' THEN l.child
               END AS period
        FROM lay AS l
        JOIN device_duration AS d
            ON d.area = l.area AND d.day >= l.since AND d.day < l.until
        WHERE d.indicator = ANY (%(indicators)s)
          AND d.day >= %(first)s AND d.day < %(end)s
    ), spread AS (
        SELECT indicator, period,
               count(*) FILTER (WHERE finished) AS finished,
               count(*) FILTER (WHERE NOT finished) AS unfinished,
               percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY took_us)
                   FILTER (WHERE finished) AS done,
               percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY took_us) AS lower,
               percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY at_most_us) AS upper
        FROM chosen
        WHERE period IS NOT NULL
        GROUP BY indicator, period
    )
    SELECT indicator, period, finished, unfinished, done[1] AS median, done[2] AS p90,
           lower[1] AS lower_median, lower[2] AS lower_p90,
           nullif(upper[1], 9223372036854775807) AS upper_median,
           nullif(upper[2], 9223372036854775807) AS upper_p90
    FROM spread
"""
