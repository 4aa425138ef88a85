# SPDX-License-Identifier: Apache-2.0
"""The world: sun, weather, people's day, and the faults known so far.

A pure function of seed, city, faults and absolute time. Nothing is carried from one moment to the
next, so history, live operation and every restart continue each other seamlessly, and the same
seed gives the same trace. What caches there are hold results, never decisions.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import accumulate
from math import cos, pi, sin
from typing import Final
from zoneinfo import ZoneInfo

from astral import Observer, refraction_at_zenith
from astral.sun import SUN_APPARENT_RADIUS, elevation

from simulators.chance import Draw
from simulators.faults import Fault
from simulators.registry import TIME_ZONE, Area, City, Device
from simulators.spans import HOUR, MINUTE, SECOND, Span, clip, instant, micros

ZONE: Final = ZoneInfo(TIME_ZONE)
DAY: Final = 24 * HOUR
# Where the sun's centre is when its upper edge, lifted by the air, is seen on the horizon: degrees
# from the zenith, and of height.
_EDGE: Final = 90 + SUN_APPARENT_RADIUS
_HORIZON_DEG: Final = 90 - (_EDGE + refraction_at_zenith(_EDGE))

# How busy each hour of the day is: people leave for work, come home, and sleep.
_PEOPLE: Final = (
    2,
    1,
    1,
    1,
    2,
    8,
    30,
    80,
    70,
    35,
    30,
    35,
    45,
    35,
    30,
    30,
    40,
    75,
    85,
    60,
    45,
    30,
    15,
    6,
)
_PEOPLE_UNTIL: Final = tuple(accumulate(_PEOPLE))


class World:
    """One seeded city and its faults."""

    def __init__(self, seed: int, city: City, faults: Iterable[Fault] = ()) -> None:
        """Take the faults known so far; more may be added while time goes on."""
        self.seed = seed
        self.city = city
        self._faults: dict[str, tuple[Fault, ...]] = {}
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Let more faults happen; none may begin before what was already observed."""
        for fault in sorted(faults):
            known = self._faults.get(fault.target, ())
            self._faults[fault.target] = tuple(sorted({*known, fault}))

    def end(self, faults: Iterable[Fault], us: int) -> None:
        """Let faults that stand end at an instant that nobody has observed yet."""
        for fault in faults:
            others = [one for one in self._faults[fault.target] if one != fault]
            self._faults[fault.target] = tuple(sorted([*others, replace(fault, to_us=us)]))

    def faults_of(self, target: str) -> tuple[Fault, ...]:
        """Return the faults of one device or gateway by their beginning."""
        return self._faults.get(target, ())

    @property
    def faults(self) -> list[Fault]:
        """All faults by their beginning."""
        return sorted(fault for faults in self._faults.values() for fault in faults)

    def draw(self, *label: object) -> Draw:
        """Return the numbers that this world's seed holds for a label."""
        return Draw(self.seed, *label)

    def due(self, device: Device, night: int) -> list[Span]:
        """Return when a lamp is due in one night, in service or not.

        Args:
            device: The lamp.
            night: The ordinal of the local date of its dusk.

        Raises:
            ValueError: The programme is none of those that lamps have.
        """
        return due(device.programme, self.city.communities[device.community], night)

    def ambient_c(self, community: str, us: int) -> float:
        """Return the temperature outdoors, degrees Celsius: season, time of day, and weather."""
        warmer, phase = _climate(self.seed, community)
        days = us / DAY
        # The year is coldest in mid-January, the day warmest at three in the afternoon in Chengdu.
        season = 16 - 10 * cos(2 * pi * (days - 15) / 365.25)
        hour = 4 * cos(2 * pi * (days - (15 - 8) / 24))
        weather = 1.5 * sin(2 * pi * days / 5.3 + phase) + sin(2 * pi * days / 9.1 + 2 * phase)
        return season + hour + weather + warmer


@lru_cache(maxsize=1_000)
def _climate(seed: int, community: str) -> tuple[float, float]:
    draw = Draw(seed, "climate", community)
    return draw.between(-0.5, 0.5), draw.between(0, 2 * pi)


@lru_cache(maxsize=10_000)
def day_start(day: int) -> int:
    """Return local midnight with which a day begins; ``day`` is the ordinal of its date."""
    return micros(datetime.combine(date.fromordinal(day), time(), ZONE))


