# SPDX-License-Identifier: Apache-2.0
"""From the broker to one lane's writer: received, bounded, acknowledged by hand.

Receive Maximum is the backpressure: the broker sends no more than that without a PUBACK, so the
queue behind the callbacks never holds more, and callbacks neither wait nor raise. A PUBACK goes
out only for what `acknowledge` is given, which is what was committed.
"""

import logging
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MessageType, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.messages import PAYLOAD_BYTES_MAX
from edge_agent.topics import PREFIX, QOS, UP_CHANNELS
from ingest.errors import Unavailable
from ingest.judge import Received
from ingest.partitions import ALL, NAMES, Partitions, of_topic
from ingest.presence import Hearing

log = logging.getLogger(__name__)

# The largest packet the broker may send us: a payload, its topic and properties.
PACKET_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 8192
_SESSION_EXPIRY_S: Final = 7 * 24 * 3600
# A broker that is frozen, or cut off without a word, is left after one to two of these.
_KEEPALIVE_S: Final = 10
_RECONNECT_DELAY_MAX_S: Final = 10
_READ_AT_ONCE: Final = 100
# How long a patient message waits for company.
_PATIENCE_S: Final = 0.25
# Sent twice a second; with a heartbeat each second, a break that passes unnoticed is still no
# three heartbeats long.
_PROBE_BREAK: Final = timedelta(seconds=2)
# While so many of our probes wait at the broker, some minutes' worth, only few are added: its queue
# is for what gateways send. Few, not none: it may have dropped all that we take for waiting.
_PROBES_OUT_MAX: Final = 1_000
_PROBES_OUT_INTERVAL: Final = timedelta(seconds=30)
# Retained status is wanted once per subscription, retained telemetry never.
_SEND_RETAINED: Final = 0
_PUBACK: Final = struct.Struct("!BBH")
_MID_BYTES: Final = 2
_DO_NOT_SEND_RETAINED: Final = 2


def _filters(channel: str, partitions: Partitions) -> list[str]:
    """Return what is subscribed to for a channel of these partitions."""
    levels = ["+"] if partitions == ALL else sorted(partitions)
    return [f"{PREFIX}/{level}/+/up/{channel}" for level in levels]


# Whatever an identity of ours may ever have subscribed to.
_EVERY_FILTER: Final = tuple(
    f"{PREFIX}/{level}/+/up/{channel}" for channel in UP_CHANNELS for level in ("+", *NAMES)
)


class _Client(Client):
    """Reads together what is there; paho itself asks the system again before each packet."""

    received = 0  # messages, counted by whom they are given to

    def loop_read(self, max_packets: int = _READ_AT_ONCE) -> MQTTErrorCode:
        """Read messages until there are none, or enough for other things to have their turn."""
        for _ in range(max_packets):
            before = self.received
            code = super().loop_read()
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or self.received == before:
                return code
        return MQTTErrorCode.MQTT_ERR_SUCCESS


@dataclass(frozen=True, slots=True)
class Subscription:
    """A channel of gateways; whether its retained messages are wanted, and if they may wait a bit.

    What is ``patient`` waits a quarter of a second for company, unless something else comes.
    """

    channel: str
    retained: bool = False
    patient: bool = False


