# SPDX-License-Identifier: Apache-2.0
"""One installation on this machine: a data folder, its two servers and our two services.

::

    DATA/
      run.json            0600: where everything is while it runs, for programs that attach
      secrets.json        0600: database password, admin token
      accounts.json       0600: the people made here, with their first passwords
      linli.toml          what ingest and api read
      pki/                the authority; services/ holds the services' own certificates
      postgres/ mosquitto/ log/
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Literal, cast

import httpx2
import psycopg

from api import people
from deploy.services import (
    HOST,
    SMALL,
    Mosquitto,
    Postgres,
    Process,
    ServiceError,
    Userland,
    free_port,
    mortal,
    rotate,
    write_private,
)
from ingest.consumer import forget_session
from ingest.migrate import migrate
from ingest.partitions import share, show
from ingest.pki import (
    create_authority,
    identity_of,
    issue_client,
    issue_server,
    load_certificate,
    service_identities,
)
from ingest.registry import import_files
from ingest.store.partitions import forget_member

ROOT = Path(__file__).resolve().parent.parent
# The broker admits so many members of a lane (deploy/mosquitto/acl).
INGEST_PROCESSES_MAX = 8
READY_TIMEOUT_S = 60.0
# A certificate is renewed by the start that finds it this near its end.
RENEW_BEFORE = timedelta(days=30)
RESTART_DELAY_S = 0.5
RESTART_DELAY_MAX_S = 30.0
# One that ran this long before it ended starts again without delay.
STEADY_S = 60.0

Say = Callable[[str], None]
Role = Literal["admin", "property", "police"]


class Busy(ServiceError):
    """Another runner works in the data folder."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens, all on 127.0.0.1."""

    console: int
    broker: int
    database: int
    metrics: int
    notify: int

    @staticmethod
    def choose(say: Say) -> Ports:
        """The usual ports; where one is taken another is picked, and said so."""
        chosen: dict[str, int] = {}
        for name, usual in (
            ("console", 8080),
            ("broker", 8883),
            ("database", 5433),
            ("metrics", 9101),
            ("notify", 9102),
        ):
            chosen[name] = free_port(usual, avoid=tuple(chosen.values()))
            if chosen[name] != usual:
                say(f"port {usual} is taken: {name} uses {chosen[name]}")
        return Ports(**chosen)


@dataclass(frozen=True, slots=True)
class Account:
    """A person who may log in, with the password made for them."""

    username: str
    password: str
    role: Role
    area: str


@dataclass(slots=True)
class Program:
    """One of our own services under supervision."""

    name: str
    command: Sequence[str]
    log: Path
    ready_url: str
    process: Process | None = None
    started_at: float = 0.0  # monotonic
    restart_at: float | None = None
    delay_s: float = RESTART_DELAY_S

    def start(self) -> None:
        """Start it; to be called from the runner's main thread."""
        rotate(self.log)
        self.process = Process(self.name, self.command, log=self.log, environment=environment())
        self.started_at = time.monotonic()
        self.restart_at = None


def ingest_programs(processes: int, metrics_port: int) -> list[tuple[str, int, list[str]]]:
    """Name, metrics port and options of each ingest process.

    Args:
        processes: 1: one that does everything. Else so many share the telemetry, and one more,
            which has ``metrics_port``, writes events and keeps days and storage.
        metrics_port: Of the one.
    """
    if processes == 1:
        return [("ingest", metrics_port, [])]
    options = ["--lanes", "event,keepers", "--metrics-port", str(metrics_port)]
    programs = [("ingest", metrics_port, options)]
    ports = [metrics_port]
    for number in range(processes):
        ports.append(port := free_port(avoid=tuple(ports)))
        options = [
            *("--lanes", "telemetry", "--member", str(number), "--metrics-port", str(port)),
            *("--partitions", show(share(number, processes))),
        ]
        programs.append((identity_of("telemetry", number), port, options))
    return programs


