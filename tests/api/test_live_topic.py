# SPDX-License-Identifier: Apache-2.0
"""What the api hears of the live topic: of a city all alerts, but devices of what is watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from api.config import BrokerAddress
from api.live_topic import IDENTITY, LiveTopic
from edge_agent import topics
from edge_agent.messages import Live
from tests.api.serving import device_message, publish
from tests.services import Broker

DEADLINE_S = 20


class Ear:
    """A subscription, and what it heard."""

    def __init__(self, broker: Broker) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.changes: asyncio.Queue[bool | None] = asyncio.Queue()
        self._broker = broker
        self.topic = LiveTopic(
            BrokerAddress(host=broker.host, port=broker.port, ca=broker.ca),
            broker.identity(IDENTITY).context(),
            lambda topic, payload: self.heard.put_nowait(topic),
            self.changes.put_nowait,
            lambda: self.changes.put_nowait(None),
        )

    async def watch(self, *communities: str) -> None:
        """Watch them, and wait until more is heard than before."""
        self.topic.watch(communities)
        assert await self.change() is None

    async def change(self) -> bool | None:
        """The next thing told: connected or not, or (None) devices that were not heard before."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.changes.get()

    async def of(self, community: str) -> list[str]:
        """Have a device and then an alert of a community told; return what was heard of it."""
        now = datetime.now(UTC)
        await publish(self._broker, community, device_message(f"{community}-lamp-001", now))
        await publish(self._broker, community, Live(at=now, alerts=("a",)))
        heard: list[str] = []
        async with asyncio.timeout(DEADLINE_S):
            while topics.live(community) not in heard:
                heard.append(await self.heard.get())
        return heard


@asynccontextmanager
async def listening(broker: Broker) -> AsyncGenerator[Ear]:
    ear = Ear(broker)
    task = asyncio.create_task(ear.topic.run())
    try:
        assert await ear.change()
        yield ear
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_devices_are_heard_of_watched_communities_alone(broker: Broker) -> None:
    both = [topics.live_devices("c01"), topics.live("c01")]
    async with listening(broker) as ear:
        assert await ear.of("c01") == both[1:]
        await ear.watch("c01")
        assert await ear.of("c01") == both
        assert await ear.of("c02") == [topics.live("c02")]
        await ear.watch("c02")
        assert await ear.of("c02") == [topics.live_devices("c02"), topics.live("c02")]
        assert await ear.of("c01") == both[1:]


async def test_what_is_watched_is_heard_again_after_the_broker_was_lost(own_broker: Broker) -> None:
    async with listening(own_broker) as ear:
        await ear.watch("c01", "c02")
        await asyncio.to_thread(own_broker.server.kill)
        assert await ear.change() is False
        await asyncio.to_thread(own_broker.server.start)
        assert [await ear.change(), await ear.change()] == [True, None]
        assert await ear.of("c02") == [topics.live_devices("c02"), topics.live("c02")]
