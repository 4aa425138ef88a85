# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: what client makers build on."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema.validators import validator_for

from tests.api.conftest import Api

OPERATIONS = {
    "acceptShift": ("post", "/api/v1/shifts/{shift}/accept"),
    "acknowledgeAlert": ("post", "/api/v1/alerts/{alert}/acknowledge"),
    "actOnAlerts": ("post", "/api/v1/alerts/actions"),
    "addChain": ("post", "/api/v1/notification-chains"),
    "addMyChannel": ("post", "/api/v1/me/channels"),
    "addWebhook": ("post", "/api/v1/webhooks"),
    "assignCase": ("post", "/api/v1/cases/{case}/assign"),
    "cancelWindow": ("post", "/api/v1/windows/{window}/cancel"),
    "changeChain": ("put", "/api/v1/notification-chains/{chain}"),
    "changeIncident": ("patch", "/api/v1/incidents/{incident}"),
    "changeWebhook": ("patch", "/api/v1/webhooks/{webhook}"),
    "changeWindow": ("patch", "/api/v1/windows/{window}"),
    "changeWishes": ("put", "/api/v1/me/notifications"),
    "closeCase": ("post", "/api/v1/cases/{case}/close"),
    "confirmCase": ("post", "/api/v1/cases/{case}/confirm"),
    "createWindow": ("post", "/api/v1/windows"),
    "deleteResponsePlan": ("delete", "/api/v1/areas/{area}/response-plans/{severity}/{rule}"),
    "deleteRule": ("delete", "/api/v1/areas/{area}/rules/{rule}"),
    "doStep": ("post", "/api/v1/cases/{case}/steps/{step}"),
    "dryRunRule": ("post", "/api/v1/areas/{area}/rules/{rule}/dry-run"),
    "exportAlerts": ("get", "/api/v1/alerts/export"),
    "exportRegistry": ("get", "/api/v1/registry/export.{form}"),
    "getAlarmQuality": ("get", "/api/v1/areas/{area}/alarm-quality"),
    "getAlert": ("get", "/api/v1/alerts/{alert}"),
    "getAreaOverview": ("get", "/api/v1/areas/{area}/overview"),
    "getAreaStates": ("get", "/api/v1/areas/{area}/states"),
    "getCase": ("get", "/api/v1/cases/{case}"),
    "getCatalogue": ("get", "/api/v1/indicators"),
    "getChain": ("get", "/api/v1/notification-chains/{chain}"),
    "getDevice": ("get", "/api/v1/devices/{device}"),
    "getDeviceHistory": ("get", "/api/v1/devices/{device}/history"),
    "getDeviceSummary": ("get", "/api/v1/devices/{device}/history/summary"),
    "getForecast": ("get", "/api/v1/devices/{device}/forecast"),
    "getIncident": ("get", "/api/v1/incidents/{incident}"),
    "getIncidentCounts": ("get", "/api/v1/areas/{area}/incident-counts"),
    "getIndicator": ("get", "/api/v1/areas/{area}/indicators/{indicator_id}"),
    "getIndicators": ("get", "/api/v1/areas/{area}/indicators"),
    "getLivez": ("get", "/livez"),
    "getOfficers": ("get", "/api/v1/areas/{area}/officers"),
    "getReadyz": ("get", "/readyz"),
    "getReport": ("get", "/api/v1/areas/{area}/reports/{file}"),
    "getResponsePlan": ("get", "/api/v1/areas/{area}/response-plans/{severity}/{rule}"),
    "getRevisions": ("get", "/api/v1/areas/{area}/indicators/{indicator_id}/revisions"),
    "getRule": ("get", "/api/v1/areas/{area}/rules/{rule}"),
    "getRuleCatalogue": ("get", "/api/v1/rules/catalogue"),
    "getSession": ("get", "/api/v1/session"),
    "getWebhookHistory": ("get", "/api/v1/webhooks/{webhook}/history"),
    "getWindow": ("get", "/api/v1/windows/{window}"),
    "getWishes": ("get", "/api/v1/me/notifications"),
    "handOverShift": ("post", "/api/v1/shifts"),
    "importRegistry": ("post", "/api/v1/registry/import"),
    "listAlerts": ("get", "/api/v1/alerts"),
    "listAreas": ("get", "/api/v1/areas"),
    "listBins": ("get", "/api/v1/areas/{area}/bins"),
    "listCases": ("get", "/api/v1/cases"),
    "listChains": ("get", "/api/v1/notification-chains"),
    "listDevices": ("get", "/api/v1/devices"),
    "listIncidents": ("get", "/api/v1/incidents"),
    "listMyChannels": ("get", "/api/v1/me/channels"),
    "listNotifications": ("get", "/api/v1/notifications"),
    "listResponsePlans": ("get", "/api/v1/areas/{area}/response-plans"),
    "listRoads": ("get", "/api/v1/areas/{area}/roads"),
    "listRules": ("get", "/api/v1/areas/{area}/rules"),
    "listShifts": ("get", "/api/v1/shifts"),
    "listWebhooks": ("get", "/api/v1/webhooks"),
    "listWindows": ("get", "/api/v1/windows"),
    "logIn": ("post", "/api/v1/session"),
    "logOut": ("delete", "/api/v1/session"),
    "mergeCase": ("post", "/api/v1/cases/{case}/merge"),
    "noteAlert": ("post", "/api/v1/alerts/{alert}/note"),
    "noteCase": ("post", "/api/v1/cases/{case}/notes"),
    "putAlertBack": ("post", "/api/v1/alerts/{alert}/in-service"),
    "putResponsePlan": ("put", "/api/v1/areas/{area}/response-plans/{severity}/{rule}"),
    "putRule": ("put", "/api/v1/areas/{area}/rules/{rule}"),
    "rateCase": ("post", "/api/v1/cases/{case}/rate"),
    "removeChain": ("delete", "/api/v1/notification-chains/{chain}"),
    "removeMyChannel": ("delete", "/api/v1/me/channels/{channel}"),
    "removeWebhook": ("delete", "/api/v1/webhooks/{webhook}"),
    "reopenCase": ("post", "/api/v1/cases/{case}/reopen"),
    "replaceSecret": ("post", "/api/v1/webhooks/{webhook}/secret"),
    "reportIncident": ("post", "/api/v1/incidents"),
    "resetAlert": ("post", "/api/v1/alerts/{alert}/reset"),
    "shelveAlert": ("post", "/api/v1/alerts/{alert}/shelve"),
    "splitCase": ("post", "/api/v1/cases/{case}/split"),
    "takeAlertOut": ("post", "/api/v1/alerts/{alert}/out-of-service"),
    "testMyChannel": ("post", "/api/v1/me/channels/{channel}/test"),
    "testWebhook": ("post", "/api/v1/webhooks/{webhook}/test"),
    "unshelveAlert": ("post", "/api/v1/alerts/{alert}/unshelve"),
    "watchArea": ("get", "/api/v1/stream"),
}


