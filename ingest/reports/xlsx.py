# SPDX-License-Identifier: Apache-2.0
"""The monthly report as a workbook: summary with charts, days, areas, roads, what was restated, raw
inputs, definitions.

Figures are numbers with a format, so people can go on computing with them; only the raw inputs are
in the parts they are stored in. No text is ever a formula. The same content gives the same bytes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO, Final
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo
from zoneinfo import ZoneInfo

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import Cell
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.page import PrintPageSetup
from openpyxl.worksheet.properties import PageSetupProperties
from openpyxl.worksheet.worksheet import Worksheet

from ingest.indicators.definition import Definition, Language
from ingest.indicators.rate import Verdict
from ingest.reports.charts import headline, ranked
from ingest.reports.content import ChildRow, Day, Number, Progress, Report
from ingest.reports.words import (
    MINUTES,
    REASONS,
    SCALES,
    Scale,
    area_name,
    domain_name,
    kind_name,
    left_out,
    made_text,
    missing_day_text,
    missing_text,
    path_text,
    period_text,
    printable,
    raw_unit,
    reason_text,
    source_text,
    stated,
    title,
    verdict_text,
    word,
)
from ingest.reports.xlsx_charts import AreasAt, DaysAt, draw

# A sheet holds 1,048,576 rows, the first of which is the header.
MOST_ROWS: Final = 1_048_575
# Rows of raw inputs between two calls of ``progress``.
_CHUNK: Final = 2_000
_A4: Final = 9
_PERCENT: Final = "0.00%"
_DAY: Final = "yyyy-mm-dd"
_INK: Final = "1B2733"
_HEAD: Final = PatternFill("solid", fgColor="E4EBF2")
_FILLS: Final[Mapping[Verdict, PatternFill]] = {
    "met": PatternFill("solid", fgColor="DDF1E3"),
    "not_met": PatternFill("solid", fgColor="FBE0DE"),
    "undetermined": PatternFill("solid", fgColor="FCEFD2"),
}
_FONTS: Final[Mapping[Verdict, Font]] = {
    "met": Font(bold=True, color="1C6E3D"),
    "not_met": Font(bold=True, color="B3261E"),
    "undetermined": Font(bold=True, color="7A5200"),
}
_SENTENCE_END: Final = re.compile(r"(?<=。)(?!$)|(?<=\.) ")
_MODIFIED: Final = re.compile(rb"(<dcterms:modified[^>]*>)[^<]*")

Value = str | int | float | date | None


@dataclass(frozen=True, slots=True)
class Styled:
    """A value with how it looks."""

    value: Value
    form: str = "General"
    font: Font | None = None
    fill: PatternFill | None = None
    wrap: bool = False


Row = Sequence[Value | Styled]


def write_xlsx(report: Report, file: IO[bytes], progress: Progress | None = None) -> None:
    """Write the report as a workbook.

    Args:
        report: What is said; its language sets the words.
        file: Where to; open for writing bytes. Stays open.
        progress: Told how many rows of raw inputs are written of how many.
    """
    book = Workbook(write_only=True)
    made = report.made_at.astimezone(UTC).replace(tzinfo=None)
    book.properties.creator = "Linli"
    book.properties.title = printable(title(report))
    book.properties.language = report.language
    book.properties.created = made
    sheets = _Sheets(book, report.language)
    summary = sheets.add("summary", _SUMMARY.values())
    last = _write_summary(summary, report)
    days_at = _write_daily(sheets, report)
    areas_at = _write_areas(sheets, report)
    _write_roads(sheets, report)
    _write_restated(sheets, report)
    _write_inputs(sheets, report, progress)
    _write_definitions(sheets, report)
    below = draw(summary, report, last + 2, days_at, areas_at)
    summary.print_area = f"A1:{_PRINTED}{below}"
    with TemporaryFile() as made_now:
        book.save(made_now)
        made_now.seek(0)
        _copy_dated(made_now, file, report)


class _Sheets:
    """The sheets of one workbook, each set up to be read and printed."""

    def __init__(self, book: Workbook, language: Language) -> None:
        self._book = book
        self._language: Language = language

    def add(self, key: str, widths: Iterable[float], number: int = 1) -> Worksheet:
        name = word(key, self._language) + (f" {number}" if number > 1 else "")
        # A write-only sheet: it takes rows in order and can do nothing else with cells.
        sheet: Worksheet = self._book.create_sheet(name)
        for column, width in enumerate(widths, start=1):
            sheet.column_dimensions[get_column_letter(column)].width = width
        sheet.page_setup = PrintPageSetup(
            orientation="landscape", paperSize=_A4, fitToWidth=1, fitToHeight=0
        )
        sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
        assert sheet.oddFooter is not None  # every sheet has one
        sheet.oddFooter.center.text = "&P / &N"
        return sheet

    def table(self, key: str, columns: Mapping[str, float], number: int = 1) -> Worksheet:
        """Add a sheet whose first row names its columns and stays in sight."""
        sheet = self.add(key, columns.values(), number)
        sheet.freeze_panes = "A2"
        sheet.print_title_rows = "1:1"
        _append(sheet, [_head(name) for name in columns])
        return sheet


_SUMMARY: Final = {
    "indicator": 30.0,
    "kind": 11.0,
    "value": 12.0,
    "unit": 10.0,
    "lower": 12.0,
    "upper": 12.0,
    "coverage": 12.0,
    "target": 12.0,
    "source": 12.0,
    "verdict": 18.0,
    "why": 34.0,
    "p90": 14.0,
    "good": 16.0,
    "denominator": 16.0,
    "total": 16.0,
    "parts": 13.0,
    **dict.fromkeys(REASONS, 18.0),
    "subjects": 11.0,
    "status": 11.0,
    "revision": 11.0,
    "rule_version": 12.0,
}
# What fits on paper; the rest is for the screen.
_PRINTED: Final = "K"


def _write_summary(sheet: Worksheet, report: Report) -> int:
    """Write the numbers of the month; return the last row."""
    language = report.language
    _append(sheet, [Styled(title(report), font=Font(bold=True, size=16, color=_INK))])
    facts = {
        "area": path_text(report),
        "area_code": report.area_id,
        "period": period_text(report),
        "made_at": made_text(report),
        "status": word("provisional" if report.provisional else "final", language),
    }
    for key, value in facts.items():
        _append(sheet, [Styled(word(key, language), font=Font(color="5C6B7A")), value])
    note = word("is_provisional", language) if report.provisional else ""
    _append(sheet, [Styled(note, font=_FONTS["undetermined"])])
    _append(sheet, [_head(word(column, language)) for column in _SUMMARY])
    for number in report.numbers:
        _append(sheet, _summary_row(number, report.definition(number.indicator), language))
    _append(sheet, [])
    notes = _SENTENCE_END.split(word("how_to_read", language))
    for note in notes:
        _append(sheet, [Styled(note, font=Font(color="5C6B7A"))])
    return len(facts) + 3 + len(report.numbers) + 1 + len(notes)


def _summary_row(number: Number, definition: Definition, language: Language) -> Row:
    shown = _Shown.of(definition)
    parts = SCALES[definition.parts]
    person_days = definition.shape == "rate"
    target = number.target
    sign = "≥" if target is not None and target.better == "high" else "≤"
    verdict = number.verdict
    return [
        definition.name[language],
        kind_name(number.kind, language),
        shown.cell(number.value, bold=True),
        word(shown.unit, language),
        shown.cell(number.lower),
        shown.cell(number.upper),
        Styled(number.coverage, _PERCENT),
        None if target is None else Styled(target.value, f'"{sign} "{shown.target_form}'),
        None if target is None else target.source,
        None
        if verdict is None
        else Styled(verdict_text(verdict, language), font=_FONTS[verdict], fill=_FILLS[verdict]),
        missing_text(number, definition, language),
        shown.cell(number.p90),
        number.numerator if definition.shape == "times" else _scaled(number.numerator, parts),
        number.denominator if person_days else _scaled(number.denominator, parts),
        number.total if definition.shape == "times" else _scaled(number.total, parts),
        f"{word('unit.cases', language)} / {word('unit.person_days', language)}"
        if person_days
        else word("unit.cases" if definition.shape == "times" else parts.unit, language),
        *(_scaled(amount, parts) for amount in left_out(number.excluded).values()),
        number.subjects,
        word(number.status, language),
        number.revision,
        number.rule_version,
    ]


def _write_daily(sheets: _Sheets, report: Report) -> DaysAt | None:
    """Write every day of the month for each indicator, also those without data."""
    language = report.language
    columns = {
        "indicator": 30.0, "day": 12.0, "value": 12.0, "lower": 12.0, "upper": 12.0,
        "target": 12.0, "coverage": 12.0, "unit": 10.0, "good": 16.0, "bad": 12.0, "total": 16.0,
        "parts": 13.0, **dict.fromkeys(REASONS, 18.0), "subjects": 11.0, "status": 11.0,
        "revision": 11.0, "why": 30.0,
    }  # fmt: skip
    sheet = sheets.table("daily", {word(key, language): columns[key] for key in columns})
    together = {number.indicator: number for number in report.numbers if not number.kind}
    chosen = headline(report)
    place: DaysAt | None = None
    row = 1
    for indicator, days in report.daily.items():
        if not days:
            continue
        definition = report.definition(indicator)
        number = together.get(indicator)
        by_day = {day.day: day for day in days}
        if indicator == chosen and number is not None:
            place = DaysAt(sheet, number, row + 1, row + len(report.days))
        for day in report.days:
            target = None if number is None or number.target is None else number.target.value
            known = by_day.get(day)
            why = missing_day_text(report, day, known, definition)
            _append(sheet, _day_row(day, known, definition, target, why, language))
            row += 1
    return place


def _day_row(
    day: date,
    known: Day | None,
    definition: Definition,
    target: float | None,
    why: str,
    language: Language,
) -> Row:
    """Return a day as a row; ``why`` is said where there is no value."""
    shown = _Shown.of(definition)
    parts = SCALES[definition.parts]
    name = definition.name[language]
    head: Row = [name, Styled(day, _DAY)]
    goal = Styled(target, shown.target_form)
    unit = word(shown.unit, language)
    if known is None:
        gap = [None] * (7 + len(REASONS))
        return [*head, None, None, None, goal, None, unit, *gap, why]
    # Bounds from nothing to all would draw a band over a day of which nothing is known.
    heard = known.value is not None
    return [
        *head,
        shown.cell(known.value),
        shown.cell(known.lower if heard else None),
        shown.cell(known.upper if heard else None),
        goal,
        Styled(known.coverage, _PERCENT),
        unit,
        _scaled(known.good, parts),
        _scaled(known.bad, parts),
        _scaled(known.total, parts),
        word(parts.unit, language),
        *(_scaled(amount, parts) for amount in left_out(known.excluded).values()),
        known.subjects,
        word(known.status, language),
        known.revision,
        why,
    ]


def _write_areas(sheets: _Sheets, report: Report) -> AreasAt | None:
    """Write the areas below, the furthest from the target first, each number with its bounds."""
    if not report.children:
        return None
    language = report.language
    numbers = [number for child in report.children for number in child.numbers]
    keys = list(dict.fromkeys((number.indicator, number.kind) for number in numbers))
    columns = {word("area", language): 28.0, word("area_code", language): 22.0}
    columns[word("level", language)] = 10.0
    for indicator, kind in keys:
        name = report.definition(indicator).name[language]
        name = f"{name} · {kind_name(kind, language)}" if kind else name
        columns |= {f"{name} · {word(part, language)}": 15.0 for part in _AREA_PARTS}
    sheet = sheets.table("areas", columns)
    chosen = headline(report)
    order = [] if chosen is None else ranked(report, chosen)
    place = {child.area: index for index, (child, _) in enumerate(order)}
    for child in sorted(report.children, key=lambda child: place.get(child.area, len(place))):
        _append(sheet, _area_row(child, keys, report))
    if chosen is None or (chosen, "") not in keys or not order:
        return None
    column = 4 + len(_AREA_PARTS) * keys.index((chosen, ""))
    return AreasAt(sheet, order[0][1], column, len(order))


_AREA_PARTS: Final = ("value", "lower", "upper", "coverage", "verdict", "why")


def _area_row(child: ChildRow, keys: Sequence[tuple[str, str]], report: Report) -> Row:
    language = report.language
    by_key = {(number.indicator, number.kind): number for number in child.numbers}
    row: list[Value | Styled] = [
        child.name[language],
        child.area,
        word(f"level.{child.level}", language),
    ]
    for key in keys:
        number = by_key.get(key)
        if number is None:
            row += [None] * len(_AREA_PARTS)
            continue
        definition = report.definition(number.indicator)
        shown = _Shown.of(definition)
        verdict = number.verdict
        row += [
            shown.cell(number.value, bold=True),
            shown.cell(number.lower),
            shown.cell(number.upper),
            Styled(number.coverage, _PERCENT),
            None
            if verdict is None
            else Styled(verdict_text(verdict, language), font=_FONTS[verdict]),
            missing_text(number, definition, language),
        ]
    return row


def _write_roads(sheets: _Sheets, report: Report) -> None:
    """Write the roads, the worst first, with how they stood in their worst night."""
    if not report.roads:
        return
    columns = {
        "road": 26.0, "area": 28.0, "area_code": 22.0, "nights": 9.0, "nights_not_met": 12.0,
        "nights_undetermined": 14.0, "nights_met": 12.0, "lamps": 9.0, "dark": 11.0,
        "unknown_lamps": 13.0, "dark_max": 11.0, "worst_night": 13.0,
    }  # fmt: skip
    labels = {word(key, report.language): width for key, width in columns.items()}
    sheet = sheets.table("roads", labels)
    for road in report.roads:
        _append(
            sheet,
            [
                road.road,
                area_name(report, road.community),
                road.community,
                road.nights,
                road.not_met,
                road.undetermined,
                road.met,
                road.lamps,
                road.dark,
                road.unknown,
                road.dark_max,
                Styled(road.worst_night, _DAY),
            ],
        )


def _write_restated(sheets: _Sheets, report: Report) -> None:
    """Write what was restated, from what to what, when and why."""
    if not report.restated:
        return
    language = report.language
    columns = {
        "replaced_at": 20.0, "indicator": 30.0, "day": 12.0, "area": 28.0, "area_code": 22.0,
        "kind": 11.0, "was": 14.0, "became": 14.0, "unit": 12.0, "reason": 28.0, "revision": 11.0,
        "was_good": 16.0, "good": 16.0, "was_bad": 14.0, "bad": 14.0, "was_total": 16.0,
        "total": 16.0, "parts": 13.0,
    }  # fmt: skip
    sheet = sheets.table("restated", {word(key, language): columns[key] for key in columns})
    zone = ZoneInfo(report.time_zone)
    for one in report.restated:
        definition = report.definition(one.indicator)
        parts = SCALES[definition.parts]
        share = definition.shape == "share"
        form = _PERCENT if share else _form(parts)

        divisor = 1 if share else parts.divisor
        _append(
            sheet,
            [
                f"{one.replaced_at.astimezone(zone):%Y-%m-%d %H:%M:%S}",
                definition.name[language],
                Styled(one.day, _DAY),
                area_name(report, one.area),
                one.area,
                kind_name(one.kind, language),
                _divided(stated(definition, one.was_good, one.was_bad), divisor, form),
                _divided(stated(definition, one.good, one.bad), divisor, form),
                word("unit.fraction" if share else parts.unit, language),
                reason_text(one.reason, language),
                one.revision + 1,
                _scaled(one.was_good, parts),
                _scaled(one.good, parts),
                _scaled(one.was_bad, parts),
                _scaled(one.bad, parts),
                _scaled(one.was_total, parts),
                _scaled(one.total, parts),
                word(parts.unit, language),
            ],
        )
    if report.restated_count > len(report.restated):
        shown, all_ = len(report.restated), report.restated_count
        _append(sheet, [word("restated_cut", language, shown=shown, all=all_)])


def _write_inputs(sheets: _Sheets, report: Report, progress: Progress | None) -> None:
    """Write what the numbers are summed from, as it is stored; on more sheets if one is full."""
    language = report.language
    columns = {
        "indicator_id": 24.0, "day": 12.0, "area_code": 24.0, "kind": 11.0, "good": 20.0,
        "bad": 18.0, "total": 20.0, "parts": 13.0, "subjects": 11.0,
        **dict.fromkeys(REASONS, 18.0), "status": 11.0, "revision": 11.0,
        "rule_version": 12.0,
    }  # fmt: skip
    labels = {word(key, language): width for key, width in columns.items()}
    units = {known.id: raw_unit(known.parts, language) for known in report.definitions}
    sheet = sheets.table("inputs", labels)
    total = len(report.inputs)
    for done, stored in enumerate(report.inputs):
        if done and done % MOST_ROWS == 0:
            sheet = sheets.table("inputs", labels, done // MOST_ROWS + 1)
        _append(
            sheet,
            [
                stored.indicator,
                stored.day,
                stored.area,
                kind_name(stored.kind, language),
                stored.good,
                stored.bad,
                stored.total,
                units[stored.indicator],
                stored.subjects,
                *left_out(stored.excluded).values(),
                word(stored.status, language),
                stored.revision,
                stored.rule_version,
            ],
        )
        if progress is not None and ((done + 1) % _CHUNK == 0 or done + 1 == total):
            progress(done + 1, total)


def _write_definitions(sheets: _Sheets, report: Report) -> None:
    language = report.language
    columns = {
        "name": 30.0, "indicator_id": 24.0, "domain": 11.0, "formula": 90.0, "target": 12.0,
        "better": 12.0, "source": 34.0, "parts": 13.0, "rule_version": 12.0,
    }  # fmt: skip
    sheet = sheets.table("definitions", {word(key, language): columns[key] for key in columns})
    for definition in report.definitions:
        target = definition.target
        shown = _Shown.of(definition)
        _append(
            sheet,
            [
                definition.name[language],
                definition.id,
                domain_name(definition.domain, language),
                Styled(definition.formula[language], wrap=True),
                None if target is None else Styled(target.value, shown.target_form),
                None if target is None else word(f"better.{target.better}", language),
                None if target is None else Styled(source_text(target.source, language), wrap=True),
                raw_unit(definition.parts, language),
                definition.rule_version,
            ],
        )


@dataclass(frozen=True, slots=True)
class _Shown:
    """How values of an indicator stand in a cell: divided, formatted, in a unit."""

    divisor: int
    form: str
    target_form: str
    unit: str

    @classmethod
    def of(cls, definition: Definition) -> "_Shown":
        match definition.shape:
            case "share":
                return cls(1, _PERCENT, "0.##%", "unit.fraction")
            case "rate":
                return cls(1, "0.00", "0.0#", "unit.per_mille_year")
            case "sum":
                return cls._scaled(SCALES[definition.parts])
            case "times":
                return cls._scaled(MINUTES)

    @classmethod
    def _scaled(cls, scale: Scale) -> "_Shown":
        form = _form(scale)
        return cls(scale.divisor, form, form, scale.unit)

    def cell(self, value: float | None, *, bold: bool = False) -> Styled:
        scaled = None if value is None else value / self.divisor
        return Styled(scaled, self.form, font=Font(bold=True) if bold else None)


def _form(scale: Scale) -> str:
    return "#,##0" if scale.decimals == 0 else "#,##0." + "0" * scale.decimals


def _scaled(parts: int | None, scale: Scale) -> Styled:
    return Styled(None if parts is None else parts / scale.divisor, _form(scale))


def _divided(value: float | None, divisor: int, form: str) -> Styled:
    return Styled(None if value is None else value / divisor, form)


def _head(text: str) -> Styled:
    return Styled(text, font=Font(bold=True, color=_INK), fill=_HEAD, wrap=True)


def _append(sheet: Worksheet, row: Row) -> None:
    sheet.append([_cell(sheet, value) for value in row])


def _cell(sheet: Worksheet, content: Value | Styled) -> Cell | Value:
    """Return what is written: plain where it can be, for cells with a look cost time."""
    if not isinstance(content, Styled):
        if isinstance(content, str):
            content = printable(content)
            return _text(sheet, content) if content.startswith(("=", "#")) else content
        return content
    value = content.value
    if isinstance(value, str):
        cell = _text(sheet, printable(value))
    else:
        if isinstance(value, date):
            value = datetime.combine(value, time())
        cell = WriteOnlyCell(sheet, value)
    cell.number_format = content.form
    if content.font is not None:
        cell.font = content.font
    if content.fill is not None:
        cell.fill = content.fill
    if content.wrap:
        cell.alignment = Alignment(wrap_text=True, vertical="top")
    return cell


def _text(sheet: Worksheet, text: str) -> Cell:
    """Return a cell that holds text, even where it looks like a formula or an error."""
    cell = WriteOnlyCell(sheet, text)
    cell.data_type = "s"
    return cell


def _copy_dated(made_now: IO[bytes], file: IO[bytes], report: Report) -> None:
    """Copy a workbook with the time the report was made instead of the time of writing."""
    made = report.made_at.astimezone(UTC)
    stamp = f"{made:%Y-%m-%dT%H:%M:%SZ}".encode()
    with ZipFile(made_now) as source, ZipFile(file, "w", ZIP_DEFLATED) as copy:
        for entry in source.infolist():
            info = ZipInfo(entry.filename, max(made.timetuple()[:6], (1980, 1, 1, 0, 0, 0)))
            info.compress_type, info.external_attr = ZIP_DEFLATED, 0o600 << 16
            if entry.filename == "docProps/core.xml":
                copy.writestr(info, _MODIFIED.sub(rb"\g<1>" + stamp, source.read(entry)))
                continue
            with source.open(entry) as content, copy.open(info, "w") as out:
                copyfileobj(content, out)
