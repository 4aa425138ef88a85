# SPDX-License-Identifier: Apache-2.0
"""Whatever is put off, waits or is rolled back, each name comes up once, at its earliest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from ingest.rule_agenda import Agenda
from ingest.store.rules import MemoryKey

START = datetime(2026, 11, 20, 10, tzinfo=UTC)
NAMES = [MemoryKey("custom.one", f"bin-{number}") for number in range(4)]
ALL = 10_000


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def test_what_is_put_off_comes_once_it_is_as_late_behind_its_gateway() -> None:
    agenda, behind = Agenda(), ("gw-1", False)
    agenda.add(NAMES[0], at(5))
    ((due, name),) = agenda.due(at(9), ALL)
    agenda.put_off(due, name, behind)
    assert agenda.put_off_behind == ["gw-1"]
    agenda.catch_up(lambda gateway, of_state: at(4))
    assert list(agenda.due(at(9), ALL)) == []
    agenda.catch_up(lambda gateway, of_state: at(5) if (gateway, of_state) == behind else at(0))
    assert list(agenda.due(at(9), ALL)) == [(at(5), NAMES[0])]
    assert agenda.put_off_behind == []


def test_what_waits_is_not_known_to_be_due() -> None:
    agenda = Agenda()
    agenda.add(NAMES[0], at(5))
    ((due, name),) = agenda.due(at(9), ALL)
    agenda.wait(due, name, "gw-1")
    assert (agenda.at(name), agenda.waits_for) == (None, ["gw-1"])
    agenda.wait_no_more("gw-1")
    assert (agenda.at(name), agenda.waits_for) == (at(5), [])


def test_no_more_is_looked_at_than_is_wanted() -> None:
    agenda = Agenda()
    for minute, name in enumerate(NAMES):
        agenda.add(name, at(minute))
    assert list(agenda.due(at(9), 3)) == [(at(minute), NAMES[minute]) for minute in range(3)]


class Step(NamedTuple):
    what: Literal["add", "due", "catch up", "known", "commit", "rollback", "recall"]
    minute: int
    name: int
    #: What becomes of each that is due, in turn.
    then: list[Literal["take", "move", "put off", "wait"]]


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["add", "add", "due", "catch up", "known", "commit", "rollback", "recall"]),
        st.integers(0, 20),
        st.integers(0, 3),
        st.lists(st.sampled_from(["take", "move", "put off", "wait"]), min_size=4, max_size=4),
    ),
    max_size=40,
)


class Model:
    """Who is asked when, without a heap: by looking at everybody."""

    def __init__(self) -> None:
        self.at: dict[MemoryKey, datetime] = {}
        self.waiting: list[tuple[datetime, MemoryKey]] = []
        self.taken: list[tuple[datetime, MemoryKey]] = []

    def add(self, name: MemoryKey, when: datetime) -> None:
        self.at[name] = min(when, self.at.get(name, when))

    def all(self, entries: list[tuple[datetime, MemoryKey]]) -> None:
        for when, name in entries:
            self.add(name, when)
        entries.clear()


@given(steps)
def test_nothing_is_forgotten_and_nothing_comes_early(taken: list[Step]) -> None:
    agenda, model = Agenda(), Model()
    for step in taken:
        now, name = at(step.minute), NAMES[step.name]
        match step.what:
            case "add":
                agenda.add(name, now)
                model.add(name, now)
            case "due":
                for then, (due, found) in zip(step.then, agenda.due(now, ALL), strict=False):
                    assert due == model.at[found] <= now
                    match then:
                        case "take":
                            agenda.take(due, found)
                            model.taken.append((due, found))
                            del model.at[found]
                        case "move":
                            agenda.move(found, now + timedelta(minutes=1))
                            model.at[found] = now + timedelta(minutes=1)
                        case "put off":
                            agenda.put_off(due, found, ("gw-1", False))
                        case "wait":
                            agenda.wait(due, found, "gw-1")
                            model.waiting.append((due, found))
                            del model.at[found]
            case "catch up":
                agenda.catch_up(lambda gateway, of_state, now=now: now)
            case "known":
                for gateway in agenda.waits_for:
                    agenda.wait_no_more(gateway)
                model.all(model.waiting)
            case "commit":
                agenda.commit()
                model.taken.clear()
            case "rollback":
                agenda.rollback()
                model.all(model.taken)
            case "recall":
                agenda.recall()
                model.all(model.waiting)
        assert {one: agenda.at(one) for one in NAMES} == {one: model.at.get(one) for one in NAMES}
    agenda.rollback()
    agenda.recall()
    model.all(model.taken)
    model.all(model.waiting)
    left: list[tuple[datetime, MemoryKey]] = []
    for due, found in agenda.due(at(60), ALL):
        agenda.take(due, found)
        left.append((due, found))
    assert left == sorted((when, one) for one, when in model.at.items())
