# SPDX-License-Identifier: Apache-2.0
"""Sums kept ahead against days added up one by one: whatever was written, moved or restated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.store.area_days import verify_sums
from ingest.store.sums import By, Sum, parameters, query, whole_months

# The tree: a city, two streets, in each two communities; the last one may move.
PLACES = {
    "city": None,
    "s1": "city",
    "s2": "city",
    "c1": "s1",
    "c2": "s1",
    "c3": "s2",
    "c4": "s2",
}
FIRST = date(2026, 1, 25)
DAYS = 40  # over the end of two months
MOVED_ON = FIRST + timedelta(days=20)
COMMUNITIES = ("c1", "c2", "c3", "c4")
REASONS = ("maintenance", "not_in_service")

Row = tuple[str, int, str, int, int, str | None]  # area, day, status, good, bad, reason left out


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as conn:
        for area, parent in PLACES.items():
            above = conn.execute("SELECT path FROM area WHERE area = %s", (parent,)).fetchone()
            path = area if above is None else f"{above[0]}.{area}"
            conn.execute(
                """
                INSERT INTO area (area, parent, path, level, name)
                VALUES (%s, %s, %s, 'cell', '')
                """,
                (area, parent, path),
            )
        # At noon of that day c4 went over to the first street.
        conn.execute("UPDATE area SET parent = 's1', path = 'city.s1.c4' WHERE area = 'c4'")
        conn.execute(
            """
            UPDATE area_version SET during = CASE WHEN path = 'city.s2.c4'
                THEN tstzrange(NULL, %(moved)s) ELSE tstzrange(%(moved)s, NULL) END
            WHERE area = 'c4'
            """,
            {"moved": datetime.combine(MOVED_ON, datetime.min.time(), UTC) + timedelta(hours=4)},
        )
        yield conn


def parent_on(area: str, day: date) -> str | None:
    if area == "c4" and day >= MOVED_ON:
        return "s1"
    return PLACES[area]


def above(area: str, day: date, *, final: bool) -> list[str]:
    """An area and all that it lay in; what is not final lies where it lies now."""
    found: list[str] = []
    step: str | None = area
    while step is not None:
        found.append(step)
        step = parent_on(step, day if final else FIRST + timedelta(days=DAYS))
    return found


def write(conn: psycopg.Connection, row: Row, indicator: str) -> None:
    area, day, status, good, bad, reason = row
    conn.execute(
        """
        INSERT INTO area_day (indicator, day, area, kind, good, bad, total, subjects, excluded,
                              status, rule_version, computed_at)
        VALUES (%s, %s, %s, '', %s, %s, %s, 1, %s, %s, 1, now())
        ON CONFLICT (area, indicator, day, kind) DO UPDATE SET
            good = excluded.good, bad = excluded.bad, total = excluded.total,
            excluded = excluded.excluded, status = excluded.status
        """,
        (indicator, FIRST + timedelta(days=day), area, good, bad, good + bad + 1,
         Jsonb({reason: 7} if reason else {}), status),
    )  # fmt: skip


rows = st.lists(
    st.tuples(
        st.sampled_from(COMMUNITIES),
        st.integers(0, DAYS - 1),
        st.sampled_from(("final", "final", "provisional")),
        st.integers(0, 100),
        st.integers(0, 100),
        st.sampled_from((None, *REASONS)),
    ),
    max_size=40,
)


@given(rows, st.sets(st.integers(0, 39)), st.integers(0, DAYS - 1), st.integers(1, DAYS))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_sums_are_those_of_the_days(
    conn: psycopg.Connection, written: list[Row], dropped: set[int], start: int, length: int
) -> None:
    conn.execute("TRUNCATE area_day, area_sum")
    kept: dict[tuple[str, int], Row] = {}
    for number, row in enumerate(written):
        write(conn, row, "one")
        write(conn, row, "other")
        kept[row[0], row[1]] = row
        if number in dropped:
            conn.execute(
                "DELETE FROM area_day WHERE area = %s AND day = %s",
                (row[0], FIRST + timedelta(days=row[1])),
            )
            del kept[row[0], row[1]]
    assert verify_sums(conn, FIRST, FIRST + timedelta(days=DAYS))[1] == []
    days = (
        FIRST + timedelta(days=start),
        FIRST + timedelta(days=min(DAYS, start + length)),
    )
    for area in ("city", "s1", "s2", "c4"):
        for by in ("day", "month", "total", "child"):
            assert told(conn, area, days, by) == added(kept, area, days, by), (area, by)


def told(
    conn: psycopg.Connection, area: str, days: tuple[date, date], by: By
) -> dict[str, tuple[int, int, int, int, bool]]:
    row = conn.execute("SELECT path::text FROM area WHERE area = %s", (area,)).fetchone()
    assert row is not None
    with conn.cursor(row_factory=class_row(Sum)) as cursor:
        cursor.execute(query(by), parameters(["one"], row[0], "city", days, by))
        return {
            one.period: (one.good, one.bad, one.total, sum(one.excluded.values()), one.is_final)
            for one in cursor
            if one.total  # of what was deleted nothing is left but its row
        }


def added(
    kept: dict[tuple[str, int], Row], area: str, days: tuple[date, date], by: By
) -> dict[str, tuple[int, int, int, int, bool]]:
    found: defaultdict[str, tuple[int, int, int, int, bool]] = defaultdict(
        lambda: (0, 0, 0, 0, True)
    )
    for own, number, status, good, bad, reason in kept.values():
        day = FIRST + timedelta(days=number)
        line = above(own, day, final=status == "final")
        if area not in line or not days[0] <= day < days[1]:
            continue
        place = line.index(area)
        if by == "child" and place == 0:
            continue
        period = {
            "day": f"{day}", "month": f"{day:%Y-%m}", "total": "", "child": line[place - 1],
        }[by]  # fmt: skip
        before = found[period]
        found[period] = (
            before[0] + good,
            before[1] + bad,
            before[2] + good + bad + 1,
            before[3] + (7 if reason else 0),
            before[4] and status == "final",
        )
    return dict(found)


def test_nobody_is_told_of_an_area_beyond_their_own(conn: psycopg.Connection) -> None:
    write(conn, ("c3", 1, "final", 1, 1, None), "one")
    days = FIRST, FIRST + timedelta(days=DAYS)
    for path, seen in (("city.s2", 1), ("city.s1", 0), ("city", 0)):
        asked = parameters(["one"], path, "city.s2", days, "total")
        assert len(conn.execute(query("total"), asked).fetchall()) == seen


@pytest.mark.parametrize(("before", "after"), [("UTC", "Asia/Shanghai"), ("Asia/Shanghai", "UTC")])
def test_a_corrected_time_zone_neither_drops_a_day_nor_counts_it_twice(
    conn: psycopg.Connection, before: str, after: str
) -> None:
    corrected_at = datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=5, hours=20)
    conn.execute("DELETE FROM area_version WHERE area = 'c3'")
    conn.execute(
        """
        INSERT INTO area_version (area, during, path, time_zone)
        VALUES ('c3', tstzrange(NULL, %(at)s), 'city.s2.c3', %(before)s),
               ('c3', tstzrange(%(at)s, NULL), 'city.s2.c3', %(after)s)
        """,
        {"at": corrected_at, "before": before, "after": after},
    )
    for day in range(3, 9):
        write(conn, ("c3", day, "final", 10, 0, None), "one")
    days = FIRST, FIRST + timedelta(days=DAYS)
    assert {good for good, *_ in told(conn, "city", days, "day").values()} == {10}
    assert told(conn, "city", days, "total")[""][0] == 60


def test_a_tampered_sum_is_named(conn: psycopg.Connection) -> None:
    write(conn, ("c3", 1, "final", 5, 1, None), "one")
    conn.execute("UPDATE area_sum SET good = good + 1 WHERE area = 's2' AND span = 'day'")
    compared, wrong = verify_sums(conn, FIRST, FIRST + timedelta(days=DAYS))
    assert compared == 6  # c3, s2, city: the day and the month
    assert [(of, key.area) for of, key, _, _ in wrong] == [
        ("2026-01 with all below", "s2"),
        ("2026-01-26 with all below", "s2"),
    ]


@pytest.mark.parametrize(
    ("first", "end", "months", "days"),
    [
        ("2026-02-01", "2026-03-01", 1, 0),
        ("2026-01-31", "2026-03-02", 1, 2),
        ("2026-01-02", "2026-02-01", 0, 30),
        ("2025-12-15", "2026-02-15", 1, 31),
        ("2026-01-01", "2026-01-01", 0, 0),
    ],
)
def test_whole_months_and_the_days_besides(first: str, end: str, months: int, days: int) -> None:
    found = whole_months(date.fromisoformat(first), date.fromisoformat(end))
    assert (len(found[0]), len(found[1])) == (months, days)
