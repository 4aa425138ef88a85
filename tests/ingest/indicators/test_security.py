# SPDX-License-Identifier: Apache-2.0
"""Security numbers against hand-worked figures and against scipy's own distributions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from math import exp, factorial, isclose
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # pyright: ignore[reportMissingTypeStubs] - there are none

from ingest.indicators import security
from ingest.indicators.rate import Verdict
from ingest.indicators.security import (
    CATEGORIES,
    CRIMINAL,
    DISPOSITIONS,
    INDICATORS,
    Alarm,
    Case,
    Category,
    Disposition,
    Quantile,
    Ticket,
    garwood,
    incident_rate,
    tally,
    time_to_acknowledge,
    time_to_close,
    times,
)
from ingest.indicators.tally import Key, Tally

TARGET = 1.5
REFERENCE: Final[Any] = stats  # Any: scipy does not say what its functions take
# 2,000 residents for one year, of which 365.25 days are a whole one.
YEAR = {"person_days": 2_000 * 365, "days_covered": 365, "days": 365}


def seen_up_to(cases: int, mean: float) -> float:
    """The probability of ``cases`` or fewer where ``mean`` are expected, term by term."""
    return sum(exp(-mean) * mean**k / factorial(k) for k in range(cases + 1))


class TestInterval:
    @pytest.mark.parametrize(
        ("cases", "lower", "upper"),
        [
            pytest.param(0, 0.0, 3.6889, id="none"),
            pytest.param(1, 0.0253, 5.5716, id="one"),
            pytest.param(3, 0.6187, 8.7673, id="three"),
            pytest.param(4, 1.0899, 10.2416, id="four"),
            pytest.param(10, 4.7954, 18.3904, id="ten"),
        ],
    )
    def test_is_that_of_the_printed_tables(self, cases: int, lower: float, upper: float) -> None:
        assert garwood(cases) == pytest.approx((lower, upper), abs=5e-5)

    @given(st.integers(0, 5_000))
    def test_is_half_of_chi_square(self, cases: int) -> None:
        lower, upper = garwood(cases)
        assert isclose(upper, REFERENCE.chi2.ppf(0.975, 2 * cases + 2) / 2, rel_tol=1e-9)
        if cases:
            assert isclose(lower, REFERENCE.chi2.ppf(0.025, 2 * cases) / 2, rel_tol=1e-9)
        else:
            assert lower == 0

    @given(st.integers(0, 60))
    def test_leaves_the_same_chance_on_either_side(self, cases: int) -> None:
        lower, upper = garwood(cases)
        assert isclose(seen_up_to(cases, upper), 0.025, rel_tol=1e-6)
        if cases:
            assert isclose(1 - seen_up_to(cases - 1, lower), 0.025, rel_tol=1e-6)

    def test_of_fewer_than_none_there_is_none(self) -> None:
        with pytest.raises(ValueError, match="-1"):
            garwood(-1)


class TestIncidentRate:
    @pytest.mark.parametrize(
        ("cases", "value", "lower", "upper", "verdict"),
        [
            # Even a year without a case does not prove a rate of 1.5: chance allows it.
            pytest.param(0, 0.0, 0.0, 1.8457, "undetermined", id="none"),
            # Three a year are 1.5 per mille, and what lies behind may be a third or three times it.
            pytest.param(3, 1.5010, 0.3096, 4.3867, "undetermined", id="three"),
            pytest.param(4, 2.0014, 0.5453, 5.1243, "undetermined", id="four"),
            pytest.param(10, 5.0034, 2.3993, 9.2015, "not_met", id="ten"),
        ],
    )
    def test_community_of_two_thousand(
        self, cases: int, value: float, lower: float, upper: float, verdict: Verdict
    ) -> None:
        rate = incident_rate(cases, 0, **YEAR, target=TARGET)
        assert (rate.value, rate.lower, rate.upper) == pytest.approx(
            (value, lower, upper), abs=1e-4
        )
        assert (rate.verdict, rate.cases, rate.coverage) == (verdict, cases, 1.0)
        assert rate.residents == 2_000

    def test_of_a_city_the_same_rate_says_more(self) -> None:
        city = {"person_days": 200_000 * 365, "days_covered": 365, "days": 365}
        assert incident_rate(200, 0, **city, target=TARGET).verdict == "met"
        assert incident_rate(400, 0, **city, target=TARGET).verdict == "not_met"
        assert incident_rate(300, 0, **city, target=TARGET).verdict == "undetermined"

    def test_part_of_a_year_is_scaled_to_one(self) -> None:
        month = incident_rate(3, 0, person_days=2_000 * 30, days_covered=30, days=30, target=TARGET)
        assert month.value == pytest.approx(3 / 2_000 * 1_000 * 365.25 / 30)

    def test_population_that_changes_is_averaged(self) -> None:
        person_days = 1_000 * 100 + 3_000 * 100
        rate = incident_rate(
            4, 0, person_days=person_days, days_covered=200, days=200, target=TARGET
        )
        assert rate.residents == 2_000
        assert rate.value == pytest.approx(4 / 2_000 * 1_000 * 365.25 / 200)

    @pytest.mark.parametrize(
        ("window", "coverage"),
        [
            pytest.param({"person_days": 2_000 * 364, "days_covered": 364, "days": 365},
                         364 / 365, id="one-day-unknown"),
            pytest.param({"person_days": 0, "days_covered": 0, "days": 365}, 0.0, id="unknown"),
            pytest.param({"person_days": 0, "days_covered": 365, "days": 365}, 1.0, id="nobody"),
            pytest.param({"person_days": 0, "days_covered": 0, "days": 0}, None, id="no-days"),
        ],
    )  # fmt: skip
    def test_without_population_there_is_no_rate(
        self, window: dict[str, int], coverage: float | None
    ) -> None:
        rate = incident_rate(3, 1, **window, target=TARGET)
        assert (rate.value, rate.lower, rate.upper, rate.residents) == (None, None, None, None)
        assert (rate.verdict, rate.coverage) == ("undetermined", coverage)
        assert (rate.cases, rate.open_cases) == (3, 1)

    def test_open_cases_keep_the_verdict_from_met(self) -> None:
        city = {"person_days": 200_000 * 365, "days_covered": 365, "days": 365}
        settled = incident_rate(250, 0, **city, target=TARGET)
        looked_into = incident_rate(250, 40, **city, target=TARGET)
        assert (settled.verdict, looked_into.verdict) == ("met", "undetermined")
        assert (looked_into.value, looked_into.lower) == (settled.value, settled.lower)
        assert looked_into.upper == incident_rate(290, 0, **city, target=TARGET).upper

    @given(
        cases=st.integers(0, 500),
        open_cases=st.integers(0, 100),
        residents=st.integers(1, 3_000_000),
        days=st.integers(1, 366),
        target=st.floats(0.01, 50),
    )
    def test_bounds_bracket_and_the_verdict_follows_them(
        self, cases: int, open_cases: int, residents: int, days: int, target: float
    ) -> None:
        window = {"person_days": residents * days, "days_covered": days, "days": days}
        rate = incident_rate(cases, open_cases, **window, target=target)
        assert rate.value is not None and rate.lower is not None and rate.upper is not None
        assert rate.lower <= rate.value <= rate.upper
        exact = Fraction(cases) / residents * 1_000 * Fraction("365.25") / days
        assert isclose(rate.value, float(exact), rel_tol=1e-12)
        for confirmed in range(0, open_cases + 1, max(1, open_cases)):
            later = incident_rate(cases + confirmed, 0, **window, target=target)
            assert later.value is not None and later.upper is not None
            assert later.value <= rate.upper
            if rate.verdict == "met":
                assert later.verdict == "met"
            if rate.verdict == "not_met":
                assert later.verdict == "not_met"

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param({"person_days": -1}, id="people"),
            pytest.param({"days_covered": 366}, id="more-days-than-there-are"),
            pytest.param({"days_covered": -1}, id="days"),
        ],
    )
    def test_impossible_windows_are_refused(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="not a window"):
            incident_rate(1, 0, **(YEAR | wrong), target=TARGET)
        with pytest.raises(ValueError, match="not a window"):
            incident_rate(-1, 0, **YEAR, target=TARGET)


class TestTally:
    @pytest.mark.parametrize("category", CATEGORIES)
    def test_criminal_cases_alone_count(self, category: Category) -> None:
        counted = tally([Case("c01", category, "confirmed")], [])
        if category in ("fire", "medical", "other"):
            assert counted == {}
        else:
            assert counted == {Key("incident-rate", "c01"): Tally(good=1, total=1, subjects=1)}

    @pytest.mark.parametrize(
        ("disposition", "expected"),
        [
            pytest.param("confirmed", Tally(good=1, total=1, subjects=1), id="counts"),
            pytest.param("open", Tally(total=1, subjects=1), id="may-count"),
            pytest.param("false_alarm", Tally(excluded={"false_alarm": 1}), id="false"),
            pytest.param("test", Tally(excluded={"test": 1}), id="test"),
            pytest.param("duplicate", Tally(excluded={"duplicate": 1}), id="twice"),
            pytest.param("withdrawn", Tally(excluded={"withdrawn": 1}), id="withdrawn"),
        ],
    )
    def test_disposition_of_a_case(self, disposition: Disposition, expected: Tally) -> None:
        counted = tally([Case("c01", "burglary", disposition)], [])
        assert counted == {Key("incident-rate", "c01"): expected}

    @pytest.mark.parametrize(
        ("disposition", "expected"),
        [
            pytest.param("false_alarm", Tally(good=1, total=1, subjects=1), id="false"),
            pytest.param("test", Tally(good=1, total=1, subjects=1), id="test"),
            pytest.param("confirmed", Tally(bad=1, total=1, subjects=1), id="real"),
            pytest.param("open", Tally(total=1, subjects=1), id="open"),
            pytest.param(None, Tally(total=1, subjects=1), id="nobody-looked"),
            pytest.param("duplicate", Tally(excluded={"duplicate": 1}), id="twice"),
            pytest.param("withdrawn", Tally(excluded={"withdrawn": 1}), id="withdrawn"),
        ],
    )
    def test_disposition_of_an_alarm(
        self, disposition: Disposition | None, expected: Tally
    ) -> None:
        counted = tally([], [Alarm("c01", 0, disposition=disposition)])
        assert counted == {Key("false-alarms", "c01"): expected}

    def test_satisfied_from_four_of_five(self) -> None:
        ratings = [1, 2, 3, 4, 5, None]
        counted = tally([], [], [Ticket("c01", rating) for rating in ratings])
        assert counted == {Key("satisfaction", "c01"): Tally(2, 3, 6, 6)}

    @pytest.mark.parametrize("rating", [0, 6, -1])
    def test_rating_that_is_none_is_refused(self, rating: int) -> None:
        with pytest.raises(ValueError, match="rating"):
            tally([], [], [Ticket("c01", rating)])

    @given(
        st.lists(
            st.builds(
                Case,
                st.sampled_from(["c01", "c02"]),
                st.sampled_from(CATEGORIES),
                st.sampled_from(DISPOSITIONS),
            )
        )
    )
    def test_every_criminal_case_is_counted_or_excluded_once(self, cases: list[Case]) -> None:
        counted = tally(cases, [])
        for area in ("c01", "c02"):
            part = counted.get(Key("incident-rate", area), Tally())
            here = [case for case in cases if case.area == area and case.category in CRIMINAL]
            assert part.total + sum(part.excluded.values()) == len(here)
            assert part.good == sum(case.disposition == "confirmed" for case in here)

    def test_order_does_not_matter(self) -> None:
        cases = [
            Case("c01", "burglary", disposition) for disposition in (*DISPOSITIONS, *DISPOSITIONS)
        ]
        assert tally(cases, []) == tally(cases[::-1], [])


class TestTimes:
    @pytest.mark.parametrize(
        ("finished", "median", "p90"),
        [
            pytest.param([7], 7, 7, id="one"),
            pytest.param([1, 9], 1, 9, id="two-never-in-between"),
            pytest.param([3, 1, 2], 2, 3, id="three-in-any-order"),
            pytest.param(list(range(1, 11)), 5, 9, id="ten"),
            pytest.param(list(range(1, 101)), 50, 90, id="hundred"),
            pytest.param([5, 5, 5, 5], 5, 5, id="equal"),
        ],
    )
    def test_nearest_rank_by_hand(self, finished: list[int], median: int, p90: int) -> None:
        found = times(finished)
        assert found.median == Quantile(median, median, median)
        assert found.p90 == Quantile(p90, p90, p90)
        assert (found.finished, found.unfinished) == (len(finished), 0)

    def test_of_nothing_there_is_nothing(self) -> None:
        assert times([]).median == times([]).p90 == Quantile(None, None, None)

    def test_unfinished_ones_widen_the_bounds(self) -> None:
        # Nine took ten each, one has waited for one: p90 of all is ten, whatever becomes of it.
        found = times([10] * 9, [1])
        assert found.p90 == Quantile(10, 10, 10)
        # Of two the second waits: it may wait for ever, and has waited longer than the first took.
        found = times([10], [30])
        assert found.median == Quantile(10, 10, 10)
        assert found.p90 == Quantile(30, 30, None)

    def test_of_unfinished_ones_alone_there_is_no_value(self) -> None:
        assert times([], [5, 9]).median == Quantile(None, 5, None)

    @given(
        finished=st.lists(st.integers(0, 1_000), max_size=30),
        unfinished=st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)), max_size=10),
    )
    def test_whatever_the_unfinished_take_stays_within_the_bounds(
        self, finished: list[int], unfinished: list[tuple[int, int]]
    ) -> None:
        found = times(finished, [so_far for so_far, _ in unfinished])
        end = times([*finished, *(so_far + more for so_far, more in unfinished)])
        for now, then in ((found.median, end.median), (found.p90, end.p90)):
            if then.value is None:
                assert now == Quantile(None, None, None)
                continue
            assert now.lower is not None and now.lower <= then.value
            assert now.upper is None or then.value <= now.upper
            if now.value is not None:
                assert now.lower <= now.value
                assert now.upper is None or now.value <= now.upper

    @given(st.lists(st.integers(0, 1_000), min_size=1, max_size=50))
    def test_at_least_that_share_is_within(self, finished: list[int]) -> None:
        found = times(finished)
        for value, percent in ((found.median.value, 50), (found.p90.value, 90)):
            assert value in finished

            def within(limit: int) -> int:
                return sum(took <= limit for took in finished) * 100

            assert within(value) >= percent * len(finished)
            shorter = [took for took in finished if took < value]
            assert not shorter or within(max(shorter)) < percent * len(finished)


class TestAlarmTimes:
    def test_run_from_when_an_alarm_reached_us(self) -> None:
        alarms = [
            Alarm("c01", 100, acknowledged_us=160, cleared_us=400),
            Alarm("c01", 200, acknowledged_us=500, cleared_us=210),
        ]
        assert time_to_acknowledge(alarms, 1_000).p90.value == 300
        # Over and acknowledged, whichever is later.
        assert time_to_close(alarms, 1_000).median.value == 300
        assert time_to_close(alarms, 1_000).finished == 2

    @pytest.mark.parametrize(
        ("acknowledged", "cleared", "acknowledging", "closing"),
        [
            pytest.param(None, None, 0, 0, id="nothing-done"),
            pytest.param(150, None, 1, 0, id="stands"),
            pytest.param(None, 150, 0, 0, id="over-but-unseen"),
            pytest.param(150, 150, 1, 1, id="done"),
            pytest.param(2_000, 150, 0, 0, id="acknowledged-later-than-now"),
        ],
    )
    def test_unfinished_ones_are_told_apart(
        self, acknowledged: int | None, cleared: int | None, acknowledging: int, closing: int
    ) -> None:
        alarms = [Alarm("c01", 100, acknowledged, cleared)]
        assert time_to_acknowledge(alarms, 1_000).finished == acknowledging
        assert time_to_close(alarms, 1_000).finished == closing
        if not acknowledging:
            assert time_to_acknowledge(alarms, 1_000).median == Quantile(None, 900, None)

    def test_clock_set_back_makes_no_negative_time(self) -> None:
        alarms = [Alarm("c01", 100, acknowledged_us=50, cleared_us=40), Alarm("c01", 2_000)]
        found = time_to_acknowledge(alarms, 1_000)
        assert (found.median.lower, found.p90.lower) == (0, 0)


def test_what_only_counts_does_not_load_scipy() -> None:
    """Every command of ingest imports this module; distributions are loaded by who asks."""
    script = "import sys, ingest.indicators.officers; print('scipy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


class TestDefinitions:
    def test_ids_are_told_once(self) -> None:
        ids: Sequence[str] = [definition.id for definition in INDICATORS]
        assert len(ids) == len(set(ids)) == 5
        assert all(definition.domain == "security" for definition in INDICATORS)

    def test_targets_are_those_of_the_plans(self) -> None:
        targets = {item.id: item.target for item in INDICATORS if item.target}
        rate, satisfaction = targets["incident-rate"], targets["satisfaction"]
        assert (rate.value, rate.source, rate.better) == (1.5, "R1", "low")
        assert (satisfaction.value, satisfaction.source, satisfaction.better) == (0.8, "R1", "high")
        assert len(targets) == 2

    def test_every_one_is_told_in_both_languages(self) -> None:
        for definition in INDICATORS:
            for text in (definition.name, definition.formula):
                assert set(text) == {"zh-CN", "en"}
                assert all(text.values())

    def test_criminal_categories_are_categories(self) -> None:
        assert set(CATEGORIES) > CRIMINAL
        assert security.PER_RESIDENTS == 1_000
