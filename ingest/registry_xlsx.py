# SPDX-License-Identifier: Apache-2.0
"""Registry files as workbooks: each sheet one table, told by its header as a CSV file is.

A workbook is a stranger's archive: what it may unpack to is bounded before it is unpacked, macros,
passwords and document types are refused. A sheet is data here: a formula or a merged cell would let
it look other than it is read.
"""

import posixpath
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date, datetime, time
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast
from xml.etree import ElementTree

from openpyxl import Workbook, load_workbook
from openpyxl.cell import Cell, WriteOnlyCell
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter

from ingest.registry_rules import Expected
from ingest.registry_tables import (
    TABLES,
    Files,
    Header,
    Problems,
    Table,
    Where,
    quote,
    read_header,
    take_row,
)

UNPACKED_BYTES_MAX: Final = 256 * 1024 * 1024
# Texts are held in memory all at once, some ten times their size.
TEXTS_BYTES_MAX: Final = 32 * 1024 * 1024
PARTS_MAX: Final = 1_000
ROWS_MAX: Final = 200_000
CELLS_MAX: Final = 10_000_000
# Above this a spreadsheet has rounded what was typed: it keeps 15 digits.
_EXACT_MAX: Final = 10**15
# The container of old workbooks, and of new ones with a password.
_OLE: Final = bytes.fromhex("d0cf11e0a1b11ae1")
_DOCTYPES: Final = tuple("<!DOCTYPE".encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be"))
_PROLOGUE_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_MERGED: Final = re.compile(rb"<(?:[\w.-]+:)?mergeCell\s[^>]*?ref\s*=\s*[\"']([A-Z0-9:$]{1,40})")
_WIDTHS: Final = {"text": 20, "timestamptz": 28}


class _Refused(Exception):
    """A workbook that is not read at all."""

    def __init__(self, code: str, **params: str | int) -> None:
        """Say why: a code of `RULES`, and what its texts name."""
        super().__init__(code)
        self.expected = Expected(code, **params)


class _CellRead(Protocol):
    """What the library reads of a cell."""

    @property
    def value(self) -> object: ...
    @property
    def data_type(self) -> str: ...


class _Sheet(Protocol):
    """A sheet that is read row by row."""

    title: str

    def reset_dimensions(self) -> None: ...
    def iter_rows(self) -> Iterable[Sequence[_CellRead]]: ...


class _Book(Protocol):
    """A workbook that is read sheet by sheet."""

    @property
    def worksheets(self) -> Sequence[_Sheet]: ...
    def close(self) -> None: ...


def read_file(path: Path, name: str, files: Files, problems: Problems) -> None:
    """Add what the sheets say; a workbook not read to its end leaves ``files`` not whole.

    Problems call it by ``name``.
    """
    try:
        merged = _inspect(path)
        # By its content, not by its name: the library would go by that.
        with path.open("rb") as stream, closing(_open(stream)) as book:
            for sheet in book.worksheets:
                _read_sheet(name, sheet, merged.get(sheet.title, ()), files, problems)
    except OSError as error:
        problems.add(Where(name), Expected("file.unreadable", error=str(error.strerror)))
        files.whole = False
    except _Refused as refused:
        problems.add(Where(name), refused.expected)
        files.whole = False


def write(path: Path, tables: Mapping[Table, Iterable[Mapping[str, Any]]]) -> None:
    """Write a workbook with a sheet for each table; text stays text, whatever it looks like."""
    book = Workbook(write_only=True)
    for table, rows in tables.items():
        sheet = book.create_sheet(table.name)
        sheet.freeze_panes = "A2"
        for number, column in enumerate(table.columns, start=1):
            width = _WIDTHS.get(column.sql_type, 14)
            sheet.column_dimensions[get_column_letter(number)].width = width
        blank = partial(WriteOnlyCell, sheet)
        titles = [_cell(blank, column.name) for column in table.columns]
        for title in titles:
            title.font = Font(bold=True)
        sheet.append(titles)
        for row in rows:
            sheet.append([_cell(blank, row[column.name]) for column in table.columns])
    book.save(path)


def _cell(blank: Callable[[], Cell], value: object) -> Cell:
    cell = blank()
    match value:
        case datetime():  # an instant: a date of a workbook knows no zone
            _write_text(cell, value.isoformat())
        case date():
            cell.value = datetime.combine(value, time())
            cell.number_format = "yyyy-mm-dd"
        case str():
            _write_text(cell, value)
        case float() if float(f"{value:.15g}") != value:
            _write_text(cell, repr(value))  # a number of a workbook is cut to 15 digits
        case int() | float():
            cell.value = value
        case _:
            assert value is None, value
    return cell


def _write_text(cell: Cell, text: str) -> None:
    cell.value = text
    # By itself the library takes "=1+1" for a formula and "#N/A" for an error.
    cell.data_type = "s"
    cell.number_format = "@"
    cell.quotePrefix = text != quote(text)


def _inspect(path: Path) -> Mapping[str, Sequence[str]]:
    """Look at a workbook before it is opened; return merged cells by sheet.

    Raises:
        _Refused: It is none, may not be one, or would unpack to too much.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(_OLE)) == _OLE:
                raise _Refused("book.old")
        with zipfile.ZipFile(path) as archive:
            _bound(archive)
            return {title: _merged(archive, part) for title, part in _sheets(archive).items()}
    except OSError as error:
        raise _Refused("file.unreadable", error=str(error.strerror)) from None
    except _BROKEN as error:
        raise _Refused("book.broken", error=str(error)) from None


# What reading a damaged archive, or one that is none, ends in.
_BROKEN: Final = (
    zipfile.BadZipFile,
    ElementTree.ParseError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    zlib.error,
)


def _bound(archive: zipfile.ZipFile) -> None:
    """Refuse an archive that is too much, or more than data."""
    parts = archive.infolist()
    names = [part.filename for part in parts]
    if len(parts) > PARTS_MAX:
        raise _Refused("book.parts", max=PARTS_MAX)
    if any(part.flag_bits & 1 for part in parts):
        raise _Refused("book.password")
    # A part that holds more than it declares is cut there and fails its checksum.
    if sum(part.file_size for part in parts) > UNPACKED_BYTES_MAX:
        raise _Refused("book.unpacked", max_mib=UNPACKED_BYTES_MAX // 2**20)
    if len(names) != len(set(names)):
        raise _Refused("book.parts_alike")
    if "[Content_Types].xml" not in names or "xl/workbook.xml" not in names:
        raise _Refused("book.none")
    types = archive.read("[Content_Types].xml")
    if b"macroenabled" in types.lower() or any(
        "vbaproject" in n.lower() or "macrosheets" in n.lower() for n in names
    ):
        raise _Refused("book.macros")
    for name in names:
        if name.endswith((".xml", ".rels")):
            with archive.open(name) as part:
                prologue = part.read(_PROLOGUE_BYTES)
            if any(doctype in prologue for doctype in _DOCTYPES):
                raise _Refused("book.doctype", part=name)
    texts = sum(archive.getinfo(name).file_size for name in _text_parts(types))
    if texts > TEXTS_BYTES_MAX:
        raise _Refused("book.texts", max_mib=TEXTS_BYTES_MAX // 2**20)


def _text_parts(types: bytes) -> Iterator[str]:
    """Yield the parts that hold texts for all sheets: by type, they may have any name."""
    for part in ElementTree.fromstring(types).iterfind("{*}Override"):  # noqa: S314 - see `_sheets`
        if part.get("ContentType", "").endswith(".sharedStrings+xml"):
            yield part.get("PartName", "").removeprefix("/")


def _sheets(archive: zipfile.ZipFile) -> Mapping[str, str]:
    """Return the part of each sheet, by the sheet's title."""
    # No document type, so no entities: `_bound` has looked.
    book = ElementTree.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314
    links = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314
    targets = {link.get("Id"): link.get("Target", "") for link in links}
    parts: dict[str, str] = {}
    for sheet in book.iterfind("{*}sheets/{*}sheet"):
        identity = next((value for key, value in sheet.items() if key.endswith("}id")), None)
        target = targets.get(identity, "")
        parts[sheet.get("name", "")] = posixpath.normpath(posixpath.join("/xl", target))[1:]
    return parts


def _merged(archive: zipfile.ZipFile, part: str) -> Sequence[str]:
    """Return the merged cells of a sheet; they stand behind its rows, and reading skips them."""
    found: list[str] = []
    with archive.open(part) as stream:
        rest = b""
        while chunk := stream.read(_CHUNK_BYTES):
            text = rest + chunk
            found += [match[1].decode() for match in _MERGED.finditer(text)]
            begin = text.rfind(b"<")
            rest = text[begin:] if begin >= len(text) - _PROLOGUE_BYTES else b""
            # A tag that was whole was found already.
            rest = b"" if b">" in rest else rest
    return found


def _open(stream: BinaryIO) -> _Book:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions that nobody needs here
            return cast("_Book", load_workbook(stream, read_only=True, keep_links=False))
    except Exception as error:  # noqa: BLE001 - a library that knows good workbooks only
        raise _Refused("book.broken", error=str(error)) from None


def _read_sheet(
    name: str, sheet: _Sheet, merged: Sequence[str], files: Files, problems: Problems
) -> None:
    rows = _rows(sheet)
    first = next(rows, None)
    if first is None:
        return  # an empty sheet says nothing
    header = _read_header(name, sheet.title, first, problems)
    if header is None:
        files.whole = False
        return
    if merged:
        expected = Expected("sheet.merged", cells=merged[0])
        problems.add(Where(name, _first_row(merged[0]), sheet.title), expected)
        files.whole = False
    letters = {
        column.name: get_column_letter(number)
        for number, column in enumerate(header.columns, start=1)
    }
    for count, (number, cells) in enumerate(rows, start=1):
        where = Where(name, number, sheet.title, letters)
        if count > ROWS_MAX:
            problems.add(where, Expected("sheet.rows", max=ROWS_MAX))
            files.whole = False
            return
        width = len(header.columns)
        if any(cell.value is not None for cell in cells[width:]):
            problems.add(where, Expected("row.beyond", columns=width))
            files.whole = False
            continue
        texts = _texts(where, cells[:width], header, problems)
        if texts is None:
            files.whole = False
        else:
            take_row(where, texts + [""] * (width - len(texts)), header, files, problems)


def _rows(sheet: _Sheet) -> Generator[tuple[int, Sequence[_CellRead]]]:
    """Yield the rows that hold something, with their numbers.

    Raises:
        _Refused: The sheet is broken, or has too many cells.
    """
    sheet.reset_dimensions()  # what it claims to hold may be anything
    rows = iter(sheet.iter_rows())
    count = number = 0
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cells = next(rows, None)
        except Exception as error:  # noqa: BLE001 - see `_open`
            raise _Refused("sheet.broken", sheet=sheet.title, error=str(error)) from None
        if cells is None:
            return
        number += 1
        count += len(cells)
        if count > CELLS_MAX:
            raise _Refused("sheet.cells", sheet=sheet.title, max=CELLS_MAX)
        if any(cell.value is not None for cell in cells):
            yield number, cells


def _first_row(cells: str) -> int:
    """Return the number of the first row of merged cells such as ``B3:C4``; 1 of odd ones."""
    match = re.search(r"\d{1,7}", cells)
    return 1 if match is None else int(match[0])


def _read_header(
    name: str, title: str, first: tuple[int, Sequence[_CellRead]], problems: Problems
) -> Header | None:
    number, cells = first
    where = Where(name, 1, title)
    if number != 1:
        problems.add(where, Expected("header.empty"))
        return None
    names = ["" if cell.value is None else str(cell.value).strip().lower() for cell in cells]
    while not names[-1]:
        names.pop()
    header = read_header(where, names, problems)
    named = next(
        (table for table in TABLES if title.strip().lower() in (table.name, table.file)), None
    )
    if header is not None and named is not None and named is not header.table:
        expected = Expected("header.other", found=header.table.file, wanted=named.file)
        problems.add(where, expected)
        return None
    return header


def _texts(
    where: Where, cells: Sequence[_CellRead], header: Header, problems: Problems
) -> list[str] | None:
    """Return cells as CSV would hold them; None where one is no plain value."""
    before = len(problems)
    texts: list[str] = []
    for cell, column in zip(cells, header.columns, strict=False):
        match cell.value:
            case None:
                text = ""
            case _ if cell.data_type == "f":
                problems.add(where, Expected("cell.formula"), column=column.name)
                continue
            case _ if cell.data_type == "e":
                expected = Expected("cell.error")
                problems.add(where, expected, column=column.name, value=str(cell.value))
                continue
            case bool() as value:
                text = str(value).upper()
            case int() | float() as value if column.sql_type == "text" and value >= _EXACT_MAX:
                expected = Expected("cell.cut")
                problems.add(where, expected, column=column.name, value=str(value))
                continue
            case float() as value:
                text = repr(value).removesuffix(".0")
            case datetime() as value:
                text = value.isoformat().removesuffix("T00:00:00")
            case str() as value:
                # A cell of text is told from a formula already, whatever it begins with.
                text = quote(value.strip()) if column.sql_type == "text" else value.strip()
            case value:
                text = str(value)
        texts.append(text)
    return texts if len(problems) == before else None
