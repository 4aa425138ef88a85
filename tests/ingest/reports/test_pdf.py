# SPDX-License-Identifier: Apache-2.0
"""What the printed report says, read back from its pages."""

import re
import zlib
from base64 import a85decode
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import pytest

from ingest.indicators.definition import Language
from ingest.reports import pdf
from ingest.reports.content import Report
from ingest.reports.pdf import write_pdf
from ingest.reports.words import word
from tests.ingest.reports.sample import EQUIPMENT, sample, share

LANGUAGES: tuple[Language, ...] = ("zh-CN", "en")
_STREAM = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)
_SHOWN = re.compile(rb"/(F\d+)[^\n]*? Tf|\(((?:\\.|[^\\)])*)\) Tj")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)


def written(report: Report) -> bytes:
    file = BytesIO()
    write_pdf(report, file)
    return file.getvalue()


def pages(content: bytes) -> int:
    return len(re.findall(rb"/Type /Page\b", content))


def said(content: bytes) -> str:
    """The text of all pages and forms, in the order in which it is drawn."""
    return "".join(_parts(content))


def _parts(content: bytes) -> Iterator[str]:
    objects = dict(re.findall(rb"\n(\d+) 0 obj(.*?)endobj", content, re.DOTALL))
    chinese = {
        name
        for name, number in re.findall(rb"/(F\d+) (\d+) 0 R", content)
        if b"/BaseFont /STSong" in objects[number]
    }
    for stream in _STREAM.findall(content):
        drawn = zlib.decompress(a85decode(stream.strip().removesuffix(b"~>")))
        font = b""
        for name, text in _SHOWN.findall(drawn):
            if name:
                font = name
                continue
            raw = _ESCAPE.sub(_letter, text)
            yield raw.decode("utf-16-be" if font in chinese else "cp1252")


def _letter(found: re.Match[bytes]) -> bytes:
    code = found[1]
    plain = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
    return bytes([int(code, 8)]) if len(code) == 3 else plain.get(code, code)


def without_spaces(text: str) -> str:
    """Lines break where they must; what is said does not depend on it."""
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_report_says_where_when_and_what(language: Language) -> None:
    report = sample(language)
    text = without_spaces(said(written(report)))
    expected = [report.area_name[language], "2026-10-01", "2026-10-31", "2026-11-0209:30"]
    expected += [word(f"verdict.{v}", language) for v in ("met", "not_met", "undetermined")]
    expected += [definition.name[language] for definition in report.definitions]
    expected += [definition.formula[language] for definition in report.definitions]
    expected += [child.name[language] for child in report.children]
    expected += ["97.57%", "87.33–97.83%", "89.50%", "97%(R0)"]
    expected += [word(f"missing.{why}", language) for why in ("no_data", "nothing_counted")]
    expected += [word("maintenance", language)]
    assert [part for part in expected if without_spaces(part) not in text] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_are_counted(language: Language) -> None:
    content = written(sample(language))
    total = pages(content)
    assert total > 1
    text = said(content)
    for page in range(1, total + 1):
        assert word("page", language, page=page).strip() in text
    assert f"{total}{word('page_end', language)}" in text
    assert word("page", language, page=total + 1).strip() not in text


def test_one_content_is_one_file() -> None:
    assert written(sample()) == written(sample())


def test_the_only_time_in_the_file_is_when_it_was_made() -> None:
    assert set(re.findall(rb"/(?:Creation|Mod)Date \((.*?)\)\s", written(sample()))) == {
        b"D:20261102013015+00'00'"
    }


def test_readers_know_the_language() -> None:
    assert b"/Lang (zh-CN)" in written(sample())
    assert b"/Lang (en)" in written(sample("en"))


def test_a_provisional_report_says_so() -> None:
    report = sample("en")
    first, *rest = report.numbers
    report = replace(report, numbers=(replace(first, status="provisional"), *rest))
    assert word("is_provisional", "en") in said(written(report))
    assert word("is_provisional", "en") not in said(written(sample("en")))


def test_a_report_of_nothing_still_says_of_what() -> None:
    report = replace(sample("en"), numbers=(), daily={}, children=(), inputs=())
    text = said(written(report))
    assert "Huilongguan Street" in text
    assert word("no_exclusions", "en") in text


def test_a_month_nobody_heard_of_has_reasons_and_no_charts() -> None:
    report = sample("en")
    heard_of_nothing = tuple(
        replace(day, value=None, lower=0.0, upper=1.0, coverage=0.0, good=0, bad=0)
        for day in report.daily[EQUIPMENT.id]
    )
    number = share(EQUIPMENT, 0, 0, 100)
    report = replace(report, numbers=(number,), daily={EQUIPMENT.id: heard_of_nothing}, children=())
    text = without_spaces(said(written(report)))
    assert without_spaces(word("missing.no_data", "en")) in text
    by_day = without_spaces(word("by_day", "en", name=EQUIPMENT.name["en"]))
    assert by_day not in text
    assert by_day in without_spaces(said(written(sample("en"))))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("<b>&amp;", id="markup"),
        pytest.param("a" * 300, id="long-without-spaces"),
        pytest.param("很长的名字" * 60, id="long-chinese"),
        pytest.param("园区🏮", id="emoji"),
        pytest.param("\x00\x1b\ud800", id="control"),
        pytest.param("Ünïçödé āéǐ", id="accents"),
        pytest.param("", id="nothing"),
    ],
)
def test_no_name_breaks_the_page(name: str) -> None:
    report = sample()
    named = {"zh-CN": name, "en": name}
    children = tuple(replace(child, name=named) for child in report.children)
    report = replace(report, area_name=named, children=children)
    content = written(report)
    if name.isascii() and name.isprintable():
        assert name in said(content)
    assert pages(content) >= pages(written(sample()))


def test_a_city_of_thousands_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MOST_AREAS", 30)
    text = said(written(sample("en", children=40)))
    assert word("furthest", "en", shown=20, all=40) in text
    assert word("table_cut", "en", shown=30, all=40) in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_roads_and_restatements_are_printed(language: Language) -> None:
    text = without_spaces(said(written(sample(language))))
    expected = [word("roads", language), "龙腾街", "9/31", "6/40", "2026-10-08"]
    expected += [word("restated_note", language), "2026-10-0900:30", "90%", "91.67%"]
    expected += [word("reason.late", language), word("chart_gap", language), "1.2"]
    for part in expected:
        assert without_spaces(part).removesuffix("%") in text, part


def test_a_month_in_which_nothing_was_restated_says_so() -> None:
    report = replace(sample("en"), roads=(), restated=(), restated_count=0)
    text = without_spaces(said(written(report)))
    assert without_spaces(word("none_restated", "en")) in text
    assert without_spaces(word("worst_night", "en")) not in text


def test_long_lists_are_cut_with_a_word() -> None:
    report = sample("en")
    report = replace(
        report, roads=report.roads * 20, restated=report.restated * 40, restated_count=9_000
    )
    text = without_spaces(said(written(report)))
    assert without_spaces(word("roads_cut", "en", shown=pdf.MOST_ROADS)) in text
    cut = word("restated_cut", "en", shown=pdf.MOST_RESTATED, all=9_000)
    assert without_spaces(cut) in text
