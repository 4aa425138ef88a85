# SPDX-License-Identifier: Apache-2.0
"""The alert state machine: pure, driven by device time, each decision with its reason.

Two small machines. `step` follows one condition of one rule on one device: idle, pending (its
on-delay runs), active, ending (its off-delay runs). `apply` moves the flags of one alert, which are
orthogonal as in OPC UA Part 9 (AlarmConditionType) and ISA-18.2: *active* and *latched* belong to
the rule, *acknowledged*, *shelved* and *out of service* to people, *suppressed* to the design.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal


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


@dataclass(frozen=True, slots=True)
class Ending:
    """The alert stands since ``raised_at``; its condition does not hold since ``since``.

    Its off-delay is running. That it does not hold is known until ``known_until``.
    """

    raised_at: datetime
    since: datetime
    known_until: datetime


Track = Idle | Pending | Active | Ending
IDLE: Final = Idle()
#: Why something is raised of which the on-delay ended.
HELD: Final = "condition_held"


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


_NONE: Final = timedelta(0)


def elapse(
    track: Track, now: datetime, *, on_delay: timedelta, off_delay: timedelta = _NONE
) -> tuple[Track, Decision | None]:
    """Let device time pass to ``now`` without a reading.

    A pending condition whose on-delay ends while it is still known to hold is raised, at the very
    instant the delay ended; an ending one whose off-delay ends while it is still known not to hold
    is cleared, likewise. What is not known neither raises nor clears: the condition must then
    hold, or not hold, anew.

    Returns:
        The next track (the same object if nothing changed) and the decision.
    """
    match track:
        case Pending(since, known_until):
            deadline = since + on_delay
            if deadline <= min(now, known_until):
                return Active(deadline), Raise(deadline, HELD)
            return (IDLE if now > known_until else track), None
        case Ending(raised_at, since, known_until):
            deadline = since + off_delay
            if deadline <= min(now, known_until):
                return IDLE, Clear(deadline, "condition_stayed_away")
            return (Active(raised_at) if now > known_until else track), None
        case _:
            return track, None


def step(
    track: Track,
    holds: bool | None,
    at: datetime,
    *,
    on_delay: timedelta,
    known_until: datetime,
    off_delay: timedelta = _NONE,
) -> tuple[Track, tuple[Decision, ...]]:
    """Advance one condition by one reading.

    Args:
        track: Where the condition stands.
        holds: Whether the reading meets the condition; None when it does not tell, or lies
            between the limits (hysteresis), and so changes nothing.
        at: The reading's ``at``, never its ``received_at``; not earlier than the last one.
        on_delay: How long the condition must hold before it is raised; zero raises at once.
        off_delay: How long it must not hold before it is cleared; zero clears at once.
        known_until: How long this reading, if no later one comes, says what it says.

    Returns:
        The next track (the same object if nothing changed) and what to do, oldest first.
    """
    track, decided = elapse(track, at, on_delay=on_delay, off_delay=off_delay)
    decisions: tuple[Decision, ...] = () if decided is None else (decided,)
    match track, holds:
        case Idle(), True:
            if on_delay:
                return Pending(at, known_until), decisions
            return Active(at), (*decisions, Raise(at, "condition_met"))
        case Pending(since), True:
            return Pending(since, known_until), decisions
        case Pending(), False:
            return IDLE, decisions
        case Active(raised_at), False:
            if off_delay:
                return Ending(raised_at, at, known_until), decisions
            return IDLE, (*decisions, Clear(at, "condition_ended"))
        case Ending(raised_at), True:
            return Active(raised_at), decisions
        case Ending(raised_at, since), False:
            return Ending(raised_at, since, known_until), decisions
        case _:
            return track, decisions


@dataclass(frozen=True, slots=True)
class Aside:
    """Put aside for a time: shelved, or out of service. Never without an end.

    ``once`` ends it as soon as the alert is cleared, if that is earlier.
    """

    until: datetime
    by: str
    reason: str
    once: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """The flags of one alert: a rule on one subject, over one or several occurrences.

    Attributes:
        standing: How many occurrences are active.
        acknowledged: A person took note since it was raised last.
        latched: Its condition ended, but it stays until a person resets it.
        life_safety: Danger to life: never quiet, whatever is wanted.
        repeats: How often it was raised after the first time.
        suppressed_by: What mutes it by design, such as ``gateway:gw-0007``.
    """

    standing: int
    acknowledged: bool
    version: int
    cleared_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    note: str | None = None
    latched: bool = False
    life_safety: bool = False
    repeats: int = 0
    last_raised_at: datetime | None = None
    shelved: Aside | None = None
    out_of_service: Aside | None = None
    suppressed_by: frozenset[str] = frozenset()

    @property
    def active(self) -> bool:
        """Whether its condition holds, as far as is known."""
        return self.standing > 0

    @property
    def open(self) -> bool:
        """Whether somebody has still to do with it."""
        return self.active or self.latched or not self.acknowledged

    @property
    def quiet(self) -> bool:
        """Whether it is kept from the desk; danger to life never is."""
        aside = self.shelved is not None or self.out_of_service is not None
        return not self.life_safety and (aside or bool(self.suppressed_by))


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A person takes note of an alert, or hygiene of one that was over while it was put aside."""

    at: datetime
    actor: str
    note: str | None = None
    reason: Literal["person_noted", "over_while_shelved"] = "person_noted"


