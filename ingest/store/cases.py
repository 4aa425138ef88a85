# SPDX-License-Identifier: Apache-2.0
"""Cases in the database: made of alerts within the ingest transaction, and how a case is kept.

What people do with cases is `ingest.store.case_desk`. Locks are taken in one order everywhere:
alerts, a community's lock (ingest alone), records, cases by id, days.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString
from uuid import UUID

from psycopg import AsyncConnection, Connection, sql
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from edge_agent.kinds.alarm import AlarmEvent
from ingest.alerts import Raise
from ingest.cases import (
    ABORT_MAX,
    DISPOSITIONS,
    DURESS,
    REACH_MAX,
    THREAT_MAX,
    Abort,
    Action,
    AlreadyDone,
    Assign,
    Case,
    Close,
    Confirm,
    Done,
    DoStep,
    Join,
    MergeInto,
    Note,
    Outcome,
    Rate,
    Reason,
    Reopen,
    Signal,
    SplitOff,
    Take,
    Threaten,
    apply,
    belongs,
    done,
    part_of,
)
from ingest.indicators.security import Disposition

if TYPE_CHECKING:
    from ingest.store.alerts import Change
    from ingest.store.devices import Device

# As `make` takes them. The record's alert cannot leave the case.
CASE: Final = sql.SQL("""
    c.id, c.state, c.outcome, c.duplicate_of, c.merged_into, c.assignee, c.severity_set,
    (SELECT i.alert FROM incident AS i WHERE i.id = c.incident) AS pinned, c.version
""")
_NEAR: Final = sql.SQL(
    """
    SELECT {case}
    FROM alert_case AS c
    WHERE c.community = ANY (%s) AND c.state <> 'closed'
      AND c.last_at >= %s AND c.first_at <= %s
    ORDER BY c.id
    FOR UPDATE OF c
    """
).format(case=CASE)
_OF_ALERTS: Final = sql.SQL(
    """
    SELECT m.alert, {case}
    FROM case_alert AS m
    JOIN alert AS t ON t.id = m.alert
    JOIN alert_case AS c ON c.id = m.case_id
    WHERE {which}
    ORDER BY c.id
    FOR UPDATE OF c
    """
)
_OF_RECORD: Final = sql.SQL(
    """
    SELECT {case}
    FROM alert_case AS c
    WHERE c.incident = %(incident)s
       OR c.incident IS NULL
          AND c.id = (SELECT m.case_id FROM case_alert AS m WHERE m.alert = %(alert)s)
    ORDER BY c.incident
    LIMIT 1
    FOR UPDATE OF c
    """
).format(case=CASE)
_BY_ID: Final = sql.SQL(
    "SELECT {case} FROM alert_case AS c WHERE c.id = ANY (%s) ORDER BY c.id FOR UPDATE OF c"
).format(case=CASE)
SIGNALS: Final[LiteralString] = """
    SELECT m.case_id, t.id, t.rule, t.severity, t.community, t.area, t.gateway, t.device,
           m.raised_at, greatest(t.last_raised_at, m.raised_at), m.aborted_at, m.under_threat
    FROM case_alert AS m
    JOIN alert AS t ON t.id = m.alert
    WHERE m.case_id = ANY (%s)
    ORDER BY m.joined_at, m.alert
"""
SAVE: Final[LiteralString] = """
    UPDATE alert_case
    SET area = %(area)s, nature = %(nature)s, rule = %(rule)s, severity = %(severity)s,
        severity_set = %(severity_set)s, aborted = %(aborted)s, state = %(state)s,
        outcome = %(outcome)s, duplicate_of = %(duplicate_of)s, merged_into = %(merged_into)s,
        assignee = %(assignee)s, first_at = %(first_at)s, last_at = %(last_at)s,
        changed_at = %(now)s, version = %(version)s
    WHERE id = %(id)s
