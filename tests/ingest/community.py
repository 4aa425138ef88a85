# SPDX-License-Identifier: Apache-2.0
"""A small community in the database, and writers fed by hand: no broker, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from edge_agent import topics
from edge_agent.kinds import Event, Reading
from edge_agent.messages import EventMessage, GapEvent, Status, Telemetry, encode
from ingest.consumer import Consumer
from ingest.events import EventWriter
from ingest.judge import Limits, Received
from ingest.kinds import DEFAULT_RULES
from ingest.presence import Presence
from ingest.projection import SAID, Heard
from ingest.rules import RuleBook
from ingest.store import connect
from ingest.store.devices import Device
from ingest.telemetry import TelemetryWriter
from ingest.writer import Common, FlushLimits, Writer
from tests.services import Broker

GATEWAY = "gw-c01-a"
OTHER_GATEWAY = "gw-c01-b"
STREAM = "s-telemetry"
EVENT_STREAM = "s-event"
DEVICES = (
    ("c01-lamp-001", "lamp", GATEWAY),
    ("c01-lamp-002", "lamp", GATEWAY),
    ("c01-bin-001", "bin", GATEWAY),
    ("c01-gate-001", "gate", GATEWAY),
    ("c01-alarm-001", "alarm", GATEWAY),
    ("c01-lamp-101", "lamp", OTHER_GATEWAY),
)


def heard(device: Device, reading: Reading, received_at: datetime | None = None) -> Heard:
    """Return a reading as a projection takes it, received at its own instant by default."""
    return (reading.at, device, reading, received_at or reading.at, SAID[device.kind](reading))


def found(
    dsn: str,
    *,
    in_service_from: datetime,
    programme: str = "always",
    reporting_period_s: float = 600,
    devices: Sequence[tuple[str, str, str]] = DEVICES,
) -> None:
    """Write one city, one community, its gateways and devices."""
    with psycopg.connect(dsn) as conn:
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name, time_zone, latitude, longitude)
            VALUES ('city', NULL, 'city', 'city', '城', 'Asia/Shanghai', NULL, NULL),
                   ('c01', 'city', 'city.c01', 'community', '一', 'Asia/Shanghai', 30.6, 104.0)
            """
        )
        for gateway in sorted({gateway for _, _, gateway in devices}):
            conn.execute("INSERT INTO gateway (gateway, community) VALUES (%s, 'c01')", (gateway,))
        for device, kind, gateway in devices:
            conn.execute(
                """
                INSERT INTO device (device, kind, gateway, community, area, in_service_from,
                                    reporting_period_s, rated_power_w, programme)
                VALUES (%s, %s, %s, 'c01', 'c01', %s, %s, %s, %s)
                """,
                (
                    device,
                    kind,
                    gateway,
                    in_service_from,
                    reporting_period_s,
                    100.0 if kind == "lamp" else None,
                    programme,
                ),
            )


@dataclass(slots=True)
class Bench:
    """Writers over a real database; messages are handed to them as the consumer would."""

    dsn: str
    broker: Broker
    rules: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])
    presence: Presence = field(default_factory=Presence)
    _mid: int = 0
    _writers: list[Writer] = field(default_factory=list[Writer])

    def close(self) -> None:
        """Close what `telemetry` and `events` opened: a restart, without saying goodbye."""
        while self._writers:
            self._writers.pop().close()

    def _common(self, identity: str) -> Common:
        self.broker.identity(identity)
        return Common(
            dsn=self.dsn,
            consumer=Consumer(
                identity=identity,
                host="127.0.0.1",
                port=self.broker.port,
                ca=self.broker.ca,
                certificates=Path(self.broker.services),
                subscriptions=(),
                receive_maximum=100,
            ),
            rules=RuleBook(DEFAULT_RULES, self.rules),
            limits=Limits(),
            flush=FlushLimits(0.0, 100, 1_000_000),
            presence=self.presence,
        )

    def telemetry(self, state_interval: timedelta = timedelta()) -> TelemetryWriter:
        """A telemetry writer that starts now; what ran before is gone."""
        self.close()
        writer = TelemetryWriter(
            state_interval=state_interval, **self._common("ingest-telemetry-00")
        )
        self._writers.append(writer)
        return writer

    def events(self) -> EventWriter:
        """An event writer that starts now; what ran before is gone."""
        self.close()
        writer = EventWriter(
            status_interval=timedelta(seconds=10),
            silence_intervals=3,
            **self._common("ingest-event-00"),
        )
        self._writers.append(writer)
        return writer

    def received(
        self, topic: str, payload: bytes, *, at: datetime | None = None, retain: bool = False
    ) -> Received:
        self._mid += 1
        return Received(0, self._mid, 1, topic, payload, retain, False, at or datetime.now(UTC))

    def batch(
        self,
        seq: int,
        *readings: Reading,
        gateway: str = GATEWAY,
        stream: str = STREAM,
        at: datetime | None = None,
    ) -> Received:
        message = Telemetry(
            stream=stream, seq=seq, sent_at=datetime.now(UTC), readings=tuple(readings)
        )
        return self.received(topics.up(gateway, "telemetry"), encode(message), at=at)

    def event(self, seq: int, event: Event | GapEvent, *, gateway: str = GATEWAY) -> Received:
        message = EventMessage(stream=EVENT_STREAM, seq=seq, sent_at=datetime.now(UTC), event=event)
        return self.received(topics.up(gateway, "event"), encode(message))

    def status(
        self, status: Status, *, gateway: str = GATEWAY, at: datetime | None = None
    ) -> Received:
        return self.received(topics.up(gateway, "status"), encode(status), at=at)

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Read what is stored, through a connection of its own."""
        with psycopg.connect(self.dsn) as conn, conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), parameters).fetchall()

    def value(self, query: str, *parameters: object) -> Any:
        (row,) = self.rows(query, *parameters)
        (value,) = row.values()
        return value


def feed(writer: Writer, *messages: Received) -> None:
    """Let a writer store one flush, on its own connection, made and restored as after a start."""
    writer.persist(messages)


__all__ = [
    "DEVICES", "EVENT_STREAM", "GATEWAY", "OTHER_GATEWAY", "STREAM",
    "Bench", "connect", "feed", "found",
]  # fmt: skip