@dataclass(frozen=True, slots=True)
class Reset:
    """A person lets a latched alert go."""

    at: datetime
    actor: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A person writes something down."""

    at: datetime
    actor: str
    note: str


@dataclass(frozen=True, slots=True)
class Shelve:
    """Put aside until an instant, or (``once``) until it is cleared if that is earlier."""

    at: datetime
    actor: str
    until: datetime
    reason: str
    once: bool = False


@dataclass(frozen=True, slots=True)
class Unshelve:
    """Bring it back; ``reason`` is a code: its time is over, or a person wants it."""

    at: datetime
    actor: str
    reason: Literal["expired", "person"]


@dataclass(frozen=True, slots=True)
class TakeOut:
    """Take it out of service: what it watches is being mended or replaced."""

    at: datetime
    actor: str
    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class PutBack:
    """Put it back in service."""

    at: datetime
    actor: str
    reason: Literal["expired", "person"]


@dataclass(frozen=True, slots=True)
class Suppress:
    """Mute it by design, for a ``cause`` such as ``gateway:gw-0007``."""

    at: datetime
    cause: str


@dataclass(frozen=True, slots=True)
class Unsuppress:
    """The cause is gone."""

    at: datetime
    cause: str


Action = (
    Raise | Clear | Acknowledge | Reset | Note | Shelve | Unshelve | TakeOut | PutBack
    | Suppress | Unsuppress
)  # fmt: skip

#: A shelf is for a nuisance, not for ever (ISA-18.2 asks for a maximum).
SHELVED_MAX: Final = timedelta(hours=24)
OUT_OF_SERVICE_MAX: Final = timedelta(days=31)

# What an action did, as the history has it.
Done = Literal[
    "raised", "raised_again", "cleared", "acknowledged", "reset", "noted", "shelved", "unshelved",
    "suppressed", "unsuppressed", "out_of_service", "in_service",
]  # fmt: skip
_DONE: Final[dict[type[Action], Done]] = {
    Raise: "raised_again", Clear: "cleared", Acknowledge: "acknowledged", Reset: "reset",
    Note: "noted", Shelve: "shelved", Unshelve: "unshelved", TakeOut: "out_of_service",
    PutBack: "in_service", Suppress: "suppressed", Unsuppress: "unsuppressed",
}  # fmt: skip


class AlreadyDone(ValueError):
    """The alert is already where the action would bring it."""


class Refused(ValueError):
    """A rule forbids the action; ``rule`` is a code, ``bounds`` what would be allowed."""

    def __init__(self, rule: str, bounds: dict[str, object] | None = None) -> None:
        """Keep them apart from the text."""
        super().__init__(rule)
        self.rule = rule
        self.bounds = bounds or {}


def done(action: Action) -> Done:
    """Return what the history says of an action on an alert that was raised before."""
    return _DONE[type(action)]


def raised(at: datetime, *, life_safety: bool = False) -> Alert:
    """Return an alert raised for the first time."""
    return Alert(1, False, 1, life_safety=life_safety, last_raised_at=at)


def apply(alert: Alert, action: Action, *, latching: bool = False) -> Alert:
    """Return ``alert`` after ``action``, one version on.

    Args:
        alert: As it is.
        action: A further `Raise` of it asks for attention anew: it is no longer acknowledged.
        latching: Whether its rule wants a person to reset it after it was cleared.

    Raises:
        AlreadyDone: It is already so.
        Refused: ``alert.life_safety`` for what would hide a danger to life; ``alert.active`` for a
            reset while the condition holds; ``time.past`` or ``time.too_long`` for an end.
    """
    return replace(_after(alert, action, latching), version=alert.version + 1)


def _after(alert: Alert, action: Action, latching: bool) -> Alert:
    match action:
        case Raise(at):
            return replace(
                alert,
                standing=alert.standing + 1,
                repeats=alert.repeats + 1,
                last_raised_at=max(at, alert.last_raised_at or at),
                cleared_at=None,
                latched=False,
                acknowledged=False,
                acknowledged_at=None,
                acknowledged_by=None,
            )
        case Clear(at):
            return _cleared(alert, at, latching)
        case Acknowledge(at, actor, note):
            if alert.acknowledged:
                raise AlreadyDone("acknowledged")
            return replace(
                alert,
                acknowledged=True,
                acknowledged_at=at,
                acknowledged_by=actor,
                note=note or alert.note,
            )
        case Reset(_, _, note):
            if alert.active:
                raise Refused("alert.active")
            if not alert.latched:
                raise AlreadyDone("reset")
            return replace(alert, latched=False, note=note or alert.note)
        case Note(_, _, note):
            return replace(alert, note=note)
        case Shelve() | Unshelve() | TakeOut() | PutBack():
            return _put_aside(alert, action)
        case Suppress(_, cause):
            if alert.life_safety:
                raise Refused("alert.life_safety")
            if cause in alert.suppressed_by:
                raise AlreadyDone("suppressed")
            return replace(alert, suppressed_by=alert.suppressed_by | {cause})
        case Unsuppress(_, cause):
            if cause not in alert.suppressed_by:
                raise AlreadyDone("unsuppressed")
            return replace(alert, suppressed_by=alert.suppressed_by - {cause})


def _cleared(alert: Alert, at: datetime, latching: bool) -> Alert:
    if not alert.active:
        raise AlreadyDone("cleared")
    if alert.standing > 1:
        return replace(alert, standing=alert.standing - 1)
    once = alert.shelved is not None and alert.shelved.once
    return replace(
        alert,
        standing=0,
        cleared_at=at,
        latched=latching,
        shelved=None if once else alert.shelved,
    )


def _put_aside(alert: Alert, action: Shelve | Unshelve | TakeOut | PutBack) -> Alert:
    match action:
        case Shelve(at, actor, until, reason, once):
            if alert.life_safety:
                raise Refused("alert.life_safety")
            _check_end(at, until, SHELVED_MAX)
            aside = Aside(until, actor, reason, once)
            if alert.shelved == aside:
                raise AlreadyDone("shelved")
            return replace(alert, shelved=aside)
        case Unshelve():
            if alert.shelved is None:
                raise AlreadyDone("unshelved")
            return replace(alert, shelved=None)
        case TakeOut(at, actor, until, reason):
            # A detector of smoke may be mended too: its alert is marked so, and stays in sight.
            _check_end(at, until, OUT_OF_SERVICE_MAX)
            aside = Aside(until, actor, reason)
            if alert.out_of_service == aside:
                raise AlreadyDone("out_of_service")
            return replace(alert, out_of_service=aside)
        case PutBack():
            if alert.out_of_service is None:
                raise AlreadyDone("in_service")
            return replace(alert, out_of_service=None)


def _check_end(at: datetime, until: datetime, longest: timedelta) -> None:
    if until <= at:
        raise Refused("time.past", {"min": at})
    if until - at > longest:
        raise Refused("time.too_long", {"max": at + longest})


def continues(alert: Alert, at: datetime, reopen: timedelta) -> bool:
    """Return whether an occurrence at ``at`` belongs to this alert, or makes a new one.

    It belongs to one that is active, or was cleared less than ``reopen`` before; and to one that is
    put aside, so that what is shelved stays shelved when it is raised again.
    """
    if alert.active or alert.shelved is not None or alert.out_of_service is not None:
        return True
    ended = alert.cleared_at
    return ended is not None and abs(at - ended) <= reopen
