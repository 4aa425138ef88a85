# SPDX-License-Identifier: Apache-2.0
"""Every fault of the matrix, once: nothing lost, nothing doubled, the numbers agree.

All of them are run by one ``./dev faults --quick`` before the first of these tests; a test looks at
its own fault's row. The checker that judges them is tested in `test_checker`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.faults.worker import load
from deploy.installation import environment

# The first test waits for all of them.
pytestmark = pytest.mark.timeout(3_000)

Rows = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def report(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Any]:
    """What the harness says of the faults that are asked for in this run."""
    asked = {item.name for item in request.session.items if item.path == request.path}
    wanted = [fault for fault in load() if f"{EACH.__name__}[{fault}]" in asked]
    result = tmp_path_factory.mktemp("faults") / "faults.json"
    subprocess.run(
        [
            *(sys.executable, "-P", "-m", "deploy.faults", "--quick"),
            *("--only", ",".join(wanted), "--json", str(result)),
        ],
        env=environment(),
        check=False,  # what failed is said by its own test
    )
    return json.loads(result.read_text())


@pytest.fixture(scope="module")
def rows(report: Mapping[str, Any]) -> Rows:
    return {row["fault"]: row for row in report["faults"]}


@pytest.mark.parametrize("fault", load())
def test_fault_loses_and_doubles_nothing(rows: Rows, fault: str) -> None:
    row = rows[fault]
    assert row["ok"], json.dumps(row, indent=2, ensure_ascii=False)
    assert row["sometimes"]
    assert row["accepted"] > 0
    assert row["lost"] == row["duplicated"] == row["phantom"] == row["altered"] == 0


EACH = test_fault_loses_and_doubles_nothing


def test_matrix_is_wide() -> None:
    assert len(load()) >= 30


def test_unknown_fault_is_refused_with_a_way_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "deploy.faults", "--only", "F1,F999"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"no fault F999" in done.stderr
    assert b"--list" in done.stderr
