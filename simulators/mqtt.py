# SPDX-License-Identifier: Apache-2.0
"""MQTT 5 on raw sockets, as much of it as the load needs: TLS, QoS 1, nothing kept, nothing lost.

A client library would keep what is in flight; here whoever sends can say it again by itself.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

# Never the broker's own maximum: mosquitto 2.0.21 ends such a connection within a second.
_KEEPALIVE_S: Final = 300
#: Who says nothing else for so long says this; after half as much again the broker closes.
PING_S: Final = _KEEPALIVE_S / 3
PINGREQ: Final = b"\xc0\x00"
CONNACK: Final = 0x20
PUBLISH: Final = 0x30
PUBACK: Final = 0x40
SUBACK: Final = 0x90
DISCONNECT: Final = 0xE0
_RETAIN: Final = 0x01
_QOS_1: Final = 0x02
_QOS: Final = 0x06


class LoadError(Exception):
    """The run is worth nothing: the text says why."""


def varint(value: int) -> bytes:
    """Return a length as the protocol writes it."""
    if value < 128:
        return bytes((value,))
    if value < 16_384:  # nearly all that is ever sent
        return bytes((value & 127 | 128, value >> 7))
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


def packet(head: int, body: bytes) -> bytes:
    """Return a whole packet."""
    return bytes((head,)) + varint(len(body)) + body


def _text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2) + encoded


def _connect(identity: str) -> bytes:
    # Version 5, clean start; Receive Maximum 65,535: what comes down is bounded by what goes up.
    flags = b"\x05\x02" + _KEEPALIVE_S.to_bytes(2)
    return packet(0x10, _text("MQTT") + flags + b"\x03\x21\xff\xff" + _text(identity))


def _subscribe(topic: str, qos: int) -> bytes:
    return packet(0x82, b"\x00\x01\x00" + _text(topic) + bytes((qos,)))


def topic_field(topic: str) -> bytes:
    """Return a topic with its length before it, as `head` and `publish` take it."""
    return _text(topic)


def head(topic: bytes, mid: int, payload_bytes: int) -> bytes:
    """Return what stands before a payload of that size, QoS 1; ``topic`` is a `topic_field`."""
    length = varint(len(topic) + 3 + payload_bytes)
    return b"\x32%b%b%b\0" % (length, topic, mid.to_bytes(2))


def publish(topic: bytes, mid: int, payload: bytes, *, retain: bool = False) -> bytes:
    """Return a whole message, QoS 1; ``topic`` is a `topic_field`."""
    made = head(topic, mid, len(payload)) + payload
    return bytes((PUBLISH | _QOS_1 | _RETAIN,)) + made[1:] if retain else made


def whisper(topic: bytes, payload: bytes) -> bytes:
    """Return a whole message, QoS 0."""
    return packet(PUBLISH, topic + b"\0" + payload)


def acknowledgement(kind: int, data: bytes, start: int) -> tuple[int, bytes]:
    """Return where a PUBLISH's properties begin, and the PUBACK it asks for, if any."""
    end = start + 2 + int.from_bytes(data[start : start + 2])
    if not kind & _QOS:
        return end, b""
    return end + 2, b"\x40\x02" + data[end : end + 2]


def packets(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield first byte, start and end of the body of each whole packet."""
    position, size = 0, len(data)
    while size - position >= 2:
        length, shift, start = data[position + 1], 7, position + 2
        if length & 0x80:
            length &= 0x7F
            while True:
                if start >= size:
                    return
                byte = data[start]
                start += 1
                length |= (byte & 0x7F) << shift
                if not byte & 0x80:
                    break
                shift += 7
        if start + length > size:
            return
        yield data[position], start, start + length
        position = start + length


class Connection:
    """One client: its socket, what waits to be sent, what came in part."""

    def __init__(
        self,
        identity: str,
        address: tuple[str, int],
        ca: str,
        certificates: str,
        *,
        subscribe: Sequence[tuple[str, int]],
    ) -> None:
        """Connect and subscribe, waiting for both; from then on nothing waits."""
        self.identity = identity
        context = ssl.create_default_context(cafile=ca)
        folder = Path(certificates)
        context.load_cert_chain(folder / f"{identity}.crt", folder / f"{identity}.key")
        plain = socket.create_connection(address, timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=address[0])
        self.fd = self.socket.fileno()
        self.waiting = b""  # to be sent
        self.partial = b""  # received
        self._mid = 0
        self.socket.sendall(_connect(identity))
        self._expect(CONNACK)
        for topic, qos in subscribe:
            self.socket.sendall(_subscribe(topic, qos))
            self._expect(SUBACK)
        self.socket.setblocking(False)

    def _expect(self, head: int) -> None:
        while True:
            self.partial += self._received(self.socket.recv(65_536))
            for kind, start, end in packets(self.partial):
                if kind != head:
                    continue  # a retained message
                reason = self.partial[end - 1] if head == SUBACK else self.partial[start + 1]
                self.partial = self.partial[end:]
                if reason >= 0x80:
                    raise LoadError(
                        f"{self.identity}: the broker answers {head:#x} with {reason:#x}"
                    )
                return

    def _received(self, data: bytes) -> bytes:
        if not data:
            raise LoadError(f"{self.identity}: the broker closed the connection")
        return data

    def next_mid(self) -> int:
        """Return a packet identifier; in flight are never as many as there are."""
        self._mid = self._mid % 65_535 + 1
        return self._mid

    def send(self, data: bytes) -> bool:
        """Send now, or keep it; return whether something waits until the socket is writable."""
        if self.waiting:
            self.waiting += data
            return True
        try:
            sent = self.socket.send(data)
        except (ssl.SSLWantWriteError, BlockingIOError):
            sent = 0
        if sent < len(data):
            self.waiting = data[sent:]
            return True
        return False

    def flush(self) -> bool:
        """Send what waits; return whether something still does."""
        data, self.waiting = self.waiting, b""
        return bool(data) and self.send(data)

    def receive(self) -> bytes:
        """Return what came, from the first packet that is not done with; empty: nothing did."""
        try:
            data = self._received(self.socket.recv(16_384))
        except (ssl.SSLWantReadError, BlockingIOError):
            return b""
        if self.partial:
            data, self.partial = self.partial + data, b""
        return data
