# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from xml.etree import ElementTree
from zipfile import ZipFile

import pytest
from openpyxl import Workbook, load_workbook
from openpyxl.worksheet.worksheet import Worksheet

from ingest.indicators.definition import Language
from ingest.reports import xlsx
from ingest.reports.content import Report
from ingest.reports.words import word
from ingest.reports.xlsx import write_xlsx
from tests.ingest.reports.sample import MADE_AT, NO_DATA_NIGHTS, sample

LANGUAGES: tuple[Language, ...] = ("zh-CN", "en")
SHEETS = ("summary", "daily", "areas", "roads", "restated", "inputs", "definitions")
CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"


def written(report: Report) -> bytes:
    file = BytesIO()
    write_xlsx(report, file)
    return file.getvalue()


def opened(report: Report) -> Workbook:
    return load_workbook(BytesIO(written(report)))


def sheet(book: Workbook, key: str, language: Language = "en") -> Worksheet:
    found = book[word(key, language)]
    assert isinstance(found, Worksheet)
    return found


def table(found: Worksheet, language: Language = "en") -> list[dict[str, Any]]:
    """The rows of a sheet under the labels of its first row."""
    header, *rows = found.iter_rows(values_only=True)
    return [dict(zip(map(str, header), row, strict=True)) for row in rows]


def numbers(report: Report) -> Iterator[dict[str, Any]]:
    """The rows of the summary's table."""
    rows = sheet(opened(report), "summary").iter_rows(values_only=True)
    header = next(row for row in rows if row[0] == word("indicator", "en"))
    for _, row in zip(report.numbers, rows, strict=False):
        yield dict(zip(map(str, header), row, strict=True))


def charts(report: Report) -> list[ElementTree.Element]:
    with ZipFile(BytesIO(written(report))) as book:
        names = sorted(name for name in book.namelist() if name.startswith("xl/charts/chart"))
        return [ElementTree.fromstring(book.read(name)) for name in names]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_workbook_has_its_sheets_in_the_language(language: Language) -> None:
    book = opened(sample(language))
    assert book.sheetnames == [word(key, language) for key in SHEETS]
    assert book.properties.language == language
    first = sheet(book, "summary", language)["A1"].value
    assert first == ("回龙观街道 社区指标月报 2026-10" if language == "zh-CN" else first)
    assert "2026-10" in str(first)


def test_tables_keep_their_header_in_sight_and_fit_on_paper() -> None:
    book = opened(sample("en"))
    for key in SHEETS:
        found = sheet(book, key)
        assert found.page_setup.paperSize == 9
        assert found.page_setup.orientation == "landscape"
        assert found.sheet_properties.pageSetUpPr is not None
        assert found.sheet_properties.pageSetUpPr.fitToPage
        if key != "summary":
            assert found.freeze_panes == "A2"
            assert found.print_title_rows == "$1:$1"


def test_the_summary_holds_every_number_as_a_figure() -> None:
    report = sample("en")
    for row, number in zip(numbers(report), report.numbers, strict=True):
        definition = report.definition(number.indicator)
        assert row["Indicator"] == definition.name["en"]
        if number.unit == "fraction":
            assert row["Value"] == number.value
            assert row["Lower bound"] == number.lower
        assert (row["Value"] is None) == (row["Why no value"] is not None)


def test_sums_are_told_in_units_of_people() -> None:
    rows = {row["Indicator"]: row for row in numbers(sample("en"))}
    assert (rows["Overflow time"]["Value"], rows["Overflow time"]["Unit"]) == (93.25, "h")
    energy = rows["Lighting energy"]
    assert (energy["Value"], energy["Unit"]) == (pytest.approx(18_250.4), "kWh")
    asked = rows["Time to acknowledge"]
    assert (asked["Value"], asked["Unit"]) == (pytest.approx(95 / 60), "min")


def test_a_verdict_is_a_sign_and_a_word() -> None:
    verdicts = {row["Verdict"] for row in numbers(sample("en"))}
    assert verdicts == {"✓ Met", "✗ Not met", "? Undetermined", None}