def environment() -> Mapping[str, str]:
    """What our own programs inherit; they import this checkout wherever they are started."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def module(name: str, *arguments: str, death_signal: str = "TERM") -> list[str]:
    """The command that runs one of our programs, tied to the life of the runner."""
    command = [sys.executable, "-P", "-m", name, *arguments]
    return mortal(command, death_signal=death_signal)


@dataclass(slots=True)
class Installation:
    """Starts, watches and stops everything in one data folder."""

    data: Path
    say: Say
    simulated: bool = False
    rules: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    memory: Mapping[str, str] = field(default_factory=lambda: SMALL)
    # 1: one that does everything; else so many for telemetry, and one for events and keepers.
    ingest_processes: int = 1
    ports: Ports = field(init=False)
    postgres: Postgres = field(init=False)
    mosquitto: Mosquitto = field(init=False)
    programs: list[Program] = field(default_factory=list[Program])
    dsn: str = ""
    _lock: IO[bytes] | None = None

    # -- start -------------------------------------------------------------------------------

    def lock(self) -> None:
        """Claim the folder until this process ends.

        Raises:
            Busy: Somebody else has it.
        """
        self.data.mkdir(parents=True, exist_ok=True)
        self.data.chmod(0o700)
        lock = (self.data / "runner.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Busy(f"another runner works in {self.data}: stop it first") from None
        self._lock = lock

    def start_servers(self) -> None:
        """Bring up database and broker, certificates and schema.

        Raises:
            ServiceError: One does not come up; the text says what to do.
        """
        userland = Userland.find()
        self.ports = Ports.choose(self.say)
        self._certificates()
        log = self.data / "log"
        self.postgres = Postgres(
            userland,
            self.data / "postgres",
            self.ports.database,
            log / "postgres.log",
            settings=self.memory,
        )
        self.mosquitto = Mosquitto(
            userland,
            self.data / "mosquitto",
            self.ports.broker,
            log / "mosquitto.log",
            ca=self.pki / "ca.crt",
            certificate=self.pki / "server.crt",
            key=self.pki / "server.key",
        )
        self.postgres.start()
        self.mosquitto.start()
        self.dsn = self.postgres.create_database(
            "linli", owner="linli", password=self._secret("database_password")
        )
        migrate(self.dsn)

    def start_programs(self) -> None:
        """Start ingest, notify and api, and wait until all say that they are ready.

        Raises:
            ServiceError: One ended, or is not ready in time.
        """
        config = str(self._write_config())
        log = self.data / "log"
        self._retire_members()
        self.programs = [
            *(
                Program(
                    name,
                    module("ingest", "run", "--config", config, *options),
                    log / f"{name}.log",
                    f"http://{HOST}:{port}/readyz",
                )
                for name, port, options in ingest_programs(
                    self.ingest_processes, self.ports.metrics
                )
            ),
            Program(
                "notify",
                module("ingest", "notify", "--config", config),
                log / "notify.log",
                f"http://{HOST}:{self.ports.notify}/readyz",
            ),
            Program(
                "api",
                module("api", "serve", "--config", config),
                log / "api.log",
                f"{self.url}/readyz",
            ),
        ]
        for program in self.programs:
            program.start()
        for program in self.programs:
            self._wait_ready(program)
        # Only now: whoever was killed may have left work to those who write its partitions.
        with psycopg.connect(self.dsn) as conn:
            for number in range(self.ingest_processes, INGEST_PROCESSES_MAX):
                forget_member(conn, identity_of("telemetry", number))

    def identify(self, identity: str, folder: Path) -> None:
        """Have certificate and key of a gateway or service in ``folder``, good for a while."""
        if not _lasts(folder / f"{identity}.crt"):
            issue_client(self.pki, identity, out=folder)

    def has_areas(self) -> bool:
        """Whether anything is registered yet."""
        with psycopg.connect(self.dsn) as conn:
            return conn.execute("SELECT 1 FROM area LIMIT 1").fetchone() is not None

    def import_registry(self, files: Sequence[Path]) -> None:
        """Register areas, gateways and devices from CSV files, all or nothing."""
        with psycopg.connect(self.dsn) as conn:
            import_files(conn, files)

    def admit(self, wanted: Sequence[tuple[str, Role, str]]) -> list[Account]:
        """Make the accounts (user name, role, area) that are missing, and the admin token.

        Returns:
            The accounts made now, with their passwords; all made so far are in accounts.json.
        """
        return asyncio.run(self._admit(wanted))

    # -- while it runs -----------------------------------------------------------------------

    def watch(self) -> None:
        """Start again what ended by itself, waiting longer each time; call this often."""
        for server in (self.postgres, self.mosquitto):
            if not server.process.running:
                self.say(f"{server.process.name} ended, starting it again; see {server.log}")
                server.start()
        now = time.monotonic()
        for program in self.programs:
            process = program.process
            if process is None or process.running:
                continue
            if program.restart_at is None:
                if now - program.started_at > STEADY_S:
                    program.delay_s = RESTART_DELAY_S
                self.say(
                    f"{program.name} ended with status {process.popen.returncode}, again in "
                    f"{program.delay_s:g} s; see {program.log}"
                )
                program.restart_at = now + program.delay_s
                program.delay_s = min(2 * program.delay_s, RESTART_DELAY_MAX_S)
            elif now >= program.restart_at:
                program.start()

    def stop_programs(self) -> None:
        """Stop ingest, notify and api cleanly, all at once."""
        processes = [program.process for program in self.programs if program.process is not None]
        self.programs = []
        for process in processes:
            process.ask_to_stop()
        for process in processes:
            process.stop(timeout_s=4.0)

    def stop(self) -> None:
        """Stop everything cleanly, services before servers."""
        if self._lock is None:
            return  # the folder is somebody else's
        self.stop_programs()
        (self.data / "run.json").unlink(missing_ok=True)
        for server in self._servers():
            server.ask_to_stop()
        for server in self._servers():
            server.stop()

    # -- what others need to know ------------------------------------------------------------

    @property
    def url(self) -> str:
        """Address of api and console."""
        return f"http://{HOST}:{self.ports.console}"

    @property
    def pki(self) -> Path:
        """Folder of the authority."""
        return self.data / "pki"

    @property
    def admin_token(self) -> str:
        """A service token that may do and see everything."""
        return self._secret("admin_token")

    def describe(self) -> dict[str, object]:
        """The content of run.json."""
        return {
            "broker": {
                "host": HOST,
                "port": self.ports.broker,
                "ca": str(self.pki / "ca.crt"),
            },
            "database": {"dsn": self.dsn},
            "api": {"url": self.url},
            "metrics": {
                program.name: program.ready_url.replace("/readyz", "/metrics")
                for program in self.programs
                if program.name != "api"
            },
            "admin_token": self.admin_token,
            "accounts": str(self.data / "accounts.json"),
            "config": str(self.data / "linli.toml"),
            "data": str(self.data),
            "runner": {"pid": os.getpid(), "started": started(os.getpid())},
        }

    def announce(self) -> None:
        """Write run.json: from now on others may attach."""
        write_private(self.data / "run.json", self.describe())

    # -- details -----------------------------------------------------------------------------

    def _retire_members(self) -> None:
        """Have the broker forget members that are no more: it would queue for them."""
        services = self.pki / "services"
        for number in range(self.ingest_processes, INGEST_PROCESSES_MAX):
            identity = identity_of("telemetry", number)
            if (services / f"{identity}.crt").exists():
                forget_session(
                    identity,
                    HOST,
                    self.ports.broker,
                    ca=self.pki / "ca.crt",
                    certificates=services,
                )
                (services / f"{identity}.crt").unlink()

    def _servers(self) -> list[Postgres | Mosquitto]:
        return [
            cast("Postgres | Mosquitto", getattr(self, name))
            for name in ("mosquitto", "postgres")
            if hasattr(self, name)
        ]

    def _secret(self, name: str) -> str:
        path = self.data / "secrets.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if name not in known:
            known[name] = secrets.token_urlsafe(32)
            write_private(path, known)
        return known[name]

    def _certificates(self) -> None:
        create_authority(self.pki)
        if not _lasts(self.pki / "server.crt"):
            issue_server(self.pki, [HOST, "localhost"])
        for identity in service_identities(self.ingest_processes):
            self.identify(identity, self.pki / "services")

    def _write_config(self) -> Path:
        quoted = json.dumps  # a JSON string is a TOML basic string
        sections: list[tuple[str, Mapping[str, object]]] = [
            ("database", {"dsn": self.dsn}),
            ("broker", {"host": HOST, "port": self.ports.broker, "ca": "pki/ca.crt"}),
            ("ingest", {"certificates": "pki/services", "metrics_port": self.ports.metrics}),
            *((f"ingest.rules.{quoted(name)}", rule) for name, rule in self.rules.items()),
            ("notify", {"metrics_port": self.ports.notify}),
            ("pki", {"ca_certificate": "pki/ca.crt", "ca_key": "pki/ca.key"}),
            (
                "api",
                {
                    "host": HOST,
                    "port": self.ports.console,
                    "certificates": "pki/services",
                    "public_url": self.url,
                    "simulated": self.simulated,
                },
            ),
        ]
        lines = ["# Written by the runner at each start; changes made here do not last."]
        for name, values in sections:
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {quoted(value)}" for key, value in values.items()]
        path = self.data / "linli.toml"
        path.touch(0o600)
        path.chmod(0o600)
        path.write_text("\n".join(lines) + "\n")
        return path

    def _wait_ready(self, program: Program) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        process = program.process
        assert process is not None
        last = "no answer"
        while time.monotonic() < deadline:
            if not process.running:
                raise ServiceError(f"{program.name} does not run:\n{process.tail()}")
            try:
                answer = httpx2.get(program.ready_url, timeout=2.0)
            except httpx2.TransportError as exc:
                last = str(exc)
            else:
                if answer.is_success:
                    return
                last = answer.text
            time.sleep(0.05)
        raise ServiceError(
            f"{program.name} is not ready after {READY_TIMEOUT_S:g} s: {last}\n{process.tail()}"
        )

    async def _admit(self, wanted: Sequence[tuple[str, Role, str]]) -> list[Account]:
        passwords = people.Passwords()
        made: list[Account] = []
        async with await psycopg.AsyncConnection.connect(self.dsn) as conn:
            root = await (
                await conn.execute("SELECT area FROM area WHERE parent IS NULL ORDER BY area")
            ).fetchone()
            if root is None:
                raise ServiceError("no area is registered, so nobody can be given a place")
            await people.add_token(conn, "runner", self.admin_token, "admin", root[0])
            for username, role, area in wanted:
                account = Account(username, secrets.token_urlsafe(12), role, area or root[0])
                stored = await passwords.hash(account.password)
                if await people.add_person(conn, username, stored, role, account.area):
                    made.append(account)
        path = self.data / "accounts.json"
        known: list[object] = json.loads(path.read_text()) if path.exists() else []
        if made:
            fields = ("username", "password", "role", "area")
            known += [{name: getattr(account, name) for name in fields} for account in made]
            write_private(path, known)
        return made


def _lasts(certificate: Path) -> bool:
    if not certificate.exists():
        return False
    return load_certificate(certificate).not_valid_after_utc > datetime.now(UTC) + RENEW_BEFORE


# -- a runner in the background ---------------------------------------------------------------


def started(pid: int) -> int | None:
    """When the process began, in clock ticks since boot: with the pid it names one for ever."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone, before or while it was read
        return None
    # The command's name may hold blanks and brackets; what follows the last bracket is plain.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(fields[18])


@dataclass(frozen=True, slots=True)
class Running:
    """What run.json says of a runner that is alive."""

    pid: int
    started: int
    content: Mapping[str, object]

    @property
    def alive(self) -> bool:
        """Whether it is still that process, not another one with its number."""
        return started(self.pid) == self.started


def running(data: Path) -> Running | None:
    """The runner at work in ``data``; a run.json left behind by a power cut names nobody."""
    try:
        content: dict[str, object] = json.loads((data / "run.json").read_text())
    except FileNotFoundError:
        return None
    runner = cast("dict[str, int]", content["runner"])
    found = Running(runner["pid"], runner["started"], content)
    return found if found.alive else None
