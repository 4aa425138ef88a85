# SPDX-License-Identifier: Apache-2.0
"""Windows of maintenance in the database: written by people, asked for what they mute.

Every change locks the row, asks the pure rules (`ingest.windows`), writes window and history, and
tells running services to read the registry again: the window's time counts nowhere from then on.
What days and nights that makes different is found by `ingest.store.exclusions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from psycopg import AsyncConnection, Connection
from psycopg.types.range import TimestamptzRange
from uuid_utils.compat import uuid7

from ingest import windows
from ingest.alerts import Action, Refused, Suppress, Unsuppress
from ingest.rules import POLICE_KINDS, POLICE_RULES
from ingest.store import alerts
from ingest.store.seen import Missing, Stale
from ingest.windows import Window

if TYPE_CHECKING:
    from ingest.store.alerts import Subject

NodeType = Literal["area", "gateway", "device"]
#: Windows of one node that are not over: more is a mistake of some program.
PER_NODE_MAX: Final = 100
# Whoever raised an alert without seeing the window has committed by then (statements end after
# ten seconds, transactions after a minute).
_LOOK_AGAIN: Final = timedelta(seconds=60)
_MOVED_AT_ONCE: Final = 500


class TooMany(ValueError):
    """The node has `PER_NODE_MAX` windows that are not over."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a window is for, with all that lies below it."""

    type: NodeType
    id: str


async def create(
    conn: AsyncConnection[Any],
    node: Node,
    begins_at: datetime,
    ends_at: datetime,
    *,
    within: str,
    actor: str,
    reason: str,
    afterwards: bool,
    now: datetime,
) -> UUID:
    """Write a new window for somebody who sees the area ``within``; return its id.

    Raises:
        Missing: The node is not within sight.
        ingest.windows.Refused: A rule forbids it.
        TooMany: Of one node.
    """
    window = windows.plan(begins_at, ends_at, reason, afterwards=afterwards, now=now)
    made = uuid7()
    async with conn.transaction():
        cursor = await conn.execute(
            """
            SELECT (SELECT count(*) FROM maintenance_window AS w
                    WHERE w.during && tstzrange(%(now)s, NULL)
                      AND n.id IN (w.area, w.gateway, w.device))
            FROM (
                SELECT 'area' AS type, area AS id, area AS lies_in FROM area
                WHERE %(type)s = 'area' AND area = %(id)s
                UNION ALL SELECT 'gateway', gateway, community FROM gateway
                WHERE %(type)s = 'gateway' AND gateway = %(id)s
                UNION ALL SELECT 'device', device, area FROM device
                WHERE %(type)s = 'device' AND device = %(id)s
            ) AS n
            JOIN area AS a ON a.area = n.lies_in
            -- invariant 9: never another area's rows
            WHERE a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(within)s)
            """,
            {"type": node.type, "id": node.id, "within": within, "now": now},
        )
        row = await cursor.fetchone()
        if row is None:
            raise Missing(node.type)
        if row[0] >= PER_NODE_MAX:
            raise TooMany(node.id)
        await conn.execute(
            """
            INSERT INTO maintenance_window
                (id, area, gateway, device, begins_at, ends_at, reason, created_by, created_at,
                 changed_at)
            VALUES (%(made)s, CASE WHEN %(type)s = 'area' THEN %(id)s END,
                    CASE WHEN %(type)s = 'gateway' THEN %(id)s END,
                    CASE WHEN %(type)s = 'device' THEN %(id)s END,
                    %(begins_at)s, %(ends_at)s, %(reason)s, %(actor)s, %(now)s, %(now)s)
            """,
            {
                "made": made,
                "type": node.type,
                "id": node.id,
                "begins_at": window.begins_at,
                "ends_at": window.ends_at,
                "reason": window.reason,
                "actor": actor,
                "now": now,
            },
        )
        await _tell(conn, made, window, now, actor, "created", window.reason)
        await _restate(conn, made, windows.restated(None, window))
    return made


async def change(
    conn: AsyncConnection[Any],
    window: UUID,
    begins_at: datetime | None,
    ends_at: datetime | None,
    *,
    within: str,
    actor: str,
    reason: str,
    afterwards: bool,
    expected_version: int | None,
    now: datetime,
) -> None:
    """Give a window another begin or end, for somebody who sees the area ``within``.

    Raises:
        Missing: The window is not within sight.
        Stale: ``expected_version`` is given and is not the window's.
        ingest.windows.Over, ingest.windows.Unchanged, ingest.windows.Refused: A rule forbids it.
    """
    async with conn.transaction():
        before = await _locked(conn, window, within, expected_version)
        after = windows.change(before, begins_at, ends_at, afterwards=afterwards, now=now)
        await _write(conn, window, before, after, now, actor, "changed", reason)


