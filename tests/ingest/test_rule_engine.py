# SPDX-License-Identifier: Apache-2.0
"""People's own rules, live: killed anywhere and started again, they raise the same alerts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.kinds import Event, Reading
from edge_agent.kinds.alarm import AlarmEvent
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateEvent
from ingest import event_rules
from ingest.indicators import lighting, spans
from ingest.kinds import DEFAULT_RULES
from ingest.projection import Projection
from ingest.rules import RuleBook, Version
from ingest.store.alerts import Standing
from ingest.store.devices import Device, Gateway, Registry, State
from ingest.store.rules import MemoryKey, MemoryRow
from tests.ingest.community import heard

START = datetime(2026, 11, 20, 10, tzinfo=UTC)
GATEWAY = Gateway("gw-1", "c01", "active", None, silent=False, status_interval_s=None)


def device(number: int, kind: str, area: str = "c01-g01") -> Device:
    return Device(
        id=number,
        device=f"{kind}-{number}",
        kind=kind,
        gateway="gw-1",
        community="c01",
        area=area,
        life="in_service",
        max_silence=timedelta(minutes=30),
        rated_power_w=None,
        programme=lighting.parse_programme("sun"),
        place=lighting.Place(30.6, 104.0, "Asia/Shanghai"),
        in_service_from_us=spans.to_us(START - timedelta(days=2)),
    )


BINS = (device(1, "bin"), device(2, "bin"))
GATE, ALARM, FAR = device(3, "gate"), device(4, "alarm"), device(5, "alarm", "c01-g02")
REGISTRY = Registry(1, {"gw-1": GATEWAY}, {one.device: one for one in (*BINS, GATE, ALARM, FAR)})
LIES: dict[str, Sequence[str]] = dict.fromkeys(("c01", "c01-g01", "c01-g02"), ("city", "c01"))
NAME = {"zh-CN": "规则", "en": "rule"}


def custom(
    slug: str, kind: str, when: dict[str, Any], area: str = "city", **more: object
) -> Version:
    definition = {"name": NAME, "kind": kind, "severity": "minor", "when": when, **more}
    return Version(f"custom.{slug}", area, 1, definition)


def book(*versions: Version) -> RuleBook:
    return RuleBook(DEFAULT_RULES, {}, versions, LIES)


HEAVY = custom(
    "heavy", "bin", {"type": "threshold", "field": "weight_kg", "above": 50, "clear": 40}
)
HELD = custom(
    "held", "bin", {"type": "equals", "field": "lid_open", "value": True},
    on_delay_s=300, off_delay_s=120,
)  # fmt: skip
FILLING = custom(
    "filling", "bin",
    {"type": "rate", "field": "fill_pct", "above": 2, "per": "minute", "within_s": 600},
)  # fmt: skip
OFTEN = custom(
    "often", "bin",
    {
        "type": "count", "times": 3, "within_s": 900,
        "of": {"type": "threshold", "field": "fill_pct", "above": 50},
    },
)  # fmt: skip
MISSING = custom("missing", "bin", {"type": "no_data", "field": "temperature_c", "for_s": 600})
DENIED = custom(
    "denied", "gate",
    {
        "type": "count", "times": 3, "within_s": 60,
        "of": {"type": "event", "events": ["denied"]},
    },
)  # fmt: skip
BREAK_IN = custom(
    "break-in", "alarm",
    {
        "type": "sequence", "within_s": 60, "where": "cell",
        "first": {"type": "event", "kind": "gate", "events": ["forced"]},
        "then": {"type": "event", "events": ["intrusion"], "phases": ["raised"]},
    },
)  # fmt: skip
READING_RULES = (HEAVY, HELD, FILLING, OFTEN, MISSING)


class Tables:
    """What the database would hold: enough to restart from."""

    def __init__(self, rules: RuleBook, lane: str = "telemetry") -> None:
        self.rules, self.lane = rules, lane
        self.states: dict[int, State] = {}
        self.told: list[tuple[str, str, str, datetime, str, dict[str, Any]]] = []
        self.standing: dict[MemoryKey, Standing] = {}
        self.memory: dict[MemoryKey, MemoryRow] = {}
        self.pending: dict[Any, Any] = {}

    def started(self) -> Projection:
        made = Projection(self.rules, REGISTRY, "event" if self.lane == "event" else "telemetry")
        made.restore(
            REGISTRY, self.states, list(self.standing.values()), [], list(self.memory.values())
        )
        return made

    def commit(self, projection: Projection) -> None:
        delta = projection.gather()
        self.states.update(delta.states)
        for key, row in delta.memory.items():
            if row is None:
                self.memory.pop(key, None)
            else:
                self.memory[key] = row
        for change in delta.alerts:
            subject = change.subject.device or change.subject.gateway
            key = MemoryKey(change.rule.id, subject, change.key)
            name = type(change.decision).__name__
            at, reason = change.decision.at, change.decision.reason
            self.told.append((change.rule.id, subject, name, at, reason, dict(change.params)))
            if name == "Raise":
                assert key not in self.standing
                self.standing[key] = Standing(
                    change.rule.id, "gw-1", change.subject.device, change.key, at
                )
            else:
                del self.standing[key]
        projection.commit()


def pass_time(
    projection: Projection, now: datetime, latest: Callable[[int], State | None] | None = None
) -> None:
    """What a tick does."""
    for one, rule, at in projection.engine.take_due(now, 1_000):
        if latest is None:
            projection.ask_due(one, rule, at, now)
        else:
            event_rules.ask_due(projection.engine, one, rule, at, now, latest)


Step = tuple[int, int, float, float, bool, bool, bool]
steps = st.lists(
    st.tuples(
        st.integers(1, 400),  # seconds
        st.integers(0, 1),  # which bin
        st.sampled_from([0.0, 45.0, 60.0, 90.0]),
        st.sampled_from([30.0, 45.0, 55.0]),
        st.booleans(),  # lid
        st.booleans(),  # tells its temperature
        st.booleans(),  # killed before it is stored
    ),
    min_size=1,
    max_size=40,
)


def run(taken: Sequence[Step], *, kill: bool) -> Tables:
    tables = Tables(book(*READING_RULES))
    projection, at = tables.started(), START
    for seconds, which, fill, weight, lid, warm, killed in taken:
        at += timedelta(seconds=seconds)
        one = BINS[which]
        told: Reading = BinReading(
            device=one.device,
            at=at,
            fill_pct=fill,
            weight_kg=weight,
            lid_open=lid,
            temperature_c=20.0 if warm else None,
        )
        pass_time(projection, at - timedelta(microseconds=1))
        tables.commit(projection)
        if kill and killed:
            projection.fold([heard(one, told, at)])
            projection.rollback()
            pass_time(projection, at)
            projection = tables.started()
            pass_time(projection, at - timedelta(microseconds=1))
        projection.fold([heard(one, told, at)])
        tables.commit(projection)
    return tables


@settings(deadline=None)
@given(steps)
def test_killed_anywhere_the_same_alerts_are_raised(taken: list[Step]) -> None:
    whole, killed = run(taken, kill=False), run(taken, kill=True)
    assert killed.told == whole.told
    assert killed.memory == whole.memory


def test_each_kind_of_own_rule_is_asked() -> None:
    """The run above is worth something: every rule is raised in it, and cleared."""
    taken: list[Step] = []
    for minute in range(60):
        bad = 10 <= minute < 40
        fill = [0.0, 60.0][minute % 2] if bad else 0.0
        taken.append((60, 0, fill if minute != 20 else 90.0, 55.0 if bad else 30.0, bad, not bad,
                      False))  # fmt: skip
    told = run(taken, kill=False).told
    for version in (HEAVY, HELD, OFTEN, MISSING):
        assert {name for rule, _, name, *_ in told if rule == version.rule} == {"Raise", "Clear"}
    raised = {rule: at for rule, _, name, at, *_ in told if name == "Raise" and at > START}
    cleared = {rule: at for rule, _, name, at, *_ in told if name == "Clear"}
    assert raised[HELD.rule] == START + timedelta(minutes=11 + 5)
    assert cleared[HELD.rule] == START + timedelta(minutes=41 + 2)
    assert raised[MISSING.rule] == START + timedelta(minutes=11 + 10)


def tell(projection: Projection, *events: tuple[Device, Event]) -> list[tuple[str, str]]:
    for one, event in events:
        event_rules.tell(projection.engine, one, event, event.at, lambda number: None)
    changes = projection.gather().alerts
    return [(type(change.decision).__name__, change.rule.id) for change in changes]


def gate(name: str, second: float) -> tuple[Device, Event]:
    at = START + timedelta(seconds=second)
    return GATE, GateEvent.model_validate({"device": GATE.device, "at": at, "event": name})


def alarm(name: str, second: float, one: Device = ALARM) -> tuple[Device, Event]:
    at = START + timedelta(seconds=second)
    return one, AlarmEvent.model_validate(
        {"device": one.device, "at": at, "event": name, "phase": "raised", "occurrence": "o-1"}
    )


def test_an_event_is_counted_across_a_restart() -> None:
    tables = Tables(book(DENIED), "event")
    first = tables.started()
    assert tell(first, gate("denied", 0), gate("denied", 1)) == []
    tables.commit(first)
    again = tables.started()
    assert tell(again, gate("denied", 2)) == [("Raise", DENIED.rule)]
    tables.commit(again)
    last = tables.started()
    pass_time(last, START + timedelta(minutes=5), lambda number: None)
    assert [type(one.decision).__name__ for one in last.gather().alerts] == ["Clear"]


def test_who_is_waited_for_is_told_beforehand() -> None:
    """So that it is looked up together who owes what is due behind them."""
    tables = Tables(book(DENIED), "event")
    lane = tables.started()
    tell(lane, *(gate("denied", second) for second in range(3)))
    tables.commit(lane)
    assert list(lane.engine.waiting) == []
    now = START + timedelta(minutes=5)
    for _ in range(2):
        assert list(lane.engine.take_due(now, 100, lambda gateway, of_state: START)) == []
        assert list(lane.engine.waiting) == ["gw-1"]
    assert len(list(lane.engine.take_due(now, 100, lambda gateway, of_state: now))) == 1
    assert list(lane.engine.waiting) == []


@pytest.mark.parametrize("rule", [DENIED, BREAK_IN])
@pytest.mark.parametrize("ended_by", ["time", "event"])
def test_what_is_over_is_not_raised_by_a_restart(rule: Version, ended_by: str) -> None:
    """What is remembered held once; whoever starts asks as of when it was over."""
    tables = Tables(book(rule), "event")
    first = tables.started()
    made = [gate("denied", second) for second in range(3)]
    made += [gate("forced", 3), alarm("intrusion", 4)]
    assert ("Raise", rule.rule) in tell(first, *made)
    tables.commit(first)
    if ended_by == "time":
        pass_time(first, START + timedelta(minutes=5), lambda number: None)
        tables.commit(first)
    tell(first, gate("granted", 400), alarm("tamper", 401))
    tables.commit(first)
    assert [name for slug, _, name, *_ in tables.told if slug == rule.rule] == ["Raise", "Clear"]
    again = tables.started()
    pass_time(again, START + timedelta(minutes=10), lambda number: None)
    assert again.gather().alerts == []


@pytest.mark.parametrize(("one", "raised"), [(ALARM, True), (FAR, False)])
def test_a_sequence_is_one_cells(one: Device, raised: bool) -> None:
    projection = Tables(book(BREAK_IN), "event").started()
    told = tell(projection, gate("forced", 0), alarm("intrusion", 30, one))
    assert (("Raise", BREAK_IN.rule) in told) is raised


def test_what_is_given_under_threat_speaks_to_its_own_rule_alone() -> None:
    quiet = {"type": "not", "of": {"type": "event", "events": ["panic"], "holds_s": 60}}
    spy = custom("spy", "alarm", quiet)
    projection = Tables(book(spy), "event").started()
    assert tell(projection, alarm("duress", 0)) == [("Raise", "alarm.duress")]
    assert tell(projection, alarm("water", 1))[1:] == [
        ("Raise", "alarm.water"),
        ("Raise", spy.rule),
    ]


def test_a_credential_is_told_to_nobody() -> None:
    projection = Tables(book(DENIED), "event").started()
    for second in range(3):
        one, event = gate("denied", second)
        tell(projection, (one, event.model_copy(update={"credential": "p1-x"})))
    (change,) = projection.gather().alerts
    assert change.params["event"] == "denied"
    assert "credential" not in change.params


def test_delays_of_events_outlive_a_restart() -> None:
    waiting = Version("gate.forced", "city", 1, {"on_delay_s": 30, "off_delay_s": 20})
    tables = Tables(book(waiting), "event")
    first = tables.started()
    assert tell(first, gate("forced", 0)) == []
    tables.commit(first)
    again = tables.started()
    now = START + timedelta(seconds=31)
    again.engine.pass_time(dict.fromkeys(again.engine.waiting, (now, now)))
    (change,) = again.gather().alerts
    assert change.decision.at == START + timedelta(seconds=30)
    tables.commit(again)
    last = tables.started()
    assert tell(last, gate("restored", 40)) == []
    tables.commit(last)
    ended = tables.started()
    now = START + timedelta(seconds=60)
    ended.engine.pass_time(dict.fromkeys(ended.engine.waiting, (now, now)))
    (change,) = ended.gather().alerts
    assert change.decision.at == now
    tables.commit(ended)
    assert tables.memory == {}


def test_a_delay_goes_on_behind_another_gateway() -> None:
    waiting = Version("gate.forced", "city", 1, {"on_delay_s": 30})
    tables = Tables(book(waiting), "event")
    lane = tables.started()
    assert tell(lane, gate("forced", 0)) == []
    tables.commit(lane)
    other = replace(GATEWAY, gateway="gw-2")
    moved = replace(GATE, gateway=other.gateway)
    lane.reload_registry(Registry(2, {"gw-1": GATEWAY, "gw-2": other}, {moved.device: moved}))
    assert list(lane.engine.waiting) == ["gw-2"]
    now = START + timedelta(seconds=31)
    lane.engine.pass_time({"gw-2": (now, now)})
    (change,) = lane.gather().alerts
    assert change.decision.at == START + timedelta(seconds=30)


def test_what_was_not_stored_is_asked_again() -> None:
    projection = Tables(book(HEAVY, MISSING)).started()
    said = BinReading(device=BINS[0].device, at=START, weight_kg=60)
    for _ in range(2):
        projection.fold([heard(BINS[0], said)])
        assert [change.rule.id for change in projection.gather().alerts] == [HEAVY.rule]
        projection.rollback()
        assert not projection.gather().alerts
    projection.fold([heard(BINS[0], said)])
    projection.commit()
    for _ in range(2):
        pass_time(projection, START + timedelta(minutes=11))
        assert [change.rule.id for change in projection.gather().alerts] == [MISSING.rule]
        projection.rollback()


def test_a_device_without_own_rules_stays_calm() -> None:
    """Who says the same as before is asked nothing, unless time alone may change the answer."""
    asked: list[int] = []
    for versions in ((), (HEAVY,), (FILLING,)):
        projection = Tables(book(*versions)).started()
        calls = 0
        real = projection.engine.custom.of

        def counted(area: str, kind: str) -> Any:
            nonlocal calls
            calls += 1
            return real(area, kind)  # noqa: B023 - called within this turn

        projection.engine.custom.of = counted
        for minute in range(10):
            at = START + timedelta(minutes=minute)
            said = BinReading(device=BINS[0].device, at=at, fill_pct=5, weight_kg=1)
            projection.fold([heard(BINS[0], said, at)])
            projection.commit()
        asked.append(calls)
    assert asked == [1, 1, 10]


def test_no_time_is_told_while_no_delay_runs() -> None:
    projection = Tables(book(HELD)).started()
    told: list[Any] = []
    real = projection.engine.pass_time

    def noted(times: Mapping[str, tuple[datetime, datetime]]) -> None:
        told.append(list(times))
        real(times)

    projection.engine.pass_time = noted
    for minute, lid in enumerate((False, False, True, True)):
        at = START + timedelta(minutes=minute)
        said = BinReading(device=BINS[0].device, at=at, lid_open=lid)
        projection.fold([heard(BINS[0], said, at)])
        projection.commit()
    assert told == [["gw-1"], ["gw-1"]]


def test_rules_of_another_area_are_not_asked() -> None:
    near = replace_area(HEAVY, "c01")
    elsewhere = replace_area(HEAVY, "c02")
    for version, raised in ((near, 1), (elsewhere, 0)):
        projection = Tables(book(version)).started()
        said = BinReading(device=BINS[0].device, at=START, weight_kg=60)
        projection.fold([heard(BINS[0], said, START)])
        assert len(projection.gather().alerts) == raised


def replace_area(version: Version, area: str) -> Version:
    return version._replace(area=area)


def test_a_condition_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tables = Tables(book(HEAVY, HELD))
    broken = MemoryRow(HEAVY.rule, BINS[0].device, "", {"nonsense": 1}, None, False, None, {})
    tables.memory[MemoryKey(HEAVY.rule, BINS[0].device)] = broken
    projection = tables.started()
    for minute in range(7):
        at = START + timedelta(minutes=minute)
        said = BinReading(device=BINS[0].device, at=at, weight_kg=60, lid_open=True)
        projection.fold([heard(BINS[0], said, at)])
    assert [change.rule.id for change in projection.gather().alerts] == [HELD.rule]
    assert caplog.text.count("rule fails") == 1


def test_limits_turn_round_where_low_is_bad() -> None:
    from ingest.kinds.base import hysteresis

    low = RuleBook(DEFAULT_RULES).get("detector.low_battery")
    assert [hysteresis(value, low) for value in (15.0, 15.1, 25.0, 25.1)] == [
        True, None, None, False,
    ]  # fmt: skip
    assert low is not None
    assert hysteresis(20.0, replace_clear(low)) is True


def replace_clear(rule: Any) -> Any:
    return rule.model_copy(update={"limit": 20, "clear": None})
