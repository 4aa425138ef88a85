# SPDX-License-Identifier: Apache-2.0
"""The outbox: what was measured and is not yet known to be stored, in one SQLite file.

Two lanes (telemetry, event), each a stream of immutable messages numbered from 1 without holes.
"""

import hashlib
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from pydantic_core import from_json, to_json

from edge_agent.errors import DiskFull, ImpossibleAck, OutboxFull, PayloadTooLarge
from edge_agent.eviction import (
    Evicted,
    Intake,
    batch_pages,
    evict,
    footprint_bytes,
    footprint_pages,
)
from edge_agent.lanes import (
    LANES,
    Accepted,
    AlarmKey,
    Answer,
    Draft,
    LaneState,
    Settlement,
    Stored,
    Unstamped,
    new_id,
)
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    EventMessage,
    GapEvent,
    Lane,
    Rejection,
    StreamStatus,
    encode,
)
from edge_agent.outbox_file import PAGE_BYTES, OutboxFile, milliseconds
from edge_agent.packing import Unreadable, pack, unpack

log = logging.getLogger(__name__)

LIMIT_BYTES: Final = 64 * 1024 * 1024
_T = TypeVar("_T")
QUARANTINE_MAX: Final = 100
# Of the limit, that the quarantine may take at most.
QUARANTINE_SHARE: Final = 1 / 16
# Eviction is over, for people, when the file is emptier than this share of its limit.
_RELIEVED_SHARE: Final = 0.85
_EVICTED_FIRST: Final[tuple[Lane, ...]] = ("telemetry", "event")
_MOVED_AT_ONCE: Final = 256
# Of what is told; more is as good as for ever.
HOURS_MAX: Final = 1e6
# Events that wait for the clock to be set.
UNSTAMPED_MAX: Final = 1_000

