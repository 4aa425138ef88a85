# SPDX-License-Identifier: Apache-2.0
"""Lighting: when a lamp is due, what its readings say of light, and the uptime from both.

Lighting uptime = lit time within due and observed time / due and observed time (domain.md; no
official formula was found). A reading holds until the next one, at most ``max_silence``; after
that the lamp is unknown, neither lit nor dark. All times are integers, microseconds since 1970 in
UTC, so sums are exact and do not depend on order.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from astral import Observer
from astral.sun import elevation, sunrise, sunset

RULE_VERSION: Final = 1
TARGET: Final = 0.97
TARGET_SOURCE: Final = "R0"
# A lamp that only meters power gives light from this share of its rated power on.
LIT_POWER_SHARE: Final = 0.2
# Reporting periods a reading holds when no later one comes.
SILENCE_PERIODS: Final = 3
# The sun's upper edge on the horizon, with refraction; degrees.
_HORIZON: Final = -0.833

DEFINITION: Final = {
    "zh-CN": "亮灯率(按时间)= 应亮且可知时段内的亮灯时间 ÷ 应亮且可知的时间。"
    "应亮时段:所在社区日落至次日日出(含偏移)或该灯的定时方案,扣除已批准的检修。"
    "一次上报的状态有效至下一次上报,最长为三个上报周期,其后为未知:"
    "下限按未知为灭计,上限按未知为亮计。下限达到目标为达标,上限低于目标为未达标,其余暂不能判定。",
    "en": "Lighting uptime (by time) = lit time within due and known time / due and known time. "
    "Due: from sunset to sunrise at the community (with offsets) or the lamp's own programme, "
    "less accepted maintenance. A report holds until the next one, at most three reporting "
    "periods; then the lamp is unknown: the lower bound counts unknown as dark, the upper bound "
    "as lit. Met when the lower bound reaches the target, not met when the upper bound is below "
    "it, otherwise undetermined.",
}

Span = tuple[int, int]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(instant: datetime) -> int:
    """Return an aware instant as whole microseconds since 1970 in UTC."""
    return (instant - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """Return microseconds since 1970 as an aware instant in UTC."""
    return _EPOCH + timedelta(microseconds=us)


@dataclass(frozen=True, slots=True)
class Place:
    """Where lamps stand: degrees north and east, and the IANA time zone."""

    latitude: float
    longitude: float
    time_zone: str


@dataclass(frozen=True, slots=True)
class SunProgramme:
    """Due from ``after_sunset`` after sunset to ``before_sunrise`` before sunrise."""

    after_sunset: timedelta = timedelta(0)
    before_sunrise: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class ClockProgramme:
    """Due between two local times; equal times mean the whole day (an underpass)."""

    start: time
    end: time


Programme = SunProgramme | ClockProgramme
_SUN = re.compile(r"sun(?:\+(\d{1,3})-(\d{1,3}))?")
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_ALWAYS = ClockProgramme(time(12), time(12))


@lru_cache(maxsize=1_000)
def parse_programme(text: str) -> Programme:
    """Parse ``sun``, ``sun+15-10`` (minutes), ``always`` or ``18:00-06:00`` (local times).

    Raises:
        ValueError: None of these.
    """
    if text == "always":
        return _ALWAYS
    if match := _SUN.fullmatch(text):
        after, before = (timedelta(minutes=int(group or 0)) for group in match.groups())
        return SunProgramme(after, before)
    if match := _CLOCK.fullmatch(text):
        hour, minute, hour_end, minute_end = (int(group) for group in match.groups())
        return ClockProgramme(time(hour, minute), time(hour_end, minute_end))
    raise ValueError(f"not a lamp programme: {text!r}; write sun, sun+15-10, always or 18:00-06:00")


def night_of(instant_us: int, zone: str) -> date:
    """Return the night an instant belongs to: the local date twelve hours earlier."""
    local = from_us(instant_us).astimezone(ZoneInfo(zone))
    return local.date() if local.hour >= 12 else local.date() - timedelta(days=1)


@lru_cache(maxsize=10_000)
def night_span(night: date, zone: str) -> Span:
    """Return a night's span: from local noon of its date to local noon of the next."""
    tz = ZoneInfo(zone)
    noons = (datetime.combine(night + timedelta(days=days), time(12), tz) for days in (0, 1))
    start, end = (to_us(noon) for noon in noons)
    return start, end


