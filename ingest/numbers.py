# SPDX-License-Identifier: Apache-2.0
"""Every indicator of an area over any time, read from daily tallies: for the api and for reports.

Shares and sums add up stored days; lighting that still runs is taken as it stands; rates put cases
before the people of the time; times come from `ingest.durations`, since medians of days make no
median of a month.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection
from psycopg.rows import class_row

from ingest import durations
from ingest.indicators import security
from ingest.indicators.catalogue import INDICATORS, SINGLE
from ingest.indicators.definition import Definition
from ingest.indicators.lighting_nights import UPTIME
from ingest.indicators.rate import Rate, share
from ingest.indicators.tally import Tally
from ingest.question import By, Period, Question, months, window
from ingest.reports.content import Number, Status
from ingest.store import population
from ingest.store.light_sums import sum_light
from ingest.store.population import Population
from ingest.store.sums import Sum, parameters, query

# Also for those who ask (`By`, `Period`, `Question`).
__all__ = ["By", "Period", "Question", "read"]

_DAY: Final = timedelta(days=1)


async def read(
    conn: AsyncConnection[Any], definitions: Sequence[Definition], question: Question
) -> list[Period]:
    """Return the numbers of some indicators, ordered by indicator, class and period.

    Of areas that a city tells us of, or that hold such, nothing of what is `untold`.
    """
    absent = await untold(conn, question.path)
    definitions = [one for one in definitions if one.id not in absent]
    by_shape: defaultdict[str, list[Definition]] = defaultdict(list)
    told = [one for one in definitions if one.id in durations.TOLD_BY_ALERTS]
    for definition in definitions:
        if definition not in told:
            by_shape[definition.shape].append(definition)
    measured = [one.id for one in by_shape["times"]]
    added = [*by_shape["share"], *by_shape["sum"], *by_shape["rate"], *by_shape["times"]]
    found: list[Period] = []
    if added:
        # A list of communities has a rate of each, all of one window.
        people = _People(conn, question)
        sums = await _sums(conn, [one.id for one in added], question)
        sums += await _without_cases(conn, by_shape["rate"], sums, question)
        spreads = await durations.spreads(conn, measured, question)
        sums += durations.without_times(measured, sums, question)
        for one in sums:
            definition = INDICATORS[one.indicator]
            first, end = window(one.period, one.first, question)
            if definition.shape == "rate":
                living = await people.of(first, end, _label_of(one.period, question))
                if question.hidden:
                    one = replace(one, total=one.good, subjects=one.good, excluded={})
                number = _rate(definition, one, living)
            elif definition.shape == "times":
                times = spreads.get((one.indicator, one.period), durations.NONE)
                number = durations.number(definition, one, times)
            else:
                number = _added(definition, one)
            found.append(Period(one.period, first, end, number))
    found += await durations.read(conn, told, question)
    if question.hidden:
        found = [one for one in found if one.number.indicator != security.FALSE_ALARMS]
    order = {definition.id: place for place, definition in enumerate(definitions)}
    return sorted(found, key=lambda one: (order[one.number.indicator], one.number.kind, one.label))


async def untold(conn: AsyncConnection[Any], path: str) -> frozenset[str]:
    """Return the indicators that cannot be told of an area, since its cities keep single times."""
    cursor = await conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM city AS c JOIN area AS a ON a.area = c.area
            WHERE a.path <@ %(path)s::ltree OR a.path @> %(path)s::ltree)
        """,
        {"path": path},
    )
    row = await cursor.fetchone()
    return SINGLE if row is not None and row[0] else frozenset()


class _People:
    """Who lives in an area and below, by window and label; asked for once each."""

    def __init__(self, conn: AsyncConnection[Any], question: Question) -> None:
        self._conn = conn
        self._question = question
        self._known: dict[tuple[date, date], Mapping[str, Population]] = {}

    async def of(self, first: date, end: date, label: str) -> Population:
        """Return the people of the days that have come: those to come commit no crime yet.

        Nobody is known of an area that came here only after these days.
        """
        known = self._known.get((first, end))
        if known is None:
            zone = ZoneInfo(self._question.time_zone)
            today = self._question.now.astimezone(zone).date()
            until = max(first + _DAY, min(end, today + _DAY))
            cursor = await self._conn.execute(
                population.BELOW, population.parameters(self._question.path, first, until)
            )
            known = population.fold(await cursor.fetchall(), first, until)
            self._known[first, end] = known
        return known.get(label, Population(0, 0, (end - first).days))


