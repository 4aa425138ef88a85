# SPDX-License-Identifier: Apache-2.0
"""People who watch: open streams that are read and counted, nothing more.

One thread reads them all from raw sockets: readers share the cores with what they read from, so
they must cost next to nothing. Run by `python -m deploy.bench.viewers HOST:PORT [ask]`; tokens and
paths come in the environment. With `ask` each line of standard input is answered by one of JSON:
`mark` begins to count anew, any other tells what was heard since.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from deploy.faults.ground import until
from deploy.installation import environment, module

DELTA: Final = b"event: delta\n"
RESET: Final = b"event: reset\n"
_MARK: Final = len(DELTA)  # of both
#: Tokens and paths of all streams, as JSON.
VARIABLE: Final = "LINLI_BENCH_VIEWERS"
_RETRY_S: Final = 1.0
_BUFFER_BYTES: Final = 256 * 1024
_OPEN_S: Final = 120.0

#: Of each stream: a token, a path.
Wanted = Sequence[tuple[str, str]]


@dataclass(slots=True, eq=False)
class Stream:
    """One open stream; ``tail`` is the end of what came, where an event may be cut in two."""

    token: str
    path: str
    socket: socket.socket | None = None
    is_open: bool = False
    deltas: int = 0
    resets: int = 0
    tail: bytes = b""
    retry_at: float = 0.0

    def take(self, data: bytearray, size: int) -> None:
        """Count the events that begin in the first ``size`` bytes of ``data``."""
        seam = self.tail + data[: min(size, _MARK - 1)]
        self.deltas += data.count(DELTA, 0, size) + seam.count(DELTA)
        self.resets += data.count(RESET, 0, size) + seam.count(RESET)
        self.tail = bytes((self.tail + data[max(0, size - _MARK + 1) : size])[-_MARK + 1 :])


@dataclass(slots=True)
class Viewers:
    """All streams, and what came of them."""

    address: tuple[str, int]
    streams: Sequence[Stream]
    bytes: int = 0
    ended: int = 0
    refused: int = 0
    _poll: select.epoll = field(default_factory=select.epoll)
    _by_fd: dict[int, Stream] = field(default_factory=dict[int, Stream])
    _buffer: bytearray = field(default_factory=lambda: bytearray(_BUFFER_BYTES))

    def watch(self, asked: bool) -> None:
        """Read for ever; with ``asked``, until standard input ends."""
        if asked:
            self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        while True:
            now = time.monotonic()
            for stream in self.streams:
                if stream.socket is None and stream.retry_at <= now:
                    self._open(stream)
            for fd, _ in self._poll.poll(_RETRY_S):
                stream = self._by_fd.get(fd)
                if stream is not None:
                    self._read(fd, stream)
                elif not self._answer(sys.stdin.readline()):
                    return

    def _open(self, stream: Stream) -> None:
        try:
            made = socket.create_connection(self.address, timeout=10)
        except OSError:
            stream.retry_at = time.monotonic() + _RETRY_S
            return
        made.sendall(
            f"GET {stream.path} HTTP/1.1\r\nHost: {self.address[0]}\r\n"
            f"Authorization: Bearer {stream.token}\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        made.setblocking(False)
        stream.socket, stream.is_open, stream.tail = made, False, b""
        self._by_fd[made.fileno()] = stream
        self._poll.register(made.fileno(), select.EPOLLIN)

    def _read(self, fd: int, stream: Stream) -> None:
        assert stream.socket is not None
        buffer = self._buffer
        try:
            size = stream.socket.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._ended(fd, stream)
            return
        if not stream.is_open and not self._begun(stream, bytes(buffer[:size])):
            self._ended(fd, stream)
            return
        self.bytes += size
        stream.take(buffer, size)

    def _begun(self, stream: Stream, data: bytes) -> bool:
        stream.is_open = b" 200 " in data.partition(b"\r\n")[0]
        self.refused += not stream.is_open
        return stream.is_open

    def _ended(self, fd: int, stream: Stream) -> None:
        self._poll.unregister(fd)
        self._by_fd.pop(fd)
        assert stream.socket is not None
        stream.socket.close()
        stream.socket, stream.retry_at = None, time.monotonic() + _RETRY_S
        self.ended += 1

    def _answer(self, asked: str) -> bool:
        if not asked:
            return False
        if asked.strip() == "mark":
            self.bytes = self.ended = self.refused = 0
            for stream in self.streams:
                stream.deltas = stream.resets = 0
        counts = [stream.deltas for stream in self.streams]
        heard = {
            "open": sum(stream.is_open for stream in self.streams),
            "deltas": sum(counts),
            "least": min(counts),
            "most": max(counts),
            "bytes": self.bytes,
            "resets": sum(stream.resets for stream in self.streams),
            "ended": self.ended,
            "refused": self.refused,
        }
        print(json.dumps(heard), flush=True)
        return True


class Audience:
    """Viewers in a process of their own, who can be asked what they heard."""

    def __init__(self, address: str, wanted: Wanted) -> None:
        """Start it; `seated` waits until all streams are open."""
        self._count = len(wanted)
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            module("deploy.bench.viewers", address, "ask"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment(), VARIABLE: json.dumps(wanted)},
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def seated(self) -> Mapping[str, Any]:
        """Wait until all are open, count from there; return how that went."""
        begun = time.monotonic()
        until(
            lambda: self.heard()["open"] == self._count,
            f"{self._count} streams are open",
            timeout_s=_OPEN_S,
            every_s=0.2,
        )
        refused = self.heard()["refused"]
        self.heard("mark")
        return {"seated_s": round(time.monotonic() - begun, 2), "refused": refused}

    def heard(self, what: str = "tell") -> Mapping[str, Any]:
        """Return what came since they were seated: all, and the least and the most of one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the viewers ended without a word")
        return json.loads(line)

    def leave(self) -> None:
        """End all streams."""
        with self._process:
            self._process.kill()


def main(address: str, asked: bool) -> None:
    """Open all streams and read them."""
    host, _, port = address.rpartition(":")
    streams = [Stream(token, path) for token, path in json.loads(os.environ[VARIABLE])]
    Viewers((host, int(port)), streams).watch(asked)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] == ["ask"])
