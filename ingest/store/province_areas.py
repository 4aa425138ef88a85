# SPDX-License-Identifier: Apache-2.0
"""A city's areas as its province is told of them: names, where they lay and who lived there."""

import hashlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from psycopg import Connection

from edge_agent.messages import AreaPlace, AreaRecord, Residents, encode

_OTHER_VERSION: Final = 1


def digest(record: AreaRecord) -> bytes:
    """Return what tells whether an area is still as it was; ``record`` is one of `records`."""
    return hashlib.sha256(encode(record)).digest()


def records(conn: Connection, areas: Sequence[str] | None = None) -> list[AreaRecord]:
    """Return the areas that are told, parents first; their versions are not filled in."""
    wanted = None if areas is None else list(areas)
    rows = conn.execute(
        """
        SELECT a.area, a.parent, a.level, a.name, a.name_en
        FROM province AS p
        CROSS JOIN area AS a
        LEFT JOIN area AS o ON o.area = a.parent
        WHERE (level_rank(a.level) < level_rank(p.level) OR is_told(a.level, o.level, p.level))
          AND (%(areas)s::text[] IS NULL OR a.area = ANY (%(areas)s))
        ORDER BY nlevel(a.path), a.area
        """,
        {"areas": wanted},
    ).fetchall()
    names = [row[0] for row in rows]
    places = _by_area(
        conn.execute(
            """
            SELECT area, lower(during), path::text, time_zone
            FROM area_version WHERE area = ANY (%s)
            ORDER BY area, lower(during) NULLS FIRST
            """,
            (names,),
        ).fetchall()
    )
    people = _by_area(
        conn.execute(
            """
            SELECT area, lower(valid), upper(valid), residents, households
            FROM area_population WHERE area = ANY (%s) ORDER BY area, valid
            """,
            (names,),
        ).fetchall()
    )
    return [
        AreaRecord(
            area=area,
            parent=parent,
            level=level,
            name=name,
            name_en=name_en,
            version=_OTHER_VERSION,
            places=_places(places[area]),
            population=tuple(
                Residents(first=first, end=end, residents=residents, households=households)
                for _, first, end, residents, households in people.get(area, ())
            ),
        )
        for area, parent, level, name, name_en in rows
    ]


def _by_area(rows: Sequence[Sequence[Any]]) -> dict[str, list[Sequence[Any]]]:
    return {area: list(of_area) for area, of_area in groupby(rows, key=lambda row: str(row[0]))}


def _places(versions: Sequence[Sequence[Any]]) -> tuple[AreaPlace, ...]:
    """Return where an area lay; versions that differ in nothing that is told are one."""
    found: list[AreaPlace] = []
    for _, since, path, time_zone in versions:
        labels = tuple(label.replace("_", "-") for label in path.split("."))
        if not found or (found[-1].path, found[-1].time_zone) != (labels, time_zone):
            found.append(
                AreaPlace(since=since if found else None, path=labels, time_zone=time_zone)
            )
    return tuple(found)
