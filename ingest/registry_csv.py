# SPDX-License-Identifier: Apache-2.0
"""Registry files as people keep them: areas, gateways and devices in CSV, read without mercy.

Which of the three a file is, its header tells. UTF-8 with or without a byte-order mark, separated
by commas or semicolons. Every cell is checked by itself here; what rows say about one another is
for `ingest.registry`.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_agent.kinds.base import GATEWAY_PATTERN, ID_PATTERN, YEAR_MAX, YEAR_MIN
from ingest.indicators.lighting import parse_programme
from ingest.kinds import KINDS

LEVELS: Final = ("city", "district", "street", "community", "cell")
LIVES: Final = ("planned", "installed", "in_service", "maintenance", "retired")
TEXT_LENGTH_MAX: Final = 200
# A file of a million wrong rows shall not be answered with a million lines.
PROBLEMS_MAX: Final = 1_000


@dataclass(slots=True)
class Problems:
    """What is wrong, in the order of finding: each with file, line, column, value."""

    lines: list[str] = field(default_factory=list[str])
    more: int = 0

    def add(self, where: str, expected: str, *, column: str = "", value: str | None = None) -> None:
        """Note one. ``where`` is ``file:line``, or what stands in for it."""
        if len(self.lines) >= PROBLEMS_MAX:
            self.more += 1
            return
        parts = [where, column, "" if value is None else f"value {value!r}", expected]
        self.lines.append(": ".join(part for part in parts if part))

    def all(self) -> list[str]:
        """Return every line, and a last one for those that were only counted."""
        return [*self.lines, f"and {self.more} more"] if self.more else self.lines


@dataclass(frozen=True, slots=True)
class Column:
    """One column: how its cells are read, and what an empty one means.

    Attributes:
        parse: Raises ValueError with what was expected.
        sql_type: Of the database's column.
        default: For an empty cell; a new row also gets it where the file has no such column.
        keep: An empty cell keeps what is registered.
    """

    name: str
    parse: Callable[[str], object]
    sql_type: str
    required: bool = False
    default: object = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of file. The first column is the id; ``mark`` tells the file from the others."""

    name: str
    mark: frozenset[str]
    columns: Sequence[Column]

    @property
    def key(self) -> str:
        """The name of the id's column."""
        return self.columns[0].name


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file; ``values`` holds the columns the file has."""

    where: str
    values: Mapping[str, Any]
    cells: Mapping[str, str]


def parse_instant(text: str) -> datetime:
    """Read an instant that names its offset from UTC.

    Raises:
        ValueError: It does not, or lies outside of all sense.
    """
    expected = "expected an instant with its zone, such as 2026-03-01T00:00:00+08:00"
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(expected) from None
    if instant.tzinfo is None or not YEAR_MIN < instant.year < YEAR_MAX:
        raise ValueError(expected)
    return instant.astimezone(UTC)


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"must match {pattern}")
        return text

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return text

    return parse


def _text(text: str) -> str:
    if len(text) > TEXT_LENGTH_MAX:
        raise ValueError(f"at most {TEXT_LENGTH_MAX} characters")
    if not text.isprintable():
        raise ValueError("must hold printable characters only")
    if text.startswith(("=", "+", "-", "@")):
        raise ValueError("must not begin with = + - @, which spreadsheets take for a formula")
    return text


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected an IANA time zone, such as Asia/Shanghai") from None
    return text


def _number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    limits = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"expected a number {limits}") from None
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            raise ValueError(f"expected a number {limits}")
        return value

    return parse


def _whole(high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # Cut before it is read: thousands of digits are no number to Python either.
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= high):
            raise ValueError(f"expected a whole number from 0 to {high}")
        return int(text)

    return parse


def _programme(text: str) -> str:
    try:
        parse_programme(text)
    except ValueError:
        raise ValueError("expected sun, sun+15-10, always or 18:00-06:00") from None
    return text


_id = _matching(ID_PATTERN)
_gateway = _matching(GATEWAY_PATTERN)

AREAS: Final = Table(
    "area",
    frozenset({"area", "level"}),
    (
        Column("area", _id, "text", required=True),
        Column("parent", _id, "text"),
        Column("level", _one_of(*LEVELS), "text", required=True),
        Column("name", _text, "text", required=True),
        Column("name_en", _text, "text"),
        # Place and zone of an area that does not say its own are those of its parent.
        Column("time_zone", _zone, "text"),
        Column("latitude", _number(-90, 90), "float8"),
        Column("longitude", _number(-180, 180), "float8"),
        Column("households", _whole(2**31 - 1), "int4"),
        Column("residents", _whole(2**31 - 1), "int4"),
    ),
)
GATEWAYS: Final = Table(
    "gateway",
    frozenset({"gateway", "community"}),
    (
        Column("gateway", _gateway, "text", required=True),
        Column("community", _id, "text", required=True),
        Column("name", _text, "text", default=""),
    ),
)
DEVICES: Final = Table(
    "device",
    frozenset({"device", "kind"}),
    (
        Column("device", _id, "text", required=True),
        Column("kind", _one_of(*KINDS), "text", required=True),
        Column("gateway", _gateway, "text", required=True),
        Column("area", _id, "text", required=True),
        Column("name", _text, "text", default=""),
        Column("name_en", _text, "text"),
        Column("life", _one_of(*LIVES), "text", default="in_service"),
        Column("in_service_from", parse_instant, "timestamptz", keep=True),  # new and empty: now
        Column("reporting_period_s", _number(0, 86_400, above=True), "float8", default=600.0),
        Column("rated_power_w", _number(0, 5_000, above=True), "float8"),
        Column("programme", _programme, "text", default="sun"),
    ),
)
TABLES: Final = (AREAS, GATEWAYS, DEVICES)
_LAMP_COLUMNS = ("rated_power_w", "programme")


@dataclass(slots=True)
class Files:
    """What all files together say, by table and id.

    Attributes:
        rows: The good rows.
        refused: Ids of rows with a wrong cell, so that whoever names one is not blamed.
        whole: False where a file could not be read to its end: its rows are not all here.
    """

    rows: dict[str, dict[str, Row]] = field(
        default_factory=lambda: {table.name: {} for table in TABLES}
    )
    refused: dict[str, set[str]] = field(
        default_factory=lambda: {table.name: set() for table in TABLES}
    )
    whole: bool = True


def read(paths: Sequence[Path], problems: Problems) -> Files:
    """Return what the files say; what is wrong goes to ``problems``."""
    files = Files()
    for path in paths:
        text = _decode(path, problems)
        if text is None or not _read_file(path, text, files, problems):
            files.whole = False
    return files


def _decode(file: Path, problems: Problems) -> str | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        problems.add(str(file), f"cannot read: {error.strerror}")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        looks = ""
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            looks = ", it is UTF-16"
        elif _decodes(content, "gb18030"):
            looks = ", it looks like GB18030"
        problems.add(f"{file}:{line}", f"is not UTF-8{looks}: save it as CSV UTF-8")
        return None


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _read_file(file: Path, text: str, files: Files, problems: Problems) -> bool:
    """Read one file; False where it could not be read to its end."""
    header_text = text.partition("\n")[0]
    delimiter = ";" if header_text.count(";") > header_text.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, list[str]())]
        columns = _columns(file, header, problems)
        if columns is None:
            return False
        table, known = columns
        line = reader.line_num + 1
        for cells in reader:
            where, line = f"{file}:{line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                problems.add(where, f"has {len(cells)} cells, the header has {len(header)}")
                files.whole = False
                continue
            named = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            row = _read_row(where, named, table, known, problems)
            if row is None:
                files.refused[table.name].add(named[table.key])
            else:
                _keep(row, table, files.rows[table.name], problems)
    except csv.Error as error:
        problems.add(f"{file}:{reader.line_num}", f"not CSV: {error}")
        return False
    return True


def _columns(
    file: Path, header: Sequence[str], problems: Problems
) -> tuple[Table, list[Column]] | None:
    """Tell from the header which table this is, and check that its columns are."""
    where = f"{file}:1"
    table = next((table for table in reversed(TABLES) if table.mark <= set(header)), None)
    if table is None:
        expected = "; ".join(
            ",".join(column.name for column in table.columns if column.required) for table in TABLES
        )
        problems.add(where, f"not a registry file: its header must have at least {expected}")
        return None
    known = {column.name: column for column in table.columns}
    before = len(problems.lines) + problems.more
    for name in header:
        if name not in known:
            problems.add(where, f"unknown column, known are {', '.join(known)}", column=name)
    for name in sorted({name for name in header if header.count(name) > 1}):
        problems.add(where, "stands there twice", column=name)
    for column in table.columns:
        if column.required and column.name not in header:
            problems.add(where, "column is missing", column=column.name)
    if len(problems.lines) + problems.more > before:
        return None
    return table, [known[name] for name in header]


def _read_row(
    where: str,
    cells: Mapping[str, str],
    table: Table,
    columns: Sequence[Column],
    problems: Problems,
) -> Row | None:
    """Check each cell by itself; a row with a wrong one is not looked at any further."""
    values: dict[str, object] = {}
    good = True
    for column in columns:
        cell = cells[column.name]
        if not cell:
            if column.required:
                problems.add(where, "must not be empty", column=column.name)
                good = False
            elif not column.keep:
                values[column.name] = column.default
            continue
        try:
            values[column.name] = column.parse(cell)
        except ValueError as error:
            problems.add(where, _hint(column, cells, str(error)), column=column.name, value=cell)
            good = False
    if table is AREAS:
        good = _check_place(where, cells, problems) and good
    if table is DEVICES and values.get("kind") not in (None, "lamp"):
        for name in _LAMP_COLUMNS:
            if cells.get(name):
                problems.add(where, "only lamps have one", column=name, value=cells[name])
                good = False
    return Row(where, values, cells) if good else None


def _hint(column: Column, cells: Mapping[str, str], expected: str) -> str:
    """Add the likely reason where a latitude is none: it changed places with the longitude."""
    if column.name != "latitude":
        return expected
    try:
        swapped = abs(float(cells["latitude"])) <= 180 and abs(float(cells["longitude"])) <= 90
    except (KeyError, ValueError):
        return expected
    return f"{expected}; latitude and longitude swapped?" if swapped else expected


def _check_place(where: str, cells: Mapping[str, str], problems: Problems) -> bool:
    latitude, longitude = cells.get("latitude", ""), cells.get("longitude", "")
    if bool(latitude) != bool(longitude):
        missing = "longitude" if latitude else "latitude"
        problems.add(where, "latitude and longitude go together", column=missing)
        return False
    try:
        nowhere = bool(latitude) and float(latitude) == 0 and float(longitude) == 0
    except ValueError:
        return True  # already named as no number
    if nowhere:
        expected = "0,0 lies in the sea; leave both empty where the place is not known"
        problems.add(where, expected, column="latitude", value=latitude)
    return not nowhere


def _keep(row: Row, table: Table, rows: dict[str, Row], problems: Problems) -> None:
    key = row.cells[table.key]
    first = rows.setdefault(key, row)
    if first is not row:
        problems.add(row.where, f"stands already in {first.where}", column=table.key, value=key)
