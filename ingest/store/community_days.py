# SPDX-License-Identifier: Apache-2.0
"""Which days of which community are to be computed, and which are over."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

# A day is final this long after its end; what comes later restates it.
FINAL_AFTER: Final = timedelta(hours=1)
# A backlog marks a day in every flush: it is computed once in a while, not each time.
MARKED_INTERVAL: Final = timedelta(seconds=30)


class DayKey(NamedTuple):
    """One domain's day in one community; of a night the date of its dusk."""

    domain: str
    day: date
    community: str


@dataclass(frozen=True, slots=True)
class CommunityDay:
    """A day to be computed. ``is_over`` decides whether its numbers are final."""

    domain: str
    day: date
    community: str
    dirty: str
    marks: int
    is_over: bool

    @property
    def key(self) -> DayKey:
        """What it is of."""
        return DayKey(self.domain, self.day, self.community)


def open_days(conn: Connection, days: Sequence[tuple[DayKey, datetime]]) -> None:
    """Make rows for days that have none, with when each ends."""
    conn.execute(
        """
        INSERT INTO community_day (domain, day, community, ends_at, dirty)
        SELECT d.*, 'opened'
        FROM unnest(%s::text[], %s::date[], %s::text[], %s::timestamptz[]) AS d
        ON CONFLICT (domain, day, community) DO NOTHING
        """,
        (
            [key.domain for key, _ in days],
            [key.day for key, _ in days],
            [key.community for key, _ in days],
            [ends_at for _, ends_at in days],
        ),
    )


def missing(conn: Connection, first: date, end: date) -> list[DayKey]:
    """Return the days in ``[first, end)`` that have no row though an earlier one there has."""
    return [
        DayKey(*row)
        for row in conn.execute(
            """
            SELECT k.domain, g.day::date, k.community
            FROM (
                SELECT domain, community, day,
                       lead(day, 1, %(end)s) OVER (PARTITION BY domain, community ORDER BY day)
                           AS following
                FROM community_day
                WHERE day >= %(first)s AND day < %(end)s
            ) AS k
            CROSS JOIN LATERAL generate_series(k.day + 1, k.following - 1, interval '1 day')
                AS g (day)
            WHERE k.following > k.day + 1
            """,
            {"first": first, "end": end},
        )
    ]


def mark(conn: Connection, days: Iterable[tuple[DayKey, datetime]], reason: str) -> None:
    """Have days computed anew; those never opened are opened by it.

    Days whose raw rows are dropped stay as they are.
    """
    ordered = sorted(days)
    conn.execute(
        """
        INSERT INTO community_day AS c (domain, day, community, ends_at, dirty)
        SELECT d.*, %s
        FROM unnest(%s::text[], %s::date[], %s::text[], %s::timestamptz[])
             AS d (domain, day, community, ends_at)
        WHERE NOT EXISTS (
            SELECT FROM raw_kept AS k
            WHERE k.domain = d.domain AND d.ends_at - interval '25 hours' < k.since)
        ON CONFLICT (domain, day, community) DO UPDATE
        SET dirty = coalesce(c.dirty, excluded.dirty), marks = c.marks + 1
        """,
        (
            reason,
            [key.domain for key, _ in ordered],
            [key.day for key, _ in ordered],
            [key.community for key, _ in ordered],
            [ends_at for _, ends_at in ordered],
        ),
    )


def mark_between(
    conn: Connection, communities: Sequence[str], start: datetime, end: datetime, reason: str
) -> int:
    """Have all days of communities that [start, end) touches computed anew; return how many.

    Days whose raw rows are dropped stay as they are.
    """
    return conn.execute(
        """
        UPDATE community_day AS c
        SET dirty = coalesce(dirty, %s), marks = marks + 1
        WHERE community = ANY (%s)
          -- A day lasts 23 to 25 hours.
          AND ends_at > %s AND ends_at - interval '25 hours' < %s
          AND NOT EXISTS (
              SELECT FROM raw_kept AS k
              WHERE k.domain = c.domain AND c.ends_at - interval '25 hours' < k.since)
        """,
        (reason, list(communities), start, end),
    ).rowcount


def due(
    conn: Connection,
    now: datetime,
    limit: int,
    *,
    running: timedelta,
    besides: Collection[DayKey] = (),
    until: datetime | None = None,
) -> list[CommunityDay]:
    """Return what is to be computed now, what waited longest first.

    That is: what is marked; what is over and not final yet; and each ``running``, what runs.

    Args:
        conn: Any connection.
        now: The time.
        limit: How many at most.
        running: How often what runs is computed.
        besides: What is left out.
        until: A day that ends later is not over, whatever the time; None: no day is held up.
    """
    with conn.cursor(row_factory=class_row(CommunityDay)) as cursor:
        return cursor.execute(
            """
            SELECT domain, day, community,
                   coalesce(dirty, CASE WHEN ends_at <= %(over)s THEN 'over' ELSE 'running' END)
                       AS dirty,
                   marks, ends_at <= %(over)s AS is_over
            FROM community_day
            WHERE ((dirty IS NOT NULL
                    AND (computed_at IS NULL OR computed_at <= %(now)s - %(marked)s::interval
                         OR computed_at > %(now)s))
                   OR (status = 'provisional' AND ends_at <= %(over)s)
                   OR (status = 'provisional' AND computed_at <= %(now)s - %(running)s::interval))
              AND (domain, day, community) NOT IN (
                  SELECT * FROM unnest(%(domains)s::text[], %(days)s::date[], %(places)s::text[]))
            ORDER BY computed_at NULLS FIRST, day DESC, domain, community
            LIMIT %(limit)s
            """,
            {
                "now": now,
                "over": min(now - FINAL_AFTER, until or now),
                "marked": MARKED_INTERVAL,
                "running": running,
                "limit": limit,
                "domains": [key.domain for key in besides],
                "days": [key.day for key in besides],
                "places": [key.community for key in besides],
            },
        ).fetchall()


def settle(conn: Connection, day: CommunityDay, now: datetime) -> None:
    """Note that a day is computed; what was marked meanwhile stays marked."""
    conn.execute(
        """
        UPDATE community_day
        SET dirty = CASE WHEN marks = %s THEN NULL ELSE dirty END,
            status = CASE WHEN %s THEN 'final' ELSE status END,
            computed_at = %s
        WHERE domain = %s AND day = %s AND community = %s
        """,
        (day.marks, day.is_over, now, *day.key),
    )


def known(conn: Connection, first: date, end: date) -> list[DayKey]:
    """Return the days from ``first`` until before ``end`` whose numbers are final, unmarked.

    Days whose raw rows are dropped are left out: they cannot be computed again.
    """
    return [
        DayKey(*row)
        for row in conn.execute(
            """
            SELECT domain, day, community FROM community_day AS c
            WHERE day >= %s AND day < %s AND status = 'final' AND dirty IS NULL
              AND NOT EXISTS (
                  SELECT FROM raw_kept AS k
                  WHERE k.domain = c.domain AND c.ends_at - interval '25 hours' < k.since)
              -- A window of maintenance was changed, and its days are being marked.
              AND NOT EXISTS (
                  SELECT FROM maintenance_window AS w
                  WHERE NOT isempty(w.restate)
                    AND w.restate && tstzrange(c.ends_at - interval '25 hours', c.ends_at))
            ORDER BY day, domain, community
            """,
            (first, end),
        )
    ]
