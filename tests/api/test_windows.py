# SPDX-License-Identifier: Apache-2.0
"""Windows of maintenance: announced, changed, called off; told to whom they concern."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import httpx2
import psycopg
import pytest

from api.windows import MANAGERS
from tests.api.conftest import NOW, Api
from tests.api.test_indicators import NOVEMBER, ask, store_fault
from tests.api.test_problems import is_problem

LIST = "/api/v1/windows"
HOUR = timedelta(hours=1)
# From an hour on, two hours long.
PLAN: dict[str, object] = {
    "area": "c01",
    "begins_at": "2026-11-21T03:00:00Z",
    "ends_at": "2026-11-21T05:00:00Z",
    "reason": "换灯",
}
# What is planned for later is the seed's.
SOON = "to=2026-12-01T00:00:00Z"
GATEWAY: dict[str, object] = {"area": None, "gateway": "gw-c01-a"}


async def create(api: Api, who: str, **changes: object) -> httpx2.Response:
    return await api.client(who).post(LIST, json=PLAN | changes)


async def made(api: Api, who: str = "wang", /, **changes: object) -> str:
    answer = await create(api, who, **changes)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


async def change(
    api: Api, who: str, path: str, version: str | None = "1", **body: object
) -> httpx2.Response:
    headers = {} if version is None else {"If-Match": version}
    return await api.client(who).patch(path, json={"reason": "雨"} | body, headers=headers)


async def cancel(
    api: Api, who: str, path: str, version: str | None = None, **body: object
) -> httpx2.Response:
    headers = {} if version is None else {"If-Match": version}
    return await api.client(who).post(
        f"{path}/cancel", json={"reason": "雨"} | body, headers=headers
    )


def count(api: Api) -> int:
    with psycopg.connect(api.dsn) as conn:
        row = conn.execute(
            "SELECT count(*) FROM maintenance_window WHERE created_by <> 'seed'"
        ).fetchone()
    assert row is not None
    return row[0]


def revision(api: Api) -> int:
    with psycopg.connect(api.dsn) as conn:
        row = conn.execute("SELECT registry_revision FROM installation").fetchone()
    assert row is not None
    return row[0]


async def test_a_window_is_answered_found_and_makes_services_read_again(own_city: Api) -> None:
    before = revision(own_city)
    answer = await create(own_city, "wang", reason=" 换灯 ")
    assert answer.status_code == 201
    window = answer.json()
    assert {key: window[key] for key in window if key != "id"} == {
        "area": "c01",
        "gateway": None,
        "device": None,
        "inherited": False,
        "phase": "planned",
        "begins_at": "2026-11-21T03:00:00.000Z",
        "ends_at": "2026-11-21T05:00:00.000Z",
        "reason": "换灯",
        "created_by": "wang",
        "created_at": "2026-11-21T02:00:00.000Z",
        "changed_at": "2026-11-21T02:00:00.000Z",
        "version": 1,
    }
    assert answer.headers["location"] == f"{LIST}/{window['id']}"
    detail = (await own_city.client("wang").get(answer.headers["location"])).json()
    assert detail.pop("history") == [
        {
            "at": "2026-11-21T02:00:00.000Z",
            "actor": "wang",
            "action": "created",
            "reason": "换灯",
            "begins_at": window["begins_at"],
            "ends_at": window["ends_at"],
            "version": 1,
        }
    ]
    assert detail == window
    assert revision(own_city) == before + 1


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        pytest.param({"ends_at": "2026-11-21T02:30:00Z"}, "ends_at", "range.reversed",
                     id="ends-before-it-begins"),
        pytest.param({"ends_at": "2026-12-22T03:00:01Z"}, "ends_at", "range.too_long",
                     id="endless"),
        pytest.param({"begins_at": "2026-11-21T01:44:59Z"}, "begins_at", "window.past", id="past"),
        pytest.param({"begins_at": "2027-11-23T00:00:00Z", "ends_at": "2027-11-24T00:00:00Z"},
                     "begins_at", "window.too_far", id="too-far"),
        pytest.param({"begins_at": "2026-11-21T03:00:00"}, "begins_at", "time.naive", id="naive"),
        pytest.param({"ends_at": None}, "ends_at", "time.format", id="without-end"),
        pytest.param({"reason": " "}, "reason", "text.too_short", id="no-reason"),
        pytest.param({"reason": "x" * 501}, "reason", "text.too_long", id="long-reason"),
        pytest.param({"reason": "a\x00b"}, "reason", "text.invalid", id="reason"),
        pytest.param({"area": None}, "area", "field.missing", id="for-nothing"),
        pytest.param({"device": "c01-bin-001"}, "device", "field.unfitting", id="for-two"),
        pytest.param({"area": "city"}, "area", "node.unknown", id="above"),
        pytest.param({"area": "c02"}, "area", "node.unknown", id="area-of-others"),
        pytest.param({"area": None, "gateway": "gw-c02-a"}, "gateway", "node.unknown",
                     id="gateway-of-others"),
        pytest.param({"area": None, "device": "c02-lamp-001"}, "device", "node.unknown",
                     id="device-of-others"),
        pytest.param({"area": "no/such"}, "area", "node.unknown", id="no-area"),
        pytest.param({"until": "x"}, "until", "field.unknown", id="unknown-field"),
    ],
)  # fmt: skip
async def test_what_is_refused_changes_nothing(
    own_city: Api, changes: dict[str, object], pointer: str, code: str
) -> None:
    before = revision(own_city)
    problem = is_problem(await create(own_city, "wang", **changes), 422, "request.invalid")
    assert [(one["pointer"], one["code"]) for one in problem["errors"]] == [
        (f"/body/{pointer}", code)
    ]
    assert (count(own_city), revision(own_city)) == (0, before)


async def test_mistakes_are_told_in_the_readers_language(own_city: Api) -> None:
    for language, part in (("zh-CN", "不得早于"), ("en", "must not be before")):
        answer = await own_city.client("wang", **{"Accept-Language": language}).post(
            LIST, json=PLAN | {"begins_at": "2026-11-20T03:00:00Z"}
        )
        (error,) = is_problem(answer, 422, "request.invalid")["errors"]
        assert part in error["message"]
        assert error["min"] == "2026-11-21T01:45:00.000Z"


async def test_only_an_admin_may_have_the_past_excused(own_city: Api) -> None:
    past = {"begins_at": "2026-11-19T03:00:00Z", "ends_at": "2026-11-19T05:00:00Z"}
    is_problem(await create(own_city, "wang", **past, afterwards=True), 403, "role.forbidden")
    is_problem(await create(own_city, "root", **past), 422, "request.invalid")
    path = await made(own_city, "root", **past, afterwards=True)
    # Nor may anybody else change what is over.
    longer = {"ends_at": "2026-11-19T06:00:00Z"}
    problem = is_problem(await change(own_city, "wang", path, **longer), 409, "window.over")
    assert (problem["phase"], problem["version"]) == ("past", 1)
    answer = await change(own_city, "wang", path, **longer, afterwards=True)
    is_problem(answer, 403, "role.forbidden")
    answer = await cancel(own_city, "wang", path, annul=True, afterwards=True)
    is_problem(answer, 403, "role.forbidden")
    is_problem(await cancel(own_city, "root", path, annul=True), 409, "window.over")
    answer = await change(own_city, "root", path, **longer, afterwards=True)
    assert answer.json()["ends_at"] == "2026-11-19T06:00:00.000Z"
    answer = await cancel(own_city, "root", path, annul=True, afterwards=True)
    assert answer.json()["phase"] == "annulled"
    is_problem(await cancel(own_city, "root", path), 409, "window.over")


@pytest.mark.parametrize("who", ["li", None])
async def test_who_may_write(own_city: Api, who: str | None) -> None:
    path = await made(own_city)
    client = own_city.client(who)
    status, code = (401, "session.required") if who is None else (403, "role.forbidden")
    is_problem(await client.post(LIST, json=PLAN), status, code)
    is_problem(await client.patch(path, json={"reason": "x"}), status, code)
    is_problem(await client.post(f"{path}/cancel", json={"reason": "x"}), status, code)
    assert count(own_city) == 1
    assert sorted(MANAGERS.roles) == ["admin", "property"]


async def test_it_is_cut_short_by_whoever_saw_what_it_is(own_city: Api) -> None:
    path = await made(own_city)
    sooner = {"ends_at": "2026-11-21T04:00:00Z"}
    is_problem(await change(own_city, "wang", path, None, **sooner), 428, "if_match.missing")
    is_problem(await change(own_city, "wang", path, "x", **sooner), 400, "if_match.invalid")
    answer = await change(own_city, "wang", path, '"1"', **sooner)
    assert (answer.json()["ends_at"], answer.json()["version"]) == ("2026-11-21T04:00:00.000Z", 2)
    problem = is_problem(await change(own_city, "root", path, **sooner), 412, "window.changed")
    assert (problem["version"], problem["ends_at"]) == (2, "2026-11-21T04:00:00.000Z")
    is_problem(await change(own_city, "root", path, "2", **sooner), 409, "window.unchanged")
    history = (await own_city.client("wang").get(path)).json()["history"]
    assert [(one["action"], one["reason"], one["ends_at"]) for one in history] == [
        ("created", "换灯", "2026-11-21T05:00:00.000Z"),
        ("changed", "雨", "2026-11-21T04:00:00.000Z"),
    ]


async def test_called_off_it_ends_now_or_never_was_and_stays_to_be_seen(own_city: Api) -> None:
    soon = "2026-11-21T02:05:00Z"
    planned, current = await made(own_city), await made(own_city, begins_at=soon)
    is_problem(await cancel(own_city, "wang", planned, "x"), 400, "if_match.invalid")
    assert (await cancel(own_city, "wang", planned, "*")).json()["phase"] == "annulled"
    own_city.watch.now = NOW + HOUR / 6
    is_problem(await cancel(own_city, "wang", current, "7"), 412, "window.changed")
    answer = (await cancel(own_city, "wang", current, "1")).json()
    assert (answer["phase"], answer["ends_at"]) == ("past", "2026-11-21T02:10:00.000Z")
    actions: list[str] = []
    for path in (planned, current):
        history = (await own_city.client("wang").get(path)).json()["history"]
        actions.append(history[-1]["action"])
    assert actions == ["annulled", "cancelled"]
    assert count(own_city) == 2


async def test_windows_are_listed_by_phase_area_and_time(own_city: Api) -> None:
    own_city.watch.now = NOW - 3 * HOUR
    past = await made(own_city, begins_at="2026-11-21T00:00:00Z", ends_at="2026-11-21T01:00:00Z")
    own_city.watch.now = NOW
    current = await made(own_city, begins_at="2026-11-21T02:00:00Z", **GATEWAY)
    planned = await made(own_city, area="c01-g01")
    off = await made(own_city, area="c01-g02", begins_at="2026-11-21T04:00:00Z")
    await cancel(own_city, "wang", off)
    names = {past: "past", current: "current", planned: "planned", off: "annulled"}

    async def listed(query: str) -> list[str]:
        items = (await own_city.client("wang").get(f"{LIST}?{query or SOON}")).json()["items"]
        assert all(item["phase"] == names[f"{LIST}/{item['id']}"] for item in items)
        return [names[f"{LIST}/{item['id']}"] for item in items]

    assert await listed("") == ["annulled", "planned", "current", "past"]
    for phase in ("past", "current", "planned", "annulled"):
        assert await listed(f"{SOON}&phase={phase}") == [phase]
    # What holds in a cell: its own, and what is set for its community.
    assert await listed(f"{SOON}&area=c01-g01") == ["planned", "past"]
    assert await listed("from=2026-11-21T01:00:00Z&to=2026-11-21T03:00:00Z") == ["current"]
    found: list[str] = []
    cursor = ""
    while True:
        page = (await own_city.client("wang").get(f"{LIST}?{SOON}&limit=1{cursor}")).json()
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(found) == len(set(found)) == 4


async def test_a_window_of_a_larger_area_is_told_as_far_as_it_concerns(own_city: Api) -> None:
    path = await made(own_city, "root", area="city")
    foreign = await made(own_city, "root", area="c02")
    gateway = await made(own_city, "root", **GATEWAY)
    for who, area in (("wang", "c01"), ("li", "c01"), ("chen", "c01-g01"), ("zhao", "c02")):
        client = own_city.client(who)
        one = (await client.get(path)).json()
        assert (one["area"], one["inherited"], one["created_by"]) == (area, True, None)
        assert [entry["actor"] for entry in one.pop("history")] == [None]
        items = (await client.get(LIST)).json()["items"]
        assert one in items
        assert "city" not in str(items)
    for who in ("wang", "chen"):
        is_problem(await own_city.client(who).get(foreign), 404, "not_found")
        is_problem(await change(own_city, who, path, ends_at="2026-11-21T04:00:00Z"), 403,
                   "window.inherited")  # fmt: skip
        is_problem(await cancel(own_city, who, path), 403, "window.inherited")
        is_problem(await cancel(own_city, who, foreign), 404, "not_found")
        is_problem(await change(own_city, who, foreign), 404, "not_found")
    # Of a gateway of the community the admin of a cell learns nothing.
    is_problem(await own_city.client("chen").get(gateway), 404, "not_found")
    is_problem(await own_city.client("zhao").get(gateway), 404, "not_found")


@pytest.mark.parametrize("window", ["x", str(uuid.UUID(int=99))])
async def test_what_does_not_exist(city: Api, window: str) -> None:
    path = f"{LIST}/{window}"
    is_problem(await city.client("root").get(path), 404, "not_found")
    is_problem(await change(city, "root", path), 404, "not_found")
    is_problem(await cancel(city, "root", path), 404, "not_found")


@pytest.mark.parametrize(
    ("node", "excluded"),
    [
        pytest.param({}, 2, id="community"),
        pytest.param({"area": "city"}, 2, id="city"),
        pytest.param({"area": "c01-g01"}, 2, id="cell"),
        pytest.param(GATEWAY, 1, id="gateway"),
        pytest.param({"area": None, "device": "c01-bin-001"}, 1, id="device"),
        pytest.param({"area": "c02"}, 0, id="elsewhere"),
    ],
)
async def test_faults_that_began_in_a_window_do_not_count(
    own_city: Api, node: dict[str, Any], excluded: int
) -> None:
    began = NOW - timedelta(days=3)
    for device in ("c01-lamp-001", "c01-bin-001"):
        store_fault(own_city, device, began, 2)
    await made(
        own_city, "root", begins_at=(began - HOUR).isoformat(),
        ends_at=(began + timedelta(microseconds=1)).isoformat(), afterwards=True, **node,
    )  # fmt: skip
    path = f"c01/indicators/repairs-in-time?{NOVEMBER}&by=total&kind="
    (together,) = (await ask(own_city, "wang", path))["items"]
    assert together["total"] == 2 - excluded
    assert together["excluded"].get("maintenance", 0) == excluded
