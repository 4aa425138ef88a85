# SPDX-License-Identifier: Apache-2.0
"""Webhooks of areas: machines that are told, and what their messages are signed with.

A secret is shown once, to who made or replaced the webhook's. It is in no other answer, nor in what
is kept of that one: asked again with its ``Idempotency-Key``, the answer has ``secret`` null.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from pydantic import Field
from uuid_utils.compat import uuid7

from api.answers import Answer, Instant, Question
from api.auth import Allow
from api.channels import (
    Address,
    ChannelAnswer,
    Name,
    TestOutcome,
    check_room,
    forbidden,
    send_test,
)
from api.errors import Problem
from api.idempotency import idempotent, writes
from api.people import Principal
from api.places import find_area
from api.preconditions import SeenVersion, parse_id, seen_version
from api.state import Connection, services
from ingest.notify.addresses import Forbidden, check
from ingest.notify.messengers import describe
from ingest.notify.webhook import SECRETS_MAX, new_secret

ADMINS: Final = Allow("admin")
Admin = Annotated[Principal, Depends(ADMINS)]
#: Both secrets sign for so long where nothing is said, and at most.
_OVERLAP_S: Final = 24 * 3600
OVERLAP_MAX_S: Final = 7 * 24 * 3600


class Webhook(ChannelAnswer):
    """A webhook of an area; ``duress``: it may learn of alarms given under threat.

    ``former_secret_until``: until then a secret that was replaced signs beside the present one.
    """

    area: str
    duress: bool
    former_secret_until: Instant | None


class NewSecret(Webhook):
    """A webhook, and what its messages are signed with from now on: shown only now."""

    secret: str | None = Field(description="null where an answer is told again")

    def to_keep(self) -> Answer:
        """Return it without the secret."""
        return self.model_copy(update={"secret": None})


class WebhookDraft(Question):
    """A URL to post to, of https, at a public address."""

    area: Annotated[str, Field(max_length=64)]
    name: Name
    address: Address
    duress: bool = False


class WebhookAmendment(Question):
    """What shall be different; what is not named stays."""

    name: Name | None = None
    address: Address | None = None
    enabled: bool | None = None
    duress: bool | None = None


class Replacement(Question):
    """For how long what the secret replaces signs as well, s; 0: it is known to others, at once."""

    overlap_s: int = Field(default=_OVERLAP_S, ge=0, le=OVERLAP_MAX_S)


class WebhookStep(Answer):
    """What somebody did to a webhook.

    ``params`` name what was ``changed``, or the ``overlap_s`` of ``secret_replaced``.
    """

    version: int
    at: Instant
    actor: str
    action: Literal["made", "changed", "secret_replaced", "removed"]
    params: dict[str, Any]


router = APIRouter(tags=["notifications"])


@router.get("/webhooks")
async def list_webhooks(person: Admin, request: Request) -> list[Webhook]:
    """List the webhooks of the areas in scope."""
    parts = services(request)
    async with parts.pool.connection() as conn:
        return await _read(conn, person, None, parts.clock())


@router.post("/webhooks", status_code=201)
@idempotent
async def add_webhook(
    person: Admin, request: Request, response: Response, draft: WebhookDraft
) -> NewSecret:
    """Add a webhook; only this answer ever shows its secret."""
    webhook, secret, now = uuid7(), new_secret(), services(request).clock()
    await _check_target(request, draft.address)
    async with writes(request) as conn, conn.transaction():
        await find_area(conn, person.scope, draft.area)
        await check_room(conn, "area", draft.area)
        await conn.execute(
            """
            INSERT INTO notification_channel (id, kind, name, address, area, secret, duress,
                                              created_at, created_by)
            VALUES (%s, 'webhook', %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                webhook,
                draft.name,
                draft.address,
                draft.area,
                secret,
                draft.duress,
                now,
                person.name,
            ),
        )
        await _note(conn, webhook, "made", person, now)
        made = await _find(conn, person, webhook, now)
    response.headers["Location"] = f"{request.url.path}/{webhook}"
    return NewSecret(**dict(made), secret=secret)


