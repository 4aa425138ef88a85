# SPDX-License-Identifier: Apache-2.0
"""Chains: whom an alert concerns, step by step, until somebody acknowledges it. Pure.

A chain belongs to an area and holds in all areas below it that have none of their own for that
severity and hour. Every chain ends: each step repeats at most so often. Where no chain fits, a
built-in one is used: no alert of level I or II is told to nobody for want of a setting.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from ingest.rules import Severity

Role = Literal["admin", "property", "police"]
Level = Literal["cell", "community", "street", "district", "city"]
#: From the finest up: whoever is missing at a level is stood for by the next above.
LEVELS: Final[tuple[Level, ...]] = ("cell", "community", "street", "district", "city")
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "major", "minor", "info")

DELAY_MAX_S: Final = 24 * 3600.0
REPEAT_MIN_S: Final = 60.0
REPEATS_MAX: Final = 20
STEPS_MAX: Final = 10
RECIPIENTS_MAX: Final = 20


def _is_local(value: time) -> time:
    if value.tzinfo is not None:
        raise ValueError("a local time without an offset is expected, as 22:00")
    return value


#: A time of day where the community is.
LocalTime = Annotated[time, AfterValidator(_is_local)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PersonRecipient(_Part):
    """One person, by user name."""

    person: Annotated[str, Field(max_length=40)]


class RoleRecipient(_Part):
    """Everybody with a role who is responsible for the area at ``level``, or next above.

    Without ``level``: those nearest above the alert. A guard is ``property`` at ``cell``, the
    street office ``admin`` at ``street``.
    """

    role: Role
    level: Level | None = None


class WebhookRecipient(_Part):
    """A webhook, by its id."""

    webhook: UUID


Recipient = PersonRecipient | RoleRecipient | WebhookRecipient


class Step(_Part):
    """Who is told, how long after the alert, and how often again until it is acknowledged."""

    delay_s: float = Field(default=0, ge=0, le=DELAY_MAX_S)
    recipients: Annotated[list[Recipient], Field(min_length=1, max_length=RECIPIENTS_MAX)]
    repeat_s: float | None = Field(default=None, ge=REPEAT_MIN_S, le=DELAY_MAX_S)
    repeats: int = Field(
        default=0, ge=0, le=REPEATS_MAX, description="how often at most; it must end"
    )

    @model_validator(mode="after")
    def _repeats_fit(self) -> "Step":
        if (self.repeat_s is None) != (self.repeats == 0):
            raise ValueError("repeat_s and repeats go together: how often, and how many times")
        return self


class Hours(_Part):
    """Hours of the week, in the community's time zone: ``[start, end)``.

    An end at or before the start is of the next day; ``weekdays`` are those it starts on, 1 is
    Monday.
    """

    weekdays: Annotated[list[Annotated[int, Field(ge=1, le=7)]], Field(min_length=1)] = [
        1, 2, 3, 4, 5, 6, 7,
    ]  # fmt: skip
    start: LocalTime = time(0)
    end: LocalTime = time(0)

    def has(self, local: datetime) -> bool:
        """Whether a local time lies within."""
        at, day = local.time(), local.isoweekday()
        if self.start < self.end:
            return day in self.weekdays and self.start <= at < self.end
        yesterday = (day - 2) % 7 + 1
        return (day in self.weekdays and at >= self.start) or (
            yesterday in self.weekdays and at < self.end
        )


class Chain(_Part):
    """Steps for some severities at some hours.

    ``persists``: goes on after the alert is cleared, until it is acknowledged. Critical alerts and
    dangers to life always do.
    """

    name: Annotated[
        str,
        StringConstraints(
            strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$"
        ),
    ]
    severities: Annotated[list[Severity], Field(min_length=1)]
    hours: Hours | None = Field(default=None, description="null: at any time")
    steps: Annotated[list[Step], Field(min_length=1, max_length=STEPS_MAX)]
    persists: bool = False
    enabled: bool = True

    @model_validator(mode="after")
    def _in_order(self) -> "Chain":
        delays = [step.delay_s for step in self.steps]
        if delays != sorted(delays):
            raise ValueError("each step comes at or after the one before: order them by delay_s")
        return self


@dataclass(frozen=True, slots=True)
class Turn:
    """Something to do ``after`` the beginning: tell a step's recipients, for the ``round``-th time.

    Steps and rounds count from 0; round 0 is the first telling.
    """

    after: timedelta
    step: int
    round: int


def turns(steps: Sequence[Step]) -> tuple[Turn, ...]:
    """Return all that a chain ever does while nobody acknowledges, in order of time."""
    return tuple(
        sorted(
            (
                Turn(timedelta(seconds=step.delay_s + number * (step.repeat_s or 0)), index, number)
                for index, step in enumerate(steps)
                for number in range(step.repeats + 1)
            ),
            key=lambda turn: (turn.after, turn.step, turn.round),
        )
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """A chain and where it belongs: an area's path, an ltree as text."""

    id: str
    path: str
    chain: Chain


def choose(chains: Iterable[Placed], path: str, severity: Severity, local: datetime) -> Chain:
    """Return the chain for an alert in the area ``path``, at a local time.

    That of the nearest area; of several there the one of certain hours before one of any time.
    """
    fitting = [
        placed
        for placed in chains
        if placed.chain.enabled
        and severity in placed.chain.severities
        and (path == placed.path or path.startswith(f"{placed.path}."))
        and (placed.chain.hours is None or placed.chain.hours.has(local))
    ]
    if not fitting:
        return BUILT_IN[severity]
    return min(
        fitting, key=lambda one: (-one.path.count("."), one.chain.hours is None, one.id)
    ).chain


def _built_in(name: str, severity: Severity, *steps: Step) -> Chain:
    return Chain(name=name, severities=[severity], steps=list(steps))


_PROPERTY: Final = RoleRecipient(role="property")
_POLICE: Final = RoleRecipient(role="police")
_STREET: Final = RoleRecipient(role="admin", level="street")

#: What holds where nobody said anything else: guard or property manager and liaison at once, then
#: the street office.
BUILT_IN: Final[dict[Severity, Chain]] = {
    "critical": _built_in(
        "built-in", "critical",
        Step(recipients=[_PROPERTY, _POLICE], repeat_s=300, repeats=5),
        Step(delay_s=600, recipients=[_STREET], repeat_s=600, repeats=3),
    ),
    "major": _built_in(
        "built-in", "major",
        Step(recipients=[_PROPERTY], repeat_s=1800, repeats=3),
        Step(delay_s=3600, recipients=[_POLICE]),
    ),
    "minor": _built_in("built-in", "minor", Step(recipients=[_PROPERTY])),
    "info": _built_in("built-in", "info", Step(recipients=[_PROPERTY])),
}  # fmt: skip

#: An alarm given under threat: nobody else may learn of it.
DURESS_CHAIN: Final = Chain(
    name="duress",
    severities=["critical"],
    persists=True,
    steps=[
        Step(recipients=[_POLICE], repeat_s=120, repeats=10),
        Step(delay_s=300, recipients=[_STREET], repeat_s=300, repeats=5),
    ],
)
