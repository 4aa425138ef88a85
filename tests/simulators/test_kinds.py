# SPDX-License-Identifier: Apache-2.0
"""What holds for virtual devices of every class: one seed, one trace, however often one asks."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.kinds import CHANGED
from edge_agent.kinds.base import ReadingBase
from simulators.faults import Fault, FaultKind
from simulators.kinds import DRIVERS, TIMELINES, driver, timeline
from simulators.spans import HOUR, MINUTE, SECOND, instant
from simulators.world import DAY
from tests.simulators.town import NOON, changes, device, every, fault, live_through, world

TARGETS = ("c01-lamp-001", "c01-lamp-060", "c01-bin-002", "c01-gate-003", "c01-alarm-001")
# A device of each class with something wrong in the day that is tested.
TROUBLE = (
    fault(FaultKind.LAMP_BROKEN, "c01-lamp-001", NOON + 9 * HOUR, 3_600),
    fault(FaultKind.LAMP_FAULT_CODE, "c01-lamp-060", NOON + 20 * HOUR, 7_200, "surge"),
    fault(FaultKind.BIN_OVERFULL, "c01-bin-002", NOON + 5 * HOUR, 50_000),
    fault(FaultKind.BIN_FIRE, "c01-bin-002", NOON + 22 * HOUR, 600),
    fault(FaultKind.GATE_FORCED, "c01-gate-003", NOON + 6 * HOUR, 900),
    fault(FaultKind.ALARM, "c01-alarm-001", NOON + 6 * HOUR, 900, "intrusion"),
)
SPAN = NOON, NOON + DAY


def test_every_class_is_simulated() -> None:
    assert set(TIMELINES) == set(DRIVERS) == set(CHANGED)


@pytest.mark.parametrize("name", TARGETS)
def test_one_seed_one_trace(name: str) -> None:
    polls = every(SPAN, 600)
    first = live_through(world(TROUBLE), name, polls)
    assert first == live_through(world(TROUBLE), name, polls)
    other = live_through(world(TROUBLE, seed=8), name, polls)
    assert first != other


@pytest.mark.parametrize("name", TARGETS)
def test_polling_often_changes_nothing(name: str) -> None:
    span = NOON + 5 * HOUR, NOON + 8 * HOUR
    often, rarely = every(span, 7), every(span, 600)
    seen_often = changes(live_through(world(TROUBLE), name, often), often)
    seen_rarely = changes(live_through(world(TROUBLE), name, rarely), rarely)
    # What falls on a poll is the present value there, and a change here.
    asked = {instant(us) for us in (*often, *rarely)}
    assert [one for one in seen_often if one.at not in asked] == [
        one for one in seen_rarely if one.at not in asked
    ]


@given(
    name=st.sampled_from(TARGETS),
    polls=st.lists(st.integers(NOON, NOON + DAY), min_size=1, max_size=40, unique=True),
)
@settings(max_examples=60, deadline=None)
def test_any_polls_tell_the_same(name: str, polls: list[int]) -> None:
    asked = sorted({*polls, *SPAN})
    told = live_through(world(TROUBLE), name, asked)
    assert [one.at for one in told] == sorted(one.at for one in told)
    whole = changes(live_through(world(TROUBLE), name, SPAN), SPAN)
    instants = {instant(us) for us in asked}
    assert [one for one in changes(told, asked) if one.at not in instants] == [
        one for one in whole if one.at not in instants
    ]
    # And the present value is that of a device asked for the first time.
    last = live_through(world(TROUBLE), name, asked[-1:])
    assert told[-1] == last[-1]


@pytest.mark.parametrize("name", TARGETS)
def test_a_restart_goes_on_where_it_was(name: str) -> None:
    polls = every(SPAN, 600)
    whole = live_through(world(TROUBLE), name, polls)
    town = world(TROUBLE)
    before, after = driver(town, device(town, name)), driver(world(TROUBLE), device(town, name))
    told = [one for us in polls[:80] for one in before.poll(instant(us))]
    after.resume(instant(polls[79]))
    told += [one for us in polls[80:] for one in after.poll(instant(us))]
    assert told == whole


@pytest.mark.parametrize("name", TARGETS)
def test_a_fault_to_come_leaves_the_past_alone(name: str) -> None:
    """What was told before a fault was known is what is told when it was known all along."""
    kind = {
        "lamp": FaultKind.LAMP_BROKEN,
        "bin": FaultKind.BIN_OVERFULL,
        "gate": FaultKind.GATE_HELD_OPEN,
        "alarm": FaultKind.ALARM,
    }[device(world(), name).kind]
    polls = every(SPAN, 300)
    moment = NOON + 10 * HOUR + 17 * SECOND
    late = fault(kind, name, moment, 3_600, "intrusion" if kind is FaultKind.ALARM else "")
    town = world()
    hardware = driver(town, device(town, name))
    told = [one for us in polls if us < moment for one in hardware.poll(instant(us))]
    town.add([late])
    told += [one for us in polls if us >= moment for one in hardware.poll(instant(us))]
    assert told == live_through(world([late]), name, polls)


@pytest.mark.parametrize("name", TARGETS)
def test_states_are_what_single_instants_show(name: str) -> None:
    town = world(TROUBLE)
    life = timeline(town, device(town, name))
    span = NOON + 4 * HOUR, NOON + 10 * HOUR
    for (start, end), state in life.states(span):
        for us in (start, (start + end) // 2, end - 1):
            assert life.state(us).state == state
    parts = [part for part, _ in life.states(span)]
    assert (parts[0][0], parts[-1][1]) == span
    assert all(left[1] == right[0] for left, right in pairwise(parts))


@pytest.mark.parametrize("name", TARGETS)
def test_what_comes_next_is_what_comes(name: str) -> None:
    town = world(TROUBLE)
    life = timeline(town, device(town, name))
    entries = [entry.at for entry in life.entries(*SPAN)]
    us, seen = NOON, list[int]()
    while (following := life.next_after(us)) is not None and following <= SPAN[1]:
        us = following
        seen.append(us)
    assert seen == sorted(set(entries))


@pytest.mark.parametrize("name", TARGETS)
def test_a_dead_device_is_silent_and_forgets(name: str) -> None:
    dead = fault(FaultKind.DEVICE_DEAD, name, NOON + 5 * HOUR + 1, 7_200)
    town = world([*TROUBLE, dead])
    hardware = driver(town, device(town, name))
    hardware.poll(instant(dead.from_us - MINUTE))
    hardware.poll(instant(dead.from_us - 1))
    for us in (dead.from_us, dead.from_us + HOUR, dead.to_us - 1):
        with pytest.raises(OSError, match=name):
            hardware.poll(instant(us))
    told = hardware.poll(instant(dead.to_us + MINUTE))
    assert told[0].at == instant(dead.to_us)
    assert isinstance(told[0], ReadingBase)


@pytest.mark.parametrize("name", TARGETS)
def test_death_within_one_poll_hides_what_happened(name: str) -> None:
    dead = fault(FaultKind.DEVICE_DEAD, name, NOON + 4 * HOUR, 9 * 3_600)
    told = live_through(world([*TROUBLE, dead]), name, SPAN)
    assert not [one for one in told if instant(dead.from_us) <= one.at < instant(dead.to_us)]
    whole = live_through(world(TROUBLE), name, SPAN)
    alive = [one for one in whole if not instant(dead.from_us) <= one.at < instant(dead.to_us)]
    assert [one for one in told if one.at != instant(dead.to_us)] == alive


def test_waking_reaches_the_agent() -> None:
    town = world()
    hardware = driver(town, device(town, "c01-gate-001"))
    calls = list[str]()
    hardware.wake()
    hardware.attach(lambda: calls.append("woken"))
    hardware.wake()
    assert calls == ["woken"]


def test_overlapping_faults_of_one_target_are_all_known() -> None:
    one = Fault(NOON, NOON + 5, FaultKind.ALARM, "c01-alarm-001", "panic")
    two = Fault(NOON + 1, NOON + 6, FaultKind.ALARM, "c01-alarm-001", "panic")
    town = world([two])
    town.add([one, two])
    assert town.faults == [one, two]