@pytest.fixture(scope="module")
async def openapi(city: Api) -> dict[str, Any]:
    answer = await city.client().get("/api/v1/openapi.json")
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


def test_operations_are_these(openapi: dict[str, Any]) -> None:
    found = {
        operation["operationId"]: (method, path)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    }
    assert found == OPERATIONS


def test_every_operation_says_what_it_does_and_how_it_fails(openapi: dict[str, Any]) -> None:
    for methods in openapi["paths"].values():
        for operation in methods.values():
            assert operation["description"]
            for status in ("422", "default"):
                content = operation["responses"][status]["content"]
                assert list(content) == ["application/problem+json"], operation["operationId"]


def test_log_in_is_said_to_be_needed(openapi: dict[str, Any]) -> None:
    assert set(openapi["components"]["securitySchemes"]) == {"session", "token"}
    assert openapi["security"] == [{"session": []}, {"token": []}]
    free = {
        operation["operationId"]
        for methods in openapi["paths"].values()
        for operation in methods.values()
        if operation.get("security") == []
    }
    assert free == {"logIn", "getLivez", "getReadyz"}


def test_instants_and_ranges_are_described(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    assert schemas["Alert"]["properties"]["raised_at"]["format"] == "date-time"
    parameters = openapi["paths"]["/api/v1/devices"]["get"]["parameters"]
    (limit,) = (item for item in parameters if item["name"] == "limit")
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"]) == (1, 1_000)
    indicator = openapi["paths"]["/api/v1/areas/{area}/indicators/{indicator_id}"]["get"]
    assert {item["name"] for item in indicator["parameters"]} == {
        "area",
        "indicator_id",
        "from",
        "to",
        "by",
        "kind",
    }


def test_what_may_be_asked_again_says_so(openapi: dict[str, Any]) -> None:
    bearing = {
        operation["operationId"]
        for methods in openapi["paths"].values()
        for operation in methods.values()
        if any(item["name"] == "Idempotency-Key" for item in operation.get("parameters", ()))
    }
    posted = {one for one, (method, _) in OPERATIONS.items() if method == "post"}
    # What is only tried, what ends by itself when it is done twice, and who is nobody yet.
    without = {"testMyChannel", "testWebhook", "dryRunRule", "importRegistry", "logIn"}
    assert bearing == {*(posted - without), "putResponsePlan", "putRule"}


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("getSession", "/api/v1/session"),
        ("listAreas", "/api/v1/areas"),
        ("getAreaOverview", "/api/v1/areas/city/overview"),
        ("listDevices", "/api/v1/devices"),
        ("getDevice", "/api/v1/devices/c01-lamp-001"),
        ("getDeviceHistory", "/api/v1/devices/c01-lamp-001/history"),
        ("getDeviceSummary", "/api/v1/devices/c01-lamp-001/history/summary"),
        ("getAreaStates", "/api/v1/areas/c01/states"),
        ("listAlerts", "/api/v1/alerts?status=history"),
        ("getAlert", "/api/v1/alerts/00000000-0000-0000-0000-000000000001"),
        ("getIndicator", "/api/v1/areas/city/indicators/lighting-uptime"),
        ("getForecast", "/api/v1/devices/c01-bin-001/forecast"),
        ("listBins", "/api/v1/areas/city/bins"),
        ("listRoads", "/api/v1/areas/city/roads"),
        ("listIncidents", "/api/v1/incidents"),
        ("getIncident", "/api/v1/incidents/00000000-0000-0000-0000-00000000000b"),
        (
            "getIncidentCounts",
            "/api/v1/areas/c01/incident-counts?from=2026-01-01T00:00:00Z&to=2026-12-31T00:00:00Z",
        ),
        ("getOfficers", "/api/v1/areas/c01/officers"),
        ("getLivez", "/livez"),
    ],
)
async def test_answers_are_what_the_document_says(
    city: Api, openapi: dict[str, Any], operation: str, path: str
) -> None:
    method, template = OPERATIONS[operation]
    described = openapi["paths"][template][method]["responses"]["200"]
    schema = {
        **described["content"]["application/json"]["schema"],
        "components": openapi["components"],
    }
    answer = await city.client("root").get(path)
    assert answer.status_code == 200
    validator_for(schema)(schema).validate(answer.json())
