# SPDX-License-Identifier: Apache-2.0
"""What was refused: raw bytes and reason, kept so that nothing vanishes unexplained."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused message, or one refused reading of it."""

    received_at: datetime
    gateway: str | None
    topic: str
    reason: str
    detail: str
    sha256: bytes
    raw: bytes | None  # None: the same message's raw bytes lie with an earlier row
    stream: str | None = None
    seq: int | None = None
    at_index: int | None = None


def insert(conn: Connection, letters: Sequence[DeadLetter]) -> None:
    """Store dead letters."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO dead_letter
                (received_at, gateway, topic, reason, detail, stream, seq, at_index, sha256, raw)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    letter.received_at,
                    letter.gateway,
                    letter.topic,
                    letter.reason,
                    letter.detail[:500],
                    letter.stream,
                    letter.seq,
                    letter.at_index,
                    letter.sha256,
                    letter.raw,
                )
                for letter in letters
            ],
        )
