# SPDX-License-Identifier: Apache-2.0
"""Sums of stored tallies over areas and days: what every larger number is read from.

Queries rather than calls: the api asks them over its own, asynchronous connections.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal

By = Literal["day", "month", "total", "child"]


@dataclass(frozen=True, slots=True)
class Sum:
    """Tallies of one indicator added up; ``period`` is what they share: day, month or sub-area.

    Attributes:
        first: The earliest day in it.
        last: The latest day in it.
        subjects: The most that spoke on any one day.
    """

    indicator: str
    kind: str
    period: str
    first: date
    last: date
    good: int
    bad: int
    total: int
    subjects: int
    revision: int
    rule_version: int
    is_final: bool
    computed_at: datetime


@dataclass(frozen=True, slots=True)
class Excluded:
    """How much of an indicator did not count in a period, and why."""

    indicator: str
    kind: str
    period: str
    reason: str
    amount: int


_CHOSEN: Final = """
    WITH chosen AS (
        SELECT d.*,
               CASE %(by)s
                   WHEN 'day' THEN d.day::text
                   WHEN 'month' THEN to_char(d.day, 'YYYY-MM')
                   WHEN 'total' THEN ''
                   WHEN 'child' THEN
                       CASE WHEN nlevel(a.path) > nlevel(%(area)s::ltree)
                            THEN subpath(a.path, nlevel(%(area)s::ltree), 1)::text END
               END AS period
        FROM area_day AS d
        JOIN area AS a ON a.area = d.area
        WHERE d.indicator = ANY (%(indicators)s)
          AND d.day >= %(first)s AND d.day < %(end)s
          AND (d.status = 'final' OR NOT %(final)s)
          AND a.path <@ %(area)s::ltree
          AND a.path <@ %(scope)s::ltree  -- invariant 9
    )
"""

SUMS: Final = (
    _CHOSEN  # noqa: S608 - two texts of our own
    + """
    SELECT indicator, kind, period, min(day) AS first, max(day) AS last,
           sum(good)::bigint AS good, sum(bad)::bigint AS bad, sum(total)::bigint AS total,
           max(subjects)::int AS subjects, max(revision) AS revision,
           max(rule_version) AS rule_version, bool_and(is_final) AS is_final,
           max(computed_at) AS computed_at
    FROM (
        SELECT indicator, kind, period, day, sum(good) AS good, sum(bad) AS bad,
               sum(total) AS total, sum(subjects) AS subjects, max(revision) AS revision,
               max(rule_version) AS rule_version, bool_and(status = 'final') AS is_final,
               max(computed_at) AS computed_at
        FROM chosen
        WHERE period IS NOT NULL
        GROUP BY indicator, kind, period, day
    ) AS by_day
    GROUP BY indicator, kind, period
    ORDER BY indicator, kind, period
    """
)

EXCLUDED: Final = (
    _CHOSEN  # noqa: S608 - two texts of our own
    + """
    SELECT indicator, kind, period, e.key AS reason, sum(e.value::bigint)::bigint AS amount
    FROM chosen, jsonb_each_text(excluded) AS e
    WHERE period IS NOT NULL AND excluded <> '{}'
    GROUP BY indicator, kind, period, e.key
    ORDER BY indicator, kind, period, e.key
    """
)


def parameters(
    indicators: list[str],
    path: str,
    scope: str,
    days: tuple[date, date],
    by: By,
    *,
    final: bool = False,
) -> Mapping[str, Any]:
    """Return what `SUMS` and `EXCLUDED` are asked with.

    Args:
        indicators: Ids.
        path: The area's path; a number counts where its devices stood that day.
        scope: The path of what the asker may see.
        days: ``[first, end)``; of nights the dates of dusk.
        by: What to sum over; ``child`` gives one sum per sub-area, named by its path label.
        final: Leave out what may still change.
    """
    return {
        "indicators": indicators,
        "area": path,
        "scope": scope,
        "first": days[0],
        "end": days[1],
        "by": by,
        "final": final,
    }
