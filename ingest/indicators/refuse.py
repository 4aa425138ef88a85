# SPDX-License-Identifier: Apache-2.0
"""Refuse: what is sorted and recovered, how long bins overflow, which collections were missed.

Sorting rate = weight deposited correctly sorted / weight deposited of which it is known.
Recovery rate = weight deposited as recyclable / weight deposited of which the stream is known.
Both fractions from 0 to 1, parts in whole grams: each deposit's kilograms, to seven significant
digits, are rounded half up, so sums do not depend on order. What nobody looked at is unknown, and
stands in the bounds. Source: domain.md, Refuse; the targets of 60 % and 30 % are R0's.

A level holds until the next one, at most ``max_silence``; after that it is unknown. Levels are
taken in hundredths of a per cent, rounded half up; of two at one instant the fuller counts. A bin
is full from 90 % on, and stays to be emptied until its level has fallen by 30 points from the
highest since: a lower reading alone is no collection. Silence ends what is known, so neither an
emptying nor a missed collection is told of it. Overflow, time to empty, missed collections and
forecast are our own definitions; no official formula was found.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, isfinite
from statistics import median
from typing import Final, NamedTuple

from ingest.indicators.definition import Definition, Target
from ingest.indicators.duration import Duration
from ingest.indicators.rounding import half_up
from ingest.indicators.spans import Span, overlap
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally, add_up

SORTED: Final = "refuse-sorted"
RECOVERED: Final = "refuse-recovered"
OVERFLOW: Final = "bin-overflow"
REPORTING: Final = "bins-reporting"
MISSED: Final = "collections-missed"
TIME_TO_EMPTY: Final = "time-to-empty"

FULL_PCT: Final = 90
EMPTIED_BY_PCT: Final = 30
DAY_US: Final = 24 * 3_600 * 10**6
_FULL: Final = 100 * FULL_PCT
_EMPTIED_BY: Final = 100 * EMPTIED_BY_PCT
_BRIM: Final = 100 * 100
#: How far back before a day a full bin is followed. Needed only of bins whose last level before
#: the day stands above `QUIET_BELOW_PCT`: below that nothing waits to be emptied.
LOOKBACK_US: Final = 7 * DAY_US
QUIET_BELOW_PCT: Final = FULL_PCT - EMPTIED_BY_PCT
#: A forecast stands on no fewer readings, over no shorter a time, and looks no further ahead.
FORECAST_READINGS_MIN: Final = 6
FORECAST_READINGS_MAX: Final = 100
FORECAST_SPAN_MIN_US: Final = 3_600 * 10**6
FORECAST_AHEAD_MAX_US: Final = 14 * DAY_US

INDICATORS: Final[tuple[Definition, ...]] = (
    Definition(
        id=SORTED,
        domain="refuse",
        shape="share",
        parts="g",
        name={"zh-CN": "垃圾分类率", "en": "Refuse sorted"},
        formula={
            "zh-CN": "垃圾分类率 = 分类正确的投放重量 ÷ 已判定是否正确的投放重量。"
            "每次投放按克四舍五入。未判定的重量为未知：下限按不正确计，上限按正确计。"
            "检修期间和未投用时的投放不计。",
            "en": "Refuse sorted = weight deposited correctly sorted / weight deposited of which "
            "it is known whether it was. Each deposit is rounded to whole grams, half up. What "
            "nobody judged is unknown: the lower bound counts it as wrong, the upper bound as "
            "right. Deposits during accepted maintenance or out of service do not count.",
        },
        target=Target(0.60, "R0"),
    ),
    Definition(
        id=RECOVERED,
        domain="refuse",
        shape="share",
        parts="g",
        name={"zh-CN": "资源回收率", "en": "Resources recovered"},
        formula={
            "zh-CN": "资源回收率 = 可回收物的投放重量 ÷ 已知类别的投放重量。"
            "投放未报类别时按该桶当时的类别计，仍无则为未知："
            "下限按不可回收计，上限按可回收计。检修期间和未投用时的投放不计。",
            "en": "Resources recovered = weight deposited as recyclable / weight deposited whose "
            "stream is known. A deposit that does not tell its stream takes the bin's own; where "
            "that is not known either it is unknown: the lower bound counts it as not recyclable, "
            "the upper bound as recyclable. Deposits during accepted maintenance or out of "
            "service do not count.",
        },
        target=Target(0.30, "R0"),
    ),
    Definition(
        id=OVERFLOW,
        domain="refuse",
        shape="sum",
        parts="us",
        name={"zh-CN": "满溢时间", "en": "Overflow time"},
        formula={
            "zh-CN": "已知满度达到 90 % 的时间之和。一次上报的满度有效至下一次上报，"
            "最长为三个上报周期，其后为未知、不计入。扣除已批准的检修和未投用的时间。",
            "en": "Time for which bins are known to be 90 % full or more. A level holds until the "
            "next report, at most three reporting periods; what is unknown is not in the sum. "
            "Accepted maintenance and time out of service do not count.",
        },
        rule_version=2,
    ),
    Definition(
        id=REPORTING,
        domain="refuse",
        shape="share",
        parts="devices",
        name={"zh-CN": "垃圾桶上报率", "en": "Bins reporting"},
        formula={
            "zh-CN": "垃圾桶上报率 = 当日上报过满度的垃圾桶数 ÷ 当日在用的垃圾桶数。"
            "当日未结束时，尚未上报的为未知。全天检修或未投用的不计。",
            "en": "Bins reporting = bins that reported a level that day / bins in service that "
            "day. While the day runs, those that have not yet reported are unknown. Bins in "
            "maintenance or out of service all day do not count.",
        },
    ),
    Definition(
        id=MISSED,
        domain="refuse",
        shape="sum",
        parts="cases",
        name={"zh-CN": "漏收次数", "en": "Missed collections"},
        formula={
            "zh-CN": "垃圾桶满度达到 90 % 后每满 24 小时仍未清空计一次，记入满 24 小时的当日。"
            "清空：满度较其后最高值下降至少 30 个百分点。"
            "超过三个上报周期没有上报即为未知，重新计时。检修期间和未投用时不计，另行列出。",
            "en": "One case for every full 24 h after a bin reached 90 % in which it was not "
            "emptied, counted on the day they are over. Emptied: its level fell by at least 30 "
            "points from the highest since. Silence of more than three reporting periods is "
            "unknown and starts the clock anew. Cases that fall into accepted maintenance or out "
            "of service are not counted but listed beside it.",
        },
        rule_version=2,
    ),
    Definition(
        id=TIME_TO_EMPTY,
        domain="refuse",
        shape="times",
        parts="us",
        name={"zh-CN": "满桶清运用时", "en": "Time to empty"},
        formula={
            "zh-CN": "满桶清运用时 = 自上报满度达到 90 % 至清空的时间，计入清空的当日；"
            "清空：满度较其后最高值下降至少 30 个百分点。"
            "中位数和第 90 百分位取实际出现的值（最近秩法）。"
            "当日仍未清空的，以及等待中超过三个上报周期没有上报的（计入失去上报的当日）："
            "下限按已知的等待时间计，上限按无限长计。向前最多追溯 7 天。"
            "检修期间和未投用时的清空不计。",
            "en": "Time to empty = from the report of a level of 90 % or more until the bin was "
            "emptied, on the day it was: its level fell by at least 30 points from the highest "
            "since. Median and 90th percentile by nearest rank, so each is a time that did occur. "
            "A bin that still waits on a day that runs, and one that fell silent for more than "
            "three reporting periods while it waited (on the day it did), count in the lower "
            "bound with the time known, in the upper bound as endless. Followed back for 7 days "
            "at most. Emptyings during accepted maintenance or out of service do not count.",
        },
    ),
)


class Level(NamedTuple):
    """A bin's reading: how full it is, and what it is meant for; None where untold."""

    at_us: int
    #: Per cent of its volume.
    fill_pct: float | None
    stream: str | None = None


