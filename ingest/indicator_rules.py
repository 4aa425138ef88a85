# SPDX-License-Identifier: Apache-2.0
"""Rules over indicators, pure: what a community's last finished days say to them.

Each is asked of the days together, not of one: a single foggy night is no missed target. It is
raised only where the number is below its limit whatever the unknown may have been (``not_met``);
it is cleared once what is known reaches the rule's ``clear``. In between nothing changes. Limits
are in percent; delays mean nothing here, since a day comes once.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from ingest.indicators import equipment, lighting_nights, refuse
from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.definition import Target
from ingest.indicators.rate import share
from ingest.indicators.tally import Tally
from ingest.rules import Rule

#: How many days are taken together, the latest final one included.
DAYS: Final = 7
#: Of an alert about a whole community.
COMMUNITY: Final = "community"
# A number that crosses its limit from day to day is one alert.
_REOPEN_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class IndicatorRule:
    """A rule, the indicator (a share) it asks, and what of it: its value, or how much is known."""

    rule: Rule
    indicator: str
    asks: Literal["value", "coverage"] = "value"

    @property
    def domain(self) -> str:
        """Whose days it waits for."""
        return INDICATORS[self.indicator].domain


def _rule(name: str, limit: float, clear: float) -> Rule:
    return Rule(
        id=f"indicator.{name}",
        kind=COMMUNITY,
        severity="minor",
        reopen_s=_REOPEN_S,
        limit=limit,
        clear=clear,
    )


#: The first three have the indicators' own targets (docs/indicators.md) for limits. Coverage is
#: that of all equipment: who hears of less than four fifths of it can prove little.
INDICATOR_RULES: Final[tuple[IndicatorRule, ...]] = (
    IndicatorRule(_rule("lighting_uptime", 97, 97.5), lighting_nights.UPTIME),
    IndicatorRule(_rule("equipment_good", 96, 96.5), equipment.GOOD),
    IndicatorRule(_rule("refuse_sorted", 60, 62), refuse.SORTED),
    IndicatorRule(_rule("coverage_low", 80, 90), equipment.GOOD, "coverage"),
)


def holds(asks: Literal["value", "coverage"], rule: Rule, tally: Tally) -> bool | None:
    """Return whether some days meet a rule; None: it cannot be told, or lies between its limits.

    Args:
        asks: What of the indicator.
        rule: As it is in force there; without a limit it says nothing.
        tally: The days, added up.
    """
    if rule.limit is None:
        return None
    limit = rule.limit / 100
    clear = limit if rule.clear is None else rule.clear / 100
    rate = share(tally, Target(limit, rule.id))
    number = rate.value if asks == "value" else rate.coverage
    if number is None:
        return None
    is_below = rate.verdict == "not_met" if asks == "value" else number < limit
    return True if is_below else False if number >= clear else None


def percent(asks: Literal["value", "coverage"], tally: Tally) -> float | None:
    """Return what people are told, in percent, rounded down: what is below never looks reached."""
    rate = share(tally, None)
    number = rate.value if asks == "value" else rate.coverage
    return None if number is None else math.floor(number * 1_000) / 10
