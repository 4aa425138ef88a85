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
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from importlib import metadata
from itertools import cycle
from typing import Final, cast

import aiomqtt
from pydantic import ValidationError

from edge_agent import topics
from edge_agent.clock import Clock, credible
from edge_agent.config import AgentConfig
from edge_agent.errors import OutboxUnavailable
from edge_agent.flights import Cursor, Flight, Pace, Range
from edge_agent.lanes import Stored
from edge_agent.link import FAREWELL_TIMEOUT_S, Link, explain, heed_cancellation, tls_context
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
from edge_agent.outbox_file import milliseconds

log = logging.getLogger(__name__)

# Telemetry is read and handed over in pieces of this size, so that an event overtakes a backlog.
PIECE: Final = 10
# Answers that await the disk; beyond it rejections are dropped, which costs a resend at worst.
REJECTIONS_MAX: Final = 1_000
# How often the server is asked how far streams found on the disk are stored, until it answers.
CONFIRM_INTERVAL_S: Final = 5.0
# After how long a flight goes again of which the broker refused something, or reached nobody with
# it: rights come back, subscribers too, and a probe every few seconds costs little.
REFUSED_RESEND_AFTER_S: Final = 5.0
_LANES: Final[tuple[Lane, ...]] = ("event", "telemetry")


