# SPDX-License-Identifier: Apache-2.0
"""Cases in the database: made of alerts within the ingest transaction, moved by their records.

How a case is kept is in `ingest.store.case_rows`, what people do with cases in
`ingest.store.case_desk`. Locks are taken in one order everywhere:
alerts, a community's lock (ingest alone), records, cases by id, days.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString
from uuid import UUID

from psycopg import AsyncConnection, Connection, sql
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
    AlreadyDone,
    Case,
    Close,
    Confirm,
    Join,
    Outcome,
    Outline,
    Reason,
    Reopen,
    Signal,
    Threaten,
    apply,
    belongs,
    part_of,
)
from ingest.indicators.security import Disposition
from ingest.store.case_rows import (
    BY_ID,
    CASE,
    INSERT,
    SAVE,
    SIGNAL,
    SIGNALS,
    TELL,
    columns,
    entry,
    make,
    opened,
    save,
    signals_of,
)

if TYPE_CHECKING:
    from ingest.store.alerts import Change
    from ingest.store.devices import Device

_OUTLINE_COLUMNS: Final = 6
# What more `_at_hand` takes: how severe it is, and an `Outline`.
_OUTLINED: Final = sql.SQL("{}, c.rank, c.nature, c.area, c.first_at, c.last_at, c.aborted").format(
    CASE
)
_NEAR: Final = sql.SQL(
    """
    SELECT {case}
    FROM alert_case AS c
    WHERE c.community = %(community)s AND c.state <> 'closed'
      AND c.last_at >= %(since)s AND c.first_at <= %(until)s
    ORDER BY c.id
    FOR UPDATE OF c
    """
).format(case=_OUTLINED)
_OF_ALERT: Final = sql.SQL(
    """
    SELECT {case}
    FROM case_alert AS m
    JOIN alert_case AS c ON c.id = m.case_id
    WHERE m.alert = %(alert)s
    FOR UPDATE OF c
    """
).format(case=_OUTLINED)
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
# Of each case the leading alert, one at the same place of each sort, and the alert itself: as many
# rows whether it has ten alerts or a thousand.
_AT_HAND: Final = sql.SQL("""
    {}
    WHERE (m.case_id, m.alert) IN (
        SELECT c.id, one.alert
        FROM alert_case AS c
        CROSS JOIN LATERAL (
            (SELECT n.alert FROM case_alert AS n
             WHERE n.case_id = c.id AND n.device = %(device)s LIMIT 1)
            UNION ALL
            (SELECT n.alert FROM case_alert AS n
             WHERE n.case_id = c.id AND n.area = %(area)s AND n.area <> %(community)s LIMIT 1)
            UNION ALL
            (SELECT n.alert FROM case_alert AS n
             WHERE n.case_id = c.id AND n.gateway = %(gateway)s LIMIT 1)
            UNION ALL
            VALUES (c.led_by), (%(alert)s::uuid)
        ) AS one
        WHERE c.id = ANY (%(cases)s)
    )
    ORDER BY m.joined_at, m.alert