async def _without_cases(
    conn: AsyncConnection[Any],
    rates: Sequence[Definition],
    sums: Sequence[Sum],
    question: Question,
) -> list[Sum]:
    """Return sums of nothing for rates: that nothing happened is a number, too."""
    if not rates or question.by == "day":
        return []
    match question.by:
        case "total":
            periods = {"": question.first}
        case "month":
            periods = {f"{day:%Y-%m}": day for day in months(question)}
        case "child":
            cursor = await conn.execute(
                """
                SELECT subpath(c.path, -1)::text
                FROM area AS a JOIN area AS c ON c.parent = a.area
                WHERE a.path = %s::ltree
                """,
                (question.path,),
            )
            periods = {label: question.first for (label,) in await cursor.fetchall()}
    known = {(one.indicator, one.period) for one in sums}
    local = question.now.astimezone(ZoneInfo(question.time_zone)).date()
    return [
        Sum(
            definition.id, "", period, first, first, 0, 0, 0, 0, 1, definition.rule_version,
            question.end <= local, question.now, {},
        )
        for definition in rates
        for period, first in periods.items()
        if (definition.id, period) not in known
    ]  # fmt: skip


def _label_of(period: str, question: Question) -> str:
    return period if question.by == "child" else question.path.rpartition(".")[2]


async def _sums(conn: AsyncConnection[Any], indicators: list[str], question: Question) -> list[Sum]:
    stored = [one for one in indicators if one != UPTIME]
    sums: list[Sum] = []
    async with conn.cursor(row_factory=class_row(Sum)) as cursor:
        await cursor.execute(
            query(question.by),
            parameters(stored, question.path, question.scope, question.days, question.by),
        )
        sums += await cursor.fetchall()
    if UPTIME in indicators:
        sums += [
            Sum(
                UPTIME, "", one.period, one.first, one.last, one.lit_us, one.dark_us, one.due_us,
                one.lamps, one.revision, INDICATORS[UPTIME].rule_version, one.is_final,
                one.as_of, one.excluded,
            )
            for one in await sum_light(
                conn,
                question.scope,
                question.path,
                question.days,
                "night" if question.by == "day" else question.by,
                now=question.now,
            )
        ]  # fmt: skip
    return sums


def _added(definition: Definition, one: Sum) -> Number:
    tally = Tally(one.good, one.bad, one.total, one.subjects, one.excluded)
    status: Status = "final" if one.is_final else "provisional"
    if definition.shape == "sum":
        # Nothing adds up to nothing only where somebody could have told of more.
        heard = one.good if one.subjects or one.good else None
        rate = Rate(heard, None, None, None, "undetermined")
    else:
        rate = share(tally, definition.target)
    return Number(
        indicator=one.indicator,
        kind=one.kind,
        value=rate.value,
        lower=rate.lower,
        upper=rate.upper,
        coverage=rate.coverage,
        numerator=one.good,
        denominator=None if definition.shape == "sum" else one.good + one.bad,
        total=None if definition.shape == "sum" else one.total,
        unit=definition.parts if definition.shape == "sum" else "fraction",
        target=definition.target,
        verdict=rate.verdict if definition.target else None,
        revision=one.revision,
        status=status,
        excluded=tally.excluded,
        subjects=one.subjects,
        rule_version=one.rule_version,
    )


def _rate(definition: Definition, one: Sum, people: Population) -> Number:
    assert definition.target is not None
    rate = security.incident_rate(
        one.good,
        one.total - one.good,
        person_days=people.person_days,
        days_covered=people.days_covered,
        days=people.days,
        target=definition.target.value,
    )
    return replace(
        _added(definition, one),
        value=rate.value,
        lower=rate.lower,
        upper=rate.upper,
        coverage=rate.coverage,
        numerator=rate.cases,
        denominator=people.person_days,
        total=None,
        unit="per_mille_year",
        verdict=rate.verdict,
    )
