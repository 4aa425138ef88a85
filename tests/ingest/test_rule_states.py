# SPDX-License-Identifier: Apache-2.0
"""People's own rules over states, live: by readings, silence, gateways, registry and time alone.

Killed anywhere and started again, they raise the same alerts; a naive model says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.kinds.bin import BinReading
from ingest.custom_rules import Custom
from ingest.kinds import DEVICE_SILENT
from ingest.presence import Presence
from ingest.projection import Projection
from ingest.rule_engine import Seen
from ingest.rules import RuleBook, Version
from ingest.store.devices import Device, Registry, State
from tests.ingest.community import heard
from tests.ingest.test_rule_engine import (
    BINS,
    DENIED,
    GATE,
    GATEWAY,
    HEAVY,
    START,
    Tables,
    book,
    custom,
    gate,
    pass_time,
    tell,
)

ONE, OTHER = BINS
OFFLINE: Final = {"type": "equals", "field": "state", "value": "offline"}
BAD: Final = {"type": "one_of", "field": "state", "values": ["fault", "offline"]}


def cel(expression: str) -> dict[str, Any]:
    return {"type": "expression", "expression": expression}


GONE = custom("gone", "bin", OFFLINE)
LONG = custom("long", "bin", BAD, on_delay_s=300, off_delay_s=60)
OFTEN = custom("often", "bin", {"type": "count", "of": OFFLINE, "times": 3, "within_s": 3600})
BROKE = custom(
    "broke", "bin",
    {
        "type": "sequence", "first": OFFLINE, "then": cel("state == 'fault'"),
        "within_s": 900, "holds_s": 300,
    },
)  # fmt: skip
ALONE = custom("alone", "bin", cel("state == 'offline' && gateway == 'heard'"))
EITHER = custom("either", "bin", cel("state == 'offline' || fill_pct > 80"), on_delay_s=900)
NEVER = custom("never", "bin", cel("state == 'unknown'"), on_delay_s=600)
WORK = custom("work", "bin", cel("state == 'maintenance'"), on_delay_s=100)
NIGHT = custom(
    "night", "bin",
    {
        "type": "all",
        "of": [OFFLINE, {"type": "schedule", "by": "clock", "start": "19:00", "end": "20:00"}],
    },
)  # fmt: skip
RULES: Final = (GONE, LONG, OFTEN, BROKE, ALONE, EITHER, NEVER, WORK, NIGHT)


class House:
    """Two bins behind one gateway, as ingest sees them; started again from what the tables hold."""

    def __init__(self, rules: RuleBook) -> None:
        self.tables = Tables(rules)
        self.registry = Registry(1, {GATEWAY.gateway: GATEWAY}, {one.device: one for one in BINS})
        self.at = START
        self.start()
        self._tick(START)
        self.commit()

    def start(self) -> None:
        self.presence = Presence()
        self.presence.heard([(GATEWAY.gateway, self.at)])
        made = Projection(self.tables.rules, self.registry, "telemetry", self.presence)
        tables = self.tables
        rows = list(tables.memory.values())
        made.restore(self.registry, tables.states, list(tables.standing.values()), [], rows)
        self.projection = made

    def go_on(self, seconds: float) -> None:
        """Time passes, up to just before what comes then."""
        self.at += timedelta(seconds=seconds)
        self._tick(self.at - timedelta(microseconds=1))

    def _tick(self, now: datetime) -> None:
        self.projection.engine.look_for_gateways()
        pass_time(self.projection, now)

    def commit(self) -> None:
        self.tables.commit(self.projection)

    def tell(self, one: Device, fault: str | None = None, fill: float = 0.0) -> None:
        said = BinReading(device=one.device, at=self.at, fault=fault, fill_pct=fill)
        self.projection.fold([heard(self.registry.devices[one.device], said, self.at)])

    def silence(self, one: Device, *, silent: bool) -> None:
        device = self.registry.devices[one.device]
        if device.life == "in_service":
            self.projection.silence(device, DEVICE_SILENT, silent=silent, now=self.at)

    def turn(self, *, silent: bool) -> None:
        """The event lane wrote it, and tells its process."""
        gateway = self.registry.gateways[GATEWAY.gateway]
        if self.presence.is_silent(gateway) != silent:
            self.presence.set_silent(gateway.gateway, silent=silent, now=self.at)
        self.registry = replace(
            self.registry, gateways={GATEWAY.gateway: replace(gateway, silent=silent)}
        )
        self._tick(self.at)

    def register(self, one: Device, life: str) -> None:
        device = replace(self.registry.devices[one.device], life=life)
        devices = {**self.registry.devices, one.device: device}
        self.registry = replace(self.registry, devices=devices)
        self.projection.reload_registry(self.registry)
        self._tick(self.at)

    def do(self, step: Step) -> None:
        match step.what:
            case "good":
                self.tell(BINS[step.which], fill=step.fill)
            case "fault":
                self.tell(BINS[step.which], "jam", step.fill)
            case "silent" | "heard":
                self.silence(BINS[step.which], silent=step.what == "silent")
            case "gateway silent" | "gateway heard":
                self.turn(silent=step.what == "gateway silent")
            case "maintenance" | "in_service":
                self.register(BINS[step.which], step.what)


What = Literal[
    "good", "fault", "silent", "heard", "gateway silent", "gateway heard", "maintenance",
    "in_service",
]  # fmt: skip


class Step(NamedTuple):
    seconds: int
    what: What
    which: int = 0
    fill: float = 0.0
    killed: bool = False


steps = st.lists(
    st.builds(
        Step,
        st.integers(1, 900),
        st.sampled_from(What.__args__),
        st.integers(0, 1),
        st.sampled_from([0.0, 90.0]),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


def run(taken: Sequence[Step], *rules: Version, kill: bool = False) -> House:
    house = House(book(*rules))
    for step in taken:
        house.go_on(step.seconds)
        house.commit()
        if kill and step.killed:
            if step.what in {"good", "fault", "silent", "heard"}:
                house.do(step)  # and never stored
                house.projection.rollback()
            house.start()
            house.go_on(0)
            house.commit()
        house.do(step)
        house.commit()
    house.go_on(4_000)
    house.commit()
    return house


@settings(deadline=None)
@given(steps)
def test_killed_anywhere_the_same_alerts_are_raised(taken: list[Step]) -> None:
    whole, killed = run(taken, *RULES), run(taken, *RULES, kill=True)
    # What is decided at once, of several devices and rules, is decided in any order.
    assert _in_order(killed) == _in_order(whole)
    assert killed.tables.memory == whole.tables.memory


def _in_order(house: House) -> list[tuple[object, ...]]:
    return sorted(house.tables.told, key=lambda one: (one[0], one[1], one[3], one[2] == "Clear"))


class Course:
    """What people would be shown of the first bin: its state from each instant on."""

    def __init__(self, taken: Sequence[Step]) -> None:
        life, heard, silent, gateway, fault = "in_service", False, False, False, False
        seconds = 0
        self.course = [(0, "unknown", False)]
        for step in taken:
            seconds += step.seconds
            mine = step.which == 0
            match step.what:
                case "good" | "fault" if mine:
                    heard, fault = True, step.what == "fault"
                case "silent" | "heard" if mine and life == "in_service" and heard:
                    silent = step.what == "silent"
                case "gateway silent" | "gateway heard":
                    gateway = step.what == "gateway silent"
                case "maintenance" | "in_service" if mine:
                    life = step.what
                case _:
                    pass
            first = (
                ("maintenance", life == "maintenance"), ("unknown", not heard),
                ("offline", silent or gateway), ("fault", fault), ("normal", True),
            )  # fmt: skip
            state = next(word for word, holds in first if holds)
            self.course.append((seconds, state, gateway))
        self.end = seconds + 4_000

    def alerts(self, bad: set[str], on_delay: int, off_delay: int = 0) -> list[tuple[str, int]]:
        """By looking at each second in turn."""
        told: list[tuple[str, int]] = []
        course, state = list(self.course), "unknown"
        since: int | None = None  # it is so, or is not so any more
        stands = False
        for second in range(self.end):
            # What ends with its delay lasted for all of it: once before the change, once after.
            for changes in (False, True):
                while changes and course and course[0][0] <= second:
                    state = course.pop(0)[1]
                if (state in bad) == stands:
                    since = None
                    continue
                since = second if since is None else since
                if second - since >= (off_delay if stands else on_delay):
                    stands, since = not stands, None
                    told.append(("Raise" if stands else "Clear", second))
        return told


@settings(deadline=None)
@given(steps, st.sets(st.sampled_from(["normal", "fault", "offline", "maintenance", "unknown"]),
                      min_size=1, max_size=4),
       st.sampled_from([0, 1, 300]), st.sampled_from([0, 60]))  # fmt: skip
def test_what_people_are_shown_is_what_rules_hear(
    taken: list[Step], bad: set[str], on_delay: int, off_delay: int
) -> None:
    when = {"type": "one_of", "field": "state", "values": sorted(bad)}
    asked = custom("asked", "bin", when, on_delay_s=on_delay, off_delay_s=off_delay)
    told = run(taken, asked).tables.told
    mine = [
        (name, round((at - START).total_seconds()))
        for rule, device, name, at, *_ in told
        if rule == asked.rule and device == ONE.device
    ]
    assert mine == Course(taken).alerts(bad, on_delay, off_delay)


def told_of(house: House, rule: Version, one: Device = ONE) -> list[tuple[str, float]]:
    return [
        (name, (at - START).total_seconds())
        for slug, device, name, at, *_ in house.tables.told
        if slug == rule.rule and device == one.device
    ]


def test_each_way_into_a_state_is_noticed() -> None:
    taken = [
        Step(10, "good"), Step(90, "silent"), Step(100, "good"), Step(5, "heard"),
        Step(95, "gateway silent"), Step(200, "gateway heard"),
        Step(100, "fault"), Step(400, "good"),
        Step(100, "maintenance"), Step(500, "in_service"),
        Step(100, "silent"), Step(100, "heard"), Step(100, "fault"), Step(10, "good"),
    ]  # fmt: skip
    house = run(taken, *RULES)
    assert told_of(house, GONE) == [
        ("Raise", 100), ("Clear", 205), ("Raise", 300), ("Clear", 500), ("Raise", 1700),
        ("Clear", 1800),
    ]  # fmt: skip
    assert told_of(house, LONG) == [("Raise", 900), ("Clear", 1060)]
    assert told_of(house, OFTEN) == [("Raise", 1700), ("Clear", 100 + 3600)]
    assert told_of(house, BROKE) == [
        ("Raise", 600), ("Clear", 900), ("Raise", 1900), ("Clear", 2200),
    ]  # fmt: skip
    assert told_of(house, ALONE) == [
        ("Raise", 100), ("Clear", 205), ("Raise", 1700), ("Clear", 1800),
    ]  # fmt: skip
    assert told_of(house, NEVER, OTHER) == [("Raise", 600)]
    assert told_of(house, WORK) == [("Raise", 1200), ("Clear", 1600)]
    (first, *_) = (one for one in house.tables.told if one[0] == ALONE.rule)
    assert first[5] == {"state": "offline", "gateway": "heard"}


def test_a_delay_runs_on_where_the_state_alone_says_the_same() -> None:
    """A full bin falls silent: after half an hour nobody knows how full it is, but that it is."""
    house = run([Step(10, "good", fill=90.0), Step(100, "silent")], EITHER)
    assert told_of(house, EITHER) == [("Raise", 910)]
    alone = custom("full", "bin", cel("fill_pct > 80"), on_delay_s=900)
    assert told_of(run([Step(10, "good", fill=90.0), Step(100, "silent")], alone), alone) == []


def test_what_others_tell_ends_no_delay_of_what_the_state_says() -> None:
    """The gateway's stream goes on past the bin's last word before anybody asks for its state."""
    slow = custom("slow", "bin", cel("state == 'offline' || fill_pct > 80"), on_delay_s=2_000)
    house = House(book(slow))
    house.go_on(10)
    house.tell(ONE, fill=90.0)
    house.commit()
    house.go_on(90)
    house.silence(ONE, silent=True)
    house.commit()
    house.at += timedelta(seconds=1_711)  # half an hour after its last word
    house.tell(OTHER)
    house.commit()
    house.go_on(4_000)
    house.commit()
    assert told_of(house, slow) == [("Raise", 2_010)]


def test_a_rule_that_is_saved_late_asks_of_what_is_offline_already() -> None:
    house = run([Step(10, "good"), Step(100, "silent")], HEAVY)
    house.go_on(1_000)
    rules = book(HEAVY, GONE)
    house.tables.rules = rules
    house.projection.follow_rules(rules, ())
    pass_time(house.projection, house.at)
    house.commit()
    ((*_, name, at, _, _),) = (one for one in house.tables.told if one[0] == GONE.rule)
    assert (name, at) == ("Raise", house.at)


@pytest.mark.parametrize("life", ["planned", "installed", "retired"])
def test_who_is_not_in_use_has_no_state(life: str) -> None:
    house = House(book(NEVER, GONE))
    for one in BINS:  # while a delay runs
        house.register(one, life)
    house.tell(ONE)
    house.commit()
    house.turn(silent=True)
    house.go_on(5_000)
    house.commit()
    assert house.tables.told == []
    house.register(ONE, "in_service")
    house.commit()
    assert [name for name, _ in told_of(house, GONE)] == ["Raise"]
    house.register(ONE, life)
    house.commit()
    assert [name for name, _ in told_of(house, GONE)] == ["Raise", "Clear"]


def test_without_such_a_rule_nobody_looks() -> None:
    """No scan of devices, no timer, no memory: what happens to a state is nobody's business."""
    house = House(book(HEAVY))
    house.tell(ONE)
    house.commit()
    house.turn(silent=True)
    house.silence(ONE, silent=True)
    house.register(ONE, "maintenance")
    house.commit()
    assert list(house.projection.engine.take_due(START + timedelta(days=9), 100)) == []
    assert house.tables.memory == {}
    assert not house.projection.engine.custom.asks_states


