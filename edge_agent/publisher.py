# SPDX-License-Identifier: Apache-2.0
"""Outbox -> broker over aiomqtt, and the server's answers -> outbox.

A PUBACK proves nothing (the broker's queues drop silently and do not survive its crash), so what is
in flight here is what was published and is not yet covered by a watermark. It is bounded per lane,
resent when watermarks stall and on every new connection, and deleted by watermarks alone.
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, cast

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from edge_agent import topics
from edge_agent.clock import Clock, credible
from edge_agent.config import AgentConfig, BrokerConfig
from edge_agent.errors import OutboxUnavailable
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    Command,
    Config,
    Lane,
    PayloadError,
    Rejection,
    Result,
    Status,
    encode,
    parse_ack,
)
from edge_agent.outbox import Outbox

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10.0
FAREWELL_TIMEOUT_S: Final = 2.0
# Telemetry is read and handed over in pieces of this size, so that an event overtakes a backlog.
PIECE: Final = 10
# Answers that await the disk; beyond it rejections are dropped, which costs a resend at worst.
REJECTIONS_MAX: Final = 1_000
_RECEIVE_MAXIMUM: Final = 100
_LANES: Final[tuple[Lane, ...]] = ("event", "telemetry")


@dataclass(slots=True)
class Counters:
    """What happened since the agent started."""

    connected: int = 0
    published: int = 0
    resent: int = 0
    #: By the broker's reason: PUBACKs that said no.
    refused: Counter[str] = field(default_factory=Counter[str])
    #: By the server's reason: messages and readings in the dead letters.
    rejected: Counter[str] = field(default_factory=Counter[str])
    quarantined: int = 0
    impossible: int = 0
    malformed: int = 0
    commands_refused: int = 0


@dataclass(slots=True)
class _Flight:
    """How far one lane was published on the present connection."""

    stream: str = ""
    sent: int = 0
    #: The highest seq ever published, so that what is sent again can be counted.
    sent_max: int = 0
    #: Loop time of the last watermark, or of the first publish into an empty flight; moved on by
    #: the time spent without a connection.
    moved_at: float = 0.0
    #: Loop time of the last time the whole flight was sent again.
    resent_at: float = 0.0
    stalled: bool = False


class Publisher:
    """Connects, publishes, listens, reconnects; for ever."""

    def __init__(
        self,
        config: AgentConfig,
        outbox: Outbox,
        clock: Clock,
        *,
        on_config: Callable[[Config], None],
        rng: random.Random | None = None,
    ) -> None:
        """Take what to publish from, and whom to tell of a new configuration.

        Args:
            rng: Draws the pauses between attempts to connect.
        """
        self.counters = Counters()
        self.status_interval_s = config.sampling.status_interval_s
        self._config = config
        self._outbox = outbox
        self._clock = clock
        self._on_config = on_config
        self._rng = rng or random.Random()  # noqa: S311 (spreads load, hides nothing)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work = asyncio.Event()
        self._answered = asyncio.Event()
        self._reconfigured = asyncio.Event()
        self._watermarks: dict[str, int] = {}
        self._rejections: list[Rejection] = []
        self._config_version = 0
        # Loop time at which the present connection was made; None while there is none.
        self._born_at: float | None = None
        self._lost_at = 0.0
        self._flights: dict[Lane, _Flight] = {lane: _Flight() for lane in _LANES}
        self._topics = _Topics(config.gateway)
        self._told: set[str] = set()

    def notify(self) -> None:
        """Say that the outbox holds something new; from any thread, whether connected or not."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop closed meanwhile: nothing to tell
                loop.call_soon_threadsafe(self._work.set)

    async def run(self) -> None:
        """Keep a connection and publish over it, until cancelled."""
        broker = self._config.broker
        self._loop = asyncio.get_running_loop()
        attempt = 0
        lost: str | None = None
        try:
            while True:
                self._born_at = None
                reason = await self._session()
                self._lost_at = self._loop.time()
                if self._born_at is not None:
                    lost = None
                    # Only a connection that lasted begins a new count: two boxes with one
                    # certificate would otherwise throw each other out as fast as they can.
                    if self._loop.time() - self._born_at >= broker.reconnect_delay_max_s:
                        attempt = 0
                attempt += 1
                if reason != lost:
                    log.warning(
                        "broker out of reach gateway=%s broker=%s:%d reason=%s",
                        self._config.gateway, broker.host, broker.port, reason,
                    )  # fmt: skip
                    lost = reason
                await asyncio.sleep(self.pause_s(attempt))
        finally:
            self._loop = None

    def pause_s(self, attempt: int) -> float:
        """Return how long to wait before the next attempt: full jitter under a doubling limit."""
        low = self._config.broker.reconnect_delay_min_s
        high = min(self._config.broker.reconnect_delay_max_s, low * 2 ** min(attempt, 32))
        return self._rng.uniform(low, high)

    async def _session(self) -> str:
        """Connect and work until the connection is lost; return why."""
        reason = ""
        try:
            async with self._connected() as link:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(link))
                    tasks.create_task(self._settle())
                    tasks.create_task(self._send(link))
                    tasks.create_task(self._heartbeat(link))
        except* (aiomqtt.MqttError, OutboxUnavailable, OSError) as group:
            reason = explain(_first(group))
        return reason

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncGenerator["_Link"]:
        """Yield a connection that is subscribed, and on which the birth was published."""
        broker = self._config.broker
        # Read anew each time: a renewed certificate is taken up by the next connection.
        context = await asyncio.to_thread(tls_context, broker)
        link = _Link(self._config, self._topics.status, context, self._refused)
        try:
            await link.enter()
            self.counters.connected += 1
            log.info(
                "connected gateway=%s broker=%s:%d", self._config.gateway, broker.host, broker.port
            )
            self._begin()
            await link.subscribe([(topic, topics.QOS) for topic in self._topics.down])
            self._say(link, "online")
            yield link
        except asyncio.CancelledError:
            with contextlib.suppress(aiomqtt.MqttError):
                # The will is for accidents; a clean stop discards it, so we say it ourselves.
                await link.publish(
                    self._topics.status, encode(self._status("offline")), topics.QOS, retain=True,
                    timeout=FAREWELL_TIMEOUT_S,
                )  # fmt: skip
            raise
        finally:
            await link.leave()

    def _begin(self) -> None:
        """Forget what earlier connections published: a fresh one starts at the oldest held."""
        self._born_at = now = asyncio.get_running_loop().time()
        for flight in self._flights.values():
            flight.sent = 0
            # A watermark is waited for only while connected.
            flight.moved_at += now - self._lost_at
            flight.resent_at = now
        self._work.set()

    # -- up -----------------------------------------------------------------------------------

    def _say(self, link: "_Link", state: str) -> None:
        link.send(self._topics.status, encode(self._status(state)), retain=True)

    def _status(self, state: str) -> Status:
        now = self._clock.now()
        return Status.model_validate(
            {
                "state": state,
                "at": now if credible(now) else None,
                "agent_version": agent_version(),
                "streams": self._outbox.streams(),
                "outbox_messages": self._outbox.depth(),
                "outbox_bytes": self._outbox.held_bytes(),
                "clock": self._clock.quality(),
                "status_interval_s": self.status_interval_s,
            }
        )

    async def _heartbeat(self, link: "_Link") -> None:
        while True:
            self._reconfigured.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.status_interval_s):
                    await self._reconfigured.wait()
            self._say(link, "online")

    async def _send(self, link: "_Link") -> None:
        """Publish what the windows allow, events first, whenever something changed."""
        while True:
            self._work.clear()
            if await self._send_some(link, "event") or await self._send_some(link, "telemetry"):
                # Something came in meanwhile, or more fits: look again, events first.
                self._work.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s()):
                    await self._work.wait()

    async def _send_some(self, link: "_Link", lane: Lane) -> int:
        """Publish a few messages of one lane; return how many."""
        flight = self._flights[lane]
        state = self._outbox.lane(lane)
        now = asyncio.get_running_loop().time()
        if flight.stream != state.stream:  # the file was damaged and begun anew
            flight.stream, flight.sent, flight.sent_max = state.stream, 0, 0
        if flight.sent >= state.oldest:
            self._watch(lane, flight, state.oldest, now)
        else:
            flight.sent = state.oldest - 1
            if flight.sent_max < state.oldest:  # nothing of what is held was ever published
                flight.moved_at = now
        room = self._config.publishing.window - (flight.sent - state.oldest + 1)
        if room <= 0 or flight.sent >= state.next - 1:
            return 0
        messages = await asyncio.to_thread(
            self._outbox.pending, lane, after=flight.sent, limit=min(room, PIECE)
        )
        topic = self._topics.lanes[lane]
        for one in messages:
            link.send(topic, one.payload)
            flight.sent = one.seq
            if one.seq <= flight.sent_max:
                self.counters.resent += 1
            flight.sent_max = max(flight.sent_max, one.seq)
        self.counters.published += len(messages)
        return len(messages)

    def _watch(self, lane: Lane, flight: _Flight, oldest: int, now: float) -> None:
        """Send a flight again whose watermark stands still; tell people when that does not help."""
        publishing = self._config.publishing
        if now - flight.moved_at >= publishing.alarm_after_s and not flight.stalled:
            flight.stalled = True
            log.error(
                "published but not stored gateway=%s lane=%s oldest=%d seconds=%.0f"
                " (is ingest running, and may this gateway publish?)",
                self._config.gateway, lane, oldest, now - flight.moved_at,
            )  # fmt: skip
        if now - max(flight.moved_at, flight.resent_at) >= publishing.resend_after_s:
            flight.sent = oldest - 1
            flight.resent_at = now

    def _patience_s(self) -> float | None:
        """Return after how long the flights must be looked at again; None: nothing is in flight."""
        now = asyncio.get_running_loop().time()
        waits = [
            max(flight.moved_at, flight.resent_at) + self._config.publishing.resend_after_s - now
            for lane, flight in self._flights.items()
            if flight.sent >= self._outbox.lane(lane).oldest
        ]
        return max(0.0, min(waits)) if waits else None

    def _refused(self, reason: str) -> None:
        """Count a PUBACK that said no; the message stays in the outbox and is sent again."""
        self.counters.refused[reason] += 1
        self._tell_once("broker refuses what is published", reason)

    # -- down ---------------------------------------------------------------------------------

    async def _listen(self, link: "_Link") -> None:
        async for message in link.messages:
            channel = self._topics.down.get(message.topic.value)
            try:
                self._take(link, channel, message.payload)
            except (PayloadError, ValidationError) as error:
                self.counters.malformed += 1
                self._tell_once("malformed message from the server", f"{channel}: {error}")

    def _take(self, link: "_Link", channel: topics.DownChannel | None, payload: bytes) -> None:
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise PayloadError("payload.too_large", f"{len(payload)} bytes")
        match channel:
            case "ack":
                self._take_ack(payload)
            case "command":
                self._refuse_command(link, Command.model_validate_json(payload))
            case "config":
                self._take_config(Config.model_validate_json(payload))
            case None:
                raise PayloadError("topic.unknown", "not subscribed")

    def _take_ack(self, payload: bytes) -> None:
        ack = parse_ack(payload)
        for stream, seq in ack.streams.items():
            self._watermarks[stream] = max(seq, self._watermarks.get(stream, 0))
        room = REJECTIONS_MAX - len(self._rejections)
        self._rejections.extend(ack.rejected[:room])
        for one in ack.rejected:
            self.counters.rejected[one.reason] += 1
            self._tell_once("server rejects what was measured", one.reason)
        self._answered.set()

    async def _settle(self) -> None:
        """Bring the server's answers into the outbox; while one is written the next gather."""
        while True:
            await self._answered.wait()
            self._answered.clear()
            watermarks, self._watermarks = self._watermarks, {}
            rejections, self._rejections = self._rejections, []
            before = {lane: self._outbox.lane(lane).oldest for lane in _LANES}
            done = await asyncio.to_thread(self._outbox.settle, watermarks, rejections)
            self.counters.quarantined += done.quarantined
            for what in done.impossible:
                self.counters.impossible += 1
                self._tell_once("ack.impossible, ignored", what)
            now = asyncio.get_running_loop().time()
            for lane, flight in self._flights.items():
                if self._outbox.lane(lane).oldest > before[lane]:
                    flight.moved_at = now
                    if flight.stalled:
                        flight.stalled = False
                        log.info("stored again gateway=%s lane=%s", self._config.gateway, lane)
            self._work.set()

    def _refuse_command(self, link: "_Link", command: Command) -> None:
        """Answer a command: no driver takes any yet."""
        now = self._clock.now()
        self.counters.commands_refused += 1
        if not credible(now):
            return  # nobody can say whether it expired; the sender learns that by its silence
        expired = command.expires_at <= now
        result = Result(
            command=command.command,
            step="expired" if expired else "refused",
            at=now,
            reason="command.expired" if expired else "command.unsupported",
        )
        link.send(self._topics.result, encode(result))

    def _take_config(self, config: Config) -> None:
        if config.version <= self._config_version:
            return
        self._config_version = config.version
        if config.status_interval_s is not None:
            self.status_interval_s = config.status_interval_s
            self._reconfigured.set()
        self._on_config(config)
        log.info("configured gateway=%s version=%d", self._config.gateway, config.version)

    def _tell_once(self, sentence: str, what: str) -> None:
        """Log a thing that repeats when it is first seen; the counters have the rest."""
        key = f"{sentence} {what}"
        if key not in self._told and len(self._told) < REJECTIONS_MAX:
            self._told.add(key)
            log.warning("%s gateway=%s what=%s", sentence, self._config.gateway, what)


