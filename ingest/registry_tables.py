# SPDX-License-Identifier: Apache-2.0
"""What registry files may hold: areas, gateways, devices, population; and each cell's own checks.

`ingest.registry_csv` and `ingest.registry_xlsx` bring the rows, `ingest.registry` checks what rows
say about one another. Which of the four a table is, its header tells.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_agent.kinds.base import GATEWAY_PATTERN, ID_PATTERN, YEAR_MAX, YEAR_MIN
from ingest.errors import Mistake, RegistryError
from ingest.indicators.lighting import parse_programme
from ingest.kinds import KINDS
from ingest.registry_rules import Expected, UnexpectedError

LEVELS: Final = ("province", "city", "district", "street", "community", "cell")
LIVES: Final = ("planned", "installed", "in_service", "maintenance", "retired")
# What a lamp goes by where neither it nor any area around it has a programme.
DEFAULT_PROGRAMME: Final = "sun"
TEXT_LENGTH_MAX: Final = 200
# A file of a million wrong rows shall not be answered with a million lines.
PROBLEMS_MAX: Final = 1_000
# Lamp posts may be old; before this a date is a slip.
DAY_YEAR_MIN: Final = 1950
_DAY_YEARS: Final = {"low": DAY_YEAR_MIN, "high": YEAR_MAX - 1}
# A code that somebody else gave a thing.
CODE_PATTERN: Final = r"^[0-9A-Za-z][0-9A-Za-z./_-]{0,63}$"
# What a spreadsheet takes for a formula, and how it is told that it is none (see `quote`).
_FORMULA: Final = ("=", "+", "-", "@")
_QUOTED: Final = re.compile(r"'+[=+\-@]")


@dataclass(frozen=True, slots=True)
class Where:
    """A row of a file, ``devices.csv:17``, or of a workbook, ``city.xlsx: device!17``.

    Attributes:
        number: 0 where it is the file as a whole.
        sheet: Of a workbook; empty in CSV.
        letters: In workbooks each column's letter, so that a cell is named ``device!D17``.
    """

    file: str
    number: int = 0
    sheet: str = ""
    letters: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return self.cell("")

    def cell(self, column: str) -> str:
        """Return the place of one cell; in CSV it is the row's."""
        if not self.number:
            return self.file
        before = f"{self.file}: {self.sheet}!" if self.sheet else f"{self.file}:"
        return f"{before}{self.letters.get(column, '')}{self.number}"


@dataclass(slots=True)
class Problems:
    """What is wrong, in the order of finding."""

    mistakes: list[Mistake] = field(default_factory=list[Mistake])
    more: int = 0

    def add(
        self, where: str | Where, rule: Expected, *, column: str = "", value: str | None = None
    ) -> None:
        """Note one. ``where`` is a row, or says what stands in for it."""
        if len(self.mistakes) >= PROBLEMS_MAX:
            self.more += 1
        elif isinstance(where, str):
            self.mistakes.append(Mistake(rule, where, column=column, value=value))
        else:
            place, row = where.cell(column), where.number or None
            self.mistakes.append(Mistake(rule, place, where.file, row, column, value))

    def all(self) -> list[str]:
        """Return every line, and a last one for those that were only counted."""
        lines = list(map(str, self.mistakes))
        return [*lines, f"and {self.more} more"] if self.more else lines

    def error(self) -> RegistryError:
        """Return what to raise."""
        return RegistryError(self.all(), self.mistakes)

    def __len__(self) -> int:
        return len(self.mistakes) + self.more


@dataclass(frozen=True, slots=True)
class Column:
    """One column: how its cells are read, and what an empty one means.

    Attributes:
        parse: Raises UnexpectedError with what was expected.
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
    """One kind of file. The first columns are the id; ``mark`` tells the file from the others.

    Attributes:
        file: What people call a file or a sheet of it.
        keys: How many columns make the id.
    """

    name: str
    file: str
    mark: frozenset[str]
    columns: Sequence[Column]
    keys: int = 1

    @property
    def key(self) -> str:
        """The name of the first column of the id."""
        return self.columns[0].name

    def id_of(self, row: Mapping[str, object]) -> str:
        """Return the id of a row, of its text or of its values."""
        return " ".join(str(row[column.name]) for column in self.columns[: self.keys])


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file; ``values`` holds the columns the file has."""

    where: Where
    values: Mapping[str, Any]
    cells: Mapping[str, str]


