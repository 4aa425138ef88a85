# SPDX-License-Identifier: Apache-2.0
"""What one wants to be told, and how: everybody's own; critical alerts always come."""

from typing import Any

from fastapi import APIRouter, Request
from psycopg.types.json import Jsonb

from api.answers import Answer
from api.auth import Person
from api.channels import refuse_service
from api.errors import Problem
from api.people import Principal
from api.preconditions import SeenVersion, seen_version
from api.state import Connection, services
from ingest.notify.recipients import Preferences


class Wishes(Answer):
    """What one wants to be told, and how; critical alerts and dangers to life always come."""

    preferences: Preferences
    version: int


router = APIRouter(tags=["notifications"])


@router.get("/me/notifications")
async def get_wishes(person: Person, request: Request) -> Wishes:
    """Return what one wants to be told."""
    async with services(request).pool.connection() as conn:
        return await _wishes(conn, person)


@router.put("/me/notifications")
async def change_wishes(
    person: Person, request: Request, preferences: Preferences, if_match: SeenVersion = None
) -> Wishes:
    """Say what one wants to be told, if it is still what was seen (version 0: nothing was said)."""
    refuse_service(person)
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
            {
                "name": person.name,
                "wanted": Jsonb(preferences.model_dump(mode="json")),
                "version": expected,
            },
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
