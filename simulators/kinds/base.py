# SPDX-License-Identifier: Apache-2.0
"""What virtual devices are made of: a timeline of states and events, and the driver that tells it.

A timeline is computed block by block (a local day, or a night for lamps), each block from seed,
faults and the block before, and may be forgotten at any time. The driver only remembers up to
when it has told.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, NamedTuple, TypeVar

from edge_agent.kinds import Observation
from simulators.faults import Fault, FaultKind
from simulators.registry import Device
from simulators.spans import Span, covers, micros
from simulators.world import World, day_of, day_start

S = TypeVar("S")
E = TypeVar("E")

# Blocks a timeline remembers: yesterday, today, tomorrow, and one to spare.
_BLOCKS_MAX: Final = 4


class Entry(NamedTuple, Generic[S, E]):
    """At one instant a new state, an event, or both; the state holds from that instant on."""

    at: int
    state: S | None
    event: E | None = None


class Holding(NamedTuple, Generic[S]):
    """A state, since when it holds, and the instant of the next entry of its block."""

    state: S
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class Block(Generic[S, E]):
    """One stretch of a timeline: what held before it, and its entries in ``[start, end)``."""

    span: Span
    before: S
    entries: Sequence[Entry[S, E]]
    instants: Sequence[int]

    @property
    def last(self) -> S:
        """The state at the end."""
        for entry in reversed(self.entries):
            if entry.state is not None:
                return entry.state
        return self.before


class Timeline(ABC, Generic[S, E]):
    """The whole past and future of one device. Not to be shared between threads."""

    def __init__(self, world: World, device: Device) -> None:
        """Nothing is computed before it is asked for."""
        self.world = world
        self.device = device
        self._faults: tuple[Fault, ...] = ()
        self._blocks: dict[int, Block[S, E]] = {}

    @abstractmethod
    def _build(self, number: int, span: Span) -> tuple[S, list[Entry[S, E]]]:
        """Return the state before a block, and its entries in order."""

    def _number(self, us: int) -> int:
        return day_of(us)

    def _span(self, number: int) -> Span:
        return day_start(number), day_start(number + 1)

    def refresh(self) -> tuple[Fault, ...]:
        """Return the device's faults; where there are new ones, forget all that was computed."""
        faults = self.world.faults_of(self.device.device)
        if faults is not self._faults:
            self._faults = faults
            self._forget()
        return faults

    def _forget(self) -> None:
        self._blocks.clear()

    def block(self, number: int) -> Block[S, E]:
        """Return one block."""
        self.refresh()
        known = self._blocks.get(number)
        if known is None:
            span = self._span(number)
            before, entries = self._build(number, span)
            known = Block(span, before, entries, [entry.at for entry in entries])
            while len(self._blocks) >= _BLOCKS_MAX:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = known
        return known

    def state(self, us: int) -> Holding[S]:
        """Return the state that holds at an instant."""
        block = self.block(self._number(us))
        index = bisect_right(block.instants, us)
        until = block.instants[index] if index < len(block.instants) else block.span[1]
        for entry in reversed(block.entries[:index]):
            if entry.state is not None:
                return Holding(entry.state, entry.at, until)
        return Holding(block.before, block.span[0], until)

    def entries(self, after: int, until: int) -> Iterator[Entry[S, E]]:
        """Yield the entries later than ``after``, none later than ``until``, in order."""
        for number in range(self._number(after), self._number(until) + 1):
            block = self.block(number)
            low = bisect_right(block.instants, after)
            yield from block.entries[low : bisect_right(block.instants, until)]

    def states(self, span: Span) -> Iterator[tuple[Span, S]]:
        """Yield the states that hold within a span, each with its part of it."""
        start, end = span
        if start >= end:
            return
        state = self.state(start).state
        for entry in self.entries(start, end - 1):
            if entry.state is not None:
                if start < entry.at:
                    yield (start, entry.at), state
                start, state = entry.at, entry.state
        yield (start, end), state

    def next_after(self, us: int) -> int | None:
        """Return the instant of the next entry in this block or the next, if there is one."""
        number = self._number(us)
        for block in (self.block(number), self.block(number + 1)):
            index = bisect_right(block.instants, us)
            if index < len(block.instants):
                return block.instants[index]
        return None

    def during(self, *kinds: FaultKind) -> list[Fault]:
        """Return the device's faults of these kinds by their beginning."""
        return [fault for fault in self._faults if fault.kind in kinds]

    def dead(self) -> list[Span]:
        """Return when the device answers nothing."""
        self.refresh()
        return [fault.span for fault in self.during(FaultKind.DEVICE_DEAD)]


