# SPDX-License-Identifier: Apache-2.0
"""Indicators for people: value, bounds, coverage and verdict, by night, month or in total.

Lamp-nights hold what readings settled, in whole microseconds; what a lamp's latest reading still
holds is added here up to now. Time that has not come is not due yet, so the number of a night in
progress says how it has gone so far.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Request
from psycopg.rows import class_row
from pydantic import Field

from api.answers import Answer, Day, Question, check_days
from api.auth import Person
from api.errors import Problem
from api.places import find_area
from api.scope import Scope
from api.state import Connection, services
from ingest.indicators import lighting
from ingest.indicators.rate import Rate, Verdict, time_rate

By = Literal["night", "day", "month", "total"]
LIGHTING: Final = "lighting-uptime"
_US: Final = 1_000_000
_DAYS_DEFAULT: Final = 30


class Indicator(Answer):
    """One number that admits what it does not know.

    Fractions from 0 to 1; times in seconds. ``numerator_s`` is lit time, ``denominator_s`` known
    time, ``due_s`` all due time; the dates are those of dusk, ``[from, to)``.
    """

    from_: date = Field(alias="from")
    to: date
    label: str = Field(examples=["2026-11-20"])
    value: float | None
    lower: float | None
    upper: float | None
    coverage: float | None
    numerator_s: float
    denominator_s: float
    due_s: float
    verdict: Verdict
    target: float
    revision: int
    status: Literal["provisional", "final"]
    lamps: int


class IndicatorSeries(Answer):
    """An indicator of one area over time, with what it means."""

    indicator: str
    area: str
    unit: Literal["fraction"]
    target: float
    source: str
    definition: dict[str, str]
    rule_version: int
    items: list[Indicator]


@dataclass(frozen=True, slots=True)
class LightSum:
    """Lighting of many lamp-nights together, microseconds; ``period`` is what they share."""

    period: str
    first: date
    last: date
    lamps: int
    due_us: int
    lit_us: int
    dark_us: int
    revision: int
    is_final: bool

    @property
    def rate(self) -> Rate:
        """The rate with its bounds and its verdict."""
        return time_rate(self.lit_us, self.dark_us, self.due_us, lighting.TARGET)


async def sum_light(
    conn: Connection,
    scope: Scope,
    path: str,
    nights: tuple[date, date],
    by: Literal["night", "month", "total", "child"],
    *,
    now: datetime,
) -> list[LightSum]:
    """Sum the lamp-nights of an area, ordered by period.

    Args:
        conn: Any connection.
        scope: What the person may see.
        path: The area's path; a lamp counts where it stood that night.
        nights: ``[first, end)``, dates of dusk.
        by: What to sum over; ``child`` gives one sum per sub-area, named by its path label.
        now: Until when time counts.
    """
    async with conn.cursor(row_factory=class_row(LightSum)) as cursor:
        await cursor.execute(
            """
            WITH lamp AS (
                SELECT n.device_id, n.night, n.lit_us, n.dark_us, n.revision,
                       n.status = 'final' AS is_final, n.due, n.due_us, n.due_to,
                       CASE WHEN d.community = n.community THEN d.path ELSE c.path END AS path,
                       -- Gateways' clocks may run ahead a little: settled time has come.
                       greatest(%(now)s, d.lit_at) AS until,
                       d.lit, d.lit_at,
                       d.lit_at + make_interval(secs => d.reporting_period_s * %(periods)s)
                           AS known_until
                FROM lamp_night AS n
                JOIN device_view AS d ON d.id = n.device_id
                JOIN area AS c ON c.area = n.community
                WHERE n.night >= %(first)s AND n.night < %(end)s
                  AND n.community IN (
                      SELECT o.area FROM area AS o
                      WHERE o.path <@ %(area)s::ltree OR o.path @> %(area)s::ltree)
            ), so_far AS (
                SELECT device_id, night, path, lit_us, dark_us, revision, is_final, lit,
                       CASE WHEN due_to <= until THEN due_us
                            ELSE covered_us(due * tstzmultirange(tstzrange(NULL, until)))
                       END AS due_us,
                       CASE WHEN lit IS NULL OR lit_at >= due_to OR known_until <= lower(due)
                            THEN 0
                            ELSE covered_us(due * tstzmultirange(
                                tstzrange(lit_at, least(until, known_until))))
                       END AS open_us
                FROM lamp
                WHERE path <@ %(area)s::ltree AND path <@ %(scope)s::ltree  -- invariant 9
            ), labelled AS (
                SELECT *,
                       CASE %(by)s
                           WHEN 'night' THEN night::text
                           WHEN 'month' THEN to_char(night, 'YYYY-MM')
                           WHEN 'total' THEN ''
                           WHEN 'child' THEN
                               CASE WHEN nlevel(path) > nlevel(%(area)s::ltree)
                                    THEN subpath(path, nlevel(%(area)s::ltree), 1)::text END
                       END AS period
                FROM so_far
                WHERE due_us > 0
            )
            SELECT period, min(night) AS first, max(night) AS last,
                   count(DISTINCT device_id) AS lamps,
                   sum(due_us)::bigint AS due_us,
                   sum(lit_us + CASE WHEN lit THEN open_us ELSE 0 END)::bigint AS lit_us,
                   sum(dark_us + CASE WHEN NOT lit THEN open_us ELSE 0 END)::bigint AS dark_us,
                   max(revision) AS revision, bool_and(is_final) AS is_final
            FROM labelled
            WHERE period IS NOT NULL
            GROUP BY period
            ORDER BY period
            """,
            {
                "now": now,
                "periods": lighting.SILENCE_PERIODS,
                "first": nights[0],
                "end": nights[1],
                "area": path,
                "scope": scope.path,
                "by": by,
            },
        )
        return await cursor.fetchall()


def indicator(total: LightSum, label: str, first: date, end: date) -> Indicator:
    """Return the sum as people read it."""
    rate = total.rate
    return Indicator.model_validate(
        {
            "from": first,
            "to": end,
            "label": label,
            "value": rate.value,
            "lower": rate.lower,
            "upper": rate.upper,
            "coverage": rate.coverage,
            "numerator_s": total.lit_us / _US,
            "denominator_s": (total.lit_us + total.dark_us) / _US,
            "due_s": total.due_us / _US,
            "verdict": rate.verdict,
            "target": lighting.TARGET,
            "revision": total.revision,
            "status": "final" if total.is_final else "provisional",
            "lamps": total.lamps,
        }
    )


def _labelled(total: LightSum, by: By, first: date, end: date) -> Indicator:
    day = timedelta(days=1)
    match by:
        case "night" | "day":
            return indicator(total, total.period, total.first, total.first + day)
        case "month":
            begin = total.first.replace(day=1)
            after = (begin + 32 * day).replace(day=1)
            return indicator(total, total.period, max(begin, first), min(after, end))
        case "total":
            return indicator(total, f"{first}/{end}", first, end)


class IndicatorQuestion(Question):
    """Which time ``[from, to)``, dates of dusk; the last 30 nights by default."""

    from_: Day | None = Field(default=None, alias="from")
    to: Day | None = None
    by: By = "night"


router = APIRouter(tags=["indicators"])


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
    now = parts.clock()
    async with parts.pool.connection() as conn:
        place = await find_area(conn, person.scope, area)
        if indicator_id != LIGHTING:
            raise Problem("not_found")
        today = now.astimezone(ZoneInfo(place.time_zone)).date()
        end = question.to or max(today, question.from_ or today) + timedelta(days=1)
        first = question.from_ or end - timedelta(days=_DAYS_DEFAULT)
        check_days(first, end)
        sums = await sum_light(
            conn,
            person.scope,
            place.path,
            (first, end),
            "night" if question.by == "day" else question.by,
            now=now,
        )
    return IndicatorSeries(
        indicator=LIGHTING,
        area=place.area,
        unit="fraction",
        target=lighting.TARGET,
        source=lighting.TARGET_SOURCE,
        definition=lighting.DEFINITION,
        rule_version=lighting.RULE_VERSION,
        items=[_labelled(total, question.by, first, end) for total in sums],
    )
