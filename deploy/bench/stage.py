# SPDX-License-Identifier: Apache-2.0
"""A whole city on this machine: servers, services, viewers and the load, all on the same two cores.

Everything is started here and by the code that the demo and the fault runs use, so what is measured
is what runs.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import secrets
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx2
import psycopg
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from api import people
from deploy.bench import viewers as viewing
from deploy.bench.town import Town, register
from deploy.faults.ground import OWNER, PASSWORD, Broker, authority_for, broker, until
from deploy.installation import environment, ingest_programs, module
from deploy.services import HOST, Postgres, Process, Userland, free_port, settings_for_machine
from ingest.migrate import migrate
from ingest.pki import service_identities
from simulators.orders import Order, Plan

DATABASE: Final = "linli_bench"
#: Hears what follows, and consumes for the baselines; known to brokers of measurements only.
LISTENER: Final = "bench-00"
#: Says on the live topic what ingest would say.
TELLER: Final = "bench-01"
#: Of telemetry, where a city's is shared; events and keepers have one more.
INGEST_PROCESSES: Final = 2
_ACL: Final = f"""
user {TELLER}
topic write linli/v1/live/#
user {LISTENER}
topic read linli/v1/live/#
topic read linli/v1/+/+/up/telemetry
topic readwrite linli/v1/probe/{LISTENER}
"""
SERVICES: Final = (*service_identities(INGEST_PROCESSES), LISTENER, TELLER)
VIEWERS: Final = 20
_VIEWERS_A_TOKEN: Final = 10
_FILES: Final = 20_000
_READY_S: Final = 300.0
#: What a city's ingest is told beside the defaults: the window law of a city's rate.
CITY: Final[Mapping[str, str]] = {
    "LINLI_INGEST__TELEMETRY__RECEIVE_MAXIMUM": "2000",
    "LINLI_INGEST__QUEUE_BYTES": "300000000",
    "LINLI_INGEST__TELEMETRY__LINGER_MS": "250",
    # The levers of docs/scaling.md.
    "LINLI_INGEST__STATE_INTERVAL_S": "300",
    "LINLI_INGEST__READING_INDEX": "after-close",
}


def pin(cores: int = 2) -> list[int]:
    """Bind this process and all that it starts to ``cores`` cores; return which."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, chosen)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return chosen


