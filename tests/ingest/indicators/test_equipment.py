# SPDX-License-Identifier: Apache-2.0
"""Equipment in good condition: hand-worked days."""

from dataclasses import replace

import pytest

from ingest.indicators.equipment import GOOD, INDICATORS, tally
from ingest.indicators.rate import Verdict, share
from ingest.indicators.spans import runs
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally
from ingest.kinds import KINDS

MINUTE = 60 * 10**6
HOUR = 60 * MINUTE
DAY = (0, 24 * HOUR)
LAMP = Subject(1, "lamp", "cell-1", (DAY,), (), DAY, max_silence_us=30 * MINUTE)
NONE = {"maintenance": 0, "not_in_service": 0}


Health = tuple[int, bool]  # instant, without a fault


def every_ten_minutes(*faulty: tuple[int, int], until: int = DAY[1]) -> list[Health]:
    """A device heard all day, faulty within the spans."""
    return [
        (at, not any(start <= at < end for start, end in faulty))
        for at in range(0, until, 10 * MINUTE)
    ]


def of(subject: Subject, readings: list[Health], until: int = DAY[1]) -> Tally:
    """One device's tally, which is also its class's."""
    tallies = tally([subject], {subject.device_id: runs(readings, subject.max_silence_us)}, until)
    assert tallies[Key(GOOD, subject.area)] == tallies[Key(GOOD, subject.area, subject.kind)]
    return tallies[Key(GOOD, subject.area)]


def test_a_fault_lasts_until_a_reading_without_one() -> None:
    found = of(LAMP, every_ten_minutes((6 * HOUR, 8 * HOUR)))
    assert found == Tally(22 * HOUR, 2 * HOUR, 24 * HOUR, 1, NONE)


def test_a_lost_link_is_unknown_and_no_fault() -> None:
    # The last reading, at 11:50, holds for half an hour.
    found = of(LAMP, every_ten_minutes(until=12 * HOUR))
    assert found == Tally(12 * HOUR + 20 * MINUTE, 0, 24 * HOUR, 1, NONE)


def test_a_device_never_heard_of_is_unknown_all_day() -> None:
    assert of(LAMP, []) == Tally(0, 0, 24 * HOUR, 1, NONE)


def test_what_held_before_the_day_holds_into_it() -> None:
    assert of(LAMP, [(-10 * MINUTE, False)]).bad == 20 * MINUTE


def test_accepted_maintenance_hides_the_fault_that_it_mends() -> None:
    found = of(
        replace(LAMP, maintenance=((6 * HOUR, 8 * HOUR),)),
        every_ten_minutes((6 * HOUR, 8 * HOUR)),
    )
    assert found == Tally(22 * HOUR, 0, 22 * HOUR, 1, {**NONE, "maintenance": 2 * HOUR})


def test_time_out_of_service_does_not_count() -> None:
    found = of(replace(LAMP, in_service=((18 * HOUR, 24 * HOUR),)), every_ten_minutes())
    assert found == Tally(6 * HOUR, 0, 6 * HOUR, 1, {**NONE, "not_in_service": 18 * HOUR})


def test_a_device_out_of_service_all_day_speaks_in_nothing() -> None:
    found = of(replace(LAMP, in_service=()), every_ten_minutes())
    assert found == Tally(0, 0, 0, 0, {**NONE, "not_in_service": 24 * HOUR})


def test_of_a_running_day_what_has_not_come_does_not_count() -> None:
    found = of(LAMP, every_ten_minutes(until=5 * HOUR), until=5 * HOUR - 1)
    assert found == Tally(5 * HOUR - 1, 0, 5 * HOUR - 1, 1, NONE)


def test_classes_are_told_each_and_together_by_area() -> None:
    bin = replace(LAMP, device_id=2, kind="bin")
    elsewhere = replace(LAMP, device_id=3, area="cell-2")
    tallies = tally(
        [LAMP, bin, elsewhere],
        {
            number: runs(every_ten_minutes(*faulty), LAMP.max_silence_us)
            for number, faulty in ((1, ()), (2, ((0, HOUR),)), (3, ()))
        },
        DAY[1],
    )
    assert {key: (found.good, found.bad, found.subjects) for key, found in tallies.items()} == {
        Key(GOOD, "cell-1", "lamp"): (24 * HOUR, 0, 1),
        Key(GOOD, "cell-1", "bin"): (23 * HOUR, HOUR, 1),
        Key(GOOD, "cell-1"): (47 * HOUR, HOUR, 2),
        Key(GOOD, "cell-2", "lamp"): (24 * HOUR, 0, 1),
        Key(GOOD, "cell-2"): (24 * HOUR, 0, 1),
    }


@pytest.mark.parametrize(
    ("faulty_h", "silent_h", "verdict"),
    [
        pytest.param(0, 0, "met", id="never-faulty"),
        pytest.param(4, 0, "met", id="96-of-100-hours-reach-the-target"),
        pytest.param(5, 0, "not_met", id="95-of-100-do-not"),
        pytest.param(3, 2, "undetermined", id="silence-could-be-fault"),
        pytest.param(0, 4, "met", id="silence-could-not-break-it"),
        pytest.param(5, 95, "not_met", id="silence-could-not-save-it"),
    ],
)
def test_the_verdict_never_leans_on_silence(faulty_h: int, silent_h: int, verdict: Verdict) -> None:
    whole = (0, 100 * HOUR)
    one = Subject(1, "gate", "cell-1", (whole,), (), whole, max_silence_us=HOUR)
    readings = [(at * HOUR, at >= faulty_h) for at in range(100 - silent_h)]

    found = tally([one], {1: runs(readings, one.max_silence_us)}, whole[1])[Key(GOOD, "cell-1")]

    (definition,) = INDICATORS
    rate = share(found, definition.target)
    assert rate.verdict == verdict
    assert rate.coverage == (100 - silent_h) / 100


def test_every_class_of_the_house_may_be_counted() -> None:
    subjects = [replace(LAMP, device_id=n, kind=kind) for n, kind in enumerate(KINDS)]
    tallies = tally(subjects, {}, DAY[1])
    assert {key.kind for key in tallies} == {"", *KINDS}
    assert tallies[Key(GOOD, "cell-1")].subjects == len(KINDS)
