# SPDX-License-Identifier: Apache-2.0
"""Who may do what, where: every route, every role, own and other area, and nobody."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from httpx2 import Response

from api.auth import Allow, Policy
from api.scope import ROLES, Role
from tests.api.conftest import ALERTS, INCIDENTS, NOW, PEOPLE, WINDOWS, Api


@dataclass(frozen=True, slots=True)
class Call:
    """One route, called for something of one community."""

    operation: str
    method: str
    path: str
    body: Mapping[str, object] | None = None
    roles: frozenset[Role] = frozenset(ROLES)
    status: int = 200
    #: Of what is not there, or not theirs; where it is named in a body, that is what is wrong.
    missing: int = 404


ADMINS: frozenset[Role] = frozenset({"admin"})
OFFICERS: frozenset[Role] = frozenset({"admin", "police"})
MANAGERS: frozenset[Role] = frozenset({"admin", "property"})
YEAR = "from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z"


def calls(community: str) -> list[Call]:
    """Every route that shows or changes something of an area, for one community."""
    alert = ALERTS["dark" if community == "c01" else "foreign"]
    incident = INCIDENTS["open" if community == "c01" else "foreign"]
    lamp, cell = f"{community}-lamp-001", f"{community}-g01"
    out = {"until": "2026-11-22T00:00:00Z", "reason": "x"}
    window = WINDOWS[community]
    tomorrow = {"begins_at": "2026-11-22T00:00:00Z", "ends_at": "2026-11-23T00:00:00Z"}
    plan = {"area": cell, "reason": "new heads", **tomorrow}
    report = {"category": "fraud", "area": cell, "occurred_at": "2026-11-20T00:00:00Z"}
    return [
        Call("listRules", "GET", f"/areas/{community}/rules"),
        Call("getRule", "GET", f"/areas/{community}/rules/bin.full"),
        Call("listResponsePlans", "GET", f"/areas/{community}/response-plans", roles=OFFICERS),
        Call("getResponsePlan", "GET", f"/areas/{cell}/response-plans/minor/any", roles=OFFICERS),
        Call("getAreaOverview", "GET", f"/areas/{community}/overview"),
        Call("getAreaOverview", "GET", f"/areas/{cell}/overview"),
        Call("getAreaStates", "GET", f"/areas/{community}/states"),
        Call("getIndicator", "GET", f"/areas/{community}/indicators/lighting-uptime"),
        Call("getIndicators", "GET", f"/areas/{community}/indicators"),
        Call("getRevisions", "GET", f"/areas/{community}/indicators/lamps-lit/revisions"),
        Call("listRoads", "GET", f"/areas/{community}/roads"),
        Call("listBins", "GET", f"/areas/{community}/bins"),
        Call("getForecast", "GET", f"/devices/{community}-bin-001/forecast"),
        Call("getReport", "GET", f"/areas/{community}/reports/2026-11.csv"),
        Call("listDevices", "GET", f"/devices?area={community}"),
        Call("getDevice", "GET", f"/devices/{lamp}"),
        Call("getDeviceHistory", "GET", f"/devices/{lamp}/history"),
        Call("getDeviceSummary", "GET", f"/devices/{lamp}/history/summary"),
        Call("listAlerts", "GET", f"/alerts?area={community}"),
        Call("getAlert", "GET", f"/alerts/{alert}"),
        Call("exportAlerts", "GET", f"/alerts/export?area={community}"),
        Call("acknowledgeAlert", "POST", f"/alerts/{alert}/acknowledge", {"note": "seen"}),
        Call("noteAlert", "POST", f"/alerts/{alert}/note", {"note": "seen"}),
        Call("shelveAlert", "POST", f"/alerts/{alert}/shelve", {"minutes": 5, "reason": "x"}),
        Call("unshelveAlert", "POST", f"/alerts/{alert}/unshelve", status=409),
        Call("takeAlertOut", "POST", f"/alerts/{alert}/out-of-service", out),
        Call("putAlertBack", "POST", f"/alerts/{alert}/in-service", status=409),
        Call("resetAlert", "POST", f"/alerts/{alert}/reset", status=409),
        Call("listNotifications", "GET", f"/notifications?area={community}"),
        Call("listChains", "GET", f"/notification-chains?area={community}", roles=ADMINS),
        Call("getIncidentCounts", "GET", f"/areas/{community}/incident-counts?{YEAR}"),
        Call("getOfficers", "GET", f"/areas/{community}/officers", roles=OFFICERS),
        Call("listIncidents", "GET", f"/incidents?area={community}", roles=OFFICERS),
        Call("getIncident", "GET", f"/incidents/{incident}", roles=OFFICERS),
        Call("reportIncident", "POST", "/incidents", report, OFFICERS, 201, 422),
        Call(
            "changeIncident",
            "PATCH",
            f"/incidents/{incident}",
            {"category": "other", "reason": "seen"},
            OFFICERS,
        ),
        Call("getAlarmQuality", "GET", f"/areas/{community}/alarm-quality"),
        Call("listWindows", "GET", f"/windows?area={community}"),
        Call("getWindow", "GET", f"/windows/{window}"),
        Call("createWindow", "POST", "/windows", plan, MANAGERS, 201, 422),
        Call(
            "changeWindow",
            "PATCH",
            f"/windows/{window}",
            {"begins_at": "2026-12-21T03:00:00Z", "reason": "rain"},
            MANAGERS,
        ),
        Call("cancelWindow", "POST", f"/windows/{window}/cancel", {"reason": "rain"}, MANAGERS),
    ]


UNSCOPED = {
    # What numbers mean is the same for all.
    "getCatalogue",
    "getRuleCatalogue",
    # No area in the question: each shows only the caller's own.
    "getSession",
    "listAreas",
    "logIn",
    "logOut",
    # The whole tree or the caller's own part of it: tests/api/test_registry.py.
    "exportRegistry",
    "importRegistry",
    # Each alert is missing for itself: tests/api/test_alert_actions.py.
    "actOnAlerts",
    # Cases and shifts are made of alarms that ring: tests/api/test_cases.py.
    "acceptShift",
    "assignCase",
    "closeCase",
    "confirmCase",
    "doStep",
    "getCase",
    "handOverShift",
    "listCases",
    "listShifts",
    "mergeCase",
    "noteCase",
    "rateCase",
    "reopenCase",
    "splitCase",
    # Who may goes by the rule, too: tests/api/test_rules.py.
    "deleteRule",
    "dryRunRule",
    "putRule",
    # So by the plan: tests/api/test_response_plans.py.
    "deleteResponsePlan",
    "putResponsePlan",
    # One's own, or of a scope: tests/api/test_notifications.py.
    "getWishes",
    "changeWishes",
    "listMyChannels",
    "addMyChannel",
    "removeMyChannel",
    "testMyChannel",
    "addChain",
    "getChain",
    "changeChain",
    "removeChain",
    "listWebhooks",
    "addWebhook",
    "changeWebhook",
    "removeWebhook",
    "replaceSecret",
    "getWebhookHistory",
    "testWebhook",
    # Streams have tests of their own, over a socket.
    "watchArea",
    # Anybody, or an address.
    "getLivez",
    "getReadyz",
    "getMetrics",
    "getOpenapi",
}


async def _make(api: Api, call: Call, who: str | None) -> Response:
    client = api.client(who)
    headers = {"If-Match": "1"} if call.method == "PATCH" else {}
    return await client.request(call.method, f"/api/v1{call.path}", json=call.body, headers=headers)


def _may(call: Call, who: str) -> bool:
    return PEOPLE[who][0] in call.roles


def _ids(call: Call) -> str:
    return f"{call.method}-{call.path}"


@pytest.mark.parametrize("call", calls("c01"), ids=_ids)
async def test_without_log_in_nothing_is_shown(city: Api, call: Call) -> None:
    answer = await _make(city, call, None)
    assert (answer.status_code, answer.json()["code"]) == (401, "session.required")


@pytest.mark.parametrize("who", ["wang", "li", "root"])
@pytest.mark.parametrize("call", [one for one in calls("c01") if one.method == "GET"], ids=_ids)
async def test_own_area_is_shown(city: Api, call: Call, who: str) -> None:
    answer = await _make(city, call, who)
    assert answer.status_code == (call.status if _may(call, who) else 403), answer.text


@pytest.mark.parametrize("who", ["wang", "li", "root"])
@pytest.mark.parametrize("call", [one for one in calls("c01") if one.method != "GET"], ids=_ids)
async def test_own_area_is_changed(own_city: Api, call: Call, who: str) -> None:
    answer = await _make(own_city, call, who)
    assert answer.status_code == (call.status if _may(call, who) else 403), answer.text


@pytest.mark.parametrize("who", ["wang", "li", "chen"])
@pytest.mark.parametrize("call", calls("c02"), ids=_ids)
async def test_other_area_is_like_a_missing_one(city: Api, call: Call, who: str) -> None:
    foreign = await _make(city, call, who)
    path, body = call.path.replace("c02", "c99"), call.body
    for known in (ALERTS["foreign"], INCIDENTS["foreign"], WINDOWS["c02"]):
        path = path.replace(str(known), str(uuid.UUID(int=0xFFFF)))
    if body is not None and "area" in body:
        body = {**body, "area": "c99-g01"}
    missing = await _make(city, replace(call, path=path, body=body), who)
    expected = call.missing if _may(call, who) else 403
    assert foreign.status_code == missing.status_code == expected
    assert _without_id(foreign) == _without_id(missing)


def _without_id(answer: Response) -> dict[str, object]:
    return {key: value for key, value in answer.json().items() if key != "instance"}


async def test_cell_admin_sees_the_cell_and_not_its_community(city: Api) -> None:
    client = city.client("chen")
    areas = (await client.get("/api/v1/areas")).json()["items"]
    assert [(area["area"], area["parent"]) for area in areas] == [("c01-g01", None)]
    devices = (await client.get("/api/v1/devices")).json()["items"]
    assert {device["area"] for device in devices} == {"c01-g01"}
    for path in ("areas/c01/overview", "areas/city/overview", "devices/c01-lamp-002"):
        assert (await client.get(f"/api/v1/{path}")).status_code == 404
    overview = (await client.get("/api/v1/areas/c01-g01/overview")).json()
    assert overview["gateways"] == []


async def test_random_filters_never_show_another_area(city: Api) -> None:
    rng = random.Random(20261121)
    client = city.client("wang")
    for _ in range(300):
        questions = [
            rng.choice(["", "area=c01", "area=c01-g01", "area=c02", "area=city"]),
            rng.choice(["", "kind=lamp", "kind=bin", "gateway=gw-c02-a", "device=c02-lamp-001"]),
            rng.choice(["", "state=fault", "q=lamp", "q=c02", "rule=lamp.dark", "status=history"]),
            rng.choice(["", "limit=1", "limit=1000", "severity=major", "life=planned"]),
        ]
        query = "&".join(part for part in questions if part)
        for path in ("devices", "alerts"):
            answer = await client.get(f"/api/v1/{path}?{query}")
            if answer.status_code == 200:
                assert {item["community"] for item in answer.json()["items"]} <= {"c01"}
            else:
                assert answer.status_code in (404, 422)


async def test_duress_exists_for_police_and_admin_alone(city: Api) -> None:
    duress = str(ALERTS["duress"])
    for who, sees in (("wang", False), ("li", True), ("root", True)):
        client = city.client(who)
        answer = await client.get(f"/api/v1/alerts/{duress}")
        assert answer.status_code == (200 if sees else 404)
        listed = (await client.get("/api/v1/alerts?status=history")).json()["items"]
        assert (duress in {alert["id"] for alert in listed}) is sees
        overview = (await client.get("/api/v1/areas/c01/overview")).json()
        assert overview["alerts"]["by_severity"]["critical"] == int(sees)
        assert overview["alerts"]["unacknowledged"] == 2 + int(sees)
        assert sum(child["critical"] for child in overview["children"]) == int(sees)
        assert sum(child["unacknowledged"] for child in overview["children"]) == 2 + int(sees)
    refused = await city.client("wang").post(f"/api/v1/alerts/{duress}/acknowledge", json={})
    assert refused.status_code == 404


async def test_property_manager_acknowledges_equipment_alone(own_city: Api) -> None:
    manager, officer = own_city.client("wang"), own_city.client("li")
    forced = f"/api/v1/alerts/{ALERTS['forced']}/acknowledge"
    refused = await manager.post(forced, json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "role.forbidden")
    assert (await officer.post(forced, json={})).status_code == 200
    dark = f"/api/v1/alerts/{ALERTS['dark']}/acknowledge"
    assert (await manager.post(dark, json={})).status_code == 200


async def test_service_token_opens_what_its_role_may(city: Api) -> None:
    service = city.client(Authorization="Bearer token-of-robot")
    answer = await service.get("/api/v1/session")
    assert answer.status_code == 200
    assert (answer.json()["username"], answer.json()["role"]) == ("robot", "admin")
    for credentials in ("Bearer wrong", "Basic token-of-robot", "Bearer", "token-of-robot"):
        # A wrong token is not made up for by a cookie.
        client = city.client("root", Authorization=credentials)
        assert (await client.get("/api/v1/session")).status_code == 401


async def test_metrics_are_for_their_addresses_alone(city: Api) -> None:
    assert (await city.client().get("/metrics")).status_code == 200
    config = city.services.config
    closed = config.model_copy(update={"api": config.api.model_copy(update={"metrics_from": ()})})
    city.services.config = closed
    try:
        refused = await city.client().get("/metrics")
    finally:
        city.services.config = config
    assert (refused.status_code, refused.json()["code"]) == (403, "address.forbidden")


# -- the routes themselves


def _routes(api: Api) -> Iterator[tuple[str, APIRoute]]:
    for context in iter_route_contexts(api.app.routes):
        route = context.original_route
        assert isinstance(route, APIRoute), f"{context.path}: a route without a policy"
        words = route.name.split("_")
        yield words[0] + "".join(word.capitalize() for word in words[1:]), route


def _policies(dependant: Dependant) -> list[Policy]:
    found = [part.call for part in dependant.dependencies if isinstance(part.call, Policy)]
    return found + [policy for part in dependant.dependencies for policy in _policies(part)]


async def test_every_route_has_one_policy(city: Api) -> None:
    for operation, route in _routes(city):
        policies = _policies(route.dependant)
        assert len(policies) == 1, f"{operation} has {len(policies)} policies"


async def test_every_route_that_needs_a_role_is_in_the_matrix(city: Api) -> None:
    covered = {call.operation for call in calls("c01")} | UNSCOPED
    assert {operation for operation, _ in _routes(city)} == covered
    needs_role = {
        operation
        for operation, route in _routes(city)
        if isinstance(_policies(route.dependant)[0], Allow)
    }
    assert covered - needs_role == {
        "logIn",
        "logOut",
        "getLivez",
        "getReadyz",
        "getMetrics",
        "getOpenapi",
    }


def test_everybody_of_the_city_is_needed() -> None:
    assert {role for role, _ in PEOPLE.values()} == {"admin", "property", "police"}
    assert NOW.tzinfo is not None
