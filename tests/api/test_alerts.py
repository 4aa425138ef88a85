# SPDX-License-Identifier: Apache-2.0
"""Alerts: tabs, pages, occurrences, timeline, acknowledgement."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ingest.alerts import Suppress, Unshelve
from ingest.store import alerts as stored
from tests.api.conftest import ALERTS, NOW, Api, insert_alert
from tests.api.desk import Point, point
from tests.api.test_rules import OWN, put

LIST = "/api/v1/alerts"
NAMES = {str(alert): name for name, alert in ALERTS.items()}


def _path(name: str, action: str = "") -> str:
    return f"{LIST}/{ALERTS[name]}{action}"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("", ["gateway", "duress", "forced", "dark"], id="open-by-default"),
        pytest.param("status=desk", ["duress", "gateway", "forced", "dark"], id="worst-first"),
        pytest.param("status=shelved", [], id="none-put-aside"),
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


async def test_desk_pages_hold_every_alert_once_the_worst_first(own_city: Api) -> None:
    severities = ("info", "minor", "major", "critical")
    with psycopg.connect(own_city.dsn) as conn:
        for index in range(24):
            raised_at = NOW - timedelta(minutes=index // 6)
            severity = severities[index % 4]
            insert_alert(
                conn,
                uuid.uuid4(),
                "bin.full",
                severity,
                "c01-bin-001",
                now=NOW,
                raised_at=raised_at,
            )
    client = own_city.client("li")
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = (await client.get(f"{LIST}?status=desk&limit=5{cursor}")).json()
        found += page["items"]
        # Something worse is raised meanwhile: the pages that follow are none the worse for it.
        with psycopg.connect(own_city.dsn) as conn:
            insert_alert(
                conn, uuid.uuid4(), "bin.fire", "critical", "c01-bin-001", now=NOW, raised_at=NOW
            )
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    seen = [(severities.index(one["severity"]), one["raised_at"], one["id"]) for one in found]
    assert seen == sorted(set(seen), reverse=True)
    assert len([one for one in found if one["rule"] == "bin.full"]) == 24
    answer = await client.get(f"{LIST}?status=open&limit=5{cursor}")
    assert answer.json()["code"] == "cursor.invalid"


def _suppress(made: Point, cause: str) -> None:
    with psycopg.connect(made.api.dsn) as conn:
        assert stored.move(conn, made.id, Suppress(NOW, cause), NOW) is not None


async def _tabs(made: Point) -> set[str]:
    client = made.api.client("li")
    tabs: set[str] = set()
    for tab in (
        "desk", "unacknowledged", "active", "open", "acknowledged", "latched", "stale", "shelved",
        "suppressed", "history",
    ):  # fmt: skip
        page = (await client.get(f"{LIST}?status={tab}&rule={made.rule.id}")).json()
        tabs |= {tab for alert in page["items"] if alert["id"] == str(made.id)}
    return tabs


NEW = {"unacknowledged", "active", "open", "history"}


async def test_where_an_alert_stands(module_city: Api) -> None:
    client = module_city.client("li")
    until = {"until": "2026-11-21T03:00:00Z", "reason": "x"}
    fresh = point(module_city)
    assert await _tabs(fresh) == NEW | {"desk"}
    shelved, out, muted = (point(module_city) for _ in range(3))
    await client.post(f"{shelved.path}/shelve", json=until)
    await client.post(f"{out.path}/out-of-service", json=until)
    _suppress(muted, "gateway:gw-c01-a")
    assert await _tabs(shelved) == await _tabs(out) == NEW | {"shelved"}
    assert await _tabs(muted) == NEW | {"suppressed"}
    latched = point(module_city, latching=True)
    await client.post(f"{latched.path}/acknowledge", json={})
    latched.fall(NOW)
    assert await _tabs(latched) == {"desk", "open", "acknowledged", "latched", "history"}
    await client.post(f"{latched.path}/reset")
    assert await _tabs(latched) == {"acknowledged", "history"}


async def test_danger_to_life_is_on_the_desk_whatever_is_done(module_city: Api) -> None:
    fire = point(module_city, "alarm", life_safety=True)
    client = module_city.client("li")
    until = {"until": "2026-11-21T03:00:00Z", "reason": "the detector is replaced"}
    assert (await client.post(f"{fire.path}/out-of-service", json=until)).status_code == 200
    assert await _tabs(fire) == NEW | {"desk", "shelved"}
    alert = (await client.get(fire.path)).json()
    assert (alert["quiet"], alert["out_of_service"]["by"]) == (False, "li")


async def test_open_alert_is_shown_however_old_it_is(module_city: Api) -> None:
    old = point(module_city, raised_at=NOW - timedelta(days=700))
    assert await _tabs(old) == NEW | {"desk", "stale"}


@pytest.mark.parametrize(
    ("hours", "stale"), [pytest.param(24, False, id="a-day"), pytest.param(24.1, True, id="more")]
)
async def test_stale_is_what_stands_for_more_than_a_day(
    module_city: Api, hours: float, stale: bool
) -> None:
    made = point(module_city, raised_at=NOW - timedelta(hours=hours))
    assert (await module_city.client("li").get(made.path)).json()["stale"] is stale
    # Raised again it stands anew, whenever it was raised first.
    made.fall(NOW)
    made.rise(NOW)
    assert (await module_city.client("li").get(made.path)).json()["stale"] is False


async def test_when_and_how_long_it_was_active(module_city: Api) -> None:
    """Each time that the condition held can be seen, and how long: experience.md, tb#14541."""
    start = NOW - timedelta(hours=1)
    made = point(module_city, raised_at=start, reopen_s=3_600)
    made.fall(start + timedelta(minutes=3))
    made.rise(start + timedelta(minutes=10), power_w=0.1)
    made.fall(start + timedelta(minutes=12, seconds=0.5))
    made.rise(NOW - timedelta(seconds=20))
    client = module_city.client("li")
    await client.post(f"{made.path}/shelve", json={"minutes": 5, "reason": "换灯"})
    with psycopg.connect(module_city.dsn) as conn:
        action = Unshelve(NOW + timedelta(minutes=5), "design", "expired")
        stored.move(conn, made.id, action, NOW)
    detail = (await client.get(made.path)).json()
    steps = detail["timeline"]
    assert [(step["action"], step["actor"], step["lasted_s"]) for step in steps] == [
        ("raised", "rule", None),
        ("cleared", "rule", 180.0),
        ("raised_again", "rule", None),
        ("cleared", "rule", 120.5),
        ("raised_again", "rule", None),
        ("shelved", "li", None),
        ("unshelved", "design", None),
    ]
    assert steps[6]["reason"] == "expired"
    occurrences = detail["occurrences"]
    assert [one["cleared_at"] for one in occurrences] == [
        "2026-11-21T01:03:00.000Z",
        "2026-11-21T01:12:00.500Z",
        None,
    ]
    assert occurrences[1]["params"] == {"power_w": 0.1}
    assert [step["occurrence"] for step in steps[1:4]] == [
        occurrences[0]["id"],
        occurrences[1]["id"],
        occurrences[1]["id"],
    ]
    # Numbers of all alerts would show by their gaps that there are some one must not see.
    assert [one["id"] for one in occurrences] == [1, 2, 3]
    assert (detail["occurrence_count"], detail["step_count"], detail["repeats"]) == (3, 7, 2)
    assert detail["active_s"] == 180 + 120.5 + 20
    assert (detail["raised_at"], detail["last_raised_at"]) == (
        "2026-11-21T01:00:00.000Z",
        "2026-11-21T01:59:40.000Z",
    )


