# SPDX-License-Identifier: Apache-2.0
"""Alerts: listed by tab, told with their occurrences and their timeline.

What people do with them is in `api.alert_actions`, files of them in `api.alert_export`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from psycopg import sql
from psycopg.rows import class_row
from pydantic import Field

from api.answers import (
    Answer,
    Instant,
    Moment,
    Page,
    PageQuestion,
    Question,
    check_range,
)
from api.auth import Person
from api.errors import FieldError, Problem
from api.overview import SEVERITIES, Severity
from api.paging import Key, link_next
from api.people import Principal
from api.places import find_area
from api.preconditions import parse_id
from api.scope import Scope
from api.state import Connection, consistent, services
from ingest.alerts import Done
from ingest.hygiene import LASTING, STALE_AFTER
from ingest.rules import Name
from ingest.store.rules import NAME

Status = Literal[
    "desk", "unacknowledged", "active", "open", "acknowledged", "latched", "stale", "shelved",
    "suppressed", "history",
]  # fmt: skip

# Of a detector that chatters nobody reads more; the counts tell how many there are.
OCCURRENCES_MAX: Final = 100
STEPS_MAX: Final = 500

_OPEN: Final = sql.SQL("(t.active OR t.latched OR NOT t.acknowledged)")
# What `Alert` is made of; it asks for the parameter ``stale``, `stale_before` of now.
_STALE: Final = sql.SQL(
    """
    t.active AND NOT t.rule = ANY ({lasting})
    AND EXISTS (SELECT FROM alert_occurrence AS o
                WHERE o.alert = t.id AND o.active AND o.raised_at < %(stale)s)
    """
).format(lasting=sql.Literal(sorted(LASTING)))
COLUMNS: Final = sql.SQL(
    """
    t.id, t.rule, t.severity, t.subject, t.kind, t.device, t.gateway, t.area, t.community, t.name,
    t.name_en, t.params, t.active, t.acknowledged, t.raised_at, t.received_at, t.cleared_at,
    t.acknowledged_at, t.acknowledged_by, t.note, t.late, t.version, t.life_safety, t.standing,
    t.repeats, t.last_raised_at, t.latched, t.suppressed_by,
    CASE WHEN t.shelved_until IS NOT NULL THEN
        jsonb_build_object('until', t.shelved_until, 'by', t.shelved_by,
                           'reason', t.shelved_reason, 'once', t.shelved_once)
    END AS shelved,
    CASE WHEN t.out_of_service_until IS NOT NULL THEN
        jsonb_build_object('until', t.out_of_service_until, 'by', t.out_of_service_by,
                           'reason', t.out_of_service_reason)
    END AS out_of_service,
    t.quiet, {stale} AS stale, {name} AS rule_name
    """
).format(stale=_STALE, name=sql.SQL(NAME))

# Each tab is a question to the flags; written out, so that the indexes of open alerts, and of those
# put aside, serve.
_TABS: Final[Mapping[Status, sql.Composable]] = {
    "desk": sql.SQL("{} AND NOT t.quiet").format(_OPEN),
    "unacknowledged": sql.SQL("NOT t.acknowledged"),
    "active": sql.SQL("t.active"),
    "open": _OPEN,
    "acknowledged": sql.SQL("t.acknowledged"),
    "latched": sql.SQL("t.latched"),
    "stale": _STALE,
    "shelved": sql.SQL("(t.shelved_until IS NOT NULL OR t.out_of_service_until IS NOT NULL)"),
    "suppressed": sql.SQL("t.suppressed_by <> '{}'"),
    "history": sql.SQL("true"),
}
# The desk sees the worst first; all else is sorted by time. Neither of the two ever changes while
# somebody pages, but for a rule that was made more severe.
_WEIGHT: Final = sql.SQL("array_position('{info,minor,major,critical}', t.severity)")
_ORDERS: Final[Mapping[bool, tuple[sql.Composable, sql.Composable]]] = {
    False: (
        sql.SQL("t.raised_at DESC, t.id DESC"),
        sql.SQL("(t.raised_at, t.id) < (%(after_at)s::timestamptz, %(after_id)s::uuid)"),
    ),
    True: (
        sql.SQL("{} DESC, t.raised_at DESC, t.id DESC").format(_WEIGHT),
        sql.SQL(
            "({}, t.raised_at, t.id)"
            " < (%(after_weight)s::int, %(after_at)s::timestamptz, %(after_id)s::uuid)"
        ).format(_WEIGHT),
    ),
}


class Aside(Answer):
    """Put aside until an instant, by whom and why; ``once``: or until it is cleared, if earlier."""

    until: Instant
    by: str
    reason: str
    once: bool = False


class Alert(Answer):
    """A rule on one subject, as people see it: active until its condition ends.

    ``subject`` is the device, or the gateway where the rule is about that. ``params`` are what the
    rule saw last. ``raised_at`` is the device's time, ``received_at`` ours; ``late`` says that the
    readings came long after they were made.

    Raised again soon after its end, or while it is put aside, it is the same alert: ``repeats``
    counts that, ``last_raised_at`` is the latest, ``standing`` how many of its occurrences are
    active. ``latched``: it ended, and waits for a person to reset it. ``suppressed_by`` are causes
    such as ``gateway:gw-7``, ``window:…``, ``flood:…``. ``quiet``: it is kept from the desk, which
    danger to life (``life_safety``) never is. ``stale``: active for more than 24 h, when told;
    those over indicators never are. ``rule_name`` is what people call a rule of their own; null for
    the product's, which the locales name.
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
    life_safety: bool
    standing: int
    repeats: int
    last_raised_at: Instant
    latched: bool
    suppressed_by: list[str]
    shelved: Aside | None
    out_of_service: Aside | None
    quiet: bool
    stale: bool
    rule_name: Name | None


