# SPDX-License-Identifier: Apache-2.0
"""What came of all runs: the table for people, the JSON for programs, docs/reliability.md."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from deploy.faults.run import Fault
from deploy.installation import ROOT

SUMS = (
    "rounds", "accepted", "stored", "lost", "duplicated", "phantom", "altered", "dead_lettered",
    "gap_records", "evicted", "vanished", "forfeited", "acks_checked",
)  # fmt: skip


@dataclass(slots=True)
class Row:
    """One fault over all its seeds."""

    fault: Fault
    outcomes: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    #: Runs in which nothing differed, but the fault could not be shown to have happened: each was
    #: repeated once, and the repetition counts.
    void: int = 0

    @property
    def ok(self) -> bool:
        """Every run of it was."""
        return bool(self.outcomes) and all(one["ok"] for one in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """The row of the report."""
        recoveries = [value for one in self.outcomes for value in one.get("recoveries", ())]
        sums = {name: sum(one.get(name, 0) for one in self.outcomes) for name in SUMS}
        return {
            "fault": self.fault.id,
            "part": self.fault.part,
            "name": self.fault.name,
            "seeds": sorted(one["seed"] for one in self.outcomes),
            **sums,
            "void": self.void,
            "sometimes": all(one.get("sometimes", False) for one in self.outcomes),
            "evidence": self.outcomes[-1].get("evidence", {}) if self.outcomes else {},
            "recovery_s": {
                "median": round(statistics.median(recoveries), 2) if recoveries else None,
                "max": round(max(recoveries), 2) if recoveries else None,
            },
            "seconds": round(sum(one.get("seconds", 0.0) for one in self.outcomes), 1),
            "ok": self.ok,
            "failures": [
                {
                    name: one.get(name)
                    for name in ("seed", "error", "differences", "evidence", "log")
                }
                for one in self.outcomes
                if not one["ok"]
            ],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, and under which circumstances they came about."""

    mode: str
    seeds: Sequence[int]
    rows: Sequence[Row]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every row is."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        return {
            "mode": self.mode,
            "ok": self.ok,
            "seeds": list(self.seeds),
            "seconds": round(self.seconds, 1),
            "commit": commit(),
            "cpus": os.cpu_count(),
            "faults": [row.as_json() for row in self.rows],
        }

    def table(self) -> Table:
        """For a terminal."""
        table = Table(box=None, pad_edge=False)
        for name in ("", "fault", "rounds", "accepted", "lost", "dupl.", "phantom", "gaps"):
            table.add_column(name, justify="left" if name in ("", "fault") else "right")
        for name in ("recovery s", "took s", "ok"):
            table.add_column(name, justify="right")
        for row in self.rows:
            found = row.as_json()
            recovery = found["recovery_s"]
            times = "-"
            if recovery["median"] is not None:
                times = f"{recovery['median']:.1f} / {recovery['max']:.1f}"
            verdict = "ok" if row.ok else "void" if not found["sometimes"] else "FAILED"
            table.add_row(
                row.fault.id,
                f"{row.fault.part}: {row.fault.name}",
                *(f"{found[name]:,}" for name in ("rounds", "accepted", "lost", "duplicated")),
                *(f"{found[name]:,}" for name in ("phantom", "gap_records")),
                times,
                f"{found['seconds']:.1f}",
                verdict,
            )
        return table


def commit() -> str:
    """The checkout's commit, with a plus if there is more in it than that."""
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"],  # noqa: S607
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.decode().strip()


def is_void(outcome: Mapping[str, Any]) -> bool:
    """Whether a run proved nothing, neither for nor against."""
    return not (outcome.get("sometimes", True) or outcome.get("error") or outcome["differences"])


def describe(outcome: Mapping[str, Any]) -> str:
    """Why a run failed, and how to have it again."""
    again = f"./dev faults --only {outcome['fault']} --seed {outcome['seed']}"
    lines = [f"{outcome['fault']} seed {outcome['seed']} failed; again: {again}"]
    if outcome.get("error"):
        lines.append(f"  {outcome['error']}")
    lines += [f"  {difference}" for difference in outcome.get("differences", ())]
    if not outcome.get("sometimes", True) and not outcome.get("error"):
        lines.append(f"  void: the fault did not happen; {outcome.get('evidence')}")
    if outcome.get("log"):
        lines += [f"  | {line}" for line in outcome["log"].splitlines()]
    return "\n".join(lines)
