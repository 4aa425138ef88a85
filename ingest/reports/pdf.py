# SPDX-License-Identifier: Apache-2.0
"""The monthly report to print: A4, charts where people look rather than read.

Chinese is set in STSong-Light, one of the fonts that readers of PDF bring themselves, so the file
stays small. The same content gives the same bytes: the only time in the file is ``made_at``.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from typing import IO, Final
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    KeepTogether,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
)

from ingest.indicators.definition import Definition, Language
from ingest.reports.charts import (
    CHINESE,
    FAINT,
    INK,
    LATIN,
    MOST_BARS,
    RULE,
    SHADE,
    areas_chart,
    days_chart,
    drawn_by_day,
    fit,
    headline,
    ranked,
    register_fonts,
    runs,
    tag,
    text_width,
)
from ingest.reports.content import Number, Report
from ingest.reports.words import (
    SCALES,
    amount,
    area_name,
    bounds_text,
    domain_name,
    figure,
    kind_name,
    made_text,
    missing_text,
    path_text,
    percent,
    period_text,
    reason_text,
    source_text,
    stated_text,
    target_text,
    title,
    word,
)

# Rows of areas that are printed; a city of thousands is a spreadsheet's matter.
MOST_AREAS: Final = 400
MOST_ROADS: Final = 30
MOST_RESTATED: Final = 60
# Charts by day, the shares with a target first.
_MOST_CHARTS: Final = 4
_MARGIN: Final = 18 * mm
_TOP: Final = 16 * mm
_BOTTOM: Final = 19 * mm
_WIDTH: Final = A4[0] - 2 * _MARGIN
_FOOT: Final = 7.5
_TOTAL_PAGES: Final = "total-pages"

# What one cell holds: nothing, a text already set, or something drawn.
Cell = str | Flowable


def write_pdf(report: Report, file: IO[bytes]) -> None:
    """Write the report as PDF.

    Args:
        report: What is said; its language sets the words and the fonts.
        file: Where to; open for writing bytes. Stays open.
    """
    register_fonts()
    document = BaseDocTemplate(
        file,
        pagesize=A4,
        title=title(report),
        author="Linli",
        subject=f"{path_text(report)}, {period_text(report)}",
        creator="Linli",
        lang=report.language,
        displayDocTitle=True,
        invariant=True,
    )

    def page(canvas: Canvas, _: object) -> None:
        _footer(canvas, report)

    height = A4[1] - _TOP - _BOTTOM
    frame = Frame(
        _MARGIN, _BOTTOM, _WIDTH, height,
        leftPadding=0, rightPadding=0, topPadding=0, bottomPadding=0,
    )  # fmt: skip
    document.addPageTemplates(PageTemplate(frames=[frame], onPage=page))
    document.build(list(_story(report)), canvasmaker=_canvas(report))


def _canvas(report: Report) -> Callable[..., Canvas]:
    """Return the canvas that writes ``made_at`` as its date and knows its last page."""
    made = f"D:{report.made_at.astimezone(UTC):%Y%m%d%H%M%S}+00'00'"

    def date(*_: int) -> str:
        return made

    class DatedCanvas(Canvas):
        def save(self) -> None:
            total = f"{self.getPageNumber() - 1}{word('page_end', report.language)}"
            # The toolkit does not say the types of these three.
            self.beginForm(_TOTAL_PAGES, upperx=60, uppery=12)  # pyright: ignore[reportUnknownMemberType]
            _draw_text(self, 0, 3, total)
            self.endForm()  # pyright: ignore[reportUnknownMemberType]
            self.setDateFormatter(date)  # pyright: ignore[reportUnknownMemberType]
            super().save()

    return DatedCanvas


def _footer(canvas: Canvas, report: Report) -> None:
    """Draw what every page says: where and when, which page, when it was made."""
    language = report.language
    canvas.saveState()
    canvas.setStrokeColor(RULE)
    canvas.setLineWidth(0.5)
    canvas.line(_MARGIN, 13 * mm, A4[0] - _MARGIN, 13 * mm)
    name = f"{report.area_name[language]} · {report.month:%Y-%m}"
    _draw_text(canvas, _MARGIN, 9 * mm, fit(name, 0.36 * _WIDTH, _FOOT))
    made = f"{word('made_at', language)} {made_text(report)}"
    _draw_text(canvas, A4[0] - _MARGIN - text_width(made, _FOOT), 9 * mm, made)
    page = word("page", language, page=canvas.getPageNumber())
    _draw_text(canvas, A4[0] / 2 - text_width(page, _FOOT), 9 * mm, page)
    canvas.translate(A4[0] / 2, 9 * mm - 3)
    canvas.doForm(_TOTAL_PAGES)  # pyright: ignore[reportUnknownMemberType]  # no types
    canvas.restoreState()


def _draw_text(canvas: Canvas, x: float, y: float, text: str) -> None:
    canvas.setFillColor(FAINT)
    for font, part in runs(text):
        canvas.setFont(font, _FOOT)
        canvas.drawString(x, y, part)
        x += text_width(part, _FOOT)


def _story(report: Report) -> Iterator[Flowable]:
    language = report.language
    text = _Setter(language)
    yield text.paragraph(word("title", language), size=10, color="#5c6b7a")
    yield text.heading(report.area_name[language], size=22, above=0)
    yield Spacer(0, 3)
    yield _facts(report, text)
    if report.provisional:
        yield Spacer(0, 4)
        yield text.paragraph(word("is_provisional", language), color="#7a5200")
    judged = [number for number in report.numbers if number.target is not None]
    others = [number for number in report.numbers if number.target is None]
    for label, numbers in (("against_targets", judged), ("other_numbers", others)):
        if numbers:
            yield from _section(text, word(label, language))
            yield _numbers_table(report, numbers, text)
            if label == "against_targets":
                yield Spacer(0, 4)
                yield text.paragraph(word("how_to_read", language), size=7.5, color="#5c6b7a")
    for number in drawn_by_day(report)[:_MOST_CHARTS]:
        name = report.definition(number.indicator).name[language]
        yield KeepTogether(
            [
                *_section(text, word("by_day", language, name=name)),
                days_chart(report, number, _WIDTH, 122),
            ]
        )
    yield from _areas(report, text)
    yield from _roads(report, text)
    yield from _restated(report, text)
    yield from _exclusions(report, text)
    yield CondPageBreak(60 * mm)
    yield from _definitions(report, text)


def _facts(report: Report, text: "_Setter") -> Flowable:
    """Return where, when, and by which rules, in two columns of label and value."""
    language = report.language
    rules = sorted({number.rule_version for number in report.numbers})
    facts = [
        ("area", path_text(report)),
        ("area_code", report.area_id),
        ("period", period_text(report)),
        ("made_at", made_text(report)),
        ("status", word("provisional" if report.provisional else "final", language)),
        ("rule_version", ", ".join(map(str, rules)) or "–"),
    ]
    cells = [
        [text.cell(word(label, language), color="#5c6b7a"), text.cell(value)]
        for label, value in facts
    ]
    rows = [left + right for left, right in zip(cells[::2], cells[1::2], strict=True)]
    table = Table(rows, colWidths=[18 * mm, _WIDTH - 106 * mm, 24 * mm, 64 * mm], hAlign="LEFT")
    table.setStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("TOPPADDING", (0, 0), (-1, -1), 1),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
        ]
    )
    return table


def _numbers_table(report: Report, numbers: Sequence[Number], text: "_Setter") -> Flowable:
    """Return the table of numbers: what it is, its bounds, what is known, what is to be reached."""
    language = report.language
    judged = any(number.target is not None for number in numbers)
    heads = ["indicator", "value", "bounds", "coverage", *(["target", "verdict"] if judged else [])]
    rows: list[list[Cell]] = [
        [
            text.cell(word(key, language), color="#5c6b7a", right=0 < n < 4)
            for n, key in enumerate(heads)
        ]
    ]
    above = ""
    for number in numbers:
        definition = report.definition(number.indicator)
        name = _name(number, definition, language)
        if number.kind and above == number.indicator:  # under the number of all classes
            name = f"\N{NO-BREAK SPACE} · {kind_name(number.kind, language)}"
        rows.append([text.cell(name), *_number_cells(number, definition, text, judged=judged)])
        above = number.indicator
    widths = [46, 28, 33, 17, 23, 27] if judged else [70, 42, 40, 22]
    scale = _WIDTH / sum(widths)
    table = Table(rows, colWidths=[width * scale for width in widths], repeatRows=1)
    table.setStyle(_TABLE_STYLE)
    return table


def _number_cells(
    number: Number, definition: Definition, text: "_Setter", *, judged: bool
) -> list[Cell]:
    language = text.language
    value = missing_text(number, definition, language)
    if number.value is not None:
        value = figure(number.value, number, definition, language)
    bounds = bounds_text(number, definition, language)
    if number.p90 is not None:
        p90 = f"{word('p90', language)} {figure(number.p90, number, definition, language)}"
        bounds = p90 if bounds == "–" else f"{bounds}; {p90}"
    row: list[Cell] = [
        text.cell(value, right=True, bold=number.value is not None),
        text.cell(bounds, right=True),
        text.cell("–" if number.coverage is None else percent(number.coverage), right=True),
    ]
    if judged:
        verdict = number.verdict
        row.append(text.cell(target_text(number, definition, language)))
        row.append("" if verdict is None else tag(word(f"verdict.{verdict}", language), verdict))
    return row


def _name(number: Number, definition: Definition, language: Language) -> str:
    """Return the indicator's name, with the device class where the number is of one."""
    name = definition.name[language]
    return f"{name} · {kind_name(number.kind, language)}" if number.kind else name