@pytest.mark.parametrize(
    ("indicator", "form"),
    [
        pytest.param("Lighting uptime (by time)", '"≥ "0.##%', id="high"),
        pytest.param("Incident rate", '"≤ "0.0#', id="low"),
    ],
)
def test_a_target_shows_its_direction(indicator: str, form: str) -> None:
    found = sheet(opened(sample("en")), "summary")
    row = next(row for row in found.iter_rows() if row[0].value == indicator)
    assert row[7].number_format == form


def test_every_day_of_the_month_has_a_row() -> None:
    report = sample("en")
    short = replace(report, daily={"lighting-uptime": report.daily["lighting-uptime"][:5]})
    rows = table(sheet(opened(short), "daily"))
    assert [row["Day"].date() for row in rows] == list(report.days)
    for row in rows[5:]:
        assert (row["Value"], row["Why no value"]) == (None, word("missing.day", "en"))


def test_a_day_that_has_not_come_is_not_missing() -> None:
    report = sample("en")
    begun = {"lighting-uptime": report.daily["lighting-uptime"][:5]}
    made_at = datetime(2026, 10, 6, 17, tzinfo=UTC)  # the 7th by local clocks
    rows = table(sheet(opened(replace(report, daily=begun, made_at=made_at)), "daily"))
    assert [row["Why no value"] for row in rows[5:9]] == [
        *([word("missing.day", "en")] * 2),
        *([word("missing.to_come", "en")] * 2),
    ]


def test_a_night_without_data_is_a_gap_and_says_so() -> None:
    rows = table(sheet(opened(sample("en")), "daily"))
    gaps = [
        row
        for row in rows
        if row["Indicator"] == "Lighting uptime (by time)" and row["Day"].date() in NO_DATA_NIGHTS
    ]
    assert len(gaps) == len(NO_DATA_NIGHTS)
    for row in gaps:
        assert (row["Value"], row["Lower bound"], row["Upper bound"]) == (None, None, None)
        assert (row["Coverage"], row["Why no value"]) == (0, word("missing.day", "en"))


def test_raw_inputs_add_up_to_the_number_of_the_month() -> None:
    report = sample("en")
    rows = table(sheet(opened(report), "inputs"))
    assert len(rows) == len(report.inputs)
    lighting = report.numbers[0]
    assert sum(row["Good (numerator)"] for row in rows) == lighting.numerator
    assert sum(row["All that counts"] for row in rows) == lighting.total
    assert sum(row["Accepted maintenance"] for row in rows) == lighting.excluded["maintenance"]


def test_a_full_sheet_is_continued_on_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 100)
    report = sample("en")
    book = opened(report)
    names = [name for name in book.sheetnames if name.startswith(word("inputs", "en"))]
    assert names == ["Raw inputs", "Raw inputs 2"]
    days = [row["Day"].date() for name in names for row in table(sheet(book, name))]
    assert days == [row.day for row in report.inputs]


@pytest.mark.parametrize("language", LANGUAGES)
def test_definitions_explain_every_number(language: Language) -> None:
    report = sample(language)
    rows = table(sheet(opened(report), "definitions", language))
    texts = [row[word("formula", language)] for row in rows]
    assert texts == [definition.formula[language] for definition in report.definitions]


def test_charts_draw_the_nights_and_the_areas() -> None:
    line, bars = charts(sample("en"))
    formulas = [reference.text for reference in line.iter(f"{CHART}f")]
    assert "'Daily'!$C$2:$C$32" in formulas  # values
    assert "'Daily'!$F$2:$F$32" in formulas  # target
    blanks = line.find(f".//{CHART}dispBlanksAs")
    assert blanks is not None
    assert blanks.get("val") == "gap"
    assert "'Areas below'!$D$2:$D$7" in [reference.text for reference in bars.iter(f"{CHART}f")]


