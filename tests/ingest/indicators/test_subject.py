# SPDX-License-Identifier: Apache-2.0
"""Subjects: what of a day counts, what does not and why, and how far a running day has come."""

from collections.abc import Sequence

import pytest

from ingest.indicators.spans import runs
from ingest.indicators.subject import Subject

HOUR = 3_600 * 10**6
DAY = (0, 24 * HOUR)


def subject(
    in_service: tuple[tuple[int, int], ...] = (DAY,),
    maintenance: tuple[tuple[int, int], ...] = (),
) -> Subject:
    return Subject(1, "lamp", "cell-1", in_service, maintenance, DAY, max_silence_us=HOUR)


def test_maintenance_and_time_out_of_service_do_not_count_and_make_up_the_day() -> None:
    one = subject(((6 * HOUR, 24 * HOUR),), ((-HOUR, 7 * HOUR), (10 * HOUR, 12 * HOUR)))
    assert one.counted == ((7 * HOUR, 10 * HOUR), (12 * HOUR, 24 * HOUR))
    assert one.excluded == {"maintenance": 3 * HOUR, "not_in_service": 6 * HOUR}
    assert one.counted_us + sum(one.excluded.values()) == 24 * HOUR


def test_maintenance_accepted_twice_is_taken_off_once() -> None:
    one = subject(maintenance=((2 * HOUR, 5 * HOUR), (4 * HOUR, 6 * HOUR)))
    assert one.excluded == {"maintenance": 4 * HOUR, "not_in_service": 0}


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        pytest.param(6 * HOUR - 1, "not_in_service", id="before-it-is-in-service"),
        pytest.param(6 * HOUR, None, id="from-its-first-instant"),
        pytest.param(8 * HOUR, "maintenance", id="maintenance-begins"),
        pytest.param(9 * HOUR - 1, "maintenance", id="last-of-maintenance"),
        pytest.param(9 * HOUR, None, id="maintenance-ended"),
        pytest.param(5 * HOUR, "not_in_service", id="maintenance-of-what-is-not-in-service"),
    ],
)
def test_an_instant_tells_why_it_does_not_count(at: int, reason: str | None) -> None:
    one = subject(((6 * HOUR, 24 * HOUR),), ((4 * HOUR, 5 * HOUR + 1), (8 * HOUR, 9 * HOUR)))
    assert one.why_excluded(at) == reason


def test_of_a_running_day_only_what_has_come_counts() -> None:
    one = subject(((6 * HOUR, 24 * HOUR),), ((8 * HOUR, 12 * HOUR),)).until(10 * HOUR)
    assert one.whole == (0, 10 * HOUR)
    assert one.counted == ((6 * HOUR, 8 * HOUR),)
    assert one.excluded == {"maintenance": 2 * HOUR, "not_in_service": 6 * HOUR}


def test_of_a_day_that_is_yet_to_come_nothing_counts() -> None:
    one = subject().until(-5)
    assert one.whole == (0, 0)
    assert (one.counted_us, *one.excluded.values()) == (0, 0, 0)


def settled(words: Sequence[tuple[int, bool]]) -> tuple[int, int]:
    one = subject()
    return one.settle(runs(words, one.max_silence_us))


def test_readings_settle_in_any_order_and_hold_as_long_as_silence_may_last() -> None:
    # Good from 1 to 1:30, bad to 2:30, then unknown; good again in the day's last half hour.
    readings = [(HOUR, True), (3 * HOUR // 2, False), (24 * HOUR - HOUR // 2, True)]
    assert settled(readings[::-1]) == (HOUR, HOUR)


def test_silence_between_two_readings_that_agree_is_unknown() -> None:
    assert settled([(HOUR, True), (5 * HOUR, True)]) == (2 * HOUR, 0)


def test_of_two_readings_at_one_instant_good_wins() -> None:
    readings = [(HOUR, True), (HOUR, False), (HOUR, True), (HOUR, False)]
    assert settled(readings) == (HOUR, 0)


def test_a_reading_before_the_day_holds_into_it() -> None:
    assert settled([(-HOUR // 2, True)]) == (HOUR // 2, 0)
    assert settled([(-HOUR, True)]) == (0, 0)
