# SPDX-License-Identifier: Apache-2.0
"""Indicators by area and day: what is summed up for larger areas and longer times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.indicators.tally import Key, Tally

Status = Literal["provisional", "final"]


@dataclass(frozen=True, slots=True)
class AreaDay:
    """One stored tally."""

    indicator: str
    day: date
    area: str
    kind: str
    good: int
    bad: int
    total: int
    subjects: int
    excluded: Mapping[str, int]
    revision: int
    status: Status
    rule_version: int
    computed_at: datetime

    @property
    def key(self) -> Key:
        """What it is a tally of."""
        return Key(self.indicator, self.area, self.kind)

    @property
    def tally(self) -> Tally:
        """The numbers alone."""
        return Tally(self.good, self.bad, self.total, self.subjects, dict(self.excluded))


def load(conn: Connection, indicators: Sequence[str], day: date, community: str) -> list[AreaDay]:
    """Return what is stored of a community's day, whatever areas it lies in."""
    with conn.cursor(row_factory=class_row(AreaDay)) as cursor:
        return cursor.execute(
            """
            SELECT d.indicator, d.day, d.area, d.kind, d.good, d.bad, d.total, d.subjects,
                   d.excluded, d.revision, d.status, d.rule_version, d.computed_at
            FROM area_day AS d
            JOIN area AS a ON a.area = d.area
            JOIN area AS c ON c.area = %s
            WHERE d.indicator = ANY (%s) AND d.day = %s AND a.path <@ c.path
            """,
            (community, list(indicators), day),
        ).fetchall()


@dataclass(frozen=True, slots=True)
class LastDays:
    """Final days of one community added up; ``day`` is the latest."""

    community: str
    indicator: str
    day: date
    good: int
    bad: int
    total: int

    @property
    def tally(self) -> Tally:
        """The numbers alone."""
        return Tally(self.good, self.bad, self.total)


def last_days(
    conn: Connection,
    indicators: Mapping[str, str],
    communities: Sequence[str],
    *,
    today: date,
    reach: int,
    count: int,
) -> list[LastDays]:
    """Return the last final days of communities, added up over all device classes.

    Args:
        conn: Any connection; sees what its own transaction stored.
        indicators: By id, with the domain whose days they are of.
        communities: Which.
        today: The date now.
        reach: Those whose latest final day lies further back, in days, are left out.
        count: How many days up to the latest one; fewer where there are fewer.
    """
    with conn.cursor(row_factory=class_row(LastDays)) as cursor:
        return cursor.execute(
            """
            WITH latest AS MATERIALIZED (
                SELECT domain, community, max(day) AS day
                FROM community_day
                -- Values of the key one by one: a city's other days are not looked at.
                WHERE domain = ANY (%(domains)s) AND day = ANY (%(days)s)
                  AND community = ANY (%(communities)s) AND status = 'final'
                GROUP BY domain, community
            )
            SELECT l.community, i.indicator, l.day, sum(s.good)::bigint AS good,
                   sum(s.bad)::bigint AS bad, sum(s.total)::bigint AS total
            FROM latest AS l
            JOIN unnest(%(indicators)s::text[], %(of)s::text[]) AS i (indicator, domain)
                ON i.domain = l.domain
            JOIN area_sum AS s ON s.area = l.community AND s.indicator = i.indicator
                AND s.span = 'day' AND s.kind = ''
                AND s.first > l.day - %(count)s::int AND s.first <= l.day
            GROUP BY l.community, i.indicator, l.day
            ORDER BY l.community, i.indicator
            """,
            {
                "domains": sorted(set(indicators.values())),
                "days": [today - timedelta(days=back) for back in range(-1, reach + 1)],
                "communities": list(communities),
                "indicators": list(indicators),
                "of": list(indicators.values()),
                "count": count,
            },
        ).fetchall()


def store(
    conn: Connection,
    stored: Sequence[AreaDay],
    tallies: Mapping[Key, Tally],
    day: date,
    *,
    rule_versions: Mapping[str, int],
    status: Status,
    reason: str,
    now: datetime,
) -> int:
    """Bring a community's day to what was computed; return how many numbers changed.

    A number that was final and changes keeps what it was in ``area_day_revision``, and its
    revision grows. What nothing speaks in any more goes to zero, so that its history stays.
    """
    before = {row.key: row for row in stored}
    wanted = dict(tallies) | {key: Tally() for key in before.keys() - tallies.keys()}
    changed: list[tuple[Key, Tally, int]] = []
    replaced: list[AreaDay] = []
    for key, tally in wanted.items():
        known = before.get(key)
        version = rule_versions[key.indicator]
        same = known is not None and (known.tally, known.rule_version) == (tally, version)
        if known is not None and same and known.status == status:
            continue
        revision = 1 if known is None else known.revision
        if known is not None and not same and known.status == "final":
            replaced.append(known)
            revision += 1
        changed.append((key, tally, revision))
    if replaced:
        _keep(conn, replaced, reason, now)
    if changed:
        _write(conn, changed, day, rule_versions, status, now)
    return sum(before.get(key) is None or before[key].tally != tally for key, tally, _ in changed)


