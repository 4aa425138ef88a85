# SPDX-License-Identifier: Apache-2.0
import csv
from dataclasses import replace
from io import BytesIO, StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.indicators.definition import Language
from ingest.reports.content import Report
from ingest.reports.csv import COLUMNS, safe, write_csv
from ingest.reports.words import word
from tests.ingest.reports.sample import HOUR_US, NO_DATA_NIGHTS, sample

LANGUAGES: tuple[Language, ...] = ("zh-CN", "en")
SIGNS = "=+-@＝＋－＠"


def written(report: Report) -> bytes:
    file = BytesIO()
    write_csv(report, file)
    return file.getvalue()


def read(report: Report) -> list[dict[str, str]]:
    """The rows under the columns' keys, whatever they are called."""
    header, *rows = csv.reader(StringIO(written(report).decode("utf-8-sig"), newline=""))
    assert header == [word(column, report.language) for column in COLUMNS]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def of(rows: list[dict[str, str]], record: str, language: Language = "en") -> list[dict[str, str]]:
    return [row for row in rows if row["record"] == word(f"record.{record}", language)]


def test_spreadsheets_see_utf8() -> None:
    assert written(sample()).startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_fact_is_a_row(language: Language) -> None:
    report = sample(language)
    rows = read(report)
    assert len(of(rows, "number", language)) == len(report.numbers)
    assert len(of(rows, "day", language)) == sum(map(len, report.daily.values()))
    assert len(of(rows, "child", language)) == sum(len(c.numbers) for c in report.children)
    assert len(of(rows, "input", language)) == len(report.inputs)
    assert len(of(rows, "road", language)) == len(report.roads)
    assert len(of(rows, "restated", language)) == len(report.restated)


def test_figures_come_back_exactly() -> None:
    report = sample("en")
    for row, number in zip(of(read(report), "number"), report.numbers, strict=True):
        assert row["value"] == ("" if number.value is None else repr(number.value))
        assert row["total"] == ("" if number.total is None else str(number.total))
        assert row["maintenance"] == str(number.excluded.get("maintenance", 0))


def test_inputs_add_up_to_the_number_of_the_month() -> None:
    report = sample("en")
    rows = of(read(report), "input")
    lighting = report.numbers[0]
    assert sum(int(row["good"]) for row in rows) == lighting.numerator
    assert sum(int(row["total"]) for row in rows) == lighting.total


def test_languages_differ_in_words_and_not_in_figures() -> None:
    chinese, english = (read(sample(language)) for language in LANGUAGES)
    figures = ("day", "value", "lower", "upper", "coverage", "good", "bad", "total", "target")
    for left, right in zip(chinese, english, strict=True):
        assert [left[key] for key in figures] == [right[key] for key in figures]
    assert chinese[0]["indicator"] != english[0]["indicator"]


def test_a_day_without_data_has_a_reason_and_no_value() -> None:
    nights = {night.isoformat() for night in NO_DATA_NIGHTS}
    rows = [
        row
        for row in of(read(sample("en")), "day")
        if row["day"] in nights and row["indicator_id"] == "lighting-uptime"
    ]
    assert len(rows) == len(nights)
    for row in rows:
        assert (row["value"], row["coverage"]) == ("", "0.0")
        assert row["why"] == word("missing.day", "en")


def test_a_number_without_data_has_a_reason_and_no_value() -> None:
    row = of(read(sample("en")), "number")[3]
    assert (row["kind"], row["value"], row["coverage"]) == ("Gates", "", "0.0")
    assert row["why"] == word("missing.no_data", "en")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("=1+1", id="formula"),
        pytest.param("@SUM(A1)", id="at"),
        pytest.param("+1", id="plus"),
        pytest.param("-1", id="minus"),
        pytest.param("  =1+1", id="after-spaces"),
        pytest.param("＝1", id="wide"),
        pytest.param("\t=1", id="tab"),
        pytest.param("\n=1", id="new-line"),
        pytest.param('"=1', id="quote"),
    ],
)
def test_no_name_becomes_a_formula(name: str) -> None:
    report = replace(sample("en"), area_name={"zh-CN": name, "en": name})
    for row in of(read(report), "number"):
        assert not row["area"].strip().startswith(tuple(SIGNS))
        assert name.strip() in row["area"]


@given(st.text())
def test_no_text_begins_like_a_formula(text: str) -> None:
    assert not safe(text).lstrip().startswith(tuple(SIGNS))


@given(st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1))
def test_harmless_text_is_left_alone(text: str) -> None:
    assert safe(text) == text


def test_one_content_is_one_file() -> None:
    assert written(sample()) == written(sample())


def test_progress_ends_at_the_last_row() -> None:
    report = replace(sample(), inputs=sample().inputs * 30)
    told: list[tuple[int, int]] = []
    write_csv(report, BytesIO(), lambda done, total: told.append((done, total)))
    assert told[-1] == (len(read(report)), len(read(report)))
    assert len(told) > 2
    assert told == sorted(told)


def test_progress_can_stop_the_writing() -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        write_csv(sample(), BytesIO(), stop)


def test_restated_numbers_come_with_what_they_were() -> None:
    lighting, equipment, energy = of(read(sample("en")), "restated")
    assert (lighting["was"], lighting["value"]) == (repr(0.9), repr(11 / 12))
    assert (lighting["was_good"], lighting["good"]) == (str(9 * HOUR_US), str(11 * HOUR_US))
    assert lighting["replaced_at"] == "2026-10-09T00:30:00+08:00"
    assert (equipment["was"], equipment["kind"]) == ("", "Lamps")
    assert (energy["was"], energy["value"], energy["unit"]) == ("1200", "1450", "Wh")


def test_roads_come_with_their_nights_and_lamps() -> None:
    first, formula, ring = of(read(sample("en")), "road")
    assert (first["road"], first["nights"], first["nights_not_met"]) == ("龙腾街", "31", "9")
    assert (first["dark"], first["dark_max"], first["lamps"]) == ("6", "2", "40")
    assert formula["road"] == "'=1+1"
    assert ring["dark_max"] == ""
