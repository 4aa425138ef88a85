# SPDX-License-Identifier: Apache-2.0
"""Repair clocks once more, by looking at the local calendar day by day."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_DAYS_OFF = ("Sat", "Sun")


def deadline(raised_us: int, fault_class: str, zone: str, holidays: Iterable[date]) -> int:
    """Find the end of one hour, of a day's 24 hours, or of three working days."""
    if fault_class != "major":
        return raised_us + {"emergency": 1, "ordinary": 24}[fault_class] * 3_600 * 10**6
    closed = set(holidays)
    raised = (_EPOCH + raised_us * _US).astimezone(ZoneInfo(zone))
    calendar = [raised.date() + timedelta(days=n) for n in range(60)]
    open_days = [day for day in calendar if f"{day:%a}" not in _DAYS_OFF and day not in closed]
    first, end = open_days[0], open_days[3]
    clock = raised.replace(tzinfo=None, fold=0).time()
    if first != raised.date():
        clock = clock.min
    local = datetime.combine(end, clock).replace(tzinfo=ZoneInfo(zone))
    return (local.astimezone(UTC) - _EPOCH) // _US


def in_time(raised_us: int, cleared_us: int | None, now_us: int, deadline_us: int) -> bool | None:
    """Say whether a fault was mended in time; None while that is open."""
    if cleared_us is not None and cleared_us <= now_us:
        return max(cleared_us, raised_us) <= deadline_us
    return False if now_us > deadline_us else None