def test_areas_furthest_from_the_target_come_first() -> None:
    rows = table(sheet(opened(sample("en", children=12)), "areas"))
    values = [row["Lighting uptime (by time) · Value"] for row in rows]
    known = [value for value in values if value is not None]
    assert known == sorted(known)
    assert values[-1] is None, "nobody can say where an unheard area stands"


def test_a_report_without_areas_and_days_has_no_charts() -> None:
    report = replace(sample("en"), children=(), daily={})
    assert charts(report) == []
    assert word("areas", "en") not in opened(report).sheetnames


@pytest.mark.parametrize("name", ["=1+1", "=HYPERLINK(A1)", "#N/A", "@x", "\x00\x1b", "\ud800"])
def test_no_text_is_a_formula_or_breaks_the_file(name: str) -> None:
    report = sample("en")
    child = replace(report.children[0], name={"zh-CN": name, "en": name})
    report = replace(report, area_name=child.name, children=(child,))
    book = opened(report)
    cells = [sheet(book, "areas")["A2"], sheet(book, "summary")["A1"], sheet(book, "summary")["B2"]]
    for cell in cells:
        assert cell.data_type == "s"
    if name.isprintable():
        assert cells[0].value == name


def test_one_content_is_one_file() -> None:
    assert written(sample()) == written(sample())


def test_the_only_time_in_the_file_is_when_it_was_made() -> None:
    content = written(sample())
    with ZipFile(BytesIO(content)) as book:
        # The zip format counts seconds by twos.
        assert {entry.date_time for entry in book.infolist()} == {(2026, 11, 2, 1, 30, 14)}
    properties = load_workbook(BytesIO(content)).properties
    assert properties.created == properties.modified == MADE_AT.replace(tzinfo=None)


def test_progress_ends_at_the_last_row() -> None:
    report = replace(sample(), inputs=sample().inputs * 12)
    told: list[tuple[int, int]] = []
    write_xlsx(report, BytesIO(), lambda done, total: told.append((done, total)))
    assert told == [(2_000, 2_232), (2_232, 2_232)]


def test_roads_are_listed_as_given_and_none_is_a_formula() -> None:
    rows = table(sheet(opened(sample("en")), "roads"))
    assert [row["Road"] for row in rows] == ["龙腾街", "=1+1", "Ring Road"]
    first, _, ring = rows
    assert (first["Nights"], first["Nights over limit"], first["Most dark"]) == (31, 9, 6)
    assert (first["Dark allowed"], ring["Dark allowed"]) == (2, None)
    assert first["Worst night"] == datetime(2026, 10, 8)  # noqa: DTZ001 - a sheet knows no zones
    assert first["Area"] == "Longyue Garden 1"


def test_what_was_restated_tells_both_numbers_and_why() -> None:
    rows = table(sheet(opened(sample("en")), "restated"))
    lighting, equipment, energy = rows
    assert lighting["Restated at"] == "2026-10-09 00:30:00"  # in the area's time zone
    assert (lighting["Was"], lighting["Became"]) == (0.9, pytest.approx(11 / 12))
    assert (lighting["Good before"], lighting["Good (numerator)"]) == (9, 11)
    assert (lighting["Reason"], lighting["Revision"]) == ("data arrived late", 3)
    # Of nothing that was known there was no share.
    assert (equipment["Was"], equipment["Device class"]) == (None, "Lamps")
    assert (energy["Was"], energy["Became"], energy["Unit"]) == (1.2, 1.45, "kWh")
    assert energy["Reason"] == "somebody-knows"


def test_a_cut_list_of_restatements_says_so() -> None:
    report = replace(sample("en"), restated_count=7_000)
    *_, last = sheet(opened(report), "restated").iter_rows(values_only=True)
    assert last[0] == word("restated_cut", "en", shown=3, all=7_000)


def test_without_roads_and_restatements_there_are_no_sheets_of_them() -> None:
    book = opened(replace(sample("en"), roads=(), restated=(), restated_count=0))
    assert not {word("roads", "en"), word("restated", "en")} & set(book.sheetnames)
