# SPDX-License-Identifier: Apache-2.0
"""``./dev faults``: hurt every part of a running city, and prove that nothing was lost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.faults import reliability
from deploy.faults.pool import Pool, Request, keep_folder
from deploy.faults.report import Report, Row, describe, is_void
from deploy.faults.run import Fault
from deploy.faults.worker import load
from deploy.services import ServiceError, Userland

app = typer.Typer(add_completion=False)

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
FULL_SEEDS = 20
# A slow machine now and then fails to stage a fault; one that fails often is not staged well.
VOID_MAX = 2
WIDTH = 160


@app.command()
def faults(
    *,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick", help="Full: many rounds and seeds, and docs/reliability.md anew."
        ),
    ] = False,
    only: Annotated[
        str, typer.Option(help="Some faults, by id or number: F1,F20a. All by default.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 1,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1_000, help="How many; 1 in a quick run, 20 in a full.")
    ] = None,
    result: Annotated[
        Path | None, typer.Option("--json", help="Write the whole report to this file.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Runs at a time.")] = 4,
    keep: Annotated[Path | None, typer.Option(help="Keep the folders of failed runs here.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Name the faults and stop.")] = False,
) -> None:
    """Run faults on real processes and compare what is stored with what was accepted."""
    # Into a file or a pipe the table goes unfolded.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    wanted = chosen(load(), only)
    if show:
        for one in wanted:
            print(f"{one.id:6} {one.part}: {one.name}")
        return
    numbers = range(seed, seed + (seeds or (FULL_SEEDS if full else 1)))
    try:
        Userland.find()  # built once, not by every worker
    except ServiceError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    rows = {one.id: Row(one) for one in wanted}
    requests = [
        Request(one.id, number, full, keep_folder(keep))
        # The longest first, or they would be waited for at the end.
        for number in numbers
        for one in sorted(wanted, key=lambda one: -one.takes_s)
        if number == seed or not one.once
    ]
    begun = time.monotonic()
    console.print(
        f"{len(wanted)} faults, {len(requests)} runs, seeds {numbers[0]} to {numbers[-1]}, "
        f"{workers} at a time",
        markup=False,
        highlight=False,
    )
    mode = "full" if full else "quick"
    try:
        _perform(console, Pool(workers, requests), rows, len(requests))
    except KeyboardInterrupt:
        # Hours may lie behind: what was found out is told, and said to be a part.
        console.print("interrupted: this is what came until now", markup=False)
        mode = f"{mode}, interrupted"
    report = Report(mode, numbers, list(rows.values()), time.monotonic() - begun)
    console.print(report.table())
    console.print(
        f"{'all ok' if report.ok else 'NOT OK'} after {report.seconds:.0f} s", highlight=False
    )
    if result is not None:
        result.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    if mode == "full" and report.ok and not only:
        console.print(f"written: {reliability.write(report.as_json())}", markup=False)
    if mode.endswith("interrupted"):
        raise typer.Exit(EXIT_INTERRUPTED)
    raise typer.Exit(0 if report.ok else 1)


def _perform(console: Console, pool: Pool, rows: Mapping[str, Row], total: int) -> None:
    """Perform all runs, and put what came of them into the rows."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("faults", total=total)
        for outcome in pool.outcomes():
            row = rows[outcome["fault"]]
            if is_void(outcome) and row.void < VOID_MAX:
                row.void += 1
                pool.repeat(outcome["fault"], outcome["seed"])
                continue
            row.outcomes.append(outcome)
            progress.advance(task)
            if not outcome["ok"]:
                progress.console.print(describe(outcome), markup=False, highlight=False)
            elif not console.is_terminal:
                _say(console, outcome)


def _say(console: Console, outcome: Mapping[str, Any]) -> None:
    console.print(
        f"ok {outcome['fault']} seed {outcome['seed']}: {outcome['accepted']} accepted, "
        f"{outcome['seconds']} s",
        markup=False,
        highlight=False,
    )


def chosen(faults: Mapping[str, Fault], only: str) -> list[Fault]:
    """The faults that ``only`` names, or all, in order of their numbers.

    Raises:
        typer.Exit: It names one that nobody knows.
    """
    order = sorted(faults.values(), key=lambda one: (int(_number(one.id)[1:]), one.id))
    if not only:
        return order
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if not any(_means(name, one.id) for one in order)]
    if unknown or not names:
        print(f"no fault {', '.join(unknown)}; see ./dev faults --list", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE)
    return [one for one in order if any(_means(name, one.id) for name in names)]


def _means(name: str, fault: str) -> bool:
    return name.upper() in (fault.upper(), _number(fault))


def _number(fault: str) -> str:
    return fault.rstrip("abcdefgh")


if __name__ == "__main__":
    app(prog_name="./dev faults")
