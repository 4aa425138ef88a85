# SPDX-License-Identifier: Apache-2.0
"""What a device class tells ingest: its tables, its rules, and what its readings mean to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from edge_agent.kinds import Event, Reading
from ingest.rules import Rule, Rules


class Condition(NamedTuple):
    """What one reading or event says to one rule; ``params`` are what a person is told.

    ``until`` is when the condition ends by itself, whatever the device goes on to do; ``ended`` is
    a reason to clear the alert at once. A tuple, because several are made of each reading.
    """

    rule: str
    holds: bool | None
    params: Mapping[str, float | str | bool | None] = MappingProxyType({})
    key: str = ""
    until: datetime | None = None
    ended: str | None = None


class Context(NamedTuple):
    """What a reading alone does not know.

    ``lit`` is what it says of light, ``due`` whether light is due at its instant and until when
    that stays so.
    """

    rules: Rules
    lit: bool | None = None
    due: Callable[[], tuple[bool, datetime | None]] = lambda: (False, None)


@dataclass(frozen=True, slots=True)
class Table:
    """A hypertable: its columns after ``device_id, at, received_at``, with their types."""

    name: str
    columns: Sequence[str]
    types: Sequence[str]


@dataclass(frozen=True, slots=True)
class Kind:
    """One device class as ingest sees it. Any: each class's functions take its own models only."""

    kind: str
    readings: Table
    rules: Sequence[Rule]
    conditions: Callable[[Any, Context], Iterable[Condition]]
    events: Table | None = None
    event_conditions: Callable[[Any], Iterable[Condition]] | None = None


def hysteresis(value: float | None, rule: Rule | None) -> bool | None:
    """Return whether ``value`` meets a limit rule; None between its limits or without a value.

    Where the rule is cleared above its limit, low values meet it: a battery, not a full bin.
    """
    if value is None or rule is None or rule.limit is None:
        return None
    limit, clear = rule.limit, rule.limit if rule.clear is None else rule.clear
    if clear > limit:
        return True if value <= limit else False if value > clear else None
    return True if value >= limit else False if value < clear else None


def fields(model: Reading | Event, table: Table) -> tuple[object, ...]:
    """Return the model's values in the order of the table's columns."""
    return tuple(getattr(model, column) for column in table.columns)