""").format(SIGNAL)

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
        # Each by itself: what the one before it did to a case may bring that one near.
        _attach(conn, _signal(alert, change), now)
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


def _attach(conn: Connection, signal: Signal, now: datetime) -> None:
    """Let an alert join the case it belongs to, or open one; in its case it was raised again."""
    member = _member(conn, signal)
    if member is not None:
        _again(conn, *member, signal, now)
        return
    known = _near(conn, signal)
    found: list[tuple[bool, timedelta, UUID, Reason]] = [
        (reason == "same_gateway", abs(case.last_at - signal.raised_at), key, reason)
        for key, case in known.items()
        if (reason := belongs(case, signal)) is not None
    ]
    if found:
        _, _, key, reason = min(found)
        _insert_member(conn, key, signal, reason, now)
        _move(conn, key, known[key], Join(signal.raised_at, signal, reason), now)
        return
    part = part_of(signal.rule)
    if part is not None and part.opens and not _is_quiet(conn, signal.alert):
        _open(conn, signal, now)


def _again(conn: Connection, key: UUID, before: Case, signal: Signal, now: datetime) -> None:
    """Note that an alert of the case was raised again; what was aborted before stands anew."""
    known = next(one for one in before.signals if one.alert == signal.alert)
    aborted = known.aborted_at is not None and signal.raised_at > known.aborted_at
    if aborted or known.severity != signal.severity:
        # It may count for less than before: what the case is then, all of its alerts say.
        before = _made(conn, conn.execute(BY_ID, ([key],)).fetchall())[key]
    if before.state == "closed":
        # Closed while this was on its way: nothing is swallowed by what was found before it.
        reopen = Reopen(now, "rule", "raised_again")
        after = apply(before, reopen)
        conn.execute(TELL, entry(key, reopen, after.version))
        before = after
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
        return
    conn.execute(
        "UPDATE case_alert SET aborted_at = NULL, under_threat = false WHERE alert = %s AND %s",
        (signal.alert, aborted),
    )
    _move(conn, key, before, Join(signal.raised_at, renewed, "raised_again"), now)


def _open(conn: Connection, signal: Signal, now: datetime) -> None:
    made, case = uuid7(), opened([signal])
    conn.execute(INSERT, columns(made, case, now) | {"alert": signal.alert, "split_from": None})
    _insert_member(conn, made, signal, "opened", now)
    told = entry(made, Join(signal.raised_at, signal, "raised_again"), 1, name="opened")
    conn.execute(TELL, told | {"reason": "alert_raised"})


def _insert_member(
    conn: Connection, case: UUID, signal: Signal, reason: str, now: datetime
) -> None:
    conn.execute(
        """
        INSERT INTO case_alert (alert, case_id, raised_at, joined_at, reason, gateway, area, device)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            signal.alert, case, signal.raised_at, now, reason, signal.gateway, signal.area,
            signal.device,
        ),
    )  # fmt: skip


def _member(conn: Connection, signal: Signal) -> tuple[UUID, Case] | None:
    """Lock and return the case that an alert is in; None: it is in none.

    What a person moved to another case while the lock was waited for is looked for there.
    """
    while True:
        rows = conn.execute(_OF_ALERT, {"alert": signal.alert}).fetchall()
        found = _at_hand(conn, rows, signal)
        if not found:
            return None
        ((key, case),) = found.items()
        if any(one.alert == signal.alert for one in case.signals):
            return key, case


def _near(conn: Connection, signal: Signal) -> dict[UUID, Case]:
    """Lock and return the cases that an alert could belong to, as far as time and place go."""
    rows = conn.execute(
        _NEAR,
        {
            "community": signal.community,
            "since": signal.raised_at - REACH_MAX,
            "until": signal.raised_at + REACH_MAX,
        },
    ).fetchall()
    return _at_hand(conn, rows, signal)


def _at_hand(conn: Connection, rows: Sequence[Sequence[Any]], signal: Signal) -> dict[UUID, Case]:
    """Return cases, of `_OUTLINED`, with those of their alerts that matter to one that may join."""
    if not rows:
        return {}
    cursor = conn.execute(
        _AT_HAND,
        {
            "cases": [row[0] for row in rows],
            "alert": signal.alert,
            "device": signal.device,
            "area": signal.area,
            "community": signal.community,
            "gateway": signal.gateway,
        },
    )
    found: dict[UUID, Case] = {}
    changed: list[Sequence[Any]] = []
    plain = [row[:-_OUTLINE_COLUMNS] for row in rows]
    for (key, case), row in zip(make(plain, cursor).items(), rows, strict=True):
        rank, *outline = row[-_OUTLINE_COLUMNS:]
        if case.rank > rank:
            # Its worst alert is not that bad any more: another may be.
            changed.append(row[:-_OUTLINE_COLUMNS])
        else:
            found[key] = replace(case, rest=Outline(*outline))
    return found | _made(conn, changed)


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
    ((key, before),) = make(rows, await signals_of(conn, [rows[0][0]])).items()
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
