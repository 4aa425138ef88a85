# SPDX-License-Identifier: Apache-2.0
"""Gates: hand-worked days of doors, faults and events."""

from collections.abc import Sequence
from dataclasses import replace

from ingest.indicators.access import AVAILABLE, FORCED, HELD, Passage, tally
from ingest.indicators.spans import runs
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally

HOUR = 3_600 * 10**6
DAY = (0, 24 * HOUR)
GATE = Subject(1, "gate", "cell-1", (DAY,), (), DAY, max_silence_us=6 * HOUR)
NONE = {"maintenance": 0, "not_in_service": 0}


Door = tuple[int, bool | None]  # instant, whether the gate works


def of(
    subject: Subject, doors: Sequence[Door], passages: list[Passage], until: int = DAY[1]
) -> tuple[Tally, Tally, Tally]:
    tallies = tally([subject], {1: runs(doors, subject.max_silence_us)}, {1: passages}, until)
    available, forced, held = (
        tallies.pop(Key(indicator, "cell-1")) for indicator in (AVAILABLE, FORCED, HELD)
    )
    assert not tallies
    return available, forced, held


def test_availability_is_time_in_working_order_where_known() -> None:
    doors = [
        (0, True),
        (4 * HOUR, None),  # tells nothing: the door before it holds on
        (5 * HOUR, True),
        (8 * HOUR, False),
        (9 * HOUR, True),
        (12 * HOUR, False),
        (14 * HOUR, True),  # and then silence
    ]
    available, _, _ = of(GATE, doors, [])
    assert available == Tally(17 * HOUR, 3 * HOUR, 24 * HOUR, 1, NONE)


def test_forced_and_held_doors_are_counted_by_their_events() -> None:
    passages = [
        Passage(HOUR, "forced"),
        Passage(2 * HOUR, "restored"),
        Passage(3 * HOUR, "granted"),
        Passage(4 * HOUR, "held_open"),
        Passage(5 * HOUR, "held_open"),
        Passage(6 * HOUR, "tailgating"),
    ]
    _, forced, held = of(GATE, [], passages)
    assert forced == Tally(1, 0, 1, 1)
    assert held == Tally(2, 0, 2, 1)


def test_a_gate_without_events_has_none_and_says_so() -> None:
    _, forced, held = of(GATE, [(0, True)], [])
    assert forced == held == Tally(0, 0, 0, 1)


def test_of_a_gate_that_was_silent_nobody_knows_whether_it_was_forced() -> None:
    _, forced, held = of(GATE, [], [])
    assert forced == held == Tally(0, 0, 0, 0)
    # One that tells of anything at all would have told of that, too.
    assert of(GATE, [], [Passage(HOUR, "granted")])[1] == Tally(0, 0, 0, 1)


def test_events_in_maintenance_or_out_of_service_are_told_apart() -> None:
    one = replace(GATE, in_service=((2 * HOUR, 24 * HOUR),), maintenance=((4 * HOUR, 6 * HOUR),))
    passages = [Passage(at * HOUR, "forced") for at in (1, 3, 4, 5, 6)]
    _, forced, _ = of(one, [], passages)
    assert forced == Tally(2, 0, 2, 1, {"not_in_service": 1, "maintenance": 2})


def test_only_the_days_own_events_count_and_none_that_is_yet_to_come() -> None:
    passages = [Passage(at, "forced") for at in (-1, 0, 12 * HOUR - 1, 12 * HOUR, 24 * HOUR)]
    assert of(GATE, [], passages)[1] == Tally(3, 0, 3, 1)
    assert of(GATE, [], passages, until=12 * HOUR)[1] == Tally(2, 0, 2, 1)


def test_gates_add_up_by_area() -> None:
    gates = [GATE, replace(GATE, device_id=2), replace(GATE, device_id=3, area="cell-2")]
    held = {number: [Passage(number, "held_open")] for number in (1, 2, 3)}
    doors = {number: runs([(0, True)], GATE.max_silence_us) for number in (1, 2)}
    tallies = tally(gates, doors, held, DAY[1])
    assert tallies[Key(HELD, "cell-1")] == Tally(2, 0, 2, 2)
    assert tallies[Key(HELD, "cell-2")] == Tally(1, 0, 1, 1)
    assert tallies[Key(AVAILABLE, "cell-1")] == Tally(12 * HOUR, 0, 48 * HOUR, 2, NONE)
    assert tallies[Key(AVAILABLE, "cell-2")] == Tally(0, 0, 24 * HOUR, 1, NONE)
