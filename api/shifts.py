# SPDX-License-Identifier: Apache-2.0
"""Shifts handed over from officer to officer, with what was open then."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from psycopg import sql
from psycopg.rows import class_row
from pydantic import Field

from api.answers import Answer, Instant, Page, PageQuestion, Question
from api.errors import FieldError, Problem
from api.idempotency import afterwards, idempotent, writes
from api.incidents import AreaId, Officer
from api.overview import Severity
from api.paging import LatestFirst
from api.preconditions import parse_id
from api.remarks import Note
from api.scope import Scope
from api.state import Connection, services
from ingest.store import case_desk as desk
from ingest.store import shifts as stored
from ingest.store.seen import Missing


class Listed(Answer):
    """A case that was open when the shift was handed over, as it was."""

    case: UUID
    severity: Severity
    assignee: str | None
    version: int


class Shift(Answer):
    """One hand-over; ``accepted_at`` null: the other has not taken over yet."""

    id: UUID
    area: str
    given_by: str
    given_to: str
    note: str | None
    cases: list[Listed]
    given_at: Instant
    accepted_at: Instant | None


class ShiftQuestion(PageQuestion):
    """Which hand-overs: all of the person's area, or those still to be accepted."""

    waiting: bool | None = None


class HandOver(Question):
    """To whom, for which area, and what there is to say."""

    to: Annotated[str, Field(max_length=64)]
    area: AreaId | None = Field(default=None, description="the person's own by default")
    note: Note | None = None


router = APIRouter(tags=["shifts"])

_ROW: Final = sql.SQL(
    """
    SELECT s.id, s.area, s.given_by, s.given_to, s.note, s.cases, s.given_at, s.accepted_at
    FROM shift AS s
    JOIN area AS a ON a.area = s.area
    WHERE a.path <@ %(scope)s::ltree  -- invariant 9
    """
)


@router.get("/shifts")
async def list_shifts(
    person: Officer,
    request: Request,
    response: Response,
    question: Annotated[ShiftQuestion, Query()],
) -> Page[Shift]:
    """List hand-overs, the latest first."""
    parts = services(request)
    asked = ("shifts", person.path, person.role, question.waiting)
    pages = LatestFirst(parts.cursors, question, asked)
    statement = _ROW + sql.SQL(
        """
          AND (%(waiting)s::boolean IS NULL OR %(waiting)s = (s.accepted_at IS NULL))
          AND (%(after_id)s::uuid IS NULL
               OR (s.given_at, s.id) < (%(after_at)s::timestamptz, %(after_id)s::uuid))
        ORDER BY s.given_at DESC, s.id DESC
        LIMIT %(count)s
        """
    )
    async with (
        parts.pool.connection() as conn,
        conn.cursor(row_factory=class_row(Shift)) as cursor,
    ):
        await cursor.execute(
            statement,
            {
                "scope": person.path,
                "waiting": question.waiting,
                **pages.parameters,
            },
        )
        rows = await cursor.fetchall()
    return pages.page(request, response, rows, lambda row: (row.given_at, row.id))


@router.post("/shifts", status_code=201)
@idempotent
async def hand_over_shift(
    person: Officer, request: Request, response: Response, given: HandOver
) -> Shift:
    """Hand a shift over to another officer who has the area; they are to accept it."""
    parts = services(request)
    async with writes(request) as conn:
        try:
            made = await stored.hand_over(
                conn,
                area=given.area or person.area,
                to=given.to,
                note=given.note,
                within=person.area,
                actor=person.name,
                now=parts.clock(),
            )
        except Missing:
            told = FieldError("/body/area", "area.unknown")
            raise Problem("request.invalid", errors=[told]) from None
        except desk.Unfit:
            told = FieldError("/body/to", "person.unfit")
            raise Problem("request.invalid", errors=[told]) from None
        response.headers["Location"] = f"{request.url.path}/{made}"
        return await _find(conn, person.scope, made)


@router.post("/shifts/{shift}/accept")
@idempotent
async def accept_shift(shift: str, person: Officer, request: Request) -> Shift:
    """Take a shift over; its giver's open cases are now the taker's. Only for whom it is meant."""
    parts = services(request)
    key = parse_id(shift)
    async with writes(request) as conn:
        found = await _find(conn, person.scope, key)
        if found.given_to != person.name:
            raise Problem("role.forbidden")
        try:
            taken = await stored.accept(conn, key, actor=person.name, now=parts.clock())
        except desk.Done:
            raise Problem("shift.accepted") from None
        except (Missing, desk.Unfit):
            raise Problem("not_found") from None
        accepted = await _find(conn, person.scope, key)

    def tell() -> None:
        for case in taken:
            parts.hub.tell_case(case)

    afterwards(request, tell)
    return accepted


async def _find(conn: Connection, scope: Scope, shift: UUID) -> Shift:
    async with conn.cursor(row_factory=class_row(Shift)) as cursor:
        await cursor.execute(
            _ROW + sql.SQL("AND s.id = %(shift)s"), {"shift": shift, "scope": scope.path}
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row
