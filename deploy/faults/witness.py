# SPDX-License-Identifier: Apache-2.0
"""A witness of acknowledgements: is everything said to be stored really stored? (I3, I4)

Hears every ``down/ack`` and asks the database over a connection of its own, at once. A COMMIT that
comes a moment too late may escape that look, one that never comes does not: at the end every
watermark ever seen must still be covered.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deploy.checker import streams
from deploy.checker.facts import Difference
from deploy.checker.streams import StreamKey
from deploy.faults.ground import WITNESS, Access, until
from edge_agent.messages import Ack, PayloadError, parse_ack
from edge_agent.topics import PREFIX, QOS

_ACKS = f"{PREFIX}/+/+/down/ack"
DROPPED = "$SYS/broker/publish/messages/dropped"
_ASK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Heard:
    """One acknowledgement on the wire."""

    gateway: str
    ack: Ack


class Witness:
    """Listens from `start` to `stop`; `differences` says what was wrong."""

    def __init__(self, broker: Access, dsn: str) -> None:
        """Take the broker, and the database as nobody disturbs it."""
        self._dsn = dsn
        self._heard: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()
        self._differences: list[Difference] = []
        self._highest: dict[StreamKey, int] = {}
        self._epochs: set[str] = set()
        self._stopping = threading.Event()
        self._subscribed = threading.Event()
        self.acks = 0
        self.checked = 0
        self.dropped = 0  # messages, by the broker's own count
        self.rejections: defaultdict[str, int] = defaultdict(int)
        identity = broker.identity(WITNESS)
        self._address = broker.host, broker
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=WITNESS, protocol=MQTTProtocolVersion.MQTTv5
        )
        # paho leaves the type of its parameter half open.
        client.tls_set_context(identity.context())  # pyright: ignore[reportUnknownMemberType]
        client.reconnect_delay_set(1, 1)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        self._client = client
        self._asker = threading.Thread(target=self._ask, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and return when the broker said yes."""
        host, broker = self._address
        self._client.connect(host, broker.port, keepalive=30)
        self._client.loop_start()
        self._asker.start()
        until(self._subscribed.is_set, "the witness listens")

    def stop(self) -> None:
        """Listen no more; what was heard is looked at first."""
        self._client.disconnect()
        self._client.loop_stop()
        self._heard.put(None)
        self._asker.join(10)
        self._stopping.set()

    def watermarks(self) -> dict[StreamKey, int]:
        """For each stream the highest watermark heard."""
        return dict(self._highest)

    def differences(self) -> list[Difference]:
        """What was acknowledged and is not stored, and watermarks that went back; after `stop`."""
        found = list(self._differences)
        with psycopg.connect(self._dsn) as conn:
            books = streams.seen(conn)
        for key, upto in self._highest.items():
            stored = streams.watermark(books.get(key, []))
            if stored < upto:
                found.append(
                    Difference("acknowledged and not stored", f"{key} up to {upto}, holds {stored}")
                )
        return found

    # -- paho's thread ------------------------------------------------------------------------

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
            client.subscribe([(_ACKS, QOS), (DROPPED, 0)])
            self._subscribed.set()

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        del client, userdata
        if message.topic == DROPPED:
            self.dropped = int(message.payload)
            return
        try:
            ack = parse_ack(bytes(message.payload))
        except PayloadError as error:
            self._differences.append(Difference("ack unreadable", str(error)))
            return
        gateway = message.topic.split("/")[3]
        self.acks += 1
        self._epochs.add(ack.epoch)
        for one in ack.rejected:
            self.rejections[one.reason] += 1
        self._heard.put(Heard(gateway, ack))

    # -- our own ------------------------------------------------------------------------------

    def _ask(self) -> None:
        conn: psycopg.Connection | None = None
        while (heard := self._heard.get()) is not None:
            while not self._stopping.is_set():
                try:
                    if conn is None or conn.closed:
                        conn = psycopg.connect(self._dsn, autocommit=True, connect_timeout=2)
                    self._look(conn, heard)
                    break
                except psycopg.OperationalError:
                    # The database is away, as the run wants it: ask when it is back.
                    if conn is not None:
                        conn.close()
                    self._stopping.wait(_ASK_AGAIN_S)
        if conn is not None:
            conn.close()

    def _look(self, conn: psycopg.Connection, heard: Heard) -> None:
        for stream, upto in heard.ack.streams.items():
            key = heard.gateway, stream
            if upto < self._highest.get(key, 0) and len(self._epochs) == 1:
                self._differences.append(
                    Difference("watermark went back", f"{key} {self._highest[key]} -> {upto}")
                )
            self._highest[key] = max(upto, self._highest.get(key, 0))
            if upto == 0:
                continue
            row = conn.execute(
                """
                SELECT seen @> int8range(1, %s, '[]') FROM gateway_stream
                WHERE gateway = %s AND stream = %s
                """,
                (upto, heard.gateway, stream),
            ).fetchone()
            if row != (True,):
                self._differences.append(
                    Difference("acknowledged before stored", f"{key} up to {upto}")
                )
            self.checked += 1
