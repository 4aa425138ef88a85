# SPDX-License-Identifier: Apache-2.0
"""What happens at gates."""

from edge_agent.kinds.gate import GateReading, Passage
from simulators.faults import FaultKind
from simulators.kinds.gate import PASSAGES_A_DAY
from simulators.spans import HOUR, MINUTE, SECOND, micros
from simulators.world import DAY
from tests.simulators.town import NOON, changes, fault, live_through, world

GATE = "c01-gate-001"
POLLS = [NOON, NOON + DAY]


def test_people_pass_with_their_cards() -> None:
    passages = [one for one in live_through(world(), GATE, POLLS) if isinstance(one, Passage)]
    granted = [one for one in passages if one.event == "granted"]
    assert 25 < len(granted) <= PASSAGES_A_DAY + 5
    assert {one.direction for one in granted} == {"in", "out"}
    for one in granted:
        assert one.credential is not None
        assert len(one.credential) == 10
        assert one.credential.isdecimal()
    assert len({one.credential for one in granted}) > 10


def test_strangers_are_turned_away() -> None:
    town = world()
    told = [
        one
        for number in range(1, 7)
        for one in live_through(town, f"c01-gate-{number:03d}", [NOON, NOON + 3 * DAY])
        if isinstance(one, Passage)
    ]
    denied = [one for one in told if one.event == "denied"]
    assert 0 < len(denied) < len(told) / 10
    residents = {one.credential for one in told if one.event == "granted"}
    assert not residents & {one.credential for one in denied}


def test_the_door_opens_for_each_and_closes_behind() -> None:
    told = changes(live_through(world(), GATE, POLLS), POLLS)
    doors = [one for one in told if isinstance(one, GateReading)]
    granted = [one.at for one in told if isinstance(one, Passage) and one.event == "granted"]
    assert [one.at for one in doors if one.door == "open"] == granted
    for opened, closed in zip(doors[::2], doors[1::2], strict=True):
        assert (opened.door, opened.lock) == ("open", "unlocked")
        assert (closed.door, closed.lock) == ("closed", "locked")
        assert 3 * SECOND <= micros(closed.at) - micros(opened.at) < 9 * SECOND


def test_a_forced_door_stays_so_until_restored() -> None:
    one = fault(FaultKind.GATE_FORCED, GATE, NOON + 5 * HOUR, 900)
    told = live_through(world([one]), GATE, [one.from_us - 1, one.to_us + 1])
    events = [(micros(seen.at), seen.event) for seen in told if isinstance(seen, Passage)]
    doors = [(micros(seen.at), seen.door) for seen in told if isinstance(seen, GateReading)]
    assert events == [(one.from_us, "forced"), (one.to_us, "restored")]
    assert doors[1:] == [
        (one.from_us, "forced"),
        (one.to_us, "closed"),
        (one.to_us + 1, "closed"),
    ]


def test_a_held_door_over_midnight() -> None:
    midnight = NOON + 12 * HOUR
    one = fault(FaultKind.GATE_HELD_OPEN, GATE, midnight - 10 * MINUTE, 1_200)
    polls = [midnight - HOUR, midnight, midnight + HOUR]
    told = live_through(world([one]), GATE, polls)
    at_midnight = next(seen for seen in told if micros(seen.at) == midnight)
    assert isinstance(at_midnight, GateReading)
    assert at_midnight.door == "held"
    events = [seen.event for seen in told if isinstance(seen, Passage)]
    assert [event for event in events if event in {"held_open", "restored"}] == [
        "held_open",
        "restored",
    ]
