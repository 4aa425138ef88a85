# SPDX-License-Identifier: Apache-2.0
"""Which seqs of which stream are stored: deduplication by message, and the watermark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg import Connection

StreamKey = tuple[str, str]  # gateway, stream


@dataclass(frozen=True, slots=True)
class Numbered:
    """One message's number; ``index`` is its place in the flush."""

    index: int
    stream_id: int
    seq: int


def ensure(conn: Connection, lane: str, keys: Sequence[StreamKey]) -> dict[StreamKey, int]:
    """Return the ids of streams, making those that are new."""
    gateways, streams = [gateway for gateway, _ in keys], [stream for _, stream in keys]
    conn.execute(
        """
        INSERT INTO gateway_stream (gateway, stream, lane)
        SELECT gateway, stream, %s FROM unnest(%s::text[], %s::text[]) AS k (gateway, stream)
        ORDER BY gateway, stream
        ON CONFLICT (gateway, stream) DO NOTHING
        """,
        (lane, gateways, streams),
    )
    rows = conn.execute(
        """
        SELECT s.gateway, s.stream, s.id
        FROM gateway_stream AS s
        JOIN unnest(%s::text[], %s::text[]) AS k (gateway, stream) USING (gateway, stream)
        """,
        (gateways, streams),
    ).fetchall()
    return {(gateway, stream): stream_id for gateway, stream, stream_id in rows}


def lock_and_pick_new(conn: Connection, messages: Sequence[Numbered]) -> set[int]:
    """Lock the streams in id order and return the indices of messages not stored before.

    Rows are locked in one order, so writers cannot deadlock, and a waiting writer sees the
    winner's seqs. Two equal seqs within the flush must have been dropped by the caller.
    """
    rows = conn.execute(
        """
        WITH locked AS (
            SELECT id, seen FROM gateway_stream WHERE id = ANY (%(ids)s) ORDER BY id FOR UPDATE
        )
        SELECT m.i
        FROM unnest(%(i)s::int[], %(stream)s::bigint[], %(seq)s::bigint[]) AS m (i, id, seq)
        JOIN locked AS l USING (id)
        WHERE NOT l.seen @> m.seq
        """,
        {
            "ids": sorted({message.stream_id for message in messages}),
            "i": [message.index for message in messages],
            "stream": [message.stream_id for message in messages],
            "seq": [message.seq for message in messages],
        },
    ).fetchall()
    return {index for (index,) in rows}


def add(conn: Connection, messages: Sequence[Numbered]) -> None:
    """Record messages as stored."""
    conn.execute(
        """
        UPDATE gateway_stream AS g
        SET seen = g.seen + a.added
        FROM (
            SELECT id, range_agg(int8range(seq, seq, '[]')) AS added
            FROM unnest(%s::bigint[], %s::bigint[]) AS m (id, seq)
            GROUP BY id
        ) AS a
        WHERE g.id = a.id
        """,
        ([message.stream_id for message in messages], [message.seq for message in messages]),
    )


def add_range(conn: Connection, gateway: str, stream: str, lane: str, first: int, last: int) -> int:
    """Close ``[first, last]`` of a stream, evicted on the edge; return how many were missing."""
    stream_id = ensure(conn, lane, [(gateway, stream)])[gateway, stream]
    row = conn.execute(
        """
        WITH before AS (SELECT id, seen FROM gateway_stream WHERE id = %(id)s FOR UPDATE),
        missing AS (
            SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint AS count
            FROM before, unnest(int8multirange(int8range(%(first)s, %(last)s, '[]')) - seen) AS r
        ),
        closed AS (
            UPDATE gateway_stream AS g
            SET seen = g.seen + int8multirange(int8range(%(first)s, %(last)s, '[]'))
            FROM before WHERE g.id = before.id
        )
        SELECT count FROM missing
        """,
        {"id": stream_id, "first": first, "last": last},
    ).fetchone()
    return 0 if row is None else row[0]


def insert_gap(
    conn: Connection,
    key: StreamKey,
    *,
    first: int,
    last: int,
    count: int,
    cause: Literal["evicted", "vanished"],
    at: datetime,
    received_at: datetime,
) -> None:
    """Record that ``count`` messages of a stream within ``[first, last]`` will never come."""
    conn.execute(
        """
        INSERT INTO stream_gap (stream_id, first, last, count, cause, at, received_at)
        SELECT id, %s, %s, %s, %s, %s, %s FROM gateway_stream WHERE gateway = %s AND stream = %s
        """,
        (first, last, count, cause, at, received_at, *key),
    )


def watermarks(conn: Connection, ids: Sequence[int]) -> dict[StreamKey, int]:
    """Return per stream the contiguous seq: every message up to it is stored."""
    rows = conn.execute(
        """
        SELECT gateway, stream, CASE WHEN lower(seen) = 1
            THEN (SELECT upper(r) - 1 FROM unnest(seen) AS r LIMIT 1) ELSE 0 END
        FROM gateway_stream
        WHERE id = ANY (%s)
        """,
        (list(ids),),
    ).fetchall()
    return {(gateway, stream): upto for gateway, stream, upto in rows}


def watermarks_of(conn: Connection, keys: Sequence[StreamKey]) -> Mapping[StreamKey, int]:
    """Return the watermarks of named streams; streams never heard of are left out."""
    rows = conn.execute(
        """
        SELECT s.id
        FROM gateway_stream AS s
        JOIN unnest(%s::text[], %s::text[]) AS k (gateway, stream) USING (gateway, stream)
        """,
        ([gateway for gateway, _ in keys], [stream for _, stream in keys]),
    ).fetchall()
    return watermarks(conn, [stream_id for (stream_id,) in rows])
