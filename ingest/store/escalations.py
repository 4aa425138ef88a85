# SPDX-License-Identifier: Apache-2.0
"""Alerts that are told step by step, and where that stands: timers are rows."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.notify.chains import Chain

#: So many of what is due are taken at once.
BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Escalation:
    """Where telling an alert stands."""

    alert: UUID
    chain: dict[str, Any]  # Any: JSON
    started_at: datetime
    position: int
    reached: bool
    hurry: bool


def begin(conn: Connection, alert: UUID, chain: Chain, at: datetime) -> bool:
    """Begin to tell an alert; return False where it is being told already."""
    return (
        conn.execute(
            """
            INSERT INTO notification_escalation (alert, chain, started_at, position, next_at)
            VALUES (%(alert)s, %(chain)s, %(at)s, 0, %(at)s)
            ON CONFLICT (alert) DO NOTHING
            """,
            {"alert": alert, "chain": Jsonb(chain.model_dump(mode="json")), "at": at},
        ).rowcount
        == 1
    )


def end(conn: Connection, alert: UUID) -> None:
    """Tell an alert no further."""
    conn.execute("DELETE FROM notification_escalation WHERE alert = %s", (alert,))


def due(conn: Connection, now: datetime) -> list[Escalation]:
    """Return what is to go on, the longest due first."""
    with conn.cursor(row_factory=class_row(Escalation)) as cursor:
        return cursor.execute(
            """
            SELECT alert, chain, started_at, position, reached, hurry
            FROM notification_escalation
            WHERE next_at <= %s
            ORDER BY next_at
            LIMIT %s
            """,
            (now, BATCH),
        ).fetchall()


def go_on(
    conn: Connection, alert: UUID, position: int, next_at: datetime, *, reached: bool
) -> None:
    """Write where telling an alert stands, and when it goes on."""
    conn.execute(
        """
        UPDATE notification_escalation
        SET position = %s, next_at = %s, reached = %s, hurry = false
        WHERE alert = %s
        """,
        (position, next_at, reached, alert),
    )


def put_off(conn: Connection, alert: UUID, until: datetime) -> None:
    """Let an alert go on at an instant, whatever comes between."""
    conn.execute("UPDATE notification_escalation SET next_at = %s WHERE alert = %s", (until, alert))


def hurry(conn: Connection, message: int, now: datetime) -> None:
    """Have those alerts go on at once of which a message told, if nobody heard of them yet."""
    conn.execute(
        """
        UPDATE notification_escalation AS e
        SET next_at = %(now)s, hurry = true
        WHERE e.alert IN (SELECT n.alert FROM notification AS n WHERE n.message = %(message)s)
          AND NOT EXISTS (
              SELECT FROM notification AS n
              JOIN notification_message AS m ON m.id = n.message
              WHERE n.alert = e.alert AND n.kind <> 'cleared' AND n.created_at >= e.started_at
                AND (m.state = 'sent' OR (m.finished_at IS NULL AND m.id <> %(message)s))
          )
        """,
        {"message": message, "now": now},
    )
