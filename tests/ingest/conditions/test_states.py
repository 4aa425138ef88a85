# SPDX-License-Identifier: Apache-2.0
"""Conditions over a device's state: what they answer, what they remember, what is refused."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.conditions import Mistake, Told, check
from ingest.conditions.fields import KINDS, STATES, fields_of
from tests.ingest.conditions.telling import Asking, compiled, condition, event, reading

OFFLINE: Final = {"type": "equals", "field": "state", "value": "offline"}
BAD: Final = {"type": "one_of", "field": "state", "values": ["fault", "offline"]}


def cel(expression: str) -> dict[str, Any]:
    return {"type": "expression", "expression": expression}


ALONE: Final = cel("state == 'offline' && gateway == 'heard'")
FORCED: Final = {"type": "event", "events": ["forced"]}
DENIED: Final = {**FORCED, "events": ["denied"], "holds_s": 60.0}


def told(
    seconds: float, state: str | None, gateway: str = "heard", kind: str = "bin", **values: Any
) -> Told:
    states = {} if state is None else {"state": state, "gateway": gateway}
    return reading(kind, seconds, **values)._replace(states=states)


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        (OFFLINE, {"offline"}),
        (BAD, {"fault", "offline"}),
        ({"type": "not", "of": BAD}, {"normal", "unknown", "maintenance"}),
        (cel("state in ['fault', 'offline']"), {"fault", "offline"}),
        (cel("state != 'normal'"), {"fault", "offline", "unknown", "maintenance"}),
        (ALONE, {"offline"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_asked_of_every_class(kind: str, said: dict[str, Any], holds: set[str]) -> None:
    made = compiled(kind, said)
    for word in STATES["state"].words:
        assert made.ask(told(0, word, kind=kind)).holds is (word in holds)
    assert made.ask(told(0, None, kind=kind)).holds is False, "not in use: it has none"
    assert made.names == frozenset()
    assert made.listens == "readings"


def test_the_gateway_is_asked_beside_the_device() -> None:
    made = compiled("bin", ALONE)
    assert made.states == {"state", "gateway"}
    assert made.ask(told(0, "offline")).holds
    assert made.ask(told(0, "offline", "silent")).holds is False


def test_no_field_of_a_class_is_called_like_a_state() -> None:
    for kind in KINDS:
        assert not STATES.keys() & fields_of(kind).readings.keys()


FULL: Final = {"type": "threshold", "field": "fill_pct", "above": 80.0}


@pytest.mark.parametrize(
    ("type_", "state", "fill", "is_known", "holds"),
    [
        ("all", "offline", 90.0, True, True),
        ("all", "offline", 10.0, True, False),
        ("all", "normal", 90.0, True, False),
        # What was told too long ago neither holds nor does not; the state is known all the same.
        ("all", "offline", 90.0, False, None),
        ("all", "normal", 90.0, False, False),
        ("any", "offline", 10.0, False, True),
        ("any", "normal", 90.0, False, None),
        ("any", "normal", 90.0, True, True),
    ],
)
def test_states_go_with_readings(
    type_: str, state: str, fill: float, is_known: bool, holds: bool | None
) -> None:
    said = {"type": type_, "of": [OFFLINE, FULL]}
    one = told(0, state, fill_pct=fill)._replace(is_known=is_known)
    assert compiled("bin", said).ask(one).holds is holds
    sign = {"all": "&&", "any": "||"}[type_]
    same = cel(f"state == 'offline' {sign} fill_pct >= 80")
    assert compiled("bin", same).ask(one).holds is holds


def test_who_tells_nothing_is_not_in_good_condition() -> None:
    """A missing fault code means good condition, but not of a device that is not heard."""
    good = {"type": "not", "of": {"type": "present", "field": "fault"}}
    for said in (good, cel("fault == ''")):
        assert compiled("bin", said).ask(told(0, "normal")).holds
        silent = told(9_000, "offline")._replace(is_known=False)
        assert compiled("bin", said).ask(silent).holds is None
    gone = {"type": "no_data", "field": "fill_pct", "for_s": 60.0}
    asking = Asking("bin", gone)
    asking.ask(told(0, "normal"))
    assert asking.ask(told(90, "offline")._replace(is_known=False)) is None


@pytest.mark.parametrize("asked", [OFFLINE, cel("state == 'offline'")])
def test_a_late_message_says_nothing_of_the_state(asked: dict[str, Any]) -> None:
    often = {"type": "count", "of": FULL, "times": 2, "within_s": 60.0}
    asking = Asking("bin", {"type": "any", "of": [asked, often]})
    assert asking.ask(told(10, "normal", fill_pct=90.0)) is False
    assert asking.ask(told(5, "offline", fill_pct=90.0)) is None
    assert asking.ask(told(15, "offline", fill_pct=90.0)) is True


_CHANGES: Final = st.lists(
    st.tuples(st.integers(1, 60), st.sampled_from(STATES["state"].words)), min_size=1, max_size=30
)


@settings(deadline=None)
@given(told_=_CHANGES, times=st.integers(2, 4), within=st.integers(1, 200))
def test_changes_of_a_state_are_counted(
    told_: list[tuple[int, str]], times: int, within: int
) -> None:
    asking = Asking("bin", {"type": "count", "of": BAD, "times": times, "within_s": float(within)})
    begun: list[int] = []
    before = "normal"
    for seconds, (_, state) in zip(accumulate(gap for gap, _ in told_), told_, strict=True):
        if state in {"fault", "offline"} and before not in {"fault", "offline"}:
            begun.append(seconds)
        before = state
        holds = asking.ask(told(seconds, state))
        assert holds == (sum(seconds - within < one <= seconds for one in begun) >= times)


@settings(deadline=None)
@given(told_=_CHANGES, within=st.integers(1, 200))
def test_states_follow_each_other(told_: list[tuple[int, str]], within: int) -> None:
    """Offline, then in fault: as of the beginnings of both."""
    said = {
        "type": "sequence", "first": OFFLINE, "within_s": float(within), "holds_s": 50.0,
        "then": {"type": "equals", "field": "state", "value": "fault"},
    }  # fmt: skip
    asking = Asking("bin", said)
    begun: dict[str, list[int]] = {"offline": [], "fault": []}
    done: list[int] = []
    before = ""
    for seconds, (_, state) in zip(accumulate(gap for gap, _ in told_), told_, strict=True):
        if state != before and state in begun:
            begun[state].append(seconds)
            if state == "fault":
                done += [seconds for one in begun["offline"] if seconds - within <= one]
        before = state
        expected = bool(done) and seconds < max(done) + 50
        assert asking.ask(told(seconds, state)) == expected


def _all(*of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "all", "of": list(of)}


def _sequence(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    return {"type": "sequence", "first": first, "then": then, "within_s": 60.0}


_REFUSED: Final[list[tuple[str, dict[str, Any], list[tuple[str, str, dict[str, object]]]]]] = [
    (
        "bin", {**OFFLINE, "value": "ofline"},
        [("/value", "word.unknown", {"found": "ofline", "words": list(STATES["state"].words)})],
    ),
    (
        "bin", {**BAD, "values": ["fault", "broken"]},
        [("/values/1", "word.unknown",
          {"found": "broken", "words": list(STATES["state"].words)})],
    ),
    (
        "bin", {**OFFLINE, "field": "gateway", "value": "offline"},
        [("/value", "word.unknown", {"found": "offline", "words": ["heard", "silent"]})],
    ),
    (
        "bin", {**OFFLINE, "value": True},
        [("/value", "value.type", {"found": "truth", "expected": "word"})],
    ),
    (
        "bin", _all(BAD, cel("state == 'normal' || state == 'gone'")),
        [("/of/1/expression", "expression.unknown_word",
          {"position": 30, "found": "gone", "words": list(STATES["state"].words)})],
    ),
    (
        "bin", cel("state in ['fault', 'of']"),
        [("/expression", "expression.unknown_word",
          {"position": 19, "found": "of", "words": list(STATES["state"].words)})],
    ),
    (
        "bin", {"type": "threshold", "field": "state", "above": 1.0},
        [("/field", "field.type", {"found": "word", "expected": "number"})],
    ),
    (
        "bin", {"type": "no_data", "field": "state", "for_s": 60.0},
        [("/field", "field.always_known", {"found": "state"})],
    ),
    (
        "bin", {"type": "present", "field": "gateway"},
        [("/field", "field.always_known", {"found": "gateway"})],
    ),
    (
        "gate", {**_sequence(FORCED, OFFLINE), "where": "cell"},
        [("/then", "cell.events_only", {"found": "equals"})],
    ),
    # An event comes first, or nobody would look.
    ("gate", {"type": "any", "of": [DENIED, OFFLINE]}, [("", "state.without_event", {})]),
    ("gate", _sequence(OFFLINE, FORCED), [("", "state.without_event", {})]),
    (
        "gate",
        _all(DENIED, {"type": "count", "of": OFFLINE, "times": 2, "within_s": 60.0}),
        [("/of/1", "state.without_event", {})],
    ),
    ("gate", _all(DENIED, {"type": "not", "of": OFFLINE}), []),
    ("gate", _sequence(FORCED, OFFLINE), []),
    ("gate", {"type": "count", "of": _all(FORCED, OFFLINE), "times": 2, "within_s": 9.0}, []),
    ("gate", cel("event.event == 'forced' && state == 'fault'"), []),
    ("gate", {"type": "any", "of": [DENIED, cel("door == 'open'")]}, []),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "said", "mistakes"), _REFUSED)
def test_what_is_refused(
    kind: str, said: dict[str, Any], mistakes: list[tuple[str, str, dict[str, object]]]
) -> None:
    assert check(condition(said), kind) == [Mistake(*one) for one in mistakes]


def test_an_event_is_asked_with_the_state_it_came_in() -> None:
    asking = Asking("gate", {"type": "count", "of": _all(FORCED, BAD), "times": 2, "within_s": 9.0})
    states = {"state": "fault", "gateway": "heard"}
    assert asking.ask(event("gate", 0, "forced")._replace(states=states)) is False
    assert asking.ask(event("gate", 1, "forced")._replace(states={"state": "normal"})) is False
    assert asking.ask(event("gate", 2, "forced")._replace(states=states)) is True
