# SPDX-License-Identifier: Apache-2.0
"""What a rule may ask, as data: one model a condition, told apart by ``type``.

A condition answers true, false or unknown. Limits are in the unit of the field they watch, times
in seconds of device time. `docs/rules.md` explains each with an example.
"""

import re
from datetime import time
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from edge_agent.kinds.alarm import Phase
from edge_agent.kinds.base import CODE_PATTERN

# Longer than any window that a person would wait for, short enough to be replayed.
SECONDS_MAX: Final = 31 * 86_400
TIMES_MAX: Final = 100
PARTS_MAX: Final = 20
WORDS_MAX: Final = 50
EXPRESSION_CHARS_MAX: Final = 1_000

_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _clock(value: object) -> object:
    """Take ``22:00`` and nothing else that pydantic would take for a time of day."""
    if isinstance(value, time):
        return value
    if not isinstance(value, str) or _CLOCK.fullmatch(value) is None:
        raise PydanticCustomError("clock", "Time of day should be written as 22:00")
    return time.fromisoformat(value)


FieldName = Annotated[str, StringConstraints(pattern=CODE_PATTERN, max_length=64)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Words = Annotated[tuple[Word, ...], Field(min_length=1, max_length=WORDS_MAX)]
Number = Annotated[float, Field(strict=True)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=SECONDS_MAX)]
Minutes = Annotated[int, Field(strict=True, ge=-720, le=720)]
LocalTime = Annotated[
    time,
    BeforeValidator(_clock),
    PlainSerializer(lambda at: at.strftime("%H:%M"), return_type=str),
]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: Final[tuple[Weekday, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Where = Literal["device", "cell"]
Per = Literal["second", "minute", "hour", "day"]


class Limits(_Model):
    """One limit, above or below: reached counts."""

    above: Number | None = Field(default=None, description="holds at this or more")
    below: Number | None = Field(default=None, description="holds at this or less")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise PydanticCustomError("one_limit", "Either above or below should be given")
        return self

    def reached(self, value: float) -> bool:
        """Return whether ``value`` is at the limit or beyond it."""
        if self.above is not None:
            return value >= self.above
        assert self.below is not None
        return value <= self.below


class Threshold(Limits):
    """A number is at or beyond a limit; with ``clear``, until it has left it by as much."""

    type: Literal["threshold"] = "threshold"
    field: FieldName
    clear: Number | None = Field(
        default=None, description="holds on until it is below this (above), or above it (below)"
    )

    @model_validator(mode="after")
    def _band(self) -> Self:
        limit = self.above if self.above is not None else self.below
        if self.clear is not None and limit is not None:
            wrong = self.clear > limit if self.above is not None else self.clear < limit
            if wrong:
                raise PydanticCustomError(
                    "clear_side", "The clear value should not lie beyond the limit"
                )
        return self

    def left(self, value: float) -> bool:
        """Return whether ``value`` is back on the good side of ``clear`` (of the limit)."""
        if self.clear is None:
            return not self.reached(value)
        return value < self.clear if self.above is not None else value > self.clear


class Equals(_Model):
    """A word, truth value or number is this one."""

    type: Literal["equals"] = "equals"
    field: FieldName
    value: Annotated[bool, Field(strict=True)] | Number | Word


class OneOf(_Model):
    """A word is one of these."""

    type: Literal["one_of"] = "one_of"
    field: FieldName
    values: Words


class Present(_Model):
    """The reading tells the field: with ``fault``, the device reports any fault."""

    type: Literal["present"] = "present"
    field: FieldName


class Rate(Limits):
    """A number grows by so much per unit of time, or falls by it (negative limits).

    From the oldest reading within the window to the latest; unknown until they are half a window
    apart.
    """

    type: Literal["rate"] = "rate"
    field: FieldName
    per: Per = "minute"
    within_s: Seconds = Field(description="the window over which it is measured")


class SunSchedule(_Model):
    """Day or night by the sun at the device's place."""

    type: Literal["schedule"] = "schedule"
    by: Literal["sun"] = "sun"
    part: Literal["day", "night"] = Field(description="which of them it holds in")
    after_sunset_min: Minutes = Field(default=0, description="night begins so much later")
    before_sunrise_min: Minutes = Field(default=0, description="night ends so much earlier")


class ClockSchedule(_Model):
    """Between two local times; past midnight where the end is earlier, equal: the whole day."""

    type: Literal["schedule"] = "schedule"
    by: Literal["clock"] = "clock"
    start: LocalTime
    end: LocalTime
    weekdays: Annotated[tuple[Weekday, ...], Field(min_length=1, max_length=7)] = Field(
        default=WEEKDAYS, description="the local days on which it begins"
    )


class ProgrammeSchedule(_Model):
    """While light is due, or not due, by the lamp's own programme."""

    type: Literal["schedule"] = "schedule"
    by: Literal["programme"] = "programme"
    due: Annotated[bool, Field(strict=True)] = True


Schedule = Annotated[
    SunSchedule | ClockSchedule | ProgrammeSchedule,
    Field(discriminator="by"),
]


class NoData(_Model):
    """A field was not told for longer than this, though it should have been.

    With ``during``, only time within that schedule counts: solar lamps are silent by day.
    """

    type: Literal["no_data"] = "no_data"
    field: FieldName
    for_s: Seconds
    during: Annotated[SunSchedule | ClockSchedule, Field(discriminator="by")] | None = None


class Ends(_Model):
    """The events that end another one."""

    events: Words
    phases: Words | None = None


class Event(_Model):
    """An event of these was reported.

    It holds at the instant of the event only, unless it has an end: another event (``ends``), a
    time (``holds_s``), or whichever comes first.
    """

    type: Literal["event"] = "event"
    kind: FieldName | None = Field(
        default=None, description="device class, where a cell's devices of several are asked"
    )
    events: Words
    phases: Words | None = Field(default=None, description=f"alarms: {', '.join(get_args(Phase))}")
    ends: Ends | None = None
    holds_s: Seconds | None = None


class Expression(_Model):
    """A CEL expression over the fields of one reading, or of one event (``event.direction``)."""

    type: Literal["expression"] = "expression"
    expression: Annotated[str, StringConstraints(min_length=1, max_length=EXPRESSION_CHARS_MAX)]


class All(_Model):
    """All of these hold."""

    type: Literal["all"] = "all"
    of: Annotated[tuple["Condition", ...], Field(min_length=1, max_length=PARTS_MAX)]


class Any_(_Model):
    """Any of these holds."""

    type: Literal["any"] = "any"
    of: Annotated[tuple["Condition", ...], Field(min_length=1, max_length=PARTS_MAX)]


class Not(_Model):
    """This does not hold; what is unknown stays so."""

    type: Literal["not"] = "not"
    of: "Condition"


class Count(_Model):
    """The inner condition became true, or its event came, so often within a window."""

    type: Literal["count"] = "count"
    of: "Condition"
    times: Annotated[int, Field(strict=True, ge=2, le=TIMES_MAX)]
    within_s: Seconds
    where: Where = "device"


class Sequence(_Model):
    """First one, then the other within a time, in either order of arrival.

    It holds for ``holds_s`` from the second one on; without it, for ``within_s``.
    """

    type: Literal["sequence"] = "sequence"
    first: "Condition"
    then: "Condition"
    within_s: Seconds
    holds_s: Seconds | None = None
    where: Where = "device"


Condition = Annotated[
    Threshold
    | Equals
    | OneOf
    | Present
    | Rate
    | Schedule
    | NoData
    | Event
    | Expression
    | All
    | Any_
    | Not
    | Count
    | Sequence,
    Field(discriminator="type"),
]
for _model in (All, Any_, Not, Count, Sequence):
    _model.model_rebuild()


def parts(condition: Condition) -> tuple[tuple[str, Condition], ...]:
    """Return the conditions directly within one, each with its JSON pointer from there."""
    match condition:
        case All(of=of) | Any_(of=of):
            return tuple((f"/of/{index}", part) for index, part in enumerate(of))
        case Not(of=of) | Count(of=of):
            return (("/of", of),)
        case Sequence(first=first, then=then):
            return (("/first", first), ("/then", then))
        case _:
            return ()