def parse_instant(text: str) -> datetime:
    """Read an instant that names its offset from UTC.

    Raises:
        UnexpectedError: It does not, or lies outside of all sense.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UnexpectedError("instant") from None
    if instant.tzinfo is None or not YEAR_MIN < instant.year < YEAR_MAX:
        raise UnexpectedError("instant")
    return instant.astimezone(UTC)


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise UnexpectedError("text.pattern", pattern=pattern)
        return text

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise UnexpectedError("word", allowed=", ".join(allowed))
        return text

    return parse


def _text(text: str) -> str:
    if text.startswith(_FORMULA):
        raise UnexpectedError("text.formula")
    plain = text[1:] if _QUOTED.match(text) else text
    if len(plain) > TEXT_LENGTH_MAX:
        raise UnexpectedError("text.too_long", max=TEXT_LENGTH_MAX)
    if not plain.isprintable():
        raise UnexpectedError("text.unprintable")
    return plain


def quote(text: str) -> str:
    """Return text as a cell that no spreadsheet takes for a formula: with a ' before it.

    Text that begins with = + - @ gets one, and so does text that then looks as if it had one
    already; reading takes it off again.
    """
    return f"'{text}" if text.startswith(_FORMULA) or _QUOTED.match(text) else text


def parse_day(text: str) -> date:
    """Read a date, such as 2026-03-01.

    Raises:
        UnexpectedError: It is none, or lies outside of all sense.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UnexpectedError("day", **_DAY_YEARS) from None
    if len(text) != len("2026-03-01") or not DAY_YEAR_MIN <= day.year < YEAR_MAX:
        raise UnexpectedError("day", **_DAY_YEARS)
    return day


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UnexpectedError("time_zone") from None
    return text


def _number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    code, limits = "number.above" if above else "number", {"low": f"{low:g}", "high": f"{high:g}"}

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise UnexpectedError(code, **limits) from None
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            raise UnexpectedError(code, **limits)
        return value

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # Cut before it is read: thousands of digits are no number to Python either.
        digits = text.isascii() and text.isdigit() and len(text) <= 12
        if not digits or not low <= int(text) <= high:
            raise UnexpectedError("number.whole", low=low, high=high)
        return int(text)

    return parse


def _programme(text: str) -> str:
    try:
        parse_programme(text)
    except ValueError:
        raise UnexpectedError("programme") from None
    return text


_id = _matching(ID_PATTERN)
_gateway = _matching(GATEWAY_PATTERN)
_households = _whole(0, 2**31 - 1)
_residents = _whole(1, 2**31 - 1)

AREAS: Final = Table(
    "area",
    "areas",
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
        Column("households", _households, "int4"),
        Column("residents", _residents, "int4"),
        # What lamps below go by that have none of their own; the nearest area's holds.
        Column("programme", _programme, "text"),
    ),
)
GATEWAYS: Final = Table(
    "gateway",
    "gateways",
    frozenset({"gateway", "community"}),
    (
        Column("gateway", _gateway, "text", required=True),
        Column("community", _id, "text", required=True),
        Column("name", _text, "text", default=""),
        Column("life", _one_of(*LIVES), "text", default="in_service"),
    ),
)
DEVICES: Final = Table(
    "device",
    "devices",
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
        Column("programme", _programme, "text"),
        # The facility register: for people, none of it decides what is counted but the road.
        Column("component_code", _matching(CODE_PATTERN), "text"),
        Column("owner", _text, "text"),
        Column("maker", _text, "text"),
        Column("model", _text, "text"),
        Column("planned_on", parse_day, "date"),
        Column("installed_on", parse_day, "date"),
        Column("warranty_until", parse_day, "date"),
        Column("road", _text, "text"),
        Column("circuit", _matching(CODE_PATTERN), "text"),
    ),
)
POPULATION: Final = Table(
    "population",
    "population",
    frozenset({"area", "from"}),
    (
        Column("area", _id, "text", required=True),
        Column("from", parse_day, "date", required=True),
        Column("to", parse_day, "date"),  # the first day it no longer holds
        Column("residents", _residents, "int4", required=True),
        Column("households", _households, "int4"),
    ),
    keys=2,
)
TABLES: Final = (AREAS, GATEWAYS, DEVICES, POPULATION)
LAMP_COLUMNS: Final = ("rated_power_w", "programme")


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


@dataclass(frozen=True, slots=True)
class Header:
    """Which table a file is, and its columns in the order of the file."""

    table: Table
    columns: Sequence[Column]


