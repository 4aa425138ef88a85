# SPDX-License-Identifier: Apache-2.0
"""Watermarks of a city are told together, those of a small place at once; none is forgotten."""

from __future__ import annotations

from ingest.downlink import ACK_DELAY_S, ACK_MESSAGES, ACKS_AT_ONCE, Held
from ingest.store.streams import Mark, StreamKey

CITY = 2 * ACKS_AT_ONCE


def marks(count: int, upto: int) -> dict[StreamKey, Mark]:
    return {(f"gw-{n}", "t"): Mark(upto) for n in range(count)}


def one_each(watermarks: dict[StreamKey, Mark]) -> dict[StreamKey, int]:
    return dict.fromkeys(watermarks, 1)


def test_few_watermarks_are_told_at_once() -> None:
    held, few = Held(), marks(ACKS_AT_ONCE, 1)
    assert held.take(few, one_each(few), (), 0.0) == few
    assert held.overdue(1e9) == {}


def test_many_are_told_after_ten_messages_of_a_stream() -> None:
    held = Held()
    for turn in range(1, ACK_MESSAGES):
        told = marks(CITY, turn)
        assert held.take(told, one_each(told), (), 0.0) == {}
    last = marks(CITY, ACK_MESSAGES)
    assert held.take(last, one_each(last), (), 0.0) == last
    assert held.overdue(1e9) == {}


def test_many_are_told_after_five_seconds_and_as_far_as_they_came_by_then() -> None:
    held, first, second = Held(), marks(CITY, 1), marks(CITY, 2)
    held.take(first, one_each(first), (), 0.0)
    held.take(second, one_each(second), (), 1.0)
    assert held.overdue(ACK_DELAY_S - 0.01) == {}
    assert held.overdue(ACK_DELAY_S) == second
    assert held.overdue(1e9) == {}


def test_only_those_that_waited_long_enough_are_told() -> None:
    held = Held()
    early, late = marks(CITY, 1), {(f"late-{n}", "t"): Mark(1) for n in range(CITY)}
    held.take(early, one_each(early), (), 0.0)
    held.take(late, one_each(late), (), 1.0)
    assert held.overdue(ACK_DELAY_S) == early
    assert held.overdue(ACK_DELAY_S + 1.0) == late


def test_a_hole_and_a_refusal_are_told_at_once() -> None:
    held, told = Held(), marks(CITY, 7)
    told["gw-1", "t"] = Mark(3, ((5, 7),))
    due = held.take(told, one_each(told), {"gw-2"}, 0.0)
    assert due == {key: told[key] for key in (("gw-1", "t"), ("gw-2", "t"))}


def test_few_that_come_while_others_wait_take_theirs_along() -> None:
    held, told = Held(), marks(CITY, 1)
    held.take(told, one_each(told), (), 0.0)
    few = marks(3, 2)
    assert held.take(few, one_each(few), (), 1.0) == few
    assert held.overdue(1e9) == {key: mark for key, mark in told.items() if key not in few}
