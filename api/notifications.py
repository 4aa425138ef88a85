# SPDX-License-Identifier: Apache-2.0
"""The log of what was told: to whom, and whether it arrived.

A page costs what it shows, however much was told before it: messages are taken from an index in the
order in which they are shown, by what the question is narrowest in.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, LiteralString
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from psycopg import sql
from pydantic import Field

from api.answers import Answer, Instant, Page, TimeRangeQuestion, check_range
from api.auth import Person
from api.channels import Kind, State
from api.paging import Key, link_next
from api.people import Principal
from api.places import Place, find_area
from api.state import Connection, services

#: Of more communities than these the log is read as a whole: most of it is theirs.
MERGED_MAX: Final = 200
# What messages are taken by: what is few, and how messages belong to it.
_ALERT: Final = (
    sql.SQL("(SELECT DISTINCT n.message FROM notification AS n WHERE n.alert = %(alert)s) AS s"),
    sql.SQL("m.id = s.message"),
)
_RECIPIENT: Final = (
    sql.SQL("(SELECT o.id FROM notification_channel AS o WHERE o.username = %(recipient)s) AS s"),
    sql.SQL("m.channel = s.id"),
)
_COMMUNITIES: Final = (
    sql.SQL(
        """
        (SELECT o.area FROM area AS o
         WHERE o.level = 'community'
           AND (o.path <@ %(area)s::ltree OR o.path @> %(area)s::ltree)) AS s
        """
    ),
    sql.SQL("m.community = s.area"),
)
_ALL: Final = sql.SQL("(SELECT) AS s"), sql.SQL("true")
_IN_SIGHT: Final = sql.SQL(
    """
    t.path <@ %(scope)s::ltree  -- invariant 9
    AND t.path <@ %(area)s::ltree
    AND NOT t.rule = ANY (%(hidden)s)
    """
)


class Delivery(Answer):
    """One message to one channel, and how sending it went; ``error`` is a code."""

    key: UUID
    kind: Literal["raised", "repeated", "cleared", "digest", "test"]
    channel: UUID
    channel_kind: Kind
    channel_name: str | None = Field(description="null: that of somebody else is theirs to know")
    recipient: str | None = Field(description="user name; null for a webhook")
    community: str
    alerts: list[UUID]
    state: State
    attempts: int
    error: str | None
    created_at: Instant
    finished_at: Instant | None


class DeliveryQuestion(TimeRangeQuestion):
    """Which messages; the time means when they were made."""

    area: Annotated[str, Field(max_length=64)] | None = None
    alert: UUID | None = None
    recipient: Annotated[str, Field(max_length=40)] | None = None
    state: State | None = None


router = APIRouter(tags=["notifications"])


@router.get("/notifications")
async def list_notifications(
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[DeliveryQuestion, Query()],
) -> Page[Delivery]:
    """List messages about alerts in scope, the latest first: to whom, and whether they arrived."""
    parts = services(request)
    if question.from_ and question.to:
        check_range(question.from_, question.to)
    filters = question.model_dump(exclude={"limit", "cursor"})
    asked = ("notification-log", person.path, person.role, *filters.values())
    after = None if question.cursor is None else parts.cursors.read(question.cursor, asked)
    async with parts.pool.connection() as conn:
        place = await find_area(conn, person.scope, question.area or person.area)
        rows = await read_log(conn, person, place, question, after, question.limit + 1)
    page, more = rows[: question.limit], len(rows) > question.limit
    following = parts.cursors.write(_key_of(page[-1]), asked) if more else None
    link_next(request, response, following)
    return Page(items=[item for _, item in page], next_cursor=following)


async def read_log(
    conn: Connection,
    person: Principal,
    place: Place,
    question: DeliveryQuestion,
    after: Key | None,
    count: int,
) -> Sequence[tuple[int, Delivery]]:
    """Return the next messages after a key, at most ``count``, each with its number."""
    source, belongs = await _narrowest(conn, place, question)
    at, number = (None, None) if after is None else after
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT m.id, m.key, m.kind, m.channel, c.kind AS channel_kind,
                   CASE WHEN c.username IS NULL OR c.username = %(me)s THEN c.name END,
                   c.username, m.community, v.alerts, m.state, m.attempts, m.error, m.created_at,
                   m.finished_at
            FROM (
                SELECT m.*
                FROM {source}
                CROSS JOIN LATERAL (
                    SELECT m.* FROM notification_message AS m
                    WHERE {belongs} AND {conditions}
                      AND EXISTS (SELECT FROM notification AS n
                                  JOIN alert_view AS t ON t.id = n.alert
                                  WHERE n.message = m.id AND {in_sight} AND {named}
                                  OFFSET 0)  -- asked of each message, never of all at once
                    ORDER BY m.created_at DESC, m.id DESC
                    LIMIT %(count)s
                ) AS m
                ORDER BY m.created_at DESC, m.id DESC
                LIMIT %(count)s
            ) AS m
            JOIN notification_channel AS c ON c.id = m.channel
            CROSS JOIN LATERAL (
                SELECT array_agg(DISTINCT t.id) AS alerts
                FROM notification AS n JOIN alert_view AS t ON t.id = n.alert
                WHERE n.message = m.id AND {in_sight}
            ) AS v
            ORDER BY m.created_at DESC, m.id DESC
            """
        ).format(
            source=source,
            belongs=belongs,
            conditions=_conditions(question, after),
            in_sight=_IN_SIGHT,
            named=sql.SQL("true" if question.alert is None else "t.id = %(alert)s"),
        ),
        {
            **question.model_dump(),
            "me": person.name,
            "scope": person.path,
            "area": place.path,
            "hidden": person.scope.hidden_rules,
            "after_at": at,
            "after_id": number,
            "count": count,
        },
    )
    names = tuple(Delivery.model_fields)
    return [
        (row[0], Delivery.model_validate(dict(zip(names, row[1:], strict=True))))
        async for row in cursor
    ]


def _conditions(question: DeliveryQuestion, after: Key | None) -> sql.Composable:
    """Return what a message must be; only what is asked, so that indexes are found for it."""
    found: list[LiteralString] = ["m.community IS NOT NULL"]  # a test is about nothing
    if question.recipient is not None:
        found.append(
            """EXISTS (SELECT FROM notification_channel AS o
                       WHERE o.id = m.channel AND o.username = %(recipient)s)"""
        )
    if question.state is not None:
        found.append("m.state = %(state)s")
        if question.state != "sent":
            found.append("m.state <> 'sent'")  # as the index has it
    if question.from_ is not None:
        found.append("m.created_at >= %(from_)s")
    if question.to is not None:
        found.append("m.created_at < %(to)s")
    if after is not None:
        found.append("(m.created_at, m.id) < (%(after_at)s::timestamptz, %(after_id)s::bigint)")
    return sql.SQL(" AND ").join(map(sql.SQL, found))


async def _narrowest(
    conn: Connection, place: Place, question: DeliveryQuestion
) -> tuple[sql.Composable, sql.Composable]:
    """Return by what messages are best taken: one alert, one person, or communities one by one."""
    if question.alert is not None:
        return _ALERT
    if question.recipient is not None:
        return _RECIPIENT
    cursor = await conn.execute(
        """
        SELECT count(*) FROM area AS a WHERE a.level = 'community' AND a.path <@ %s::ltree
        """,
        (place.path,),
    )
    row = await cursor.fetchone()
    return _ALL if row is not None and row[0] > MERGED_MAX else _COMMUNITIES


def _key_of(row: tuple[int, Delivery]) -> Key:
    number, item = row
    return item.created_at.isoformat(), number
