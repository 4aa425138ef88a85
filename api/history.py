# SPDX-License-Identifier: Apache-2.0
"""What a device reported, in short: a bounded number of points, however long the time.

Days come from `device_day`, one row each, so a year is one index scan; anything finer comes from
raw readings of a bounded time. Days that are not made yet (the running one, and the last until it
is final) are added up from raw readings too, three at most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from psycopg import sql
from psycopg.rows import class_row
from pydantic import Field

from api.answers import Answer, Instant, Moment, Question
from api.auth import Person
from api.errors import FieldError, Problem
from api.kinds import KINDS
from api.places import is_id
from api.replica import Lagging, reads
from api.scope import Scope
from api.state import Connection, consistent, services
from ingest.indicators.spans import day_of, day_span, from_us, to_us
from ingest.kinds import KINDS as STORED_KINDS
from ingest.store.device_days import numbers, summary

Width = Literal["5min", "hour", "day"]
_DAY: Final = timedelta(days=1)
# How long one point is, and how long a time may be asked for: 864, 744 and 366 points.
_STEPS: Final[Mapping[Width, timedelta]] = {
    "5min": timedelta(minutes=5),
    "hour": timedelta(hours=1),
    "day": _DAY,
}
_LONGEST: Final[Mapping[Width, timedelta]] = {
    "5min": timedelta(days=3),
    "hour": timedelta(days=31),
    "day": timedelta(days=366),
}
# Days younger than this may have no row yet.
_RAW_DAYS_MAX: Final = 3
# Gateways' clocks may run ahead a little.
_AHEAD: Final = timedelta(hours=1)


class Extent(Answer):
    """What a field was: of a truth value, true counts as 1, so ``mean`` is a share."""

    min: float
    mean: float
    max: float


class HistoryPoint(Answer):
    """Readings of one stretch of time that begins ``at``; ``faults`` of them told of a fault."""

    at: Instant
    readings: int
    faults: int
    values: dict[str, Extent]


class HistorySummary(Answer):
    """Points in order of time; stretches without a reading have none."""

    device: str
    kind: str
    width: Width
    items: list[HistoryPoint]


class SummaryQuestion(Question):
    """Which time, ``[from, to)``, in points of which width; days are those of the community."""

    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None
    width: Width = Field(
        default="day", description="5min: at most 3 days; hour: 31 days; day: 366 days"
    )


@dataclass(frozen=True, slots=True)
class _Device:
    id: int
    kind: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class _Row:
    """Arrays have an element for each number of the class; None of what was not told."""

    at: Any  # an instant, or a day
    readings: int
    faults: int
    least: list[float | None]
    mean: list[float | None]
    greatest: list[float | None]


router = APIRouter(tags=["devices"], route_class=Lagging)


@router.get("/devices/{device}/history/summary")
async def get_device_summary(
    device: str, person: Person, request: Request, question: Annotated[SummaryQuestion, Query()]
) -> HistorySummary:
    """Return least, mean and greatest of each field of a device by 5 minutes, hour or day.

    A mean is that of readings, not of time. Without ``from`` the longest time that ``width`` allows
    is told, without ``to`` until now. Fields are those of the history; texts have no summary.
    """
    parts = services(request)
    longest = _LONGEST[question.width]
    end = question.to or parts.clock() + _AHEAD
    start = question.from_ or end - longest
    if start >= end:
        raise Problem("request.invalid", errors=[FieldError("/query/to", "range.reversed")])
    if end - start > longest:
        error = FieldError("/query/from", "range.too_long", {"max_days": longest.days})
        raise Problem("request.invalid", errors=[error])
    async with reads(request).connection() as conn, consistent(conn):
        found = await _find(conn, person.scope, device)
        if found.kind not in KINDS:  # of a newer release
            items: list[HistoryPoint] = []
        elif question.width == "day":
            items = await _days(conn, person.scope, found, start, end)
        else:
            items = await _stretches(conn, person.scope, found, start, end, question.width)
    return HistorySummary(device=device, kind=found.kind, width=question.width, items=items)


async def _find(conn: Connection, scope: Scope, device: str) -> _Device:
    """Return a device within scope.

    Raises:
        Problem: ``not_found``: there is none, or it is not theirs; nobody can tell which.
    """
    if not is_id(device):
        raise Problem("not_found")
    async with conn.cursor(row_factory=class_row(_Device)) as cursor:
        await cursor.execute(
            """
            SELECT d.id, d.kind, c.time_zone
            FROM device AS d
            JOIN area AS a ON a.area = d.area
            JOIN area AS c ON c.area = d.community
            WHERE d.device = %(device)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            """,
            {"device": device, "scope": scope.path},
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row


async def _stretches(
    conn: Connection, scope: Scope, device: _Device, start: datetime, end: datetime, width: Width
) -> list[HistoryPoint]:
    at = sql.SQL("date_bin({step}, at, 'epoch')").format(step=sql.Literal(_STEPS[width]))
    rows = await _raw(conn, scope, device, at, start, end)
    return [_point(row.at, row, device.kind) for row in rows]


async def _days(
    conn: Connection, scope: Scope, device: _Device, start: datetime, end: datetime
) -> list[HistoryPoint]:
    """Return days that ``[start, end)`` touches, each whole."""
    zone = device.time_zone
    first, last = day_of(to_us(start), zone), day_of(to_us(end) - 1, zone)
    async with conn.cursor(row_factory=class_row(_Row)) as cursor:
        await cursor.execute(
            """
            SELECT s.day AS at, s.readings, s.faults, s.least, s.mean, s.greatest
            FROM device_day AS s
            WHERE s.device_id = (
                      SELECT d.id FROM device AS d JOIN area AS a ON a.area = d.area
                      WHERE d.id = %(device)s
                        AND a.path <@ %(scope)s::ltree)  -- invariant 9
              AND s.day >= %(first)s AND s.day <= %(last)s
            ORDER BY s.day
            """,
            {"device": device.id, "scope": scope.path, "first": first, "last": last},
        )
        rows = await cursor.fetchall()
    unmade = max(first, last - (_RAW_DAYS_MAX - 1) * _DAY, *(row.at + _DAY for row in rows[-1:]))
    if unmade <= last:
        at = sql.SQL("(at AT TIME ZONE {zone})::date").format(zone=sql.Literal(zone))
        since, until = _midnight(unmade, zone), _midnight(last + _DAY, zone)
        rows += await _raw(conn, scope, device, at, since, until)
    return [_point(_midnight(row.at, zone), row, device.kind) for row in rows]


async def _raw(
    conn: Connection,
    scope: Scope,
    device: _Device,
    at: sql.Composable,
    start: datetime,
    end: datetime,
) -> list[_Row]:
    """Return raw readings in ``[start, end)`` summed up by ``at``, in order."""
    table = STORED_KINDS[device.kind].readings
    statement = sql.SQL(
        """
        SELECT {at} AS at, {summary}
        FROM {table}
        WHERE device_id = (
                  SELECT d.id FROM device AS d JOIN area AS a ON a.area = d.area
                  WHERE d.id = %(device)s
                    AND a.path <@ %(scope)s::ltree)  -- invariant 9
          AND at >= %(start)s AND at < %(end)s
        GROUP BY 1
        ORDER BY 1
        """
    ).format(at=at, summary=summary(table), table=sql.Identifier(table.name))
    async with conn.cursor(row_factory=class_row(_Row)) as cursor:
        await cursor.execute(
            statement, {"device": device.id, "scope": scope.path, "start": start, "end": end}
        )
        return await cursor.fetchall()


def _midnight(day: date, zone: str) -> datetime:
    return from_us(day_span(day, zone)[0])


def _point(at: datetime, row: _Row, kind: str) -> HistoryPoint:
    told = {
        name: Extent(min=least, mean=mean, max=greatest)
        # Rows of an earlier release may have fewer.
        for name, least, mean, greatest in zip(
            numbers(STORED_KINDS[kind].readings), row.least, row.mean, row.greatest, strict=False
        )
        if least is not None and mean is not None and greatest is not None
    }
    return HistoryPoint(
        at=at,
        readings=row.readings,
        faults=row.faults,
        values={name: told[name] for name in KINDS[kind].fields if name in told},
    )
