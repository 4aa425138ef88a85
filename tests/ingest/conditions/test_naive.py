# SPDX-License-Identifier: Apache-2.0
"""Conditions against naive models, which remember everything and look at all of it each time."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any, Final

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ingest.conditions import Answer, Told, check
from ingest.conditions.windows import RATE_STEPS
from tests.ingest.conditions.telling import Asking, compiled, condition, event, reading

_FIELDS: Final = ("lid_open", "tilt")
_SAID = st.fixed_dictionaries({}, optional={name: st.booleans() for name in _FIELDS})


def _is(name: str) -> dict[str, Any]:
    return {"type": "equals", "field": name, "value": True}


def _not(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "not", "of": of}


def _whole(type_: str, of: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": type_, "of": of}


_TREES: Final[st.SearchStrategy[dict[str, Any]]] = st.recursive(
    st.sampled_from(_FIELDS).map(_is),
    lambda inner: st.one_of(
        inner.map(_not),
        st.builds(_whole, st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)


def kleene(said: dict[str, Any], values: dict[str, bool]) -> bool | None:
    """By numbers: false 0, unknown 1, true 2; AND is the least, OR the greatest, NOT two minus."""
    number = _number(said, values)
    return None if number == 1 else number == 2


def _number(said: dict[str, Any], values: dict[str, bool]) -> int:
    match said["type"]:
        case "equals":
            return 1 if said["field"] not in values else 2 * values[said["field"]]
        case "not":
            return 2 - _number(said["of"], values)
        case "all":
            return min(_number(one, values) for one in said["of"])
        case _:
            return max(_number(one, values) for one in said["of"])


@settings(deadline=None)
@given(said=_TREES, values=_SAID)
def test_logic_of_three_values(said: dict[str, Any], values: dict[str, bool]) -> None:
    assume(not check(condition(said), "bin"))
    assert compiled("bin", said).ask(reading("bin", 0, **values)).holds == kleene(said, values)


@settings(deadline=None)
@given(one=_TREES, other=_TREES, values=_SAID)
def test_de_morgan(one: dict[str, Any], other: dict[str, Any], values: dict[str, bool]) -> None:
    told = reading("bin", 0, **values)
    neither = _not(_whole("any", [one, other]))
    both_not = _whole("all", [_not(one), _not(other)])
    assume(not check(condition(both_not), "bin") and not check(condition(neither), "bin"))
    assert compiled("bin", neither).ask(told).holds == compiled("bin", both_not).ask(told).holds


@settings(deadline=None)
@given(one=_TREES, values=_SAID, more=_SAID)
def test_what_is_learned_changes_no_answer(
    one: dict[str, Any], values: dict[str, bool], more: dict[str, bool]
) -> None:
    """An answer given without a field stays right, whatever the field turns out to be."""
    assume(not check(condition(one), "bin"))
    made = compiled("bin", one)
    before = made.ask(reading("bin", 0, **values)).holds
    assert before is None or made.ask(reading("bin", 0, **{**more, **values})).holds == before


_GAPS: Final = st.lists(st.integers(0, 40), min_size=1, max_size=25)
FORCED: Final = {"type": "event", "events": ["forced"]}
DENIED: Final = {"type": "event", "events": ["denied"]}


@settings(deadline=None)
@given(gaps=_GAPS, names=st.data(), times=st.integers(2, 5), within=st.integers(1, 120))
def test_counts(gaps: list[int], names: st.DataObject, times: int, within: int) -> None:
    asking = Asking(
        "gate", {"type": "count", "of": FORCED, "times": times, "within_s": float(within)}
    )
    seen: list[int] = []
    for seconds in accumulate(gaps):
        name = names.draw(st.sampled_from(["forced", "granted"]))
        seen += [seconds] if name == "forced" else []
        holds = asking.ask(event("gate", seconds, name))
        assert holds == (sum(seconds - within < one <= seconds for one in seen) >= times)
    assert asking.memory is None or len(json.dumps(asking.memory)) < 60 + 20 * times


_CHANGES: Final = st.lists(
    st.tuples(st.integers(0, 100), st.sampled_from(["forced", "denied"])), min_size=1, max_size=12
)


@settings(deadline=None)
@given(told=_CHANGES, order=st.randoms(use_true_random=False), times=st.integers(2, 4))
def test_the_order_of_arrival_changes_no_count(
    told: list[tuple[int, str]], order: Any, times: int
) -> None:
    said = {"type": "count", "of": FORCED, "times": times, "within_s": 30.0}
    assert _end(said, sorted(told)) == _end(said, order.sample(told, k=len(told)))


@settings(deadline=None)
@given(
    told=_CHANGES,
    order=st.randoms(use_true_random=False),
    within=st.integers(1, 60),
    where=st.sampled_from(["device", "cell"]),
)
def test_sequences(told: list[tuple[int, str]], order: Any, within: int, where: str) -> None:
    """A pair of messages in order, whichever arrived first."""
    said = {
        "type": "sequence", "first": FORCED, "then": DENIED, "within_s": float(within),
        "holds_s": 50.0, "where": where,
    }  # fmt: skip
    asking = Asking("gate", said)
    arrived: list[tuple[int, str]] = []
    for seconds, name in order.sample(told, k=len(told)):
        arrived.append((seconds, name))
        done = [
            then
            for then, second in arrived
            for first, one in arrived
            if (one, second) == ("forced", "denied") and first <= then <= first + within
        ]
        now = max(one for one, _ in arrived)
        assert asking.ask(event("gate", seconds, name)) == (bool(done) and now < max(done) + 50)


def _end(said: dict[str, Any], told: list[tuple[int, str]]) -> object:
    asking = Asking("gate", said)
    for seconds, name in told:
        asking.ask(event("gate", seconds, name))
    return None if asking.memory is None else asking.memory["of"]


@settings(deadline=None)
@given(
    told=st.lists(st.tuples(st.integers(1, 30), st.integers(-20, 80)), min_size=1, max_size=40),
    limit=st.integers(-5, 5),
)
def test_rates(told: list[tuple[int, int]], limit: int) -> None:
    window = 160
    said = {
        "type": "rate", "field": "temperature_c", "above": float(limit), "per": "second",
        "within_s": float(window),
    }  # fmt: skip
    asking = Asking("bin", said)
    kept: list[tuple[int, int]] = []
    now = 0
    for gap, value in told:
        now += gap
        kept = [one for one in kept if now - one[0] <= window]
        if not kept or now - kept[-1][0] >= window / RATE_STEPS:
            kept.append((now, value))
        start, first = kept[0]
        expected = None if now - start < window / 2 else value - first >= limit * (now - start)
        assert asking.ask(reading("bin", now, temperature_c=float(value))) == expected


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_hysteresis(values: list[float]) -> None:
    threshold = {"type": "threshold", "field": "fill_pct", "above": 90.0, "clear": 70.0}
    asking = Asking("bin", {"type": "not", "of": threshold})
    for n, value in enumerate(values):
        decided = [one for one in values[: n + 1] if one >= 90 or one < 70]
        full = bool(decided) and decided[-1] >= 90
        assert asking.ask(reading("bin", n, fill_pct=value)) is not full


_SECONDS: Final = st.integers(0, 5_000)
_EVERYTHING: Final = st.lists(
    st.one_of(
        st.tuples(st.just("reading"), _SECONDS, _SAID),
        st.tuples(
            st.just("deposit"), _SECONDS, st.fixed_dictionaries({"weight_kg": st.floats(0, 50)})
        ),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=50)
@given(_EVERYTHING)
def test_memory_stays_small_and_never_goes_back(
    told: list[tuple[str, int, dict[str, Any]]],
) -> None:
    deposit = {"type": "event", "events": ["deposit"]}
    asking = Asking(
        "bin",
        {
            "type": "any",
            "of": [
                {"type": "count", "of": _is("lid_open"), "times": 5, "within_s": 900.0},
                {"type": "count", "of": deposit, "times": 3, "within_s": 60.0},
                {"type": "sequence", "first": _is("tilt"), "then": deposit, "within_s": 30.0},
            ],
        },
    )
    latest = 0
    for what, seconds, values in told:
        said: Told = (
            reading("bin", seconds, **values)
            if what == "reading"
            else event("bin", seconds, what, **values)
        )
        asking.ask(said)
        if asking.memory is not None:
            assert asking.memory["at"] >= latest
            latest = asking.memory["at"]
            assert len(json.dumps(asking.memory)) < 2_000


@settings(deadline=None)
@given(told=st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=20))
def test_no_data(told: list[tuple[int, bool]]) -> None:
    """A field is missing from the first reading without it on, until the next one with it."""
    asking = Asking("lamp", {"type": "no_data", "field": "power_w", "for_s": 60.0})
    now, missing_since = 0, None
    for gap, is_told in told:
        now += gap
        missing_since = None if is_told else now if missing_since is None else missing_since
        values = {"power_w": 40.0} if is_told else {}
        assert asking.ask(reading("lamp", now, lit=True, **values)) == (
            missing_since is not None and now - missing_since >= 60
        )


@settings(deadline=None)
@given(
    told=st.lists(
        st.tuples(st.integers(1, 50), st.sampled_from(["forced", "denied", "restored"])),
        min_size=1,
        max_size=15,
    ),
    holds_s=st.one_of(st.none(), st.integers(1, 90)),
)
def test_events_that_go_on(told: list[tuple[int, str]], holds_s: int | None) -> None:
    said = {**FORCED, "ends": {"events": ["restored"]}, "holds_s": holds_s and float(holds_s)}
    asking = Asking("gate", _not(said))
    now, since = 0, None
    for gap, name in told:
        now += gap
        since = now if name == "forced" else None if name == "restored" else since
        holds = since is not None and (holds_s is None or now < since + holds_s)
        assert asking.ask(event("gate", now, name)) is not holds


_MINUTES: Final = st.integers(0, 1_439)
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@settings(deadline=None)
@given(
    start=_MINUTES,
    end=_MINUTES,
    weekdays=st.sets(st.sampled_from(_DAYS), min_size=1),
    minute=st.integers(0, 14 * 1_440),
)
def test_schedules_by_the_clock(start: int, end: int, weekdays: set[str], minute: int) -> None:
    """By local clocks alone: START is a Saturday, two in the morning."""
    said = {
        "type": "schedule", "by": "clock", "start": _clock(start), "end": _clock(end),
        "weekdays": sorted(weekdays),
    }  # fmt: skip

    def holds(minute: int) -> bool:
        day, local = divmod(minute + 120, 1_440)
        today, yesterday = (_DAYS[(5 + day - back) % 7] in weekdays for back in (0, 1))
        if start < end:
            return today and start <= local < end
        return (today and local >= start) or (yesterday and local < end)

    answer = compiled("bin", said).ask(reading("bin", minute * 60))
    assert answer.holds == holds(minute)
    if answer.until is not None:
        until = round((answer.until - reading("bin", 0).at).total_seconds() / 60)
        assert holds(until) != holds(minute) or until - minute > 7 * 1_440
        assert all(holds(one) == holds(minute) for one in range(minute, until, 7))


_RESTLESS: Final = st.recursive(
    st.sampled_from(
        [
            _is("lid_open"),
            {"type": "schedule", "by": "clock", "start": "02:01", "end": "02:03"},
            {"type": "no_data", "field": "tilt", "for_s": 50.0},
            {"type": "count", "of": _is("lid_open"), "times": 2, "within_s": 40.0},
            {
                "type": "sequence", "first": _is("tilt"), "then": _is("lid_open"),
                "within_s": 30.0, "holds_s": 45.0,
            },
            {"type": "rate", "field": "fill_pct", "above": 0.1, "per": "second", "within_s": 60.0},
        ]
    ),
    lambda inner: st.one_of(
        inner.map(_not),
        st.builds(_whole, st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)  # fmt: skip


@settings(deadline=None)
@given(
    said=_RESTLESS,
    told=st.lists(
        st.tuples(st.integers(1, 30), _SAID, st.integers(0, 100)), min_size=1, max_size=10
    ),
    wait=st.floats(0, 1),
)
def test_until_then_nothing_changes_by_itself(
    said: dict[str, Any], told: list[tuple[int, dict[str, bool], int]], wait: float
) -> None:
    assume(not check(condition(said), "bin"))
    asking = Asking("bin", said)
    now = 0
    answer = Answer(None, None)
    for gap, values, fill in told:
        now += gap
        answer = asking.answer(reading("bin", now, fill_pct=float(fill), **values))
    seconds = 3_600.0
    if answer.until is not None:
        seconds = (answer.until - reading("bin", 0).at).total_seconds() - now
        assert seconds > 0
    assert asking.wait(now + seconds * wait * 0.999) == answer.holds
