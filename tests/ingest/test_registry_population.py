# SPDX-License-Identifier: Apache-2.0
"""Population: since when a figure holds, what two figures may not do, and person-days of a tree."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.registry import import_files
from ingest.store.population import Population, below, person_days
from tests.ingest.test_registry import AREAS, one, refusal, write

HEADER = "area,from,to,residents,households\n"


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def areas(conn: psycopg.Connection, tmp_path: Path) -> psycopg.Connection:
    """Areas without anybody in them."""
    import_files(conn, write(tmp_path, {"areas": AREAS.replace("1200,3000", ",")}))
    return conn


def figures(conn: psycopg.Connection, area: str = "c01") -> list[tuple[object, ...]]:
    return conn.execute(
        """
        SELECT lower(valid)::text, upper(valid)::text, residents, households
        FROM area_population WHERE area = %s ORDER BY valid
        """,
        (area,),
    ).fetchall()


def today() -> date:
    return datetime.now(UTC).astimezone(ZoneInfo("Asia/Shanghai")).date()


class TestImport:
    """What good files do."""

    def test_figures_are_stored_with_their_time(
        self, areas: psycopg.Connection, tmp_path: Path
    ) -> None:
        text = HEADER + "c01,2025-01-01,2026-01-01,3000,1200\nc01,2026-01-01,,3100,\n"
        report = import_files(areas, write(tmp_path, {"p": text}))
        assert report.added["population"] == ["c01 2025-01-01", "c01 2026-01-01"]
        assert figures(areas) == [
            ("2025-01-01", "2026-01-01", 3000, 1200),
            ("2026-01-01", None, 3100, None),
        ]

    def test_importing_again_changes_nothing(
        self, areas: psycopg.Connection, tmp_path: Path
    ) -> None:
        paths = write(tmp_path, {"p": HEADER + "c01,2025-01-01,,3000,1200\n"})
        import_files(areas, paths)
        report = import_files(areas, paths)
        assert (report.changed, report.added["population"]) == ([], [])

    def test_a_figure_without_end_holds_until_the_next(
        self, areas: psycopg.Connection, tmp_path: Path
    ) -> None:
        first = write(tmp_path, {"p": HEADER + "c01,2025-01-01,,3000,\n"})
        import_files(areas, first)
        second = write(tmp_path, {"q": HEADER + "c01,2026-01-01,,3100,\n"})
        report = import_files(areas, second)
        assert [str(change) for change in report.changed] == [
            "population c01 2025-01-01: to: None -> 2026-01-01"
        ]
        # The old file says nothing new.
        assert import_files(areas, first).changed == []
        assert figures(areas) == [
            ("2025-01-01", "2026-01-01", 3000, None),
            ("2026-01-01", None, 3100, None),
        ]

    def test_more_than_ten_people_a_household_is_no_mistake(
        self, areas: psycopg.Connection, tmp_path: Path
    ) -> None:
        text = HEADER + "c01,2025-01-01,,3000,10\nc02,2025-01-01,,10,3000\n"
        assert len(import_files(areas, write(tmp_path, {"p": text})).added["population"]) == 2

    def test_a_figure_of_an_areas_file_holds_from_today_on(
        self, areas: psycopg.Connection, tmp_path: Path
    ) -> None:
        past = HEADER + "c01,2025-01-01,,2900,\n"
        import_files(areas, write(tmp_path, {"p": past}))
        report = import_files(areas, write(tmp_path, {"areas": AREAS}))
        assert "population c01: 3000 residents, holds from today on" in report.lines()
        assert figures(areas) == [
            ("2025-01-01", str(today()), 2900, None),
            (str(today()), None, 3000, 1200),
        ]
        # A second figure on one day replaces the first.
        import_files(areas, write(tmp_path, {"areas": AREAS.replace("3000", "3001")}))
        assert figures(areas)[1:] == [(str(today()), None, 3001, 1200)]
        assert (
            import_files(areas, write(tmp_path, {"areas": AREAS.replace("3000", "3001")})).opened
            == {}
        )

    def test_a_figure_of_today_ends_where_a_known_one_begins(
        self, areas: psycopg.Connection, tmp_path: Path
    ) -> None:
        later = today() + timedelta(days=30)
        import_files(areas, write(tmp_path, {"p": f"{HEADER}c01,{later},,3500,\n"}))
        import_files(areas, write(tmp_path, {"areas": AREAS}))
        assert figures(areas) == [
            (str(today()), str(later), 3000, 1200),
            (str(later), None, 3500, None),
        ]

    def test_a_population_file_goes_before_an_areas_file(
        self, conn: psycopg.Connection, tmp_path: Path
    ) -> None:
        contents = {"areas": AREAS, "p": HEADER + "c01,2025-01-01,,2900,\n"}
        report = import_files(conn, write(tmp_path, contents))
        assert report.opened == {}
        assert figures(conn) == [("2025-01-01", None, 2900, None)]
        assert import_files(conn, write(tmp_path, contents)).changed == []

    def test_a_new_figure_has_services_read_the_registry_again(
        self, areas: psycopg.Connection, tmp_path: Path
    ) -> None:
        query = "SELECT registry_revision FROM installation"
        before = one(areas, query)
        import_files(areas, write(tmp_path, {"p": HEADER + "c01,2025-01-01,,2900,\n"}))
        assert one(areas, query) == before + 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(
            "c01,2025-01-01,2026-01-02,1,\nc01,2026-01-01,,2,",
            "p.csv:3: from: value '2026-01-01': overlaps the figure from 2025-01-01 to 2026-01-02",
            id="overlap-in-a-file",
        ),
        pytest.param(
            "c01,2024-06-01,,1,",
            "p.csv:2: from: value '2024-06-01': overlaps the figure from 2024-01-01 to 2024-12-31",
            id="overlap-with-what-is-registered",
        ),
        pytest.param(
            "c01,2023-06-01,2024-01-02,1,",
            "p.csv:2: to: value '2024-01-02': overlaps the figure from 2024-01-01",
            id="runs-into-what-is-registered",
        ),
        pytest.param(
            "c01,2025-01-01,,1,\nc01,2025-01-01,,2,",
            "p.csv:3: area: value 'c01 2025-01-01': stands already in p.csv:2",
            id="twice",
        ),
        pytest.param(
            "c01,2026-01-01,2026-01-01,1,",
            "p.csv:2: to: value '2026-01-01': must lie after from 2026-01-01",
            id="from-is-to",
        ),
        pytest.param(
            "c01,2026-01-01,2025-01-01,1,",
            "p.csv:2: to: value '2025-01-01': must lie after from 2026-01-01",
            id="from-after-to",
        ),
        pytest.param(
            "c01,2026-01-01,,0,",
            "p.csv:2: residents: value '0': expected a whole number from 1 to 2147483647",
            id="nobody",
        ),
        pytest.param(
            "c01,2026-01-01,,-5,",
            "p.csv:2: residents: value '-5': expected a whole number from 1 to 2147483647",
            id="fewer-than-nobody",
        ),
        pytest.param(
            "c01,2026-01-01,,1,-1",
            "p.csv:2: households: value '-1': expected a whole number from 0 to 2147483647",
            id="households",
        ),
        pytest.param("c01,2026-01-01,,,", "p.csv:2: residents: must not be empty", id="no-figure"),
        pytest.param("c01,,,1,", "p.csv:2: from: must not be empty", id="no-beginning"),
        pytest.param(
            "c01,0000-01-01,,1,",
            "p.csv:2: from: value '0000-01-01':"
            " expected a date from 1950 to 2099, such as 2026-03-01",
            id="year-0",
        ),
        pytest.param(
            "c01,2026-01-01,10000-01-01,1,",
            "p.csv:2: to: value '10000-01-01':"
            " expected a date from 1950 to 2099, such as 2026-03-01",
            id="year-10000",
        ),
        pytest.param(
            "c09,2026-01-01,,1,", "p.csv:2: area: value 'c09': no such area", id="no-such-area"
        ),
    ],
)
def test_a_mistake_is_named_and_nothing_applied(
    areas: psycopg.Connection, tmp_path: Path, rows: str, expected: str
) -> None:
    known = HEADER + "c01,2024-01-01,2024-12-31,10,\n"
    import_files(areas, write(tmp_path, {"known": known}))
    before = figures(areas)
    problems = refusal(areas, tmp_path, {"p": f"{HEADER}{rows}\n"})
    assert [problem.replace(f"{tmp_path}/", "") for problem in problems] == [expected]
    assert figures(areas) == before


def test_the_database_itself_refuses_two_figures_at_once(areas: psycopg.Connection) -> None:
    query = "INSERT INTO area_population VALUES ('c01', '[2025-01-01, 2026-01-02)', 1, NULL)"
    areas.execute(query)
    with pytest.raises(psycopg.errors.ExclusionViolation):
        areas.execute(
            "INSERT INTO area_population VALUES ('c01', '[2026-01-01, 2027-01-01)', 2, NULL)"
        )


FIRST = date(2026, 1, 1)
END = date(2026, 1, 11)
Held = tuple[int, int, int]  # from day, until before day, residents


def plant(
    conn: psycopg.Connection, parents: Sequence[int | None], held: Mapping[int, Sequence[Held]]
) -> list[str]:
    """Replace the tree by one of areas a0, a1, ...; return their paths."""
    conn.execute("DELETE FROM area_population")
    conn.execute("DELETE FROM area")
    paths: list[str] = []
    for number, parent in enumerate(parents):
        paths.append(f"a{number}" if parent is None else f"{paths[parent]}.a{number}")
        conn.execute(
            "INSERT INTO area (area, parent, path, level, name) VALUES (%s, %s, %s, 'cell', 'x')",
            (f"a{number}", None if parent is None else f"a{parent}", paths[-1]),
        )
        for start, end, residents in held.get(number, ()):
            conn.execute(
                "INSERT INTO area_population VALUES (%s, daterange(%s, %s), %s, NULL)",
                (
                    f"a{number}",
                    FIRST + timedelta(days=start),
                    FIRST + timedelta(days=end),
                    residents,
                ),
            )
    return paths


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        pytest.param({}, (0, 0), id="nothing-known"),
        pytest.param({0: [(0, 10, 50)]}, (500, 10), id="own-figure"),
        pytest.param({1: [(0, 10, 20)], 2: [(0, 10, 30)]}, (500, 10), id="sum"),
        pytest.param({0: [(0, 10, 9)], 1: [(0, 10, 20)], 2: [(0, 10, 30)]}, (500, 10), id="once"),
        pytest.param({1: [(0, 10, 20)]}, (0, 0), id="a-community-without-figure"),
        pytest.param({0: [(0, 10, 50)], 1: [(0, 10, 20)]}, (500, 10), id="own-figure-is-whole"),
        pytest.param(
            {0: [(0, 10, 60)], 1: [(0, 10, 20)], 2: [(4, 10, 30)]}, (540, 10), id="by-the-day"
        ),
        pytest.param({1: [(0, 10, 20)], 2: [(-5, 3, 30)]}, (150, 3), id="known-for-three-days"),
        pytest.param(
            {1: [(-99, 2, 1), (2, 99, 3)], 2: [(0, 5, 5), (5, 10, 7)]}, (86, 10), id="changes"
        ),
        pytest.param({1: [(0, 10, 9)], 2: [(20, 30, 9)]}, (0, 0), id="outside-of-the-window"),
        pytest.param(
            {0: [(0, 2, 7), (8, 10, 7)], 1: [(1, 9, 1)], 2: [(3, 5, 1)]}, (32, 6), id="gaps"
        ),
    ],
)
def test_person_days_of_a_city_of_two_communities(
    conn: psycopg.Connection, held: Mapping[int, Sequence[Held]], expected: tuple[int, int]
) -> None:
    plant(conn, [None, 0, 0], held)
    assert person_days(conn, "a0", FIRST, END) == Population(*expected, days=10)


def test_a_cell_alone_never_stands_for_its_community(conn: psycopg.Connection) -> None:
    plant(conn, [None, 0, 1, 1], {1: [(0, 10, 100)], 2: [(0, 10, 5)]})
    assert person_days(conn, "a0", FIRST, END).person_days == 1000
    assert person_days(conn, "a0.a1.a2", FIRST, END).person_days == 50
    assert person_days(conn, "a0.a1.a3", FIRST, END) == Population(0, 0, 10)


def test_an_empty_window_and_an_unknown_area_are_refused(conn: psycopg.Connection) -> None:
    plant(conn, [None], {})
    with pytest.raises(ValueError, match="no day from 2026-01-01"):
        person_days(conn, "a0", FIRST, FIRST)
    with pytest.raises(KeyError):
        person_days(conn, "a9", FIRST, END)


def test_of_an_area_that_moved_the_days_count_where_it_lay(conn: psycopg.Connection) -> None:
    plant(conn, [None, 0, 0, 1], {2: [(0, 10, 100)], 3: [(0, 10, 10)]})
    # The cell moves from the first to the second in the course of the fifth day, in Shanghai.
    moved = datetime(2026, 1, 5, 2, tzinfo=UTC)
    conn.execute("UPDATE area SET parent = 'a2', path = 'a0.a2.a3' WHERE area = 'a3'")
    conn.execute(
        """
        UPDATE area_version SET during = CASE WHEN path = 'a0.a1.a3'
            THEN tstzrange(NULL, %(moved)s) ELSE tstzrange(%(moved)s, NULL) END
        WHERE area = 'a3'
        """,
        {"moved": moved},
    )
    assert person_days(conn, "a0.a1", FIRST, END) == Population(40, 4, 10)
    # Where all below are known they make the figure, else its own does.
    assert person_days(conn, "a0.a2", FIRST, END) == Population(4 * 100 + 6 * 10, 10, 10)
    assert person_days(conn, "a0.a2.a3", FIRST, END) == Population(100, 10, 10)
    assert below(conn, "a0.a1", FIRST, END)["a3"] == Population(40, 4, 4)
    assert below(conn, "a0.a2", FIRST, END)["a3"] == Population(60, 6, 6)
    # Of the first nothing is known once nobody tells of anything below it.
    assert person_days(conn, "a0", FIRST, END) == Population(4 * 110, 4, 10)


@st.composite
def trees(
    draw: st.DrawFn,
) -> tuple[list[int | None], dict[int, list[Held]]]:
    count = draw(st.integers(1, 7))
    parents: list[int | None] = [None]
    parents += [draw(st.integers(0, number - 1)) for number in range(1, count)]
    held: dict[int, list[Held]] = {}
    for number in range(count):
        cuts = sorted(draw(st.sets(st.integers(-3, 13), max_size=5)))
        held[number] = [
            (start, end, draw(st.integers(1, 1000)))
            for start, end in pairwise(cuts)
            if draw(st.booleans())
        ]
    return parents, held


@given(trees())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_person_days_are_those_counted_day_by_day(
    conn: psycopg.Connection, tree: tuple[list[int | None], dict[int, list[Held]]]
) -> None:
    parents, held = tree
    paths = plant(conn, parents, held)

    def residents(area: int, day: int) -> int | None:
        parts = [residents(child, day) for child, up in enumerate(parents) if up == area]
        if parts and None not in parts:
            return sum(part for part in parts if part is not None)
        return next((n for start, end, n in held[area] if start <= day < end), None)

    found = below(conn, "a0", FIRST, END)
    for area, path in enumerate(paths):
        known = [n for day in range(10) if (n := residents(area, day)) is not None]
        assert found[path.rpartition(".")[2]] == Population(sum(known), len(known), 10)
