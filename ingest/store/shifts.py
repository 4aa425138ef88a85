# SPDX-License-Identifier: Apache-2.0
"""Shifts handed over: by whom, to whom, and what was open then."""

from datetime import datetime
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from ingest.cases import Assign
from ingest.store.case_desk import Done, Unfit, is_fit
from ingest.store.case_rows import load, save
from ingest.store.seen import Missing


async def hand_over(
    conn: AsyncConnection,
    *,
    area: str,
    to: str,
    note: str | None,
    within: str,
    actor: str,
    now: datetime,
) -> UUID:
    """Hand a shift over to somebody, with a list of what is open in ``area``; return its id.

    Raises:
        Missing: Of ``area``: it is not within sight.
        Unfit: The other has not the area, is no officer, or is the same person.
    """
    async with conn.transaction():
        cursor = await conn.execute(
            """
            SELECT a.area FROM area AS a
            WHERE a.area = %(area)s
              -- invariant 9: never another area's rows
              AND a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(within)s)
            """,
            {"area": area, "within": within},
        )
        if await cursor.fetchone() is None:
            raise Missing("area")
        if to == actor or not await is_fit(conn, to, area):
            raise Unfit(to)
        cursor = await conn.execute(
            """
            SELECT c.id, c.severity, c.assignee, c.version
            FROM alert_case AS c
            JOIN area AS a ON a.area = c.area
            WHERE c.state = 'open'
              AND a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(area)s)
            ORDER BY c.first_at, c.id
            """,
            {"area": area},
        )
        listed = [
            {"case": str(case), "severity": severity, "assignee": assignee, "version": version}
            async for case, severity, assignee, version in cursor
        ]
        made = uuid7()
        await conn.execute(
            """
            INSERT INTO shift (id, area, given_by, given_to, note, cases, given_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            """,
            (made, area, actor, to, note or None, Jsonb(listed), now),
        )
    return made


async def accept(conn: AsyncConnection, shift: UUID, *, actor: str, now: datetime) -> list[UUID]:
    """Take a shift over: the open cases of it that its giver still has are now the taker's.

    Returns these cases.

    Raises:
        Missing: There is no such shift for this person.
        Done: It was accepted before.
        Unfit: The person lost the area meanwhile.
    """
    async with conn.transaction():
        cursor = await conn.execute(
            """
            SELECT s.area, s.given_by, s.cases, s.accepted_at FROM shift AS s
            WHERE s.id = %s AND s.given_to = %s
            FOR UPDATE
            """,
            (shift, actor),
        )
        row = await cursor.fetchone()
        if row is None:
            raise Missing("shift")
        area, given_by, listed, accepted_at = row
        if accepted_at is not None:
            raise Done
        if not await is_fit(conn, actor, area):
            raise Unfit(actor)
        taken: list[UUID] = []
        await conn.execute("UPDATE shift SET accepted_at = %s WHERE id = %s", (now, shift))
        for case, before in (await load(conn, [UUID(one["case"]) for one in listed])).items():
            if before.state == "open" and before.assignee == given_by:
                take = Assign(now, actor, "shift_accepted", actor)
                await save(conn, case, before, take, now)
                taken.append(case)
    return taken
