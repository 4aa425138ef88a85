# SPDX-License-Identifier: Apache-2.0
"""What was measured: the table for people, the JSON for programs. Ratios first."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from deploy.faults.report import commit

SCHEMA: Final = 1
# Of the values' distances from their median: beyond it a figure is called unstable.
_SPREAD_MAX: Final = 0.15


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure: all values of it, in ``unit``, and what it may be at most.

    Attributes:
        budget: None of what is only told.
        wrong: Where what was computed meanwhile is not what it should be; the first ones.
        cpu: CPU by process, in milliseconds a round.
    """

    name: str
    unit: str
    values: Sequence[float]
    budget: float | None = None
    wrong: Sequence[str] = ()
    cpu: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """How much of the budget it takes."""
        return None if self.budget is None else self.value / self.budget

    @property
    def ok(self) -> bool:
        """Correct, and within the budget."""
        return not self.wrong and (self.ratio is None or self.ratio <= 1)

    @property
    def stable(self) -> bool:
        """Whether most values lie close to the median."""
        away = statistics.median(abs(one - self.value) for one in self.values)
        return away <= _SPREAD_MAX * self.value

    def as_json(self) -> dict[str, Any]:
        """One of the report's ``runs``."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": _short(self.value),
            "budget": self.budget,
            "ratio": None if self.ratio is None else _short(self.ratio),
            "ok": self.ok,
            "correct": not self.wrong,
            "stable": self.stable,
            "values": [_short(one) for one in self.values],
            "cpu_ms": {name: _short(value) for name, value in self.cpu.items()},
            "wrong": list(self.wrong),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one run, and on what they were measured."""

    bench: str
    settings: Mapping[str, Any]
    runs: Sequence[Measured]
    seconds: float
    database: str

    @property
    def ok(self) -> bool:
        """Every figure is."""
        return bool(self.runs) and all(one.ok for one in self.runs)

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        return {
            "schema": SCHEMA,
            "bench": self.bench,
            "ok": self.ok,
            "commit": commit(),
            "machine": machine(),
            "versions": {"python": platform.python_version(), "database": self.database},
            "settings": dict(self.settings),
            "seconds": round(self.seconds, 1),
            "runs": [one.as_json() for one in self.runs],
        }

    def table(self) -> Table:
        """For a terminal."""
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in ("median", "budget", "ratio", "CPU ms", "rounds", ""):
            table.add_column(name, justify="right")
        for one in self.runs:
            verdict = "ok" if one.ok else "WRONG" if one.wrong else "MISSED"
            if one.ok and one.budget is None:
                verdict = "-"
            table.add_row(
                one.name,
                f"{_short(one.value):,} {one.unit}",
                "-" if one.budget is None else f"{one.budget:,g} {one.unit}",
                "-" if one.ratio is None else f"{one.ratio:.2f}",
                " + ".join(f"{value:,.0f} {name}" for name, value in one.cpu.items()) or "-",
                str(len(one.values)),
                verdict if one.stable else f"{verdict}, unstable",
            )
        return table


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was with other things."""
    info = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line]
    return {
        "cpus": os.cpu_count(),
        "model": models[0] if models else platform.machine(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "load": [round(one, 1) for one in os.getloadavg()],
    }


def _short(value: float) -> float:
    """Four digits: more would claim a precision that no measurement here has."""
    return float(f"{value:.4g}")
