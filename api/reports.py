# SPDX-License-Identifier: Apache-2.0
"""The monthly report of an area, to download as XLSX, PDF or CSV."""

import asyncio
import re
from datetime import date
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from api import downloads
from api.answers import Question
from api.auth import Person
from api.errors import Problem
from api.places import find_area
from api.replica import Lagging, reads
from api.state import consistent, services
from ingest.errors import OperatorError
from ingest.indicators.definition import Language
from ingest.reports.formats import MEDIA_TYPES, write
from ingest.reports.read import read_report

_FILE: Final = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])(\.[a-z]{3,4})")
# Each takes a processor for a while; who asks for more waits.
_AT_ONCE: Final = asyncio.Semaphore(2)


class ReportQuestion(Question):
    """In which language."""

    language: Language = "zh-CN"


router = APIRouter(tags=["reports"], route_class=Lagging)


@router.get("/areas/{area}/reports/{file}", response_class=StreamingResponse)
async def get_report(
    area: str,
    file: str,
    person: Person,
    request: Request,
    question: Annotated[ReportQuestion, Query()],
) -> StreamingResponse:
    """Return a month's report; ``file`` is the month and the format: ``2026-03.xlsx``."""
    match = _FILE.fullmatch(file)
    if match is None or match[3] not in MEDIA_TYPES:
        raise Problem("not_found")
    parts = services(request)
    now = parts.clock()
    async with reads(request).connection() as conn:
        place = await find_area(conn, person.scope, area)
        async with consistent(conn):
            try:
                report = await read_report(
                    conn,
                    place.area,
                    date(int(match[1]), int(match[2]), 1),
                    question.language,
                    now=now,
                    scope=person.scope.path,
                    hidden=tuple(person.scope.hidden_rules),
                )
            except OperatorError as error:
                raise Problem("not_found") from error
    content = downloads.scratch()
    async with _AT_ONCE:
        await asyncio.to_thread(write, report, match[3], content)
    return downloads.answer(content, MEDIA_TYPES[match[3]], f"linli-{place.area}-{file}")
