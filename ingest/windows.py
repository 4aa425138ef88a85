# SPDX-License-Identifier: Apache-2.0
"""What a window of maintenance may be, and what becomes of one: pure.

A window mutes alerts and takes its time out of every indicator, so it excuses what went wrong.
Announcing one is everyday work; having more of the past excused is a right of its own. A window is
never deleted: called off or cut short, it keeps who, when and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from ingest.rules import is_police_matter

LENGTH_MAX: Final = timedelta(days=31)
AHEAD_MAX: Final = timedelta(days=366)
# Work that began just now may be written down; what lies further back is excused afterwards.
GRACE: Final = timedelta(minutes=15)
AFTERWARDS_MAX: Final = timedelta(days=62)

FieldName = Literal["begins_at", "ends_at", "reason"]
RuleCode = Literal[
    "range.reversed", "range.too_long", "text.too_short", "window.past", "window.too_old",
    "window.too_far",
]  # fmt: skip
Phase = Literal["planned", "current", "past", "annulled"]
Span = tuple[datetime, datetime]


class Refused(ValueError):
    """A rule forbids it; ``field`` says what, ``rule`` which, ``bounds`` what would be allowed."""

    def __init__(
        self, field_name: FieldName, rule: RuleCode, bounds: Mapping[str, object] | None = None
    ) -> None:
        """Keep them apart from the text."""
        super().__init__(f"{field_name}: {rule}")
        self.field = field_name
        self.rule: RuleCode = rule
        self.bounds = dict(bounds or {})


class Over(ValueError):
    """It is over or called off: what it was cannot be changed, or not without the right."""


class Unchanged(ValueError):
    """The change changes nothing."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window, ``[begins_at, ends_at)``; ``annulled``: as if it had never been."""

    begins_at: datetime
    ends_at: datetime
    reason: str
    annulled: bool = False
    version: int = 1

    @property
    def span(self) -> Span | None:
        """Which time it takes out; None where it takes none."""
        return None if self.annulled else (self.begins_at, self.ends_at)

    def phase(self, now: datetime) -> Phase:
        """Return where it stands at ``now``."""
        if self.annulled:
            return "annulled"
        if now < self.begins_at:
            return "planned"
        return "current" if now < self.ends_at else "past"


def may_mute(rule: str, kind: str) -> bool:
    """Return whether a window mutes alerts of a rule on a device class.

    A manager's window must not keep an intrusion from the desk of those who answer for it: they
    take a panel that is serviced out of service themselves.
    """
    return not is_police_matter(rule, kind)


def plan(
    begins_at: datetime, ends_at: datetime, reason: str, *, afterwards: bool, now: datetime
) -> Window:
    """Return a new window.

    Args:
        begins_at: From when.
        ends_at: Until when.
        reason: What is done there.
        afterwards: Whether whoever wants it may have the past excused, and says so.
        now: The time.

    Raises:
        Refused: Reversed, too long, too far away, without a reason, or in the past.
    """
    window = Window(begins_at, ends_at, reason.strip())
    _check(window, None, afterwards=afterwards, now=now)
    return window


def change(
    before: Window,
    begins_at: datetime | None,
    ends_at: datetime | None,
    *,
    afterwards: bool,
    now: datetime,
) -> Window:
    """Return the window with another begin or end, None: as it is; one version on.

    Raises:
        Over: It is annulled, or over and ``afterwards`` is not said.
        Unchanged: It is like that already.
        Refused: As `plan` does; to take out less is allowed to whoever may take out anything.
    """
    phase = before.phase(now)
    if phase == "annulled" or (phase == "past" and not afterwards):
        raise Over
    after = replace(
        before, begins_at=begins_at or before.begins_at, ends_at=ends_at or before.ends_at
    )
    if after == before:
        raise Unchanged
    _check(after, before, afterwards=afterwards, now=now)
    return replace(after, version=before.version + 1)


def cancel(before: Window, *, annul: bool, afterwards: bool, now: datetime) -> Window:
    """Return the window called off, one version on.

    One that has not begun never was. One in force ends now; with ``annul`` all of it is taken back,
    which is also the one thing to do with a window that is over.

    Raises:
        Over: It is annulled already; or over, and `annul` or ``afterwards`` is not said.
    """
    match before.phase(now):
        case "planned":
            return replace(before, annulled=True, version=before.version + 1)
        case "current" if not annul and now > before.begins_at:
            return replace(before, ends_at=now, version=before.version + 1)
        case "current":
            return replace(before, annulled=True, version=before.version + 1)
        case "past" if annul and afterwards:
            return replace(before, annulled=True, version=before.version + 1)
        case _:
            raise Over


def restated(before: Window | None, after: Window) -> Span | None:
    """Return the time that counts otherwise than before, as one span; None where none does."""
    old, new = before and before.span, after.span
    if old == new:
        return None
    if old is None or new is None:
        return old or new
    if old[0] == new[0]:
        return min(old[1], new[1]), max(old[1], new[1])
    if old[1] == new[1]:
        return min(old[0], new[0]), max(old[0], new[0])
    return min(old[0], new[0]), max(old[1], new[1])


def _check(window: Window, before: Window | None, *, afterwards: bool, now: datetime) -> None:
    begins_at, ends_at = window.begins_at, window.ends_at
    if not window.reason:
        raise Refused("reason", "text.too_short", {"min": 1})
    if ends_at <= begins_at:
        raise Refused("ends_at", "range.reversed")
    if ends_at - begins_at > LENGTH_MAX:
        raise Refused("ends_at", "range.too_long", {"max_days": LENGTH_MAX.days})
    if begins_at > now + AHEAD_MAX:
        raise Refused("begins_at", "window.too_far", {"max": now + AHEAD_MAX})
    added = _added(begins_at, ends_at, before)
    if added is None:
        return
    name, since = added
    if since < now - AFTERWARDS_MAX:
        raise Refused(name, "window.too_old", {"min": now - AFTERWARDS_MAX})
    if since < now - GRACE and not afterwards:
        raise Refused(name, "window.past", {"min": now - GRACE})


def _added(
    begins_at: datetime, ends_at: datetime, before: Window | None
) -> tuple[FieldName, datetime] | None:
    """Return from when on time is taken out that was not, and what wants it."""
    if before is None or begins_at < before.begins_at or begins_at >= before.ends_at:
        return "begins_at", begins_at
    if ends_at > before.ends_at:
        return "ends_at", before.ends_at
    return None