def test_who_stays_calm_is_not_asked_by_each_reading() -> None:
    house = House(book(GONE))
    asked: list[datetime] = []
    real = house.projection.engine.ask

    def counted(one: Custom, device: Device, seen: Seen, received_at: datetime) -> bool:
        asked.append(received_at)
        return real(one, device, seen, received_at)

    house.projection.engine.ask = counted
    house.go_on(60)
    for _ in range(5):
        house.tell(ONE)
        house.commit()
        house.go_on(60)
    assert asked == [START + timedelta(seconds=60)]
    house.silence(ONE, silent=True)
    house.commit()
    house.go_on(60)
    house.silence(ONE, silent=False)
    house.commit()
    assert [name for name, _ in told_of(house, GONE)] == ["Raise", "Clear"]


def test_who_is_behind_a_gateway_that_was_never_heard_is_unknown() -> None:
    """Registered, and never installed: nobody ever tells that it is silent."""
    house = House(book(NEVER))
    house.presence = Presence()
    for seen, told in ((START, []), (None, [("Raise", 600)])):
        gateway = replace(GATEWAY, last_seen_at=seen)
        house.registry = replace(house.registry, gateways={GATEWAY.gateway: gateway})
        house.at = START
        house.projection = Projection(
            house.tables.rules, house.registry, "telemetry", house.presence
        )
        house.projection.restore(house.registry, {}, [], [], [])
        pass_time(house.projection, house.at)
        house.go_on(3600)
        house.commit()
        assert told_of(house, NEVER) == told


