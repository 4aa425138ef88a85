# SPDX-License-Identifier: Apache-2.0
"""What is a nuisance, what a flood, what a dark circuit: by table, and for anything at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import hygiene
from ingest.alerts import SHELVED_MAX
from ingest.hygiene import Cycle
from ingest.kinds import DEFAULT_RULES
from ingest.rules import Rule

START = datetime(2026, 11, 21, 18, tzinfo=UTC)


def cycles(*spans: tuple[float, float]) -> list[Cycle]:
    return [
        Cycle(START + timedelta(seconds=start), START + timedelta(seconds=end))
        for start, end in spans
    ]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([], None, id="never-cleared"),
        pytest.param([(0, 5), (20, 25)], None, id="twice-is-no-chatter"),
        pytest.param([(0, 5), (20, 25), (50, 60)], "chattering", id="three-in-a-minute"),
        pytest.param([(0, 5), (20, 25), (50, 60.1)], None, id="three-in-more-than-a-minute"),
        pytest.param([(0, 5), (20, 25), (50, 60), (2_000, 2_100)], None, id="chatter-that-is-over"),
        pytest.param([(n * 600, n * 600 + 10) for n in range(5)], "fleeting", id="five-short"),
        pytest.param([(n * 600, n * 600 + 10) for n in range(4)], None, id="four-short"),
        pytest.param([(n * 600, n * 600 + 11) for n in range(5)], None, id="long-enough-to-act"),
        pytest.param([(n * 1_000, n * 1_000 + 3) for n in range(5)], None, id="over-hours"),
    ],
)
def test_nuisance(spans: list[tuple[float, float]], expected: str | None) -> None:
    assert hygiene.nuisance(cycles(*spans)) == expected


@given(st.lists(st.tuples(st.integers(0, 3_600), st.integers(0, 60)), max_size=30))
def test_what_is_a_nuisance_does_not_depend_on_when_it_is_looked_at(
    spans: list[tuple[int, int]],
) -> None:
    told = sorted((start, start + length) for start, length in spans)
    later = [(start + 86_400, end + 86_400) for start, end in told]
    assert hygiene.nuisance(cycles(*told)) == hygiene.nuisance(cycles(*later))
    # Fewer than three times is never one, however short they were.
    assert hygiene.nuisance(cycles(*told[:2])) is None


def test_shelves_double_and_end() -> None:
    minutes = [length and length.total_seconds() / 60 for length in map(hygiene.shelf, range(6))]
    assert minutes == [10, 20, 40, 80, None, None]


@given(st.integers(0, 1_000))
def test_no_shelf_is_longer_than_a_shelf_may_be(before: int) -> None:
    length = hygiene.shelf(before)
    assert length is None or timedelta(0) < length <= SHELVED_MAX


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param([10], [False], id="ten-are-bearable"),
        pytest.param([11, 10, 5, 4, 5, 10, 11], [1, 1, 1, 0, 0, 0, 1], id="hysteresis"),
    ],
)
def test_flood_begins_above_ten_and_ends_below_five(
    counts: list[int], expected: list[bool]
) -> None:
    was, told = False, list[bool]()
    for count in counts:
        was = hygiene.is_flood(was, count)
        told.append(was)
    assert told == [bool(one) for one in expected]


@given(st.lists(st.integers(0, 20), min_size=2))
def test_flood_does_not_flap_between_its_limits(counts: list[int]) -> None:
    states = [False]
    for count in counts:
        states.append(hygiene.is_flood(states[-1], count))
    for (before, after), count in zip(pairwise(states), counts, strict=True):
        if hygiene.FLOOD_BELOW <= count <= hygiene.FLOOD_ABOVE:
            assert after == before


@pytest.mark.parametrize(
    ("dark", "lamps", "expected"),
    [(2, 2, False), (3, 3, True), (3, 6, True), (3, 7, False), (0, 0, False), (50, 100, True)],
)
def test_circuit(dark: int, lamps: int, expected: bool) -> None:
    assert hygiene.circuit_is_dark(dark, lamps) is expected


@pytest.mark.parametrize(
    ("seconds", "cleared", "expected"),
    [(86_400, None, False), (86_401, None, True), (90_000, 3_600, False), (90_000, 86_401, True)],
)
def test_stale_after_a_day(seconds: int, cleared: int | None, expected: bool) -> None:
    ended = None if cleared is None else START + timedelta(seconds=cleared)
    now = START + timedelta(seconds=seconds)
    assert hygiene.is_stale("lamp.dark", START, ended, now) is expected
    assert hygiene.is_stale("indicator.lighting_uptime", START, ended, now) is False


def test_what_endangers_people_or_may_be_a_crime_is_never_muted() -> None:
    in_sight = {rule.id for rule in DEFAULT_RULES if not hygiene.may_mute(rule)}
    assert in_sight >= {
        "alarm.fire", "alarm.smoke", "alarm.gas", "alarm.panic", "alarm.duress", "bin.fire",
        "alarm.intrusion", "gate.forced", "gateway.silent", "alerts.flood",
    }  # fmt: skip
    assert not in_sight & {"lamp.dark", "device.silent", "device.fault", "bin.full"}
    assert not hygiene.may_mute(Rule(id="own", severity="minor", life_safety=True))


def test_a_burglar_who_walks_to_and_fro_is_not_shelved_unseen() -> None:
    assert not hygiene.may_shelve("alarm.intrusion", "major", seen=False)
    assert hygiene.may_shelve("alarm.intrusion", "major", seen=True)
    assert hygiene.may_shelve("alarm.tamper", "minor", seen=False)
