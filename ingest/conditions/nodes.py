# SPDX-License-Identifier: Apache-2.0
"""What every condition is asked with, and those that look at one reading or event alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NamedTuple, Protocol

from ingest.conditions.expression import Program
from ingest.conditions.fields import STATES
from ingest.conditions.models import (
    ClockSchedule,
    Equals,
    Event,
    NoData,
    OneOf,
    Present,
    ProgrammeSchedule,
    SunSchedule,
    Threshold,
)
from ingest.conditions.schedules import phase
from ingest.conditions.told import Told
from ingest.indicators import spans

_FAULT: Final = "fault"


class Said(NamedTuple):
    """What a condition says.

    Attributes:
        pulse: By an event of this very instant.
        until: When this may change by time alone, in microseconds.
    """

    holds: bool | None
    pulse: bool = False
    until: int | None = None


UNKNOWN: Final = Said(None)


@dataclass(slots=True)
class Asked:
    """One turn of asking: what is told, what was kept, and what is to be kept.

    Attributes:
        is_late: Older than what changed the memory last: what it says of levels is over.
        now: The later of the two, in microseconds.
    """

    told: Told
    at: int
    now: int
    is_late: bool
    kept: Mapping[str, Any]
    changed: dict[str, Any] = field(default_factory=dict[str, Any])

    def keep(self, slot: str, value: object) -> None:
        """Keep a condition's own memory; None forgets it."""
        if value != self.kept.get(slot):
            self.changed[slot] = value

    @property
    def is_reading(self) -> bool:
        """Whether the values were told just now."""
        return self.told.event is None and self.told.seen is None

    def number(self, name: str) -> float | None:
        """Return what a numeric field says, None where it was not told."""
        value = self.value(name)
        return value if isinstance(value, int | float) else None

    def value(self, name: str) -> object:
        """Return what a field or a state says, None where that is not known."""
        if name in STATES:
            return self.told.states.get(name)
        if not self.told.is_known:
            return None
        return self.told.lit if name == "lit" else self.told.values.get(name)

    @property
    def seen(self) -> int:
        """When the values were told."""
        return self.at if self.told.seen is None else spans.to_us(self.told.seen)

    @property
    def has_values(self) -> bool:
        """Whether readings are known at all; then a missing fault code means good condition."""
        return self.told.is_known and (self.told.event is None or bool(self.told.values))


class Node(Protocol):
    """A condition made ready."""

    def ask(self, asked: Asked) -> Said:
        """Say whether it holds."""
        ...


@dataclass(frozen=True, slots=True)
class ThresholdNode:
    """Between its limits it says what it said last; alone it leaves that to the alert."""

    condition: Threshold
    slot: str | None

    def ask(self, asked: Asked) -> Said:
        """Compare."""
        value = asked.number(self.condition.field)
        if value is None or asked.is_late:
            return UNKNOWN
        if self.condition.reached(value):
            holds = True
        elif self.condition.left(value):
            holds = False
        elif self.slot is None:
            return UNKNOWN
        else:
            return Said(bool(asked.kept.get(self.slot)))
        if self.slot is not None:
            asked.keep(self.slot, holds)
        return Said(holds)


@dataclass(frozen=True, slots=True)
class ValueNode:
    """Compares one field by a function of its value."""

    condition: Equals | OneOf | Present
    holds: Callable[[object], bool]

    def ask(self, asked: Asked) -> Said:
        """Compare; no fault code is known to be none."""
        name = self.condition.field
        value = asked.value(name)
        if asked.is_late or not (asked.has_values or name in STATES):
            return UNKNOWN
        if value is None and name != _FAULT and not isinstance(self.condition, Present):
            return UNKNOWN
        return Said(self.holds(value))


def value_node(condition: Equals | OneOf | Present) -> ValueNode:
    """Return what compares a field."""
    match condition:
        case Equals(value=wanted):
            return ValueNode(condition, lambda value: value == wanted)
        case OneOf(values=words):
            known = frozenset(words)
            return ValueNode(condition, lambda value: value in known)
        case Present():
            return ValueNode(condition, lambda value: value is not None)


