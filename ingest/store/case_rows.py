# SPDX-License-Identifier: Apache-2.0
"""How a case is kept: its row, its alerts, its history."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from ingest.cases import (
    Abort,
    Action,
    Assign,
    Case,
    Close,
    Confirm,
    Done,
    DoStep,
    Join,
    MergeInto,
    Note,
    Rate,
    Reopen,
    Signal,
    SplitOff,
    Take,
    Threaten,
    apply,
    done,
)

# As `make` takes them. The record's alert cannot leave the case.
CASE: Final = sql.SQL("""
    c.id, c.state, c.outcome, c.duplicate_of, c.merged_into, c.assignee, c.severity_set,
    (SELECT i.alert FROM incident AS i WHERE i.id = c.incident) AS pinned, c.version
""")
BY_ID: Final = sql.SQL(
    "SELECT {case} FROM alert_case AS c WHERE c.id = ANY (%s) ORDER BY c.id FOR UPDATE OF c"
).format(case=CASE)
# A signal as `make` takes it.
SIGNAL: Final = sql.SQL("""
    SELECT m.case_id, t.id, t.rule, t.severity, t.community, m.area, m.gateway, m.device,
           m.raised_at, greatest(t.last_raised_at, m.raised_at), m.aborted_at, m.under_threat
    FROM case_alert AS m
    JOIN alert AS t ON t.id = m.alert
""")
SIGNALS: Final = sql.SQL("{} WHERE m.case_id = ANY (%s) ORDER BY m.joined_at, m.alert").format(
    SIGNAL
)
SAVE: Final[LiteralString] = """
    UPDATE alert_case
    SET area = %(area)s, nature = %(nature)s, rule = %(rule)s, severity = %(severity)s,
        led_by = %(led_by)s, rank = %(rank)s,
        severity_set = %(severity_set)s, aborted = %(aborted)s, state = %(state)s,
        outcome = %(outcome)s, duplicate_of = %(duplicate_of)s, merged_into = %(merged_into)s,
        assignee = %(assignee)s, first_at = %(first_at)s, last_at = %(last_at)s,
        changed_at = %(now)s, version = %(version)s
    WHERE id = %(id)s
"""
INSERT: Final[LiteralString] = """
    INSERT INTO alert_case (id, alert, community, area, nature, rule, severity, led_by, rank,
                            aborted, split_from, first_at, last_at, opened_at, changed_at,
                            plans_revision)
    SELECT %(id)s, %(alert)s, %(community)s, %(area)s, %(nature)s, %(rule)s, %(severity)s,
           %(led_by)s, %(rank)s, %(aborted)s, %(split_from)s, %(first_at)s, %(last_at)s, %(now)s,
           %(now)s, plans_revision
    FROM installation
"""
TELL: Final[LiteralString] = """
    INSERT INTO case_history (case_id, at, actor, action, reason, note, params, version)
    VALUES (%(id)s, %(at)s, %(actor)s, %(action)s, %(reason)s, %(note)s, %(params)s, %(version)s)
"""


def make(rows: Iterable[Sequence[Any]], signals: Iterable[Sequence[Any]]) -> dict[UUID, Case]:
    """Return cases by id, from rows of `CASE` and of `SIGNALS`."""
    of: defaultdict[UUID, list[Signal]] = defaultdict(list)
    for case, *signal in signals:
        of[case].append(Signal(*signal))
    return {case: Case(tuple(of[case]), *flags) for case, *flags in rows}


def columns(case: UUID, after: Case, now: datetime) -> dict[str, Any]:
    """Return what `SAVE` and `INSERT` write."""
    return {
        "id": case,
        "community": after.community,
        "area": after.area,
        "nature": after.nature,
        "rule": after.leading.rule,
        "led_by": after.leading.alert,
        "rank": after.rank,
        "severity": after.severity,
        "severity_set": after.severity_set,
        "aborted": after.aborted,
        "state": after.state,
        "outcome": after.outcome,
        "duplicate_of": after.duplicate_of,
        "merged_into": after.merged_into,
        "assignee": after.assignee,
        "first_at": after.first_at,
        "last_at": after.last_at,
        "version": after.version,
        "now": now,
    }


def opened(signals: Sequence[Signal]) -> Case:
    """Return a new case."""
    return Case(tuple(signals))


def entry(
    case: UUID,
    action: Action,
    version: int,
    *,
    name: Done | None = None,
    before: Case | None = None,
) -> dict[str, Any]:
    """Return a line of the history: who did what, why, and what goes with it."""
    actor, reason, note = "rule", "", None
    params: dict[str, Any] = {}
    match action:
        case Join(_, signal, reason):
            params = {"alert": str(signal.alert)}
        case Abort(_, alert):
            reason, params = "aborted_by_code", {"alert": str(alert)}
        case Threaten(_, alert):
            reason, params = "duress", {"alert": str(alert)}
        case Note(_, actor, note):
            reason = "person_noted"
        case DoStep(_, actor, step, note):
            reason, params = "response_plan", {"step": step}
        case Confirm(_, actor, reason) | Reopen(_, actor, reason):
            pass
        case Close(_, actor, reason, outcome, of):
            params = {"outcome": outcome} | ({} if of is None else {"of": str(of)})
        case Assign(_, actor, reason, to):
            params = {"from": None if before is None else before.assignee, "to": to}
        case Rate(_, actor, reason, severity):
            params = {"from": None if before is None else before.severity, "to": severity}
        case Take(_, actor, reason, source, signals):
            params = {"case": str(source), "alerts": [str(one.alert) for one in signals]}
        case MergeInto(_, actor, reason, into):
            params = {"case": str(into)}
        case SplitOff(_, actor, reason, alerts):
            params = {"alerts": sorted(map(str, alerts))}
    return {
        "id": case,
        "at": action.at,
        "actor": actor,
        "action": name or done(action),
        "reason": reason,
        "note": note,
        "params": Jsonb(params),
        "version": version,
    }


async def signals_of(conn: AsyncConnection, cases: Sequence[UUID]) -> list[Any]:
    """Return rows of `SIGNALS`, of all alerts of some cases."""
    cursor = await conn.execute(SIGNALS, (list(cases),))
    return await cursor.fetchall()


async def load(conn: AsyncConnection, cases: Sequence[UUID]) -> dict[UUID, Case]:
    """Lock cases in the order of their ids, and return those that there are."""
    cursor = await conn.execute(
        BY_ID,
        (list(cases),),
    )
    rows = await cursor.fetchall()
    return make(rows, await signals_of(conn, cases))


async def save(
    conn: AsyncConnection, key: UUID, before: Case, action: Action, now: datetime
) -> Case:
    """Move a case that is locked, and tell its history; return it after that.

    Raises:
        AlreadyDone: It is already so.
        ingest.cases.Refused: A rule forbids it.
    """
    after = apply(before, action)
    await conn.execute(SAVE, columns(key, after, now))
    await conn.execute(TELL, entry(key, action, after.version, before=before))
    return after
