# SPDX-License-Identifier: Apache-2.0
"""Devices: listed, their latest state, and what they reported."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import Field

from api.answers import (
    RANGE_MAX,
    Answer,
    Instant,
    Page,
    PageQuestion,
    Scalar,
    SearchText,
    TimeRangeQuestion,
    check_range,
    rfc3339,
)
from api.auth import Person
from api.errors import Problem
from api.kinds import KINDS
from api.paging import link_next
from api.places import find_area, is_id
from api.replica import Lagging, reads
from api.scope import Scope
from api.state import Connection, services
from edge_agent.messages import DeviceState
from ingest.kinds import KINDS as STORED_KINDS

Life = Literal["planned", "installed", "in_service", "maintenance", "retired"]
# Gateways' clocks may run ahead a little.
_AHEAD: Final = timedelta(hours=1)


class Device(Answer):
    """A device and its latest state; ``values`` are the fields of its last reading.

    ``since`` is when its condition (normal or fault) began, in device time.
    """

    device: str
    kind: str
    gateway: str
    area: str
    community: str
    name: str
    name_en: str | None
    life: Life
    road: str | None
    state: DeviceState
    since: Instant | None
    at: Instant | None
    received_at: Instant | None
    fault: str | None
    values: dict[str, Scalar]


class DeviceDetail(Device):
    """A device with what the registry says of it; power and programme are those of lamps.

    ``programme`` is the one a lamp goes by: its own, or that of the nearest area which has one.
    """

    in_service_from: Instant
    reporting_period_s: float
    rated_power_w: float | None
    programme: str | None
    component_code: str | None
    owner: str | None
    maker: str | None
    model: str | None
    planned_on: date | None
    installed_on: date | None
    warranty_until: date | None


class HistoryPage(Answer):
    """Readings of one device, newest first: ``at``, ``received_at``, ``fault``, its fields."""

    items: list[dict[str, Scalar]]
    next_cursor: str | None


class DeviceQuestion(PageQuestion):
    """Which devices: those in service or in maintenance, unless ``life`` says otherwise."""

    area: str | None = Field(default=None, max_length=64)
    kind: str | None = Field(default=None, max_length=64)
    state: DeviceState | None = None
    gateway: str | None = Field(default=None, max_length=64)
    life: Life | None = None
    q: SearchText | None = Field(default=None, description="part of an id or a name")


router = APIRouter(tags=["devices"], route_class=Lagging)


@router.get("/devices")
async def list_devices(
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[DeviceQuestion, Query()],
) -> Page[Device]:
    """List devices by id."""
    parts = services(request)
    filters = question.model_dump(exclude={"limit", "cursor"})
    asked = ("devices", person.path, *filters.values())
    after = parts.cursors.read_text(question.cursor, asked)
    async with reads(request).connection() as conn:
        area = await find_area(conn, person.scope, question.area or person.area)
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                """
                SELECT d.device, d.kind, d.gateway, d.area, d.community, d.name, d.name_en, d.life,
                       d.road, d.state, d.since, d.at, d.received_at, d.fault, d.reading
                FROM device_view AS d
                WHERE d.path <@ %(area)s::ltree
                  AND d.path <@ %(scope)s::ltree  -- invariant 9
                  AND (%(after)s::text IS NULL OR d.device > %(after)s)
                  AND (%(kind)s::text IS NULL OR d.kind = %(kind)s)
                  AND (%(state)s::text IS NULL OR d.state = %(state)s)
                  AND (%(gateway)s::text IS NULL OR d.gateway = %(gateway)s)
                  AND CASE WHEN %(life)s::text IS NULL THEN d.life IN ('in_service', 'maintenance')
                           ELSE d.life = %(life)s END
                  AND (%(q)s::text IS NULL
                       OR strpos(lower(d.device), lower(%(q)s)) > 0
                       OR strpos(lower(d.name), lower(%(q)s)) > 0
                       OR strpos(lower(d.name_en), lower(%(q)s)) > 0)
                ORDER BY d.device
                LIMIT %(count)s
                """,
                filters
                | {
                    "area": area.path,
                    "scope": person.path,
                    "after": after,
                    "count": question.limit + 1,
                },
            )
            rows = await cursor.fetchall()
    page, more = rows[: question.limit], len(rows) > question.limit
    following = parts.cursors.write([page[-1]["device"]], asked) if more else None
    link_next(request, response, following)
    return Page(items=[Device.model_validate(_shown(row)) for row in page], next_cursor=following)


@router.get("/devices/{device}")
async def get_device(device: str, person: Person, request: Request) -> DeviceDetail:
    """Return one device."""
    async with reads(request).connection() as conn:
        row = await _find(conn, person.scope, device)
    if row["kind"] != "lamp":
        row["programme"] = None
    del row["id"]
    return DeviceDetail.model_validate(_shown(row))


@router.get("/devices/{device}/history")
async def get_device_history(
    device: str,
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[TimeRangeQuestion, Query()],
) -> HistoryPage:
    """Return what a device reported in ``[from, to)``, newest first; the last 366 days if not said.

    Lamps: lit, level_pct, power_w, voltage_v, current_a, energy_kwh, burn_hours, lux, battery_pct,
    solar_w. Bins: fill_pct, weight_kg, temperature_c, lid_open, tilt, stream. Gates: door, lock.
    Alarms: armed, battery_pct. All: fault.
    """
    parts = services(request)
    end = question.to or parts.clock() + _AHEAD
    start = question.from_ or end - RANGE_MAX
    check_range(start, end)
    # Without bounds in the question the cursor alone says where a page goes on.
    asked = ("history", person.path, device, question.from_, question.to)
    async with reads(request).connection() as conn:
        found = await _find(conn, person.scope, device)
        skip, resumed_at = 0, None
        if question.cursor is not None:
            at, seen = parts.cursors.read(question.cursor, asked)
            # Readings may share an instant: the page before may have ended in their midst.
            skip, resumed_at = int(seen), datetime.fromisoformat(str(at))
            end = resumed_at + timedelta(microseconds=1)
        rows = await _readings(
            conn, person.scope, found["kind"], found["id"], (start, end), skip, question.limit + 1
        )
    page, cursor = rows[: question.limit], None
    if len(rows) > question.limit:
        last = page[-1]["at"]
        seen = sum(row["at"] == last for row in page) + (skip if last == resumed_at else 0)
        cursor = parts.cursors.write([last.isoformat(), seen], asked)
    link_next(request, response, cursor)
    return HistoryPage(
        items=[
            {
                name: rfc3339(value) if isinstance(value, datetime) else value
                for name, value in row.items()
            }
            for row in page
        ],
        next_cursor=cursor,
    )


async def _find(conn: Connection, scope: Scope, device: str) -> dict[str, Any]:
    """Return the row of a device within scope. Any: columns differ in type.

    Raises:
        Problem: ``not_found``: there is none, or it is not theirs; nobody can tell which.
    """
    if not is_id(device):
        raise Problem("not_found")
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT d.id, d.device, d.kind, d.gateway, d.area, d.community, d.name, d.name_en,
                   d.life, d.road, d.state, d.since, d.at, d.received_at, d.fault, d.reading,
                   d.in_service_from, d.reporting_period_s, d.rated_power_w, d.programme,
                   d.component_code, d.owner, d.maker, d.model, d.planned_on, d.installed_on,
                   d.warranty_until
            FROM device_view AS d
            WHERE d.device = %(device)s
              AND d.path <@ %(scope)s::ltree  -- invariant 9
            """,
            {"device": device, "scope": scope.path},
        )
        row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found")
    return row


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a device's row as the answer wants it; Any: columns differ in type."""
    reading: Mapping[str, Scalar] = row.pop("reading") or {}
    if row["state"] not in ("normal", "fault"):
        row["since"] = None
    return {**row, "values": values_of(row["kind"], reading)}


