# SPDX-License-Identifier: Apache-2.0
"""Incidents: what officers confirm, reported and settled; others are told counts.

Records and their notes are for the police and whoever answers for all. A property manager learns
how many incidents were confirmed, and nothing of those that are still looked into.
"""

from datetime import date, datetime, time, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Request, Response
from psycopg.rows import class_row
from pydantic import Field

from api.answers import (
    Answer,
    Day,
    Instant,
    Moment,
    Page,
    Question,
    TimeRangeQuestion,
    check_days,
    check_range,
    rfc3339,
)
from api.auth import Allow, Person
from api.errors import FieldError, Problem
from api.idempotency import afterwards, idempotent, writes
from api.paging import LatestFirst
from api.people import Principal
from api.places import find_area
from api.preconditions import SeenVersion, parse_id, seen_version
from api.remarks import Note, Reason
from api.scope import Scope
from api.state import Connection, consistent, services
from ingest.incidents import Refused, Unchanged
from ingest.indicators.officers import Code, Officers, recommend
from ingest.indicators.security import CATEGORIES, CRIMINAL, Category, Disposition
from ingest.store import incidents as stored
from ingest.store import population
from ingest.store.seen import Missing, Stale

OFFICERS: Final = Allow("admin", "police")
Officer = Annotated[Principal, Depends(OFFICERS)]
_OFFICER_DAYS: Final = timedelta(days=365)

AreaId = Annotated[str, Field(max_length=64)]


class Incident(Answer):
    """One record: what happened, where, when, and what it was found to be.

    ``criminal`` follows from the category and decides whether it counts in the incident rate once
    it is ``confirmed``. ``alert`` is the one that told of it, where it is in the reader's area.
    """

    id: UUID
    category: Category
    criminal: bool
    area: str = Field(description="the finest known: cell or community")
    community: str
    occurred_at: Instant
    disposition: Disposition
    alert: UUID | None
    confirmed_by: str | None
    confirmed_at: Instant | None
    note: str | None
    reported_by: str
    reported_at: Instant
    changed_at: Instant
    version: int


class Entry(Answer):
    """One thing that was done to a record, by whom and why; ``changes`` are ``[from, to]``."""

    at: Instant
    actor: str
    action: Literal["reported", "changed"]
    reason: str
    changes: dict[str, tuple[str | None, str | None]]
    version: int


class IncidentDetail(Incident):
    """A record and all that was done to it, oldest first."""

    history: list[Entry]


class IncidentQuestion(TimeRangeQuestion):
    """Which records; the time means ``occurred_at``."""

    area: AreaId | None = None
    category: Category | None = None
    criminal: bool | None = None
    disposition: Disposition | None = None


class Report(Question):
    """What somebody reports. An ``alert`` that is named must be of the same community."""

    category: Category
    area: AreaId = Field(description="the finest known: cell or community")
    occurred_at: Moment
    disposition: Literal["open", "confirmed"] = "open"
    alert: UUID | None = None
    note: Note | None = None
    reason: Reason = Field(default="reported", description="why, for the history")


class Amendment(Question):
    """What shall be different, and why; what is not named stays. An empty note removes it."""

    category: Category | None = None
    area: AreaId | None = None
    occurred_at: Moment | None = None
    disposition: Disposition | None = None
    note: Note | None = None
    reason: Reason


class CountQuestion(Question):
    """Which time ``[from, to)``, of ``occurred_at``; at most 366 days."""

    from_: Moment = Field(alias="from")
    to: Moment


class IncidentCounts(Answer):
    """How many incidents of an area were confirmed. ``open`` is null for who may not know."""

    area: str
    from_: Instant = Field(alias="from")
    to: Instant
    confirmed: int
    criminal: int
    by_category: dict[Category, int]
    open: int | None


class OfficerReason(Answer):
    """Why, as a code, and the numbers it stands on; rates are per mille residents a year.

    ``officers_more`` is how many officers more it speaks for.
    """

    code: Code
    officers_more: int
    numbers: dict[str, float]


