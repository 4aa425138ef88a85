# SPDX-License-Identifier: Apache-2.0
"""The device classes: every class is whole, and reports by exception what is news and only that."""

from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given

from edge_agent.kinds import CHANGED, Event, Reading
from edge_agent.kinds.alarm import AlarmReading
from edge_agent.kinds.base import moved
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateReading
from edge_agent.kinds.lamp import LampReading
from tests import strategies

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


def lamp(lit: bool | None = True, power_w: float | None = 40, **more: str | float) -> LampReading:
    return LampReading.model_validate(
        {"device": "l", "at": AT, "lit": lit, "power_w": power_w} | more
    )


def bin_(fill_pct: float | None = 50, **more: str | float | bool) -> BinReading:
    return BinReading.model_validate({"device": "b", "at": AT, "fill_pct": fill_pct} | more)


def gate(door: str = "closed", lock: str = "locked", **more: str) -> GateReading:
    return GateReading.model_validate({"device": "g", "at": AT, "door": door, "lock": lock} | more)


def alarm(armed: bool = True, **more: str | float) -> AlarmReading:
    return AlarmReading.model_validate({"device": "a", "at": AT, "armed": armed} | more)


def test_every_class_that_reports_can_say_what_is_news() -> None:
    union = get_args(get_args(Reading)[0])
    assert {model.model_fields["kind"].default for model in union} == set(CHANGED)


def test_every_event_is_of_a_class() -> None:
    union = get_args(get_args(Event)[0])
    assert {model.model_fields["kind"].default for model in union} <= set(CHANGED)


@pytest.mark.parametrize(
    ("previous", "current", "news"),
    [
        pytest.param(lamp(), lamp(power_w=41.9), False, id="lamp-power-within-deadband"),
        pytest.param(lamp(), lamp(power_w=42), True, id="lamp-power-at-deadband"),
        pytest.param(lamp(), lamp(power_w=38), True, id="lamp-power-falls"),
        pytest.param(lamp(), lamp(power_w=None), True, id="lamp-power-goes-away"),
        pytest.param(lamp(), lamp(lit=False), True, id="lamp-off"),
        pytest.param(lamp(), lamp(lit=None), True, id="lamp-unknown"),
        pytest.param(lamp(), lamp(level_pct=60), True, id="lamp-dimmed"),
        pytest.param(lamp(), lamp(fault="driver"), True, id="lamp-fault"),
        pytest.param(lamp(), lamp(voltage_v=231), False, id="lamp-voltage-waits"),
        pytest.param(lamp(), lamp(battery_pct=80), True, id="lamp-battery-appears"),
        pytest.param(bin_(), bin_(51.9), False, id="bin-fill-within-deadband"),
        pytest.param(bin_(), bin_(52), True, id="bin-fill-at-deadband"),
        pytest.param(bin_(), bin_(lid_open=True), True, id="bin-lid"),
        pytest.param(bin_(), bin_(tilt=True), True, id="bin-falls"),
        pytest.param(bin_(), bin_(temperature_c=70), True, id="bin-temperature-appears"),
        pytest.param(bin_(), bin_(fault="sensor"), True, id="bin-fault"),
        pytest.param(gate(), gate(), False, id="gate-same"),
        pytest.param(gate(), gate(door="open"), True, id="gate-door"),
        pytest.param(gate(), gate(lock="unlocked"), True, id="gate-lock"),
        pytest.param(gate(), gate(fault="jam"), True, id="gate-fault"),
        pytest.param(alarm(), alarm(armed=False), True, id="alarm-disarmed"),
        pytest.param(alarm(battery_pct=90), alarm(battery_pct=86), False, id="alarm-battery"),
        pytest.param(alarm(battery_pct=90), alarm(battery_pct=85), True, id="alarm-battery-low"),
        pytest.param(alarm(), alarm(fault="lost"), True, id="alarm-fault"),
    ],
)
def test_change_is_news_and_noise_is_not(previous: Reading, current: Reading, news: bool) -> None:
    assert CHANGED[current.kind](previous, current) is news
    assert CHANGED[current.kind](current, previous) is news


@given(strategies.readings())
def test_repetition_is_never_news(reading: Reading) -> None:
    later = reading.model_copy(update={"at": reading.at + timedelta(minutes=10)})
    assert not CHANGED[reading.kind](reading, later)


def test_value_that_stays_away_has_not_moved() -> None:
    assert not moved(None, None, 1)
    assert moved(None, 0, 1)
    assert moved(0, None, 1)


def test_instant_is_kept_in_utc() -> None:
    local = datetime(2026, 11, 21, 18, tzinfo=timezone(timedelta(hours=8)))
    reading = LampReading(device="l", at=local)
    assert reading.at == AT
    assert reading.at.tzinfo is UTC


def test_naive_instant_is_refused_in_the_program_too() -> None:
    with pytest.raises(ValueError, match="timezone"):
        LampReading(device="l", at=AT.replace(tzinfo=None))