def values_of(kind: str, reading: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return what people see of a reading; nothing of a class this release does not know."""
    shown = KINDS.get(kind)
    return {} if shown is None else shown.values(reading)


async def _readings(
    conn: Connection,
    scope: Scope,
    kind: str,
    device_id: int,
    during: tuple[datetime, datetime],
    skip: int,
    count: int,
) -> list[dict[str, Any]]:
    """Return readings of one device, newest first; Any: columns differ in type."""
    shown = KINDS.get(kind)
    if shown is None:
        return []
    statement = sql.SQL(
        """
        SELECT at, received_at, fault, {fields}
        FROM {table}
        WHERE device_id = (
                  SELECT d.id FROM device_view AS d
                  WHERE d.id = %(device)s
                    AND d.path <@ %(scope)s::ltree)  -- invariant 9
          AND at >= %(start)s AND at < %(end)s
        ORDER BY at DESC, received_at DESC, ctid
        OFFSET %(skip)s LIMIT %(count)s
        """
    ).format(
        fields=sql.SQL(", ").join(map(sql.Identifier, shown.fields)),
        table=sql.Identifier(STORED_KINDS[kind].readings.name),
    )
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            statement,
            {
                "device": device_id,
                "scope": scope.path,
                "start": during[0],
                "end": during[1],
                "skip": skip,
                "count": count,
            },
        )
        return await cursor.fetchall()
