# SPDX-License-Identifier: Apache-2.0
"""What was refused: raw bytes and reason, kept so that nothing vanishes unexplained."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import Connection
from psycopg.rows import class_row

from edge_agent.messages import AnyLane
from ingest.partitions import ALL, NAMES, Partitions

# Of one gateway; what is refused beyond that is counted and no longer kept.
KEPT_A_DAY_MAX: Final = 1_000


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


def insert(conn: Connection, lane: AnyLane, letters: Sequence[DeadLetter]) -> None:
    """Count refusals, and keep those that are among their gateway's first of the day."""
    counted = Counter((letter.gateway or "", letter.reason) for letter in letters)
    today = letters[0].received_at.date()
    conn.execute(
        """
        INSERT INTO dead_letter_count AS c (day, gateway, reason, count)
        SELECT %s, gateway, reason, count
        FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS n (gateway, reason, count)
        ORDER BY gateway, reason
        ON CONFLICT (day, gateway, reason) DO UPDATE SET count = c.count + excluded.count
        """,
        (
            today,
            [gateway for gateway, _ in counted],
            [reason for _, reason in counted],
            list(counted.values()),
        ),
    )
    refused: dict[str, int] = dict(
        conn.execute(
            """
            SELECT gateway, sum(count)::bigint FROM dead_letter_count
            WHERE day = %s AND gateway = ANY (%s) GROUP BY gateway
            """,
            (today, sorted({gateway for gateway, _ in counted})),
        ).fetchall()
    )
    room = Counter(
        {
            gateway: KEPT_A_DAY_MAX
            - (total - sum(n for (of, _), n in counted.items() if of == gateway))
            for gateway, total in refused.items()
        }
    )
    kept: list[DeadLetter] = []
    for letter in letters:
        room[letter.gateway or ""] -= 1
        if room[letter.gateway or ""] >= 0:
            kept.append(letter)
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO dead_letter
                (lane, received_at, gateway, topic, reason, detail, stream, seq, at_index, sha256,
                 raw)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    lane,
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
                for letter in kept
            ],
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A dead letter that somebody asked to be judged again, with its whole payload."""

    id: int
    received_at: datetime
    topic: str
    raw: bytes
    at_index: int | None
    numbered: bool


def take_asked(
    conn: Connection, lane: AnyLane, limit: int, partitions: Partitions = ALL
) -> list[Asked]:
    """Lock and return letters of some partitions that shall be judged again, oldest first.

    Letters whose topic names no partition are counted to the first one.
    """
    with conn.cursor(row_factory=class_row(Asked)) as cursor:
        return cursor.execute(
            """
            SELECT d.id, d.received_at, d.topic, coalesce(d.raw, w.raw) AS raw, d.at_index,
                   d.stream IS NOT NULL AND d.seq IS NOT NULL AS numbered
            FROM dead_letter AS d
            LEFT JOIN LATERAL (
                SELECT raw FROM dead_letter
                WHERE sha256 = d.sha256 AND received_at = d.received_at AND raw IS NOT NULL LIMIT 1
            ) AS w ON true
            WHERE d.lane = %s AND d.replay_asked_at IS NOT NULL AND d.replayed_at IS NULL
              AND coalesce(substring(d.topic FROM '^[^/]*/[^/]*/([0-3][0-9a-f])/'), %s) = ANY (%s)
            ORDER BY d.id LIMIT %s
            FOR UPDATE OF d SKIP LOCKED
            """,
            (lane, NAMES[0], sorted(partitions), limit),
        ).fetchall()


def settle_asked(conn: Connection, letter: int, now: datetime, refused: str | None) -> None:
    """Write what became of a letter: stored (None), or the reason why it still cannot be."""
    conn.execute(
        """
        UPDATE dead_letter
        SET replayed_at = %s, replay_result = %s,
            replay_asked_at = CASE WHEN %s THEN replay_asked_at END
        WHERE id = %s
        """,
        (now if refused is None else None, refused or "stored", refused is None, letter),
    )
