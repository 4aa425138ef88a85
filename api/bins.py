# SPDX-License-Identifier: Apache-2.0
"""When bins will be full: of one bin, and of an area's, those to be emptied first."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from psycopg.rows import dict_row
from pydantic import Field

from api.answers import Answer, Instant, Page, Question
from api.auth import Person
from api.errors import Problem
from api.paging import link_next
from api.places import find_area, is_id
from api.replica import Lagging, reads
from api.scope import Scope
from api.state import Connection, services
from edge_agent.messages import DeviceState
from ingest.indicators.refuse import Forecast, Level, forecast
from ingest.indicators.spans import from_us, to_us
from ingest.kinds import KINDS
from ingest.store import chunks

# What a forecast looks back on; since the last emptying counts, and no more than these readings.
_HISTORY: Final = timedelta(days=7)
_LEVELS: Final = KINDS["bin"].readings.name
_READINGS_MAX: Final = 5_000
# Each takes a processor for some milliseconds.
_BINS_MAX: Final = 100
_BINS_DEFAULT: Final = 20


class BinForecast(Answer):
    """A bin's last level, and when it will be full if it fills on as it did since last emptied.

    ``full_at`` is when the straight line through its levels reaches 100 %; null where too little
    was told since (six levels over an hour), where it does not rise, or beyond 14 days.
    """

    device: str
    area: str
    community: str
    name: str
    name_en: str | None
    state: DeviceState
    at: Instant | None = Field(description="of the last reading")
    fill_pct: float | None = Field(description="as the last reading told")
    full_at: Instant | None
    rise_pct_per_day: float | None
    readings: int = Field(description="levels that the forecast stands on; 0: there is none")


class BinQuestion(Question):
    """Which page, and how long."""

    limit: int = Field(default=_BINS_DEFAULT, ge=1, le=_BINS_MAX)
    cursor: str | None = Field(default=None, max_length=1_000)


router = APIRouter(tags=["bins"], route_class=Lagging)


@router.get("/devices/{device}/forecast")
async def get_forecast(device: str, person: Person, request: Request) -> BinForecast:
    """Return when one bin will be full."""
    if not is_id(device):
        raise Problem("not_found")
    parts = services(request)
    async with reads(request).connection() as conn:
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                """
                SELECT d.id, d.device, d.area, d.community, d.name, d.name_en, d.state, d.at,
                       (d.reading ->> 'fill_pct')::float8 AS fill_pct
                FROM device_view AS d
                WHERE d.device = %(device)s AND d.kind = 'bin'
                  AND d.path <@ %(scope)s::ltree  -- invariant 9
                """,
                {"device": device, "scope": person.path},
            )
            row = await cursor.fetchone()
        if row is None:
            raise Problem("not_found")
        (answer,) = await _forecasts(conn, person.scope, [row], parts.clock())
    return answer


@router.get("/areas/{area}/bins")
async def list_bins(
    area: str,
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[BinQuestion, Query()],
) -> Page[BinForecast]:
    """List an area's bins in service, the fullest on the first page, each page by when full."""
    parts = services(request)
    asked = ("bins", person.path, area)
    fill: float | None = None
    device = ""
    if question.cursor is not None:
        told, last = parts.cursors.read(question.cursor, asked)
        fill, device = float(told), str(last)
    async with reads(request).connection() as conn:
        place = await find_area(conn, person.scope, area)
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                """
                SELECT b.*
                FROM (
                    SELECT d.id, d.device, d.area, d.community, d.name, d.name_en, d.state, d.at,
                           (d.reading ->> 'fill_pct')::float8 AS fill_pct,
                           coalesce((d.reading ->> 'fill_pct')::float8, -1) AS fullness
                    FROM device_view AS d
                    WHERE d.kind = 'bin' AND d.life IN ('in_service', 'maintenance')
                      AND d.path <@ %(area)s::ltree
                      AND d.path <@ %(scope)s::ltree  -- invariant 9
                ) AS b
                WHERE %(fill)s::float8 IS NULL OR b.fullness < %(fill)s
                   OR (b.fullness = %(fill)s AND b.device > %(device)s)
                ORDER BY b.fullness DESC, b.device
                LIMIT %(count)s
                """,
                {
                    "area": place.path,
                    "scope": person.path,
                    "fill": fill,
                    "device": device,
                    "count": question.limit + 1,
                },
            )
            rows = await cursor.fetchall()
        page, more = rows[: question.limit], len(rows) > question.limit
        following = None
        if more:
            key = [repr(page[-1]["fullness"]), page[-1]["device"]]
            following = parts.cursors.write(key, asked)
        items = await _forecasts(conn, person.scope, page, parts.clock())
    link_next(request, response, following)
    return Page(items=sorted(items, key=_urgency), next_cursor=following)


