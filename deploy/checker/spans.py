# SPDX-License-Identifier: Apache-2.0
"""Spans of time: joined, cut, laid over each other."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

Span = tuple[int, int]  # [from, to) in microseconds since 1970, UTC


def by_subject(rows: Iterable[tuple[str, int, int]]) -> dict[str, list[Span]]:
    """The spans of rows (whose, from, to), joined."""
    found: dict[str, list[Span]] = defaultdict(list)
    for subject, from_us, to_us in rows:
        found[subject].append((from_us, to_us))
    return {subject: join(spans) for subject, spans in found.items()}


def join(spans: Iterable[Span]) -> list[Span]:
    """The same time as disjoint spans in order."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def intersect(some: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The time in both; both disjoint and in order."""
    common: list[Span] = []
    ends = [end for _, end in others]
    for start, end in some:
        for other_start, other_end in others[bisect_left(ends, start) :]:
            if other_start >= end:
                break
            low, high = max(start, other_start), min(end, other_end)
            if low < high:
                common.append((low, high))
    return common


def clip(spans: Sequence[Span], until: int) -> list[Span]:
    """The time before ``until``."""
    return [(start, min(end, until)) for start, end in spans if start < until]


def length(spans: Iterable[Span]) -> int:
    """Microseconds in all."""
    return sum(end - start for start, end in spans)


def contains(spans: Sequence[Span], instant_us: int) -> bool:
    """Whether an instant lies in one of the spans, both ends included."""
    return any(start <= instant_us <= end for start, end in spans)
