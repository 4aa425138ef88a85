# SPDX-License-Identifier: Apache-2.0
"""Alerts as a file: CSV for people and their spreadsheets, JSON for programs, as they are read."""

import csv
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from io import StringIO
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from api.alerts import Alert, AlertFilter, key_of, read_alerts
from api.answers import rfc3339
from api.auth import Allow
from api.people import Principal
from api.scope import ROLES
from api.state import services
from ingest.indicators.definition import Language
from ingest.reports.csv import safe
from ingest.reports.words import kind_name, word

Format = Literal["csv", "json"]
_MEDIA_TYPES: Final[Mapping[Format, str]] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}
# Read at once: no connection and no memory is held while a slow reader takes its time.
_ROWS: Final = 500
_EXPORTER: Final = Allow(*ROLES, produces="application/json, text/csv")

# Column: heading in zh-CN, in en. Times are UTC, RFC 3339.
_COLUMNS: Final[Mapping[str, tuple[str, str]]] = {
    "id": ("告警编号", "Alert"),
    "severity": ("级别", "Severity"),
    "title": ("告警", "What"),
    "rule": ("规则", "Rule"),
    "kind": ("类别", "Class"),
    "subject": ("对象编号", "Subject"),
    "name": ("对象名称", "Name"),
    "gateway": ("网关", "Gateway"),
    "community": ("社区", "Community"),
    "area": ("位置", "Area"),
    "raised_at": ("首次发生", "First raised"),
    "last_raised_at": ("最近发生", "Last raised"),
    "received_at": ("接收时间", "Received"),
    "cleared_at": ("恢复时间", "Recovered"),
    "repeats": ("重复次数", "Repeats"),
    "active": ("持续中", "Active"),
    "acknowledged": ("已确认", "Acknowledged"),
    "acknowledged_at": ("确认时间", "Acknowledged at"),
    "acknowledged_by": ("确认人", "Acknowledged by"),
    "latched": ("待复位", "Latched"),
    "stale": ("超过24小时", "Over 24 h"),
    "life_safety": ("危及生命", "Danger to life"),
    "quiet": ("不上值班台", "Kept from the desk"),
    "shelved_until": ("搁置至", "Shelved until"),
    "shelved_by": ("搁置人", "Shelved by"),
    "shelved_reason": ("搁置原因", "Why shelved"),
    "out_of_service_until": ("停用至", "Out of service until"),
    "out_of_service_by": ("停用人", "Out of service by"),
    "out_of_service_reason": ("停用原因", "Why out of service"),
    "suppressed_by": ("抑制来源", "Suppressed by"),
    "late": ("补报", "Late"),
    "note": ("备注", "Note"),
}
_YES: Final[Mapping[bool, tuple[str, str]]] = {True: ("是", "yes"), False: ("否", "no")}


class ExportQuestion(AlertFilter):
    """Which alerts, in which format; the language is that of the CSV's headings and words."""

    form: Format = Field(default="csv", alias="format")
    language: Language = "zh-CN"


router = APIRouter(tags=["alerts"])


@router.get("/alerts/export", response_class=StreamingResponse)
async def export_alerts(
    person: Annotated[Principal, Depends(_EXPORTER)],
    request: Request,
    question: Annotated[ExportQuestion, Query()],
) -> StreamingResponse:
    """Return all alerts that a list with the same filters would page through.

    CSV has a heading, JSON is an array of alerts. A file that is not sent to its end is cut off.
    """
    question.check()
    pages = _pages(request, person, question)
    # Read before anything is sent, so that what is wrong is told as a problem.
    first = await anext(pages)
    encode = _csv(question.language) if question.form == "csv" else _json()

    async def content() -> AsyncGenerator[bytes]:
        yield encode(first, True)
        async for page in pages:
            yield encode(page, False)
        if question.form == "json":
            yield b"]\n"

    return StreamingResponse(
        content(),
        media_type=_MEDIA_TYPES[question.form],
        headers={
            "Content-Disposition": f'attachment; filename="linli-alerts.{question.form}"',
        },
    )


async def _pages(
    request: Request, person: Principal, question: AlertFilter
) -> AsyncGenerator[list[Alert]]:
    """Yield pages in order, at least one, each read by itself."""
    parts = services(request)
    now, after = parts.clock(), None
    while True:
        async with parts.pool.connection() as conn:
            page = await read_alerts(conn, person, question, after, _ROWS, now=now)
        yield page
        if len(page) < _ROWS:
            return
        after = key_of(page[-1])


def _json() -> Callable[[list[Alert], bool], bytes]:
    def encode(page: list[Alert], is_first: bool) -> bytes:
        rows = b",\n".join(alert.encode() for alert in page)
        return (b"[" if is_first else b",\n" if page else b"") + rows

    return encode


def _csv(language: Language) -> Callable[[list[Alert], bool], bytes]:
    place = 1 if language == "en" else 0

    def encode(page: list[Alert], is_first: bool) -> bytes:
        rows: list[Iterable[str | int]] = [_cells(alert, language, place) for alert in page]
        if is_first:
            rows.insert(0, [names[place] for names in _COLUMNS.values()])
        # The byte-order mark tells spreadsheets that it is UTF-8.
        return (b"\xef\xbb\xbf" if is_first else b"") + _lines(rows)

    return encode


def _lines(rows: Sequence[Iterable[str | int]]) -> bytes:
    buffer = StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()


def _cells(alert: Alert, language: Language, place: int) -> list[str | int]:
    shelved, out = alert.shelved, alert.out_of_service
    values: dict[str, object] = {
        **dict(alert),
        "severity": word(f"severity.{alert.severity}", language),
        "title": _title(alert, language),
        "kind": kind_name(alert.kind, language),
        "name": (alert.name_en if language == "en" else None) or alert.name,
        "shelved_until": shelved and shelved.until,
        "shelved_by": shelved and shelved.by,
        "shelved_reason": shelved and shelved.reason,
        "out_of_service_until": out and out.until,
        "out_of_service_by": out and out.by,
        "out_of_service_reason": out and out.reason,
        "suppressed_by": " ".join(alert.suppressed_by),
    }
    return [_cell(values[column], place) for column in _COLUMNS]


def _title(alert: Alert, language: Language) -> str:
    if alert.rule_name is not None:
        return alert.rule_name.english if language == "en" else alert.rule_name.chinese
    title = word(f"rule.{alert.rule}.title", language)
    return alert.rule if title.endswith(".title") else title


def _cell(value: object, place: int) -> str | int:
    match value:
        case None:
            return ""
        case bool():
            return _YES[value][place]
        case int():
            return value
        case datetime():
            return rfc3339(value)
        case _:
            return safe(str(value))
