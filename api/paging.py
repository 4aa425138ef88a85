# SPDX-License-Identifier: Apache-2.0
"""Keyset cursors: opaque, signed, and good only for the question and the person they were made for.

A cursor holds the key of the last row of a page, so pages stay right while rows come and go. It
is not secret; it is signed so that nobody can make the database start where it never stopped.
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

from fastapi import Request, Response

from api.errors import Problem

_TAG_BYTES: Final = 16
Key = Sequence[str | int]


def link_next(request: Request, response: Response, cursor: str | None) -> None:
    """Say where the next page is, for those who follow links (RFC 8288)."""
    if cursor is not None:
        following = request.url.include_query_params(cursor=cursor)
        response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'


class Cursors:
    """Makes and reads cursors with one installation's key."""

    def __init__(self, key: bytes) -> None:
        """Take the key; every process of an installation has the same."""
        self._key = key

    def write(self, key: Key, question: Sequence[object]) -> str:
        """Return the cursor that goes on after ``key`` in the answer to ``question``."""
        body = json.dumps(list(key), separators=(",", ":")).encode()
        return urlsafe_b64encode(self._tag(body, question) + body).decode().rstrip("=")

    def read(self, cursor: str, question: Sequence[object]) -> list[str | int]:
        """Return the key in ``cursor``.

        Raises:
            Problem: ``cursor.invalid``: altered, or made for another question or person.
        """
        try:
            raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except ValueError:
            raise Problem("cursor.invalid") from None
        tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(body, question)):
            raise Problem("cursor.invalid")
        key: list[str | int] = json.loads(body)
        return key

    def read_text(self, cursor: str | None, question: Sequence[object]) -> str | None:
        """Return the one text in ``cursor``, None on the first page.

        Raises:
            Problem: ``cursor.invalid``.
        """
        return None if cursor is None else str(self.read(cursor, question)[0])

    def _tag(self, body: bytes, question: Sequence[object]) -> bytes:
        asked = json.dumps([str(part) for part in question]).encode()
        message = len(asked).to_bytes(4, "big") + asked + body
        return hmac.digest(self._key, message, hashlib.sha256)[:_TAG_BYTES]
