# SPDX-License-Identifier: Apache-2.0
"""A condition made ready to be asked of what one device, or one cell, tells."""

from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Any, Final

from ingest.conditions import models
from ingest.conditions.check import Mistake, check, walk
from ingest.conditions.expression import Program, read
from ingest.conditions.fields import STATES, fields_of
from ingest.conditions.logic import AllNode, AnyNode, NotNode
from ingest.conditions.models import Condition
from ingest.conditions.nodes import (
    Asked,
    EventNode,
    ExpressionNode,
    NoDataNode,
    Node,
    ScheduleNode,
    ThresholdNode,
    value_node,
)
from ingest.conditions.told import Answer, Listens, Memory, MemoryOf, Told
from ingest.conditions.windows import CountNode, Occurrences, RateNode, SequenceNode
from ingest.indicators import spans

# A lamp that only meters power gives light by what it draws.
_LIT_FROM: Final = frozenset({"lit", "power_w"})


class ConditionError(ValueError):
    """A condition that cannot be asked; ``mistakes`` says what is wrong with it."""

    def __init__(self, mistakes: Several[Mistake]) -> None:
        """Keep them all."""
        super().__init__(", ".join(f"{one.pointer}: {one.rule}" for one in mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A condition made ready; `ask` is pure.

    Attributes:
        kind: The device class of its rule.
        kinds: The classes it has to be told of: in a cell, events of others too.
        names: The fields of readings it looks at.
        states: What it asks that is known of any device (`fields.STATES`): it has to be asked when
            that changes, too.
        words: The texts that it compares with.
        listens: What it has to be told of. Time alone, where it has a schedule, is told with
            either.
        memory_of: Whose memory it is handed: the device's, or the cell's, which all its devices
            share.
        is_calm: The same values give the same answer and memory, whenever they are told.
    """

    kind: str
    kinds: frozenset[str]
    names: frozenset[str]
    states: frozenset[str]
    words: frozenset[str]
    listens: Listens
    memory_of: MemoryOf
    is_calm: bool
    _root: Node

    def ask(self, told: Told, memory: Memory | None = None) -> Answer:
        """Say whether the condition holds, with what to remember.

        Args:
            told: Readings of one device in the order of their instants; events in any order.
            memory: What the last answer had for this device (cell); None: it has none yet. JSON
                as it is: ``{"at": when it changed last, in microseconds, "of": what each part
                keeps}``. It never goes back in time, and never holds more than the windows' caps.
        """
        if self.states and not told.states:
            return Answer(False, None)  # not in use: there is no state to ask for
        at = spans.to_us(told.at)
        kept: dict[str, Any] = {} if memory is None else memory["of"]
        last = at if memory is None else memory["at"]
        asked = Asked(told, at, max(at, last), at < last, kept)
        said = self._root.ask(asked)
        if asked.changed:
            of = {
                slot: value
                for slot, value in {**kept, **asked.changed}.items()
                if value is not None
            }
            memory = {"at": asked.now, "of": of} if of else None
        until = None if said.until is None or said.until <= at else spans.from_us(said.until)
        return Answer(said.holds, memory, until)


def compile_condition(condition: Condition, kind: str) -> Compiled:
    """Make a condition ready for devices of one class.

    Raises:
        ConditionError: `check` finds mistakes in it.
    """
    mistakes = check(condition, kind)
    if mistakes:
        raise ConditionError(mistakes)
    inside = [one for _, one in walk(condition)]
    typed = [
        read(one.expression, fields_of(kind))
        for one in inside
        if isinstance(one, models.Expression)
    ]
    names = frozenset[str]().union(
        *(one.names for one in typed), *({name} for one in inside for name in _field_of(one))
    )
    states = (names & STATES.keys()).union(*(one.states for one in typed))
    names -= states
    if kind == "lamp" and "lit" in names:
        names |= _LIT_FROM
    kinds = {one.kind or kind for one in inside if isinstance(one, models.Event)}
    by_event = bool(kinds) or any(one.event_names for one in typed)
    in_cell = any(
        isinstance(one, models.Count | models.Sequence) and one.where == "cell" for one in inside
    )
    listens: Listens = "readings"
    if by_event:
        listens = "both" if names or states else "events"
    return Compiled(
        kind,
        frozenset(kinds or {kind}) | frozenset({kind} if names or states or typed else ()),
        names,
        states,
        frozenset[str]().union(*(one.words for one in typed), *map(_words_of, inside)),
        listens,
        "cell" if in_cell else "device",
        not by_event and not any(isinstance(one, _RESTLESS) for one in inside),
        _node(condition, kind, _slots(), is_root=True),
    )


_RESTLESS: Final = (
    models.Rate,
    models.NoData,
    models.Count,
    models.Sequence,
    models.SunSchedule,
    models.ClockSchedule,
    models.ProgrammeSchedule,
)


def _field_of(one: Condition) -> tuple[str, ...]:
    name = getattr(one, "field", None)
    return () if name is None else (name,)


def _words_of(one: Condition) -> tuple[str, ...]:
    match one:
        case models.Equals(value=str(word)):
            return (word,)
        case models.OneOf(values=words):
            return words
        case _:
            return ()


def _slots() -> Iterator[str]:
    """Yield a name for each part that remembers: its place in the order of reading."""
    number = 0
    while True:
        yield str(number)
        number += 1


def _node(condition: Condition, kind: str, slots: Iterator[str], *, is_root: bool = False) -> Node:
    slot = next(slots)
    match condition:
        case models.Threshold():
            alone = is_root or condition.clear is None
            return ThresholdNode(condition, None if alone else slot)
        case models.Equals() | models.OneOf() | models.Present():
            return value_node(condition)
        case models.Rate():
            return RateNode(condition, slot)
        case models.SunSchedule() | models.ClockSchedule() | models.ProgrammeSchedule():
            return ScheduleNode(condition)
        case models.NoData():
            return NoDataNode(condition, slot)
        case models.Event():
            return EventNode(condition, condition.kind or kind, slot, is_root)
        case models.Expression():
            return ExpressionNode(Program(read(condition.expression, fields_of(kind))), kind)
        case models.All(of=of):
            return AllNode(tuple(_node(one, kind, slots) for one in of))
        case models.Any_(of=of):
            return AnyNode(tuple(_node(one, kind, slots) for one in of))
        case models.Not(of=of):
            return NotNode(_node(of, kind, slots))
        case models.Count(of=of):
            return CountNode(condition, _occurrences(of, kind, slots), slot)
        case models.Sequence(first=first, then=then):
            return SequenceNode(
                condition,
                _occurrences(first, kind, slots),
                _occurrences(then, kind, slots),
                slot,
            )


def _is_instant(condition: Condition) -> bool:
    """Whether it can hold at the instant of an event only."""
    match condition:
        case models.Event():
            return condition.ends is None and condition.holds_s is None
        case models.All(of=of):
            return any(map(_is_instant, of))
        case models.Any_(of=of):
            return all(map(_is_instant, of))
        case _:
            return False


def _occurrences(condition: Condition, kind: str, slots: Iterator[str]) -> Occurrences:
    node, slot = _node(condition, kind, slots), next(slots)
    return Occurrences(node, None if _is_instant(condition) else slot)
