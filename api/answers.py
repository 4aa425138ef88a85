# SPDX-License-Identifier: Apache-2.0
"""What answers and questions are made of: one base each, instants, pages, bounded ranges."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, Generic, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from api.errors import FieldError, Problem

ROWS_MAX: Final = 1_000
ROWS_DEFAULT: Final = 100
RANGE_MAX: Final = timedelta(days=366)


def rfc3339(instant: datetime) -> str:
    """Return the instant in UTC with milliseconds: ``2026-11-21T10:00:00.000Z``."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
Scalar = bool | float | str | None
# No control characters: the database refuses U+0000, and nobody searches for the others.
SearchText = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
]

# Beyond these years nobody asks anything, and calendar arithmetic would overflow.
Day = Annotated[date, Field(ge=date(2000, 1, 1), le=date(2100, 1, 1))]
Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(2000, 1, 1, tzinfo=UTC), le=datetime(2100, 1, 1, tzinfo=UTC)),
]

ItemT = TypeVar("ItemT")


class Answer(BaseModel):
    """Base of everything the api answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> bytes:
        """Return it as JSON, as any route would give it."""
        return self.model_dump_json(by_alias=True).encode()

    def to_keep(self) -> "Answer":
        """Return what is kept of it to be told again: without what is shown once only."""
        return self


class Page(Answer, Generic[ItemT]):
    """One page; ``next_cursor`` asks for the next, null on the last."""

    items: list[ItemT]
    next_cursor: str | None


class Question(BaseModel):
    """Base of query parameters and bodies: an unknown name is an error, not a silent nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class PageQuestion(Question):
    """Which page, and how long."""

    limit: int = Field(default=ROWS_DEFAULT, ge=1, le=ROWS_MAX)
    cursor: str | None = Field(default=None, max_length=1_000)


class TimeRangeQuestion(PageQuestion):
    """Which page of which time, ``[from, to)``."""

    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None


def check_range(start: datetime, end: datetime) -> None:
    """Refuse a time ``[start, end)`` that is empty, reversed or longer than 366 days.

    Raises:
        Problem: ``request.invalid``, with the pointer and the bound.
    """
    _check_length(end - start)


def check_days(first: date, end: date) -> None:
    """Refuse dates ``[first, end)`` that are none, reversed or more than 366.

    Raises:
        Problem: ``request.invalid``, with the pointer and the bound.
    """
    _check_length(end - first)


def _check_length(length: timedelta) -> None:
    if length <= timedelta(0):
        raise Problem("request.invalid", errors=[FieldError("/query/to", "range.reversed")])
    if length > RANGE_MAX:
        error = FieldError("/query/from", "range.too_long", {"max_days": RANGE_MAX.days})
        raise Problem("request.invalid", errors=[error])
