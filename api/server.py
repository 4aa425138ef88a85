# SPDX-License-Identifier: Apache-2.0
"""Uvicorn as we run it: open streams end at once, and nobody occupies a connection for nothing.

Uvicorn waits for open streams before anything is told to stop, waits for ever for the rest of a
request, and takes request heads of any size. Each of the three would let a few clients stop us.
"""

import asyncio
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import uvicorn
from sse_starlette.sse import AppStatus
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

# A whole request must come within this; ours are small.
RECEIVE_TIMEOUT_S: Final = 10.0
HEAD_BYTES_MAX: Final = 64 * 1024
# Streams are told to end at once; whoever has not gone by then is cut. What lives with the process
# has a few seconds of its own after that.
SHUTDOWN_TIMEOUT_S: Final = 5


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with a limit on how large a request's head is, and how long a request takes."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # Any: uvicorn's own signature
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Begin with the head of a first request."""
        super().__init__(config, server_state, app_state, _loop)
        self._is_in_head = True
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn's own
        """Give the first request its time."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limit."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came, and refuse a head without end."""
        super().data_received(data)
        if self._is_in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Begin a request's head, and its time."""
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = 0
        self._arm()

    def on_headers_complete(self) -> None:
        """End the head."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of the request has come."""
        self._disarm()
        super().on_message_complete()

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(RECEIVE_TIMEOUT_S, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self._is_in_head and self._head_bytes == 0:
            self.transport.close()  # nothing was asked, so nothing is answered
        else:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        head = b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self.transport.write(head)
        self.transport.close()


class Server(uvicorn.Server):
    """A server that ends open streams when it is told to stop."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        """Keep what ends the streams; it is called in the loop."""
        super().__init__(config)
        # The library of the streams looks twice a second whether we are told to stop, and would cut
        # those that are about to end in order.
        AppStatus.disable_automatic_graceful_drain()
        self._end_streams = end_streams
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def stop(self) -> None:
        """Stop, as on a signal, but leave it to the caller how the process ends.

        Uvicorn ends it by the signal it got, and whoever watches over it takes that for an order.
        """
        self._end_streams()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on a signal; a second one cuts short."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_streams)
        super().handle_exit(sig, frame)
