# SPDX-License-Identifier: Apache-2.0
"""The alarm-quality scorecard of an area: does its desk get alarms it can act on?"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from psycopg.rows import dict_row
from pydantic import Field

from api.answers import Answer, Instant, Moment, Question
from api.auth import Person
from api.errors import FieldError, Problem
from api.overview import Severity
from api.places import find_area
from api.replica import Lagging, reads
from api.state import Connection, consistent, services
from ingest import hygiene, scorecard

_DEFAULT: Final = timedelta(days=7)

router = APIRouter(tags=["alerts"], route_class=Lagging)


class QualityQuestion(Question):
    """Of which time, ``[from, to)``, at most 31 days; the last seven where nothing is said."""

    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None


class NoisyAnswer(Answer):
    """One rule on one device, or gateway, and how many alarms it made."""

    rule: str
    subject: str
    alarms: int
    share: float = Field(description="of all alarms, 0 to 1")


class AlarmQuality(Answer):
    """How good the alarms of an area were: key figures of EEMUA 191 and ISA-18.2.

    An alarm is one occurrence as it reached the desk; what was muted or shelved then is in
    ``kept_from_desk``. An operator is a community's desk. Shares are from 0 to 1.
    """

    area: str
    from_: Instant = Field(alias="from")
    to: Instant
    operators: int
    alarms: int
    kept_from_desk: int
    average: float = Field(description="alarms per 10 minutes and operator")
    peak: int = Field(description="most alarms of one operator in 10 minutes")
    flood_minutes: float = Field(description="summed over operators")
    flood_share: float
    chattering: int = Field(description="how many raised three times or more in a minute")
    standing: int = Field(description="active at the end")
    stale: int = Field(description="of these, for more than 24 h; ``lasting`` are none of them")
    lasting: int = Field(
        description="of those standing, alerts over indicators: they last until a week's numbers"
        " are better, and nobody at a desk could end them sooner"
    )
    noisiest: list[NoisyAnswer]
    noisy_share: float | None = Field(description="of the ten noisiest, among all alarms")
    by_severity: dict[Severity, int]
    severity_share: dict[Severity, float | None]
    false_alarm_share: float | None = Field(
        description="false alarms and tests among settled alarms; null: none settled, or not told"
    )
    shelved: int = Field(description="alerts that were shelved, by people or for chattering")
    suppressed: int = Field(description="alerts that were muted by design")
    targets: dict[str, float] = Field(description="what the standards call acceptable")
    severity_targets: dict[str, float]


@router.get("/areas/{area}/alarm-quality")
async def get_alarm_quality(
    area: str, person: Person, request: Request, question: Annotated[QualityQuestion, Query()]
) -> AlarmQuality:
    """Return the alarm-quality scorecard of an area and its sub-areas."""
    now = services(request).clock()
    end = question.to or now
    start = question.from_ or end - _DEFAULT
    _check_range(start, end)
    async with reads(request).connection() as conn, consistent(conn):
        place = await find_area(conn, person.scope, area)
        asked = {
            "start": start,
            # What is still to come is no quiet time.
            "end": max(start, min(end, now)),
            "area": place.path,
            "scope": person.path,
            "hidden": person.scope.hidden_rules,
        }
        counted = await _counted(conn, asked)
        standing, stale, lasting = await _standing(conn, asked)
        shelved, suppressed = await _put_aside(conn, asked)
        # A property manager learns nothing of what officers found.
        settled = [] if person.role == "property" else await _settled(conn, asked)
        operators = await _operators(conn, asked)
    length = max(min(end, now) - start, scorecard.SLOT)
    slots = {(community, number): alarms for community, number, alarms in counted["slots"]}
    load = scorecard.load(slots, operators, length)
    by_severity: dict[str, int] = dict.fromkeys(("critical", "major", "minor", "info"), 0)
    by_severity |= counted["severities"]
    noisiest = [
        NoisyAnswer(rule=rule, subject=subject, alarms=alarms, share=alarms / load.alarms)
        for rule, subject, alarms in counted["noisiest"]
    ]
    return AlarmQuality.model_validate(
        {
            "area": place.area,
            "from": start,
            "to": end,
            "operators": operators,
            "alarms": load.alarms,
            "kept_from_desk": counted["kept"],
            "average": load.average,
            "peak": load.peak,
            "flood_minutes": load.flood / timedelta(minutes=1),
            "flood_share": load.flood_share,
            "chattering": counted["chattering"],
            "standing": standing,
            "stale": stale,
            "lasting": lasting,
            "noisiest": noisiest,
            "noisy_share": scorecard.share(sum(one.alarms for one in noisiest), load.alarms),
            "by_severity": by_severity,
            "severity_share": scorecard.mix(by_severity),
            "false_alarm_share": scorecard.false_alarm_share(settled),
            "shelved": shelved,
            "suppressed": suppressed,
            "targets": dict(scorecard.TARGETS),
            "severity_targets": dict(scorecard.PRIORITY_TARGETS),
        }
    )


def _check_range(start: datetime, end: datetime) -> None:
    if end <= start:
        raise Problem("request.invalid", errors=[FieldError("/query/to", "range.reversed")])
    if end - start > scorecard.RANGE_MAX:
        bounds = {"max_days": scorecard.RANGE_MAX.days}
        error = FieldError("/query/from", "range.too_long", bounds)
        raise Problem("request.invalid", errors=[error])


async def _counted(conn: Connection, asked: dict[str, Any]) -> dict[str, Any]:
    """Count the occurrences of the time, in one look at them. Any: a name's value is its own."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            WITH seen AS MATERIALIZED (
                SELECT o.rule, coalesce(o.device, o.gateway) AS subject, o.raised_at, o.cleared_at,
                       floor(extract(epoch FROM o.received_at - %(start)s)
                             / extract(epoch FROM %(slot)s::interval))::int AS slot,
                       coalesce(o.quiet, false) AS quiet, t.community, t.severity
                FROM alert_occurrence AS o
                JOIN alert AS t ON t.id = o.alert
                JOIN area AS a ON a.area = t.area
                WHERE o.received_at >= %(start)s AND o.received_at < %(end)s
                  AND a.path <@ %(area)s::ltree
                  AND a.path <@ %(scope)s::ltree  -- invariant 9
                  AND NOT o.rule = ANY (%(hidden)s)
            ), slots AS (
                SELECT community, slot, count(*) AS alarms FROM seen WHERE NOT quiet GROUP BY 1, 2
            ), severities AS (
                SELECT severity, count(*) AS alarms FROM seen WHERE NOT quiet GROUP BY 1
            ), noisiest AS (
                SELECT rule, subject, count(*) AS alarms FROM seen WHERE NOT quiet GROUP BY 1, 2
                ORDER BY 3 DESC, 1, 2
                LIMIT %(noisy)s
            ), cycles AS (
                SELECT rule, subject,
                       cleared_at - lag(raised_at, %(before)s)
                           OVER (PARTITION BY rule, subject ORDER BY raised_at) AS took
                FROM seen
                WHERE cleared_at IS NOT NULL
            )
            SELECT (SELECT coalesce(jsonb_agg(jsonb_build_array(community, slot, alarms)), '[]')
                    FROM slots) AS slots,
                   (SELECT coalesce(jsonb_object_agg(severity, alarms), '{}')
                    FROM severities) AS severities,
                   (SELECT coalesce(jsonb_agg(jsonb_build_array(rule, subject, alarms)), '[]')
                    FROM noisiest) AS noisiest,
                   (SELECT count(DISTINCT (rule, subject)) FROM cycles
                    WHERE took <= %(chatter)s::interval) AS chattering,
                   (SELECT count(*) FROM seen WHERE quiet) AS kept
            """,
            asked
            | {
                "slot": scorecard.SLOT,
                "noisy": scorecard.NOISY,
                "before": hygiene.CHATTER_CYCLES - 1,
                "chatter": hygiene.CHATTER_TIME,
            },
        )
        row = await cursor.fetchone()
    assert row is not None
    return row


async def _standing(conn: Connection, asked: dict[str, Any]) -> tuple[int, int, int]:
    """Return how many alerts stood at the end; of these, how many were stale, and are to last."""
    cursor = await conn.execute(
        """
        SELECT count(*),
               count(*) FILTER (WHERE NOT lasting AND %(end)s - since > %(stale)s::interval),
               count(*) FILTER (WHERE lasting)
        FROM (
            SELECT t.id, t.rule = ANY (%(lasting)s) AS lasting, min(o.raised_at) AS since
            FROM alert_occurrence AS o
            JOIN alert AS t ON t.id = o.alert
            JOIN area AS a ON a.area = t.area
            WHERE o.raised_at < %(end)s
              AND (o.active OR o.cleared_at >= %(end)s)
              AND a.path <@ %(area)s::ltree
              AND a.path <@ %(scope)s::ltree  -- invariant 9
              AND NOT o.rule = ANY (%(hidden)s)
            GROUP BY t.id
        ) AS s
        """,
        asked | {"stale": hygiene.STALE_AFTER, "lasting": sorted(hygiene.LASTING)},
    )
    row = await cursor.fetchone()
    assert row is not None
    return row


async def _put_aside(conn: Connection, asked: dict[str, Any]) -> tuple[int, int]:
    """Return how many alerts were shelved, and how many muted by design."""
    cursor = await conn.execute(
        """
        SELECT count(DISTINCT h.alert) FILTER (WHERE h.action = 'shelved'),
               count(DISTINCT h.alert) FILTER (WHERE h.action = 'suppressed')
        FROM alert_history AS h
        JOIN alert AS t ON t.id = h.alert
        JOIN area AS a ON a.area = t.area
        WHERE h.action IN ('shelved', 'suppressed')
          AND h.at >= %(start)s AND h.at < %(end)s
          AND a.path <@ %(area)s::ltree
          AND a.path <@ %(scope)s::ltree  -- invariant 9
          AND NOT t.rule = ANY (%(hidden)s)
        """,
        asked,
    )
    row = await cursor.fetchone()
    assert row is not None
    return row


async def _settled(conn: Connection, asked: dict[str, Any]) -> list[str]:
    """Return what became of the alarms of the time."""
    cursor = await conn.execute(
        """
        SELECT i.disposition
        FROM incident AS i
        JOIN alert AS t ON t.id = i.alert
        JOIN area AS a ON a.area = t.area
        WHERE t.received_at >= %(start)s AND t.received_at < %(end)s
          AND a.path <@ %(area)s::ltree
          AND a.path <@ %(scope)s::ltree  -- invariant 9
          AND NOT t.rule = ANY (%(hidden)s)
        """,
        asked,
    )
    return [disposition async for (disposition,) in cursor]


async def _operators(conn: Connection, asked: dict[str, Any]) -> int:
    """Return how many desks answer for the area; that of a cell is its community's."""
    cursor = await conn.execute(
        """
        SELECT greatest(count(*), 1) FROM area AS a
        WHERE a.level = 'community' AND a.path <@ %(area)s::ltree
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        """,
        asked,
    )
    row = await cursor.fetchone()
    assert row is not None
    return row[0]
