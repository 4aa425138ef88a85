# SPDX-License-Identifier: Apache-2.0
"""A timetable: what its lines say, and that it happens as they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from edge_agent.kinds.alarm import AlarmSignal
from edge_agent.kinds.base import ReadingBase
from edge_agent.kinds.gate import Passage
from simulators import play
from simulators.faults import STANDING_US, Fault
from simulators.kinds import driver
from simulators.play import HOLDS_US, Line, Player
from simulators.scenario import Scenario, find, load
from simulators.spans import HOUR, SECOND, instant
from simulators.timetable import Timetable
from simulators.truth import FILE, Ledger
from simulators.world import World
from tests.simulators.town import NOON, SEED


@dataclass
class Stage:
    """Writes down what is done to it."""

    done: list[str] = field(default_factory=list[str])

    def wake(self, device: str) -> None:
        self.done.append(f"wake {device}")

    def cut(self, gateway: str) -> None:
        self.done.append(f"cut {gateway}")

    def mend(self, gateway: str) -> None:
        self.done.append(f"mend {gateway}")


class Evening:
    """A player on the night's town, a second for each line."""

    def __init__(self, folder: Path, *lines: str) -> None:
        scenario: Scenario = load(find("night"))
        self.us = NOON
        self.ledger = Ledger(folder / FILE)
        self.world = World(SEED, scenario.city(instant(NOON - HOUR)), self.ledger.faults())
        self.stage = Stage()
        self.coming = Timetable(lambda: self.us)
        self.player = Player(
            play.read("\n".join(f"{number} | {line}" for number, line in enumerate(lines))),
            self.world, self.ledger, self.stage, lambda: self.us, self.coming,
        )  # fmt: skip

    def go_on(self) -> Line | None:
        line = self.player.play()
        self.us += SECOND
        return line

    def told(self, device: str) -> Sequence[tuple[str, str]]:
        """What an agent hears of a device that is asked at noon and now."""
        hardware = driver(self.world, self.world.city.by_id[device])
        hardware.poll(instant(NOON))
        heard = hardware.poll(instant(self.us))
        assert all(instant(NOON) < one.at <= instant(self.us) for one in heard)
        return [
            (one.event, one.phase if isinstance(one, AlarmSignal) else "")
            for one in heard
            if isinstance(one, AlarmSignal | Passage)
        ]


def test_lines() -> None:
    lines = play.read("""
      0 | cellar     water x12
    1.5 | roof-[12]* restored
     20 | gw-east    falls   silent
    """)
    assert lines == (
        Line(0, "cellar", "water", 12),
        Line(1.5, "roof-[12]*", "restored"),
        Line(20, "gw-east", "falls   silent"),
    )
    assert str(lines[0]) == "cellar water x12"


def test_raised_and_restored_so_often_and_over(tmp_path: Path) -> None:
    evening = Evening(tmp_path, "box-[12] tamper x3", "gate-1 held_open x2")
    assert evening.go_on() == Line(0, "box-[12]", "tamper", 3)
    assert evening.go_on() == Line(1, "gate-1", "held_open", 2)
    for box in ("box-1", "box-2"):
        assert evening.told(box) == [("tamper", "raised"), ("tamper", "restored")] * 3
    assert evening.told("box-3") == []
    assert evening.told("gate-1") == [("held_open", ""), ("restored", "")] * 2
    assert evening.go_on() is None
    faults = evening.ledger.faults()
    assert faults == evening.world.faults
    assert {one.to_us - one.from_us for one in faults} == {HOLDS_US}
    # No two at one instant.
    assert len({one.from_us for one in faults}) == len(faults) == 8


def test_what_stands_is_restored_when_it_is_said(tmp_path: Path) -> None:
    evening = Evening(tmp_path, "gate-1 forced", "box-1 tamper", "box-1 restored")
    evening.go_on()
    evening.go_on()
    assert evening.told("box-1") == [("tamper", "raised")]
    assert [one.to_us for one in evening.ledger.faults()] == [STANDING_US] * 2
    evening.go_on()
    assert evening.told("box-1") == [("tamper", "raised"), ("tamper", "restored")]
    assert evening.told("gate-1") == [("forced", "")]
    assert evening.ledger.faults() == evening.world.faults
    assert _standing(evening) == ["gate-1"]


def test_what_stands_of_an_earlier_play_is_restored_before_it_begins_anew(tmp_path: Path) -> None:
    first = Evening(tmp_path, "gate-1 forced", "lodge panic", "box-1 tamper x2")
    while first.go_on() is not None:
        pass
    first.ledger.close()
    again = Evening(tmp_path, "gate-1 forced")
    again.us = first.us
    assert _standing(again) == ["gate-1", "lodge"]
    again.player.restore()
    again.us += SECOND
    assert _standing(again) == []
    assert again.told("lodge") == [("panic", "raised"), ("panic", "restored")]
    again.go_on()
    assert again.told("gate-1") == [("forced", ""), ("restored", ""), ("forced", "")]


def test_links_are_cut_and_mended(tmp_path: Path) -> None:
    evening = Evening(tmp_path, "gw-east falls silent", "gw-east is back")
    evening.go_on()
    assert evening.stage.done == ["cut gw-east"]
    evening.go_on()
    assert evening.stage.done == ["cut gw-east", "mend gw-east"]
    assert not evening.world.faults


def test_nothing_happens_in_the_town_of_itself() -> None:
    """A day without a line: lamps are lit, gates are shut, and nobody is alarmed."""
    town = load(find("night")).city(instant(NOON - HOUR))
    world = World(SEED, town)
    kinds = {device.kind: device for device in town.devices}
    assert len(town.behind("gw-east")) >= 200
    for device in kinds.values():
        hardware = driver(world, device)
        hardware.poll(instant(NOON))
        heard = hardware.poll(instant(NOON) + timedelta(days=1))
        events = [one for one in heard if not isinstance(one, ReadingBase)]
        assert not [one for one in events if not isinstance(one, AlarmSignal)]
        assert {one.phase for one in events if isinstance(one, AlarmSignal)} <= {"test"}


def _standing(evening: Evening) -> list[str]:
    faults: list[Fault] = evening.world.faults
    return sorted(one.target for one in faults if one.to_us == STANDING_US)
