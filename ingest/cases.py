# SPDX-License-Identifier: Apache-2.0
"""From alarm to incident: which alerts make one case, and what people do with it; pure.

A case is what an officer works on. Alerts join it by place and time (`belongs`), people settle it:
confirmed, its record counts as an incident; closed, it says why it was none. The moves are those
of `apply`; each has its time, actor and reason, and takes the case one version on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from ingest.indicators.security import Category, Disposition
from ingest.rules import DURESS, Severity

Nature = Literal["duress", "fire", "crime", "nuisance"]
State = Literal["open", "confirmed", "closed"]
Outcome = Literal["false_alarm", "test", "duplicate", "equipment_fault", "withdrawn"]
Reason = Literal["same_device", "same_cell", "same_gateway"]

# Shown to people as I to IV.
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "major", "minor", "info")
#: The worst first: what a case of several natures is.
NATURES: Final[tuple[Nature, ...]] = ("duress", "fire", "crime", "nuisance")

#: What an incident's record says of a case; a device that failed told a false alarm.
DISPOSITIONS: Final[Mapping[Outcome, Disposition]] = {
    "false_alarm": "false_alarm",
    "test": "test",
    "duplicate": "duplicate",
    "equipment_fault": "false_alarm",
    "withdrawn": "withdrawn",
}
#: What is written where nobody said it; none of them counts as criminal.
CATEGORIES: Final[Mapping[Nature, Category]] = {
    "duress": "other",
    "fire": "fire",
    "crime": "other",
    "nuisance": "other",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What a rule's alerts do in cases: their nature, which cases they join, if they open one."""

    nature: Nature
    joins: frozenset[Nature]
    opens: bool = True


#: By rule. A nuisance is evidence beside something worse, but nothing worse ever hides in one.
PARTS: Final[Mapping[str, Part]] = {
    DURESS: Part("duress", frozenset()),
    "alarm.panic": Part("crime", frozenset({"crime"})),
    "alarm.intrusion": Part("crime", frozenset({"crime"})),
    "gate.forced": Part("crime", frozenset({"crime"})),
    "alarm.smoke": Part("fire", frozenset({"fire"})),
    "alarm.gas": Part("fire", frozenset({"fire"})),
    "alarm.fire": Part("fire", frozenset({"fire"})),
    "bin.fire": Part("fire", frozenset({"fire"})),
    "alarm.tamper": Part("nuisance", frozenset({"crime", "nuisance"})),
    "alarm.fire_lane_blocked": Part("nuisance", frozenset({"fire", "nuisance"})),
    "alarm.water": Part("nuisance", frozenset({"nuisance"})),
    "gate.held_open": Part("nuisance", frozenset({"crime"}), opens=False),
}


@dataclass(frozen=True, slots=True)
class Reach:
    """How far apart alerts of one case may be in time; the looser the place, the shorter.

    ``here`` at the same device or in the same grid cell, ``near`` behind the same gateway, ``span``
    from the first of a case to the last.
    """

    here: timedelta
    near: timedelta
    span: timedelta


REACH: Final[Mapping[Nature, Reach]] = {
    "duress": Reach(timedelta(0), timedelta(0), timedelta(0)),
    "fire": Reach(timedelta(minutes=10), timedelta(minutes=3), timedelta(hours=2)),
    "crime": Reach(timedelta(minutes=10), timedelta(minutes=3), timedelta(hours=2)),
    # What only disturbs is one thing to look at, however long it goes on.
    "nuisance": Reach(timedelta(hours=1), timedelta(hours=1), timedelta(hours=12)),
}
REACH_MAX: Final = max(reach.here for reach in REACH.values())
#: A code entered this long after an alarm, device time, is about it (SIA CP-01 asks for five
#: minutes at least).
ABORT_MAX: Final = timedelta(minutes=10)
#: Duress this near to an abort, device time, before or after it: the code was given under threat.
THREAT_MAX: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Signal:
    """One alert in a case, as far as place, time and severity go; times are the device's.

    Attributes:
        area: The finest known; equal to ``community`` where no cell is.
        raised_at: When it came to be part of a case.
        last_at: When it was raised last.
        aborted_at: A valid code was entered after it; None: none was, or it was raised since.
        under_threat: That code is worth nothing.
    """

    alert: UUID
    rule: str
    severity: Severity
    community: str
    area: str
    gateway: str
    device: str | None
    raised_at: datetime
    last_at: datetime
    aborted_at: datetime | None = None
    under_threat: bool = False

    @property
    def aborted(self) -> bool:
        """Whether it may be taken lighter for the code that was entered."""
        return self.aborted_at is not None and not self.under_threat

    @property
    def rank(self) -> int:
        """How severe it is: 0 the worst, as in `SEVERITIES`; one less severe when aborted."""
        if self.rule == DURESS:
            return 0
        rank = SEVERITIES.index(self.severity)
        return min(rank + 1, len(SEVERITIES) - 1) if self.aborted else rank