"""
INSERT: Final[LiteralString] = """
    INSERT INTO alert_case (id, alert, community, area, nature, rule, severity, aborted, split_from,
                            first_at, last_at, opened_at, changed_at)
    VALUES (%(id)s, %(alert)s, %(community)s, %(area)s, %(nature)s, %(rule)s, %(severity)s,
            %(aborted)s, %(split_from)s, %(first_at)s, %(last_at)s, %(now)s, %(now)s)
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


# -- from alerts, within the ingest transaction


def attach(conn: Connection, raised: Sequence[tuple[UUID, Change]], now: datetime) -> None:
    """Let alerts that were raised, or raised again, join their cases or open one.

    Of a community one process at a time does so, until its transaction ends: two gateways of
    different partitions never open two cases of one thing. An alert that is muted opens none.

    Args:
        conn: In the transaction that raised them.
        raised: Alerts and what raised them, in order; others than alarms' cost nothing.
        now: When, our time.
    """
    told = [
        (alert, change)
        for alert, change in raised
        if isinstance(change.decision, Raise) and part_of(change.rule.id) is not None
    ]
    if not told:
        return
    _lock_communities(conn, {change.subject.community for _, change in told})
    for alert, change in told:
        signal = _signal(alert, change)
        # Each by itself: what the one before it did to a case may bring that one near.
        _attach(conn, _near(conn, [signal]), signal, now)
        if change.rule.id == DURESS:
            _threaten(conn, change.subject.gateway, change.decision.at, now)


def abort(conn: Connection, told: Iterable[tuple[Device, object]], now: datetime) -> None:
    """Mark the cases of alarms after which a valid code was entered.

    The case stays open: an officer says what it was. The alarm may be over already, but not for
    long; one that another occurrence keeps standing is not aborted.

    Args:
        conn: In the transaction of the events, after their alerts were written.
        told: Devices and their events; only an alarm's phase ``aborted`` matters.
        now: When, our time.
    """
    aborted = [
        (device, event)
        for device, event in told
        if isinstance(event, AlarmEvent)
        and event.phase == "aborted"
        and f"alarm.{event.event}" != DURESS
    ]
    _lock_communities(conn, {device.community for device, _ in aborted})
    for device, event in aborted:
        cases, found = _of_alerts(
            conn,
            """
            m.aborted_at IS NULL AND NOT t.active
            AND t.rule = %s AND t.gateway = %s AND coalesce(t.device, '') = %s
            AND t.last_raised_at BETWEEN %s AND %s
            """,
            (f"alarm.{event.event}", device.gateway, device.device, event.at - ABORT_MAX, event.at),
        )
        under_threat = bool(found) and _duress_near(conn, device.gateway, event.at)
        for case, alert in found:
            cases[case] = _move(conn, case, cases[case], Abort(event.at, alert), now)
            if under_threat:
                cases[case] = _move(conn, case, cases[case], Threaten(event.at, alert), now)


def _lock_communities(conn: Connection, communities: set[str]) -> None:
    for community in sorted(communities):
        conn.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('linli.case.' || %s, 0))", (community,)
        )


def _signal(alert: UUID, change: Change) -> Signal:
    at, subject = change.decision.at, change.subject
    return Signal(
        alert, change.rule.id, change.rule.severity, subject.community, subject.area,
        subject.gateway, subject.device, at, at,
    )  # fmt: skip


def _attach(conn: Connection, known: dict[UUID, Case], signal: Signal, now: datetime) -> None:
    """Let an alert join a case; ``known`` are those it could join, and are kept up to date."""
    members, _ = _of_alerts(conn, "t.id = %s", (signal.alert,))
    for key, before in members.items():
        known[key] = _again(conn, key, before, signal, now)
        return
    found: list[tuple[bool, timedelta, UUID, Reason]] = [
        (reason == "same_gateway", abs(case.last_at - signal.raised_at), key, reason)
        for key, case in known.items()
        if (reason := belongs(case, signal)) is not None
    ]
    if found:
        _, _, key, reason = min(found)
        _insert_member(conn, key, signal, reason, now)
        known[key] = _move(conn, key, known[key], Join(signal.raised_at, signal, reason), now)
        return
    part = part_of(signal.rule)
    if part is not None and part.opens and not _is_quiet(conn, signal.alert):
        known |= _open(conn, signal, now)


