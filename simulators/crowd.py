# SPDX-License-Identifier: Apache-2.0
"""A load's gateways: what they send, what they hear; when they do it, `simulators.load` says."""

from __future__ import annotations

import random
import re
import select
import time
from dataclasses import dataclass
from typing import Final

from edge_agent import topics
from simulators.messages import (
    Clock,
    Readings,
    Speaker,
    alarm,
    community_of,
    device_of,
    equipment,
    gateway_of,
    status,
)
from simulators.mqtt import (
    DISCONNECT,
    PING_S,
    PINGREQ,
    PUBACK,
    PUBLISH,
    Connection,
    LoadError,
    acknowledgement,
    packets,
    publish,
    topic_field,
    whisper,
)
from simulators.orders import Order, Plan, Tally

#: How often what came for gateways is read, if nothing else is asked for; s.
SWEEP_S: Final = 0.05
_SWEEP_MAX: Final = 4_096
_WATERMARK: Final = re.compile(rb'"([te]-[^"]+)":(\d+)')
_ALERT: Final = re.compile(rb'"([0-9a-f-]{36})"')


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
        moved_at: When more was stored, or all in flight was sent again.
        patience: How many times as long as usual it may stand still.
    """

    number: int
    community: str
    connection: Connection
    speaker: Speaker
    event_topic: bytes
    status_topic: bytes
    stream: bytes
    event_stream: bytes
    phase: float
    sent: int = 0
    stored: int = 0
    base_seq: int = 0
    base_cursor: int = 0
    due: int = 0
    event_seq: int = 0
    event_stored: int = 0
    moved_at: float = 0.0
    patience: int = 1


class Crowd:
    """All gateways of a plan, and who listens for what follows from them."""

    def __init__(self, plan: Plan) -> None:
        """Connect everybody; each says that it is there."""
        self._plan = plan
        self._readings = Readings(plan.devices, plan.changed_every)
        self._alarms = [n for n, kind in enumerate(equipment(plan.devices)) if kind == "alarm"]
        self._clock = Clock()
        self._random = random.Random(plan.seed)  # noqa: S311 - simulated, no secret
        self._poll = select.epoll()
        # Who listens is heard at once, gateways every so often.
        self._ears = select.epoll()
        self._gateways = [self._gateway(number) for number in range(1, plan.communities + 1)]
        self._random.shuffle(self._gateways)
        self._by_fd = {one.connection.fd: one for one in self._gateways}
        self._in_turn = sorted(self._gateways, key=lambda one: one.phase)
        probe = f"{topics.PREFIX}/probe/{plan.listener}"
        live = f"{topics.PREFIX}/live/#"
        self._probe_topic = topic_field(probe)
        self._listener: Connection | None = None
        self._ping_due = 0.0
        if plan.listener:
            self._listener = self._connection(plan.listener, [(live, 0), (probe, 0)])
            self._ears.register(self._listener.fd, select.EPOLLIN)
        for one in self._gateways:
            self._poll.register(one.connection.fd, select.EPOLLIN)
        # Readings' instants follow the wall, intervals the monotonic clock: both from here.
        self._wall_us = time.time_ns() // 1_000 - time.monotonic_ns() // 1_000
        self._latest_us = 0
        self._order = Order("none")
        self._interval = 1.0
        self._readings_a_message = 1.0
        self._begin = 0.0
        self._origin_us = 0
        self._tally = Tally()
        self._held = 0  # sum of `due`
        self._in_flight = 0
        self._events = 0
        self._sweep_due = 0.0
        self._sweep_s = SWEEP_S
        self._status_turn = self._status_place = 0
        self._born = time.monotonic()
        self._status_due = float("inf")
        for one in self._gateways:
            self._send_status(one, self._born)
        if plan.status_s:
            self._status_due = self._next_status()

    def _connection(self, name: str, subscribe: list[tuple[str, int]]) -> Connection:
        plan = self._plan
        return Connection(
            name, (plan.host, plan.port), plan.ca, plan.certificates, subscribe=subscribe
        )

    def _gateway(self, number: int) -> Gateway:
        name = gateway_of(number)
        stream, event_stream = (f"{lane}-{self._plan.name}-{name}" for lane in "te")
        community = community_of(number)
        return Gateway(
            number,
            community,
            self._connection(name, [(topics.down(name, "ack"), topics.QOS)]),
            Speaker.of(community, topic_field(topics.up(name, "telemetry")), stream),
            topic_field(topics.up(name, "event")),
            topic_field(topics.up(name, "status")),
            stream.encode(),
            event_stream.encode(),
            self._random.random(),
        )

    # -- what is sent --------------------------------------------------------------------------

    def _cursor(self, gateway: Gateway, seq: int) -> int:
        """Return how many readings the gateway has made with its message ``seq``."""
        messages = seq - gateway.base_seq
        return gateway.base_cursor + int(messages * self._readings_a_message + 1e-6)

    def _telemetry(self, gateway: Gateway, seq: int) -> tuple[bytes, int]:
        """Return one message, whenever it is asked for, and how many readings are in it."""
        first, end = self._cursor(gateway, seq - 1), self._cursor(gateway, seq)
        intervals = gateway.phase + seq - gateway.base_seq - 1
        at_us = self._origin_us + int(intervals * self._interval * 1e6)
        if at_us > self._latest_us:
            self._latest_us = at_us
        full = gateway.number <= self._plan.full_bins
        said = self._readings.slice(first, end - first, full_bin=full)
        mid = gateway.connection.next_mid()
        return said.packet(gateway.speaker, mid, seq, self._clock.text(at_us)), end - first

    def _send(self, gateway: Gateway) -> None:
        gateway.sent += 1
        if gateway.sent == gateway.stored + 1:
            gateway.moved_at = time.monotonic()
        message, readings = self._telemetry(gateway, gateway.sent)
        tally = self._tally
        tally.messages += 1
        tally.readings += readings
        self._in_flight += 1
        self._put(gateway.connection, message)

    def _send_event(self, due: float) -> None:
        """Raise the next community's next alarm."""
        turn, place = divmod(self._events, len(self._gateways))
        self._events += 1
        gateway = self._gateways[place]
        occurrence = f"o-{self._plan.name}-{gateway.number}-{turn}"
        device = device_of(gateway.community, "alarm", self._alarms[turn % len(self._alarms)])
        gateway.event_seq += 1
        payload = alarm(
            gateway.event_stream, gateway.event_seq, device, self._instant(due), occurrence
        )
        self._tally.events[occurrence] = due
        connection = gateway.connection
        self._put(connection, publish(gateway.event_topic, connection.next_mid(), payload))

    def _send_status(self, gateway: Gateway, due: float) -> None:
        payload = status(
            self._instant(due),
            (gateway.stream, gateway.stored + 1, gateway.sent + gateway.due + 1),
            (gateway.event_stream, gateway.event_stored + 1, gateway.event_seq + 1),
            self._plan.status_s,
        )
        self._tally.statuses += 1
        connection = gateway.connection
        self._put(
            connection,
            publish(gateway.status_topic, connection.next_mid(), payload, retain=True),
        )

    def _send_statuses(self, now: float) -> None:
        if self._listener is not None and now >= self._ping_due:  # it may have nothing to say
            self._ping_due = now + PING_S
            self._put(self._listener, PINGREQ)
        while self._status_due <= now:
            self._send_status(self._in_turn[self._status_place], self._status_due)
            self._status_place += 1
            if self._status_place == len(self._in_turn):
                self._status_turn, self._status_place = self._status_turn + 1, 0
            self._status_due = self._next_status()

    def _next_status(self) -> float:
        phase = self._in_turn[self._status_place].phase
        return self._born + (self._status_turn + phase) * self._plan.status_s

    def _probe(self, due: float) -> None:
        assert self._listener is not None
        self._put(self._listener, whisper(self._probe_topic, f"{due:.6f}".encode()))

    def _instant(self, at: float) -> bytes:
        return self._clock.text(self._wall_us + int(at * 1e6))

    def _put(self, connection: Connection, data: bytes) -> None:
        if connection.send(data):
            self._watch(connection, select.EPOLLIN | select.EPOLLOUT)

    def _watch(self, connection: Connection, what: int) -> None:
        poll = self._ears if connection is self._listener else self._poll
        poll.modify(connection.fd, what)

    # -- what is heard -------------------------------------------------------------------------

    def _hear(self, timeout: float) -> bool:
        """Wait that long for what the listener is told; look at gateways where it is time to.

        Returns whether there is something to be read from anything else that was registered.
        """
        asked = False
        for fd, what in self._ears.poll(timeout):
            if self._listener is not None and fd == self._listener.fd:
                self._serve(self._listener, None, what)
            else:
                asked = True
        now = time.monotonic()
        if now >= self._sweep_due:
            self._sweep_due = now + self._sweep_s
            for fd, what in self._poll.poll(0, _SWEEP_MAX):
                gateway = self._by_fd[fd]
                self._serve(gateway.connection, gateway, what)
        return asked

    def _serve(self, connection: Connection, gateway: Gateway | None, what: int) -> None:
        if what & select.EPOLLOUT and not connection.flush():
            self._watch(connection, select.EPOLLIN)
        if not what & ~select.EPOLLOUT:
            return
        data = connection.receive()
        if len(data) == 4 and data[0] == PUBACK:
            return  # taken, no more to say: by far the most of what comes
        done = 0
        for kind, start, end in packets(data):
            done = end
            if kind == PUBACK:
                self._tally.refused += end - start > 2 and data[start + 2] >= 0x80
            elif kind & 0xF0 == PUBLISH:
                if gateway is None:
                    self._told(data, start, end)
                else:
                    self._watermark(gateway, kind, data, start, end)
            elif kind == DISCONNECT:
                raise LoadError(f"{connection.identity}: the broker says goodbye")
        connection.partial = data[done:]

    def _watermark(self, gateway: Gateway, kind: int, data: bytes, start: int, end: int) -> None:
        place, reply = acknowledgement(kind, data, start)
        if reply:
            self._put(gateway.connection, reply)
        for stream, text in _WATERMARK.findall(data, place, end):
            if stream == gateway.stream:
                self._stored(gateway, int(text))
            elif stream == gateway.event_stream:
                gateway.event_stored = max(gateway.event_stored, int(text))

    def _stored(self, gateway: Gateway, seq: int) -> None:
        if seq <= gateway.stored:
            return
        tally = self._tally
        tally.stored += seq - gateway.stored
        tally.stored_readings += self._cursor(gateway, seq) - self._cursor(gateway, gateway.stored)
        self._in_flight -= seq - gateway.stored
        gateway.stored = seq
        gateway.moved_at = time.monotonic()
        gateway.patience = 1
        while gateway.due and gateway.sent - seq < self._order.window:
            gateway.due -= 1
            self._held -= 1
            self._send(gateway)

    def _told(self, data: bytes, start: int, end: int) -> None:
        now = time.monotonic()
        place, _ = acknowledgement(PUBLISH, data, start)
        if data[start:place] == self._probe_topic:
            self._tally.probes.append(now - float(data[place + 1 : end]))
            return
        self._tally.live_messages += 1
        place = data.find(b'"alerts":["', place, end)
        if place >= 0:
            for found in _ALERT.finditer(data, place, data.index(b"]", place)):
                self._tally.alerts.setdefault(found[1].decode(), now)
