# SPDX-License-Identifier: Apache-2.0
"""The registry's files: imported by those who answer for all of it, exported to each admin's scope.

Importing is for admins of the whole tree alone. Ids are unique over the installation, and rows are
checked against all others, so an import of a part would tell what is registered elsewhere, and
might take it away (invariant 9). For the same reason such an import may not add a second root.
"""

import asyncio
import logging
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import Annotated, Final, Literal

import psycopg
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from api import downloads
from api.answers import Answer, Question, Scalar, rfc3339
from api.auth import Allow
from api.errors import FieldError, Problem
from api.people import Principal
from api.replica import Lagging, reads_dsn
from api.state import Connection, services
from api.uploads import Upload, read_uploads
from ingest.errors import Mistake, RegistryError
from ingest.registry import NAMES, export_files, import_files
from ingest.registry_files import Format
from ingest.registry_report import Report

log = logging.getLogger(__name__)

# What comes within the ten seconds a request may take. Larger: `linli-ingest registry import`.
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
Table = Literal["area", "gateway", "device", "population"]
assert frozenset(Table.__args__) == NAMES

_MULTIPART: Final = "multipart/form-data"
_MEDIA_TYPES: Final = {
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "zip": "application/zip",
}
# A city takes minutes and gigabytes; who comes second waits for its turn here, and at the
# registry's lock for those who come another way.
_AT_ONCE: Final = asyncio.Semaphore(1)
_CONNECTION: Final = (
    "-c statement_timeout=120s -c lock_timeout=10s -c timezone=UTC"
    " -c idle_in_transaction_session_timeout=120s"
)

IMPORTER: Final = Allow("admin", consumes=_MULTIPART)
EXPORTER: Final = Allow("admin")


class Added(Answer):
    """What is new; ``where`` is its row, ``devices.csv:17``."""

    table: Table
    id: str
    where: str


class Changed(Answer):
    """One value before and after; ``where`` is empty where it follows from other rows."""

    table: Table
    id: str
    column: str
    before: Scalar
    after: Scalar
    where: str


class Opened(Answer):
    """A figure of an areas file that holds from today on."""

    area: str
    residents: int


class ImportReport(Answer):
    """What an import did, or with ``dry_run`` would do: the same list."""

    dry_run: bool
    added: list[Added]
    changed: list[Changed]
    opened: list[Opened]
    unchanged: int


class ImportQuestion(Question):
    """Whether to apply it."""

    dry_run: bool = Field(default=False, description="say what would change, change nothing")


class ExportQuestion(Question):
    """Which tables: all, or those that are named."""

    table: list[Table] = Field(default_factory=list[Table], max_length=len(NAMES))


router = APIRouter(tags=["registry"], route_class=Lagging)


@router.post(
    "/registry/import",
    max_body_size=BODY_BYTES_MAX,
    response_model=ImportReport,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                _MULTIPART: {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "file": {
                                "type": "array",
                                "items": {"type": "string", "format": "binary"},
                            }
                        },
                    }
                }
            },
        }
    },
)
async def import_registry(
    person: Annotated[Principal, Depends(IMPORTER)],
    request: Request,
    question: Annotated[ImportQuestion, Query()],
) -> Response:
    """Import CSV files and workbooks of the registry, 16 MiB together: all of it, or nothing.

    For admins of the whole tree. Every mistake is told with file, row, column and rule; ``rule``
    says in English, as the command does, what ``message`` says in the reader's language.
    """
    parts = services(request)
    async with parts.pool.connection() as conn:
        await _check_whole(conn, person)
    body = await request.body()
    dsn = parts.config.database.dsn.get_secret_value()
    content_type = request.headers.get("content-type", "")
    async with _AT_ONCE:
        content = await asyncio.to_thread(_import, dsn, person, content_type, body, question)
    return Response(content, media_type="application/json")


@router.get("/registry/export.{form}", response_class=StreamingResponse)
async def export_registry(
    form: str,
    person: Annotated[Principal, Depends(EXPORTER)],
    request: Request,
    question: Annotated[ExportQuestion, Query()],
) -> StreamingResponse:
    """Return what is registered in the admin's area, as ``xlsx`` or a ``zip`` of CSV files.

    Whole, it can be imported and changes nothing. What the area itself lies in is not told.
    """
    if form not in _MEDIA_TYPES:
        raise Problem("not_found")
    dsn = reads_dsn(request)
    content = downloads.scratch()
    async with _AT_ONCE:
        await asyncio.to_thread(_export, dsn, person.path, form, question.table, content)
    return downloads.answer(content, _MEDIA_TYPES[form], f"linli-registry-{person.area}.{form}")


