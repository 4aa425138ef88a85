# SPDX-License-Identifier: Apache-2.0
"""What officers do with cases: settle, merge, split, assign, rate, note.

Every move names the version that was seen: the second of two officers learns who was first.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import AsyncConnection
from uuid_utils.compat import uuid7

from ingest import incidents
from ingest.alerts import Acknowledge
from ingest.cases import (
    CATEGORIES,
    DISPOSITIONS,
    Assign,
    Case,
    Close,
    Confirm,
    DoStep,
    MergeInto,
    Note,
    Rate,
    Refused,
    Reopen,
    SplitOff,
    Take,
    check_duplicate,
    check_merge,
)
from ingest.indicators.security import Category, Disposition
from ingest.response_plans import fitting
from ingest.store import alerts, response_plans
from ingest.store import incidents as records
from ingest.store.case_rows import INSERT, TELL, columns, entry, load, opened, save
from ingest.store.seen import Missing, Stale

_ROLES: Final = ["police", "admin"]


class Unfit(ValueError):
    """The person is nobody who could do this: no officer, not active, or of another area."""


class Done(ValueError):
    """Somebody did it before."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Who moves a case, and when: ``within`` is the area they see, ``expected`` what they saw."""

    within: str
    actor: str
    now: datetime
    expected: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What an incident's record is to say; None: as the case has it."""

    category: Category | None = None
    area: str | None = None
    occurred_at: datetime | None = None
    note: str | None = None


async def confirm(
    conn: AsyncConnection, case: UUID, sight: Sight, reason: str, finding: Finding
) -> None:
    """Say that it was an incident: its record counts from now on.

    Raises:
        Missing, Stale: See `_locked`; Missing also of the area or alert of the record.
        ingest.cases.AlreadyDone, ingest.cases.Refused: The machine forbids it.
        ingest.incidents.Refused: The record does not fit.
    """
    await _settle(conn, case, sight, Confirm(sight.now, sight.actor, reason), finding)


async def close(
    conn: AsyncConnection, case: UUID, sight: Sight, action: Close, note: str | None = None
) -> None:
    """Say why it was none; every alarm of it counts as that.

    Raises:
        Missing: Also of ``other``: the case it is said to be a duplicate of.
        Stale, ingest.cases.AlreadyDone, ingest.cases.Refused: As for `confirm`.
    """
    await _settle(conn, case, sight, action, Finding(note=note))


async def reopen(conn: AsyncConnection, case: UUID, sight: Sight, reason: str) -> None:
    """Take back what was found.

    Raises:
        Missing, Stale, ingest.cases.AlreadyDone, ingest.cases.Refused: As for `confirm`.
    """
    await _settle(conn, case, sight, Reopen(sight.now, sight.actor, reason), Finding())


async def act(conn: AsyncConnection, case: UUID, sight: Sight, action: Rate | Note) -> None:
    """Let a person rate a case or write something down.

    Raises:
        Missing, Stale, ingest.cases.AlreadyDone, ingest.cases.Refused: As for `confirm`.
    """
    async with conn.transaction():
        cases = await _locked(conn, [case], sight)
        await save(conn, case, cases[case], action, sight.now)


async def do_step(conn: AsyncConnection, case: UUID, sight: Sight, action: DoStep) -> None:
    """Note that a step of the response plan was done.

    Raises:
        Missing: Also of ``step``: the plan that it began with has none of that name.
        Done: It was done before.
        Stale, ingest.cases.Refused: As for `confirm`.
    """
    async with conn.transaction():
        cases = await _locked(conn, [case], sight)
        found = fitting(
            await response_plans.of_case(conn, case),
            cases[case].severity,
            cases[case].leading.rule,
        )
        if found is None or action.step not in {one.step for one in found.steps}:
            raise Missing("step")
        cursor = await conn.execute(
            """
            INSERT INTO case_step (case_id, step, done_by, done_at, note)
            VALUES (%s, %s, %s, %s, %s)
            ON CONFLICT DO NOTHING
            """,
            (case, action.step, action.actor, action.at, action.note),
        )
        if cursor.rowcount == 0:
            raise Done
        await save(conn, case, cases[case], action, sight.now)


async def assign(conn: AsyncConnection, case: UUID, sight: Sight, action: Assign) -> None:
    """Give a case to somebody, or to nobody.

    Raises:
        Unfit: They could not even see it.
        Missing, Stale, ingest.cases.AlreadyDone, ingest.cases.Refused: As for `confirm`.
    """
    async with conn.transaction():
        cases = await _locked(conn, [case], sight)
        if action.to is not None and not await is_fit(conn, action.to, cases[case].area):
            raise Unfit(action.to)
        await save(conn, case, cases[case], action, sight.now)


