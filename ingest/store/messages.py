# SPDX-License-Identifier: Apache-2.0
"""Messages to channels: what each says, whether it may still be said, and how sending it went."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.notify.recipients import DURESS, DURESS_ROLES


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is due, and where it goes."""

    id: int
    key: UUID
    channel: UUID
    kind: str
    content: dict[str, Any]  # Any: JSON
    created_at: datetime
    attempts: int
    channel_kind: str
    address: str
    secrets: list[str]  # the present one first
    removed: bool
    username: str | None
    language: str | None


def last_message_at(conn: Connection, channel: UUID, community: str) -> datetime | None:
    """Return when the last message about a community was made for a channel."""
    row = conn.execute(
        """
        SELECT max(created_at) FROM notification_message WHERE channel = %s AND community = %s
        """,
        (channel, community),
    ).fetchone()
    return None if row is None else row[0]


def add_message(
    conn: Connection,
    key: UUID,
    channel: UUID,
    kind: str,
    content: dict[str, Any],
    now: datetime,
    *,
    community: str | None = None,
    parts: Sequence[int] = (),
) -> int:
    """Write a message to be sent, made of notifications (``parts``); return its number."""
    row = conn.execute(
        """
        INSERT INTO notification_message (key, channel, community, kind, content, created_at,
                                          next_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        RETURNING id
        """,
        (key, channel, community, kind, Jsonb(content), now, now),
    ).fetchone()
    assert row is not None
    conn.execute("UPDATE notification SET message = %s WHERE id = ANY (%s)", (row[0], list(parts)))
    return row[0]


def due_messages(
    conn: Connection, now: datetime, busy: Iterable[UUID], limit: int
) -> list[Message]:
    """Return of each channel that is not ``busy`` the oldest message, where that is due."""
    with conn.cursor(row_factory=class_row(Message)) as cursor:
        return cursor.execute(
            """
            SELECT m.id, m.key, m.channel, m.kind, m.content, m.created_at, m.attempts,
                   c.kind AS channel_kind, c.address,
                   CASE WHEN c.secret IS NULL THEN '{}'
                        ELSE c.secret || ARRAY(SELECT f.secret FROM webhook_former_secret AS f
                                               WHERE f.webhook = c.id AND f.until > %(now)s
                                               ORDER BY f.until DESC, f.secret)
                   END AS secrets,
                   (c.removed_at IS NOT NULL OR p.active IS FALSE) AS removed, c.username,
                   p.language
            FROM notification_message AS m
            JOIN notification_channel AS c ON c.id = m.channel
            LEFT JOIN person AS p ON p.username = c.username
            WHERE m.finished_at IS NULL AND m.next_at <= %(now)s
              AND NOT m.channel = ANY (%(busy)s)
              AND NOT EXISTS (SELECT FROM notification_message AS e
                              WHERE e.channel = m.channel AND e.finished_at IS NULL
                                AND e.id < m.id)
            ORDER BY m.next_at
            LIMIT %(limit)s
            """,
            {"now": now, "busy": list(busy), "limit": limit},
        ).fetchall()


def unheard(conn: Connection, message: int) -> set[UUID]:
    """Return the alerts of a message of which its channel never heard that they were raised."""
    return {
        alert
        for (alert,) in conn.execute(
            """
            SELECT n.alert
            FROM notification AS n
            WHERE n.message = %s
              AND NOT EXISTS (
                  SELECT FROM notification AS r
                  JOIN notification_message AS m ON m.id = r.message
                  WHERE r.alert = n.alert AND r.channel = n.channel AND r.id < n.id
                    AND r.kind <> 'cleared' AND (m.state = 'sent' OR m.unsure)
                    AND r.id > coalesce((SELECT max(c.id) FROM notification AS c
                                         WHERE c.alert = n.alert AND c.channel = n.channel
                                           AND c.kind = 'cleared' AND c.id < n.id), 0)
              )
            """,
            (message,),
        )
    }


def in_sight(conn: Connection, message: int) -> dict[UUID, bool]:
    """Return the alerts of a message, and whether who is told may see each as of now.

    People move to other areas and roles while a digest, or another attempt, waits.
    """
    return dict(
        conn.execute(
            """
            SELECT n.alert,
                   bool_and(a.path @> t.path
                            AND (t.rule <> %(duress)s
                                 OR coalesce(p.role = ANY (%(roles)s), c.duress)))
            FROM notification AS n
            JOIN alert_view AS t ON t.id = n.alert
            JOIN notification_channel AS c ON c.id = n.channel
            LEFT JOIN person AS p ON p.username = c.username
            JOIN area AS a ON a.area = coalesce(p.area, c.area)
            WHERE n.message = %(message)s
            GROUP BY n.alert
            """,
            {"message": message, "duress": DURESS, "roles": sorted(DURESS_ROLES)},
        )
    )


def attempt(conn: Connection, message: int, next_at: datetime, content: dict[str, Any]) -> None:
    """Note that a message is about to be sent; if nobody says how it went, again at ``next_at``."""
    conn.execute(
        """
        UPDATE notification_message
        SET state = 'sending', attempts = attempts + 1, next_at = %s, content = %s
        WHERE id = %s
        """,
        (next_at, Jsonb(content), message),
    )


def again(conn: Connection, message: int, next_at: datetime, error: str, *, unsure: bool) -> None:
    """Note that an attempt failed, and when the next is."""
    conn.execute(
        """
        UPDATE notification_message
        SET state = 'waiting', next_at = %s, error = %s, unsure = unsure OR %s
        WHERE id = %s
        """,
        (next_at, error, unsure, message),
    )


def finish(
    conn: Connection,
    message: int,
    state: str,
    now: datetime,
    *,
    error: str | None = None,
    unsure: bool = False,
) -> None:
    """Note how a message ended: ``sent``, ``given_up`` or ``unheard``."""
    conn.execute(
        """
        UPDATE notification_message
        SET state = %s, finished_at = %s, error = %s, unsure = unsure OR %s
        WHERE id = %s
        """,
        (state, now, error, unsure, message),
    )


def recover(conn: Connection, now: datetime) -> int:
    """Have what was being sent when a process ended sent again, under the same key; return it."""
    return conn.execute(
        """
        UPDATE notification_message SET state = 'waiting', next_at = %s, unsure = true
        WHERE state = 'sending'
        """,
        (now,),
    ).rowcount


def backlog(conn: Connection) -> tuple[int, datetime | None]:
    """Return how many messages wait to be sent, and since when the oldest does."""
    row = conn.execute(
        "SELECT count(*), min(created_at) FROM notification_message WHERE finished_at IS NULL"
    ).fetchone()
    assert row is not None
    return row[0], row[1]
