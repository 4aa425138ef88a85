# SPDX-License-Identifier: Apache-2.0
"""The demo: an installation whose hardware is simulated, and, unattended, what it proves."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from os import environ
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx2
import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from deploy.installation import Account, Installation, Role, environment, module
from deploy.services import HOST, Process, ServiceError, rotate, write_private
from deploy.verify import compare, contains, outages, percentile
from ingest.kinds import DEFAULT_RULES
from simulators.scenario import Scenario

SCENARIO = "community_day"
# For how long everything is in service when a new demo begins.
HISTORY = timedelta(hours=24)
# A drained outbox needs its acknowledgements; a demo that is only left need not wait for them.
DRAIN_TIMEOUT_S = 60.0
LEAVE_TIMEOUT_S = 3.0
SETTLE_TIMEOUT_S = 30.0
STALLED_S = 120.0
SHOWN_DIFFERENCES = 20

# What is raised by the very reading or event that shows it, without waiting for a delay.
PROMPT_RULES = frozenset(
    rule.id
    for rule in DEFAULT_RULES
    if not rule.on_delay_s and rule.id != "gateway.silent" and rule.kind != "community"
)


@dataclass(frozen=True, slots=True)
class Options:
    """What `demo` was asked for."""

    data: Path
    scenario: Scenario
    seconds: float | None = None  # of live operation, then stop by itself; None: until Ctrl-C
    result: Path | None = None
    ingest_processes: int = 1
    file: str = SCENARIO  # as the simulators are told which scenario it is


# -- the live stream, as a console sees it ------------------------------------------------------


class Prompt(NamedTuple):
    """An alert that nothing held up by intention: whose, when raised, when it arrived (wall)."""

    gateway: str
    raised: float
    arrived: float


@dataclass(slots=True)
class Listener:
    """Reads the api's live stream in a thread of its own and notes when what arrived."""

    url: str
    token: str
    live_from: float | None = None  # wall time; what is older is history
    first_reading: float | None = None  # wall time of its arrival
    prompt: dict[str, Prompt] = field(default_factory=dict[str, "Prompt"])  # by alert
    problem: str = ""
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; the thread ends with the next line or time-out."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _listen(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        timeout = httpx2.Timeout(5.0, read=20.0)  # the api says something every 15 s
        while not self._stopping.is_set():
            try:
                with (
                    httpx2.Client(headers=headers, timeout=timeout) as client,
                    client.stream("GET", f"{self.url}/api/v1/stream") as answer,
                ):
                    answer.raise_for_status()
                    for event, data in events(answer.iter_lines()):
                        if self._stopping.is_set():
                            return
                        if event == "delta":
                            self._delta(data, time.time())
            except httpx2.HTTPError as exc:
                self.problem = f"live stream: {exc}"
                self._stopping.wait(0.5)

    def _delta(self, data: str, arrived: float) -> None:
        if self.live_from is None:
            return
        delta: dict[str, Any] = json.loads(data)
        for device in delta.get("devices", ()):
            if self.first_reading is None and _wall(device["at"]) >= self.live_from:
                self.first_reading = arrived
        for alert in delta.get("alerts", ()):
            raised = _wall(alert["raised_at"])
            if raised < self.live_from or alert["late"] or alert["rule"] not in PROMPT_RULES:
                continue
            self.prompt.setdefault(alert["id"], Prompt(alert["gateway"], raised, arrived))