def _areas(report: Report, text: "_Setter") -> Iterator[Flowable]:
    indicator = headline(report)
    if not report.children or indicator is None:
        return
    language = report.language
    name = report.definition(indicator).name[language]
    rows = ranked(report, indicator)
    drawn = rows[:MOST_BARS]
    if drawn:
        heading = _section(text, word("by_area", language, name=name))
        yield KeepTogether([*heading, areas_chart(drawn, language, _WIDTH)])
        if len(rows) > len(drawn):
            note = word("furthest", language, shown=len(drawn), all=len(rows))
            yield text.paragraph(note, size=7.5, color="#5c6b7a")
    yield from _areas_table(report, [child.area for child, _ in rows], text)


def _areas_table(report: Report, order: Sequence[str], text: "_Setter") -> Iterator[Flowable]:
    language = report.language
    columns = list(
        dict.fromkeys(
            number.indicator
            for child in report.children
            for number in child.numbers
            if not number.kind
        )
    )[:5]
    if not columns:
        return
    place = {area: index for index, area in enumerate(order)}
    children = sorted(report.children, key=lambda child: place.get(child.area, len(place)))
    yield CondPageBreak(40 * mm)
    yield from _section(text, word("areas", language))
    names = (report.definition(indicator).name[language] for indicator in columns)
    heads = [word("area", language), *names]
    rows: list[list[Cell]] = [[text.cell(head, color="#5c6b7a") for head in heads]]
    for child in children[:MOST_AREAS]:
        by_indicator = {number.indicator: number for number in child.numbers if not number.kind}
        row: list[Cell] = [text.cell(child.name[language])]
        for indicator in columns:
            number = by_indicator.get(indicator)
            if number is None or number.value is None:
                row.append(tag("–" if number is None else word("chart_gap", language), None))
                continue
            value = figure(number.value, number, report.definition(indicator), language)
            row.append(tag(value, number.verdict))
        rows.append(row)
    first = 44 * mm
    rest = (_WIDTH - first) / len(columns)
    table = Table(rows, colWidths=[first, *([rest] * len(columns))], repeatRows=1)
    table.setStyle(_TABLE_STYLE)
    yield table
    if len(children) > MOST_AREAS:
        note = word("table_cut", language, shown=MOST_AREAS, all=len(children))
        yield text.paragraph(note, size=7.5, color="#5c6b7a")


