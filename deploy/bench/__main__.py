# SPDX-License-Identifier: Apache-2.0
"""``./dev bench NAME``: measure beside a baseline, check what was computed, tell ratios."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.bench import edge, latest, reads, storage, trials, upkeep
from deploy.bench.city import City, month_before
from deploy.bench.ground import Ground, prepared
from deploy.bench.ingest import Bench, Settings, measure
from deploy.bench.report import Measured, Report
from deploy.bench.show import show
from deploy.bench.stage import Loading
from deploy.bench.town import Town
from deploy.services import ServiceError

app = typer.Typer(add_completion=False)

WIDTH = 160
Result = Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file.")]


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
    period: Annotated[
        int, typer.Option(min=10, max=3_600, help="Of the devices whose days are computed; s.")
    ] = upkeep.TELLS_EVERY_S,
    end: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="The day after the 30 that are read; by default they are a month of the calendar.",
        ),
    ] = None,
    batches: Annotated[
        int, typer.Option(min=10, max=100_000, help="Of 50 readings each, stored in each round.")
    ] = 1_000,
) -> None:
    """A month of a community, of the city, of all communities; what upkeep takes of ingest."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    begun = time.monotonic()
    city = City(communities, lamps, elsewhere, (end or month_before(datetime.now(UTC))).date())
    settings: dict[str, Any] = {
        "communities": communities, "lamps": lamps, "elsewhere": elsewhere, "rounds": rounds,
        "batches": batches, "end": f"{city.end}", "batch": upkeep.BATCH, "period_s": period,
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
            runs += upkeep.measure(ground, communities, batches, rounds, tell, period)
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


@app.command("storage")
def storage_command(
    *,
    result: Result = None,
    devices: Annotated[
        int, typer.Option(min=1_000, max=10_000_000, help="Each reports once a round.")
    ] = 1_005_600,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="After one to warm up.")] = 3,
) -> None:
    """COPY into a hypertable and into a plain table; bytes of a value in two layouts."""
    settings = {"devices": devices, "rounds": rounds, "batch": storage.BATCH}
    steps = 2 * (rounds + 1) + 2
    _run(
        "storage", result, settings, steps,
        lambda ground, tell: storage.measure(ground.dsn, devices, rounds, tell),
    )  # fmt: skip


@app.command("latest")
def latest_command(
    *,
    result: Result = None,
    communities: Annotated[int, typer.Option(min=2, max=9_999, help="Of the city.")] = 2_514,
    elsewhere: Annotated[
        int, typer.Option(min=1, max=1_000, help="Devices of every other community.")
    ] = 400,
    devices: Annotated[
        int, typer.Option(min=100, max=20_000, help="Of the community that is asked about.")
    ] = 10_000,
    period: Annotated[
        int, typer.Option(min=60, max=86_400, help="Of its readings, thirty days of them; s.")
    ] = 3_600,
    rounds: Annotated[int, typer.Option(min=1, max=1_000, help="After one to warm up.")] = 15,
) -> None:
    """Latest states of a community, and a device's year, from the database and from the api."""
    town = latest.Town(communities, elsewhere, devices, period)
    settings = {
        "communities": communities, "elsewhere": elsewhere, "devices": devices,
        "period_s": period, "rounds": rounds, "year_period_s": latest.YEAR_PERIOD_S,
    }  # fmt: skip
    _run(
        "latest", result, settings, latest.steps(rounds),
        lambda ground, tell: latest.measure(ground, town, rounds, tell),
    )  # fmt: skip


@app.command("edge")
def edge_command(
    *,
    result: Result = None,
    seconds: Annotated[
        float, typer.Option(min=2, max=3_600, help="For which an idle agent is watched; s.")
    ] = 20.0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Agents started of each.")] = 3,
    messages: Annotated[
        int, typer.Option(min=1_000, max=1_000_000, help="Put into an outbox file.")
    ] = 20_000,
) -> None:
    """An agent's memory and idle processor time, how fast it begins, what an outbox holds."""
    settings = {
        "seconds": seconds, "rounds": rounds, "messages": messages, "readings": edge.READINGS,
        "devices": list(edge.DEVICES),
    }  # fmt: skip
    begun = time.monotonic()
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    with _progress(console, rounds * len(edge.DEVICES) + 1) as tell:
        runs = edge.measure(seconds, rounds, messages, tell)
    _finish(console, Report("edge", settings, runs, time.monotonic() - begun, "none"), result)


def _run(
    name: str,
    result: Path | None,
    settings: Mapping[str, Any],
    steps: int,
    work: Callable[[Ground, Callable[[str], None]], Sequence[Measured]],
) -> None:
    """Have something measured on a database of its own, and report it."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    begun = time.monotonic()
    try:
        with prepared() as ground, _progress(console, steps) as tell:
            runs = work(ground, tell)
            version = reads.version_of(ground.dsn)
    except ServiceError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    _finish(console, Report(name, settings, runs, time.monotonic() - begun, version), result)


@contextmanager
def _progress(console: Console, steps: int) -> Generator[Callable[[str], None]]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=steps)
        yield lambda name: progress.update(task, advance=1, description=name)


def _finish(console: Console, report: Report, result: Path | None) -> None:
    """Tell what was measured; exit status 1 only where something is wrong, whatever the figures."""
    console.print(report.table())
    for one in report.runs:
        for line in one.wrong:
            console.print(f"wrong: {one.name}: {line}", markup=False, highlight=False)
    for one in report.runs:
        if not one.ok:
            console.print(f"not met: {one.name}", markup=False, highlight=False)
    if result is not None:
        result.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    raise typer.Exit(1 if any(one.wrong for one in report.runs) else 0)


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
