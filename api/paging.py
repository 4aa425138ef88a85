# SPDX-License-Identifier: Apache-2.0
"""Keyset cursors: opaque, signed, and good only for the question and the person they were made for.

A cursor holds the key of the last row of a page, so pages stay right while rows come and go. It
is not secret; it is signed so that nobody can make the database start where it never stopped.
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from fastapi import Request, Response

from api.answers import Page, PageQuestion
from api.errors import Problem

_TAG_BYTES: Final = 16
Key = Sequence[str | int]
RowT = TypeVar("RowT")


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


class LatestFirst:
    """One page of rows sorted by a time and then an id, the latest first.

    Its statement compares the two with ``after_at`` and ``after_id``, null on the first page, and
    asks for ``count`` rows: one more than are shown.
    """

    def __init__(self, cursors: Cursors, question: PageQuestion, asked: Sequence[object]) -> None:
        """Begin where the question's cursor says.

        Raises:
            Problem: ``cursor.invalid``: altered, or made for another question than ``asked``.
        """
        self._cursors, self._asked, self._limit = cursors, asked, question.limit
        after: Key = [] if question.cursor is None else cursors.read(question.cursor, asked)
        after_at, after_id = after or (None, None)
        #: What the statement is given.
        self.parameters = {
            "after_at": after_at,
            "after_id": after_id,
            "count": question.limit + 1,
        }

    def page(
        self,
        request: Request,
        response: Response,
        rows: Sequence[RowT],
        key: Callable[[RowT], tuple[datetime, UUID]],
    ) -> Page[RowT]:
        """Return what the statement found as a page, which says where the next one is."""
        shown, following = list(rows[: self._limit]), None
        if len(rows) > self._limit:
            at, identity = key(shown[-1])
            following = self._cursors.write([at.isoformat(), str(identity)], self._asked)
        link_next(request, response, following)
        return Page(items=shown, next_cursor=following)
