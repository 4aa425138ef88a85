# SPDX-License-Identifier: Apache-2.0
"""A small city of real processes: agents, broker, ingest, database; to be broken and healed."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from deploy.checker import streams
from deploy.faults.ground import WITNESS, Access, NotReached, until
from deploy.installation import environment, module
from deploy.services import HOST, Process, free_port
from deploy.verify import ORDINARY, Terms, Verdict, compare
from ingest.registry import import_files
from simulators import registry

SEED = 7
READY_TIMEOUT_S = 60.0
FINISH_TIMEOUT_S = 90.0
LISTEN_S = 20.0
CONNECT_TIMEOUT_S = 20

SERVICES = ("ingest-telemetry-00", "ingest-event-00", "api-live-00", WITNESS)

# All that gateways told of devices; dead letters and gaps are none of it.
_TABLES = (
    "reading_lamp", "reading_bin", "reading_gate", "reading_alarm",
    "event_bin", "event_gate", "event_alarm",
)  # fmt: skip
_COUNTS = (f"(SELECT count(*) FROM {table})" for table in _TABLES)  # noqa: S608 - names from above
_STORED = f"SELECT {' + '.join(_COUNTS)}"


@dataclass(slots=True)
class City:
    """One installation without its runner: each process is started and ended by the run.

    Attributes:
        dsn: Of the database, as the run itself reaches it.
        broker: Where everybody meets.
        hosts: Where it is found: several of a cluster, tried in turn.
        communities: How many are registered.
        simulated: How many of them the simulators play; the others are for boxes.
        folder: Everything of the run lies here.
        edge_port: Where gateways find the broker, if not at its own port.
        ingest_port: Where ingest does.
        ingest_dsn: Where ingest finds the database, if not at ``dsn``.
        ingest_settings: Added to ingest's environment.
    """

    dsn: str
    broker: Access
    folder: Path
    hosts: Sequence[str] = (HOST,)
    communities: int = 1
    simulated: int = 1
    history_hours: float = 6.0
    seed: int = SEED
    rules: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    metrics_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    edge_port: int | None = None
    ingest_port: int | None = None
    ingest_dsn: str | None = None
    ingest_settings: Mapping[str, str] = field(default_factory=dict[str, str])
    ingest: Process | None = None
    simulators: Process | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    gateways: list[str] = field(default_factory=list[str])
    _told_before: int = 0
    _others: list[Process] = field(default_factory=list[Process])
    _stopped_at: datetime | None = None

    def found(self) -> None:
        """Register the communities, with a certificate for each gateway."""
        self.since = datetime.now(UTC) - timedelta(hours=self.history_hours)
        city = registry.build(self.seed, self.communities, self.since)
        files = registry.write(city, self.folder / "registry")
        with psycopg.connect(self.dsn) as conn:
            import_files(conn, list(files))
        with (self.folder / "registry" / "gateways.csv").open(encoding="utf-8-sig") as file:
            self.gateways = [row["gateway"] for row in csv.DictReader(file)]
        for identity in (*self.gateways, *SERVICES):
            self.broker.identity(identity)
        self.write_config()

    def write_config(self) -> None:
        """Write the services' configuration, as the ports and the DSN are now."""
        rules = "".join(
            f"[ingest.rules.{json.dumps(rule)}]\n"
            + "".join(f"{name} = {json.dumps(value)}\n" for name, value in parameters.items())
            for rule, parameters in self.rules.items()
        )
        self.config.write_text(
            f"""
[database]
dsn = {json.dumps(self.ingest_dsn or self.dsn)}
[broker]
host = {json.dumps(self.hosts[0])}
hosts = {json.dumps(self.hosts[1:])}
port = {self.ingest_port or self.broker.port}
ca = {json.dumps(str(self.broker.ca))}
[ingest]
certificates = {json.dumps(str(self.broker.services))}
metrics_port = {self.metrics_port}
[api]
host = "{HOST}"
port = {self.api_port}
certificates = {json.dumps(str(self.broker.services))}
public_url = "{self.url}"
simulated = true
{rules}
"""
        )

    @property
    def config(self) -> Path:
        """The services' configuration."""
        return self.folder / "linli.toml"

    @property
    def url(self) -> str:
        """Where the api would be."""
        return f"http://{HOST}:{self.api_port}"

    @property
    def data(self) -> Path:
        """The folder of the agents' outboxes and of the ledger."""
        return self.folder / "sim"

    @property
    def truth(self) -> Path:
        """The ledger."""
        return self.data / "truth.sqlite"

    def log(self, name: str) -> str:
        """What a process said so far."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def names(self, kind: str, gateway: str) -> list[str]:
        """The devices of one class behind a gateway."""
        with (self.folder / "registry" / "devices.csv").open(encoding="utf-8-sig") as file:
            return [
                row["device"]
                for row in csv.DictReader(file)
                if row["kind"] == kind and row["gateway"] == gateway
            ]

    # -- processes ---------------------------------------------------------------------------

    def start_ingest(self, failpoint: str = "", *, wait: bool = True) -> Process:
        """Start ingest and wait until it hears."""
        self.ingest = Process(
            "ingest",
            module("ingest", "run", "--config", str(self.config)),
            log=self.folder / "ingest.log",
            environment=_with(LINLI_FAILPOINT=failpoint, **self.ingest_settings),
        )
        if wait:
            self.await_ingest()
        return self.ingest

    def await_ingest(self) -> None:
        """Wait until ingest says that it is ready."""
        until(self.ingest_is_ready, "ingest is ready", timeout_s=READY_TIMEOUT_S)

    def start_second_ingest(self) -> Process:
        """Start another process for the same lanes, and do not wait."""
        second = Process(
            "second ingest",
            module("ingest", "run", "--config", str(self.config)),
            log=self.folder / "ingest-2.log",
            environment=_with(LINLI_INGEST__METRICS_PORT=str(free_port())),
        )
        self._others.append(second)
        return second

    def ingest_is_ready(self) -> bool:
        """What ingest says of itself."""
        assert self.ingest is not None
        if not self.ingest.running:
            raise NotReached(f"ingest ended:\n{self.ingest.tail()}")
        try:
            return httpx2.get(
                f"http://{HOST}:{self.metrics_port}/readyz", timeout=LISTEN_S
            ).is_success
        except httpx2.TransportError:
            return False

    def metric(self, name: str, *labels: str) -> float:
        """One number from ingest's metrics page; several series with the name are added up."""
        text = httpx2.get(f"http://{HOST}:{self.metrics_port}/metrics", timeout=LISTEN_S).text
        total = 0.0
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(label in head for label in labels):
                total += float(value)
        return total

    def start_simulators(
        self,
        scenario: str = "quick",
        *,
        seconds: float | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Process:
        """Start real agents over virtual hardware; what they tell goes to ``told.jsonl``."""
        arguments = [
            "run",
            scenario,
            *(argument for host in self.hosts for argument in ("--broker-host", host)),
            *("--broker-port", str(self.edge_port or self.broker.port)),
            *("--ca", str(self.broker.ca), "--certificates", str(self.broker.services)),
            *("--data", str(self.data), "--seed", str(self.seed)),
            *("--communities", str(self.simulated)),
            *("--history-hours", str(self.history_hours)),
            *("--registry", str(self.folder / "registry")),
            *(() if seconds is None else ("--seconds", str(seconds))),
        ]
        self._told_before = len(self._told_ever())
        with (self.folder / "told.jsonl").open("ab") as told:
            self.simulators = Process(
                "simulators",
                module("simulators", *arguments),
                log=self.folder / "simulators.log",
                environment=_with(**(settings or {})),
                stdout=told,
            )
        return self.simulators

    def start(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program of the run's own; it ends with the run."""
        process = Process(
            name,
            command,
            log=self.folder / f"{name}.log",
            environment=_with(**(settings or {})),
        )
        self._others.append(process)
        return process

    def start_box(
        self,
        gateway: str,
        name: str,
        *,
        data: Path | None = None,
        limit_bytes: int = 64 << 20,
        poll_interval_s: float = 0.1,
        keepalive_s: int = 15,
        kinds: Sequence[str] = ("lamp", "bin", "gate", "alarm"),
        settings: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a real agent over busy devices, for a gateway that is not simulated."""
        folder = data or self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / f"{name}.toml"
        identity = self.broker.identity(gateway)
        quoted = json.dumps  # a JSON string is a TOML basic string
        devices = "".join(
            f"""
[[devices]]
device = "{device}"
kind = "{kind}"
driver = "deploy.faults.box:make"
options = {{ kind = "{kind}" }}
"""
            for kind in kinds
            for device in self.names(kind, gateway)
        )
        config.write_text(
            f"""
gateway = "{gateway}"
community = "{gateway.split("-")[1]}"
data = {quoted(str(folder))}
[broker]
host = {quoted(self.hosts[0])}
hosts = {quoted(self.hosts[1:])}
port = {self.edge_port or self.broker.port}
ca = {quoted(str(identity.ca))}
certificate = {quoted(str(identity.certificate))}
key = {quoted(str(identity.key))}
keepalive_s = {keepalive_s}
reconnect_delay_min_s = 0.2
reconnect_delay_max_s = 2.0
[sampling]
poll_interval_s = {poll_interval_s}
status_interval_s = 5
[outbox]
limit_bytes = {limit_bytes}
[pseudonym]
key_file = {quoted(str(self.folder / "pseudonym.key"))}
{devices}"""
        )
        command = module("deploy.faults.box", "--config", str(config), "--truth", str(self.truth))
        return self.start(name, command, settings)

    def check(self) -> None:
        """Look whether everything lives that nobody ended.

        Raises:
            NotReached: Something ended by an error of its own.
        """
        started = [] if self.simulators is None else [self.simulators]
        for process in (*started, *self._others):
            if (process.popen.poll() or 0) > 0:
                raise NotReached(f"{process.name} ended:\n{process.tail()}")

    def told(self) -> list[dict[str, Any]]:
        """What the simulators have told since they were started last."""
        return self._told_ever()[self._told_before :]

    def _told_ever(self) -> list[dict[str, Any]]:
        file = self.folder / "told.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def await_phase(self, *phases: str) -> None:
        """Wait until the simulators tell one of these phases."""

        def reached() -> bool:
            assert self.simulators is not None
            running = self.simulators.running
            found = any(line.get("phase") in phases for line in self.told())
            if not running and not found:
                raise NotReached(f"simulators ended:\n{self.simulators.tail()}")
            return found

        until(reached, f"simulators tell {' or '.join(phases)}", timeout_s=FINISH_TIMEOUT_S)

    # -- what is stored ----------------------------------------------------------------------

    def count(self, query: str) -> int:
        """One number from the database, seen as anybody else sees it."""
        with psycopg.connect(self.dsn, connect_timeout=CONNECT_TIMEOUT_S) as conn:
            row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def column(self, query: str) -> list[float]:
        """One column of numbers from the database."""
        with psycopg.connect(self.dsn, connect_timeout=CONNECT_TIMEOUT_S) as conn:
            return [value for (value,) in conn.execute(query.encode())]

    def texts(self, query: str) -> list[str]:
        """One column of texts from the database."""
        with psycopg.connect(self.dsn, connect_timeout=CONNECT_TIMEOUT_S) as conn:
            return [value for (value,) in conn.execute(query.encode())]

    def stored(self) -> int:
        """How many readings and events the database holds."""
        return self.count(_STORED)

    def accepted(self, lane: str | None = None) -> int:
        """How many readings and events the ledger holds, of one lane or of both."""
        if not self.truth.exists():
            return 0
        with closing(sqlite3.connect(f"file:{self.truth}?mode=ro", uri=True)) as ledger:
            return ledger.execute(
                "SELECT count(*) FROM accepted WHERE kind <> 'gap' AND lane = coalesce(?, lane)",
                (lane,),
            ).fetchone()[0]

    def gaps_told(self) -> int:
        """How many evictions agents have written down."""
        if not self.truth.exists():
            return 0
        with closing(sqlite3.connect(f"file:{self.truth}?mode=ro", uri=True)) as ledger:
            return ledger.execute("SELECT count(*) FROM gap").fetchone()[0]

    def recorded(self, gateway: str | None = None) -> dict[str, int]:
        """For each stream the last message in the ledger, of one gateway or of all."""
        if not self.truth.exists():
            return {}
        with closing(sqlite3.connect(f"file:{self.truth}?mode=ro", uri=True)) as ledger:
            return dict(
                ledger.execute(
                    "SELECT stream, max(seq) FROM accepted WHERE gateway = coalesce(?, gateway)"
                    " GROUP BY stream",
                    (gateway,),
                )
            )

    def unsettled(self, gateway: str | None = None) -> int:
        """How many messages are accepted and not covered by their stream's watermark."""
        recorded = self.recorded(gateway)
        with psycopg.connect(self.dsn, connect_timeout=CONNECT_TIMEOUT_S) as conn:
            books = streams.seen(conn)
        upto = {stream: streams.watermark(ranges) for (_, stream), ranges in books.items()}
        return sum(max(0, seq - upto.get(stream, 0)) for stream, seq in recorded.items())

    def covers(self, due: Mapping[str, int]) -> bool:
        """Whether watermarks have reached these seqs of these streams."""
        with psycopg.connect(self.dsn, connect_timeout=CONNECT_TIMEOUT_S) as conn:
            books = streams.seen(conn)
        upto = {stream: streams.watermark(ranges) for (_, stream), ranges in books.items()}
        return all(upto.get(stream, 0) >= seq for stream, seq in due.items())

    # -- the end -----------------------------------------------------------------------------

    def stop_simulators(self) -> None:
        """Let the simulators drain and settle.

        Raises:
            NotReached: They did not; what they accepted is not all known as stored.
        """
        assert self.simulators is not None
        # Before they tell anything they could not yet stop in good order.
        self.await_phase("history", "live")
        self._stopped_at = datetime.now(UTC)
        self.simulators.ask_to_stop()
        self.await_phase("stopped")
        status = self.simulators.popen.wait(READY_TIMEOUT_S)
        stopped = self.told()[-1]
        if status != 0 or not stopped["drained"]:
            raise NotReached(f"not drained: {stopped}, status {status}\n{self.simulators.tail()}")

    def compare(self, terms: Terms = ORDINARY) -> Verdict:
        """Compare everything with the truth."""
        return compare(self.truth, self.dsn, replace(terms, stopped_at=self._stopped_at))

    def finish(self, terms: Terms = ORDINARY) -> Verdict:
        """Let the simulators drain and settle, then compare everything with the truth."""
        self.stop_simulators()
        return self.compare(terms)

    def close(self) -> None:
        """End what still runs."""
        for process in (self.simulators, self.ingest, *self._others):
            if process is not None:
                process.kill()


def _with(**settings: str) -> Mapping[str, str]:
    return {**environment(), **{name: value for name, value in settings.items() if value}}
