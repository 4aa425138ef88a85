# SPDX-License-Identifier: Apache-2.0
"""Chance is seeded: it depends on its label alone, and is spread as it should be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.chance import Draw


def test_same_label_same_numbers_for_ever() -> None:
    # Written down: another platform or release must not give other worlds.
    assert Draw(1, "lamp", 3).unit() == 0.28935520414105864
    first, second = Draw("a", 1), Draw("a", 1)
    assert [first.unit() for _ in range(30)] == [second.unit() for _ in range(30)]


def test_labels_differ() -> None:
    assert Draw("a", 1).unit() != Draw("a", 2).unit()
    assert Draw("ab").unit() != Draw("a", "b").unit()


@given(st.text(max_size=20), st.integers(1, 1_000))
def test_ranges_hold(label: str, limit: int) -> None:
    draw = Draw(label)
    assert 0 <= draw.unit() < 1
    assert 0 <= draw.below(limit) < limit
    assert -3 <= draw.between(-3, 5) < 5
    assert draw.pick("abc") in "abc"


def test_evenly_spread() -> None:
    draw = Draw("spread")
    counts = [0] * 10
    for _ in range(10_000):
        counts[draw.below(10)] += 1
    assert all(850 < count < 1_150 for count in counts)
    assert 2_700 < sum(draw.chance(0.3) for _ in range(10_000)) < 3_300


def test_nothing_to_pick_from() -> None:
    with pytest.raises(IndexError):
        Draw("none").pick(())
