# SPDX-License-Identifier: Apache-2.0
"""``./dev drill``: what it is told, what it tells; the drills themselves run by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.drills import __main__ as command
from deploy.drills.cluster import SCENARIO
from deploy.drills.flow import longest
from deploy.drills.report import Report, Step
from deploy.installation import Say
from deploy.services import ServiceError
from simulators import scenario


def report(*wrong: str) -> Report:
    return Report(
        drill="cluster",
        versions={"rabbitmq": "4"},
        settings={"nodes": 3},
        steps=[Step("killed", {"pause_s": 1.5}), Step("frozen", {"moved": 2})],
        totals={"accepted": 7, "lost": len(wrong)},
        wrong=wrong,
        seconds=3.0,
    )


def run(
    monkeypatch: pytest.MonkeyPatch, found: Report | Exception, *arguments: str
) -> tuple[int, str]:
    def drill(say: Say) -> Report:
        say("one moment")
        if isinstance(found, Exception):
            raise found
        return found

    drills: Mapping[str, object] = {"cluster": drill}
    monkeypatch.setattr(command, "DRILLS", drills)
    done = CliRunner().invoke(command.app, ["cluster", *arguments])
    return done.exit_code, done.stderr


def test_drill_that_is_passed_ends_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "drill.json"
    code, told = run(monkeypatch, report(), "--json", str(file))
    assert code == 0
    assert "ok after 3 s: 7 accepted, 0 lost" in told
    written = json.loads(file.read_text())
    assert written["ok"]
    assert written["steps"] == [
        {"name": "killed", "pause_s": 1.5},
        {"name": "frozen", "moved": 2},
    ]
    assert written["machine"]["cpus"]
    assert written["versions"]["rabbitmq"] == "4"


def test_anything_wrong_fails_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    code, told = run(monkeypatch, report("reading lost"))
    assert code == 1
    assert "wrong: reading lost" in told


def test_drill_that_could_not_be_held_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    code, told = run(monkeypatch, ServiceError("needs root"))
    assert (code, "needs root" in told) == (1, True)


def test_unknown_drill_is_refused() -> None:
    done = CliRunner().invoke(command.app, ["flood"])
    assert done.exit_code == command.EXIT_USAGE
    assert "cluster" in done.stderr


def test_nothing_done_is_not_ok() -> None:
    assert not Report("cluster", {}, {}, [], {}, [], 0.0).ok


@pytest.mark.parametrize(
    ("instants", "expected"),
    [
        pytest.param([], 10.0, id="nothing-at-all"),
        pytest.param([1, 2, 9], 7.0, id="in-between"),
        pytest.param([6, 8], 6.0, id="from-the-fault-on"),
        pytest.param([-5, 3, 40], 7.0, id="others-do-not-count"),
    ],
)
def test_longest_pause(instants: list[float], expected: float) -> None:
    assert longest(instants, 0, 10) == expected


def test_drills_have_the_scenario_they_name() -> None:
    assert scenario.load(SCENARIO).communities == 3
