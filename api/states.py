# SPDX-License-Identifier: Apache-2.0
"""The states of all devices of an area in one answer: what a map of a community is coloured by.

The database writes the rows as they are sent: at ten thousand devices, making objects of them and
text of the objects again would take longer than everything else together.
"""

from typing import Final

from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.answers import Answer, Instant
from api.auth import Person
from api.errors import FieldError, Problem
from api.places import Place, find_area
from api.scope import Scope
from api.state import Connection, consistent, services
from edge_agent.messages import DeviceState

# The number above which an area's live stream tells no devices either.
DEVICES_MAX: Final = 20_000


class States(Answer):
    """``rows``: device, class, state, instant of the latest reading; in no order."""

    area: str
    rows: list[tuple[str, str, DeviceState, Instant | None]] = Field(max_length=DEVICES_MAX)


router = APIRouter(tags=["areas"])


@router.get("/areas/{area}/states", response_model=States)
async def get_area_states(area: str, person: Person, request: Request) -> Response:
    """Return the state of every device in service or in maintenance in an area of up to 20,000."""
    async with services(request).pool.connection() as conn, consistent(conn):
        place = await find_area(conn, person.scope, area)
        rows = await read_states(conn, person.scope, place)
    return Response(f'{{"area":"{place.area}","rows":[{rows}]}}', media_type="application/json")


async def read_states(conn: Connection, scope: Scope, place: Place) -> str:
    """Return rows as `States` has them, as JSON without the outer brackets.

    Raises:
        Problem: ``request.invalid``: there are more than `DEVICES_MAX`.
    """
    cursor = await conn.execute(
        """
        SELECT array_agg(a.area) FILTER (
                   WHERE a.path <@ %(area)s::ltree
                     AND a.path <@ %(scope)s::ltree),  -- invariant 9
               array_agg(a.area) FILTER (WHERE a.level = 'community')
        FROM area AS a
        WHERE a.path <@ %(area)s::ltree OR a.path @> %(area)s::ltree
        """,
        {"area": place.path, "scope": scope.path},
    )
    found = await cursor.fetchone()
    assert found is not None, "an aggregate always has a row"
    areas, communities = found
    # Lists of ids, not a condition on paths: so the planner knows how many devices to expect. A
    # state is where its device is; saying so lets it be found by community (migration 0009). Of
    # `device_view` this keeps the meaning, not the form: a test compares them.
    cursor = await conn.execute(
        """
        SELECT count(*),
               coalesce(string_agg(
                   '["' || d.device || '",' || to_json(d.kind) || ',"'
                   || CASE
                          WHEN d.life = 'maintenance' THEN 'maintenance'
                          WHEN s.device_id IS NULL THEN 'unknown'
                          WHEN g.silent OR s.silent THEN 'offline'
                          WHEN s.fault IS NOT NULL THEN 'fault'
                          ELSE 'normal'
                      END
                   || '",' || coalesce(to_json(s.at)::text, 'null') || ']', ','), '')
        FROM (
            SELECT id, device, kind, gateway, life FROM device
            WHERE area = ANY (%(areas)s) AND life IN ('in_service', 'maintenance')
            LIMIT %(count)s
        ) AS d
        JOIN gateway AS g ON g.gateway = d.gateway
        LEFT JOIN device_state AS s
               ON s.device_id = d.id AND s.community = ANY (%(communities)s)
        """,
        {"areas": areas, "communities": communities or [], "count": DEVICES_MAX + 1},
    )
    row = await cursor.fetchone()
    assert row is not None, "an aggregate always has a row"
    if row[0] > DEVICES_MAX:
        error = FieldError("/path/area", "area.too_large", {"max_devices": DEVICES_MAX})
        raise Problem("request.invalid", errors=[error])
    return row[1]
