# SPDX-License-Identifier: Apache-2.0
"""What is told of alerts: the outbox, chains, channels, escalations, and what came of it.

All of it is written by one process at a time, which claimed it; people's own settings by the api.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.alerts import Done
from ingest.notify.chains import Chain, Level, Placed, Role
from ingest.notify.grouping import Kind, Waiting
from ingest.notify.recipients import (
    DURESS,
    DURESS_ROLES,
    Channel,
    Person,
    Preferences,
    Telling,
)
from ingest.rules import Severity
from ingest.store.rules import NAME

#: So much of the outbox, or of what is due, is taken at once.
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


@dataclass(frozen=True, slots=True)
class Escalation:
    """Where telling an alert stands."""

    alert: UUID
    chain: dict[str, Any]  # Any: JSON
    started_at: datetime
    position: int
    reached: bool
    hurry: bool


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


# -- whom -----------------------------------------------------------------------------------------


def chains(conn: Connection, path: str) -> list[Placed]:
    """Return the chains of an area and of all above it."""
    return [
        Placed(str(chain), place, Chain.model_validate(content))
        for chain, place, content in conn.execute(
            """
            SELECT c.id, a.path::text, c.chain
            FROM notification_chain AS c
            JOIN area AS a ON a.area = c.area
            WHERE a.path @> %s::text::ltree
            """,
            (path,),
        )
    ]


def people(conn: Connection, path: str) -> list[Person]:
    """Return all active people whose area holds ``path``: nobody else may be told of it."""
    channels: dict[str, list[Channel]] = {}
    for username, channel, kind, enabled in conn.execute(
        """
        SELECT c.username, c.id, c.kind, c.enabled
        FROM notification_channel AS c
        JOIN person AS p ON p.username = c.username
        JOIN area AS a ON a.area = p.area
        WHERE c.removed_at IS NULL AND a.path @> %s::text::ltree
        ORDER BY c.created_at, c.id
        """,
        (path,),
    ):
        channels.setdefault(username, []).append(Channel(channel, kind, enabled))
    rows: list[tuple[str, Role, str, Level | str, dict[str, Any] | None]] = conn.execute(
        """
        SELECT p.username, p.role, a.path::text, a.level, w.wanted
        FROM person AS p
        JOIN area AS a ON a.area = p.area
        LEFT JOIN notification_preference AS w ON w.username = p.username
        WHERE p.active AND a.path @> %s::text::ltree
        ORDER BY p.username
        """,
        (path,),
    ).fetchall()
    return [
        Person(
            username,
            role,
            place,
            _level(level),
            tuple(channels.get(username, ())),
            Preferences() if wanted is None else Preferences.model_validate(wanted),
        )
        for username, role, place, level, wanted in rows
    ]


def _level(level: str) -> Level:
    match level:
        case "cell" | "community" | "street" | "district":
            return level
        case _:
            return "city"  # whatever lies above answers for it


def webhooks(conn: Connection, path: str) -> list[Channel]:
    """Return the webhooks of all areas that hold ``path``."""
    return [
        Channel(channel, "webhook", enabled, duress, place)
        for channel, enabled, duress, place in conn.execute(
            """
            SELECT c.id, c.enabled, c.duress, a.path::text
            FROM notification_channel AS c
            JOIN area AS a ON a.area = c.area
            WHERE c.removed_at IS NULL AND a.path @> %s::text::ltree
            """,
            (path,),
        )
    ]


# -- escalations ----------------------------------------------------------------------------------


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


# -- messages -------------------------------------------------------------------------------------


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
    secret: str | None
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
                   c.kind AS channel_kind, c.address, c.secret,
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
