# SPDX-License-Identifier: Apache-2.0
"""Spans against sets of single microseconds."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from simulators.spans import (
    Span,
    clip,
    covers,
    instant,
    intersect,
    length,
    micros,
    normal,
    subtract,
)

instants = st.integers(0, 40)
spans = st.lists(st.tuples(instants, instants), max_size=6)


def points(some: Iterable[Span]) -> set[int]:
    return {us for start, end in some for us in range(start, end)}


@given(spans)
def test_normal_is_the_same_time_in_order(some: list[Span]) -> None:
    tidy = normal(some)
    assert points(tidy) == points(some)
    assert all(start < end for start, end in tidy)
    assert all(left[1] < right[0] for left, right in pairwise(tidy))
    assert length(tidy) == len(points(some))


@given(spans, spans)
def test_both_and_without(left: list[Span], right: list[Span]) -> None:
    mine, other = normal(left), normal(right)
    assert points(intersect(mine, other)) == points(mine) & points(other)
    assert points(subtract(mine, other)) == points(mine) - points(other)


@given(spans, st.tuples(instants, instants), instants)
def test_within_one(some: list[Span], within: Span, us: int) -> None:
    assert points(clip(some, within)) == points(some) & points([within])
    assert covers(some, us) == (us in points(some))


@given(st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)))  # noqa: DTZ001 - made aware below
def test_instants_are_exact(naive: datetime) -> None:
    at = naive.replace(tzinfo=UTC)
    assert instant(micros(at)) == at
