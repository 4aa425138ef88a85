# SPDX-License-Identifier: Apache-2.0
"""What viewers are told: one encoding an area, a ring for those who come back, bounded queues.

A batch is encoded once for all viewers of an area whose roles see the same (`Channel`); nobody's
slowness is anybody else's wait.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from api.alerts import Alert
from api.answers import Answer, Instant, Scalar
from api.cases import CaseRow
from api.metrics import Metrics
from api.overview import Overview
from api.people import Principal
from api.places import Place
from api.scope import Scope, is_within
from edge_agent.messages import DeviceState

QUEUE_MAX: Final = 256
RING_MAX: Final = 120
# While gateways send what they kept, batches are large; then fewer of them are kept.
RING_BYTES_MAX: Final = 8 * 1024 * 1024
_CASES_KNOWN_MAX: Final = 10_000


class DeviceChange(Answer):
    """A device's latest state, as a stream and the feed tell it."""

    device: str
    kind: str
    state: DeviceState
    at: Instant | None
    received_at: Instant | None
    values: dict[str, Scalar]
    area: str
    name: str
    name_en: str | None


class GatewayChange(Answer):
    """Whether a gateway is heard."""

    gateway: str
    silent: bool
    last_seen_at: Instant | None


class Snapshot(Answer):
    """All a screen needs to begin: ``alerts`` are those of the desk, the newest 200 at most.

    ``cases`` are the open ones, as many; for the police and whoever answers for all, as cases are.
    """

    cursor: str
    at: Instant
    overview: Overview
    alerts: list[Alert]
    cases: list[CaseRow]
    feed: list[DeviceChange | Alert]


class Delta(Answer):
    """What changed since the cursor before; an alert that became quiet leaves the desk.

    A case is told whole, without its alerts and timeline. ``cases_gone`` are cases told before that
    are not of the area any more: an alert of another cell joined them.
    """

    cursor: str
    at: Instant
    devices: list[DeviceChange]
    alerts: list[Alert]
    cases: list[CaseRow]
    cases_gone: list[UUID]
    gateways: list[GatewayChange]


def event(name: str, data: bytes, cursor: str | None = None) -> bytes:
    """Return one server-sent event. An empty ``cursor`` makes the reader forget its own."""
    identity = b"" if cursor is None else b"id: " + cursor.encode() + b"\n"
    return b"event: " + name.encode() + b"\n" + identity + b"data: " + data + b"\n\n"


# An empty id: who reconnects by itself then begins with a snapshot.
RESET: Final = event("reset", b"{}", "")


class Viewer:
    """One open stream: its queue is bounded, and whoever cannot keep up begins anew."""

    def __init__(self, principal: Principal, channel: "Channel", metrics: Metrics) -> None:
        """Open the queue."""
        self.principal = principal
        self.channel = channel
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._metrics = metrics
        self._closed = False

    def put(self, item: bytes) -> None:
        """Queue an event; a full queue becomes one ``reset``, and the stream ends."""
        if self._closed:
            return
        if self.queue.qsize() >= QUEUE_MAX:
            self._metrics.stream_resets.inc()
            self._drain()
            self.queue.put_nowait(RESET)
            self.close()
            return
        self.queue.put_nowait(item)

    def close(self) -> None:
        """Let the stream end after what is queued."""
        if not self._closed:
            self._closed = True
            self.queue.put_nowait(None)

    def skip(self) -> None:
        """Drop what is queued: it is told in another way. A stream that is to end still ends."""
        if not self._closed:
            self._drain()

    def cut(self) -> None:
        """Let the stream end at once: nothing more may be told."""
        self._drain()
        self.close()

    def _drain(self) -> None:
        while not self.queue.empty():
            self.queue.get_nowait()


@dataclass(eq=False, slots=True)
class Channel:
    """All viewers of one area whose roles see the same, and the last batches they were told."""

    place: Place
    hidden_rules: tuple[str, ...]
    epoch: str
    scope: Scope
    with_devices: bool
    sequence: int = 0
    ring: deque[tuple[int, bytes]] = field(default_factory=deque[tuple[int, bytes]])
    ring_bytes: int = 0
    viewers: set[Viewer] = field(default_factory=set[Viewer])
    devices: dict[str, DeviceChange] = field(default_factory=dict[str, DeviceChange])
    gateways: dict[str, GatewayChange] = field(default_factory=dict[str, GatewayChange])
    cases: OrderedDict[UUID, None] = field(default_factory=OrderedDict[UUID, None])  # told before
    snapshot: tuple[float, str, bytes] | None = None  # shared until, cursor, encoded
    beginning: asyncio.Lock = field(default_factory=asyncio.Lock)
    overview: bytes = b""
    overview_is_due: bool = False
    overview_not_before: float = 0.0  # the loop's time
    empty_since: float | None = None

    @property
    def cursor(self) -> str:
        """Where the channel is."""
        return f"{self.epoch}-{self.sequence}"

    def covers(self, path: str, rule: str | None = None) -> bool:
        """Whether something at ``path``, or an alert of ``rule`` there, is told here."""
        return rule not in self.hidden_rules and is_within(path, self.place.path)

    def note_cases(self, asked: Iterable[UUID], found: Iterable[CaseRow]) -> list[UUID]:
        """Remember the cases that are told; return those asked for that left the area."""
        present = {case.id for case in found}
        gone = [case for case in asked if case in self.cases and case not in present]
        for case in gone:
            del self.cases[case]
        for case in present:
            self.cases[case] = None
            self.cases.move_to_end(case)
        while len(self.cases) > _CASES_KNOWN_MAX:
            self.cases.popitem(last=False)
        return gone

    def publish(self, name: str, data: bytes) -> None:
        """Tell all viewers, and keep it for those who come back; data holds `next_cursor`."""
        self.sequence += 1
        encoded = event(name, data, self.cursor)
        self.ring.append((self.sequence, encoded))
        self.ring_bytes += len(encoded)
        while len(self.ring) > RING_MAX or self.ring_bytes > RING_BYTES_MAX:
            self.ring_bytes -= len(self.ring.popleft()[1])
        for viewer in self.viewers:
            viewer.put(encoded)

    @property
    def next_cursor(self) -> str:
        """The cursor of the batch to be published next."""
        return f"{self.epoch}-{self.sequence + 1}"

    def since(self, cursor: str) -> list[bytes] | None:
        """Return what was told after ``cursor``, None where that is not known."""
        epoch, _, number = cursor.rpartition("-")
        if epoch != self.epoch or not number.isascii() or not number.isdigit() or len(number) > 15:
            return None
        seen = int(number)
        oldest = self.ring[0][0] if self.ring else self.sequence + 1
        if not oldest - 1 <= seen <= self.sequence:
            return None
        return [encoded for sequence, encoded in self.ring if sequence > seen]
