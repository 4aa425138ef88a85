# SPDX-License-Identifier: Apache-2.0
"""Faults keep their distance: from the rules' limits, from the edges of time, from each other."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from simulators.chance import Draw
from simulators.fate import APART_US, BREAK_IN, MARGIN_US, WORDS, Fate
from simulators.faults import Fault, FaultKind
from simulators.spans import HOUR, MINUTE, SECOND, Span, intersect, length, normal
from simulators.world import DAY, World, night_of
from tests.simulators.town import NOON, device, fault, world

SPAN = NOON, NOON + 3 * DAY
MANY: dict[str, float] = dict.fromkeys(WORDS, 2.0)


def past(town: World, span: Span = SPAN, a_day: dict[str, float] | None = None) -> list[Fault]:
    return Fate(town).past(span, MANY if a_day is None else a_day)


def due(town: World, name: str) -> list[Span]:
    nights = range(night_of(SPAN[0]) - 1, night_of(SPAN[1]) + 2)
    return normal(part for night in nights for part in town.due(device(town, name), night))


@pytest.fixture(scope="module", params=range(3))
def drawn(request: pytest.FixtureRequest) -> tuple[World, list[Fault]]:
    town = world(seed=request.param, communities=4)
    return town, past(town)


def test_the_past_is_seeded() -> None:
    assert past(world()) == past(world())
    assert past(world()) != past(world(seed=8))


def test_a_larger_city_has_the_same_past() -> None:
    small, large = past(world(communities=2)), past(world(communities=3))
    assert set(small) <= set(large)


def test_every_kind_happens(drawn: tuple[World, list[Fault]]) -> None:
    kinds = Counter(one.kind for one in drawn[1])
    assert set(kinds) == set(FaultKind) - {FaultKind.GATEWAY_SILENT}


def test_rates_are_kept() -> None:
    town = world(communities=8)
    count = len(past(town, (NOON, NOON + 10 * DAY), {FaultKind.GATE_HELD_OPEN: 0.5}))
    assert 20 < count < 60


def test_inside_the_replayed_time(drawn: tuple[World, list[Fault]]) -> None:
    for one in drawn[1]:
        assert SPAN[0] + MARGIN_US <= one.from_us < one.to_us <= SPAN[1] - MARGIN_US


def test_one_fault_at_a_time_on_a_device(drawn: tuple[World, list[Fault]]) -> None:
    of = defaultdict[str, list[Fault]](list)
    for one in sorted(drawn[1]):
        of[one.target].append(one)
    assert any(len(faults) > 1 for faults in of.values())
    for faults in of.values():
        for earlier, later in pairwise(faults):
            assert later.from_us - earlier.to_us >= APART_US


def test_lamps_are_clearly_dark_or_clearly_not(drawn: tuple[World, list[Fault]]) -> None:
    town, faults = drawn
    for one in faults:
        dark = length(intersect([one.span], due(town, one.target))) if "lamp" in one.target else 0
        match one.kind:
            case FaultKind.LAMP_BROKEN:
                # Whole nights begin and end by day; on-delay 300 s, heartbeat 600 s.
                assert dark >= 25 * MINUTE
            case FaultKind.LAMP_FLICKER:
                assert dark == one.to_us - one.from_us
                assert MINUTE <= dark <= 200 * SECOND
            case FaultKind.LAMP_DAY_BURNER:
                assert dark == 0
                assert one.to_us - one.from_us >= HOUR
                margin = [(one.from_us - 30 * MINUTE, one.to_us + 30 * MINUTE)]
                assert not intersect(margin, due(town, one.target))
            case FaultKind.DEVICE_DEAD:
                # Longer than a reading holds, so that silence shows.
                assert one.to_us - one.from_us > 30 * MINUTE
                if device(town, one.target).kind == "lamp":
                    edges = [edge for part in due(town, one.target) for edge in part]
                    assert all(abs(edge - one.from_us) >= MARGIN_US for edge in edges)
            case _:
                pass


def test_an_intruder_follows_through_a_forced_gate(drawn: tuple[World, list[Fault]]) -> None:
    town, faults = drawn
    forced = past(town, SPAN, {BREAK_IN: 1.0})
    gates = [one for one in forced if one.kind is FaultKind.GATE_FORCED]
    assert gates
    assert len(forced) == 2 * len(gates)
    for gate, alarm in zip(forced[::2], forced[1::2], strict=True):
        assert 5 * SECOND <= alarm.from_us - gate.from_us < 25 * SECOND
        assert alarm.detail == "intrusion"
        assert device(town, gate.target).area == device(town, alarm.target).area
    assert faults


def test_known_faults_are_respected() -> None:
    town = world()
    everywhere = [
        Fault(*SPAN, FaultKind.DEVICE_DEAD, one.device)
        for one in town.city.devices
        if one.kind == "bin"
    ]
    town.add(everywhere)
    targets = {one.target for one in past(town)}
    assert targets
    assert not [name for name in targets if "bin" in name]


class TestLive:
    span = NOON + 3 * HOUR, NOON + 3 * HOUR + 10 * MINUTE

    def test_chooses_where_asked(self) -> None:
        town = world(communities=3)
        (one,) = Fate(town).live("gate_held_open", ["c02"], self.span, "", Draw(1))
        assert one.span == self.span
        assert device(town, one.target).community == "c02"
        assert device(town, one.target).kind == "gate"

    def test_goes_on_to_the_next_community_where_all_are_taken(self) -> None:
        town = world(communities=2)
        fate = Fate(town)
        chosen = [
            fate.live("alarm", ["c01", "c02"], self.span, "panic", Draw(n))[0].target
            for n in range(2)
        ]
        assert chosen == ["c01-alarm-004", "c02-alarm-004"]
        assert fate.live("alarm", ["c01", "c02"], self.span, "panic", Draw(3)) == []

    def test_leaves_alone_what_is_behind_a_cut_line(self) -> None:
        town = world()
        fate = Fate(town)
        (cut,) = fate.live("gateway_silent", ["c01"], self.span, "", Draw(1))
        for number in range(3):
            (one,) = fate.live("bin_fire", ["c01"], self.span, "", Draw(number))
            assert device(town, one.target).gateway != cut.target

    def test_by_day_only_the_underpass_can_be_dark(self) -> None:
        town = world()
        fate = Fate(town)
        (one,) = fate.live("lamp_broken", ["c01"], self.span, "", Draw(1))
        assert one.target == "c01-lamp-060"
        assert fate.live("lamp_broken", ["c01"], self.span, "", Draw(1)) == []
        (burner,) = fate.live("lamp_day_burner", ["c01"], self.span, "", Draw(1))
        assert device(town, burner.target).programme != "always"

    def test_at_night_no_lamp_burns_by_day(self) -> None:
        night = NOON + 12 * HOUR, NOON + 13 * HOUR
        fate = Fate(world())
        assert fate.live("lamp_day_burner", ["c01"], night, "", Draw(1)) == []
        assert fate.live("lamp_broken", ["c01"], night, "", Draw(1))

    def test_keeps_away_from_faults_of_the_past(self) -> None:
        town = world([fault(FaultKind.ALARM, "c01-alarm-004", NOON + 2 * HOUR, 2_400, "panic")])
        assert Fate(town).live("alarm", ["c01"], self.span, "panic", Draw(1)) == []