@dataclass(frozen=True, slots=True)
class Outline:
    """What the alerts of a case add up to, where not all of them are at hand.

    A further alert can only add to it; what takes something away needs them all.
    """

    nature: Nature
    area: str
    first_at: datetime
    last_at: datetime
    aborted: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One case; its flags are orthogonal.

    Attributes:
        signals: All of its alerts; with ``rest`` the leading one, and those that an alert which may
            join is near to.
        outcome: Why it is closed.
        duplicate_of: The case that tells of the same, where that is the outcome.
        merged_into: The case that took over its alerts; it is closed for ever.
        assignee: Who works on it.
        severity_set: By a person; None: the worst of its alerts.
        pinned: The alert that its record stands for, and so cannot leave.
        rest: What all of them add up to; None: ``signals`` are all.
    """

    signals: tuple[Signal, ...]
    state: State = "open"
    outcome: Outcome | None = None
    duplicate_of: UUID | None = None
    merged_into: UUID | None = None
    assignee: str | None = None
    severity_set: Severity | None = None
    pinned: UUID | None = None
    version: int = 1
    rest: Outline | None = None

    @property
    def nature(self) -> Nature:
        """The worst nature among its alerts."""
        found = {_nature(signal.rule) for signal in self.signals}
        if self.rest is not None:
            found.add(self.rest.nature)
        for nature in NATURES:
            if nature in found:
                return nature
        return "nuisance"

    @property
    def severity(self) -> Severity:
        """As a person set it, else the worst of its alerts."""
        return self.severity_set or SEVERITIES[self.rank]

    @property
    def rank(self) -> int:
        """The worst rank among its alerts, whatever people set."""
        return min((signal.rank for signal in self.signals), default=len(SEVERITIES) - 1)

    @property
    def leading(self) -> Signal:
        """The worst of its alerts, of these the first: it says which response plan fits."""
        return min(self.signals, key=lambda one: (one.rank, one.raised_at, str(one.alert)))

    @property
    def community(self) -> str:
        """Where it is; a case never spans two."""
        return self.signals[0].community

    @property
    def area(self) -> str:
        """The cell of all its alerts, or else their community."""
        areas = {signal.area for signal in self.signals}
        if self.rest is not None:
            areas.add(self.rest.area)
        return areas.pop() if len(areas) == 1 else self.community

    @property
    def first_at(self) -> datetime:
        """When the first of its alerts was raised."""
        at = min(signal.raised_at for signal in self.signals)
        return at if self.rest is None else min(at, self.rest.first_at)

    @property
    def last_at(self) -> datetime:
        """When one of its alerts was raised last."""
        at = max(signal.last_at for signal in self.signals)
        return at if self.rest is None else max(at, self.rest.last_at)

    @property
    def aborted(self) -> bool:
        """Whether a valid code was entered after one of its alerts, freely or not."""
        found = any(signal.aborted_at is not None for signal in self.signals)
        return found or (self.rest is not None and self.rest.aborted)


def part_of(rule: str) -> Part | None:
    """Return what alerts of a rule do in cases; None: nothing."""
    return PARTS.get(rule)


def _nature(rule: str) -> Nature:
    part = part_of(rule)
    return NATURES[-1] if part is None else part.nature


def belongs(case: Case, signal: Signal) -> Reason | None:
    """Return why an alert belongs to a case that is not closed; None: it does not.

    It must be of a nature that joins the case's, in the same community, and near in place and
    device time, before or after: at the same device, in the same cell, or behind the same gateway,
    which stands for the neighbourhood.
    """
    part = part_of(signal.rule)
    if part is None or case.state == "closed" or not case.signals:
        return None
    nature = case.nature
    if nature not in part.joins or signal.community != case.community:
        return None
    first, last, at = case.first_at, case.last_at, signal.raised_at
    reach = REACH[nature]
    if max(last, at) - min(first, at) > reach.span:
        return None
    away = max(first - at, at - last, timedelta(0))
    reason = _nearness(case, signal)
    if reason is None or away > (reach.near if reason == "same_gateway" else reach.here):
        return None
    return reason


def _nearness(case: Case, signal: Signal) -> Reason | None:
    here = signal.area != signal.community
    if signal.device is not None and any(one.device == signal.device for one in case.signals):
        return "same_device"
    if here and any(one.area == signal.area for one in case.signals):
        return "same_cell"
    if any(one.gateway == signal.gateway for one in case.signals):
        return "same_gateway"
    return None


# -- what happens to a case


@dataclass(frozen=True, slots=True)
class Join:
    """An alert belongs to it, or was raised again."""

    at: datetime
    signal: Signal
    reason: Reason | Literal["raised_again"]


@dataclass(frozen=True, slots=True)
class Abort:
    """A valid code was entered at ``at``, device time, after one of its alerts."""

    at: datetime
    alert: UUID


@dataclass(frozen=True, slots=True)
class Threaten:
    """There was duress at ``at``, device time: the code for that alert is worth nothing."""

    at: datetime
    alert: UUID


@dataclass(frozen=True, slots=True)
class Confirm:
    """It was an incident."""

    at: datetime
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """It was none; ``of`` names the case that tells of the same, for a duplicate."""

    at: datetime
    actor: str
    reason: str
    outcome: Outcome
    of: UUID | None = None


@dataclass(frozen=True, slots=True)
class Reopen:
    """What was found does not hold."""

    at: datetime
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Somebody works on it; ``to`` None: nobody any more. Whether they may is the caller's."""

    at: datetime
    actor: str
    reason: str
    to: str | None


