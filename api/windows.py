# SPDX-License-Identifier: Apache-2.0
"""Windows of maintenance: announced, cut short, called off, and listed for whoever they concern.

A window set for a larger area than a person's holds in theirs too. They are told that part of it:
when and why, not by whom or for what larger area.
"""

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from psycopg import sql
from psycopg.rows import class_row
from pydantic import Field

from api.answers import (
    Answer,
    Instant,
    Moment,
    Page,
    Question,
    TimeRangeQuestion,
    check_range,
    rfc3339,
)
from api.auth import Allow, Person
from api.errors import FieldError, Problem
from api.idempotency import idempotent, writes
from api.paging import LatestFirst
from api.people import Principal
from api.places import find_area
from api.preconditions import (
    NamedVersion,
    SeenVersion,
    named_version,
    parse_id,
    seen_version,
)
from api.remarks import Reason
from api.scope import Scope
from api.state import Connection, consistent, services
from ingest.store import windows as stored
from ingest.store.seen import Missing, Stale
from ingest.windows import Over, Phase, Refused, Unchanged

MANAGERS: Final = Allow("admin", "property")
Manager = Annotated[Principal, Depends(MANAGERS)]
_TYPES: Final[tuple[stored.NodeType, ...]] = ("area", "gateway", "device")

NodeId = Annotated[str, Field(max_length=64)]


class Window(Answer):
    """One window ``[begins_at, ends_at)``, for an area, a gateway or a device.

    Alerts there are muted while it is in force, but for danger to life; its time counts in no
    indicator. ``annulled``: called off, as if it had never been. ``inherited``: set for a larger
    area, of which ``area`` is the reader's; then ``created_by`` is not told.
    """

    id: UUID
    area: str | None
    gateway: str | None
    device: str | None
    inherited: bool
    phase: Phase
    begins_at: Instant
    ends_at: Instant
    reason: str
    created_by: str | None
    created_at: Instant
    changed_at: Instant
    version: int


class Entry(Answer):
    """One thing that was done to a window, by whom and why; begin and end from then on.

    ``cancelled``: called off while in force, so that it ended then.
    """

    at: Instant
    actor: str | None
    action: Literal["created", "changed", "cancelled", "annulled"]
    reason: str
    begins_at: Instant
    ends_at: Instant
    version: int


class WindowDetail(Window):
    """A window and all that was done to it, oldest first."""

    history: list[Entry]


class WindowQuestion(TimeRangeQuestion):
    """Which windows: those in an area and those that hold in it; of any time in ``[from, to)``."""

    area: NodeId | None = None
    phase: Phase | None = None


class Plan(Question):
    """What somebody announces, for one of ``area``, ``gateway``, ``device``.

    ``afterwards``: an admin accepts work of the past; the days it touches are restated.
    """

    area: NodeId | None = None
    gateway: NodeId | None = None
    device: NodeId | None = None
    begins_at: Moment
    ends_at: Moment
    reason: Reason
    afterwards: bool = False


class Amendment(Question):
    """Another begin or end, None: as it is, and why."""

    begins_at: Moment | None = None
    ends_at: Moment | None = None
    reason: Reason
    afterwards: bool = False


class Cancellation(Question):
    """Why it is called off. ``annul``: what of it is past counts again as well."""

    reason: Reason
    annul: bool = False
    afterwards: bool = False


router = APIRouter(tags=["windows"])

# What a person is told of a window; %(scope)s is their area's path, %(own)s its id.
_TOLD: Final = sql.SQL(
    """
    w.id, CASE WHEN w.path <@ %(scope)s::ltree THEN w.area ELSE %(own)s END AS area, w.gateway,
    w.device, NOT w.path <@ %(scope)s::ltree AS inherited,
    CASE WHEN w.annulled THEN 'annulled' WHEN w.begins_at > %(now)s THEN 'planned'
         WHEN w.ends_at > %(now)s THEN 'current' ELSE 'past' END AS phase,
    w.begins_at, w.ends_at, w.reason,
    CASE WHEN w.path <@ %(scope)s::ltree THEN w.created_by END AS created_by,
    w.created_at, w.changed_at, w.version
    """
)


