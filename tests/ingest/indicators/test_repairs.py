# SPDX-License-Identifier: Apache-2.0
"""Repair clocks worked by hand: working days, fault classes, what counts as in time."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ingest.indicators import repairs
from ingest.indicators.rate import share
from ingest.indicators.repairs import Fault, FaultClass
from ingest.indicators.spans import to_us
from ingest.indicators.tally import Tally

SHANGHAI = "Asia/Shanghai"
HOUR = 3_600 * 10**6


def local(text: str, zone: str = SHANGHAI) -> int:
    return to_us(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


# 20 November 2026 is a Friday.
@pytest.mark.parametrize(
    ("raised", "fault_class", "deadline"),
    [
        pytest.param("2026-11-20 15:30", "emergency", "2026-11-20 16:30", id="emergency"),
        pytest.param("2026-11-20 15:30", "ordinary", "2026-11-21 15:30", id="ordinary-weekend-too"),
        pytest.param("2026-11-16 09:00", "major", "2026-11-19 09:00", id="monday-to-thursday"),
        pytest.param("2026-11-17 09:00", "major", "2026-11-20 09:00", id="tuesday-to-friday"),
        pytest.param("2026-11-18 09:00", "major", "2026-11-23 09:00", id="wednesday-to-monday"),
        pytest.param("2026-11-20 23:59", "major", "2026-11-25 23:59", id="friday-night"),
        pytest.param("2026-11-21 00:00", "major", "2026-11-26 00:00", id="saturday-from-monday"),
        pytest.param("2026-11-22 18:00", "major", "2026-11-26 00:00", id="sunday-from-monday"),
        pytest.param("2026-11-23 00:00", "major", "2026-11-26 00:00", id="monday-midnight"),
    ],
)
def test_each_class_has_its_limit(raised: str, fault_class: FaultClass, deadline: str) -> None:
    assert repairs.deadline_us(local(raised), fault_class, SHANGHAI) == local(deadline)


@pytest.mark.parametrize(
    ("raised", "deadline"),
    [
        # The first days of October are off; the 9th is a Friday.
        pytest.param("2026-09-30 10:00", "2026-10-13 10:00", id="over-the-holidays"),
        pytest.param("2026-10-03 10:00", "2026-10-14 00:00", id="within-the-holidays"),
    ],
)
def test_holidays_of_the_configuration_stop_the_clock(raised: str, deadline: str) -> None:
    holidays = {date(2026, 10, day) for day in range(1, 9)}
    assert repairs.deadline_us(local(raised), "major", SHANGHAI, holidays) == local(deadline)


def test_working_days_are_those_where_the_device_stands() -> None:
    # Sunday evening in Berlin is Monday in Shanghai.
    raised = local("2026-11-22 20:00", "Europe/Berlin")
    berlin = repairs.deadline_us(raised, "major", "Europe/Berlin")
    shanghai = repairs.deadline_us(raised, "major", SHANGHAI)
    assert berlin == local("2026-11-26 00:00", "Europe/Berlin")
    assert shanghai == local("2026-11-26 03:00")


def test_a_day_of_25_hours_is_one_working_day() -> None:
    raised = local("2026-10-23 12:00", "Europe/Berlin")  # clocks fall back on Sunday
    assert repairs.deadline_us(raised, "major", "Europe/Berlin") == local(
        "2026-10-28 12:00", "Europe/Berlin"
    )


@pytest.mark.parametrize(
    ("code", "classes", "expected"),
    [
        pytest.param("lock_jammed", {}, "emergency", id="default"),
        pytest.param("cable_failure", {}, "major", id="default-major"),
        pytest.param("driver_overheat", {}, "ordinary", id="not-listed"),
        pytest.param("", {}, "ordinary", id="no-code"),
        pytest.param("lock_jammed", {"lock_jammed": "ordinary"}, "ordinary", id="configured"),
        pytest.param("driver_overheat", {"driver_overheat": "major"}, "major", id="configured-new"),
    ],
)
def test_a_fault_code_has_a_class(
    code: str, classes: dict[str, FaultClass], expected: FaultClass
) -> None:
    assert repairs.classify(code, classes) == expected


def fault(hours: float | None, *, raised: int = 0, code: str = "driver") -> Fault:
    cleared = None if hours is None else raised + round(hours * HOUR)
    return Fault("lamp", code, SHANGHAI, raised, cleared)


@pytest.mark.parametrize(
    ("one", "now_h", "expected"),
    [
        pytest.param(fault(24), 100, Tally(1, 0, 1, 1), id="at-the-limit"),
        pytest.param(fault(24.01), 100, Tally(0, 1, 1, 1), id="beyond-it"),
        pytest.param(fault(None), 24, Tally(0, 0, 1, 1), id="open-at-the-limit"),
        pytest.param(fault(None), 24.01, Tally(0, 1, 1, 1), id="open-and-overdue"),
        pytest.param(fault(30), 20, Tally(0, 0, 1, 1), id="mended-later-than-now"),
        pytest.param(fault(-1), 20, Tally(1, 0, 1, 1), id="clock-set-back"),
        pytest.param(fault(2, code="lock_jammed"), 100, Tally(0, 1, 1, 1), id="emergency-late"),
    ],
)
def test_in_time_late_or_open(one: Fault, now_h: float, expected: Tally) -> None:
    assert repairs.tally([one], round(now_h * HOUR), {}) == expected


def test_open_repairs_stand_in_the_bounds() -> None:
    now = 30 * HOUR
    faults = [fault(1), fault(2), fault(26), fault(None, raised=29 * HOUR)]
    rate = share(repairs.tally(faults, now, {}), None)
    assert (rate.value, rate.lower, rate.upper) == (2 / 3, 0.5, 0.75)
    times = repairs.repair_times(faults, now)
    assert (times.finished, times.unfinished) == (3, 1)
    assert (times.median.value, times.median.lower, times.median.upper) == (
        2 * HOUR,
        HOUR,
        2 * HOUR,
    )
    assert (times.p90.value, times.p90.upper) == (26 * HOUR, None)


def test_what_began_in_maintenance_is_left_out_with_its_reason() -> None:
    planned = Fault("lamp", "driver", SHANGHAI, 0, 100 * HOUR, "maintenance")
    found = repairs.tally([planned, fault(1)], 200 * HOUR, {})
    assert found == Tally(1, 0, 1, 1, {"maintenance": 1})
    assert repairs.repair_times([planned], 200 * HOUR).finished == 0


def test_limits_are_those_of_the_definition() -> None:
    assert timedelta(hours=1) == repairs.EMERGENCY_LIMIT
    assert timedelta(hours=24) == repairs.ORDINARY_LIMIT
    assert repairs.MAJOR_WORKING_DAYS == 3