@lru_cache(maxsize=50_000)
def due(programme: Programme, place: Place, night: date) -> tuple[Span, ...]:
    """Return when a lamp of this programme is due in one night: disjoint spans in order.

    Where the sun does not rise the whole night is due, where it does not set nothing is.
    """
    whole = night_span(night, place.time_zone)
    match programme:
        case ClockProgramme(start, end):
            zone = ZoneInfo(place.time_zone)
            begin, finish = (_local(night, clock, zone) for clock in (start, end))
            if start == end:
                return (whole,)
            # Due over noon: the end of one night and the beginning of the next.
            spans = (
                ((begin, finish),) if begin < finish else ((whole[0], finish), (begin, whole[1]))
            )
        case SunProgramme(after_sunset, before_sunrise):
            spans = (
                (
                    _sun_event(sunset, place, night, whole) + after_sunset // _MICROSECOND,
                    _sun_event(sunrise, place, night + timedelta(days=1), whole)
                    - before_sunrise // _MICROSECOND,
                ),
            )
    return clip(spans, whole)


def clip(spans: Iterable[Span], within: Span) -> tuple[Span, ...]:
    """Return the parts of ``spans`` that lie within one span."""
    cut = ((max(start, within[0]), min(end, within[1])) for start, end in spans)
    return tuple(span for span in cut if span[0] < span[1])


def subtract(spans: Iterable[Span], removed: Iterable[Span]) -> tuple[Span, ...]:
    """Return ``spans`` without ``removed`` (accepted maintenance)."""
    rest = tuple(spans)
    for start, end in removed:
        rest = tuple(
            part
            for span in rest
            for part in ((span[0], min(span[1], start)), (max(span[0], end), span[1]))
            if part[0] < part[1]
        )
    return rest


def length(spans: Iterable[Span]) -> int:
    """Return the time that disjoint spans cover, in microseconds."""
    return sum(end - start for start, end in spans)


def overlap(spans: Iterable[Span], start: int, end: int) -> int:
    """Return how much of disjoint ``spans`` lies in ``[start, end)``, in microseconds."""
    return sum(max(0, min(stop, end) - max(begin, start)) for begin, stop in spans)


def is_lit(lit: bool | None, power_w: float | None, rated_power_w: float | None) -> bool | None:
    """Return what one reading says of light: lit, dark, or None where it does not tell."""
    if lit is not None:
        return lit
    if power_w is None or rated_power_w is None:
        return None
    return power_w >= LIT_POWER_SHARE * rated_power_w


@dataclass(frozen=True, slots=True)
class Hold:
    """What one reading is known to mean: light or dark from ``start`` to ``end``."""

    start: int
    end: int
    lit: bool


def holds(readings: Sequence[tuple[int, bool]], max_silence_us: int) -> Iterator[Hold]:
    """Yield how long each reading but the last is valid.

    Args:
        readings: Instant and light, ordered by both: of two readings with one instant, lit wins.
        max_silence_us: How long a reading holds when no later one comes.
    """
    for (start, lit), (later, _) in pairwise(readings):
        if later > start:
            yield Hold(start, min(later, start + max_silence_us), lit)


def settle(
    spans: Sequence[Span], readings: Sequence[tuple[int, bool]], max_silence_us: int
) -> tuple[int, int]:
    """Return lit and dark time within ``spans`` as all readings but the open last one settle it."""
    lit = dark = 0
    for hold in holds(readings, max_silence_us):
        covered = overlap(spans, hold.start, hold.end)
        if hold.lit:
            lit += covered
        else:
            dark += covered
    return lit, dark


def _local(night: date, clock: time, zone: ZoneInfo) -> int:
    """Return the instant at which local clocks show ``clock`` within the night of ``night``."""
    day = night if clock >= time(12) else night + timedelta(days=1)
    return to_us(datetime.combine(day, clock, zone))


def _sun_event(event: Callable[..., datetime], place: Place, day: date, night: Span) -> int:
    """Return sunset or sunrise; where there is none, the end of the night that makes it so."""
    observer = Observer(place.latitude, place.longitude)
    zone = ZoneInfo(place.time_zone)
    try:
        return to_us(event(observer, date=day, tzinfo=zone))
    except ValueError:  # astral's word for a sun that does not cross the horizon that day
        sun_is_up = elevation(observer, datetime.combine(day, time(12), zone)) > _HORIZON
        # Up all day: never dark, so dusk lies after the night and dawn before it.
        return night[1 if sun_is_up == (event is sunset) else 0]
