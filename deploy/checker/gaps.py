# SPDX-License-Identifier: Apache-2.0
"""Does every gap record equal a real eviction, and what does no record explain? (I6)"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from deploy.checker.facts import Difference, Message


class Gap(NamedTuple):
    """A range of a stream that will never come."""

    gateway: str
    lane: str
    stream: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Gaps:
    """Gap records against what agents said they evicted."""

    records: int  # in the database, evicted by an agent
    evicted: int  # messages they stand for
    vanished: int  # messages that ingest gave up, because their gateway does not have them
    wrong: int

    @property
    def ok(self) -> bool:
        """Every record is true, and no event was given up."""
        return not self.wrong


def told(ledger: sqlite3.Connection) -> list[tuple[Gap, int]]:
    """The gaps that agents accepted as events, with the number of messages in them."""
    rows = ledger.execute("SELECT gateway, lane, stream, first, last, count FROM gap")
    return [(Gap(*key), count) for *key, count in rows]


def messages_in(gaps: Collection[Gap]) -> set[Message]:
    """Every message that lies in one of the gaps."""
    return {
        Message(gap.gateway, gap.stream, seq)
        for gap in gaps
        for seq in range(gap.first, gap.last + 1)
    }


def compare(
    ledger: sqlite3.Connection,
    conn: psycopg.Connection,
    missing: Collection[Message],
    differences: list[Difference],
) -> Gaps:
    """Compare the records with what was evicted.

    Args:
        ledger: Knows what agents evicted.
        conn: Holds the records.
        missing: Accepted messages of which nothing is stored.
        differences: What does not agree is added.
    """
    due = dict(told(ledger))
    rows = conn.execute(
        """
        SELECT s.gateway, s.lane, s.stream, g.first, g.last, g.count, g.cause
        FROM stream_gap AS g
        JOIN gateway_stream AS s ON s.id = g.stream_id
        ORDER BY g.id
        """
    ).fetchall()
    vanished = sum(count for *_, count, cause in rows if cause == "vanished")
    records = [(Gap(*key), count) for *key, count, cause in rows if cause == "evicted"]
    wrong: list[Difference] = []
    lacking: defaultdict[str, set[int]] = defaultdict(set)
    for message in missing:
        lacking[message.stream].add(message.seq)
    for gap, times in Counter(gap for gap, _ in records).items():
        if gap not in due:
            wrong.append(Difference("gap never told", str(gap)))
        elif times > 1:
            wrong.append(Difference("gap recorded too often", f"{gap}, {times} times"))
    for gap, count in records:
        really = len(lacking[gap.stream] & set(range(gap.first, gap.last + 1)))
        if count != really:
            wrong.append(
                Difference("gap miscounted", f"{gap} says {count}, {really} are not stored")
            )
        if gap.lane == "event":
            wrong.append(Difference("events evicted", str(gap)))
    recorded = {gap for gap, _ in records}
    for gap in due.keys() - recorded:
        # A gap in which everything had been stored after all needs no record.
        if lacking[gap.stream] & set(range(gap.first, gap.last + 1)):
            wrong.append(Difference("gap not recorded", str(gap)))
    differences += wrong
    return Gaps(
        records=len(records),
        evicted=sum(count for _, count in records),
        vanished=vanished,
        wrong=len(wrong),
    )
