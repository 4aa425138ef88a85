# SPDX-License-Identifier: Apache-2.0
"""Stopping in the very moment in which something else happens: asyncio may then lose the word."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from edge_agent.agent import Agent
from edge_agent.config import AgentConfig
from tests.edge_agent.rig import HandClock, config_for, eventually, server
from tests.proxy import ProxyFactory
from tests.services import Broker
from tests.stopping import Stop


@contextlib.asynccontextmanager
async def started(config: AgentConfig) -> AsyncGenerator[asyncio.Task[None]]:
    """Publish for an agent without devices, and end that whatever it did not hear."""
    agent = Agent(config, [], HandClock())
    task = asyncio.create_task(agent.publisher.run())
    try:
        yield task
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.1)
        agent.close()


@pytest.mark.parametrize("turns", range(4))
async def test_stop_that_comes_with_the_suback_is_heeded(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    gateway = f"gw-suback-{turns}"
    async with server(broker, gateway) as ingest:
        stop = Stop(monkeypatch, "_on_subscribe", turns)
        async with started(config_for(tmp_path, broker, gateway)) as task:
            stop.running = task
            await eventually(lambda: stop.came, "subscribed")
            await asyncio.wait([task], timeout=30)
            assert task.cancelled()
        await eventually(
            lambda: ingest.statuses and ingest.statuses[-1].state == "offline", "said goodbye"
        )


@pytest.mark.parametrize("turns", range(10))
async def test_stop_that_comes_with_the_end_of_the_connection_is_heeded(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: ProxyFactory, turns: int
) -> None:
    gateway = f"gw-torn-{turns}"
    link = proxy(broker.port)
    async with server(broker, gateway) as ingest:
        stop = Stop(monkeypatch, "_on_disconnect", turns)
        async with started(config_for(tmp_path, broker, gateway, port=link.port)) as task:
            await eventually(lambda: ingest.statuses, "connected")
            stop.running = task
            link.cut()
            await eventually(lambda: stop.came, "torn")
            await asyncio.wait([task], timeout=30)
            assert task.cancelled()
