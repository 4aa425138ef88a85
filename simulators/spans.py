# SPDX-License-Identifier: Apache-2.0
"""Stretches of time: half-open spans of whole microseconds since 1970, in UTC."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

Span = tuple[int, int]

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(instant: datetime) -> int:
    """Return an aware instant as whole microseconds since 1970."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(us: int) -> datetime:
    """Return microseconds since 1970 as an aware instant in UTC."""
    return _EPOCH + timedelta(microseconds=us)


def seconds(value: float) -> int:
    """Return seconds as whole microseconds."""
    return round(value * SECOND)


def normal(spans: Iterable[Span]) -> list[Span]:
    """Return the same time as disjoint spans in order; empty ones vanish, touching ones join."""
    result: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def intersect(left: Sequence[Span], right: Sequence[Span]) -> list[Span]:
    """Return what lies in both; each side must be `normal`."""
    result: list[Span] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            result.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return result


def subtract(spans: Sequence[Span], removed: Sequence[Span]) -> list[Span]:
    """Return ``spans`` without ``removed``; each side must be `normal`."""
    result: list[Span] = []
    for span in spans:
        start, end = span
        for gone_from, gone_to in removed:
            if gone_to <= start:
                continue
            if gone_from >= end:
                break
            if start < gone_from:
                result.append((start, gone_from))
            start = gone_to
        if start < end:
            result.append((start, end))
    return result


def clip(spans: Iterable[Span], within: Span) -> list[Span]:
    """Return what lies within one span."""
    cut = ((max(start, within[0]), min(end, within[1])) for start, end in spans)
    return [span for span in cut if span[0] < span[1]]


def length(spans: Iterable[Span]) -> int:
    """Return the time that disjoint spans cover, in microseconds."""
    return sum(end - start for start, end in spans)


def covers(spans: Iterable[Span], us: int) -> bool:
    """Whether an instant lies in one of ``spans``."""
    return any(start <= us < end for start, end in spans)
