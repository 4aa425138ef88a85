# SPDX-License-Identifier: Apache-2.0
"""The monthly report of an area, to download as XLSX, PDF or CSV."""

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import date
from tempfile import SpooledTemporaryFile
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from api.answers import Question
from api.auth import Person
from api.errors import Problem
from api.places import find_area
from api.state import consistent, services
from ingest.errors import OperatorError
from ingest.indicators.definition import Language
from ingest.reports.formats import MEDIA_TYPES, write
from ingest.reports.read import read_report

_FILE: Final = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])(\.[a-z]{3,4})")
_IN_MEMORY: Final = 4_000_000
_CHUNK: Final = 65_536
# Each takes a processor for a while; who asks for more waits.
_AT_ONCE: Final = asyncio.Semaphore(2)


class ReportQuestion(Question):
    """In which language."""

    language: Language = "zh-CN"


router = APIRouter(tags=["reports"])


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
    async with parts.pool.connection() as conn:
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
    # Ends with the answer, whether it is read to its end or not.
    content: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    async with _AT_ONCE:
        await asyncio.to_thread(write, report, match[3], content)
    size = content.tell()
    content.seek(0)

    async def chunks() -> AsyncGenerator[bytes]:
        with content:
            while chunk := await asyncio.to_thread(content.read, _CHUNK):
                yield chunk

    return StreamingResponse(
        chunks(),
        media_type=MEDIA_TYPES[match[3]],
        headers={
            "Content-Disposition": f'attachment; filename="linli-{place.area}-{file}"',
            "Content-Length": str(size),
        },
    )
