# SPDX-License-Identifier: Apache-2.0
"""One's own channels: where somebody is told. Addresses go in and never come out.

Sending is the work of one process: a test message is asked for here and sent there.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, NamedTuple
from uuid import UUID

from fastapi import APIRouter, Request
from psycopg.types.json import Jsonb
from pydantic import Field, StringConstraints
from uuid_utils.compat import uuid7

from api.answers import Answer, Instant, Question
from api.auth import Person
from api.errors import FieldError, Problem
from api.idempotency import idempotent, writes
from api.people import Principal
from api.preconditions import parse_id
from api.state import Connection, services
from ingest.notify.addresses import Forbidden
from ingest.notify.messengers import check_address, describe
from ingest.notify.recipients import CHANNELS_MAX

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


class TestOutcome(Answer):
    """How a test message went; ``waiting`` where no process that sends took it in time."""

    state: State
    error: str | None


router = APIRouter(tags=["notifications"])


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
        return [shown(Row(*row)) async for row in cursor]


@router.post("/me/channels", status_code=201)
@idempotent
async def add_my_channel(person: Person, request: Request, draft: ChannelDraft) -> ChannelAnswer:
    """Add where one is told; the address is never given out again."""
    refuse_service(person)
    try:
        await asyncio.to_thread(check_address, draft.kind, draft.address)
    except Forbidden as error:
        raise forbidden(error) from None
    channel, now = uuid7(), services(request).clock()
    async with writes(request) as conn, conn.transaction():
        await check_room(conn, "username", person.name)
        await conn.execute(
            """
            INSERT INTO notification_channel (id, kind, name, address, username, created_at,
                                              created_by)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            """,
            (channel, draft.kind, draft.name, draft.address, person.name, now, person.name),
        )
    return shown(Row(channel, draft.kind, draft.name, draft.address, True, now, 1))


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
    return await send_test(request, person, row[0])


# -- of any channel --------------------------------------------------------------------------------


async def send_test(request: Request, person: Principal, channel: UUID) -> TestOutcome:
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


async def check_room(conn: Connection, owner: Literal["username", "area"], name: str) -> None:
    """Refuse one channel more than a person, or one webhook more than an area, may have.

    Raises:
        Problem: ``notification.too_many``.
    """
    statement = (
        "SELECT count(*) FROM notification_channel WHERE username = %s AND removed_at IS NULL"
        if owner == "username"
        else "SELECT count(*) FROM notification_channel WHERE area = %s AND removed_at IS NULL"
    )
    cursor = await conn.execute(statement, (name,))
    row = await cursor.fetchone()
    if row is not None and row[0] >= CHANNELS_MAX:
        raise Problem("notification.too_many", extra={"max": CHANNELS_MAX})


def refuse_service(person: Principal) -> None:
    """A service has no phone; it has webhooks.

    Raises:
        Problem: ``role.forbidden``.
    """
    if person.is_service:
        raise Problem("role.forbidden")


class Row(NamedTuple):
    """A channel as it is stored."""

    id: UUID
    kind: Kind
    name: str
    address: str
    enabled: bool
    created_at: datetime
    version: int


def shown(row: Row) -> ChannelAnswer:
    """Return what people see of a channel."""
    return ChannelAnswer(
        id=row.id,
        kind=row.kind,
        name=row.name,
        address=describe(row.kind, row.address),
        enabled=row.enabled,
        created_at=row.created_at,
        version=row.version,
    )


def forbidden(error: Forbidden) -> Problem:
    """Return the problem that an address must not be; it does not repeat the address."""
    return Problem("request.invalid", errors=[FieldError("/body/address", error.rule)])