async def merge(
    conn: AsyncConnection, case: UUID, sight: Sight, into: UUID, into_version: int, reason: str
) -> None:
    """Let the case ``into`` take over all alerts of another, which is closed by that.

    A record of the other becomes a duplicate.

    Raises:
        Missing: Also of ``other``: ``into``.
        Stale: Either changed.
        ingest.cases.Refused: See `check_merge`.
    """
    now, actor = sight.now, sight.actor
    async with conn.transaction():
        await _lock_alerts(conn, [case, into])
        record = await _record(conn, case)
        cases = await _locked(conn, [case, into], sight, {into: into_version})
        source, target = cases[case], cases[into]
        check_merge((case, source), (into, target))
        await save(conn, case, source, MergeInto(now, actor, reason, into), now)
        take = Take(now, actor, reason, case, source.signals)
        await save(conn, into, target, take, now)
        await conn.execute(
            """
            UPDATE case_alert SET case_id = %s, joined_at = %s, reason = 'merged'
            WHERE case_id = %s
            """,
            (into, now, case),
        )
        if record is not None:
            await _change(conn, record, sight, "duplicate", reason, Finding())
        await _restate(conn, [one.alert for one in source.signals])


async def split(
    conn: AsyncConnection, case: UUID, sight: Sight, chosen: Collection[UUID], reason: str
) -> UUID:
    """Make a case of its own of some alerts of another; return its id.

    Raises:
        Missing, Stale, ingest.cases.Refused: As for `confirm`.
    """
    now = sight.now
    async with conn.transaction():
        await _lock_alerts(conn, [case])
        cases = await _locked(conn, [case], sight)
        before = cases[case]
        action = SplitOff(now, sight.actor, reason, frozenset(chosen))
        await save(conn, case, before, action, now)
        signals = [one for one in before.signals if one.alert in action.alerts]
        made, new = uuid7(), opened(signals)
        await conn.execute(
            INSERT, columns(made, new, now) | {"alert": signals[0].alert, "split_from": case}
        )
        await conn.execute(
            """
            UPDATE case_alert SET case_id = %s, joined_at = %s, reason = 'split_off'
            WHERE alert = ANY (%s)
            """,
            (made, now, list(action.alerts)),
        )
        await conn.execute(TELL, entry(made, action, 1, name="split_off"))
        await _restate(conn, list(action.alerts))
    return made


# -- within


async def _locked(
    conn: AsyncConnection,
    wanted: Sequence[UUID],
    sight: Sight,
    expected: dict[UUID, int] | None = None,
) -> dict[UUID, Case]:
    """Lock cases within sight; the first is the one that is moved.

    Raises:
        Missing: One is not within sight.
        Stale: One is not what was seen.
        ingest.cases.Refused: ``case.merged``: it is over.
    """
    cursor = await conn.execute(
        """
        SELECT c.id
        FROM alert_case AS c
        JOIN area AS a ON a.area = c.area
        WHERE c.id = ANY (%(cases)s)
          -- invariant 9: never another area's rows
          AND a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(area)s)
        """,
        {"cases": list(wanted), "area": sight.within},
    )
    seen = {row[0] async for row in cursor}
    for place, case in enumerate(wanted):
        if case not in seen:
            raise Missing("other" if place else "case")
    cases = await load(conn, wanted)
    for case, version in {wanted[0]: sight.expected, **(expected or {})}.items():
        if cases[case].version != version:
            raise Stale(cases[case].version)
    if cases[wanted[0]].merged_into is not None:
        raise Refused("case.merged")
    return cases


async def _lock_alerts(conn: AsyncConnection, cases: Sequence[UUID]) -> None:
    """Lock the alerts of cases, before the cases: in the order in which ingest does."""
    await conn.execute(
        """
        SELECT t.id FROM alert AS t
        WHERE t.id IN (SELECT m.alert FROM case_alert AS m WHERE m.case_id = ANY (%s))
        ORDER BY t.id
        FOR NO KEY UPDATE
        """,
        (list(cases),),
    )