async def cancel(
    conn: AsyncConnection[Any],
    window: UUID,
    *,
    within: str,
    actor: str,
    reason: str,
    annul: bool,
    afterwards: bool,
    expected_version: int | None,
    now: datetime,
) -> None:
    """Call a window off, or what is left of it, for somebody who sees the area ``within``.

    Raises:
        Missing: The window is not within sight.
        Stale: ``expected_version`` is given and is not the window's.
        ingest.windows.Over: A rule forbids it.
    """
    async with conn.transaction():
        before = await _locked(conn, window, within, expected_version)
        after = windows.cancel(before, annul=annul, afterwards=afterwards, now=now)
        action = "annulled" if after.annulled else "cancelled"
        await _write(conn, window, before, after, now, actor, action, reason)


async def _locked(
    conn: AsyncConnection[Any], window: UUID, within: str, expected_version: int | None
) -> Window:
    cursor = await conn.execute(
        """
        SELECT w.begins_at, w.ends_at, w.reason, w.annulled, w.version
        FROM maintenance_window AS w
        JOIN maintenance_window_view AS v ON v.id = w.id
        WHERE w.id = %(window)s
          -- invariant 9: never another area's rows
          AND v.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(within)s)
        FOR UPDATE OF w
        """,
        {"window": window, "within": within},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Missing("window")
    found = Window(*row)
    if expected_version is not None and expected_version != found.version:
        raise Stale(found.version)
    return found


async def _write(
    conn: AsyncConnection[Any],
    window: UUID,
    before: Window,
    after: Window,
    now: datetime,
    actor: str,
    action: str,
    reason: str,
) -> None:
    await conn.execute(
        """
        UPDATE maintenance_window
        SET begins_at = %s, ends_at = %s, annulled = %s, version = %s, changed_at = %s,
            muted = false
        WHERE id = %s
        """,
        (after.begins_at, after.ends_at, after.annulled, after.version, now, window),
    )
    await _tell(conn, window, after, now, actor, action, reason)
    await _restate(conn, window, windows.restated(before, after))


async def _tell(
    conn: AsyncConnection[Any],
    window: UUID,
    after: Window,
    now: datetime,
    actor: str,
    action: str,
    reason: str,
) -> None:
    await conn.execute(
        """
        INSERT INTO maintenance_window_history
            (maintenance_window, version, at, actor, action, reason, begins_at, ends_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (window, after.version, now, actor, action, reason, after.begins_at, after.ends_at),
    )


async def _restate(conn: AsyncConnection[Any], window: UUID, span: windows.Span | None) -> None:
    """Have what counts otherwise now marked, and the registry read again: last, it is a lock."""
    if span is None:
        return
    await conn.execute(
        """
        UPDATE maintenance_window
        SET restate = range_merge(restate, %s), restate_after = 0
        WHERE id = %s
        """,
        (TimestamptzRange(*span), window),
    )
    await conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")


def cause_of(window: UUID) -> str:
    """Return the name by which an alert is muted."""
    return f"window:{window}"


def active(conn: Connection, subjects: Sequence[Subject], at: datetime) -> list[set[str]]:
    """Return by which windows each subject is muted at an instant, as causes; one index probe."""
    found: list[set[str]] = [set() for _ in subjects]
    if not subjects:
        return found
    rows: list[tuple[int, UUID]] = conn.execute(
        """
        SELECT s.number, w.id
        FROM maintenance_window AS w
        CROSS JOIN unnest(%(areas)s::text[], %(gateways)s::text[], %(devices)s::text[])
            WITH ORDINALITY AS s (area, gateway, device, number)
        JOIN area AS a ON a.area = s.area
        WHERE w.during @> %(at)s::timestamptz
          AND (w.device = s.device OR w.gateway = s.gateway OR lies_in(a.path, w.area))
        """,
        {
            "areas": [subject.area for subject in subjects],
            "gateways": [subject.gateway for subject in subjects],
            "devices": [subject.device for subject in subjects],
            "at": at,
        },
    ).fetchall()
    for number, window in rows:
        found[number - 1].add(cause_of(window))
    return found


def mute(conn: Connection, raised: Sequence[tuple[UUID, Subject]], now: datetime) -> None:
    """Mute alerts where a window is in force, in the transaction that raised them.

    Args:
        conn: The transaction.
        raised: What was, and what about.
        now: The time.
    """
    causes = active(conn, [subject for _, subject in raised], now)
    for (alert, _), by in zip(raised, causes, strict=True):
        for cause in sorted(by):
            with suppress(Refused):  # a danger to life
                alerts.move(conn, alert, Suppress(now, cause), now)


def reconcile(
    conn: Connection, now: datetime, at_once: int = _MOVED_AT_ONCE
) -> list[tuple[str, UUID]]:
    """Mute alerts that stand where a window began; bring back those whose window is over.

    Those that were cleared within their window stay muted: nobody has to do with them. Raised
    again, they come back. Danger to life is left alone. Done again it does nothing.

    Args:
        conn: Not in a transaction; each alert is moved in one of its own.
        now: The time.
        at_once: How many each way at most; the others are left to the next time.

    Returns:
        ``(community, alert)`` of those that changed; without windows it is two index probes.
    """
    begun, muted = conn.execute(
        """
        SELECT EXISTS (SELECT FROM maintenance_window WHERE during @> %s AND NOT muted),
               EXISTS (SELECT FROM alert
                       WHERE (active OR latched) AND muted_by_window(suppressed_by))
        """,
        (now,),
    ).fetchone() or (False, False)
    changed: list[tuple[str, UUID]] = []
    to_mute = _to_mute(conn, now, at_once) if begun else []
    found = [*to_mute, *(_to_bring_back(conn, now, at_once) if muted else ())]
    for community, alert, action in sorted(found, key=lambda one: one[1]):
        with conn.transaction():
            # Lost by a crash it is done again: nobody need wait for the disk.
            conn.execute("SET LOCAL synchronous_commit TO off")
            if alerts.move(conn, alert, action, now) is not None:
                changed.append((community, alert))
    if begun and len(to_mute) < at_once:
        conn.execute(
            """
            UPDATE maintenance_window
            SET muted = true
            WHERE during @> %(now)s AND NOT muted
              AND greatest(begins_at, changed_at) <= %(now)s - %(again)s::interval
            """,
            {"now": now, "again": _LOOK_AGAIN},
        )
    return changed


def _to_mute(conn: Connection, now: datetime, at_once: int) -> list[tuple[str, UUID, Action]]:
    """Return what stands under windows that began lately."""
    rows = conn.execute(
        """
        WITH w AS MATERIALIZED (
            SELECT id, area, gateway, device
            FROM maintenance_window
            WHERE during @> %(now)s AND NOT muted
        ), t AS MATERIALIZED (
            SELECT id, community, area, gateway, device, suppressed_by
            FROM alert
            WHERE (active OR latched) AND NOT life_safety
              -- ingest.windows.may_mute
              AND NOT rule ^@ ANY (%(security)s)
              AND NOT (rule ^@ 'custom.' AND kind = ANY (%(security_kinds)s))
        )
        SELECT t.community, t.id, w.id
        FROM t
        JOIN (
            SELECT t.id AS alert, w.id
            FROM t
            JOIN area AS a ON a.area = t.area
            CROSS JOIN unnest(string_to_array(replace(a.path::text, '_', '-'), '.')) AS above (area)
            JOIN w ON w.area = above.area
            UNION ALL
            SELECT t.id, w.id FROM t JOIN w ON w.gateway = t.gateway
            UNION ALL
            SELECT t.id, w.id FROM t JOIN w ON w.device = t.device
        ) AS w ON w.alert = t.id
        WHERE NOT 'window:' || w.id = ANY (t.suppressed_by)
        ORDER BY t.id
        LIMIT %(limit)s
        """,
        {
            "now": now,
            "limit": at_once,
            "security": list(POLICE_RULES),
            "security_kinds": sorted(POLICE_KINDS),
        },
    )
    return [
        (community, alert, Suppress(now, cause_of(window))) for community, alert, window in rows
    ]


def _to_bring_back(conn: Connection, now: datetime, at_once: int) -> list[tuple[str, UUID, Action]]:
    rows = conn.execute(
        """
        SELECT t.community, t.id, c.cause
        FROM alert AS t
        CROSS JOIN unnest(t.suppressed_by) AS c (cause)
        WHERE (t.active OR t.latched) AND muted_by_window(t.suppressed_by)
          AND c.cause LIKE 'window:%%'
          AND c.cause NOT IN (
              SELECT 'window:' || w.id FROM maintenance_window AS w WHERE w.during @> %(now)s)
        ORDER BY t.id
        LIMIT %(limit)s
        """,
        {"now": now, "limit": at_once},
    )
    return [(community, alert, Unsuppress(now, cause)) for community, alert, cause in rows]
