# SPDX-License-Identifier: Apache-2.0
"""Alerts in the database: raised and cleared by rules, moved by people and by design.

An alert is what people see of a rule on one subject; each time its condition held is an
occurrence of it. Every change locks the row, asks the pure machine (`ingest.alerts`), writes flags
and history. The lock leaves the key alone: who writes a row that names an alert, as those who tell
people of it do by the hundred, neither waits for the lanes nor keeps them waiting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from ingest import hygiene
from ingest.alerts import (
    Acknowledge,
    Action,
    Alert,
    AlreadyDone,
    Aside,
    Clear,
    Decision,
    Done,
    PutBack,
    Raise,
    Shelve,
    Suppress,
    TakeOut,
    Unshelve,
    Unsuppress,
    apply,
    continues,
    done,
    raised,
)
from ingest.cases import part_of
from ingest.rules import Rule
from ingest.store import cases, windows
from ingest.store.hygiene import causes
from ingest.windows import may_mute

# Readings older than this when they arrive raise alerts that say so.
LATE_AFTER = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Subject:
    """What an alert is about: a device, or (device None) the gateway itself."""

    kind: str
    gateway: str
    community: str
    area: str
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One decision of a rule about one subject, to be written; ``key`` names the occurrence."""

    rule: Rule
    subject: Subject
    decision: Decision
    received_at: datetime
    key: str = ""
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Standing:
    """An occurrence that is active: what a restart must know."""

    rule: str
    gateway: str
    device: str | None
    key: str
    raised_at: datetime


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A condition whose on-delay, or (``ending``) off-delay, was running when it was written.

    It is known to be so until ``known_until``; None where an older release wrote the row.
    """

    rule: str
    device_id: int
    since: datetime
    ending: bool
    known_until: datetime | None


class Missing(LookupError):
    """There is no such alert within the caller's sight."""


class Stale(ValueError):
    """The alert changed since the caller saw it; ``alert`` is what it is now."""

    def __init__(self, alert: Alert) -> None:
        """Keep the present flags, so that people see who was first."""
        super().__init__(f"version is {alert.version}")
        self.alert = alert


class NothingToDo(Stale):
    """It is already so: somebody was first."""


def load_standing(conn: Connection) -> list[Standing]:
    """Read what is active."""
    with conn.cursor(row_factory=class_row(Standing)) as cursor:
        return cursor.execute(
            "SELECT rule, gateway, device, key, raised_at FROM alert_occurrence WHERE active"
        ).fetchall()


def load_pending(conn: Connection) -> list[PendingRow]:
    """Read the conditions whose on-delay or off-delay is running."""
    with conn.cursor(row_factory=class_row(PendingRow)) as cursor:
        return cursor.execute(
            "SELECT rule, device_id, since, ending, known_until FROM alert_pending"
        ).fetchall()


def save_pending(conn: Connection, pending: Mapping[tuple[str, int], PendingRow | None]) -> None:
    """Write conditions that began to run a delay, or are known to for longer, or ended.

    Args:
        conn: Within the transaction of what made them so.
        pending: By rule and device; None where no delay is running any more.
    """
    ended = [key for key, row in pending.items() if row is None]
    begun = [
        (row.rule, row.device_id, row.since, row.ending, row.known_until)
        for row in pending.values()
        if row is not None
    ]
    if ended:
        conn.execute(
            """
            DELETE FROM alert_pending AS p
            USING unnest(%s::text[], %s::int[]) AS k (rule, device_id)
            WHERE p.rule = k.rule AND p.device_id = k.device_id
            """,
            ([rule for rule, _ in ended], [device_id for _, device_id in ended]),
        )
    if begun:
        conn.execute(
            """
            INSERT INTO alert_pending (rule, device_id, since, ending, known_until)
            SELECT * FROM unnest(%s::text[], %s::int[], %s::timestamptz[], %s::boolean[],
                                 %s::timestamptz[])
            ON CONFLICT (rule, device_id) DO UPDATE
            SET since = excluded.since, ending = excluded.ending,
                known_until = excluded.known_until
            """,
            tuple(map(list, zip(*begun, strict=True))),
        )


def write(conn: Connection, changes: Sequence[Change], now: datetime) -> list[tuple[str, UUID]]:
    """Write what rules decided, in order; return ``(community, alert)`` of those that changed."""
    changed: list[tuple[str, UUID]] = []
    raised_now: list[tuple[UUID, Change]] = []
    for change in changes:
        match change.decision:
            case Raise():
                alert = _raise(conn, change, change.decision, now)
                if alert is not None:
                    raised_now.append((alert, change))
                    if part_of(change.rule.id) is not None:
                        # At once: a case is made of what was before, however much comes at a time.
                        _place(conn, raised_now, now)
                        raised_now = []
            case Clear():
                alert = _clear(conn, change, change.decision, now)
        if alert is not None:
            changed.append((change.subject.community, alert))
    _place(conn, raised_now, now)
    return changed


