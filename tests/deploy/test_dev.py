# SPDX-License-Identifier: Apache-2.0
"""``./dev help`` names what there is."""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest

from deploy.bench.__main__ import app
from deploy.drills.__main__ import DRILLS

ROOT = Path(__file__).resolve().parents[2]
BENCHES = [one.name or one.callback.__name__ for one in app.registered_commands if one.callback]


@pytest.mark.parametrize(("verb", "there_are"), [("bench", BENCHES), ("drill", DRILLS)])
def test_every_name_that_a_verb_takes_is_told(verb: str, there_are: Collection[str]) -> None:
    usage = subprocess.run(
        ["sh", ROOT / "dev", "help"], capture_output=True, text=True, timeout=10, check=True
    ).stdout
    told = usage.partition(f"./dev {verb} NAME")[2].partition("./dev")[0].partition("NAME:")[2]
    assert {name.strip() for name in told.split(",")} == set(there_are)
