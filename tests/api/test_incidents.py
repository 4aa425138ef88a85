# SPDX-License-Identifier: Apache-2.0
"""Incidents: listed, reported, settled by officers; counted for everybody else."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import httpx2
import psycopg
import pytest

from api.incidents import OFFICERS
from tests.api.conftest import ALERTS, INCIDENTS, NOW, Api
from tests.api.test_problems import is_problem

LIST = "/api/v1/incidents"
NAMES = {str(incident): name for name, incident in INCIDENTS.items()}
YEAR = "from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z"
REPORT: dict[str, object] = {
    "category": "burglary",
    "area": "c01-g01",
    "occurred_at": "2026-11-21T01:30:00Z",
}


def path(name: str) -> str:
    return f"{LIST}/{INCIDENTS[name]}"


async def change(
    api: Api, who: str, name: str, version: str | None = "1", **body: str | None
) -> httpx2.Response:
    headers = {} if version is None else {"If-Match": version}
    return await api.client(who).patch(
        path(name), json={"reason": "looked again", **body}, headers=headers
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("", ["open", "confirmed", "fire", "test"], id="all"),
        pytest.param("category=affray", ["open", "test"], id="category"),
        pytest.param("criminal=true", ["open", "confirmed", "test"], id="criminal"),
        pytest.param("criminal=false", ["fire"], id="not-criminal"),
        pytest.param("disposition=confirmed", ["confirmed", "fire"], id="disposition"),
        pytest.param("area=c01-g01", ["open", "test"], id="cell"),
        pytest.param(
            "from=2026-11-18T14:00:00Z&to=2026-11-19T20:00:00Z", ["fire"], id="from-up-to"
        ),
        pytest.param("from=2026-11-19T20:00:00Z", ["open", "confirmed"], id="from-is-within"),
    ],
)
async def test_filters(city: Api, query: str, expected: list[str]) -> None:
    answer = await city.client("li").get(f"{LIST}?{query}")
    assert [NAMES[item["id"]] for item in answer.json()["items"]] == expected


async def test_admin_of_a_cell_sees_its_records_alone(city: Api) -> None:
    client = city.client("chen")
    items = (await client.get(LIST)).json()["items"]
    assert {NAMES[item["id"]] for item in items} == {"open", "test"}
    for name in ("confirmed", "fire", "foreign"):
        is_problem(await client.get(path(name)), 404, "not_found")


async def test_alert_of_another_area_is_not_named(own_city: Api) -> None:
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("UPDATE alert SET area = 'c01-g02' WHERE id = %s", (ALERTS["duress"],))
    for who, sees in (("li", str(ALERTS["duress"])), ("chen", None)):
        client = own_city.client(who)
        assert (await client.get(path("open"))).json()["alert"] == sees
        listed = (await client.get(f"{LIST}?disposition=open")).json()["items"]
        assert [item["alert"] for item in listed] == [sees]


async def test_pages_hold_every_record_once_even_of_one_instant(own_city: Api) -> None:
    client = own_city.client("li")
    for _ in range(9):
        assert (await client.post(LIST, json=REPORT)).status_code == 201
    found: list[str] = []
    cursor = ""
    while True:
        page = (await client.get(f"{LIST}?limit=4{cursor}")).json()
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(found) == len(set(found)) == 13


async def test_report_is_answered_and_found(own_city: Api) -> None:
    client = own_city.client("li")
    body = REPORT | {"alert": str(ALERTS["forced"]), "note": " 门被撬 ", "disposition": "confirmed"}
    answer = await client.post(LIST, json=body)
    assert answer.status_code == 201
    made = answer.json()
    assert {key: made[key] for key in made if key != "id"} == {
        "category": "burglary",
        "criminal": True,
        "area": "c01-g01",
        "community": "c01",
        "occurred_at": "2026-11-21T01:30:00.000Z",
        "disposition": "confirmed",
        "alert": str(ALERTS["forced"]),
        "confirmed_by": "li",
        "confirmed_at": "2026-11-21T02:00:00.000Z",
        "note": "门被撬",
        "reported_by": "li",
        "reported_at": "2026-11-21T02:00:00.000Z",
        "changed_at": "2026-11-21T02:00:00.000Z",
        "version": 1,
    }
    assert answer.headers["location"] == f"{LIST}/{made['id']}"
    detail = (await client.get(answer.headers["location"])).json()
    (entry,) = detail.pop("history")
    assert detail == made
    assert (entry["actor"], entry["action"], entry["reason"]) == ("li", "reported", "reported")
    assert entry["changes"]["category"] == [None, "burglary"]


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        pytest.param({"occurred_at": "2026-11-21T02:05:01Z"}, "occurred_at", "time.future",
                     id="future"),
        pytest.param({"occurred_at": "1999-12-31T23:59:59Z"}, "occurred_at", "value.range",
                     id="last-century"),
        pytest.param({"occurred_at": "2026-11-21T01:30:00"}, "occurred_at", "time.naive",
                     id="naive"),
        pytest.param({"occurred_at": "yesterday"}, "occurred_at", "time.format", id="no-time"),
        pytest.param({"occurred_at": "2026-11-19T00:00:00Z", "alert": str(ALERTS["forced"])},
                     "occurred_at", "time.unfitting", id="days-from-its-alert"),
        pytest.param({"category": "murder"}, "category", "field.enum", id="category"),
        pytest.param({"disposition": "test"}, "disposition", "field.enum", id="settled-unseen"),
        pytest.param({"area": "city"}, "area", "area.unknown", id="above-communities"),
        pytest.param({"area": "c02"}, "area", "area.unknown", id="area-of-others"),
        pytest.param({"area": "c99"}, "area", "area.unknown", id="no-such-area"),
        pytest.param({"area": "x" * 65}, "area", "text.too_long", id="long-area"),
        pytest.param({"alert": str(ALERTS["foreign"])}, "alert", "alert.unknown",
                     id="alert-of-others"),
        pytest.param({"alert": str(uuid.UUID(int=99))}, "alert", "alert.unknown",
                     id="no-such-alert"),
        pytest.param({"alert": "7"}, "alert", "field.type", id="no-id"),
        pytest.param({"note": "x" * 2_001}, "note", "text.too_long", id="long-note"),
        pytest.param({"note": "a\x00b"}, "note", "text.invalid", id="nul"),
        pytest.param({"reason": " "}, "reason", "text.too_short", id="blank-reason"),
        pytest.param({"confirmed_by": "root"}, "confirmed_by", "field.unknown", id="someone-else"),
    ],
)  # fmt: skip
async def test_bad_report_is_told_where(
    city: Api, changes: dict[str, object], pointer: str, code: str
) -> None:
    for tongue in ("zh-CN", "en"):
        answer = await city.client("li").post(
            LIST, json=REPORT | changes, headers={"Accept-Language": tongue}
        )
        (error,) = is_problem(answer, 422, "request.invalid")["errors"]
        assert (error["pointer"], error["code"]) == (f"/body/{pointer}", code)
        assert error["message"] and "{" not in error["message"]
    listed = (await city.client("root").get(LIST)).json()["items"]
    assert len(listed) == len(INCIDENTS)


async def test_alert_of_another_community_does_not_fit(city: Api) -> None:
    body = REPORT | {"area": "c02", "alert": str(ALERTS["forced"])}
    answer = await city.client("root").post(LIST, json=body)
    (error,) = is_problem(answer, 422, "request.invalid")["errors"]
    assert (error["code"], error["community"]) == ("area.unfitting", "c01")


async def test_alert_has_one_record(own_city: Api) -> None:
    client = own_city.client("li")
    body = REPORT | {"alert": str(ALERTS["duress"])}
    is_problem(await client.post(LIST, json=body), 409, "incident.alert_taken")
    assert (await change(own_city, "li", "open", disposition="withdrawn")).status_code == 200
    assert (await client.post(LIST, json=body)).status_code == 201
    again = await change(own_city, "li", "open", "2", disposition="confirmed")
    is_problem(again, 409, "incident.alert_taken")


async def test_settling_is_signed_and_told(own_city: Api) -> None:
    own_city.watch.now += timedelta(minutes=3)
    answer = await change(own_city, "li", "open", '"1"', disposition="confirmed", note="")
    assert answer.status_code == 200
    settled = answer.json()
    assert (settled["disposition"], settled["confirmed_by"], settled["note"]) == (
        "confirmed", "li", None,
    )  # fmt: skip
    assert settled["confirmed_at"] == settled["changed_at"] == "2026-11-21T02:03:00.000Z"
    detail = (await own_city.client("li").get(path("open"))).json()
    assert [entry["version"] for entry in detail["history"]] == [1, 2]
    last = detail["history"][-1]
    assert (last["actor"], last["action"], last["reason"]) == ("li", "changed", "looked again")
    assert last["changes"] == {
        "disposition": ["open", "confirmed"],
        "note": ["note of open", None],
    }


async def test_second_person_is_told_what_it_is_by_now(own_city: Api) -> None:
    assert (await change(own_city, "li", "open", disposition="confirmed")).status_code == 200
    answer = await change(own_city, "root", "open", disposition="false_alarm")
    told = is_problem(answer, 412, "incident.changed")
    assert (told["version"], told["disposition"], told["confirmed_by"]) == (2, "confirmed", "li")
    assert told["changed_at"] == "2026-11-21T02:00:00.000Z"


async def test_of_many_at_once_one_settles(own_city: Api) -> None:
    dispositions = ["confirmed", "false_alarm", "test", "duplicate", "withdrawn"]
    answers = await asyncio.gather(
        *(
            change(own_city, who, "open", disposition=disposition)
            for who in ("li", "root", "chen")
            for disposition in dispositions
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 14
    detail = (await own_city.client("li").get(path("open"))).json()
    assert (detail["version"], len(detail["history"])) == (2, 2)


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [
        pytest.param(None, 428, "if_match.missing", id="none"),
        pytest.param("*", 400, "if_match.invalid", id="any"),
        pytest.param("abc", 400, "if_match.invalid", id="word"),
        pytest.param('W/"1"', 400, "if_match.invalid", id="weak"),
        pytest.param('"7"', 412, "incident.changed", id="another"),
    ],
)
async def test_only_what_was_seen_is_changed(
    city: Api, version: str | None, status: int, code: str
) -> None:
    is_problem(await change(city, "li", "open", version, disposition="test"), status, code)
    assert (await city.client("li").get(path("open"))).json()["version"] == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param({"disposition": "open"}, 409, "incident.unchanged", id="like-that-already"),
        pytest.param({}, 409, "incident.unchanged", id="nothing"),
        pytest.param({"occurred_at": "2026-11-21T09:00:00Z"}, 422, "request.invalid", id="future"),
        pytest.param({"area": "c02"}, 422, "request.invalid", id="area-of-others"),
        pytest.param({"reason": ""}, 422, "request.invalid", id="no-reason"),
        pytest.param({"disposition": "lost"}, 422, "request.invalid", id="no-such-disposition"),
        pytest.param({"alert": None}, 422, "request.invalid", id="another-alert"),
        pytest.param({"confirmed_by": "root"}, 422, "request.invalid", id="unknown-field"),
    ],
)
async def test_bad_change_changes_nothing(
    city: Api, body: dict[str, str | None], status: int, code: str
) -> None:
    is_problem(await change(city, "li", "open", "1", **body), status, code)
    assert (await city.client("li").get(path("open"))).json()["version"] == 1


@pytest.mark.parametrize("incident", ["x", "1", str(uuid.uuid4()), "%00", "%2e%2e"])
async def test_missing_record_is_not_found(city: Api, incident: str) -> None:
    client = city.client("li")
    is_problem(await client.get(f"{LIST}/{incident}"), 404, "not_found")
    answer = await client.patch(
        f"{LIST}/{incident}", json={"reason": "x"}, headers={"If-Match": "1"}
    )
    is_problem(answer, 404, "not_found")
    is_problem(await client.delete(f"{LIST}/{incident}"), 405, "method.not_allowed")


async def test_property_manager_is_told_counts_alone(city: Api) -> None:
    manager = city.client("wang")
    for answer in (
        await manager.get(LIST),
        await manager.get(path("confirmed")),
        await manager.post(LIST, json=REPORT),
        await change(city, "wang", "open", disposition="test"),
    ):
        is_problem(answer, 403, "role.forbidden")
        assert "note of" not in answer.text
    assert OFFICERS.roles == {"admin", "police"}


async def test_counts_are_of_what_was_confirmed(city: Api) -> None:
    def counted(answer: httpx2.Response) -> dict[str, Any]:
        assert answer.status_code == 200
        counts: dict[str, Any] = answer.json()
        return {category: count for category, count in counts["by_category"].items() if count}

    url = f"/api/v1/areas/c01/incident-counts?{YEAR}"
    manager, officer = await city.client("wang").get(url), await city.client("li").get(url)
    assert counted(manager) == counted(officer) == {"burglary": 1, "fire": 1}
    assert (manager.json()["confirmed"], manager.json()["criminal"]) == (2, 1)
    # The open one is about an alarm given under threat: the manager must not learn of it.
    assert (manager.json()["open"], officer.json()["open"]) == (None, 1)
    whole = await city.client("root").get(f"/api/v1/areas/city/incident-counts?{YEAR}")
    assert counted(whole) == {"burglary": 1, "fire": 1, "fraud": 1}
    month = "from=2026-11-19T00:00:00Z&to=2026-11-20T00:00:00Z"
    part = await city.client("li").get(f"/api/v1/areas/c01/incident-counts?{month}")
    assert counted(part) == {"burglary": 1}
    assert part.json()["open"] == 0


@pytest.mark.parametrize(
    ("query", "pointer", "code"),
    [
        pytest.param("", "/query/from", "field.missing", id="no-time"),
        pytest.param("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "/query/to",
                     "range.reversed", id="empty"),
        pytest.param("from=2025-01-01T00:00:00Z&to=2026-12-01T00:00:00Z", "/query/from",
                     "range.too_long", id="long"),
        pytest.param(f"{YEAR}&by=category", "/query/by", "field.unknown", id="unknown"),
    ],
)  # fmt: skip
async def test_bad_question_for_counts(city: Api, query: str, pointer: str, code: str) -> None:
    answer = await city.client("li").get(f"/api/v1/areas/c01/incident-counts?{query}")
    errors = is_problem(answer, 422, "request.invalid")["errors"]
    assert (errors[0]["pointer"], errors[0]["code"]) == (pointer, code)


async def test_change_has_its_day_computed_anew(own_city: Api) -> None:
    assert (await change(own_city, "li", "open", disposition="confirmed")).status_code == 200
    with psycopg.connect(own_city.dsn) as conn:
        days = conn.execute("SELECT domain, day::text, community, dirty FROM community_day")
        assert days.fetchall() == [("security", "2026-11-21", "c01", "incident")]


async def test_another_sites_page_reports_nothing(own_city: Api) -> None:
    for method, url in (("POST", LIST), ("PATCH", path("open"))):
        answer = await own_city.client("li").request(
            method, url, json=REPORT, headers={"Sec-Fetch-Site": "cross-site"}
        )
        is_problem(answer, 403, "csrf")


async def test_service_reports_under_its_own_name(own_city: Api) -> None:
    service = own_city.client(Authorization="Bearer token-of-robot")
    answer = await service.post(LIST, json=REPORT)
    assert answer.status_code == 201
    assert answer.json()["reported_by"] == "robot"


# -- officers


def populate(api: Api) -> None:
    """Two thousand people in the first community, a hundred thousand in the second; cases."""
    with psycopg.connect(api.dsn) as conn:
        for area, residents in (("c01", 2_000), ("c02", 100_000)):
            conn.execute(
                "INSERT INTO area_population VALUES (%s, daterange('2020-01-01', NULL), %s)",
                (area, residents),
            )
        for index in range(6):
            conn.execute(
                """
                INSERT INTO incident (id, category, area, community, occurred_at, disposition,
                                      confirmed_by, confirmed_at, reported_by, reported_at,
                                      changed_at)
                VALUES (%s, 'burglary', 'c01-g01', 'c01', %s, 'confirmed', 'li', %s, 'li', %s, %s)
                """,
                # Midnight in Shanghai.
                (uuid.uuid4(), NOW - timedelta(days=30 * index, hours=10), NOW, NOW, NOW),
            )


async def test_recommendation_tells_its_reasons(own_city: Api) -> None:
    populate(own_city)
    answer = (await own_city.client("root").get("/api/v1/areas/c01/officers")).json()
    assert (answer["officers"], answer["from"], answer["to"]) == (3, "2025-11-21", "2026-11-21")
    rate, open_cases, nights = answer["reasons"]
    # Five, for the sixth is of today, and one of the seed: among two thousand, in 365 days.
    assert (rate["code"], rate["officers_more"]) == ("rate_far_above_city", 2)
    assert rate["numbers"]["rate"] == pytest.approx(6 / 2_000 * 1_000 * 365.25 / 365)
    assert rate["numbers"]["p"] <= 0.01
    assert (open_cases["code"], open_cases["numbers"]) == (
        "open_cases_few", {"open_cases": 0.0, "limit": 5.0},
    )  # fmt: skip
    assert nights["code"] == "night_cases_many"


async def test_rest_of_the_city_is_for_who_sees_it(own_city: Api) -> None:
    populate(own_city)
    for who, sees in (("root", True), ("li", False)):
        answer = (await own_city.client(who).get("/api/v1/areas/c01/officers")).json()
        numbers = answer["reasons"][0]["numbers"]
        assert ({"city_rate", "p"} <= numbers.keys()) is sees
        assert "rate" in numbers
        assert answer["officers"] == 3


async def test_without_population_rates_are_not_compared(city: Api) -> None:
    answer = (await city.client("li").get("/api/v1/areas/c01/officers")).json()
    assert answer["officers"] == 1
    assert answer["reasons"][0]["code"] == "population_unknown"


@pytest.mark.parametrize(
    ("question", "pointer", "code"),
    [
        pytest.param("city/officers", "/path/area", "area.not_community", id="city"),
        pytest.param("c01-g01/officers", "/path/area", "area.not_community", id="cell"),
        pytest.param("c01/officers?from=2026-01-01&to=2026-01-01", "/query/to", "range.reversed",
                     id="no-days"),
        pytest.param("c01/officers?from=2024-01-01", "/query/from", "range.too_long", id="long"),
    ],
)  # fmt: skip
async def test_bad_question_for_officers(city: Api, question: str, pointer: str, code: str) -> None:
    answer = await city.client("root").get(f"/api/v1/areas/{question}")
    (error,) = is_problem(answer, 422, "request.invalid")["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)


async def test_property_manager_gets_no_recommendation(city: Api) -> None:
    answer = await city.client("wang").get("/api/v1/areas/c01/officers")
    is_problem(answer, 403, "role.forbidden")
