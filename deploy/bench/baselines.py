# SPDX-License-Identifier: Apache-2.0
"""What Linli is measured beside: the same work done bare, and done the usual way.

Each is a process of its own, run by `python -m deploy.bench.baselines NAME`; what it is told comes
as JSON in the environment. It adds up what it took in a file of eight bytes.

- ``paho``: stock paho-mqtt, acknowledging by hand every 50 ms, and doing nothing else (N1).
- ``aiomqtt``: the same with aiomqtt, which acknowledges on receipt.
- ``rows``: the usual script: each reading parsed, inserted, committed; then the message
  acknowledged (F1).
- ``broadcast``: the api's server and streams, telling everybody the same thing, as fast as they
  take it (W0).
- ``copy``: the same rows by text COPY, 5,000 a COMMIT, into tables like Linli's (C0).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiomqtt
import psycopg
import uvicorn
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from psycopg import sql
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from deploy.checker.facts import READING_TABLES
from edge_agent.topics import PREFIX
from simulators.messages import equipment

TELEMETRY: Final = f"{PREFIX}/+/+/up/telemetry"
SCHEMA: Final = "bare"
BATCH: Final = 5_000
_RECEIVE_MAXIMUM: Final = 2_000
_FLUSH_S: Final = 0.05
_KEEPALIVE_S: Final = 60
# Of the broadcast: as the api's streams, and never more than a few events ahead of a reader.
_PING_S: Final = 3_600
_SEND_TIMEOUT_S: Final = 10.0
_QUEUED: Final = 2


class Counter:
    """A number in a file that another process reads."""

    def __init__(self, file: str) -> None:
        """Map the file."""
        with Path(file).open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 8)
        self._value = int.from_bytes(self._map[:8], sys.byteorder)

    def add(self, count: int) -> None:
        """Count on."""
        self._value += count
        self._map[:8] = self._value.to_bytes(8, sys.byteorder)


def hears(counter: str) -> Path:
    """Return the file that is there as soon as a consumer hears what is sent."""
    return Path(f"{counter}.hears")


def _context(told: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=told["ca"])
    folder, name = Path(told["certificates"]), told["identity"]
    context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return context


def _client(told: dict[str, Any], receive_maximum: int) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=told["identity"],
        protocol=MQTTProtocolVersion.MQTTv5,
        manual_ack=True,
    )
    client.tls_set_context(_context(told))  # pyright: ignore[reportUnknownMemberType]

    def connected(*_: object) -> None:
        client.subscribe(TELEMETRY, 1)

    def subscribed(*_: object) -> None:
        hears(told["counter"]).touch()

    client.on_connect = connected
    client.on_subscribe = subscribed
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = receive_maximum
    client.connect_async(
        told["host"], told["port"], _KEEPALIVE_S, clean_start=True, properties=properties
    )
    return client


def paho(told: dict[str, Any]) -> None:
    """Receive, acknowledge in flushes, do nothing else."""
    counter = Counter(told["counter"])
    queue: deque[MQTTMessage] = deque()
    client = _client(told, _RECEIVE_MAXIMUM)
    client.on_message = lambda _client, _userdata, message: queue.append(message)
    client.loop_start()
    while True:
        time.sleep(_FLUSH_S)
        count = len(queue)
        for _ in range(count):
            message = queue.popleft()
            client.ack(message.mid, message.qos)
        counter.add(count)


async def _aiomqtt(told: dict[str, Any]) -> None:
    counter = Counter(told["counter"])
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = _RECEIVE_MAXIMUM
    async with aiomqtt.Client(
        told["host"],
        told["port"],
        identifier=told["identity"],
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=True,
        properties=properties,
        tls_context=_context(told),
    ) as client:
        await client.subscribe(TELEMETRY, qos=1)
        hears(told["counter"]).touch()
        async for _ in client.messages:
            counter.add(1)


def rows(told: dict[str, Any]) -> None:
    """Insert and commit reading by reading, then acknowledge the message."""
    counter = Counter(told["counter"])
    with psycopg.connect(told["dsn"]) as conn:
        ids: dict[str, int] = dict(conn.execute("SELECT device, id FROM device").fetchall())
        conn.commit()
        statements = {
            kind: sql.SQL("INSERT INTO {} (device_id, at, received_at, {}) VALUES ({})").format(
                sql.Identifier(SCHEMA, table),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join([sql.Placeholder()] * (3 + len(columns))),
            )
            for kind, (table, columns) in READING_TABLES.items()
        }
        arrived: deque[MQTTMessage] = deque()
        there = threading.Event()
        client = _client(told, _RECEIVE_MAXIMUM)

        def take(_client: Client, _userdata: object, message: MQTTMessage) -> None:
            arrived.append(message)
            there.set()

        client.on_message = take
        client.loop_start()
        while True:
            if not arrived:
                there.clear()
                there.wait(0.1)
                continue
            message = arrived.popleft()
            for reading in json.loads(message.payload)["readings"]:
                kind = reading["kind"]
                values = [reading.get(name) for name in READING_TABLES[kind][1]]
                conn.execute(
                    statements[kind],
                    [ids[reading["device"]], reading["at"], datetime.now(UTC), *values],
                )
                conn.commit()
            client.ack(message.mid, message.qos)
            counter.add(1)


def broadcast(told: dict[str, Any]) -> None:
    """Tell all who watch the same event again and again; no database, no broker, no rights."""
    queues: set[asyncio.Queue[bytes]] = set()
    event = b"event: delta\ndata: " + b"x" * told["bytes"] + b"\n\n"

    async def events() -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            queues.discard(queue)

    async def watch(request: Request) -> EventSourceResponse:
        del request
        return EventSourceResponse(  # pyright: ignore[reportUnknownMemberType] - as in the api
            events(), ping=_PING_S, send_timeout=_SEND_TIMEOUT_S
        )

    async def tell() -> None:
        while True:
            if queues and max(one.qsize() for one in queues) < _QUEUED:
                for one in queues:
                    one.put_nowait(event)
            await asyncio.sleep(0 if queues else 0.05)

    @contextlib.asynccontextmanager
    async def telling(app: Starlette) -> AsyncGenerator[None]:
        del app
        task = asyncio.create_task(tell())
        yield
        task.cancel()

    app = Starlette(routes=[Route("/", watch)], lifespan=telling)
    uvicorn.run(
        app, host=told["host"], port=told["port"], loop="uvloop", http="httptools", ws="none",
        log_config=None, access_log=False, server_header=False,
    )  # fmt: skip


def lines(kind: str, ids: Sequence[int], turn: int, at: str) -> bytes:
    """Return rows as text COPY takes them, with the values that the load sends."""
    middle = {
        "lamp": f"t\t100\t{58.5 + turn % 10}\t228.4\t0.27\t1834.2\t\\N\t\\N\t\\N\t\\N\t\\N",
        "bin": f"{20 + turn % 10}\t12.5\t21\t\\N\t\\N\tkitchen\t\\N",
        "gate": "closed\tlocked\t\\N",
        "alarm": "t\t90\t\\N",
    }[kind]
    return "".join(f"{one}\t{at}\t{at}\t{middle}\n" for one in ids).encode()


def copy(told: dict[str, Any]) -> None:
    """Write all devices' rows again and again, prepared before the clock starts."""
    with psycopg.connect(told["dsn"]) as conn:
        by_community: dict[str, list[tuple[int, str]]] = {}
        for one, kind, community in conn.execute("SELECT id, kind, community FROM device"):
            by_community.setdefault(community, []).append((one, kind))
        counts = dict.fromkeys(READING_TABLES, 0)
        for kind in equipment(told["devices"]):
            counts[kind] += 1
        # Every community's devices lie together, as in a flush; one table at a time, as there.
        ids = {
            kind: [one for there in by_community.values() for one, its in there if its == kind]
            for kind in counts
        }
        statements = {
            kind: sql.SQL("COPY {} (device_id, at, received_at, {}) FROM STDIN").format(
                sql.Identifier(SCHEMA, table), sql.SQL(", ").join(map(sql.Identifier, columns))
            )
            for kind, (table, columns) in READING_TABLES.items()
        }
        conn.commit()
        done, spent, turn = 0, 0.0, 0
        end = time.monotonic() + told["seconds"]
        while time.monotonic() < end:
            turn += 1
            at = datetime.now(UTC).isoformat()
            for kind, known in ids.items():
                for first in range(0, len(known), BATCH):
                    blob = lines(kind, known[first : first + BATCH], turn, at)
                    begun = time.monotonic()
                    with conn.cursor() as cursor, cursor.copy(statements[kind]) as writer:
                        writer.write(blob)
                    conn.commit()
                    spent += time.monotonic() - begun
                    done += len(known[first : first + BATCH])
                if time.monotonic() > end:
                    break
    print(json.dumps({"rows": done, "seconds": spent}), flush=True)


def create_tables(dsn: str) -> None:
    """Make empty tables like Linli's own, in a schema of their own, anew."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        schema = sql.Identifier(SCHEMA)
        conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(schema))
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        for table, _ in READING_TABLES.values():
            conn.execute(
                sql.SQL("CREATE TABLE {}.{} (LIKE public.{} INCLUDING DEFAULTS)").format(
                    schema, sql.Identifier(table), sql.Identifier(table)
                )
            )
            conn.execute(
                "SELECT create_hypertable(%s::regclass, by_range('at', INTERVAL '1 day'),"
                " create_default_indexes => false)",
                (f"{SCHEMA}.{table}",),
            )
            conn.execute(
                sql.SQL("CREATE INDEX ON {}.{} (device_id, at)").format(
                    schema, sql.Identifier(table)
                )
            )


def main(name: str) -> None:
    """Run one of them until it is killed, or done."""
    told: dict[str, Any] = json.loads(os.environ["LINLI_BENCH"])
    match name:
        case "paho":
            paho(told)
        case "aiomqtt":
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(_aiomqtt(told))
        case "rows":
            rows(told)
        case "broadcast":
            broadcast(told)
        case _:
            copy(told)


if __name__ == "__main__":
    main(sys.argv[1])
