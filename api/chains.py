# SPDX-License-Identifier: Apache-2.0
"""Chains: whom alerts concern, step by step; set by admins, for their areas."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from pydantic import Field
from uuid_utils.compat import uuid7

from api.answers import Answer, Instant, Question
from api.errors import FieldError, Problem
from api.idempotency import idempotent, writes
from api.people import Principal
from api.places import find_area
from api.preconditions import SeenVersion, parse_id, seen_version
from api.state import Connection, services
from api.webhooks import Admin
from ingest.notify.chains import Chain, PersonRecipient, WebhookRecipient


class StoredChain(Answer):
    """A chain of an area, which holds in all areas below that have none of their own."""

    id: UUID
    area: str
    chain: Chain
    changed_at: Instant
    changed_by: str
    version: int


class ChainDraft(Question):
    """A chain to be kept, and where."""

    area: Annotated[str, Field(max_length=64)]
    chain: Chain


class ChainQuestion(Question):
    """Of which area, and below."""

    area: Annotated[str, Field(max_length=64)] | None = None


router = APIRouter(tags=["notifications"])


@router.get("/notification-chains")
async def list_chains(
    person: Admin, request: Request, question: Annotated[ChainQuestion, Query()]
) -> list[StoredChain]:
    """List the chains of an area and below it."""
    async with services(request).pool.connection() as conn:
        place = await find_area(conn, person.scope, question.area or person.area)
        async with conn.cursor(row_factory=class_row(StoredChain)) as cursor:
            await cursor.execute(
                """
                SELECT c.id, c.area, c.chain, c.changed_at, c.changed_by, c.version
                FROM notification_chain AS c
                JOIN area AS a ON a.area = c.area
                WHERE a.path <@ %(area)s::ltree
                  AND a.path <@ %(scope)s::ltree  -- invariant 9
                ORDER BY a.path, c.id
                LIMIT 1000
                """,
                {"area": place.path, "scope": person.path},
            )
            return await cursor.fetchall()


@router.post("/notification-chains", status_code=201)
@idempotent
async def add_chain(
    person: Admin, request: Request, response: Response, draft: ChainDraft
) -> StoredChain:
    """Keep a new chain."""
    parts, chain = services(request), uuid7()
    async with writes(request) as conn, conn.transaction():
        await _check_chain(conn, person, draft)
        await conn.execute(
            """
            INSERT INTO notification_chain (id, area, chain, changed_at, changed_by)
            VALUES (%s, %s, %s, %s, %s)
            """,
            (
                chain,
                draft.area,
                Jsonb(draft.chain.model_dump(mode="json")),
                parts.clock(),
                person.name,
            ),
        )
        response.headers["Location"] = f"{request.url.path}/{chain}"
        return await _find_chain(conn, person, chain)


@router.get("/notification-chains/{chain}")
async def get_chain(chain: str, person: Admin, request: Request) -> StoredChain:
    """Return one chain."""
    async with services(request).pool.connection() as conn:
        return await _find_chain(conn, person, parse_id(chain))


@router.put("/notification-chains/{chain}")
async def change_chain(
    chain: str, person: Admin, request: Request, draft: ChainDraft, if_match: SeenVersion = None
) -> StoredChain:
    """Replace a chain if it is still what was seen; what it tells already goes on as it was."""
    parts, expected = services(request), seen_version(if_match)
    async with parts.pool.connection() as conn, conn.transaction():
        found = await _find_chain(conn, person, parse_id(chain))
        await _check_chain(conn, person, draft)
        cursor = await conn.execute(
            """
            UPDATE notification_chain
            SET area = %s, chain = %s, changed_at = %s, changed_by = %s, version = version + 1
            WHERE id = %s AND version = %s
            """,
            (
                draft.area,
                Jsonb(draft.chain.model_dump(mode="json")),
                parts.clock(),
                person.name,
                found.id,
                expected,
            ),
        )
        if cursor.rowcount == 0:
            raise await _changed(conn, person, found.id)
        return await _find_chain(conn, person, found.id)


@router.delete("/notification-chains/{chain}", status_code=204)
async def remove_chain(
    chain: str, person: Admin, request: Request, if_match: SeenVersion = None
) -> None:
    """Remove a chain; that of an area above holds then, at last the built-in one."""
    expected = seen_version(if_match)
    async with services(request).pool.connection() as conn, conn.transaction():
        found = await _find_chain(conn, person, parse_id(chain))
        cursor = await conn.execute(
            "DELETE FROM notification_chain WHERE id = %s AND version = %s", (found.id, expected)
        )
        if cursor.rowcount == 0:
            raise await _changed(conn, person, found.id)


async def _find_chain(conn: Connection, person: Principal, chain: UUID) -> StoredChain:
    async with conn.cursor(row_factory=class_row(StoredChain)) as cursor:
        await cursor.execute(
            """
            SELECT c.id, c.area, c.chain, c.changed_at, c.changed_by, c.version
            FROM notification_chain AS c
            JOIN area AS a ON a.area = c.area
            WHERE c.id = %(chain)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            """,
            {"chain": chain, "scope": person.path},
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row


async def _changed(conn: Connection, person: Principal, chain: UUID) -> Problem:
    """Return what tells that a chain is not what was seen, with the version that is there now.

    Whoever held it meanwhile may have moved it since it was found.

    Raises:
        Problem: ``not_found``: it was removed.
    """
    present = await _find_chain(conn, person, chain)
    return Problem("notification.changed", extra={"version": present.version})


async def _check_chain(conn: Connection, person: Principal, draft: ChainDraft) -> None:
    """Refuse recipients that are not there, or who may not see the area.

    Raises:
        Problem: ``request.invalid``, with a pointer to each.
    """
    place = await find_area(conn, person.scope, draft.area)
    wrong: list[FieldError] = []
    for number, step in enumerate(draft.chain.steps):
        for index, recipient in enumerate(step.recipients):
            at = f"/body/chain/steps/{number}/recipients/{index}"
            match recipient:
                case PersonRecipient(person=name):
                    cursor = await conn.execute(
                        """
                        SELECT FROM person AS p
                        JOIN area AS a ON a.area = p.area
                        WHERE p.username = %(name)s AND p.active
                          -- above the chain's area, or within it
                          AND (a.path @> %(path)s::ltree OR a.path <@ %(path)s::ltree)
                        """,
                        {"name": name, "path": place.path},
                    )
                    if await cursor.fetchone() is None:
                        wrong.append(FieldError(f"{at}/person", "recipient.unknown"))
                case WebhookRecipient(webhook=webhook):
                    cursor = await conn.execute(
                        """
                        SELECT FROM notification_channel AS c
                        JOIN area AS a ON a.area = c.area
                        WHERE c.id = %(webhook)s AND c.removed_at IS NULL
                          AND (a.path @> %(path)s::ltree OR a.path <@ %(path)s::ltree)
                        """,
                        {"webhook": webhook, "path": place.path},
                    )
                    if await cursor.fetchone() is None:
                        wrong.append(FieldError(f"{at}/webhook", "recipient.unknown"))
                case _:
                    pass
    if wrong:
        raise Problem("request.invalid", errors=wrong)
