# SPDX-License-Identifier: Apache-2.0
"""Who is told of alerts: webhooks, one's own channels and wishes, and what was told.

Addresses and secrets go in and never come out; a webhook's secret is shown once, when it is made.
Sending is the work of one process: a test message is asked for here and sent there.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from psycopg.types.json import Jsonb
from pydantic import Field, StringConstraints
from uuid_utils.compat import uuid7

from api.answers import (
    Answer,
    Instant,
    Page,
    Question,
    TimeRangeQuestion,
    check_range,
)
from api.auth import Allow, Person
from api.errors import FieldError, Problem
from api.idempotency import idempotent, writes
from api.paging import link_next
from api.people import Principal
from api.places import find_area
from api.preconditions import parse_id, seen_version
from api.state import Connection, services
from ingest.notify.addresses import Forbidden, check
from ingest.notify.messengers import check_address, describe
from ingest.notify.recipients import CHANNELS_MAX, Preferences
from ingest.notify.webhook import new_secret

ADMINS: Final = Allow("admin")
Admin = Annotated[Principal, Depends(ADMINS)]
IfMatch = Annotated[str | None, Header(description="the version that was seen; required")]
#: A test waits so long for the process that sends.
_TEST: Final = timedelta(seconds=25)
_POLL_S: Final = 0.1
#: So many tests a minute of one person's channels, or one area's webhooks: nobody proved yet that
#: an address is theirs.
TESTS_MAX: Final = 5
_TESTS_WITHIN: Final = timedelta(minutes=1)

Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$"
    ),
]
Address = Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^[^\x00-\x1f\x7f]+$")]
Kind = Literal["email", "sms", "url", "webhook"]
State = Literal["waiting", "sending", "sent", "given_up", "unheard"]


class Wishes(Answer):
    """What one wants to be told, and how; critical alerts and dangers to life always come."""

    preferences: Preferences
    version: int


class ChannelAnswer(Answer):
    """Where somebody is told. ``address`` is shortened: whoever has it whole may use it."""

    id: UUID
    kind: Kind
    name: str
    address: str
    enabled: bool
    created_at: Instant
    version: int


class ChannelDraft(Question):
    """An e-mail address, a number for SMS, or an apprise URL of a messenger."""

    kind: Literal["email", "sms", "url"]
    name: Name
    address: Address


class Webhook(ChannelAnswer):
    """A webhook of an area; ``duress``: it may learn of alarms given under threat."""

    area: str
    duress: bool


class NewWebhook(Webhook):
    """A webhook that was just made, with what its messages are signed with: shown only now."""

    secret: str


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


class TestOutcome(Answer):
    """How a test message went; ``waiting`` where no process that sends took it in time."""

    state: State
    error: str | None


class Delivery(Answer):
    """One message to one channel, and how sending it went; ``error`` is a code."""

    key: UUID
    kind: Literal["raised", "repeated", "cleared", "digest", "test"]
    channel: UUID
    channel_kind: Kind
    channel_name: str | None = Field(description="null: that of somebody else is theirs to know")
    recipient: str | None = Field(description="user name; null for a webhook")
    community: str
    alerts: list[UUID]
    state: State
    attempts: int
    error: str | None
    created_at: Instant
    finished_at: Instant | None


class DeliveryQuestion(TimeRangeQuestion):
    """Which messages; the time means when they were made."""

    area: Annotated[str, Field(max_length=64)] | None = None
    alert: UUID | None = None
    recipient: Annotated[str, Field(max_length=40)] | None = None
    state: State | None = None


router = APIRouter(tags=["notifications"])


# -- what one wants oneself -----------------------------------------------------------------------


@router.get("/me/notifications")
async def get_wishes(person: Person, request: Request) -> Wishes:
    """Return what one wants to be told."""
    async with services(request).pool.connection() as conn:
        return await _wishes(conn, person)


@router.put("/me/notifications")
async def change_wishes(
    person: Person, request: Request, preferences: Preferences, if_match: IfMatch = None
) -> Wishes:
    """Say what one wants to be told, if it is still what was seen (version 0: nothing was said)."""
    _refuse_service(person)
    expected = seen_version(if_match)
    async with services(request).pool.connection() as conn, conn.transaction():
        cursor = await conn.execute(
            """
            INSERT INTO notification_preference AS w (username, wanted)
            SELECT %(name)s, %(wanted)s
            WHERE %(version)s = 0
               OR EXISTS (SELECT FROM notification_preference WHERE username = %(name)s)
            ON CONFLICT (username) DO UPDATE
            SET wanted = excluded.wanted, version = w.version + 1
            WHERE w.version = %(version)s
            """,
            {"name": person.name, "wanted": _json(preferences), "version": expected},
        )
        if cursor.rowcount == 0:
            before = await _wishes(conn, person)
            raise Problem("notification.changed", extra={"version": before.version})
        return await _wishes(conn, person)


async def _wishes(conn: Connection, person: Principal) -> Wishes:
    cursor = await conn.execute(
        "SELECT wanted, version FROM notification_preference WHERE username = %s",
        (person.name,),
    )
    row: tuple[Any, int] | None = await cursor.fetchone()
    if row is None:
        return Wishes(preferences=Preferences(), version=0)
    return Wishes(preferences=Preferences.model_validate(row[0]), version=row[1])


@router.get("/me/channels")
async def list_my_channels(person: Person, request: Request) -> list[ChannelAnswer]:
    """List where one is told."""
    async with services(request).pool.connection() as conn:
        cursor = await conn.execute(
            """
            SELECT id, kind, name, address, enabled, created_at, version
            FROM notification_channel
            WHERE username = %s AND removed_at IS NULL
            ORDER BY created_at, id
            """,
            (person.name,),
        )
        return [_shown(_Row(*row)) async for row in cursor]


@router.post("/me/channels", status_code=201)
@idempotent
async def add_my_channel(person: Person, request: Request, draft: ChannelDraft) -> ChannelAnswer:
    """Add where one is told; the address is never given out again."""
    _refuse_service(person)
    try:
        await asyncio.to_thread(check_address, draft.kind, draft.address)
    except Forbidden as error:
        raise _forbidden(error) from None
    channel, now = uuid7(), services(request).clock()
    async with writes(request) as conn, conn.transaction():
        await _check_room(conn, "username", person.name)
        await conn.execute(
            """
            INSERT INTO notification_channel (id, kind, name, address, username, created_at,
                                              created_by)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            """,
            (channel, draft.kind, draft.name, draft.address, person.name, now, person.name),
        )
    return _shown(_Row(channel, draft.kind, draft.name, draft.address, True, now, 1))


@router.delete("/me/channels/{channel}", status_code=204)
async def remove_my_channel(channel: str, person: Person, request: Request) -> None:
    """Remove where one is told; the log of what was told stays."""
    parts = services(request)
    async with parts.pool.connection() as conn:
        cursor = await conn.execute(
            """
            UPDATE notification_channel SET removed_at = %s, version = version + 1, address = ''
            WHERE id = %s AND username = %s AND removed_at IS NULL
            """,
            (parts.clock(), parse_id(channel), person.name),
        )
    if cursor.rowcount == 0:
        raise Problem("not_found")


@router.post("/me/channels/{channel}/test")
async def test_my_channel(channel: str, person: Person, request: Request) -> TestOutcome:
    """Send a test message now, and say how it went."""
    async with services(request).pool.connection() as conn:
        cursor = await conn.execute(
            """
            SELECT id FROM notification_channel
            WHERE id = %s AND username = %s AND removed_at IS NULL
            """,
            (parse_id(channel), person.name),
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return await _test(request, person, row[0])


# -- webhooks -------------------------------------------------------------------------------------


@router.get("/webhooks")
async def list_webhooks(person: Admin, request: Request) -> list[Webhook]:
    """List the webhooks of the areas in scope."""
    async with services(request).pool.connection() as conn:
        cursor = await conn.execute(
            """
            SELECT c.id, c.kind, c.name, c.address, c.enabled, c.created_at, c.version, c.area,
                   c.duress
            FROM notification_channel AS c
            JOIN area AS a ON a.area = c.area
            WHERE c.removed_at IS NULL
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY a.path, c.created_at, c.id
            LIMIT 1000
            """,
            {"scope": person.path},
        )
        return [_webhook(_Row(*row)) async for row in cursor]


@router.post("/webhooks", status_code=201)
@idempotent
async def add_webhook(
    person: Admin, request: Request, response: Response, draft: WebhookDraft
) -> NewWebhook:
    """Add a webhook; only this answer ever shows its secret."""
    parts, webhook, secret = services(request), uuid7(), new_secret()
    await _check_target(request, draft.address)
    async with writes(request) as conn, conn.transaction():
        await find_area(conn, person.scope, draft.area)
        await _check_room(conn, "area", draft.area)
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
                parts.clock(),
                person.name,
            ),
        )
        made = await _find_webhook(conn, person, webhook)
    response.headers["Location"] = f"{request.url.path}/{webhook}"
    return NewWebhook(**dict(made), secret=secret)


@router.patch("/webhooks/{webhook}")
async def change_webhook(
    webhook: str,
    person: Admin,
    request: Request,
    amendment: WebhookAmendment,
    if_match: IfMatch = None,
) -> Webhook:
    """Change a webhook if it is still what was seen; its secret stays."""
    parts, expected = services(request), seen_version(if_match)
    if amendment.address is not None:
        await _check_target(request, amendment.address)
    async with parts.pool.connection() as conn, conn.transaction():
        found = await _find_webhook(conn, person, parse_id(webhook))
        cursor = await conn.execute(
            """
            UPDATE notification_channel
            SET name = coalesce(%(name)s, name), address = coalesce(%(address)s, address),
                enabled = coalesce(%(enabled)s, enabled), duress = coalesce(%(duress)s, duress),
                version = version + 1
            WHERE id = %(id)s AND version = %(version)s
            """,
            {**amendment.model_dump(), "id": found.id, "version": expected},
        )
        if cursor.rowcount == 0:
            raise Problem("notification.changed", extra={"version": found.version})
        return await _find_webhook(conn, person, found.id)


@router.delete("/webhooks/{webhook}", status_code=204)
async def remove_webhook(
    webhook: str, person: Admin, request: Request, if_match: IfMatch = None
) -> None:
    """Remove a webhook; the log of what it was told stays."""
    parts, expected = services(request), seen_version(if_match)
    async with parts.pool.connection() as conn, conn.transaction():
        found = await _find_webhook(conn, person, parse_id(webhook))
        cursor = await conn.execute(
            """
            UPDATE notification_channel
            SET removed_at = %s, version = version + 1, address = '', secret = ''
            WHERE id = %s AND version = %s
            """,
            (parts.clock(), found.id, expected),
        )
        if cursor.rowcount == 0:
            raise Problem("notification.changed", extra={"version": found.version})


@router.post("/webhooks/{webhook}/test")
async def test_webhook(webhook: str, person: Admin, request: Request) -> TestOutcome:
    """Send a test message now, and say how it went."""
    async with services(request).pool.connection() as conn:
        found = await _find_webhook(conn, person, parse_id(webhook))
    return await _test(request, person, found.id)


async def _find_webhook(conn: Connection, person: Principal, webhook: UUID) -> Webhook:
    cursor = await conn.execute(
        """
        SELECT c.id, c.kind, c.name, c.address, c.enabled, c.created_at, c.version, c.area,
               c.duress
        FROM notification_channel AS c
        JOIN area AS a ON a.area = c.area
        WHERE c.id = %(webhook)s AND c.removed_at IS NULL
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        """,
        {"webhook": webhook, "scope": person.path},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return _webhook(_Row(*row))


async def _check_target(request: Request, url: str) -> None:
    allow_private = services(request).config.notify.allow_private
    try:
        await asyncio.to_thread(check, url, allow_private=allow_private)
    except Forbidden as error:
        raise _forbidden(error) from None


# -- what was told --------------------------------------------------------------------------------


@router.get("/notifications")
async def list_notifications(
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[DeliveryQuestion, Query()],
) -> Page[Delivery]:
    """List messages about alerts in scope, the latest first: to whom, and whether they arrived."""
    parts = services(request)
    if question.from_ and question.to:
        check_range(question.from_, question.to)
    filters = question.model_dump(exclude={"limit", "cursor"})
    asked = ("notifications", person.path, person.role, *filters.values())
    after = None if question.cursor is None else parts.cursors.read(question.cursor, asked)[0]
    async with parts.pool.connection() as conn:
        place = await find_area(conn, person.scope, question.area or person.area)
        cursor = await conn.execute(
            """
            SELECT m.id, m.key, m.kind, m.channel, c.kind,
                   CASE WHEN c.username IS NULL OR c.username = %(me)s THEN c.name END,
                   c.username, m.community,
                   v.alerts, m.state, m.attempts, m.error, m.created_at, m.finished_at
            FROM notification_message AS m
            JOIN notification_channel AS c ON c.id = m.channel
            CROSS JOIN LATERAL (
                SELECT array_agg(DISTINCT t.id) AS alerts
                FROM notification AS n
                JOIN alert_view AS t ON t.id = n.alert
                WHERE n.message = m.id
                  AND t.path <@ %(scope)s::ltree  -- invariant 9
                  AND t.path <@ %(area)s::ltree
                  AND NOT t.rule = ANY (%(hidden)s)
            ) AS v
            WHERE v.alerts IS NOT NULL
              AND (%(alert)s::uuid IS NULL OR %(alert)s = ANY (v.alerts))
              AND (%(recipient)s::text IS NULL OR c.username = %(recipient)s)
              AND (%(state)s::text IS NULL OR m.state = %(state)s)
              AND (%(from_)s::timestamptz IS NULL OR m.created_at >= %(from_)s)
              AND (%(to)s::timestamptz IS NULL OR m.created_at < %(to)s)
              AND (%(after)s::bigint IS NULL OR m.id < %(after)s)
            ORDER BY m.id DESC
            LIMIT %(count)s
            """,
            filters
            | {
                "me": person.name,
                "scope": person.path,
                "area": place.path,
                "hidden": person.scope.hidden_rules,
                "after": after,
                "count": question.limit + 1,
            },
        )
        rows = await cursor.fetchall()
    page, more = rows[: question.limit], len(rows) > question.limit
    following = parts.cursors.write([page[-1][0]], asked) if more else None
    link_next(request, response, following)
    names = (
        "key", "kind", "channel", "channel_kind", "channel_name", "recipient", "community",
        "alerts", "state", "attempts", "error", "created_at", "finished_at",
    )  # fmt: skip
    items = [Delivery.model_validate(dict(zip(names, row[1:], strict=True))) for row in page]
    return Page(items=items, next_cursor=following)


# -- details --------------------------------------------------------------------------------------


async def _test(request: Request, person: Principal, channel: UUID) -> TestOutcome:
    """Have a test message sent, as any other is, and wait for what becomes of it.

    Raises:
        Problem: ``notification.tests``: there were too many of late.
    """
    parts, now = services(request), services(request).clock()
    async with parts.pool.connection() as conn, conn.transaction():
        # One after the other, or many at once would all count none.
        await conn.execute("SELECT pg_advisory_xact_lock(hashtext('linli test message'))")
        cursor = await conn.execute(
            """
            SELECT count(*) FROM notification_message AS m
            WHERE m.kind = 'test' AND m.created_at > %(since)s
              AND m.channel IN (SELECT o.id FROM notification_channel AS c
                                JOIN notification_channel AS o
                                    ON o.username = c.username OR o.area = c.area
                                WHERE c.id = %(channel)s)
            """,
            {"since": now - _TESTS_WITHIN, "channel": channel},
        )
        counted = await cursor.fetchone()
        if counted is not None and counted[0] >= TESTS_MAX:
            raise Problem("notification.tests", headers={"Retry-After": "60"})
        cursor = await conn.execute(
            """
            INSERT INTO notification_message (key, channel, kind, content, created_at, next_at)
            VALUES (%s, %s, 'test', %s, %s, %s)
            RETURNING id
            """,
            (uuid7(), channel, Jsonb({"username": person.name}), now, now),
        )
        row = await cursor.fetchone()
    assert row is not None
    message: int = row[0]
    for _ in range(int(_TEST.total_seconds() / _POLL_S)):
        # A connection each time: they are few, and this waits for long.
        async with parts.pool.connection() as conn:
            cursor = await conn.execute(
                """
                SELECT state, error, finished_at IS NOT NULL FROM notification_message
                WHERE id = %s
                """,
                (message,),
            )
            told = await cursor.fetchone()
        assert told is not None
        if told[2]:
            return TestOutcome(state=told[0], error=told[1])
        await asyncio.sleep(_POLL_S)
    return TestOutcome(state="waiting", error=None)


async def _check_room(conn: Connection, owner: Literal["username", "area"], name: str) -> None:
    statement = (
        "SELECT count(*) FROM notification_channel WHERE username = %s AND removed_at IS NULL"
        if owner == "username"
        else "SELECT count(*) FROM notification_channel WHERE area = %s AND removed_at IS NULL"
    )
    cursor = await conn.execute(statement, (name,))
    row = await cursor.fetchone()
    if row is not None and row[0] >= CHANNELS_MAX:
        raise Problem("notification.too_many", extra={"max": CHANNELS_MAX})


def _refuse_service(person: Principal) -> None:
    """A service has no phone; it has webhooks.

    Raises:
        Problem: ``role.forbidden``.
    """
    if person.is_service:
        raise Problem("role.forbidden")


class _Row(NamedTuple):
    id: UUID
    kind: Kind
    name: str
    address: str
    enabled: bool
    created_at: datetime
    version: int
    area: str = ""
    duress: bool = False


def _shown(row: _Row) -> ChannelAnswer:
    return ChannelAnswer(
        id=row.id,
        kind=row.kind,
        name=row.name,
        address=describe(row.kind, row.address),
        enabled=row.enabled,
        created_at=row.created_at,
        version=row.version,
    )


def _webhook(row: _Row) -> Webhook:
    return Webhook(**dict(_shown(row)), area=row.area, duress=row.duress)


def _forbidden(error: Forbidden) -> Problem:
    return Problem("request.invalid", errors=[FieldError("/body/address", error.rule)])


def _json(part: Preferences) -> Jsonb:
    return Jsonb(part.model_dump(mode="json"))
