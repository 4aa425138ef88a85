# SPDX-License-Identifier: Apache-2.0
"""Indicators for people: what they mean, and value, bounds, coverage, verdict of any area and time.

The numbers come from `ingest.numbers`; here they get units that people read, and a scope.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Request
from psycopg.rows import class_row
from pydantic import Field

from api.answers import Answer, Day, Instant, Question, check_days
from api.auth import Person
from api.errors import Problem
from api.places import Place, find_area
from api.replica import Lagging, reads
from api.scope import Scope
from api.state import services
from ingest import numbers
from ingest.indicators.catalogue import INDICATORS, SOURCES
from ingest.indicators.definition import Definition, Parts, Shape
from ingest.indicators.rate import Verdict
from ingest.numbers import Period
from ingest.reports.read import UNSETTLED
from ingest.store.sums import By as StoredBy

By = Literal["night", "day", "month", "total", "child"]
Unit = Literal["fraction", "per_mille_year", "s", "kg", "kWh", "count"]
_DAYS_DEFAULT: Final = 30
_UNITS: Final[Mapping[Parts, tuple[Unit, int]]] = {
    "us": ("s", 1_000_000),
    "g": ("kg", 1_000),
    "Wh": ("kWh", 1_000),
    "devices": ("count", 1),
    "roads": ("count", 1),
    "cases": ("count", 1),
}


class TargetAnswer(Answer):
    """A limit, whether it is to be reached or not to be passed, and where it is written."""

    value: float
    better: Literal["high", "low"]
    source: str
    source_name: dict[str, str]


class DefinitionAnswer(Answer):
    """What an indicator means: as it is computed, in words."""

    indicator: str
    domain: str
    shape: Shape
    unit: Unit
    parts_unit: Unit
    by_kind: bool
    name: dict[str, str]
    formula: dict[str, str]
    target: TargetAnswer | None
    rule_version: int


class Indicator(Answer):
    """One number that admits what it does not know.

    A share and its bounds are fractions from 0 to 1, a rate is per mille and year, times are
    seconds. ``numerator``, ``denominator`` and ``total`` are in ``parts_unit``: known good, known,
    and all that counts. Of nights the dates are those of dusk, ``[from, to)``.
    """

    from_: date = Field(alias="from")
    to: date
    label: str = Field(examples=["2026-11-20"])
    kind: str = Field(description="device class; empty: all together")
    value: float | None
    lower: float | None
    upper: float | None
    coverage: float | None
    p90: float | None = Field(description="of times: what nine of ten did not exceed")
    numerator: float | None
    denominator: float | None
    total: float | None
    excluded: dict[str, float] = Field(description="what does not count, by reason")
    subjects: int = Field(description="how many devices, or cases, speak in it")
    verdict: Verdict | None
    target: float | None
    revision: int
    status: Literal["provisional", "final"]


class IndicatorSeries(Answer):
    """An indicator of one area over time, with what it means."""

    area: str
    definition: DefinitionAnswer
    absent: Literal["single_times"] | None = Field(
        default=None,
        description="why there is no number: single_times stay in the cities below, and sums of"
        " days give no median",
    )
    items: list[Indicator]


class IndicatorTable(Answer):
    """Every indicator of one area over one time."""

    area: str
    from_: date = Field(alias="from")
    to: date
    items: list[IndicatorSeries]


class Catalogue(Answer):
    """All indicators there are."""

    items: list[DefinitionAnswer]


class RevisionAnswer(Answer):
    """A final number as it was before it was restated, in ``parts_unit``."""

    area: str
    kind: str
    day: date
    revision: int
    numerator: float
    denominator: float
    total: float
    computed_at: Instant
    replaced_at: Instant
    reason: str


class Revisions(Answer):
    """What was restated, latest first."""

    indicator: str
    parts_unit: Unit
    items: list[RevisionAnswer]


def definition_of(definition: Definition) -> DefinitionAnswer:
    """Return what an indicator means, as people read it."""
    parts_unit, _ = _UNITS[definition.parts]
    unit: Unit = parts_unit
    if definition.shape == "share":
        unit = "fraction"
    elif definition.shape == "rate":
        unit = "per_mille_year"
    target = definition.target
    return DefinitionAnswer(
        indicator=definition.id,
        domain=definition.domain,
        shape=definition.shape,
        unit=unit,
        parts_unit=parts_unit,
        by_kind=definition.by_kind,
        name={str(language): text for language, text in definition.name.items()},
        formula={str(language): text for language, text in definition.formula.items()},
        target=None
        if target is None
        else TargetAnswer(
            value=target.value,
            better=target.better,
            source=target.source,
            source_name=dict(SOURCES[target.source]),
        ),
        rule_version=definition.rule_version,
    )


def answer(period: Period, label: str) -> Indicator:
    """Return one number as people read it."""
    number = period.number
    definition = INDICATORS[number.indicator]
    _, scale = _UNITS[definition.parts]
    counted = definition.shape == "times"  # how many, not how long

    def scaled(value: float | None) -> float | None:
        return None if value is None else value / scale

    own = number.unit in {"fraction", "per_mille_year"}
    return Indicator.model_validate(
        {
            "from": period.first,
            "to": period.end,
            "label": label,
            "kind": number.kind,
            "value": number.value if own else scaled(number.value),
            "lower": number.lower if own else scaled(number.lower),
            "upper": number.upper if own else scaled(number.upper),
            "coverage": number.coverage,
            "p90": scaled(number.p90),
            "numerator": number.numerator if counted else scaled(number.numerator),
            "denominator": scaled(number.denominator),
            "total": number.total if counted else scaled(number.total),
            "excluded": {reason: part / scale for reason, part in number.excluded.items()},
            "subjects": number.subjects,
            "verdict": number.verdict,
            "target": None if number.target is None else number.target.value,
            "revision": number.revision,
            "status": number.status,
        }
    )


class WindowQuestion(Question):
    """Which time ``[from, to)``, of nights the dates of dusk; the last 30 days by default."""

    from_: Day | None = Field(default=None, alias="from")
    to: Day | None = None


class IndicatorQuestion(WindowQuestion):
    """Which time, and what one number is of."""

    by: By = "night"
    kind: str | None = Field(default=None, max_length=40, description="one device class only")


router = APIRouter(tags=["indicators"], route_class=Lagging)


@router.get("/indicators")
async def get_catalogue(person: Person) -> Catalogue:
    """Return every indicator with its formula, its target and where that is written."""
    del person  # anybody who is signed in
    return Catalogue(items=[definition_of(one) for one in INDICATORS.values()])


@router.get("/areas/{area}/indicators")
async def get_indicators(
    area: str, person: Person, request: Request, question: Annotated[WindowQuestion, Query()]
) -> IndicatorTable:
    """Return every indicator of an area over one time."""
    parts = services(request)
    async with reads(request).connection() as conn:
        place = await find_area(conn, person.scope, area)
        asked = ask(place, person.scope, question, "total", parts.clock())
        definitions = list(INDICATORS.values())
        found = await numbers.read(conn, definitions, asked)
        absent = await numbers.untold(conn, place.path)
    label = f"{asked.first}/{asked.end}"
    return IndicatorTable.model_validate(
        {
            "area": place.area,
            "from": asked.first,
            "to": asked.end,
            "items": [
                IndicatorSeries(
                    area=place.area,
                    definition=definition_of(one),
                    absent="single_times" if one.id in absent else None,
                    items=[answer(two, label) for two in found if two.number.indicator == one.id],
                )
                for one in definitions
            ],
        }
    )


@router.get("/areas/{area}/indicators/{indicator_id}")
async def get_indicator(
    area: str,
    indicator_id: str,
    person: Person,
    request: Request,
    question: Annotated[IndicatorQuestion, Query()],
) -> IndicatorSeries:
    """Return an indicator of an area; for lighting a day is the night that begins on it."""
    parts = services(request)
    async with reads(request).connection() as conn:
        place = await find_area(conn, person.scope, area)
        definition = _known(indicator_id)
        by: StoredBy = "day" if question.by == "night" else question.by
        asked = ask(place, person.scope, question, by, parts.clock())
        found = await numbers.read(conn, [definition], asked)
        absent = await numbers.untold(conn, place.path)
    kind = "" if question.kind is None and not definition.by_kind else question.kind
    return IndicatorSeries(
        area=place.area,
        definition=definition_of(definition),
        absent="single_times" if definition.id in absent else None,
        items=[
            answer(one, _period(one, by) or f"{asked.first}/{asked.end}")
            for one in found
            if kind is None or one.number.kind == kind
        ],
    )


@router.get("/areas/{area}/indicators/{indicator_id}/revisions")
async def get_revisions(
    area: str,
    indicator_id: str,
    person: Person,
    request: Request,
    question: Annotated[WindowQuestion, Query()],
) -> Revisions:
    """Return what final numbers of an area were before they were restated; 1,000 at most.

    Where alerts are hidden from a role, nothing of counts that would tell of them.
    """
    parts = services(request)
    async with reads(request).connection() as conn:
        place = await find_area(conn, person.scope, area)
        definition = _known(indicator_id)
        asked = ask(place, person.scope, question, "total", parts.clock())
        unit, scale = _UNITS[definition.parts]
        async with conn.cursor(row_factory=class_row(RevisionAnswer)) as cursor:
            await cursor.execute(
                """
                SELECT r.area, r.kind, r.day, r.revision,
                       r.good / %(scale)s::float8 AS numerator,
                       (r.good + r.bad) / %(scale)s::float8 AS denominator,
                       r.total / %(scale)s::float8 AS total,
                       r.computed_at, r.replaced_at, r.reason
                FROM area_lay AS l
                JOIN area_day_revision AS r
                    ON r.area = l.area AND r.day >= l.since AND r.day < l.until
                WHERE r.indicator = %(indicator)s AND r.day >= %(first)s AND r.day < %(end)s
                  AND l.path ~ ('*.' || subpath(%(area)s::ltree, -1)::text || '.*')::lquery
                  AND %(area)s::ltree <@ %(scope)s::ltree  -- invariant 9
                  AND NOT %(untold)s
                ORDER BY r.replaced_at DESC, r.day DESC, r.area, r.kind, r.revision DESC
                LIMIT 1000
                """,
                {
                    "scale": scale,
                    "indicator": definition.id,
                    "first": asked.first,
                    "end": asked.end,
                    "area": place.path,
                    "scope": person.scope.path,
                    "untold": bool(person.scope.hidden_rules) and definition.id in UNSETTLED,
                },
            )
            items = await cursor.fetchall()
    return Revisions(indicator=definition.id, parts_unit=unit, items=items)


def _known(indicator_id: str) -> Definition:
    definition = INDICATORS.get(indicator_id)
    if definition is None:
        raise Problem("not_found")
    return definition


def ask(
    place: Place, scope: Scope, question: WindowQuestion, by: StoredBy, now: datetime
) -> numbers.Question:
    """Return what is asked of an area, with the days that are meant where none are named."""
    today = now.astimezone(ZoneInfo(place.time_zone)).date()
    end = question.to or max(today, question.from_ or today) + timedelta(days=1)
    first = question.from_ or end - timedelta(days=_DAYS_DEFAULT)
    check_days(first, end)
    return numbers.Question(
        place.path, scope.path, place.time_zone, first, end, by, now, scope.hidden_rules
    )


def _period(one: Period, by: StoredBy) -> str:
    """Return what a number is of; a sub-area by its id, wherever it lies now."""
    return one.label.replace("_", "-") if by == "child" else one.label
