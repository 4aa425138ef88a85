# SPDX-License-Identifier: Apache-2.0
"""A month of one area, read from the database into a `Report`."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row

from ingest import numbers
from ingest.errors import OperatorError
from ingest.indicators import security
from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.definition import Language, Text
from ingest.numbers import Period, Question
from ingest.reports.content import ChildRow, Day, InputRow, Number, Report, Restated
from ingest.store import road_nights
from ingest.store.sums import Sum, parameters, query

# What is told of each area below: one number each.
HEADLINES: Final = ("lighting-uptime", "equipment-good", "refuse-sorted", "incident-rate")
# With more rows of inputs than this a sheet is slow to make and to open: then each day of the whole
# area is one row, and still they add up to the numbers.
INPUTS_MAX: Final = 50_000
# The worst roads and the latest restatements: a city has tens of thousands.
ROADS_MAX: Final = 500
RESTATED_MAX: Final = 5_000
# Stored days of these count what is not settled, or false: nothing of it is told where rules are
# hidden from the asker (`ingest.question.Question`).
UNSETTLED: Final = frozenset({security.INCIDENT_RATE, security.FALSE_ALARMS})


@dataclass(frozen=True, slots=True)
class _Area:
    area: str
    path: str
    level: str
    name: str
    name_en: str | None
    time_zone: str

    @property
    def text(self) -> Text:
        return {"zh-CN": self.name, "en": self.name_en or self.name}


async def read_report(
    conn: AsyncConnection[Any],
    area: str,
    month: date,
    language: Language,
    *,
    now: datetime,
    scope: str | None = None,
    hidden: tuple[str, ...] = (),
) -> Report:
    """Read everything that a report of one month says.

    Args:
        conn: Of its own snapshot, if numbers and inputs are to agree while ingest goes on.
        area: Its id.
        month: Its first day.
        language: In which it will be written.
        now: Until when time counts.
        scope: The path of what the asker may see; None: all.
        hidden: Alert rules that do not exist for the asker.

    Raises:
        OperatorError: There is no such area, or it is not the asker's; or the month is to come.
    """
    async with conn.cursor(row_factory=class_row(_Area)) as cursor:
        await cursor.execute(
            """
            SELECT area, path::text, level, name, name_en, time_zone FROM area
            WHERE path @> (SELECT path FROM area WHERE area = %s)
            ORDER BY nlevel(path)
            """,
            (area,),
        )
        *above, here = await cursor.fetchall() or [None]
    if here is None or not (here.path + ".").startswith(f"{scope or here.path}."):
        raise OperatorError(f"area {area!r}: no such area")
    end = (month + timedelta(days=31)).replace(day=1)
    if month > now.date() + timedelta(days=1):
        raise OperatorError(f"month {month:%Y-%m}: is yet to come")

    def question(by: numbers.By) -> Question:
        return Question(here.path, scope or here.path, here.time_zone, month, end, by, now, hidden)

    definitions = list(INDICATORS.values())
    total = await numbers.read(conn, definitions, question("total"))
    # Times of one day are too few for a median to say anything.
    by_day = [one for one in definitions if one.shape != "times"]
    daily = await numbers.read(conn, by_day, question("day"))
    restated, restated_count = await _restated(
        conn, here, scope or here.path, month, end, hidden=bool(hidden)
    )
    headlines = [INDICATORS[name] for name in HEADLINES]
    below = await numbers.read(conn, headlines, question("child"))
    return Report(
        area_id=here.area,
        area_name=here.text,
        path_names=tuple(one.text for one in above if one is not None),
        level=here.level,
        month=month,
        time_zone=here.time_zone,
        made_at=now,
        language=language,
        numbers=tuple(one.number for one in total),
        daily={
            definition.id: tuple(
                _day(one)
                for one in daily
                if one.number.indicator == definition.id and not one.number.kind
            )
            for definition in by_day
        },
        children=await _children(conn, here, below),
        inputs=await _inputs(conn, here, scope or here.path, month, end, hidden=bool(hidden)),
        definitions=tuple(definitions),
        roads=tuple(
            await road_nights.worst(conn, here.path, scope or here.path, (month, end), ROADS_MAX)
        ),
        restated=restated,
        restated_count=restated_count,
    )


def _day(period: Period) -> Day:
    number = period.number
    known = number.numerator or 0
    whole = known if number.total is None else number.total
    denominator = known if number.denominator is None else number.denominator
    return Day(
        period.first,
        number.value,
        number.lower,
        number.upper,
        number.coverage,
        known,
        max(0, min(denominator, whole) - known),
        whole,
        number.subjects,
        number.status,
        number.revision,
        number.excluded,
    )


async def _children(
    conn: AsyncConnection[Any], here: _Area, below: list[Period]
) -> tuple[ChildRow, ...]:
    async with conn.cursor(row_factory=class_row(_Area)) as cursor:
        await cursor.execute(
            """
            SELECT area, path::text, level, name, name_en, time_zone FROM area
            WHERE parent = %s ORDER BY area
            """,
            (here.area,),
        )
        children = await cursor.fetchall()
    by_label: defaultdict[str, list[Number]] = defaultdict(list)
    for one in below:
        if not one.number.kind:
            by_label[one.label].append(one.number)
    return tuple(
        ChildRow(
            child.area, child.text, child.level, tuple(by_label[child.path.rpartition(".")[2]])
        )
        for child in children
    )


async def _restated(
    conn: AsyncConnection[Any], here: _Area, scope: str, first: date, end: date, *, hidden: bool
) -> tuple[tuple[Restated, ...], int]:
    """Return the latest restatements of the month's days, and how many there are."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT count(*) OVER () AS of, r.indicator, r.day, r.area, r.kind, r.revision,
                   r.good AS was_good, r.bad AS was_bad, r.total AS was_total,
                   coalesce(n.good, d.good) AS good,
                   coalesce(n.bad, d.bad) AS bad, coalesce(n.total, d.total) AS total,
                   r.replaced_at, r.reason
            FROM area_lay AS l
            JOIN area_day_revision AS r
                ON r.area = l.area AND r.day >= l.since AND r.day < l.until
            JOIN area_day AS d ON (d.area, d.indicator, d.day, d.kind)
                                  = (r.area, r.indicator, r.day, r.kind)
            LEFT JOIN area_day_revision AS n ON (n.area, n.indicator, n.day, n.kind)
                                                = (r.area, r.indicator, r.day, r.kind)
                                                AND n.revision = r.revision + 1
            WHERE r.indicator = ANY (%(indicators)s)
              AND r.day >= %(first)s AND r.day < %(end)s
              AND l.path ~ ('*.' || subpath(%(area)s::ltree, -1)::text || '.*')::lquery
              AND %(area)s::ltree <@ %(scope)s::ltree  -- invariant 9
            ORDER BY r.replaced_at DESC, r.indicator, r.day, r.area, r.kind, r.revision DESC
            LIMIT %(limit)s
            """,
            {
                "indicators": [one for one in INDICATORS if not (hidden and one in UNSETTLED)],
                "first": first,
                "end": end,
                "area": here.path,
                "scope": scope,
                "limit": RESTATED_MAX,
            },
        )
        rows = await cursor.fetchall()
    count = rows[0]["of"] if rows else 0
    return tuple(
        Restated(**{name: row[name] for name in row if name != "of"}) for row in rows
    ), count


async def _inputs(
    conn: AsyncConnection[Any], here: _Area, scope: str, first: date, end: date, *, hidden: bool
) -> tuple[InputRow, ...]:
    indicators = [one for one in INDICATORS if not (hidden and one in UNSETTLED)]
    async with conn.cursor(row_factory=class_row(InputRow)) as cursor:
        await cursor.execute(
            """
            WITH lay AS (  -- as `ingest.store.sums` adds them up
                SELECT area, since, until, 'final' AS status FROM area_lay
                WHERE path ~ ('*.' || subpath(%(area)s::ltree, -1)::text || '.*')::lquery
                UNION ALL
                SELECT area, '-infinity', 'infinity', 'provisional' FROM area
                WHERE path <@ %(area)s::ltree
            )
            SELECT d.indicator, d.day, d.area, d.kind, d.good, d.bad, d.total, d.subjects,
                   d.excluded, d.revision, d.status, d.rule_version
            FROM lay AS l
            JOIN area_day AS d ON d.area = l.area AND d.status = l.status
                AND d.day >= l.since AND d.day < l.until
            WHERE d.indicator = ANY (%(indicators)s)
              AND d.day >= %(first)s AND d.day < %(end)s
              AND %(area)s::ltree <@ %(scope)s::ltree  -- invariant 9
            ORDER BY array_position(%(indicators)s, d.indicator), d.day, d.area, d.kind
            LIMIT %(limit)s
            """,
            {
                "indicators": indicators,
                "first": first,
                "end": end,
                "area": here.path,
                "scope": scope,
                "limit": INPUTS_MAX + 1,
            },
        )
        rows = await cursor.fetchall()
    if len(rows) <= INPUTS_MAX:
        return tuple(rows)
    asked = parameters(indicators, here.path, scope, (first, end), "day")
    async with conn.cursor(row_factory=class_row(Sum)) as cursor:
        await cursor.execute(query("day"), asked)
        return tuple(
            [
                InputRow(
                    one.indicator, one.first, here.area, one.kind, one.good, one.bad, one.total,
                    one.subjects, one.excluded, one.revision,
                    "final" if one.is_final else "provisional", one.rule_version,
                )
                async for one in cursor
            ]
        )  # fmt: skip
