# SPDX-License-Identifier: Apache-2.0
"""What a monthly report says: plain values that are written as XLSX, PDF or CSV.

Whoever reads the database fills these; the writers know nothing of where they come from. Parts are
whole numbers in the definition's parts (microseconds, grams, watt hours, things counted), shares
are fractions from 0 to 1. Where there is no number there is None and a reason, never 0.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from ingest.indicators.definition import Definition, Language, Parts, Target, Text
from ingest.indicators.rate import Verdict
from ingest.store.road_nights import RoadNights

# What a value is told in: a share as a fraction, a sum in its parts, a rate per mille and year, a
# time in microseconds.
Unit = Literal["fraction", "per_mille_year"] | Parts
Status = Literal["provisional", "final"]
# Why there is no value: nothing of the kind counted in the period (none there, none in service, all
# in maintenance); what counted was never heard of; people not known for each day; no case to take
# the time of, or none that is finished.
Missing = Literal["nothing_counted", "no_data", "no_population", "no_cases", "none_finished"]
# How far a writer is: rows written, rows in all. May raise to stop the writing.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Number:
    """One indicator of one area over the month; a device class in ``kind``, or ``""`` for all.

    Attributes:
        value: In ``unit``. A share: known good over known. A sum: the sum. A rate: cases per
            thousand residents and year. Times: the median.
        lower: The least the value can be: unknown counted bad; of a rate the interval's lower end.
        upper: The most it can be: unknown counted good; of a rate the interval's upper end. None
            with a ``lower``: there is no most, for an unfinished case may last.
        coverage: Known over all that counts, a fraction; of a rate the days whose population is
            known over all days.
        numerator: Known good, the sum, the cases, or how many times the median stands on.
        denominator: Known good and bad; of a rate person-days; None of sums and times.
        total: All that counts, known and unknown; of times finished or not; None of rates.
        subjects: How many devices, or cases, speak in it.
        excluded: What does not count, by reason, in the definition's parts.
        p90: Of times, what nine of ten did not exceed, in microseconds.
        target: The target that applied, or None where none is set; then ``verdict`` is None too.
        status: ``provisional`` while a day of the month still is.
    """

    indicator: str
    kind: str
    value: float | None
    lower: float | None
    upper: float | None
    coverage: float | None
    numerator: int | None
    denominator: int | None
    total: int | None
    unit: Unit
    target: Target | None
    verdict: Verdict | None
    revision: int
    status: Status
    excluded: Mapping[str, int] = field(default_factory=dict[str, int])
    subjects: int = 0
    p90: float | None = None
    rule_version: int = 1

    def missing(self, definition: Definition) -> Missing | None:
        """Return why there is no value, or None where there is one."""
        if self.value is not None:
            return None
        if definition.shape == "rate":
            return "no_population"
        if definition.shape == "times":
            return "none_finished" if self.total else "no_cases"
        return "no_data" if self.total else "nothing_counted"


@dataclass(frozen=True, slots=True)
class Day:
    """One day (of a night: the date of its dusk) of one indicator, all classes together."""

    day: date
    value: float | None
    lower: float | None
    upper: float | None
    coverage: float | None
    good: int
    bad: int
    total: int
    subjects: int
    status: Status
    revision: int
    excluded: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class ChildRow:
    """An area below with its headline numbers; ``level`` as in the area tree."""

    area: str
    name: Text
    level: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class InputRow:
    """One stored day of one area: what the numbers are summed from, in the indicator's parts."""

    indicator: str
    day: date
    area: str
    kind: str
    good: int
    bad: int
    total: int
    subjects: int
    excluded: Mapping[str, int]
    revision: int
    status: Status
    rule_version: int


@dataclass(frozen=True, slots=True)
class Restated:
    """A final number of one day that was restated, in the indicator's parts.

    Attributes:
        revision: Of what stood there before; what came then is one more.
        was_good: Known good before; with ``was_bad`` and ``was_total`` as in an `InputRow`.
        good: Known good after it, which may itself have been restated since.
        reason: Why, as a code.
    """

    indicator: str
    day: date
    area: str
    kind: str
    revision: int
    was_good: int
    was_bad: int
    was_total: int
    good: int
    bad: int
    total: int
    replaced_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """A month of one area.

    Attributes:
        path_names: The areas above, from the city down, without the area itself.
        level: The area's level in the tree: city, district, street, community or cell.
        month: Its first day.
        time_zone: IANA name; days and the times of day in the report are local to it.
        made_at: An aware instant; the files carry it and no other time, so that one content is
            one file.
        numbers: In the order in which they are shown.
        daily: Each indicator's days, ascending; a day that is missing has no entry.
        children: The areas below, in the order in which they are shown; may be empty.
        inputs: In the order in which they are shown.
        definitions: Every indicator that occurs above, once.
        roads: Roads with lamps that were due, the worst first; may be cut.
        restated: Numbers of days that changed after they were final, the latest change first.
        restated_count: How many there are, where ``restated`` is cut.
    """

    area_id: str
    area_name: Text
    path_names: tuple[Text, ...]
    level: str
    month: date
    time_zone: str
    made_at: datetime
    language: Language
    numbers: tuple[Number, ...]
    daily: Mapping[str, tuple[Day, ...]]
    children: tuple[ChildRow, ...]
    inputs: tuple[InputRow, ...]
    definitions: tuple[Definition, ...]
    roads: tuple[RoadNights, ...] = ()
    restated: tuple[Restated, ...] = ()
    restated_count: int = 0

    def __post_init__(self) -> None:
        if self.month.day != 1:
            raise ValueError(f"a month begins on its first day: {self.month}")
        if self.made_at.tzinfo is None:
            raise ValueError(f"made_at has no time zone: {self.made_at}")
        known = {definition.id for definition in self.definitions}
        used = {number.indicator for number in self._all_numbers()} | set(self.daily)
        used |= {row.indicator for row in self.inputs}
        used |= {row.indicator for row in self.restated}
        if unknown := used - known:
            raise ValueError(f"not defined in the report: {', '.join(sorted(unknown))}")

    @property
    def last_day(self) -> date:
        """The last day of the month."""
        return (self.month + timedelta(days=31)).replace(day=1) - timedelta(days=1)

    @property
    def days(self) -> tuple[date, ...]:
        """Every day of the month."""
        return tuple(self.month + timedelta(days=n) for n in range(self.last_day.day))

    @property
    def made_local(self) -> datetime:
        """``made_at`` as local clocks show it."""
        return self.made_at.astimezone(ZoneInfo(self.time_zone))

    def is_to_come(self, day: date) -> bool:
        """Whether a day had not begun when the report was made, so that nothing is missing."""
        return day > self.made_local.date()

    @property
    def provisional(self) -> bool:
        """Whether a number may still change because a day is not final."""
        return any(number.status == "provisional" for number in self.numbers)

    def definition(self, indicator: str) -> Definition:
        """Return what an indicator means.

        Raises:
            KeyError: The report does not speak of it.
        """
        for definition in self.definitions:
            if definition.id == indicator:
                return definition
        raise KeyError(indicator)

    def _all_numbers(self) -> Iterator[Number]:
        yield from self.numbers
        for child in self.children:
            yield from child.numbers
