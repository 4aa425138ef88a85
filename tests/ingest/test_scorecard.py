# SPDX-License-Identifier: Apache-2.0
"""The key figures of alarm quality, by table and against a slow count."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import hygiene, scorecard

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({}, 0, id="quiet"),
        pytest.param({0: 10, 1: 10}, 0, id="busy-but-bearable"),
        pytest.param({3: 11}, 1, id="one-slot"),
        pytest.param({3: 11, 4: 7, 5: 5, 6: 4, 7: 7}, 3, id="until-below-five"),
        pytest.param({3: 11, 5: 7}, 1, id="a-quiet-slot-ends-it"),
        pytest.param({3: 11, 5: 12}, 2, id="and-another-begins"),
    ],
)
def test_flood_slots(counts: dict[int, int], expected: int) -> None:
    assert scorecard.flood_slots(counts) == expected


@given(st.lists(st.integers(0, 15), max_size=60))
def test_flood_slots_are_those_of_the_state_followed_slot_by_slot(counts: list[int]) -> None:
    was, expected = False, 0
    for count in counts:
        was = hygiene.is_flood(was, count)
        expected += was
    told = {number: count for number, count in enumerate(counts) if count}
    assert scorecard.flood_slots(told) == expected


def test_load_is_per_operator_and_ten_minutes_quiet_times_included() -> None:
    slots = {("c01", 0): 12, ("c01", 1): 6, ("c02", 100): 6}
    load = scorecard.load(slots, 2, DAY)
    assert load == scorecard.Load(24, 24 / 288, 12, timedelta(minutes=20), 20 / 2_880)


def test_nothing_at_all_is_a_load_of_nothing() -> None:
    assert scorecard.load({}, 1, DAY) == scorecard.Load(0, 0.0, 0, timedelta(0), 0.0)
    with pytest.raises(ValueError, match="a time and an operator"):
        scorecard.load({}, 0, DAY)


@given(
    st.dictionaries(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 143)), st.integers(1, 50))
)
def test_load_stays_within_its_bounds(slots: dict[tuple[str, int], int]) -> None:
    load = scorecard.load(slots, 2, DAY)
    assert 0 <= load.flood_share <= 1
    assert load.average <= load.peak or not slots
    assert load.alarms == sum(slots.values())


@pytest.mark.parametrize(
    ("dispositions", "expected"),
    [
        ([], None),
        (["open", "duplicate", "withdrawn"], None),
        (["confirmed", "false_alarm", "test", "false_alarm", "duplicate"], 0.75),
    ],
)
def test_false_alarm_share(dispositions: list[str], expected: float | None) -> None:
    assert scorecard.false_alarm_share(dispositions) == expected


def test_severities_are_shares_of_all() -> None:
    assert scorecard.mix({"minor": 8, "critical": 2}) == {"minor": 0.8, "critical": 0.2}
    assert scorecard.mix({"minor": 0}) == {"minor": None}
