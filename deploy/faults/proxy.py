# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that cuts, stalls, slows and heals, to be put before a real broker or database.

It needs neither root nor kernel modules. Every fault reports what it hit, so that a test can
assert that the fault did happen.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")

_CHUNK_BYTES = 65536
# The least that Linux waits before it sends a lost segment again.
RETRANSMIT_S = 0.2
# Linger on, zero seconds: closing sends RST instead of FIN, as a lost machine's router would.
_RESET = struct.pack("ii", 1, 0)


class Direction(StrEnum):
    """Of what passes."""

    UP = "up"  # from the client to the server
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Weather:
    """How a bad line treats what it carries.

    Attributes:
        delay_s: Every chunk waits this long.
        chunk_bytes: Nothing longer is written at once.
        loss: The share of chunks that are lost. TCP sends such a chunk again, so all that either
            end sees is that it, and what follows it, comes `RETRANSMIT_S` later.
    """

    delay_s: float = 0.0
    chunk_bytes: int = _CHUNK_BYTES
    loss: float = 0.0


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

    def __init__(self, target: int, seed: int = 0) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0  # connections taken so far
        self.lost = 0  # chunks that `Weather.loss` hit
        self.written = 0  # chunks
        self._chance = random.Random(seed)  # noqa: S311 - not for secrets
        self.forwarded = {Direction.UP: 0, Direction.DOWN: 0}  # bytes
        self._links: set[_Link] = set()
        self._swallowing: set[Direction] = set()
        self.swallowed = 0  # bytes
        self._budget: dict[Direction, int | None] = {Direction.UP: None, Direction.DOWN: None}
        self._marker: bytes | None = None
        self._doomed: _Link | None = None
        self.cuts = 0  # answers cut off
        self._refusing = False
        self._weather = Weather()
        self._loop = asyncio.new_event_loop()
        self._gates = {Direction.UP: asyncio.Event(), Direction.DOWN: asyncio.Event()}
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> None:
        """Listen on a free port, kept in ``port``."""
        self._thread.start()
        self._call(self._open())

    def stop(self) -> None:
        """Reset every connection and listen no more."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def cut(self, *, refuse: bool = False) -> int:
        """Reset every connection; returns how many there were.

        With ``refuse``, new ones are reset as well until `heal`.
        """
        return self._call(self._cut(refuse=refuse))

    def cut_after(self, count_bytes: int, direction: Direction = Direction.UP) -> None:
        """Reset the connection that carries the byte after the next ``count_bytes``, once."""
        self._call(self._set_budget(direction, count_bytes))

    def cut_after_answering(self, marker: bytes) -> None:
        """Once: let what contains ``marker`` go up, and reset instead of passing on the answer."""
        self._call(self._watch_for(marker))

    def stall(self, *directions: Direction) -> int:
        """Forward nothing (both ways by default), keep connections open; returns how many."""
        return self._call(self._stall(directions or tuple(Direction)))

    def endure(self, weather: Weather) -> None:
        """Treat everything like this from now on, until `heal`."""
        self._call(self._endure(weather))

    def swallow(self, direction: Direction) -> int:
        """Take what comes in one direction and forward none of it; returns the connections.

        Unlike `stall` nothing is held back: what was swallowed is gone for good, as are the
        connections, which `heal` therefore resets.
        """
        return self._call(self._swallow(direction))

    def heal(self) -> None:
        """Forward again, beginning with what was held back; take connections again."""
        self._call(self._heal())

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    # Everything below runs in the proxy's own loop.

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

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

    async def _watch_for(self, marker: bytes) -> None:
        self._marker = marker

    async def _set_budget(self, direction: Direction, count_bytes: int) -> None:
        self._budget[direction] = count_bytes

    async def _stall(self, directions: tuple[Direction, ...]) -> int:
        for direction in directions:
            self._gates[direction].clear()
        return len(self._links)

    async def _endure(self, weather: Weather) -> None:
        self._weather = weather

    async def _swallow(self, direction: Direction) -> int:
        self._swallowing.add(direction)
        return len(self._links)

    async def _heal(self) -> None:
        if self._swallowing:
            await self._cut(refuse=False)
            self._swallowing.clear()
        self._refusing = False
        self._weather = Weather()
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
                if direction in self._swallowing:
                    self.swallowed += len(data)
                    continue
                if direction is Direction.DOWN and link is self._doomed:
                    # The server answered, so it did what it was told.
                    self._doomed = None
                    self.cuts += 1
                    link.reset()
                    return
                if direction is Direction.UP and self._marker and self._marker in data:
                    self._marker = None
                    self._doomed = link
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
                await self._forward(writer, data)
                self.forwarded[direction] += len(data)
            if direction not in self._swallowing and writer.can_write_eof():
                writer.write_eof()
        except OSError:
            # One side is gone; so goes the other.
            link.reset()

    async def _forward(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        size = self._weather.chunk_bytes
        for start in range(0, len(data), size):
            weather = self._weather
            if weather.delay_s:
                await asyncio.sleep(weather.delay_s)
            if weather.loss and self._chance.random() < weather.loss:
                self.lost += 1
                await asyncio.sleep(RETRANSMIT_S)
            writer.write(data[start : start + size])
            self.written += 1
            await writer.drain()
