# SPDX-License-Identifier: Apache-2.0
"""The monthly report as one long table: UTF-8 with a byte order mark, which spreadsheets expect.

One row a fact: a number of the month, a day, a number of an area below, a stored input, a road, a
number that was restated. Figures are exact and in the unit that stands beside them: shares as
fractions, parts as whole numbers.
"""

import csv
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import IO, Final
from zoneinfo import ZoneInfo

from ingest.indicators.definition import Definition, Language
from ingest.reports.content import Number, Progress, Report
from ingest.reports.words import (
    REASONS,
    area_name,
    kind_name,
    left_out,
    missing_day_text,
    missing_text,
    printable,
    raw_unit,
    reason_text,
    stated,
    unit_name,
    word,
)

COLUMNS: Final[tuple[str, ...]] = (
    "record",
    "area",
    "area_code",
    "indicator_id",
    "indicator",
    "kind",
    "day",
    "value",
    "p90",
    "lower",
    "upper",
    "unit",
    "coverage",
    "target",
    "better",
    "source",
    "verdict",
    "why",
    "good",
    "bad",
    "denominator",
    "total",
    "parts",
    "subjects",
    *REASONS,
    "status",
    "revision",
    "rule_version",
    # Of restated numbers: what they were before.
    "was",
    "was_good",
    "was_bad",
    "was_total",
    "replaced_at",
    "reason",
    # Of roads: nights by verdict, lamps and dark ones.
    "road",
    "nights",
    "nights_met",
    "nights_not_met",
    "nights_undetermined",
    "lamps",
    "dark",
    "unknown_lamps",
    "dark_max",
    "worst_night",
)
# Rows between two calls of ``progress``, and between two writes.
_CHUNK: Final = 2_000
# What a spreadsheet takes for the beginning of a formula; in Chinese ones the wide signs too.
_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\n", "\r")

Row = dict[str, str | int | float | None]


def write_csv(report: Report, file: IO[bytes], progress: Progress | None = None) -> None:
    """Write the report as CSV.

    Args:
        report: What is said; its language sets the words, never the figures.
        file: Where to; open for writing bytes. Stays open.
        progress: Told how many rows are written of how many.
    """
    total = _count(report)
    buffer = StringIO(newline="")
    writer: csv.DictWriter[str] = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\r\n")
    file.write(b"\xef\xbb\xbf")
    writer.writerow({column: word(column, report.language) for column in COLUMNS})
    for done, row in enumerate(_rows(report), start=1):
        writer.writerow({column: _cell(value) for column, value in row.items()})
        if done % _CHUNK == 0 or done == total:
            file.write(buffer.getvalue().encode())
            buffer.seek(0)
            buffer.truncate()
            if progress is not None:
                progress(done, total)
    file.write(buffer.getvalue().encode())


def safe(text: str) -> str:
    """Return text that no spreadsheet runs: what begins like a formula gets an apostrophe before.

    Space before it is no help, so the first letter that is not a space decides.
    """
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) else text


def _cell(value: str | float | None) -> str | int | float:
    if isinstance(value, str):
        return safe(value)
    return "" if value is None else value


def _count(report: Report) -> int:
    days = sum(len(days) for days in report.daily.values())
    below = sum(len(child.numbers) for child in report.children)
    facts = (report.numbers, report.inputs, report.roads, report.restated)
    return days + below + sum(map(len, facts))