def _roads(report: Report, text: "_Setter") -> Iterator[Flowable]:
    """Show the roads that were over their limit, or may have been."""
    language = report.language
    if not report.roads:
        return
    keys = ("road", "area_code", "nights_not_met", "nights_undetermined", "dark", "dark_max")
    rows: list[list[Cell]] = [
        [
            text.cell(word(key, language), color="#5c6b7a", right=n > 1)
            for n, key in enumerate((*keys, "worst_night"))
        ]
    ]
    for road in report.roads[:MOST_ROADS]:
        allowed = "–" if road.dark_max is None else str(road.dark_max)
        dark = f"{road.dark} / {road.lamps}"
        figures = (f"{road.not_met} / {road.nights}", str(road.undetermined), dark, allowed)
        rows.append(
            [
                text.cell(road.road),
                text.cell(area_name(report, road.community) or road.community),
                *(text.cell(shown, right=True) for shown in figures),
                text.cell(f"{road.worst_night}", right=True),
            ]
        )
    yield CondPageBreak(40 * mm)
    yield from _section(text, word("roads", language))
    scale = _WIDTH / 174
    widths = [40, 36, 21, 21, 18, 16, 22]
    table = Table(rows, colWidths=[width * scale for width in widths], repeatRows=1)
    table.setStyle(_TABLE_STYLE)
    yield table
    if len(report.roads) > MOST_ROADS:
        note = word("roads_cut", language, shown=MOST_ROADS)
        yield text.paragraph(note, size=7.5, color="#5c6b7a")