class OfficerRecommendation(Answer):
    """How many officers the rule recommends for a community: 1, 2, or 3 for more than two.

    A recommendation about posts, never a verdict on people. Dates are local, ``[from, to)``.
    """

    area: str
    from_: date = Field(alias="from")
    to: date
    officers: Officers
    reasons: list[OfficerReason]
    rule_version: int


class OfficerQuestion(Question):
    """Which days ``[from, to)``; the last 365 full days by default."""

    from_: Day | None = Field(default=None, alias="from")
    to: Day | None = None


router = APIRouter(tags=["incidents"])


@router.get("/incidents")
async def list_incidents(
    person: Officer,
    request: Request,
    response: Response,
    question: Annotated[IncidentQuestion, Query()],
) -> Page[Incident]:
    """List records, what occurred last first."""
    parts = services(request)
    if question.from_ and question.to:
        check_range(question.from_, question.to)
    filters = question.model_dump(exclude={"limit", "cursor"})
    asked = ("incidents", person.path, person.role, *filters.values())
    pages = LatestFirst(parts.cursors, question, asked)
    async with parts.pool.connection() as conn:
        area = await find_area(conn, person.scope, question.area or person.area)
        async with conn.cursor(row_factory=class_row(Incident)) as cursor:
            await cursor.execute(
                """
                SELECT i.id, i.category, i.criminal, i.area, i.community, i.occurred_at,
                       i.disposition,
                       CASE WHEN ta.path <@ %(scope)s::ltree THEN i.alert END AS alert,
                       i.confirmed_by, i.confirmed_at, i.note, i.reported_by, i.reported_at,
                       i.changed_at, i.version
                FROM incident AS i
                JOIN area AS a ON a.area = i.area
                LEFT JOIN alert AS t ON t.id = i.alert
                LEFT JOIN area AS ta ON ta.area = t.area
                WHERE a.path <@ %(area)s::ltree
                  AND a.path <@ %(scope)s::ltree  -- invariant 9
                  AND (%(category)s::text IS NULL OR i.category = %(category)s)
                  AND (%(criminal)s::boolean IS NULL OR i.criminal = %(criminal)s)
                  AND (%(disposition)s::text IS NULL OR i.disposition = %(disposition)s)
                  AND (%(from_)s::timestamptz IS NULL OR i.occurred_at >= %(from_)s)
                  AND (%(to)s::timestamptz IS NULL OR i.occurred_at < %(to)s)
                  AND (%(after_id)s::uuid IS NULL
                       OR (i.occurred_at, i.id)
                          < (%(after_at)s::timestamptz, %(after_id)s::uuid))
                ORDER BY i.occurred_at DESC, i.id DESC
                LIMIT %(count)s
                """,
                filters
                | {
                    "area": area.path,
                    "scope": person.path,
                    **pages.parameters,
                },
            )
            rows = await cursor.fetchall()
    return pages.page(request, response, rows, lambda row: (row.occurred_at, row.id))


@router.post("/incidents", status_code=201)
@idempotent
async def report_incident(
    person: Officer, request: Request, response: Response, report: Report
) -> Incident:
    """Write a new record; one reported as confirmed is confirmed by whoever reports it."""
    parts = services(request)
    draft = stored.Draft(
        report.category,
        report.area,
        report.occurred_at,
        report.disposition,
        report.alert,
        report.note,
    )
    async with writes(request) as conn:
        try:
            made = await stored.report(
                conn,
                draft,
                within=person.area,
                hidden_rules=person.scope.hidden_rules,
                actor=person.name,
                reason=report.reason,
                now=parts.clock(),
            )
        except (Missing, stored.AlertTaken, Refused) as error:
            raise _problem(error) from None
        response.headers["Location"] = f"{request.url.path}/{made}"
        record = await find_incident(conn, person.scope, made)
    _tell_case(request, record)
    return record


