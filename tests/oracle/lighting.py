# SPDX-License-Identifier: Apache-2.0
"""Lighting once more: slow, plain, exact, and sharing nothing with the product.

Time is cut wherever anything could change; of each piece it is asked anew, from the raw rows,
what was due, what counted and what was known. Instants are whole microseconds since 1970 in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from astral import Observer
from astral.sun import elevation

Span = tuple[int, int]
MINUTE = 60 * 10**6
HOUR = 60 * MINUTE
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """A stored reading; None where it does not say."""

    at: int
    lit: bool | None = None
    power_w: float | None = None
    energy_kwh: float | None = None
    battery_pct: float | None = None


@dataclass(frozen=True)
class Given:
    """What is known of one lamp in one night; ``until`` is how far the night has come."""

    whole: Span
    due: Sequence[Span]
    in_service: Sequence[Span]
    maintenance: Sequence[Span]
    rows: Sequence[Row]
    rated_w: float | None
    silence: int
    until: int
    life: str = "in_service"


@dataclass
class Found:
    """What comes of it, microseconds unless named otherwise; `seen` is time with knowledge."""

    due: int = 0
    lit: int = 0
    dark: int = 0
    due_in_maintenance: int = 0
    due_out_of_service: int = 0
    counted: int = 0
    in_maintenance: int = 0
    out_of_service: int = 0
    in_service: int = 0
    lit_outside: int = 0
    seen_outside: int = 0
    seen_counted: int = 0
    burning: int = 0
    seen_in_service: int = 0
    cycling: bool = False
    energy_wh: int | None = None


def work_out(given: Given) -> Found:
    """Ask of every piece of the night what it was."""
    found = Found()
    start, end = given.whole[0], min(given.whole[1], given.until)
    cuts = {start, end}
    for spans in (given.due, given.in_service, given.maintenance):
        cuts.update(instant for span in spans for instant in span)
    for row in given.rows:
        cuts.update((row.at, row.at + given.silence))
    inside = sorted(cut for cut in cuts if start <= cut <= end)
    for begin, finish in pairwise(inside):
        _ask(given, begin, finish - begin, found)
    found.cycling = _cycles(given, end)
    found.energy_wh = _energy(given, end)
    return found


def autonomy(given: Given) -> int | None:
    """Say how long a full battery would last, by asking of every piece whether the lamp burned."""
    start, end = given.whole[0], min(given.whole[1], given.until)
    charge: dict[int, int] = {}
    for row in given.rows:
        if row.battery_pct is not None and start <= row.at < end:
            level = _half_up(Fraction(repr(row.battery_pct)) * 100)
            charge[row.at] = min(level, charge.get(row.at, level))
    cuts = {row.at for row in given.rows} | {row.at + given.silence for row in given.rows}
    for spans in (given.in_service, given.maintenance):
        cuts.update(instant for span in spans for instant in span)
    burned = fall = 0
    for before, after in pairwise(sorted(charge)):
        asked = [before, *(cut for cut in cuts if before < cut < after)]
        if all(_stands(given, at) == "counted" and _light(given, at) is True for at in asked):
            burned += after - before
            fall += charge[before] - charge[after]
    if burned < 3 * HOUR or fall < 500:
        return None
    return _half_up(Fraction(10_000 * burned, fall))


def _ask(given: Given, at: int, lasts: int, found: Found) -> None:
    due = _in(given.due, at)
    stands = _stands(given, at)
    light = _light(given, at)
    if stands == "maintenance":
        found.in_maintenance += lasts
        found.due_in_maintenance += lasts if due else 0
    elif stands == "not_in_service":
        found.out_of_service += lasts
        found.due_out_of_service += lasts if due else 0
    else:
        found.counted += lasts
        found.seen_counted += lasts if light is not None else 0
        if due:
            found.due += lasts
            found.lit += lasts if light is True else 0
            found.dark += lasts if light is False else 0
        else:
            found.lit_outside += lasts if light is True else 0
            found.seen_outside += lasts if light is not None else 0
    if stands != "not_in_service":
        found.in_service += lasts
        found.burning += lasts if light is True else 0
        found.seen_in_service += lasts if light is not None else 0


def _stands(given: Given, at: int) -> str:
    if given.life not in ("in_service", "maintenance") or not _in(given.in_service, at):
        return "not_in_service"
    if given.life == "maintenance" or _in(given.maintenance, at):
        return "maintenance"
    return "counted"


def _light(given: Given, at: int) -> bool | None:
    """What the newest word on light before ``at`` says, while it holds."""
    words = [
        (row.at, says) for row in given.rows if (says := _says(row, given.rated_w)) is not None
    ]
    newest = max((then for then, _ in words if then <= at), default=None)
    if newest is None or at >= newest + given.silence:
        return None
    return any(says for then, says in words if then == newest)


def _says(row: Row, rated_w: float | None) -> bool | None:
    if row.lit is not None:
        return row.lit
    if row.power_w is None or rated_w is None:
        return None
    return Fraction(row.power_w) / Fraction(rated_w) >= Fraction(1, 5)


def _cycles(given: Given, end: int) -> bool:
    instants = sorted({row.at for row in given.rows if _says(row, given.rated_w) is not None})
    switches: list[int] = []
    for before, at in pairwise(instants):
        if at - before > given.silence or not given.whole[0] <= at < end:
            continue
        was, now = (
            any(_says(row, given.rated_w) for row in given.rows if row.at == then)
            for then in (before, at)
        )
        if was != now and _stands(given, at) == "counted":
            switches.append(at)
    return any(
        sum(first <= switch < first + 10 * MINUTE for switch in switches) > 3 for first in switches
    )


def _energy(given: Given, end: int) -> int | None:
    start = given.whole[0]
    reach = max(12 * HOUR, given.silence)
    values: dict[int, int] = {}
    for row in given.rows:
        if row.energy_kwh is not None and start - reach <= row.at < end:
            wh = _half_up(Fraction(repr(row.energy_kwh)) * 1_000)
            values[row.at] = max(wh, values.get(row.at, wh))
    total: int | None = None
    for at in values:
        earlier = [then for then in values if then < at]
        if at < start or not earlier or _stands(given, at) == "not_in_service":
            continue
        before = max(earlier)
        used = values[at] - values[before]
        if used < 0:  # began anew
            used = values[at]
        rated = Fraction(5_000) if given.rated_w is None else Fraction(repr(given.rated_w))
        if used <= 2 * rated * Fraction(at - before, HOUR) + 1_000:
            total = (total or 0) + used
    return _metered(given, end) if total is None else total


def _metered(given: Given, end: int) -> int | None:
    words = {row.at for row in given.rows if row.power_w is not None and row.at < end}
    cuts = {given.whole[0], end, *words, *(at + given.silence for at in words)}
    cuts.update(instant for span in given.in_service for instant in span)
    inside = sorted(cut for cut in cuts if given.whole[0] <= cut <= end)
    seen = False
    watt_us = Fraction(0)
    for begin, finish in pairwise(inside):
        newest = max((at for at in words if at <= begin), default=None)
        if newest is None or begin >= newest + given.silence:
            continue
        if _stands(given, begin) == "not_in_service":
            continue
        seen = True
        power = max(
            Fraction(repr(row.power_w))
            for row in given.rows
            if row.at == newest and row.power_w is not None
        )
        watt_us += power * (finish - begin)
    return _half_up(watt_us / HOUR) if seen else None


def _half_up(value: Fraction) -> int:
    return (value + Fraction(1, 2)).__floor__()


def _in(spans: Iterable[Span], at: int) -> bool:
    return any(start <= at < end for start, end in spans)


# -- when a lamp is due ---------------------------------------------------------------------------


def night(day: date, zone: str) -> Span:
    """Local noon of a date to local noon of the next."""
    return _clock(day, zone)[0]


@lru_cache(maxsize=1_000)
def clock_due(text: str, day: date, zone: str) -> tuple[Span, ...]:
    """When ``HH:MM-HH:MM`` is due in a night: both times looked for on the local clock.

    Of a time that clocks show twice the first counts; one that they leave out is when it would
    have been without the change.
    """
    (start, end), shown = _clock(day, zone)
    if text == "always":
        return ((start, end),)
    on, off = (shown.get(clock, _unshown(clock, start)) for clock in text.split("-"))
    if on == off:
        return ((start, end),)
    spans = ((on, off),) if on < off else ((start, off), (on, end))
    return tuple((begin, finish) for begin, finish in spans if begin < finish)


def _unshown(clock: str, noon: int) -> int:
    hour, minute = (int(part) for part in clock.split(":"))
    return noon + (hour * 60 + minute - 12 * 60) % (24 * 60) * MINUTE


@lru_cache(maxsize=50)
def _clock(day: date, zone: str) -> tuple[Span, dict[str, int]]:
    """Look at the local clock each minute: its noons, and when it first shows what in between."""
    noons: list[int] = []
    shown: dict[str, int] = {}
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=3)
    while len(noons) < 2:
        local = at.astimezone(ZoneInfo(zone))
        us = (at - _EPOCH) // timedelta(microseconds=1)
        if (local.hour, local.minute) == (12, 0) and local.date() >= day:
            noons.append(us)
        if len(noons) == 1:
            shown.setdefault(f"{local:%H:%M}", us)
        at += timedelta(minutes=1)
    return (noons[0], noons[1]), shown


def sun_due(
    latitude: float, longitude: float, zone: str, day: date, after_min: int, before_min: int
) -> tuple[Span, ...]:
    """When the sun is down in a night, with offsets, by watching it; to about a second.

    Looks at the sun's height every five minutes from two days before to two days after, and halves
    the five minutes in which its edge crosses the horizon.
    """
    start, end = night(day, zone)
    step = 5 * MINUTE
    first, last = start - 48 * HOUR, end + 48 * HOUR
    spans: list[Span] = []
    dusk: int | None = first if _is_down(latitude, longitude, first) else None
    for at in range(first, last, step):
        down = _is_down(latitude, longitude, at + step)
        if down and dusk is None:
            dusk = _crossing(latitude, longitude, at, at + step)
        elif not down and dusk is not None:
            spans.append((dusk, _crossing(latitude, longitude, at, at + step)))
            dusk = None
    if dusk is not None:
        spans.append((dusk, last))
    shifted = ((dusk + after_min * MINUTE, dawn - before_min * MINUTE) for dusk, dawn in spans)
    clipped = ((max(start, dusk), min(end, dawn)) for dusk, dawn in shifted)
    return tuple((dusk, dawn) for dusk, dawn in clipped if dusk < dawn)


def _crossing(latitude: float, longitude: float, low: int, high: int) -> int:
    before = _is_down(latitude, longitude, low)
    while high - low > 1_000:
        middle = (low + high) // 2
        if _is_down(latitude, longitude, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _is_down(latitude: float, longitude: float, at: int) -> bool:
    instant = _EPOCH + timedelta(microseconds=at)
    # 16' for its radius and 31.3' for refraction, as astral reckons sunsets.
    return elevation(Observer(latitude, longitude), instant, with_refraction=False) < -0.78910713534
