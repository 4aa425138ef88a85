# SPDX-License-Identifier: Apache-2.0
"""Alarm hygiene, pure: what is a nuisance, what is a flood, what one cause explains, what is stale.

A duty desk that drowns misses what matters, so symptoms step back behind their cause and nuisances
are shelved for a while. What endangers people, and what may be a crime, never does. Limits are
those of ISA-18.2 and EEMUA 191 where these give any, else ours, and marked so.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from ingest.alerts import SHELVED_MAX
from ingest.indicator_rules import INDICATOR_RULES
from ingest.rules import Rule, Severity

#: Who the history names for what hygiene did.
ACTOR: Final = "hygiene"

# -- nuisances

#: Chattering: so many raise-clear cycles within so long (ISA-18.2: three or more in a minute).
CHATTER_CYCLES: Final = 3
CHATTER_TIME: Final = timedelta(minutes=1)
#: Fleeting: over before anybody could act, so often within so long. Ours: the standards give none.
FLEETING_TIME: Final = timedelta(seconds=10)
FLEETING_CYCLES: Final = 5
FLEETING_WITHIN: Final = timedelta(hours=1)
#: The first shelf of a day; each further one is twice as long, and there are no more than these:
#: 10 + 20 + 40 + 80 minutes. What is a nuisance after that stands there to be mended.
SHELF_FIRST: Final = timedelta(minutes=10)
SHELVES_MAX: Final = 4
SHELVES_WITHIN: Final = timedelta(days=1)

Nuisance = Literal["chattering", "fleeting"]


class Cycle(NamedTuple):
    """Once raised and cleared, in device time."""

    raised_at: datetime
    cleared_at: datetime


def nuisance(cycles: Sequence[Cycle]) -> Nuisance | None:
    """Return what kind of nuisance the latest cycles make of an alert, if any.

    Args:
        cycles: Of one rule on one subject, in the order in which they were raised.
    """
    if not cycles:
        return None
    latest = max(cycle.cleared_at for cycle in cycles)
    recent = cycles[-CHATTER_CYCLES:]
    if len(recent) == CHATTER_CYCLES and latest - recent[0].raised_at <= CHATTER_TIME:
        return "chattering"
    short = [
        cycle
        for cycle in cycles
        if cycle.cleared_at - cycle.raised_at <= FLEETING_TIME
        and latest - cycle.raised_at <= FLEETING_WITHIN
    ]
    return "fleeting" if len(short) >= FLEETING_CYCLES else None


def shelf(before: int) -> timedelta | None:
    """Return how long a nuisance is shelved; None: it was shelved often enough.

    Args:
        before: How often hygiene shelved it within `SHELVES_WITHIN`.
    """
    if before >= SHELVES_MAX:
        return None
    return min(SHELF_FIRST * 2**before, SHELVED_MAX)


# -- what may be kept from the desk

GATEWAY_SILENT: Final = "gateway.silent"
CIRCUIT_DARK: Final = "circuit.dark"
FLOOD: Final = "alerts.flood"
LAMP_DARK: Final = "lamp.dark"
#: What an officer may have to see on the spot: the fault of another thing never explains it.
SECURITY: Final = ("alarm.intrusion", "gate.forced")
#: Never a symptom.
NEVER_MUTED: Final = (*SECURITY, GATEWAY_SILENT, FLOOD)


def may_mute(rule: Rule) -> bool:
    """Return whether a cause elsewhere may mute alerts of a rule.

    Never what is life safety, critical, or may be a crime; and a cause stays in sight itself.
    """
    return not rule.life_safety and rule.severity != "critical" and rule.id not in NEVER_MUTED


def may_shelve(rule: str, severity: Severity, *, seen: bool) -> bool:
    """Return whether hygiene may shelve a nuisance that is not life safety.

    Args:
        rule: Its rule's id.
        severity: Its severity.
        seen: A person took note of it once. What is grave is not put aside unseen: a burglar who
            walks to and fro chatters, too.
    """
    return seen or (severity != "critical" and rule not in SECURITY)


# -- one cause behind many

#: A circuit is dark when at least so many, and at least half of its lamps are. Ours.
CIRCUIT_LAMPS: Final = 3


def circuit_is_dark(dark: int, lamps: int) -> bool:
    """Return whether a circuit failed rather than its lamps, one by one.

    Args:
        dark: How many of its lamps are dark though due.
        lamps: How many lamps in service it has.
    """
    return dark >= CIRCUIT_LAMPS and 2 * dark >= lamps


# -- floods

#: A flood begins above so many alerts within so long, and ends below so many (ISA-18.2, domain.md).
#: Each community is one operator's. Raised again within the time, an alert is still one.
FLOOD_TIME: Final = timedelta(minutes=10)
FLOOD_ABOVE: Final = 10
FLOOD_BELOW: Final = 5


def is_flood(was: bool, alerts: int) -> bool:
    """Return whether a flood goes on, or begins.

    Args:
        was: Whether there was one until now.
        alerts: How many alerts came in within `FLOOD_TIME`.
    """
    return alerts >= FLOOD_BELOW if was else alerts > FLOOD_ABOVE


# -- stale

#: Standing for longer than this an alert tells nobody anything any more (ISA-18.2).
STALE_AFTER: Final = timedelta(hours=24)
#: But for those over indicators, which ask a week's numbers together: they are meant to last until
#: better days came, and nobody at a desk could end them sooner. Ours: the standards know alarms
#: of equipment alone.
LASTING: Final = frozenset(one.rule.id for one in INDICATOR_RULES)


def is_stale(rule: str, raised_at: datetime, cleared_at: datetime | None, now: datetime) -> bool:
    """Return whether what a rule raised then is, or was, stale at ``now``."""
    if rule in LASTING:
        return False
    ended = now if cleared_at is None else min(cleared_at, now)
    return ended - raised_at > STALE_AFTER