def test_states_and_readings_behind_one_gateway_are_late_by_themselves() -> None:
    no_data = {"type": "no_data", "field": "temperature_c", "for_s": 60}
    missing = custom("missing", "bin", no_data)
    broken = custom("broken", "bin", cel("state == 'fault'"), on_delay_s=60)
    house = House(book(missing, broken))
    house.go_on(10)
    house.tell(ONE, "jam")
    house.commit()
    now = house.at + timedelta(seconds=100)

    def due(*is_there: bool) -> list[str]:
        taken = house.projection.engine.take_due(
            now, 100, lambda gateway, of_state: now if of_state in is_there else START
        )
        return [one.rule.id for device, one, _ in taken if device == ONE]

    assert due() == []
    assert due(True) == [broken.rule]
    assert due(False) == [missing.rule]


def test_an_event_is_asked_with_the_state_in_the_table() -> None:
    cut = custom(
        "cut", "gate",
        {
            "type": "sequence", "within_s": 60,
            "first": {"type": "event", "events": ["forced"]}, "then": OFFLINE,
        },
    )  # fmt: skip
    tables = Tables(book(cut, DENIED), "event")
    lane = tables.started()
    assert tell(lane, gate("forced", 0)) == [("Raise", "gate.forced")]
    tables.commit(lane)
    state: State | None = None

    def told_of_gate(number: int) -> State | None:
        assert number == GATE.id
        return state

    pass_time(lane, START + timedelta(seconds=20), told_of_gate)
    assert lane.gather().alerts == []
    state = State(START, START, START, {"door": "closed"}, None, silent=True)
    pass_time(lane, START + timedelta(seconds=40), told_of_gate)
    (change,) = lane.gather().alerts
    assert (type(change.decision).__name__, change.rule.id) == ("Raise", cut.rule)