async def _check_whole(conn: Connection, person: Principal) -> None:
    """Refuse whoever does not answer for all areas.

    Raises:
        Problem: ``area.forbidden``.
    """
    cursor = await conn.execute(
        "SELECT EXISTS (SELECT FROM area WHERE NOT path <@ %s::text::ltree)", (person.path,)
    )
    row = await cursor.fetchone()
    if row is None or row[0]:
        raise Problem("area.forbidden")


def _import(
    dsn: str, person: Principal, content_type: str, body: bytes, question: ImportQuestion
) -> bytes:
    """Import what a body holds; return the answer. For a thread: it takes its time.

    Raises:
        Problem: ``registry.refused``, with every mistake; or it is not such a body.
    """
    uploads = read_uploads(content_type, body)
    try:
        with TemporaryDirectory(prefix="linli-") as folder, _connect(dsn) as conn:
            names = _write(Path(folder), uploads)
            report = import_files(conn, names, dry_run=question.dry_run, root=person.area)
    except RegistryError as error:
        raise _refusal(error) from error
    if not question.dry_run:
        log.info(
            "registry imported by=%s added=%d changed=%d",
            person.name,
            sum(map(len, report.added.values())),
            len(report.changed),
        )
    return _answer(report).encode()


def _write(folder: Path, uploads: Sequence[Upload]) -> dict[Path, str]:
    """Write uploads under names of ours; return what each is called."""
    names: dict[Path, str] = {}
    for number, upload in enumerate(uploads):
        path = folder / str(number)
        path.write_bytes(upload.content)
        names[path] = upload.name
    return names


def _connect(dsn: str) -> psycopg.Connection:
    """Return a connection that may take long, unlike those of the pool."""
    return psycopg.connect(
        dsn,
        autocommit=True,
        application_name="linli-api-registry",
        connect_timeout=5,
        options=_CONNECTION,
    )


def _refusal(error: RegistryError) -> Problem:
    """Tell every mistake; those beyond the first thousand are not told one by one."""
    more = len(error.problems) > len(error.mistakes)
    return Problem(
        "registry.refused",
        errors=[_field_error(mistake) for mistake in error.mistakes],
        extra={"more": True} if more else {},
    )


def _field_error(mistake: Mistake) -> FieldError:
    steps = (mistake.file, "" if mistake.row is None else str(mistake.row), mistake.column)
    told = [step.replace("~", "~0").replace("/", "~1") for step in steps if step]
    return FieldError(
        "/".join(["/body", *told]),
        f"registry.{mistake.rule.code}",
        {
            **mistake.rule.params,
            "place": mistake.place,
            "file": mistake.file,
            "row": mistake.row,
            "column": mistake.column,
            "value": mistake.value,
            "rule": str(mistake.rule),
        },
        mistake.rule.texts,
    )


def _answer(report: Report) -> ImportReport:
    return ImportReport(
        dry_run=report.dry_run,
        added=[
            Added.model_validate({"table": table, "id": id, "where": report.rows[table, id]})
            for table, ids in report.added.items()
            for id in ids
        ],
        changed=[
            Changed.model_validate(
                {
                    "table": change.table,
                    "id": change.id,
                    "column": change.column,
                    "before": _plain(change.before),
                    "after": _plain(change.after),
                    "where": change.where,
                }
            )
            for change in report.changed
        ],
        opened=[
            Opened(area=area, residents=residents) for area, residents in report.opened.items()
        ],
        unchanged=report.unchanged,
    )


def _plain(value: object) -> object:
    match value:
        case datetime():
            return rfc3339(value)
        case date():
            return value.isoformat()
        case _:
            return value


def _export(
    dsn: str, within: str, form: str, tables: Sequence[str], content: SpooledTemporaryFile[bytes]
) -> None:
    """Write the export into ``content``, to its end. For a thread: it takes its time."""
    with TemporaryDirectory(prefix="linli-") as folder:
        with _connect(dsn) as conn:
            files = export_files(
                conn,
                Path(folder),
                form=Format.XLSX if form == "xlsx" else Format.CSV,
                tables=frozenset(tables) or NAMES,
                within=within,
            )
        if form == "xlsx":
            (book,) = files
            content.write(book.read_bytes())
            return
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)
    content.seek(0, 2)
