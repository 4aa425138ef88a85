# SPDX-License-Identifier: Apache-2.0
"""A month read as the api reads it, and beside it the same month summed from lamp-nights."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from api.state import Connection, make_pool
from deploy.bench.city import NOTHING, ZONE, City, Parts, name_of
from deploy.bench.ground import cpu_s
from deploy.bench.report import Measured
from ingest import numbers
from ingest.durations import TOLD_BY_ALERTS
from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.definition import Definition
from ingest.indicators.lighting_nights import UPTIME
from ingest.numbers import Period, Question
from ingest.store.sums import By

BUDGET_MS: Final = 200.0
# What takes longer is not asked for again; what takes this long is not waited for.
_PATIENCE_S: Final = 10.0
_STATEMENT_TIMEOUT: Final = "30s"
_WRONG_SHOWN: Final = 5

BASELINE: Final = """
    SELECT sum(lit_us)::bigint, sum(dark_us)::bigint, sum(due_us)::bigint
    FROM lamp_night
    WHERE community = %s AND night >= %s AND night < %s AND status = 'final'
"""


@dataclass(frozen=True, slots=True)
class Read:
    """One thing to read."""

    name: str
    path: str
    by: By
    definitions: Sequence[Definition]
    budget: float | None = BUDGET_MS

    def question(self, city: City) -> Question:
        """What is asked, by somebody who may see the whole city."""
        return Question(self.path, "city", ZONE, city.first, city.end, self.by, city.now)


def all_reads() -> Iterator[Read]:
    """Yield what has a budget, lighting alone first."""
    for what, definitions in (
        ("lighting", [INDICATORS[UPTIME]]),
        ("all indicators", list(INDICATORS.values())),
    ):
        yield Read(f"{what}: month of one community", f"city.{name_of(1)}", "total", definitions)
        yield Read(f"{what}: month of the city", "city", "total", definitions)
        # A list shows one indicator; all of them together have no budget.
        budget = BUDGET_MS if len(definitions) == 1 else None
        yield Read(f"{what}: list of communities", "city", "child", definitions, budget)


async def measure(dsn: str, city: City, rounds: int, tell: Callable[[str], None]) -> list[Measured]:
    """Measure every read and the baseline, in turns, so that what disturbs one disturbs all."""
    # The api's own connection, whatever it is set up to do; but what is slow gets a figure.
    async with make_pool(dsn) as pool, pool.connection() as conn:
        await conn.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT}'")
        actions: dict[str, Callable[[], Awaitable[Sequence[str]]]] = {}
        reads = {one.name: one for one in all_reads()}
        for one in reads.values():
            actions[one.name] = lambda one=one: _checked(conn, one, city)
        baseline = f"baseline: month of one community from {city.lamp_nights:,} lamp-nights"
        actions[baseline] = lambda: _baseline(conn, city)
        values: dict[str, list[float]] = {name: [] for name in actions}
        cpu: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
        wrong: dict[str, Sequence[str]] = dict.fromkeys(actions, ())
        tired: set[str] = set()
        for turn in range(rounds + 1):
            for name, action in actions.items():
                tell(name)
                if name in tired:
                    continue
                here, there = time.process_time(), cpu_s(conn.info.backend_pid)
                started = time.perf_counter()
                wrong[name] = await action() or wrong[name]
                took_s = time.perf_counter() - started
                if took_s > _PATIENCE_S:
                    tired.add(name)
                if turn == 0 and name not in tired:
                    continue  # warm-up
                values[name].append(1_000 * took_s)
                cpu[name].append((time.process_time() - here, cpu_s(conn.info.backend_pid) - there))
    return [
        Measured(
            name,
            "ms",
            values[name],
            reads[name].budget if name in reads else None,
            wrong[name],
            {
                "python": 1_000 * sum(one for one, _ in cpu[name]) / len(cpu[name]),
                "database": 1_000 * sum(one for _, one in cpu[name]) / len(cpu[name]),
            },
        )
        for name in actions
    ]


async def _checked(conn: Connection, read: Read, city: City) -> Sequence[str]:
    try:
        found = await numbers.read(conn, read.definitions, read.question(city))
    except psycopg.errors.QueryCanceled:
        return [f"no answer within {_STATEMENT_TIMEOUT}"]
    return _differences(found, read, city)


async def _baseline(conn: Connection, city: City) -> Sequence[str]:
    cursor = await conn.execute(BASELINE, (name_of(1), city.first, city.end))
    row = await cursor.fetchone()
    assert row is not None
    if row != tuple(city.nights):
        return [f"lamp-nights sum up to {row}, not {tuple(city.nights)}"]
    return ()


def _differences(found: Sequence[Period], read: Read, city: City) -> Sequence[str]:
    """Say where numbers differ from what rows were made of; nothing may be missing or too much."""
    wanted = _wanted(read, city)
    wrong: list[str] = []
    for one in found:
        number = one.number
        if number.indicator in TOLD_BY_ALERTS or INDICATORS[number.indicator].shape == "times":
            continue  # no alarms or faults here: there is no time that anybody took
        key = one.label, number.indicator, number.kind
        parts, people = wanted.pop(key, (None, 0))
        if parts is None:
            wrong.append(f"{key}: not asked for")
            continue
        match INDICATORS[number.indicator].shape:
            case "rate":
                true = parts.good, people, None
            case "sum":
                true = parts.good, None, None
            case _:
                true = parts.good, parts.good + parts.bad, parts.total
        mine = number.numerator, number.denominator, number.total
        if mine != true:
            wrong.append(f"{key}: {mine}, not {true}")
    wrong += [f"{key}: missing" for key in wanted]
    return wrong[:_WRONG_SHOWN]


def _wanted(read: Read, city: City) -> dict[tuple[str, str, str], tuple[Parts, int]]:
    """What each number is to be, and how many person-days it is a rate of."""
    everywhere = range(1, city.communities + 1)
    if read.by == "child":
        periods: Mapping[str, Sequence[int]] = {name_of(one): [one] for one in everywhere}
    else:
        periods = {"": [1] if read.path != "city" else everywhere}
    ids = {one.id: one for one in read.definitions}
    wanted: dict[tuple[str, str, str], tuple[Parts, int]] = {}
    for (indicator, kind, number), parts in city.sums.items():
        if indicator not in ids:
            continue
        label = name_of(number) if read.by == "child" else ""
        if number in periods.get(label, ()):
            before, _ = wanted.get((label, indicator, kind), (NOTHING, 0))
            wanted[label, indicator, kind] = before.plus(parts), 0
    for one in ids.values():
        if one.shape == "rate":
            for label, members in periods.items():
                parts, _ = wanted.get((label, one.id, ""), (NOTHING, 0))
                wanted[label, one.id, ""] = parts, city.person_days(members)
    return wanted


def version_of(dsn: str) -> str:
    """What answers, in its own words."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT current_setting('server_version') || ', TimescaleDB ' || extversion"
            " FROM pg_extension WHERE extname = 'timescaledb'"
        ).fetchone()
    assert row is not None
    return f"PostgreSQL {row[0]}"
