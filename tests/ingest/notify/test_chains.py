# SPDX-License-Identifier: Apache-2.0
"""Which step is due, who is told, how messages are put together: tables, and what always holds."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ingest.notify.chains import (
    BUILT_IN,
    DELAY_MAX_S,
    REPEATS_MAX,
    SEVERITIES,
    Chain,
    Hours,
    Level,
    Placed,
    RoleRecipient,
    Step,
    choose,
    turns,
)
from ingest.notify.delivery import attempts_max, retry_after
from ingest.notify.grouping import Kind, Waiting, grouped, ready
from ingest.notify.recipients import Channel, Matter, Person, Preferences, next_at, wanted_by, who

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
POLICE = [RoleRecipient(role="police")]
NOBODY: list[RoleRecipient] = []


def chain(**parts: Any) -> Chain:
    return Chain.model_validate(
        {"name": "x", "severities": ["major"], "steps": [{"recipients": POLICE}], **parts}
    )


# -- chains


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    step: dict[str, Any] = {"delay_s": draw(st.floats(0, DELAY_MAX_S)), "recipients": POLICE}
    if draw(st.booleans()):
        step["repeat_s"] = draw(st.floats(60, DELAY_MAX_S))
        step["repeats"] = draw(st.integers(1, REPEATS_MAX))
    return step


@given(st.lists(steps(), min_size=1, max_size=10))
def test_every_chain_ends_and_tells_each_step_in_order(parts: list[dict[str, Any]]) -> None:
    parts.sort(key=lambda step: step["delay_s"])
    made = chain(steps=parts)
    plan = turns(made.steps)
    assert len(plan) == sum(step.repeats + 1 for step in made.steps)
    assert [turn.after for turn in plan] == sorted(turn.after for turn in plan)
    assert plan[-1].after <= timedelta(seconds=DELAY_MAX_S * (REPEATS_MAX + 1))
    firsts = [turn.step for turn in plan if turn.round == 0]
    assert firsts == list(range(len(made.steps)))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"steps": []}, id="no-steps"),
        pytest.param({"severities": []}, id="no-severity"),
        pytest.param({"steps": [{"recipients": NOBODY}]}, id="no-recipients"),
        pytest.param({"steps": [{"recipients": POLICE, "repeat_s": 60}]}, id="no-maximum"),
        pytest.param({"steps": [{"recipients": POLICE, "repeats": 2}]}, id="no-interval"),
        pytest.param(
            {"steps": [{"recipients": POLICE, "repeat_s": 1, "repeats": 2}]}, id="too-often"
        ),
        pytest.param({"steps": [{"recipients": POLICE, "delay_s": 1e9}]}, id="too-late"),
        pytest.param(
            {"steps": [{"recipients": POLICE, "delay_s": 9}, {"recipients": POLICE}]}, id="order"
        ),
        pytest.param({"hours": {"weekdays": []}}, id="never"),
        pytest.param({"hours": {"weekdays": [8]}}, id="no-such-day"),
        pytest.param({"hours": {"start": "22:00Z"}}, id="not-a-local-time"),
    ],
)
def test_a_chain_that_cannot_work_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chain(**wrong)


@pytest.mark.parametrize(
    ("start", "end", "weekdays", "at", "inside"),
    [
        pytest.param(8, 18, [1], MONDAY.replace(hour=8), True, id="from-its-start"),
        pytest.param(8, 18, [1], MONDAY.replace(hour=18), False, id="up-to-its-end"),
        pytest.param(22, 7, [1], MONDAY.replace(hour=23), True, id="night-of-its-day"),
        pytest.param(22, 7, [1], MONDAY.replace(hour=6), False, id="night-of-the-day-before"),
        pytest.param(22, 7, [7], MONDAY.replace(hour=6), True, id="sunday-into-monday"),
        pytest.param(22, 7, [1], MONDAY + timedelta(days=1, hours=6), True, id="into-tuesday"),
        pytest.param(0, 0, [1], MONDAY.replace(hour=12), True, id="all-day"),
    ],
)
def test_hours_are_of_the_day_they_start_on(
    start: int, end: int, weekdays: list[int], at: datetime, inside: bool
) -> None:
    assert Hours(weekdays=weekdays, start=time(start), end=time(end)).has(at) is inside


def test_the_nearest_area_says_and_hours_go_before_none() -> None:
    night = chain(name="night", hours={"start": "22:00", "end": "07:00"})
    placed = [
        Placed("1", "city", chain(name="city")),
        Placed("2", "city.c01", chain(name="any")),
        Placed("3", "city.c01", night),
        Placed("4", "city.c02", chain(name="foreign")),
        Placed("5", "city.c01.g1", chain(name="off", enabled=False)),
    ]

    def name(path: str, hour: int) -> str:
        return choose(placed, path, "major", MONDAY.replace(hour=hour)).name

    assert name("city.c01.g1", 12) == "any"
    assert name("city.c01", 23) == "night"
    assert name("city.c03", 12) == "city"
    assert name("city.c011", 12) == "city"
    assert choose(placed, "city.c01", "critical", MONDAY) is BUILT_IN["critical"]


# -- people


def person(username: str, role: Any, path: str, level: Level, **wishes: Any) -> Person:
    channel = Channel(UUID(int=int.from_bytes(username.encode()[:8])), "email")
    return Person(username, role, path, level, (channel,), Preferences.model_validate(wishes))


TEAM = [
    person("guard", "property", "city.c01.g1", "cell"),
    person("manager", "property", "city.c01", "community"),
    person("liaison", "police", "city.c01", "community"),
    person("chief", "admin", "city", "city"),
]


@pytest.mark.parametrize(
    ("recipient", "told"),
    [
        pytest.param({"role": "property"}, ["guard"], id="nearest"),
        pytest.param({"role": "property", "level": "community"}, ["manager"], id="level"),
        pytest.param({"role": "admin", "level": "street"}, ["chief"], id="next-above"),
        pytest.param({"role": "police", "level": "city"}, [], id="nobody-above"),
        pytest.param({"person": "liaison"}, ["liaison"], id="by-name"),
        pytest.param({"person": "stranger"}, [], id="not-here"),
    ],
)
def test_roles_become_people(recipient: dict[str, Any], told: list[str]) -> None:
    matter = Matter("bin.full", "major", "city.c01.g1", False)
    step = Step.model_validate({"recipients": [recipient]})
    found = who(step.recipients, matter, TEAM, [], MONDAY)
    by_channel = {one.channels[0].id: one.username for one in TEAM}
    assert [by_channel[telling.channel] for telling in found.tellings] == told
    assert found.reached is bool(told)


clocks = st.times().map(lambda at: at.replace(second=0, microsecond=0))
severities = st.sampled_from(SEVERITIES)


@st.composite
def wishes(draw: st.DrawFn) -> Preferences:
    quiet = draw(st.none() | st.tuples(clocks, clocks))
    return Preferences(
        min_severity=draw(severities),
        quiet_from=None if quiet is None else quiet[0],
        quiet_to=None if quiet is None else quiet[1],
        digest=draw(st.lists(severities, max_size=4)),
        digest_at=draw(clocks),
        channels={severity: [] for severity in draw(st.lists(severities))},
    )


@given(
    wishes(),
    st.sampled_from(SEVERITIES),
    st.booleans(),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001 - made aware below
)
def test_no_wish_mutes_or_delays_what_is_grave(
    preferences: Preferences, severity: Any, life_safety: bool, naive: datetime
) -> None:
    now = naive.replace(tzinfo=UTC)
    one = Person("x", "police", "city", "city", (Channel(UUID(int=1), "sms"),), preferences)
    matter = Matter("alarm.fire", severity, "city", life_safety)
    told = wanted_by(one, matter, now)
    if severity == "critical" or life_safety:
        assert [(telling.due_at, telling.digest) for telling in told] == [(now, False)]
    for telling in told:
        assert now <= telling.due_at <= now + timedelta(days=2)
        if telling.due_at > now:
            assert preferences.quiet_until(telling.due_at) is None


@given(clocks, st.integers(0, 86_399))
def test_the_next_time_of_day_lies_within_a_day(at: time, second: int) -> None:
    now = MONDAY + timedelta(seconds=second)
    following = next_at(now, at)
    assert now < following <= now + timedelta(days=1)
    assert following.time() == at


# -- messages

KINDS: tuple[Kind, ...] = ("raised", "repeated", "cleared")


@st.composite
def waitings(draw: st.DrawFn) -> list[Waiting]:
    found: list[Waiting] = []
    for number in range(draw(st.integers(0, 25))):
        alert = draw(st.integers(0, 4))
        found.append(
            Waiting(
                number,
                UUID(int=alert),
                f"c{alert % 2}",
                draw(st.sampled_from(KINDS)),
                draw(st.booleans()),
                MONDAY + timedelta(seconds=draw(st.integers(0, 9))),
            )
        )
    return found


@given(waitings())
def test_grouping_loses_nothing_and_keeps_each_alerts_order(waiting: list[Waiting]) -> None:
    groups = grouped(waiting)
    assert sorted(part.id for group in groups for part in group.parts) == list(range(len(waiting)))
    told = [part for group in groups for part in group.parts]
    for alert in {one.alert for one in waiting}:
        of_alert = [one.id for one in told if one.alert == alert]
        assert of_alert == sorted(of_alert)
    for group in groups:
        kinds: set[Kind] = {part.kind for part in group.parts}
        assert len(kinds) == 1 or (group.digest and "cleared" not in kinds)
        assert {part.community for part in group.parts} == {group.community}


@given(waitings(), st.integers(0, 9))
def test_nothing_due_is_left_and_nothing_before_it_is_overtaken(
    waiting: list[Waiting], second: int
) -> None:
    now = MONDAY + timedelta(seconds=second)
    taken = ready(waiting, now)
    assert {one.id for one in waiting if one.due_at <= now} <= {one.id for one in taken}
    for one in taken:
        before = {w.id for w in waiting if w.alert == one.alert and w.id < one.id}
        assert before <= {other.id for other in taken}


def test_people_are_given_up_in_minutes_and_machines_in_hours() -> None:
    def whole(kind: str) -> float:
        return sum(retry_after(n).total_seconds() for n in range(1, attempts_max(kind)))

    assert whole("email") == 155
    assert 2 * 3600 < whole("webhook") < 3 * 3600