@dataclass(frozen=True, slots=True)
class NoDataNode:
    """Keeps since when a field is missing, and nothing while it is told.

    So a device that falls silent altogether is not noticed by this: ``device.silent`` watches that
    for all fields, and costs no writing for each reading.
    """

    condition: NoData
    slot: str

    def ask(self, asked: Asked) -> Said:
        """Measure from the first reading that did not tell the field."""
        if asked.is_late or asked.told.event is not None or not asked.has_values:
            return UNKNOWN
        if asked.value(self.condition.field) is not None:
            asked.keep(self.slot, None)
            return Said(False)
        since: int = asked.kept.get(self.slot, asked.seen)
        if asked.is_reading:
            asked.keep(self.slot, since)
        until = None
        if self.condition.during is not None:
            part = phase(self.condition.during, asked.told.place, asked.at)
            if not part.holds:
                return Said(False, until=part.until)
            since, until = max(since, part.since), part.until
        deadline = since + us(self.condition.for_s)
        if asked.at >= deadline:
            return Said(True, until=until)
        return Said(False, until=earliest(deadline, until))


@dataclass(frozen=True, slots=True)
class ScheduleNode:
    """Knows the time only."""

    condition: SunSchedule | ClockSchedule | ProgrammeSchedule

    def ask(self, asked: Asked) -> Said:
        """Look where in the schedule the instant lies."""
        told = asked.told
        if isinstance(self.condition, ProgrammeSchedule):
            until = None if told.due_until is None else spans.to_us(told.due_until)
            return Said(None if told.due is None else told.due == self.condition.due, until=until)
        part = phase(self.condition, told.place, asked.at)
        return Said(part.holds, until=part.until)


@dataclass(frozen=True, slots=True)
class EventNode:
    """Keeps since when an event holds that another event or a time is to end.

    Alone (``is_alone``) it says nothing on what does not concern it, so that an alert stays what
    it is.
    """

    condition: Event
    kind: str
    slot: str
    is_alone: bool

    def ask(self, asked: Asked) -> Said:
        """Match, and note begin and end."""
        condition = self.condition
        event = asked.told.event
        if asked.told.kind != self.kind:
            event = None
        begins = event is not None and _matches(event, condition.events, condition.phases)
        if condition.ends is None and condition.holds_s is None:
            return Said(True, pulse=True) if begins else Said(None if self.is_alone else False)
        if asked.is_late:
            # Over, or going on already; for whoever counts it happened all the same.
            return Said(begins or None, pulse=begins)
        ends = condition.ends
        if begins:
            asked.keep(self.slot, asked.at)
        elif event is not None and ends is not None and _matches(event, ends.events, ends.phases):
            asked.keep(self.slot, -asked.at)
            return Said(False)
        return self._standing(asked, begins)

    def _standing(self, asked: Asked, begins: bool) -> Said:
        since: int | None = asked.at if begins else asked.kept.get(self.slot)
        if since is None:
            return UNKNOWN if self.is_alone else Said(False)
        if since < 0:  # ended then
            return Said(False)
        if self.condition.holds_s is None:
            return Said(True, begins)
        end = since + us(self.condition.holds_s)
        return Said(True, begins, end) if asked.at < end else Said(False)


def _matches(
    event: Mapping[str, Any], names: tuple[str, ...], phases: tuple[str, ...] | None
) -> bool:
    return event.get("event") in names and (phases is None or event.get("phase") in phases)


@dataclass(frozen=True, slots=True)
class ExpressionNode:
    """Asks the library."""

    program: Program
    kind: str

    def ask(self, asked: Asked) -> Said:
        """Evaluate over the values, or over the event."""
        typed = self.program.typed
        if asked.told.kind != self.kind or (asked.is_late and (typed.names or typed.states)):
            return UNKNOWN
        names = typed.names | typed.states
        values = {name: value for name in names if (value := asked.value(name)) is not None}
        if asked.has_values and _FAULT in names:
            values.setdefault(_FAULT, "")  # in good condition
        holds = self.program.ask(values, asked.told.event)
        by_event = asked.told.event is not None and bool(typed.event_names)
        return Said(holds, pulse=bool(holds) and by_event)


def us(seconds: float) -> int:
    """Return seconds as whole microseconds."""
    return timedelta(seconds=seconds) // timedelta(microseconds=1)


def earliest(*instants: int | None) -> int | None:
    """Return the earliest of those that there are."""
    return min((one for one in instants if one is not None), default=None)
