# SPDX-License-Identifier: Apache-2.0
"""What a request says it is about: an id in its path, and the version that somebody saw."""

import re
from typing import Annotated, Final
from uuid import UUID

from fastapi import Header

from api.errors import Problem

#: ``If-Match``, to be read by `seen_version`, or where none need be named by `named_version`.
SeenVersion = Annotated[
    str | None, Header(description="the version that was seen, 0 for none; required")
]
NamedVersion = Annotated[str | None, Header(description="the version that was seen")]
_VERSION: Final = re.compile(r'"?(\d{1,9})"?')


def parse_id(text: str) -> UUID:
    """Return what is meant by an id in a path.

    Raises:
        Problem: ``not_found``: it is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise Problem("not_found") from None


def seen_version(if_match: str | None) -> int:
    """Return the version that was seen: what nobody looked at is not to be changed.

    Raises:
        Problem: ``if_match.missing`` or ``if_match.invalid``.
    """
    if if_match is None:
        raise Problem("if_match.missing")
    match = _VERSION.fullmatch(if_match.strip())
    if match is None:
        raise Problem("if_match.invalid")
    return int(match[1])


def named_version(if_match: str | None) -> int | None:
    """Return the version that was seen where one is named; None: whatever it is by now.

    Raises:
        Problem: ``if_match.invalid``.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return seen_version(if_match)
