# SPDX-License-Identifier: Apache-2.0
"""What officers do with cases: settle, assign, rate, note, merge, split.

What is moved is what was seen: every move names its version in ``If-Match``, and who comes second
is told who was first.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.answers import Moment, Question, rfc3339
from api.cases import CaseDetail, find_case, read_case
from api.errors import FieldError, Problem
from api.idempotency import afterwards, idempotent, writes
from api.incidents import AreaId, Officer
from api.overview import Severity
from api.people import Principal
from api.preconditions import SeenVersion, parse_id, seen_version
from api.remarks import Note, Reason
from api.scope import Scope
from api.state import Connection, services
from ingest import cases as pure
from ingest import incidents
from ingest.cases import Outcome
from ingest.indicators.security import Category
from ingest.store import case_desk as desk
from ingest.store import incidents as records
from ingest.store.seen import Missing, Stale


class Confirmation(Question):
    """What it was; place and time as the case has them, unless named."""

    category: Category
    area: AreaId | None = None
    occurred_at: Moment | None = None
    note: Note | None = None
    reason: Reason = Field(default="confirmed", description="why, for the history")


class Closing(Question):
    """Why it was no incident; ``of`` is the case that tells of the same, for a duplicate."""

    outcome: Outcome
    of: UUID | None = None
    note: Note | None = None
    reason: Reason


class Why(Question):
    """Why, for the history."""

    reason: Reason


class Assignment(Question):
    """Who shall work on it; null: nobody any more."""

    to: Annotated[str, Field(max_length=64)] | None
    reason: Reason = Field(default="assigned", description="why, for the history")


class Rating(Question):
    """How severe it is; null: as its alerts say."""

    severity: Severity | None
    reason: Reason


class Remark(Question):
    """What a person writes down."""

    note: Annotated[Note, Field(min_length=1)]


class Merging(Question):
    """Which case takes over the alerts, and the version of it that was seen."""

    into: UUID
    into_version: int = Field(ge=1)
    reason: Reason


class Splitting(Question):
    """Which alerts tell of something else."""

    alerts: list[UUID] = Field(min_length=1, max_length=200)
    reason: Reason


class StepDone(Question):
    """What there is to say of a step that was done."""

    note: Note | None = None


router = APIRouter(tags=["cases"])


@router.post("/cases/{case}/confirm")
@idempotent
async def confirm_case(
    case: str,
    person: Officer,
    request: Request,
    confirmation: Confirmation,
    if_match: SeenVersion = None,
) -> CaseDetail:
    """Say that it was an incident: its record is written and counts."""
    finding = desk.Finding(
        confirmation.category,
        confirmation.area,
        confirmation.occurred_at,
        confirmation.note or None,
    )
    return await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.confirm(conn, key, sight, confirmation.reason, finding),
    )


@router.post("/cases/{case}/close")
@idempotent
async def close_case(
    case: str, person: Officer, request: Request, closing: Closing, if_match: SeenVersion = None
) -> CaseDetail:
    """Say why it was no incident: each of its alarms counts as that."""
    if (closing.outcome == "duplicate") != (closing.of is not None):
        code = "field.missing" if closing.of is None else "field.unfitting"
        raise Problem("request.invalid", errors=[FieldError("/body/of", code)])
    return await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.close(
            conn,
            key,
            sight,
            pure.Close(sight.now, sight.actor, closing.reason, closing.outcome, closing.of),
            closing.note or None,
        ),
        other="of",
    )


@router.post("/cases/{case}/reopen")
@idempotent
async def reopen_case(
    case: str, person: Officer, request: Request, why: Why, if_match: SeenVersion = None
) -> CaseDetail:
    """Take back what was found."""
    return await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.reopen(conn, key, sight, why.reason),
    )


@router.post("/cases/{case}/assign")
@idempotent
async def assign_case(
    case: str,
    person: Officer,
    request: Request,
    assignment: Assignment,
    if_match: SeenVersion = None,
) -> CaseDetail:
    """Give it to an officer who has its area, or to nobody."""
    return await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.assign(
            conn,
            key,
            sight,
            pure.Assign(sight.now, sight.actor, assignment.reason, assignment.to),
        ),
    )


@router.post("/cases/{case}/rate")
@idempotent
async def rate_case(
    case: str, person: Officer, request: Request, rating: Rating, if_match: SeenVersion = None
) -> CaseDetail:
    """Say how severe it is; until something worse joins it."""
    return await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.act(
            conn, key, sight, pure.Rate(sight.now, sight.actor, rating.reason, rating.severity)
        ),
    )


@router.post("/cases/{case}/notes")
@idempotent
async def note_case(
    case: str, person: Officer, request: Request, remark: Remark, if_match: SeenVersion = None
) -> CaseDetail:
    """Write something down."""
    return await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.act(
            conn, key, sight, pure.Note(sight.now, sight.actor, remark.note)
        ),
    )


@router.post("/cases/{case}/merge")
@idempotent
async def merge_case(
    case: str, person: Officer, request: Request, merging: Merging, if_match: SeenVersion = None
) -> CaseDetail:
    """Let another case take over its alerts; it is closed by that."""
    return await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.merge(
            conn, key, sight, merging.into, merging.into_version, merging.reason
        ),
        other="into",
    )


@router.post("/cases/{case}/split", status_code=201)
@idempotent
async def split_case(
    case: str,
    person: Officer,
    request: Request,
    response: Response,
    splitting: Splitting,
    if_match: SeenVersion = None,
) -> CaseDetail:
    """Make a case of its own of some alerts; returns the new one."""
    made = await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.split(conn, key, sight, splitting.alerts, splitting.reason),
    )
    response.headers["Location"] = f"{request.url.path.rsplit('/', 2)[0]}/{made.id}"
    return made


@router.post("/cases/{case}/steps/{step}")
@idempotent
async def do_step(
    case: str,
    step: str,
    person: Officer,
    request: Request,
    done: StepDone,
    if_match: SeenVersion = None,
) -> CaseDetail:
    """Note that a step of the response plan was done."""
    return await _move(
        request,
        person,
        case,
        if_match,
        lambda conn, key, sight: desk.do_step(
            conn, key, sight, pure.DoStep(sight.now, sight.actor, step, done.note or None)
        ),
    )


# Returns the case to be shown, where that is another.
Deed = Callable[[Connection, UUID, desk.Sight], Coroutine[Any, Any, UUID | None]]


async def _move(
    request: Request,
    person: Principal,
    case: str,
    if_match: str | None,
    deed: Deed,
    *,
    other: str = "",
) -> CaseDetail:
    """Do something to a case that the person may see; return it after that.

    ``other`` is the field of the body that names a second case.
    """
    parts = services(request)
    key, expected = parse_id(case), seen_version(if_match)
    async with writes(request) as conn:
        await find_case(conn, person.scope, key)
        sight = desk.Sight(person.area, person.name, parts.clock(), expected)
        async with _problems(conn, person.scope, key, other), conn.transaction():
            shown = await deed(conn, key, sight) or key
            after = await read_case(conn, person.scope, shown)

    def tell() -> None:
        for alert in after.alerts:
            parts.hub.tell_alert(alert.id)
        for changed in (key, after.id, after.merged_into):
            if changed is not None:
                parts.hub.tell_case(changed)

    afterwards(request, tell)
    return after


@asynccontextmanager
async def _problems(conn: Connection, scope: Scope, case: UUID, other: str) -> AsyncGenerator[None]:
    """Say in a problem what forbids a move."""
    try:
        yield
    except Stale:
        raise Problem("case.changed", extra=await _present(conn, scope, case)) from None
    except (pure.AlreadyDone, desk.Done):
        raise Problem("case.unchanged", extra=await _present(conn, scope, case)) from None
    except desk.Unfit:
        raise _invalid("to", "person.unfit") from None
    except Missing as missing:
        match missing.what:
            case "case" | "step":
                problem = Problem("not_found")
            case "other":
                problem = _invalid(other, "case.unknown")
            case named:
                problem = _invalid(named, f"{named}.unknown")
        raise problem from None
    except pure.Refused as refused:
        raise _refused(refused, other) from None
    except records.AlertTaken:
        raise Problem("incident.alert_taken") from None
    except incidents.Refused as refused:
        bounds = {
            name: rfc3339(bound) if isinstance(bound, datetime) else bound
            for name, bound in refused.bounds.items()
        }
        raise _invalid(refused.field, refused.rule, bounds) from None


def _invalid(field: str, code: str, bounds: Mapping[str, object] | None = None) -> Problem:
    return Problem("request.invalid", errors=[FieldError(f"/body/{field}", code, bounds or {})])


def _refused(refused: pure.Refused, other: str) -> Problem:
    match refused.rule:
        case "case.same" | "case.elsewhere" | "case.duplicate":
            return _invalid(other, refused.rule)
        case "alert.unknown" | "alert.pinned" | "alerts.none_left":
            return _invalid("alerts", refused.rule)
        case "case.of":
            return _invalid("of", "field.unfitting")
        case _:
            return Problem(refused.rule)


async def _present(conn: Connection, scope: Scope, case: UUID) -> dict[str, object]:
    """Return what the case is by now and who changed it last, so that people see who was first."""
    now = await find_case(conn, scope, case)
    cursor = await conn.execute(
        """
        SELECT h.actor, h.action
        FROM case_history AS h
        JOIN alert_case AS c ON c.id = h.case_id
        JOIN area AS a ON a.area = c.area
        WHERE h.case_id = %(case)s
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        ORDER BY h.version DESC
        LIMIT 1
        """,
        {"case": case, "scope": scope.path},
    )
    row = await cursor.fetchone()
    return {
        "version": now.version,
        "state": now.state,
        "outcome": now.outcome,
        "assignee": now.assignee,
        "changed_by": None if row is None else row[0],
        "action": None if row is None else row[1],
        "changed_at": rfc3339(now.changed_at),
    }
