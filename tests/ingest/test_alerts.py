# SPDX-License-Identifier: Apache-2.0
"""The two alert machines against naive models, and their corners by table."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.alerts import (
    IDLE,
    OUT_OF_SERVICE_MAX,
    SHELVED_MAX,
    Acknowledge,
    Action,
    Active,
    Alert,
    AlreadyDone,
    Clear,
    Decision,
    Ending,
    Note,
    Pending,
    PutBack,
    Raise,
    Refused,
    Reset,
    Shelve,
    Suppress,
    TakeOut,
    Track,
    Unshelve,
    Unsuppress,
    apply,
    continues,
    done,
    elapse,
    raised,
    step,
)

START = datetime(2026, 11, 21, 18, tzinfo=UTC)
DELAY = timedelta(seconds=300)
OFF = timedelta(seconds=120)
SILENCE = timedelta(seconds=1_800)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def run(
    *readings: tuple[float, bool | None], delay: timedelta = DELAY, off: timedelta = timedelta(0)
) -> list[Decision]:
    track: Track = IDLE
    decisions: list[Decision] = []
    for seconds, holds in readings:
        track, decided = step(
            track,
            holds,
            at(seconds),
            on_delay=delay,
            off_delay=off,
            known_until=at(seconds) + SILENCE,
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


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        pytest.param(
            [(0, True), (10, False), (60, True), (70, False), (190, False)],
            [("Raise", 0), ("Clear", 190)],
            id="flapping-is-one-alert",
        ),
        pytest.param(
            [(0, True), (10, False), (500, None)], [("Raise", 0), ("Clear", 130)], id="by-time"
        ),
        pytest.param(
            [(0, True), (10, False), (120, True), (5_000, None)], [("Raise", 0)], id="came-back"
        ),
    ],
)
def test_a_condition_that_flaps_is_cleared_when_it_stayed_away(
    readings: list[tuple[float, bool | None]], expected: list[tuple[str, float]]
) -> None:
    assert told(run(*readings, delay=timedelta(0), off=OFF)) == expected


class Naive(RuleBasedStateMachine):
    """Remember every reading, decide anew from all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.track: Track = IDLE
        self.now = START
        self.readings: list[tuple[datetime, bool]] = []
        self.told: list[tuple[str, datetime]] = []

    def expected(self) -> list[tuple[str, datetime]]:
        """Walk through time from one reading to the next, and to now."""
        said: list[tuple[str, datetime]] = []
        standing, since, until = False, None, START
        for number, (at_, holds) in enumerate([*self.readings, (self.now, None)]):
            # What the last readings said until `at_`: a run of one answer, and its end.
            if since is not None:
                deadline = since + (OFF if standing else DELAY)
                if deadline <= min(at_, until):
                    said.append(("Clear" if standing else "Raise", deadline))
                    standing, since = not standing, None
                elif at_ > until:
                    since = None
            if number == len(self.readings):
                break
            if holds == standing:
                since = None
            elif since is None:
                since = at_
            until = at_ + SILENCE
        return said

    @rule(seconds=st.integers(0, 2_500), holds=st.sampled_from([True, False, None]))
    def read(self, seconds: int, holds: bool | None) -> None:
        self.now += timedelta(seconds=seconds)
        self.track, decisions = step(
            self.track,
            holds,
            self.now,
            on_delay=DELAY,
            off_delay=OFF,
            known_until=self.now + SILENCE,
        )
        self.told += [(type(one).__name__, one.at) for one in decisions]
        if holds is not None:
            self.readings.append((self.now, holds))

    @rule(seconds=st.integers(0, 2_500))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.track, decision = elapse(self.track, self.now, on_delay=DELAY, off_delay=OFF)
        self.told += [] if decision is None else [(type(decision).__name__, decision.at)]

    @rule()
    def restart(self) -> None:
        """A restart knows the track only by what the tables keep of it."""
        match self.track:
            case Pending(since, known_until):
                self.track = Pending(since, known_until)
            case Ending(raised_at, since, known_until):
                self.track = Ending(raised_at, since, known_until)
            case Active(raised_at):
                self.track = Active(raised_at)
            case _:
                self.track = IDLE

    @invariant()
    def agrees(self) -> None:
        assert self.told == self.expected()
        standing = len(self.told) % 2 == 1
        assert isinstance(self.track, Active | Ending) == standing


Naive.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestAgainstNaiveModel = Naive.TestCase


