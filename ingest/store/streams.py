# SPDX-License-Identifier: Apache-2.0
"""Which seqs of which stream are stored: deduplication by message, and the watermark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from psycopg import Connection
from psycopg.rows import class_row

StreamKey = tuple[str, str]  # gateway, stream
# Beyond these a gateway is broken or hostile; each range costs every later message.
RANGES_MAX: Final = 1_000
NEW_STREAMS_A_DAY_MAX: Final = 16
# How far beyond what a stream is known for a gap may reach: years of messages, and yet not all
# numbers there are, which would make a duplicate of whatever comes later.
GAP_AHEAD_MAX: Final = 100_000_000
# Ranges beyond the watermark that an ack names.
BEYOND_MAX: Final = 16


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
    return ids_of(conn, keys)


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


def keep_digests(conn: Connection, messages: Sequence[tuple[Numbered, bytes]]) -> None:
    """Remember the content of messages by their number."""
    if messages:
        conn.execute(
            """
            INSERT INTO event_digest (stream_id, seq, sha256)
            SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bytea[])
            ON CONFLICT DO NOTHING
            """,
            (
                [message.stream_id for message, _ in messages],
                [message.seq for message, _ in messages],
                [sha256 for _, sha256 in messages],
            ),
        )


def contradicting(conn: Connection, messages: Sequence[tuple[Numbered, bytes]]) -> set[int]:
    """Return the indices of messages whose number is known with another content."""
    rows = conn.execute(
        """
        SELECT m.i
        FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::bytea[])
            AS m (i, stream_id, seq, sha256)
        JOIN event_digest AS d USING (stream_id, seq)
        WHERE d.sha256 <> m.sha256
        """,
        (
            [message.index for message, _ in messages],
            [message.stream_id for message, _ in messages],
            [message.seq for message, _ in messages],
            [sha256 for _, sha256 in messages],
        ),
    ).fetchall()
    return {index for (index,) in rows}


def missing_below(
    conn: Connection, bounds: Mapping[StreamKey, int]
) -> list[tuple[StreamKey, int, int]]:
    """Return the ranges ``(stream, first, last)`` below each stream's bound that are not stored."""
    rows = conn.execute(
        """
        SELECT k.gateway, k.stream, lower(h), upper(h) - 1
        FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS k (gateway, stream, bound)
        LEFT JOIN gateway_stream AS s USING (gateway, stream),
            unnest(int8multirange(int8range(1, k.bound)) - coalesce(s.seen, '{}')) AS h
        ORDER BY 1, 2, 3
        """,
        (
            [gateway for gateway, _ in bounds],
            [stream for _, stream in bounds],
            list(bounds.values()),
        ),
    ).fetchall()
    return [((gateway, stream), first, last) for gateway, stream, first, last in rows]


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


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a stream is stored: all up to ``upto``, and the ranges beyond the first hole."""

    upto: int
    beyond: tuple[tuple[int, int], ...] = ()

    def holds(self, seq: int) -> bool:
        """Whether a number is among these."""
        return seq <= self.upto or any(first <= seq <= last for first, last in self.beyond)


def watermarks(conn: Connection, ids: Sequence[int]) -> dict[StreamKey, Mark]:
    """Return how far streams are stored; of the ranges beyond a hole the lowest few."""
    rows = conn.execute(
        """
        SELECT gateway, stream,
               ARRAY(SELECT ARRAY[lower(r), upper(r) - 1]
                     FROM unnest(seen) WITH ORDINALITY AS u (r, place)
                     ORDER BY place LIMIT %s)
        FROM gateway_stream
        WHERE id = ANY (%s)
        """,
        (BEYOND_MAX + 1, list(ids)),
    ).fetchall()
    return {(gateway, stream): _mark(ranges) for gateway, stream, ranges in rows}


def _mark(ranges: Sequence[Sequence[int]]) -> Mark:
    first, *rest = ranges or ([0, 0],)
    if first[0] != 1:
        return Mark(0, tuple((low, high) for low, high in ranges[:BEYOND_MAX]))
    return Mark(first[1], tuple((low, high) for low, high in rest))


def watermarks_of(conn: Connection, keys: Sequence[StreamKey]) -> Mapping[StreamKey, Mark]:
    """Return how far named streams are stored; streams never heard of are left out."""
    return watermarks(conn, list(ids_of(conn, keys).values()))


def ids_of(conn: Connection, keys: Sequence[StreamKey]) -> dict[StreamKey, int]:
    """Return the ids of those of the named streams that are known."""
    rows = conn.execute(
        """
        SELECT s.gateway, s.stream, s.id
        FROM gateway_stream AS s
        JOIN unnest(%s::text[], %s::text[]) AS k (gateway, stream) USING (gateway, stream)
        """,
        ([gateway for gateway, _ in keys], [stream for _, stream in keys]),
    ).fetchall()
    return {(gateway, stream): stream_id for gateway, stream, stream_id in rows}


@dataclass(frozen=True, slots=True)
class Hole:
    """What a stream lacks below its highest stored seq; ``count`` over all its holes."""

    gateway: str
    stream: str
    lane: str
    first: int
    last: int
    count: int


def holes(conn: Connection) -> list[Hole]:
    """Return the streams that have holes: messages sent later are stored, these are not."""
    with conn.cursor(row_factory=class_row(Hole)) as cursor:
        return cursor.execute(
            """
            SELECT s.gateway, s.stream, s.lane, min(lower(h)) AS first, max(upper(h)) - 1 AS last,
                   sum(upper(h) - lower(h))::bigint AS count
            FROM gateway_stream AS s,
                 unnest(int8multirange(int8range(1, upper(s.seen))) - s.seen) AS h
            WHERE s.seen <> '{}' AND s.seen <> int8multirange(int8range(1, upper(s.seen)))
            GROUP BY s.id
            """
        ).fetchall()


def new_streams_today(conn: Connection, gateways: Sequence[str]) -> dict[str, int]:
    """Return how many streams each gateway began within the last day."""
    return dict(
        conn.execute(
            """
            SELECT gateway, count(*) FROM gateway_stream
            WHERE gateway = ANY (%s) AND created_at > now() - interval '1 day'
            GROUP BY gateway
            """,
            (list(gateways),),
        ).fetchall()
    )


def too_sparse(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Return the streams that are made of more ranges than any honest gateway leaves."""
    rows = conn.execute(
        """
        SELECT id FROM gateway_stream
        WHERE id = ANY (%s) AND (SELECT count(*) FROM unnest(seen)) > %s
        """,
        (list(ids), RANGES_MAX),
    ).fetchall()
    return {stream_id for (stream_id,) in rows}


