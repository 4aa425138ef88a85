# SPDX-License-Identifier: Apache-2.0
"""Alerts: tabs, pages, timeline, acknowledgement."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import psycopg
import pytest

from tests.api.conftest import ALERTS, NOW, Api, insert_alert

LIST = "/api/v1/alerts"
NAMES = {str(alert): name for name, alert in ALERTS.items()}


def _path(name: str, action: str = "") -> str:
    return f"{LIST}/{ALERTS[name]}{action}"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("", ["gateway", "duress", "forced", "dark"], id="open-by-default"),
        pytest.param("status=unacknowledged", ["duress", "forced", "dark"], id="unacknowledged"),
        pytest.param("status=active", ["gateway", "duress", "dark"], id="active"),
        pytest.param("status=acknowledged", ["gateway", "done"], id="acknowledged"),
        pytest.param("status=acknowledged&active=true", ["gateway"], id="in-hand"),
        pytest.param("status=history", ["gateway", "duress", "forced", "dark", "done"], id="all"),
        pytest.param("severity=critical", ["duress"], id="severity"),
        pytest.param("rule=lamp.dark", ["dark"], id="rule"),
        pytest.param("kind=gateway", ["gateway"], id="kind"),
        pytest.param("area=c01-g01", ["duress", "forced"], id="cell"),
        pytest.param("device=c01-gate-001&status=history", ["forced"], id="device"),
        pytest.param(
            "status=history&from=2026-11-21T01:10:00Z&to=2026-11-21T01:30:00Z",
            ["duress", "forced"],
            id="raised-from-up-to",
        ),
    ],
)
async def test_tabs_and_filters(city: Api, query: str, expected: list[str]) -> None:
    answer = await city.client("li").get(f"{LIST}?{query}")
    assert [NAMES[alert["id"]] for alert in answer.json()["items"]] == expected


async def test_time_is_for_history_alone(city: Api) -> None:
    answer = await city.client("li").get(f"{LIST}?from=2026-11-21T01:10:00Z")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/query/from"
    assert answer.json()["errors"][0]["code"] == "field.unfitting"


async def test_pages_hold_every_alert_once_even_of_one_instant(own_city: Api) -> None:
    with psycopg.connect(own_city.dsn) as conn:
        for _ in range(20):
            insert_alert(
                conn, uuid.uuid4(), "bin.full", "minor", "c01-bin-001", now=NOW, raised_at=NOW
            )
    client = own_city.client("li")
    found: list[str] = []
    cursor = ""
    while True:
        page = (await client.get(f"{LIST}?limit=7{cursor}")).json()
        found += [alert["id"] for alert in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(found) == len(set(found)) == 24


async def test_gateway_alert_names_the_gateway(city: Api) -> None:
    alert = (await city.client("li").get(_path("gateway"))).json()
    assert (alert["subject"], alert["device"], alert["kind"]) == ("gw-c01-b", None, "gateway")
    assert alert["name"] == "箱 gw-c01-b"


async def test_acknowledge_notes_who_and_tells_the_story(own_city: Api) -> None:
    client = own_city.client("li")
    answer = await client.post(_path("dark", "/acknowledge"), json={"note": " seen 已派单 "})
    assert answer.status_code == 200
    alert = answer.json()
    assert (alert["acknowledged"], alert["active"], alert["version"]) == (True, True, 2)
    assert (alert["acknowledged_by"], alert["note"]) == ("li", "seen 已派单")
    assert alert["acknowledged_at"] == "2026-11-21T02:00:00.000Z"
    detail = (await client.get(_path("dark"))).json()
    assert {key: detail[key] for key in alert} == alert
    assert [(step["actor"], step["action"], step["note"]) for step in detail["timeline"]] == [
        ("rule", "raised", None),
        ("li", "acknowledged", "seen 已派单"),
    ]


async def test_second_person_is_told_who_was_first(own_city: Api) -> None:
    first, second = own_city.client("wang"), own_city.client("li")
    taken = await first.post(
        _path("dark", "/acknowledge"), json={"note": "mine"}, headers={"If-Match": '"1"'}
    )
    assert taken.status_code == 200
    own_city.watch.now += timedelta(seconds=5)
    stale = await second.post(_path("dark", "/acknowledge"), json={}, headers={"If-Match": '"1"'})
    plain = await second.post(_path("dark", "/acknowledge"), json={})
    assert (stale.status_code, stale.json()["code"]) == (412, "alert.changed")
    assert (plain.status_code, plain.json()["code"]) == (409, "alert.acknowledged")
    for answer in (stale, plain):
        told = answer.json()
        assert (told["acknowledged_by"], told["note"]) == ("wang", "mine")
        assert told["acknowledged_at"] == "2026-11-21T02:00:00.000Z"
        assert told["version"] == 2


async def test_of_many_at_once_one_is_first(own_city: Api) -> None:
    answers = await asyncio.gather(
        *(
            own_city.client(who).post(_path("dark", "/acknowledge"), json={"note": who})
            for who in ["wang", "li", "root"] * 3
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 8
    (winner,) = [answer.json() for answer in answers if answer.status_code == 200]
    losers = [answer.json() for answer in answers if answer.status_code == 409]
    assert {loser["acknowledged_by"] for loser in losers} == {winner["acknowledged_by"]}


async def test_version_that_does_not_fit_changes_nothing(own_city: Api) -> None:
    client = own_city.client("li")
    stale = await client.post(_path("dark", "/acknowledge"), json={}, headers={"If-Match": '"7"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "alert.changed")
    assert stale.json()["acknowledged"] is False
    for given in ("abc", 'W/"1"', '"1", "2"', '"-1"'):
        answer = await client.post(
            _path("dark", "/acknowledge"), json={}, headers={"If-Match": given}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "if_match.invalid")
    assert (await client.get(_path("dark"))).json()["version"] == 1


@pytest.mark.parametrize("alert", ["x", "1", str(uuid.uuid4()), "%00", "%2e%2e"])
async def test_missing_alert_is_not_found(city: Api, alert: str) -> None:
    client = city.client("li")
    assert (await client.get(f"{LIST}/{alert}")).status_code == 404
    answer = await client.post(f"{LIST}/{alert}/acknowledge", json={})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param({"note": "x" * 2_001}, "text.too_long", id="too-long"),
        pytest.param({"note": "a\x00b"}, "text.invalid", id="nul"),
        pytest.param({"note": 7}, "field.type", id="number"),
        pytest.param({"note": "x", "area": "city"}, "field.unknown", id="more-than-asked"),
        pytest.param({"acknowledged_by": "root"}, "field.unknown", id="someone-else"),
        pytest.param([], "field.type", id="array"),
    ],
)
async def test_bad_note_is_refused(city: Api, body: object, code: str) -> None:
    answer = await city.client("li").post(_path("dark", "/acknowledge"), json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == code
