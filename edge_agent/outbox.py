# SPDX-License-Identifier: Apache-2.0
"""The outbox: what was measured and is not yet known to be stored, in one SQLite file.

Two lanes (telemetry, event), each a stream of immutable messages numbered from 1 without holes.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args
from uuid import UUID

from edge_agent.errors import ImpossibleAck, OutboxFull, OutboxUnavailable, PayloadTooLarge
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    EventMessage,
    Lane,
    Rejection,
    StreamStatus,
    Telemetry,
    encode,
)

log = logging.getLogger(__name__)

LANES: Final[tuple[Lane, ...]] = get_args(Lane)
LIMIT_BYTES: Final = 64 * 1024 * 1024
# Telemetry stops this share earlier, so that a flood of readings never keeps an alarm out.
EVENT_RESERVE: Final = 1 / 8
QUARANTINE_MAX: Final = 100
CORRUPT_FILES_MAX: Final = 3
_FORMAT: Final = 1
_PAGE_BYTES: Final = 4096

_SCHEMA: Final = """
CREATE TABLE lane (lane TEXT PRIMARY KEY, stream TEXT NOT NULL) STRICT;
-- AUTOINCREMENT: without it the seq of a deleted last message would be given out again, and the
-- server would drop the new message as a duplicate of the old one.
CREATE TABLE telemetry (seq INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL) STRICT;
CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL) STRICT;
-- Alarms that were raised and not yet restored.
CREATE TABLE occurrence (
    device TEXT NOT NULL, event TEXT NOT NULL, zone TEXT NOT NULL, occurrence TEXT NOT NULL,
    PRIMARY KEY (device, event, zone)
) STRICT;
-- What the server refused for ever: kept for people to look at, newest first, bounded.
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, stream TEXT NOT NULL,
    seq INTEGER NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL
) STRICT;
"""

# A table name cannot be a parameter; the lane's own name is the table's, written out once.
_INSERT: Final[Mapping[Lane, str]] = {
    "telemetry": "INSERT INTO telemetry (seq, payload) VALUES (?, ?)",
    "event": "INSERT INTO event (seq, payload) VALUES (?, ?)",
}
_PENDING: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT seq, payload FROM telemetry WHERE seq > ? ORDER BY seq LIMIT ?",
    "event": "SELECT seq, payload FROM event WHERE seq > ? ORDER BY seq LIMIT ?",
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
_OLDEST: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT MIN(seq) FROM telemetry",
    "event": "SELECT MIN(seq) FROM event",
}
_SUMMARY: Final[Mapping[Lane, str]] = {
    "telemetry": "SELECT COUNT(*), MIN(seq), COALESCE(SUM(LENGTH(payload)), 0) FROM telemetry",
    "event": "SELECT COUNT(*), MIN(seq), COALESCE(SUM(LENGTH(payload)), 0) FROM event",
}


def new_id(now: datetime) -> str:
    """Return a fresh id that sorts by ``now``: a UUID version 7, lowercase."""
    milliseconds = int(now.timestamp() * 1000) & (2**48 - 1)
    tail = secrets.randbits(74)
    value = milliseconds << 80 | 0x7 << 76 | (tail >> 62) << 64 | 0b10 << 62 | tail & (2**62 - 1)
    return str(UUID(int=value))


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that has no number yet; ``make`` builds it from its stream and seq."""

    lane: Lane
    make: Callable[[str, int], Telemetry | EventMessage]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that is on disk and will be delivered: the promise begins here."""

    lane: Lane
    stream: str
    seq: int
    payload: bytes
    message: Telemetry | EventMessage

    @property
    def payload_bytes(self) -> int:
        """Size of the payload."""
        return len(self.payload)


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the publisher takes it from the outbox."""

    seq: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class AlarmKey:
    """What makes two alarm signals one occurrence: device, type and zone ("" where none)."""

    device: str
    event: str
    zone: str


