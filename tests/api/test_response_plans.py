# SPDX-License-Identifier: Apache-2.0
"""Response plans by area: inherited, changed in versions by those who may, kept by their cases."""

from __future__ import annotations

from typing import Any

import pytest
from httpx2 import Response

from tests.api.conftest import Api
from tests.api.police import Desk
from tests.api.test_problems import is_problem

AREAS = "/api/v1/areas"


def step(name: str, chinese: str = "查看", english: str = "Look") -> dict[str, Any]:
    return {"step": name, "text": {"zh-CN": chinese, "en": english}}


async def put(
    api: Api,
    who: str,
    area: str,
    plan: str,
    *names: str,
    version: object = 0,
    steps: list[dict[str, Any]] | None = None,
) -> Response:
    headers = {} if version is None else {"If-Match": str(version)}
    body = {"steps": [step(name) for name in names] if steps is None else steps, "reason": "tuned"}
    return await api.client(who).put(
        f"{AREAS}/{area}/response-plans/{plan}", json=body, headers=headers
    )


async def get(api: Api, who: str, area: str, plan: str) -> dict[str, Any]:
    answer = await api.client(who).get(f"{AREAS}/{area}/response-plans/{plan}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def names(plan: dict[str, Any]) -> list[str]:
    return [one["step"] for one in plan["plan" if "plan" in plan else "steps"]]


async def test_the_product_s_plans_are_listed(own_city: Api) -> None:
    listed = (await own_city.client("li").get(f"{AREAS}/c01/response-plans")).json()["items"]
    plans = {(one["severity"], one["rule"]): one for one in listed}
    assert {severity for severity, rule in plans if rule == "any"} == {
        "critical", "major", "minor", "info",
    }  # fmt: skip
    duress = plans["critical", "alarm.duress"]
    assert (duress["source"], duress["source_version"], duress["version"]) == ("product", 1, 0)
    assert names(duress)[0] == "keep_silent"
    assert all(one["text"]["zh-CN"] and one["text"]["en"] for one in duress["steps"])
    assert (duress["may_change"], plans["major", "any"]["may_change"]) == (False, True)


async def test_inherited_from_the_nearest_area_that_says_something(own_city: Api) -> None:
    assert (await put(own_city, "root", "city", "major/any", "city")).status_code == 200
    said = (await put(own_city, "li", "c01", "major/any", "look", "tell")).json()
    assert (names(said), said["source"], said["version"]) == (["look", "tell"], "c01", 1)
    cell = await get(own_city, "root", "c01-g01", "major/any")
    assert (names(cell), cell["source"], cell["version"]) == (["look", "tell"], "c01", 0)
    # What lies above is not theirs to see.
    mine = await get(own_city, "chen", "c01-g01", "major/any")
    assert (names(mine), mine["source"]) == (["look", "tell"], "above")
    assert names(await get(own_city, "root", "c02", "major/any")) == ["city"]
    gone = await own_city.client("li").delete(
        f"{AREAS}/c01/response-plans/major/any?reason=over", headers={"If-Match": "1"}
    )
    assert gone.status_code == 204
    back = await get(own_city, "li", "c01", "major/any")
    assert (names(back), back["source"], back["version"]) == (["city"], "above", 2)
    assert [(one["version"], one["author"], one["reason"]) for one in back["versions"]] == [
        (2, "li", "over"), (1, "li", "tuned"),
    ]  # fmt: skip
    assert back["versions"][0]["steps"] is None
    assert names(back["versions"][1]) == ["look", "tell"]


async def test_an_area_s_general_plan_leaves_the_product_s_for_duress(own_city: Api) -> None:
    assert (await put(own_city, "li", "c01", "critical/any", "mine")).status_code == 200
    desk = Desk(own_city)
    told = await desk.get(desk.ring("alarm.duress", 10))
    assert names(told)[0] == "keep_silent"
    assert told["plan_version"] == {
        "severity": "critical", "rule": "alarm.duress", "source": "product", "version": 1,
    }  # fmt: skip


async def test_a_case_keeps_the_plan_that_it_began_with(own_city: Api) -> None:
    desk = Desk(own_city)
    assert (await put(own_city, "li", "c01", "major/any", "first")).status_code == 200
    case = desk.ring("alarm.intrusion", 100)
    changed = await put(own_city, "li", "c01", "major/any", "second", version=1)
    assert changed.json()["version"] == 2
    later = desk.ring("gate.forced", 10, device="c01-gate-001")
    told, other = await desk.get(case), await desk.get(later)
    assert (names(told), names(other)) == (["first"], ["second"])
    assert [one["plan_version"]["version"] for one in (told, other)] == [1, 2]
    is_problem(await desk.do(case, "steps/second", {}), 404, "not_found")
    done = await desk.ok(case, "steps/first", {"note": "seen"})
    assert [(one["step"], one["done_by"]) for one in done["plan"]] == [("first", "li")]
    # Another severity, another plan: of those that were in force when it began.
    assert (await put(own_city, "root", "city", "minor/any", "newer")).status_code == 200
    rated = await desk.ok(case, "rate", {"severity": "minor", "reason": "a cat"}, version=2)
    assert names(rated) == ["call_guard", "repair", "settle"]


async def test_who_was_first_is_told(own_city: Api) -> None:
    assert (await put(own_city, "root", "c01", "info/any", "one")).status_code == 200
    late = is_problem(await put(own_city, "li", "c01", "info/any", "two"), 412, "plan.changed")
    assert late["version"] == 1
    is_problem(
        await put(own_city, "li", "c01", "info/any", "two", version=None), 428, "if_match.missing"
    )
    is_problem(
        await put(own_city, "li", "c01", "info/any", "two", version="x"), 400, "if_match.invalid"
    )
    path = f"{AREAS}/c01/response-plans/info/any?reason=x"
    gone = await own_city.client("li").delete(path, headers={"If-Match": "7"})
    is_problem(gone, 412, "plan.changed")
    is_problem(await own_city.client("li").delete(path), 428, "if_match.missing")
    assert (await get(own_city, "li", "c01", "info/any"))["version"] == 1


@pytest.mark.parametrize(
    ("who", "area", "plan", "status", "code"),
    [
        # Nobody changes what is done in danger to life but who answers for the city.
        ("li", "c01", "critical/alarm.duress", 403, "plan.life_safety"),
        ("chen", "c01-g01", "critical/alarm.fire", 403, "plan.life_safety"),
        # Nor under the beginning of what fits nothing else.
        ("li", "c01", "major/alarm.pani", 403, "plan.life_safety"),
        ("li", "c01", "minor/bin.", 403, "plan.life_safety"),
        ("root", "c01", "critical/alarm.duress", 200, None),
        ("li", "c01", "critical/alarm.intrusion", 200, None),
        ("li", "c01", "minor/gate.", 200, None),
        # Cases are nothing to property managers, nor is what is done in them.
        ("wang", "c01", "minor/any", 403, "role.forbidden"),
        ("wang", "c01", "minor/gate.held_open", 403, "role.forbidden"),
        # Another area does not exist.
        ("li", "c02", "minor/any", 404, "not_found"),
        ("li", "city", "minor/any", 404, "not_found"),
        ("root", "c01", "minor/lamp.dark", 422, "request.invalid"),
        ("root", "c01", "minor/everything", 422, "request.invalid"),
        ("root", "c01", "dire/any", 422, "request.invalid"),
    ],
)
async def test_who_may_change_what(
    own_city: Api, who: str, area: str, plan: str, status: int, code: str | None
) -> None:
    answer = await put(own_city, who, area, plan, "look")
    assert answer.status_code == status, answer.text
    if code is not None:
        is_problem(answer, status, code)
    if code == "plan.life_safety":
        said = await put(own_city, "root", area, plan, "look")
        assert said.status_code == 200, said.text
        gone = await own_city.client(who).delete(
            f"{AREAS}/{area}/response-plans/{plan}?reason=x", headers={"If-Match": "1"}
        )
        is_problem(gone, status, code)


async def test_property_managers_see_none(city: Api) -> None:
    for path in ("", "/critical/alarm.duress", "/minor/any"):
        answer = await city.client("wang").get(f"{AREAS}/c01/response-plans{path}")
        is_problem(answer, 403, "role.forbidden")
    for path in ("/c02/response-plans", "/c02/response-plans/minor/any"):
        is_problem(await city.client("li").get(f"{AREAS}{path}"), 404, "not_found")
    nothing = await city.client("li").get(f"{AREAS}/c01/response-plans/info/alarm.panic")
    is_problem(nothing, 404, "not_found")


@pytest.mark.parametrize(
    ("steps", "pointer", "code"),
    [
        ([], "/body/steps", "list.too_short"),
        ([step(f"s{n}") for n in range(21)], "/body/steps", "list.too_long"),
        ([step("look"), step("look")], "/body/steps/1/step", "step.twice"),
        ([step("Look here")], "/body/steps/0/step", "text.invalid"),
        ([step("look", english=" ")], "/body/steps/0/text/en", "text.too_short"),
        ([step("look", chinese="看\x07")], "/body/steps/0/text/zh-CN", "text.invalid"),
        ([{"step": "look", "text": {"en": "Look"}}], "/body/steps/0/text/zh-CN", "field.missing"),
        ([step("look") | {"by": "me"}], "/body/steps/0/by", "field.unknown"),
    ],
)
async def test_steps_that_do_not_fit_change_nothing(
    city: Api, steps: list[dict[str, Any]], pointer: str, code: str
) -> None:
    answer = await put(city, "li", "c01", "minor/any", steps=steps)
    errors = is_problem(answer, 422, "request.invalid")["errors"]
    assert [(error["pointer"], error["code"]) for error in errors] == [(pointer, code)]
    assert (await get(city, "li", "c01", "minor/any"))["source"] == "product"
