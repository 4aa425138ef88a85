# SPDX-License-Identifier: Apache-2.0
"""The same targets, led by coverage: libFuzzer finds its way into branches that chance does not.

``LINLI_FUZZ_RUNS`` sets how many inputs each target gets, and has all targets fuzzed; otherwise
20,000 each for those that read what strangers send. One process a target, because libFuzzer takes
its process over.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.targets import TARGETS

ROOT: Final = Path(__file__).parents[2]
RUNS: Final = os.environ.get("LINLI_FUZZ_RUNS")
RUNS_USUAL: Final = "20000"
# The others are read by the same lines, or by the operator's own programs.
USUAL: Final = ("topic", "telemetry", "batch", "event", "status", "judge", "registry")


@pytest.mark.timeout(0 if RUNS else 600)
@pytest.mark.parametrize("target", TARGETS if RUNS else USUAL)
def test_coverage_finds_no_defect(target: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.harness", target, "--folder", str(tmp_path)]
    done = subprocess.run(
        [*command, "--runs", RUNS or RUNS_USUAL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6_000:]
    assert f"Done {RUNS or RUNS_USUAL} runs" in done.stderr