class Consumer:
    """One identity, one MQTT session, one network thread."""

    def __init__(
        self,
        *,
        identity: str,
        host: str,
        port: int,
        ca: Path,
        certificates: Path,
        subscriptions: Sequence[Subscription],
        receive_maximum: int,
        partitions: Partitions = ALL,
        hosts: Sequence[str] = (),
    ) -> None:
        """Prepare; `start` connects. The certificate's CN must be ``identity``.

        Args:
            hosts: Further nodes of the same broker, tried in turn after ``host``.
        """
        self.identity = identity
        self.partitions = partitions
        self._is_share = partitions != ALL
        self._address = (host, port)
        self._hosts = cycle((host, *hosts))
        self._subscriptions = subscriptions
        self._receive_maximum = receive_maximum
        self._patient = frozenset(one.channel for one in subscriptions if one.patient)
        # Something came that is not to wait.
        self._rush = False
        self._queue: deque[Received] = deque()
        self._wanted = 1  # so many messages wake the writer
        self._arrived = threading.Event()
        self._generation = 0
        self._started = False
        self._connected = False
        # Probes of this connection that did not come round yet, and when each was sent.
        self._probes: dict[bytes, datetime] = {}
        self._last_probe = datetime.min.replace(tzinfo=UTC)
        # The broker confirmed the subscription.
        self.connected = False
        self.hearing = Hearing(_PROBE_BREAK)
        self.sessions_lost = 0
        # Monotonic: when a probe last came round, or the subscription was made.
        self.probed_at = time.monotonic()
        self._client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=identity,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
        )
        # paho leaves the parameter's type unsaid.
        self._client.tls_set_context(  # pyright: ignore[reportUnknownMemberType]
            _tls(identity, ca, certificates)
        )
        self._client.reconnect_delay_set(1, _RECONNECT_DELAY_MAX_S)
        self._told = ""  # why there is no connection: once when it begins, not each time
        self.attempts = 0  # in vain
        self._client.on_pre_connect = self._on_pre_connect
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_subscribe = self._on_subscribe
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message

    @property
    def alive(self) -> bool:
        """Whether the network thread runs, where it should."""
        if not self._started:
            return True
        thread: threading.Thread | None = self._client._thread  # pyright: ignore[reportPrivateUsage]
        return thread is not None and thread.is_alive()

    def __len__(self) -> int:
        return len(self._queue)

    def start(self) -> None:
        """Connect in the background, and again whenever the link is lost; twice is once."""
        if self._started:
            return
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = _SESSION_EXPIRY_S
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = PACKET_BYTES_MAX
        host, port = self._address
        self._client.connect_async(
            host, port, keepalive=_KEEPALIVE_S, clean_start=False, properties=properties
        )
        self._client.loop_start()
        # Last: whoever watches takes a started consumer without a thread for a dead one.
        self._started = True

    def stop(self) -> None:
        """Disconnect; the session stays, and with it what was not acknowledged."""
        if not self._started:
            return
        self._started = False
        self._connected = self.connected = False  # on purpose: not a loss to be told
        self.hearing.lost()
        self._client.disconnect()
        self._client.loop_stop()

    def collect(
        self, *, idle_s: float, linger_s: float, messages: int, payload_bytes: int
    ) -> list[Received]:
        """Return the next flush: what came within ``linger_s`` of its first message.

        Returns:
            At most ``messages``, and no more once ``payload_bytes`` are reached; empty after
            ``idle_s`` without any.
        """
        self._wait_for(1, idle_s)
        if self._patient:
            # Never so many that the broker would hold back what is not to wait.
            self._wait_for(min(messages, self._receive_maximum // 4), _PATIENCE_S)
            self._rush = False
        if not self._queue:
            return []
        deadline = time.monotonic() + linger_s
        taken: list[Received] = []
        size = 0
        while len(taken) < messages and size < payload_bytes:
            try:
                message = self._queue.popleft()
            except IndexError:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._wait_for(messages - len(taken), remaining)
                continue
            taken.append(message)
            size += len(message.payload)
        else:
            self._rush = True  # what is left has waited
        return taken

    def _wait_for(self, count: int, seconds: float) -> None:
        """Sleep until so many messages wait, or for so long.

        To be woken by each of them costs more than receiving it.
        """
        self._wanted = count
        self._arrived.clear()
        # Asked after both: whoever comes from here on sees what is wanted.
        if len(self._queue) < count and not (self._rush and self._queue):
            self._arrived.wait(seconds)

    @property
    def probe_topic(self) -> str:
        """Where this identity hears itself: proof that broker, thread and queue all move."""
        return f"{PREFIX}/probe/{self.identity}"

    def probe(self) -> None:
        """Send a probe; `is_probe` notes that it came round.

        With QoS 1, so that it waits in the session's queue behind whatever was published before it:
        what is sent with QoS 0 Mosquitto delivers at once, past all that waits.
        """
        if not self._connected:
            return
        sent_at = datetime.now(UTC)
        is_full = len(self._probes) >= _PROBES_OUT_MAX
        if is_full and abs(sent_at - self._last_probe) < _PROBES_OUT_INTERVAL:
            return
        self._last_probe = sent_at
        name = sent_at.isoformat().encode()
        self._probes[name] = sent_at
        self.publish(self.probe_topic, name, qos=QOS)

    def is_probe(self, message: Received) -> bool:
        """Whether a message is our own probe; if so, note up to when it proves that we hear.

        It is acknowledged here, since nothing of it is stored.
        """
        if message.topic != self.probe_topic:
            return False
        self.probed_at = time.monotonic()
        self.acknowledge([message])
        # One of an earlier connection may have come to the broker at any time.
        sent_at = self._probes.get(message.payload)
        if sent_at is not None and message.generation == self._generation:
            # They come in order: those before it that did not come the broker has dropped.
            for name in list(self._probes):
                self._probes.pop(name, None)  # the network thread may have forgotten all
                if name == message.payload:
                    break
            self.hearing.came_round(sent_at, message.received_at)
        return True

    def is_foreign(self, message: Received) -> bool:
        """Whether a message is of a partition that is not ours, but was when the broker kept it.

        Nobody told its gateway that it is stored, so it is sent again, to whom it belongs to now.
        """
        return self._is_share and of_topic(message.topic) not in self.partitions

    def acknowledge(self, messages: Sequence[Received]) -> None:
        """Send PUBACKs, in order of arrival; those of an earlier connection mean nothing now."""
        generation = self._generation
        pubacks = b"".join(
            _PUBACK.pack(MessageType.PUBACK, _MID_BYTES, message.mid)
            for message in messages
            if message.generation == generation and message.qos == 1
        )
        if pubacks:
            # What `ack` does for each, at once for all: it would wake the network thread, and fill
            # a TLS record, as often as there are messages.
            self._client._packet_queue(MessageType.PUBACK, pubacks, 0, 1)  # pyright: ignore[reportPrivateUsage]

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        """Publish when connected; everything sent here is repeated or harmless to lose."""
        if self._connected:
            self._client.publish(topic, payload, qos=qos, retain=retain)

    def _on_pre_connect(self, client: Client, userdata: object) -> None:
        """Go on to the broker's next node: paho itself would try the same one for ever."""
        del userdata
        self._address = next(self._hosts), self._address[1]
        # Its property `host` may not be set any more by now, and never from an earlier callback
        # without spoiling paho's state.
        client._host = self._address[0]  # pyright: ignore[reportPrivateUsage]

    def _on_connect(
        self,
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del userdata, properties
        if reason.is_failure:
            self._tell_unreachable(f"refused us: {reason}")
            return
        self._told = ""
        # What was received on the old connection and not yet taken comes again on this one.
        self._generation += 1
        self._queue.clear()
        self._probes.clear()
        self._connected = True
        if not flags.session_present:
            self.sessions_lost += 1
        log.info(
            "broker connected identity=%s broker=%s:%d session_present=%s",
            self.identity, *self._address, flags.session_present,
        )  # fmt: skip
        topics = [
            (
                topic,
                SubscribeOptions(
                    qos=QOS,
                    retainHandling=_SEND_RETAINED
                    if subscription.retained
                    else _DO_NOT_SEND_RETAINED,
                ),
            )
            for subscription in self._subscriptions
            for topic in _filters(subscription.channel, self.partitions)
        ]
        wanted = {topic for topic, _ in topics}
        # Besides, a cluster keeps what a session subscribes to with QoS 0 in a queue on one node,
        # without which the session cannot come back.
        topics.append((self.probe_topic, SubscribeOptions(qos=QOS)))
        code, _ = client.subscribe(topics)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            log.error("subscribing failed identity=%s code=%s", self.identity, code)
        if flags.session_present:
            # The session may be one of another share, or of other lanes beside us. Only after the
            # new ones are there: what is in both goes on without a break.
            client.unsubscribe([topic for topic in _EVERY_FILTER if topic not in wanted])

    def _on_connect_fail(self, client: Client, userdata: object) -> None:
        del client, userdata
        # paho calls this while it handles the error, and passes it to nobody.
        self._tell_unreachable(str(sys.exc_info()[1] or "no reason given"))

    def _tell_unreachable(self, reason: str) -> None:
        self.attempts += 1
        if reason != self._told:
            self._told = reason
            log.warning(
                "broker out of reach, retrying identity=%s broker=%s:%d reason=%s",
                self.identity, *self._address, reason,
            )  # fmt: skip

    def _on_subscribe(
        self,
        client: Client,
        userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        del client, userdata, mid, properties
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            log.error("broker refused subscription identity=%s reasons=%s", self.identity, refused)
        else:
            self.connected = True
            self.probed_at = time.monotonic()
            self.probe()

    def _on_disconnect(
        self,
        client: Client,
        userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, flags, properties
        if self._connected:
            log.warning("broker lost identity=%s reason=%s", self.identity, reason)
        elif self._started:
            # Under TLS 1.3 the certificate is judged only after the handshake.
            self._tell_unreachable(f"closed before CONNACK ({reason}): is our certificate refused?")
        self._connected = self.connected = False
        self.hearing.lost()

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        del client, userdata
        self._client.received += 1
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "\N{REPLACEMENT CHARACTER}"  # judged as malformed
        self._queue.append(
            Received(
                self._generation,
                message.mid,
                message.qos,
                topic,
                bytes(message.payload),
                message.retain,
                message.dup,
                datetime.now(UTC),
            )
        )
        if self._patient and topic.rpartition("/")[2] not in self._patient:
            self._rush = True
            self._arrived.set()
        elif len(self._queue) >= self._wanted:
            self._arrived.set()


def _tls(identity: str, ca: Path, certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificates / f"{identity}.crt", certificates / f"{identity}.key")
    return context


def forget_session(
    identity: str, host: str, port: int, *, ca: Path, certificates: Path, timeout_s: float = 10.0
) -> None:
    """Have the broker forget the session of an identity under which nobody runs any more.

    Else it would keep its subscriptions, and queue for nobody, until the session expires. What was
    queued is sent again by the gateways, to whoever owns their partitions now.

    Raises:
        Unavailable: The broker does not answer within ``timeout_s``, or refuses us.
    """
    answered: list[ReasonCode] = []
    arrived = threading.Event()

    def on_connect(
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, flags, properties
        answered.append(reason)
        arrived.set()

    client = Client(
        CallbackAPIVersion.VERSION2, client_id=identity, protocol=MQTTProtocolVersion.MQTTv5
    )
    client.tls_set_context(  # pyright: ignore[reportUnknownMemberType] - as above
        _tls(identity, ca, certificates)
    )
    client.on_connect = on_connect
    try:
        # A clean start, and no expiry said: the session ends with this connection.
        client.connect(host, port, clean_start=True)
    except OSError as error:
        raise Unavailable(f"broker {host}:{port}: {error}") from None
    client.loop_start()
    arrived.wait(timeout_s)
    client.disconnect()
    client.loop_stop()
    if not answered or answered[0].is_failure:
        raise Unavailable(f"broker {host}:{port}: {answered[0] if answered else 'no answer'}")