def _place(conn: Connection, raised_now: Sequence[tuple[UUID, Change]], now: datetime) -> None:
    """Mute what has a cause, then make cases: what is kept from the desk opens none."""
    _mute(conn, raised_now, now)
    cases.attach(conn, raised_now, now)


def _mute(conn: Connection, raised_now: Sequence[tuple[UUID, Change]], now: datetime) -> None:
    """Let what has a known cause step back behind it before anybody is told."""
    mutable = [alert for alert, change in raised_now if hygiene.may_mute(change.rule)]
    if mutable:
        for muting in causes(conn, mutable):
            for action in muting.actions(now):
                move(conn, muting.id, action, now)
    under_windows = [
        (alert, change.subject)
        for alert, change in raised_now
        if may_mute(change.rule.id, change.subject.kind)
    ]
    windows.mute(conn, under_windows, now)


# As `_alert` takes them.
_FLAGS: Final = sql.SQL(
    """
    t.standing, t.acknowledged, t.version, t.cleared_at, t.acknowledged_at, t.acknowledged_by,
    t.note, t.latched, t.life_safety, t.repeats, t.last_raised_at,
    t.shelved_until, t.shelved_by, t.shelved_reason, t.shelved_once,
    t.out_of_service_until, t.out_of_service_by, t.out_of_service_reason, t.suppressed_by
    """
)
_LATEST: Final = sql.SQL(
    """
        SELECT t.id, {flags}
        FROM alert AS t
        WHERE t.rule = %s AND t.gateway = %s AND coalesce(t.device, '') = %s
          -- What an officer settled is over: what comes then is another.
          AND NOT EXISTS (SELECT FROM incident AS i
                          WHERE i.alert = t.id AND i.disposition <> 'open')
          AND NOT EXISTS (SELECT FROM case_alert AS m
                          JOIN alert_case AS c ON c.id = m.case_id
                          WHERE m.alert = t.id AND c.state <> 'open')
        ORDER BY t.last_raised_at DESC
        LIMIT 1
        FOR NO KEY UPDATE OF t
        """
).format(flags=_FLAGS)
_STANDING: Final = sql.SQL(
    """
        SELECT t.id, o.id, {flags}
        FROM alert_occurrence AS o
        JOIN alert AS t ON t.id = o.alert
        WHERE o.rule = %s AND o.gateway = %s AND coalesce(o.device, '') = %s AND o.key = %s
          AND o.active
        FOR NO KEY UPDATE OF t
        """
).format(flags=_FLAGS)
# Raised while the device was behind another gateway.
_STANDING_ELSEWHERE: Final = sql.SQL(
    """
        SELECT t.id, o.id, {flags}
        FROM alert_occurrence AS o
        JOIN alert AS t ON t.id = o.alert
        WHERE o.rule = %s AND o.device = %s AND o.key = %s AND o.active
        ORDER BY o.id
        LIMIT 1
        FOR NO KEY UPDATE OF t
        """
).format(flags=_FLAGS)
_LOCKED: Final = sql.SQL("SELECT {flags} FROM alert AS t WHERE t.id = %s FOR NO KEY UPDATE").format(
    flags=_FLAGS
)
_FREE: Final = sql.SQL(
    """
    SELECT t.id, t.community, {flags} FROM alert AS t WHERE t.id = ANY (%s)
    ORDER BY t.id
    FOR NO KEY UPDATE SKIP LOCKED
    """
).format(flags=_FLAGS)
_LOCKED_FOR: Final = sql.SQL(
    """
            SELECT {flags}
            FROM alert AS t
            JOIN area AS a ON a.area = t.area
            WHERE t.id = %(alert)s
              AND NOT t.rule = ANY (%(hidden)s)
              -- invariant 9: never another area's rows
              AND a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(area)s)
            FOR NO KEY UPDATE OF t
            """
).format(flags=_FLAGS)
_N_PLAIN: Final = 11


def _alert(row: Sequence[Any]) -> Alert:
    until, by, reason, once, out_until, out_by, out_reason, causes = row[_N_PLAIN:]
    return Alert(
        *row[:_N_PLAIN],
        shelved=None if until is None else Aside(until, by, reason, once),
        out_of_service=None if out_until is None else Aside(out_until, out_by, out_reason),
        suppressed_by=frozenset(causes),
    )


