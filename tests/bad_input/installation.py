# SPDX-License-Identifier: Apache-2.0
"""A broker, a database and an ingest process, and gateways that send what no agent would.

Every case has a gateway of its own, with its own certificate and devices, so that no case reads
what another left behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx2
import paho.mqtt.client as mqtt
import psycopg
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from psycopg.rows import dict_row

from deploy.installation import environment, module
from deploy.services import HOST, Process, free_port
from edge_agent import topics
from edge_agent.messages import Ack, Rejection, parse_ack
from edge_agent.topics import UpChannel
from tests.ingest.community import found
from tests.services import Broker, until

READY_TIMEOUT_S: Final = 60.0
KINDS: Final = ("lamp", "bin", "gate", "alarm")


def devices_of(gateway: str) -> dict[str, str]:
    """The gateway's own devices, by class."""
    return {kind: f"{gateway}-{kind}" for kind in KINDS}


_AT: Final = re.compile(r"@at\(([-+]?[\d.]+)\)")


def fill(text: str | bytes, gateway: str, **more: object) -> bytes:
    """Put in what a case leaves open: ``@lamp`` and its like, ``@self``, ``@at(SECONDS)`` from now.

    Bytes are taken as they are.
    """
    if isinstance(text, bytes):
        return text
    now = datetime.now(UTC)

    def instant(match: re.Match[str]) -> str:
        return (now + timedelta(seconds=float(match[1]))).isoformat().replace("+00:00", "Z")

    for name, value in {"self": gateway, **devices_of(gateway), **more}.items():
        text = text.replace(f"@{name}", str(value))
    return _AT.sub(instant, text).encode()


def lamp(offset_s: float = -100, **raw: str) -> str:
    """A lamp reading as JSON; fields are given as raw JSON, an empty one takes the field away."""
    fields = {"kind": '"lamp"', "device": '"@lamp"', "at": f'"@at({offset_s})"', "lit": "true"}
    return _object(fields | raw)


def passage(offset_s: float = -100, **raw: str) -> str:
    """A gate event as JSON."""
    fields = {"kind": '"gate"', "device": '"@gate"', "at": f'"@at({offset_s})"'}
    return _object(fields | {"event": '"granted"'} | raw)


def telemetry(*readings: str, **raw: str) -> str:
    """A batch as JSON."""
    return _object(_HEAD | {"readings": f"[{', '.join(readings or [lamp()])}]"} | raw)


def event(event: str | None = None, **raw: str) -> str:
    """An event message as JSON."""
    return _object(_HEAD | {"event": event or passage()} | raw)


def status(**raw: str) -> str:
    """A status as JSON."""
    return _object({"v": "1", "state": '"online"', "at": '"@at(0)"'} | raw)


_HEAD: Final = {"v": "1", "stream": '"@stream"', "seq": "@seq", "sent_at": '"@at(0)"'}


def _object(fields: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items() if text) + "}"


