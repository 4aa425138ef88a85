# SPDX-License-Identifier: Apache-2.0
"""What the api hears of the live topic: of a city all alerts, but devices of what is watched."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from api import live_topic
from api.config import BrokerAddress
from api.live_topic import Access, LiveTopic
from edge_agent import topics
from edge_agent.messages import Live
from tests.api.serving import device_message, publish
from tests.services import Broker
from tests.stopping import Stop

DEADLINE_S = 60


class Ear:
    """A subscription, and what it heard."""

    def __init__(self, broker: Broker, identity: str) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.changes: asyncio.Queue[bool | None] = asyncio.Queue()
        self.taken_over: asyncio.Queue[None] = asyncio.Queue()
        self._broker = broker
        self.topic = LiveTopic(
            Access(
                BrokerAddress(host=broker.host, port=broker.port, ca=broker.ca),
                identity,
                broker.identity(identity).context(),
            ),
            lambda topic, payload: self.heard.put_nowait(topic),
            self.changes.put_nowait,
            lambda: self.changes.put_nowait(None),
            lambda: self.taken_over.put_nowait(None),
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
        return await self.until(topics.live(community))

    async def until(self, last: str) -> list[str]:
        """What is heard until something is heard on this topic."""
        heard: list[str] = []
        async with asyncio.timeout(DEADLINE_S):
            while last not in heard:
                heard.append(await self.heard.get())
        return heard


@asynccontextmanager
async def listening(broker: Broker, identity: str = "api-live-00") -> AsyncGenerator[Ear]:
    ear = Ear(broker, identity)
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
        while (told := await ear.change()) is False:
            pass  # it looked for the broker before that was back
        assert [told, await ear.change()] == [True, None]
        assert await ear.of("c02") == [topics.live_devices("c02"), topics.live("c02")]


async def test_two_members_hear_the_same_and_leave_each_other_alone(broker: Broker) -> None:
    async with listening(broker) as first, listening(broker, "api-live-01") as second:
        for ear in (first, second):
            await ear.watch("c01")
        both = await first.of("c01")
        assert both == await second.until(topics.live("c01"))
        assert first.changes.empty()
        assert second.changes.empty()


@pytest.mark.parametrize(("dispute_s", "times"), [(60.0, range(2, 3)), (0.0, range(6, 1_000))])
async def test_two_with_one_identity_are_told_once_in_a_dispute(
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    dispute_s: float,
    times: range,
) -> None:
    monkeypatch.setattr(live_topic, "DISPUTE_S", dispute_s)
    monkeypatch.setattr(live_topic, "AWAY_S", (0.05, 0.1))
    async with listening(broker) as first, listening(broker) as second:
        second.taken_over = takeovers = first.taken_over
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(6):  # they take turns
                await takeovers.get()
        for ear in (first, second):
            assert [await ear.change(), await ear.change()] == [False, True]
        # Whoever is pushed off next stays away, so that neither ends while it connects.
        monkeypatch.setattr(live_topic, "AWAY_S", (3_600.0, 3_600.0))
        while not takeovers.empty():
            takeovers.get_nowait()
        async with asyncio.timeout(DEADLINE_S):
            await takeovers.get()
    told = [one.getMessage() for one in caplog.records if one.name == live_topic.__name__]
    assert len(told) in times
    assert all("another api is api-live-00" in text and "[api] member" in text for text in told)


@pytest.mark.parametrize("turns", range(4))
async def test_stop_that_comes_with_the_suback_is_heeded(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    stop = Stop(monkeypatch, "_on_subscribe", turns)
    stop.running = task = asyncio.create_task(Ear(broker, "api-live-00").topic.run())
    await asyncio.wait([task], timeout=DEADLINE_S)
    try:
        assert stop.came
        assert task.cancelled()
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.1)


async def test_stop_while_connecting_leaves_no_connection_behind(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    ear = Ear(broker, "api-live-00")
    task = asyncio.create_task(ear.topic.run())
    for _ in range(5):  # it waits for a thread, which connects
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=DEADLINE_S)
    assert task.cancelled()
    assert ear.changes.empty(), "it was not connected yet"
    del ear, task
    gc.collect()
    assert not left