@router.patch("/webhooks/{webhook}")
async def change_webhook(
    webhook: str,
    person: Admin,
    request: Request,
    amendment: WebhookAmendment,
    if_match: SeenVersion = None,
) -> Webhook:
    """Change a webhook if it is still what was seen; its secret stays."""
    parts, expected = services(request), seen_version(if_match)
    if amendment.address is not None:
        await _check_target(request, amendment.address)
    now = parts.clock()
    async with parts.pool.connection() as conn, conn.transaction():
        found = await _take(conn, person, webhook, expected, now)
        await conn.execute(
            """
            UPDATE notification_channel
            SET name = coalesce(%(name)s, name), address = coalesce(%(address)s, address),
                enabled = coalesce(%(enabled)s, enabled), duress = coalesce(%(duress)s, duress)
            WHERE id = %(id)s
            """,
            {**amendment.model_dump(), "id": found.id},
        )
        # An address is named, not told.
        changed = sorted(amendment.model_dump(exclude_none=True))
        await _note(conn, found.id, "changed", person, now, changed=changed)
        return await _find(conn, person, found.id, now)


@router.post("/webhooks/{webhook}/secret")
@idempotent
async def replace_secret(
    webhook: str,
    person: Admin,
    request: Request,
    replacement: Replacement,
    if_match: SeenVersion = None,
) -> NewSecret:
    """Sign with a new secret from now on, and for a time with those before it as well.

    Only this answer ever shows it. ``overlap_s`` is the longest that any secret before it still
    signs: what is known to others is replaced with 0.
    """
    expected, secret, now = seen_version(if_match), new_secret(), services(request).clock()
    until = now + timedelta(seconds=replacement.overlap_s)
    async with writes(request) as conn, conn.transaction():
        found = await _take(conn, person, webhook, expected, now)
        await conn.execute(
            """
            INSERT INTO webhook_former_secret (webhook, secret, until)
            SELECT id, secret, %s FROM notification_channel WHERE id = %s
            """,
            (until, found.id),
        )
        await conn.execute(
            "UPDATE notification_channel SET secret = %s WHERE id = %s", (secret, found.id)
        )
        await conn.execute(
            "UPDATE webhook_former_secret SET until = %s WHERE webhook = %s AND until > %s",
            (until, found.id, until),
        )
        await conn.execute(
            "DELETE FROM webhook_former_secret WHERE webhook = %s AND until <= %s", (found.id, now)
        )
        cursor = await conn.execute(
            "SELECT count(*) FROM webhook_former_secret WHERE webhook = %s", (found.id,)
        )
        row = await cursor.fetchone()
        if row is not None and row[0] >= SECRETS_MAX:
            raise Problem("webhook.secrets", extra={"max": SECRETS_MAX})
        await _note(conn, found.id, "secret_replaced", person, now, overlap_s=replacement.overlap_s)
        made = await _find(conn, person, found.id, now)
    return NewSecret(**dict(made), secret=secret)


@router.delete("/webhooks/{webhook}", status_code=204)
async def remove_webhook(
    webhook: str, person: Admin, request: Request, if_match: SeenVersion = None
) -> None:
    """Remove a webhook; the log of what it was told stays."""
    parts, expected = services(request), seen_version(if_match)
    now = parts.clock()
    async with parts.pool.connection() as conn, conn.transaction():
        found = await _take(conn, person, webhook, expected, now)
        await conn.execute(
            """
            UPDATE notification_channel SET removed_at = %s, address = '', secret = ''
            WHERE id = %s
            """,
            (now, found.id),
        )
        await conn.execute("DELETE FROM webhook_former_secret WHERE webhook = %s", (found.id,))
        await _note(conn, found.id, "removed", person, now)


