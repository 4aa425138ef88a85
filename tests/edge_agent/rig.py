# SPDX-License-Identifier: Apache-2.0
"""What the agent's tests are built from: scripted hardware, a clock to turn, the server's side."""

from __future__ import annotations

import asyncio
import contextlib
import time
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
    check: Callable[[], object], what: str, *, timeout_s: float = 10.0, every_s: float = 0.01
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
    """The server's side of one gateway's topics: hears everything, answers what the test says."""

    gateway: str
    client: aiomqtt.Client
    received: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])

    async def listen(self) -> None:
        async for message in self.client.messages:
            self.received.append((parse_up(message.topic.value).channel, message.payload))

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

    async def ack(self, streams: dict[str, int], *rejected: Rejection) -> None:
        await self.send("ack", encode(Ack(epoch="e1", streams=streams, rejected=rejected)))

    async def command(self, command: Command) -> None:
        await self.send("command", encode(command))

    async def configure(self, config: Config) -> None:
        await self.send("config", encode(config))


@contextlib.asynccontextmanager
async def server(broker: Broker, gateway: str) -> AsyncGenerator[Server]:
    """Be the server for ``gateway``: with the identity of ingest."""
    async with _client(broker.identity("ingest-event-00"), broker) as client:
        made = Server(gateway, client)
        listening = asyncio.create_task(made.listen())
        await client.subscribe(f"{topics.PREFIX}/{topics.partition(gateway)}/{gateway}/up/#", 1)
        try:
            yield made
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await listening


def _client(identity: Identity, broker: Broker) -> aiomqtt.Client:
    return aiomqtt.Client(
        broker.host,
        broker.port,
        identifier=identity.name,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=identity.context(),
    )