def _columns(alert: Alert, now: datetime) -> dict[str, Any]:
    """Return what is written of the flags, by column."""
    aside, out = alert.shelved, alert.out_of_service
    return {
        "active": alert.active,
        "standing": alert.standing,
        "acknowledged": alert.acknowledged,
        "version": alert.version,
        "cleared_at": alert.cleared_at,
        "acknowledged_at": alert.acknowledged_at,
        "acknowledged_by": alert.acknowledged_by,
        "note": alert.note,
        "latched": alert.latched,
        "repeats": alert.repeats,
        "last_raised_at": alert.last_raised_at,
        "shelved_until": aside and aside.until,
        "shelved_by": aside and aside.by,
        "shelved_reason": aside and aside.reason,
        "shelved_once": aside is not None and aside.once,
        "out_of_service_until": out and out.until,
        "out_of_service_by": out and out.by,
        "out_of_service_reason": out and out.reason,
        "suppressed_by": sorted(alert.suppressed_by),
        "changed_at": now,
    }


_UPDATE: Final[LiteralString] = """
    UPDATE alert
    SET active = %(active)s, standing = %(standing)s, acknowledged = %(acknowledged)s,
        version = %(version)s, cleared_at = %(cleared_at)s, acknowledged_at = %(acknowledged_at)s,
        acknowledged_by = %(acknowledged_by)s, note = %(note)s, latched = %(latched)s,
        repeats = %(repeats)s, last_raised_at = %(last_raised_at)s,
        shelved_until = %(shelved_until)s, shelved_by = %(shelved_by)s,
        shelved_reason = %(shelved_reason)s, shelved_once = %(shelved_once)s,
        out_of_service_until = %(out_of_service_until)s,
        out_of_service_by = %(out_of_service_by)s,
        out_of_service_reason = %(out_of_service_reason)s,
        suppressed_by = %(suppressed_by)s, changed_at = %(changed_at)s
    WHERE id = %(id)s
"""
_TELL: Final[LiteralString] = """
    INSERT INTO alert_history (alert, at, actor, action, reason, note, occurrence, params)
    VALUES (%(alert)s, %(at)s, %(actor)s, %(action)s, %(reason)s, %(note)s, %(occurrence)s,
            %(params)s)
"""


