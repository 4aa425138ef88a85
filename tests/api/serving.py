# SPDX-License-Identifier: Apache-2.0
"""The api as people get it: a process with a socket, and readers of its live stream."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import httpx2
import psycopg

from deploy.services import HOST, Process, free_port, mortal
from edge_agent import topics
from edge_agent.messages import Live, LiveDevices, encode
from tests.api.conftest import session_token
from tests.services import Broker, until

EVENT_TIMEOUT_S = 40.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running ``linli-api serve``."""

    process: Process
    url: str
    dsn: str
    broker: Broker

    def client(self, who: str | None = None) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=self.url,
            headers={"Origin": self.url},
            cookies={} if who is None else {"linli_session": session_token(who)},
            timeout=EVENT_TIMEOUT_S,
        )

    def execute(self, statement: str, *parameters: object) -> None:
        """Change something in the tables, as ingest would."""
        with psycopg.connect(self.dsn) as conn:
            conn.execute(statement.encode(), parameters)


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    id: str | None
    data: Any


class Reader:
    """Reads one stream, event by event."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._events = _parse(lines)

    async def next(self, *names: str) -> Event:
        """The next event of one of these names; pings and what else comes between is skipped."""
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            async for event in self._events:
                if event.name in names:
                    return event
        raise AssertionError(f"the stream ended without {names}")

    async def change(self, device: str) -> dict[str, Any]:
        """The next change of one device."""
        while True:
            delta = await self.next("delta")
            for change in delta.data["devices"]:
                if change["device"] == device:
                    return change

    async def end(self) -> list[Event]:
        """What comes until the stream ends."""
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            return [event async for event in self._events]


async def _parse(lines: AsyncIterator[str]) -> AsyncGenerator[Event]:
    fields: dict[str, str] = {}
    async for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name.rstrip(":")] = value
        elif not line and fields:
            yield Event(fields.get("event", ""), fields.get("id"), json.loads(fields["data"]))
            fields = {}


@asynccontextmanager
async def watching(
    client: httpx2.AsyncClient, area: str, last_event_id: str | None = None
) -> AsyncGenerator[Reader]:
    """Read the stream of an area."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    url = f"/api/v1/stream?area={area}"
    async with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response.aiter_lines())


@asynccontextmanager
async def serving(
    dsn: str, broker: Broker, folder: Path, *, member: int = 0
) -> AsyncGenerator[Server]:
    """Run the api as a process of its own, on a port of its own."""
    port = free_port()
    url = f"http://{HOST}:{port}"
    broker.identity(f"api-live-{member:02d}")
    config = folder / "linli.toml"
    config.write_text(
        f"""
[database]
dsn = "{dsn}"
[broker]
host = "{broker.host}"
port = {broker.port}
ca = "{broker.ca}"
[api]
host = "{HOST}"
port = {port}
member = {member}
certificates = "{broker.services}"
public_url = "{url}"
"""
    )
    process = Process(
        "api",
        mortal([sys.executable, "-m", "api", "serve", "--config", str(config)]),
        log=folder / "api.log",
        environment={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    server = Server(process, url, dsn, broker)
    try:
        await asyncio.to_thread(until, lambda: _is_ready(server), "the api is ready", timeout_s=80)
        yield server
    finally:
        process.stop()


def _is_ready(server: Server) -> bool:
    assert server.process.running, server.process.tail()
    try:
        return httpx2.get(f"{server.url}/readyz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


async def publish(broker: Broker, community: str, message: Live | LiveDevices) -> None:
    """Tell a change on the live topic, as ingest does."""
    identity = broker.identity("ingest-telemetry-00")
    async with aiomqtt.Client(
        broker.host,
        broker.port,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=identity.context(),
        identifier=identity.name,
    ) as client:
        topic = topics.live if isinstance(message, Live) else topics.live_devices
        await client.publish(topic(community), encode(message), qos=0)


def device_message(device: str, at: datetime, **values: bool | float | str) -> LiveDevices:
    """A live message about one device's new reading."""
    return LiveDevices.model_validate(
        {
            "at": datetime.now(UTC),
            "devices": [
                {
                    "device": device,
                    "kind": "lamp",
                    "state": "normal",
                    "at": at,
                    "received_at": datetime.now(UTC),
                    "values": values,
                }
            ],
        }
    )
