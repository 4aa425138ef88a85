# SPDX-License-Identifier: Apache-2.0
"""The area tree as far as a person may see it, and the overview of one area."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from psycopg.rows import class_row

from api.answers import Page, PageQuestion
from api.auth import Person
from api.overview import Area, Overview, read_overview
from api.paging import link_next
from api.places import Place, find_area
from api.replica import Lagging, reads
from api.state import services

router = APIRouter(tags=["areas"], route_class=Lagging)


@router.get("/areas")
async def list_areas(
    person: Person,
    request: Request,
    response: Response,
    question: Annotated[PageQuestion, Query()],
) -> Page[Area]:
    """List the areas in scope: parents before children, siblings by id."""
    parts = services(request)
    asked = ("areas", person.path)
    after = parts.cursors.read_text(question.cursor, asked)
    async with (
        reads(request).connection() as conn,
        conn.cursor(row_factory=class_row(Place)) as cursor,
    ):
        await cursor.execute(
            """
            SELECT a.area, CASE WHEN a.path = %(scope)s::ltree THEN NULL ELSE a.parent END
                       AS parent,
                   a.path::text, a.level, a.name, a.name_en, a.time_zone,
                   (SELECT count(*) FROM area AS c WHERE c.parent = a.area) AS children
            FROM area AS a
            WHERE a.path <@ %(scope)s::ltree  -- invariant 9
              AND (%(after)s::text IS NULL OR a.path > %(after)s::text::ltree)
            ORDER BY a.path
            LIMIT %(count)s
            """,
            {"scope": person.path, "after": after, "count": question.limit + 1},
        )
        places = await cursor.fetchall()
    page, more = places[: question.limit], len(places) > question.limit
    following = parts.cursors.write([page[-1].path], asked) if more else None
    link_next(request, response, following)
    return Page(items=[Area.of(place) for place in page], next_cursor=following)


@router.get("/areas/{area}/overview")
async def get_area_overview(area: str, person: Person, request: Request) -> Overview:
    """Return what matters in one area now: states, lighting, alerts, gateways, sub-areas."""
    parts = services(request)
    async with parts.pool.connection() as conn:
        place = await find_area(conn, person.scope, area)
        return await read_overview(conn, person.scope, place, now=parts.clock())