@given(st.lists(st.tuples(st.integers(1, 900), st.sampled_from([True, False, None]))))
def test_raises_and_clears_take_turns(readings: list[tuple[int, bool | None]]) -> None:
    seconds = 0
    timed: list[tuple[float, bool | None]] = []
    for gap, holds in readings:
        seconds += gap
        timed.append((seconds, holds))
    names = [name for name, _ in told(run(*timed, off=OFF))]
    assert names == (["Raise", "Clear"] * len(names))[: len(names)]


def flags(alert: Alert) -> dict[str, object]:
    return {
        "standing": alert.standing,
        "acknowledged": alert.acknowledged,
        "latched": alert.latched,
        "shelved": alert.shelved and alert.shelved.until,
        "out": alert.out_of_service and alert.out_of_service.until,
        "causes": set(alert.suppressed_by),
    }


def explain(timeline: list[tuple[str, Action]], *, latching: bool) -> dict[str, object]:
    """What a reader of the timeline alone would say of the alert: last words win."""
    names = [name for name, _ in timeline]

    def last(*among: str) -> tuple[str, Action] | None:
        return next((entry for entry in reversed(timeline) if entry[0] in among), None)

    def after(name: str) -> int:
        return max((n for n, one in enumerate(names) if one == name), default=-1)

    standing = ended = 0
    for number, name in enumerate(names):
        standing += {"raised": 1, "raised_again": 1, "cleared": -1}.get(name, 0)
        if name == "cleared" and standing == 0:
            ended = number
    begun = max(after("raised"), after("raised_again"))
    over = standing == 0
    shelf = last("shelved", "unshelved")
    shelved: datetime | None = None
    if shelf is not None and isinstance(shelf[1], Shelve):
        once_over = shelf[1].once and over and ended > after("shelved")
        was_over = shelf[1].once and any(
            name == "cleared" and number > after("shelved") and _standing(names[: number + 1]) == 0
            for number, name in enumerate(names)
        )
        shelved = None if once_over or was_over else shelf[1].until
    out = last("out_of_service", "in_service")
    causes: set[str] = set()
    for _, action in timeline:
        if isinstance(action, Suppress):
            causes.add(action.cause)
        elif isinstance(action, Unsuppress):
            causes.discard(action.cause)
    return {
        "standing": standing,
        "acknowledged": after("acknowledged") > begun,
        "latched": latching and over and ended > after("reset"),
        "shelved": shelved,
        "out": out[1].until if out is not None and isinstance(out[1], TakeOut) else None,
        "causes": causes,
    }


def _standing(names: list[str]) -> int:
    return sum({"raised": 1, "raised_again": 1, "cleared": -1}.get(name, 0) for name in names)


STEPS = 1_000_000
# A timeline is read from its beginning each time it is: now and then, and anew after so many.
TIMELINE_MAX = 40


def actions(at_: datetime) -> tuple[Action, ...]:
    soon, late = at_ + timedelta(minutes=5), at_ + timedelta(days=90)
    return (
        Raise(at_, "condition_met"),
        Clear(at_, "condition_ended"),
        Acknowledge(at_, "li", None),
        Reset(at_, "li"),
        Note(at_, "li", "seen"),
        Shelve(at_, "li", soon, "noisy"),
        Shelve(at_, "li", soon, "noisy", once=True),
        Shelve(at_, "li", late, "for ever"),
        Unshelve(at_, "hygiene", "expired"),
        TakeOut(at_, "li", soon, "in repair"),
        PutBack(at_, "li", "person"),
        Suppress(at_, "gateway:gw-1"),
        Suppress(at_, "window:1"),
        Unsuppress(at_, "gateway:gw-1"),
        Unsuppress(at_, "window:1"),
    )


def test_a_million_steps_keep_every_alert_legal_and_explained() -> None:
    draw = random.Random(20261122)
    possible = actions(START)
    alert, timeline, latching = raised(START), [("raised", possible[0])], False
    refused = 0
    for number in range(STEPS):
        action = possible[int(draw.random() * len(possible))]
        try:
            after = apply(alert, action, latching=latching)
        except (AlreadyDone, Refused):
            refused += 1
            continue
        assert after.version == alert.version + 1
        assert after.standing >= 0
        assert not (after.active and after.latched)
        assert not (after.life_safety and after.quiet)
        assert after.active or after.cleared_at is not None
        timeline.append((done(action), action))
        alert = after
        if len(timeline) == TIMELINE_MAX:
            assert flags(alert) == explain(timeline, latching=latching)
            latching = number % 2 == 0
            alert = raised(START, life_safety=number % 3 == 0)
            timeline = [("raised", possible[0])]
    assert STEPS / 4 < refused < STEPS * 3 / 4


