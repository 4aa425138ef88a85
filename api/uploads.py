# SPDX-License-Identifier: Apache-2.0
"""Files as a form sends them: ``multipart/form-data`` (RFC 7578), whole and in memory.

The library that reads them for Starlette takes the form apart; what may be in one is said here.
Starlette's own ``request.form`` is not used: it takes a body that was cut off for a shorter form,
tells too many files from other faults by an English sentence alone, and ends with an error of ours
where a header names a character set that exists but decodes nothing.

Whoever calls has bounded the body.
"""

import re
from dataclasses import dataclass
from typing import Final

from python_multipart import MultipartParser
from python_multipart.multipart import parse_options_header

from api.errors import Problem

FILES_MAX: Final = 20
NAME_LENGTH_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Upload:
    """One file; ``name`` is what people call it, never a path, and no other upload's."""

    name: str
    content: bytes


def read_uploads(content_type: str, body: bytes) -> list[Upload]:
    """Return the files of a form, one at least; whatever its fields are called.

    Raises:
        Problem: ``body.not_multipart``: it is no such form, or not to its end, or holds something
            else than files. ``files.too_many``: more than `FILES_MAX`.
    """
    form = _Form()
    try:
        _, options = parse_options_header(content_type)
        form.read(options.get(b"boundary", b""), body)
    except ValueError as error:  # not what a form looks like, not a name in UTF-8
        raise Problem("body.not_multipart") from error
    return form.uploads


class _Form:
    """What the parser tells, put together: parts, each with headers and then content."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self._ended = False
        self._key = bytearray()
        self._value = bytearray()
        self._names: list[bytes] = []
        self._content = bytearray()

    def read(self, boundary: bytes, body: bytes) -> None:
        """Read a whole form.

        Raises:
            ValueError: It is none, or holds no file, or something else.
            Problem: ``files.too_many``.
        """
        if not boundary:
            raise ValueError("no boundary")
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._take_key,
                "on_header_value": self._take_value,
                "on_header_end": self._take_header,
                "on_part_data": self._take_content,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        parser.write(body)
        parser.finalize()
        if not (self._ended and self.uploads):
            raise ValueError("cut off, or without a file")

    def _begin(self) -> None:
        if len(self.uploads) == FILES_MAX:
            raise Problem("files.too_many", extra={"max": FILES_MAX})
        self._names.clear()
        self._content.clear()

    def _take_key(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _take_header(self) -> None:
        if bytes(self._key).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._names += [options[b"filename"]] if b"filename" in options else []
        self._key.clear()
        self._value.clear()

    def _take_content(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end_part(self) -> None:
        (name,) = self._names  # not a file, or two in one
        taken = {upload.name for upload in self.uploads}
        self.uploads.append(Upload(_another(name.decode(), taken), bytes(self._content)))

    def _end(self) -> None:
        self._ended = True


def _another(name: str, taken: set[str]) -> str:
    """Return a name to show: without a path, printable, unlike those ``taken``."""
    plain = "".join(filter(str.isprintable, re.split(r"[/\\]", name)[-1]))[-NAME_LENGTH_MAX:]
    plain = plain or "file"
    shown, number = plain, 1
    while shown in taken:
        number += 1
        shown = f"{plain} ({number})"
    return shown