async def test_of_a_chattering_one_the_last_is_told_and_all_are_counted(module_city: Api) -> None:
    made = point(module_city)
    with psycopg.connect(module_city.dsn) as conn:
        conn.execute(
            """
            INSERT INTO alert_occurrence (alert, rule, gateway, key, active, raised_at,
                                          received_at, cleared_at)
            SELECT %s, %s, 'gw-c01-a', n::text, false, %s::timestamptz - n * interval '1 min',
                   %s, %s::timestamptz - n * interval '1 min' + interval '1 s'
            FROM generate_series(11, 310) AS n
            """,
            (made.id, made.rule.id, NOW, NOW, NOW),
        )
    detail = (await module_city.client("li").get(made.path)).json()
    assert detail["occurrence_count"] == 301
    times = [one["raised_at"] for one in detail["occurrences"]]
    assert len(times) == 100
    assert times == sorted(times)
    assert times[-1] == detail["raised_at"]
    assert detail["active_s"] == 600 + 300


async def test_badge_counts_the_desk_and_says_how_many_are_kept_from_it(own_city: Api) -> None:
    client = own_city.client("li")
    before = (await client.get("/api/v1/areas/c01/overview")).json()
    body = {"minutes": 5, "reason": "x"}
    assert (await client.post(_path("dark", "/shelve"), json=body)).status_code == 200
    after = (await client.get("/api/v1/areas/c01/overview")).json()
    assert before["alerts"] == {
        "unacknowledged": 3,
        "active": 3,
        "by_severity": {"critical": 1, "major": 3, "minor": 0, "info": 0},
        "oldest_at": "2026-11-21T01:00:00.000Z",
        "quiet": 0,
    }
    assert after["alerts"] == {
        "unacknowledged": 2,
        "active": 2,
        "by_severity": {"critical": 1, "major": 2, "minor": 0, "info": 0},
        "oldest_at": "2026-11-21T01:10:00.000Z",
        "quiet": 1,
    }
    for overview, count in ((before, 3), (after, 2)):
        assert sum(child["unacknowledged"] for child in overview["children"]) == count


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


async def test_a_rule_of_peoples_own_is_called_what_they_call_it(own_city: Api) -> None:
    made = point(own_city, "custom")
    rule = made.rule.id
    nearer = {"zh-CN": "东区半满", "en": "Half full, east"}

    async def name() -> object:
        detail = (await own_city.client("li").get(made.path)).json()
        (row,) = (await own_city.client("li").get(f"{LIST}?rule={rule}")).json()["items"]
        assert row["rule_name"] == detail["rule_name"]
        return row["rule_name"]

    async def withdraw(area: str) -> None:
        path = f"/api/v1/areas/{area}/rules/{rule}?reason=over"
        gone = await own_city.client("root").delete(path, headers={"If-Match": "1"})
        assert gone.status_code == 204, gone.text

    assert await name() is None
    assert (await put(own_city, "root", "c02", rule, OWN)).status_code == 200
    assert await name() is None  # another community's rule of the same id
    assert (await put(own_city, "root", "city", rule, OWN)).status_code == 200
    assert await name() == OWN["name"]
    assert (await put(own_city, "wang", "c01", rule, {"name": nearer})).status_code == 200
    assert await name() == nearer
    await withdraw("c01")
    assert await name() == OWN["name"]
    await withdraw("c02")
    await withdraw("city")
    assert await name() in (OWN["name"], nearer)  # what is over keeps a name
    product = (await own_city.client("li").get(_path("dark"))).json()
    assert product["rule_name"] is None
