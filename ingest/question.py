# SPDX-License-Identifier: Apache-2.0
"""What is asked of indicators, and the shape of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from ingest.reports.content import Number
from ingest.store.sums import By

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        path: The area's path; a number counts where its devices stood that day.
        scope: The path of what the asker may see.
        time_zone: The area's, in which a day of it begins.
        first: The first day; of nights the date of dusk.
        end: The day after the last.
        by: Per day, per month, in total, or per sub-area (named by its path label).
        now: Until when time counts.
        hidden: Alert rules that do not exist for the asker; where there are any, nothing is told
            of cases that are not settled, nor of alarms that were false: they might tell of these.
    """

    path: str
    scope: str
    time_zone: str
    first: date
    end: date
    by: By
    now: datetime
    hidden: Sequence[str] = ()

    @property
    def days(self) -> tuple[date, date]:
        """First and end."""
        return self.first, self.end


@dataclass(frozen=True, slots=True)
class Period:
    """A number and what it is of: a day, a month, a sub-area, or all of it (``""``)."""

    label: str
    first: date
    end: date
    number: Number


def months(question: Question) -> list[date]:
    """Return the first day in the window of each of its months."""
    found = [question.first]
    while (after := (found[-1].replace(day=1) + 32 * _DAY).replace(day=1)) < question.end:
        found.append(after)
    return found


def window(period: str, first: date, question: Question) -> tuple[date, date]:
    """Return the days of a period in which ``first`` lies, as far as they are asked about."""
    match question.by:
        case "day":
            return first, first + _DAY
        case "month":
            begin = first.replace(day=1)
            after = (begin + 32 * _DAY).replace(day=1)
            return max(begin, question.first), min(after, question.end)
        case "total" | "child":
            return question.days
