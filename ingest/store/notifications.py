# SPDX-License-Identifier: Apache-2.0
"""What is told of alerts: the outbox, and what each channel is to be told of each alert.

All of it is written by one process at a time, which claimed it; people's own settings by the api.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.alerts import Done
from ingest.notify.grouping import Kind, Waiting
from ingest.notify.recipients import Telling
from ingest.rules import Severity
from ingest.store.rules import NAME

#: So much of the outbox is taken at once.
BATCH: Final = 500


HAS_WORK: Final[LiteralString] = """
    SELECT EXISTS (SELECT FROM alert_history WHERE NOT told)
        OR EXISTS (SELECT FROM notification_escalation WHERE next_at <= %(now)s)
        OR EXISTS (SELECT FROM notification
                   WHERE message IS NULL AND cancelled_at IS NULL AND due_at <= %(now)s)
        OR EXISTS (SELECT FROM notification_message
                   WHERE finished_at IS NULL AND next_at <= %(now)s)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A change of an alert of which nobody was told yet."""

    id: int
    alert: UUID
    action: Done


@dataclass(frozen=True, slots=True)
class Facts:
    """An alert as it is now. ``raised_at`` is when it was raised last."""

    id: UUID
    rule: str
    severity: Severity
    life_safety: bool
    active: bool
    acknowledged: bool
    latched: bool
    quiet: bool
    late: bool
    repeats: int
    raised_at: datetime
    cleared_at: datetime | None
    subject: str
    name: str
    name_en: str | None
    community: str
    community_name: str
    community_name_en: str | None
    path: str
    time_zone: str
    rule_name: dict[str, str] | None


def has_work(conn: Connection, now: datetime) -> bool:
    """Whether there is anything to do: what an idle second costs, four looks into small indexes."""
    row = conn.execute(HAS_WORK, {"now": now}).fetchone()
    return row is not None and bool(row[0])


# -- the outbox -----------------------------------------------------------------------------------


def take_untold(conn: Connection) -> list[Entry]:
    """Return the oldest changes nobody was told of, marked as told within this transaction."""
    with conn.cursor(row_factory=class_row(Entry)) as cursor:
        rows = cursor.execute(
            """
            UPDATE alert_history AS h SET told = true
            FROM (SELECT id FROM alert_history WHERE NOT told ORDER BY id LIMIT %s) AS u
            WHERE h.id = u.id
            RETURNING h.id, h.alert, h.action
            """,
            (BATCH,),
        ).fetchall()
    return sorted(rows, key=lambda entry: entry.id)


def facts(conn: Connection, alerts: Iterable[UUID]) -> dict[UUID, Facts]:
    """Return alerts as they are now, by id."""
    with conn.cursor(row_factory=class_row(Facts)) as cursor:
        rows = cursor.execute(
            sql.SQL(
                """
                SELECT t.id, t.rule, t.severity, t.life_safety, t.active, t.acknowledged, t.latched,
                       t.quiet, t.late, t.repeats, t.last_raised_at AS raised_at, t.cleared_at,
                       t.subject, t.name, t.name_en, t.community, c.name AS community_name,
                       c.name_en AS community_name_en, t.path::text, c.time_zone,
                       {name} AS rule_name
                FROM alert_view AS t
                JOIN area AS c ON c.area = t.community
                WHERE t.id = ANY (%s)
                """
            ).format(name=sql.SQL(NAME)),
            (list(set(alerts)),),
        ).fetchall()
    return {row.id: row for row in rows}


def note_step(conn: Connection, alert: UUID, at: datetime, step: int, channels: int) -> None:
    """Put into an alert's history that its next step was told, and by how many channels."""
    conn.execute(
        """
        INSERT INTO alert_history (alert, at, actor, action, reason, params, told)
        VALUES (%s, %s, 'design', 'escalated', 'step', %s, true)
        """,
        (alert, at, Jsonb({"step": step + 1, "channels": channels})),
    )


def note_undelivered(conn: Connection, message: int, channel_kind: str, at: datetime) -> None:
    """Put into the history of a message's alerts that somebody could not be told of them."""
    conn.execute(
        """
        INSERT INTO alert_history (alert, at, actor, action, reason, params, told)
        SELECT DISTINCT n.alert, %(at)s::timestamptz, 'design', 'escalated', 'undelivered',
               jsonb_build_object('channel', %(channel)s::text), true
        FROM notification AS n
        WHERE n.message = %(message)s
        """,
        {"at": at, "channel": channel_kind, "message": message},
    )


# -- notifications --------------------------------------------------------------------------------


def notify(
    conn: Connection, fact: Facts, kind: Kind, tellings: Iterable[Telling], now: datetime
) -> None:
    """Note that channels are to be told of an alert."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO notification (alert, channel, community, kind, digest, created_at, due_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (fact.id, one.channel, fact.community, kind, one.digest, now, one.due_at)
                for one in tellings
            ],
        )


def cancel(conn: Connection, alert: UUID, now: datetime) -> None:
    """Drop what nobody was told yet of an alert's being raised."""
    conn.execute(
        """
        UPDATE notification SET cancelled_at = %s
        WHERE alert = %s AND message IS NULL AND cancelled_at IS NULL AND kind <> 'cleared'
        """,
        (now, alert),
    )


def heard(conn: Connection, alert: UUID) -> list[UUID]:
    """Return the channels that heard, or may yet hear, that an alert was raised, not its end."""
    return [
        channel
        for (channel,) in conn.execute(
            """
            SELECT n.channel
            FROM notification AS n
            LEFT JOIN notification_message AS m ON m.id = n.message
            WHERE n.alert = %s AND n.cancelled_at IS NULL
            GROUP BY n.channel
            HAVING max(n.id) FILTER (
                       WHERE n.kind <> 'cleared'
                         AND (m.state IS NULL OR m.state <> 'given_up' OR m.unsure)
                   ) > coalesce(max(n.id) FILTER (WHERE n.kind = 'cleared'), 0)
            """,
            (alert,),
        )
    ]


def end_was_told(conn: Connection, alert: UUID) -> bool:
    """Whether the last that anybody was, or is to be, told of an alert is its end."""
    row = conn.execute(
        """
        SELECT kind = 'cleared' FROM notification
        WHERE alert = %s AND cancelled_at IS NULL
        ORDER BY id DESC
        LIMIT 1
        """,
        (alert,),
    ).fetchone()
    return row is not None and row[0]


def waiting(conn: Connection, now: datetime) -> dict[UUID, list[Waiting]]:
    """Return what is not yet part of a message, by channel, where something of it is due."""
    found: dict[UUID, list[Waiting]] = {}
    for channel, *columns in conn.execute(
        """
        SELECT n.channel, n.id, n.alert, n.community, n.kind, n.digest, n.due_at
        FROM notification AS n
        WHERE n.message IS NULL AND n.cancelled_at IS NULL
          AND n.channel IN (SELECT w.channel FROM notification AS w
                            WHERE w.message IS NULL AND w.cancelled_at IS NULL
                              AND w.due_at <= %s)
        ORDER BY n.id
        LIMIT 10000
        """,
        (now,),
    ):
        found.setdefault(channel, []).append(Waiting(*columns))
    return found


def hold(conn: Connection, notifications: Sequence[int], until: datetime) -> None:
    """Let notifications wait."""
    conn.execute(
        "UPDATE notification SET due_at = greatest(due_at, %s) WHERE id = ANY (%s)",
        (until, list(notifications)),
    )
