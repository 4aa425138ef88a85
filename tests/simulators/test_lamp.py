# SPDX-License-Identifier: Apache-2.0
"""The physics of lamps."""

import pytest

from edge_agent.kinds.lamp import POWER_DEADBAND_W, LampReading
from simulators.faults import FaultKind
from simulators.kinds.lamp import DIMMED_PCT, STANDBY_W, SWITCH_DELAY_S, LampTimeline
from simulators.spans import HOUR, MINUTE, SECOND, Span, instant, length, micros
from simulators.world import DAY, World, day_start, night_of
from tests.simulators.town import NOON, changes, device, every, fault, live_through, world

SUN, OFFSET, ALWAYS = "c01-lamp-001", "c01-lamp-004", "c01-lamp-060"
NIGHT = night_of(NOON)
MIDNIGHT = day_start(NIGHT + 1)


def due(town: World, name: str) -> Span:
    (span,) = town.due(device(town, name), NIGHT)
    return span


def life(town: World, name: str) -> LampTimeline:
    return LampTimeline(town, device(town, name))


def lit(town: World, name: str, span: Span) -> list[Span]:
    return [part for part, state in life(town, name).states(span) if state.lit]


def reading(town: World, name: str, us: int) -> LampReading:
    (told,) = live_through(town, name, [us])
    assert isinstance(told, LampReading)
    return told


@pytest.mark.parametrize("name", [SUN, OFFSET])
def test_switched_on_after_dusk_and_off_after_dawn(name: str) -> None:
    town = world()
    dusk, dawn = due(town, name)
    parts = lit(town, name, (NOON, NOON + DAY))
    on, off = parts[0][0], parts[-1][1]
    assert SWITCH_DELAY_S[0] * SECOND <= on - dusk < SWITCH_DELAY_S[1] * SECOND
    assert SWITCH_DELAY_S[0] * SECOND <= off - dawn < SWITCH_DELAY_S[1] * SECOND
    # Lit without a break in between.
    assert length(parts) == off - on


def test_lamps_are_switched_one_by_one() -> None:
    town = world()
    instants = {lit(town, f"c01-lamp-{n:03d}", (NOON, NOON + DAY))[0][0] for n in range(1, 31)}
    assert len(instants) == 30


def test_an_underpass_burns_around_the_clock() -> None:
    town = world()
    assert length(lit(town, ALWAYS, (NOON - DAY, NOON + DAY))) == 2 * DAY
    polls = every((NOON, NOON + DAY), 3_600)
    assert changes(live_through(town, ALWAYS, polls), polls) == []


def test_dimmed_late_at_night() -> None:
    town = world()
    rated = device(town, SUN).rated_power_w
    assert rated is not None
    evening, late = (reading(town, SUN, MIDNIGHT - 4 * HOUR), reading(town, SUN, MIDNIGHT + HOUR))
    assert (evening.level_pct, late.level_pct) == (100, DIMMED_PCT)
    assert evening.power_w == pytest.approx(rated, abs=1)
    assert late.power_w == pytest.approx(rated * DIMMED_PCT / 100, abs=1)
    assert reading(town, SUN, NOON).power_w == STANDBY_W


def test_few_changes_a_night_and_noise_is_none() -> None:
    town = world()
    polls = every((NOON, NOON + DAY), 600)
    told = live_through(town, SUN, polls)
    assert len(changes(told, polls)) == 4
    bright = [one for one in told if isinstance(one, LampReading) and one.level_pct == 100]
    powers = [one.power_w for one in bright if one.power_w is not None]
    assert len(set(powers)) > 5
    assert max(powers) - min(powers) < POWER_DEADBAND_W


def test_current_follows_from_power_and_voltage() -> None:
    told = reading(world(), SUN, MIDNIGHT)
    assert told.power_w is not None
    assert told.voltage_v is not None
    assert told.current_a == pytest.approx(told.power_w / told.voltage_v / 0.95, rel=0.02)


def test_meters_count_since_in_service() -> None:
    town = world()
    rated = device(town, ALWAYS).rated_power_w
    assert rated is not None
    first, later = reading(town, ALWAYS, NOON), reading(town, ALWAYS, NOON + 30 * DAY)
    assert (first.energy_kwh, first.burn_hours) == (0, 0)
    assert later.burn_hours == 30 * 24
    assert later.energy_kwh == pytest.approx(rated * 720 / 1_000)
    assert reading(town, ALWAYS, NOON - DAY).energy_kwh == 0


def test_meters_agree_with_the_states() -> None:
    broken = fault(FaultKind.LAMP_BROKEN, SUN, MIDNIGHT, 7_200)
    town = world([broken])
    span = NOON, NOON + 3 * DAY
    energy = sum(
        state.power_w * (end - start) / HOUR / 1_000
        for (start, end), state in life(town, SUN).states(span)
    )
    told = reading(town, SUN, span[1])
    assert told.energy_kwh == pytest.approx(energy, abs=0.001)
    burnt = length(lit(town, SUN, span)) / HOUR
    assert told.burn_hours == pytest.approx(burnt, abs=0.006)


@pytest.mark.parametrize(
    ("kind", "start", "before", "within"),
    [
        (FaultKind.LAMP_BROKEN, MIDNIGHT, (True, None), (False, None)),
        (FaultKind.LAMP_FLICKER, MIDNIGHT, (True, None), (False, None)),
        (FaultKind.LAMP_DAY_BURNER, NOON + HOUR, (False, None), (True, None)),
        (FaultKind.LAMP_FAULT_CODE, MIDNIGHT, (True, None), (True, "voltage_low")),
    ],
)
def test_faults(
    kind: FaultKind,
    start: int,
    before: tuple[bool, str | None],
    within: tuple[bool, str | None],
) -> None:
    detail = "voltage_low" if kind is FaultKind.LAMP_FAULT_CODE else ""
    one = fault(kind, SUN, start, 120, detail)
    town = world([one])
    polls = [start - MINUTE, one.to_us + MINUTE]
    told = [
        (micros(seen.at), (seen.lit, seen.fault))
        for seen in live_through(town, SUN, polls)
        if isinstance(seen, LampReading)
    ]
    assert told == [
        (polls[0], before),
        (one.from_us, within),
        (one.to_us, before),
        (polls[1], before),
    ]


def test_a_fault_over_noon_is_no_break() -> None:
    one = fault(FaultKind.LAMP_DAY_BURNER, SUN, NOON - HOUR, 7_200)
    town = world([one])
    assert length(lit(town, SUN, (NOON - 2 * HOUR, NOON + 2 * HOUR))) == 2 * HOUR
    polls = [NOON - 2 * HOUR, NOON + 2 * HOUR]
    told = changes(live_through(town, SUN, polls), polls)
    assert [micros(seen.at) for seen in told] == [one.from_us, one.to_us]
    assert instant(NOON) not in {seen.at for seen in told}
