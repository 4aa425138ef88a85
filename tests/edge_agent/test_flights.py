# SPDX-License-Identifier: Apache-2.0
"""What is under way is bounded, never sent needlessly, and all of it arrives in the end."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.flights import Cursor, Flight, Pace
from edge_agent.lanes import LaneState

WINDOW = 7


class Link:
    """A lane, a lossy way to the server, and what the server has stored; loop time in hand."""

    def __init__(self, backlog: int, seed: int, loss: float) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.stored: set[int] = set()
        self.sent: list[int] = []
        self.flight = Flight()
        self.state = LaneState("telemetry", "s-1", 1, backlog + 1, backlog, 0)

    def append(self) -> None:
        self.state = replace(self.state, next=self.state.next + 1)

    def send(self, cursor: Cursor, end: int) -> None:
        """Publish one message, as the publisher does."""
        flight = self.flight
        first = flight.following(cursor.sent + 1)
        if flight.room(cursor, WINDOW) <= 0 or first >= end:
            return
        assert first not in self.known_stored()
        cursor.sent = first
        cursor.sent_max = max(cursor.sent_max, first)
        self.sent.append(first)
        if self.rng.random() >= self.loss:
            self.stored.add(first)

    def known_stored(self) -> set[int]:
        return {seq for first, last in self.flight.beyond for seq in range(first, last + 1)}

    def answer(self) -> None:
        """Tell the watermark and the ranges beyond it, as ingest does; the outbox lets go."""
        upto = 0
        while upto + 1 in self.stored:
            upto += 1
        ranges: list[tuple[int, int]] = []
        for seq in sorted(seq for seq in self.stored if seq > upto):
            if ranges and ranges[-1][1] == seq - 1:
                ranges[-1] = (ranges[-1][0], seq)
            else:
                ranges.append((seq, seq))
        self.state = replace(self.state, oldest=max(self.state.oldest, upto + 1))
        self.flight.tell_stored(ranges[:16], self.state)

    def step(self) -> None:
        self.now += 1
        flight = self.flight
        flight.look(self.state, self.now)
        for cursor in flight.cursors():
            if cursor.flying and cursor.silent_s(self.now) >= 10:
                cursor.begin_again(self.now)
        if flight.live is not None:
            self.send(flight.live, self.state.next)
            self.send(flight.main, flight.live_first)
        else:
            self.send(flight.main, self.state.next)
        in_flight = [seq for seq in range(1, self.state.next) if self.flies(seq)]
        assert len(in_flight) <= WINDOW * len(flight.cursors())

    def flies(self, seq: int) -> bool:
        known = self.known_stored()
        return any(c.stored < seq <= c.sent and seq not in known for c in self.flight.cursors())


@settings(max_examples=150, deadline=None)
@given(
    backlog=st.integers(0, 60),
    live=st.integers(0, 40),
    seed=st.integers(0, 10_000),
    loss=st.sampled_from([0.0, 0.2, 0.6]),
    reconnects=st.integers(0, 3),
)
def test_everything_arrives_whatever_is_lost(
    backlog: int, live: int, seed: int, loss: float, reconnects: int
) -> None:
    link = Link(backlog, seed, loss)
    link.flight.look(link.state, 0)
    if backlog:
        link.flight.part(backlog + 1, 0)
    total = backlog + live
    for number in range(10_000):
        if live and link.rng.random() < 0.3:
            link.append()
            live -= 1
        link.step()
        if link.rng.random() < 0.4:
            link.answer()
        if reconnects and number % 50 == 49:
            reconnects -= 1
            link.flight.connected(link.now, 0)
        if not live and link.state.oldest > total:
            break
    assert link.state.oldest == total + 1
    assert link.stored == set(range(1, total + 1))
    if loss == 0 and not reconnects:
        assert set(link.sent) == link.stored


def test_live_is_sent_first_and_one_cursor_remains_when_the_backlog_is_through() -> None:
    link = Link(backlog=20, seed=1, loss=0)
    link.flight.look(link.state, 0)
    link.flight.part(21, 0)
    for _ in range(5):
        link.append()
    link.step()
    assert link.sent == [21, 1]
    for _ in range(100):
        link.step()
        link.answer()
    assert sorted(link.sent) == list(range(1, 26)), "each once"
    link.flight.look(link.state, link.now)
    assert link.flight.live is None
    assert link.flight.main.sent == 25


def test_server_restored_from_a_backup_is_sent_again_what_it_forgot() -> None:
    link = Link(backlog=10, seed=1, loss=0)
    link.flight.look(link.state, 0)
    link.flight.part(11, 0)
    for _ in range(3):
        link.append()
    for _ in range(3):
        link.step()
    link.answer()
    link.flight.look(link.state, link.now)
    live = link.flight.live
    assert live is not None
    assert live.stored == 13
    link.stored = set()
    link.answer()
    link.flight.connected(link.now, 0)
    link.sent.clear()
    for _ in range(60):
        link.step()
        link.answer()
    assert link.stored == set(range(4, 14)), "what the outbox still holds"


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param([(5, 4)], id="reversed"),
        pytest.param([(8, 11)], id="never-given-out"),
    ],
)
def test_impossible_ranges_are_left_out(ranges: list[tuple[int, int]]) -> None:
    link = Link(backlog=10, seed=1, loss=0)
    link.flight.tell_stored([*ranges, (6, 7)], link.state)
    assert link.flight.beyond == ((6, 7),)


def test_message_stored_behind_others_proves_them_lost_once() -> None:
    link = Link(20, seed=1, loss=0.0)
    flight = link.flight
    for _ in range(5):
        link.step()
    main = flight.main
    link.stored -= {2, 3}
    link.answer()
    flight.look(link.state, link.now)
    assert flight.lost(main)
    main.begin_again(link.now)
    # What is under way again is not lost because the same answer comes again.
    for _ in range(2):
        link.step()
    link.stored -= {2, 3}
    link.answer()
    assert link.sent[-2:] == [2, 3]
    assert not flight.lost(main)
    # A later one that arrived is a new proof.
    link.step()
    link.answer()
    assert link.sent[-1] == 6
    assert flight.lost(main)


def test_what_goes_again_in_vain_waits_twice_as_long_until_more_is_stored() -> None:
    cursor = Cursor(stored=4, sent=9, sent_max=9)
    waited: list[int] = []
    for turn in range(5):
        waited.append(cursor.patience)
        cursor.begin_again_in_vain(100.0 * turn)
        assert (cursor.sent, cursor.resent_max) == (4, 9)
        cursor.sent = 9
    assert waited == [1, 2, 4, 8, 8]
    cursor.reach(4, 600.0)
    assert cursor.patience == 8
    cursor.reach(5, 600.0)
    assert cursor.patience == 1


def test_new_connection_waits_no_longer_than_usual() -> None:
    flight = Flight("s-1")
    flight.main.begin_again_in_vain(1.0)
    flight.connected(2.0, 0.5)
    assert flight.main.patience == 1


def test_new_stream_forgets_what_was_under_way() -> None:
    link = Link(backlog=10, seed=1, loss=0)
    for _ in range(4):
        link.step()
    link.flight.tell_stored([(3, 4)], link.state)
    link.state = LaneState("telemetry", "s-2", 1, 6, 5, 0)
    link.flight.look(link.state, link.now)
    assert (link.flight.main.sent, link.flight.beyond) == (0, ())


@settings(max_examples=100, deadline=None)
@given(
    rate=st.sampled_from([0.5, 3.0, 100.0]),
    steps=st.lists(st.floats(0.001, 2), min_size=1, max_size=60),
)
def test_pace_is_kept_in_every_stretch_of_time(rate: float, steps: list[float]) -> None:
    pace = Pace(rate)
    now = 0.0
    went: list[tuple[float, int]] = []
    for step in steps:
        now += step
        count = min(pace.room(now), 50)
        pace.spend(count, now)
        went.append((now, count))
    for i, (begin, _) in enumerate(went):
        for j in range(i, len(went)):
            total = sum(count for _, count in went[i : j + 1])
            assert total <= rate * (went[j][0] - begin) + pace.burst + 1e-3


def test_pace_is_reached_by_whoever_waits_for_it() -> None:
    pace = Pace(100)
    now, count = 0.0, 0
    while now < 10:
        room = pace.room(now)
        assert room == pace.burst
        pace.spend(room, now)
        count += room
        now += pace.wait_s(now)
    assert count == pytest.approx(1_000, abs=pace.burst)
