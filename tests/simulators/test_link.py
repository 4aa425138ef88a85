# SPDX-License-Identifier: Apache-2.0
"""A line that is cut is cut for both ends, and works again when it is mended."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from simulators.link import HOST, Link
from tests.edge_agent.rig import eventually


class Echo:
    """A server that says back what it hears."""

    def __init__(self) -> None:
        self.open = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with suppress(OSError):
                while heard := await reader.read(1024):
                    writer.write(heard)
                    await writer.drain()
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    server = await asyncio.start_server(made.serve, HOST, 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def line_to(port: int) -> AsyncGenerator[Link]:
    link = Link(HOST, port)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


async def say(link: Link, text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(HOST, link.port)
    writer.write(text)
    assert await reader.readexactly(len(text)) == text
    return reader, writer


async def is_broken(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def test_passes_on_what_it_hears(echo: Echo) -> None:
    async with line_to(echo.port) as link:
        _, one = await say(link, b"one")
        _, two = await say(link, b"two" * 50_000)
        assert echo.open == 2
        one.close()
        await eventually(lambda: echo.open == 1, "the end of one")
        two.close()
        await eventually(lambda: echo.open == 0, "the end of two")
        await eventually(lambda: not link.lines, "no line left open")


async def test_cut_and_mended(echo: Echo) -> None:
    async with line_to(echo.port) as link:
        reader, writer = await say(link, b"before")
        link.cut()
        assert await is_broken(reader)
        await eventually(lambda: echo.open == 0, "the broker to notice")
        lost, other = await asyncio.open_connection(HOST, link.port)
        assert await is_broken(lost)
        assert echo.open == 0
        link.mend()
        _, last = await say(link, b"after")
        for end in (writer, other, last):
            end.close()


async def test_nobody_there(echo: Echo) -> None:
    async with line_to(1) as link:
        reader, writer = await asyncio.open_connection(HOST, link.port)
        assert await is_broken(reader)
        writer.close()
    assert echo.open == 0
