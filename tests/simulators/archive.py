# SPDX-License-Identifier: Apache-2.0
"""The server's side of every gateway: keeps what it hears, says up to where nothing is missing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import aiomqtt

from edge_agent import topics
from edge_agent.kinds import Event, Reading
from edge_agent.messages import Ack, GapEvent, encode, parse_event, parse_status, parse_telemetry
from tests.services import Broker


class Name(NamedTuple):
    """What names one message for ever."""

    gateway: str
    stream: str
    seq: int


@dataclass
class Archive:
    """Every message heard, once; a repetition with other content fails the test."""

    messages: dict[Name, bytes] = field(default_factory=dict[Name, bytes])
    readings: list[Reading] = field(default_factory=list[Reading])
    events: list[Event | GapEvent] = field(default_factory=list[Event | GapEvent])
    seen: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def keep(self, topic: str, payload: bytes) -> tuple[str, list[str]]:
        """Keep a message; return its gateway, and the streams to say the watermarks of."""
        place = topics.parse_up(topic)
        match place.channel:
            case "telemetry":
                batch = parse_telemetry(payload)
                stream, seq = batch.stream, batch.seq
                found = [reading for _, reading in batch.readings]
            case "event":
                message = parse_event(payload)
                stream, seq = message.stream, message.seq
                found = [message.event]
            case "status":
                # Each birth and heartbeat asks how far the streams it names are stored.
                return place.gateway, [lane.stream for lane in parse_status(payload).streams]
            case _:
                return place.gateway, []
        name = Name(place.gateway, stream, seq)
        if name in self.messages:
            assert self.messages[name] == payload
        else:
            self.messages[name] = payload
            self.seen[stream].add(seq)
            for one in found:
                if place.channel == "telemetry":
                    self.readings.append(one)  # pyright: ignore[reportArgumentType] # by channel
                else:
                    self.events.append(one)  # pyright: ignore[reportArgumentType] # by channel
        return place.gateway, [stream]

    def watermark(self, stream: str) -> int:
        """The seq up to which nothing is missing."""
        upto = 0
        while upto + 1 in self.seen[stream]:
            upto += 1
        return upto


@asynccontextmanager
async def archive(broker: Broker) -> AsyncGenerator[Archive]:
    """Be the server for all gateways while the block lasts."""
    identity = broker.identity("ingest-telemetry-00")
    made = Archive()
    async with aiomqtt.Client(
        broker.host,
        broker.port,
        identifier=identity.name,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=identity.context(),
        max_queued_incoming_messages=100_000,
    ) as client:
        await client.subscribe(f"{topics.PREFIX}/+/+/up/#", 1)

        async def listen() -> None:
            async for message in client.messages:
                gateway, streams = made.keep(message.topic.value, message.payload)
                if streams:
                    ack = Ack(epoch="e1", streams={name: made.watermark(name) for name in streams})
                    await client.publish(topics.down(gateway, "ack"), encode(ack), 1)

        listening = asyncio.create_task(listen())
        try:
            yield made
        finally:
            # More than once: aiomqtt's wait_for loses a cancellation that comes with the answer
            # (Python 3.11).
            while not listening.done():
                listening.cancel()
                await asyncio.wait([listening], timeout=0.1)
            if not listening.cancelled():
                listening.result()
