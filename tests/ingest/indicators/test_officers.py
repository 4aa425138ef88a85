# SPDX-License-Identifier: Apache-2.0
"""The officer rule: each reason at its limit, and the exact test against scipy's own."""

from __future__ import annotations

from dataclasses import replace
from math import isclose
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # pyright: ignore[reportMissingTypeStubs] - there are none

from ingest.indicators.officers import (
    DEFAULT_RULE,
    Code,
    OfficerRule,
    Situation,
    p_above,
    recommend,
)

YEAR = 365
REFERENCE: Final[Any] = stats  # Any: scipy does not say what its functions take


def hours(day: int, night: int = 0) -> list[int]:
    """So many cases at ten in the morning, so many at eleven at night."""
    return [{10: day, 23: night}.get(hour, 0) for hour in range(24)]


def situation(
    cases: int = 0,
    *,
    residents: int = 2_000,
    city_cases: int = 100,
    city_residents: int = 100_000,
    open_cases: int = 0,
    at_night: int = 0,
    population_known: bool = True,
) -> Situation:
    return Situation(
        cases,
        residents * YEAR,
        city_cases,
        city_residents * YEAR,
        population_known,
        open_cases,
        hours(cases - at_night, at_night),
    )


@pytest.mark.parametrize(
    ("here", "officers", "codes"),
    [
        pytest.param(
            situation(0), 1, ["few_cases", "open_cases_few", "few_cases"], id="quiet"
        ),
        pytest.param(
            situation(2), 1, ["few_cases", "open_cases_few", "few_cases"], id="two-say-nothing"
        ),
        # The city has one case per thousand: two are expected, three are chance.
        pytest.param(
            situation(3), 1, ["rate_not_above_city", "open_cases_few", "few_cases"], id="chance"
        ),
        pytest.param(
            situation(6), 2, ["rate_above_city", "open_cases_few", "night_cases_few"], id="above"
        ),
        pytest.param(
            situation(12), 3, ["rate_far_above_city", "open_cases_few", "night_cases_few"], id="far"
        ),
        # No doubt that it lies above, but by less than twice.
        pytest.param(
            situation(300, residents=30_000, city_cases=800), 2,
            ["rate_above_city", "open_cases_few", "night_cases_few"], id="clearly-but-not-far",
        ),
        pytest.param(
            situation(0, open_cases=5), 1, ["few_cases", "open_cases_few", "few_cases"],
            id="open-cases-at-the-limit",
        ),
        pytest.param(
            situation(0, open_cases=6), 2, ["few_cases", "open_cases_many", "few_cases"],
            id="open-cases-over-it",
        ),
        pytest.param(
            situation(6, city_cases=400, at_night=3), 2,
            ["rate_not_above_city", "open_cases_few", "night_cases_many"],
            id="half-of-them-at-night",
        ),
        pytest.param(
            situation(6, city_cases=400, at_night=2), 1,
            ["rate_not_above_city", "open_cases_few", "night_cases_few"],
            id="a-third-at-night",
        ),
        pytest.param(
            situation(6, at_night=6, open_cases=9), 3,
            ["rate_above_city", "open_cases_many", "night_cases_many"],
            id="all-of-it-is-still-more-than-two",
        ),
        pytest.param(
            situation(9, population_known=False), 1,
            ["population_unknown", "open_cases_few", "night_cases_few"],
            id="population-unknown",
        ),
        pytest.param(
            situation(9, residents=0), 1,
            ["population_unknown", "open_cases_few", "night_cases_few"],
            id="nobody-lives-there",
        ),
        pytest.param(
            situation(9, city_cases=9, city_residents=2_000), 1,
            ["rate_not_comparable", "open_cases_few", "night_cases_few"],
            id="the-city-is-this-community",
        ),
    ],
)  # fmt: skip
def test_reasons_decide(here: Situation, officers: int, codes: list[Code]) -> None:
    found = recommend(here)
    assert found.officers == officers
    assert [reason.code for reason in found.reasons] == codes
    assert found.rule_version == DEFAULT_RULE.version


