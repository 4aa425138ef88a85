# SPDX-License-Identifier: Apache-2.0
"""Which messages of a flush are new, by their numbers; which numbers no honest gateway sends."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import psycopg

from edge_agent.messages import AnyLane
from ingest import failpoints
from ingest.judge import Judged
from ingest.store import streams
from ingest.store.streams import Mark, Numbered, StreamKey


@dataclass(frozen=True, slots=True)
class Picked:
    """What of a flush is to be stored: ``fresh``, of which ``numbered`` have numbers.

    ``heard`` are the streams of all messages, also of those stored before: their watermarks are
    told again, or one lost answer would mean an endless resend.
    """

    fresh: Sequence[Judged]
    numbered: Sequence[Numbered]
    heard: frozenset[int]


class Numbering:
    """Deduplicates one lane by message; remembers the ids of streams, and how far they are stored.

    What is stored stays so for as long as one connection lasts: behind the next one may be another
    course of the database.
    """

    def __init__(self, lane: AnyLane) -> None:
        """Start knowing no stream."""
        self._lane: AnyLane = lane
        self._ids: dict[StreamKey, int] = {}
        self._staged: dict[StreamKey, int] = {}
        self._marks: dict[StreamKey, Mark] = {}

    def forget(self) -> None:
        """Forget the streams: a lost transaction may have taken back what it made."""
        self._ids = {}
        self._staged = {}
        self._marks = {}

    def committed(self, watermarks: Mapping[StreamKey, Mark]) -> None:
        """Keep the ids that the last `pick` found, and how far these streams are stored now."""
        self._ids.update(self._staged)
        if not failpoints.active(failpoints.SKIP_DEDUPE):
            self._marks.update(watermarks)

    def is_stored(self, gateway: str, stream: str, seq: int) -> bool:
        """Whether a number is known as stored; one that is not may be stored all the same."""
        mark = self._marks.get((gateway, stream))
        return mark is not None and mark.holds(seq)

    def pick(
        self, conn: psycopg.Connection, judged: Sequence[Judged], gateways: Container[str]
    ) -> Picked:
        """Lock the streams of a flush and return what was not stored before.

        Of equal numbers within the flush the first is kept. Messages whose number cannot be read,
        or may not be used, are fresh without a number: dead letters.
        """
        firsts: dict[tuple[StreamKey, int], int] = {}
        unnumbered: list[int] = []
        repeats: list[tuple[int, int]] = []
        again: set[StreamKey] = set()
        for index, item in enumerate(judged):
            if item.gateway is None or item.stream is None or item.seq is None:
                unnumbered.append(index)
                continue
            if item.gateway not in gateways:
                unnumbered.append(index)
                continue
            if item.is_stored:
                again.add((item.gateway, item.stream))
                continue
            first = firsts.setdefault(((item.gateway, item.stream), item.seq), index)
            if first != index:
                repeats.append((index, first))
        ids = self._staged = self._known(conn, {key for key, _ in firsts})
        numbered: list[Numbered] = []
        for (key, seq), index in firsts.items():
            if key in ids:
                numbered.append(Numbered(index, ids[key], seq))
            else:
                judged[index].refuse_all("stream.too_many", "too many new streams in a day")
                unnumbered.append(index)
        heard = {number.stream_id for number in numbered} | {self._ids[key] for key in again}
        new = streams.lock_and_pick_new(conn, numbered) if numbered else set[int]()
        if failpoints.active(failpoints.SKIP_DEDUPE):
            new = {number.index for number in numbered}
        for index in _too_sparse(conn, [number for number in numbered if number.index in new]):
            detail = f"over {streams.RANGES_MAX} ranges"
            judged[index].refuse_all("stream.too_sparse", detail)
            new.discard(index)
            unnumbered.append(index)
        if self._lane == "event":
            by_index = {number.index: number for number in numbered}
            repeated = [
                replace(by_index[first], index=index)
                for index, first in repeats
                if first in by_index
            ]
            for index in _contradicting(conn, numbered, new, repeated, judged):
                judged[index].refuse_all("event.conflict", "another content under this number")
                unnumbered.append(index)
        return Picked(
            [judged[index] for index in sorted({*new, *unnumbered})],
            [number for number in numbered if number.index in new],
            frozenset(heard),
        )

    def _known(self, conn: psycopg.Connection, wanted: set[StreamKey]) -> dict[StreamKey, int]:
        """Return the ids of streams, making new ones as long as a gateway begins few enough."""
        ids = {key: self._ids[key] for key in wanted if key in self._ids}
        unknown = sorted(wanted - ids.keys())
        if unknown:
            ids.update(streams.ids_of(conn, unknown))
        new = [key for key in unknown if key not in ids]
        if new:
            begun = Counter(streams.new_streams_today(conn, sorted({key[0] for key in new})))
            allowed: list[StreamKey] = []
            for key in new:
                begun[key[0]] += 1
                if begun[key[0]] <= streams.NEW_STREAMS_A_DAY_MAX:
                    allowed.append(key)
            if allowed:
                ids.update(streams.ensure(conn, self._lane, allowed))
        return ids


def _too_sparse(conn: psycopg.Connection, new: Sequence[Numbered]) -> set[int]:
    """Return which new messages would make yet another hole in a stream that has too many.

    What fills holes, or goes on where a range ends, is taken: so such a stream can heal.
    """
    frozen = streams.too_sparse(conn, sorted({one.stream_id for one in new})) if new else set[int]()
    concerned = [one for one in new if one.stream_id in frozen]
    if not concerned:
        return set()
    joined = streams.adjoining(conn, concerned)
    # Neighbours within the flush carry it on, upwards and downwards.
    upwards = sorted(concerned, key=lambda one: (one.stream_id, one.seq))
    for ordered, step in ((upwards, 1), (upwards[::-1], -1)):
        for before, one in pairwise(ordered):
            near = (before.stream_id, before.seq + step) == (one.stream_id, one.seq)
            if near and before.index in joined:
                joined.add(one.index)
    return {one.index for one in concerned} - joined


def _contradicting(
    conn: psycopg.Connection,
    numbered: Sequence[Numbered],
    new: set[int],
    again: Sequence[Numbered],
    judged: Sequence[Judged],
) -> set[int]:
    """Keep the content of new events; return those with another content under a number stored.

    Telemetry keeps no content by message, which is the price of speed.
    """

    def digests(messages: Sequence[Numbered]) -> list[tuple[Numbered, bytes]]:
        return [(one, judged[one.index].message.sha256) for one in messages]

    streams.keep_digests(conn, digests([one for one in numbered if one.index in new]))
    known = [*(one for one in numbered if one.index not in new), *again]
    return streams.contradicting(conn, digests(known)) if known else set()
