# SPDX-License-Identifier: Apache-2.0
"""A small city of real processes: agents, broker, ingest, database; to be killed and healed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from deploy.installation import environment, module
from deploy.services import HOST, Process, free_port
from deploy.verify import Verdict, compare
from ingest.registry import import_files
from simulators import registry
from tests.services import Broker, until

SEED = 7
READY_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 90.0


@dataclass(slots=True)
class City:
    """One installation without its runner: each process is started and ended by the test."""

    dsn: str
    broker: Broker
    folder: Path
    history_hours: float = 6.0
    rules: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    metrics_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    ingest: Process | None = None
    simulators: Process | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    def found(self) -> None:
        """Register one community, with a certificate for each gateway."""
        self.since = datetime.now(UTC) - timedelta(hours=self.history_hours)
        files = registry.write(registry.build(SEED, 1, self.since), self.folder / "registry")
        with psycopg.connect(self.dsn) as conn:
            import_files(conn, list(files))
        with (self.folder / "registry" / "gateways.csv").open(encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                self.broker.identity(row["gateway"])
        for identity in ("ingest-telemetry-00", "ingest-event-00", "api-live-00"):
            self.broker.identity(identity)
        rules = "".join(
            f"[ingest.rules.{json.dumps(rule)}]\n"
            + "".join(f"{name} = {value}\n" for name, value in parameters.items())
            for rule, parameters in self.rules.items()
        )
        self.config.write_text(
            f"""
[database]
dsn = {json.dumps(self.dsn)}
[broker]
host = "{HOST}"
port = {self.broker.port}
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
        return self.folder / "linli.toml"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.api_port}"

    @property
    def truth(self) -> Path:
        return self.folder / "sim" / "truth.sqlite"

    def start_ingest(self) -> Process:
        """Start ingest and wait until it hears."""
        self.ingest = Process(
            "ingest",
            module("ingest", "run", "--config", str(self.config)),
            log=self.folder / "ingest.log",
            environment=environment(),
        )
        until(self._ingest_is_ready, "ingest is ready", timeout_s=READY_TIMEOUT_S)
        return self.ingest

    def _ingest_is_ready(self) -> bool:
        assert self.ingest is not None
        assert self.ingest.running, self.ingest.tail()
        try:
            return httpx2.get(f"http://{HOST}:{self.metrics_port}/readyz").is_success
        except httpx2.TransportError:
            return False

    def start_simulators(self, scenario: str = "quick", *, seconds: float | None = None) -> Process:
        """Start real agents over virtual hardware; what they tell goes to ``told.jsonl``."""
        arguments = [
            "run",
            scenario,
            *("--broker-host", HOST, "--broker-port", str(self.broker.port)),
            *("--ca", str(self.broker.ca), "--certificates", str(self.broker.services)),
            *("--data", str(self.folder / "sim"), "--seed", str(SEED), "--communities", "1"),
            *("--history-hours", str(self.history_hours)),
            *("--registry", str(self.folder / "registry")),
            *(() if seconds is None else ("--seconds", str(seconds))),
        ]
        with (self.folder / "told.jsonl").open("ab") as told:
            self.simulators = Process(
                "simulators",
                module("simulators", *arguments),
                log=self.folder / "simulators.log",
                environment=environment(),
                stdout=told,
            )
        return self.simulators

    def told(self) -> list[dict[str, Any]]:
        """What the simulators have told so far."""
        lines = (self.folder / "told.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def await_phase(self, phase: str, *, after: int = 0) -> None:
        """Wait until the simulators tell a phase, beyond the first ``after`` lines."""

        def reached() -> bool:
            assert self.simulators is not None
            assert self.simulators.running or phase == "stopped", self.simulators.tail()
            return any(line.get("phase") == phase for line in self.told()[after:])

        until(reached, f"simulators tell {phase}", timeout_s=FINISH_TIMEOUT_S)

    def count(self, query: str) -> int:
        """One number from the database, seen as anybody else sees it."""
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def finish(self) -> Verdict:
        """Let the simulators drain and settle, then compare everything with the truth."""
        assert self.simulators is not None
        self.simulators.ask_to_stop()
        self.await_phase("stopped")
        assert self.simulators.popen.wait(10) == 0, self.simulators.tail()
        stopped = self.told()[-1]
        assert stopped["drained"], stopped
        return compare(self.truth, self.dsn)

    def close(self) -> None:
        for process in (self.simulators, self.ingest):
            if process is not None:
                process.kill()


def running_city(dsn: str, broker: Broker, folder: Path) -> Iterator[City]:
    city = City(dsn, broker, folder)
    city.found()
    yield city
    city.close()