class VirtualDriver(ABC, Generic[S, E]):
    """A device that remembers what happened between two polls, to the microsecond.

    Implements `edge_agent.kinds.Driver`. How often it is polled changes neither the states nor
    the events it tells, only how often it is asked for its present values.
    """

    def __init__(self, timeline: Timeline[S, E]) -> None:
        """Tell what happens after the first poll, or see `resume`."""
        self.timeline = timeline
        self._told: int | None = None
        self._holding: Holding[S] | None = None
        self._faults: tuple[Fault, ...] = ()
        self._dead: list[Span] = []
        self._wake: Callable[[], None] = lambda: None

    @property
    def device(self) -> str:
        """The device's id."""
        return self.timeline.device.device

    @property
    def kind(self) -> str:
        """The device's class."""
        return self.timeline.device.kind

    @abstractmethod
    def _reading(self, us: int, holding: Holding[S]) -> Observation:
        """Return what the device measures at an instant."""

    @abstractmethod
    def _event(self, us: int, event: E) -> Observation:
        """Return what the device reports of an event."""

    def attach(self, wake: Callable[[], None]) -> None:
        """Take the function that asks for a poll."""
        self._wake = wake

    def wake(self) -> None:
        """Ask for a poll: something has just happened."""
        self._wake()

    def resume(self, since: datetime) -> None:
        """Tell at the next poll what happened after ``since``, as a device that remembers does."""
        self._told = micros(since)
        self._holding = None

    def poll(self, now: datetime) -> Sequence[Observation]:
        """Return what happened since the last poll, then the present values.

        Raises:
            OSError: The device is dead, and was so since the last poll.
        """
        us = micros(now)
        told, self._told = self._told, us
        faults = self.timeline.refresh()
        if faults is not self._faults:
            self._faults, self._holding, self._dead = faults, None, self.timeline.dead()
        holding = self._holding
        if holding is not None and us < holding.until and not self._dead:
            return (self._reading(us, holding),)
        result: list[Observation] = []
        if told is not None:
            result += self._between(told, us)
        if covers(self._dead, us):
            self._holding = None
            if not result:
                raise OSError(f"{self.device} does not answer")
            return result
        self._holding = holding = self.timeline.state(us)
        # What changed at this very instant has just been told.
        if not result or result[-1].at != now:
            result.append(self._reading(us, holding))
        return result

    def _between(self, after: int, until: int) -> Iterator[Observation]:
        """Yield what the device saw later than ``after`` and not later than ``until``."""
        revivals = [end for _, end in self._dead if after < end <= until]
        for entry in self.timeline.entries(after, until):
            while revivals and revivals[0] <= entry.at:
                yield from self._revival(revivals.pop(0))
            if covers(self._dead, entry.at):
                continue
            if entry.event is not None:
                yield self._event(entry.at, entry.event)
            if entry.state is not None:
                yield self._reading(entry.at, Holding(entry.state, entry.at, entry.at))
        for revival in revivals:
            yield from self._revival(revival)

    def _revival(self, us: int) -> Iterator[Observation]:
        """Yield the first thing a device says that answers again."""
        if not covers(self._dead, us):
            yield self._reading(us, self.timeline.state(us))
