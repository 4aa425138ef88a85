# SPDX-License-Identifier: Apache-2.0
"""What leaves the outbox when its limit is reached, and how long that will take to happen.

Oldest first, whole messages, telemetry before events; telemetry never drives out an event. What is
evicted leaves a gap record in the event lane, in the same transaction.
"""

import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edge_agent.messages import GapEvent, Lane
from edge_agent.outbox_file import PAGE_BYTES

# Of the limit, evicted at once, so that gap records stay few.
BATCH_SHARE: Final = 1 / 20
_BATCH_PAGES_MIN: Final = 8
# 2 MiB: the pages emptied pass through the write-ahead log, whose room is limited.
_BATCH_PAGES_MAX: Final = 512
# On a crowded disk the file may hold little: never more than this share of it at once.
_CROWDED_SHARE: Final = 1 / 8
# Bytes of a table page beside its rows, and of a row beside its payload.
_PAGE_OVERHEAD: Final = 12
_ROW_OVERHEAD: Final = 20
_ROWS_AT_ONCE: Final = 256

# A table name cannot be a parameter; the lane's own name is the table's, written out once.
_OLDEST: Final[Mapping[Lane, str]] = {
    "telemetry": """
        SELECT seq, LENGTH(payload), at, 0 FROM telemetry WHERE seq > ? ORDER BY seq LIMIT ?
        """,
    "event": "SELECT seq, LENGTH(payload), at, gap FROM event WHERE seq > ? ORDER BY seq LIMIT ?",
}
_DELETE: Final[Mapping[Lane, str]] = {
    "telemetry": "DELETE FROM telemetry WHERE seq BETWEEN ? AND ?",
    "event": "DELETE FROM event WHERE seq BETWEEN ? AND ?",
}


@dataclass(frozen=True, slots=True)
class Evicted:
    """Messages of one lane that went at once: a gap record's content, and their sizes as held."""

    lane: Lane
    stream: str
    first: int
    last: int
    sizes: Sequence[int]

    def gap(self, at: datetime) -> GapEvent:
        """Return what the server is told; ``at`` is when they were evicted."""
        return GapEvent(
            lane=self.lane,
            stream=self.stream,
            first=self.first,
            last=self.last,
            count=len(self.sizes),
            at=at,
        )


def batch_pages(limit_pages: int, used_pages: int, *, crowded: bool) -> int:
    """Return how many pages are evicted at once."""
    pages = min(int(limit_pages * BATCH_SHARE), _BATCH_PAGES_MAX)
    if crowded:
        pages = min(pages, int(used_pages * _CROWDED_SHARE))
    return max(pages, _BATCH_PAGES_MIN)


def footprint_bytes(size: int) -> int:
    """Return what a row with a payload of ``size`` takes of the file, about.

    A small row takes its share of a page that holds as many of its size as fit; a large one takes
    pages of its own.
    """
    row = size + _ROW_OVERHEAD
    room = PAGE_BYTES - _PAGE_OVERHEAD
    if row <= room:
        return PAGE_BYTES // (room // row)
    return PAGE_BYTES * (1 + -(-row // room))


def footprint_pages(sizes: Iterable[int]) -> int:
    """Return the pages that rows of these sizes may need, with some for the tree above them."""
    total = sum(map(footprint_bytes, sizes))
    return total // PAGE_BYTES + 4


def evict(
    db: sqlite3.Connection, lane: Lane, stream: str, *, pages: int, before_ms: int | None = None
) -> list[Evicted]:
    """Delete the oldest messages of a lane that hold ``pages`` together, or all there are.

    Args:
        before_ms: Only while they are older than this (ms since 1970).

    Returns:
        One entry for each run without a gap record in between: gap records stay, and a range that
        spanned one would tell the server not to expect it.
    """
    runs: list[list[tuple[int, int]]] = [[]]
    room = pages * PAGE_BYTES
    after = 0
    while room > 0:
        rows = db.execute(_OLDEST[lane], (after, _ROWS_AT_ONCE)).fetchall()
        for seq, size, at, is_gap in rows:
            if room <= 0:
                break
            if is_gap:
                runs.append([])
            elif before_ms is None or (at is not None and at < before_ms):
                runs[-1].append((seq, size))
                room -= footprint_bytes(size)
            else:
                room = 0
            after = seq
        if len(rows) < _ROWS_AT_ONCE:
            break
    evicted: list[Evicted] = []
    for run in filter(None, runs):
        first, last = run[0][0], run[-1][0]
        db.execute(_DELETE[lane], (first, last))
        evicted.append(Evicted(lane, stream, first, last, [size for _, size in run]))
    return evicted


_SLOT_S: Final = 60.0
_SLOTS: Final = 60


class Intake:
    """How fast the outbox is filled: what came in within the last hour, by the minute."""

    def __init__(self, now: float) -> None:
        """Begin at ``now``, in seconds of a clock that is never set."""
        self._slots: deque[tuple[float, int]] = deque([(now, 0)], maxlen=_SLOTS)

    def add(self, size: int, now: float) -> None:
        """Note that ``size`` bytes came in."""
        begun, total = self._slots[-1]
        if now - begun >= _SLOT_S:
            self._slots.append((now, size))
        else:
            self._slots[-1] = (begun, total + size)

    def per_hour(self, now: float) -> float | None:
        """Return the bytes that come in per hour; None: not known before a minute has passed."""
        since = now - _SLOT_S * _SLOTS
        slots = [(begun, total) for begun, total in self._slots if begun >= since]
        if not slots or now - slots[0][0] < _SLOT_S:
            return None
        return sum(total for _, total in slots) / (now - slots[0][0]) * 3600
