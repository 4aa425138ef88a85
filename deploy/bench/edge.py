# SPDX-License-Identifier: Apache-2.0
"""What the agent costs a small box: real agents behind a real broker, each device a JSON file.

Devices do not change, so an agent polls, decides that nothing is worth telling, and repeats every
reading once a heartbeat. A bare client stands in for ingest: it acknowledges what comes. The
baseline is the same interpreter with the libraries that the agent loads, and nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deploy.bench.ground import cpu_s
from deploy.bench.report import Measured
from deploy.faults import ground
from deploy.faults.ground import Broker
from deploy.services import ServiceError, Userland, mortal
from edge_agent import topics
from edge_agent.kinds.lamp import LampReading
from edge_agent.lanes import Draft
from edge_agent.messages import Ack, Telemetry, encode
from edge_agent.outbox import Outbox
from edge_agent.topics import parse_up

DEVICES: Final = (200, 400)
READINGS: Final = 13
RSS_MB: Final = 40.0
CPU_SHARE: Final = 0.01
START_S: Final = 3.0
# A million readings in 100 MB.
READING_BYTES: Final = 100.0
_PATIENCE_S: Final = 30.0
# Before an agent is called idle: it is connected, and its first batch is acknowledged.
_SETTLE_S: Final = 5.0
_IDENTITY: Final = "ingest-telemetry-00"
_LIBRARIES: Final = (
    "import argparse, asyncio, hashlib, hmac, json, logging, sqlite3, ssl, tomllib, aiomqtt\n"
    "from pydantic import BaseModel\n"
    # What pydantic needs to build a model, it loads with the first one.
    "class One(BaseModel):\n    one: int\n"
    "print(flush=True)\n"
    "input()\n"
)
_KEPT: Final = {key: value for key, value in os.environ.items() if not key.startswith("LINLI_")}


@dataclass(slots=True)
class Server:
    """What ingest is to an agent: it hears a gateway and says that all of it is stored."""

    broker: Broker
    readings: int = 0
    _first: dict[str, float] = field(default_factory=dict[str, float])
    _told: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Listen, in a thread of the client's own."""
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=_IDENTITY,
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        # paho leaves the type of its parameter half open.
        context = self.broker.identity(_IDENTITY).context()
        client.tls_set_context(context)  # pyright: ignore[reportUnknownMemberType]
        client.on_message = self._heard
        client.on_connect = self._on_connect
        client.connect(self.broker.host, self.broker.port)
        client.loop_start()
        try:
            yield
        finally:
            client.disconnect()
            client.loop_stop()

    def _on_connect(
        self,
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del userdata, flags, reason, properties
        client.subscribe(f"{topics.PREFIX}/+/+/up/#", 1)

    def _heard(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        del userdata
        up = parse_up(message.topic)
        document = json.loads(message.payload)
        if up.channel == "telemetry":
            self.readings += len(document["readings"])
            streams = {document["stream"]: document["seq"]}
            self._first.setdefault(up.gateway, time.monotonic())
            self._told.set()
        elif up.channel == "status":
            streams = {one["stream"]: 0 for one in document.get("streams", ())}
        else:
            return
        if streams:
            ack = encode(Ack(epoch="bench", streams=streams))
            client.publish(topics.down(up.gateway, "ack"), ack, 1)

    def first(self, gateway: str) -> float:
        """Return when a gateway's first telemetry came, by the monotonic clock.

        Raises:
            ServiceError: None came.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while gateway not in self._first:
            if not self._told.wait(deadline - time.monotonic()):
                raise ServiceError(f"{gateway}: no telemetry within {_PATIENCE_S:g} s")
            self._told.clear()
        return self._first[gateway]


@dataclass(frozen=True, slots=True)
class Agent:
    """What one agent took."""

    start_s: float
    rss_mb: float
    cpu_share: float


def measure(
    seconds: float, rounds: int, messages: int, tell: Callable[[str], None]
) -> list[Measured]:
    """Measure agents of both sizes in turns, the libraries alone beside them, and an outbox."""
    found: dict[int, list[Agent]] = {devices: [] for devices in DEVICES}
    wrong: list[str] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory(prefix="linli-bench-", dir=ground.in_memory()) as name:
        folder = Path(name)
        authority = ground.authority_for(folder / "pki")
        broker = ground.broker(Userland.find(), folder / "broker", authority)
        try:
            server = Server(broker)
            with server.running():
                for turn in range(rounds):
                    bare.append(_libraries_mb())
                    for devices in DEVICES:
                        tell(f"an agent with {devices} devices")
                        before = server.readings
                        gateway = f"gw-bench-{turn}-{devices}"
                        config = configuration(folder, broker, gateway, devices)
                        found[devices].append(_agent(server, config, gateway, seconds))
                        if server.readings - before < devices:
                            told = server.readings - before
                            wrong.append(f"{devices} devices told {told} readings")
        finally:
            broker.server.stop()
        tell("an outbox is filled")
        size = outbox_bytes(folder / "outbox.db", messages)
    smaller, larger = DEVICES
    return [
        Measured(f"edge RSS, {larger} devices", "MB", [one.rss_mb for one in found[larger]],
                 RSS_MB, wrong),
        Measured(f"edge RSS, {smaller} devices", "MB", [one.rss_mb for one in found[smaller]],
                 RSS_MB, wrong),
        Measured("baseline: Python and the agent's libraries", "MB", bare),
        Measured(f"edge idle, share of a core, {larger} devices", "",
                 [one.cpu_share for one in found[larger]], CPU_SHARE, wrong),
        Measured(f"edge idle, share of a core, {smaller} devices", "",
                 [one.cpu_share for one in found[smaller]], CPU_SHARE, wrong),
        Measured(f"start to first publish, {larger} devices", "s",
                 [one.start_s for one in found[larger]], START_S, wrong),
        Measured("outbox file, a reading", "B", [size], READING_BYTES),
        Measured("outbox file, readings in 100 MB", "readings", [1e8 / size]),
    ]  # fmt: skip


def configuration(folder: Path, broker: Broker, gateway: str, devices: int) -> Path:
    """Write what an agent with lamps needs, each lamp a file; return its configuration."""
    home = folder / gateway
    home.mkdir()
    identity = broker.identity(gateway)
    lines = [
        f"gateway = {json.dumps(gateway)}",
        'community = "c01"',
        f"data = {json.dumps(str(home / 'data'))}",
        "[broker]",
        f"host = {json.dumps(broker.host)}",
        f"port = {broker.port}",
        f"ca = {json.dumps(str(identity.ca))}",
        f"certificate = {json.dumps(str(identity.certificate))}",
        f"key = {json.dumps(str(identity.key))}",
    ]
    (home / "data").mkdir()
    for number in range(devices):
        file = home / f"lamp-{number:03d}.json"
        file.write_text(json.dumps({"lit": True, "power_w": 40.0 + number / 10, "level_pct": 100}))
        lines += [
            "[[devices]]",
            f'device = "lamp-{number:03d}"',
            'kind = "lamp"',
            'driver = "edge_agent.drivers.json_file:make"',
            f'options = {{ kind = "lamp", path = {json.dumps(str(file))} }}',
        ]
    config = home / "agent.toml"
    config.write_text("\n".join(lines) + "\n")
    return config


def _agent(server: Server, config: Path, gateway: str, seconds: float) -> Agent:
    command = mortal([sys.executable, "-m", "edge_agent", "run", "--config", str(config)])
    begun = time.monotonic()
    process = subprocess.Popen(command, env=_KEPT, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        started = server.first(gateway)
        time.sleep(_SETTLE_S)
        before, since = cpu_s(process.pid), time.monotonic()
        time.sleep(seconds)
        share = (cpu_s(process.pid) - before) / (time.monotonic() - since)
        return Agent(started - begun, _rss_mb(process.pid), share)
    finally:
        process.terminate()
        process.wait()


def _libraries_mb() -> float:
    """Return what an interpreter takes that has only loaded the agent's libraries."""
    with subprocess.Popen(  # noqa: S603 - our own text
        [sys.executable, "-c", _LIBRARIES],
        env=_KEPT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        size = _rss_mb(process.pid)
        process.communicate(b"\n")
    return size


def _rss_mb(pid: int) -> float:
    """Return resident memory in MB of 2**20 bytes, shared pages of libraries included."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


def outbox_bytes(file: Path, messages: int) -> float:
    """Return bytes of an outbox file a reading, batches as they come from half a community."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    with contextlib.closing(Outbox(file, clock=lambda: at, limit_bytes=64 * 2**30)) as outbox:
        for first in range(0, messages, 100):
            numbers = range(first, min(first + 100, messages))
            outbox.append([Draft("telemetry", _maker(number, at)) for number in numbers])
    parts = [file, file.with_name(f"{file.name}-wal")]
    return sum(one.stat().st_size for one in parts if one.exists()) / (messages * READINGS)


def _maker(number: int, at: datetime) -> Callable[[str, int], Telemetry]:
    """Return what makes a batch; values vary as the simulators' lamps do."""
    sent_at = at + timedelta(seconds=number)

    def make(stream: str, seq: int) -> Telemetry:
        readings = tuple(
            LampReading(
                device=f"c0001-lamp-{(number * READINGS + one) % 400:04d}",
                at=sent_at - timedelta(milliseconds=(number * 37 + one * 71) % 1_000),
                **_values(number * READINGS + one),
            )
            for one in range(READINGS)
        )
        return Telemetry(stream=stream, seq=seq, sent_at=sent_at, readings=readings)

    return make


def _values(number: int) -> dict[str, Any]:
    noise = number * 2_654_435_761 % 1_000 / 1_000
    return {
        "lit": True, "level_pct": 100.0, "power_w": round(41 + noise, 2),
        "voltage_v": round(226 + 4 * noise, 1), "current_a": round(0.18 + noise / 100, 3),
        "energy_kwh": round(9_000 + number / 977, 2),
    }  # fmt: skip