@router.get("/windows")
async def list_windows(
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[WindowQuestion, Query()],
) -> Page[Window]:
    """List windows of maintenance, the latest to begin first."""
    parts = services(request)
    if question.from_ and question.to:
        check_range(question.from_, question.to)
    filters = question.model_dump(exclude={"limit", "cursor"})
    asked = ("windows", person.path, *filters.values())
    pages = LatestFirst(parts.cursors, question, asked)
    statement = sql.SQL(
        """
        SELECT w.id, w.area, w.gateway, w.device, w.inherited, w.phase, w.begins_at, w.ends_at,
               w.reason, w.created_by, w.created_at, w.changed_at, w.version
        FROM (
            SELECT {told}
            FROM maintenance_window_view AS w
            WHERE (w.path <@ %(area)s::ltree OR w.area IS NOT NULL AND w.path @> %(area)s::ltree)
              AND (w.path <@ %(scope)s::ltree  -- invariant 9
                   OR w.area IS NOT NULL AND w.path @> %(scope)s::ltree)
        ) AS w
        WHERE (%(phase)s::text IS NULL OR w.phase = %(phase)s)
          AND (%(from_)s::timestamptz IS NULL OR w.ends_at > %(from_)s)
          AND (%(to)s::timestamptz IS NULL OR w.begins_at < %(to)s)
          AND (%(after_id)s::uuid IS NULL
               OR (w.begins_at, w.id) < (%(after_at)s::timestamptz, %(after_id)s::uuid))
        ORDER BY w.begins_at DESC, w.id DESC
        LIMIT %(count)s
        """
    ).format(told=_TOLD)
    async with parts.pool.connection() as conn:
        area = await find_area(conn, person.scope, question.area or person.area)
        async with conn.cursor(row_factory=class_row(Window)) as cursor:
            await cursor.execute(
                statement,
                filters
                | _sight(person.scope, parts.clock())
                | {
                    "area": area.path,
                    **pages.parameters,
                },
            )
            rows = await cursor.fetchall()
    return pages.page(request, response, rows, lambda row: (row.begins_at, row.id))


@router.post("/windows", status_code=201)
@idempotent
async def create_window(
    person: Manager, request: Request, response: Response, plan: Plan
) -> Window:
    """Announce a window; one of the past only an admin may accept, who says so."""
    parts = services(request)
    node = _node(plan)
    _check_right(person, afterwards=plan.afterwards)
    async with writes(request) as conn:
        try:
            made = await stored.create(
                conn,
                node,
                plan.begins_at,
                plan.ends_at,
                within=person.area,
                actor=person.name,
                reason=plan.reason,
                afterwards=plan.afterwards,
                now=parts.clock(),
            )
        except Missing as missing:
            error = FieldError(f"/body/{missing.what}", "node.unknown")
            raise Problem("request.invalid", errors=[error]) from None
        except stored.TooMany:
            raise Problem("window.too_many", extra={"max": stored.PER_NODE_MAX}) from None
        except Refused as refused:
            raise _refused(refused) from None
        response.headers["Location"] = f"{request.url.path}/{made}"
        return await find_window(conn, person.scope, made, parts.clock())


@router.get("/windows/{window}")
async def get_window(window: str, person: Person, request: Request) -> WindowDetail:
    """Return one window with its history."""
    parts = services(request)
    async with parts.pool.connection() as conn, consistent(conn):
        found = await find_window(conn, person.scope, parse_id(window), parts.clock())
        async with conn.cursor(row_factory=class_row(Entry)) as cursor:
            await cursor.execute(
                """
                SELECT h.at, CASE WHEN w.path <@ %(scope)s::ltree THEN h.actor END AS actor,
                       h.action, h.reason, h.begins_at, h.ends_at, h.version
                FROM maintenance_window_history AS h
                JOIN maintenance_window_view AS w ON w.id = h.maintenance_window
                WHERE h.maintenance_window = %(window)s
                  AND (w.path <@ %(scope)s::ltree  -- invariant 9
                       OR w.area IS NOT NULL AND w.path @> %(scope)s::ltree)
                ORDER BY h.version
                """,
                {"window": found.id, "scope": person.path},
            )
            return WindowDetail(**dict(found), history=await cursor.fetchall())


