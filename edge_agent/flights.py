# SPDX-License-Identifier: Apache-2.0
"""What is under way: how far a lane is published, bounded, and ahead of what is stored.

A lane is published in order by one cursor. After an outage there are two: the backlog goes on from
where it stands, at a limited pace, and beside it, first, what is measured now. Messages leave the
outbox by the watermark alone, which stands at the backlog; what is stored above it the server tells
as ranges, and these bound how far the second cursor runs ahead. Nothing here waits or reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from edge_agent.lanes import LaneState

Range = tuple[int, int]  # first and last seq, both included

# Messages of a backlog that go at once, as a share of a second's.
_BURST_SHARE: Final = 1 / 10
# How many times as long as usual a flight stands still at most before it goes again.
PATIENCE_MAX: Final = 8


@dataclass(slots=True)
class Cursor:
    """How far one run through a lane was published on the present connection."""

    #: All of the run up to here is stored; its beginning, less one, at first.
    stored: int = 0
    sent: int = 0
    #: The highest seq ever published, so that what is sent again can be counted.
    sent_max: int = 0
    #: Loop time at which more was stored, or at which the first was published into an empty flight;
    #: moved on by the time spent without a connection.
    moved_at: float = 0.0
    #: Loop time at which the whole flight was last sent again.
    resent_at: float = 0.0
    #: What had been published when it was last sent again. Messages arrive in order, so one beyond
    #: it that is stored proves of those before it that they were lost on their way.
    resent_max: int = 0
    #: How many times as long as usual it may stand still: what was sent again in vain waits at the
    #: broker, and all gateways together would have it hold nothing but repetitions.
    patience: int = 1

    @property
    def flying(self) -> bool:
        """Whether something was published that is not known to be stored."""
        return self.sent > self.stored

    def reach(self, stored: int, now: float) -> None:
        """Take note of how far the run is stored."""
        if stored > self.stored:
            self.moved_at = now
            self.patience = 1
        # It falls when the server was restored from a backup.
        self.stored = stored
        self.sent = max(self.sent, stored)
        if self.sent_max <= self.stored:  # nothing of what is held was ever published
            self.moved_at = now

    def begin_again(self, now: float) -> None:
        """Have all that is not stored sent again."""
        self.sent = self.stored
        self.resent_at = now
        self.resent_max = self.sent_max

    def begin_again_in_vain(self, now: float) -> None:
        """Have all of it sent again because it stood still; the next time after twice as long."""
        self.begin_again(now)
        self.patience = min(2 * self.patience, PATIENCE_MAX)

    def silent_s(self, now: float) -> float:
        """Return how long nothing has been stored, and nothing was sent again."""
        return now - max(self.moved_at, self.resent_at)


@dataclass(slots=True)
class Flight:
    """One lane's cursors, and what the server stored above the watermark."""

    stream: str = ""
    main: Cursor = field(default_factory=Cursor)
    #: Beside a backlog: what is measured now. Its run begins at `live_first`.
    live: Cursor | None = None
    live_first: int = 0
    beyond: tuple[Range, ...] = ()
    stalled: bool = False

    def connected(self, now: float, away_s: float) -> None:
        """Begin a connection: what an earlier one published counts no longer."""
        self.live = None
        self.main.begin_again(now)
        self.main.patience = 1
        # A watermark is waited for only while connected.
        self.main.moved_at += away_s

    def cursors(self) -> list[Cursor]:
        """Return the cursors there are."""
        return [self.main] if self.live is None else [self.main, self.live]

    def look(self, state: LaneState, now: float) -> None:
        """Take note of how the lane stands in the outbox."""
        if self.stream != state.stream:  # the file was damaged, or an old copy, and begun anew
            self.stream, self.main, self.live, self.beyond = state.stream, Cursor(), None, ()
        watermark = state.oldest - 1
        if self.live is not None and state.oldest >= self.live_first:
            # The backlog is through: what ran ahead is now the one run there is.
            self.main, self.live = self.live, None
        self.main.reach(watermark, now)
        if self.live is not None:
            self.live.reach(self._stored_from(self.live_first), now)

    def part(self, live_first: int, now: float) -> None:
        """Let what begins at ``live_first`` overtake what lies before it."""
        begin = live_first - 1
        self.live_first = live_first
        self.live = Cursor(begin, begin, begin, now, now)

    def tell_stored(self, ranges: Sequence[Range], state: LaneState) -> None:
        """Take what is stored above the watermark; ranges that cannot be are left out."""
        self.beyond = tuple(
            (first, last) for first, last in sorted(ranges) if first <= last < state.next
        )

    def lost(self, cursor: Cursor) -> bool:
        """Return whether something of a cursor's run was certainly lost since it was resent."""
        return any(
            cursor.stored + 1 < first and cursor.resent_max < last <= cursor.sent
            for first, last in self.beyond
        )

    def room(self, cursor: Cursor, window: int) -> int:
        """Return how many more may be sent, of ``window``."""
        low, high = cursor.stored + 1, cursor.sent
        stored = sum(
            min(last, high) - max(first, low) + 1
            for first, last in self.beyond
            if first <= high and last >= low
        )
        return window - (high - low + 1 - stored)

    def following(self, seq: int) -> int:
        """Return the lowest seq from ``seq`` on that is not known to be stored."""
        for first, last in self.beyond:
            if first <= seq <= last:
                seq = last + 1
        return seq

    def _stored_from(self, first: int) -> int:
        """Return up to which seq all from ``first`` on is stored; ``first - 1``: none."""
        for low, high in self.beyond:
            if low <= first <= high:
                return high
        return first - 1


class Pace:
    """At most ``rate`` a second: within any ``s`` seconds no more than ``rate * s`` and a burst."""

    def __init__(self, rate: float) -> None:
        """Allow a first burst at once."""
        self._interval_s = 1 / rate
        self.burst = max(1, int(rate * _BURST_SHARE))
        # When what has been spent will have been earned.
        self._due = float("-inf")

    def room(self, now: float) -> int:
        """Return how many may go at ``now``."""
        owed_s = max(0.0, self._due - now)
        return max(0, int(self.burst - owed_s / self._interval_s + 1e-6))

    def spend(self, count: int, now: float) -> None:
        """Note that ``count`` went at ``now``."""
        self._due = max(self._due, now) + count * self._interval_s

    def wait_s(self, now: float) -> float:
        """Return after how long a whole burst may go again."""
        return max(0.0, self._due - now)