class Deposit(NamedTuple):
    """Somebody put something in; ``sorted_ok`` and ``stream`` are None where untold."""

    at_us: int
    weight_kg: float
    sorted_ok: bool | None = None
    stream: str | None = None


class Wait(NamedTuple):
    """A full bin waits to be emptied: from reaching 90 % to the emptying, or to silence."""

    full_us: int
    end_us: int
    emptied: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a bin will be full to the brim, if it fills on as it did since it was last emptied.

    Attributes:
        full_us: When it reaches 100 %; never before ``now``.
        rise_pct_per_day: The median rise.
        readings: How many levels this stands on.
        latest_us: The last of them.
    """

    full_us: int
    rise_pct_per_day: float
    readings: int
    latest_us: int


def tally(
    subjects: Sequence[Subject],
    levels: Mapping[int, Sequence[Level]],
    deposits: Mapping[int, Sequence[Deposit]],
    until_us: int,
) -> dict[Key, Tally]:
    """Add up one day's refuse by area.

    Args:
        subjects: The bins that are to be counted, heard of or not.
        levels: By device id, in any order: those of the day, before it those that its
            ``max_silence`` still lets hold, and of a bin above 60 % then those of `LOOKBACK_US`
            before the day. Earlier and later ones change nothing. Of a bin that stays below
            `FULL_PCT`, without a deposit, one level of the day says as much as all.
        deposits: By device id; those outside the day are left out. Each row is one deposit.
        until_us: What lies after has not come yet (a running day); the day's end or later when it
            is over.

    Returns:
        Grams of `SORTED` and `RECOVERED` (``subjects``: bins with a deposit that counts),
        microseconds of `OVERFLOW`, cases of `MISSED` (``subjects``: bins with time that counts that
        told a level that day), bins of `REPORTING`.

    Raises:
        ValueError: A weight or a level is negative or not a finite number.
    """
    return add_up(
        part
        for subject in subjects
        for part in _bin(
            subject.until(until_us),
            levels.get(subject.device_id, ()),
            deposits.get(subject.device_id, ()),
            day_over=until_us >= subject.whole[1],
        )
    )


def waits(levels: Iterable[Level], max_silence_us: int) -> list[Wait]:
    """Return how long the bin was full and not emptied, as far as its levels tell, in order.

    Args:
        levels: One bin's, in any order.
        max_silence_us: How long a level holds when no later one comes.
    """
    return _waits(_steps(levels), max_silence_us)


def times_to_empty(
    subjects: Sequence[Subject], levels: Mapping[int, Sequence[Level]], until_us: int
) -> list[Duration]:
    """Return one day's times from reaching 90 % to the emptying, by device and in order.

    Not finished are those of bins that fell silent that day, for when they were emptied is not
    known, and, where the day runs, of bins that still wait.

    Args:
        subjects: The bins that are to be counted.
        levels: By device id, in any order; as for `tally`.
        until_us: What lies after has not come yet.
    """
    return [
        Duration(
            TIME_TO_EMPTY,
            subject.area,
            subject.device_id,
            min(wait.end_us, come.whole[1]),
            min(wait.end_us, come.whole[1]) - wait.full_us,
            wait.emptied,
        )
        for subject in subjects
        for come in (subject.until(until_us),)
        for wait in _waits_of_day(
            come, levels.get(subject.device_id, ()), runs=until_us < subject.whole[1]
        )
    ]


def _waits_of_day(subject: Subject, levels: Sequence[Level], *, runs: bool) -> Iterator[Wait]:
    """Yield the waits that are over in a day as far as it has come, or go on while it runs."""
    start, end = subject.whole
    # The common case: nothing waits that was never full, and rounding costs more than looking.
    if all(level.fill_pct is None or level.fill_pct < FULL_PCT - 1 for level in levels):
        return
    known = (level for level in levels if start - LOOKBACK_US <= level.at_us < end)
    for wait in waits(known, subject.max_silence_us):
        is_over = start <= wait.end_us < end
        # Until the end of its hold the last level speaks of the time to come, too.
        if (is_over or (runs and wait.end_us >= end)) and subject.why_excluded(
            wait.end_us if is_over else end - 1
        ) is None:
            yield wait


def forecast(levels: Iterable[Level], now_us: int) -> Forecast | None:
    """Return when the bin will be full, from its levels since it was last emptied.

    A straight line by Theil and Sen: its slope is the median of the slopes between all pairs, its
    height the median of what each level leaves over, so single wrong levels do not move it.

    Args:
        levels: One bin's, in any order; those after ``now_us`` are left out.
        now_us: Microseconds since 1970.

    Returns:
        None where there are fewer than `FORECAST_READINGS_MIN` levels or less than an hour since
        the last emptying, the level does not rise, or it would take more than 14 days.
    """
    points = _since_emptied(_steps(level for level in levels if level.at_us <= now_us))
    if (
        len(points) < FORECAST_READINGS_MIN
        or points[-1].at_us - points[0].at_us < FORECAST_SPAN_MIN_US
    ):
        return None
    # Every second, every third and so on, from the latest back: pairs grow with the square.
    points = points[:: -ceil(len(points) / FORECAST_READINGS_MAX)][::-1]
    start_us = points[0].at_us
    slope = median(
        (later.fill - first.fill) / (later.at_us - first.at_us)
        for first, later in combinations(points, 2)
    )
    if slope <= 0:
        return None
    height = median(point.fill - slope * (point.at_us - start_us) for point in points)
    full_us = max(now_us, start_us + ceil((_BRIM - height) / slope))
    if full_us - now_us > FORECAST_AHEAD_MAX_US:
        return None
    return Forecast(full_us, slope * DAY_US / 100, len(points), points[-1].at_us)


class _Step(NamedTuple):
    """A level in hundredths of a per cent."""

    at_us: int
    fill: int


def _bin(
    subject: Subject, levels: Sequence[Level], deposits: Sequence[Deposit], *, day_over: bool
) -> Iterator[tuple[Key, Tally]]:
    start, end = subject.whole
    known = [level for level in levels if start - LOOKBACK_US <= level.at_us < end]
    yield from _weights(subject, known, deposits)
    steps = _steps(known)
    yield Key(OVERFLOW, subject.area), _overflow(subject, steps)
    yield Key(REPORTING, subject.area), _reporting(subject, steps, day_over=day_over)
    waiting = _waits(steps, subject.max_silence_us)
    yield Key(MISSED, subject.area), _missed(subject, waiting, heard=_heard(subject, steps))


def _weights(
    subject: Subject, levels: Sequence[Level], deposits: Sequence[Deposit]
) -> Iterator[tuple[Key, Tally]]:
    start, end = subject.whole
    streams = sorted(
        (level.at_us, level.stream)
        for level in levels
        if level.stream is not None and level.at_us >= start - subject.max_silence_us
    )
    speaks = 0
    parts: list[tuple[Key, Tally]] = []
    for deposit in deposits:
        grams = _grams(subject, deposit)
        if not start <= deposit.at_us < end:
            continue
        excluded = subject.why_excluded(deposit.at_us)
        if excluded is None:
            speaks = 1
        stream = deposit.stream or _stream_at(streams, deposit.at_us)
        recyclable = None if stream is None else stream == "recyclable"
        for indicator, good in ((SORTED, deposit.sorted_ok), (RECOVERED, recyclable)):
            part = Tally(excluded={excluded: grams}) if excluded else _part(grams, good)
            parts.append((Key(indicator, subject.area), part))
    for indicator in (SORTED, RECOVERED):
        yield Key(indicator, subject.area), Tally(subjects=speaks)
    yield from parts


def _part(amount: int, good: bool | None) -> Tally:
    if good is None:
        return Tally(total=amount)
    return Tally(amount if good else 0, 0 if good else amount, amount)


def _stream_at(streams: Sequence[tuple[int, str]], at_us: int) -> str | None:
    """Return what the bin was meant for at an instant: as its latest reading told."""
    index = bisect_right(streams, at_us, key=lambda told: told[0])
    return streams[index - 1][1] if index else None


def _overflow(subject: Subject, steps: Sequence[_Step]) -> Tally:
    overflow_us = sum(
        overlap(subject.counted, *hold)
        for step, hold in _holds(steps, subject.max_silence_us)
        if step.fill >= _FULL
    )
    return Tally(overflow_us, 0, overflow_us, _heard(subject, steps), subject.excluded)


def _heard(subject: Subject, steps: Sequence[_Step]) -> int:
    """Count a bin that told a level that day: that nothing happened is told only of such."""
    return int(subject.counted_us > 0 and any(step.at_us >= subject.whole[0] for step in steps))


def _reporting(subject: Subject, steps: Sequence[_Step], *, day_over: bool) -> Tally:
    if subject.whole[0] == subject.whole[1]:
        return Tally()  # The day has not come.
    if not subject.counted:
        reason = "maintenance" if subject.in_service else "not_in_service"
        return Tally(excluded={reason: 1})
    reported = any(step.at_us >= subject.whole[0] for step in steps)
    return Tally(int(reported), int(day_over and not reported), 1, 1)


def _missed(subject: Subject, waiting: Iterable[Wait], *, heard: int) -> Tally:
    missed = 0
    excluded: dict[str, int] = {}
    start, end = subject.whole
    for wait in waiting:
        for mark in range(wait.full_us + DAY_US, min(wait.end_us, end), DAY_US):
            if mark < start:
                continue
            reason = subject.why_excluded(mark)
            if reason is None:
                missed += 1
            else:
                excluded[reason] = excluded.get(reason, 0) + 1
    return Tally(missed, 0, missed, heard, excluded)


def _steps(levels: Iterable[Level]) -> list[_Step]:
    """Return the levels that tell one, in order, of those at one instant the fullest."""
    fullest: dict[int, int] = {}
    for level in levels:
        if level.fill_pct is not None:
            fill = _hundredths(level.fill_pct)
            fullest[level.at_us] = max(fill, fullest.get(level.at_us, 0))
    return [_Step(*item) for item in sorted(fullest.items())]


def _holds(steps: Sequence[_Step], max_silence_us: int) -> Iterator[tuple[_Step, Span]]:
    """Yield each level with the time it holds."""
    for index, step in enumerate(steps):
        silent_us = step.at_us + max_silence_us
        following = steps[index + 1].at_us if index + 1 < len(steps) else silent_us
        yield step, (step.at_us, min(following, silent_us))


def _waits(steps: Sequence[_Step], max_silence_us: int) -> list[Wait]:
    found: list[Wait] = []
    since: int | None = None
    highest = silent_us = 0
    for step in steps:
        if since is not None and step.at_us > silent_us:
            found.append(Wait(since, silent_us, emptied=False))
            since = None
        elif since is not None and step.fill <= highest - _EMPTIED_BY:
            found.append(Wait(since, step.at_us, emptied=True))
            since = None
        if since is None and step.fill >= _FULL:
            since, highest = step.at_us, step.fill
        highest = max(highest, step.fill)
        silent_us = step.at_us + max_silence_us
    if since is not None:
        found.append(Wait(since, silent_us, emptied=False))
    return found


def _since_emptied(steps: Sequence[_Step]) -> Sequence[_Step]:
    """Return the levels from the last fall of 30 points on, unless the next level takes it back."""
    first = highest = 0
    for index, step in enumerate(steps):
        after = steps[min(index + 1, len(steps) - 1)]
        if max(step.fill, after.fill) <= highest - _EMPTIED_BY:
            first, highest = index, step.fill
        highest = max(highest, step.fill)
    return steps[first:]


def _grams(subject: Subject, deposit: Deposit) -> int:
    weight_kg = deposit.weight_kg
    if not (isfinite(weight_kg) and weight_kg >= 0):
        raise ValueError(f"device {subject.device_id}: not a weight: {weight_kg} kg, in {deposit}")
    return half_up(weight_kg, 3)


def _hundredths(fill_pct: float) -> int:
    if not (isfinite(fill_pct) and fill_pct >= 0):
        raise ValueError(f"not a level: {fill_pct} %")
    return half_up(fill_pct, 2)
