# SPDX-License-Identifier: Apache-2.0
"""``./dev bench NAME``: measure beside a baseline, check what was computed, tell ratios."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.bench import reads, upkeep
from deploy.bench.city import City, month_before
from deploy.bench.ground import prepared
from deploy.bench.report import Report
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


if __name__ == "__main__":
    app(prog_name="./dev bench")
