# SPDX-License-Identifier: Apache-2.0
"""Refuse, computed a second time and slowly from raw rows, waiting bins minute by minute.

Levels must lie on whole minutes; nothing else needs to.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import ROUND_HALF_EVEN, Context
from fractions import Fraction
from math import floor
from typing import NamedTuple

from tests.oracle.field import (
    MINUTE_US,
    Device,
    Said,
    Sums,
    bounds,
    pieces,
    said_at,
    why_not,
)

_WEEK_MINUTES = 7 * 24 * 60
_DAY_MINUTES = 24 * 60


class LevelRow(NamedTuple):
    """A stored reading of a bin."""

    number: int
    at_us: int
    fill_pct: float | None
    stream: str | None


class DepositRow(NamedTuple):
    """A stored event of a bin."""

    number: int
    at_us: int
    weight_kg: float
    sorted_ok: bool | None
    stream: str | None


class Emptied(NamedTuple):
    """When a full bin was emptied, or was heard of no more, and how many minutes after."""

    at_us: int
    after_minutes: int
    seen: bool = True


def half_up(number: float, times: int) -> int:
    """Round ``times`` the number, as its seven digits are written, halves up."""
    written = Fraction(Context(prec=7, rounding=ROUND_HALF_EVEN).create_decimal(number))
    return floor(written * times + Fraction(1, 2))


def watch(
    levels: Sequence[Said], max_silence_us: int, start_us: int, end_us: int
) -> tuple[list[int], list[Emptied], int | None]:
    """Watch a bin minute by minute: missed collections, emptyings, and since when it waits."""
    missed: list[int] = []
    emptied: list[Emptied] = []
    waiting: int | None = None  # minutes since it was full
    highest = 0
    told: dict[int, int] = {}
    for level in levels:
        told[level.at_us] = max(level.value, told.get(level.at_us, 0))
    known_to_us = start_us
    for at in range(start_us, end_us, MINUTE_US):
        level = told.get(at)
        if waiting is not None:
            waiting += 1
            if level is None and at >= known_to_us:
                emptied.append(Emptied(at, waiting, seen=False))
                waiting = None
        if level is not None:
            known_to_us = at + max_silence_us
            if waiting is None:
                if level >= 9_000:
                    waiting, highest = 0, level
            elif highest - level >= 3_000:
                emptied.append(Emptied(at, waiting))
                waiting = None
            else:
                highest = max(highest, level)
        if waiting is not None and waiting > 0 and waiting % _DAY_MINUTES == 0:
            missed.append(at)
    last = start_us + (end_us - 1 - start_us) // MINUTE_US * MINUTE_US
    return missed, emptied, None if waiting is None else last - waiting * MINUTE_US


def times_to_empty(
    bins: Iterable[Device], levels: Iterable[LevelRow], day: date, now_us: int
) -> list[tuple[int, int, int, bool]]:
    """List bin, instant, time and whether it was emptied, of each wait that a day is to tell."""
    levels = list(levels)
    found: list[tuple[int, int, int, bool]] = []
    for bin in bins:
        start, day_end = bounds(day, bin.zone)
        end = min(day_end, now_us)
        if end <= start:
            continue
        said = [
            Said(row.at_us, half_up(row.fill_pct, 100))
            for row in levels
            if row.number == bin.number and row.at_us < end and row.fill_pct is not None
        ]
        week_before = start - _WEEK_MINUTES * MINUTE_US
        _, emptied, since = watch(said, bin.max_silence_us, week_before, end)
        for one in emptied:
            if one.at_us >= start and why_not(bin, one.at_us) is None:
                found.append((bin.number, one.at_us, one.after_minutes * MINUTE_US, one.seen))
        if since is not None and now_us < day_end and why_not(bin, end - 1) is None:
            found.append((bin.number, end, end - since, False))
    return found


def refuse(
    bins: Iterable[Device],
    levels: Iterable[LevelRow],
    deposits: Iterable[DepositRow],
    day: date,
    now_us: int,
) -> Sums:
    """Add up weights, overflow, reporting bins and missed collections."""
    levels, deposits = list(levels), list(deposits)
    sums = Sums()
    for bin in bins:
        start, day_end = bounds(day, bin.zone)
        end = min(day_end, max(start, now_us))
        own = [row for row in levels if row.number == bin.number and row.at_us < end]
        said = [
            Said(row.at_us, half_up(row.fill_pct, 100)) for row in own if row.fill_pct is not None
        ]

        overflow = sums.get("bin-overflow", bin.area)
        reporting = sums.get("bins-reporting", bin.area)
        missed = sums.get("collections-missed", bin.area)
        reasons: set[str] = set()
        counted = 0
        for at, length in pieces(bin, said, start, end):
            reason = why_not(bin, at)
            if reason is not None:
                overflow.leave_out(reason, length)
                reasons.add(reason)
                continue
            counted += length
            level = said_at(said, at, bin.max_silence_us)
            if level is not None and level >= 9_000:
                overflow.good += length
                overflow.total += length
        told = any(row.at_us >= start for row in said)
        for indicator in (overflow, missed):
            indicator.subjects += counted > 0 and told
        reporting.subjects += counted > 0
        if counted:
            reporting.total += 1
            if told:
                reporting.good += 1
            elif now_us >= day_end:
                reporting.bad += 1
        elif reasons:
            reporting.leave_out("maintenance" if "maintenance" in reasons else "not_in_service", 1)

        week_before = start - _WEEK_MINUTES * MINUTE_US
        for at in watch(said, bin.max_silence_us, week_before, end)[0]:
            if at < start:
                continue
            reason = why_not(bin, at)
            if reason is None:
                missed.good += 1
                missed.total += 1
            else:
                missed.leave_out(reason, 1)

        sorting = sums.get("refuse-sorted", bin.area)
        recovery = sums.get("refuse-recovered", bin.area)
        speaks = False
        for row in deposits:
            if row.number != bin.number or not start <= row.at_us < end:
                continue
            grams = half_up(row.weight_kg, 1_000)
            reason = why_not(bin, row.at_us)
            if reason is not None:
                sorting.leave_out(reason, grams)
                recovery.leave_out(reason, grams)
                continue
            speaks = True
            stream = row.stream
            if stream is None:
                told = [
                    (level.at_us, level.stream)
                    for level in own
                    if level.stream is not None
                    and start - bin.max_silence_us <= level.at_us <= row.at_us
                ]
                stream = max(told)[1] if told else None
            sorting.total += grams
            recovery.total += grams
            if row.sorted_ok is True:
                sorting.good += grams
            elif row.sorted_ok is False:
                sorting.bad += grams
            if stream == "recyclable":
                recovery.good += grams
            elif stream is not None:
                recovery.bad += grams
        sorting.subjects += speaks
        recovery.subjects += speaks
    return sums