def _again(conn: Connection, key: UUID, before: Case, signal: Signal, now: datetime) -> Case:
    """Note that an alert of the case was raised again; what was aborted before stands anew."""
    if before.state == "closed":
        # Closed while this was on its way: nothing is swallowed by what was found before it.
        reopen = Reopen(now, "rule", "raised_again")
        after = apply(before, reopen)
        conn.execute(TELL, entry(key, reopen, after.version))
        before = after
    known = next(one for one in before.signals if one.alert == signal.alert)
    aborted = known.aborted_at is not None and signal.raised_at > known.aborted_at
    renewed = replace(
        known,
        severity=signal.severity,
        last_at=max(known.last_at, signal.last_at),
        aborted_at=None if aborted else known.aborted_at,
        under_threat=known.under_threat and not aborted,
    )
    after = apply(before, Join(signal.raised_at, renewed, "raised_again"))
    if not aborted and after.severity == before.severity:
        # Nothing that an officer would have to look at before settling it.
        after = replace(after, version=before.version)
        conn.execute(SAVE, columns(key, after, now))
        return after
    conn.execute(
        "UPDATE case_alert SET aborted_at = NULL, under_threat = false WHERE alert = %s AND %s",
        (signal.alert, aborted),
    )
    return _move(conn, key, before, Join(signal.raised_at, renewed, "raised_again"), now)


def _open(conn: Connection, signal: Signal, now: datetime) -> dict[UUID, Case]:
    made, case = uuid7(), opened([signal])
    conn.execute(INSERT, columns(made, case, now) | {"alert": signal.alert, "split_from": None})
    _insert_member(conn, made, signal, "opened", now)
    told = entry(made, Join(signal.raised_at, signal, "raised_again"), 1, name="opened")
    conn.execute(TELL, told | {"reason": "alert_raised"})
    return {made: case}


def _insert_member(
    conn: Connection, case: UUID, signal: Signal, reason: str, now: datetime
) -> None:
    conn.execute(
        """
        INSERT INTO case_alert (alert, case_id, raised_at, joined_at, reason)
        VALUES (%s, %s, %s, %s, %s)
        """,
        (signal.alert, case, signal.raised_at, now, reason),
    )


def _near(conn: Connection, signals: Sequence[Signal]) -> dict[UUID, Case]:
    """Lock and return the cases that alerts could belong to, as far as time and place go."""
    rows = conn.execute(
        _NEAR,
        (
            [one.community for one in signals],
            min(one.raised_at for one in signals) - REACH_MAX,
            max(one.raised_at for one in signals) + REACH_MAX,
        ),
    ).fetchall()
    return _made(conn, rows)


def _of_alerts(
    conn: Connection, which: LiteralString, parameters: Sequence[object]
) -> tuple[dict[UUID, Case], list[tuple[UUID, UUID]]]:
    """Lock the cases of some alerts ``t``, members ``m``; return them, and case and alert of each.

    What a person moved to another case while the lock was waited for is looked for there.
    """
    while True:
        rows = conn.execute(
            _OF_ALERTS.format(case=CASE, which=sql.SQL(which)), parameters
        ).fetchall()
        cases = _made(conn, [row[1:] for row in rows])
        found = [(case, alert) for alert, case, *_ in rows]
        if all(alert in {one.alert for one in cases[case].signals} for case, alert in found):
            return cases, found


def _made(conn: Connection, rows: Sequence[Sequence[Any]]) -> dict[UUID, Case]:
    if not rows:
        return {}
    return make(rows, conn.execute(SIGNALS, ([row[0] for row in rows],)).fetchall())


