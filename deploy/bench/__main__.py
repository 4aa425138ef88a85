# SPDX-License-Identifier: Apache-2.0
"""``./dev bench NAME``: measure beside a baseline, check what was computed, tell ratios."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.bench import (
    console,
    edge,
    fanout,
    federation,
    latest,
    members,
    reads,
    storage,
    trials,
    upkeep,
)
from deploy.bench.city import City, month_before
from deploy.bench.ground import Ground, prepared
from deploy.bench.ingest import Bench, Steps, city_and_rounds, measure
from deploy.bench.report import Measured, Report
from deploy.bench.runs import Result as Found
from deploy.bench.runs import Settings
from deploy.bench.show import WIDTH, show
from deploy.bench.stage import INGEST_PROCESSES, VIEWERS, Loading
from deploy.bench.town import STATUS_S, Town
from deploy.services import ServiceError

app = typer.Typer(add_completion=False)

Result = Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file.")]
Tell = Callable[[str], None]


@app.callback()
def bench() -> None:
    """Measure one thing beside a baseline; exit 0 when it could be measured, correctly."""


# -- single figures, each beside its budget -------------------------------------------------------


@app.command()
def indicators(
    *,
    result: Result = None,
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
    city = City(communities, lamps, elsewhere, (end or month_before(datetime.now(UTC))).date())
    settings: dict[str, Any] = {
        "communities": communities, "lamps": lamps, "elsewhere": elsewhere, "rounds": rounds,
        "batches": batches, "end": f"{city.end}", "batch": upkeep.BATCH, "period_s": period,
    }  # fmt: skip

    def work(ground: Ground, tell: Tell) -> list[Measured]:
        tell("a month is written")
        with psycopg.connect(ground.dsn, autocommit=True) as conn:
            for _ in city.fill(conn):
                pass
        settings.update(area_days=city.area_days, lamp_nights=city.lamp_nights)
        runs = asyncio.run(reads.measure(ground.dsn, city, rounds, tell))
        return runs + upkeep.measure(ground, communities, batches, rounds, tell, period)

    steps = (rounds + 1) * (len(list(reads.all_reads())) + 3) + 1
    _on_ground("indicators", result, settings, steps, work)


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
    _on_ground(
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
    _on_ground(
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
    _report(
        "edge", result, settings, rounds * len(edge.DEVICES) + 1,
        lambda tell: (edge.measure(seconds, rounds, messages, tell), "none"),
    )  # fmt: skip


@app.command("console")
def console_command(
    *,
    result: Result = None,
    devices: Annotated[
        int, typer.Option(min=200, max=20_000, help="Of the community that is looked at.")
    ] = 10_000,
    seconds: Annotated[
        float, typer.Option(min=1, max=3_600, help="For which frames are counted; s.")
    ] = 30.0,
    changes: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="Told while memory is watched.")
    ] = 60_000,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Pages opened of each.")] = 5,
) -> None:
    """The console in a browser: until it is there, what it holds, how smoothly it lives."""
    settings = {
        "devices": devices, "seconds": seconds, "changes": changes, "rounds": rounds,
        "changes_per_s": console.CHANGES_PER_S, "baseline_devices": console.FEW,
    }  # fmt: skip
    _report(
        "console", result, settings, console.steps(rounds),
        lambda tell: console.measure(devices, seconds, changes, rounds, tell),
    )  # fmt: skip


@app.command("federation")
def federation_command(
    *,
    result: Result = None,
    communities: Annotated[int, typer.Option(min=1, max=9_999, help="Of the city.")] = 2_514,
    days: Annotated[int, typer.Option(min=1, max=366, help="Of numbers that it has.")] = 31,
) -> None:
    """A city tells its province everything for the first time."""
    settings = {"communities": communities, "days": days}
    _report(
        "federation", result, settings, days + 3,
        lambda tell: federation.measure(communities, days, tell),
    )  # fmt: skip


def _on_ground(
    name: str,
    result: Path | None,
    settings: Mapping[str, Any],
    steps: int,
    work: Callable[[Ground, Tell], Sequence[Measured]],
) -> None:
    """Have something measured on a database of its own, and report it."""

    def measured(tell: Tell) -> tuple[Sequence[Measured], str]:
        with prepared() as ground:
            return work(ground, tell), reads.version_of(ground.dsn)

    _report(name, result, settings, steps, measured)


def _report(
    name: str,
    result: Path | None,
    settings: Mapping[str, Any],
    steps: int,
    work: Callable[[Tell], tuple[Sequence[Measured], str]],
) -> None:
    """Have something measured and tell it; exit 1 only where something is wrong."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    begun = time.monotonic()
    try:
        with _progress(console, steps) as tell:
            runs, version = work(tell)
    except ServiceError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    report = Report(name, settings, runs, time.monotonic() - begun, version)
    console.print(report.table())
    for one in runs:
        for line in one.wrong:
            console.print(f"wrong: {one.name}: {line}", markup=False, highlight=False)
    for one in runs:
        if not one.ok:
            console.print(f"not met: {one.name}", markup=False, highlight=False)
    if result is not None:
        result.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    raise typer.Exit(1 if any(one.wrong for one in runs) else 0)