# A table name cannot be a parameter; the lane's own name is the table's, written out once.
_INSERT: Final[Mapping[Lane, str]] = {
    "telemetry": "INSERT INTO telemetry (seq, at, payload) VALUES (?, ?, ?)",
    "event": "INSERT INTO event (seq, at, payload) VALUES (?, ?, ?)",
}
_INSERT_GAP: Final = "INSERT INTO event (seq, at, payload, gap) VALUES (?, ?, ?, 1)"
_PENDING: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT seq, at, payload FROM telemetry WHERE seq > ? ORDER BY seq LIMIT ?",
    "event": "SELECT seq, at, payload FROM event WHERE seq > ? ORDER BY seq LIMIT ?",
}
_FOLLOWING: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT seq, at FROM telemetry WHERE seq >= ? ORDER BY seq LIMIT 1",
    "event": "SELECT seq, at FROM event WHERE seq >= ? ORDER BY seq LIMIT 1",
}
_ALL: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT seq, payload FROM telemetry ORDER BY seq",
    "event": "SELECT seq, payload FROM event ORDER BY seq",
}
_ONE: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT payload FROM telemetry WHERE seq = ?",
    "event": "SELECT payload FROM event WHERE seq = ?",
}
_DELETE_ONE: Final[Mapping[Lane, str]] = {
    "telemetry": "DELETE FROM telemetry WHERE seq = ?",
    "event": "DELETE FROM event WHERE seq = ?",
}
_DELETE_UP_TO: Final[Mapping[Lane, str]] = {
    "telemetry": "DELETE FROM telemetry WHERE seq <= ? RETURNING LENGTH(payload)",
    "event": "DELETE FROM event WHERE seq <= ? RETURNING LENGTH(payload)",
}
_RENUMBER: Final[Mapping[Lane, str]] = {
    "telemetry": "UPDATE telemetry SET seq = ?, payload = ? WHERE seq = ?",
    "event": "UPDATE event SET seq = ?, payload = ? WHERE seq = ?",
}
_OLDEST: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT MIN(seq) FROM telemetry",
    "event": "SELECT MIN(seq) FROM event",
}
_SUMMARY: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT COUNT(*), MIN(seq), COALESCE(SUM(LENGTH(payload)), 0) FROM telemetry",
    "event": "SELECT COUNT(*), MIN(seq), COALESCE(SUM(LENGTH(payload)), 0) FROM event",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A message on its way into the file."""

    one: Accepted
    packed: bytes

    @property
    def values(self) -> tuple[int, int, bytes]:
        return self.one.seq, milliseconds(self.one.message.sent_at), self.packed


class Outbox:
    """Messages between their acceptance here and their COMMIT at the server.

    A message leaves by a watermark that the server published after COMMIT, or because the server
    said that it lies in its dead letters, so a power cut at any point costs a duplicate at worst,
    never a loss. Only where the limit is reached does it leave unstored, and then a gap record
    stays in its place. One connection under one lock: every method may be called from any thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], datetime],
        limit_bytes: int = LIMIT_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the file at ``path``, making it if need be, and setting a damaged one aside.

        Args:
            clock: Dates new stream ids, gap records and what is set aside.
            limit_bytes: Of everything on the disk: the file, its write-ahead log, the ballast.
            monotonic: Seconds of a clock that is never set; measures how fast the file fills.

        Raises:
            OutboxUnavailable: The file cannot be opened, or another process holds it.
        """
        self._clock = clock
        self._monotonic = monotonic
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._file = OutboxFile(
            path, clock=clock, limit_bytes=limit_bytes, load=self._load, monotonic=monotonic
        )
        # Streams that this process made, or that the server confirmed to it.
        self._confirmed: set[str] = set()
        # Replaced as a whole after each COMMIT, so readers need no lock.
        self._lanes: Mapping[Lane, LaneState] = {}
        self._used_pages = 0
        self._intake = Intake(monotonic())
        #: Messages evicted since the start.
        self.evicted: Counter[Lane] = Counter()
        self._evicting = False
        with self._lock:
            self._file.ready()

    def close(self) -> None:
        """Close the file; every later call raises `OutboxUnavailable`."""
        with self._lock:
            self._file.close()

    def append(
        self,
        drafts: Sequence[Draft],
        occurrences: Mapping[AlarmKey, str | None] | None = None,
        *,
        stamped: Sequence[Unstamped] = (),
    ) -> list[Accepted]:
        """Number the drafts, write them in one transaction, and return them once that is on disk.

        Where the limit is reached the oldest telemetry is evicted for them, and for events, when
        no telemetry is left, the oldest events; the gap records come last in what is returned.

        Args:
            occurrences: Alarm occurrences to remember (an id) or to forget (None), in the same
                transaction.
            stamped: Held events that are among the drafts now, to be forgotten likewise.

        Raises:
            OutboxFull: Nothing is left that may be evicted; nothing was taken.
            PayloadTooLarge: One message exceeds the contract's limit; nothing was taken.
            OutboxUnavailable: The disk failed; nothing was taken.
        """
        if not drafts and not occurrences:
            return []
        with self._lock:
            self._file.ready()
            self._file.restore()
            return self._retried(lambda: self._append(drafts, occurrences or {}, stamped))

    def hold(self, events: Sequence[Unstamped], occurrences: Mapping[AlarmKey, str | None]) -> None:
        """Keep events that cannot be stamped yet; a later `append` turns them into messages.

        Of more than `UNSTAMPED_MAX` the newest are kept.

        Raises:
            OutboxUnavailable: The disk failed; nothing was kept.
        """
        with self._lock:
            self._file.ready()
            self._retried(lambda: self._hold(events, occurrences))

    def _hold(
        self, events: Sequence[Unstamped], occurrences: Mapping[AlarmKey, str | None]
    ) -> None:
        with self._file.transaction() as db:
            db.executemany(
                "INSERT INTO unstamped (boot, monotonic_us, event) VALUES (?, ?, ?)",
                [(one.boot, one.monotonic_us, one.event) for one in events],
            )
            _write_occurrences(db, occurrences)
            lost = db.execute(
                "DELETE FROM unstamped WHERE id <= (SELECT MAX(id) FROM unstamped) - ?",
                (UNSTAMPED_MAX,),
            ).rowcount
        if lost:
            log.error("events lost, the clock is not set path=%s count=%d", self._file.path, lost)

    def unstamped(self) -> list[Unstamped]:
        """Return the events held, oldest first.

        Raises:
            OutboxUnavailable: The disk failed.
        """
        with self._lock:
            db = self._file.ready()
            with self._file.translated():
                rows = db.execute("SELECT boot, monotonic_us, event FROM unstamped ORDER BY id")
                return [Unstamped(*row) for row in rows]

    def expire(self, before: datetime) -> list[Accepted]:
        """Evict the telemetry made before ``before``; return the gap record, if there is one.

        Events stay: one that comes too late for the server lies in its dead letters, to be seen.

        Raises:
            OutboxUnavailable: The disk failed; nothing was evicted.
        """
        with self._lock:
            self._file.ready()
            return self._retried(lambda: self._expire(milliseconds(before)))

    def pending(self, lane: Lane, *, after: int, limit: int) -> list[Stored]:
        """Return up to ``limit`` messages of ``lane`` with a seq beyond ``after``, in order.

        A message whose bytes are damaged is quarantined, a gap record takes its place, and what
        comes behind it is returned.

        Raises:
            OutboxUnavailable: The disk failed.
        """
        with self._lock:
            db = self._file.ready()
            with self._file.translated():
                rows = db.execute(_PENDING[lane], (after, limit)).fetchall()
            found: list[Stored] = []
            for seq, at, packed in rows:
                try:
                    found.append(Stored(seq, unpack(packed), at or 0))
                except Unreadable as error:
                    self._give_up(lane, seq, str(error))
            return found

    def first_since(self, lane: Lane, at: datetime) -> int:
        """Return the lowest seq made at or after ``at``, or the next one if there is none.

        Exact where instants rise with the seq; where the clock was set back, one of those at which
        they pass ``at``.

        Raises:
            OutboxUnavailable: The disk failed.
        """
        with self._lock:
            db = self._file.ready()
            state = self._lanes[lane]
            since_ms = milliseconds(at)
            low, high = state.oldest, state.next
            with self._file.translated():
                while low < high:
                    middle = (low + high) // 2
                    row = db.execute(_FOLLOWING[lane], (middle,)).fetchone()
                    if row is None or (row[1] or 0) >= since_ms:
                        high = middle
                    else:
                        low = row[0] + 1
            return low

    def discard(self, stream: str, upto: int) -> int:
        """Delete the messages of ``stream`` up to and including ``upto``; return how many.

        Raises:
            ImpossibleAck: No such stream, or ``upto`` was never given out; nothing was deleted.
            OutboxUnavailable: The disk failed.
        """
        settlement = self.settle({stream: upto}, ())
        if settlement.impossible:
            raise ImpossibleAck(settlement.impossible[0])
        return settlement.discarded

    def settle(self, watermarks: Mapping[str, int], rejected: Sequence[Rejection]) -> Settlement:
        """Take the server's answer in one transaction: quarantine the refused, discard the stored.

        A refused *reading* (a rejection with an index) changes nothing here: its message was
        stored, and leaves by the watermark. Impossible statements are returned, not obeyed.

        The first watermark of a stream found on the disk confirms it. If the server has stored
        more of it than had been given out when the file was found, another copy of the file has
        published under these numbers: the lane gets a new stream, and takes along what was
        accepted since.

        Raises:
            OutboxUnavailable: The disk failed; nothing was changed.
        """
        with self._lock:
            self._file.ready()
            self._file.restore()
            return self._retried(lambda: self._settle(watermarks, rejected))

    def occurrences(self) -> dict[AlarmKey, str]:
        """Return the alarms that were raised and not yet restored, with their occurrence ids.

        Raises:
            OutboxUnavailable: The disk failed.
        """
        with self._lock:
            db = self._file.ready()
            with self._file.translated():
                rows = db.execute("SELECT device, event, zone, occurrence FROM occurrence")
                return {AlarmKey(device, event, zone): name for device, event, zone, name in rows}

    def quarantine(self) -> list[tuple[str, int, str, bytes]]:
        """Return what was refused: stream, seq, reason, payload; oldest first.

        Raises:
            OutboxUnavailable: The disk failed.
        """
        with self._lock:
            db = self._file.ready()
            with self._file.translated():
                rows = db.execute(
                    "SELECT stream, seq, reason, payload FROM quarantine ORDER BY id"
                ).fetchall()
        return [(stream, seq, reason, _unpacked(packed)) for stream, seq, reason, packed in rows]

    def lane(self, lane: Lane) -> LaneState:
        """Return one lane at a glance."""
        return self._lanes[lane]

    def depth(self) -> int:
        """Return how many messages are not yet known to be stored."""
        return sum(state.held for state in self._lanes.values())

    def held_bytes(self) -> int:
        """Return the size of their payloads together, as they lie in the file."""
        return sum(state.held_bytes for state in self._lanes.values())

    def used_bytes(self) -> int:
        """Return how much of `limit_bytes` is in use."""
        return self._used_pages * PAGE_BYTES

    def limit_bytes(self) -> int:
        """Return how much may be in use before the oldest is evicted."""
        return self._file.ceiling_pages() * PAGE_BYTES

    def hours(self) -> float | None:
        """Return for how many hours there is room, as fast as it was filled within the last one.

        None: nothing came in, or not yet for a minute.
        """
        rate = self._intake.per_hour(self._monotonic())
        if not rate:
            return None
        return min(HOURS_MAX, max(0, self.limit_bytes() - self.used_bytes()) / rate)

    def streams(self) -> tuple[StreamStatus, ...]:
        """Return what the gateway's status tells the server about its lanes."""
        return tuple(
            StreamStatus(lane=one.lane, stream=one.stream, oldest=one.oldest, next=one.next)
            for one in self._lanes.values()
        )

    # -- in -----------------------------------------------------------------------------------

    def _append(
        self,
        drafts: Sequence[Draft],
        occurrences: Mapping[AlarmKey, str | None],
        stamped: Sequence[Unstamped],
    ) -> list[Accepted]:
        rows, lanes = _number(drafts, self._lanes)
        with self._file.transaction() as db:
            evicted = self._make_room(db, rows)
            lanes, gaps = self._record(db, evicted, lanes)
            for lane in LANES:
                db.executemany(_INSERT[lane], [row.values for row in rows if row.one.lane == lane])
            _write_occurrences(db, occurrences)
            for one in stamped:
                db.execute(
                    "DELETE FROM unstamped WHERE boot = ? AND monotonic_us = ? AND event = ?",
                    (one.boot, one.monotonic_us, one.event),
                )
            used_pages = self._file.used_pages(db)
        self._taken(lanes, used_pages, evicted)
        now = self._monotonic()
        self._intake.add(sum(footprint_bytes(len(row.packed)) for row in rows), now)
        return [row.one for row in rows] + gaps

    def _make_room(self, db: sqlite3.Connection, rows: Sequence[_Row]) -> list[Evicted]:
        """Evict what has to go for ``rows``.

        Raises:
            OutboxFull: What may be evicted does not suffice.
        """
        file = self._file
        used, ceiling = file.used_pages(db), file.ceiling_pages()
        needed = footprint_pages(len(row.packed) for row in rows)
        if used + needed <= ceiling:
            return []
        batch = batch_pages(file.limit_pages, used, crowded=file.crowded)
        evicted: list[Evicted] = []
        for lane in _EVICTED_FIRST:
            freed = 0
            while freed < batch or file.used_pages(db) + needed > ceiling:
                gone = evict(db, lane, self._lanes[lane].stream, pages=batch)
                if not gone:
                    break
                evicted += gone
                freed += footprint_pages(size for one in gone for size in one.sizes)
            fits = file.used_pages(db) + needed <= ceiling
            if any(row.one.lane == "telemetry" for row in rows):
                # No event goes for telemetry. And no less than a batch goes: what comes in would
                # otherwise drive out its likes one by one, each leaving a gap record, which stays.
                if fits and freed >= batch:
                    return evicted
                raise OutboxFull("telemetry", used * PAGE_BYTES, ceiling * PAGE_BYTES)
            if fits:
                return evicted
        raise OutboxFull("event", used * PAGE_BYTES, ceiling * PAGE_BYTES)

    def _expire(self, before_ms: int) -> list[Accepted]:
        state = self._lanes["telemetry"]
        with self._file.transaction() as db:
            evicted = evict(
                db, state.lane, state.stream, pages=self._file.limit_pages, before_ms=before_ms
            )
            lanes, gaps = self._record(db, evicted, self._lanes)
            used_pages = self._file.used_pages(db)
        self._lanes, self._used_pages = lanes, used_pages
        self.evicted["telemetry"] += sum(len(one.sizes) for one in evicted)
        return gaps

    def _record(
        self, db: sqlite3.Connection, evicted: Sequence[Evicted], lanes: Mapping[Lane, LaneState]
    ) -> tuple[Mapping[Lane, LaneState], list[Accepted]]:
        """Write the gap records of what was evicted; return them, and the lanes as they are then.

        They take the seqs behind those that ``lanes`` has given out already.
        """
        if not evicted:
            return lanes, []
        now = self._clock()
        after = dict(lanes)
        drafts: list[Draft] = []
        for one in evicted:
            after[one.lane] = _without(after[one.lane], one.sizes)
            drafts.append(Draft("event", partial(_gap_message, one.gap(now))))
        rows, lanes = _number(drafts, after)
        db.executemany(_INSERT_GAP, [row.values for row in rows])
        # Not yet written: the new messages, of which the lowest may now be the oldest held.
        after = dict(lanes)
        touched: set[Lane] = {one.lane for one in evicted}
        for lane in touched:
            oldest = db.execute(_OLDEST[lane]).fetchone()[0]
            new = self._lanes[lane].next
            candidates = [seq for seq in (oldest, new) if seq is not None]
            after[lane] = replace(after[lane], oldest=min(candidates))
        return after, [row.one for row in rows]

    def _taken(
        self, lanes: Mapping[Lane, LaneState], used_pages: int, evicted: Sequence[Evicted]
    ) -> None:
        """Take over what was committed, and tell people when evictions begin."""
        self._lanes, self._used_pages = lanes, used_pages
        for one in evicted:
            self.evicted[one.lane] += len(one.sizes)
        if evicted and not self._evicting:
            self._evicting = True
            log.error(
                "outbox full, the oldest is evicted path=%s limit_bytes=%d"
                " (connect the gateway so that the server can store it)",
                self._file.path, self.limit_bytes(),
            )  # fmt: skip

    # -- out ----------------------------------------------------------------------------------

    def _settle(self, watermarks: Mapping[str, int], rejected: Sequence[Rejection]) -> Settlement:
        renewed: list[Lane] = [
            state.lane
            for state in self._lanes.values()
            if state.inherited is not None and watermarks.get(state.stream, 0) >= state.inherited
        ]
        watermarks = dict(watermarks)
        for lane in renewed:
            stored = watermarks.pop(self._lanes[lane].stream)
            self._renew(lane, stored)
        answer = Answer.of(watermarks, rejected, self._lanes)
        refused = answer.refused
        if answer.digests:
            refused = [*refused, *self._find(answer.digests)]
        confirmed: list[Lane] = [
            state.lane
            for state in self._lanes.values()
            if not state.confirmed and state.stream in watermarks
        ]
        if not answer.upto and not refused and not confirmed:
            return Settlement(impossible=answer.impossible, renewed=tuple(renewed))
        after = dict(self._lanes)
        discarded = quarantined = 0
        with self._file.transaction() as db:
            for lane in confirmed:
                # Committed before anything is published: see the table's comment.
                db.execute("UPDATE lane SET inherited = NULL WHERE lane = ?", (lane,))
                after[lane] = replace(after[lane], inherited=None)
            for lane, seq, reason in refused:
                sizes = self._quarantine(db, lane, seq, reason)
                quarantined += len(sizes)
                after[lane] = _without(after[lane], sizes)
            for lane, seq in answer.upto.items():
                sizes = [size for (size,) in db.execute(_DELETE_UP_TO[lane], (seq,))]
                discarded += len(sizes)
                after[lane] = _without(after[lane], sizes)
            for lane, state in after.items():
                oldest = db.execute(_OLDEST[lane]).fetchone()[0]
                after[lane] = replace(state, oldest=oldest or state.next)
            used_pages = self._file.used_pages(db)
        self._lanes, self._used_pages = after, used_pages
        self._confirmed.update(after[lane].stream for lane in confirmed)
        self._relieved()
        return Settlement(discarded, quarantined, answer.impossible, tuple(renewed))

    def _relieved(self) -> None:
        """Tell people when evictions have ended."""
        if self._evicting and self._used_pages < self._file.ceiling_pages() * _RELIEVED_SHARE:
            self._evicting = False
            log.info(
                "outbox has room again path=%s evicted_telemetry=%d evicted_events=%d",
                self._file.path, self.evicted["telemetry"], self.evicted["event"],
            )  # fmt: skip

    def _renew(self, lane: Lane, stored: int) -> None:
        """Give a lane a new stream, because ``stored`` shows that the file is an old copy.

        What had been accepted when the file was found lies, unchanged, among what is stored. What
        was accepted since is numbered anew and kept.
        """
        state = self._lanes[lane]
        assert state.inherited is not None, lane
        stream = new_id(self._clock())
        moved = 0
        with self._file.transaction() as db:
            db.execute(_DELETE_UP_TO[lane], (state.inherited - 1,)).fetchall()
            after = 0
            while rows := db.execute(_PENDING[lane], (after, _MOVED_AT_ONCE)).fetchall():
                for seq, _, packed in rows:
                    moved += 1
                    payload = _renumbered(_unpacked(packed), stream, moved)
                    db.execute(_RENUMBER[lane], (moved, pack(payload), seq))
                after = rows[-1][0]
            db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (moved, lane))
            db.execute(
                "UPDATE lane SET stream = ?, inherited = NULL WHERE lane = ?", (stream, lane)
            )
            held, oldest, held_bytes = _summary(db, lane)
            used_pages = self._file.used_pages(db)
        self._confirmed.add(stream)
        fresh = LaneState(lane, stream, oldest or 1, moved + 1, held, held_bytes)
        self._lanes = {**self._lanes, lane: fresh}
        self._used_pages = used_pages
        log.error(
            "outbox is an old copy, begun a new stream path=%s lane=%s stream=%s stored=%d next=%d"
            " moved=%d (was the card restored from an image?)",
            self._file.path, lane, state.stream, stored, state.next, moved,
        )  # fmt: skip

    def _give_up(self, lane: Lane, seq: int, reason: str) -> None:
        """Quarantine a message that cannot be read any more, and leave a gap record."""
        with self._file.transaction() as db:
            state = self._lanes[lane]
            sizes = self._quarantine(db, lane, seq, "payload.damaged")
            gone = [Evicted(lane, state.stream, seq, seq, sizes)]
            lanes, _ = self._record(db, gone, self._lanes)
            used_pages = self._file.used_pages(db)
        self._lanes, self._used_pages = lanes, used_pages
        log.error(
            "message damaged on disk, set aside path=%s lane=%s seq=%d reason=%s",
            self._file.path, lane, seq, reason,
        )  # fmt: skip

    def _find(self, digests: Mapping[str, str]) -> Iterator[tuple[Lane, int, str]]:
        """Yield the held messages whose SHA-256 the server named; it could not read their seq."""
        db = self._file.ready()
        with self._file.translated():
            for lane in LANES:
                for seq, packed in db.execute(_ALL[lane]):
                    reason = digests.get(hashlib.sha256(_unpacked(packed)).hexdigest())
                    if reason is not None:
                        yield lane, seq, reason

    def _quarantine(
        self, db: sqlite3.Connection, lane: Lane, seq: int, reason: str
    ) -> Sequence[int]:
        """Move one message into the quarantine; return the sizes of what was there to be moved."""
        row = db.execute(_ONE[lane], (seq,)).fetchone()
        if row is None:
            return ()
        db.execute(
            "INSERT INTO quarantine (at, stream, seq, reason, payload) VALUES (?, ?, ?, ?, ?)",
            (self._clock().isoformat(), self._lanes[lane].stream, seq, reason, row[0]),
        )
        db.execute(
            """
            DELETE FROM quarantine
            WHERE id < (SELECT MAX(id) FROM quarantine) AND id <= (
                SELECT MAX(id) FROM (
                    SELECT id, ROW_NUMBER() OVER newest AS place,
                           SUM(LENGTH(payload)) OVER newest AS total
                    FROM quarantine WINDOW newest AS (ORDER BY id DESC)
                ) WHERE place > ? OR total > ?
            )
            """,
            (QUARANTINE_MAX, int(self._limit_bytes * QUARANTINE_SHARE)),
        )
        db.execute(_DELETE_ONE[lane], (seq,))
        return (len(row[0]),)

    # -- the file -----------------------------------------------------------------------------

    def _retried(self, work: Callable[[], _T]) -> _T:
        """Do ``work``; where the disk is full, make way for it and do it once more."""
        try:
            return work()
        except DiskFull:
            self._file.make_way()
            return work()

    def _load(self, db: sqlite3.Connection) -> None:
        """Take up what a newly opened file holds."""
        fresh = db.execute("SELECT COUNT(*) FROM lane").fetchone()[0] == 0
        if fresh:
            now = self._clock()
            made = [(lane, new_id(now)) for lane in LANES]
            db.executemany("INSERT INTO lane (lane, stream) VALUES (?, ?)", made)
            self._confirmed.update(stream for _, stream in made)
        last = dict(db.execute("SELECT name, seq FROM sqlite_sequence"))
        lanes: dict[Lane, LaneState] = {}
        found: dict[Lane, tuple[str, int | None]] = {
            lane: (stream, inherited)
            for lane, stream, inherited in db.execute("SELECT lane, stream, inherited FROM lane")
        }
        for lane in LANES:
            stream, inherited = found[lane]
            held, oldest, held_bytes = _summary(db, lane)
            following = last.get(lane, 0) + 1
            if stream in self._confirmed:
                inherited = None
            elif inherited is None:
                inherited = following
                db.execute("UPDATE lane SET inherited = ? WHERE lane = ?", (inherited, lane))
            lanes[lane] = LaneState(
                lane, stream, oldest or following, following, held, held_bytes, inherited
            )
        self._lanes, self._used_pages = lanes, self._file.used_pages(db)