def _threaten(conn: Connection, gateway: str, at: datetime, now: datetime) -> None:
    """Let no abort count that was near to duress behind the same gateway."""
    cases, found = _of_alerts(
        conn,
        """
        m.aborted_at BETWEEN %s AND %s AND NOT m.under_threat AND t.gateway = %s
        AND c.state <> 'closed'
        """,
        (at - THREAT_MAX, at + THREAT_MAX, gateway),
    )
    for case, alert in found:
        cases[case] = _move(conn, case, cases[case], Threaten(at, alert), now)


def _duress_near(conn: Connection, gateway: str, at: datetime) -> bool:
    row = conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM alert AS t
            JOIN alert_occurrence AS o ON o.alert = t.id
            WHERE t.rule = %s AND t.gateway = %s AND t.last_raised_at >= %s
              AND o.raised_at BETWEEN %s AND %s
        )
        """,
        (DURESS, gateway, at - THREAT_MAX, at - THREAT_MAX, at + THREAT_MAX),
    ).fetchone()
    return row is not None and bool(row[0])


def _is_quiet(conn: Connection, alert: UUID) -> bool:
    row = conn.execute("SELECT t.quiet FROM alert AS t WHERE t.id = %s", (alert,)).fetchone()
    return row is not None and bool(row[0])


def _move(
    conn: Connection, key: UUID, before: Case, action: Join | Abort | Threaten, now: datetime
) -> Case:
    """Let the design move a case; one that is closed is left as it is."""
    if before.state == "closed":
        return before
    after = apply(before, action)
    match action:
        case Abort(at, alert):
            conn.execute("UPDATE case_alert SET aborted_at = %s WHERE alert = %s", (at, alert))
        case Threaten(_, alert):
            conn.execute("UPDATE case_alert SET under_threat = true WHERE alert = %s", (alert,))
        case Join():
            pass
    conn.execute(SAVE, columns(key, after, now))
    conn.execute(TELL, entry(key, action, after.version, before=before))
    return after


# -- with its record


# What a record that somebody settled elsewhere says of its case.
_OUTCOMES: Final[Mapping[Disposition, Outcome]] = {
    "false_alarm": "false_alarm",
    "test": "test",
    "duplicate": "duplicate",
    "withdrawn": "withdrawn",
}


async def follow(
    conn: AsyncConnection,
    incident: UUID,
    alert: UUID | None,
    disposition: Disposition,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> None:
    """Let a case say what its record says, whoever wrote that; it takes a record it has not yet.

    Args:
        conn: In the transaction that wrote the record.
        incident: The record.
        alert: What told of it, if anything did.
        disposition: What it says by now.
        actor: Who wrote it.
        reason: Why.
        now: When.
    """
    cursor = await conn.execute(
        _OF_RECORD,
        {"incident": incident, "alert": alert},
    )
    rows = await cursor.fetchall()
    if not rows:
        return
    ((key, before),) = make(rows, await _signals(conn, [rows[0][0]])).items()
    await conn.execute("UPDATE alert_case SET incident = %s WHERE id = %s", (incident, key))
    action = _following(before, disposition, actor, reason, now)
    if action is None or before.merged_into is not None:
        return
    try:
        await save(conn, key, before, action, now)
    except AlreadyDone:
        return


def _following(
    before: Case, disposition: Disposition, actor: str, reason: str, now: datetime
) -> Confirm | Close | Reopen | None:
    if disposition == "confirmed":
        return Confirm(now, actor, reason)
    if disposition == "open":
        return Reopen(now, actor, reason)
    if before.outcome is not None and DISPOSITIONS[before.outcome] == disposition:
        return None
    return Close(now, actor, reason, _OUTCOMES[disposition])


async def _signals(conn: AsyncConnection, cases: Sequence[UUID]) -> list[Any]:
    cursor = await conn.execute(SIGNALS, (list(cases),))
    return await cursor.fetchall()


async def load(conn: AsyncConnection, cases: Sequence[UUID]) -> dict[UUID, Case]:
    """Lock cases in the order of their ids, and return those that there are."""
    cursor = await conn.execute(
        _BY_ID,
        (list(cases),),
    )
    rows = await cursor.fetchall()
    return make(rows, await _signals(conn, cases))


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