def verify_sums(
    conn: Connection, first: date, end: date
) -> tuple[int, list[tuple[str, Key, Tally | None, Tally | None]]]:
    """Add up again what is summed ahead of the days in ``[first, end)``, months from their days.

    Returns:
        How many sums were compared, and those that differ: of what, which, as stored, as added.
    """
    rows = conn.execute(
        """
        WITH place AS MATERIALIZED (
            SELECT d.area AS own, d.day, p.area
            FROM (SELECT DISTINCT area, day FROM area_day
                  WHERE day >= %(first)s AND day < %(end)s AND status = 'final') AS d,
                 places_on(d.area, d.day) AS p
        ), wanted AS (
            SELECT p.area, d.indicator, d.kind, 'day' AS span, d.day AS first,
                   sum(d.good)::bigint AS good, sum(d.bad)::bigint AS bad,
                   sum(d.total)::bigint AS total, sum(d.subjects)::int AS subjects,
                   sum_by_reason(d.excluded) AS excluded
            FROM area_day AS d JOIN place AS p ON p.own = d.area AND p.day = d.day
            WHERE d.day >= %(first)s AND d.day < %(end)s AND d.status = 'final'
            GROUP BY p.area, d.indicator, d.kind, d.day
            UNION ALL
            SELECT area, indicator, kind, 'month', date_trunc('month', first)::date,
                   sum(good)::bigint, sum(bad)::bigint, sum(total)::bigint, max(subjects),
                   sum_by_reason(excluded)
            FROM area_sum
            WHERE span = 'day' AND first >= date_trunc('month', %(first)s::date)
              AND first < date_trunc('month', %(end)s::date - 1) + interval '1 month'
            GROUP BY area, indicator, kind, date_trunc('month', first)
        ), stored AS (
            -- An area that moved within a month has a row of each place it lay in.
            SELECT area, indicator, kind, span, first, sum(good)::bigint AS good,
                   sum(bad)::bigint AS bad, sum(total)::bigint AS total,
                   max(subjects) AS subjects, sum_by_reason(excluded) AS excluded
            FROM area_sum
            WHERE span = 'day' AND first >= %(first)s AND first < %(end)s
               OR span = 'month' AND first >= date_trunc('month', %(first)s::date)
                  AND first < %(end)s
            GROUP BY area, indicator, kind, span, first
            HAVING sum(total) <> 0 OR max(subjects) <> 0 OR sum_by_reason(excluded) <> '{}'
        )
        SELECT area, indicator, kind, span, first,
               to_jsonb(s) - '{area,indicator,kind,span,first}'::text[],
               to_jsonb(w) - '{area,indicator,kind,span,first}'::text[]
        FROM (SELECT * FROM wanted
              WHERE total <> 0 OR subjects <> 0 OR excluded <> '{}') AS w
        FULL JOIN stored AS s USING (area, indicator, kind, span, first)
        ORDER BY first, area, indicator, kind, span
        """,
        {"first": first, "end": end},
    )
    compared = 0
    differences: list[tuple[str, Key, Tally | None, Tally | None]] = []
    for area, indicator, kind, span, day, stored, wanted in rows:
        compared += 1
        if stored != wanted:
            of = f"{day} with all below" if span == "day" else f"{day:%Y-%m} with all below"
            key = Key(indicator, area, kind)
            differences.append((of, key, _tally(stored), _tally(wanted)))
    return compared, differences


def _tally(parts: Mapping[str, Any] | None) -> Tally | None:
    return None if parts is None else Tally(**parts)


def _keep(conn: Connection, rows: Sequence[AreaDay], reason: str, now: datetime) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO area_day_revision (indicator, day, area, kind, revision, good, bad, total,
                subjects, excluded, rule_version, computed_at, replaced_at, reason)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT DO NOTHING
            """,
            [
                (
                    row.indicator, row.day, row.area, row.kind, row.revision, row.good, row.bad,
                    row.total, row.subjects, Jsonb(dict(row.excluded)), row.rule_version,
                    row.computed_at, now, reason,
                )
                for row in rows
            ],
        )  # fmt: skip


def _write(
    conn: Connection,
    changed: Sequence[tuple[Key, Tally, int]],
    day: date,
    rule_versions: Mapping[str, int],
    status: Status,
    now: datetime,
) -> None:
    conn.execute(
        """
        INSERT INTO area_day (indicator, day, area, kind, good, bad, total, subjects, excluded,
            revision, status, rule_version, computed_at)
        SELECT d.indicator, %(day)s, d.area, d.kind, d.good, d.bad, d.total, d.subjects,
               d.excluded, d.revision, %(status)s, d.rule_version, %(now)s
        FROM unnest(%(indicator)s::text[], %(area)s::text[], %(kind)s::text[], %(good)s::bigint[],
                    %(bad)s::bigint[], %(total)s::bigint[], %(subjects)s::int[],
                    %(excluded)s::jsonb[], %(revision)s::int[], %(rule_version)s::int[])
            AS d (indicator, area, kind, good, bad, total, subjects, excluded, revision,
                  rule_version)
        ON CONFLICT (indicator, day, area, kind) DO UPDATE SET
            good = excluded.good, bad = excluded.bad, total = excluded.total,
            subjects = excluded.subjects, excluded = excluded.excluded,
            revision = excluded.revision, status = excluded.status,
            rule_version = excluded.rule_version, computed_at = excluded.computed_at
        """,
        {
            "day": day,
            "status": status,
            "now": now,
            "indicator": [key.indicator for key, _, _ in changed],
            "area": [key.area for key, _, _ in changed],
            "kind": [key.kind for key, _, _ in changed],
            "good": [tally.good for _, tally, _ in changed],
            "bad": [tally.bad for _, tally, _ in changed],
            "total": [tally.total for _, tally, _ in changed],
            "subjects": [tally.subjects for _, tally, _ in changed],
            "excluded": [Jsonb(dict(tally.excluded)) for _, tally, _ in changed],
            "revision": [revision for _, _, revision in changed],
            "rule_version": [rule_versions[key.indicator] for key, _, _ in changed],
        },
    )
