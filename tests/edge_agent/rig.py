# SPDX-License-Identifier: Apache-2.0
"""What the agent's tests are built from: scripted hardware, a clock to turn, the server's side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt

from edge_agent import topics
from edge_agent.agent import Agent
from edge_agent.config import AgentConfig
from edge_agent.kinds import Observation
from edge_agent.kinds.lamp import LampReading
from edge_agent.lanes import Draft
from edge_agent.messages import (
    Ack,
    ClockQuality,
    Command,
    Config,
    EventMessage,
    Rejection,
    Result,
    Status,
    Telemetry,
    encode,
    parse_event,
    parse_result,
    parse_status,
)
from edge_agent.topics import parse_up
from tests.services import Broker, Identity

T0 = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)


class HandClock:
    """A clock that moves when told to."""

    def __init__(self, at: datetime = T0, quality: ClockQuality = "synchronized") -> None:
        self.at = at
        self._quality: ClockQuality = quality

    def now(self) -> datetime:
        return self.at

    def quality(self) -> ClockQuality:
        return self._quality

    def step(self, seconds: float) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at


class Script:
    """A driver that reports what the test put on it; without that, an unlit lamp."""

    def __init__(self, device: str, kind: str = "lamp") -> None:
        self._device = device
        self._kind = kind
        self.next: list[Sequence[Observation] | Exception] = []
        self.wake: Callable[[], None] = lambda: None
        self.polls = 0

    @property
    def device(self) -> str:
        return self._device

    @property
    def kind(self) -> str:
        return self._kind

    def attach(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def poll(self, now: datetime) -> Sequence[Observation]:
        self.polls += 1
        if not self.next:
            return [] if self._kind != "lamp" else [lamp(self._device, now)]
        observations = self.next.pop(0)
        if isinstance(observations, Exception):
            raise observations
        return observations


def lamp(device: str, at: datetime, **values: Any) -> LampReading:
    given: dict[str, Any] = {"lit": False, "power_w": 0.5} | values
    return LampReading(device=device, at=at, **given)


def noise(readings: int = 13, seed: int = 0) -> Draft:
    """Telemetry as meters tell it: every digit new, every reading another instant."""
    rng = random.Random(seed)
    found = tuple(
        lamp(
            f"c01-lamp-{rng.randrange(200):03d}",
            T0 + timedelta(microseconds=rng.randrange(1_000_000)),
            lit=rng.random() < 0.5,
            level_pct=100.0,
            power_w=round(rng.gauss(41, 1), 1),
            voltage_v=round(rng.gauss(230, 2), 1),
            current_a=round(rng.gauss(0.18, 0.01), 3),
            energy_kwh=round(rng.uniform(1_000, 2_000), 2),
            burn_hours=round(rng.uniform(4_000, 5_000), 1),
        )
        for _ in range(readings)
    )

    def make(stream: str, seq: int) -> Telemetry:
        return Telemetry(stream=stream, seq=seq, sent_at=T0, readings=found)

    return Draft("telemetry", make)


def config_for(
    folder: Path, broker: Broker, gateway: str, /, *, port: int | None = None, **sections: Any
) -> AgentConfig:
    """An agent's configuration with short pauses; ``sections`` are merged into it."""
    identity = broker.identity(gateway)
    document: dict[str, Any] = {
        "gateway": gateway,
        "community": "c01",
        "data": folder / gateway,
        "broker": {
            "host": broker.host,
            "port": port or broker.port,
            "ca": identity.ca,
            "certificate": identity.certificate,
            "key": identity.key,
            "reconnect_delay_min_s": 0.05,
            "reconnect_delay_max_s": 0.2,
        },
        "pseudonym": {"key_file": folder / "pseudonym.key"},
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section
    return AgentConfig.model_validate(document)


def offline_config(folder: Path, **sections: Any) -> AgentConfig:
    """A configuration for an agent that is never run."""
    files = dict.fromkeys(("ca", "certificate", "key"), folder / "none")
    document: dict[str, Any] = {
        "gateway": "gw-test",
        "community": "c01",
        "data": folder / "data",
        "broker": {"host": "127.0.0.1", **files},
        "pseudonym": {"key_file": folder / "pseudonym.key"},
    }
    return AgentConfig.model_validate(document | sections)


async def eventually(
    check: Callable[[], object], what: str, *, timeout_s: float = 20.0, every_s: float = 0.01
) -> None:
    """Wait, without holding the loop, until ``check`` is true."""
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, f"after {timeout_s:g} s still not: {what}"
        await asyncio.sleep(every_s)


@contextlib.asynccontextmanager
async def running(agent: Agent, *, sample: bool = False) -> AsyncGenerator[Agent]:
    """Run the agent for the length of the block, then stop it cleanly; it stays open."""
    task = asyncio.create_task(agent.run(sample=sample))
    try:
        yield agent
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@dataclass
class Server:
    """The server's side of one gateway's topics: hears everything, stores what the test says.

    Like ingest it answers each status with how far the streams named in it are stored.
    """

    gateway: str
    client: aiomqtt.Client
    received: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    stored: dict[str, int] = field(default_factory=dict[str, int])
    answers: bool = True
    #: Store whatever comes, and say so, as ingest does; else the test says what is stored.
    stores: bool = False
    seen: dict[str, set[int]] = field(default_factory=lambda: defaultdict[str, set[int]](set))
    untold: set[str] = field(default_factory=set[str])
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        async for message in self.client.messages:
            channel = parse_up(message.topic.value).channel
            self.received.append((channel, message.payload))
            if channel == "status" and self.answers:
                await self.answer(parse_status(message.payload))
            elif channel in ("telemetry", "event") and self.stores:
                self.store(message.payload)

    async def answer(self, status: Status) -> None:
        if self.stores:
            self.untold.update(one.stream for one in status.streams)
            self.news.set()
        elif status.streams:
            await self.ack({one.stream: self.stored.get(one.stream, 0) for one in status.streams})

    def store(self, payload: bytes) -> None:
        document = json.loads(payload)
        stored = {document["stream"]: [document["seq"]]}
        if document.get("event", {}).get("kind") == "gap":
            gap = document["event"]
            stored.setdefault(gap["stream"], []).extend(range(gap["first"], gap["last"] + 1))
        for stream, seqs in stored.items():
            self.seen[stream].update(seqs)
        self.untold.update(stored)
        self.news.set()

    async def tell(self) -> None:
        """Say how far streams are stored, and what of them beyond the first hole."""
        while True:
            await self.news.wait()
            self.news.clear()
            untold, self.untold = self.untold, set[str]()
            streams: dict[str, int] = {}
            beyond: dict[str, tuple[tuple[int, int], ...]] = {}
            for stream in untold:
                ranges = [(0, self.stored.get(stream, 0))]
                for seq in sorted(seq for seq in self.seen[stream] if seq > ranges[0][1]):
                    if ranges[-1][1] == seq - 1:
                        ranges[-1] = (ranges[-1][0], seq)
                    else:
                        ranges.append((seq, seq))
                streams[stream] = ranges[0][1]
                if ranges[1:]:
                    beyond[stream] = tuple(ranges[1:17])
            await self.ack(streams, beyond=beyond or None)

    @property
    def telemetry(self) -> list[Telemetry]:
        return [
            Telemetry.model_validate_json(payload)
            for channel, payload in self.received
            if channel == "telemetry"
        ]

    @property
    def events(self) -> list[EventMessage]:
        return [parse_event(payload) for channel, payload in self.received if channel == "event"]

    @property
    def statuses(self) -> list[Status]:
        return [parse_status(payload) for channel, payload in self.received if channel == "status"]

    @property
    def results(self) -> list[Result]:
        return [parse_result(payload) for channel, payload in self.received if channel == "result"]

    def lane_seqs(self, channel: str) -> list[int]:
        """The seqs in the order they arrived, repetitions included."""
        messages = self.telemetry if channel == "telemetry" else self.events
        return [message.seq for message in messages]

    async def send(self, channel: topics.DownChannel, payload: bytes) -> None:
        await self.client.publish(
            topics.down(self.gateway, channel), payload, 1, channel in topics.RETAINED
        )

    async def ack(
        self,
        streams: dict[str, int],
        *rejected: Rejection,
        beyond: dict[str, tuple[tuple[int, int], ...]] | None = None,
    ) -> None:
        self.stored |= streams
        ack = Ack(epoch="e1", streams=streams, beyond=beyond, rejected=rejected)
        await self.send("ack", encode(ack))

    async def command(self, command: Command) -> None:
        await self.send("command", encode(command))

    async def configure(self, config: Config) -> None:
        await self.send("config", encode(config))


@contextlib.asynccontextmanager
async def server(broker: Broker, gateway: str) -> AsyncGenerator[Server]:
    """Be the server for ``gateway``: with the identity of ingest."""
    async with _client(broker.identity("ingest-event-00"), broker) as client:
        made = Server(gateway, client)
        tasks = [asyncio.create_task(made.listen()), asyncio.create_task(made.tell())]
        await client.subscribe(f"{topics.PREFIX}/{topics.partition(gateway)}/{gateway}/up/#", 1)
        try:
            yield made
        finally:
            for task in tasks:
                # Again, because a wait that ends at that very moment swallows a cancellation.
                while not task.done():
                    task.cancel()
                    await asyncio.wait([task], timeout=0.1)


def _client(identity: Identity, broker: Broker) -> aiomqtt.Client:
    return aiomqtt.Client(
        broker.host,
        broker.port,
        identifier=identity.name,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=identity.context(),
    )
