# SPDX-License-Identifier: Apache-2.0
"""What detectors and buttons say."""

from collections.abc import Sequence

from edge_agent.kinds import Observation
from edge_agent.kinds.alarm import AlarmReading, AlarmSignal
from simulators.faults import FaultKind
from simulators.spans import HOUR, micros
from simulators.world import DAY
from tests.simulators.town import NOON, fault, live_through, world

SMOKE = "c01-alarm-005"


def signals(told: Sequence[Observation]) -> list[AlarmSignal]:
    return [one for one in told if isinstance(one, AlarmSignal)]


def test_raised_and_restored_in_its_cell() -> None:
    one = fault(FaultKind.ALARM, SMOKE, NOON + HOUR, 900, "smoke")
    told = signals(live_through(world([one]), SMOKE, [NOON, NOON + 3 * HOUR]))
    assert [(micros(seen.at), seen.event, seen.phase, seen.zone) for seen in told] == [
        (one.from_us, "smoke", "raised", "c01-g02"),
        (one.to_us, "smoke", "restored", "c01-g02"),
    ]


def test_a_code_ends_an_alarm() -> None:
    one = fault(FaultKind.ALARM_ABORTED, SMOKE, NOON + HOUR, 120, "intrusion")
    told = signals(live_through(world([one]), SMOKE, [NOON, NOON + 3 * HOUR]))
    assert [(micros(seen.at), seen.event, seen.phase) for seen in told] == [
        (one.from_us, "intrusion", "raised"),
        (one.to_us, "intrusion", "aborted"),
    ]


def test_a_detector_can_be_tampered_with() -> None:
    one = fault(FaultKind.ALARM, SMOKE, NOON + HOUR, 900, "tamper")
    told = signals(live_through(world([one]), SMOKE, [NOON, NOON + 3 * HOUR]))
    assert {seen.event for seen in told} == {"tamper"}


def test_tests_are_tests() -> None:
    one = fault(FaultKind.ALARM_TEST, SMOKE, NOON + HOUR, 60, "smoke")
    told = signals(live_through(world([one]), SMOKE, [NOON, NOON + 3 * HOUR]))
    assert [(micros(seen.at), seen.phase) for seen in told] == [(one.from_us, "test")]


def test_tested_about_once_a_month_and_otherwise_quiet() -> None:
    town = world()
    told = [
        one
        for number in range(1, 11)
        for one in signals(live_through(town, f"c01-alarm-{number:03d}", [NOON, NOON + 60 * DAY]))
    ]
    assert {one.phase for one in told} == {"test"}
    assert 8 < len(told) < 35


def test_batteries_run_down_slowly() -> None:
    told = live_through(world(), SMOKE, [NOON, NOON + 100 * DAY])
    first, *_, last = (one for one in told if isinstance(one, AlarmReading))
    assert first.battery_pct is not None
    assert last.battery_pct is not None
    assert 4.8 < first.battery_pct - last.battery_pct < 5.2
    assert first.armed
