# SPDX-License-Identifier: Apache-2.0
"""A month of one area, read from the database into a `Report`."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

from ingest import numbers
from ingest.errors import OperatorError
from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.definition import Language, Text
from ingest.numbers import Period, Question
from ingest.reports.content import ChildRow, Day, InputRow, Number, Report
from ingest.store.sums import Sum, parameters, query

# What is told of each area below: one number each.
HEADLINES: Final = ("lighting-uptime", "equipment-good", "refuse-sorted", "incident-rate")
# With more rows of inputs than this a sheet is slow to make and to open: then each day of the whole
# area is one row, and still they add up to the numbers.
INPUTS_MAX: Final = 50_000


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
    daily = await numbers.read(conn, definitions, question("day"))
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
            for definition in definitions
        },
        children=await _children(conn, here, below),
        inputs=await _inputs(conn, here, scope or here.path, month, end),
        definitions=tuple(definitions),
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


async def _inputs(
    conn: AsyncConnection[Any], here: _Area, scope: str, first: date, end: date
) -> tuple[InputRow, ...]:
    async with conn.cursor(row_factory=class_row(InputRow)) as cursor:
        await cursor.execute(
            """
            SELECT d.indicator, d.day, d.area, d.kind, d.good, d.bad, d.total, d.subjects,
                   d.excluded, d.revision, d.status, d.rule_version
            FROM area_day AS d
            JOIN area AS a ON a.area = d.area
            WHERE d.indicator = ANY (%(indicators)s)
              AND d.day >= %(first)s AND d.day < %(end)s
              AND a.path <@ %(area)s::ltree
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY array_position(%(indicators)s, d.indicator), d.day, d.area, d.kind
            LIMIT %(limit)s
            """,
            {
                "indicators": list(INDICATORS),
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
    asked = parameters(list(INDICATORS), here.path, scope, (first, end), "day")
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
