# SPDX-License-Identifier: Apache-2.0
"""What is reported of runs: sums over seeds, reasons, how to repeat, the page for readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from deploy.faults import reliability
from deploy.faults.__main__ import chosen
from deploy.faults.report import Report, Row, describe, is_void
from deploy.faults.run import Fault, Run
from deploy.faults.worker import load


def nothing(run: Run) -> None:
    del run


FAULT = Fault("F9", "broker", "restarted", nothing)


def outcome(seed: int, **changed: Any) -> dict[str, Any]:
    return {
        "fault": "F9",
        "seed": seed,
        "ok": True,
        "rounds": 2,
        "accepted": 1_000,
        "lost": 0,
        "sometimes": True,
        "evidence": {"connections cut": 3},
        "recoveries": [0.5 * seed, 1.0 * seed],
        "seconds": 4.0,
        "differences": [],
        "error": "",
        **changed,
    }


def report(*outcomes: dict[str, Any]) -> Report:
    return Report("full", range(1, 4), [Row(FAULT, list(outcomes))], 60.0)


def test_seeds_are_summed_and_recoveries_taken_together() -> None:
    (row,) = report(outcome(1), outcome(2), outcome(3)).as_json()["faults"]
    assert row["seeds"] == [1, 2, 3]
    assert row["rounds"] == 6
    assert row["accepted"] == 3_000
    assert row["recovery_s"] == {"median": 1.25, "max": 3.0}
    assert row["ok"]
    assert row["failures"] == []


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"lost": 1, "ok": False}, id="lost"),
        pytest.param({"sometimes": False, "ok": False}, id="void"),
        pytest.param({"error": "NotReached: ...", "ok": False}, id="did-not-come-back"),
    ],
)
def test_one_bad_seed_fails_the_fault_and_the_report(changed: dict[str, Any]) -> None:
    found = report(outcome(1), outcome(2, **changed))
    assert not found.ok
    (row,) = found.as_json()["faults"]
    assert [failure["seed"] for failure in row["failures"]] == [2]


@pytest.mark.parametrize(
    ("changed", "void"),
    [
        ({}, False),
        ({"sometimes": False, "ok": False}, True),
        ({"sometimes": False, "ok": False, "differences": ["reading lost: x"]}, False),
        ({"sometimes": False, "ok": False, "error": "NotReached: ..."}, False),
    ],
)
def test_void_is_only_what_shows_nothing_at_all(changed: dict[str, Any], void: bool) -> None:
    assert is_void(outcome(1, **changed)) is void


def test_a_fault_that_was_not_run_is_not_ok() -> None:
    assert not report().ok


def test_a_failure_says_why_and_how_to_have_it_again() -> None:
    text = describe(outcome(7, ok=False, differences=["reading lost: x"]))
    assert "./dev faults --only F9 --seed 7" in text
    assert "reading lost: x" in text
    assert "void" in describe(outcome(7, ok=False, sometimes=False))


def test_a_worker_that_died_is_reported_too() -> None:
    died = {"fault": "F9", "seed": 1, "ok": False, "error": "the worker ended:\nTraceback"}
    assert "Traceback" in describe(died)
    (row,) = report(died).as_json()["faults"]
    assert not row["ok"]
    assert not row["sometimes"]


def test_page_has_every_row_and_the_gaps(tmp_path: Path) -> None:
    page = reliability.write(report(outcome(1)).as_json(), tmp_path / "docs" / "r.md").read_text()
    assert "| F9 | broker: restarted | 1 | 0 | 2 | 1,000 | 0 |" in page
    assert "## What is not covered" in page
    assert "power cuts" in page


@pytest.mark.parametrize(
    ("only", "ids"),
    [
        pytest.param("F20a", ["F20a"], id="one"),
        pytest.param("f20", ["F20a", "F20b"], id="a-number"),
        pytest.param("F21, F1", ["F1a", "F1b", "F21"], id="several-in-order"),
    ],
)
def test_faults_are_chosen_by_id_or_number(only: str, ids: Sequence[str]) -> None:
    assert [one.id for one in chosen(load(), only)] == ids


def test_faults_nobody_knows_are_refused() -> None:
    with pytest.raises(typer.Exit):
        chosen(load(), "F1,G7")


def test_every_part_of_the_system_is_hurt() -> None:
    faults = load().values()
    assert {one.part for one in faults} == {"edge", "link", "broker", "ingest", "database"}
    assert len(faults) >= 30
    assert all(one.act.__doc__ for one in faults)


def test_a_fault_that_was_run_apart_takes_its_row_and_is_told(tmp_path: Path) -> None:
    first = report(outcome(1), outcome(2, lost=1, ok=False)).as_json()
    later = report(outcome(1)).as_json()
    merged = reliability.together(first, [later])
    assert merged["ok"]
    assert merged["faults"] == later["faults"]
    page = reliability.write(merged, tmp_path / "r.md").read_text()
    assert "Run apart: F9;" in page
    assert not reliability.together(first, [])["ok"]
