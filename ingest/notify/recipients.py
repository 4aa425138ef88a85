# SPDX-License-Identifier: Apache-2.0
"""Who is told and when: roles become people, and people have preferences with a floor. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ingest.notify.chains import (
    LEVELS,
    SEVERITIES,
    Level,
    LocalTime,
    PersonRecipient,
    Recipient,
    Role,
    RoleRecipient,
    WebhookRecipient,
)
from ingest.rules import DURESS, Severity

#: So many channels a person, or webhooks an area, may have.
CHANNELS_MAX: Final = 20
#: Nobody but the police, and who answers for all, may learn of it.
DURESS_ROLES: Final = frozenset({"admin", "police"})


class Preferences(BaseModel):
    """What one person wants. Critical alerts and dangers to life come at once, whatever it says.

    Times are local to the alert's community; quiet hours ``[quiet_from, quiet_to)`` may cross
    midnight. What comes in them waits for their end. Severities of ``digest`` come once a day at
    ``digest_at``, in one message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_severity: Severity = "info"
    quiet_from: LocalTime | None = None
    quiet_to: LocalTime | None = None
    digest: list[Severity] = Field(default_factory=lambda: ["info"], max_length=len(SEVERITIES))
    digest_at: LocalTime = time(8)
    channels: dict[Severity, Annotated[list[UUID], Field(max_length=CHANNELS_MAX)]] = Field(
        default_factory=dict, description="by which channels each severity comes; default: all"
    )

    @model_validator(mode="after")
    def _whole(self) -> "Preferences":
        if (self.quiet_from is None) != (self.quiet_to is None):
            raise ValueError("quiet_from and quiet_to go together")
        return self

    def quiet_until(self, local: datetime) -> datetime | None:
        """Return when the quiet hours that a local time lies in end; None outside of them."""
        if self.quiet_from is None or self.quiet_to is None or self.quiet_from == self.quiet_to:
            return None
        at = local.time()
        if self.quiet_from < self.quiet_to:
            quiet = self.quiet_from <= at < self.quiet_to
        else:
            quiet = at >= self.quiet_from or at < self.quiet_to
        return next_at(local, self.quiet_to) if quiet else None


@dataclass(frozen=True, slots=True)
class Channel:
    """Where somebody can be told."""

    id: UUID
    kind: str
    enabled: bool = True
    duress: bool = False
    path: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may be told; ``path`` and ``level`` are those of the area they answer for."""

    username: str
    role: Role
    path: str
    level: Level
    channels: tuple[Channel, ...] = ()
    preferences: Preferences = field(default_factory=Preferences)


@dataclass(frozen=True, slots=True)
class Telling:
    """One channel, when it is to be told, and whether that is in a digest."""

    channel: UUID
    due_at: datetime
    digest: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """Whom a step tells. ``reached`` is False where there is nobody, or no way to tell them.

    Somebody who does not want to be told of it now, was reached.
    """

    tellings: tuple[Telling, ...]
    reached: bool


@dataclass(frozen=True, slots=True)
class Matter:
    """What is told: how grave, where, and whether it may be known to all."""

    rule: str
    severity: Severity
    path: str
    life_safety: bool

    @property
    def is_urgent(self) -> bool:
        """Whether nobody's preferences count."""
        return self.life_safety or self.severity == "critical"


def who(
    recipients: Iterable[Recipient],
    matter: Matter,
    people: Sequence[Person],
    webhooks: Sequence[Channel],
    local: datetime,
) -> Told:
    """Return which channels a step tells.

    Args:
        recipients: The step's.
        matter: What it is about.
        people: All active people whose area holds the alert (invariant 9), and no others.
        webhooks: All webhooks of areas that hold the alert.
        local: Now, in the community's time zone.
    """
    tellings: dict[UUID, Telling] = {}
    reached = False
    allowed = [one for one in people if matter.rule != DURESS or one.role in DURESS_ROLES]
    for recipient in recipients:
        match recipient:
            case WebhookRecipient(webhook=wanted):
                for hook in webhooks:
                    may = matter.rule != DURESS or hook.duress
                    if hook.id == wanted and hook.enabled and may:
                        reached = True
                        tellings[hook.id] = Telling(hook.id, local)
                continue
            case PersonRecipient(person=name):
                found = [one for one in allowed if one.username == name]
            case RoleRecipient(role=role, level=level):
                found = responsible(role, level, allowed)
        for person in found:
            if any(channel.enabled for channel in person.channels):
                reached = True
            for telling in wanted_by(person, matter, local):
                tellings.setdefault(telling.channel, telling)
    return Told(tuple(tellings.values()), reached)


def responsible(role: Role, level: Level | None, people: Iterable[Person]) -> list[Person]:
    """Return those of a role at a level, or where there is nobody at the next above.

    Without a level: those whose area is nearest to the alert. Who has no way to be told does not
    stand for anybody.
    """
    of_role = [one for one in people if one.role == role and any(c.enabled for c in one.channels)]
    least = 0 if level is None else LEVELS.index(level)
    above = [one for one in of_role if LEVELS.index(one.level) >= least]
    if not above:
        return []
    nearest = max(one.path.count(".") for one in above)
    return [one for one in above if one.path.count(".") == nearest]


def wanted_by(person: Person, matter: Matter, local: datetime) -> list[Telling]:
    """Return by which of their channels, and when, somebody is told."""
    usable = [channel for channel in person.channels if channel.enabled]
    if matter.is_urgent:
        return [Telling(channel.id, local) for channel in usable]
    wishes = person.preferences
    if SEVERITIES.index(matter.severity) > SEVERITIES.index(wishes.min_severity):
        return []
    chosen = wishes.channels.get(matter.severity)
    named = [channel for channel in usable if chosen is None or channel.id in chosen]
    due, digest = local, matter.severity in wishes.digest
    if digest:
        due = next_at(local, wishes.digest_at)
    quiet_until = wishes.quiet_until(due)
    if quiet_until is not None:
        due, digest = quiet_until, True
    return [Telling(channel.id, due, digest) for channel in named]


def next_at(local: datetime, at: time) -> datetime:
    """Return the next time it is ``at``, after a local time."""
    day = local.replace(hour=at.hour, minute=at.minute, second=at.second, microsecond=0)
    return day if day > local else day + timedelta(days=1)
