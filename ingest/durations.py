# SPDX-License-Identifier: Apache-2.0
"""How long things took, in any area over any time: medians and p90 with n, and repairs in time.

Of devices from the stored times of their days; of alarms and repairs from the alerts themselves,
where what is open grows with the clock.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any, Final
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection
from psycopg.rows import class_row

from ingest.indicators import repairs, security
from ingest.indicators.definition import Definition
from ingest.indicators.rate import share
from ingest.indicators.security import Alarm, Times
from ingest.indicators.spans import day_of, to_us
from ingest.question import Period, Question, months, window
from ingest.reports.content import Number, Status
from ingest.store import faults, incidents
from ingest.store.device_durations import SPREADS, Spread
from ingest.store.faults import FaultRow
from ingest.store.sums import Sum, parameters

_ALARMS: Final[Mapping[str, Callable[[Iterable[Alarm], int], Times]]] = {
    security.TIME_TO_ACKNOWLEDGE: security.time_to_acknowledge,
    security.TIME_TO_CLOSE: security.time_to_close,
}
#: What is read from alerts, not from stored days.
TOLD_BY_ALERTS: Final = frozenset({*_ALARMS, repairs.REPAIR_TIME, repairs.IN_TIME})
#: No times at all.
NONE: Final = security.times(())


async def spreads(
    conn: AsyncConnection[Any], indicators: Sequence[str], question: Question
) -> Mapping[tuple[str, str], Times]:
    """Return the times of devices by indicator and period."""
    if not indicators:
        return {}
    asked = parameters(list(indicators), question.path, question.scope, question.days, question.by)
    async with conn.cursor(row_factory=class_row(Spread)) as cursor:
        await cursor.execute(SPREADS, asked)
        return {(one.indicator, one.period): one.times async for one in cursor}


def without_times(indicators: Sequence[str], sums: Sequence[Sum], question: Question) -> list[Sum]:
    """Return sums of nothing for times of which there are none: that, too, is an answer."""
    known = {one.indicator for one in sums}
    if question.by != "total":
        return []
    return [
        Sum(
            indicator, "", "", question.first, question.first, 0, 0, 0, 0, 1, 1,
            _is_over(question.end, question), question.now, {},
        )
        for indicator in indicators
        if indicator not in known
    ]  # fmt: skip


def number(definition: Definition, one: Sum, times: Times) -> Number:
    """Return the number of a device's times; ``one`` is the tally that keeps their revision."""
    status: Status = "final" if one.is_final else "provisional"
    return _number(definition, "", times, status, subjects=one.subjects, revision=one.revision)


async def read(
    conn: AsyncConnection[Any], definitions: Sequence[Definition], question: Question
) -> list[Period]:
    """Return the numbers of `TOLD_BY_ALERTS` among ``definitions``."""
    wanted = {one.id: one for one in definitions}
    found: list[Period] = []
    if not wanted.keys().isdisjoint(_ALARMS):
        found += await _of_alarms(conn, wanted, question)
    if not wanted.keys().isdisjoint({repairs.REPAIR_TIME, repairs.IN_TIME}):
        found += await _of_faults(conn, wanted, question)
    return found


async def _of_alarms(
    conn: AsyncConnection[Any], wanted: Mapping[str, Definition], question: Question
) -> list[Period]:
    start, end = _instants(question)
    cursor = await conn.execute(
        incidents.ALARMS_BELOW,
        {
            "start": start,
            "end": end,
            "area": question.path,
            "scope": question.scope,
            "hidden": list(question.hidden),
        },
    )
    groups: defaultdict[str, list[Alarm]] = _periods(question)
    for path, *columns in await cursor.fetchall():
        alarm = Alarm(*columns)
        label = _label(question, alarm.received_us, path)
        if label is not None:
            groups[label].append(alarm)
    found: list[Period] = []
    for label, of_period in sorted(groups.items()):
        first, end_day = _days(question, label)
        for indicator in wanted.keys() & _ALARMS.keys():
            times = _ALARMS[indicator](of_period, to_us(question.now))
            status = _status(times.unfinished, end_day, question)
            one = _number(wanted[indicator], "", times, status, subjects=len(of_period))
            found.append(Period(label, first, end_day, one))
    return found