class Gateway:
    """A raw MQTT client with a gateway's certificate; it notes all that it is told."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.name = name
        self.heard: list[tuple[str, bytes]] = []
        self.reasons: dict[int, ReasonCode] = {}
        identity = broker.identity(name)
        self._answered = threading.Event()
        self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        self.mqtt.tls_set(  # pyright: ignore[reportUnknownMemberType] - paho leaves a type unsaid
            str(identity.ca), str(identity.certificate), str(identity.key)
        )
        self.mqtt.max_inflight_messages_set(2_000)
        self.mqtt.on_message = self._on_message
        self.mqtt.on_publish = self._on_publish
        self.mqtt.on_subscribe = self._on_subscribe
        self.mqtt.connect(HOST, broker.port)
        self.mqtt.loop_start()
        self.subscribe(topics.down(name, "ack").replace("/ack", "/#"))

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        del client, userdata
        self.heard.append((message.topic, bytes(message.payload)))

    def _on_publish(
        self,
        client: mqtt.Client,
        userdata: object,
        mid: int,
        reason: ReasonCode,
        properties: Properties,
    ) -> None:
        del client, userdata, properties
        self.reasons[mid] = reason

    def _on_subscribe(
        self,
        client: mqtt.Client,
        userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties,
    ) -> None:
        del client, userdata, mid, reasons, properties
        self._answered.set()

    def subscribe(self, topic: str) -> None:
        """Ask to hear a topic, and wait for an answer, whatever it is."""
        self._answered.clear()
        self.mqtt.subscribe(topic, qos=1)
        assert self._answered.wait(READY_TIMEOUT_S), f"{self.name} is not answered"

    def publish(
        self,
        channel: UpChannel,
        payload: bytes,
        *,
        topic: str | None = None,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int:
        """Publish with QoS 1; returns the message id, under which the PUBACK's reason is noted."""
        return self.mqtt.publish(
            topic or topics.up(self.name, channel),
            payload,
            qos=1,
            retain=retain,
            properties=properties,
        ).mid

    @property
    def acks(self) -> list[Ack]:
        return [parse_ack(payload) for topic, payload in self.heard if topic.endswith("/ack")]

    @property
    def rejected(self) -> list[Rejection]:
        """What was refused, each told once: an ack may be repeated."""
        return list(dict.fromkeys(item for ack in self.acks for item in ack.rejected))

    def upto(self, stream: str) -> int:
        """The stream's watermark, as last told."""
        return max((ack.streams.get(stream, 0) for ack in self.acks), default=0)

    def close(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


@dataclass(slots=True)
class Installation:
    """One ingest process over a broker and a database."""

    dsn: str
    broker: Broker
    folder: Path
    metrics_port: int = field(default_factory=free_port)
    _ingest: Process | None = None
    _conn: psycopg.Connection | None = None
    # Made once: a client's TLS context takes longer than its request.
    _client: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=30))

    def found(self, gateways: Iterable[str], more: Sequence[tuple[str, str, str]] = ()) -> None:
        """Register gateways, each with a device of every class, and ``more`` devices."""
        devices = [
            (device, kind, gateway)
            for gateway in gateways
            for kind, device in devices_of(gateway).items()
        ]
        since = datetime.now(UTC) - timedelta(days=60)
        found(self.dsn, in_service_from=since, devices=[*devices, *more])
        for identity in ("ingest-telemetry-00", "ingest-event-00"):
            self.broker.identity(identity)
        (self.folder / "linli.toml").write_text(
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
status_interval_s = 3600
[ingest.telemetry]
linger_ms = 2
"""
        )

    @property
    def ingest(self) -> Process:
        assert self._ingest is not None, "not started"
        return self._ingest

    def start(self) -> None:
        """Start ingest and wait until it hears."""
        self._ingest = Process(
            "ingest",
            module("ingest", "run", "--config", str(self.folder / "linli.toml")),
            log=self.folder / "ingest.log",
            environment=environment(),
        )
        until(self._is_ready, "ingest is ready", timeout_s=READY_TIMEOUT_S)

    def _is_ready(self) -> bool:
        assert self.ingest.running, self.ingest.tail(60)
        try:
            return self._page("readyz").is_success
        except httpx2.TransportError:
            return False

    def stop(self) -> None:
        self.ingest.stop()

    def close(self) -> None:
        """End all, however far it came."""
        if self._ingest is not None:
            self._ingest.stop()
        self._client.close()
        if self._conn is not None:
            self._conn.close()

    @property
    def conn(self) -> psycopg.Connection:
        """A connection of the test's own: it sees what is committed."""
        if self._conn is None:
            self._conn = psycopg.connect(self.dsn, autocommit=True)
        return self._conn

    def check(self) -> None:
        """Fail unless ingest lives and is ready."""
        assert self.ingest.running, self.ingest.tail(60)
        for page in ("livez", "readyz"):
            answer = self._page(page)
            assert answer.is_success, (answer.text, self.ingest.tail(60))

    def _page(self, page: str) -> httpx2.Response:
        return self._client.get(f"http://{HOST}:{self.metrics_port}/{page}")

    def memory_bytes(self) -> int:
        """What ingest holds in memory."""
        pages = int(Path(f"/proc/{self.ingest.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def refused(self) -> dict[str, float]:
        """The counter of refusals, by reason."""
        found = re.findall(
            r'^linli_ingest_dead_letters_total\{reason="([^"]+)"\} (\S+)$',
            self._page("metrics").text,
            re.MULTILINE,
        )
        return {reason: float(count) for reason, count in found}

    @contextmanager
    def gateway(self, name: str) -> Generator[Gateway]:
        one = Gateway(self.broker, name)
        try:
            yield one
        finally:
            one.close()

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """What is stored, seen as anybody else sees it."""
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), parameters).fetchall()

    def value(self, query: str, *parameters: object) -> Any:
        (row,) = self.rows(query, *parameters)
        (value,) = row.values()
        return value

    def execute(self, statement: str) -> None:
        """Change what is registered."""
        self.conn.execute(statement.encode())

    def stored(self, gateway: str) -> int:
        """How many readings and events of a gateway's devices are stored."""
        tables = [f"reading_{kind}" for kind in KINDS] + ["event_bin", "event_gate", "event_alarm"]
        counts = " UNION ALL ".join(
            f"SELECT count(*) FROM {table} JOIN device ON device.id = device_id"
            " WHERE gateway = %(gateway)s"
            for table in tables
        )
        query = f"SELECT sum(count)::int FROM ({counts}) AS c"
        row = self.conn.execute(query.encode(), {"gateway": gateway}).fetchone()
        assert row is not None
        return row[0]

    def letters(self, gateway: str) -> list[dict[str, Any]]:
        """The dead letters of a gateway, by their place in the message."""
        return self.rows(
            """
            SELECT reason, detail, stream, seq, at_index, raw, sha256, topic FROM dead_letter
            WHERE topic LIKE %s ORDER BY id
            """,
            f"%/{gateway}/up%",
        )


def digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def user_properties(count: int) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [(f"k{index}", "v") for index in range(count)]
    return properties
