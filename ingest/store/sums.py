# SPDX-License-Identifier: Apache-2.0
"""Sums of daily numbers over areas and days: what every larger number is read from.

Final numbers are summed ahead by area, day and month (``area_sum``), where the area lay on each
day; what is not final yet is added from the days of the areas that lie there now. Queries rather
than calls: the api asks them over its own, asynchronous connections.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, LiteralString

By = Literal["day", "month", "total", "child"]


@dataclass(frozen=True, slots=True)
class Sum:
    """Tallies of one indicator added up; ``period`` is what they share: day, month or sub-area.

    Attributes:
        first: The earliest day in it, or the first of its month.
        last: The latest day in it.
        subjects: The most that spoke on any one day.
        excluded: How much did not count, by reason.
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
    excluded: Mapping[str, int]


# Everything is an area's own row or a row of what lay directly in it: which, is decided by ``by``.
_SUMS: Final[LiteralString] = """
    WITH asked AS MATERIALIZED (
        SELECT area, path FROM area
        WHERE path = %(area)s::ltree
          AND path <@ %(scope)s::ltree  -- invariant 9
    ), span AS MATERIALIZED (
        -- Joined, so that each is found in the index: an OR reads all days there are.
        SELECT 'month' AS span, unnest(%(months)s::date[]) AS first
        UNION ALL SELECT 'day', unnest(%(days)s::date[])
    ), settled AS (
        SELECT s.indicator, s.kind, {period} AS period, min(s.first) AS first, max(s.last) AS last,
               {added}, max(s.subjects) AS subjects, true AS is_final
        FROM asked AS a
        CROSS JOIN unnest(%(indicators)s::text[]) AS i (indicator)
        CROSS JOIN span AS t
        JOIN area_sum AS s ON s.{of} = a.area AND s.indicator = i.indicator
            AND s.span = t.span AND s.first = t.first
        GROUP BY s.indicator, s.kind, period
    ), lying AS (
        SELECT o.area AS own, {lies_in} AS area
        FROM asked AS a JOIN area AS o ON o.path <@ a.path{below}
    ), by_day AS (
        SELECT s.indicator, s.kind, l.area, s.day AS first, max(s.day) AS last,
               {added}, sum(s.subjects) AS subjects
        FROM lying AS l JOIN area_day AS s ON s.area = l.own
        WHERE s.status = 'provisional' AND NOT %(final)s
          AND s.indicator = ANY (%(indicators)s)
          AND s.day >= %(first)s AND s.day < %(end)s
        GROUP BY s.indicator, s.kind, l.area, s.day
    ), running AS (
        SELECT s.indicator, s.kind, {period} AS period, min(s.first) AS first, max(s.last) AS last,
               {added}, max(s.subjects) AS subjects, false AS is_final
        FROM by_day AS s
        GROUP BY s.indicator, s.kind, period
    )
    SELECT s.indicator, s.kind, s.period, min(s.first) AS first, max(s.last) AS last,
           {added}, {subjects}(s.subjects)::int AS subjects, bool_and(s.is_final) AS is_final
    FROM (SELECT * FROM settled UNION ALL SELECT * FROM running) AS s
    GROUP BY s.indicator, s.kind, s.period
    ORDER BY s.indicator, s.kind, s.period
"""
_ADDED: Final[LiteralString] = """sum(s.good)::bigint AS good, sum(s.bad)::bigint AS bad,
               sum(s.total)::bigint AS total, max(s.revision) AS revision,
               max(s.rule_version) AS rule_version, max(s.computed_at) AS computed_at,
               coalesce(sum_by_reason(s.excluded) FILTER (WHERE s.excluded <> '{}'), '{}')
                   AS excluded"""
_PERIODS: Final[Mapping[By, LiteralString]] = {
    "day": "s.first::text",
    "month": "to_char(s.first, 'YYYY-MM')",
    "total": "''::text",
    "child": "replace(s.area, '-', '_')",
}
_QUERIES: Final[Mapping[By, LiteralString]] = {
    by: _SUMS.format(
        added=_ADDED,
        period=period,
        of="parent" if by == "child" else "area",
        below=" AND o.area <> a.area" if by == "child" else "",
        lies_in="replace(subpath(o.path, nlevel(a.path), 1)::text, '_', '-')"
        if by == "child"
        else "a.area",
        # While a day is settled a part of those who speak on it is in either.
        subjects="sum" if by == "day" else "max",
    )
    for by, period in _PERIODS.items()
}
_DAY: Final = timedelta(days=1)


def query(by: By) -> LiteralString:
    """Return what to ask, with `parameters`, for rows of `Sum`."""
    return _QUERIES[by]


def parameters(
    indicators: list[str],
    path: str,
    scope: str,
    days: tuple[date, date],
    by: By,
    *,
    final: bool = False,
) -> Mapping[str, Any]:
    """Return what `query` is asked with.

    Args:
        indicators: Ids.
        path: The area's path; a number counts where its devices stood that day.
        scope: The path of what the asker may see; an area beyond it has no sums.
        days: ``[first, end)``; of nights the dates of dusk.
        by: What to sum over; ``child`` gives one sum per sub-area, named by its path label.
        final: Leave out what may still change.
    """
    months, single = ([], _all_days(*days)) if by == "day" else whole_months(*days)
    return {
        "indicators": indicators,
        "area": path,
        "scope": scope,
        "first": days[0],
        "end": days[1],
        "by": by,
        "months": months,
        "days": single,
        "final": final,
    }


def whole_months(first: date, end: date) -> tuple[list[date], list[date]]:
    """Return the months that lie in ``[first, end)``, by their first days, and the days besides."""
    months: list[date] = []
    days: list[date] = []
    day = first
    while day < end:
        after = (day.replace(day=1) + 32 * _DAY).replace(day=1)
        if day.day == 1 and after <= end:
            months.append(day)
        else:
            days += _all_days(day, min(after, end))
        day = after
    return months, days


def _all_days(first: date, end: date) -> list[date]:
    return [first + number * _DAY for number in range((end - first).days)]
