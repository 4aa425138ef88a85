# SPDX-License-Identifier: Apache-2.0
"""What is kept for a time only, beside readings: answers to keyed requests, the log of tellings,
secrets that were replaced.

Each statement drops at most `BATCH` of them, so that none holds locks for long.
"""

from datetime import datetime, timedelta
from typing import Final, LiteralString

from psycopg import Connection

#: So many are dropped at once.
BATCH: Final = 1_000
#: An answer is told again for so long, and goes soon after.
ANSWERS_KEPT: Final = timedelta(hours=24)
#: As long as raw readings: who was told of something can be shown as long as what it was about.
TELLINGS_KEPT: Final = timedelta(days=400)

#: Drops answers from up to an instant, but for those that somebody holds; for the api as well.
DROP_ANSWERS: Final[LiteralString] = """
    DELETE FROM idempotency AS i
    USING (
        SELECT o.principal, o.key FROM idempotency AS o WHERE o.at <= %(before)s
        LIMIT %(count)s FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE i.principal = old.principal AND i.key = old.key
"""


def drop_answers(conn: Connection, now: datetime) -> int:
    """Drop some answers whose time is over; return how many."""
    asked = {"before": now - ANSWERS_KEPT, "count": BATCH}
    return conn.execute(DROP_ANSWERS, asked).rowcount


def drop_secrets(conn: Connection, now: datetime) -> int:
    """Drop secrets of webhooks that do not sign any more; return how many."""
    return conn.execute(
        """
        DELETE FROM webhook_former_secret AS f
        USING (
            SELECT o.webhook, o.secret FROM webhook_former_secret AS o WHERE o.until <= %(now)s
            LIMIT %(count)s
        ) AS old
        WHERE f.webhook = old.webhook AND f.secret = old.secret
        """,
        {"now": now, "count": BATCH},
    ).rowcount


def drop_messages(conn: Connection, now: datetime) -> int:
    """Drop some messages whose time is over, with the tellings in them; return how many.

    While an alert goes on, what was told of it stays: whoever heard of it is to hear its end.
    """
    return conn.execute(
        """
        WITH old AS MATERIALIZED (
            SELECT m.id
            FROM notification_message AS m
            WHERE m.created_at <= %(before)s AND m.finished_at <= %(before)s
              AND NOT EXISTS (
                  SELECT FROM notification AS n
                  JOIN alert AS a ON a.id = n.alert
                  WHERE n.message = m.id AND (a.active OR a.changed_at > %(before)s))
            ORDER BY m.created_at, m.id
            LIMIT %(count)s
        ), tellings AS (
            DELETE FROM notification AS n USING old WHERE n.message = old.id
        )
        DELETE FROM notification_message AS m USING old WHERE m.id = old.id
        """,
        {"before": now - TELLINGS_KEPT, "count": BATCH},
    ).rowcount


def drop_cancelled(conn: Connection, now: datetime) -> int:
    """Drop some tellings whose time is over and that became no message; return how many."""
    return conn.execute(
        """
        DELETE FROM notification AS n
        USING (
            SELECT o.id FROM notification AS o
            WHERE o.message IS NULL AND o.cancelled_at <= %(before)s
            LIMIT %(count)s
        ) AS old
        WHERE n.id = old.id
        """,
        {"before": now - TELLINGS_KEPT, "count": BATCH},
    ).rowcount