@contextmanager
def _progress(console: Console, steps: int) -> Generator[Tell]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=steps)
        yield lambda name: progress.update(task, advance=1, description=name)


# -- a whole city, everything on the same cores ---------------------------------------------------

Quick = Annotated[bool, typer.Option(help="20 communities, short: for profiling, not for figures.")]
Judged = Annotated[bool, typer.Option("--judge", help="Exit 1 where a goal is not met.")]
Minutes = Annotated[float, typer.Option(min=0.01, max=1_440, help="Of the city, or of each part.")]
Communities = Annotated[int, typer.Option(min=1, max=9_999, help="One gateway each.")]
Devices = Annotated[int, typer.Option(min=10, max=9_999, help="Of a community.")]
Rounds = Annotated[int, typer.Option(min=0, max=100, help="Of all that is measured in turns.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Of each in a round.")]
Processes = Annotated[
    int, typer.Option(min=1, max=INGEST_PROCESSES, help="Of ingest's telemetry; 1: of all it does.")
]
Folder = Annotated[Path | None, typer.Option(help="Where the database lies meanwhile.")]
_QUICK_COMMUNITIES: Final = 20
_QUICK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What a city is put through.

    Attributes:
        about: For people.
        steps: What is done to it.
        viewers: Who watch all the time.
    """

    about: str
    steps: Steps
    minutes: float = 10
    rounds: int = 0
    viewers: int = VIEWERS


TRIALS: Final[Mapping[str, Trial]] = {
    "ingest": Trial(
        "A city's readings from the wire to the tables; beside it COPY, null and row consumers.",
        city_and_rounds,
        rounds=3,
    ),
    "burst": Trial(
        "Three times what is usual: memory stays flat, and everything is stored in the end.",
        trials.burst,
    ),
    "alerts": Trial(
        "From alarm to alert, with nothing else to do and while a backlog drains.",
        trials.alerts,
        minutes=3,
    ),
    "replay": Trial(
        "From alarm to alert at half of the city's load, while a million readings are replayed.",
        trials.replay,
        minutes=3,
    ),
    "outage": Trial(
        "Ingest is killed and away for a while; how soon everything is stored.", trials.outage
    ),
    "fanout": Trial(
        "A thousand viewers: events delivered beside an empty app; what they cost ingest.",
        fanout.fanout,
        rounds=3,
        viewers=0,
    ),
    "partitions": Trial(
        "One ingest process and two by partition, in turns: what a reading costs in each.",
        members.partitions,
        minutes=1,
    ),
}


#: Trials that one city can be put through, one after the other. `ingest` and `burst` check that
#: each lamp was lit all the time: no longer so once it was quiet for a minute and a half.
_SAME_STAGE: Final = ("ingest", "alerts", "replay", "burst", "outage", "fanout")


def offer(name: str, trial: Trial) -> None:
    """Make a command of a trial; all of them have the same options."""

    @app.command(name, help=trial.about)
    def command(  # pyright: ignore[reportUnusedFunction] - typer keeps it
        *,
        result: Result = None,
        quick: Quick = False,
        judge: Judged = False,
        minutes: Minutes = trial.minutes,
        communities: Communities = 2_514,
        devices: Devices = 400,
        period: Annotated[float, typer.Option(min=1, help="Seconds between readings.")] = 30.0,
        status: Annotated[float, typer.Option(min=0.1, help="Between statuses.")] = STATUS_S,
        batch: Annotated[
            int, typer.Option(min=0, max=100, help="Readings of a message; 0: of a second.")
        ] = 0,
        rounds: Rounds = trial.rounds,
        seconds: Seconds = 60.0,
        processes: Processes = INGEST_PROCESSES,
        folder: Folder = None,
    ) -> None:
        if quick:
            processes = 1
            communities, minutes = min(communities, _QUICK_COMMUNITIES), min(minutes, 1.0)
            rounds, seconds = min(rounds, 1), min(seconds, _QUICK_S)
        settings = Settings(
            Town(communities, devices, period, status), minutes, batch, rounds, seconds,
            comparable=not quick, bench=name, viewers=trial.viewers, ingest_processes=processes,
        )  # fmt: skip
        show(lambda tell: measure(settings, folder, tell, trial.steps), result, judge=judge)


for _name, _trial in TRIALS.items():
    offer(_name, _trial)


@app.command()
def everything(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"By default {', '.join(_SAME_STAGE)}.")
    ] = None,
    *,
    reports: Annotated[
        Path | None, typer.Option(help="Write each report to NAME.json in this folder.")
    ] = None,
    quick: Quick = False,
    judge: Judged = False,
    minutes: Annotated[
        float, typer.Option(min=0.01, max=1_440, help="Of the city, or of each part, at most.")
    ] = 10,
    communities: Communities = 2_514,
    devices: Devices = 400,
    status: Annotated[float, typer.Option(min=0.1, help="Between statuses.")] = STATUS_S,
    rounds: Rounds = 3,
    seconds: Seconds = 60.0,
    processes: Processes = INGEST_PROCESSES,
    folder: Folder = None,
) -> None:
    """Several trials of one city, one after the other: a city comes to rest once for all."""
    chosen = names or list(_SAME_STAGE)
    if unknown := set(chosen) - set(_SAME_STAGE):
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}: choose of {', '.join(_SAME_STAGE)}"
        )
    if quick:
        processes = 1
        communities, minutes = min(communities, _QUICK_COMMUNITIES), min(minutes, 1.0)
        rounds, seconds = min(rounds, 1), min(seconds, _QUICK_S)
    settings = Settings(
        Town(communities, devices, status_s=status), minutes, 0, rounds, seconds,
        comparable=not quick, bench="everything", ingest_processes=processes,
    )  # fmt: skip

    def steps(bench: Bench, load: Loading) -> None:
        whole = bench.result
        for name in chosen:
            trial, begun = TRIALS[name], time.monotonic()
            bench.settings = replace(
                settings, bench=name, minutes=min(minutes, trial.minutes),
                rounds=min(rounds, trial.rounds),
            )  # fmt: skip
            bench.result = Found(bench.settings, machine=whole.machine, versions=whole.versions)
            bench.result.notes += whole.notes
            trial.steps(bench, load)
            bench.result.seconds = time.monotonic() - begun
            if reports is not None:
                report = json.dumps(bench.result.as_json(), indent=1, ensure_ascii=False)
                (reports / f"{name}.json").write_text(report + "\n")
            whole.runs += bench.result.runs
            whole.ratios += bench.result.ratios
            whole.wrong += bench.result.wrong
        bench.result, bench.settings = whole, settings

    show(lambda tell: measure(settings, folder, tell, steps), None, judge=judge)


if __name__ == "__main__":
    app(prog_name="./dev bench")
