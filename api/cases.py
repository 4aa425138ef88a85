# SPDX-License-Identifier: Apache-2.0
"""The police liaison's desk: cases listed by tab, and told whole.

For the police and whoever answers for all. What they do with cases is in `api.case_actions`.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from psycopg import sql
from psycopg.rows import class_row
from pydantic import Field

from api.answers import Answer, Instant, Page, PageQuestion
from api.errors import Problem
from api.incidents import AreaId, Officer
from api.overview import Severity
from api.paging import LatestFirst
from api.places import find_area
from api.preconditions import parse_id
from api.response_plans import PlanVersion, told_rule, told_source, told_text
from api.scope import Scope
from api.state import Connection, consistent, services
from ingest.cases import Done, Nature, Outcome, State
from ingest.response_plans import fitting
from ingest.rules import Name
from ingest.store import response_plans
from ingest.store.rules import NAME

Tab = Literal["open", "mine", "unassigned", "confirmed", "closed", "all"]
_TABS: Final[Mapping[Tab, sql.SQL]] = {
    "open": sql.SQL("c.state = 'open'"),
    "mine": sql.SQL("c.state = 'open' AND c.assignee = %(me)s"),
    "unassigned": sql.SQL("c.state = 'open' AND c.assignee IS NULL"),
    "confirmed": sql.SQL("c.state = 'confirmed'"),
    "closed": sql.SQL("c.state = 'closed'"),
    "all": sql.SQL("true"),
}


class CaseRow(Answer):
    """One case: alerts that tell of one thing, and what was found.

    ``severity`` is the worst of its alerts unless a person set it, shown as I to IV. ``rule`` is
    that of its worst alert. ``aborted``: a valid code was entered after one of its alerts.
    Times ``first_at`` and ``last_at`` are the devices'. ``duplicate_of``, ``merged_into`` and
    ``split_from`` name other cases only where they are yours to see.
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
    note_count: int
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
    rule_name: Name | None
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
    action: Done
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
    """A case with its alerts, its timeline, oldest first, and what is to be done.

    The response plan is the one that fits it, of those in force when it began.
    """

    alerts: list[CaseAlert]
    timeline: list[CaseEntry]
    plan: list[PlanStep]
    plan_version: PlanVersion | None = Field(description="null: no plan fits")


class CaseQuestion(PageQuestion):
    """Which cases."""

    area: AreaId | None = None
    tab: Tab = "open"
    severity: Severity | None = None
    nature: Nature | None = None


router = APIRouter(tags=["cases"])

_ROW: Final = sql.SQL(
    """
    SELECT c.id, c.nature, c.rule, c.severity, c.severity_set IS NOT NULL AS severity_set, c.state,
           c.outcome, {duplicate_of}, {merged_into}, {split_from}, c.assignee, c.area, c.community,
           (SELECT count(*) FROM case_alert AS m WHERE m.case_id = c.id) AS alert_count,
           (SELECT count(*) FROM case_history AS h
            WHERE h.case_id = c.id AND h.action = 'noted') AS note_count,
           c.aborted,
           c.incident, c.first_at, c.last_at, c.opened_at, c.changed_at, c.version
    FROM alert_case AS c
    JOIN area AS a ON a.area = c.area
    WHERE a.path <@ %(scope)s::ltree  -- invariant 9
    """
).format(
    # A case of a cell may have gone into one of its community, which who has the cell cannot see.
    **{
        name: sql.SQL(
            """
            (SELECT o.id FROM alert_case AS o
             JOIN area AS b ON b.area = o.area
             WHERE o.id = c.{name} AND b.path <@ %(scope)s::ltree) AS {name}
            """
        ).format(name=sql.Identifier(name))
        for name in ("duplicate_of", "merged_into", "split_from")
    }
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
    pages = LatestFirst(parts.cursors, question, asked)
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
                    **pages.parameters,
                },
            )
            rows = await cursor.fetchall()
    return pages.page(request, response, rows, lambda row: (row.first_at, row.id))


@router.get("/cases/{case}")
async def get_case(case: str, person: Officer, request: Request) -> CaseDetail:
    """Return one case with its alerts, its timeline and its response plan."""
    async with services(request).pool.connection() as conn, consistent(conn):
        return await read_case(conn, person.scope, parse_id(case))