async def _settle(
    conn: AsyncConnection,
    case: UUID,
    sight: Sight,
    action: Confirm | Close | Reopen,
    finding: Finding,
) -> None:
    """Find what a case was: in the case, in its record, in its alerts."""
    other = action.of if isinstance(action, Close) else None
    async with conn.transaction():
        await _lock_alerts(conn, [case])
        record = await _record(conn, case)
        cases = await _locked(conn, [case] if other is None else [case, other], sight)
        before = cases[case]
        if other is not None:
            check_duplicate((case, before), (other, cases[other]))
        after = await save(conn, case, before, action, sight.now)
        disposition: Disposition = "open"
        if after.state == "confirmed":
            disposition = "confirmed"
        elif after.outcome is not None:
            disposition = DISPOSITIONS[after.outcome]
        if record is not None:
            await conn.execute(
                "UPDATE alert_case SET incident = %s WHERE id = %s AND incident IS NULL",
                (record, case),
            )
            await _change(conn, record, sight, disposition, action.reason, finding)
        elif disposition != "open":
            await _report(conn, case, before, sight, disposition, action.reason, finding)
        found = [one.alert for one in before.signals]
        await _restate(conn, found)
        if after.state != "open":
            await _acknowledge(conn, found, sight)


async def _record(conn: AsyncConnection, case: UUID) -> UUID | None:
    """Lock and return the record of a case: its own, or one written of an alert of it."""
    cursor = await conn.execute(
        """
        SELECT i.id FROM incident AS i
        WHERE i.id = (SELECT c.incident FROM alert_case AS c WHERE c.id = %(case)s)
           OR i.disposition NOT IN ('duplicate', 'withdrawn')
              AND i.alert = (SELECT c.alert FROM alert_case AS c WHERE c.id = %(case)s)
        ORDER BY i.id = (SELECT c.incident FROM alert_case AS c WHERE c.id = %(case)s)
                 DESC NULLS LAST
        LIMIT 1
        FOR UPDATE
        """,
        {"case": case},
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def _report(
    conn: AsyncConnection,
    case: UUID,
    before: Case,
    sight: Sight,
    disposition: Disposition,
    reason: str,
    finding: Finding,
) -> None:
    """Write the record of a case; it stands for the alert that the case began with."""
    cursor = await conn.execute(
        """
        SELECT m.alert, m.raised_at FROM case_alert AS m
        JOIN alert_case AS c ON c.id = m.case_id
        WHERE c.id = %s
        ORDER BY m.alert = c.alert DESC, m.raised_at, m.alert
        LIMIT 1
        """,
        (case,),
    )
    row = await cursor.fetchone()
    assert row is not None, "a case that is not merged has alerts"
    draft = records.Draft(
        finding.category or CATEGORIES[before.nature],
        finding.area or before.area,
        finding.occurred_at or row[1],
        disposition,
        row[0],
        finding.note,
    )
    await records.report(
        conn, draft, within=sight.within, actor=sight.actor, reason=reason, now=sight.now
    )


async def _change(
    conn: AsyncConnection,
    record: UUID,
    sight: Sight,
    disposition: Disposition,
    reason: str,
    finding: Finding,
) -> None:
    wanted = records.Wanted(
        finding.category, finding.area, finding.occurred_at, disposition, finding.note
    )
    try:
        await records.change(
            conn,
            record,
            wanted,
            within=sight.within,
            actor=sight.actor,
            reason=reason,
            expected_version=None,
            now=sight.now,
        )
    except incidents.Unchanged:
        return


async def _acknowledge(conn: AsyncConnection, found: Sequence[UUID], sight: Sight) -> None:
    """Take note of the alerts of a case that is settled: nobody need do so one by one."""
    for alert in sorted(found):
        try:
            await alerts.act(
                conn,
                alert,
                Acknowledge(sight.now, sight.actor),
                area=sight.within,
                expected_version=None,
                now=sight.now,
            )
        except alerts.NothingToDo:
            continue


async def _restate(conn: AsyncConnection, found: Sequence[UUID]) -> None:
    """Have the days computed anew on which alerts were received."""
    cursor = await conn.execute(
        """
        SELECT t.community, o.received_at
        FROM alert_occurrence AS o
        JOIN alert AS t ON t.id = o.alert
        WHERE t.id = ANY (%s)
        """,
        (list(found),),
    )
    await records.mark_days(conn, [(community, at) async for community, at in cursor])


async def is_fit(conn: AsyncConnection, name: str, area: str) -> bool:
    """Whether a person may work on cases of an area."""
    cursor = await conn.execute(
        """
        SELECT FROM person AS p
        JOIN area AS s ON s.area = p.area
        JOIN area AS a ON a.path <@ s.path
        WHERE p.username = %s AND p.active AND p.role = ANY (%s) AND a.area = %s
        """,
        (name, _ROLES, area),
    )
    return await cursor.fetchone() is not None
