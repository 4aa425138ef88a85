# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that cuts, stalls and heals, to be put before a real broker or database.

It needs neither root nor kernel modules. Every fault reports what it hit, so that a test can
assert that the fault did happen.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import pytest

T = TypeVar("T")

_CHUNK_BYTES = 65536
# Linger on, zero seconds: closing sends RST instead of FIN, as a lost machine's router would.
_RESET = struct.pack("ii", 1, 0)


class Direction(StrEnum):
    UP = "up"  # from the client to the server
    DOWN = "down"


@dataclass(slots=True, eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def reset(self) -> None:
        for writer in (self.client, self.server):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """Forwards ``127.0.0.1:port`` to ``127.0.0.1:target``; usable from any thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0  # connections taken so far
        self.forwarded = {Direction.UP: 0, Direction.DOWN: 0}  # bytes
        self._links: set[_Link] = set()
        self._budget: dict[Direction, int | None] = {Direction.UP: None, Direction.DOWN: None}
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._gates = {Direction.UP: asyncio.Event(), Direction.DOWN: asyncio.Event()}
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._call(self._open())

    def stop(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def cut(self, *, refuse: bool = False) -> int:
        """Reset every connection; returns how many there were.

        With ``refuse``, new ones are reset as well until `heal`.
        """
        return self._call(self._cut(refuse=refuse))

    def cut_after(self, count_bytes: int, direction: Direction = Direction.UP) -> None:
        """Reset the connection that carries the byte after the next ``count_bytes``, once."""
        self._call(self._set_budget(direction, count_bytes))

    def stall(self, *directions: Direction) -> int:
        """Forward nothing (both ways by default), keep connections open; returns how many."""
        return self._call(self._stall(directions or tuple(Direction)))

    def heal(self) -> None:
        """Forward again, beginning with what was held back; take connections again."""
        self._call(self._heal())

    @property
    def connections(self) -> int:
        return len(self._links)

    # Everything below runs in the proxy's own loop.

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _open(self) -> None:
        await self._heal()
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut(refuse=True)
        # Let go what is held back: the pumps behind a gate see their connection gone.
        for gate in self._gates.values():
            gate.set()
        pumps = asyncio.all_tasks() - {asyncio.current_task()}
        if pumps:
            await asyncio.wait(pumps, timeout=5)

    async def _cut(self, *, refuse: bool) -> int:
        links = list(self._links)
        for link in links:
            link.reset()
        self._links.clear()
        self._refusing = refuse
        return len(links)

    async def _set_budget(self, direction: Direction, count_bytes: int) -> None:
        self._budget[direction] = count_bytes

    async def _stall(self, directions: tuple[Direction, ...]) -> int:
        for direction in directions:
            self._gates[direction].clear()
        return len(self._links)

    async def _heal(self) -> None:
        self._refusing = False
        self._budget = {Direction.UP: None, Direction.DOWN: None}
        for gate in self._gates.values():
            gate.set()

    async def _take(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            _Link(client, client).reset()
            return
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _Link(client, client).reset()
            return
        link = _Link(client, server)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(link, reader, server, Direction.UP),
                self._pump(link, from_server, client, Direction.DOWN),
            )
        finally:
            self._links.discard(link)
            client.close()
            server.close()

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                await self._gates[direction].wait()
                budget = self._budget[direction]
                if budget is not None and len(data) > budget:
                    self._budget[direction] = None
                    writer.write(data[:budget])
                    await writer.drain()
                    self.forwarded[direction] += budget
                    link.reset()
                    return
                if budget is not None:
                    self._budget[direction] = budget - len(data)
                writer.write(data)
                await writer.drain()
                self.forwarded[direction] += len(data)
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            # One side is gone; so goes the other.
            link.reset()


class ProxyFactory(Protocol):
    def __call__(self, target: int) -> Proxy: ...


@pytest.fixture
def proxy() -> Iterator[ProxyFactory]:
    """Makes proxies: ``proxy(broker.port)``; they end with the test."""
    made: list[Proxy] = []

    def make(target: int) -> Proxy:
        one = Proxy(target)
        one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop()