@dataclass(slots=True)
class Loading:
    """The load in its own process: ordered by lines, heard by lines.

    It is heard all the time: what it tells in five minutes fills a pipe, and then it would stand.
    """

    process: subprocess.Popen[str]
    told: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _heard: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue[str])
    _ear: threading.Thread | None = None

    @staticmethod
    def start(plan: Plan, folder: Path) -> Loading:
        """Start it; `ready` waits until everybody is connected."""
        file = folder / f"plan-{plan.name}.json"
        file.write_text(json.dumps(asdict(plan)))
        loading = Loading(
            subprocess.Popen(  # noqa: S603 - our own module
                module("simulators.load", str(file)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
        )
        loading._ear = threading.Thread(target=loading._hear, name="load", daemon=True)
        loading._ear.start()
        return loading

    def ready(self) -> None:
        """Wait until it is connected."""
        self._next("ready")

    def run(self, order: Order) -> dict[str, Any]:
        """Run one phase; what it told meanwhile is in ``told``."""
        self.begin(order)
        return self.end()

    def begin(self, order: Order) -> None:
        """Begin a phase and do not wait."""
        self.told.clear()
        self._say(asdict(order))

    def end(self) -> dict[str, Any]:
        """Wait for the end of the phase."""
        return self._next("done")["result"]

    def drain(self, seconds: float) -> bool:
        """Wait until all that was due is known as stored; return whether it came to that."""
        self._say({"name": "drain", "seconds": seconds})
        return self._next("done")["drained"]

    def replay(self, count: int) -> dict[str, Any]:
        """Have messages of the last phase sent again; return how many, and from when on."""
        self._say({"name": "replay", "count": count})
        return self._next("done")["result"]

    def ledger(self) -> dict[str, list[int]]:
        """Return by gateway: last seq, readings made, seq known as stored, last event seq."""
        self._say({"name": "ledger"})
        return self._next("done")["ledger"]

    def stop(self) -> None:
        """End it."""
        with self.process:  # closes what it was told and heard by
            self.process.kill()
            if self._ear is not None:
                self._ear.join()  # it reads to the end before what it reads is closed

    def _say(self, line: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self._heard.put(text)
        self._heard.put("")

    def _next(self, key: str) -> dict[str, Any]:
        while text := self._heard.get():
            line: dict[str, Any] = json.loads(text)
            if "error" in line:
                raise RuntimeError(f"the load ended: {line['error']}")
            if key in line:
                return line
            self.told.append(line)
        self._heard.put("")  # whoever asks again is told the same
        raise RuntimeError("the load ended without a word")


@dataclass(slots=True)
class Stage:
    """What runs, and how it is reached."""

    folder: Path
    town: Town
    server: Postgres
    broker: Broker
    bare: Broker  # for baselines: nobody of Linli's listens there
    dsn: str
    settings: Mapping[str, str]
    ingest_processes: int = 1
    metrics_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    processes: dict[str, Process] = field(default_factory=dict[str, Process])
    _metrics_ports: dict[str, int] = field(default_factory=dict[str, int])
    _stack: ExitStack = field(default_factory=ExitStack)

    def plan(self, name: str, broker: Broker | None = None) -> Plan:
        """What the load is told."""
        where = broker or self.broker
        return Plan(
            HOST,
            where.port,
            str(where.ca),
            str(where.services),
            # Elsewhere a baseline consumes under this name.
            LISTENER if where is self.broker else "",
            self.town.communities,
            self.town.devices,
            name,
            period_s=self.town.period_s,
            status_s=self.town.status_s,
            full_bins=self.town.communities,
        )

    def generator(self, name: str, broker: Broker | None = None) -> Loading:
        """Start a load."""
        made = Loading.start(self.plan(name, broker), self.folder)
        self._stack.callback(made.stop)
        made.ready()
        return made

    def start_services(self) -> None:
        """Start ingest and api, and wait for both."""
        self.start_api()
        self.start_ingest()
        self.await_api()

    def start_api(self) -> None:
        """Start the api and do not wait."""
        config = self._write_config()
        self.processes["api"] = self.program("api", module("api", "serve", "--config", str(config)))

    def await_api(self) -> None:
        """Wait until the api answers."""
        self._await("api", self.api_port)

    def watch(self, viewers: int) -> None:
        """Have so many people watch, a few the whole city, most of them a community each."""
        wanted = [
            (token, f"/api/v1/stream?area={area}")
            for token, area in zip(
                self.tokens(viewers, "viewers"), self.town.watched(viewers), strict=True
            )
        ]
        self.processes["viewers"] = self.program(
            "viewers",
            module("deploy.bench.viewers", f"{HOST}:{self.api_port}"),
            {viewing.VARIABLE: json.dumps(wanted)},
        )

    def tokens(self, viewers: int, name: str) -> list[str]:
        """Return a token for each viewer; some share one, as one person has some windows open."""
        made = [secrets.token_urlsafe(32) for _ in range(0, viewers, _VIEWERS_A_TOKEN)]
        with psycopg.connect(self.dsn) as conn:
            for number, token in enumerate(made):
                conn.execute(
                    "INSERT INTO service_token (token_sha256, name, role, area)"
                    " VALUES (%s, %s, 'admin', 'city')",
                    (people.digest(token), f"{name}-{number}"),
                )
        return [made[number // _VIEWERS_A_TOKEN] for number in range(viewers)]

    @property
    def ingest(self) -> dict[str, Process]:
        """Those of the processes that are ingest's."""
        return {name: one for name, one in self.processes.items() if name.startswith("ingest")}

    @property
    def telemetry(self) -> dict[str, Process]:
        """Those of ingest that hear telemetry and nothing else; none where one process does all."""
        return {name: one for name, one in self.ingest.items() if "telemetry" in name}

    def start_ingest(self) -> None:
        """Start what of ingest does not run, in as many processes as it has; wait for all."""
        running = {name for name, one in self.ingest.items() if one.running}
        programs = ingest_programs(self.ingest_processes, self.metrics_port)
        ports: dict[str, int] = {}
        for name, port, options in programs:
            if name in running:
                ports[name] = self._metrics_ports[name]
                continue
            ports[name] = port
            command = module("ingest", "run", "--config", str(self.folder / "linli.toml"), *options)
            self.processes[name] = self.program(name, command, self.settings)
        self._metrics_ports = ports
        for name, port in ports.items():
            self._await(name, port)

    def end_ingest(self, *, killed: bool = False) -> None:
        """End ingest, in order or not."""
        for process in self.ingest.values():
            if killed:
                process.kill()
            else:
                process.stop()

    def _await(self, name: str, port: int) -> None:
        url = f"http://{HOST}:{port}/readyz"
        until(lambda: self._answers(name, url), f"{name} is ready", timeout_s=_READY_S)

    def program(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program that ends with the stage."""
        process = Process(
            name,
            command,
            log=self.folder / "log" / f"{name}.log",
            environment={**environment(), **(settings or {})},
        )
        self._stack.callback(process.stop)
        return process

    def metric(self, name: str, *labels: str) -> float:
        """One number of ingest's; several series with the name, of all processes, are added up."""
        total = 0.0
        for port in self._metrics_ports.values():
            text = httpx2.get(f"http://{HOST}:{port}/metrics", timeout=30).text
            for line in text.splitlines():
                head, _, value = line.rpartition(" ")
                if head.partition("{")[0] == name and all(label in head for label in labels):
                    total += float(value)
        return total

    def check(self) -> None:
        """Look whether everything that was started still runs.

        Raises:
            RuntimeError: It does not.
        """
        for name, process in self.processes.items():
            if not process.running:
                raise RuntimeError(f"{name} ended:\n{process.tail()}")

    def close(self) -> None:
        """Stop everything."""
        self._stack.close()

    def _answers(self, name: str, url: str) -> bool:
        process = self.processes[name]
        if not process.running:
            raise RuntimeError(f"{name} ended:\n{process.tail()}")
        try:
            return httpx2.get(url, timeout=5).is_success
        except httpx2.TransportError:
            return False

    def _write_config(self) -> Path:
        file = self.folder / "linli.toml"
        quoted = json.dumps
        services = quoted(str(self.broker.services))
        file.write_text(
            f"[database]\ndsn = {quoted(self.dsn)}\n"
            f'[broker]\nhost = "{HOST}"\nport = {self.broker.port}\n'
            f"ca = {quoted(str(self.broker.ca))}\n"
            f"[ingest]\ncertificates = {services}\nmetrics_port = {self.metrics_port}\n"
            f'[api]\nhost = "{HOST}"\nport = {self.api_port}\ncertificates = {services}\n'
            f'public_url = "http://{HOST}:{self.api_port}"\nsimulated = true\n'
        )
        return file


@contextmanager
def live_client(stage: Stage) -> Generator[Client]:
    """Connect somebody who may say on the live topic what ingest would say."""
    client = Client(
        CallbackAPIVersion.VERSION2, client_id=TELLER, protocol=MQTTProtocolVersion.MQTTv5
    )
    context = stage.broker.identity(TELLER).context()
    client.tls_set_context(context)  # pyright: ignore[reportUnknownMemberType]
    client.connect(HOST, stage.broker.port)
    client.loop_start()
    try:
        until(client.is_connected, "somebody may tell")
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def built(
    folder: Path, town: Town, settings: Mapping[str, str], ingest_processes: int = 1
) -> Generator[Stage]:
    """Start the servers, register the town, give everybody a certificate; stop it all after."""
    with ExitStack() as stack:
        userland = Userland.find()
        authority = authority_for(folder / "pki")
        server = Postgres(
            userland,
            folder / "postgres",
            free_port(),
            folder / "log/postgres.log",
            settings=settings_for_machine(),
        )
        stack.callback(server.stop)
        server.start()
        dsn = server.create_database(DATABASE, owner=OWNER, password=PASSWORD)
        migrate(dsn)
        brokers = [
            broker(userland, folder / name, authority, acl=_ACL) for name in ("broker", "bare")
        ]
        for one in brokers:
            stack.callback(one.server.stop)
        for identity in (*town.gateways(), *SERVICES):
            brokers[0].identity(identity)
        register(dsn, town, datetime.now(UTC) - timedelta(hours=6))
        stage = Stage(folder, town, server, brokers[0], brokers[1], dsn, settings, ingest_processes)
        stage.processes = {"broker": brokers[0].server.process, "database": server.process}
        stack.callback(stage.close)
        yield stage


def python() -> str:
    """The interpreter's version."""
    return ".".join(map(str, sys.version_info[:3]))