def _urgency(one: BinForecast) -> tuple[float, float, str]:
    """Return the order of a page: what is full first; without a forecast the fullest."""
    full_at = inf if one.full_at is None else one.full_at.timestamp()
    return full_at, 1.0 if one.fill_pct is None else -one.fill_pct, one.device


async def _forecasts(
    conn: Connection, scope: Scope, rows: Sequence[dict[str, Any]], now: datetime
) -> list[BinForecast]:
    """Return bins with their forecasts, in order; Any: columns differ in type."""
    levels: defaultdict[int, list[Level]] = defaultdict(list)
    known = await conn.execute(chunks.INDEXED_UNTIL, {"tables": [_LEVELS]})
    (until,) = await known.fetchone() or (None,)
    cursor = await conn.execute(
        """
        SELECT d.id, r.at, r.fill_pct
        FROM device_view AS d
        CROSS JOIN LATERAL (
            SELECT b.at, b.fill_pct FROM reading_bin AS b
            WHERE b.device_id = d.id AND b.at > %(start)s AND b.at <= %(now)s
              AND b.at < %(until)s AND b.fill_pct IS NOT NULL
            ORDER BY b.at DESC
            LIMIT %(most)s
        ) AS r
        WHERE d.id = ANY (%(bins)s)
          AND d.path <@ %(scope)s::ltree  -- invariant 9
        UNION ALL
        -- What is not indexed by device yet is read once for all of them.
        SELECT r.device_id, r.at, r.fill_pct
        FROM reading_bin AS r
        JOIN device_view AS d ON d.id = r.device_id
        WHERE r.device_id = ANY (%(bins)s)
          AND r.at > %(start)s AND r.at <= %(now)s AND r.at >= %(until)s
          AND r.fill_pct IS NOT NULL
          AND d.path <@ %(scope)s::ltree  -- invariant 9
        """,
        {
            "bins": [row["id"] for row in rows],
            "scope": scope.path,
            "start": now - _HISTORY,
            "now": now,
            "until": now + _HISTORY if until is None else until,
            "most": _READINGS_MAX,
        },
    )
    async for device_id, at, fill_pct in cursor:
        levels[device_id].append(Level(to_us(at), fill_pct))
    found = await asyncio.to_thread(_foretell, levels, to_us(now))
    return [_shown(row, found.get(row["id"])) for row in rows]


def _foretell(levels: Mapping[int, Iterable[Level]], now_us: int) -> dict[int, Forecast | None]:
    return {device_id: forecast(told, now_us) for device_id, told in levels.items()}


def _shown(row: Mapping[str, Any], found: Forecast | None) -> BinForecast:
    return BinForecast(
        device=row["device"],
        area=row["area"],
        community=row["community"],
        name=row["name"],
        name_en=row["name_en"],
        state=row["state"],
        at=row["at"],
        fill_pct=row["fill_pct"],
        full_at=None if found is None else from_us(found.full_us),
        rise_pct_per_day=None if found is None else found.rise_pct_per_day,
        readings=0 if found is None else found.readings,
    )
