# SPDX-License-Identifier: Apache-2.0
"""Spans of time in whole microseconds since 1970, and how long what was reported holds.

Integers throughout, so sums are exact and do not depend on order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

Span = tuple[int, int]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(instant: datetime) -> int:
    """Return an aware instant as whole microseconds since 1970 in UTC."""
    return (instant - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """Return microseconds since 1970 as an aware instant in UTC."""
    return _EPOCH + timedelta(microseconds=us)


@lru_cache(maxsize=10_000)
def day_span(day: date, zone: str) -> Span:
    """Return a local day's span, from midnight to midnight: 23, 24 or 25 hours."""
    tz = ZoneInfo(zone)
    start, end = (datetime.combine(day + timedelta(days=days), time(), tz) for days in (0, 1))
    return to_us(start), to_us(end)


def day_of(instant_us: int, zone: str) -> date:
    """Return the local date of an instant."""
    return from_us(instant_us).astimezone(ZoneInfo(zone)).date()


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
    covered = 0
    for begin, stop in spans:  # no generator: asked for each reading of a lamp
        if begin < end and start < stop:
            covered += min(stop, end) - max(begin, start)
    return covered


@dataclass(frozen=True, slots=True)
class Hold:
    """What one reading is known to mean, good or bad, from ``start`` to ``end``."""

    start: int
    end: int
    good: bool


def holds(readings: Sequence[tuple[int, bool]], max_silence_us: int) -> Iterator[Hold]:
    """Yield how long each reading but the last is valid.

    Args:
        readings: Instant and what it says, ordered by both: of two with one instant, good wins.
        max_silence_us: How long a reading holds when no later one comes.
    """
    for (start, good), (later, _) in pairwise(readings):
        if later > start:
            yield Hold(start, min(later, start + max_silence_us), good)


def runs(words: Iterable[tuple[int, bool | None]], max_silence_us: int) -> list[Hold]:
    """Return from when to when readings say one thing: as `holds`, joined where they touch.

    Args:
        words: Instant and what it says, None where it does not tell, in any order; of two with one
            instant, good wins. The last one holds too.
        max_silence_us: How long a reading holds when no later one comes.
    """
    told = sorted((at, good) for at, good in words if good is not None)
    if told:
        told.append((told[-1][0] + max_silence_us, True))
    found: list[Hold] = []
    for hold in holds(told, max_silence_us):
        if found and found[-1].end == hold.start and found[-1].good is hold.good:
            found[-1] = Hold(found[-1].start, hold.end, hold.good)
        else:
            found.append(hold)
    return found


def covered(spans: Sequence[Span], light: Iterable[Hold], *, good: bool) -> int:
    """Return how much of disjoint ``spans`` is known to be good (or bad), in microseconds."""
    return sum(overlap(spans, hold.start, hold.end) for hold in light if hold.good is good)


def settle(
    spans: Sequence[Span], readings: Sequence[tuple[int, bool]], max_silence_us: int
) -> tuple[int, int]:
    """Return good and bad time within ``spans`` as all readings but the open last one settle it."""
    good = bad = 0
    for hold in holds(readings, max_silence_us):
        covered = overlap(spans, hold.start, hold.end)
        if hold.good:
            good += covered
        else:
            bad += covered
    return good, bad