class _Topics:
    """The topics of one gateway, built once."""

    def __init__(self, gateway: str) -> None:
        self.lanes: dict[Lane, str] = {lane: topics.up(gateway, lane) for lane in _LANES}
        self.status = topics.up(gateway, "status")
        self.result = topics.up(gateway, "result")
        channels: tuple[topics.DownChannel, ...] = ("ack", "command", "config")
        self.down: dict[str, topics.DownChannel] = {
            topics.down(gateway, channel): channel for channel in channels
        }


class _Link(aiomqtt.Client):
    """One connection: aiomqtt's client, opened up where it hides or forgets something.

    It hides the PUBACK's reason; it waits for each PUBACK where we bound the flight by watermarks;
    it takes a connection closed before CONNACK for one that is merely slow; and it forgets the
    socket of a connection that failed.
    """

    def __init__(
        self,
        config: AgentConfig,
        status_topic: str,
        context: ssl.SSLContext,
        refused: Callable[[str], None],
    ) -> None:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0
        properties.ReceiveMaximum = _RECEIVE_MAXIMUM
        super().__init__(
            config.broker.host,
            config.broker.port,
            identifier=config.gateway,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=config.broker.keepalive_s,
            timeout=CONNECT_TIMEOUT_S,
            properties=properties,
            tls_context=context,
            will=aiomqtt.Will(
                status_topic, encode(Status(state="offline")), qos=topics.QOS, retain=True
            ),
        )
        self._on_refused = refused
        self._client.connect_timeout = CONNECT_TIMEOUT_S

    async def enter(self) -> None:
        """Connect.

        Raises:
            aiomqtt.MqttError: The broker cannot be reached, or refuses.
        """
        entering = asyncio.ensure_future(self.__aenter__())
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            # The thread that connects cannot be cancelled; what it opens must be closed again.
            with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                    await entering
            raise

    async def leave(self) -> None:
        """Disconnect, whatever state the connection is in."""
        if self._connected.done():
            with contextlib.suppress(aiomqtt.MqttError):
                await self.__aexit__(None, None, None)
        sock = self._client.socket()
        if sock is not None and sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()
        if self._misc_task is not None:
            self._misc_task.cancel()

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hand a message to the connection; whether it arrived is for a watermark to say.

        Raises:
            aiomqtt.MqttError: The connection is lost.
        """
        info = self._client.publish(topic, payload, topics.QOS, retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(info.rc, "cannot publish")

    def _on_publish(
        self,
        client: paho.Client,
        userdata: Any,  # noqa: ANN401 (paho's)
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        super()._on_publish(client, userdata, mid, reason_code, properties)
        if reason_code.is_failure:
            self._on_refused(str(reason_code))

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,  # noqa: ANN401 (paho's)
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("closed before CONNACK"))


class _Socket(ssl.SSLSocket):
    """A TLS socket that closes when its handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(broker: BrokerConfig) -> ssl.SSLContext:
    """Return the TLS settings: the broker's name is verified, the gateway shows its certificate.

    Raises:
        OSError: A file is missing, or does not hold what it should; the text names the file.
    """
    for path in (broker.ca, broker.certificate, broker.key):
        _readable(path)
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(broker.ca))
    except ssl.SSLError as error:
        raise OSError(f"{broker.ca}: holds no CA certificate in PEM form") from error
    context.sslsocket_class = _Socket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(broker.certificate, broker.key)
    except ssl.SSLError as error:
        raise OSError(
            f"{broker.certificate}, {broker.key}: no certificate with its own key in PEM form"
            f" ({error.reason})"
        ) from error
    return context


