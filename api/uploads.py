# SPDX-License-Identifier: Apache-2.0
"""Files as a form sends them: ``multipart/form-data`` (RFC 7578), whole and in memory.

Strict on purpose: what is not exactly as browsers, curl and libraries send it is refused. Whoever
calls has bounded the body.
"""

import re
from dataclasses import dataclass
from email.message import Message
from typing import Final

from api.errors import Problem

FILES_MAX: Final = 20
NAME_LENGTH_MAX: Final = 100
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}(?<! )")
_FILENAME: Final = re.compile(r';[ \t]*filename="([^"\r\n]*)"', re.IGNORECASE)
_MORE: Final = re.compile(rb"[ \t]*\r\n")
_END: Final = re.compile(rb"--[ \t]*(\r\n|\Z)")


@dataclass(frozen=True, slots=True)
class Upload:
    """One file; ``name`` is what people call it, never a path, and no other upload's."""

    name: str
    content: bytes


def read_uploads(content_type: str, body: bytes) -> list[Upload]:
    """Return the files of a form, one at least; whatever its fields are called.

    Raises:
        Problem: ``body.not_multipart``: it is no such form, or holds something else than files.
            ``files.too_many``: more than `FILES_MAX`.
    """
    declared = Message()
    declared["Content-Type"] = content_type
    boundary = declared.get_boundary("")
    if not _BOUNDARY.fullmatch(boundary):
        raise Problem("body.not_multipart")
    # A delimiter stands at the begin of a line, the first one maybe at that of the body.
    before, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("ascii"))
    if before or len(parts) < 2 or not _END.match(parts[-1]):
        raise Problem("body.not_multipart")
    if len(parts) - 1 > FILES_MAX:
        raise Problem("files.too_many", extra={"max": FILES_MAX})
    uploads: list[Upload] = []
    for part in parts[:-1]:
        name, content = _read_part(part)
        taken = {upload.name for upload in uploads}
        uploads.append(Upload(_another(name, taken), content))
    return uploads


def _read_part(part: bytes) -> tuple[str, bytes]:
    """Return the name and the content of one file."""
    begin = _MORE.match(part)
    if begin is None:
        raise Problem("body.not_multipart")
    head, blank, content = part[begin.end() :].partition(b"\r\n\r\n")
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError:
        raise Problem("body.not_multipart") from None
    named = [
        match[1]
        for line in lines
        if line.lower().startswith("content-disposition:") and (match := _FILENAME.search(line))
    ]
    if not blank or len(named) != 1:
        raise Problem("body.not_multipart")
    return named[0], content


def _another(name: str, taken: set[str]) -> str:
    """Return a name to show: without a path, printable, unlike those ``taken``."""
    plain = "".join(filter(str.isprintable, re.split(r"[/\\]", name)[-1]))[-NAME_LENGTH_MAX:]
    plain = plain or "file"
    shown, number = plain, 1
    while shown in taken:
        number += 1
        shown = f"{plain} ({number})"
    return shown
