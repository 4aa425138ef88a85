# SPDX-License-Identifier: Apache-2.0
"""How many officers a community is recommended: one, two or more, each with its reasons.

Sources: one officer a community is the rule of R2, two that of R0, and R1 gives two or more to
communities with many cases. Ours is a recommendation about posts, never a verdict on people: it
reads counts alone. Every reason carries the numbers it stands on, those that speak for no further
officer included.

The rule. Each community begins with one. One officer more for each of these:

- its rate lies above that of the rest of the city beyond what chance explains (exact test);
- far above: clearly, and at least twice as high, counts once more;
- more cases are open than one officer should have in hand;
- most of its cases happen at night, so that one person cannot be there for them.

More than two more are told as "more than two": how many is for people to decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ingest.indicators.security import PER_RESIDENTS, YEAR_DAYS

Officers = Literal[1, 2, 3]
HOURS: Final = 24
Code = Literal[
    "rate_not_above_city",
    "rate_above_city",
    "rate_far_above_city",
    "rate_not_comparable",
    "population_unknown",
    "few_cases",
    "open_cases_many",
    "open_cases_few",
    "night_cases_many",
    "night_cases_few",
]
# How many officers more a reason speaks for.
_MORE: Final[Mapping[Code, int]] = {
    "rate_above_city": 1,
    "rate_far_above_city": 2,
    "open_cases_many": 1,
    "night_cases_many": 1,
}


@dataclass(frozen=True, slots=True)
class OfficerRule:
    """The rule's limits: data, so that a city may set its own.

    Attributes:
        cases_min: Fewer cases than this say nothing about a rate.
        p_above: A rate is above the city's when chance alone would give so many cases, or more,
            with at most this probability.
        p_far: The same for far above.
        ratio_far: And then the rate is at least this many times the city's.
        open_cases_max: What one officer can have in hand.
        night_cases_min: Fewer cases than this say nothing about hours.
        night_from: The local hour at which night begins.
        night_to: The local hour at which it ends.
        night_share: From this share of cases on, nights need an officer of their own.
        version: Grows with every change of limits.
    """

    cases_min: int = 3
    p_above: float = 0.05
    p_far: float = 0.01
    ratio_far: float = 2.0
    open_cases_max: int = 5
    night_cases_min: int = 6
    night_from: int = 22
    night_to: int = 6
    night_share: float = 0.5
    version: int = 1

    @property
    def night_hours(self) -> tuple[int, ...]:
        """The local hours that are night."""
        return tuple(
            hour % HOURS
            for hour in range(self.night_from, self.night_from + HOURS)
            if (hour - self.night_from) < (self.night_to - self.night_from) % HOURS
        )


DEFAULT_RULE: Final = OfficerRule()


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rule reads of a community and of the city around it, in one window.

    Attributes:
        cases: Confirmed criminal incidents of the community.
        person_days: Its residents, summed over the days.
        city_cases: The same of the whole city, this community included.
        city_person_days: The same of the whole city.
        is_population_known: Whether every day's residents are known, here and in the city.
        open_cases: Incidents nobody has settled yet, of every category.
        cases_by_hour: Confirmed criminal incidents by local hour of the day, 24 numbers.
    """

    cases: int
    person_days: int
    city_cases: int
    city_person_days: int
    is_population_known: bool
    open_cases: int
    cases_by_hour: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.cases_by_hour) != HOURS or sum(self.cases_by_hour) != self.cases:
            raise ValueError(f"not the {self.cases} cases by hour: {self.cases_by_hour}")
        if min(self.cases, self.person_days, self.open_cases, *self.cases_by_hour) < 0:
            raise ValueError(f"negative: {self}")
        if self.cases > self.city_cases or self.person_days > self.city_person_days:
            raise ValueError(f"more than the city it is part of: {self}")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, as a code (worded where people read it) and the numbers it stands on."""

    code: Code
    numbers: Mapping[str, float]

    @property
    def officers_more(self) -> int:
        """How many officers more it speaks for."""
        return _MORE.get(self.code, 0)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One or two officers, or 3: more than two. Reasons in the order rate, open cases, hours."""

    officers: Officers
    reasons: tuple[Reason, ...]
    rule_version: int


def recommend(situation: Situation, rule: OfficerRule = DEFAULT_RULE) -> Recommendation:
    """Return how many officers the rule recommends, and why; see the module for the rule."""
    reasons = (
        _by_rate(situation, rule),
        _by_open_cases(situation, rule),
        _by_hours(situation, rule),
    )
    match 1 + sum(reason.officers_more for reason in reasons):
        case 1:
            officers: Officers = 1
        case 2:
            officers = 2
        case _:
            officers = 3
    return Recommendation(officers, reasons, rule.version)


def p_above(cases: int, person_days: int, city_cases: int, city_person_days: int) -> float:
    """Return how probable so many cases, or more, are where the rate is the rest of the city's.

    The exact conditional test of two Poisson rates: of all the city's cases, those here are then
    binomial with the share of person-days as their probability; P(X >= cases). Source: J.
    Przyborowski and H. Wilenski, Homogeneity of results in testing samples from Poisson series,
    Biometrika 31, 1940.
    """
    # Here, not above: only who asks for a recommendation pays for loading it.
    from scipy.special import (  # pyright: ignore[reportMissingTypeStubs] - there are none
        betainc,
    )

    if cases == 0:
        return 1.0
    return float(betainc(cases, city_cases - cases + 1, person_days / city_person_days))


def _by_rate(here: Situation, rule: OfficerRule) -> Reason:
    if not here.is_population_known or not here.person_days:
        return Reason("population_unknown", {"cases": here.cases})
    rest_cases = here.city_cases - here.cases
    rest_person_days = here.city_person_days - here.person_days
    rate = _rate(here.cases, here.person_days)
    if not rest_person_days:
        return Reason("rate_not_comparable", {"cases": here.cases, "rate": rate})
    if here.cases < rule.cases_min:
        return Reason("few_cases", {"cases": here.cases, "limit": rule.cases_min, "rate": rate})
    rest_rate = _rate(rest_cases, rest_person_days)
    p = p_above(here.cases, here.person_days, here.city_cases, here.city_person_days)
    numbers = {"cases": here.cases, "rate": rate, "city_rate": rest_rate, "p": p}
    if p <= rule.p_far and rate >= rule.ratio_far * rest_rate:
        return Reason("rate_far_above_city", numbers | {"limit": rule.p_far})
    code: Code = "rate_above_city" if p <= rule.p_above else "rate_not_above_city"
    return Reason(code, numbers | {"limit": rule.p_above})


def _by_open_cases(here: Situation, rule: OfficerRule) -> Reason:
    code: Code = "open_cases_many" if here.open_cases > rule.open_cases_max else "open_cases_few"
    return Reason(code, {"open_cases": here.open_cases, "limit": rule.open_cases_max})


def _by_hours(here: Situation, rule: OfficerRule) -> Reason:
    if here.cases < rule.night_cases_min:
        return Reason("few_cases", {"cases": here.cases, "limit": rule.night_cases_min})
    at_night = sum(here.cases_by_hour[hour] for hour in rule.night_hours)
    share = at_night / here.cases
    code: Code = "night_cases_many" if share >= rule.night_share else "night_cases_few"
    return Reason(code, {"share": share, "cases": at_night, "limit": rule.night_share})


def _rate(cases: int, person_days: int) -> float:
    """Return cases per mille residents a year."""
    return cases * YEAR_DAYS * PER_RESIDENTS / person_days
