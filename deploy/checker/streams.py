# SPDX-License-Identifier: Apache-2.0
"""Do the streams' own books agree with what was accepted, and with what was acknowledged?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import psycopg

from deploy.checker.facts import Difference, Message

StreamKey = tuple[str, str]  # gateway, stream
Ranges = list[tuple[int, int]]  # [first, last], in order


def seen(conn: psycopg.Connection) -> dict[StreamKey, Ranges]:
    """Which seqs each stream's row names as done."""
    rows = conn.execute(
        """
        SELECT s.gateway, s.stream, lower(r), upper(r) - 1
        FROM gateway_stream AS s, unnest(s.seen) WITH ORDINALITY AS u (r, place)
        ORDER BY s.id, place
        """
    )
    found: dict[StreamKey, Ranges] = defaultdict(list)
    for gateway, stream, first, last in rows:
        found[gateway, stream].append((first, last))
    return dict(found)


def watermark(ranges: Ranges) -> int:
    """Up to which seq everything is done."""
    return ranges[0][1] if ranges and ranges[0][0] == 1 else 0


def compare(
    messages: Iterable[Message],
    books: Mapping[StreamKey, Ranges],
    forfeited: Collection[Message],
    differences: list[Difference],
) -> None:
    """Every accepted message is marked as done in its stream's row."""
    for message in messages:
        ranges = books.get((message.gateway, message.stream), [])
        if message not in forfeited and not any(
            first <= message.seq <= last for first, last in ranges
        ):
            differences.append(Difference("message not marked as stored", str(message)))
