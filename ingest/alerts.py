# SPDX-License-Identifier: Apache-2.0
"""The alert state machine: pure, driven by device time, each decision with its reason.

Two small machines. `step` follows one condition of one rule on one device: idle, pending (its
on-delay runs), active. `apply` moves the flags of one alert occurrence, which are orthogonal as in
OPC UA Part 9: *active* belongs to the rule, *acknowledged* to a person.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final


@dataclass(frozen=True, slots=True)
class Idle:
    """The condition does not hold."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The condition holds since ``since``; its on-delay is running.

    It is known to hold until ``known_until``: as long as the reading that confirmed it last is
    valid, and no longer than the condition can hold by itself (a lamp is dark when due only while
    it is due).
    """

    since: datetime
    known_until: datetime


@dataclass(frozen=True, slots=True)
class Active:
    """The alert stands since ``raised_at``."""

    raised_at: datetime


Track = Idle | Pending | Active
IDLE: Final = Idle()


@dataclass(frozen=True, slots=True)
class Raise:
    """Raise an alert, in device time ``at``; ``reason`` is a code, worded where people read it."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Clear:
    """Clear the standing alert, in device time ``at``."""

    at: datetime
    reason: str


Decision = Raise | Clear


def elapse(track: Track, now: datetime, *, on_delay: timedelta) -> tuple[Track, Raise | None]:
    """Let device time pass to ``now`` without a reading.

    A pending condition whose on-delay ends while it is still known to hold is raised, at the very
    instant the delay ended. What is not known neither raises nor clears: the condition must then
    hold anew.

    Returns:
        The next track (the same object if nothing changed) and the decision.
    """
    if not isinstance(track, Pending):
        return track, None
    deadline = track.since + on_delay
    if deadline <= min(now, track.known_until):
        return Active(deadline), Raise(deadline, "condition_held")
    if now > track.known_until:
        return IDLE, None
    return track, None


def step(
    track: Track,
    holds: bool | None,
    at: datetime,
    *,
    on_delay: timedelta,
    known_until: datetime,
) -> tuple[Track, tuple[Decision, ...]]:
    """Advance one condition by one reading.

    Args:
        track: Where the condition stands.
        holds: Whether the reading meets the condition; None when it does not tell, or lies
            between the limits (hysteresis), and so changes nothing.
        at: The reading's ``at``, never its ``received_at``; not earlier than the last one.
        on_delay: How long the condition must hold before it is raised; zero raises at once.
        known_until: How long this reading, if no later one comes, says that the condition holds.

    Returns:
        The next track (the same object if nothing changed) and what to do, oldest first.
    """
    track, raised = elapse(track, at, on_delay=on_delay)
    decisions: tuple[Decision, ...] = () if raised is None else (raised,)
    match track, holds:
        case Idle(), True:
            if on_delay:
                return Pending(at, known_until), decisions
            return Active(at), (*decisions, Raise(at, "condition_met"))
        case Pending(since), True:
            return Pending(since, known_until), decisions
        case Pending(), False:
            return IDLE, decisions
        case Active(), False:
            return IDLE, (*decisions, Clear(at, "condition_ended"))
        case _:
            return track, decisions


@dataclass(frozen=True, slots=True)
class Alert:
    """The flags of one alert occurrence."""

    active: bool
    acknowledged: bool
    version: int
    cleared_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A person takes note of an alert."""

    at: datetime
    actor: str
    note: str | None


class AlreadyDone(ValueError):
    """The alert is already where the action would bring it."""


def apply(alert: Alert, action: Clear | Acknowledge) -> Alert:
    """Return ``alert`` after ``action``, one version on.

    Raises:
        AlreadyDone: It is already cleared, or already acknowledged.
    """
    match action:
        case Clear(at):
            if not alert.active:
                raise AlreadyDone("cleared")
            return replace(alert, active=False, cleared_at=at, version=alert.version + 1)
        case Acknowledge(at, actor, note):
            if alert.acknowledged:
                raise AlreadyDone("acknowledged")
            return replace(
                alert,
                acknowledged=True,
                acknowledged_at=at,
                acknowledged_by=actor,
                note=note,
                version=alert.version + 1,
            )