def _restated(report: Report, text: "_Setter") -> Iterator[Flowable]:
    """Show what changed after it was final: when, from what to what, and why."""
    language = report.language
    yield CondPageBreak(40 * mm)
    yield from _section(text, word("restated", language))
    if not report.restated:
        yield text.paragraph(word("none_restated", language))
        return
    yield text.paragraph(word("restated_note", language), size=7.5, color="#5c6b7a")
    keys = ("replaced_at", "indicator", "day", "area", "was", "became", "reason")
    rows: list[list[Cell]] = [
        [
            text.cell(word(key, language), color="#5c6b7a", right=n in {4, 5})
            for n, key in enumerate(keys)
        ]
    ]
    zone = ZoneInfo(report.time_zone)
    for one in report.restated[:MOST_RESTATED]:
        definition = report.definition(one.indicator)
        name = definition.name[language]
        rows.append(
            [
                text.cell(f"{one.replaced_at.astimezone(zone):%Y-%m-%d %H:%M}"),
                text.cell(f"{name} · {kind_name(one.kind, language)}" if one.kind else name),
                text.cell(f"{one.day}"),
                text.cell(area_name(report, one.area) or one.area),
                text.cell(stated_text(definition, one.was_good, one.was_bad, language), right=True),
                text.cell(stated_text(definition, one.good, one.bad, language), right=True),
                text.cell(reason_text(one.reason, language)),
            ]
        )
    widths = [30, 34, 20, 26, 20, 20, 24]
    table = Table(rows, colWidths=[width * _WIDTH / 174 for width in widths], repeatRows=1)
    table.setStyle(_TABLE_STYLE)
    yield table
    if report.restated_count > MOST_RESTATED:
        shown = min(MOST_RESTATED, len(report.restated))
        note = word("restated_cut", language, shown=shown, all=report.restated_count)
        yield text.paragraph(note, size=7.5, color="#5c6b7a")