@router.patch("/windows/{window}")
async def change_window(
    window: str,
    person: Manager,
    request: Request,
    amendment: Amendment,
    if_match: SeenVersion = None,
) -> Window:
    """Move a window's begin or end, if it is still what was seen; ``If-Match`` is required."""
    parts = services(request)
    expected = seen_version(if_match)
    _check_right(person, afterwards=amendment.afterwards)
    async with parts.pool.connection() as conn:
        found = await _own(conn, person.scope, window, parts.clock())
        try:
            await stored.change(
                conn,
                found.id,
                amendment.begins_at,
                amendment.ends_at,
                within=person.area,
                actor=person.name,
                reason=amendment.reason,
                afterwards=amendment.afterwards,
                expected_version=expected,
                now=parts.clock(),
            )
        except (Stale, Over, Unchanged, Refused) as error:
            raise await _problem(conn, person.scope, found.id, error, parts.clock()) from None
        return await find_window(conn, person.scope, found.id, parts.clock())


@router.post("/windows/{window}/cancel")
@idempotent
async def cancel_window(
    window: str,
    person: Manager,
    request: Request,
    cancellation: Cancellation,
    if_match: NamedVersion = None,
) -> Window:
    """Call a window off: a planned one never was, one in force ends now; nothing is deleted.

    With ``annul`` all of its time counts again, which also an admin may want of one that is over.
    """
    parts = services(request)
    expected = named_version(if_match)
    _check_right(person, afterwards=cancellation.afterwards)
    async with writes(request) as conn:
        found = await _own(conn, person.scope, window, parts.clock())
        try:
            await stored.cancel(
                conn,
                found.id,
                within=person.area,
                actor=person.name,
                reason=cancellation.reason,
                annul=cancellation.annul,
                afterwards=cancellation.afterwards,
                expected_version=expected,
                now=parts.clock(),
            )
        except (Stale, Over) as error:
            raise await _problem(conn, person.scope, found.id, error, parts.clock()) from None
        return await find_window(conn, person.scope, found.id, parts.clock())


async def find_window(conn: Connection, scope: Scope, window: UUID, now: datetime) -> Window:
    """Return one window that the person may see, as far as they may.

    Raises:
        Problem: ``not_found``: there is none, or it is not theirs; nobody can tell which.
    """
    async with conn.cursor(row_factory=class_row(Window)) as cursor:
        await cursor.execute(
            sql.SQL(
                """
                SELECT {told}
                FROM maintenance_window_view AS w
                WHERE w.id = %(window)s
                  AND (w.path <@ %(scope)s::ltree  -- invariant 9
                       OR w.area IS NOT NULL AND w.path @> %(scope)s::ltree)
                """
            ).format(told=_TOLD),
            _sight(scope, now) | {"window": window},
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row


async def _own(conn: Connection, scope: Scope, window: str, now: datetime) -> Window:
    """Return one window that the person may change.

    Raises:
        Problem: ``not_found``, or ``window.inherited``: it was set for a larger area.
    """
    found = await find_window(conn, scope, parse_id(window), now)
    if found.inherited:
        raise Problem("window.inherited")
    return found


def _sight(scope: Scope, now: datetime) -> dict[str, object]:
    return {"scope": scope.path, "own": scope.area, "now": now}


def _node(plan: Plan) -> stored.Node:
    named = [stored.Node(name, told) for name in _TYPES if (told := getattr(plan, name))]
    if len(named) == 1:
        return named[0]
    error = FieldError("/body/area", "field.missing")
    if named:
        error = FieldError(f"/body/{named[1].type}", "field.unfitting")
    raise Problem("request.invalid", errors=[error])


def _check_right(person: Principal, *, afterwards: bool) -> None:
    """Having the past excused is for those who answer for all.

    Raises:
        Problem: ``role.forbidden``.
    """
    if afterwards and person.role != "admin":
        raise Problem("role.forbidden")


async def _problem(
    conn: Connection,
    scope: Scope,
    window: UUID,
    error: Stale | Over | Unchanged | Refused,
    now: datetime,
) -> Problem:
    """Say what forbids it; to whoever came second also what the window is by now."""
    match error:
        case Refused():
            return _refused(error)
        case Unchanged():
            return Problem("window.unchanged")
        case _:
            code = "window.changed" if isinstance(error, Stale) else "window.over"
            found = await find_window(conn, scope, window, now)
            told = found.model_dump(
                mode="json", include={"version", "phase", "begins_at", "ends_at", "changed_at"}
            )
            return Problem(code, extra=told)


def _refused(refused: Refused) -> Problem:
    bounds = {
        name: rfc3339(bound) if isinstance(bound, datetime) else bound
        for name, bound in refused.bounds.items()
    }
    error = FieldError(f"/body/{refused.field}", refused.rule, bounds)
    return Problem("request.invalid", errors=[error])
