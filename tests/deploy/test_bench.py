# SPDX-License-Identifier: Apache-2.0
"""`./dev bench`, tiny: what is wrong is seen, what is written is complete; no figure is judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from deploy.bench import reads, upkeep
from deploy.bench.__main__ import app
from deploy.bench.city import NIGHTS, City, name_of
from deploy.bench.ground import Ground
from deploy.bench.report import Measured, Report
from deploy.bench.upkeep import Cpu
from ingest.daily import RUNNING_FREE, RUNNING_INTERVAL
from ingest.pki import Authority

pytestmark = pytest.mark.timeout(300)

LAMPS = 120
COMMUNITIES = 3


def silent(name: str) -> None:
    del name


@pytest.fixture
def city(database: str) -> City:
    made = City(COMMUNITIES, LAMPS, 2, datetime.now(UTC).date() - timedelta(days=1))
    with psycopg.connect(database, autocommit=True) as conn:
        assert sum(made.fill(conn)) == made.rows
    return made


def read(database: str, city: City) -> dict[str, Measured]:
    return {one.name: one for one in asyncio.run(reads.measure(database, city, 1, silent))}


def test_what_is_read_is_what_was_written(database: str, city: City) -> None:
    found = read(database, city)
    assert {name: one.wrong for name, one in found.items() if one.wrong} == {}
    assert len(found) == len(list(reads.all_reads())) + 1
    assert city.lamp_nights == LAMPS * NIGHTS + 2 * (COMMUNITIES - 1)
    # The list of everything, and the baseline.
    assert sum(one.budget is None for one in found.values()) == 2


@pytest.mark.parametrize(
    ("change", "seen_in"),
    [
        (
            "UPDATE area_day SET good = good - 1 WHERE indicator = 'lighting-uptime'"
            " AND area = 'c0001' AND status = 'final'",
            {"lighting: month of one community", "all indicators: list of communities"},
        ),
        (
            "DELETE FROM area_day WHERE indicator = 'bin-overflow' AND area = 'c0002'",
            {"all indicators: month of the city", "all indicators: list of communities"},
        ),
        (
            "UPDATE device_state SET lit = false WHERE device_id = 5",
            {"lighting: month of one community", "lighting: month of the city"},
        ),
        (
            "UPDATE area_population SET residents = residents + 1 WHERE area = 'c0003'",
            {"all indicators: month of the city", "all indicators: list of communities"},
        ),
        (
            "UPDATE lamp_night SET dark_us = dark_us + 1 WHERE device_id = 7 AND status = 'final'",
            {"baseline: month of one community from 3,604 lamp-nights"},
        ),
    ],
)
def test_a_wrong_number_makes_the_figure_wrong(
    database: str, city: City, change: str, seen_in: set[str]
) -> None:
    with psycopg.connect(database) as conn:
        assert conn.execute(change.encode()).rowcount
    found = read(database, city)
    wrong = {name for name, one in found.items() if one.wrong}
    assert seen_in <= wrong
    assert not any(found[name].ok for name in wrong)


def test_upkeep_is_measured_on_days_that_are_right(
    database: str, city: City, authority: Authority
) -> None:
    runs = upkeep.measure(Ground(database, authority), COMMUNITIES, 10, 1, silent, 600)
    assert [one.wrong for one in runs if one.wrong] == []
    (share,) = [one for one in runs if one.budget is not None]
    assert 0 < share.value < 1
    with psycopg.connect(database) as conn:
        # Both rounds stored what they sent, each batch by lamps of one gateway.
        sent = conn.execute(
            "SELECT count(*) FROM reading_lamp AS r JOIN device AS d ON d.id = r.device_id"
            " WHERE d.community = %s",
            (name_of(1),),
        ).fetchone()
        assert conn.execute("SELECT count(*) FROM dead_letter").fetchone() == (0,)
    batches = [upkeep.BATCH, upkeep.BATCH, LAMPS - 100]  # of 120 lamps, 100 to a gateway
    assert sent == (2 * sum(batches[number % 3] for number in range(10)),)


def test_share_of_upkeep_is_reckoned_as_it_is_said() -> None:
    cost = upkeep.Cost(
        store=Cpu(1.0, 3.0), mark=0.5, late=0.0, running=Cpu(2.0, 1.0), final=Cpu(4.0, 5.0),
        readings=100,
    )  # fmt: skip
    assert cost.share(None) == (4 + 50) / (4 + 100)
    assert cost.share(None, database=True) == (9 + 50) / (9 + 400)
    assert cost.interval(0) == RUNNING_INTERVAL
    # As busy as a hundred readings a day of a second each make it.
    left = 1 - 100 / 86_400
    assert cost.interval(1).total_seconds() == pytest.approx(3.0 / (RUNNING_FREE * left))
    assert cost.share(timedelta(hours=6)) == (4 * 2 + 4 + 50) / (4 * 2 + 4 + 100)


@pytest.mark.parametrize(
    ("run", "ok", "correct"),
    [
        (Measured("a", "ms", [90.0, 100.0, 400.0], 200.0), True, True),
        (Measured("a", "ms", [300.0], 200.0), False, True),
        (Measured("a", "ms", [100.0], 200.0, ["one is two"]), False, False),
        (Measured("a", "ms", [100.0]), True, True),
    ],
)
def test_report_says_what_is_met_and_what_is_wrong(run: Measured, ok: bool, correct: bool) -> None:
    report = Report("indicators", {"lamps": 1}, [run], 1.0, "PostgreSQL 17").as_json()
    (row,) = report["runs"]
    assert (row["ok"], row["correct"], report["ok"]) == (ok, correct, ok)
    assert row["value"] == run.value
    assert row["ratio"] == (None if run.budget is None else run.value / run.budget)
    assert {"schema", "bench", "commit", "machine", "versions", "settings"} <= report.keys()


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[dict[str, Any]]:
    file = tmp_path / "b.json"
    arguments = ["indicators", "--json", str(file), "--communities", "2", "--lamps", "100"]
    done = CliRunner().invoke(
        app, [*arguments, "--rounds", "1", "--batches", "10", "--period", "600"]
    )
    assert done.exit_code == 0, done.output
    yield json.loads(file.read_text())


def test_command_writes_every_figure_with_its_budget(ran: dict[str, Any]) -> None:
    runs = {one["name"]: one for one in ran["runs"]}
    budgets = [one["budget"] for one in runs.values() if one["budget"] is not None]
    assert budgets == [200.0] * 5 + [0.1]
    assert all(one["correct"] and one["values"] for one in runs.values())
    assert ran["settings"]["lamp_nights"] == 100 * NIGHTS
    assert ran["ok"] == all(one["ok"] for one in runs.values())