@given(st.lists(st.integers(0, len(actions(START)) - 1), max_size=60), st.booleans(), st.booleans())
def test_a_timeline_explains_the_alert(
    numbers: list[int], life_safety: bool, latching: bool
) -> None:
    alert = raised(START, life_safety=life_safety)
    timeline: list[tuple[str, Action]] = [("raised", Raise(START, "condition_met"))]
    for number in numbers:
        action = actions(at(len(timeline)))[number]
        try:
            alert = apply(alert, action, latching=latching)
        except (AlreadyDone, Refused):
            continue
        timeline.append((done(action), action))
        assert flags(alert) == explain(timeline, latching=latching)


def test_flags_are_orthogonal() -> None:
    alert = raised(at(0))
    noted = apply(alert, Acknowledge(at(10), "officer", "on my way"))
    cleared = apply(noted, Clear(at(20), "condition_ended"))
    assert (cleared.active, cleared.acknowledged, cleared.version) == (False, True, 3)
    other_way = apply(apply(alert, Clear(at(20), "")), Acknowledge(at(30), "officer", "on my way"))
    assert (other_way.active, other_way.acknowledged) == (False, True)


@pytest.mark.parametrize(
    "action",
    [
        Clear(at(30), ""),
        Acknowledge(at(30), "second", None),
        Reset(at(30), "second"),
        Unshelve(at(30), "second", "person"),
        PutBack(at(30), "second", "person"),
        Unsuppress(at(30), "gateway:gw-1"),
    ],
)
def test_nothing_happens_twice(action: Action) -> None:
    over = Alert(standing=0, acknowledged=True, version=3)
    with pytest.raises(AlreadyDone):
        apply(over, action)


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        (Shelve(at(0), "li", at(0) + SHELVED_MAX + timedelta(seconds=1), "noisy"), "time.too_long"),
        (Shelve(at(0), "li", at(0), "noisy"), "time.past"),
        (TakeOut(at(0), "li", at(0) + OUT_OF_SERVICE_MAX * 2, "broken"), "time.too_long"),
        (TakeOut(at(0), "li", at(-1), "broken"), "time.past"),
        (Reset(at(0), "li"), "alert.active"),
    ],
)
def test_what_has_no_end_is_refused(action: Action, rule: str) -> None:
    with pytest.raises(Refused) as caught:
        apply(raised(at(0)), action)
    assert caught.value.rule == rule


def test_danger_to_life_is_never_quiet() -> None:
    alert = raised(at(0), life_safety=True)
    for action in (Shelve(at(1), "li", at(60), "noisy"), Suppress(at(1), "gateway:gw-1")):
        with pytest.raises(Refused, match="life_safety"):
            apply(alert, action)
    # A detector that is replaced is marked so, and stays in sight.
    taken_out = apply(alert, TakeOut(at(1), "li", at(60), "replaced"))
    assert taken_out.out_of_service is not None
    assert not taken_out.quiet


def test_raised_again_asks_for_attention_anew() -> None:
    alert = apply(raised(at(0)), Acknowledge(at(10), "li"))
    again = apply(apply(alert, Clear(at(20), "")), Raise(at(30), "condition_met"))
    assert (again.active, again.acknowledged, again.repeats) == (True, False, 1)
    assert again.last_raised_at == at(30)


@pytest.mark.parametrize(
    ("before", "seconds", "same"),
    [
        pytest.param(raised(at(0)), 9_000, True, id="stands"),
        pytest.param(apply(raised(at(0)), Clear(at(10), "")), 300, True, id="soon-after"),
        pytest.param(apply(raised(at(0)), Clear(at(10), "")), 900, False, id="long-after"),
        pytest.param(
            apply(apply(raised(at(0)), Shelve(at(5), "li", at(9_999), "noisy")), Clear(at(10), "")),
            9_000,
            True,
            id="shelved-stays-shelved",
        ),
    ],
)
def test_an_alert_is_raised_again_or_anew(before: Alert, seconds: float, same: bool) -> None:
    assert continues(before, at(seconds), timedelta(minutes=10)) is same