def events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each server-sent event."""
    name, data = "message", list[str]()
    for line in lines:
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
        elif key == "event":
            name = value
        elif key == "data":
            data.append(value)


def _wall(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# -- the simulated hardware ---------------------------------------------------------------------


class Simulation:
    """The simulator's process and what it says about itself."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        """Start it; from the runner's main thread."""
        rotate(log)
        self.process = Process(
            "simulators",
            # Without a runner there is soon nobody left to drain to.
            module("simulators", "run", *arguments, death_signal="KILL"),
            log=log,
            environment=environment(),
            stdout=subprocess.PIPE,
        )
        self.said: queue.Queue[Mapping[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, name="simulation", daemon=True).start()

    def _read(self) -> None:
        out = self.process.popen.stdout
        assert out is not None
        for line in out:
            self.said.put(cast("Mapping[str, Any]", json.loads(line)))

    def next(self, timeout_s: float) -> Mapping[str, Any] | None:
        """What it says next, None if nothing in time."""
        try:
            return self.said.get(timeout=timeout_s)
        except queue.Empty:
            return None


# -- the demo -----------------------------------------------------------------------------------


class Demo:
    """Runs everything from the first server to the last comparison."""

    def __init__(self, options: Options, console: Console, begun: float) -> None:
        """Prepare.

        Args:
            options: What was asked for.
            console: Where to talk to a person.
            begun: Wall time at which the command was started; `first_live_reading_s` counts
                from here.
        """
        self.options = options
        self.console = console
        self.begun = begun
        self.installation = Installation(
            options.data, self.say, simulated=True, ingest_processes=options.ingest_processes
        )
        self.simulation: Simulation | None = None
        self.listener: Listener | None = None

    def say(self, text: str) -> None:
        """Tell the person in front."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self) -> list[Account]:
        """Bring everything up to the first live reading.

        Returns:
            The accounts made now.

        Raises:
            ServiceError: Something does not come up.
        """
        one = self.installation
        one.lock()
        since = self._same_city()
        with self._step("database and broker"):
            one.start_servers()
        with self._step("registry, certificates, accounts"):
            self._register(since)
            made = one.admit(self._people())
        with self._step("ingest and api"):
            one.start_programs()
        one.announce()
        self.listener = Listener(one.url, one.admin_token)
        self.listener.start()
        self.simulation = self._simulate()
        self._history(self.simulation)
        return made

    def run(self) -> None:
        """Keep it alive until interrupted, or until the asked seconds are over.

        Raises:
            ServiceError: The simulators ended by themselves.
        """
        assert self.simulation is not None
        assert self.listener is not None
        told = False
        until = None if self.options.seconds is None else time.monotonic() + self.options.seconds
        while until is None or time.monotonic() < until:
            self.installation.watch()
            if not self.simulation.process.running:
                raise ServiceError(f"the simulators ended:\n{self.simulation.process.tail()}")
            said = self.simulation.next(0.2)
            if said is not None and said["phase"] == "timetable":
                self.say(f"{said['second']:5g} s  {said['line']}")
            if self.listener.first_reading is not None and not told:
                told = True
                after = self.listener.first_reading - self.begun
                self.say(f"first live reading {after:.1f} s after the start")

    def finish(self) -> bool:
        """Let the simulators finish, compare, write the result; true where all is well.

        Raises:
            ServiceError: The simulators do not finish, or the platform does not settle.
        """
        assert self.simulation is not None
        assert self.listener is not None
        with self._step("simulators finish and drain"):
            status = self.simulation.process.stop(DRAIN_TIMEOUT_S)
            if status != 0:
                raise ServiceError(
                    f"the simulators ended with status {status}:\n{self.simulation.process.tail()}"
                )
        with self._step("platform settles"):
            self._settle()
        self.listener.stop()
        # From here on nothing changes: no silence is noticed that only the end has caused.
        self.installation.stop_programs()
        truth = self.data / "sim/truth.sqlite"
        with self._step("comparison with the truth"):
            verdict = compare(truth, self.installation.dsn)
        # What was measured behind a link that was cut on purpose tells of the cut, not of us.
        cut = outages(truth)
        latencies = [
            1000 * (one.arrived - one.raised)
            for one in self.listener.prompt.values()
            if not contains(cut.get(one.gateway, ()), round(one.raised * 1e6))
        ]
        first = self.listener.first_reading
        ok = verdict.ok and first is not None
        result = {
            **verdict.figures(),
            "alert_latency_ms": {
                "n": len(latencies),
                "p50": _rounded(percentile(latencies, 0.50)),
                "p99": _rounded(percentile(latencies, 0.99)),
            },
            "first_live_reading_s": None if first is None else _rounded(first - self.begun),
            "ok": ok,
        }
        if self.options.result is not None:
            self.options.result.write_text(json.dumps(result, indent=2) + "\n")
        self.console.print_json(json.dumps(result))
        for difference in verdict.differences[:SHOWN_DIFFERENCES]:
            self.say(f"differs: {difference}")
        if len(verdict.differences) > SHOWN_DIFFERENCES:
            self.say(f"... and {len(verdict.differences) - SHOWN_DIFFERENCES} more")
        if first is None:
            self.say(f"no live reading arrived at the api's stream {self.listener.problem}")
        return ok

    def stop(self) -> None:
        """Stop every process, within seconds; accepted readings wait in the outboxes."""
        if self.listener is not None:
            self.listener.stop()
        if self.simulation is not None:
            self.simulation.process.stop(LEAVE_TIMEOUT_S)
        self.installation.stop()

    def show(self, made: Sequence[Account]) -> None:
        """Print where everything is; passwords only of accounts made now."""
        one = self.installation
        table = Table(show_header=False, title="Linli runs", title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        table.add_row("console", one.url)
        for account in made:
            where = f"{account.role}, {account.area}"
            table.add_row(f"account ({where})", f"{account.username}  {account.password}")
        table.add_row("passwords kept in", str(self.data / "accounts.json"))
        table.add_row("broker", f"{HOST}:{one.ports.broker} (TLS, client certificates)")
        table.add_row("database", f"{HOST}:{one.ports.database} (see run.json)")
        table.add_row("for programs", str(self.data / "run.json"))
        table.add_row("logs", str(self.data / "log"))
        stops = "by itself" if self.options.seconds is not None else "Ctrl-C"
        table.add_row("to stop", stops)
        self.console.print(table)
        seen = "DISPLAY" in environ or "WAYLAND_DISPLAY" in environ
        if seen and self.options.seconds is None:
            webbrowser.open(one.url)

    # -- details ---------------------------------------------------------------------------

    @property
    def data(self) -> Path:
        """The installation's folder; ``sim`` in it is the simulators'."""
        return self.options.data

    def _step(self, what: str) -> _Step:
        return _Step(self.console, what)

    def _same_city(self) -> datetime:
        """Return since when the city is in service.

        Raises:
            ServiceError: The folder holds another city; each needs a folder of its own.
        """
        path = self.data / "demo.json"
        scenario = self.options.scenario
        wanted: dict[str, object] = {
            "scenario": self.options.file,
            "communities": scenario.communities,
            "seed": scenario.seed,
        }
        if not path.exists():
            since = datetime.fromtimestamp(self.begun, UTC) - HISTORY
            write_private(path, {**wanted, "in_service_from": since.isoformat()})
        found = {"scenario": SCENARIO, **json.loads(path.read_text())}
        since = datetime.fromisoformat(found.pop("in_service_from"))
        if found != wanted:
            raise ServiceError(
                f"{self.data} holds a demo of {found['communities']} communities with seed "
                f"{found['seed']}, scenario {found['scenario']}: remove that folder, or choose "
                "another with --data"
            )
        return since

    def _register(self, since: datetime) -> None:
        command = [sys.executable, "-P", "-m", "simulators", "registry", *self._city()]
        command += ["--scenario", self.options.file]
        command += ["--in-service-from", since.isoformat(), "--out", str(self._registry)]
        done = subprocess.run(  # noqa: S603 - our own program
            command, env=environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ServiceError(f"no registry of the simulated city:\n{done.stderr}")
        self.installation.import_registry([self._registry / name for name in _REGISTRY_FILES])
        with psycopg.connect(self.installation.dsn) as conn:
            for (gateway,) in conn.execute("SELECT gateway FROM gateway").fetchall():
                self.installation.identify(gateway, self._certificates)

    def _people(self) -> list[tuple[str, Role, str]]:
        with psycopg.connect(self.installation.dsn) as conn:
            row = conn.execute(
                "SELECT area FROM area WHERE level = 'community' ORDER BY area LIMIT 1"
            ).fetchone()
        assert row is not None
        return [("admin", "admin", ""), ("property", "property", row[0]), ("police", "police", "")]

    def _city(self) -> list[str]:
        scenario = self.options.scenario
        return ["--communities", str(scenario.communities), "--seed", str(scenario.seed)]

    def _simulate(self) -> Simulation:
        one = self.installation
        arguments = [self.options.file, *self._city(), "--registry", str(self._registry)]
        arguments += ["--broker-host", HOST, "--broker-port", str(one.ports.broker)]
        arguments += ["--ca", str(one.pki / "ca.crt"), "--certificates", str(self._certificates)]
        arguments += ["--data", str(self.data / "sim")]
        return Simulation(arguments, self.data / "log/simulators.log")

    @property
    def _registry(self) -> Path:
        return self.data / "sim/registry"

    @property
    def _certificates(self) -> Path:
        return self.data / "pki/gateways"

    def _history(self, simulation: Simulation) -> None:
        """Follow the replay of what is missing of the last day, until live operation begins."""
        assert self.listener is not None
        quiet_since = time.monotonic()
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        ) as progress:
            task = progress.add_task("replaying the last day", total=None)
            tenths = -1
            while True:
                self.installation.watch()
                said = simulation.next(0.2)
                if said is None:
                    if not simulation.process.running:
                        raise ServiceError(f"the simulators ended:\n{simulation.process.tail()}")
                    if time.monotonic() - quiet_since > STALLED_S:
                        raise ServiceError(
                            f"the simulators said nothing for {STALLED_S:g} s; "
                            f"see {self.data / 'log'}"
                        )
                    continue
                quiet_since = time.monotonic()
                if said["phase"] == "history":
                    done, total = said["done"], said["total"]
                    progress.update(task, completed=done, total=total)
                    # A log shows no bar: a line for each tenth.
                    if not self.console.is_terminal and total and 10 * done // total > tenths:
                        tenths = 10 * done // total
                        self.say(f"replaying the last day: {10 * tenths} %")
                elif said["phase"] == "live":
                    self.listener.live_from = _wall(said["at"])
                    break

    def _settle(self) -> None:
        """Wait until ingest has recomputed every night that late readings touched."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        with psycopg.connect(self.installation.dsn, autocommit=True) as conn:
            while conn.execute("SELECT 1 FROM lamp_night WHERE dirty LIMIT 1").fetchone():
                if time.monotonic() > deadline:
                    raise ServiceError("lamp-nights are still to be recomputed; see log/ingest.log")
                self.installation.watch()
                time.sleep(0.1)


_REGISTRY_FILES = ("areas.csv", "gateways.csv", "devices.csv", "population.csv")


@dataclass(slots=True)
class _Step:
    """Says what is being done, and how long it took."""

    console: Console
    what: str
    begun: float = 0.0
    status: Any = None

    def __enter__(self) -> None:
        self.begun = time.monotonic()
        self.status = self.console.status(f"{self.what} ...")
        self.status.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.status.stop()
        if kind is None:
            took = time.monotonic() - self.begun
            self.console.print(f"[green]ok[/] {self.what} [dim]{took:.1f} s[/]")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
