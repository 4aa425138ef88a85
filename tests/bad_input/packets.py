# SPDX-License-Identifier: Apache-2.0
"""MQTT 5 packets made by hand, for what no client library would send."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass

from deploy.services import HOST
from tests.services import Identity

DEADLINE_S = 30.0

CONNACK, PUBLISH, PUBACK, PONG, DISCONNECT = 2, 3, 4, 13, 14


def number(value: int, length: int = 2) -> bytes:
    return value.to_bytes(length, "big")


def binary(value: bytes) -> bytes:
    """What MQTT calls binary data, and UTF-8 text: two bytes of length, then the bytes."""
    return number(len(value)) + value


def variable(value: int) -> bytes:
    """A variable byte integer."""
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (128 if value else 0))
        if not value:
            return bytes(out)


def counted(value: bytes) -> bytes:
    return variable(len(value)) + value


def connect(*, properties: bytes = b"", will: tuple[bytes, bytes] | None = None) -> bytes:
    """CONNECT with a clean start; ``will``: topic and payload, QoS 1, retained."""
    flags = 0x02 | (0 if will is None else 0x04 | 0x08 | 0x20)
    payload = binary(b"")
    if will is not None:
        payload += counted(b"") + binary(will[0]) + binary(will[1])
    head = binary(b"MQTT") + bytes([5, flags]) + number(60)
    return b"\x10" + counted(head + counted(properties) + payload)


def publish(
    topic: bytes, payload: bytes = b"{}", *, qos: int = 1, mid: int = 1, properties: bytes = b""
) -> bytes:
    body = binary(topic) + (number(mid) if qos else b"") + counted(properties) + payload
    return bytes([0x30 | qos << 1]) + counted(body)


def subscribe(topic: str, *, mid: int = 9) -> bytes:
    return b"\x82" + counted(number(mid) + counted(b"") + binary(topic.encode()) + b"\1")


def ping() -> bytes:
    return b"\xc0\0"


@dataclass(frozen=True, slots=True)
class Packet:
    """What the broker said; ``reason`` is its reason code."""

    kind: int
    body: bytes

    @property
    def reason(self) -> int:
        match self.kind:
            case 2:  # CONNACK
                return self.body[1]
            case 4:  # PUBACK
                return self.body[2] if len(self.body) > 2 else 0
            case 14:  # DISCONNECT
                return self.body[0] if self.body else 0
            case _:
                raise AssertionError(self)


class Link:
    """A connection on which packets are written and read one by one."""

    def __init__(self, secure: ssl.SSLSocket) -> None:
        self._secure = secure

    def send(self, *packets: bytes) -> None:
        # Closed in the middle of it: what was said first is still to be heard.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self._secure.sendall(b"".join(packets))

    def hear(self) -> Packet | None:
        """The next packet; None when the broker closed instead."""
        try:
            head = self._exactly(1)
            length, shift = 0, 0
            while True:
                (digit,) = self._exactly(1)
                length |= (digit & 127) << shift
                shift += 7
                if digit < 128:
                    return Packet(head[0] >> 4, self._exactly(length))
        except (EOFError, ConnectionError, ssl.SSLError):
            return None

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._secure.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data


@contextlib.contextmanager
def link(port: int, identity: Identity, timeout_s: float = DEADLINE_S) -> Generator[Link]:
    """Connect with a certificate; nothing is said yet. Left without a word: a will is due then."""
    with (
        socket.create_connection((HOST, port), timeout=DEADLINE_S) as plain,
        identity.context().wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        secure.settimeout(timeout_s)
        yield Link(secure)


@contextlib.contextmanager
def connected(port: int, identity: Identity) -> Generator[Link]:
    """Connect, and be welcome."""
    with link(port, identity) as one:
        one.send(connect())
        welcome = one.hear()
        assert welcome is not None
        assert (welcome.kind, welcome.reason) == (CONNACK, 0)
        yield one
