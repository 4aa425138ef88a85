# SPDX-License-Identifier: Apache-2.0
"""Which messages were begun by processes that did not end in order.

A message that ends the process would come again for ever; counting before it is begun finds it.
Whoever is killed from outside has some message in hand, too, and finds the same one at the head of
what comes again. So several attempts are needed, and streams with messages begun in vain go last:
what ends the process does so every time, while others get on.
"""

from collections.abc import Mapping
from typing import Final

from psycopg import Connection

ATTEMPTS_MAX: Final = 5


def start(conn: Connection, lane: str) -> bool:
    """Note that a process of this lane runs; return whether the last one ended in order."""
    with conn.transaction():
        row = conn.execute("SELECT clean FROM ingest_lane WHERE lane = %s", (lane,)).fetchone()
        conn.execute(
            """
            INSERT INTO ingest_lane (lane, clean) VALUES (%s, false)
            ON CONFLICT (lane) DO UPDATE SET clean = false
            """,
            (lane,),
        )
    return row is None or row[0]


def end(conn: Connection, lane: str) -> None:
    """Note that the process of this lane ends in order."""
    with conn.transaction():
        conn.execute("UPDATE ingest_lane SET clean = true WHERE lane = %s", (lane,))
        forget(conn, lane)


def begun(conn: Connection, lane: str) -> Mapping[bytes, int]:
    """Return how often which messages, by SHA-256, were begun by processes that then ended."""
    return dict(
        conn.execute("SELECT sha256, attempts FROM ingest_attempt WHERE lane = %s", (lane,))
    )


def begin(conn: Connection, lane: str, sha256: bytes) -> None:
    """Count, committed, that a message is begun."""
    with conn.transaction():
        conn.execute(
            """
            INSERT INTO ingest_attempt AS a (lane, sha256, attempts) VALUES (%s, %s, 1)
            ON CONFLICT (lane, sha256) DO UPDATE SET attempts = a.attempts + 1
            """,
            (lane, sha256),
        )


def forget(conn: Connection, lane: str) -> None:
    """Forget what was counted: what was redelivered is through."""
    conn.execute("DELETE FROM ingest_attempt WHERE lane = %s", (lane,))