def test_reasons_carry_the_numbers_they_stand_on() -> None:
    rate, open_cases, nights = recommend(situation(12, open_cases=7, at_night=3)).reasons
    assert rate.numbers["rate"] == pytest.approx(12 / 2_000 * 1_000 * 365.25 / 365)
    assert rate.numbers["city_rate"] == pytest.approx(88 / 98_000 * 1_000 * 365.25 / 365)
    assert rate.numbers["p"] <= rate.numbers["limit"] == DEFAULT_RULE.p_far
    assert open_cases.numbers == {"open_cases": 7, "limit": 5}
    assert nights.numbers == {"share": 0.25, "cases": 3, "limit": 0.5}


def test_city_may_set_its_own_limits() -> None:
    here = situation(6)
    assert recommend(here, replace(DEFAULT_RULE, p_above=0.001)).officers == 1
    strict = OfficerRule(open_cases_max=0, version=7)
    found = recommend(situation(0, open_cases=1), strict)
    assert (found.officers, found.rule_version) == (2, 7)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        pytest.param(22, 6, (22, 23, 0, 1, 2, 3, 4, 5), id="over-midnight"),
        pytest.param(0, 5, (0, 1, 2, 3, 4), id="after-midnight"),
        pytest.param(19, 0, (19, 20, 21, 22, 23), id="up-to-midnight"),
        pytest.param(6, 6, (), id="none"),
    ],
)
def test_night(start: int, end: int, expected: tuple[int, ...]) -> None:
    assert OfficerRule(night_from=start, night_to=end).night_hours == expected


@given(
    cases=st.integers(0, 60),
    rest=st.integers(0, 200),
    here=st.integers(1, 10_000),
    there=st.integers(1, 100_000),
)
def test_p_is_that_of_the_exact_conditional_test(
    cases: int, rest: int, here: int, there: int
) -> None:
    p = p_above(cases, here, cases + rest, here + there)
    if cases + rest:
        share = here / (here + there)
        reference = REFERENCE.binomtest(cases, cases + rest, share, alternative="greater").pvalue
        assert isclose(p, reference, rel_tol=1e-9, abs_tol=1e-300)
    else:
        assert p == 1


@given(
    cases=st.integers(0, 40),
    rest=st.integers(0, 400),
    residents=st.integers(100, 5_000),
    open_cases=st.integers(0, 20),
    more=st.integers(1, 10),
)
def test_more_cases_never_mean_fewer_officers(
    cases: int, rest: int, residents: int, open_cases: int, more: int
) -> None:
    def officers(cases: int, open_cases: int) -> int:
        here = situation(cases, residents=residents, city_cases=rest + cases, open_cases=open_cases)
        return recommend(here).officers

    now = officers(cases, open_cases)
    assert 1 <= now <= officers(cases + more, open_cases) <= 3
    assert now <= officers(cases, open_cases + more)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"cases_by_hour": [0] * 24}, id="other-number-by-hour"),
        pytest.param({"cases_by_hour": [3]}, id="not-24-hours"),
        pytest.param({"cases_by_hour": [4, -1, *[0] * 22]}, id="negative-hour"),
        pytest.param({"open_cases": -1}, id="negative"),
        pytest.param({"city_cases": 2}, id="more-than-the-city"),
        pytest.param({"city_person_days": 5}, id="more-people-than-the-city"),
    ],
)
def test_impossible_situations_are_refused(wrong: dict[str, object]) -> None:
    whole = {
        "cases": 3,
        "person_days": 10,
        "city_cases": 3,
        "city_person_days": 10,
        "is_population_known": True,
        "open_cases": 0,
        "cases_by_hour": hours(3),
    }
    with pytest.raises(ValueError, match=r"not the|negative|more than"):
        Situation(**(whole | wrong))  # pyright: ignore[reportArgumentType] - wrong on purpose
