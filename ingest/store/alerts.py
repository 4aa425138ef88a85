# SPDX-License-Identifier: Apache-2.0
"""Alerts in the database: raised and cleared by rules, acknowledged by people.

Every change locks the row, asks the pure machine (`ingest.alerts`), writes flags and history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from ingest.alerts import Acknowledge, Alert, AlreadyDone, Clear, Decision, Raise, apply
from ingest.rules import Severity

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
    """One decision of a rule about one subject, to be written."""

    rule: str
    severity: Severity
    subject: Subject
    decision: Decision
    received_at: datetime
    key: str = ""
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Standing:
    """An alert that is active: what a restart must know."""

    rule: str
    gateway: str
    device: str | None
    key: str
    raised_at: datetime


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A condition whose on-delay was running when it was written."""

    rule: str
    device_id: int
    since: datetime


class Missing(LookupError):
    """There is no such alert within the caller's sight."""


class Stale(ValueError):
    """The alert changed since the caller saw it; ``alert`` is what it is now."""

    def __init__(self, alert: Alert) -> None:
        """Keep the present flags, so that people see who was first."""
        super().__init__(f"version is {alert.version}")
        self.alert = alert


class AlreadyAcknowledged(Stale):
    """Somebody took note before."""


def load_standing(conn: Connection) -> list[Standing]:
    """Read what is active."""
    with conn.cursor(row_factory=class_row(Standing)) as cursor:
        return cursor.execute(
            "SELECT rule, gateway, device, key, raised_at FROM alert WHERE active"
        ).fetchall()


def load_pending(conn: Connection) -> list[PendingRow]:
    """Read the conditions whose on-delay is running."""
    with conn.cursor(row_factory=class_row(PendingRow)) as cursor:
        return cursor.execute("SELECT rule, device_id, since FROM alert_pending").fetchall()


def save_pending(conn: Connection, pending: Mapping[tuple[str, int], datetime | None]) -> None:
    """Write conditions that began (since) or ended (None) to run their on-delay."""
    ended = [key for key, since in pending.items() if since is None]
    begun = [(*key, since) for key, since in pending.items() if since is not None]
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
            INSERT INTO alert_pending (rule, device_id, since)
            SELECT * FROM unnest(%s::text[], %s::int[], %s::timestamptz[])
            ON CONFLICT (rule, device_id) DO UPDATE SET since = excluded.since
            """,
            (
                [rule for rule, _, _ in begun],
                [device_id for _, device_id, _ in begun],
                [since for _, _, since in begun],
            ),
        )


def write(conn: Connection, changes: Sequence[Change], now: datetime) -> list[tuple[str, UUID]]:
    """Write what rules decided, in order; return ``(community, alert)`` of those that changed."""
    changed: list[tuple[str, UUID]] = []
    for change in changes:
        match change.decision:
            case Raise():
                alert = _raise(conn, change, change.decision, now)
            case Clear():
                alert = _clear(conn, change, change.decision, now)
        if alert is not None:
            changed.append((change.subject.community, alert))
    return changed


def _raise(conn: Connection, change: Change, decision: Raise, now: datetime) -> UUID | None:
    subject = change.subject
    row = conn.execute(
        """
        INSERT INTO alert (id, rule, severity, kind, device, gateway, community, area, key, params,
                           active, late, raised_at, received_at, changed_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, true, %s, %s, %s, %s)
        ON CONFLICT DO NOTHING  -- the same occurrence told again, perhaps under a new stream
        RETURNING id
        """,
        (
            uuid7(),
            change.rule,
            change.severity,
            subject.kind,
            subject.device,
            subject.gateway,
            subject.community,
            subject.area,
            change.key,
            Jsonb(dict(change.params)),
            change.received_at - decision.at > LATE_AFTER,
            decision.at,
            change.received_at,
            now,
        ),
    ).fetchone()
    if row is None:
        return None
    _tell(conn, row[0], decision.at, "rule", "raised", decision.reason)
    return row[0]


def _clear(conn: Connection, change: Change, decision: Clear, now: datetime) -> UUID | None:
    row = conn.execute(
        """
        SELECT id, active, acknowledged, version, cleared_at, acknowledged_at, acknowledged_by, note
        FROM alert
        WHERE rule = %s AND gateway = %s AND coalesce(device, '') = %s AND key = %s AND active
        FOR UPDATE
        """,
        (change.rule, change.subject.gateway, change.subject.device or "", change.key),
    ).fetchone()
    if row is None:
        return None
    alert = apply(Alert(*row[1:]), decision)
    conn.execute(
        """
        UPDATE alert SET active = %s, cleared_at = %s, version = %s, changed_at = %s WHERE id = %s
        """,
        (alert.active, alert.cleared_at, alert.version, now, row[0]),
    )
    _tell(conn, row[0], decision.at, "rule", "cleared", decision.reason)
    return row[0]


def _tell(
    conn: Connection, alert: UUID, at: datetime, actor: str, action: str, reason: str
) -> None:
    conn.execute(
        "INSERT INTO alert_history (alert, at, actor, action, reason) VALUES (%s, %s, %s, %s, %s)",
        (alert, at, actor, action, reason),
    )


async def acknowledge(
    conn: AsyncConnection,
    alert: UUID,
    *,
    area: str,
    hidden_rules: Sequence[str] = (),
    actor: str,
    note: str | None,
    expected_version: int | None,
    now: datetime,
) -> Alert:
    """Let a person take note of an alert that lies within ``area``; return its flags after it.

    Raises:
        Missing: No such alert in the area's subtree, or its rule is hidden from this person.
        AlreadyAcknowledged: Somebody was first.
        Stale: ``expected_version`` is given and is not the alert's.
    """
    async with conn.transaction():
        cursor = await conn.execute(
            """
            SELECT t.active, t.acknowledged, t.version, t.cleared_at, t.acknowledged_at,
                   t.acknowledged_by, t.note
            FROM alert AS t
            JOIN area AS a ON a.area = t.area
            WHERE t.id = %(alert)s
              AND NOT t.rule = ANY (%(hidden)s)
              -- invariant 9: never another area's rows
              AND a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(area)s)
            FOR UPDATE OF t
            """,
            {"alert": alert, "area": area, "hidden": list(hidden_rules)},
        )
        row = await cursor.fetchone()
        if row is None:
            raise Missing(str(alert))
        before = Alert(*row)
        try:
            after = apply(before, Acknowledge(now, actor, note))
        except AlreadyDone:
            raise AlreadyAcknowledged(before) from None
        if expected_version is not None and expected_version != before.version:
            raise Stale(before)
        await conn.execute(
            """
            UPDATE alert
            SET acknowledged = %s, acknowledged_at = %s, acknowledged_by = %s, note = %s,
                version = %s, changed_at = %s
            WHERE id = %s
            """,
            (
                after.acknowledged,
                after.acknowledged_at,
                after.acknowledged_by,
                after.note,
                after.version,
                now,
                alert,
            ),
        )
        await conn.execute(
            """
            INSERT INTO alert_history (alert, at, actor, action, reason, note)
            VALUES (%s, %s, %s, 'acknowledged', 'person_noted', %s)
            """,
            (alert, now, actor, note),
        )
    return after
