# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a condition, before it is kept: each mistake with its place and its bounds."""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from ingest.conditions import expression
from ingest.conditions.fields import KINDS, STATES, Fields, FieldType, fields_of
from ingest.conditions.models import (
    All,
    Any_,
    Condition,
    Count,
    Ends,
    Equals,
    Event,
    Expression,
    NoData,
    Not,
    OneOf,
    Present,
    ProgrammeSchedule,
    Rate,
    Sequence,
    Threshold,
    parts,
)

DEPTH_MAX: Final = 8
NODES_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with a condition.

    Attributes:
        pointer: Where: a JSON pointer from the condition, such as ``/of/1/field``.
        rule: What is broken: a code, worded where people read it.
        bounds: What was found and what would be allowed; in expressions also ``position``, in
            characters from the start.
    """

    pointer: str
    rule: str
    bounds: Mapping[str, object] = field(default_factory=dict[str, object])


def check(condition: Condition, kind: str) -> list[Mistake]:
    """Return what is wrong with a condition asked of devices of one class; none: it can be kept."""
    if kind not in KINDS:
        return [Mistake("", "kind.unknown", {"found": kind, "kinds": list(KINDS)})]
    nodes, depth = _size(condition)
    if depth > DEPTH_MAX:
        return [Mistake("", "condition.too_deep", {"found": depth, "max": DEPTH_MAX})]
    if nodes > NODES_MAX:
        return [Mistake("", "condition.too_large", {"found": nodes, "max": NODES_MAX})]
    placed = list(walk(condition))
    in_cell = any(isinstance(one, Count | Sequence) and one.where == "cell" for _, one in placed)
    return [
        *chain.from_iterable(_check_one(at, one, kind, in_cell) for at, one in placed),
        *_check_ends(condition),
        *_check_states(placed, kind),
    ]


def walk(condition: Condition, at: str = "") -> Iterator[tuple[str, Condition]]:
    """Yield a condition and all within it, each with its JSON pointer, outermost first."""
    yield at, condition
    for pointer, part in parts(condition):
        yield from walk(part, at + pointer)


def _size(condition: Condition) -> tuple[int, int]:
    nodes = depth = 0
    level = [condition]
    while level:
        nodes += len(level)
        depth += 1
        level = [part for one in level for _, part in parts(one)]
    return nodes, depth


def _check_one(at: str, one: Condition, kind: str, in_cell: bool) -> Iterator[Mistake]:
    fields = fields_of(kind)
    match one:
        case Threshold() | Rate() | NoData() | Equals() | OneOf() | Present():
            if in_cell:
                yield Mistake(at, "cell.events_only", {"found": one.type})
            type_ = fields.asked.get(one.field)
            if type_ is None:
                names = sorted(fields.asked)
                yield Mistake(f"{at}/field", "field.unknown", {"found": one.field, "fields": names})
            elif isinstance(one, NoData | Present) and one.field in STATES:
                yield Mistake(f"{at}/field", "field.always_known", {"found": one.field})
            else:
                yield from _check_field(at, one, type_)
        case ProgrammeSchedule() if kind != "lamp" or in_cell:
            yield Mistake(f"{at}/by", "schedule.lamps_only", {"kind": kind})
        case Event():
            yield from _check_event(at, one, kind, in_cell)
        case Expression():
            yield from _check_expression(at, one, fields, in_cell)
        case _:
            pass


def _check_field(
    at: str, one: Threshold | Rate | NoData | Equals | OneOf | Present, type_: FieldType
) -> Iterator[Mistake]:
    match one:
        case Threshold():
            if type_.is_a != "number":
                yield _wrong_type(at, type_, "number")
                return
            for name, limit in (("above", one.above), ("below", one.below), ("clear", one.clear)):
                if limit is not None:
                    yield from _check_range(f"{at}/{name}", limit, type_)
        case Rate():
            if type_.is_a != "number":
                yield _wrong_type(at, type_, "number")
        case Equals(value=value):
            found = _type_of(value)
            if found != type_.is_a:
                yield Mistake(f"{at}/value", "value.type", {"found": found, "expected": type_.is_a})
            elif isinstance(value, str):
                yield from _check_words(f"{at}/value", (value,), type_, each=False)
            elif not isinstance(value, bool):
                yield from _check_range(f"{at}/value", value, type_)
        case OneOf(values=values):
            if type_.is_a != "word":
                yield _wrong_type(at, type_, "word")
            else:
                yield from _check_words(f"{at}/values", values, type_)
        case NoData() | Present():
            pass


def _type_of(value: bool | float | str) -> str:
    match value:
        case bool():
            return "truth"
        case str():
            return "word"
        case _:
            return "number"


def _wrong_type(at: str, type_: FieldType, expected: str) -> Mistake:
    return Mistake(f"{at}/field", "field.type", {"found": type_.is_a, "expected": expected})


def _check_range(pointer: str, limit: float, type_: FieldType) -> Iterator[Mistake]:
    """Refuse a limit that no reading can reach, or that each one does."""
    below = type_.least is not None and limit < type_.least
    above = type_.most is not None and limit > type_.most
    if below or above:
        bounds = {"found": limit, "min": type_.least, "max": type_.most}
        yield Mistake(pointer, "limit.out_of_range", bounds)


def _check_words(
    pointer: str, words: tuple[str, ...], type_: FieldType, *, each: bool = True
) -> Iterator[Mistake]:
    for index, word in enumerate(words):
        if type_.words and word not in type_.words:
            place = f"{pointer}/{index}" if each else pointer
            yield Mistake(place, "word.unknown", {"found": word, "words": list(type_.words)})


def _check_event(at: str, one: Event, kind: str, in_cell: bool) -> Iterator[Mistake]:
    asked = one.kind or kind
    if asked not in KINDS:
        yield Mistake(f"{at}/kind", "kind.unknown", {"found": asked, "kinds": list(KINDS)})
        return
    if asked != kind and not in_cell:
        # The memory of one device never hears of another.
        yield Mistake(f"{at}/kind", "kind.other", {"found": asked, "expected": kind})
    if in_cell and (one.ends is not None or one.holds_s is not None):
        yield Mistake(at, "cell.instants_only")
    types = fields_of(asked).events
    if not types:
        yield Mistake(at, "event.none", {"kind": asked})
        return
    said: list[tuple[str, Event | Ends]] = [(at, one)]
    if one.ends is not None:
        said.append((f"{at}/ends", one.ends))
    for pointer, event in said:
        yield from _check_words(f"{pointer}/events", event.events, types["event"])
        if event.phases is not None:
            phase = types.get("phase")
            if phase is None:
                yield Mistake(f"{pointer}/phases", "field.unknown", {"found": "phase"})
            else:
                yield from _check_words(f"{pointer}/phases", event.phases, phase)


def _check_expression(at: str, one: Expression, fields: Fields, in_cell: bool) -> Iterator[Mistake]:
    try:
        typed = expression.read(one.expression, fields)
    except expression.ExpressionError as error:
        bounds = {"position": error.position, **error.detail}
        yield Mistake(f"{at}/expression", error.rule, bounds)
        return
    names = typed.names | typed.states
    if in_cell and names:
        yield Mistake(f"{at}/expression", "cell.events_only", {"fields": sorted(names)})
    if not names and not typed.event_names:
        yield Mistake(f"{at}/expression", "expression.constant", {"position": 0})


def _check_states(placed: Several[tuple[str, Condition]], kind: str) -> Iterator[Mistake]:
    """Refuse to wait for events and for a state at once, where either could come without the other.

    Events are heard on a lane that no change of a state is told on: it looks at the state when an
    event comes, and now and then while one is remembered. So a rule on both needs an event first.
    """
    fields = fields_of(kind)
    if not any(_asks_events(one, fields) for _, one in placed):
        return
    for at, one in placed:
        counts = at == "" or isinstance(one, Count | Sequence)
        if counts and _asks_state(one, fields) and not _needs_event(one, fields):
            yield Mistake(at, "state.without_event")


def _asks_state(condition: Condition, fields: Fields) -> bool:
    for _, one in walk(condition):
        match one:
            case Equals(field=name) | OneOf(field=name) if name in STATES:
                return True
            case Expression() if (typed := _typed(one, fields)) is not None and typed.states:
                return True
            case _:
                pass
    return False


def _asks_events(one: Condition, fields: Fields) -> bool:
    if isinstance(one, Expression):
        typed = _typed(one, fields)
        return typed is not None and bool(typed.event_names)
    return isinstance(one, Event)


def _needs_event(condition: Condition, fields: Fields) -> bool:
    """Whether it cannot hold before an event came."""
    match condition:
        case All(of=of):
            return any(_needs_event(one, fields) for one in of)
        case Any_(of=of):
            return all(_needs_event(one, fields) for one in of)
        case Count(of=of):
            return _needs_event(of, fields)
        case Sequence(first=first):
            return _needs_event(first, fields)
        case _:
            return _asks_events(condition, fields)


def _typed(one: Expression, fields: Fields) -> expression.Typed | None:
    try:
        return expression.read(one.expression, fields)
    except expression.ExpressionError:
        return None  # told already


def _check_ends(condition: Condition) -> Iterator[Mistake]:
    """Refuse what, once raised, nothing would ever end.

    What a condition within a count or a sequence says is taken by its instant, and needs no end.
    """
    for at, one in _levels(condition, ""):
        if isinstance(one, Event) and one.ends is None and one.holds_s is None:
            yield Mistake(at, "event.never_ends")
        if isinstance(one, Event) and one.ends is not None and _endless(one, one.ends):
            yield Mistake(f"{at}/ends", "event.ends_itself")


def _endless(one: Event, ends: Ends) -> bool:
    """Whether an event would be its own end."""
    same = set(one.events) & set(ends.events)
    phases = one.phases is None or ends.phases is None or bool(set(one.phases) & set(ends.phases))
    return bool(same) and phases


def _levels(condition: Condition, at: str) -> Iterator[tuple[str, Condition]]:
    yield at, condition
    if isinstance(condition, All | Any_ | Not):
        for pointer, part in parts(condition):
            yield from _levels(part, at + pointer)
