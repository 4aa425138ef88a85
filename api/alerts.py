# SPDX-License-Identifier: Apache-2.0
"""Alerts: listed by tab, told with their timeline, acknowledged."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from psycopg import sql
from psycopg.rows import class_row
from pydantic import Field, StringConstraints

from api.answers import Answer, Instant, Page, Question, TimeRangeQuestion, check_range, rfc3339
from api.auth import Person
from api.errors import FieldError, Problem
from api.overview import Severity
from api.paging import link_next
from api.places import find_area
from api.scope import Scope
from api.state import Connection, consistent, services
from ingest.alerts import Acknowledge
from ingest.store import alerts as stored

Status = Literal["unacknowledged", "active", "open", "acknowledged", "history"]

# Each tab is a question to the two flags; written out, so that the index on open alerts serves.
_TABS: Final[Mapping[Status, sql.SQL]] = {
    "unacknowledged": sql.SQL("NOT t.acknowledged"),
    "active": sql.SQL("t.active"),
    "open": sql.SQL("(t.active OR NOT t.acknowledged)"),
    "acknowledged": sql.SQL("t.acknowledged"),
    "history": sql.SQL("true"),
}
_IF_MATCH = re.compile(r'"?(\d{1,9})"?')


class Alert(Answer):
    """One alert: an occurrence, active until its condition ends, acknowledged by a person.

    ``subject`` is the device, or the gateway where the rule is about that. ``params`` are what the
    rule saw. ``raised_at`` is the device's time, ``received_at`` ours; ``late`` says that the
    readings came long after they were made.
    """

    id: UUID
    rule: str
    severity: Severity
    subject: str
    kind: str
    device: str | None
    gateway: str
    area: str
    community: str
    name: str
    name_en: str | None
    params: dict[str, Any] = Field(description="by rule; names as in readings")
    active: bool
    acknowledged: bool
    raised_at: Instant
    received_at: Instant
    cleared_at: Instant | None
    acknowledged_at: Instant | None
    acknowledged_by: str | None
    note: str | None
    late: bool
    version: int


class Step(Answer):
    """One thing that happened to an alert, by a rule or a person."""

    at: Instant
    actor: str
    action: str
    reason: str
    note: str | None


class AlertDetail(Alert):
    """An alert and all that happened to it, oldest first."""

    timeline: list[Step]


class AlertQuestion(TimeRangeQuestion):
    """Which alerts. Only ``history`` takes a time, which means ``raised_at``."""

    area: str | None = Field(default=None, max_length=64)
    status: Status = "open"
    active: bool | None = None
    severity: Severity | None = None
    rule: str | None = Field(default=None, max_length=64)
    kind: str | None = Field(default=None, max_length=64, description="device class, or gateway")
    device: str | None = Field(default=None, max_length=64)


class Acknowledgement(Question):
    """What a person says when taking note."""

    note: (
        Annotated[
            str, StringConstraints(strip_whitespace=True, max_length=2_000, pattern=r"^[^\x00]*$")
        ]
        | None
    ) = None


router = APIRouter(tags=["alerts"])


@router.get("/alerts")
async def list_alerts(
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[AlertQuestion, Query()],
) -> Page[Alert]:
    """List alerts, the latest raised first."""
    parts = services(request)
    if question.status != "history" and (question.from_ or question.to):
        pointer = "/query/from" if question.from_ else "/query/to"
        raise Problem("request.invalid", errors=[FieldError(pointer, "field.unfitting")])
    if question.from_ and question.to:
        check_range(question.from_, question.to)
    filters = question.model_dump(exclude={"limit", "cursor"})
    asked = ("alerts", person.path, person.role, *filters.values())
    after_at, after_id = (
        (None, None) if question.cursor is None else parts.cursors.read(question.cursor, asked)
    )
    statement = sql.SQL(
        """
        SELECT t.id, t.rule, t.severity, t.subject, t.kind, t.device, t.gateway, t.area,
               t.community, t.name, t.name_en, t.params, t.active, t.acknowledged, t.raised_at,
               t.received_at, t.cleared_at, t.acknowledged_at, t.acknowledged_by, t.note, t.late,
               t.version
        FROM alert_view AS t
        WHERE {tab}
          AND t.path <@ %(area)s::ltree
          AND t.path <@ %(scope)s::ltree  -- invariant 9
          AND NOT t.rule = ANY (%(hidden)s)
          AND (%(active)s::boolean IS NULL OR t.active = %(active)s)
          AND (%(severity)s::text IS NULL OR t.severity = %(severity)s)
          AND (%(rule)s::text IS NULL OR t.rule = %(rule)s)
          AND (%(kind)s::text IS NULL OR t.kind = %(kind)s)
          AND (%(device)s::text IS NULL OR t.device = %(device)s)
          AND (%(from_)s::timestamptz IS NULL OR t.raised_at >= %(from_)s)
          AND (%(to)s::timestamptz IS NULL OR t.raised_at < %(to)s)
          AND (%(after_id)s::uuid IS NULL
               OR (t.raised_at, t.id) < (%(after_at)s::timestamptz, %(after_id)s::uuid))
        ORDER BY t.raised_at DESC, t.id DESC
        LIMIT %(count)s
        """
    ).format(tab=_TABS[question.status])
    async with parts.pool.connection() as conn:
        area = await find_area(conn, person.scope, question.area or person.area)
        async with conn.cursor(row_factory=class_row(Alert)) as cursor:
            await cursor.execute(
                statement,
                filters
                | {
                    "area": area.path,
                    "scope": person.path,
                    "hidden": person.scope.hidden_rules,
                    "after_at": after_at,
                    "after_id": after_id,
                    "count": question.limit + 1,
                },
            )
            rows = await cursor.fetchall()
    page, more = rows[: question.limit], len(rows) > question.limit
    key = [page[-1].raised_at.isoformat(), str(page[-1].id)] if more else []
    following = parts.cursors.write(key, asked) if more else None
    link_next(request, response, following)
    return Page(items=page, next_cursor=following)


@router.get("/alerts/{alert}")
async def get_alert(alert: str, person: Person, request: Request) -> AlertDetail:
    """Return one alert with its timeline."""
    async with services(request).pool.connection() as conn, consistent(conn):
        found = await find_alert(conn, person.scope, _uuid(alert))
        async with conn.cursor(row_factory=class_row(Step)) as cursor:
            await cursor.execute(
                """
                SELECT h.at, h.actor, h.action, h.reason, h.note
                FROM alert_history AS h
                JOIN alert_view AS t ON t.id = h.alert
                WHERE h.alert = %(alert)s
                  AND t.path <@ %(scope)s::ltree  -- invariant 9
                ORDER BY h.id
                """,
                {"alert": found.id, "scope": person.path},
            )
            return AlertDetail(**dict(found), timeline=await cursor.fetchall())


@router.post("/alerts/{alert}/acknowledge")
async def acknowledge_alert(
    alert: str,
    person: Person,
    request: Request,
    acknowledgement: Acknowledgement,
    if_match: Annotated[str | None, Header(description="the version that was seen")] = None,
) -> Alert:
    """Take note of an alert; with ``If-Match`` only if it is still what was seen."""
    parts = services(request)
    expected, now = _version(if_match), parts.clock()
    async with parts.pool.connection() as conn:
        found = await find_alert(conn, person.scope, _uuid(alert))
        if not person.scope.may_acknowledge(found.rule):
            raise Problem("role.forbidden")
        try:
            await stored.act(
                conn,
                found.id,
                Acknowledge(now, person.name, acknowledgement.note or None),
                area=person.area,
                hidden_rules=person.scope.hidden_rules,
                expected_version=expected,
                now=now,
            )
        except stored.Missing:
            raise Problem("not_found") from None
        except stored.Stale as stale:
            raise _too_late(stale, expected) from None
        changed = await find_alert(conn, person.scope, found.id)
    parts.hub.tell_alert(changed.id)
    return changed


async def find_alert(conn: Connection, scope: Scope, alert: UUID) -> Alert:
    """Return one alert that the person may see.

    Raises:
        Problem: ``not_found``: there is none, or it is not theirs; nobody can tell which.
    """
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            """
            SELECT t.id, t.rule, t.severity, t.subject, t.kind, t.device, t.gateway, t.area,
                   t.community, t.name, t.name_en, t.params, t.active, t.acknowledged, t.raised_at,
                   t.received_at, t.cleared_at, t.acknowledged_at, t.acknowledged_by, t.note,
                   t.late, t.version
            FROM alert_view AS t
            WHERE t.id = %(alert)s
              AND t.path <@ %(scope)s::ltree  -- invariant 9
              AND NOT t.rule = ANY (%(hidden)s)
            """,
            {"alert": alert, "scope": scope.path, "hidden": scope.hidden_rules},
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Problem("not_found") from None


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    match = _IF_MATCH.fullmatch(if_match.strip())
    if match is None:
        raise Problem("if_match.invalid")
    return int(match[1])


def _too_late(stale: stored.Stale, expected: int | None) -> Problem:
    """Say who was first."""
    now = stale.alert
    changed = expected is not None and expected != now.version
    at: datetime | None = now.acknowledged_at
    return Problem(
        "alert.changed" if changed else "alert.acknowledged",
        extra={
            "version": now.version,
            "active": now.active,
            "acknowledged": now.acknowledged,
            "acknowledged_by": now.acknowledged_by,
            "acknowledged_at": None if at is None else rfc3339(at),
            "note": now.note,
        },
    )
