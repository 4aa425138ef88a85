# SPDX-License-Identifier: Apache-2.0
"""Response plans in the database: what areas say, in versions that are never deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import kwargs_row
from psycopg.types.json import Jsonb

from ingest.response_plans import Plan, Step
from ingest.rules import Severity

#: As a revision: whatever is in force by now.
NOW: Final = 2**62


@dataclass(frozen=True, slots=True)
class Saved:
    """One version as it is kept; ``steps`` None: back to what is inherited."""

    version: int
    steps: tuple[Step, ...] | None
    author: str
    reason: str
    at: datetime


class Changed(ValueError):
    """Somebody was first: ``version`` is what the area has now, 0 where it has none."""

    def __init__(self, version: int) -> None:
        """Keep the number."""
        super().__init__(f"version is {version}")
        self.version = version


async def in_force(conn: AsyncConnection, area: str, revision: int = NOW) -> list[Plan]:
    """Return the plans of an area as of a revision: of each the nearest area's, or the product's.

    Sorted by severity and beginning.
    """
    cursor = await conn.execute(
        """
        SELECT DISTINCT ON (l.severity, l.rule)
               l.severity, l.rule, l.area, s.path::text, l.version, l.steps
        FROM (
            SELECT DISTINCT ON (v.severity, v.rule, v.area)
                   v.severity, v.rule, v.area, v.version, v.steps
            FROM response_plan_version AS v
            WHERE v.revision <= %(revision)s
              AND (v.area IS NULL OR v.area = ANY (ARRAY(
                  SELECT o.area FROM area AS o
                  WHERE o.path @> (SELECT a.path FROM area AS a WHERE a.area = %(area)s))))
            ORDER BY v.severity, v.rule, v.area, v.version DESC
        ) AS l
        LEFT JOIN area AS s ON s.area = l.area
        WHERE l.steps IS NOT NULL
        ORDER BY l.severity, l.rule, nlevel(s.path) DESC NULLS LAST
        """,
        {"area": area, "revision": revision},
    )
    return [
        Plan(severity, rule, said_by, path, version, _steps(steps))
        async for severity, rule, said_by, path, version, steps in cursor
    ]


async def of_case(conn: AsyncConnection, case: UUID) -> list[Plan]:
    """Return the plans as they stood when a case began, where it is."""
    cursor = await conn.execute(
        # At least the product's own, which come a moment after their table.
        "SELECT c.area, greatest(c.plans_revision, 1) FROM alert_case AS c WHERE c.id = %s",
        (case,),
    )
    row = await cursor.fetchone()
    return [] if row is None else await in_force(conn, *row)


async def save(
    conn: AsyncConnection,
    severity: Severity,
    rule: str,
    area: str,
    steps: Sequence[Step] | None,
    *,
    expected: int,
    author: str,
    reason: str,
    now: datetime,
) -> int:
    """Write what an area says from now on; return the version's number.

    Args:
        conn: Within a transaction, which it serialises with every other one that saves a plan.
        severity: Of which cases.
        rule: A rule's id or its beginning; "": every other.
        area: Where, and in everything below.
        steps: In order; None: back to what is inherited.
        expected: The version that was seen, 0 where there was none.
        author: Who says so.
        reason: Why, in their words.
        now: When.

    Raises:
        Changed: It is not the version that was seen.
    """
    cursor = await conn.execute(
        "UPDATE installation SET plans_revision = plans_revision + 1 RETURNING plans_revision"
    )
    (revision,) = await cursor.fetchone() or (0,)
    cursor = await conn.execute(
        """
        SELECT coalesce(max(v.version), 0) FROM response_plan_version AS v
        WHERE v.severity = %s AND v.rule = %s AND v.area = %s
        """,
        (severity, rule, area),
    )
    (last,) = await cursor.fetchone() or (0,)
    if expected != last:
        raise Changed(last)
    kept = None
    if steps is not None:
        kept = Jsonb([step.model_dump(mode="json", by_alias=True) for step in steps])
    await conn.execute(
        """
        INSERT INTO response_plan_version (severity, rule, area, version, revision, steps, author,
                                           reason, at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (severity, rule, area, last + 1, revision, kept, author, reason, now),
    )
    return last + 1


async def versions_of(
    conn: AsyncConnection, severity: Severity, rule: str, area: str, scope: str, most: int
) -> list[Saved]:
    """Return what an area within a scope (an ltree) said of a plan, the latest first."""
    async with conn.cursor(row_factory=kwargs_row(_saved)) as cursor:
        await cursor.execute(
            """
            SELECT v.version, v.steps, v.author, v.reason, v.at
            FROM response_plan_version AS v
            JOIN area AS a ON a.area = v.area
            WHERE v.severity = %(severity)s AND v.rule = %(rule)s AND v.area = %(area)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY v.version DESC
            LIMIT %(most)s
            """,
            {"severity": severity, "rule": rule, "area": area, "scope": scope, "most": most},
        )
        return await cursor.fetchall()


async def last_versions(
    conn: AsyncConnection, area: str, scope: str
) -> dict[tuple[Severity, str], int]:
    """Return the number of the last version of each plan that an area within a scope has."""
    cursor = await conn.execute(
        """
        SELECT v.severity, v.rule, max(v.version)
        FROM response_plan_version AS v
        JOIN area AS a ON a.area = v.area
        WHERE v.area = %(area)s
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        GROUP BY v.severity, v.rule
        """,
        {"area": area, "scope": scope},
    )
    return {(severity, rule): version async for severity, rule, version in cursor}


def _steps(told: Sequence[Any]) -> tuple[Step, ...]:
    # Checked when they were saved; what an installation once wrote in SQL is told as it is.
    return tuple(
        Step.model_construct(step=one["step"], chinese=one["zh-CN"], english=one["en"])
        for one in told
    )


def _saved(
    *, version: int, steps: Sequence[Any] | None, author: str, reason: str, at: datetime
) -> Saved:
    return Saved(version, None if steps is None else _steps(steps), author, reason, at)