@router.get("/webhooks/{webhook}/history")
async def get_webhook_history(webhook: str, person: Admin, request: Request) -> list[WebhookStep]:
    """Return what was done to a webhook, oldest first; of one that was removed as well."""
    async with (
        services(request).pool.connection() as conn,
        conn.cursor(row_factory=class_row(WebhookStep)) as cursor,
    ):
        await cursor.execute(
            """
            SELECT h.version, h.at, h.actor, h.action, h.params
            FROM webhook_history AS h
            JOIN notification_channel AS c ON c.id = h.webhook
            JOIN area AS a ON a.area = c.area
            WHERE h.webhook = %(webhook)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY h.version
            """,
            {"webhook": parse_id(webhook), "scope": person.path},
        )
        steps = await cursor.fetchall()
    if not steps:
        raise Problem("not_found")
    return steps


@router.post("/webhooks/{webhook}/test")
async def test_webhook(webhook: str, person: Admin, request: Request) -> TestOutcome:
    """Send a test message now, and say how it went."""
    parts = services(request)
    async with parts.pool.connection() as conn:
        found = await _find(conn, person, parse_id(webhook), parts.clock())
    return await send_test(request, person, found.id)


# -- details --------------------------------------------------------------------------------------


async def _read(
    conn: Connection, person: Principal, webhook: UUID | None, now: datetime
) -> list[Webhook]:
    cursor = await conn.execute(
        """
        SELECT c.id, c.kind, c.name, c.address, c.enabled, c.created_at, c.version, c.area,
               c.duress,
               (SELECT max(f.until) FROM webhook_former_secret AS f
                WHERE f.webhook = c.id AND f.until > %(now)s) AS former_secret_until
        FROM notification_channel AS c
        JOIN area AS a ON a.area = c.area
        WHERE c.removed_at IS NULL
          AND (%(webhook)s::uuid IS NULL OR c.id = %(webhook)s)
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        ORDER BY a.path, c.created_at, c.id
        LIMIT 1000
        """,
        {"webhook": webhook, "scope": person.path, "now": now},
    )
    names = tuple(Webhook.model_fields)
    found: list[Webhook] = []
    async for row in cursor:
        told = dict(zip(names, row, strict=True))
        told["address"] = describe("webhook", told["address"])
        found.append(Webhook.model_validate(told))
    return found


async def _find(conn: Connection, person: Principal, webhook: UUID, now: datetime) -> Webhook:
    """Return a webhook in scope.

    Raises:
        Problem: ``not_found``.
    """
    found = await _read(conn, person, webhook, now)
    if not found:
        raise Problem("not_found")
    return found[0]


async def _take(
    conn: Connection, person: Principal, webhook: str, expected: int, now: datetime
) -> Webhook:
    """Take a webhook for this transaction, one version on, if it is what was seen.

    Raises:
        Problem: ``not_found``, or ``notification.changed`` with the version that is there now.
    """
    found = await _find(conn, person, parse_id(webhook), now)
    cursor = await conn.execute(
        """
        UPDATE notification_channel SET version = version + 1
        WHERE id = %s AND version = %s AND removed_at IS NULL
        """,
        (found.id, expected),
    )
    if cursor.rowcount == 0:
        # Whoever held it meanwhile may have moved or removed it since it was found.
        present = await _find(conn, person, found.id, now)
        raise Problem("notification.changed", extra={"version": present.version})
    return found


async def _note(
    conn: Connection,
    webhook: UUID,
    action: str,
    person: Principal,
    now: datetime,
    **params: object,
) -> None:
    await conn.execute(
        """
        INSERT INTO webhook_history (webhook, version, at, actor, action, params)
        SELECT id, version, %s, %s, %s, %s FROM notification_channel WHERE id = %s
        """,
        (now, person.name, action, Jsonb(params), webhook),
    )


async def _check_target(request: Request, url: str) -> None:
    allow_private = services(request).config.notify.allow_private
    try:
        await asyncio.to_thread(check, url, allow_private=allow_private)
    except Forbidden as error:
        raise forbidden(error) from None
