# SPDX-License-Identifier: Apache-2.0
"""Every route of the desk that makes or moves something: with a key asked twice, done once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pytest
from httpx2 import Response
from psycopg import sql

from tests.api.conftest import Api
from tests.api.test_cases import FALSE, LIST, SHIFTS, Desk
from tests.api.test_notifications import CHAIN, PUBLIC
from tests.api.test_rules import OWN
from tests.api.test_windows import LIST as WINDOWS
from tests.api.test_windows import PLAN, made

# What being asked leaves behind, whatever is asked.
_ASIDE: Final = {"session", "idempotency"}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``version`` is what ``If-Match`` says, 0 included; None: nothing is said."""

    path: str
    body: Mapping[str, Any] | None
    who: str = "li"
    version: int | None = None
    method: str = "POST"


async def confirm(desk: Desk) -> Ask:
    case = desk.ring("alarm.intrusion", 10)
    return Ask(f"{LIST}/{case}/confirm", {"category": "burglary"}, version=1)


async def close(desk: Desk) -> Ask:
    return Ask(f"{LIST}/{desk.ring('alarm.intrusion', 10)}/close", FALSE, version=1)


async def reopen(desk: Desk) -> Ask:
    case = desk.ring("alarm.intrusion", 10)
    await desk.ok(case, "close", FALSE)
    return Ask(f"{LIST}/{case}/reopen", {"reason": "no cat"}, version=2)


async def assign(desk: Desk) -> Ask:
    return Ask(f"{LIST}/{desk.ring('alarm.intrusion', 10)}/assign", {"to": "li"}, version=1)


async def rate(desk: Desk) -> Ask:
    case = desk.ring("alarm.intrusion", 10)
    return Ask(f"{LIST}/{case}/rate", {"severity": "minor", "reason": "a cat"}, version=1)


async def note(desk: Desk) -> Ask:
    return Ask(f"{LIST}/{desk.ring('alarm.intrusion', 10)}/notes", {"note": "x"}, version=1)


async def merge(desk: Desk) -> Ask:
    first = desk.ring("alarm.intrusion", 100)
    second = desk.ring("gate.forced", 10, device="c01-gate-001")
    body = {"into": first, "into_version": 1, "reason": "the same"}
    return Ask(f"{LIST}/{second}/merge", body, version=1)


async def split(desk: Desk) -> Ask:
    case = desk.ring("gate.forced", 10, device="c01-gate-001")
    desk.ring("alarm.panic", 9)
    (_, panic) = (one["id"] for one in (await desk.get(case))["alerts"])
    return Ask(f"{LIST}/{case}/split", {"alerts": [panic], "reason": "a fall"}, version=2)


async def step(desk: Desk) -> Ask:
    case = desk.ring("alarm.duress", 10)
    return Ask(f"{LIST}/{case}/steps/keep_silent", {"note": "radio only"}, version=1)


async def hand_over(desk: Desk) -> Ask:
    return Ask(SHIFTS, {"to": "root", "note": "看好 3 号楼"})


async def accept(desk: Desk) -> Ask:
    given = await desk.api.client("li").post(SHIFTS, json={"to": "root"})
    return Ask(f"{given.headers['location']}/accept", None, "root")


async def announce(_: Desk) -> Ask:
    return Ask(WINDOWS, PLAN, "wang")


async def call_off(desk: Desk) -> Ask:
    return Ask(f"{await made(desk.api)}/cancel", {"reason": "雨"}, "wang", 1)


async def chain(_: Desk) -> Ask:
    return Ask("/api/v1/notification-chains", {"area": "c01", "chain": CHAIN}, "root")


async def channel(_: Desk) -> Ask:
    body = {"kind": "email", "name": "post", "address": "li@example.org"}
    return Ask("/api/v1/me/channels", body)


async def webhook(_: Desk) -> Ask:
    body = {"area": "c01", "name": "control room", "address": PUBLIC}
    return Ask("/api/v1/webhooks", body, "root")


async def secret(desk: Desk) -> Ask:
    body = {"area": "c01", "name": "control room", "address": PUBLIC}
    hook = await desk.api.client("root").post("/api/v1/webhooks", json=body)
    return Ask(f"{hook.headers['location']}/secret", {"overlap_s": 60}, "root", 1)


async def rule(_: Desk) -> Ask:
    body = {"definition": OWN, "reason": "tuned"}
    return Ask("/api/v1/areas/c01/rules/custom.half", body, "wang", 0, "PUT")


ROUTES: Final[list[Callable[[Desk], Awaitable[Ask]]]] = [
    confirm, close, reopen, assign, rate, note, merge, split, step, hand_over, accept, announce,
    call_off, chain, channel, webhook, secret, rule,
]  # fmt: skip


def all_rows(api: Api) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is stored, by table."""
    with psycopg.connect(api.dsn) as conn:
        names = conn.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1"
        ).fetchall()
        return {
            name: conn.execute(
                sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(sql.Identifier(name))
            ).fetchall()
            for (name,) in names
            if name not in _ASIDE
        }


def kept(answer: Response) -> bytes:
    """An answer without what is shown once."""
    told = answer.json()
    if "secret" not in told:
        return answer.content
    return answer.content.replace(json.dumps(told["secret"]).encode(), b"null")


@pytest.mark.parametrize("route", [pytest.param(one, id=one.__name__) for one in ROUTES])
async def test_asked_twice_with_a_key_it_is_done_once_and_told_alike(
    own_city: Api, route: Callable[[Desk], Awaitable[Ask]]
) -> None:
    wanted = await route(Desk(own_city))
    headers = {"Idempotency-Key": "once"}
    if wanted.version is not None:
        headers["If-Match"] = f'"{wanted.version}"'
    client = own_city.client(wanted.who)
    before = all_rows(own_city)
    first = await client.request(wanted.method, wanted.path, json=wanted.body, headers=headers)
    assert first.status_code in (200, 201), first.text
    done = all_rows(own_city)
    assert done != before
    again = await client.request(wanted.method, wanted.path, json=wanted.body, headers=headers)
    assert all_rows(own_city) == done
    assert (again.status_code, again.content) == (first.status_code, kept(first))
    assert again.headers.get("Location") == first.headers.get("Location")
    told = [answer.headers.get("Idempotency-Replayed") for answer in (first, again)]
    assert told == [None, "true"]
    other = await client.request(
        wanted.method, f"{wanted.path}?x=1", json=wanted.body, headers=headers
    )
    assert (other.status_code, other.json()["code"]) == (422, "idempotency.reused")