def _readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise OSError(f"{path}: cannot read: {error.strerror}") from error


_HINTS: Final = (
    # Under TLS 1.3 a client learns only after the handshake that its certificate was refused.
    ("closed before CONNACK", "certificate refused? check broker.certificate: issuer, dates"),
    ("not yet valid", "is this box's clock right?"),
    ("Unspecified error", "the connection ended without a word: link or broker went away"),
    ("Session taken over", "another client shows this gateway's certificate: is it in two boxes?"),
    ("CERTIFICATE_VERIFY_FAILED", "the broker's certificate does not fit broker.ca or broker.host"),
    ("ALERT", "the broker refused broker.certificate: check issuer, dates, revocation"),
    ("Connection refused", "nothing listens at broker.host, broker.port: is the broker running?"),
    ("WRONG_VERSION_NUMBER", "no TLS at broker.port: is it the right port?"),
)


def explain(error: BaseException) -> str:
    """Return why a connection failed, with a hint to the operator where we know one."""
    # aiomqtt keeps the broker's own reason as the cause of a general sentence.
    cause = error.__cause__ or error
    text = str(cause) or type(cause).__name__
    for mark, hint in _HINTS:
        if mark in text:
            return f"{text}: {hint}"
    return text


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return _first(cast("BaseExceptionGroup[BaseException]", first))
    return first


@cache
def agent_version() -> str:
    """Return the installed version of Linli, or "0" where it runs from a bare checkout."""
    try:
        return metadata.version("linli")
    except metadata.PackageNotFoundError:
        return "0"
