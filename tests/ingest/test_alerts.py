# SPDX-License-Identifier: Apache-2.0
"""The alert machine against a naive model, and its flags by table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.alerts import (
    IDLE,
    Acknowledge,
    Active,
    Alert,
    AlreadyDone,
    Clear,
    Decision,
    Pending,
    Raise,
    Track,
    apply,
    elapse,
    step,
)

START = datetime(2026, 11, 21, 18, tzinfo=UTC)
DELAY = timedelta(seconds=300)
SILENCE = timedelta(seconds=1_800)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def run(*readings: tuple[float, bool | None], delay: timedelta = DELAY) -> list[Decision]:
    track: Track = IDLE
    decisions: list[Decision] = []
    for seconds, holds in readings:
        track, decided = step(
            track, holds, at(seconds), on_delay=delay, known_until=at(seconds) + SILENCE
        )
        decisions.extend(decided)
    return decisions


def told(decisions: list[Decision]) -> list[tuple[str, float]]:
    return [(type(item).__name__, (item.at - START).total_seconds()) for item in decisions]


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        pytest.param([(0, True), (299, False)], [], id="shorter-than-the-delay"),
        pytest.param([(0, True), (600, True)], [("Raise", 300)], id="raised-when-the-delay-ends"),
        pytest.param(
            [(0, True), (600, False)], [("Raise", 300), ("Clear", 600)], id="held-until-it-ended"
        ),
        pytest.param([(0, True), (100, None), (600, None)], [("Raise", 300)], id="hysteresis"),
        pytest.param([(0, True), (400, True), (500, True)], [("Raise", 300)], id="raised-once"),
        pytest.param(
            [(0, True), (400, True), (500, False), (600, True), (1000, True)],
            [("Raise", 300), ("Clear", 500), ("Raise", 900)],
            id="again-after-it-was-over",
        ),
        pytest.param([(0, False), (1, None), (2, False)], [], id="never-met"),
    ],
)
def test_condition_follows_its_readings(
    readings: list[tuple[float, bool | None]], expected: list[tuple[str, float]]
) -> None:
    assert told(run(*readings)) == expected


def test_without_delay_it_is_raised_at_once() -> None:
    assert told(run((5, True), (9, False), delay=timedelta(0))) == [("Raise", 5), ("Clear", 9)]


def test_what_is_not_known_neither_raises_nor_holds() -> None:
    long = timedelta(hours=1)
    track, _ = step(IDLE, True, at(0), on_delay=long, known_until=at(0) + SILENCE)
    track, raised = elapse(track, at(3_000), on_delay=long)
    assert (track, raised) == (IDLE, None)


class Naive(RuleBasedStateMachine):
    """Remember everything, decide by looking at all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.track: Track = IDLE
        self.now = START
        self.standing = False
        self.raises: list[datetime] = []
        self.clears: list[datetime] = []
        self.held: datetime | None = None  # since when the condition holds without a break
        self.confirmed: datetime | None = None

    def _advance(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        if self.held is None or self.confirmed is None or self.standing:
            return
        deadline = self.held + DELAY
        if deadline <= self.now and deadline <= self.confirmed + SILENCE:
            self.standing = True
            self.raises.append(deadline)
        elif self.now > self.confirmed + SILENCE:
            self.held = None

    def _decided(self, decisions: tuple[Decision, ...]) -> None:
        for decision in decisions:
            match decision:
                case Raise():
                    assert decision.at == self.raises[-1]
                case Clear():
                    assert decision.at == self.clears[-1]
        self.seen_raises = getattr(self, "seen_raises", 0) + sum(
            isinstance(decision, Raise) for decision in decisions
        )

    @rule(seconds=st.integers(0, 2_500), holds=st.sampled_from([True, False, None]))
    def read(self, seconds: int, holds: bool | None) -> None:
        self._advance(seconds)
        if holds:
            self.held = self.held or self.now
            self.confirmed = self.now
        elif holds is False:
            if self.standing:
                self.clears.append(self.now)
            self.held, self.standing = None, False
        self.track, decisions = step(
            self.track, holds, self.now, on_delay=DELAY, known_until=self.now + SILENCE
        )
        self._decided(decisions)

    @rule(seconds=st.integers(0, 2_500))
    def wait(self, seconds: int) -> None:
        self._advance(seconds)
        self.track, raised = elapse(self.track, self.now, on_delay=DELAY)
        self._decided(() if raised is None else (raised,))

    @rule()
    def restart(self) -> None:
        """A restart knows the track only by what the tables keep of it."""
        match self.track:
            case Pending(since, known_until):
                self.track = Pending(since, known_until)
            case Active(raised_at):
                self.track = Active(raised_at)
            case _:
                self.track = IDLE

    @invariant()
    def agrees(self) -> None:
        assert isinstance(self.track, Active) == self.standing
        assert getattr(self, "seen_raises", 0) == len(self.raises)


Naive.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestAgainstNaiveModel = Naive.TestCase


@given(st.lists(st.tuples(st.integers(1, 900), st.sampled_from([True, False, None]))))
def test_raises_and_clears_take_turns(readings: list[tuple[int, bool | None]]) -> None:
    seconds = 0
    timed: list[tuple[float, bool | None]] = []
    for gap, holds in readings:
        seconds += gap
        timed.append((seconds, holds))
    names = [name for name, _ in told(run(*timed))]
    assert names == (["Raise", "Clear"] * len(names))[: len(names)]


def test_flags_are_orthogonal() -> None:
    alert = Alert(active=True, acknowledged=False, version=1)
    noted = apply(alert, Acknowledge(at(10), "officer", "on my way"))
    cleared = apply(noted, Clear(at(20), "condition_ended"))
    assert (cleared.active, cleared.acknowledged, cleared.version) == (False, True, 3)
    other_way = apply(apply(alert, Clear(at(20), "")), Acknowledge(at(30), "officer", "on my way"))
    assert (other_way.active, other_way.acknowledged) == (False, True)


@pytest.mark.parametrize("action", [Clear(at(30), ""), Acknowledge(at(30), "second", None)])
def test_nothing_happens_twice(action: Clear | Acknowledge) -> None:
    done = Alert(active=False, acknowledged=True, version=3)
    with pytest.raises(AlreadyDone):
        apply(done, action)
