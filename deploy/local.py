# SPDX-License-Identifier: Apache-2.0
"""``python -m deploy.local demo | up | down``: Linli on this machine, as ``./dev`` starts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deploy.demo import SCENARIO, Demo, Options
from deploy.installation import INGEST_PROCESSES_MAX, Installation, environment, running
from deploy.services import ServiceError, rotate, settings_for_machine
from ingest.errors import IngestError
from simulators.errors import ScenarioError
from simulators.scenario import change, find, load

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

UP_TIMEOUT_S = 120.0
# A runner gives its programs and its servers seconds each, and ends by force those that need more.
DOWN_TIMEOUT_S = 30.0
# The tree needs a root before anybody can be given a place in it; import your own areas below it.
ROOT_AREA = "area,parent,level,name,name_en,time_zone,latitude,longitude,households,residents\n" + (
    "city,,city,城市,City,Asia/Shanghai,,,,\n"
)


def data_folder(name: str) -> Path:
    """Where the installation of a verb lives when nothing else was said."""
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(share) / "linli" / name


DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data folder; it lasts, and is one installation.")
]
IngestOption = Annotated[
    int,
    typer.Option(
        "--ingest-processes",
        min=1,
        max=INGEST_PROCESSES_MAX,
        help="1: one for everything; more: so many for telemetry, and one for the rest.",
    ),
]


@app.command()
def demo(
    data: DataOption = None,
    scenario: Annotated[
        str, typer.Option(help="What happens: community_day, night, quick, or a file.")
    ] = SCENARIO,
    communities: Annotated[
        int | None, typer.Option(min=1, max=99, help="How many, if not the scenario's number.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same city, same day.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Run live so long in a new folder, compare with the truth, stop."),
    ] = None,
    result: Annotated[
        Path | None, typer.Option("--json", help="Where to write what the comparison found.")
    ] = None,
    ingest_processes: IngestOption = 1,
) -> None:
    """Run a live community on simulated hardware; Ctrl-C stops everything."""
    begun = time.time()
    if result is not None and seconds is None:
        raise typer.BadParameter("needs --seconds", param_hint="--json")
    try:
        chosen = change(load(find(scenario)), seed=seed, communities=communities)
    except ScenarioError as error:
        raise typer.BadParameter(str(error), param_hint="--scenario") from error
    temporary = None
    if seconds is None:
        folder = data or data_folder(
            "demo" if scenario == SCENARIO else f"demo-{Path(scenario).stem}"
        )
    elif data is None:
        folder = temporary = Path(tempfile.mkdtemp(prefix="linli-demo-"))
    elif data.exists() and any(data.iterdir()):
        raise typer.BadParameter("must be empty with --seconds", param_hint="--data")
    else:
        folder = data
    options = Options(folder.absolute(), chosen, seconds, result, ingest_processes, scenario)
    status = _run_demo(Demo(options, console, begun))
    if temporary is not None:
        if status == 1:
            console.print(f"kept for a closer look: {temporary}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(temporary)
    raise typer.Exit(status)


def _run_demo(one: Demo) -> int:
    signals = _Signals()
    status = 0
    running_live = False
    try:
        one.show(one.start())
        running_live = True
        one.run()
        if not one.finish():
            status = 1
    except KeyboardInterrupt:
        # Leaving is how a demo ends; one cut short before it showed anything has not ended well.
        status = 0 if running_live and one.options.seconds is None else 130
        console.print("\nstopping ...")
    except (ServiceError, IngestError) as exc:
        _complain(exc)
        status = 1
    finally:
        signals.ignore()
        one.stop()
    console.print("stopped")
    return status


@app.command()
def up(data: DataOption = None, ingest_processes: IngestOption = 1) -> None:
    """Start database, broker, ingest and api in the background; returns when all are ready."""
    folder = (data or data_folder("up")).absolute()
    found = running(folder)
    if found is not None:
        console.print("runs already")
        _show(found.content)
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log/runner.log"
    log.parent.mkdir(exist_ok=True)
    rotate(log)
    said_before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out, console.status("starting ..."):
        runner = subprocess.Popen(  # noqa: S603 - ourselves
            [
                *(sys.executable, "-P", "-m", "deploy.local", "serve", "--data", str(folder)),
                *("--ingest-processes", str(ingest_processes)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(),
            start_new_session=True,
        )
        deadline = time.monotonic() + UP_TIMEOUT_S
        while (found := running(folder)) is None:
            if runner.poll() is not None or time.monotonic() > deadline:
                runner.terminate()
                console.print(
                    log.read_text()[said_before:], markup=False, highlight=False, soft_wrap=True
                )
                _complain(ServiceError(f"the services do not run; see {folder / 'log'}"))
                raise typer.Exit(1)
            time.sleep(0.1)
    # What the runner said meanwhile: ports it had to change, accounts it made.
    console.print(
        log.read_text()[said_before:].rstrip(), markup=False, highlight=False, soft_wrap=True
    )
    _show(found.content)


@app.command()
def down(data: DataOption = None) -> None:
    """Stop what `up` started, and nothing else."""
    folder = (data or data_folder("up")).absolute()
    found = running(folder)
    if found is None:
        console.print(f"nothing runs in {folder}", highlight=False, soft_wrap=True)
        return
    os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while found.alive:
        if time.monotonic() > deadline:
            # Its children end with it.
            os.kill(found.pid, signal.SIGKILL)
            _complain(ServiceError(f"it did not stop in {DOWN_TIMEOUT_S:g} s and was killed"))
            raise typer.Exit(1)
        time.sleep(0.05)
    console.print("stopped")


@app.command(hidden=True)
def serve(
    data: Annotated[Path, typer.Option("--data")], ingest_processes: IngestOption = 1
) -> None:
    """Be the runner that `up` leaves in the background."""
    one = Installation(data, _say, memory=settings_for_machine(), ingest_processes=ingest_processes)
    signals = _Signals()
    status = 0
    try:
        one.lock()
        one.start_servers()
        if not one.has_areas():
            areas = data / "areas.csv"
            areas.write_text(ROOT_AREA)
            one.import_registry([areas])
        for account in one.admit([("admin", "admin", "")]):
            _say(f"account {account.username}: its password is in {data / 'accounts.json'}")
        one.start_programs()
        one.announce()
        while True:
            one.watch()
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    except (ServiceError, IngestError) as exc:
        _complain(exc)
        status = 1
    finally:
        signals.ignore()
        one.stop()
    raise typer.Exit(status)


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(exc: Exception) -> None:
    Console(stderr=True).print(f"linli: {exc}", markup=False, highlight=False, soft_wrap=True)


def _show(content: Mapping[str, Any]) -> None:
    table = Table(show_header=False, title="Linli runs", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("console", str(content["api"]["url"]))
    table.add_row("passwords", str(content["accounts"]))
    table.add_row("broker", f"{content['broker']['host']}:{content['broker']['port']} (TLS)")
    table.add_row("for programs", str(Path(content["data"]) / "run.json"))
    table.add_row("to stop", "./dev down")
    console.print(table)


class _Signals:
    """Every polite way to end a process interrupts what is being done, once stopping none does."""

    _POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        for number in self._POLITE:
            signal.signal(number, self._interrupt)

    def ignore(self) -> None:
        """A second Ctrl-C must not leave anything running."""
        for number in self._POLITE:
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        # Ignored from the first one on: two in a row must not interrupt the handling of one.
        self.ignore()
        raise KeyboardInterrupt(number)


if __name__ == "__main__":
    app()
