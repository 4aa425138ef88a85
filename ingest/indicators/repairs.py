# SPDX-License-Identifier: Apache-2.0
"""Repair clocks: how long faults last until telemetry shows them mended, and whether in time.

A fault is an alert of the rule ``device.fault``: raised with the device's own fault code, cleared
by the first report without one. Limits by fault class: emergency 1 hour, ordinary 24 hours, major
3 working days. Source: domain.md, Equipment in good condition. Read from the alerts themselves,
not from daily tallies: whether an open fault is overdue changes with time alone.

A working day is Monday to Friday where the device stands, less the holidays of the configuration.
Weekends that are declared working days are not known: there the clock is too patient by them.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo

from ingest.indicators.definition import Definition
from ingest.indicators.security import Times, times
from ingest.indicators.spans import from_us, to_us
from ingest.indicators.tally import Exclusion, Tally

FaultClass = Literal["emergency", "ordinary", "major"]
FAULT_CLASSES: Final[tuple[FaultClass, ...]] = get_args(FaultClass)

REPAIR_TIME: Final = "repair-time"
IN_TIME: Final = "repairs-in-time"

EMERGENCY_LIMIT: Final = timedelta(hours=1)
ORDINARY_LIMIT: Final = timedelta(hours=24)
MAJOR_WORKING_DAYS: Final = 3
_SATURDAY: Final = 5

# What endangers or locks in people, and what needs parts or digging; any other code is ordinary.
DEFAULT_CLASSES: Final[Mapping[str, FaultClass]] = {
    "cover_open": "emergency",
    "detector_failure": "emergency",
    "electric_leakage": "emergency",
    "lock_jammed": "emergency",
    "pole_fallen": "emergency",
    "short_circuit": "emergency",
    "cable_failure": "major",
    "controller_failure": "major",
    "motor_failure": "major",
    "pole_damaged": "major",
}


def _codes(fault_class: FaultClass) -> str:
    return ", ".join(sorted(code for code, one in DEFAULT_CLASSES.items() if one == fault_class))


INDICATORS: Final[tuple[Definition, ...]] = (
    Definition(
        id=REPAIR_TIME,
        domain="equipment",
        shape="times",
        parts="us",
        name={"zh-CN": "故障修复用时", "en": "Repair time"},
        formula={
            "zh-CN": "故障修复用时 = 自设备上报故障至其上报恢复正常的时间，按故障发生的当日计。"
            "中位数和第 90 百分位取实际出现的值（最近秩法）。"
            "尚未修复的：下限按至今已过的时间计，上限按无限长计。"
            "已批准的检修期间或未投用时发生的故障不计。",
            "en": "Repair time = from the device's report of a fault until its report of being in "
            "good condition, on the day the fault began. Median and 90th percentile by nearest "
            "rank, so each is a time that did occur. Faults not mended yet count in the lower "
            "bound with the time gone by, in the upper bound as endless. Faults that began during "
            "accepted maintenance or out of service do not count.",
        },
        by_kind=True,
    ),
    Definition(
        id=IN_TIME,
        domain="equipment",
        shape="share",
        parts="cases",
        name={"zh-CN": "故障及时修复率", "en": "Repairs in time"},
        formula={
            "zh-CN": "故障及时修复率 = 限时内修复的故障 ÷（已修复的故障 + 已超时未修复的故障），"
            "按故障发生的当日计。限时：紧急 1 小时，一般 24 小时，重大 3 个工作日。"
            "工作日为当地星期一至星期五，扣除配置的节假日；调休上班的周末不计为工作日。"
            "休息日发生的重大故障自下一个工作日零时起计。"
            f"紧急故障代码：{_codes('emergency')}；重大故障代码：{_codes('major')}；其余为一般；"
            "配置可另行规定。"
            "未修复而尚未超时的为未知：下限按超时计，上限按及时计。"
            "已批准的检修期间或未投用时发生的故障不计。",
            "en": "Repairs in time = faults mended within their limit / (faults mended + faults "
            "overdue), on the day the fault began. Limits: emergency 1 hour, ordinary 24 hours, "
            "major 3 working days. Working days are Monday to Friday where the device stands, "
            "less the holidays of the configuration; weekends declared working days are not known. "
            "The clock of a major fault that begins on a day off starts with the next working day. "
            f"Emergency are the fault codes {_codes('emergency')}; major are {_codes('major')}; "
            "others are ordinary; the configuration may say otherwise of any. "
            "Faults neither mended nor overdue are unknown: the lower bound counts them as late, "
            "the upper bound as in time. Faults that began during accepted maintenance or out of "
            "service do not count.",
        },
        by_kind=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one device, by the device's clock; all instants in microseconds.

    Attributes:
        kind: The device's class.
        code: The fault code it began with.
        time_zone: Where the device stands; IANA name.
        cleared_us: When the device was in good condition again; None: it is not.
        excluded: Why it does not count, or None where it does.
    """

    kind: str
    code: str
    time_zone: str
    raised_us: int
    cleared_us: int | None = None
    excluded: Exclusion | None = None

    def ended_us(self, now_us: int) -> int | None:
        """Return when it was mended, as far as that has come; never before it began."""
        if self.cleared_us is None or self.cleared_us > now_us:
            return None
        return max(self.raised_us, self.cleared_us)


