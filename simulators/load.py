# SPDX-License-Identifier: Apache-2.0
"""The bare contract at city rate, for measuring: many gateways in one process, on raw sockets.

Not agents: no outbox, no drivers. A message is a pure function of its gateway and its seq, cut from
a template that all gateways share, so nothing is kept of what is in flight and sending again needs
no memory. It goes out by the clock (an open loop), however slow the receiver is; only the window
that agents have too, messages sent and not yet covered by a watermark, holds it back. Latencies
count from the instant at which a message should have been sent.

Run by `python -m simulators.load PLAN`: a JSON `Plan`; orders are JSON lines on standard input,
what happened is told in JSON lines on standard output.
"""

from __future__ import annotations

import gc
import json
import mmap
import random
import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from edge_agent import topics

# How a community is equipped, as in `simulators.registry`; shares of all its devices.
SHARES: Final[Mapping[str, float]] = {"lamp": 60 / 88, "bin": 12 / 88, "gate": 6 / 88}
# Never the broker's own maximum: mosquitto 2.0.21 ends such a connection within a second.
_KEEPALIVE_S: Final = 300
# Readings of a device until its values repeat.
_VARIANTS: Final = 10
_PIECE: Final = 64
_TELL_S: Final = 1.0
# As agents do: a watermark that stands still so long, and what is in flight is sent again.
_STALL_S: Final = 30.0
_STREAM: Final = re.compile(rb'"(t-[^"]+)":(\d+)')
_ALERT: Final = re.compile(rb'"([0-9a-f-]{36})"')
_COMMUNITY: Final = b"\x00C"
_AT: Final = b"\x00A"


class LoadError(Exception):
    """The run is worth nothing: the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who sends what where.

    Attributes:
        certificates: Folder with a certificate and key of each gateway and of ``listener``.
        listener: An identity that may hear ``live/#`` and its own probes; empty: nobody listens.
        devices: Behind each gateway; there is one gateway a community.
        period_s: How often each device tells.
        batch: Readings of a message; 0 cuts once a second.
        changed_every: One reading of so many says something else than the one before.
        full_bins: In how many communities one bin fills up.
        name: Of this run: streams and occurrences are named after it.
    """

    host: str
    port: int
    ca: str
    certificates: str
    listener: str
    communities: int
    devices: int
    name: str
    period_s: float = 30.0
    batch: int = 0
    changed_every: int = 10
    full_bins: int = 0
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Order:
    """One phase.

    Attributes:
        pace: ``clock`` sends when it is due, ``flow`` as soon as ``limit`` allows.
        seconds: How long it sends.
        window: Messages of a gateway in flight.
        limit: Messages of all gateways in flight (flow).
        counter: A file with the number of messages a receiver without watermarks took.
        since: Of flow: the first reading's instant, seconds since 1970.
        speed: Devices tell so many times as often as planned.
        events_per_s: Alarms raised, by one community after the other.
        probes_per_s: Of the listener to itself, the bare way through the broker.
        drain_s: How long to wait for the last watermark afterwards.
    """

    name: str
    pace: Literal["clock", "flow"] = "clock"
    seconds: float = 10.0
    window: int = 50
    limit: int = 8_000
    counter: str = ""
    since: float = 0.0
    speed: float = 1.0
    batch: int = -1
    events_per_s: float = 0.0
    probes_per_s: float = 0.0
    drain_s: float = 60.0


def community_of(number: int) -> str:
    """Return a community's id; numbers count from 1."""
    return f"c{number:04d}"


def gateway_of(number: int) -> str:
    """Return the id of a community's gateway."""
    return f"gw-{community_of(number)}"


def equipment(devices: int) -> list[str]:
    """Return the class of each device of a community, mixed as they would be met in the street."""
    counts = {kind: round(share * devices) for kind, share in SHARES.items()}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    kinds += ["alarm"] * (devices - len(kinds))
    random.Random(devices).shuffle(kinds)  # noqa: S311 - the same everywhere, no secret
    return kinds


def device_of(community: str, kind: str, index: int) -> str:
    """Return the id of a community's device."""
    return f"{community}-{kind}-{index:04d}"