@router.get("/incidents/{incident}")
async def get_incident(incident: str, person: Officer, request: Request) -> IncidentDetail:
    """Return one record with its history."""
    async with services(request).pool.connection() as conn, consistent(conn):
        found = await find_incident(conn, person.scope, parse_id(incident))
        async with conn.cursor(row_factory=class_row(Entry)) as cursor:
            await cursor.execute(
                """
                SELECT h.at, h.actor, h.action, h.reason, h.changes, h.version
                FROM incident_history AS h
                JOIN incident AS i ON i.id = h.incident
                JOIN area AS a ON a.area = i.area
                WHERE h.incident = %(incident)s
                  AND a.path <@ %(scope)s::ltree  -- invariant 9
                ORDER BY h.version
                """,
                {"incident": found.id, "scope": person.path},
            )
            return IncidentDetail(**dict(found), history=await cursor.fetchall())


@router.patch("/incidents/{incident}")
async def change_incident(
    incident: str,
    person: Officer,
    request: Request,
    amendment: Amendment,
    if_match: SeenVersion = None,
) -> Incident:
    """Settle or correct a record, if it is still what was seen; it is never deleted."""
    parts = services(request)
    expected = seen_version(if_match)
    wanted = stored.Wanted(
        amendment.category,
        amendment.area,
        amendment.occurred_at,
        amendment.disposition,
        amendment.note,
    )
    async with parts.pool.connection() as conn:
        found = await find_incident(conn, person.scope, parse_id(incident))
        try:
            await stored.change(
                conn,
                found.id,
                wanted,
                within=person.area,
                actor=person.name,
                reason=amendment.reason,
                expected_version=expected,
                now=parts.clock(),
            )
        except Stale:
            now = await find_incident(conn, person.scope, found.id)
            raise Problem("incident.changed", extra=_present(now)) from None
        except Unchanged:
            raise Problem("incident.unchanged") from None
        except (Missing, stored.AlertTaken, Refused) as error:
            raise _problem(error) from None
        record = await find_incident(conn, person.scope, found.id)
    _tell_case(request, record)
    return record


def _tell_case(request: Request, record: Incident) -> None:
    """Tell who watches of the case that follows its record."""
    alert = record.alert
    if alert is not None:
        afterwards(request, lambda: services(request).hub.tell_alert(alert))


@router.get("/areas/{area}/incident-counts")
async def get_incident_counts(
    area: str,
    person: Person,
    request: Request,
    question: Annotated[CountQuestion, Query()],
) -> IncidentCounts:
    """Return how many incidents of an area were confirmed, by category; for every role."""
    check_range(question.from_, question.to)
    async with services(request).pool.connection() as conn:
        place = await find_area(conn, person.scope, area)
        cursor = await conn.execute(
            """
            SELECT i.category, count(*) FILTER (WHERE i.disposition = 'confirmed'),
                   count(*) FILTER (WHERE i.disposition = 'open')
            FROM incident AS i
            JOIN area AS a ON a.area = i.area
            WHERE a.path <@ %(area)s::ltree
              AND a.path <@ %(scope)s::ltree  -- invariant 9
              AND i.occurred_at >= %(from)s AND i.occurred_at < %(to)s
            GROUP BY i.category
            """,
            {
                "area": place.path,
                "scope": person.path,
                "from": question.from_,
                "to": question.to,
            },
        )
        rows: list[tuple[Category, int, int]] = await cursor.fetchall()
    confirmed = {category: count for category, count, _ in rows}
    open_count = sum(count for _, _, count in rows)
    return IncidentCounts.model_validate(
        {
            "area": place.area,
            "from": question.from_,
            "to": question.to,
            "confirmed": sum(confirmed.values()),
            "criminal": sum(confirmed.get(category, 0) for category in CRIMINAL),
            "by_category": {category: confirmed.get(category, 0) for category in CATEGORIES},
            # An open one may be an alarm given under threat, which nobody else may learn of.
            "open": None if person.role == "property" else open_count,
        }
    )


