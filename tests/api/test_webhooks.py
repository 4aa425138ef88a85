# SPDX-License-Identifier: Apache-2.0
"""A webhook's secret is shown once, kept nowhere else, and replaced while messages go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from httpx2 import Response

from deploy.services import Postgres
from ingest.notify.delivery import Dispatcher, Setting
from ingest.notify.webhook import SECRETS_MAX
from ingest.store import expired
from tests.api.conftest import NOW, Api, clone_city, running
from tests.api.locks import waited_for
from tests.ingest.notify.receiver import verify
from tests.ingest.notify.town import Receiver, Request, http
from tests.services import Broker

PATH = "/api/v1/webhooks"
HOUR = 3600


@pytest.fixture(scope="module")
async def api(database_server: Postgres, city_template: str, broker: Broker) -> AsyncIterator[Api]:
    dsn = clone_city(database_server, city_template, "api_webhooks")
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE session SET used_at = 'infinity', expires_at = 'infinity'")
    async with running(dsn, broker) as api:
        config = api.services.config
        notify = config.notify.model_copy(update={"private_addresses": "a test"})
        api.services.config = config.model_copy(update={"notify": notify})
        yield api


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http() as receiver:
        yield receiver


@dataclass(slots=True)
class Hook:
    """One webhook of c01, its admin, and who receives it."""

    api: Api
    receiver: Receiver
    id: str
    secret: str
    version: int = 1

    @property
    def path(self) -> str:
        return f"{PATH}/{self.id}"

    async def replace(self, key: str | None = None, **body: Any) -> Response:
        headers = {"If-Match": str(self.version)}
        if key is not None:
            headers["Idempotency-Key"] = key
        root = self.api.client("root")
        answer = await root.post(f"{self.path}/secret", json=body, headers=headers)
        if answer.status_code == 200:
            self.version = answer.json()["version"]
        return answer

    async def secret_after(self, **body: Any) -> str:
        answer = await self.replace(**body)
        assert answer.status_code == 200, answer.text
        secret: str = answer.json()["secret"]
        return secret

    async def told(self) -> Request:
        """What the receiver is sent now, by the process that tells."""
        self.api.watch.now += timedelta(minutes=2)  # five tests a minute are not reached
        async with _telling(self.api):
            answer = await self.api.client("root").post(f"{self.path}/test", json={})
        assert answer.json() == {"state": "sent", "error": None}
        return self.receiver.requests[-1]

    async def verified_by(self, *secrets: str) -> list[bool]:
        """Which of these secrets a receiver can verify a message with, sent now."""
        request, now = await self.told(), int(self.api.watch.now.timestamp())
        return [verify(one, request.headers, request.body, now) for one in secrets]


@asynccontextmanager
async def _telling(api: Api) -> AsyncGenerator[None]:
    stopping = threading.Event()

    def tell() -> None:
        with psycopg.connect(api.dsn, autocommit=True) as conn:
            dispatcher = Dispatcher(conn, Setting(allow_private=True), api.watch)
            while not stopping.wait(0.02):
                dispatcher.settle()
            dispatcher.close()

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        await asyncio.to_thread(thread.join)


@pytest.fixture
async def hook(api: Api, receiver: Receiver) -> AsyncIterator[Hook]:
    api.watch.now = NOW
    draft = {"area": "c01", "name": "desk", "address": f"{receiver.url}?token=s3cr3t"}
    made = await api.client("root").post(PATH, json=draft)
    assert made.status_code == 201, made.text
    yield Hook(api, receiver, made.json()["id"], made.json()["secret"])
    with psycopg.connect(api.dsn) as conn:
        conn.execute("DELETE FROM notification_message")
        conn.execute("DELETE FROM webhook_former_secret")
        conn.execute("DELETE FROM webhook_history")
        conn.execute("DELETE FROM notification_channel")


# -- both sign for a time


async def test_while_both_sign_a_receiver_changes_over_when_it_likes(hook: Hook) -> None:
    old = hook.secret
    assert await hook.verified_by(old) == [True]
    answer = await hook.replace(overlap_s=HOUR)
    new = answer.json()["secret"]
    until = hook.api.watch.now + timedelta(seconds=HOUR)
    assert new.startswith("whsec_")
    assert answer.json()["former_secret_until"] == until.isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )
    assert await hook.verified_by(old, new, "whsec_" + "A" * 44) == [True, True, False]
    assert len(hook.receiver.requests[-1].headers["webhook-signature"].split(" ")) == 2
    hook.api.watch.now = until - timedelta(minutes=2, seconds=1)
    assert await hook.verified_by(old, new) == [True, True]
    hook.api.watch.now = until - timedelta(minutes=2)
    assert await hook.verified_by(old, new) == [False, True]
    (listed,) = (await hook.api.client("root").get(PATH)).json()
    assert listed["former_secret_until"] is None


async def test_what_is_known_to_others_signs_nothing_any_more(hook: Hook) -> None:
    new = await hook.secret_after(overlap_s=0)
    assert await hook.verified_by(hook.secret, new) == [False, True]
    with psycopg.connect(hook.api.dsn) as conn:
        assert conn.execute("SELECT FROM webhook_former_secret").fetchall() == []


async def test_a_secret_that_was_lost_before_it_was_noted_is_replaced_again(hook: Hook) -> None:
    lost = await hook.secret_after(overlap_s=HOUR)
    new = await hook.secret_after(overlap_s=2 * HOUR)
    assert await hook.verified_by(hook.secret, lost, new) == [True, True, True]
    # Each of those before keeps its time, or a shorter one that is chosen now.
    hook.api.watch.now += timedelta(seconds=HOUR)
    assert await hook.verified_by(hook.secret, lost, new) == [False, True, True]
    last = await hook.secret_after(overlap_s=60)
    hook.api.watch.now += timedelta(seconds=60)
    assert await hook.verified_by(lost, new, last) == [False, False, True]


async def test_no_more_secrets_sign_than_a_header_should_carry(hook: Hook) -> None:
    for _ in range(SECRETS_MAX - 1):
        await hook.secret_after()
    full = await hook.replace()
    assert (full.status_code, full.json()["code"]) == (409, "webhook.secrets")
    assert full.json()["max"] == SECRETS_MAX
    assert await hook.verified_by(hook.secret) == [True]
    new = await hook.secret_after(overlap_s=0)
    assert await hook.verified_by(hook.secret, new) == [False, True]


async def test_it_is_replaced_by_who_saw_it_as_it_is(hook: Hook) -> None:
    root, path = hook.api.client("root"), f"{hook.path}/secret"
    assert (await root.post(path, json={})).status_code == 428
    answers = await asyncio.gather(*(hook.replace() for _ in range(5)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 412, 412, 412, 412]
    (new,) = [answer.json()["secret"] for answer in answers if answer.status_code == 200]
    assert await hook.verified_by(hook.secret, new) == [True, True]
    for overlap in (-1, 8 * 24 * HOUR, None, "1h"):
        refused = await hook.replace(overlap_s=overlap)
        assert refused.status_code == 422, overlap
        assert refused.json()["errors"][0]["pointer"] == "/body/overlap_s"
    seen = {"If-Match": str(hook.version)}
    for who, status in (("chen", 404), ("wang", 403), ("li", 403)):
        answer = await hook.api.client(who).post(path, json={}, headers=seen)
        assert answer.status_code == status, who
    assert await hook.verified_by(new) == [True]


@pytest.mark.parametrize(
    ("meanwhile", "status", "version"),
    [
        pytest.param("version = version + 1", 412, 2, id="changed"),
        pytest.param("version = version + 1, removed_at = now()", 404, None, id="removed"),
    ],
)
async def test_the_second_of_two_is_told_what_the_first_left(
    hook: Hook, meanwhile: str, status: int, version: int | None
) -> None:
    with psycopg.connect(hook.api.dsn) as first:
        first.execute(f"UPDATE notification_channel SET {meanwhile}".encode())
        second = asyncio.create_task(hook.replace())
        await waited_for(first)
        first.commit()
        told = await second
    assert (told.status_code, told.json().get("version")) == (status, version)


async def test_what_was_done_to_a_webhook_is_told_without_its_secrets(hook: Hook) -> None:
    root, seen = hook.api.client("root"), {"If-Match": "1"}
    changed = await root.patch(hook.path, json={"name": "x", "enabled": False}, headers=seen)
    hook.version = changed.json()["version"]
    new = await hook.secret_after(overlap_s=HOUR)
    seen = {"If-Match": str(hook.version)}
    assert (await root.delete(hook.path, headers=seen)).status_code == 204
    assert (await hook.replace()).status_code == 404
    history = await root.get(f"{hook.path}/history")
    assert [
        (one["version"], one["actor"], one["action"], one["params"]) for one in history.json()
    ] == [
        (1, "root", "made", {}),
        (2, "root", "changed", {"changed": ["enabled", "name"]}),
        (3, "root", "secret_replaced", {"overlap_s": HOUR}),
        (4, "root", "removed", {}),
    ]
    for secret in (hook.secret, new, "s3cr3t"):
        assert secret not in history.text
    assert (await hook.api.client("chen").get(f"{hook.path}/history")).status_code == 404
    assert (await hook.api.client("wang").get(f"{hook.path}/history")).status_code == 403
    with psycopg.connect(hook.api.dsn) as conn:
        assert conn.execute("SELECT FROM webhook_former_secret").fetchall() == []


async def test_what_does_not_sign_any_more_is_dropped(hook: Hook) -> None:
    await hook.secret_after(overlap_s=HOUR)
    await hook.secret_after(overlap_s=2 * HOUR)
    end = NOW + timedelta(seconds=HOUR)
    with psycopg.connect(hook.api.dsn) as conn:
        assert expired.drop_secrets(conn, end - timedelta(seconds=1)) == 0
        assert expired.drop_secrets(conn, end) == 1
        assert conn.execute("SELECT until FROM webhook_former_secret").fetchall() == [
            (NOW + timedelta(seconds=2 * HOUR),)
        ]


# -- shown once


def stored(api: Api, text: str) -> list[str]:
    """The tables that hold a text in any row."""
    with psycopg.connect(api.dsn) as conn:
        tables = conn.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        ).fetchall()
        return [
            table
            for (table,) in tables
            if conn.execute(
                f"""
                SELECT FROM {table} AS t
                WHERE position(%s IN t::text) > 0 OR position(%s IN t::text) > 0
                """.encode(),  # a bytea is written in hexadecimal digits
                (text, text.encode().hex()),
            ).fetchone()
            is not None
        ]


async def test_kept_answers_hold_no_secret_and_told_again_they_show_none(hook: Hook) -> None:
    root = hook.api.client("root")
    draft = {"area": "c01", "name": "other", "address": hook.receiver.url}
    asked: dict[str, Any] = {"json": draft, "headers": {"Idempotency-Key": "made"}}
    first, again = await root.post(PATH, **asked), await root.post(PATH, **asked)
    assert first.json()["secret"].startswith("whsec_")
    assert again.json() == {**first.json(), "secret": None}
    assert (again.status_code, again.headers["Location"]) == (201, first.headers["Location"])
    assert again.headers["Idempotency-Replayed"] == "true"
    assert stored(hook.api, first.json()["secret"]) == ["notification_channel"]

    once = await hook.replace(key="replaced", overlap_s=HOUR)
    hook.version -= 1
    twice = await hook.replace(key="replaced", overlap_s=HOUR)
    assert twice.json() == {**once.json(), "secret": None}
    new = once.json()["secret"]
    assert stored(hook.api, new) == ["notification_channel"]
    assert stored(hook.api, hook.secret) == ["webhook_former_secret"]
    assert await hook.verified_by(hook.secret, new) == [True, True]
