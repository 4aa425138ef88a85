# SPDX-License-Identifier: Apache-2.0
"""Scenario files: what they say, and where they are wrong."""

from pathlib import Path

import pytest

from simulators.errors import ScenarioError
from simulators.scenario import BUILT_IN, change, load

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
    assert scenario.live.script or scenario.live.timetable


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


NIGHT = """
name = "short night"
communities = 1

[live]
timetable = '''
 0 | door   held_open x3
 1 | kitchen smoke
 2 | gw-a   falls silent
'''

[town]
name = "x"
name_en = "x"
residents = 9
reporting_period_s = 3
status_interval_s = 2

[town.cells.a]
name = "a"
name_en = "a"
devices = '''
door    | gate  | d | d
kitchen | smoke | k | k
'''
"""


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("door   held_open x3", "porch  held_open x3", "6:live.timetable", "nobody there"),
        ("door   held_open x3", "door   smoke", "6:live.timetable", "cannot do that"),
        ("kitchen smoke", "kitchen fire", "6:live.timetable", "cannot do that"),
        ("kitchen smoke", "kitchen restored", "6:live.timetable", "does not stand"),
        ("gw-a   falls silent", "gw-a is back", "6:live.timetable", "does not stand"),
        ("gw-a   falls silent", "kitchen smoke", "6:live.timetable", "stands already"),
        ("gw-a   falls silent", "gw-a falls silent x2", "6:live.timetable", "cannot do that"),
        (" 1 | kitchen smoke", "kitchen smoke at one", "6:live.timetable", "expected second"),
        (" 1 | kitchen", " 3 | kitchen", "6:live.timetable", "grow"),
        ("x3", "x101", "6:live.timetable", "x100"),
        ("communities = 1", "communities = 2", "3:communities", "a town is 1"),
        ("[town]", "[history.a_day]\nalarm = 1\n[town]", "14:town", "timetable only"),
        ("| smoke |", "| smoky |", "22:town.cells.a.devices", "intrusion"),
        ("door    | gate  | d | d", "door | gate", "22:town.cells.a.devices", "English name"),
        ("door    | gate  | d | d", "Door | gate | d | d", "22:town.cells.a.devices", "an id"),
        ("door    | gate  | d | d", "d-2..1 | gate | d | d", "22:town.cells.a.devices", "an id"),
        ("| k | k", "| k | k | b", "12:town.cells", "no cell b"),
        ("kitchen | smoke", "door | smoke", "12:town.cells", "twice"),
    ],
)
def test_mistakes_of_a_night_are_named(
    tmp_path: Path, old: str, new: str, where: str, what: str
) -> None:
    assert old in NIGHT
    mistake = refused(tmp_path, NIGHT.replace(old, new))[0]
    assert mistake.startswith(f"{where}:")
    assert what in mistake


def test_a_town_is_one_community(tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(NIGHT)
    with pytest.raises(ScenarioError, match="of one community"):
        change(load(file), communities=2)
    assert change(load(file), communities=1, seed=4).seed == 4


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