def _number(
    drafts: Sequence[Draft], lanes: Mapping[Lane, LaneState]
) -> tuple[list[_Row], Mapping[Lane, LaneState]]:
    """Return the drafts as they will be accepted, and the lanes as they will be then.

    Raises:
        PayloadTooLarge: One message exceeds the contract's limit.
    """
    lanes = dict(lanes)
    rows: list[_Row] = []
    for draft in drafts:
        state = lanes[draft.lane]
        message = draft.make(state.stream, state.next)
        payload = encode(message)
        size = len(payload)
        if size > PAYLOAD_BYTES_MAX:
            raise PayloadTooLarge(f"{size} bytes, {PAYLOAD_BYTES_MAX} allowed")
        packed = pack(payload)
        rows.append(_Row(Accepted(draft.lane, state.stream, state.next, payload, message), packed))
        lanes[draft.lane] = replace(
            state,
            next=state.next + 1,
            held=state.held + 1,
            held_bytes=state.held_bytes + len(packed),
        )
    return rows, lanes


def _gap_message(gap: GapEvent, stream: str, seq: int) -> EventMessage:
    return EventMessage(stream=stream, seq=seq, sent_at=gap.at, event=gap)


def _renumbered(payload: bytes, stream: str, seq: int) -> bytes:
    """Return the payload under another stream and seq, all else untouched."""
    return to_json(from_json(payload) | {"stream": stream, "seq": seq})


def _unpacked(packed: bytes) -> bytes:
    """Return the payload, or the bytes as they are where they cannot be read any more."""
    try:
        return unpack(packed)
    except Unreadable:
        return packed


def _summary(db: sqlite3.Connection, lane: Lane) -> tuple[int, int | None, int]:
    """Return how many messages a lane holds, the lowest seq, and the size of all payloads."""
    return db.execute(_SUMMARY[lane]).fetchone()


def _without(state: LaneState, sizes: Sequence[int]) -> LaneState:
    """Return ``state`` without messages of these sizes; ``oldest`` is left to the caller."""
    return replace(state, held=state.held - len(sizes), held_bytes=state.held_bytes - sum(sizes))


def _write_occurrences(db: sqlite3.Connection, occurrences: Mapping[AlarmKey, str | None]) -> None:
    for key, name in occurrences.items():
        if name is None:
            db.execute(
                "DELETE FROM occurrence WHERE device = ? AND event = ? AND zone = ?",
                (key.device, key.event, key.zone),
            )
        else:
            db.execute(
                "INSERT OR REPLACE INTO occurrence (device, event, zone, occurrence)"
                " VALUES (?, ?, ?, ?)",
                (key.device, key.event, key.zone, name),
            )
