# SPDX-License-Identifier: Apache-2.0
"""A gateway without an agent: says what no agent would say, in an order no agent would choose.

What it sends goes into the ledger first, as an outbox would keep it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deploy.faults.ground import Access, until
from edge_agent import topics
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import Telemetry, encode, parse_ack
from simulators.truth import Ledger


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message ready to be sent, as often as one likes."""

    seq: int
    payload: bytes


class Wire:
    """One gateway's connection; sends telemetry of its lamps as told."""

    def __init__(self, broker: Access, gateway: str, ledger: Ledger) -> None:
        """Connect; the gateway's real agent must not run."""
        self.gateway = gateway
        self.stream = f"wire-{uuid4().hex[:12]}"
        self.upto = 0
        self.rejected: list[str] = []
        self._ledger = ledger
        self._next = 1
        self._connected = threading.Event()
        identity = broker.identity(gateway)
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=gateway, protocol=MQTTProtocolVersion.MQTTv5
        )
        # paho leaves the type of its parameter half open.
        client.tls_set_context(identity.context())  # pyright: ignore[reportUnknownMemberType]
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.max_inflight_messages_set(1_000)
        client.connect(broker.host, broker.port, keepalive=30)
        client.loop_start()
        self._client = client
        until(self._connected.is_set, "the wire is connected")

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def make(self, readings: Sequence[LampReading]) -> Parcel:
        """Number a message and write it down as accepted."""
        seq, self._next = self._next, self._next + 1
        message = Telemetry(
            stream=self.stream, seq=seq, sent_at=datetime.now(UTC), readings=tuple(readings)
        )
        payload = encode(message)
        self._ledger.accept(self.gateway, "telemetry", self.stream, seq, payload)
        self._ledger.commit()
        return Parcel(seq, payload)

    def number(self) -> int:
        """Give out a number for a message that is made otherwise."""
        seq, self._next = self._next, self._next + 1
        return seq

    def send(self, parcels: Iterable[Parcel]) -> None:
        """Publish in this order."""
        topic = topics.up(self.gateway, "telemetry")
        for parcel in parcels:
            self._client.publish(topic, parcel.payload, qos=topics.QOS)

    def await_stored(self, timeout_s: float = 30.0) -> None:
        """Wait until everything numbered so far is acknowledged as stored or refused."""
        until(
            lambda: self.upto >= self._next - 1, "everything is acknowledged", timeout_s=timeout_s
        )

    def _on_connect(
        self,
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del userdata, flags, properties
        if not reason.is_failure:
            client.subscribe(topics.down(self.gateway, "ack"), topics.QOS)
            self._connected.set()

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        del client, userdata
        ack = parse_ack(bytes(message.payload))
        self.upto = max(self.upto, ack.streams.get(self.stream, 0))
        self.rejected += [one.reason for one in ack.rejected]


def lamps_telling(
    devices: Sequence[str], count: int, since: datetime, chance: Random
) -> list[list[LampReading]]:
    """So many batches of so many lamps, a second apart, lit by chance."""
    return [
        [
            LampReading(
                device=device,
                at=since + timedelta(seconds=number, microseconds=index),
                lit=chance.random() < 0.8,
                power_w=chance.uniform(30, 90),
            )
            for index, device in enumerate(devices)
        ]
        for number in range(count)
    ]
