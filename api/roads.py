# SPDX-License-Identifier: Apache-2.0
"""Roads with dark lamps, by the rule for small roads; the worst first."""

from dataclasses import asdict
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field

from api.answers import ROWS_DEFAULT, ROWS_MAX, Answer
from api.auth import Person
from api.indicators import WindowQuestion, ask
from api.places import find_area
from api.replica import Lagging, reads
from api.state import services
from ingest.store import road_nights


class RoadAnswer(Answer):
    """One road over the nights asked about; ``dark`` to ``dark_max`` are of its worst night.

    ``undetermined`` are nights in which lamps that were not seen for long enough may be dark too;
    in nights that are none of the three no rule applied (200 lamps or more).
    """

    community: str
    road: str
    nights: int = Field(description="in which it had lamps with due time")
    met: int
    not_met: int
    undetermined: int
    lamps: int
    dark: int
    unknown: int = Field(description="not seen for long enough to be judged")
    dark_max: int | None = Field(description="how many may be dark; null: no rule applies")
    worst_night: date


class Roads(Answer):
    """Roads of the communities in an area; nights are named by the date of their dusk."""

    area: str
    from_: date = Field(alias="from")
    to: date
    items: list[RoadAnswer]


class RoadQuestion(WindowQuestion):
    """Which nights, and how many roads at most."""

    limit: int = Field(default=ROWS_DEFAULT, ge=1, le=ROWS_MAX)


router = APIRouter(tags=["indicators"], route_class=Lagging)


@router.get("/areas/{area}/roads")
async def list_roads(
    area: str, person: Person, request: Request, question: Annotated[RoadQuestion, Query()]
) -> Roads:
    """List roads, the worst first: over their limit most often, then perhaps so, then darkest."""
    parts = services(request)
    async with reads(request).connection() as conn:
        place = await find_area(conn, person.scope, area)
        asked = ask(place, person.scope, question, "total", parts.clock())
        roads = await road_nights.worst(
            conn, asked.path, asked.scope, asked.days, limit=question.limit
        )
    return Roads.model_validate(
        {
            "area": place.area,
            "from": asked.first,
            "to": asked.end,
            "items": [RoadAnswer(**asdict(road)) for road in roads],
        }
    )