class Readings:
    """What every gateway says: one text a slice of its devices, with the instant left open."""

    def __init__(self, plan: Plan) -> None:
        """Lay out a community; texts are made when they are first needed."""
        self._kinds = equipment(plan.devices)
        self._changed_every = plan.changed_every
        self._texts: dict[tuple[int, int, int, bool], bytes] = {}
        self._first_bin = self._kinds.index("bin") if "bin" in self._kinds else -1

    def text(self, cursor: int, count: int, *, full_bin: bool) -> bytes:
        """Return ``count`` readings from the ``cursor``-th on that the gateway ever made."""
        devices = len(self._kinds)
        turn, first = divmod(cursor, devices)
        # A bin is full from its second reading on.
        key = (first, count, turn % (self._changed_every * _VARIANTS), full_bin and turn > 0)
        known = self._texts.get(key)
        if known is None:
            known = self._texts[key] = ",".join(
                self._reading((first + step) % devices, turn + (first + step) // devices, key[3])
                for step in range(count)
            ).encode()
        return known

    def _reading(self, index: int, turn: int, full_bin: bool) -> str:
        kind = self._kinds[index]
        value = (index + turn) // self._changed_every % _VARIANTS
        head = (
            f'{{"kind":"{kind}","device":"{_COMMUNITY.decode()}-{kind}-{index:04d}",'
            f'"at":"{_AT.decode()}"'
        )
        match kind:
            case "lamp":
                rest = (
                    f'"lit":true,"level_pct":100,"power_w":{58.5 + value},"voltage_v":228.4,'
                    f'"current_a":0.27,"energy_kwh":1834.2'
                )
            case "bin":
                fill = 96.0 if full_bin and index == self._first_bin else 20.0 + value
                rest = f'"fill_pct":{fill},"weight_kg":12.5,"temperature_c":21.0,"stream":"kitchen"'
            case "gate":
                rest = f'"door":"{"open" if value % 2 else "closed"}","lock":"locked"'
            case _:
                rest = f'"armed":{"false" if value % 2 else "true"},"battery_pct":90.0'
        return f"{head},{rest}}}"


class Clock:
    """Instants as the wire writes them."""

    def __init__(self) -> None:
        """Start with no second known."""
        self._second = -1
        self._text = ""

    def text(self, at_us: int) -> bytes:
        """Return microseconds since 1970 as an RFC 3339 instant."""
        second, us = divmod(at_us, 1_000_000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return b"%b%06dZ" % (self._text.encode(), us)


# -- MQTT 5, as much of it as is needed -----------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


def _packet(head: int, body: bytes) -> bytes:
    return bytes((head,)) + _varint(len(body)) + body


def _text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2) + encoded


def _connect(identity: str) -> bytes:
    # Version 5, clean start; Receive Maximum 65,535: what comes down is bounded by what goes up.
    flags = b"\x05\x02" + _KEEPALIVE_S.to_bytes(2)
    return _packet(0x10, _text("MQTT") + flags + b"\x03\x21\xff\xff" + _text(identity))


def _subscribe(topic: str, qos: int) -> bytes:
    return _packet(0x82, b"\x00\x01\x00" + _text(topic) + bytes((qos,)))


def _publish(topic: bytes, mid: int, payload: bytes) -> bytes:
    length = len(topic) + 5 + len(payload)
    return b"".join(
        (b"\x32", _varint(length), len(topic).to_bytes(2), topic, mid.to_bytes(2), b"\0", payload)
    )


class Connection:
    """One client: its socket, what waits to be sent, what came in part."""

    def __init__(self, identity: str, plan: Plan, *, subscribe: Sequence[tuple[str, int]]) -> None:
        """Connect and subscribe, waiting for both; from then on nothing waits."""
        self.identity = identity
        context = ssl.create_default_context(cafile=plan.ca)
        folder = Path(plan.certificates)
        context.load_cert_chain(folder / f"{identity}.crt", folder / f"{identity}.key")
        plain = socket.create_connection((plan.host, plan.port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=plan.host)
        self.fd = self.socket.fileno()
        self.waiting = b""  # to be sent
        self.partial = b""  # received
        self.mid = 0
        self.socket.sendall(_connect(identity))
        self._expect(0x20, identity)
        for topic, qos in subscribe:
            self.socket.sendall(_subscribe(topic, qos))
            self._expect(0x90, identity)
        self.socket.setblocking(False)

    def _expect(self, head: int, identity: str) -> None:
        while True:
            for kind, start, end in self._packets(self.socket.recv(65_536)):
                if kind != head:
                    continue  # a retained message
                reason = self.partial[end - 1] if head == 0x90 else self.partial[start + 1]
                self.partial = self.partial[end:]
                if reason >= 0x80:
                    raise LoadError(f"{identity}: the broker answers {head:#x} with {reason:#x}")
                return

    def _packets(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        if not data:
            raise LoadError(f"{self.identity}: the broker closed the connection")
        self.partial += data
        yield from packets(self.partial)

    def next_mid(self) -> int:
        """Return a packet identifier; in flight are never as many as there are."""
        self.mid = self.mid % 65_535 + 1
        return self.mid


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


@dataclass(slots=True, eq=False)
class Gateway:
    """One community's gateway.

    Attributes:
        sent: The last seq of its telemetry.
        stored: Up to which seq all is stored, as it was told.
        base_seq: The last seq before this phase.
        base_cursor: Readings made before this phase.
        phase: Where within an interval it sends, a share of it.
        due: Messages that should be sent and are held back.
    """

    number: int
    community: bytes
    connection: Connection
    topic: bytes
    event_topic: bytes
    stream: bytes
    event_stream: bytes
    phase: float
    sent: int = 0
    stored: int = 0
    base_seq: int = 0
    base_cursor: int = 0
    due: int = 0
    event_seq: int = 0
    moved_at: float = 0.0


@dataclass(slots=True)
class Tally:
    """What a phase came to."""

    messages: int = 0
    readings: int = 0
    bytes: int = 0
    acknowledged: int = 0  # PUBACKs
    refused: int = 0
    unheard: int = 0  # PUBACKs that said: nobody is subscribed
    stored: int = 0  # messages known as stored
    stored_readings: int = 0
    resent: int = 0
    lag_max_s: float = 0.0
    live_messages: int = 0
    events: dict[str, float] = field(default_factory=dict[str, float])
    alerts: dict[str, float] = field(default_factory=dict[str, float])
    probes: list[float] = field(default_factory=list[float])


class Load:
    """All gateways of a plan, and who listens for what follows from them."""

    def __init__(self, plan: Plan) -> None:
        """Connect everybody."""
        self._plan = plan
        self._readings = Readings(plan)
        self._alarms = [n for n, kind in enumerate(equipment(plan.devices)) if kind == "alarm"]
        self._clock = Clock()
        self._random = random.Random(plan.seed)  # noqa: S311 - simulated, no secret
        self._poll = select.epoll()
        self._gateways = [self._gateway(number) for number in range(1, plan.communities + 1)]
        self._random.shuffle(self._gateways)
        self._by_fd = {one.connection.fd: one for one in self._gateways}
        self._by_stream = {one.stream: one for one in self._gateways}
        probe = f"{topics.PREFIX}/probe/{plan.listener}"
        live = f"{topics.PREFIX}/live/#"
        self._probe_topic = probe.encode()
        self._listener: Connection | None = None
        if plan.listener:
            self._listener = Connection(plan.listener, plan, subscribe=[(live, 0), (probe, 0)])
            self._poll.register(self._listener.fd, select.EPOLLIN)
        for one in self._gateways:
            self._poll.register(one.connection.fd, select.EPOLLIN)
        # Readings' instants follow the wall, intervals the monotonic clock: both from here.
        self._wall_us = time.time_ns() // 1_000 - time.monotonic_ns() // 1_000
        self._latest_us = 0
        self._order = Order("none")
        self._interval = 1.0
        self._begin = 0.0
        self._origin_us = 0
        self._tally = Tally()
        self._held = 0  # sum of `due`
        self._in_flight = 0
        self._events = 0
        self._turn = 0

    def _gateway(self, number: int) -> Gateway:
        plan, name = self._plan, gateway_of(number)
        connection = Connection(name, plan, subscribe=[(topics.down(name, "ack"), topics.QOS)])
        return Gateway(
            number,
            community_of(number).encode(),
            connection,
            topics.up(name, "telemetry").encode(),
            topics.up(name, "event").encode(),
            f"t-{plan.name}-{name}".encode(),
            f"e-{plan.name}-{name}".encode(),
            self._random.random(),
        )

    # -- what is sent --------------------------------------------------------------------------

    def _cursor(self, gateway: Gateway, seq: int) -> int:
        """Return how many readings the gateway has made with its message ``seq``."""
        messages = seq - gateway.base_seq
        if self._batch:
            return gateway.base_cursor + messages * self._batch
        return gateway.base_cursor + int(messages * self._plan.devices / self._period + 1e-6)

    @property
    def _batch(self) -> int:
        batch = self._plan.batch if self._order.batch < 0 else self._order.batch
        # Where a second brings less than a reading, each goes by itself; and no device tells two
        # things at one instant.
        return min(batch or int(self._plan.devices < self._period), self._plan.devices)

    @property
    def _period(self) -> float:
        return self._plan.period_s / self._order.speed

    def _telemetry(self, gateway: Gateway, seq: int) -> tuple[bytes, int]:
        """Return the payload of one message, whenever it is asked for, and its readings."""
        first, end = self._cursor(gateway, seq - 1), self._cursor(gateway, seq)
        intervals = gateway.phase + seq - gateway.base_seq - 1
        at_us = self._origin_us + int(intervals * self._interval * 1e6)
        self._latest_us = max(self._latest_us, at_us)
        at = self._clock.text(at_us)
        full = gateway.number <= self._plan.full_bins
        body = self._readings.text(first, end - first, full_bin=full)
        body = body.replace(_COMMUNITY, gateway.community).replace(_AT, at)
        return (
            b'{"v":1,"stream":"%b","seq":%d,"sent_at":"%b","readings":[%b]}'
            % (gateway.stream, seq, at, body),
            end - first,
        )

    def _send(self, gateway: Gateway) -> None:
        gateway.sent += 1
        if gateway.sent == gateway.stored + 1:
            gateway.moved_at = time.monotonic()
        payload, readings = self._telemetry(gateway, gateway.sent)
        self._tally.messages += 1
        self._tally.readings += readings
        self._tally.bytes += len(payload)
        self._in_flight += 1
        connection = gateway.connection
        self._put(connection, _publish(gateway.topic, connection.next_mid(), payload))

    def _send_event(self, due: float) -> None:
        """Raise the next community's next alarm."""
        turn, place = divmod(self._events, len(self._gateways))
        self._events += 1
        gateway = self._gateways[place]
        kind, number = "panic", self._alarms[turn % len(self._alarms)]
        occurrence = f"o-{self._plan.name}-{gateway.number}-{turn}"
        device = device_of(gateway.community.decode(), "alarm", number)
        gateway.event_seq += 1
        at = self._clock.text(self._wall_us + int(due * 1e6))
        payload = (
            b'{"v":1,"stream":"%b","seq":%d,"sent_at":"%b","event":{"kind":"alarm","device":"%b",'
            b'"at":"%b","event":"%b","phase":"raised","occurrence":"%b"}}'
            % (
                gateway.event_stream, gateway.event_seq, at, device.encode(),
                at, kind.encode(), occurrence.encode(),
            )
        )  # fmt: skip
        self._tally.events[occurrence] = due
        connection = gateway.connection
        self._put(connection, _publish(gateway.event_topic, connection.next_mid(), payload))

    def _put(self, connection: Connection, data: bytes) -> None:
        if connection.waiting:
            connection.waiting += data
            return
        try:
            sent = connection.socket.send(data)
        except (ssl.SSLWantWriteError, BlockingIOError):
            sent = 0
        if sent < len(data):
            connection.waiting = data[sent:]
            self._poll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, connection: Connection) -> None:
        data, connection.waiting = connection.waiting, b""
        self._poll.modify(connection.fd, select.EPOLLIN)
        if data:
            self._put(connection, data)

    # -- what is heard -------------------------------------------------------------------------

    def _hear(self, timeout: float) -> None:
        for fd, what in self._poll.poll(timeout, 512):
            gateway = self._by_fd.get(fd)
            connection = self._listener if gateway is None else gateway.connection
            assert connection is not None
            if what & select.EPOLLOUT:
                self._flush(connection)
            if not what & ~select.EPOLLOUT:
                continue
            try:
                data = connection.socket.recv(65_536)
            except (ssl.SSLWantReadError, BlockingIOError):
                continue
            if not data:
                raise LoadError(f"{connection.identity}: the broker closed the connection")
            if connection.partial:
                data = connection.partial + data
            done = 0
            for kind, start, end in packets(data):
                done = end
                if kind == 0x40:
                    self._acknowledged(data, start, end)
                elif kind & 0xF0 == 0x30:
                    if gateway is None:
                        self._told(data, start, end)
                    else:
                        self._watermark(gateway, kind, data, start, end)
                elif kind == 0xE0:
                    raise LoadError(f"{connection.identity}: the broker says goodbye")
            connection.partial = data[done:]

    def _acknowledged(self, data: bytes, start: int, end: int) -> None:
        self._tally.acknowledged += 1
        if end - start > 2:
            reason = data[start + 2]
            self._tally.refused += reason >= 0x80
            self._tally.unheard += reason == 0x10

    def _watermark(self, gateway: Gateway, kind: int, data: bytes, start: int, end: int) -> None:
        topic_end = start + 2 + int.from_bytes(data[start : start + 2])
        if kind & 0x06:
            self._put(gateway.connection, b"\x40\x02" + data[topic_end : topic_end + 2])
        found = _STREAM.search(data, topic_end, end)
        if found is None or found[1] != gateway.stream:
            return  # of its events
        seq = int(found[2])
        if seq <= gateway.stored:
            return
        tally = self._tally
        tally.stored += seq - gateway.stored
        tally.stored_readings += self._cursor(gateway, seq) - self._cursor(gateway, gateway.stored)
        self._in_flight -= seq - gateway.stored
        gateway.stored = seq
        gateway.moved_at = time.monotonic()
        while gateway.due and gateway.sent - seq < self._order.window:
            gateway.due -= 1
            self._held -= 1
            self._send(gateway)

    def _told(self, data: bytes, start: int, end: int) -> None:
        now = time.monotonic()
        topic_end = start + 2 + int.from_bytes(data[start : start + 2])
        if data[start + 2 : topic_end] == self._probe_topic:
            self._tally.probes.append(now - float(data[topic_end + 1 : end]))
            return
        self._tally.live_messages += 1
        place = data.find(b'"alerts":["', topic_end, end)
        if place >= 0:
            for found in _ALERT.finditer(data, place, data.index(b"]", place)):
                self._tally.alerts.setdefault(found[1].decode(), now)

    # -- phases --------------------------------------------------------------------------------

    def run(self, order: Order) -> dict[str, Any]:
        """Send for as long as ordered, wait for the last watermark, and say what it came to.

        Raises:
            LoadError: The broker closed a connection.
        """
        made = {one.number: self._made(one) for one in self._gateways}
        self._order = order
        batch = self._batch
        self._interval = batch * self._period / self._plan.devices if batch else 1.0
        self._tally = tally = Tally()
        self._held = 0
        for one in self._gateways:
            # What follows counts from here; what was sent before is all stored, or lost.
            one.base_cursor, one.base_seq, one.due = made[one.number], one.sent, 0
        self._begin = begin = time.monotonic()
        self._origin_us = self._wall_us + int(begin * 1e6)
        if order.pace == "flow":
            since_us = int(order.since * 1e6)
            self._origin_us = max(since_us, self._latest_us + int(self._interval * 1e6))
        cpu = time.process_time()
        if order.pace == "clock":
            self._by_clock(begin + order.seconds)
        else:
            self._by_flow(begin + order.seconds)
        sent_s = time.monotonic() - begin
        at_end = asdict(tally)
        drained = not order.counter and self.drain(order.drain_s)
        self._hear(0)
        return {
            "name": order.name,
            "begun": begin,
            "seconds": sent_s,
            "drain_seconds": time.monotonic() - begin - sent_s,
            "cpu_seconds": time.process_time() - cpu,
            "drained": drained,
            "at_end": {name: at_end[name] for name in ("stored", "stored_readings")},
            **asdict(tally),
        }

    def ledger(self) -> dict[str, Any]:
        """What was accepted so far, by gateway: last seq and readings."""
        return {
            gateway_of(one.number): [one.sent, self._made(one), one.stored, one.event_seq]
            for one in self._gateways
        }

    def _made(self, gateway: Gateway) -> int:
        return self._cursor(gateway, gateway.sent)

    def _by_clock(self, end: float) -> None:
        order = sorted(self._gateways, key=lambda one: one.phase)
        turn = place = 0
        due = self._begin + order[0].phase * self._interval
        events = self._every(self._order.events_per_s)
        probes = self._every(self._order.probes_per_s)
        event_due, probe_due, tell_due = next(events), next(probes), self._begin + _TELL_S
        while True:
            now = time.monotonic()
            if now >= end:
                return
            sent = 0
            while due <= now and sent < _PIECE:
                gateway = order[place]
                if gateway.due or gateway.sent - gateway.stored >= self._order.window:
                    gateway.due += 1
                    self._held += 1
                else:
                    self._tally.lag_max_s = max(self._tally.lag_max_s, now - due)
                    self._send(gateway)
                sent += 1
                place += 1
                if place == len(order):
                    turn, place = turn + 1, 0
                due = self._begin + (turn + order[place].phase) * self._interval
            while event_due <= now:
                self._send_event(event_due)
                event_due = next(events)
            while probe_due <= now:
                self._probe(probe_due)
                probe_due = next(probes)
            if tell_due <= now:
                self._tell(now)
                self._send_again(now)
                tell_due += _TELL_S
            wait = min(due, event_due, probe_due, tell_due, end) - time.monotonic()
            self._hear(max(0.0, min(wait, 0.05)))

    def _by_flow(self, end: float) -> None:
        counter = _Counter(self._order.counter) if self._order.counter else None
        events = self._every(self._order.events_per_s)
        event_due, tell_due, place = next(events), self._begin + _TELL_S, 0
        before = 0 if counter is None else counter.value - self._tally.messages
        while True:
            now = time.monotonic()
            if now >= end:
                return
            if counter is not None:
                self._tally.stored = counter.value - before
                self._in_flight = self._tally.messages - self._tally.stored
            room = min(_PIECE, self._order.limit - self._in_flight)
            for _ in range(room):
                self._send(self._gateways[place])
                place = (place + 1) % len(self._gateways)
            while event_due <= now:
                self._send_event(event_due)
                event_due = next(events)
            if tell_due <= now:
                self._tell(now)
                if counter is None:
                    self._send_again(now)
                tell_due += _TELL_S
            self._hear(0.0 if room > 0 else 0.002)

    def drain(self, seconds: float) -> bool:
        """Wait until all that was due is sent and stored; return whether it came to that."""
        deadline = time.monotonic() + seconds
        tell_due = 0.0
        while True:
            now = time.monotonic()
            late = any(one.stored < one.sent or one.due for one in self._gateways)
            if not late or now > deadline:
                return not late
            if tell_due <= now:
                self._tell(now)
                self._send_again(now)
                tell_due = now + _TELL_S
            for _ in range(20):
                self._hear(0.01)

    def _send_again(self, now: float) -> None:
        """Send again what is in flight where watermarks stand still: the broker dropped it."""
        for one in self._gateways:
            if one.stored < one.sent and now - one.moved_at > _STALL_S:
                one.moved_at = now
                for seq in range(max(one.stored, one.base_seq) + 1, one.sent + 1):
                    payload, _ = self._telemetry(one, seq)
                    connection = one.connection
                    self._put(connection, _publish(one.topic, connection.next_mid(), payload))
                    self._tally.resent += 1

    def _every(self, rate: float) -> Iterator[float]:
        count = 0
        while rate:
            yield self._begin + (count + 0.5) / rate
            count += 1
        while True:
            yield float("inf")

    def _probe(self, due: float) -> None:
        topic = self._probe_topic
        body = len(topic).to_bytes(2) + topic + b"\0" + f"{due:.6f}".encode()
        assert self._listener is not None
        self._put(self._listener, _packet(0x30, body))

    def _tell(self, now: float) -> None:
        tally = self._tally
        tell(
            {
                "phase": self._order.name,
                "t": now - self._begin,
                "now": now,
                "messages": tally.messages,
                "readings": tally.readings,
                "stored": tally.stored,
                "stored_readings": tally.stored_readings,
                "in_flight": self._in_flight,
                "held": self._held,
                "lag_max_s": tally.lag_max_s,
                "cpu": time.process_time(),
            }
        )


class _Counter:
    """A number in a file that another process writes: eight bytes, the machine's order."""

    def __init__(self, file: str) -> None:
        with Path(file).open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 8)

    @property
    def value(self) -> int:
        return int.from_bytes(self._map[:8], sys.byteorder)


def tell(line: Mapping[str, Any]) -> None:
    """Write one line of JSON to standard output, at once."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(file: str) -> None:
    """Connect, then obey the orders on standard input until it ends."""
    known = json.loads(Path(file).read_text())
    plan = Plan(**{one.name: known[one.name] for one in fields(Plan) if one.name in known})
    try:
        load = Load(plan)
        gc.freeze()
        tell({"ready": plan.communities})
        for line in sys.stdin:
            asked = json.loads(line)
            if asked.get("name") == "ledger":
                tell({"done": "ledger", "ledger": load.ledger()})
            elif asked.get("name") == "drain":
                tell({"done": "drain", "drained": load.drain(asked["seconds"])})
            else:
                tell({"done": asked["name"], "result": load.run(Order(**asked))})
    except (LoadError, OSError) as error:
        tell({"error": str(error)})
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(sys.argv[1])
