# SPDX-License-Identifier: Apache-2.0
"""The server as strangers meet it: requests that are cut, huge, contradictory, or never end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.types import Message

import api.server
from api.server import RECEIVE_TIMEOUT_S
from edge_agent.messages import Live
from tests.api.conftest import insert_alert, seed, session_token
from tests.api.serving import EVENT_TIMEOUT_S, Server, publish, serving, watching
from tests.services import Broker, until


@pytest.fixture(scope="module")
async def server(
    city_database: str, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    async with serving(city_database, broker, tmp_path_factory.mktemp("api")) as running:
        yield running


async def _talk(server: Server, request: bytes) -> bytes:
    """Send bytes and return all that comes until the server closes or falls silent."""
    reader, writer = await asyncio.open_connection(*_address(server))
    answer = b""
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            answer = await reader.read(-1)
    except ConnectionError:
        pass  # closed while we were still sending: what came before counts
    finally:
        writer.close()
    return answer


def _address(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


def _head(*lines: str, start: str = "POST /api/v1/session HTTP/1.1") -> bytes:
    return "\r\n".join([start, "Host: x", "Connection: close", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(b"nonsense\r\n\r\n", 400, id="nonsense"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, id="tls-to-plain"),
        pytest.param(_head("Content-Length: -1"), 400, id="negative-length"),
        pytest.param(
            _head("Content-Length: 2", "Content-Length: 3") + b"{}", 400, id="two-lengths"
        ),
        pytest.param(
            _head("Content-Length: 2", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
            400,
            id="length-and-chunked",
        ),
        pytest.param(_head("X: " + "a" * 100_000), 431, id="large-header"),
        pytest.param(_head(*[f"X-{i}: {'a' * 900}" for i in range(50)]), 431, id="many-headers"),
        pytest.param(
            _head(start="GET /api/v1/devices?q=" + "a" * 20_000 + " HTTP/1.1"),
            414,
            id="long-address",
        ),
        pytest.param(
            _head(start="GET /" + "a" * 2_000_000 + " HTTP/1.1"), 431, id="endless-address"
        ),
        pytest.param(_head("Content-Length: 8000000"), 413, id="declared-too-large"),
    ],
)
async def test_impossible_request_is_refused(
    server: Server, request_bytes: bytes, status: int
) -> None:
    answer = await _talk(server, request_bytes)
    # An empty answer: the connection was closed before all of the request was read.
    assert answer.startswith(b"HTTP/1.1 %d " % status) or (status == 431 and answer == b"")
    async with server.client("root") as client:
        assert (await client.get("/api/v1/session")).status_code == 200


async def test_endless_head_is_cut(server: Server) -> None:
    reader, writer = await asyncio.open_connection(*_address(server))
    writer.write(b"GET / HTTP/1.1\r\nX: ")
    sent = 0
    try:
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            while sent < 10_000_000:
                writer.write(b"a" * 10_000)
                sent += 10_000
                await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
    assert sent < 10_000_000
    reader.feed_eof()


async def test_request_that_never_ends_is_cut_and_others_go_on(server: Server) -> None:
    slow = [await asyncio.open_connection(*_address(server)) for _ in range(50)]
    for index, (_, writer) in enumerate(slow):
        if index % 3:
            writer.write(b"POST /api/v1/session HTTP/1.1\r\nHost: x\r\nContent-")
        if index % 3 == 2:
            writer.write(b"Length: 100\r\n\r\n{")
    async with server.client("root") as client:
        assert (await client.get("/api/v1/session")).status_code == 200
    async with asyncio.timeout(RECEIVE_TIMEOUT_S + EVENT_TIMEOUT_S):
        answers = [await reader.read(-1) for reader, _ in slow]
    for _, writer in slow:
        writer.close()
    statuses = {answer[9:12] for answer in answers if answer}
    assert statuses == {b"408"}
    assert sum(not answer for answer in answers) == 17


async def test_frozen_reader_is_cut_and_others_do_not_notice(
    database: str, broker: Broker, tmp_path: Path
) -> None:
    with psycopg.connect(database) as conn:
        seed(conn, datetime.now(UTC))
    async with serving(database, broker, tmp_path, member=1) as server:
        frozen = socket.socket()
        # So little room, in segments so small, that the server's own buffers fill with 0.2 MB.
        frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        frozen.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        frozen.connect(_address(server))
        frozen.sendall(
            _head(
                f"Cookie: linli_session={session_token('wang')}",
                start="GET /api/v1/stream?area=c01 HTTP/1.1",
            )
        )
        await asyncio.to_thread(
            until, lambda: _streams(server) == 1, "the stream is open", timeout_s=30
        )
        async with server.client("li") as client, watching(client, "c01") as reader:
            await reader.next("snapshot")
            alerts = _large_alerts(server, 16)
            await publish(broker, "c01", Live(at=datetime.now(UTC), alerts=tuple(alerts)))
            told: set[str] = set()
            while not told >= set(alerts):
                told |= {alert["id"] for alert in (await reader.next("delta")).data["alerts"]}
            await asyncio.to_thread(
                until, lambda: _streams(server) == 1, "the frozen reader is cut", timeout_s=60
            )
        frozen.close()


def _streams(server: Server) -> int:
    figures = httpx2.get(f"{server.url}/metrics", timeout=EVENT_TIMEOUT_S).text
    for line in figures.splitlines():
        if line.startswith("linli_api_streams "):
            return int(float(line.split()[1]))
    return -1


def _large_alerts(server: Server, count: int) -> list[str]:
    now = datetime.now(UTC)
    ids = [uuid.uuid4() for _ in range(count)]
    with psycopg.connect(server.dsn) as conn:
        for alert in ids:
            insert_alert(
                conn, alert, "alarm.panic", "critical", "c01-alarm-001", now=now, raised_at=now
            )
            params = json.dumps({"text": "x" * 50_000})
            conn.execute("UPDATE alert SET params = %s WHERE id = %s", (params, alert))
    return [str(alert) for alert in ids]


async def test_stop_cuts_no_stream_that_is_about_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # The streams' library looks by itself whether the server is to stop, twice a second: its look
    # may fall between the signal and the end of what is told.
    for name in ("should_exit", "enable_automatic_graceful_drain"):
        monkeypatch.setattr(AppStatus, name, getattr(AppStatus, name))
    begun, looked_twice, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    stopped = api.server.Server(uvicorn.Config(FastAPI()), lambda: None)
    looks = 0
    sent: list[Message] = []

    def look() -> uvicorn.Server:
        nonlocal looks
        looks += stopped.should_exit
        if looks == 2:
            looked_twice.set()
        return stopped

    async def events() -> AsyncGenerator[bytes]:
        begun.set()
        await end.wait()
        yield b"data: the last\n\n"

    async def receive() -> Message:
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        sent.append(message)

    monkeypatch.setattr("sse_starlette.sse._get_uvicorn_server", look)
    response = EventSourceResponse(events(), ping=0)  # pyright: ignore[reportUnknownMemberType] - a bare dict in its hints
    async with asyncio.timeout(EVENT_TIMEOUT_S), asyncio.TaskGroup() as tasks:
        stream = tasks.create_task(response({"type": "http", "method": "GET"}, receive, send))
        await begun.wait()
        stopped.handle_exit(signal.SIGTERM, None)
        looking = tasks.create_task(looked_twice.wait())
        await asyncio.wait({stream, looking}, return_when=asyncio.FIRST_COMPLETED)
        looking.cancel()
        end.set()
    assert [(one.get("body"), one.get("more_body")) for one in sent[1:]] == [
        (b"data: the last\n\n", True),
        (b"", False),
    ]
