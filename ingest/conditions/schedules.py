# SPDX-License-Identifier: Apache-2.0
"""From when to when a schedule holds: by the sun, or by local clocks."""

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from ingest.conditions.models import WEEKDAYS, ClockSchedule, SunSchedule, Weekday
from ingest.indicators.lighting import Place, SunProgramme, due, night_of
from ingest.indicators.spans import Span, day_of, to_us

_DAY: Final = timedelta(days=1)
_FOR_EVER: Final = 2**62
# As far as the next of some weekday can be, and one more for what goes on over midnight.
_WEEK: Final = range(-8, 9)


class Phase(NamedTuple):
    """Whether a schedule holds, since when and until when (microseconds; until is excluded)."""

    holds: bool
    since: int
    until: int


def phase(schedule: SunSchedule | ClockSchedule, place: Place, at_us: int) -> Phase:
    """Return where in a schedule an instant lies.

    Since when and until when are known some days around; further away they are taken to be as far
    as that, which makes whoever waits for them ask once more.
    """
    match schedule:
        case SunSchedule():
            night = night_of(at_us, place.time_zone)
            after, before = schedule.after_sunset_min, schedule.before_sunrise_min
            inside = _within(_nights(after, before, place, night), at_us)
            return inside if schedule.part == "night" else inside._replace(holds=not inside.holds)
        case ClockSchedule():
            day = day_of(at_us, place.time_zone)
            spans = _days(schedule.start, schedule.end, schedule.weekdays, place.time_zone, day)
            return _within(spans, at_us)


def _within(spans: tuple[Span, ...], at_us: int) -> Phase:
    since = -_FOR_EVER
    for start, end in spans:
        if at_us < start:
            return Phase(False, since, start)
        if at_us < end:
            return Phase(True, start, end)
        since = end
    return Phase(False, since, _FOR_EVER)


@lru_cache(maxsize=10_000)
def _nights(after_min: int, before_min: int, place: Place, night: date) -> tuple[Span, ...]:
    programme = SunProgramme(timedelta(minutes=after_min), timedelta(minutes=before_min))
    return _joined(
        span for days in (-1, 0, 1) for span in due(programme, place, night + days * _DAY)
    )


@lru_cache(maxsize=10_000)
def _days(
    start: time, end: time, weekdays: tuple[Weekday, ...], zone: str, day: date
) -> tuple[Span, ...]:
    tz = ZoneInfo(zone)
    found: list[Span] = []
    for days in _WEEK:
        first = day + days * _DAY
        if WEEKDAYS[first.weekday()] not in weekdays:
            continue
        last = first if start < end else first + _DAY
        found.append(
            (to_us(datetime.combine(first, start, tz)), to_us(datetime.combine(last, end, tz)))
        )
    return _joined(found)


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return spans, in order of their starts, as one where they touch."""
    joined: list[Span] = []
    for start, end in spans:
        if start >= end:  # an hour that clocks skip
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)