def classify(code: str, classes: Mapping[str, FaultClass]) -> FaultClass:
    """Return the class of a fault code: as configured, else by default, else ordinary."""
    return classes.get(code) or DEFAULT_CLASSES.get(code, "ordinary")


def deadline_us(
    raised_us: int, fault_class: FaultClass, time_zone: str, holidays: Container[date] = ()
) -> int:
    """Return until when a fault is to be mended, microseconds.

    Three working days end at the same time of day three working days later; a clock that would
    start on a day off starts at the midnight on which the next working day begins.
    """
    match fault_class:
        case "emergency":
            return raised_us + EMERGENCY_LIMIT // timedelta(microseconds=1)
        case "ordinary":
            return raised_us + ORDINARY_LIMIT // timedelta(microseconds=1)
        case "major":
            zone = ZoneInfo(time_zone)
            local = from_us(raised_us).astimezone(zone)
            day, clock = local.date(), local.time()
            if not is_working_day(day, holidays):
                day, clock = _next_working_day(day, holidays), time()
            for _ in range(MAJOR_WORKING_DAYS):
                day = _next_working_day(day, holidays)
            # Of a time that clocks show twice the first, whichever the fault began in.
            return to_us(datetime.combine(day, clock, zone))


def is_working_day(day: date, holidays: Container[date] = ()) -> bool:
    """Return whether people work on a day: Monday to Friday, unless it is a holiday."""
    return day.weekday() < _SATURDAY and day not in holidays


def _next_working_day(day: date, holidays: Container[date]) -> date:
    day += timedelta(days=1)
    while not is_working_day(day, holidays):
        day += timedelta(days=1)
    return day


def tally(
    faults: Iterable[Fault],
    now_us: int,
    classes: Mapping[str, FaultClass],
    holidays: Container[date] = (),
) -> Tally:
    """Return ``repairs-in-time`` of some faults: in time / (mended or overdue), cases.

    Good is mended at or before the deadline, bad is mended later or overdue now, the rest of the
    total neither; what does not count is excluded with its reason.
    """
    sum_of = Tally()
    for fault in faults:
        if fault.excluded is not None:
            sum_of += Tally(excluded={fault.excluded: 1})
            continue
        fault_class = classify(fault.code, classes)
        deadline = deadline_us(fault.raised_us, fault_class, fault.time_zone, holidays)
        ended = fault.ended_us(now_us)
        in_time = ended is not None and ended <= deadline
        late = not in_time and (now_us if ended is None else ended) > deadline
        sum_of += Tally(int(in_time), int(late), 1, 1)
    return sum_of


def repair_times(faults: Iterable[Fault], now_us: int) -> Times:
    """Return how long faults that count lasted, microseconds; see `security.times`."""
    finished: list[int] = []
    unfinished: list[int] = []
    for fault in faults:
        if fault.excluded is not None:
            continue
        ended = fault.ended_us(now_us)
        if ended is None:
            unfinished.append(max(0, now_us - fault.raised_us))
        else:
            finished.append(ended - fault.raised_us)
    return times(finished, unfinished)
