# SPDX-License-Identifier: Apache-2.0
"""The police liaison's desk: cases listed by tab, told whole, settled; a shift handed over.

For the police and whoever answers for all. What is moved is what was seen: every move names its
version in ``If-Match``, and who comes second is told who was first.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from psycopg import sql
from psycopg.rows import class_row
from pydantic import Field

from api.answers import Answer, Instant, Moment, Page, PageQuestion, Question, rfc3339
from api.errors import FieldError, Problem
from api.idempotency import afterwards, idempotent, writes
from api.incidents import AreaId, Note, Officer, Reason
from api.overview import Severity
from api.paging import link_next
from api.people import Principal
from api.places import find_area
from api.preconditions import parse_id, seen_version
from api.scope import Scope
from api.state import Connection, consistent, services
from ingest import cases as pure
from ingest import incidents
from ingest.cases import Nature, Outcome, State
from ingest.indicators.security import Category
from ingest.store import case_desk as desk
from ingest.store import incidents as records

Tab = Literal["open", "mine", "unassigned", "confirmed", "closed", "all"]
_TABS: Final[Mapping[Tab, sql.SQL]] = {
    "open": sql.SQL("c.state = 'open'"),
    "mine": sql.SQL("c.state = 'open' AND c.assignee = %(me)s"),
    "unassigned": sql.SQL("c.state = 'open' AND c.assignee IS NULL"),
    "confirmed": sql.SQL("c.state = 'confirmed'"),
    "closed": sql.SQL("c.state = 'closed'"),
    "all": sql.SQL("true"),
}
IfMatch = Annotated[str | None, Header(description="the version that was seen; required")]


class CaseRow(Answer):
    """One case: alerts that tell of one thing, and what was found.

    ``severity`` is the worst of its alerts unless a person set it, shown as I to IV. ``rule`` is
    that of its worst alert. ``aborted``: a valid code was entered after one of its alerts.
    Times ``first_at`` and ``last_at`` are the devices'.
    """

    id: UUID
    nature: Nature
    rule: str
    severity: Severity
    severity_set: bool = Field(description="by a person")
    state: State
    outcome: Outcome | None
    duplicate_of: UUID | None
    merged_into: UUID | None
    split_from: UUID | None
    assignee: str | None
    area: str
    community: str
    alert_count: int
    aborted: bool
    incident: UUID | None
    first_at: Instant
    last_at: Instant
    opened_at: Instant
    changed_at: Instant
    version: int


class CaseAlert(Answer):
    """An alert of a case, and how it came there; see ``getAlert`` for the rest of it."""

    id: UUID
    rule: str
    severity: Severity
    subject: str
    kind: str
    device: str | None
    gateway: str
    area: str
    name: str
    name_en: str | None
    params: dict[str, Any]
    active: bool
    acknowledged: bool
    latched: bool
    repeats: int
    raised_at: Instant
    last_raised_at: Instant
    cleared_at: Instant | None
    joined_at: Instant
    joined_by: str = Field(description="opened, same_device, same_cell, same_gateway, merged, …")
    aborted_at: Instant | None
    under_threat: bool = Field(description="the code is worth nothing: there was duress")


class CaseEntry(Answer):
    """One thing that happened to a case, by a rule or a person."""

    at: Instant
    actor: str
    action: pure.Done
    reason: str
    note: str | None
    params: dict[str, Any]
    version: int


class PlanStep(Answer):
    """One step of the response plan; ``text`` by language. ``done_by`` null: still to do."""

    step: str
    text: dict[Literal["zh-CN", "en"], str]
    done_by: str | None
    done_at: Instant | None
    note: str | None


class CaseDetail(CaseRow):
    """A case with its alerts, its timeline, oldest first, and what is to be done."""

    alerts: list[CaseAlert]
    timeline: list[CaseEntry]
    plan: list[PlanStep]


class CaseQuestion(PageQuestion):
    """Which cases."""

    area: AreaId | None = None
    tab: Tab = "open"
    severity: Severity | None = None
    nature: Nature | None = None


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

_ROW: Final = sql.SQL(
    """
    SELECT c.id, c.nature, c.rule, c.severity, c.severity_set IS NOT NULL AS severity_set, c.state,
           c.outcome, c.duplicate_of, c.merged_into, c.split_from, c.assignee, c.area, c.community,
           (SELECT count(*) FROM case_alert AS m WHERE m.case_id = c.id) AS alert_count,
           c.aborted,
           c.incident, c.first_at, c.last_at, c.opened_at, c.changed_at, c.version
    FROM alert_case AS c
    JOIN area AS a ON a.area = c.area
    WHERE a.path <@ %(scope)s::ltree  -- invariant 9
    """
)


@router.get("/cases")
async def list_cases(
    person: Officer,
    request: Request,
    response: Response,
    question: Annotated[CaseQuestion, Query()],
) -> Page[CaseRow]:
    """List cases, what began last first."""
    parts = services(request)
    filters = question.model_dump(exclude={"limit", "cursor"})
    asked = ("cases", person.path, person.role, person.name, *filters.values())
    after_at, after_id = (
        (None, None) if question.cursor is None else parts.cursors.read(question.cursor, asked)
    )
    statement = _ROW + sql.SQL(
        """
          AND {tab}
          AND a.path <@ %(area)s::ltree
          AND (%(severity)s::text IS NULL OR c.severity = %(severity)s)
          AND (%(nature)s::text IS NULL OR c.nature = %(nature)s)
          AND (%(after_id)s::uuid IS NULL
               OR (c.first_at, c.id) < (%(after_at)s::timestamptz, %(after_id)s::uuid))
        ORDER BY c.first_at DESC, c.id DESC
        LIMIT %(count)s
        """
    ).format(tab=_TABS[question.tab])
    async with parts.pool.connection() as conn:
        area = await find_area(conn, person.scope, question.area or person.area)
        async with conn.cursor(row_factory=class_row(CaseRow)) as cursor:
            await cursor.execute(
                statement,
                filters
                | {
                    "area": area.path,
                    "scope": person.path,
                    "me": person.name,
                    "after_at": after_at,
                    "after_id": after_id,
                    "count": question.limit + 1,
                },
            )
            rows = await cursor.fetchall()
    page, more = rows[: question.limit], len(rows) > question.limit
    key = [page[-1].first_at.isoformat(), str(page[-1].id)] if more else []
    following = parts.cursors.write(key, asked) if more else None
    link_next(request, response, following)
    return Page(items=page, next_cursor=following)


@router.get("/cases/{case}")
async def get_case(case: str, person: Officer, request: Request) -> CaseDetail:
    """Return one case with its alerts, its timeline and its response plan."""
    async with services(request).pool.connection() as conn, consistent(conn):
        return await _detail(conn, person.scope, parse_id(case))


@router.post("/cases/{case}/confirm")
@idempotent
async def confirm_case(
    case: str,
    person: Officer,
    request: Request,
    confirmation: Confirmation,
    if_match: IfMatch = None,
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
    case: str, person: Officer, request: Request, closing: Closing, if_match: IfMatch = None
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
    case: str, person: Officer, request: Request, why: Why, if_match: IfMatch = None
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
    case: str, person: Officer, request: Request, assignment: Assignment, if_match: IfMatch = None
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
    case: str, person: Officer, request: Request, rating: Rating, if_match: IfMatch = None
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
    case: str, person: Officer, request: Request, remark: Remark, if_match: IfMatch = None
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
    case: str, person: Officer, request: Request, merging: Merging, if_match: IfMatch = None
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
    if_match: IfMatch = None,
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
    if_match: IfMatch = None,
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
        await _find(conn, person.scope, key)
        sight = desk.Sight(person.area, person.name, parts.clock(), expected)
        async with _problems(conn, person.scope, key, other), conn.transaction():
            shown = await deed(conn, key, sight) or key
            after = await _detail(conn, person.scope, shown)

    def tell() -> None:
        for alert in after.alerts:
            parts.hub.tell_alert(alert.id)

    afterwards(request, tell)
    return after


@asynccontextmanager
async def _problems(conn: Connection, scope: Scope, case: UUID, other: str) -> AsyncGenerator[None]:
    """Say in a problem what forbids a move."""
    try:
        yield
    except desk.Stale:
        raise Problem("case.changed", extra=await _present(conn, scope, case)) from None
    except (pure.AlreadyDone, desk.Done):
        raise Problem("case.unchanged", extra=await _present(conn, scope, case)) from None
    except desk.Unfit:
        raise _invalid("to", "person.unfit") from None
    except desk.Missing as missing:
        if missing.what == "other":
            raise _invalid(other, "case.unknown") from None
        raise Problem("not_found") from None
    except pure.Refused as refused:
        raise _refused(refused, other) from None
    except records.AlertTaken:
        raise Problem("incident.alert_taken") from None
    except records.Missing as missing:
        raise _invalid(missing.what, f"{missing.what}.unknown") from None
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
    now = await _find(conn, scope, case)
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


async def _find(conn: Connection, scope: Scope, case: UUID) -> CaseRow:
    """Return a case that the person may see.

    Raises:
        Problem: ``not_found``: there is none, or it is not theirs; nobody can tell which.
    """
    async with conn.cursor(row_factory=class_row(CaseRow)) as cursor:
        await cursor.execute(
            _ROW + sql.SQL("AND c.id = %(case)s"), {"case": case, "scope": scope.path}
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row


async def _detail(conn: Connection, scope: Scope, case: UUID) -> CaseDetail:
    found = await _find(conn, scope, case)
    parameters = {"case": case, "scope": scope.path, "hidden": scope.hidden_rules}
    async with conn.cursor(row_factory=class_row(CaseAlert)) as cursor:
        await cursor.execute(_ALERTS, parameters)
        alerts = await cursor.fetchall()
    async with conn.cursor(row_factory=class_row(CaseEntry)) as cursor:
        await cursor.execute(
            """
            SELECT h.at, h.actor, h.action, h.reason, h.note, h.params, h.version
            FROM case_history AS h
            JOIN alert_case AS c ON c.id = h.case_id
            JOIN area AS a ON a.area = c.area
            WHERE h.case_id = %(case)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY h.version
            """,
            parameters,
        )
        timeline = await cursor.fetchall()
    cursor = await conn.execute(
        """
        SELECT s.step, s.done_by, s.done_at, s.note
        FROM case_step AS s
        JOIN alert_case AS c ON c.id = s.case_id
        JOIN area AS a ON a.area = c.area
        WHERE s.case_id = %(case)s
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        """,
        parameters,
    )
    done = {step: rest async for step, *rest in cursor}
    steps = await desk.plan(conn, found.severity, found.rule)
    return CaseDetail(
        **dict(found),
        alerts=alerts,
        timeline=timeline,
        plan=[
            PlanStep(
                step=step["step"],
                text={"zh-CN": step["zh-CN"], "en": step["en"]},
                done_by=by,
                done_at=at,
                note=note,
            )
            for step in steps
            for by, at, note in [done.get(step["step"], (None, None, None))]
        ],
    )


_ALERTS: Final = sql.SQL(
    """
    SELECT t.id, t.rule, t.severity, t.subject, t.kind, t.device, t.gateway, t.area, t.name,
           t.name_en, t.params, t.active, t.acknowledged, t.latched, t.repeats, t.raised_at,
           t.last_raised_at, t.cleared_at, m.joined_at, m.reason AS joined_by, m.aborted_at,
           m.under_threat
    FROM case_alert AS m
    JOIN alert_view AS t ON t.id = m.alert
    WHERE m.case_id = %(case)s
      AND t.path <@ %(scope)s::ltree  -- invariant 9
      AND NOT t.rule = ANY (%(hidden)s)
    ORDER BY m.raised_at, t.id
    """
)