def read_header(where: Where, names: Sequence[str], problems: Problems) -> Header | None:
    """Tell from the header which table this is; None where its columns are not a table's."""
    table = next((table for table in reversed(TABLES) if table.mark <= set(names)), None)
    if table is None:
        columns = "; ".join(
            ",".join(column.name for column in table.columns if column.required) for table in TABLES
        )
        problems.add(where, Expected("header.unknown", columns=columns))
        return None
    known = {column.name: column for column in table.columns}
    before = len(problems)
    for name in names:
        if name not in known:
            problems.add(where, Expected("column.unknown", known=", ".join(known)), column=name)
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.add(where, Expected("column.twice"), column=name)
    for column in table.columns:
        if column.required and column.name not in names:
            problems.add(where, Expected("column.missing"), column=column.name)
    if len(problems) > before:
        return None
    return Header(table, [known[name] for name in names])


def take_row(
    where: Where, cells: Sequence[str], header: Header, files: Files, problems: Problems
) -> None:
    """Check one row, and note what it says or that it is refused. An empty row says nothing."""
    table = header.table
    texts = [cell.strip() for cell in cells]
    if not any(texts):
        return
    if len(texts) != len(header.columns):
        problems.add(where, Expected("row.cells", cells=len(texts), columns=len(header.columns)))
        files.whole = False
        return
    named = {column.name: text for column, text in zip(header.columns, texts, strict=True)}
    row = _read_row(where, named, header, problems)
    if row is None:
        files.refused[table.name].add(table.id_of(named))
        return
    key = table.id_of(row.values)
    first = files.rows[table.name].setdefault(key, row)
    if first is not row:
        expected = Expected("row.twice", first=str(first.where))
        problems.add(where, expected, column=table.key, value=key)


def _read_row(
    where: Where, cells: Mapping[str, str], header: Header, problems: Problems
) -> Row | None:
    """Check each cell by itself; a row with a wrong one is not looked at any further."""
    values: dict[str, Any] = {}
    before = len(problems)
    for column in header.columns:
        cell = cells[column.name]
        if not cell:
            if column.required:
                problems.add(where, Expected("cell.empty"), column=column.name)
            elif not column.keep:
                values[column.name] = column.default
            continue
        try:
            values[column.name] = column.parse(cell)
        except UnexpectedError as error:
            expected = _hint(column, cells, error.expected)
            problems.add(where, expected, column=column.name, value=cell)
    match header.table.name:
        case AREAS.name:
            _check_place(where, cells, problems)
        case DEVICES.name:
            _check_device(where, cells, values, problems)
        case POPULATION.name:
            _check_order(where, cells, values, ("from", "to"), problems, same=False)
        case _:
            pass
    return Row(where, values, cells) if len(problems) == before else None


def _check_device(
    where: Where, cells: Mapping[str, str], values: Mapping[str, Any], problems: Problems
) -> None:
    if values.get("kind") not in (None, "lamp"):
        for name in LAMP_COLUMNS:
            if cells.get(name):
                problems.add(where, Expected("lamp.only"), column=name, value=cells[name])
    _check_order(where, cells, values, ("installed_on", "warranty_until"), problems, same=True)


def _check_order(
    where: Where,
    cells: Mapping[str, str],
    values: Mapping[str, Any],
    names: tuple[str, str],
    problems: Problems,
    *,
    same: bool,
) -> None:
    """Have the second of two dates lie after the first, or with ``same`` on the same day."""
    first, last = (values.get(name) for name in names)
    if first is None or last is None or first < last or (same and first == last):
        return
    code = "day.not_before" if same else "day.after"
    expected = Expected(code, other=names[0], day=str(first))
    problems.add(where, expected, column=names[1], value=cells[names[1]])


def _hint(column: Column, cells: Mapping[str, str], expected: Expected) -> Expected:
    """Add the likely reason where a latitude is none: it changed places with the longitude."""
    if column.name != "latitude":
        return expected
    try:
        swapped = abs(float(cells["latitude"])) <= 180 and abs(float(cells["longitude"])) <= 90
    except (KeyError, ValueError):
        return expected
    return Expected("number.swapped", **expected.params) if swapped else expected


def _check_place(where: Where, cells: Mapping[str, str], problems: Problems) -> None:
    latitude, longitude = cells.get("latitude", ""), cells.get("longitude", "")
    if bool(latitude) != bool(longitude):
        missing = "longitude" if latitude else "latitude"
        problems.add(where, Expected("place.half"), column=missing)
        return
    try:
        nowhere = bool(latitude) and float(latitude) == 0 and float(longitude) == 0
    except ValueError:
        return  # already named as no number
    if nowhere:
        problems.add(where, Expected("place.nowhere"), column="latitude", value=latitude)
