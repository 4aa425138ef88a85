# SPDX-License-Identifier: Apache-2.0
"""``./dev bench NAME``: measure beside a baseline, check what was computed, tell ratios."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.bench import reads, trials, upkeep
from deploy.bench.city import City
from deploy.bench.ground import prepared
from deploy.bench.ingest import Bench, Settings, measure
from deploy.bench.report import Report
from deploy.bench.show import show
from deploy.bench.stage import Loading
from deploy.bench.town import Town
from deploy.services import ServiceError

app = typer.Typer(add_completion=False)

WIDTH = 160


@app.callback()
def bench() -> None:
    """Measure one thing beside a baseline; exit 0 when it could be measured, correctly."""


@app.command()
def indicators(
    *,
    result: Annotated[
        Path | None, typer.Option("--json", help="Write the whole report to this file.")
    ] = None,
    lamps: Annotated[
        int, typer.Option(min=100, max=100_000, help="Of one community; the others have none.")
    ] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="After one to warm up.")] = 7,
    communities: Annotated[int, typer.Option(min=2, max=9_999, help="Of the city.")] = 2_514,
    elsewhere: Annotated[
        int, typer.Option(min=0, max=200, help="Lamps of every other community, this night.")
    ] = 0,
    batches: Annotated[
        int, typer.Option(min=10, max=100_000, help="Of 50 readings each, stored in each round.")
    ] = 1_000,
) -> None:
    """A month of a community, of the city, of all communities; what upkeep takes of ingest."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    begun = time.monotonic()
    city = City(communities, lamps, elsewhere, datetime.now(UTC).date() - timedelta(days=1))
    settings: dict[str, Any] = {
        "communities": communities, "lamps": lamps, "elsewhere": elsewhere, "rounds": rounds,
        "batches": batches, "batch": upkeep.BATCH,
    }  # fmt: skip
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    try:
        with prepared() as ground, Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("a month is written", total=city.rows)
            with psycopg.connect(ground.dsn, autocommit=True) as conn:
                for rows in city.fill(conn):
                    progress.advance(task, rows)
            settings |= {"area_days": city.area_days, "lamp_nights": city.lamp_nights}
            steps = (rounds + 1) * (len(list(reads.all_reads())) + 3)
            progress.update(task, total=steps, completed=0)

            def tell(name: str) -> None:
                progress.update(task, advance=1, description=name)

            runs = asyncio.run(reads.measure(ground.dsn, city, rounds, tell))
            runs += upkeep.measure(ground, communities, batches, rounds, tell)
            version = reads.version_of(ground.dsn)
    except ServiceError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    report = Report("indicators", settings, runs, time.monotonic() - begun, version)
    console.print(report.table())
    for one in runs:
        for line in one.wrong:
            console.print(f"wrong: {one.name}: {line}", markup=False, highlight=False)
    missed = [one.name for one in runs if not one.ok]
    for name in missed:
        console.print(f"not met: {name}", markup=False, highlight=False)
    if result is not None:
        result.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    # Whatever the figures: only what is wrong is an error.
    raise typer.Exit(1 if any(one.wrong for one in runs) else 0)


Json = Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file.")]
Quick = Annotated[bool, typer.Option(help="20 communities, short: for profiling, not for figures.")]
Judged = Annotated[bool, typer.Option("--judge", help="Exit 1 where a goal is not met.")]
Minutes = Annotated[float, typer.Option(min=0.1, max=1_440, help="Of the city.")]
Communities = Annotated[int, typer.Option(min=1, max=9_999, help="One gateway each.")]
Devices = Annotated[int, typer.Option(min=10, max=9_999, help="Of a community.")]
Folder = Annotated[Path | None, typer.Option(help="Where the database lies meanwhile.")]


@app.command()
def ingest(
    *,
    result: Json = None,
    quick: Quick = False,
    judge: Judged = False,
    minutes: Minutes = 10,
    communities: Communities = 2_514,
    devices: Devices = 400,
    period: Annotated[float, typer.Option(min=1, help="Seconds between readings.")] = 30.0,
    batch: Annotated[
        int, typer.Option(min=0, max=100, help="Readings of a message; 0: what a second brings.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=0, max=100, help="Of Linli and baselines.")] = 3,
    seconds: Annotated[float, typer.Option(min=5, help="Of each in a round.")] = 60.0,
    folder: Folder = None,
) -> None:
    """A city's readings from the wire to the tables, and beside it COPY, null and row consumers."""
    if quick:
        communities, minutes = min(communities, 20), min(minutes, 1.0)
        rounds, seconds = min(rounds, 1), min(seconds, 10.0)
    settings = Settings(
        Town(communities, devices, period), minutes, batch, rounds, seconds, comparable=not quick
    )
    show(lambda tell: measure(settings, folder, tell), result, judge=judge)


@app.command()
def burst(
    *,
    result: Json = None,
    quick: Quick = False,
    judge: Judged = False,
    minutes: Minutes = 10,
    communities: Communities = 2_514,
    devices: Devices = 400,
    folder: Folder = None,
) -> None:
    """Three times what is usual: memory stays flat, and everything is stored in the end."""
    _trial("burst", trials.burst, result, folder, (communities, devices, minutes), quick, judge)


@app.command()
def alerts(
    *,
    result: Json = None,
    quick: Quick = False,
    judge: Judged = False,
    minutes: Annotated[float, typer.Option(min=0.1, help="Of each of the two.")] = 3,
    communities: Communities = 2_514,
    devices: Devices = 400,
    folder: Folder = None,
) -> None:
    """From alarm to alert, with nothing else to do and while a backlog drains."""
    _trial("alerts", trials.alerts, result, folder, (communities, devices, minutes), quick, judge)


@app.command()
def outage(
    *,
    result: Json = None,
    quick: Quick = False,
    judge: Judged = False,
    minutes: Annotated[float, typer.Option(min=0.1, help="That ingest is away.")] = 10,
    communities: Communities = 2_514,
    devices: Devices = 400,
    folder: Folder = None,
) -> None:
    """Ingest is killed and away for a while; how soon everything is stored."""
    _trial("outage", trials.outage, result, folder, (communities, devices, minutes), quick, judge)


def _trial(
    name: str,
    steps: Callable[[Bench, Loading], None],
    result: Path | None,
    folder: Path | None,
    size: tuple[int, int, float],
    quick: bool,
    judge: bool,
) -> None:
    communities, devices, minutes = size
    if quick:
        communities, minutes = min(communities, 20), min(minutes, 1.0)
    settings = Settings(
        Town(communities, devices), minutes, 0, 0, 0.0, comparable=not quick, bench=name
    )
    show(lambda tell: measure(settings, folder, tell, steps), result, judge=judge)


if __name__ == "__main__":
    app(prog_name="./dev bench")
