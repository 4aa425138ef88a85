# SPDX-License-Identifier: Apache-2.0
"""However readings are cut into flushes, retried or interrupted, it comes to the same."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.kinds import Reading
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.lamp import LampReading
from ingest.indicators import lighting, spans
from ingest.kinds import DEFAULT_RULES
from ingest.projection import Delta, Projection
from ingest.rules import RuleBook
from ingest.store.alerts import Change, PendingRow, Standing
from ingest.store.devices import Device, Gateway, Registry, State
from tests.ingest.community import heard

START = datetime(2026, 11, 20, 10, tzinfo=UTC)
PLACE = lighting.Place(30.6, 104.0, "Asia/Shanghai")


def device(number: int, kind: str) -> Device:
    return Device(
        id=number,
        device=f"{kind}-{number}",
        kind=kind,
        gateway="gw-1",
        community="c01",
        area="c01",
        life="in_service",
        max_silence=timedelta(minutes=30),
        rated_power_w=100.0,
        programme=lighting.parse_programme("18:10-18:40"),
        place=PLACE,
        in_service_from_us=spans.to_us(START - timedelta(days=2)),
    )


LAMPS = (device(1, "lamp"), device(2, "lamp"))
BIN = device(3, "bin")
REGISTRY = Registry(
    1,
    {"gw-1": Gateway("gw-1", "c01", "active", None, silent=False, status_interval_s=None)},
    {known.device: known for known in (*LAMPS, BIN)},
)


def reading(which: int, at: datetime, value: int) -> tuple[Device, Reading, datetime]:
    if which < len(LAMPS):
        lamp = LAMPS[which]
        return lamp, LampReading(device=lamp.device, at=at, lit=value > 50), at
    return BIN, BinReading(device=BIN.device, at=at, fill_pct=value), at


steps = st.lists(
    st.tuples(st.integers(1, 900), st.integers(0, 2), st.integers(0, 100)), min_size=1, max_size=40
)


class Tables:
    """What the database would hold: enough to restart from."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}
        self.settled: Counter[tuple[Any, str]] = Counter()
        self.told: list[tuple[str, str, str, datetime]] = []
        self.standing: dict[tuple[str, str], Standing] = {}
        self.pending: dict[tuple[str, int], PendingRow] = {}
        self.readings: list[tuple[Device, Reading, datetime]] = []

    def write(self, delta: Delta) -> None:
        assert not any(state.stored_at for state in delta.states.values())
        self.states.update(delta.states)
        for key, (lit, dark) in delta.settled.items():
            self.settled[key, "lit"] += lit
            self.settled[key, "dark"] += dark
        for change in delta.alerts:
            subject = change.subject.device or ""
            name = type(change.decision).__name__
            self.told.append((change.rule.id, subject, name, change.decision.at))
            if name == "Raise":
                self.standing[change.rule.id, subject] = Standing(
                    change.rule.id, "gw-1", subject, change.key, change.decision.at
                )
            else:
                del self.standing[change.rule.id, subject]
        for key, since in delta.pending.items():
            if since is None:
                self.pending.pop(key, None)
            else:
                self.pending[key] = since

    def restored(self, interval: timedelta) -> Projection:
        projection = Projection(RuleBook(DEFAULT_RULES), REGISTRY)
        projection.hold_back(interval, START if interval else None)
        pending = list(self.pending.values())
        states = dict(self.states)
        for known, told, received_at in self.readings:
            if told.at > states[known.id].at:
                values = told.model_dump(exclude={"kind", "device", "at"}, exclude_none=True)
                states[known.id] = states[known.id].held_back(told.at, received_at, values)
        projection.restore(REGISTRY, states, self.standing.values(), pending)
        return projection


def run(
    readings: list[tuple[Device, Reading, datetime]],
    cuts: set[int],
    retries: set[int],
    restarts: set[int],
    interval: timedelta = timedelta(),
) -> Tables:
    tables = Tables()
    projection = tables.restored(interval)
    flush: list[tuple[Device, Reading, datetime]] = []
    for index, item in enumerate(readings):
        flush.append(item)
        if index in cuts or index == len(readings) - 1:
            if index in retries:
                projection.fold([heard(*item) for item in flush])
                projection.rollback()
            if index in restarts:
                projection = tables.restored(interval)
            projection.fold([heard(*item) for item in flush])
            tables.write(projection.gather())
            tables.readings += flush
            projection.commit()
            flush = []
    projection.write_out(list(projection.held))
    tables.write(projection.commit())
    return tables


def stored(tables: Tables) -> dict[int, State]:
    """What the tables have of states: not how memory compares them quickly, or when it is to."""
    return {
        number: state._replace(said=(), write_by=None) for number, state in tables.states.items()
    }


places = st.sets(st.integers(0, 40))
intervals = st.sampled_from((timedelta(), timedelta(minutes=2), timedelta(hours=1)))


@given(steps, places, places, places, intervals)
def test_flushes_retries_restarts_and_states_held_back_change_nothing(
    taken: list[tuple[int, int, int]],
    cuts: set[int],
    retries: set[int],
    restarts: set[int],
    interval: timedelta,
) -> None:
    at = START
    readings: list[tuple[Device, Reading, datetime]] = []
    for seconds, which, value in taken:
        at += timedelta(seconds=seconds)
        readings.append(reading(which, at, value))
    one_by_one = run(readings, set(range(len(readings))), set(), set())
    otherwise = run(readings, cuts, retries, restarts, interval)
    assert otherwise.settled == one_by_one.settled
    assert sorted(otherwise.told) == sorted(one_by_one.told)
    assert stored(otherwise) == stored(one_by_one)


def test_lamp_that_goes_off_just_before_it_may_is_not_dark_when_due() -> None:
    """The on-delay must end within due time; afterwards nobody expects light."""
    lamp = LAMPS[0]  # due from 18:10 to 18:40 local time, which is 10:10 to 10:40 UTC
    late = START + timedelta(minutes=37)
    readings = [reading(0, START + timedelta(minutes=20), 100), reading(0, late, 0)]
    tables = run([*readings, reading(1, START + timedelta(minutes=59), 0)], {0, 1}, set(), {1, 2})
    assert [told for told in tables.told if told[1] == lamp.device] == []
    early = [reading(0, START + timedelta(minutes=30), 0)]
    tables = run([*early, reading(1, START + timedelta(minutes=59), 0)], {0}, set(), {1})
    told = [told for told in tables.told if told[1] == lamp.device]
    assert told == [("lamp.dark", lamp.device, "Raise", START + timedelta(minutes=35))]


def test_alert_tells_the_same_after_a_flush_that_failed() -> None:
    """What a delay ended is told as it was before, though the reading was folded already."""
    lamp, projection = LAMPS[0], Tables().restored(timedelta())
    changes: list[Change] = []
    for minutes, power_w in ((12, 5), (18, 7)):
        at = START + timedelta(minutes=minutes)
        told = heard(lamp, LampReading(device=lamp.device, at=at, lit=False, power_w=power_w))
        projection.fold([told])
        projection.rollback()
        projection.fold([told])
        changes += projection.commit().alerts
    (change,) = changes
    assert (change.rule.id, change.params) == ("lamp.dark", {"power_w": 5})
