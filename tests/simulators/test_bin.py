# SPDX-License-Identifier: Apache-2.0
"""The physics of refuse bins."""

from itertools import pairwise

import pytest

from edge_agent.kinds.bin import BinReading, DepositEvent
from simulators.faults import FaultKind
from simulators.kinds.bin import ORDINARY_FILL_MAX_PCT, BinTimeline
from simulators.spans import HOUR, MINUTE, SECOND, micros
from simulators.world import DAY, World, day_start, night_of
from tests.simulators.town import NOON, device, every, fault, live_through, world

BIN = "c01-bin-001"
TODAY = night_of(NOON)


def readings(town: World, polls: list[int], name: str = BIN) -> list[BinReading]:
    return [one for one in live_through(town, name, polls) if isinstance(one, BinReading)]


def deposits(town: World, polls: list[int], name: str = BIN) -> list[DepositEvent]:
    return [one for one in live_through(town, name, polls) if isinstance(one, DepositEvent)]


def test_filled_by_day_emptied_in_the_morning() -> None:
    told = readings(world(), every((NOON, NOON + 2 * DAY), 600))
    drops = [
        micros(after.at)
        for before, after in pairwise(told)
        if (after.fill_pct or 0) < (before.fill_pct or 0)
    ]
    assert len(drops) == 2
    for drop in drops:
        hour = (drop - day_start(TODAY)) % DAY / HOUR
        assert 5 < hour < 9
    fills = [one.fill_pct or 0 for one in told]
    assert 35 < max(fills) < ORDINARY_FILL_MAX_PCT


@pytest.mark.parametrize("seed", range(4))
def test_never_near_full_without_a_fault(seed: int) -> None:
    town = world(seed=seed)
    for number in range(1, 13):
        life = BinTimeline(town, device(town, f"c01-bin-{number:03d}"))
        states = [state for _, state in life.states((NOON, NOON + 3 * DAY))]
        assert max(state.fill_pct for state in states) <= ORDINARY_FILL_MAX_PCT


def test_each_deposit_is_told_and_weighed() -> None:
    town = world()
    begin = day_start(TODAY + 1) + 9 * HOUR
    polls = [begin, begin + 12 * HOUR]
    put_in = deposits(town, polls)
    told = readings(town, polls)
    assert 10 < len(put_in) <= 30
    assert told[0].weight_kg is not None
    assert told[-1].weight_kg is not None
    weight = told[-1].weight_kg - told[0].weight_kg
    assert weight == pytest.approx(sum(one.weight_kg for one in put_in), abs=0.02)
    assert {one.stream for one in put_in} == {"residual"}
    assert {one.sorted_ok for one in put_in} == {True, False}


def test_the_lid_opens_before_and_closes_with_a_deposit() -> None:
    town = world()
    polls = [NOON, NOON + 8 * HOUR]
    moves = [
        (micros(after.at), after.lid_open)
        for before, after in pairwise(readings(town, polls))
        if before.lid_open != after.lid_open
    ]
    closed = [at for at, is_open in moves if not is_open]
    assert closed == [micros(one.at) for one in deposits(town, polls)]
    opened = [at for at, is_open in moves if is_open]
    assert all(0 < end - start < 10 * SECOND for start, end in zip(opened, closed, strict=True))


def test_hazardous_refuse_is_rare() -> None:
    town = world()
    polls = [NOON, NOON + DAY]
    assert len(deposits(town, polls, "c01-bin-012")) <= 8
    assert len(deposits(town, polls)) >= 20


def test_overfull_at_once_and_until_somebody_comes() -> None:
    one = fault(FaultKind.BIN_OVERFULL, BIN, NOON + 5 * HOUR, 18 * 3_600)
    told = readings(world([one]), every((NOON, NOON + DAY), 600))
    inside = [seen for seen in told if one.from_us <= micros(seen.at) < one.to_us]
    outside = [seen for seen in told if not one.from_us <= micros(seen.at) < one.to_us]
    assert micros(inside[0].at) == one.from_us
    assert all(92 < (seen.fill_pct or 0) <= 100 for seen in inside)
    assert all((seen.fill_pct or 0) <= ORDINARY_FILL_MAX_PCT for seen in outside)
    emptied = next(seen for seen in outside if micros(seen.at) >= one.to_us)
    assert (micros(emptied.at), emptied.fill_pct) == (one.to_us, 0)


def test_a_fire_is_hot_from_its_first_reading() -> None:
    one = fault(FaultKind.BIN_FIRE, BIN, NOON + 5 * HOUR, 300)
    told = readings(world([one]), every((NOON + 4 * HOUR, NOON + 6 * HOUR), 60))
    hot = [micros(seen.at) for seen in told if (seen.temperature_c or 0) >= 60]
    assert hot[0] == one.from_us
    assert one.to_us - MINUTE < hot[-1] < one.to_us
    calm = [seen for seen in told if not one.from_us <= micros(seen.at) < one.to_us]
    assert all((seen.temperature_c or 0) < 40 for seen in calm)


def test_temperature_follows_the_weather() -> None:
    town = world()
    (seen,) = readings(town, [NOON])
    assert seen.temperature_c == pytest.approx(town.ambient_c("c01", NOON), abs=0.5)