async def read_cases(conn: Connection, path: str, cases: Collection[UUID]) -> list[CaseRow]:
    """Return those of some cases that somebody sees whose sight is ``path``, an ltree."""
    async with conn.cursor(row_factory=class_row(CaseRow)) as cursor:
        await cursor.execute(
            _ROW + sql.SQL("AND c.id = ANY (%(cases)s)"), {"cases": list(cases), "scope": path}
        )
        return await cursor.fetchall()


async def read_open_cases(conn: Connection, path: str, count: int) -> list[CaseRow]:
    """Return the open cases within ``path``, an ltree, what began last first."""
    async with conn.cursor(row_factory=class_row(CaseRow)) as cursor:
        await cursor.execute(
            _ROW
            + sql.SQL("AND c.state = 'open' ORDER BY c.first_at DESC, c.id DESC LIMIT %(count)s"),
            {"scope": path, "count": count},
        )
        return await cursor.fetchall()


async def find_case(conn: Connection, scope: Scope, case: UUID) -> CaseRow:
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


async def read_case(conn: Connection, scope: Scope, case: UUID) -> CaseDetail:
    """Return a case with all that there is to it.

    Raises:
        Problem: ``not_found``, as `find_case`.
    """
    found = await find_case(conn, scope, case)
    parameters = {"case": case, "scope": scope.path, "hidden": scope.hidden_rules}
    async with conn.cursor(row_factory=class_row(CaseAlert)) as cursor:
        await cursor.execute(_ALERTS, parameters)
        alerts = await cursor.fetchall()
    async with conn.cursor(row_factory=class_row(CaseEntry)) as cursor:
        await cursor.execute(_TIMELINE, parameters)
        timeline = await cursor.fetchall()
    plan, version = await _plan(conn, scope, found)
    return CaseDetail(
        **dict(found), alerts=alerts, timeline=timeline, plan=plan, plan_version=version
    )


async def _plan(
    conn: Connection, scope: Scope, case: CaseRow
) -> tuple[list[PlanStep], PlanVersion | None]:
    plans = await response_plans.of_case(conn, case.id)
    plan = fitting(plans, case.severity, case.rule)
    if plan is None:
        return [], None
    cursor = await conn.execute(
        """
        SELECT s.step, s.done_by, s.done_at, s.note
        FROM case_step AS s
        JOIN alert_case AS c ON c.id = s.case_id
        JOIN area AS a ON a.area = c.area
        WHERE s.case_id = %(case)s
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        """,
        {"case": case.id, "scope": scope.path},
    )
    done = {step: rest async for step, *rest in cursor}
    steps: list[PlanStep] = []
    for one in plan.steps:
        by, at, note = done.get(one.step, (None, None, None))
        steps.append(
            PlanStep(step=one.step, text=told_text(one), done_by=by, done_at=at, note=note)
        )
    return steps, PlanVersion(
        severity=plan.severity,
        rule=told_rule(plan.rule),
        source=told_source(plan, scope),
        version=plan.version,
    )


# Of what an entry names, another case only where it is the reader's to see.
_TIMELINE: Final = """
    SELECT h.at, h.actor, h.action, h.reason, h.note,
           h.params - ARRAY(
               SELECT k.name FROM unnest(ARRAY['case', 'of']) AS k (name)
               WHERE h.params ? k.name
                 AND NOT EXISTS (SELECT FROM alert_case AS o
                                 JOIN area AS b ON b.area = o.area
                                 WHERE o.id = (h.params ->> k.name)::uuid
                                   AND b.path <@ %(scope)s::ltree)) AS params,
           h.version
    FROM case_history AS h
    JOIN alert_case AS c ON c.id = h.case_id
    JOIN area AS a ON a.area = c.area
    WHERE h.case_id = %(case)s
      AND a.path <@ %(scope)s::ltree  -- invariant 9
    ORDER BY h.version
"""
_ALERTS: Final = sql.SQL(
    """
    SELECT t.id, t.rule, {name} AS rule_name, t.severity, t.subject, t.kind, t.device, t.gateway,
           t.area, t.name, t.name_en, t.params, t.active, t.acknowledged, t.latched, t.repeats,
           t.raised_at, t.last_raised_at, t.cleared_at, m.joined_at, m.reason AS joined_by,
           m.aborted_at, m.under_threat
    FROM case_alert AS m
    JOIN alert_view AS t ON t.id = m.alert
    WHERE m.case_id = %(case)s
      AND t.path <@ %(scope)s::ltree  -- invariant 9
      AND NOT t.rule = ANY (%(hidden)s)
    ORDER BY m.raised_at, t.id
    """
).format(name=sql.SQL(NAME))
