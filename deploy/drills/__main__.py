# SPDX-License-Identifier: Apache-2.0
"""``./dev drill NAME``: lose a machine of several, and prove that nothing was lost with it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.drills import cluster, failover
from deploy.drills.report import Report
from deploy.faults.ground import NotReached
from deploy.installation import Say
from deploy.services import ServiceError

app = typer.Typer(add_completion=False)

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
WIDTH = 160

DRILLS: Mapping[str, Callable[[Say], Report]] = {
    "cluster": cluster.drill,
    "failover": failover.drill,
}


@app.command()
def drill(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of: {', '.join(DRILLS)}.")],
    *,
    result: Annotated[
        Path | None, typer.Option("--json", help="Write the whole report to this file.")
    ] = None,
) -> None:
    """Run a drill on real processes; exit 1 if anything was lost, doubled or falsely told."""
    if name not in DRILLS:
        print(f"no drill {name}; there are: {', '.join(DRILLS)}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE)
    # Into a file or a pipe the table goes unfolded.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    # Ended in whichever way, a drill takes down what it put up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = DRILLS[name](say)
    except (ServiceError, NotReached) as error:
        say(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    console.print(report.table())
    for one in report.wrong:
        say(f"wrong: {one}")
    totals = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in report.totals.items())
    say(f"{'ok' if report.ok else 'NOT OK'} after {report.seconds:.0f} s: {totals}")
    if result is not None:
        result.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    raise typer.Exit(0 if report.ok else 1)


if __name__ == "__main__":
    app(prog_name="./dev drill")
