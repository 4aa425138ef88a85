# SPDX-License-Identifier: Apache-2.0
"""What viewers are told: one encoding an area, a ring for those who come back, bounded queues.

A batch is encoded once for all viewers of an area whose roles see the same (`Channel`); nobody's
slowness is anybody else's wait.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar
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
_KNOWN_MAX: Final = 10_000
# A number that grows, and, for what moves without a further one, when that was.
Version = tuple[int, float]
_NEVER: Final[Version] = (0, 0.0)


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


class Changes(NamedTuple):
    """Alerts and cases of an area as they were read at one time; ``asked``: the cases looked for.

    Whoever does not see cases asks for none.
    """

    alerts: list[Alert]
    cases: list[CaseRow]
    asked: Mapping[UUID, Version]


OneT = TypeVar("OneT", Alert, CaseRow)


def version_of(one: Alert | CaseRow) -> Version:
    """Return the version of an alert or a case."""
    # An alert that is raised again moves its case, but to no further version.
    return one.version, one.changed_at.timestamp() if isinstance(one, CaseRow) else 0.0


class Told:
    """Up to which version of each thing somebody was told; of the last 10,000."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._versions: OrderedDict[UUID, Version] = OrderedDict()

    def is_news(self, key: UUID, version: Version) -> bool:
        """Whether less of it was told until now."""
        return self._versions.get(key, _NEVER) < version

    def news(self, versions: Mapping[UUID, Version]) -> set[UUID]:
        """Return those of which less was told until now."""
        return {key for key, version in versions.items() if self.is_news(key, version)}

    def note(self, versions: Mapping[UUID, Version]) -> None:
        """Remember that these are told."""
        for key, version in versions.items():
            self._versions[key] = version
            self._versions.move_to_end(key)
        while len(self._versions) > _KNOWN_MAX:
            self._versions.popitem(last=False)

    def newest(self, found: Iterable[OneT]) -> list[OneT]:
        """Remember that these are told; return them without those of which more was told before."""
        kept = [one for one in found if self._versions.get(one.id, _NEVER) <= version_of(one)]
        self.note({one.id: version_of(one) for one in kept})
        return kept

    def drop(self, gone: Mapping[UUID, Version]) -> list[UUID]:
        """Forget what is gone; return what of it was told, unless more was told since."""
        told = [
            key
            for key, version in gone.items()
            if _NEVER < self._versions.get(key, _NEVER) <= version
        ]
        for key in told:
            del self._versions[key]
        return told


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
    alerts_told: Told = field(default_factory=Told)
    cases_told: Told = field(default_factory=Told)
    held: list[Changes] | None = None  # while a snapshot is read, which may show more than these
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

    def note(self, changes: Changes) -> tuple[list[Alert], list[CaseRow], list[UUID]]:
        """Remember that these are told; return what there is to tell.

        That is all of them but what somebody knows more of already, and those cases asked for that
        left the area.
        """
        present = {case.id for case in changes.cases}
        left = {case: version for case, version in changes.asked.items() if case not in present}
        return (
            self.alerts_told.newest(changes.alerts),
            self.cases_told.newest(changes.cases),
            self.cases_told.drop(left),
        )

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
