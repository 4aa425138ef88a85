# SPDX-License-Identifier: Apache-2.0
"""What may be written into an incident record, and what a change makes of it: pure.

A record is never deleted. What turned out to be nothing is settled as a false alarm, a test, a
duplicate or withdrawn, and every change keeps who, when, what and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from ingest.indicators.security import Category, Disposition

# Clocks may run ahead a little; what is further ahead has not happened.
FUTURE_MAX: Final = timedelta(minutes=5)
OCCURRED_MIN: Final = datetime(2000, 1, 1, tzinfo=UTC)
# What happened a day before or after an alert is not what the alert was about.
ALERT_DISTANCE_MAX: Final = timedelta(days=1)
NOTE_MAX: Final = 2_000
REASON_MAX: Final = 500

FieldName = Literal["category", "area", "occurred_at", "disposition", "alert", "note"]
# field.unfitting: does not go with the other fields.
RuleCode = Literal[
    "time.future", "time.too_early", "time.unfitting", "area.unfitting", "field.unfitting"
]


class Refused(ValueError):
    """A rule forbids it; ``field`` says what, ``rule`` which, ``bounds`` what would be allowed."""

    def __init__(
        self, field_name: FieldName, rule: RuleCode, bounds: Mapping[str, object] | None = None
    ) -> None:
        """Keep them apart from the text."""
        told = "".join(f" {name}={value}" for name, value in (bounds or {}).items())
        super().__init__(f"{field_name}: {rule}{told}")
        self.field = field_name
        self.rule: RuleCode = rule
        self.bounds = dict(bounds or {})


class Unchanged(ValueError):
    """The change changes nothing."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where: the finest area known, and the community it belonged to at the time of writing."""

    area: str
    community: str


@dataclass(frozen=True, slots=True)
class AlertFacts:
    """What an incident must fit with, of the alert that told of it."""

    id: UUID
    community: str
    raised_at: datetime


@dataclass(frozen=True, slots=True)
class Incident:
    """One record. ``confirmed_by`` and ``confirmed_at`` stand while it is confirmed, else None."""

    category: Category
    site: Site
    occurred_at: datetime
    disposition: Disposition = "open"
    alert: UUID | None = None
    note: str | None = None
    confirmed_by: str | None = None
    confirmed_at: datetime | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class Change:
    """What shall be different, None: as it is; an empty note removes the note."""

    category: Category | None = None
    site: Site | None = None
    occurred_at: datetime | None = None
    disposition: Disposition | None = None
    note: str | None = None


# What a change did: field, from, to; as JSON would have it.
Changes = Mapping[str, tuple[object, object]]


@dataclass(frozen=True, slots=True)
class Changed:
    """A record after a change, and what the change did."""

    incident: Incident
    changes: Changes = field(default_factory=dict[str, tuple[object, object]])


def report(incident: Incident, alert: AlertFacts | None, *, actor: str, now: datetime) -> Incident:
    """Return a new record as it is to be written; one reported as confirmed is signed.

    Raises:
        Refused: Time or alert do not fit.
    """
    _check(incident, alert, now)
    return _signed(incident, actor, now)


def change(
    before: Incident, wanted: Change, alert: AlertFacts | None, *, actor: str, now: datetime
) -> Changed:
    """Return the record after a change, one version on.

    Any disposition may follow any other, for people err; whoever makes it confirmed signs it, and
    what is confirmed no longer bears no signature.

    Args:
        before: The record as it is.
        wanted: What shall be different.
        alert: The alert the record names, None where it names none.
        actor: Who wants it.
        now: When.

    Raises:
        Unchanged: It is like that already.
        Refused: Time or place do not fit.
    """
    after = replace(
        before,
        category=wanted.category or before.category,
        site=wanted.site or before.site,
        occurred_at=wanted.occurred_at or before.occurred_at,
        disposition=wanted.disposition or before.disposition,
        note=before.note if wanted.note is None else wanted.note or None,
    )
    if after == before:
        raise Unchanged
    _check(after, alert, now)
    if after.disposition != before.disposition:
        after = _signed(after, actor, now)
    return Changed(replace(after, version=before.version + 1), _difference(before, after))


def _signed(incident: Incident, actor: str, now: datetime) -> Incident:
    if incident.disposition == "confirmed":
        return replace(incident, confirmed_by=actor, confirmed_at=now)
    return replace(incident, confirmed_by=None, confirmed_at=None)


def _check(incident: Incident, alert: AlertFacts | None, now: datetime) -> None:
    latest = now + FUTURE_MAX
    if incident.occurred_at > latest:
        raise Refused("occurred_at", "time.future", {"max": latest})
    if incident.occurred_at < OCCURRED_MIN:
        raise Refused("occurred_at", "time.too_early", {"min": OCCURRED_MIN})
    if alert is None:
        return
    if alert.community != incident.site.community:
        raise Refused("area", "area.unfitting", {"community": alert.community})
    if abs(incident.occurred_at - alert.raised_at) > ALERT_DISTANCE_MAX:
        bounds = {
            "min": alert.raised_at - ALERT_DISTANCE_MAX,
            "max": alert.raised_at + ALERT_DISTANCE_MAX,
        }
        raise Refused("occurred_at", "time.unfitting", bounds)


def _difference(before: Incident, after: Incident) -> dict[str, tuple[object, object]]:
    pairs: dict[str, tuple[object, object]] = {
        "category": (before.category, after.category),
        "area": (before.site.area, after.site.area),
        "occurred_at": (before.occurred_at.isoformat(), after.occurred_at.isoformat()),
        "disposition": (before.disposition, after.disposition),
        "note": (before.note, after.note),
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
