# SPDX-License-Identifier: Apache-2.0
"""The same request asked again: done once, told alike, whatever happened in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from httpx2 import Response

from api import idempotency
from tests.api.conftest import NOW, Api
from tests.api.desk import Point, point
from tests.api.locks import waited_for

INCIDENTS = "/api/v1/incidents"
FRAUD = {"category": "fraud", "area": "c01-g01", "occurred_at": "2026-11-20T00:00:00Z"}
KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


async def ask(
    api: Api, path: str, body: object, key: str, who: str = "li", **headers: str
) -> Response:
    headers = {"Idempotency-Key": key, **headers}
    return await api.client(who).post(path, json=body, headers=headers)


def incidents(api: Api, note: str) -> int:
    with psycopg.connect(api.dsn) as conn:
        row = conn.execute("SELECT count(*) FROM incident WHERE note = %s", (note,)).fetchone()
    assert row is not None
    return row[0]


def same(first: Response, again: Response) -> bool:
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    return (again.status_code, again.content) == (first.status_code, first.content)


async def test_asked_again_it_is_told_again_and_done_once(module_city: Api) -> None:
    body = {**FRAUD, "note": "once"}
    first = await ask(module_city, INCIDENTS, body, KEY)
    assert first.status_code == 201, first.text
    again = await ask(module_city, INCIDENTS, body, f'"{KEY}"')  # as a structured field has it
    assert same(first, again)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Content-Type"] == "application/json"
    assert incidents(module_city, "once") == 1
    # Without a key each is one more.
    await module_city.client("li").post(INCIDENTS, json=body)
    assert incidents(module_city, "once") == 2


async def test_an_answer_is_what_it_would_be_without_a_key(module_city: Api) -> None:
    made, other = point(module_city), point(module_city)
    with_key = await ask(module_city, f"{made.path}/acknowledge", {"note": "看过"}, "plain")
    without = await module_city.client("li").post(
        f"{other.path}/acknowledge", json={"note": "看过"}
    )
    own = {"id", "rule"}
    for answer in (with_key, without):
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert {name: value for name, value in with_key.json().items() if name not in own} == {
        name: value for name, value in without.json().items() if name not in own
    }


async def test_another_request_under_the_key_is_refused(module_city: Api) -> None:
    made, other = point(module_city), point(module_city)
    await ask(module_city, f"{made.path}/note", {"note": "a"}, "taken")
    for path, body, headers in (
        (f"{made.path}/note", {"note": "b"}, {}),
        (f"{other.path}/note", {"note": "a"}, {}),
        (f"{made.path}/note", {"note": "a"}, {"If-Match": '"2"'}),
        (f"{made.path}/note?x=1", {"note": "a"}, {}),
    ):
        answer = await ask(module_city, path, body, "taken", **headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency.reused")
    for one, version in ((made, 2), (other, 1)):
        assert (await module_city.client("li").get(one.path)).json()["version"] == version


async def test_keys_are_each_persons_own(module_city: Api) -> None:
    made = point(module_city)
    first = await ask(module_city, f"{made.path}/note", {"note": "mine"}, "shared", "li")
    second = await ask(module_city, f"{made.path}/note", {"note": "yours"}, "shared", "wang")
    assert (first.json()["note"], second.json()["note"]) == ("mine", "yours")


async def test_who_lost_the_area_is_not_told_again(module_city: Api) -> None:
    made = point(module_city)
    body = {"note": "of c01"}
    assert (await ask(module_city, f"{made.path}/note", body, "moved", "zhao")).status_code == 404
    with psycopg.connect(module_city.dsn) as conn:
        conn.execute("UPDATE person SET area = 'c01' WHERE username = 'zhao'")
    try:
        answer = await ask(module_city, f"{made.path}/note", body, "moved2", "zhao")
        assert answer.status_code == 200
    finally:
        with psycopg.connect(module_city.dsn) as conn:
            conn.execute("UPDATE person SET area = 'c02' WHERE username = 'zhao'")
    answer = await ask(module_city, f"{made.path}/note", body, "moved2", "zhao")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency.reused")


async def test_a_refusal_is_told_again_too(module_city: Api) -> None:
    made = point(module_city)
    path, seen = f"{made.path}/acknowledge", {"If-Match": '"7"'}
    first = await ask(module_city, path, {}, "refused", **seen)
    assert first.status_code == 412
    await module_city.client("li").post(path, json={})
    assert same(first, await ask(module_city, path, {}, "refused", **seen))


async def test_what_was_never_understood_keeps_no_key(module_city: Api) -> None:
    made = point(module_city)
    path = f"{made.path}/shelve"
    assert (await ask(module_city, path, {"minutes": 5}, "typo")).status_code == 422
    answer = await ask(module_city, path, {"minutes": 5, "reason": "x"}, "typo")
    assert answer.status_code == 200


async def test_of_duplicates_at_once_one_is_done(module_city: Api) -> None:
    body = {**FRAUD, "note": "at once"}
    answers = await asyncio.gather(
        *(ask(module_city, INCIDENTS, body, "at-once") for _ in range(10))
    )
    assert incidents(module_city, "at once") == 1
    (first,) = [
        answer
        for answer in answers
        if answer.status_code == 201 and "Idempotency-Replayed" not in answer.headers
    ]
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency.in_progress"
            assert answer.headers["Retry-After"] == "1"
        else:
            assert answer.content == first.content
    assert same(first, await ask(module_city, INCIDENTS, body, "at-once"))


async def _hold(made: Point, conn: psycopg.Connection, key: str) -> asyncio.Task[Response]:
    """A request under way: it waits for an alert that somebody else holds."""
    conn.execute("SELECT FROM alert WHERE id = %s FOR UPDATE", (made.id,))
    task = asyncio.create_task(ask(made.api, f"{made.path}/note", {"note": "x"}, key))
    await waited_for(conn)
    return task


async def test_while_it_is_under_way_it_is_not_done_again(module_city: Api) -> None:
    made = point(module_city)
    with psycopg.connect(module_city.dsn) as conn:
        first = await _hold(made, conn, "slow")
        second = await ask(module_city, f"{made.path}/note", {"note": "x"}, "slow")
        assert (second.status_code, second.json()["code"]) == (409, "idempotency.in_progress")
    done = await first
    assert (done.status_code, done.json()["version"]) == (200, 2)
    assert same(done, await ask(module_city, f"{made.path}/note", {"note": "x"}, "slow"))


async def test_a_crash_leaves_neither_an_effect_nor_a_key(module_city: Api) -> None:
    made = point(module_city)
    with psycopg.connect(module_city.dsn) as conn:
        first = await _hold(made, conn, "crash")
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    lost = await first
    assert (lost.status_code, lost.json()["code"]) == (503, "unavailable")
    answer = await ask(module_city, f"{made.path}/note", {"note": "x"}, "crash")
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert "Idempotency-Replayed" not in answer.headers


async def test_the_answer_and_the_effect_are_one_transaction(module_city: Api) -> None:
    # What cannot be stored as told is not done: the answer's row is refused by the database.
    with psycopg.connect(module_city.dsn) as conn:
        conn.execute("ALTER TABLE idempotency ADD CONSTRAINT broken CHECK (key <> 'broken')")
    body = {**FRAUD, "note": "half"}
    answer = await ask(module_city, INCIDENTS, body, "broken")
    assert answer.status_code == 500
    assert incidents(module_city, "half") == 0


async def test_others_are_told_once_it_is_committed(
    module_city: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = point(module_city)
    told: list[tuple[object, ...]] = []

    def look(alert: UUID) -> None:
        with psycopg.connect(module_city.dsn) as conn:
            told.extend(conn.execute("SELECT version FROM alert WHERE id = %s", (alert,)))

    monkeypatch.setattr(module_city.services.hub, "tell_alert", look)
    for version, headers in ((2, {"Idempotency-Key": "told"}), (3, {})):
        path = f"{made.path}/note"
        await module_city.client("li").post(path, json={"note": "x"}, headers=headers)
        assert told.pop() == (version,)
    await ask(module_city, f"{made.path}/note", {"note": "x"}, "told")
    assert not told  # told again to who asked, not to everybody


async def test_after_a_day_a_key_is_free_and_its_answer_is_gone(module_city: Api) -> None:
    made = point(module_city)
    path = f"{made.path}/note"
    first = await ask(module_city, path, {"note": "x"}, "day")
    with psycopg.connect(module_city.dsn) as conn:
        conn.execute("UPDATE session SET used_at = 'infinity', expires_at = 'infinity'")
    try:
        module_city.watch.now = NOW + timedelta(hours=24) - timedelta(seconds=1)
        assert same(first, await ask(module_city, path, {"note": "x"}, "day"))
        module_city.watch.now = NOW + timedelta(hours=24)
        late = await ask(module_city, path, {"note": "y"}, "day")
        assert (late.status_code, late.json()["version"]) == (200, 3)
    finally:
        module_city.watch.now = NOW
    with psycopg.connect(module_city.dsn) as conn:
        keys = conn.execute("SELECT key FROM idempotency").fetchall()
    assert keys == [("day",)]


async def test_nobody_has_more_answers_kept_than_a_number(
    own_city: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "KEYS_MAX", 3)
    made = point(own_city)
    path = f"{made.path}/note"
    own_city.watch.now = NOW - timedelta(hours=2)
    first = await ask(own_city, path, {"note": "1"}, "1")
    own_city.watch.now = NOW
    for key in ("2", "3"):
        assert (await ask(own_city, path, {"note": key}, key)).status_code == 200
    full = await ask(own_city, path, {"note": "4"}, "4")
    assert (full.status_code, full.json()["code"]) == (429, "idempotency.too_many")
    assert full.headers["content-type"] == "application/problem+json"
    assert (full.json()["max"], full.headers["Retry-After"]) == (3, str(22 * 3600))
    # What is kept is told again, others are not in the way, nor is it without a key.
    assert same(first, await ask(own_city, path, {"note": "1"}, "1"))
    assert (await ask(own_city, path, {"note": "wang"}, "4", "wang")).json()["note"] == "wang"
    plain = await own_city.client("li").post(path, json={"note": "plain"})
    assert (plain.status_code, plain.json()["version"]) == (200, 6)
    # Nothing was done under the key, and it is free when the oldest one's day is over.
    own_city.watch.now = NOW + timedelta(hours=22)
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("UPDATE session SET used_at = 'infinity', expires_at = 'infinity'")
    last = await ask(own_city, path, {"note": "4"}, "4")
    assert (last.status_code, last.json()["version"]) == (200, 7)


async def test_nobody_has_answers_without_end_kept(
    own_city: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = point(own_city)
    path = f"{made.path}/note"
    first = await ask(own_city, path, {"note": "1"}, "1")
    monkeypatch.setattr(idempotency, "BYTES_MAX", len(first.content))
    second = await ask(own_city, path, {"note": "2"}, "2")
    full = await ask(own_city, path, {"note": "3"}, "3")
    assert (full.status_code, full.json()["code"]) == (429, "idempotency.too_many")
    assert full.headers["Retry-After"] == str(24 * 3600)
    assert same(second, await ask(own_city, path, {"note": "2"}, "2"))


async def test_many_at_once_are_done_once_as_well(module_city: Api) -> None:
    points = [point(module_city) for _ in range(3)]
    body: dict[str, Any] = {"action": "acknowledge", "alerts": [str(one.id) for one in points]}
    path = "/api/v1/alerts/actions"
    first = await ask(module_city, path, body, "many")
    assert first.json()["counts"]["done"] == 3
    assert same(first, await ask(module_city, path, body, "many"))


@pytest.mark.parametrize(
    "key", ["", '""', "x" * 256, "a b", "naïve".encode().decode("latin-1"), '"']
)
async def test_no_key_is_refused(module_city: Api, key: str) -> None:
    made = point(module_city)
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    client = module_city.client("li")
    answer = await client.post(f"{made.path}/note", json={"note": "x"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency.invalid")
    assert (await client.get(made.path)).json()["version"] == 1