@dataclass(frozen=True, slots=True)
class LaneState:
    """One lane at a glance; ``oldest`` equals ``next`` when nothing is held."""

    lane: Lane
    stream: str
    oldest: int
    next: int
    held: int
    held_bytes: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one answer of the server did to the outbox."""

    discarded: int = 0
    quarantined: int = 0
    impossible: tuple[str, ...] = field(default=())


class Outbox:
    """Messages between their acceptance here and their COMMIT at the server.

    A message leaves only by a watermark that the server published after COMMIT, or because the
    server said that it lies in its dead letters, so a power cut at any point costs a duplicate at
    worst, never a loss. One connection under one lock: every method may be called from any thread.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], datetime], limit_bytes: int = LIMIT_BYTES
    ) -> None:
        """Open the file at ``path``, making it if need be, and setting a damaged one aside.

        Args:
            clock: Dates new stream ids and what is set aside.
            limit_bytes: Of payloads held; telemetry is refused `EVENT_RESERVE` earlier.

        Raises:
            OutboxUnavailable: The file cannot be opened, or another process holds it.
        """
        self._path = path
        self._clock = clock
        self._limit_bytes: Final[Mapping[Lane, int]] = {
            "telemetry": limit_bytes - int(limit_bytes * EVENT_RESERVE),
            "event": limit_bytes,
        }
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._closed = False
        # Replaced as a whole after each COMMIT, so readers need no lock.
        self._lanes: Mapping[Lane, LaneState] = {}
        with self._lock:
            self._ready()

    def close(self) -> None:
        """Close the file; every later call raises `OutboxUnavailable`."""
        with self._lock:
            self._closed = True
            self._drop_connection()

    def append(
        self, drafts: Sequence[Draft], occurrences: Mapping[AlarmKey, str | None] | None = None
    ) -> list[Accepted]:
        """Number the drafts, write them in one transaction, and return them once that is on disk.

        Args:
            occurrences: Alarm occurrences to remember (an id) or to forget (None), in the same
                transaction.

        Raises:
            OutboxFull: A lane's limit is reached; nothing was taken.
            PayloadTooLarge: One message exceeds the contract's limit; nothing was taken.
            OutboxUnavailable: The disk failed; nothing was taken.
        """
        if not drafts and not occurrences:
            return []
        with self._lock:
            self._ready()
            accepted, lanes = self._number(drafts)
            with self._transaction() as db:
                for lane in LANES:
                    rows = [(one.seq, one.payload) for one in accepted if one.lane == lane]
                    if rows:
                        db.executemany(_INSERT[lane], rows)
                if occurrences:
                    _write_occurrences(db, occurrences)
            self._lanes = lanes
            return accepted

    def pending(self, lane: Lane, *, after: int, limit: int) -> list[Stored]:
        """Return up to ``limit`` messages of ``lane`` with a seq beyond ``after``, in order.

        Raises:
            OutboxUnavailable: The disk failed.
        """
        with self._lock:
            db = self._ready()
            with self._translated():
                return [
                    Stored(seq, payload)
                    for seq, payload in db.execute(_PENDING[lane], (after, limit))
                ]

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

        Raises:
            OutboxUnavailable: The disk failed; nothing was changed.
        """
        with self._lock:
            self._ready()
            lanes = {state.stream: state for state in self._lanes.values()}
            impossible: list[str] = []
            upto: dict[Lane, int] = {}
            for stream, seq in watermarks.items():
                state = lanes.get(stream)
                if state is None:
                    impossible.append(f"stream {stream} is not ours")
                elif seq >= state.next:
                    impossible.append(f"stream {stream} seq {seq} is not below {state.next}")
                elif seq >= state.oldest:
                    upto[state.lane] = seq
            refused: list[tuple[Lane, int, str]] = []
            digests: dict[str, str] = {}
            for one in rejected:
                if one.index is not None:
                    continue
                if one.stream is not None and one.seq is not None:
                    state = lanes.get(one.stream)
                    if state is None or one.seq >= state.next:
                        impossible.append(f"rejected stream {one.stream} seq {one.seq}")
                    else:
                        refused.append((state.lane, one.seq, one.reason))
                elif one.sha256 is not None:
                    digests[one.sha256] = one.reason
            if digests:
                refused.extend(self._find(digests))
            if not upto and not refused:
                return Settlement(impossible=tuple(impossible))
            after = dict(self._lanes)
            discarded = quarantined = 0
            with self._transaction() as db:
                for lane, seq, reason in refused:
                    sizes = self._quarantine(db, lane, seq, reason)
                    quarantined += len(sizes)
                    after[lane] = _without(after[lane], sizes)
                for lane, seq in upto.items():
                    sizes = [size for (size,) in db.execute(_DELETE_UP_TO[lane], (seq,))]
                    discarded += len(sizes)
                    after[lane] = _without(after[lane], sizes)
                for lane, state in after.items():
                    oldest = db.execute(_OLDEST[lane]).fetchone()[0]
                    after[lane] = replace(state, oldest=oldest or state.next)
            self._lanes = after
            return Settlement(discarded, quarantined, tuple(impossible))

    def occurrences(self) -> dict[AlarmKey, str]:
        """Return the alarms that were raised and not yet restored, with their occurrence ids.

        Raises:
            OutboxUnavailable: The disk failed.
        """
        with self._lock:
            db = self._ready()
            with self._translated():
                rows = db.execute("SELECT device, event, zone, occurrence FROM occurrence")
                return {AlarmKey(device, event, zone): name for device, event, zone, name in rows}

    def quarantine(self) -> list[tuple[str, int, str, bytes]]:
        """Return what the server refused: stream, seq, reason, payload; oldest first.

        Raises:
            OutboxUnavailable: The disk failed.
        """
        with self._lock:
            db = self._ready()
            with self._translated():
                return db.execute(
                    "SELECT stream, seq, reason, payload FROM quarantine ORDER BY id"
                ).fetchall()

    def lane(self, lane: Lane) -> LaneState:
        """Return one lane at a glance."""
        return self._lanes[lane]

    def depth(self) -> int:
        """Return how many messages are not yet known to be stored."""
        return sum(state.held for state in self._lanes.values())

    def held_bytes(self) -> int:
        """Return the size of their payloads together."""
        return sum(state.held_bytes for state in self._lanes.values())

    def streams(self) -> tuple[StreamStatus, ...]:
        """Return what the gateway's status tells the server about its lanes."""
        return tuple(
            StreamStatus(lane=one.lane, stream=one.stream, oldest=one.oldest, next=one.next)
            for one in self._lanes.values()
        )

    def _number(self, drafts: Sequence[Draft]) -> tuple[list[Accepted], Mapping[Lane, LaneState]]:
        """Return the drafts as they will be accepted, and the lanes as they will be then."""
        lanes = dict(self._lanes)
        total_bytes = self.held_bytes()
        accepted: list[Accepted] = []
        for draft in drafts:
            state = lanes[draft.lane]
            message = draft.make(state.stream, state.next)
            payload = encode(message)
            size = len(payload)
            if size > PAYLOAD_BYTES_MAX:
                raise PayloadTooLarge(f"{size} bytes, {PAYLOAD_BYTES_MAX} allowed")
            limit = self._limit_bytes[draft.lane]
            if total_bytes + size > limit:
                raise OutboxFull(draft.lane, total_bytes, limit)
            total_bytes += size
            accepted.append(Accepted(draft.lane, state.stream, state.next, payload, message))
            lanes[draft.lane] = replace(
                state, next=state.next + 1, held=state.held + 1, held_bytes=state.held_bytes + size
            )
        return accepted, lanes

    def _find(self, digests: Mapping[str, str]) -> Iterator[tuple[Lane, int, str]]:
        """Yield the held messages whose SHA-256 the server named; it could not read their seq."""
        db = self._ready()
        with self._translated():
            for lane in LANES:
                for seq, payload in db.execute(_ALL[lane]):
                    reason = digests.get(hashlib.sha256(payload).hexdigest())
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
            "DELETE FROM quarantine WHERE id <= (SELECT MAX(id) FROM quarantine) - ?",
            (QUARANTINE_MAX,),
        )
        db.execute(_DELETE_ONE[lane], (seq,))
        return (len(row[0]),)

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        """Commit what the block wrote, on disk when this returns, or leave nothing of it."""
        db = self._ready()
        with self._translated():
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        """Turn SQLite's errors into ours, and have the next call open the file anew.

        Anew, because after a failed COMMIT nobody knows what the file holds until it is read.
        """
        try:
            yield
        except sqlite3.Error as error:
            self._drop_connection()
            raise OutboxUnavailable(f"{self._path}: {error}") from error

    def _drop_connection(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):  # it failed already; only memory is released
                self._db.close()
            self._db = None

    def _ready(self) -> sqlite3.Connection:
        """Return the connection, opening the file first where it is not (or no longer) open."""
        if self._closed:
            raise OutboxUnavailable(f"{self._path}: closed")
        if self._db is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                fresh = not self._path.exists()
                try:
                    self._db, self._lanes = self._open()
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    self._set_aside(str(error))
                    fresh = True
                    self._db, self._lanes = self._open()
                if fresh:
                    _sync_folder(self._path.parent)
            except (sqlite3.Error, OSError) as error:
                raise OutboxUnavailable(f"{self._path}: {error}") from error
        return self._db

    def _open(self) -> tuple[sqlite3.Connection, Mapping[Lane, LaneState]]:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=2.0)
        try:
            # One process only: two would give out the same seq for two messages.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            # FULL: a committed append survives power loss, not only a crash.
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA journal_size_limit = {4 * 1024 * 1024}")
            pages_max = (
                2 * self._limit_bytes["event"] + QUARANTINE_MAX * PAYLOAD_BYTES_MAX
            ) // _PAGE_BYTES
            db.execute(f"PRAGMA max_page_count = {pages_max + 64}")
            journal_mode = db.execute("PRAGMA journal_mode").fetchone()[0]
            synchronous = db.execute("PRAGMA synchronous").fetchone()[0]
            assert (journal_mode, synchronous) == ("wal", 2), (journal_mode, synchronous)
            _check(db)
            return db, self._load(db)
        except BaseException:
            db.close()
            raise

    def _load(self, db: sqlite3.Connection) -> Mapping[Lane, LaneState]:
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            now = self._clock()
            db.executemany(
                "INSERT INTO lane VALUES (?, ?)", [(lane, new_id(now)) for lane in LANES]
            )
            db.execute(f"PRAGMA user_version = {_FORMAT}")
        elif version != _FORMAT:
            raise OutboxUnavailable(
                f"{self._path}: format {version}, this agent knows {_FORMAT}: install a newer agent"
            )
        streams: dict[Lane, str] = dict(db.execute("SELECT lane, stream FROM lane"))
        last = dict(db.execute("SELECT name, seq FROM sqlite_sequence"))
        lanes: dict[Lane, LaneState] = {}
        for lane in LANES:
            held, oldest, held_bytes = _summary(db, lane)
            following = last.get(lane, 0) + 1
            lanes[lane] = LaneState(
                lane, streams[lane], oldest or following, following, held, held_bytes
            )
        db.execute("COMMIT")
        return lanes

    def _set_aside(self, reason: str) -> None:
        """Rename a damaged file, so that a fresh one with new streams can take its place."""
        stamp = self._clock().astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        log.error("outbox damaged, set aside and begun anew path=%s reason=%s", self._path, reason)
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.rename(f"{self._path}.corrupt-{stamp}{suffix}")
        old = sorted(self._path.parent.glob(f"{self._path.name}.corrupt-*Z"))
        for file in old[:-CORRUPT_FILES_MAX]:
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)


class _Damaged(sqlite3.DatabaseError):
    """``quick_check`` found something."""


# Not a database, malformed, or without the tables that its version promises.
_DAMAGE_CODES: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
)


def _check(db: sqlite3.Connection) -> None:
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _Damaged(verdict)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    if isinstance(error, _Damaged):
        return True
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGE_CODES


def _summary(db: sqlite3.Connection, lane: Lane) -> tuple[int, int | None, int]:
    """Return how many messages a lane holds, the lowest seq, and the size of all payloads."""
    return db.execute(_SUMMARY[lane]).fetchone()


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on disk; SQLite sees to its content alone."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
