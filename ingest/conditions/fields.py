# SPDX-License-Identifier: Apache-2.0
"""The fields that a device class reports, with their types, taken from its wire models."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edge_agent.kinds import Event, Reading
from edge_agent.kinds.base import EventBase, ReadingBase
from edge_agent.messages import DeviceState
from ingest.states import GatewayState

# What names a device, an occurrence or, behind a pseudonym, a person: rules ask after values.
_ENVELOPE: Final = {"kind", "device", "at", "occurrence", "credential"}


@dataclass(frozen=True, slots=True)
class FieldType:
    """What a field can say.

    Attributes:
        is_a: A number, a truth value, or a word.
        words: The words there are; empty: any.
        least: The least number it can be, where that is limited.
        most: The greatest.
    """

    is_a: Literal["number", "truth", "word"]
    words: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Fields:
    """What the readings and the events of one device class can say, and what state it can be in."""

    readings: Mapping[str, FieldType]
    events: Mapping[str, FieldType]

    @property
    def asked(self) -> Mapping[str, FieldType]:
        """What can be asked by its bare name: fields of readings, and states."""
        return {**self.readings, **STATES}


#: Asked for like fields of readings, and known also of a device that tells nothing: the device's
#: state (`ingest.states`) and its gateway's.
STATES: Final[Mapping[str, FieldType]] = {
    "state": FieldType("word", get_args(DeviceState)),
    "gateway": FieldType("word", get_args(GatewayState)),
}


def _models(union: object, base: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found = (one for one in get_args(get_args(union)[0]) if issubclass(one, base))
    return {one.model_fields["kind"].default: one for one in found}


_READINGS: Final = _models(Reading, ReadingBase)
_EVENTS: Final = _models(Event, EventBase)
KINDS: Final = tuple(_READINGS)
#: Given under threat: it speaks to its own rule alone, for the alert of another, which more people
#: see, would give it away. So nobody can ask for it, and it is told to no condition.
DURESS: Final = "duress"


@cache
def fields_of(kind: str) -> Fields:
    """Return what a device class reports.

    Raises:
        KeyError: There is no such class.
    """
    events = _EVENTS.get(kind)
    return Fields(_fields(_READINGS[kind]), {} if events is None else _fields(events))


def _fields(model: type[BaseModel]) -> Mapping[str, FieldType]:
    return {name: _type(info) for name, info in model.model_fields.items() if name not in _ENVELOPE}


def _type(info: FieldInfo) -> FieldType:
    """Unfold ``Annotated``, ``| None`` and ``Literal`` down to what the wire carries."""
    bounds = list(info.metadata)
    words: tuple[str, ...] = ()
    left: list[Any] = [info.annotation]
    plain: set[Any] = set()
    while left:
        one = left.pop()
        if hasattr(one, "__metadata__"):
            for extra in one.__metadata__:
                bounds += extra.metadata if isinstance(extra, FieldInfo) else [extra]
            left.append(one.__origin__)
        elif get_origin(one) is Literal:
            words += tuple(word for word in get_args(one) if word != DURESS)
            plain.add(str)
        elif get_args(one):
            left += get_args(one)
        elif one is not type(None):
            plain.add(one)
    (type_,) = plain
    if type_ is str:
        return FieldType("word", words)
    if type_ is bool:
        return FieldType("truth")
    least = [bound.ge for bound in bounds if isinstance(bound, Ge)]
    most = [bound.le for bound in bounds if isinstance(bound, Le)]
    assert type_ is float
    return FieldType("number", least=_number(least), most=_number(most))


def _number(bounds: list[Any]) -> float | None:
    return float(bounds[0]) if bounds else None