@dataclass(frozen=True, slots=True)
class Rate:
    """A person says how severe it is; None: as its alerts say."""

    at: datetime
    actor: str
    reason: str
    severity: Severity | None


@dataclass(frozen=True, slots=True)
class Note:
    """A person writes something down."""

    at: datetime
    actor: str
    note: str


@dataclass(frozen=True, slots=True)
class DoStep:
    """A person did a step of the response plan."""

    at: datetime
    actor: str
    step: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """It takes over the alerts of another case."""

    at: datetime
    actor: str
    reason: str
    source: UUID
    signals: tuple[Signal, ...]


@dataclass(frozen=True, slots=True)
class MergeInto:
    """Another case takes over its alerts."""

    at: datetime
    actor: str
    reason: str
    into: UUID


@dataclass(frozen=True, slots=True)
class SplitOff:
    """Some of its alerts tell of something else."""

    at: datetime
    actor: str
    reason: str
    alerts: frozenset[UUID]


Action = (
    Join | Abort | Threaten | Confirm | Close | Reopen | Assign | Rate | Note | DoStep | Take
    | MergeInto | SplitOff
)  # fmt: skip

# What an action did, as the history has it; a case begins as one of the first two.
Done = Literal[
    "opened", "split_off", "joined", "raised_again", "aborted", "threatened", "confirmed", "closed",
    "reopened", "assigned", "rated", "noted", "step_done", "took", "merged", "split",
]  # fmt: skip
_DONE: Final[dict[type[Action], Done]] = {
    Join: "joined", Abort: "aborted", Threaten: "threatened", Confirm: "confirmed",
    Close: "closed", Reopen: "reopened", Assign: "assigned", Rate: "rated", Note: "noted",
    DoStep: "step_done", Take: "took", MergeInto: "merged", SplitOff: "split",
}  # fmt: skip

RefusedCode = Literal[
    "case.merged", "case.closed", "case.duress", "case.same", "case.elsewhere",
    "case.duplicate", "case.of",
    "alert.unknown", "alerts.none_left", "alert.pinned",
]  # fmt: skip


class AlreadyDone(ValueError):
    """The case is already where the action would bring it."""


class Refused(ValueError):
    """A rule forbids it; ``rule`` is a code."""

    def __init__(self, rule: RefusedCode) -> None:
        """Keep the code."""
        super().__init__(rule)
        self.rule: RefusedCode = rule


def done(action: Action) -> Done:
    """Return what the history says of an action."""
    if isinstance(action, Join) and action.reason == "raised_again":
        return "raised_again"
    return _DONE[type(action)]


def apply(case: Case, action: Action) -> Case:
    """Return ``case`` after ``action``, one version on.

    Any finding may follow any other, for people err; but a merged case is over.

    Raises:
        AlreadyDone: It is already so.
        Refused: ``case.merged``; ``case.closed`` for what needs a case somebody works on;
            ``case.duress``: it stays critical, and its own; ``case.of``: only a duplicate names
            another; ``alert.unknown``, ``alert.pinned``, ``alerts.none_left`` for a split.
    """
    if case.merged_into is not None:
        raise Refused("case.merged")
    return replace(_after(case, action), version=case.version + 1)


