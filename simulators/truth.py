# SPDX-License-Identifier: Apache-2.0
"""The ledger: what was accepted, and what must therefore be stored, lit and raised.

One SQLite file outside the system, written as things happen. A row of `accepted` is on disk before
anybody is told more; what a crash kept out of the ledger is taken over from the outbox at the next
start, and what had left the outbox by then is marked as `unrecorded`. At the end `settle` works
out, from the world's physics and from when readings were accepted, what an exact platform must
have computed. No code of the platform takes part in that.
"""

import json
import sqlite3
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from edge_agent.messages import Lane
from simulators.errors import LedgerError
from simulators.expect import (
    OUTAGE_MIN_US,
    Evidence,
    Expected,
    expected_alerts,
    max_silence_us,
)
from simulators.faults import Fault, FaultKind
from simulators.kinds import timeline
from simulators.registry import Device
from simulators.spans import Span, clip, micros, normal, subtract
from simulators.world import World, night_of

FILE: Final = "truth.sqlite"

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- One row for each reading and event. digest: SHA-256 of its canonical JSON (see `digest`).
CREATE TABLE accepted (
    lane TEXT NOT NULL, gateway TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL,
    kind TEXT NOT NULL, device TEXT NOT NULL, at_us INTEGER NOT NULL, digest TEXT NOT NULL
);
-- Messages that were accepted and stored while a crash kept them out of `accepted`.
CREATE TABLE unrecorded (
    lane TEXT NOT NULL, gateway TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL
);
-- Per stream the last seq recorded, per gateway the last instant.
CREATE TABLE recorded (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE progress (gateway TEXT PRIMARY KEY, at_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE fault (
    kind TEXT NOT NULL, target TEXT NOT NULL, detail TEXT NOT NULL,
    from_us INTEGER NOT NULL, to_us INTEGER NOT NULL,
    PRIMARY KEY (target, from_us, kind)
) WITHOUT ROWID;
-- What outboxes evicted, as their agents told.
CREATE TABLE gap (
    gateway TEXT NOT NULL, lane TEXT NOT NULL, stream TEXT NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL
);
-- Links that were really cut; times of live operation; times that nobody replayed.
CREATE TABLE outage (gateway TEXT NOT NULL, cut_us INTEGER NOT NULL, healed_us INTEGER);
CREATE TABLE session (live_from_us INTEGER PRIMARY KEY, live_to_us INTEGER);
CREATE TABLE blackout (gateway TEXT NOT NULL, from_us INTEGER NOT NULL, to_us INTEGER NOT NULL);
-- The settlement: written as a whole at the end of a run.
CREATE TABLE lit (device TEXT NOT NULL, from_us INTEGER NOT NULL, to_us INTEGER NOT NULL);
CREATE TABLE observed (device TEXT NOT NULL, from_us INTEGER NOT NULL, to_us INTEGER NOT NULL);
CREATE TABLE due (
    device TEXT NOT NULL, night TEXT NOT NULL, from_us INTEGER NOT NULL, to_us INTEGER NOT NULL
);
CREATE TABLE expected_alert (
    rule TEXT NOT NULL, subject TEXT NOT NULL,
    from_us INTEGER NOT NULL, to_us INTEGER NOT NULL, cause_us INTEGER NOT NULL
);
"""
_FORMAT: Final = "2"

# Stored in double precision; every other number keeps what a float of four bytes keeps.
_DOUBLE: Final = frozenset({"energy_kwh"})
_SINGLE: Final = struct.Struct("f")
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(item: Mapping[str, object]) -> str:
    """Return the canonical JSON of a reading or event, of a payload or of a stored row alike.

    Fields that say nothing are absent, keys are sorted, there is no white space, characters are
    themselves (UTF-8), instants end in ``Z`` with six digits of a second or none. A number is
    written as the shortest decimal of the double that equals it at the precision in which it is
    stored: single, but for ``energy_kwh``. Whole numbers are no exception: 41 is 41.0.
    """
    return _CANONICAL.encode({name: _precise(name, value) for name, value in item.items()})


def _precise(name: str, value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return float(value) if name in _DOUBLE else _SINGLE.unpack(_SINGLE.pack(value))[0]


def digest(item: Mapping[str, object]) -> str:
    """Return the SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return sha256(canonical(item).encode()).hexdigest()


class Ledger:
    """The file. Every method may be called from any thread; `commit` puts things on disk."""

    def __init__(self, file: Path) -> None:
        """Open the file, making it if need be.

        Raises:
            LedgerError: The file is none of ours, or of another version.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False)
        self._closed = False
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            # FULL: what the ledger says was accepted must survive what the outbox survives.
            self._db.execute("PRAGMA synchronous = FULL")
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._db.executescript(_SCHEMA)
                self._db.execute("INSERT INTO meta VALUES ('format', ?)", (_FORMAT,))
                self._db.commit()
            known = self._db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise LedgerError(f"{file}: not a ledger ({error}); choose another folder") from error
        if known != (_FORMAT,):
            self._db.close()
            raise LedgerError(f"{file}: written by another version; choose another folder")
        self.file = file
        self.accepted = self._db.execute("SELECT COUNT(*) FROM accepted").fetchone()[0]
        self._rows: list[tuple[str, str, str, int, str, str, int, str]] = []
        self._gaps: list[tuple[str, str, str, str, int, int]] = []

    def close(self) -> None:
        """Commit and close; once is enough, more does no harm."""
        if not self._closed:
            self.commit()
            with self._lock:
                self._closed = True
                self._db.close()

    def own(self, seed: int, communities: int) -> tuple[int, int]:
        """Bind a new ledger to a city; return the city it is bound to.

        Raises:
            LedgerError: It is bound to another one.
        """
        bound = int(self.agree("seed", seed)), int(self.agree("communities", communities))
        if bound != (seed, communities):
            raise LedgerError(
                f"{self.file}: belongs to seed {bound[0]} with {bound[1]} communities;"
                " choose these, or another folder"
            )
        return bound

    def owner(self) -> tuple[int, int]:
        """Return seed and number of communities of the city the ledger is bound to.

        Raises:
            LedgerError: To none yet.
        """
        seed, communities = self.get("seed"), self.get("communities")
        if seed is None or communities is None:
            raise LedgerError(f"{self.file}: nothing was run here yet")
        return int(seed), int(communities)

    def agree(self, key: str, value: object) -> str:
        """Return what the ledger holds under ``key``, which is ``value`` if it held nothing."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, str(value)))
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            self._db.commit()
        return row[0]

    def set(self, key: str, value: object) -> None:
        """Keep a value under ``key``; on disk with the next commit."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def get(self, key: str) -> str | None:
        """Return what is kept under ``key``."""
        with self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def accept(self, gateway: str, lane: Lane, stream: str, seq: int, payload: bytes) -> int:
        """Write down one accepted message; return how many readings and events it holds."""
        # Any: the payload was valid before it was accepted.
        document: dict[str, Any] = json.loads(payload)
        items: list[dict[str, Any]] = document.get("readings") or [document["event"]]
        rows = [
            (
                lane,
                gateway,
                stream,
                seq,
                item["kind"],
                item.get("device", ""),
                _at_us(item["at"]),
                digest(item),
            )
            for item in items
        ]
        gaps = [
            (gateway, *(item[name] for name in ("lane", "stream", "first", "last", "count")))
            for item in items
            if item["kind"] == "gap"
        ]
        with self._lock:
            self._rows += rows
            self._gaps += gaps
        return len(rows)

    def commit(self) -> None:
        """Put on disk, for good, all that was written since the last commit."""
        with self._lock:
            rows, self._rows = self._rows, []
            gaps, self._gaps = self._gaps, []
            self._db.executemany("INSERT INTO gap VALUES (?, ?, ?, ?, ?, ?)", gaps)
            if rows:
                self._db.executemany("INSERT INTO accepted VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                self._db.executemany(
                    "INSERT INTO recorded VALUES (?, ?) ON CONFLICT DO UPDATE"
                    " SET seq = max(seq, excluded.seq)",
                    {row[2]: (row[2], row[3]) for row in rows}.values(),
                )
                latest: dict[str, int] = {}
                for row in rows:
                    latest[row[1]] = max(latest.get(row[1], 0), row[6])
                self._db.executemany(
                    "INSERT INTO progress VALUES (?, ?) ON CONFLICT DO UPDATE"
                    " SET at_us = max(at_us, excluded.at_us)",
                    latest.items(),
                )
                self.accepted += len(rows)
            self._db.commit()

    def take_over(
        self,
        gateway: str,
        lane: Lane,
        stream: str,
        following: int,
        held: Iterable[tuple[int, bytes]],
    ) -> int:
        """Make up for a crash between the outbox's commit and the ledger's; return what was missed.

        Args:
            gateway: Whose outbox it is.
            lane: The outbox's lane.
            stream: The lane's stream.
            following: The seq its next message will get.
            held: The messages still in the outbox, in order.
        """
        with self._lock:
            row = self._db.execute(
                "SELECT seq FROM recorded WHERE stream = ?", (stream,)
            ).fetchone()
        expected = (row[0] if row else 0) + 1
        first = expected
        for seq, payload in held:
            if seq < expected:
                continue
            self._mark(gateway, lane, stream, range(expected, seq))
            self.accept(gateway, lane, stream, seq, payload)
            expected = seq + 1
        self._mark(gateway, lane, stream, range(expected, following))
        self.commit()
        return following - first

    def _mark(self, gateway: str, lane: Lane, stream: str, missed: Sequence[int]) -> None:
        with self._lock:
            self._db.executemany(
                "INSERT INTO unrecorded VALUES (?, ?, ?, ?)",
                [(lane, gateway, stream, seq) for seq in missed],
            )
            if missed:
                self._db.execute(
                    "INSERT INTO recorded VALUES (?, ?) ON CONFLICT DO UPDATE"
                    " SET seq = max(seq, excluded.seq)",
                    (stream, missed[-1]),
                )

    def progress(self) -> dict[str, int]:
        """Return for each gateway the latest instant of anything accepted."""
        with self._lock:
            return dict(self._db.execute("SELECT gateway, at_us FROM progress"))

    def add_faults(self, faults: Iterable[Fault]) -> None:
        """Write down faults before they happen."""
        with self._lock:
            self._db.executemany(
                "INSERT OR IGNORE INTO fault VALUES (?, ?, ?, ?, ?)",
                [(one.kind, one.target, one.detail, one.from_us, one.to_us) for one in faults],
            )
            self._db.commit()

    def end(self, faults: Iterable[Fault], us: int) -> None:
        """Write down when faults end that stand."""
        with self._lock:
            self._db.executemany(
                "UPDATE fault SET to_us = ? WHERE target = ? AND from_us = ? AND kind = ?",
                [(us, one.target, one.from_us, one.kind) for one in faults],
            )
            self._db.commit()

    def faults(self) -> list[Fault]:
        """Return all faults ever written down."""
        with self._lock:
            rows = self._db.execute("SELECT from_us, to_us, kind, target, detail FROM fault")
            return sorted(
                Fault(from_us, to_us, FaultKind(kind), target, detail)
                for from_us, to_us, kind, target, detail in rows
            )

    def cut(self, gateway: str, us: int) -> None:
        """Write down that a gateway's link was cut."""
        with self._lock:
            self._db.execute("INSERT INTO outage VALUES (?, ?, NULL)", (gateway, us))
            self._db.commit()

    def healed(self, gateway: str, us: int) -> None:
        """Write down that a gateway's link works again."""
        with self._lock:
            self._db.execute(
                "UPDATE outage SET healed_us = ? WHERE gateway = ? AND healed_us IS NULL",
                (us, gateway),
            )
            self._db.commit()

    def recover(self) -> None:
        """Bring to an end what a crash left open: its session, and the links that were cut."""
        with self._lock:
            # A cut link stayed silent until now; whether anybody noticed in time is only sure where
            # it had been cut for long enough when everything ended.
            (latest,) = self._db.execute("SELECT coalesce(max(at_us), 0) FROM progress").fetchone()
            self._db.execute(
                "DELETE FROM outage WHERE healed_us IS NULL AND cut_us > ?",
                (latest - OUTAGE_MIN_US,),
            )
            self._db.execute("UPDATE outage SET healed_us = ? WHERE healed_us IS NULL", (latest,))
            self._db.execute(
                "UPDATE session SET live_to_us = max(live_from_us, ?) WHERE live_to_us IS NULL",
                (latest,),
            )
            self._db.commit()

    def outages(self) -> list[tuple[str, int, int]]:
        """Return the links that were cut and mended: gateway, from, to."""
        with self._lock:
            return self._db.execute(
                "SELECT gateway, cut_us, healed_us FROM outage WHERE healed_us IS NOT NULL"
            ).fetchall()

    def begin_session(self, us: int) -> None:
        """Write down that live operation begins."""
        with self._lock:
            self._db.execute("INSERT INTO session VALUES (?, NULL)", (us,))
            self._db.commit()

    def end_session(self, us: int) -> None:
        """Write down that live operation ended in good order."""
        with self._lock:
            self._db.execute("UPDATE session SET live_to_us = ? WHERE live_to_us IS NULL", (us,))
            self._db.commit()

    def sessions(self) -> list[Span]:
        """Return the times of live operation; one that a crash ended ends with what it left."""
        latest = max(self.progress().values(), default=0)
        with self._lock:
            return self._db.execute(
                "SELECT live_from_us, coalesce(live_to_us, ?) FROM session ORDER BY live_from_us",
                (latest,),
            ).fetchall()

    def black_out(self, gateway: str, span: Span) -> None:
        """Write down a time that will not be replayed."""
        with self._lock:
            self._db.execute("INSERT INTO blackout VALUES (?, ?, ?)", (gateway, *span))
            self._db.commit()

    def blackouts(self) -> dict[str, list[Span]]:
        """Return for each gateway the times that were not replayed."""
        result: defaultdict[str, list[Span]] = defaultdict(list)
        with self._lock:
            for gateway, start, end in self._db.execute("SELECT * FROM blackout"):
                result[gateway].append((start, end))
        return result

    def instants(self, lane: Lane, devices: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
        """Yield for each of ``devices`` the instants of what was accepted, in order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT device, at_us FROM accepted WHERE lane = ? AND device IN"
                " (SELECT value FROM json_each(?)) ORDER BY device, at_us",
                (lane, json.dumps(devices)),
            ).fetchall()
        for device, group in groupby(rows, itemgetter(0)):
            yield device, [at_us for _, at_us in group]

    def replace(
        self,
        *,
        lit: Sequence[tuple[str, int, int]],
        observed: Sequence[tuple[str, int, int]],
        due: Sequence[tuple[str, str, int, int]],
        alerts: Sequence[Expected],
    ) -> None:
        """Write the settlement in one transaction, in the place of an earlier one."""
        with self._lock:
            for statement in (
                "DELETE FROM lit",
                "DELETE FROM observed",
                "DELETE FROM due",
                "DELETE FROM expected_alert",
            ):
                self._db.execute(statement)
            self._db.executemany("INSERT INTO lit VALUES (?, ?, ?)", lit)
            self._db.executemany("INSERT INTO observed VALUES (?, ?, ?)", observed)
            self._db.executemany("INSERT INTO due VALUES (?, ?, ?, ?)", due)
            self._db.executemany("INSERT INTO expected_alert VALUES (?, ?, ?, ?, ?)", alerts)
            self._db.commit()


@dataclass(frozen=True, slots=True)
class Settlement:
    """How much was settled."""

    lamps: int
    lamp_nights: int
    alerts: int


def settle(ledger: Ledger, world: World) -> Settlement:
    """Work out what an exact platform knows by now, and write it into the ledger.

    The platform settles light and dark up to a lamp's latest reading, so `lit` and `observed` are
    clipped to the lamp's first and last accepted reading.
    """
    lit: list[tuple[str, int, int]] = []
    observed: list[tuple[str, int, int]] = []
    due: list[tuple[str, str, int, int]] = []
    lamps = [device for device in world.city.devices if device.kind == "lamp"]
    blackouts = ledger.blackouts()
    count = 0
    for name, instants in ledger.instants("telemetry", [lamp.device for lamp in lamps]):
        count += 1
        lamp = world.city.by_id[name]
        told = instants[0], instants[-1]
        observed += [(name, *span) for span in observed_of(instants, max_silence_us(world.city))]
        mute = normal([*timeline(world, lamp).dead(), *blackouts.get(lamp.gateway, ())])
        lit += [(name, *span) for span in lit_of(world, lamp, told, mute)]
        for night in range(night_of(told[0]), night_of(told[1]) + 1):
            label = date.fromordinal(night).isoformat()
            in_service = clip(world.due(lamp, night), (world.city.in_service_us, sys.maxsize))
            due += [(name, label, *span) for span in in_service]
    alerts = expected_alerts(world, _evidence(ledger, world))
    ledger.replace(lit=lit, observed=observed, due=due, alerts=alerts)
    return Settlement(count, len({(device, night) for device, night, _, _ in due}), len(alerts))


def observed_of(instants: Sequence[int], holds_us: int) -> list[Span]:
    """Return when a device is known, from the instants of its readings, in order.

    A reading holds until the next one, at most for ``holds_us`` (domain.md, Lighting).
    """
    return normal(
        (instant, min(following, instant + holds_us)) for instant, following in pairwise(instants)
    )


def lit_of(world: World, lamp: Device, told: Span, mute: Sequence[Span]) -> list[Span]:
    """Return when a lamp is lit within ``told``, as far as it tells.

    While it is mute its last word stands: what it does unseen becomes known when it speaks again.
    """
    life = timeline(world, lamp)
    lit = normal(span for span, state in life.states(told) if state.lit)
    for start, end in clip(mute, told):
        lit = subtract(lit, [(start, end)])
        if life.state(start - 1).state.lit:
            lit = normal([*lit, (start, end)])
    return lit


def _evidence(ledger: Ledger, world: World) -> Evidence:
    concerned = sorted({fault.target for fault in world.faults} & world.city.by_id.keys())
    return Evidence(
        readings=dict(ledger.instants("telemetry", concerned)),
        events=dict(ledger.instants("event", concerned)),
        latest=ledger.progress(),
        outages=ledger.outages(),
        sessions=ledger.sessions(),
    )


def _at_us(text: str) -> int:
    return micros(datetime.fromisoformat(text))