@dataclass(slots=True)
class Counters:
    """What happened since the agent started."""

    connected: int = 0
    published: int = 0
    resent: int = 0
    #: Of those published: what was overtaken by what was measured later.
    backlog: int = 0
    #: Streams begun anew because the file was an old copy.
    renewed: int = 0
    #: By the broker's reason: PUBACKs that said no.
    refused: Counter[str] = field(default_factory=Counter[str])
    #: By the server's reason: messages and readings in the dead letters.
    rejected: Counter[str] = field(default_factory=Counter[str])
    quarantined: int = 0
    impossible: int = 0
    malformed: int = 0
    commands_refused: int = 0


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
        self._beyond: dict[str, tuple[Range, ...]] = {}
        self._rejections: list[Rejection] = []
        self._config_version = 0
        # Loop time at which the present connection was made; None while there is none.
        self._born_at: float | None = None
        self._lost_at = 0.0
        self._refused_at = float("-inf")  # loop time
        self._flights: dict[Lane, Flight] = {lane: Flight() for lane in _LANES}
        self._pace = Pace(config.publishing.backlog_messages_per_s)
        self._topics = _Topics(config.gateway)
        # Each connection is tried at the broker's next node; gateways begin spread over them all.
        hosts = (config.broker.host, *config.broker.hosts)
        first = int(topics.partition(config.gateway), 16) % len(hosts)
        self._hosts = cycle((*hosts[first:], *hosts[:first]))
        self._host = hosts[first]
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
                # In a task of its own: see `heed_cancellation`.
                reason = await asyncio.create_task(self._session())
                heed_cancellation()
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
                        self._config.gateway, self._host, broker.port, reason,
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
    async def _connected(self) -> AsyncGenerator[Link]:
        """Yield a connection that is subscribed, and on which the birth was published."""
        broker = self._config.broker
        # Read anew each time: a renewed certificate is taken up by the next connection.
        context = await asyncio.to_thread(tls_context, broker)
        self._host = next(self._hosts)
        link = Link(self._config, self._host, self._topics.status, context, self._refused)
        try:
            await link.enter()
            self.counters.connected += 1
            log.info(
                "connected gateway=%s broker=%s:%d", self._config.gateway, self._host, broker.port
            )
            self._begin()
            await link.subscribe([(topic, topics.QOS) for topic in self._topics.down])
            heed_cancellation()
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
            flight.connected(now, now - self._lost_at)
        self._work.set()

    # -- up -----------------------------------------------------------------------------------

    def _say(self, link: Link, state: str) -> None:
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
                "outbox_bytes": self._outbox.used_bytes(),
                "outbox_limit_bytes": self._outbox.limit_bytes(),
                "outbox_hours": self._outbox.hours(),
                "clock": self._clock.quality(),
                "status_interval_s": self.status_interval_s,
            }
        )

    async def _heartbeat(self, link: Link) -> None:
        while True:
            self._reconfigured.clear()
            interval_s = self.status_interval_s
            if not all(self._outbox.lane(lane).confirmed for lane in _LANES):
                interval_s = min(interval_s, CONFIRM_INTERVAL_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._reconfigured.wait()
            self._say(link, "online")

    async def _send(self, link: Link) -> None:
        """Publish what the windows allow, events first, whenever something changed."""
        while True:
            self._work.clear()
            if await self._send_events(link) or await self._send_telemetry(link):
                # Something came in meanwhile, or more fits: look again, events first.
                self._work.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s()):
                    await self._work.wait()

    async def _send_events(self, link: Link) -> int:
        """Publish a few events; return how many."""
        flight = self._look("event")
        return self._publish(link, "event", flight.main, await self._next("event", flight.main))

    async def _send_telemetry(self, link: Link) -> int:
        """Publish a few telemetry messages, what is measured now before a backlog."""
        flight = self._look("telemetry")
        if flight.live is None:
            messages = await self._next("telemetry", flight.main)
            if not messages or not self._late(messages[0]):
                return self._publish(link, "telemetry", flight.main, messages)
            await self._part(flight, messages[0])
        live = flight.live
        if live is not None:
            sent = self._publish(link, "telemetry", live, await self._next("telemetry", live))
            if sent:
                return sent
        now = asyncio.get_running_loop().time()
        messages = await self._next("telemetry", flight.main, self._pace.room(now))
        self._pace.spend(len(messages), now)
        self.counters.backlog += len(messages)
        return self._publish(link, "telemetry", flight.main, messages)

    def _look(self, lane: Lane) -> Flight:
        """Bring a lane's flight up to date, and have sent again what takes too long."""
        flight, state = self._flights[lane], self._outbox.lane(lane)
        now = asyncio.get_running_loop().time()
        flight.look(state, now)
        self._watch(lane, flight, now)
        return flight

    async def _next(self, lane: Lane, cursor: Cursor, limit: int = PIECE) -> list[Stored]:
        """Return the next messages that may be published at a cursor."""
        flight, state = self._flights[lane], self._outbox.lane(lane)
        limit = min(limit, PIECE, flight.room(cursor, self._config.publishing.window))
        end = flight.live_first if flight.live is not None and cursor is flight.main else state.next
        first = flight.following(cursor.sent + 1)
        if not state.confirmed or limit <= 0 or first >= end:
            return []
        cursor.sent = max(cursor.sent, first - 1)
        found = await asyncio.to_thread(
            self._outbox.pending, lane, after=first - 1, limit=min(limit, end - first)
        )
        return [one for one in found if one.seq < end and flight.following(one.seq) == one.seq]

    def _publish(self, link: Link, lane: Lane, cursor: Cursor, messages: list[Stored]) -> int:
        """Publish; return how many."""
        topic = self._topics.lanes[lane]
        for one in messages:
            link.send(topic, one.payload)
            cursor.sent = one.seq
            if one.seq <= cursor.sent_max:
                self.counters.resent += 1
            cursor.sent_max = max(cursor.sent_max, one.seq)
        self.counters.published += len(messages)
        return len(messages)

    def _late(self, message: Stored) -> bool:
        """Return whether a message has been waiting so long that later ones may overtake it."""
        now = self._clock.now()
        after_s = self._config.publishing.backlog_after_s
        return credible(now) and message.at_ms < milliseconds(now) - after_s * 1000

    async def _part(self, flight: Flight, oldest: Stored) -> None:
        """Let what is measured now overtake a backlog, which ``oldest`` begins."""
        since = self._clock.now() - timedelta(seconds=self._config.publishing.backlog_after_s)
        first = await asyncio.to_thread(self._outbox.first_since, "telemetry", since)
        first = max(first, oldest.seq + 1)
        flight.part(first, asyncio.get_running_loop().time())
        log.info(
            "backlog waits behind what is measured now gateway=%s first=%d last=%d",
            self._config.gateway, oldest.seq, first - 1,
        )  # fmt: skip

    def _watch(self, lane: Lane, flight: Flight, now: float) -> None:
        """Send a flight again whose watermark stands still; tell people when that does not help."""
        publishing = self._config.publishing
        main = flight.main
        if main.flying and now - main.moved_at >= publishing.alarm_after_s and not flight.stalled:
            flight.stalled = True
            log.error(
                "published but not stored gateway=%s lane=%s oldest=%d seconds=%.0f"
                " (is ingest running, and may this gateway publish?)",
                self._config.gateway, lane, main.stored + 1, now - main.moved_at,
            )  # fmt: skip
        for cursor in flight.cursors():
            if flight.lost(cursor):
                cursor.begin_again(now)
            elif cursor.flying and cursor.silent_s(now) >= self._resend_after_s(cursor):
                cursor.begin_again_in_vain(now)

    def _resend_after_s(self, cursor: Cursor) -> float:
        """Return how long a flight may stand still: less where the broker said it took nothing."""
        resend_after_s = self._config.publishing.resend_after_s
        if self._refused_at > cursor.resent_at:
            return min(REFUSED_RESEND_AFTER_S, resend_after_s)
        return resend_after_s * cursor.patience

    def _patience_s(self) -> float | None:
        """Return after how long the flights must be looked at again; None: nothing is in flight."""
        now = asyncio.get_running_loop().time()
        waits = [
            self._resend_after_s(cursor) - cursor.silent_s(now)
            for flight in self._flights.values()
            for cursor in flight.cursors()
            if cursor.flying
        ]
        telemetry = self._flights["telemetry"]
        if telemetry.live is not None and telemetry.main.sent < telemetry.live_first - 1:
            waits.append(self._pace.wait_s(now))
        return max(0.0, min(waits)) if waits else None

    def _refused(self, reason: str) -> None:
        """Count a PUBACK that said no; the message stays in the outbox and is sent again."""
        self.counters.refused[reason] += 1
        self._refused_at = asyncio.get_running_loop().time()
        self._work.set()
        self._tell_once("broker refuses what is published", reason)

    # -- down ---------------------------------------------------------------------------------

    async def _listen(self, link: Link) -> None:
        async for message in link.messages:
            channel = self._topics.down.get(message.topic.value)
            try:
                self._take(link, channel, message.payload)
            except (PayloadError, ValidationError) as error:
                self.counters.malformed += 1
                self._tell_once("malformed message from the server", f"{channel}: {error}")

    def _take(self, link: Link, channel: topics.DownChannel | None, payload: bytes) -> None:
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
            self._beyond[stream] = (ack.beyond or {}).get(stream, ())
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
            beyond, self._beyond = self._beyond, {}
            rejections, self._rejections = self._rejections, []
            done = await asyncio.to_thread(self._outbox.settle, watermarks, rejections)
            self.counters.quarantined += done.quarantined
            for what in done.impossible:
                self.counters.impossible += 1
                self._tell_once("ack.impossible, ignored", what)
            if done.renewed:
                self.counters.renewed += len(done.renewed)
                self._reconfigured.set()  # the server is told the new streams
            self._stored(beyond)
            self._work.set()

    def _stored(self, beyond: Mapping[str, tuple[Range, ...]]) -> None:
        """Bring the flights up to date with what the server has stored."""
        now = asyncio.get_running_loop().time()
        for lane, flight in self._flights.items():
            state = self._outbox.lane(lane)
            if state.stream in beyond:
                flight.tell_stored(beyond[state.stream], state)
            before = flight.main.stored
            flight.look(state, now)
            if flight.stalled and flight.main.stored > before:
                flight.stalled = False
                log.info("stored again gateway=%s lane=%s", self._config.gateway, lane)

    def _refuse_command(self, link: Link, command: Command) -> None:
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