def _raise(conn: Connection, change: Change, decision: Raise, now: datetime) -> UUID | None:
    subject, rule = change.subject, change.rule
    row = conn.execute(
        _LATEST,
        (rule.id, subject.gateway, subject.device or ""),
    ).fetchone()
    before = None if row is None else _alert(row[1:])
    again = before is not None and continues(before, decision.at, rule.reopen)
    alert = row[0] if row is not None and again else uuid7()
    late = change.received_at - decision.at > LATE_AFTER
    told = conn.execute(
        """
        INSERT INTO alert_occurrence (alert, rule, gateway, device, key, params, active, late,
                                      raised_at, received_at)
        VALUES (%s, %s, %s, %s, %s, %s, true, %s, %s, %s)
        ON CONFLICT DO NOTHING  -- the same occurrence told again, perhaps under a new stream
        RETURNING id
        """,
        (
            alert,
            rule.id,
            subject.gateway,
            subject.device,
            change.key,
            Jsonb(dict(change.params)),
            late,
            decision.at,
            change.received_at,
        ),
    ).fetchone()
    if told is None:
        return None
    if before is not None and again:
        _update(conn, alert, apply(before, decision), now)
        conn.execute(
            "UPDATE alert SET params = %s, severity = %s WHERE id = %s",
            (Jsonb(dict(change.params)), rule.severity, alert),
        )
        _tell(conn, alert, decision, occurrence=told[0])
        return alert
    first = raised(decision.at, life_safety=rule.life_safety)
    conn.execute(
        """
        INSERT INTO alert (id, rule, severity, kind, device, gateway, community, area, params,
                           active, standing, late, life_safety, raised_at, last_raised_at,
                           received_at, changed_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            alert,
            rule.id,
            rule.severity,
            subject.kind,
            subject.device,
            subject.gateway,
            subject.community,
            subject.area,
            Jsonb(dict(change.params)),
            first.active,
            first.standing,
            late,
            first.life_safety,
            decision.at,
            first.last_raised_at,
            change.received_at,
            now,
        ),
    )
    _tell(conn, alert, decision, action_name="raised", occurrence=told[0])
    return alert


def _clear(conn: Connection, change: Change, decision: Clear, now: datetime) -> UUID | None:
    row = conn.execute(
        _STANDING,
        (change.rule.id, change.subject.gateway, change.subject.device or "", change.key),
    ).fetchone()
    if row is None and change.subject.device is not None:
        row = conn.execute(
            _STANDING_ELSEWHERE, (change.rule.id, change.subject.device, change.key)
        ).fetchone()
    if row is None:
        return None
    alert, occurrence, *flags = row
    conn.execute(
        """
        UPDATE alert_occurrence SET active = false, cleared_at = %s, looked = false
        WHERE id = %s
        """,
        (decision.at, occurrence),
    )
    after = apply(_alert(flags), decision, latching=change.rule.latching)
    _update(conn, alert, after, now)
    _tell(conn, alert, decision, occurrence=occurrence)
    return alert


def move(conn: Connection, alert: UUID, action: Action, now: datetime) -> Alert | None:
    """Let the design itself move an alert, within the caller's transaction.

    Returns:
        Its flags after it; None where it is so already, or there is no such alert.

    Raises:
        ingest.alerts.Refused: The machine forbids it.
    """
    row = conn.execute(_LOCKED, (alert,)).fetchone()
    if row is None:
        return None
    try:
        after = apply(_alert(row), action)
    except AlreadyDone:
        return None
    _update(conn, alert, after, now)
    _tell(conn, alert, action)
    return after


def move_free(
    conn: Connection, moves: Mapping[UUID, Sequence[Action]], now: datetime
) -> tuple[list[tuple[str, UUID]], bool]:
    """Let the design move alerts that nobody else is moving, within the caller's transaction.

    It waits for no other transaction, so it cannot be in a deadlock with one.

    Returns:
        ``(community, alert)`` of those that changed, and whether all were free.

    Raises:
        ingest.alerts.Refused: The machine forbids one of the moves.
    """
    rows = conn.execute(_FREE, (list(moves),)).fetchall()
    changed: list[tuple[str, UUID]] = []
    updates: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for alert, community, *flags in rows:
        before = after = _alert(flags)
        for action in moves[alert]:
            try:
                after = apply(after, action)
            except AlreadyDone:
                continue
            entries.append(_entry(alert, action))
        if after is not before:
            updates.append(_columns(after, now) | {"id": alert})
            changed.append((community, alert))
    if updates:
        with conn.cursor() as cursor:
            cursor.executemany(_UPDATE, updates)
            cursor.executemany(_TELL, entries)
    return changed, len(rows) == len(moves)


def _update(conn: Connection, alert: UUID, after: Alert, now: datetime) -> None:
    conn.execute(_UPDATE, _columns(after, now) | {"id": alert})


def _tell(
    conn: Connection,
    alert: UUID,
    action: Action,
    *,
    action_name: Done | None = None,
    occurrence: int | None = None,
) -> None:
    conn.execute(_TELL, _entry(alert, action, action_name, occurrence))


def _entry(
    alert: UUID, action: Action, name: Done | None = None, occurrence: int | None = None
) -> dict[str, Any]:
    """Return a line of the history: who did what, why, and what goes with it."""
    note: str | None = None
    params: dict[str, Any] = {}
    match action:
        case Raise(_, reason) | Clear(_, reason):
            actor = "rule"
        case Suppress(_, cause) | Unsuppress(_, cause):
            actor, reason, params = "design", "cause", {"cause": cause}
        case Shelve(_, actor, until, note) | TakeOut(_, actor, until, note):
            reason, params = "put_aside", {"until": until.isoformat()}
            if isinstance(action, Shelve) and action.once:
                params["once"] = True
        case Unshelve(_, actor, reason) | PutBack(_, actor, reason):
            pass
        case Acknowledge(_, actor, note, reason):
            pass
        case _:
            actor, note, reason = action.actor, action.note, "person_noted"
    return {
        "alert": alert,
        "at": action.at,
        "actor": actor,
        "action": name or done(action),
        "reason": reason,
        "note": note,
        "occurrence": occurrence,
        "params": Jsonb(params),
    }


async def act(
    conn: AsyncConnection,
    alert: UUID,
    action: Action,
    *,
    area: str,
    hidden_rules: Sequence[str] = (),
    expected_version: int | None,
    now: datetime,
) -> Alert:
    """Let a person move an alert that lies within ``area``; return its flags after it.

    Raises:
        Missing: No such alert in the area's subtree, or its rule is hidden from this person.
        NothingToDo: Somebody was first.
        Stale: ``expected_version`` is given and is not the alert's.
        ingest.alerts.Refused: The machine forbids it.
    """
    async with conn.transaction():
        cursor = await conn.execute(
            _LOCKED_FOR,
            {"alert": alert, "area": area, "hidden": list(hidden_rules)},
        )
        row = await cursor.fetchone()
        if row is None:
            raise Missing(str(alert))
        before = _alert(row)
        try:
            after = apply(before, action)
        except AlreadyDone:
            raise NothingToDo(before) from None
        if expected_version is not None and expected_version != before.version:
            raise Stale(before)
        await conn.execute(_UPDATE, _columns(after, now) | {"id": alert})
        if isinstance(action, Acknowledge):
            await conn.execute(
                """
                UPDATE alert_occurrence SET acknowledged_at = %s
                WHERE alert = %s AND acknowledged_at IS NULL
                """,
                (action.at, alert),
            )
        await conn.execute(_TELL, _entry(alert, action))
    return after
