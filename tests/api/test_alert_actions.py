# SPDX-License-Identifier: Apache-2.0
"""What people do with alerts: who may, when it is possible, who was first, many at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.answers import rfc3339
from ingest import alerts as machine
from tests.api.conftest import ALERTS, NOW, Api
from tests.api.desk import Point, point

ACTIONS = "/api/v1/alerts/actions"
BODIES: dict[str, dict[str, Any]] = {
    "acknowledge": {"note": "seen"},
    "shelve": {"minutes": 30, "reason": "换灯"},
    "unshelve": {},
    "out-of-service": {"until": "2026-11-25T00:00:00Z", "reason": "大修"},
    "in-service": {},
    "reset": {"note": "looked at"},
    "note": {"note": "called the electrician"},
}
OK = "ok"
ALREADY = "alert.already"


async def act(point: Point, who: str, action: str, **headers: str) -> Response:
    client = point.api.client(who)
    return await client.post(f"{point.path}/{action}", json=BODIES[action], headers=headers)


async def _fresh(api: Api) -> Point:
    return point(api)


async def _acknowledged(api: Api) -> Point:
    made = point(api)
    await act(made, "li", "acknowledge")
    return made


async def _ended(api: Api) -> Point:
    made = point(api)
    made.fall(NOW)
    return made


async def _latched(api: Api) -> Point:
    made = point(api, latching=True)
    made.fall(NOW)
    return made


async def _shelved(api: Api) -> Point:
    made = point(api)
    body = {"minutes": 10, "reason": "before", "once": True}
    await api.client("root").post(f"{made.path}/shelve", json=body)
    return made


async def _out(api: Api, made: Point | None = None) -> Point:
    made = made or point(api)
    body = {"until": "2026-11-22T00:00:00Z", "reason": "before"}
    await api.client("root").post(f"{made.path}/out-of-service", json=body)
    return made


async def _danger(api: Api) -> Point:
    return point(api, life_safety=True)


STATES: dict[str, Callable[[Api], Any]] = {
    "fresh": _fresh,
    "acknowledged": _acknowledged,
    "ended": _ended,
    "latched": _latched,
    "shelved": _shelved,
    "out-of-service": _out,
    "danger": _danger,
}
# Of each state, what is not possible and why; all else is.
REFUSED: dict[str, dict[str, str]] = {
    "fresh": {"unshelve": ALREADY, "in-service": ALREADY, "reset": "alert.active"},
    "acknowledged": {
        "acknowledge": "alert.acknowledged",
        "unshelve": ALREADY,
        "in-service": ALREADY,
        "reset": "alert.active",
    },
    "ended": {"unshelve": ALREADY, "in-service": ALREADY, "reset": ALREADY},
    "latched": {"unshelve": ALREADY, "in-service": ALREADY},
    "shelved": {"in-service": ALREADY, "reset": "alert.active"},
    "out-of-service": {"unshelve": ALREADY, "reset": "alert.active"},
    "danger": {
        "shelve": "alert.life_safety",
        "unshelve": ALREADY,
        "in-service": ALREADY,
        "reset": "alert.active",
    },
}


@pytest.mark.parametrize("action", BODIES)
@pytest.mark.parametrize("state", STATES)
async def test_what_is_possible(module_city: Api, state: str, action: str) -> None:
    made: Point = await STATES[state](module_city)
    before = (await module_city.client("li").get(made.path)).json()
    answer = await act(made, "li", action)
    after = (await module_city.client("li").get(made.path)).json()
    refused = REFUSED[state].get(action)
    if refused is not None:
        assert (answer.status_code, answer.json()["code"]) == (409, refused)
        assert after == before
        return
    assert answer.status_code == 200, answer.text
    assert {key: after[key] for key in answer.json()} == answer.json()
    assert after["version"] == before["version"] + 1
    step = after["timeline"][-1]
    assert (step["actor"], step["at"]) == ("li", rfc3339(NOW))
    assert after["quiet"] is (
        (after["shelved"] is not None or after["out_of_service"] is not None) and state != "danger"
    )


ROLES = {"root": OK, "li": OK, "wang": OK, "chen": OK, "zhao": "not_found"}


@pytest.mark.parametrize("action", [action for action in BODIES if action != "reset"])
@pytest.mark.parametrize("who", ROLES)
async def test_who_may(module_city: Api, who: str, action: str) -> None:
    made = await _out(module_city, await _shelved(module_city))
    answer = await act(made, who, action)
    assert answer.json().get("code", OK) == ROLES[who]


@pytest.mark.parametrize("action", BODIES)
async def test_property_manager_leaves_alarms_to_the_police(module_city: Api, action: str) -> None:
    for prefix in ("alarm", "gate.forced"):
        alarm = point(module_city, prefix)
        answer = await act(alarm, "wang", action)
        assert (answer.status_code, answer.json()["code"]) == (403, "role.forbidden")
        detail = (await module_city.client("wang").get(alarm.path)).json()
        assert (detail["version"], len(detail["timeline"])) == (1, 1)


async def test_property_manager_leaves_own_rules_on_alarms_to_the_police(module_city: Api) -> None:
    made = point(module_city, "custom")
    with psycopg.connect(module_city.dsn) as conn:
        conn.execute("UPDATE alert SET kind = 'alarm' WHERE id = %s", (made.id,))
    assert (await act(made, "wang", "shelve")).json()["code"] == "role.forbidden"
    many = {"action": "acknowledge", "alerts": [str(made.id)]}
    told = (await module_city.client("wang").post(ACTIONS, json=many)).json()
    assert told["outcomes"][0]["code"] == "role.forbidden"
    assert (await act(made, "li", "shelve")).status_code == 200


async def test_shelf_tells_until_when_by_whom_and_why(module_city: Api) -> None:
    made = point(module_city)
    client = module_city.client("wang")
    body = {"minutes": 30, "reason": " 换灯 ", "once": True}
    answer = (await client.post(f"{made.path}/shelve", json=body)).json()
    assert answer["shelved"] == {
        "until": "2026-11-21T02:30:00.000Z",
        "by": "wang",
        "reason": "换灯",
        "once": True,
    }
    listed = (await client.get("/api/v1/alerts?status=shelved")).json()["items"]
    assert answer in listed
    step = (await client.get(made.path)).json()["timeline"][-1]
    assert (step["action"], step["note"], step["params"]["once"]) == ("shelved", "换灯", True)
    assert step["params"]["until"].startswith("2026-11-21T02:30:00")


@pytest.mark.parametrize(
    ("action", "body", "pointer", "code", "bounds"),
    [
        pytest.param(
            "shelve",
            {"reason": "x"},
            "/body/until",
            "time.endless",
            {"max": "2026-11-22T02:00:00.000Z"},
            id="shelf-without-end",
        ),
        pytest.param(
            "shelve",
            {"reason": "x", "until": None},
            "/body/until",
            "time.endless",
            {"max": "2026-11-22T02:00:00.000Z"},
            id="shelf-until-never",
        ),
        pytest.param(
            "shelve",
            {"reason": "x", "minutes": 1, "until": "2026-11-21T03:00:00Z"},
            "/body/until",
            "field.unfitting",
            {},
            id="shelf-with-two-ends",
        ),
        pytest.param(
            "shelve",
            {"reason": "x", "minutes": 1_441},
            "/body/minutes",
            "value.range",
            {"max": 1_440},
            id="shelf-over-a-day",
        ),
        pytest.param(
            "shelve",
            {"reason": "x", "until": "2026-11-22T02:00:01Z"},
            "/body/until",
            "time.too_long",
            {"max": "2026-11-22T02:00:00.000Z"},
            id="shelf-until-over-a-day",
        ),
        pytest.param(
            "shelve",
            {"reason": "x", "until": "2026-11-21T02:00:00Z"},
            "/body/until",
            "time.past",
            {"min": "2026-11-21T02:00:00.000Z"},
            id="shelf-until-now",
        ),
        pytest.param(
            "shelve", {"minutes": 5}, "/body/reason", "field.missing", {}, id="shelf-without-reason"
        ),
        pytest.param(
            "shelve",
            {"minutes": 5, "reason": "  "},
            "/body/reason",
            "text.too_short",
            {"min": 1},
            id="shelf-with-blank-reason",
        ),
        pytest.param(
            "out-of-service",
            {"reason": "x"},
            "/body/until",
            "time.endless",
            {"max": "2026-12-22T02:00:00.000Z"},
            id="out-without-end",
        ),
        pytest.param(
            "out-of-service",
            {"reason": "x", "until": "2026-12-22T02:00:01Z"},
            "/body/until",
            "time.too_long",
            {"max": "2026-12-22T02:00:00.000Z"},
            id="out-over-a-month",
        ),
        pytest.param(
            "out-of-service",
            {"until": "2026-12-01T00:00:00Z"},
            "/body/reason",
            "field.missing",
            {},
            id="out-without-reason",
        ),
        pytest.param("note", {"note": " "}, "/body/note", "text.too_short", {"min": 1}, id="empty"),
        pytest.param("reset", {"now": 1}, "/body/now", "field.unknown", {}, id="unknown-field"),
        pytest.param("unshelve", {"note": "x"}, "/body/note", "field.unknown", {}, id="no-note"),
    ],
)
async def test_bad_input_is_refused_and_changes_nothing(
    module_city: Api,
    action: str,
    body: dict[str, Any],
    pointer: str,
    code: str,
    bounds: dict[str, Any],
) -> None:
    made = point(module_city)
    client = module_city.client("li")
    bulk = {"action": action, "alerts": [str(made.id)], **body}
    for path, asked in ((f"{made.path}/{action}", body), (ACTIONS, bulk)):
        answer = await client.post(path, json=asked)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)
        assert {name: error[name] for name in bounds} == bounds
    assert (await client.get(made.path)).json()["version"] == 1


async def test_of_two_officers_the_second_learns_who_was_first(module_city: Api) -> None:
    made = point(module_city)
    seen = {"If-Match": '"1"'}
    answers = await asyncio.gather(
        act(made, "li", "shelve", **seen), act(made, "root", "out-of-service", **seen)
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    told = next(answer.json() for answer in answers if answer.status_code == 412)
    first = "li" if answers[0].status_code == 200 else "root"
    assert (told["code"], told["actor"], told["version"]) == ("alert.changed", first, 2)
    assert told["at"] == rfc3339(NOW)
    # Whatever it is by now, as where nothing is named.
    assert (await act(made, "li", "note", **{"If-Match": "*"})).status_code == 200


async def test_whoever_comes_late_is_told_who_did_the_same(module_city: Api) -> None:
    made = point(module_city)
    await act(made, "root", "acknowledge")
    await act(made, "wang", "note")  # the last to change it was not the first to acknowledge it
    told = (await act(made, "li", "acknowledge")).json()
    assert (told["code"], told["actor"], told["action"]) == (
        "alert.acknowledged",
        "root",
        "acknowledged",
    )
    # Nobody ever shelved it: nobody was first to bring it back.
    told = (await act(made, "li", "unshelve")).json()
    assert (told["code"], told["actor"], told["at"]) == (ALREADY, None, None)


async def test_acknowledged_is_asked_about_anew_when_raised_again(module_city: Api) -> None:
    made = point(module_city)
    await act(made, "li", "acknowledge")
    made.fall(NOW)
    assert made.rise(NOW + timedelta(minutes=1)) == made.id
    alert = (await module_city.client("li").get(made.path)).json()
    assert (alert["acknowledged"], alert["repeats"], alert["active"]) == (False, 1, True)
    assert alert["last_raised_at"] == "2026-11-21T02:01:00.000Z"
    assert (await act(made, "wang", "acknowledge")).status_code == 200


# -- many at once


def _results(answer: Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [outcome["outcome"] for outcome in answer.json()["outcomes"]]


async def test_each_of_many_has_its_own_outcome(module_city: Api) -> None:
    plain, danger = point(module_city), point(module_city, life_safety=True)
    alarm, foreign = point(module_city, "alarm"), point(module_city, community="c02")
    changed = point(module_city)
    await act(changed, "li", "note")
    asked = [
        str(plain.id), str(danger.id), str(alarm.id), str(foreign.id), str(changed.id),
        str(uuid.uuid4()), "nonsense", str(plain.id), str(ALERTS["duress"]),
    ]  # fmt: skip
    body = {
        "action": "shelve",
        "alerts": asked,
        "versions": {str(changed.id): 1, str(plain.id): 1},
        "minutes": 5,
        "reason": "test drive",
    }
    answer = await module_city.client("wang").post(ACTIONS, json=body)
    told = answer.json()
    assert [one["alert"] for one in told["outcomes"]] == asked
    assert [(one["outcome"], one["code"]) for one in told["outcomes"]] == [
        ("done", None),
        ("refused", "alert.life_safety"),
        ("refused", "role.forbidden"),
        ("missing", "not_found"),
        ("changed", "alert.changed"),
        ("missing", "not_found"),
        ("missing", "not_found"),
        ("changed", "alert.changed"),
        ("missing", "not_found"),  # given under threat: a property manager cannot tell
    ]
    first, late = told["outcomes"][0], told["outcomes"][4]
    assert (first["version"], first["actor"], first["at"]) == (2, "wang", rfc3339(NOW))
    assert (late["version"], late["actor"], late["at"]) == (2, "li", rfc3339(NOW))
    assert told["counts"] == {"done": 1, "already": 0, "changed": 2, "refused": 2, "missing": 4}
    for untouched in (danger, alarm):
        alert = (await module_city.client("li").get(untouched.path)).json()
        assert (alert["version"], alert["shelved"]) == (1, None)


@pytest.mark.parametrize("action", BODIES)
async def test_every_action_goes_for_many(module_city: Api, action: str) -> None:
    made: Point = await STATES[
        {"unshelve": "shelved", "in-service": "out-of-service", "reset": "latched"}.get(
            action, "fresh"
        )
    ](module_city)
    body = {"action": action, "alerts": [str(made.id)], **BODIES[action]}
    client = module_city.client("li")
    again = "done" if action in ("note",) else "already"
    assert _results(await client.post(ACTIONS, json=body)) == ["done"]
    assert _results(await client.post(ACTIONS, json=body)) == [again]


async def test_no_more_than_500_at_once(module_city: Api) -> None:
    client = module_city.client("li")
    body = {"action": "acknowledge", "alerts": [str(uuid.uuid4()) for _ in range(501)]}
    answer = await client.post(ACTIONS, json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"], error["max"]) == ("/body/alerts", "list.too_long", 500)
    assert (await client.post(ACTIONS, json={**body, "alerts": []})).status_code == 422
    answer = await client.post(ACTIONS, json={**body, "alerts": body["alerts"][:500]})
    assert answer.json()["counts"]["missing"] == 500


async def test_one_that_is_locked_does_not_hold_up_the_others(module_city: Api) -> None:
    held, free = point(module_city), point(module_city)
    body = {"action": "acknowledge", "alerts": [str(held.id), str(free.id)]}
    with psycopg.connect(module_city.dsn) as conn:
        conn.execute("SELECT FROM alert WHERE id = %s FOR UPDATE", (held.id,))
        answer = await module_city.client("li").post(ACTIONS, json=body)
    told = answer.json()["outcomes"]
    assert [(one["outcome"], one["code"]) for one in told] == [
        ("refused", "unavailable"),
        ("done", None),
    ]


async def test_many_people_at_many_alerts_do_each_thing_once(module_city: Api) -> None:
    points = [point(module_city) for _ in range(20)]
    body = {"action": "acknowledge", "alerts": [str(one.id) for one in points]}
    turned = {**body, "alerts": body["alerts"][::-1]}
    answers = await asyncio.gather(
        *(
            module_city.client(who).post(ACTIONS, json=asked)
            for who, asked in (("li", body), ("wang", turned), ("root", body))
        )
    )
    done = [
        outcome["alert"]
        for answer in answers
        for outcome in answer.json()["outcomes"]
        if outcome["outcome"] == "done"
    ]
    assert sorted(done) == sorted(body["alerts"])
    for answer in answers:
        assert {one["outcome"] for one in answer.json()["outcomes"]} <= {"done", "already"}


# -- against the pure machine

STEPS = st.one_of(
    st.sampled_from(["rise", "fall", "acknowledge", "unshelve", "in-service", "reset", "note"]).map(
        lambda name: (name, None)
    ),
    st.tuples(st.just("shelve"), st.integers(1, 1_440)),
    st.tuples(st.just("out-of-service"), st.integers(1, 44_640)),
)


def _action(name: str, minutes: int | None, at: datetime) -> machine.Action:
    until = at + timedelta(minutes=minutes or 0)
    match name:
        case "acknowledge":
            return machine.Acknowledge(at, "li", "seen")
        case "shelve":
            return machine.Shelve(at, "li", until, "x")
        case "unshelve":
            return machine.Unshelve(at, "li", "person")
        case "out-of-service":
            return machine.TakeOut(at, "li", until, "x")
        case "in-service":
            return machine.PutBack(at, "li", "person")
        case "reset":
            return machine.Reset(at, "li", "looked at")
        case _:
            return machine.Note(at, "li", "called the electrician")


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=1, max_size=8), latching=st.booleans(), danger=st.booleans())
async def test_the_api_does_what_the_machine_says(
    module_city: Api, steps: list[tuple[str, int | None]], latching: bool, danger: bool
) -> None:
    client = module_city.client("li")
    at = module_city.watch.now = NOW
    made = point(module_city, raised_at=at, latching=latching, life_safety=danger)
    expected = machine.raised(at, life_safety=danger)
    told = ["raised"]
    try:
        for name, minutes in steps:
            at = module_city.watch.now = at + timedelta(seconds=10)
            if name in ("rise", "fall"):
                # A condition that stands is not raised, one that does not is not cleared.
                if (name == "rise") is not expected.active:
                    decision = (machine.Raise if name == "rise" else machine.Clear)(at, "x")
                    assert made.decide(decision) == made.id
                    expected = machine.apply(expected, decision, latching=latching)
                    told.append("raised_again" if name == "rise" else "cleared")
                continue
            body: dict[str, Any] = dict(BODIES[name])
            if minutes is not None:
                body = {"until": rfc3339(at + timedelta(minutes=minutes)), "reason": "x"}
            answer = await client.post(f"{made.path}/{name}", json=body)
            action = _action(name, minutes, at)
            possible = None
            with suppress(machine.AlreadyDone, machine.Refused):
                possible = machine.apply(expected, action, latching=latching)
            assert (answer.status_code == 200) is (possible is not None), (name, answer.text)
            if possible is not None:
                expected = possible
                told.append(machine.done(action))
        shown = (await client.get(made.path)).json()
        assert [step["action"] for step in shown["timeline"]] == told
        for flag in (
            "active", "standing", "acknowledged", "version", "latched", "repeats", "note", "quiet",
            "acknowledged_by", "life_safety",
        ):  # fmt: skip
            assert shown[flag] == getattr(expected, flag), flag
        for flag, aside in (
            ("shelved", expected.shelved),
            ("out_of_service", expected.out_of_service),
        ):
            until = None if shown[flag] is None else shown[flag]["until"]
            assert until == (None if aside is None else rfc3339(aside.until)), flag
        desk = (await client.get(f"/api/v1/alerts?status=desk&rule={made.rule.id}")).json()["items"]
        assert bool(desk) is (expected.open and not expected.quiet)
    finally:
        module_city.watch.now = NOW
