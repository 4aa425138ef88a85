# SPDX-License-Identifier: Apache-2.0
"""When refusals are more than a slip."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ingest.refusals import Refusals

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "turns_bad_at"),
    [
        pytest.param([0, 1, 2, 3], None, id="four-are-a-slip"),
        pytest.param([0, 1, 2, 3, 4], 4, id="five-in-a-minute"),
        pytest.param([0, 20, 40, 60, 80], None, id="five-in-more-than-a-minute"),
        pytest.param([0, 30, 40, 50, 61, 62, 63], 62, id="the-last-five-count"),
        pytest.param([0, 1, 2, 3, 4, 5, 6], 4, id="told-once"),
    ],
)
def test_five_in_a_minute_turn_bad_once(seconds: list[int], turns_bad_at: int | None) -> None:
    refusals = Refusals[str]()
    told = [second for second in seconds if refusals.note("d", NOW + timedelta(seconds=second))]
    assert told == ([] if turns_bad_at is None else [turns_bad_at])


def test_ten_quiet_minutes_calm_it_and_it_can_turn_bad_again() -> None:
    refusals = Refusals[str]()
    for second in range(5):
        refusals.note("d", NOW + timedelta(seconds=second))
    assert refusals.calmed(NOW + timedelta(minutes=10)) == []
    later = NOW + timedelta(minutes=11)
    assert refusals.calmed(later) == ["d"]
    assert refusals.calmed(later) == []
    assert [refusals.note("d", later) for _ in range(5)] == [False] * 4 + [True]


def test_one_subject_does_not_speak_for_another() -> None:
    refusals = Refusals[str]()
    told = [refusals.note(str(number % 2), NOW) for number in range(8)]
    assert not any(told)


def test_restart_remembers_who_was_bad() -> None:
    refusals = Refusals[str]()
    refusals.restore(["d"], NOW)
    assert not any(refusals.note("d", NOW) for _ in range(9))
    assert refusals.calmed(NOW + timedelta(minutes=11)) == ["d"]