def _rows(report: Report) -> Iterator[Row]:
    language = report.language
    known = {definition.id: definition for definition in report.definitions}
    here: Row = {"area": report.area_name[language], "area_code": report.area_id}
    for number in report.numbers:
        row = _number(number, known[number.indicator], language)
        yield {"record": word("record.number", language), **here, **row}
    for indicator, days in report.daily.items():
        definition = known[indicator]
        for day in days:
            yield {
                "record": word("record.day", language),
                **here,
                **_indicator(definition, "", language),
                "day": f"{day.day}",
                "value": day.value,
                "lower": day.lower,
                "upper": day.upper,
                "unit": unit_name(definition, language),
                "coverage": day.coverage,
                "why": missing_day_text(report, day.day, day, definition),
                "good": day.good,
                "bad": day.bad,
                "total": day.total,
                "parts": raw_unit(definition.parts, language),
                "subjects": day.subjects,
                **left_out(day.excluded),
                "status": word(day.status, language),
                "revision": day.revision,
            }
    for child in report.children:
        there: Row = {"area": child.name[language], "area_code": child.area}
        for number in child.numbers:
            row = _number(number, known[number.indicator], language)
            yield {"record": word("record.child", language), **there, **row}
    for stored in report.inputs:
        definition = known[stored.indicator]
        yield {
            "record": word("record.input", language),
            "area": area_name(report, stored.area),
            "area_code": stored.area,
            **_indicator(definition, stored.kind, language),
            "day": f"{stored.day}",
            "good": stored.good,
            "bad": stored.bad,
            "total": stored.total,
            "parts": raw_unit(definition.parts, language),
            "subjects": stored.subjects,
            **left_out(stored.excluded),
            "status": word(stored.status, language),
            "revision": stored.revision,
            "rule_version": stored.rule_version,
        }

    yield from _roads(report)
    yield from _restated(report, known)


def _roads(report: Report) -> Iterator[Row]:
    for road in report.roads:
        yield {
            "record": word("record.road", report.language),
            "area": area_name(report, road.community),
            "area_code": road.community,
            "road": road.road,
            "nights": road.nights,
            "nights_met": road.met,
            "nights_not_met": road.not_met,
            "nights_undetermined": road.undetermined,
            "lamps": road.lamps,
            "dark": road.dark,
            "unknown_lamps": road.unknown,
            "dark_max": road.dark_max,
            "worst_night": f"{road.worst_night}",
        }


def _restated(report: Report, known: Mapping[str, Definition]) -> Iterator[Row]:
    language = report.language
    for one in report.restated:
        definition = known[one.indicator]
        share = definition.shape == "share"
        yield {
            "record": word("record.restated", language),
            "area": area_name(report, one.area),
            "area_code": one.area,
            **_indicator(definition, one.kind, language),
            "day": f"{one.day}",
            "value": stated(definition, one.good, one.bad),
            "was": stated(definition, one.was_good, one.was_bad),
            "unit": word("raw.fraction", language)
            if share
            else raw_unit(definition.parts, language),
            "good": one.good,
            "bad": one.bad,
            "total": one.total,
            "was_good": one.was_good,
            "was_bad": one.was_bad,
            "was_total": one.was_total,
            "parts": raw_unit(definition.parts, language),
            "revision": one.revision + 1,
            "replaced_at": one.replaced_at.astimezone(ZoneInfo(report.time_zone)).isoformat(
                timespec="seconds"
            ),
            "reason": reason_text(one.reason, language),
        }


def _number(number: Number, definition: Definition, language: Language) -> Row:
    target = number.target
    row: Row = {
        **_indicator(definition, number.kind, language),
        "value": number.value,
        "p90": number.p90,
        "lower": number.lower,
        "upper": number.upper,
        "unit": unit_name(definition, language),
        "coverage": number.coverage,
        "why": missing_text(number, definition, language),
        "good": number.numerator,
        "denominator": number.denominator,
        "total": number.total,
        "parts": raw_unit(definition.parts, language),
        "subjects": number.subjects,
        **left_out(number.excluded),
        "status": word(number.status, language),
        "revision": number.revision,
        "rule_version": number.rule_version,
    }
    if target is not None:
        row |= {
            "target": target.value,
            "better": word(f"better.{target.better}", language),
            "source": target.source,
        }
    if number.verdict is not None:
        row["verdict"] = word(f"verdict.{number.verdict}", language)
    return row


def _indicator(definition: Definition, kind: str, language: Language) -> Row:
    return {
        "indicator_id": definition.id,
        "indicator": definition.name[language],
        "kind": kind_name(kind, language),
    }