class Step(Answer):
    """One thing that happened to an alert: by a rule, by design or by a person.

    ``params`` say until when it was put aside, or by what it is suppressed. ``lasted_s`` is, of
    ``cleared``, how long that occurrence was active in the device's time; s.
    """

    at: Instant
    actor: str
    action: Done | Literal["escalated"]
    reason: str
    note: str | None
    occurrence: int | None
    params: dict[str, Any]
    lasted_s: float | None


class Occurrence(Answer):
    """One time that the condition held; ``params`` are what the rule saw then.

    ``id`` counts within the alert: numbers of all would show by their gaps what is kept from a
    reader.
    """

    id: int
    active: bool
    late: bool
    raised_at: Instant
    received_at: Instant
    cleared_at: Instant | None
    acknowledged_at: Instant | None
    params: dict[str, Any]


class AlertDetail(Alert):
    """An alert and all that happened to it, oldest first.

    Of many occurrences the last 100 are told and of many steps the last 500; the counts are of all.
    ``active_s`` is how long it was active, occurrences that overlap counted once; s.
    """

    active_s: float
    occurrence_count: int
    occurrences: list[Occurrence]
    step_count: int
    timeline: list[Step]


class AlertFilter(Question):
    """Which alerts. Only ``history`` takes a time, which means ``raised_at``."""

    area: str | None = Field(default=None, max_length=64)
    status: Status = "open"
    active: bool | None = None
    severity: Severity | None = None
    rule: str | None = Field(default=None, max_length=64)
    kind: str | None = Field(default=None, max_length=64, description="device class, or gateway")
    device: str | None = Field(default=None, max_length=64)
    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None

    def check(self) -> None:
        """Refuse a time that does not go with the tab, or is none.

        Raises:
            Problem: ``request.invalid``.
        """
        if self.status != "history" and (self.from_ or self.to):
            pointer = "/query/from" if self.from_ else "/query/to"
            raise Problem("request.invalid", errors=[FieldError(pointer, "field.unfitting")])
        if self.from_ and self.to:
            check_range(self.from_, self.to)


class AlertQuestion(PageQuestion, AlertFilter):
    """Which alerts, and which page of them."""


router = APIRouter(tags=["alerts"])


@router.get("/alerts")
async def list_alerts(
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[AlertQuestion, Query()],
) -> Page[Alert]:
    """List alerts, the latest raised first; on the ``desk`` the most severe before all others.

    ``desk`` is what somebody on duty must see: open (active, latched or not acknowledged) and not
    quiet. ``shelved`` is what is put aside, out of service included, ``suppressed`` what is muted.
    """
    question.check()
    parts = services(request)
    asked = _asked(person, question)
    after = None if question.cursor is None else parts.cursors.read(question.cursor, asked)
    async with parts.pool.connection() as conn:
        rows = await read_alerts(
            conn, person, question, after, question.limit + 1, now=parts.clock()
        )
    page, more = rows[: question.limit], len(rows) > question.limit
    following = parts.cursors.write(key_of(page[-1]), asked) if more else None
    link_next(request, response, following)
    return Page(items=page, next_cursor=following)


@router.get("/alerts/{alert}")
async def get_alert(alert: str, person: Person, request: Request) -> AlertDetail:
    """Return one alert with its occurrences and its timeline."""
    parts = services(request)
    now = parts.clock()
    async with parts.pool.connection() as conn, consistent(conn):
        found = await find_alert(conn, person.scope, parse_id(alert), now=now)
        told = {"alert": found.id, "scope": person.path, "now": now}
        active_s, occurrences, steps = await _sums(conn, told)
        return AlertDetail(
            **dict(found),
            active_s=active_s,
            occurrence_count=occurrences,
            occurrences=await _occurrences(conn, told),
            step_count=steps,
            timeline=await _timeline(conn, told),
        )


def _asked(person: Principal, question: AlertQuestion) -> tuple[object, ...]:
    filters = question.model_dump(exclude={"limit", "cursor"})
    return "alerts", person.path, person.role, *filters.values()