def _exclusions(report: Report, text: "_Setter") -> Iterator[Flowable]:
    language = report.language
    rows: list[list[Cell]] = [
        [
            text.cell(word(key, language), color="#5c6b7a", right=key == "amount")
            for key in ("indicator", "reason", "amount")
        ]
    ]
    for number in report.numbers:
        definition = report.definition(number.indicator)
        name = _name(number, definition, language)
        for reason, much in number.excluded.items():
            if much:
                left_out = amount(much, SCALES[definition.parts], language)
                rows.append(
                    [
                        text.cell(name),
                        text.cell(word(reason, language)),
                        text.cell(left_out, right=True),
                    ]
                )
    yield CondPageBreak(40 * mm)
    yield from _section(text, word("exclusions", language))
    if len(rows) == 1:
        yield text.paragraph(word("no_exclusions", language))
        return
    table = Table(rows, colWidths=[_WIDTH * 0.5, _WIDTH * 0.3, _WIDTH * 0.2], repeatRows=1)
    table.setStyle(_TABLE_STYLE)
    yield table


def _definitions(report: Report, text: "_Setter") -> Iterator[Flowable]:
    language = report.language
    yield from _section(text, word("definitions", language))
    for definition in report.definitions:
        target = definition.target
        facts = [
            definition.id,
            domain_name(definition.domain, language),
            f"{word('rule_version', language)} {definition.rule_version}",
        ]
        if target is not None:
            facts.append(f"{word('source', language)} {source_text(target.source, language)}")
        yield KeepTogether(
            [
                text.heading(definition.name[language], size=10),
                text.paragraph(" · ".join(facts), size=7.5, color="#5c6b7a"),
                text.paragraph(definition.formula[language], size=8.5),
            ]
        )


def _section(text: "_Setter", title: str) -> list[Flowable]:
    return [text.heading(title, size=12), Spacer(0, 3)]


_TABLE_STYLE: Final = [
    ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
    ("LINEBELOW", (0, 0), (-1, 0), 0.8, FAINT),
    ("LINEBELOW", (0, 1), (-1, -1), 0.4, RULE),
    ("BACKGROUND", (0, 0), (-1, 0), SHADE),
    ("LEFTPADDING", (0, 0), (-1, -1), 4),
    ("RIGHTPADDING", (0, 0), (-1, -1), 4),
    ("TOPPADDING", (0, 0), (-1, -1), 3),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
]


class _Setter:
    """Sets texts whose letters come from two fonts."""

    def __init__(self, language: Language) -> None:
        self.language: Final[Language] = language
        self._styles: dict[tuple[float, bool, bool], ParagraphStyle] = {}

    def cell(
        self, text: str, *, color: str = "", right: bool = False, bold: bool = False
    ) -> Paragraph:
        return self.paragraph(text, size=8.5, color=color, right=right, bold=bold)

    def heading(self, text: str, *, size: float, above: float | None = None) -> Paragraph:
        """Set a heading; bold where all of it can be, for Chinese has no bold of its own."""
        bold = all(font != CHINESE for font, _ in runs(text))
        paragraph = self.paragraph(text, size=size, bold=bold, keep=True)
        paragraph.spaceBefore = size if above is None else above
        return paragraph

    def paragraph(
        self,
        text: str,
        *,
        size: float = 9,
        color: str = "",
        right: bool = False,
        bold: bool = False,
        keep: bool = False,
    ) -> Paragraph:
        markup = "".join(
            f'<font name="{font}">{escape(part)}</font>' for font, part in runs(text, bold=bold)
        )
        if color:
            markup = f'<font color="{color}">{markup}</font>'
        return Paragraph(markup, self._style(size, right, keep))

    def _style(self, size: float, right: bool, keep: bool) -> ParagraphStyle:
        key = (size, right, keep)
        if key not in self._styles:
            style = ParagraphStyle(f"{size}-{right}-{keep}")
            style.fontName = CHINESE if self.language == "zh-CN" else LATIN
            style.fontSize, style.leading, style.textColor = size, size * 1.4, INK
            style.keepWithNext = int(keep)
            if right:
                style.alignment = TA_RIGHT
            if self.language == "zh-CN":
                style.wordWrap = "CJK"
            self._styles[key] = style
        return self._styles[key]
