# SPDX-License-Identifier: Apache-2.0
"""Lighting: when a lamp is due, what its readings say of light, and the uptime from both.

Lighting uptime = lit time within due and observed time / due and observed time (domain.md; no
official formula was found). A reading holds until the next one, at most ``max_silence``; after
that the lamp is unknown, neither lit nor dark.
"""

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

from astral import refraction_at_zenith
from astral.julian import julianday, julianday_to_juliancentury
from astral.sun import SUN_APPARENT_RADIUS, eq_of_time, sun_declination

from ingest.indicators.spans import Span, clip, from_us, to_us

# A lamp that only meters power gives light from this share of its rated power on.
LIT_POWER_SHARE: Final = 0.2
# Reporting periods a reading holds when no later one comes.
SILENCE_PERIODS: Final = 3
# Levels a programme may dim to, percent of full output: one that draws less than the share above
# would read as dark where only power is metered.
LEVELS_PCT: Final = range(20, 101)
# Where the sun's centre is when its upper edge, lifted by refraction, is on the horizon: degrees
# from the zenith.
_EDGE: Final = 90.0 + SUN_APPARENT_RADIUS
_ZENITH: Final = _EDGE + refraction_at_zenith(_EDGE)
_LATITUDE_MAX: Final = 89.8
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE_US: Final = 60 * 10**6
_DAY: Final = timedelta(days=1)
# The longest nights of both hemispheres first: hardly any programme is asked for more than one.
_YEAR: Final = (
    date(2026, 12, 21),
    date(2026, 6, 21),
    *(date(2026, 1, 1) + timedelta(days=day) for day in range(365)),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where lamps stand: degrees north and east, and the IANA time zone."""

    latitude: float
    longitude: float
    time_zone: str


@dataclass(frozen=True, slots=True)
class Dimming:
    """From a local time on, or from the start (``at`` is None): percent of full output."""

    at: time | None
    level_pct: int


@dataclass(frozen=True, slots=True)
class SunProgramme:
    """Due from ``after_sunset`` after sunset to ``before_sunrise`` before sunrise."""

    after_sunset: timedelta = timedelta(0)
    before_sunrise: timedelta = timedelta(0)
    levels: tuple[Dimming, ...] = ()


@dataclass(frozen=True, slots=True)
class ClockProgramme:
    """Due between two local times; equal times mean the whole day (an underpass)."""

    start: time
    end: time
    levels: tuple[Dimming, ...] = ()


Programme = SunProgramme | ClockProgramme
_SUN = re.compile(r"sun(?:\+(\d{1,3})-(\d{1,3}))?", re.ASCII)
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_DIMMING = re.compile(r"(?:([01]\d|2[0-3]):([0-5]\d))?@([1-9]\d{1,2})", re.ASCII)


@lru_cache(maxsize=1_000)
def parse_programme(text: str) -> Programme:
    """Parse ``sun``, ``sun+15-10`` (minutes), ``always`` or ``18:00-06:00`` (local times).

    Each may be followed by its levels, 20 to 100 % of full output: ``sun@100,23:00@50`` dims to
    half at eleven. A dimmed lamp is lit: levels never change when a lamp is due.

    Raises:
        ValueError: None of these.
    """
    first, *later = text.split(",")
    schedule, at, level = first.partition("@")
    steps = [_dimming(step, first=False) for step in later]
    if at:
        steps = [_dimming(at + level, first=True), *steps]
    elif later:
        steps = [None]
    levels = tuple(step for step in steps if step is not None)
    times = [step.at for step in levels]
    if len(levels) == len(steps) and len(set(times)) == len(times):
        if schedule == "always":
            return ClockProgramme(time(12), time(12), levels)
        if match := _SUN.fullmatch(schedule):
            after, before = (timedelta(minutes=int(group or 0)) for group in match.groups())
            return SunProgramme(after, before, levels)
        if match := _CLOCK.fullmatch(schedule):
            hour, minute, hour_end, minute_end = (int(group) for group in match.groups())
            return ClockProgramme(time(hour, minute), time(hour_end, minute_end), levels)
    raise ValueError(
        f"not a lamp programme: {text!r}; write sun, sun+15-10, always or 18:00-06:00, "
        "with levels sun@100,23:00@50"
    )


def _dimming(text: str, *, first: bool) -> Dimming | None:
    """Parse one step: ``@100`` is the first, ``23:00@50`` any later one."""
    match = _DIMMING.fullmatch(text)
    if match is None or int(match[3]) not in LEVELS_PCT or (match[1] is None) != first:
        return None
    return Dimming(None if first else time(int(match[1]), int(match[2])), int(match[3]))


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
            after, before = (offset // _MICROSECOND for offset in (after_sunset, before_sunrise))
            spans = tuple(
                (sunset + after, sunrise - before) for sunset, sunrise in _darkness(place, night)
            )
    return clip(spans, whole)


@lru_cache(maxsize=1_000)
def never_lights(programme: Programme, place: Place) -> bool:
    """Return whether a lamp of this programme is due in no night of a year (2026): a mistake.

    ``sun+720-720`` never is, but where the sun stays down for days.
    """
    return not any(due(programme, place, night) for night in _YEAR)


def is_lit(lit: bool | None, power_w: float | None, rated_power_w: float | None) -> bool | None:
    """Return what one reading says of light: lit, dark, or None where it does not tell."""
    if lit is not None:
        return lit
    if power_w is None or rated_power_w is None:
        return None
    return power_w >= LIT_POWER_SHARE * rated_power_w


def _local(night: date, clock: time, zone: ZoneInfo) -> int:
    """Return the instant at which local clocks show ``clock`` within the night of ``night``."""
    day = night if clock >= time(12) else night + timedelta(days=1)
    return to_us(datetime.combine(day, clock, zone))


def _darkness(place: Place, night: date) -> tuple[Span, ...]:
    """Return from when to when the sun is down, around a night; polar darkness is one span.

    Reckoned in solar days of the place, not in dates of its zone: in a summer near the polar
    circle the sun sets after midnight, on a day that another sunset may share.
    """
    parts: list[Span] = []
    # Two days to either side: as far as zones and offsets reach.
    for days in range(-2, 3):
        part = _dark(place.latitude, place.longitude, night + timedelta(days=days))
        if part is None:
            continue
        if parts and part[0] <= parts[-1][1]:
            part = (parts.pop()[0], part[1])
        parts.append(part)
    return tuple(parts)


@lru_cache(maxsize=50_000)
def _dark(latitude: float, longitude: float, day: date) -> Span | None:
    """Return when the sun is down between two solar noons, or None where it is not."""
    sunset = _horizon(latitude, longitude, day, "set")
    sunrise = _horizon(latitude, longitude, day + _DAY, "rise")
    if "up" in (sunset, sunrise):
        return None
    start, end = (
        _solar_noon(longitude, one) if event == "down" else event
        for event, one in ((sunset, day), (sunrise, day + _DAY))
    )
    assert not isinstance(start, str)
    assert not isinstance(end, str)
    return (start, end) if start < end else None


def _horizon(
    latitude: float, longitude: float, day: date, way: Literal["rise", "set"]
) -> int | Literal["up", "down"]:
    """Return when the sun crosses the horizon before or after a solar noon, or where it stays.

    NOAA's equations by astral's positions of the sun. astral's own ``sunrise`` takes the date of
    UTC: near its midnight it is a minute off, or finds none (Chengdu, 24 January 2026).
    """
    phi = math.radians(max(-_LATITUDE_MAX, min(_LATITUDE_MAX, latitude)))
    midnight = julianday(day)
    minutes = 720.0 - 4.0 * longitude
    # Each turn takes the sun from where it stood at the last one's result; two are within 0.3 s.
    for _ in range(4):
        century = julianday_to_juliancentury(midnight + minutes / 1_440.0)
        declination = math.radians(sun_declination(century))
        cosine = math.cos(math.radians(_ZENITH)) / (
            math.cos(phi) * math.cos(declination)
        ) - math.tan(phi) * math.tan(declination)
        if abs(cosine) > 1.0:
            return "down" if cosine > 0 else "up"
        angle = math.degrees(math.acos(cosine))
        if way == "rise":
            angle = -angle
        minutes = 720.0 + 4.0 * (angle - longitude) - eq_of_time(century)
    return _midnight_us(day) + round(minutes * _MINUTE_US)


def _solar_noon(longitude: float, day: date) -> int:
    """Return the mean solar noon, which only bounds what goes on without sunset or sunrise."""
    return _midnight_us(day) + round((720.0 - 4.0 * longitude) * _MINUTE_US)


def _midnight_us(day: date) -> int:
    return to_us(datetime.combine(day, time(), UTC))
