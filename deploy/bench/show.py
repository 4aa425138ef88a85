# SPDX-License-Identifier: Apache-2.0
"""What a measurement of a whole city tells people: steps while it runs, then ratios, then runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.table import Table

from deploy.services import ServiceError

WIDTH = 160


class Outcome(Protocol):
    """What a measurement comes to."""

    @property
    def met(self) -> bool:
        """Whether every must is."""
        ...

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        ...


def show(
    measure: Callable[[Callable[[str], None]], Outcome], file: Path | None, *, judge: bool
) -> None:
    """Measure, tell, write; exit 0 whenever something could be measured and was right.

    Raises:
        typer.Exit: With 1 where it could not, something is wrong, or (``judge``) a must is unmet.
    """
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    begun = time.monotonic()

    def tell(step: str) -> None:
        console.print(f"{time.monotonic() - begun:7.1f} s  {step}", markup=False, highlight=False)

    try:
        outcome = measure(tell)
    except ServiceError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    found = outcome.as_json()
    for line in lines(found):
        console.print(line, markup=False, highlight=False)
    console.print(_ratios(found["ratios"]))
    console.print(_runs(found["runs"]))
    if file is not None:
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    raise typer.Exit(1 if not found["correct"] or (judge and not outcome.met) else 0)


def lines(found: Mapping[str, Any]) -> list[str]:
    """What must be read before any figure."""
    said = [] if found["comparable"] else ["not comparable: a short run for profiling"]
    return [*said, *(f"wrong: {one}" for one in found["wrong"]), *found["notes"]]


def _ratios(ratios: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("goal")
    for name in ("value", "must", "values", ""):
        table.add_column(name, justify="right")
    for one in ratios:
        verdict = "met" if one["met"] else "MISSED"
        sign = "<=" if one["at_most"] else ">="
        table.add_row(
            one["goal"],
            f"{one['value']:,g}",
            f"{sign} {one['must']:g}",
            " ".join(f"{value:,g}" for value in one["values"]),
            verdict if one["stable"] or len(one["values"]) == 1 else f"{verdict}, unstable",
        )
    return table


def _runs(runs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("run")
    for name in ("s", "messages", "stored", "stored/s", "CPU s a million readings", "alerts"):
        table.add_column(name, justify="right")
    for one in runs:
        if "deliveries" in one:
            cpu = " ".join(f"{name} {us:g} µs" for name, us in one["cpu_us_a_delivery"].items())
            said = f"{one['deliveries']:,} deliveries, {one['deliveries_per_s']:,}/s"
            table.add_row(one["name"], f"{one['seconds']:,.0f}", "", "", "", cpu, said)
            continue
        cpu = one["cpu_s_per_million"]
        table.add_row(
            one["name"],
            f"{one['seconds']:,.0f}",
            f"{one['messages']:,}",
            f"{one['stored']:,}",
            f"{one['stored_per_s']:,}",
            " ".join(f"{name} {value:.1f}" for name, value in cpu.items()),
            " ".join(f"{name} {value:,g}" for name, value in one.get("alert_ms", {}).items()),
        )
    return table