def day_of(us: int) -> int:
    """Return the ordinal of the local date of an instant."""
    return instant(us).astimezone(ZONE).toordinal()


@lru_cache(maxsize=10_000)
def night_span(night: int) -> Span:
    """Return a lighting night: local noon of its dusk's date to local noon of the next."""
    first = date.fromordinal(night)
    start, end = (
        micros(datetime.combine(first + timedelta(days=days), time(12), ZONE)) for days in (0, 1)
    )
    return start, end


def night_of(us: int) -> int:
    """Return the ordinal of the date of the dusk of the night that holds an instant."""
    return day_of(us - DAY // 2)


@lru_cache(maxsize=50_000)
def due(programme: str, place: Area, night: int) -> list[Span]:
    """Return when lamps of a programme are due at a place in one night; do not change the list.

    Args:
        programme: ``sun``, ``sun+15-10`` (minutes after sunset and before sunrise), ``always``,
            or two local times as ``18:00-06:00``.
        place: The community; its degrees decide when the sun sets and rises.
        night: The ordinal of the local date of its dusk.

    Raises:
        ValueError: None of these programmes.
    """
    whole = night_span(night)
    if programme == "always":
        return [whole]
    today = date.fromordinal(night)
    tomorrow = today + timedelta(days=1)
    if programme.startswith("sun"):
        after, _, before = programme.removeprefix("sun").removeprefix("+").partition("-")
        noon, midnight, next_noon = (
            micros(datetime.combine(day, clock, ZONE))
            for day, clock in ((today, time(12)), (tomorrow, time(0)), (tomorrow, time(12)))
        )
        sunset = _horizon(place, noon, midnight)
        sunrise = _horizon(place, next_noon, midnight)
        spans = [(sunset + int(after or 0) * MINUTE, sunrise - int(before or 0) * MINUTE)]
    else:
        clocks = [time.fromisoformat(clock) for clock in programme.split("-")]
        start, end = (
            micros(datetime.combine(today if clock >= time(12) else tomorrow, clock, ZONE))
            for clock in clocks
        )
        spans = [(start, end)] if start < end else [(whole[0], end), (start, whole[1])]
    return clip(spans, whole)


def _horizon(place: Area, up: int, down: int) -> int:
    """Return when the sun's upper edge crosses the horizon between two instants.

    By halving, from the sun's height alone: astral's own sunrise goes by the date of UTC, and finds
    none where it falls on that date's midnight, as it does here in January.
    """
    observer = Observer(place.latitude, place.longitude)

    def height(second: int) -> float:  # astral knows whole seconds only
        at = instant(second * SECOND)
        return elevation(observer, at, with_refraction=False) - _HORIZON_DEG

    light, dark = up // SECOND, down // SECOND
    while abs(light - dark) > 1:
        middle = (light + dark) // 2
        if height(middle) > 0:
            light = middle
        else:
            dark = middle
    part = height(light) / (height(light) - height(dark))
    return light * SECOND + round(part * (dark - light) * SECOND)


def people_time(share: float) -> int:
    """Return the time of day, in microseconds, by which a share of people's doings is done."""
    target = share * _PEOPLE_UNTIL[-1]
    hour = bisect_right(_PEOPLE_UNTIL, target)
    into = (target - _PEOPLE_UNTIL[hour] + _PEOPLE[hour]) / _PEOPLE[hour]
    return int((hour + into) * HOUR)


def people_times(draw: Draw, count: int, apart_us: int) -> Sequence[int]:
    """Return up to ``count`` times of day when people come by, in order.

    None lies within a minute of midnight, and none closer to the one before than ``apart_us``.
    """
    result: list[int] = []
    for us in sorted(people_time(draw.unit()) for _ in range(count)):
        if MINUTE <= us < DAY - MINUTE and (not result or us - result[-1] >= apart_us):
            # Not on whole numbers: instants are told to the microsecond.
            result.append(us)
    return result


def ripple(us: int, phase: float, period_s: float) -> float:
    """Return a slow wave between -1 and 1: measuring noise that depends on time alone."""
    turn = us / (period_s * SECOND)
    return 0.6 * sin(2 * pi * turn + phase) + 0.4 * sin(2 * pi * turn * 2.7 + 3 * phase)
