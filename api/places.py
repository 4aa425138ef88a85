# SPDX-License-Identifier: Apache-2.0
"""Areas within a person's scope: what every route that names one begins with."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from psycopg.rows import class_row

from api.errors import Problem
from api.scope import Scope
from api.state import Connection
from edge_agent.kinds.base import ID_PATTERN

Level = Literal["province", "city", "district", "street", "community", "cell"]
_ID: Final = re.compile(ID_PATTERN)


@dataclass(frozen=True, slots=True)
class Place:
    """An area: its path in the tree (an ltree as text), its names, its time zone."""

    area: str
    parent: str | None
    path: str
    level: Level
    name: str
    name_en: str | None
    time_zone: str
    children: int


def is_id(text: str) -> bool:
    """Whether ``text`` could be an id at all; nothing else need be asked for."""
    return _ID.fullmatch(text) is not None


async def find_area(conn: Connection, scope: Scope, area: str) -> Place:
    """Return an area that the person may see; its parent only where they may see that too.

    Raises:
        Problem: ``not_found``: there is none, or it is not theirs; nobody can tell which.
    """
    if not is_id(area):
        raise Problem("not_found")
    async with conn.cursor(row_factory=class_row(Place)) as cursor:
        await cursor.execute(
            """
            SELECT a.area, CASE WHEN a.path = %(scope)s::ltree THEN NULL ELSE a.parent END
                       AS parent,
                   a.path::text, a.level, a.name, a.name_en, a.time_zone,
                   (SELECT count(*) FROM area AS c WHERE c.parent = a.area) AS children
            FROM area AS a
            WHERE a.area = %(area)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            """,
            {"area": area, "scope": scope.path},
        )
        place = await cursor.fetchone()
    if place is None:
        raise Problem("not_found")
    return place


async def answers_for_city(conn: Connection, scope: Scope) -> bool:
    """Return whether what a person sees is a whole city, or more."""
    cursor = await conn.execute(
        "SELECT parent IS NULL OR level = 'city' FROM area WHERE path = %s::text::ltree",
        (scope.path,),
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])