async def _of_faults(
    conn: AsyncConnection[Any], wanted: Mapping[str, Definition], question: Question
) -> list[Period]:
    start, end = _instants(question)
    rows = await faults.below(conn, question.path, question.scope, start, end)
    groups: defaultdict[str, list[FaultRow]] = _periods(question)
    for row in rows:
        label = _label(question, row.raised_us, row.path)
        if label is not None:
            groups[label].append(row)
    calendar = await faults.calendar(conn)
    found: list[Period] = []
    for label, of_period in sorted(groups.items()):
        days = _days(question, label)
        for kind in ("", *sorted({row.kind for row in of_period})):
            of_kind = [row for row in of_period if kind in {"", row.kind}]
            found += [
                Period(label, *days, one)
                for one in _repairs(wanted, kind, of_kind, calendar, days[1], question)
            ]
    return found


def _repairs(
    wanted: Mapping[str, Definition],
    kind: str,
    rows: Sequence[FaultRow],
    calendar: faults.Calendar,
    end: date,
    question: Question,
) -> list[Number]:
    now_us = to_us(question.now)
    of_kind = [row.fault for row in rows]
    devices = len({row.device for row in rows if row.excluded is None})
    times = repairs.repair_times(of_kind, now_us)
    status = _status(times.unfinished, end, question)
    tally = repairs.tally(of_kind, now_us, calendar.classes, calendar.holidays)
    found: list[Number] = []
    if (definition := wanted.get(repairs.REPAIR_TIME)) is not None:
        found.append(_number(definition, kind, times, status, subjects=devices))
    if (definition := wanted.get(repairs.IN_TIME)) is not None:
        rate = share(tally, definition.target)
        found.append(
            Number(
                definition.id,
                kind,
                rate.value,
                rate.lower,
                rate.upper,
                rate.coverage,
                tally.good,
                tally.good + tally.bad,
                tally.total,
                "fraction",
                definition.target,
                rate.verdict if definition.target else None,
                revision=1,
                status=status,
                excluded=tally.excluded,
                subjects=devices,
                rule_version=definition.rule_version,
            )
        )
    return found


def _number(
    definition: Definition,
    kind: str,
    times: Times,
    status: Status,
    *,
    subjects: int,
    revision: int = 1,
) -> Number:
    return Number(
        indicator=definition.id,
        kind=kind,
        value=times.median.value,
        lower=times.median.lower,
        upper=times.median.upper,
        coverage=None,
        numerator=times.finished,
        denominator=None,
        total=times.finished + times.unfinished,
        unit="us",
        target=None,
        verdict=None,
        revision=revision,
        status=status,
        subjects=subjects,
        p90=times.p90.value,
        rule_version=definition.rule_version,
    )


def _instants(question: Question) -> tuple[datetime, datetime]:
    zone = ZoneInfo(question.time_zone)
    start, end = (datetime.combine(day, time(), zone) for day in question.days)
    return start, end


def _is_over(end: date, question: Question) -> bool:
    return question.now >= datetime.combine(end, time(), ZoneInfo(question.time_zone))


def _status(unfinished: int, end: date, question: Question) -> Status:
    return "final" if unfinished == 0 and _is_over(end, question) else "provisional"


def _periods(question: Question) -> defaultdict[str, list[Any]]:
    """Return the periods that are told of though nothing happened in them. Any: of what is put."""
    groups: defaultdict[str, list[Any]] = defaultdict(list)
    match question.by:
        case "total":
            groups[""] = []
        case "month":
            groups.update({f"{day:%Y-%m}": [] for day in months(question)})
        case "day" | "child":
            pass
    return groups


def _label(question: Question, at_us: int, path: str) -> str | None:
    """Return the period something belongs to; None of the area itself where parts are asked for."""
    match question.by:
        case "total":
            return ""
        case "day":
            return day_of(at_us, question.time_zone).isoformat()
        case "month":
            return f"{day_of(at_us, question.time_zone):%Y-%m}"
        case "child":
            labels = path.split(".")
            below = labels[labels.index(question.path.rpartition(".")[2]) + 1 :]
            return below[0] if below else None


def _days(question: Question, label: str) -> tuple[date, date]:
    match question.by:
        case "day":
            return window(label, date.fromisoformat(label), question)
        case "month":
            first = date.fromisoformat(f"{label}-01")
            return window(label, max(first, question.first), question)
        case "total" | "child":
            return question.days
