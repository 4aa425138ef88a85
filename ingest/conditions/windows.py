# SPDX-License-Identifier: Apache-2.0
"""Conditions that remember: how fast, how often, and in which order.

Each keeps a bounded number of instants. Counts and sequences keep them sorted, so that what
arrives late is put where it belongs, and the order of arrival does not matter.
"""

from bisect import insort
from dataclasses import dataclass
from typing import Final

from ingest.conditions.models import Count, Per, Rate, Sequence
from ingest.conditions.nodes import UNKNOWN, Asked, Node, Said, earliest, us

# A window is kept in so many steps: readings that come closer are compared, and not kept.
RATE_STEPS: Final = 16
# Occurrences of either side of a sequence: the latest ones.
SEQUENCE_KEPT: Final = 16
_UNIT_US: Final[dict[Per, int]] = {
    "second": 10**6, "minute": 60 * 10**6, "hour": 3_600 * 10**6, "day": 86_400 * 10**6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RateNode:
    """Keeps ``[instant, value]`` of some readings within the window."""

    condition: Rate
    slot: str

    def ask(self, asked: Asked) -> Said:
        """Compare with the oldest reading kept, once it is half a window old."""
        value = asked.number(self.condition.field)
        if value is None or asked.is_late or asked.told.event is not None:
            return UNKNOWN
        window = us(self.condition.within_s)
        # Where only time went on, it is as fast as it was when it was told.
        at = asked.seen
        before: list[list[float]] = asked.kept.get(self.slot, [])
        kept = [one for one in before if at - one[0] <= window]
        if asked.is_reading and (not kept or (at - kept[-1][0]) * RATE_STEPS >= window):
            kept.append([at, float(value)])
            # Forgotten when something new is kept: what only time does costs no writing.
            asked.keep(self.slot, kept)
        if not kept:
            return UNKNOWN
        start, first = kept[0]
        took = at - start
        if took * 2 < window:
            return UNKNOWN
        return Said(self.condition.reached((value - first) * _UNIT_US[self.condition.per] / took))


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Tells when a condition became true, or an event made it true again.

    What holds for longer than an instant is kept in ``slot``, to count its beginning only.
    """

    node: Node
    slot: str | None

    def ask(self, asked: Asked) -> tuple[bool, int | None]:
        """Return whether it occurs now, and when time alone may make it occur."""
        said = self.node.ask(asked)
        if self.slot is None or said.holds is None or asked.is_late:
            return said.pulse, said.until
        before = asked.kept.get(self.slot) is True
        asked.keep(self.slot, said.holds or None)
        return said.pulse or (said.holds and not before), said.until


@dataclass(frozen=True, slots=True)
class CountNode:
    """Keeps the latest ``times`` instants: the oldest of them decides."""

    condition: Count
    inner: Occurrences
    slot: str

    def ask(self, asked: Asked) -> Said:
        """Add an occurrence; look how old the one is that completes the count."""
        instants: list[int] = asked.kept.get(self.slot, [])
        occurs, until = self.inner.ask(asked)
        if occurs:
            instants = _with(instants, asked.at, self.condition.times)
            asked.keep(self.slot, instants)
        if len(instants) == self.condition.times:
            end = instants[0] + us(self.condition.within_s)
            if asked.now < end:
                return Said(True, occurs, earliest(end, until))
        return Said(False, until=until)


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """Keeps the latest instants of both sides, and when the sequence was completed last."""

    condition: Sequence
    first: Occurrences
    then: Occurrences
    slot: str

    def ask(self, asked: Asked) -> Said:
        """Note what occurs, and whether it makes a pair with what occurred before or after."""
        within = us(self.condition.within_s)
        firsts: list[int]
        thens: list[int]
        done: int | None
        firsts, thens, done = asked.kept.get(self.slot, ([], [], None))
        at = asked.at
        # Both are asked: each has its own memory. One message is not its own successor.
        (is_first, first_until), (is_then, then_until) = self.first.ask(asked), self.then.ask(asked)
        until = earliest(first_until, then_until)
        ended: list[int] = []
        if is_then and any(one <= at <= one + within for one in firsts):
            ended.append(at)
        if is_first:
            ended += [one for one in thens if at <= one <= at + within]
        if is_first or is_then:
            if is_first:
                firsts = _with(firsts, at, SEQUENCE_KEPT)
            if is_then:
                thens = _with(thens, at, SEQUENCE_KEPT)
            done = max(ended if done is None else [*ended, done], default=None)
            asked.keep(self.slot, [firsts, thens, done])
        if done is not None:
            end = done + us(self.condition.holds_s or self.condition.within_s)
            if asked.now < end:
                return Said(True, bool(ended), earliest(end, until))
        return Said(False, until=until)


def _with(instants: list[int], at: int, most: int) -> list[int]:
    kept = [*instants]
    insort(kept, at)
    return kept[-most:]
