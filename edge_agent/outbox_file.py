# SPDX-License-Identifier: Apache-2.0
"""The outbox's file: opened and checked, brought up to date, set aside when it is damaged.

Also knows what there is room for: pages within the limit, and a ballast file that is given up when
somebody else fills the disk, because on a full disk SQLite cannot even delete.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic_core import from_json

from edge_agent.errors import DiskFull, OutboxUnavailable
from edge_agent.packing import pack

log = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096
CORRUPT_FILES_MAX: Final = 3
BALLAST_BYTES: Final = 2 * 1024 * 1024
# How often a ballast that was given up is tried to be laid down again.
BALLAST_PAUSE_S: Final = 5.0
_WAL_BYTES: Final = 4 * 1024 * 1024
# For one transaction that evicts a batch and appends another.
_WAL_BYTES_MIN: Final = 128 * 1024
# Of the limit: what the write-ahead log and the ballast may take, beside the pages.
_BESIDE_SHARE: Final = 1 / 16
# On a crowded disk an outbox that was empty still takes as many pages, out of the ballast's room.
_CROWDED_PAGES_MIN: Final = 128
_REPACKED_AT_ONCE: Final = 500

_FORMAT: Final = 3

_SCHEMA: Final = """
-- inherited: the lane's next seq when the file was first opened after the server's last answer;
-- NULL while the agent that got the answer is still the one that holds the file.
CREATE TABLE lane (lane TEXT PRIMARY KEY, stream TEXT NOT NULL, inherited INTEGER) STRICT;
-- AUTOINCREMENT: without it the seq of a deleted last message would be given out again, and the
-- server would drop the new message as a duplicate of the old one.
-- at: the message's sent_at, ms since 1970. It stands before the payload, so that looking for an
-- instant reads no payloads.
CREATE TABLE telemetry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER, payload BLOB NOT NULL
) STRICT;
-- gap: a record of an eviction, never evicted itself.
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER, payload BLOB NOT NULL,
    gap INTEGER NOT NULL DEFAULT 0
) STRICT;
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
-- Events seen while the clock was not set: when, by the monotonic clock of which boot.
CREATE TABLE unstamped (
    id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, monotonic_us INTEGER NOT NULL,
    event TEXT NOT NULL
) STRICT;
"""

# Format 1 kept payloads as they are sent, and no instants. Columns are added at no cost; payloads
# are packed afterwards, a few at a time, and read either way meanwhile (format 2).
_FROM_FORMAT_1: Final = """
ALTER TABLE lane ADD COLUMN inherited INTEGER;
ALTER TABLE telemetry ADD COLUMN at INTEGER;
ALTER TABLE event ADD COLUMN at INTEGER;
ALTER TABLE event ADD COLUMN gap INTEGER NOT NULL DEFAULT 0;
CREATE TABLE unstamped (
    id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, monotonic_us INTEGER NOT NULL,
    event TEXT NOT NULL
) STRICT;
"""
# Rows are deleted and inserted, because SQLite does not merge pages whose rows became shorter.
_UNPACKED: Final = {
    "SELECT seq, payload FROM telemetry WHERE at IS NULL ORDER BY seq LIMIT ?": (
        "DELETE FROM telemetry WHERE seq = ?",
        "INSERT INTO telemetry (seq, at, payload) VALUES (?, ?, ?)",
    ),
    "SELECT seq, payload FROM event WHERE at IS NULL ORDER BY seq LIMIT ?": (
        "DELETE FROM event WHERE seq = ?",
        "INSERT INTO event (seq, at, payload) VALUES (?, ?, ?)",
    ),
}


class OutboxFile:
    """One SQLite file in the hands of one process, and the limits it lives within.

    Not safe for threads: the outbox calls it under its lock.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], datetime],
        limit_bytes: int,
        load: Callable[[sqlite3.Connection], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open nothing yet.

        Args:
            clock: Dates what is set aside.
            limit_bytes: Of everything together: pages, write-ahead log, ballast.
            load: Called with each newly opened connection, inside a transaction; what it raises as
                `sqlite3.Error` counts as damage where damage can cause it.
        """
        self.path = path
        self._clock = clock
        self._load = load
        self._monotonic = monotonic
        beside = int(limit_bytes * _BESIDE_SHARE)
        self._wal_bytes = min(_WAL_BYTES, max(_WAL_BYTES_MIN, beside))
        self._ballast_bytes = min(BALLAST_BYTES, beside)
        self.limit_pages = (limit_bytes - self._wal_bytes - self._ballast_bytes) // PAGE_BYTES
        self._ballast = path.with_name(path.name + ".ballast")
        self._ballast_tried_at: float | None = None
        # The pages the file has while somebody else fills the disk; None: the limit is our own.
        self._crowded_pages: int | None = None
        self._db: sqlite3.Connection | None = None
        self._closed = False

    def close(self) -> None:
        """Close the file; `ready` raises from now on."""
        self._closed = True
        self._drop()

    def ready(self) -> sqlite3.Connection:
        """Return the connection, opening the file first where it is not (or no longer) open.

        Raises:
            OutboxUnavailable: It cannot be opened, or another process holds it.
        """
        if self._closed:
            raise OutboxUnavailable(f"{self.path}: closed")
        if self._db is None:
            try:
                self._db = self._open_or_renew()
            except (sqlite3.Error, OSError) as error:
                raise OutboxUnavailable(f"{self.path}: {error}") from error
            if not self._lay_ballast():
                log.error("disk is nearly full, outbox does not grow path=%s", self.path)
                self._keep_to_pages(self._db)
        return self._db

    @contextlib.contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Commit what the block wrote, on disk when this returns, or leave nothing of it.

        Raises:
            DiskFull: Nothing was written; see `make_way`.
            OutboxUnavailable: The disk failed.
        """
        db = self.ready()
        with self.translated():
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextlib.contextmanager
    def translated(self) -> Generator[None]:
        """Turn SQLite's errors into ours, and have the next call open the file anew.

        Anew, because after a failed COMMIT nobody knows what the file holds until it is read. A
        full disk is the exception: SQLite rolled back, and knows it.
        """
        try:
            yield
        except sqlite3.Error as error:
            if _code(error) == sqlite3.SQLITE_FULL:
                raise DiskFull(f"{self.path}: {error}") from error
            self._drop()
            raise OutboxUnavailable(f"{self.path}: {error}") from error

    # -- room ---------------------------------------------------------------------------------

    def used_pages(self, db: sqlite3.Connection) -> int:
        """Return the pages in use, within the present transaction if there is one."""
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        return pages - db.execute("PRAGMA freelist_count").fetchone()[0]

    def ceiling_pages(self) -> int:
        """Return how many pages may be in use at present."""
        if self._crowded_pages is None:
            return self.limit_pages
        return min(self.limit_pages, self._crowded_pages)

    @property
    def crowded(self) -> bool:
        """Whether somebody else has filled the disk, so that the file does not grow."""
        return self._crowded_pages is not None

    def make_way(self) -> None:
        """After `DiskFull`: give up the ballast, and keep to the pages the file has by now.

        Raises:
            OutboxUnavailable: The file cannot be opened.
        """
        db = self.ready()
        if self._ballast.exists():
            self._ballast.unlink()
            log.error(
                "disk full, ballast given up path=%s bytes=%d (free space on this disk)",
                self._ballast, self._ballast_bytes,
            )  # fmt: skip
        self._ballast_tried_at = self._monotonic()
        with contextlib.suppress(sqlite3.Error):
            # The log is written from its beginning again, where it has its room already.
            db.execute("PRAGMA wal_checkpoint(RESTART)")
        self._keep_to_pages(db)

    def _keep_to_pages(self, db: sqlite3.Connection) -> None:
        with self.translated():
            pages: int = db.execute("PRAGMA page_count").fetchone()[0]
        self._crowded_pages = max(pages, _CROWDED_PAGES_MIN)

    def restore(self) -> None:
        """Lay the ballast down again where it is missing and there is room; cheap to call often."""
        tried = self._ballast_tried_at
        if tried is not None and self._monotonic() - tried >= BALLAST_PAUSE_S:
            self._lay_ballast()

    def _lay_ballast(self) -> bool:
        """Take the ballast's room, which ends `crowded`; return whether there is any."""
        self._ballast_tried_at = self._monotonic()
        if not self._ballast.exists():
            draft = self._ballast.with_name(self._ballast.name + ".new")
            try:
                state = os.statvfs(self.path.parent)
                if state.f_bavail * state.f_frsize < 2 * self._ballast_bytes:
                    return False
                with draft.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, self._ballast_bytes)
                draft.rename(self._ballast)
            except OSError:  # no room after all: the next attempt is not far
                draft.unlink(missing_ok=True)
                return False
        self._ballast_tried_at = None
        if self._crowded_pages is not None:
            self._crowded_pages = None
            log.info("disk has room again path=%s", self.path)
        return True

    # -- opening ------------------------------------------------------------------------------

    def _open_or_renew(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            db = self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._set_aside(str(error))
            db = self._open()
        try:
            # Each time: the file may be new, or its name may not have reached the disk before.
            _sync_folder(self.path.parent)
        except OSError:
            db.close()
            raise
        return db

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=2.0)
        try:
            # One process only: two would give out the same seq for two messages.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            # FULL: a committed append survives power loss, not only a crash.
            db.execute("PRAGMA synchronous = FULL")
            # The log stays at the size it once had: on a full disk that is room we own.
            db.execute(f"PRAGMA journal_size_limit = {self._wal_bytes}")
            db.execute(f"PRAGMA wal_autocheckpoint = {max(8, self._wal_bytes // 4 // PAGE_BYTES)}")
            # Memory: 256 KiB of pages (the default is 2 MiB). An outage fills whatever there is,
            # and appending and reading in order are no faster with four times as many.
            db.execute("PRAGMA cache_size = -256")
            journal_mode = db.execute("PRAGMA journal_mode").fetchone()[0]
            synchronous = db.execute("PRAGMA synchronous").fetchone()[0]
            assert (journal_mode, synchronous) == ("wal", 2), (journal_mode, synchronous)
            _check(db)
            self._bring_up_to_date(db)
            db.execute("BEGIN IMMEDIATE")
            self._load(db)
            db.execute("COMMIT")
            # Eviction keeps the file smaller; this keeps a mistake in it from the disk.
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            db.execute(f"PRAGMA max_page_count = {max(pages, self.limit_pages) * 9 // 8 + 64}")
        except BaseException:
            db.close()
            raise
        return db

    def _bring_up_to_date(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _run(db, _SCHEMA, _FORMAT)
        elif version == 1:
            _run(db, _FROM_FORMAT_1, 2)
            version = 2
        elif version > _FORMAT:
            raise OutboxUnavailable(
                f"{self.path}: format {version}, this agent knows {_FORMAT}: install a newer agent"
            )
        if version == 2:
            log.info("packing an older agent's outbox path=%s", self.path)
            try:
                for select, (delete, insert) in _UNPACKED.items():
                    while _repack(db, select, delete, insert):
                        pass
                _run(db, "", _FORMAT)
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_FULL:
                    raise
                if db.in_transaction:
                    db.execute("ROLLBACK")
                log.warning("disk full, the rest is packed another time path=%s", self.path)

    def _drop(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):  # it failed already; only memory is released
                self._db.close()
            self._db = None

    def _set_aside(self, reason: str) -> None:
        """Rename a damaged file, so that a fresh one with new streams can take its place."""
        stamp = self._clock().astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        log.error("outbox damaged, set aside and begun anew path=%s reason=%s", self.path, reason)
        for suffix in ("", "-wal", "-shm"):
            file = self.path.with_name(self.path.name + suffix)
            if file.exists():
                file.rename(f"{self.path}.corrupt-{stamp}{suffix}")
        old = sorted(self.path.parent.glob(f"{self.path.name}.corrupt-*Z"))
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


def _code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code; None where the error is not SQLite's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return isinstance(error, _Damaged) or _code(error) in _DAMAGE_CODES


def _run(db: sqlite3.Connection, script: str, version: int) -> None:
    """Execute the statements and set the format, all or nothing."""
    db.execute("BEGIN IMMEDIATE")
    lines = (line for line in script.splitlines() if not line.lstrip().startswith("--"))
    for statement in "\n".join(lines).split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {version}")
    db.execute("COMMIT")


def _repack(db: sqlite3.Connection, select: str, delete: str, insert: str) -> bool:
    """Pack some payloads of the first format, and note their instants; False: none is left."""
    rows = db.execute(select, (_REPACKED_AT_ONCE,)).fetchall()
    if not rows:
        return False
    db.execute("BEGIN IMMEDIATE")
    db.executemany(delete, [(seq,) for seq, _ in rows])
    db.executemany(insert, [(seq, _sent_ms(payload), pack(payload)) for seq, payload in rows])
    db.execute("COMMIT")
    return True


def _sent_ms(payload: bytes) -> int:
    sent_at = datetime.fromisoformat(from_json(payload)["sent_at"])
    return milliseconds(sent_at)


def milliseconds(at: datetime) -> int:
    """Return ``at`` as the file holds instants: ms since 1970."""
    return int(at.timestamp() * 1000)


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on disk; SQLite sees to its content alone."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