def key_of(alert: Alert) -> Key:
    """Return where an alert stands, for the page that comes after it."""
    weight = len(SEVERITIES) - SEVERITIES.index(alert.severity)
    return weight, alert.raised_at.isoformat(), str(alert.id)


def stale_before(now: datetime) -> datetime:
    """Return what the parameter ``stale`` of `COLUMNS` is: what is active since then is stale."""
    return now - STALE_AFTER


async def read_alerts(
    conn: Connection,
    person: Principal,
    question: AlertFilter,
    after: Key | None,
    count: int,
    *,
    now: datetime,
) -> list[Alert]:
    """Return the next alerts after a key, at most ``count``.

    Raises:
        Problem: ``not_found``: there is no such area, or it is not theirs.
    """
    area = await find_area(conn, person.scope, question.area or person.area)
    order, follows = _ORDERS[question.status == "desk"]
    weight, at, identity = (None, None, None) if after is None else after
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            sql.SQL(
                """
                SELECT {columns}
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
                  AND (%(after_id)s::uuid IS NULL OR {follows})
                ORDER BY {order}
                LIMIT %(count)s
                """
            ).format(columns=COLUMNS, tab=_TABS[question.status], follows=follows, order=order),
            {
                **question.model_dump(),
                "area": area.path,
                "scope": person.path,
                "hidden": person.scope.hidden_rules,
                "stale": stale_before(now),
                "after_weight": weight,
                "after_at": at,
                "after_id": identity,
                "count": count,
            },
        )
        return await cursor.fetchall()


async def find_alert(conn: Connection, scope: Scope, alert: UUID, *, now: datetime) -> Alert:
    """Return one alert that the person may see.

    Raises:
        Problem: ``not_found``: there is none, or it is not theirs; nobody can tell which.
    """
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            sql.SQL(
                """
                SELECT {columns}
                FROM alert_view AS t
                WHERE t.id = %(alert)s
                  AND t.path <@ %(scope)s::ltree  -- invariant 9
                  AND NOT t.rule = ANY (%(hidden)s)
                """
            ).format(columns=COLUMNS),
            {
                "alert": alert,
                "scope": scope.path,
                "hidden": scope.hidden_rules,
                "stale": stale_before(now),
            },
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row


async def _sums(conn: Connection, told: Mapping[str, object]) -> tuple[float, int, int]:
    """Return how long an alert was active, its occurrences and its steps."""
    cursor = await conn.execute(
        """
        WITH active AS (
            SELECT tstzrange(o.raised_at, greatest(o.raised_at, CASE WHEN o.active THEN %(now)s
                                                                ELSE o.cleared_at END)) AS during
            FROM alert_occurrence AS o
            JOIN alert_view AS t ON t.id = o.alert
            WHERE o.alert = %(alert)s
              AND t.path <@ %(scope)s::ltree  -- invariant 9
        )
        SELECT (SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span))), 0)::float8
                FROM unnest((SELECT range_agg(during) FROM active)) AS span),
               (SELECT count(*) FROM active),
               (SELECT count(*) FROM alert_history AS h WHERE h.alert = %(alert)s)
        """,
        told,
    )
    row = await cursor.fetchone()
    assert row is not None, "an aggregate always has a row"
    return row[0], row[1], row[2]


async def _occurrences(conn: Connection, told: Mapping[str, object]) -> list[Occurrence]:
    async with conn.cursor(row_factory=class_row(Occurrence)) as cursor:
        await cursor.execute(
            """
            SELECT row_number() OVER (ORDER BY o.id) AS id, o.active, o.late, o.raised_at,
                   o.received_at, o.cleared_at, o.acknowledged_at, o.params
            FROM alert_occurrence AS o
            JOIN alert_view AS t ON t.id = o.alert
            WHERE o.alert = %(alert)s
              AND t.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY o.raised_at DESC, o.id DESC
            LIMIT %(count)s
            """,
            {**told, "count": OCCURRENCES_MAX},
        )
        return (await cursor.fetchall())[::-1]


async def _timeline(conn: Connection, told: Mapping[str, object]) -> list[Step]:
    async with conn.cursor(row_factory=class_row(Step)) as cursor:
        await cursor.execute(
            """
            SELECT h.at, h.actor, h.action, h.reason, h.note, o.number AS occurrence, h.params,
                   CASE WHEN h.action = 'cleared'
                        THEN extract(epoch FROM greatest(o.cleared_at - o.raised_at, '0'))::float8
                   END AS lasted_s
            FROM alert_history AS h
            JOIN alert_view AS t ON t.id = h.alert
            LEFT JOIN (
                SELECT id, row_number() OVER (ORDER BY id) AS number, raised_at, cleared_at
                FROM alert_occurrence
                WHERE alert = %(alert)s
            ) AS o ON o.id = h.occurrence
            WHERE h.alert = %(alert)s
              AND t.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY h.id DESC
            LIMIT %(count)s
            """,
            {**told, "count": STEPS_MAX},
        )
        return (await cursor.fetchall())[::-1]
