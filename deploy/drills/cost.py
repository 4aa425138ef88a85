# SPDX-License-Identifier: Apache-2.0
"""What a message costs a broker: the same messages, from a gateway to ingest's kept session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deploy.bench.ground import cpu_s
from deploy.faults.ground import Access, until
from edge_agent import topics

MESSAGES: Final = 10_000
# As large as a batch of some ten readings.
_PAYLOAD: Final = bytes(1_000)
_WINDOW: Final = 50
_RECEIVER: Final = "ingest-event-00"
_TIMEOUT_S: Final = 120.0


def cpu_per_message_us(broker: Access, gateway: str, pids: Callable[[], Iterable[int]]) -> float:
    """CPU that the broker's processes take for a message in and out, both QoS 1; microseconds.

    Args:
        broker: Nobody else may be using it.
        gateway: Sends as this one.
        pids: All the broker's processes.
    """
    arrived = threading.Semaphore(0)
    hearing = threading.Event()

    def on_message(client: Client, userdata: object, message: MQTTMessage) -> None:
        del client, userdata, message
        arrived.release()

    def on_connect(
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del userdata, flags, reason, properties
        client.subscribe(f"{topics.PREFIX}/+/+/up/result", qos=topics.QOS)

    def on_subscribe(
        client: Client,
        userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        del client, userdata, mid, reasons, properties
        hearing.set()

    receiver = _client(broker, _RECEIVER)
    receiver.on_message = on_message
    receiver.on_connect = on_connect
    receiver.on_subscribe = on_subscribe
    _connect(receiver, broker, session_s=3_600)
    sender = _client(broker, gateway)
    sender.max_inflight_messages_set(_WINDOW)
    _connect(sender, broker, session_s=0)
    try:
        until(hearing.is_set, "the receiver hears", timeout_s=_TIMEOUT_S)
        until(sender.is_connected, "the sender is connected", timeout_s=_TIMEOUT_S)
        before = {pid: cpu_s(pid) for pid in pids()}
        topic = topics.up(gateway, "result")
        for _ in range(MESSAGES):
            sender.publish(topic, _PAYLOAD, qos=topics.QOS)
        for _ in range(MESSAGES):
            assert arrived.acquire(timeout=_TIMEOUT_S), "a message did not come"
        used = sum(cpu_s(pid) - before.get(pid, 0.0) for pid in pids())
    finally:
        _leave(sender, receiver)
    # Clean: the session goes, and ingest finds none, as on its first day.
    cleaner = _client(broker, _RECEIVER)
    _connect(cleaner, broker, session_s=0)
    until(cleaner.is_connected, "the session is gone", timeout_s=_TIMEOUT_S)
    _leave(cleaner)
    return used / MESSAGES * 1e6


def _client(broker: Access, identity: str) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2, client_id=identity, protocol=MQTTProtocolVersion.MQTTv5
    )
    # paho leaves the type of its parameter half open.
    client.tls_set_context(broker.identity(identity).context())  # pyright: ignore[reportUnknownMemberType]
    return client


def _connect(client: Client, broker: Access, *, session_s: int) -> None:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = session_s
    client.connect(broker.host, broker.port, clean_start=not session_s, properties=properties)
    client.loop_start()


def _leave(*clients: Client) -> None:
    for client in clients:
        client.disconnect()
        client.loop_stop()
