# SPDX-License-Identifier: Apache-2.0
"""What the outbox is spoken of in: lanes, messages before and after they have their numbers."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, get_args
from uuid import UUID

from edge_agent.messages import EventMessage, Lane, Rejection, Telemetry

LANES: Final[tuple[Lane, ...]] = get_args(Lane)


def new_id(now: datetime) -> str:
    """Return a fresh id that sorts by ``now``: a UUID version 7, lowercase."""
    milliseconds = int(now.timestamp() * 1000) & (2**48 - 1)
    tail = secrets.randbits(74)
    value = milliseconds << 80 | 0x7 << 76 | (tail >> 62) << 64 | 0b10 << 62 | tail & (2**62 - 1)
    return str(UUID(int=value))


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that has no number yet; ``make`` builds it from its stream and seq."""

    lane: Lane
    make: Callable[[str, int], Telemetry | EventMessage]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that is on disk and will be delivered: the promise begins here."""

    lane: Lane
    stream: str
    seq: int
    payload: bytes
    message: Telemetry | EventMessage

    @property
    def payload_bytes(self) -> int:
        """Size of the payload."""
        return len(self.payload)


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the publisher takes it from the outbox."""

    seq: int
    payload: bytes
    #: Its ``sent_at`` in ms since 1970.
    at_ms: int


@dataclass(frozen=True, slots=True)
class AlarmKey:
    """What makes two alarm signals one occurrence: device, type and zone ("" where none)."""

    device: str
    event: str
    zone: str


@dataclass(frozen=True, slots=True)
class Unstamped:
    """An event that happened while the clock was not set; its own ``at`` means nothing."""

    #: Of which run of the machine `monotonic_us` is.
    boot: str
    monotonic_us: int
    #: As JSON.
    event: str


@dataclass(frozen=True, slots=True)
class LaneState:
    """One lane at a glance; ``oldest`` equals ``next`` when nothing is held."""

    lane: Lane
    stream: str
    oldest: int
    next: int
    held: int
    #: The size of the payloads as they lie in the file.
    held_bytes: int
    #: The next seq when this file was found on the disk, until the server has said that it goes
    #: no further than that: before, nothing may be published (see `Outbox.settle`).
    inherited: int | None = None

    @property
    def confirmed(self) -> bool:
        """Whether what the lane holds may be published under its stream."""
        return self.inherited is None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one answer of the server did to the outbox."""

    discarded: int = 0
    quarantined: int = 0
    impossible: tuple[str, ...] = field(default=())
    #: Lanes that turned out to be an old copy and have a new stream.
    renewed: tuple[Lane, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server's answer means for the lanes as they are."""

    #: Per lane that is stored further than was known: up to which seq.
    upto: Mapping[Lane, int]
    #: Messages refused for ever, with the reason; and, by SHA-256, those whose seq nobody can read.
    refused: Sequence[tuple[Lane, int, str]]
    digests: Mapping[str, str]
    impossible: tuple[str, ...]

    @classmethod
    def of(
        cls,
        watermarks: Mapping[str, int],
        rejected: Sequence[Rejection],
        lanes: Mapping[Lane, LaneState],
    ) -> "Answer":
        """Judge watermarks and rejections; rejected readings are none of a message's business."""
        streams = {state.stream: state for state in lanes.values()}
        impossible: list[str] = []
        upto: dict[Lane, int] = {}
        for stream, seq in watermarks.items():
            state = streams.get(stream)
            if state is None:
                impossible.append(f"stream {stream} is not ours")
            elif seq >= state.next:
                impossible.append(f"stream {stream} seq {seq} is not below {state.next}")
            elif seq >= state.oldest:
                upto[state.lane] = seq
        refused: list[tuple[Lane, int, str]] = []
        digests: dict[str, str] = {}
        for one in rejected:
            if one.index is not None:
                continue
            if one.stream is not None and one.seq is not None:
                state = streams.get(one.stream)
                if state is None or one.seq >= state.next:
                    impossible.append(f"rejected stream {one.stream} seq {one.seq}")
                else:
                    refused.append((state.lane, one.seq, one.reason))
            elif one.sha256 is not None:
                digests[one.sha256] = one.reason
        return cls(upto, refused, digests, tuple(impossible))
