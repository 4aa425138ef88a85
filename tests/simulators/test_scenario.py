# SPDX-License-Identifier: Apache-2.0
"""Scenario files: what they say, and where they are wrong."""

from pathlib import Path

import pytest

from simulators.errors import ScenarioError
from simulators.scenario import BUILT_IN, load

GOOD = """
name = "two"
seed = 4

[history.a_day]
bin_fire = 0.5

[[live.script]]
at_s = 3
for_s = 120
fault = "alarm"
detail = "gas"
"""


def refused(folder: Path, text: str) -> list[str]:
    file = folder / "scenario.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as error:
        load(file)
    return [mistake.removeprefix(f"{file}:") for mistake in error.value.mistakes]


@pytest.mark.parametrize("file", sorted(BUILT_IN.glob("*.toml")), ids=lambda file: file.stem)
def test_what_comes_with_linli_is_right(file: Path) -> None:
    scenario = load(file)
    assert scenario.name
    assert scenario.live.script


def test_the_demo_raises_twenty_alerts_in_a_hundred_seconds() -> None:
    scenario = load(BUILT_IN / "community_day.toml")
    assert scenario.communities == 16
    at_once = {"break_in": 2, "lamp_broken": 0, "alarm_test": 0, "gateway_silent": 0}
    alerts = sum(
        one.times * at_once.get(one.fault, 1)
        for one in scenario.live.script
        if one.at_s + one.times * one.apart_s < 90
    )
    assert alerts >= 20


def test_defaults_are_the_demo(tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(GOOD)
    scenario = load(file)
    assert (scenario.seed, scenario.communities) == (4, 16)
    assert (scenario.history.hours, scenario.history.step_s) == (24, 600)
    assert scenario.history.a_day == {"bin_fire": 0.5}
    assert scenario.live.script[0].times == 1


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("seed = 4", "sead = 4", "3:sead", "Extra inputs"),
        ("seed = 4", 'seed = "many"', "3:seed", "integer"),
        ("seed = 4", "communities = 100", "3:communities", "99"),
        ('name = "two"\n', "", "1:name", "required"),
        ("bin_fire", "bin_flood", "6:history.a_day.bin_flood", "expected one of"),
        ("= 0.5", "= -1", "6:history.a_day.bin_fire", "greater than"),
        ("at_s = 3", "at_s = nan", "9:live.script.0.at_s", "finite"),
        ("at_s = 3\n", "", "8:live.script.0.at_s", "required"),
        ('fault = "alarm"', 'fault = "alert"', "11:live.script.0.fault", "expected one of"),
        ('detail = "gas"', 'detail = "gasoline"', "12:live.script.0.detail", "intrusion"),
        ('fault = "alarm"', 'fault = "bin_fire"', "12:live.script.0.detail", "no detail"),
        (
            'fault = "alarm"\ndetail = "gas"',
            'fault = "lamp_fault_code"\ndetail = "Too hot"',
            "12:live.script.0.detail",
            "code",
        ),
        (
            'fault = "alarm"\ndetail = "gas"',
            'fault = "device_dead"',
            "10:live.script.0.for_s",
            "2400",
        ),
        ("[[live.script]]", "[[live.script]", "8", ""),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, where: str, what: str) -> None:
    assert old in GOOD
    (mistake,) = refused(tmp_path, GOOD.replace(old, new))
    assert mistake.startswith(f"{where}:")
    assert what in mistake


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("seed = 4", "seed = -4").replace("for_s = 120", "for_s = 1")
    assert [mistake.split(":")[1] for mistake in refused(tmp_path, text)] == [
        "seed",
        "live.script.0.for_s",
    ]


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        load(tmp_path / "none.toml")


def test_not_a_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ScenarioError, match="UTF-8"):
        load(tmp_path / "x.toml")
