# SPDX-License-Identifier: Apache-2.0
"""Log-in, sessions, cross-site requests."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from argon2 import extract_parameters
from argon2.low_level import Type

from api import people
from api.people import Passwords
from tests.api.conftest import ALERTS, NOW, ORIGIN, SECRET, Api, running, session_token
from tests.services import Broker

SESSION = "/api/v1/session"


async def test_log_in_opens_a_session(own_city: Api) -> None:
    client = own_city.client()
    answer = await client.post(SESSION, json={"username": "wang", "password": SECRET})
    assert answer.status_code == 200
    me = answer.json()
    assert me == {
        "username": "wang",
        "role": "property",
        "area": "c01",
        "area_name": "梧桐苑",
        "language": None,
        "simulated": False,
        "version": me["version"],
    }
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("linli_session=")
    for attribute in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=43200"):
        assert attribute in cookie
    assert "Secure" not in cookie
    assert (await client.get(SESSION)).json() == me
    with psycopg.connect(own_city.dsn) as conn:
        token = client.cookies["linli_session"]
        stored = conn.execute("SELECT token_sha256 FROM session WHERE username = 'wang'")
        assert people.digest(token) in {row[0] for row in stored}
        assert len(token) >= 43


async def test_behind_https_the_cookie_is_bound_to_the_host(
    own_database: str, broker: Broker
) -> None:
    async with running(own_database, broker, public_url="https://linli.example.org") as api:
        client = api.client(Origin="https://linli.example.org")
        answer = await client.post(SESSION, json={"username": "wang", "password": SECRET})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-linli_session=")
        assert "Secure" in cookie
        assert "strict-transport-security" in answer.headers


async def test_wrong_password_and_unknown_person_look_the_same(own_city: Api) -> None:
    client = own_city.client()
    answers = [
        await client.post(SESSION, json={"username": name, "password": "not the password"})
        for name in ("wang", "nobody", "no\x00body", "'; DROP TABLE person; --")
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.json()["code"] for answer in answers} == {"credentials.invalid"}
    assert not any("set-cookie" in answer.headers for answer in answers)


async def test_deactivated_person_cannot_log_in_or_stay(own_city: Api) -> None:
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("UPDATE person SET active = false WHERE username = 'wang'")
    answer = await own_city.client().post(SESSION, json={"username": "wang", "password": SECRET})
    assert answer.status_code == 401
    assert (await own_city.client("wang").get(SESSION)).status_code == 401


async def test_eleventh_attempt_in_a_quarter_of_an_hour_is_refused(own_city: Api) -> None:
    client = own_city.client()
    wrong = {"username": "wang", "password": "not the password"}
    for _ in range(10):
        assert (await client.post(SESSION, json=wrong)).status_code == 401
    refused = await client.post(SESSION, json={"username": "wang", "password": SECRET})
    assert (refused.status_code, refused.json()["code"]) == (429, "session.too_many")
    assert 0 < int(refused.headers["retry-after"]) <= 15 * 60
    other = await client.post(SESSION, json={"username": "li", "password": SECRET})
    assert other.status_code == 200


async def test_success_forgives_earlier_attempts(own_city: Api) -> None:
    client = own_city.client()
    for _ in range(3):
        for _ in range(4):
            wrong = {"username": "li", "password": "not the password"}
            assert (await client.post(SESSION, json=wrong)).status_code == 401
        right = await client.post(SESSION, json={"username": "li", "password": SECRET})
        assert right.status_code == 200


async def test_log_out_ends_the_session_on_the_server(own_city: Api) -> None:
    client = own_city.client("wang")
    token = session_token("wang")
    assert (await client.delete(SESSION)).status_code == 204
    again = own_city.client()
    again.cookies.set("linli_session", token)
    assert (await again.get(SESSION)).status_code == 401
    assert (await again.delete(SESSION)).status_code == 204


async def test_log_in_ends_the_session_that_was_shown(own_city: Api) -> None:
    client = own_city.client("wang")
    answer = await client.post(SESSION, json={"username": "wang", "password": SECRET})
    assert answer.status_code == 200
    assert session_token("wang") not in answer.headers["set-cookie"]
    assert (await own_city.client("wang").get(SESSION)).status_code == 401


async def test_session_ends_after_half_an_hour_without_use(own_city: Api) -> None:
    client = own_city.client("wang")
    for _ in range(3):
        own_city.watch.now += timedelta(minutes=29)
        assert (await client.get(SESSION)).status_code == 200
    own_city.watch.now += timedelta(minutes=31)
    assert (await client.get(SESSION)).status_code == 401


async def test_session_ends_after_twelve_hours_of_use(own_city: Api) -> None:
    client = own_city.client("wang")
    while own_city.watch.now < NOW + timedelta(hours=11, minutes=30):
        own_city.watch.now += timedelta(minutes=20)
        assert (await client.get(SESSION)).status_code == 200
    own_city.watch.now = NOW + timedelta(hours=12)
    assert (await client.get(SESSION)).status_code == 401


@pytest.mark.parametrize("token", ["", "x", "session-of-wan", "a" * 5_000, "%00", "; ="])
async def test_forged_cookie_opens_nothing(city: Api, token: str) -> None:
    client = city.client(Cookie=f"linli_session={token}")
    assert (await client.get(SESSION)).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Origin": "https://evil.example"}, 403, id="foreign-origin"),
        pytest.param({"Origin": "null"}, 403, id="origin-null"),
        pytest.param({"Origin": ""}, 403, id="empty-origin"),
        pytest.param({}, 403, id="neither-header"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, 403, id="cross-site"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, 403, id="neighbouring-host"),
        pytest.param(
            {"Sec-Fetch-Site": "cross-site", "Origin": ORIGIN}, 403, id="browser-knows-better"
        ),
        pytest.param({"Sec-Fetch-Site": "same-origin"}, 200, id="same-origin"),
        pytest.param({"Origin": ORIGIN}, 200, id="own-origin"),
        pytest.param({"Origin": "http://127.0.0.1:8080"}, 200, id="public-address"),
    ],
)
async def test_cookie_counts_from_our_own_pages_only(
    own_city: Api, headers: dict[str, str], status: int
) -> None:
    client = own_city.client("wang")
    del client.headers["origin"]
    path = f"/api/v1/alerts/{ALERTS['dark']}/acknowledge"
    answer = await client.post(path, json={}, headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "csrf"
    left = await client.delete(SESSION, headers=headers)
    assert left.status_code == (403 if status == 403 else 204)


async def test_log_in_from_another_site_is_refused(own_city: Api) -> None:
    client = own_city.client(Origin="https://evil.example")
    answer = await client.post(SESSION, json={"username": "wang", "password": SECRET})
    assert (answer.status_code, answer.json()["code"]) == (403, "csrf")


async def test_service_token_needs_no_origin(own_city: Api) -> None:
    client = own_city.client(Authorization="Bearer token-of-robot")
    del client.headers["origin"]
    path = f"/api/v1/alerts/{ALERTS['dark']}/acknowledge"
    answer = await client.post(path, json={})
    assert answer.status_code == 200
    assert answer.json()["acknowledged_by"] == "robot"


async def test_passwords_are_hashed_as_the_guide_asks() -> None:
    passwords = Passwords()
    stored = await passwords.hash("x" * 12)
    parameters = extract_parameters(stored)
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (19_456, 2, 1)
    assert parameters.type == Type.ID
    assert await passwords.verify(stored, "x" * 12)
    assert not await passwords.verify(stored, "x" * 13)
    assert not await passwords.verify(None, "x" * 12)
    assert not await passwords.verify("no hash at all", "x")
