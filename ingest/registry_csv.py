# SPDX-License-Identifier: Apache-2.0
"""Registry files in CSV: read without mercy, written so that reading them again changes nothing.

UTF-8 with or without a byte-order mark, separated by commas or semicolons.
"""

import codecs
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from ingest.registry_rules import Expected
from ingest.registry_tables import (
    TABLES,
    Files,
    Problems,
    Table,
    Where,
    parse_instant,
    read_header,
    take_row,
)

__all__ = ["TABLES", "Files", "Problems", "parse_instant", "read", "read_file", "write"]


def read(paths: Sequence[Path], problems: Problems) -> Files:
    """Return what CSV files say; what is wrong goes to ``problems``."""
    files = Files()
    for path in paths:
        read_file(path, str(path), files, problems)
    return files


def read_file(path: Path, name: str, files: Files, problems: Problems) -> None:
    """Add what one file says; a file that cannot be read to its end leaves ``files`` not whole.

    Problems call it by ``name``.
    """
    text = _decode(path, name, problems)
    if text is None or not _read_text(name, text, files, problems):
        files.whole = False


def write(path: Path, table: Table, rows: Iterable[Sequence[str]]) -> None:
    """Write one table; the byte-order mark tells spreadsheets that it is UTF-8."""
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\r\n")
        writer.writerow([column.name for column in table.columns])
        writer.writerows(rows)


def _decode(file: Path, name: str, problems: Problems) -> str | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        problems.add(Where(name), Expected("file.unreadable", error=str(error.strerror)))
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        code = "file.encoding"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            code = "file.utf16"
        elif _decodes(content, "gb18030"):
            code = "file.gb18030"
        problems.add(Where(name, line), Expected(code))
        return None


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _read_text(name: str, text: str, files: Files, problems: Problems) -> bool:
    """Read one file; False where it could not be read to its end."""
    header_text = text.partition("\n")[0]
    delimiter = ";" if header_text.count(";") > header_text.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [cell.strip().lower() for cell in next(reader, list[str]())]
        header = read_header(Where(name, 1), names, problems)
        if header is None:
            return False
        line = reader.line_num + 1
        for cells in reader:
            where, line = Where(name, line), reader.line_num + 1
            take_row(where, cells, header, files, problems)
    except csv.Error as error:
        problems.add(Where(name, reader.line_num), Expected("file.csv", error=str(error)))
        return False
    return True
