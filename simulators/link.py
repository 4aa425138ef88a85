# SPDX-License-Identifier: Apache-2.0
"""The line between one gateway and the broker: a TCP relay that can be cut and mended.

The agent behind it is the real one and notices a real outage: its connection breaks, and nobody
answers until the line is mended.
"""

import asyncio
import contextlib
import logging
from collections.abc import Set as AbstractSet
from typing import Final

log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 64 * 1024


class Link:
    """A relay from a free port of this machine to the broker."""

    def __init__(self, host: str, port: int) -> None:
        """Take the broker's address; `open` begins to listen."""
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self.port = 0
        self.is_cut = False

    @property
    def lines(self) -> AbstractSet[asyncio.StreamWriter]:
        """The ends of the connections that are open now."""
        return self._lines

    async def open(self) -> None:
        """Listen on a free port, kept in ``port``."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection, and every new one at once, until `mend`."""
        self.is_cut = True
        for line in list(self._lines):
            # Abort: a cut line says no goodbye, neither to the agent nor to the broker.
            line.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self.is_cut = False

    async def close(self) -> None:
        """Break every connection and listen no more."""
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for relay in list(self._relays):
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        relay = asyncio.create_task(self._connect(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.add(writer)
        try:
            there_reader, there = await asyncio.open_connection(*self._target)
        except OSError as error:
            log.debug("broker out of reach error=%s", error)
            self._lines.discard(writer)
            writer.transport.abort()
            return
        self._lines.add(there)
        if self.is_cut:
            self.cut()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_relay(reader, there))
                both.create_task(_relay(there_reader, writer))
        finally:
            for line in (writer, there):
                self._lines.discard(line)
                line.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until one side ends, then end the other."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    writer.close()