@router.get("/areas/{area}/officers")
async def get_officers(
    area: str,
    person: Officer,
    request: Request,
    question: Annotated[OfficerQuestion, Query()],
) -> OfficerRecommendation:
    """Return how many officers a community is recommended, with every reason looked at."""
    parts = services(request)
    async with parts.pool.connection() as conn, consistent(conn):
        place = await find_area(conn, person.scope, area)
        if place.level != "community":
            raise Problem(
                "request.invalid", errors=[FieldError("/path/area", "area.not_community")]
            )
        zone = ZoneInfo(place.time_zone)
        end = question.to or parts.clock().astimezone(zone).date()
        first = question.from_ or end - _OFFICER_DAYS
        check_days(first, end)
        city = place.path.partition(".")[0]
        start, stop = (datetime.combine(day, time(), zone) for day in (first, end))
        async with conn.cursor(row_factory=class_row(stored.OfficerCounts)) as cursor:
            await cursor.execute(
                stored.OFFICER_COUNTS, {"path": place.path, "start": start, "end": stop}
            )
            (counts,) = await cursor.fetchall()
        people = await conn.execute(population.BELOW, population.parameters(city, first, end))
        known = population.fold(await people.fetchall(), first, end)
    found = recommend(counts.situation(known[place.path.rpartition(".")[2]], known[city]))
    # What the rest of the city adds up to is for who sees the city.
    hidden = set[str]() if person.path == city else {"city_rate", "p"}
    return OfficerRecommendation.model_validate(
        {
            "area": place.area,
            "from": first,
            "to": end,
            "officers": found.officers,
            "reasons": [
                OfficerReason(
                    code=reason.code,
                    officers_more=reason.officers_more,
                    numbers={
                        name: number
                        for name, number in reason.numbers.items()
                        if name not in hidden
                    },
                )
                for reason in found.reasons
            ],
            "rule_version": found.rule_version,
        }
    )


async def find_incident(conn: Connection, scope: Scope, incident: UUID) -> Incident:
    """Return one record that the person may see.

    Raises:
        Problem: ``not_found``: there is none, or it is not theirs; nobody can tell which.
    """
    async with conn.cursor(row_factory=class_row(Incident)) as cursor:
        await cursor.execute(
            """
            SELECT i.id, i.category, i.criminal, i.area, i.community, i.occurred_at,
                   i.disposition,
                   CASE WHEN ta.path <@ %(scope)s::ltree THEN i.alert END AS alert,
                   i.confirmed_by, i.confirmed_at, i.note, i.reported_by, i.reported_at,
                   i.changed_at, i.version
            FROM incident AS i
            JOIN area AS a ON a.area = i.area
            LEFT JOIN alert AS t ON t.id = i.alert
            LEFT JOIN area AS ta ON ta.area = t.area
            WHERE i.id = %(incident)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            """,
            {"incident": incident, "scope": scope.path},
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row


def _present(now: Incident) -> dict[str, object]:
    """What the record is by now, so that people see who was first."""
    return {
        "version": now.version,
        "disposition": now.disposition,
        "confirmed_by": now.confirmed_by,
        "changed_at": rfc3339(now.changed_at),
    }


def _problem(error: Missing | stored.AlertTaken | Refused) -> Problem:
    match error:
        case stored.AlertTaken():
            return Problem("incident.alert_taken")
        case Missing(what="incident"):
            return Problem("not_found")
        case Missing():
            # Missing or not theirs, and above all communities: nobody can tell which.
            told = FieldError(f"/body/{error.what}", f"{error.what}.unknown")
        case Refused():
            bounds = {
                name: rfc3339(bound) if isinstance(bound, datetime) else bound
                for name, bound in error.bounds.items()
            }
            told = FieldError(f"/body/{error.field}", error.rule, bounds)
    return Problem("request.invalid", errors=[told])
