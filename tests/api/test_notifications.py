# SPDX-License-Identifier: Apache-2.0
"""Chains, channels, webhooks and the log of what was told, for who may see them."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from uuid_utils.compat import uuid7

from deploy.services import Postgres
from ingest.notify.delivery import Dispatcher, Setting
from tests.api.conftest import ALERTS, NOW, Api, clone_city, running
from tests.api.locks import waited_for
from tests.ingest.notify.town import Receiver, http
from tests.services import Broker

PUBLIC = "https://8.8.8.8/hook"
NOBODY: list[Any] = []
CHAIN: dict[str, Any] = {
    "name": "night",
    "severities": ["critical", "major"],
    "hours": {"start": "22:00", "end": "07:00"},
    "steps": [
        {"recipients": [{"person": "wang"}], "repeat_s": 300, "repeats": 3},
        {"delay_s": 900, "recipients": [{"role": "police"}]},
    ],
}


@pytest.fixture(scope="module")
async def api(database_server: Postgres, city_template: str, broker: Broker) -> AsyncIterator[Api]:
    dsn = clone_city(database_server, city_template, "api_notify")
    async with running(dsn, broker) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http() as receiver:
        yield receiver


def _private(api: Api, why: str) -> None:
    config = api.services.config
    notify = config.notify.model_copy(update={"private_addresses": why})
    api.services.config = config.model_copy(update={"notify": notify})


async def test_a_chain_is_kept_changed_and_removed_by_who_saw_it(api: Api) -> None:
    root = api.client("root")
    made = await root.post("/api/v1/notification-chains", json={"area": "c01", "chain": CHAIN})
    assert made.status_code == 201, made.text
    path = made.headers["location"]
    assert (await root.get(path)).json() == made.json()
    changed = {"area": "c01", "chain": {**CHAIN, "name": "nights"}}
    assert (await root.put(path, json=changed)).status_code == 428
    assert (await root.put(path, json=changed, headers={"If-Match": "1"})).json()["version"] == 2
    late = await root.put(path, json=changed, headers={"If-Match": "1"})
    assert (late.status_code, late.json()["version"]) == (412, 2)
    # An admin of one cell sees nothing of the community's.
    assert (await api.client("chen").get(path)).status_code == 404
    assert (await api.client("chen").delete(path, headers={"If-Match": "2"})).status_code == 404
    assert (await root.delete(path, headers={"If-Match": "2"})).status_code == 204
    assert (await root.get(path)).status_code == 404


async def test_the_second_of_two_is_told_what_the_first_left(api: Api) -> None:
    root, draft = api.client("root"), {"area": "c01", "chain": CHAIN}
    path = (await root.post("/api/v1/notification-chains", json=draft)).headers["location"]

    async def second(method: str, seen: int, meanwhile: str) -> tuple[int, int | None]:
        with psycopg.connect(api.dsn) as first:
            first.execute(meanwhile.encode())
            body = draft if method == "PUT" else None
            asked = root.request(method, path, json=body, headers={"If-Match": str(seen)})
            late = asyncio.create_task(asked)
            await waited_for(first)
            first.commit()
            told = await late
        return told.status_code, told.json().get("version")

    assert await second("PUT", 1, "UPDATE notification_chain SET version = 2") == (412, 2)
    assert await second("DELETE", 2, "UPDATE notification_chain SET version = 3") == (412, 3)
    assert await second("PUT", 3, "DELETE FROM notification_chain") == (404, None)


@pytest.mark.parametrize(
    ("area", "steps", "status", "pointer"),
    [
        pytest.param("c01", [], 422, "/body/chain/steps", id="no-steps"),
        pytest.param(
            "c01", [{"recipients": NOBODY}], 422, "/body/chain/steps/0/recipients", id="nobody"
        ),
        pytest.param(
            "c01", [{"recipients": [{"role": "police"}], "repeat_s": 60}], 422, None,
            id="never-ends",
        ),
        pytest.param(
            "c01", [{"recipients": [{"role": "police"}], "repeat_s": 60, "repeats": 999}], 422,
            "/body/chain/steps/0/repeats", id="as-good-as-never-ends",
        ),
        pytest.param(
            "c01", [{"recipients": [{"person": "zhao"}]}], 422,
            "/body/chain/steps/0/recipients/0/person", id="foreign-person",
        ),
        pytest.param(
            "c01", [{"recipients": [{"webhook": str(uuid.UUID(int=7))}]}], 422,
            "/body/chain/steps/0/recipients/0/webhook", id="unknown-webhook",
        ),
        pytest.param(
            "c01",
            [{"delay_s": 60, "recipients": [{"role": "police"}]},
             {"recipients": [{"role": "admin"}]}],
            422, None, id="backwards",
        ),
        pytest.param("c99", [{"recipients": [{"role": "police"}]}], 404, None, id="no-area"),
    ],
)  # fmt: skip
async def test_a_chain_that_cannot_work_is_refused(
    api: Api, area: str, steps: list[Any], status: int, pointer: str | None
) -> None:
    root = api.client("root")
    draft = {"area": area, "chain": {**CHAIN, "steps": steps}}
    answer = await root.post("/api/v1/notification-chains", json=draft)
    assert answer.status_code == status, answer.text
    if pointer is not None:
        assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert (await root.get("/api/v1/notification-chains")).json() == []


async def test_wishes_are_ones_own_and_kept_with_what_was_seen(api: Api) -> None:
    wang = api.client("wang")
    before = (await wang.get("/api/v1/me/notifications")).json()
    assert before["version"] == 0
    wanted = {**before["preferences"], "min_severity": "major", "quiet_from": "22:00:00",
              "quiet_to": "07:00:00"}  # fmt: skip
    path = "/api/v1/me/notifications"
    first = await wang.put(path, json=wanted, headers={"If-Match": "0"})
    assert (first.json()["version"], first.json()["preferences"]) == (1, wanted)
    late = await wang.put(path, json=wanted, headers={"If-Match": "0"})
    assert late.status_code == 412
    assert (await wang.put(path, json=wanted, headers={"If-Match": "1"})).json()["version"] == 2
    assert (await api.client("li").get(path)).json()["version"] == 0


async def test_an_address_goes_in_and_never_comes_out(api: Api) -> None:
    wang, secret = api.client("wang"), "s3cr3t-key-of-the-bot-0123456789abcdef"
    path = "/api/v1/me/channels"
    for kind, address, shown in (
        ("url", f"wecombot://{secret}", "wecombot://…"),
        ("email", "wang.secret@example.org", "w…@example.org"),
        ("sms", "+8613800138000", "…8000"),
    ):
        made = await wang.post(path, json={"kind": kind, "name": kind, "address": address})
        assert made.status_code == 201, made.text
        assert made.json()["address"] == shown
        assert address not in made.text
    listed = await wang.get(path)
    assert len(listed.json()) == 3
    assert secret not in listed.text
    mine = listed.json()[0]["id"]
    assert (await api.client("li").get(path)).json() == []
    assert (await api.client("li").delete(f"{path}/{mine}")).status_code == 404
    assert (await api.client("li").post(f"{path}/{mine}/test", json={})).status_code == 404
    for channel in listed.json():
        assert (await wang.delete(f"{path}/{channel['id']}")).status_code == 204
    assert (await wang.get(path)).json() == []


@pytest.mark.parametrize(
    ("kind", "address", "code"),
    [
        pytest.param("url", "json://127.0.0.1/secret", "url.scheme", id="generic-post"),
        pytest.param("url", "mailtos://u:secret@10.0.0.1", "url.scheme", id="own-mail-server"),
        pytest.param("url", "syslog://secret", "url.scheme", id="local-program"),
        pytest.param("email", "secret", "email.invalid", id="no-address"),
        pytest.param("email", "a@b.cn&smtp=10.0.0.1", "email.invalid", id="smuggled-option"),
        pytest.param("sms", "secret", "number.invalid", id="no-number"),
    ],
)
async def test_an_address_that_must_not_be_is_refused_and_not_repeated(
    api: Api, kind: str, address: str, code: str
) -> None:
    draft = {"kind": kind, "name": "x", "address": address}
    answer = await api.client("wang").post("/api/v1/me/channels", json=draft)
    assert answer.status_code == 422
    assert [error["code"] for error in answer.json()["errors"]] == [code]
    assert "secret" not in answer.text


async def test_a_webhooks_secret_is_shown_once(api: Api) -> None:
    root, path = api.client("root"), "/api/v1/webhooks"
    made = await root.post(path, json={"area": "c01", "name": "desk", "address": PUBLIC})
    assert made.status_code == 201, made.text
    secret = made.json()["secret"]
    assert secret.startswith("whsec_")
    assert made.json()["address"] == "https://8.8.8.8/…"
    one = f"{path}/{made.json()['id']}"
    for answer in (
        await root.get(path),
        await root.patch(one, json={"name": "other"}, headers={"If-Match": "1"}),
    ):
        assert answer.status_code == 200
        assert secret not in answer.text
        assert "/hook" not in answer.text
    assert (await root.patch(one, json={}, headers={"If-Match": "1"})).status_code == 412
    assert (await api.client("chen").get(path)).json() == []
    assert (await api.client("chen").post(f"{one}/test", json={})).status_code == 404
    assert (await api.client("wang").get(path)).status_code == 403
    assert (await root.delete(one, headers={"If-Match": "2"})).status_code == 204


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "https://localhost/", "https://10.1.2.3/", "https://192.168.0.1/",
        "https://172.16.0.1/", "https://169.254.169.254/latest/meta-data", "https://100.64.0.1/",
        "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://[fe80::1]/", "https://[fd00::1]/",
        "https://2130706433/", "https://0177.0.0.1/", "https://0x7f.1/", "https://127.1/",
        "https://0.0.0.0/", "https://[64:ff9b::a00:1]/", "https://[2002:a00:1::]/",
        "https://224.0.0.1/", "http://8.8.8.8/", "https://user:pw@8.8.8.8/", "ftp://8.8.8.8/",
        "https://8.8.8.8:99999/", "https://",
    ],
)  # fmt: skip
async def test_a_webhook_to_a_private_address_is_refused(api: Api, url: str) -> None:
    root = api.client("root")
    draft = {"area": "c01", "name": "x", "address": url}
    answer = await root.post("/api/v1/webhooks", json=draft)
    assert answer.status_code == 422, url
    assert (await root.get("/api/v1/webhooks")).json() == []


async def test_the_test_button_sends_now_and_says_how_it_went(api: Api, receiver: Receiver) -> None:
    root = api.client("root")
    _private(api, "a test")
    stopping = threading.Event()

    def tell() -> None:
        with psycopg.connect(api.dsn, autocommit=True) as conn:
            dispatcher = Dispatcher(conn, Setting(allow_private=True), lambda: datetime.now(UTC))
            while not stopping.wait(0.02):
                dispatcher.settle()
            dispatcher.close()

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        draft = {"area": "c01", "name": "x", "address": receiver.url}
        made = (await root.post("/api/v1/webhooks", json=draft)).json()
        path = f"/api/v1/webhooks/{made['id']}/test"
        assert (await root.post(path, json={})).json() == {"state": "sent", "error": None}
        receiver.answer = 500
        told = await root.post(path, json={})
        assert told.json() == {"state": "given_up", "error": "http_500"}
        types = [request.event["type"] for request in receiver.requests]
        assert types == ["linli.alert.test.v1"] * 2
    finally:
        stopping.set()
        await asyncio.to_thread(thread.join)
        _private(api, "")


def _told(conn: psycopg.Connection, alert: uuid.UUID, area: str) -> None:
    channel, message = uuid7(), uuid7()
    conn.execute(
        """
        INSERT INTO notification_channel (id, kind, name, address, username, created_at, created_by)
        VALUES (%s, 'email', 'x', 'secret@example.org', 'li', %s, 'li')
        """,
        (channel, NOW),
    )
    row = conn.execute(
        """
        INSERT INTO notification_message (key, channel, community, kind, content, created_at,
                                          next_at, state, finished_at)
        VALUES (%s, %s, %s, 'raised', '{}', %s, %s, 'sent', %s) RETURNING id
        """,
        (message, channel, area, NOW, NOW, NOW),
    ).fetchone()
    assert row is not None
    conn.execute(
        """
        INSERT INTO notification (alert, channel, community, kind, created_at, due_at, message)
        VALUES (%s, %s, %s, 'raised', %s, %s, %s)
        """,
        (alert, channel, area, NOW, NOW, row[0]),
    )


async def test_the_log_shows_what_concerns_alerts_in_sight_and_no_more(api: Api) -> None:
    with psycopg.connect(api.dsn) as conn:
        for name, area in (("dark", "c01"), ("duress", "c01"), ("foreign", "c02")):
            _told(conn, ALERTS[name], area)
    seen: dict[str, set[str]] = {}
    for who in ("wang", "li", "root", "zhao"):
        answer = await api.client(who).get("/api/v1/notifications")
        assert "secret" not in answer.text
        # What somebody calls their own channel is theirs.
        names = {item["channel_name"] for item in answer.json()["items"]}
        assert names == ({"x"} if who == "li" else {None})
        seen[who] = {alert for item in answer.json()["items"] for alert in item["alerts"]}
    dark, duress, foreign = (str(ALERTS[name]) for name in ("dark", "duress", "foreign"))
    assert seen == {
        "wang": {dark},
        "li": {dark, duress},
        "root": {dark, duress, foreign},
        "zhao": {foreign},
    }
    root = api.client("root")
    for query, count in (
        (f"alert={dark}", 1), ("state=given_up", 0), ("recipient=li", 3), ("area=c02", 1),
        ("from=2026-11-22T00:00:00Z&to=2026-11-23T00:00:00Z", 0),
    ):  # fmt: skip
        assert len((await root.get(f"/api/v1/notifications?{query}")).json()["items"]) == count
    first = (await root.get("/api/v1/notifications?limit=2")).json()
    rest = (await root.get(f"/api/v1/notifications?limit=2&cursor={first['next_cursor']}")).json()
    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)


async def test_nobody_is_flooded_with_test_messages(api: Api) -> None:
    li = api.client("li")
    draft = {"kind": "email", "name": "x", "address": "stranger@example.org"}
    made = (await li.post("/api/v1/me/channels", json=draft)).json()
    with psycopg.connect(api.dsn) as conn:
        conn.execute(
            """
            INSERT INTO notification_message (key, channel, kind, content, created_at, next_at,
                                              state, finished_at)
            SELECT gen_random_uuid(), %(channel)s, 'test', '{}', %(now)s, %(now)s, 'sent', %(now)s
            FROM generate_series(1, 5)
            """,
            {"channel": made["id"], "now": NOW},
        )
    # Another channel of the same person is no way round.
    other = (await li.post("/api/v1/me/channels", json=draft)).json()
    for channel in (made, other):
        told = await li.post(f"/api/v1/me/channels/{channel['id']}/test", json={})
        assert (told.status_code, told.json()["code"]) == (429, "notification.tests")
