# SPDX-License-Identifier: Apache-2.0
"""What a drill found: steps with figures for people, JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from deploy.bench.report import machine
from deploy.faults.report import commit

SCHEMA: Final = 1

Figure = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done to the installation, and what was measured of it; units in the names."""

    name: str
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one drill.

    Attributes:
        drill: Its name.
        versions: Of the engines it ran.
        settings: What else the figures depend on.
        steps: In the order in which they were taken.
        totals: Of the whole run: accepted, stored, lost, doubled.
        wrong: What is not as it must be; the drill is passed when nothing is.
        seconds: How long it took.
    """

    drill: str
    versions: Mapping[str, str]
    settings: Mapping[str, Figure]
    steps: Sequence[Step]
    totals: Mapping[str, Figure]
    wrong: Sequence[str]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every step was taken, and nothing is wrong."""
        return bool(self.steps) and not self.wrong

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        return {
            "schema": SCHEMA,
            "drill": self.drill,
            "ok": self.ok,
            "commit": commit(),
            "machine": machine(),
            "versions": {"python": platform.python_version(), **self.versions},
            "settings": dict(self.settings),
            "seconds": round(self.seconds, 1),
            "steps": [{"name": step.name, **step.figures} for step in self.steps],
            "totals": dict(self.totals),
            "wrong": list(self.wrong),
        }

    def table(self) -> Table:
        """For a terminal: a row a step, a column a figure."""
        names = list(dict.fromkeys(name for step in self.steps for name in step.figures))
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in names:
            table.add_column(name.replace("_", " "), justify="right")
        for step in self.steps:
            table.add_row(step.name, *(_shown(step.figures.get(name)) for name in names))
        return table


def _shown(value: Figure) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}"
