# SPDX-License-Identifier: Apache-2.0
"""As which files a report can be had; each library is loaded by whoever asks for its format."""

from collections.abc import Mapping
from typing import IO, Final

from ingest.reports.content import Progress, Report

# By the file name's suffix: what the web calls it.
MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pdf": "application/pdf",
    ".csv": "text/csv; charset=utf-8",
}


def write(report: Report, suffix: str, file: IO[bytes], progress: Progress | None = None) -> None:
    """Write a report as the file that ``suffix`` (of `MEDIA_TYPES`) names."""
    match suffix:
        case ".xlsx":
            from ingest.reports.xlsx import write_xlsx

            write_xlsx(report, file, progress)
        case ".pdf":
            from ingest.reports.pdf import write_pdf

            write_pdf(report, file)
        case ".csv":
            from ingest.reports.csv import write_csv

            write_csv(report, file, progress)
        case _:
            raise ValueError(f"not a format of reports: {suffix!r}")
