# SPDX-License-Identifier: Apache-2.0
"""Registry files of either format: read together, and written so that reading changes nothing."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ingest import registry_csv
from ingest.errors import RegistryError
from ingest.registry_tables import Files, Problems, Table, quote

# Archives, and the container of old workbooks and of new ones with a password.
_BEGINNINGS: Final = (b"PK", bytes.fromhex("d0cf11e0a1b11ae1"))
_SUFFIXES: Final = (".xlsx", ".xlsm", ".xltx", ".xltm", ".xlsb", ".xls")


class Format(StrEnum):
    """How files are written."""

    CSV = "csv"
    XLSX = "xlsx"


def read(paths: Mapping[Path, str], problems: Problems) -> Files:
    """Return what the files say, rows of one about rows of another; problems are noted.

    Args:
        paths: The files, with what people call each.
        problems: Receives what is wrong.
    """
    files = Files()
    for path, name in paths.items():
        if _is_workbook(path, name):
            # Imported here: it costs a second, and every command and service comes by.
            from ingest import registry_xlsx

            registry_xlsx.read_file(path, name, files, problems)
        else:
            registry_csv.read_file(path, name, files, problems)
    return files


def write(
    folder: Path, tables: Mapping[Table, Sequence[Mapping[str, Any]]], form: Format
) -> list[Path]:
    """Write tables into ``folder``, over what has these names there; return the files.

    Raises:
        RegistryError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if form is Format.XLSX:
            from ingest import registry_xlsx  # see `read`

            registry_xlsx.write(folder / "registry.xlsx", tables)
            return [folder / "registry.xlsx"]
        for table, rows in tables.items():
            texts = ([_text(row[column.name]) for column in table.columns] for row in rows)
            registry_csv.write(folder / f"{table.file}.csv", table, texts)
        return [folder / f"{table.file}.csv" for table in tables]
    except OSError as error:
        raise RegistryError(f"{error.filename or folder}: cannot write: {error.strerror}") from None


def _is_workbook(path: Path, name: str) -> bool:
    """Whether a file is, or claims to be, a workbook of any age."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(8)
    except OSError:
        return False  # for whoever reads it as CSV to tell
    return begin.startswith(_BEGINNINGS) or name.lower().endswith(_SUFFIXES)


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return quote(value)
        case datetime() | date():
            return value.isoformat()
        case float():
            return repr(value).removesuffix(".0")
        case _:
            return str(value)
