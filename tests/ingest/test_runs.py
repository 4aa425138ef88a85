# SPDX-License-Identifier: Apache-2.0
"""What the server says of stored readings is what looking at each of them says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.kinds import gate
from ingest import domains
from ingest.indicators import lighting, lighting_nights, refuse
from ingest.indicators import spans as exact
from ingest.indicators.spans import Span, from_us
from ingest.indicators.subject import Subject
from ingest.kinds import KINDS
from ingest.store import connect, readings, runs
from tests.ingest.community import found

MINUTE = 60 * 10**6
DAY_US = 24 * 60 * MINUTE
START = 1_790_000_000 * 10**6
DAY: Span = (START, START + DAY_US)
SILENCES = (30 * MINUTE, 90 * 10**6, 7 * 60 * MINUTE)
RATED_W = 60.0

# Patient: what a database takes says nothing of what it answers.
PATIENT = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    found(database, in_service_from=from_us(START - DAY_US))
    with connect(database, "test") as conn:
        yield conn


class Row(NamedTuple):
    """One reading of any class; what a class does not have is left out of its table."""

    device_id: int
    at_us: int
    lit: bool | None = None
    power_w: float | None = None
    energy_kwh: float | None = None
    fault: str | None = None
    door: str | None = None
    fill_pct: float | None = None
    stream: str | None = None


def told(
    number: st.SearchStrategy[int],
    at_us: st.SearchStrategy[int],
    **says: st.SearchStrategy[object],
) -> st.SearchStrategy[Row]:
    """Readings that say this, and nothing else."""
    silent = {name: st.none() for name in Row._fields[2:]}
    return st.builds(Row, number, at_us, **{**silent, **says})


def store(conn: psycopg.Connection, kind: str, rows: Sequence[Row]) -> None:
    table = KINDS[kind].readings
    conn.execute(f"TRUNCATE {table.name}".encode())
    readings.copy_in(
        conn,
        table,
        [
            (row.device_id, from_us(row.at_us), from_us(row.at_us),
             *(getattr(row, column, None) for column in table.columns))
            for row in rows
        ],
    )  # fmt: skip


def subjects(kind: str, silences: Sequence[int], until: int = DAY[1]) -> list[Subject]:
    whole = (DAY[0], until)
    return [
        Subject(number, kind, "c01", (whole,), (), whole, silence)
        for number, silence in enumerate(silences, start=1)
    ]


def _apart(start: int, times: int, silence: int, step: int) -> int:
    return START + start * MINUTE + times * silence + step


# Instants at which something may go wrong: the day's edges, what still holds when it begins, and
# distances of exactly the longest silence.
instants = st.one_of(
    st.sampled_from(
        [edge + step for edge in DAY for step in (-1, 0, 1)]
        + [START - silence + step for silence in SILENCES for step in (-1, 0, 1)]
    ),
    st.integers(START - 8 * 60 * MINUTE, DAY[1] + MINUTE),
    st.builds(
        _apart,
        st.integers(0, 1_000),
        st.integers(0, 4),
        st.sampled_from(SILENCES),
        st.sampled_from((-1, 0, 0, 1)),
    ),
)
numbers = st.integers(1, len(SILENCES))


@given(
    st.lists(
        told(
            numbers,
            instants,
            lit=st.sampled_from((None, True, False)),
            power_w=st.sampled_from((None, 0.0, 11.9, 12.0, 60.1)),
            fault=st.sampled_from((None, None, "lamp")),
        ),
        max_size=30,
    ),
    st.sampled_from((None, RATED_W)),
)
@PATIENT
def test_runs_are_those_of_all_readings(
    conn: psycopg.Connection, rows: list[Row], rated: float | None
) -> None:
    store(conn, "lamp", rows)
    some = subjects("lamp", SILENCES)
    powers = {one.device_id: rated for one in some}
    healthy = runs.load_runs(conn, "reading_lamp", runs.HEALTHY, some, DAY)
    light = runs.load_runs(conn, "reading_lamp", runs.LIT, some, DAY, powers)
    for one in some:
        mine = [row for row in rows if row.device_id == one.device_id and row.at_us < DAY[1]]
        reaching = [row for row in mine if row.at_us >= START - max(SILENCES)]
        words = [(row.at_us, row.fault is None) for row in reaching]
        assert healthy.get(one.device_id, []) == exact.runs(words, one.max_silence_us)
        lit = [(row.at_us, lighting.is_lit(row.lit, row.power_w, rated)) for row in reaching]
        assert light.get(one.device_id, []) == exact.runs(lit, one.max_silence_us)


@pytest.mark.parametrize(
    ("door", "fault", "works"),
    [
        pytest.param("closed", None, True, id="closed"),
        pytest.param("open", None, True, id="open-as-it-may-be"),
        pytest.param("held", None, False, id="held"),
        pytest.param("forced", None, False, id="forced"),
        pytest.param("closed", "motor", False, id="fault-of-a-closed-door"),
        pytest.param(None, "motor", False, id="fault-tells-without-a-door"),
        pytest.param(None, None, None, id="nothing-told"),
    ],
)
def test_a_door_tells_whether_its_gate_works(
    conn: psycopg.Connection, door: str | None, fault: str | None, works: bool | None
) -> None:
    store(conn, "gate", [Row(1, START, door=door, fault=fault)])
    said = runs.load_runs(conn, "reading_gate", runs.WORKS, subjects("gate", [MINUTE]), DAY)
    assert [one.good for one in said.get(1, [])] == ([] if works is None else [works])


def test_every_door_the_contract_knows_tells(conn: psycopg.Connection) -> None:
    doors = get_args(gate.Door)
    store(conn, "gate", [Row(n, START, door=door) for n, door in enumerate(doors, start=1)])
    some = subjects("gate", [MINUTE] * len(doors))
    assert len(runs.load_runs(conn, "reading_gate", runs.WORKS, some, DAY)) == len(doors)


@given(
    st.lists(
        told(
            st.integers(1, 2),
            instants,
            power_w=st.sampled_from((None, 60.0)),
            energy_kwh=st.sampled_from((None, 10.0, 10.0, 10.4, 10.5, 11.0, 11.001, 12.0, 0.2)),
        ),
        max_size=12,
    ),
    st.sampled_from((START + 1, START + 12 * 60 * MINUTE)),
)
@PATIENT
def test_energy_is_that_of_all_readings(
    conn: psycopg.Connection, rows: list[Row], in_service_from: int
) -> None:
    store(conn, "lamp", rows)
    whole = DAY
    some = [
        Subject(number, "lamp", "c01", ((in_service_from, DAY[1]),), (), whole, 30 * MINUTE)
        for number in (1, 2)
    ]
    scene = domains.Scene(conn, "c01", (), whole, DAY[1])
    used = domains.energy(scene, some, {1: RATED_W, 2: RATED_W})
    for one in some:
        mine = [
            lighting_nights.LampReading(row.at_us, row.lit, row.power_w, row.energy_kwh)
            for row in rows
            if row.device_id == one.device_id
        ]
        assert used.get(one.device_id) == lighting_nights.energy_wh(mine, one, RATED_W)


# A bin that fills, is emptied or not, and falls silent.
levels = st.lists(
    told(
        numbers,
        st.one_of(instants, st.integers(START - refuse.LOOKBACK_US, DAY[1])),
        fill_pct=st.sampled_from((None, 5.0, 59.9, 60.0, 61.0, 70.0, 89.0, 89.995, 90.0, 99.5)),
        stream=st.sampled_from((None, "kitchen")),
    ),
    max_size=25,
)


@given(levels, st.sampled_from((DAY[1], START + 5 * 60 * MINUTE)))
@PATIENT
def test_few_levels_say_as_much_as_all(
    conn: psycopg.Connection, rows: list[Row], until: int
) -> None:
    store(conn, "bin", rows)
    some = subjects("bin", SILENCES)
    scene = domains.Scene(conn, "c01", (), DAY, until)
    few = domains.levels_of(scene, some, used=())
    every = {
        one.device_id: [
            refuse.Level(row.at_us, row.fill_pct, row.stream)
            for row in rows
            if row.device_id == one.device_id and row.at_us < until
        ]
        for one in some
    }
    said = {key: [refuse.Level(*row) for row in some_rows] for key, some_rows in few.items()}
    assert refuse.tally(some, said, {}, until) == refuse.tally(some, every, {}, until)
    assert refuse.times_to_empty(some, said, until) == refuse.times_to_empty(some, every, until)