def adjoining(conn: Connection, messages: Sequence[Numbered]) -> set[int]:
    """Return the indices of messages next to one that is stored: they make no further range."""
    rows = conn.execute(
        """
        SELECT m.i
        FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) AS m (i, id, seq)
        JOIN gateway_stream AS g USING (id)
        WHERE g.seen @> m.seq - 1 OR g.seen @> m.seq + 1
        """,
        (
            [message.index for message in messages],
            [message.stream_id for message in messages],
            [message.seq for message in messages],
        ),
    ).fetchall()
    return {index for (index,) in rows}


def gap_fault(conn: Connection, stream_id: int, first: int, last: int) -> str | None:
    """Return why a gap of a stream cannot be believed, as a reason; None where it can."""
    row = conn.execute(
        """
        SELECT coalesce(upper(seen), 1),
               (SELECT count(*) FROM unnest(seen)) > %s
               AND NOT (seen && int8range(%s, %s, '[]') OR seen -|- int8range(%s, %s, '[]'))
        FROM gateway_stream WHERE id = %s
        """,
        (RANGES_MAX, first, last, first, last, stream_id),
    ).fetchone()
    following, sparse = row or (1, False)
    if last - following >= GAP_AHEAD_MAX:
        return "gap.range"
    return "stream.too_sparse" if sparse else None