def _after(case: Case, action: Action) -> Case:
    match action:
        case Confirm():
            if case.state == "confirmed":
                raise AlreadyDone
            return replace(case, state="confirmed", outcome=None, duplicate_of=None)
        case Close(_, _, _, outcome, of):
            if of is not None and outcome != "duplicate":
                raise Refused("case.of")
            if (case.outcome, case.duplicate_of) == (outcome, of):
                raise AlreadyDone
            return replace(case, state="closed", outcome=outcome, duplicate_of=of)
        case Reopen():
            if case.state == "open":
                raise AlreadyDone
            return replace(case, state="open", outcome=None, duplicate_of=None)
        case Note() | DoStep():
            return case
        case _:
            if case.state == "closed":
                raise Refused("case.closed")
            return _worked_on(case, action)


def _worked_on(
    case: Case, action: Join | Abort | Threaten | Assign | Rate | Take | MergeInto | SplitOff
) -> Case:
    match action:
        case Join(_, signal):
            return _with(case, (signal,))
        case Abort(at, alert):
            return _marked(case, alert, aborted_at=at)
        case Threaten(_, alert):
            return _marked(case, alert, under_threat=True)
        case Assign(_, _, _, to):
            if case.assignee == to:
                raise AlreadyDone
            return replace(case, assignee=to)
        case Rate(_, _, _, severity):
            if case.severity_set == severity:
                raise AlreadyDone
            if case.nature == "duress" and severity not in (None, "critical"):
                raise Refused("case.duress")
            return replace(case, severity_set=severity)
        case Take(_, _, _, _, signals):
            return _with(case, signals)
        case MergeInto(_, _, _, into):
            if case.nature == "duress":
                raise Refused("case.duress")
            return replace(
                case, state="closed", outcome="duplicate", duplicate_of=into, merged_into=into
            )
        case SplitOff(_, _, _, alerts):
            return _without(case, alerts)


def check_merge(source: tuple[UUID, Case], target: tuple[UUID, Case]) -> None:
    """Refuse to merge what cannot be one case; `apply` refuses the rest.

    Raises:
        Refused: ``case.same``, ``case.elsewhere``, ``case.closed``.
    """
    if source[0] == target[0]:
        raise Refused("case.same")
    if "closed" in (source[1].state, target[1].state):
        raise Refused("case.closed")
    if source[1].community != target[1].community:
        raise Refused("case.elsewhere")


def check_duplicate(one: tuple[UUID, Case], other: tuple[UUID, Case]) -> None:
    """Refuse to close ``one`` as telling of the same as ``other`` where that leads nowhere.

    Raises:
        Refused: ``case.same``; ``case.duplicate``: the other is one itself; ``case.elsewhere``.
    """
    if one[0] == other[0]:
        raise Refused("case.same")
    if other[1].outcome == "duplicate":
        raise Refused("case.duplicate")
    if one[1].community != other[1].community:
        raise Refused("case.elsewhere")


def _with(case: Case, signals: Iterable[Signal]) -> Case:
    """Add alerts, or put in their place what is known of them by now.

    What a person said of the severity holds for what there was: something worse asks anew.
    """
    by_alert = {one.alert: one for one in case.signals} | {one.alert: one for one in signals}
    after = replace(case, signals=tuple(by_alert.values()))
    return replace(after, severity_set=None) if after.rank < case.rank else after


def _marked(
    case: Case, alert: UUID, *, aborted_at: datetime | None = None, under_threat: bool = False
) -> Case:
    found = next((one for one in case.signals if one.alert == alert), None)
    if found is None:
        raise Refused("alert.unknown")
    changed = replace(
        found,
        aborted_at=aborted_at or found.aborted_at,
        under_threat=under_threat or found.under_threat,
    )
    if changed == found:
        raise AlreadyDone
    return _with(case, (changed,))


def _without(case: Case, alerts: frozenset[UUID]) -> Case:
    if not alerts <= {one.alert for one in case.signals}:
        raise Refused("alert.unknown")
    if case.pinned in alerts:
        raise Refused("alert.pinned")
    left = tuple(one for one in case.signals if one.alert not in alerts)
    if not left or not alerts:
        raise Refused("alerts.none_left")
    return replace(case, signals=left)
