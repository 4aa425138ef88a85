# SPDX-License-Identifier: Apache-2.0
"""What processes take, by the kernel's counters; how tables and the log grow, each second."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from deploy.bench.ground import cpu_s

_PAGE_EVERY_S: Final = 1.0
_DATABASE_EVERY: Final = 5  # samples


def children(pid: int) -> list[int]:
    """Return the living children of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(one) for one in (task / "children").read_text().split()]
    return found


def _ended_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / 100


def family_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, its ended children and its living ones."""
    total = cpu_s(pid) + _ended_s(pid)
    for child in children(pid):
        try:
            total += cpu_s(child)
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile: its parent counts it the next time
    return total


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Return a process's memory by one line of its status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0


@dataclass(slots=True)
class Sampler:
    """Watches named processes and one database until `stop`."""

    pids: Mapping[str, int]
    dsn: str
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> list[dict[str, Any]]:
        """Stop watching; return what was seen."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        return self.samples

    def _run(self) -> None:
        begun = time.monotonic()
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            count = 0
            while not self._stopping.wait(_PAGE_EVERY_S):
                sample: dict[str, Any] = {
                    "t": round(time.monotonic() - begun, 1),
                    "rss_mb": {
                        name: round(_memory(name, pid), 1) for name, pid in self.pids.items()
                    },
                }
                if count % _DATABASE_EVERY == 0:
                    sample |= database(conn)
                self.samples.append(sample)
                count += 1


def _memory(name: str, pid: int) -> float:
    if name != "database":
        return memory_mb(pid)
    # What is shared is shared: only what each has for itself adds up.
    total = memory_mb(pid, "RssAnon")
    for child in children(pid):
        try:
            total += memory_mb(child, "RssAnon")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def database(conn: psycopg.Connection) -> dict[str, Any]:
    """Sizes and counters of the database, as they are now."""
    row = conn.execute(
        """
        SELECT pg_current_wal_lsn() - '0/0'::pg_lsn,
               (SELECT sum(total_bytes)::bigint FROM unnest(ARRAY['reading_lamp', 'reading_bin',
                   'reading_gate', 'reading_alarm']) AS t,
                   LATERAL hypertable_detailed_size(t::regclass)),
               (SELECT pg_total_relation_size('device_state')),
               (SELECT pg_total_relation_size('lamp_night')),
               (SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'device_state'),
               (SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'device_state'),
               (SELECT num_timed + num_requested FROM pg_stat_checkpointer)
        """
    ).fetchone()
    assert row is not None
    names = (
        "wal_bytes", "reading_bytes", "state_bytes", "night_bytes", "state_updates",
        "state_hot_updates", "checkpoints",
    )  # fmt: skip
    return {name: int(value or 0) for name, value in zip(names, row, strict=True)}


def total(conn: psycopg.Connection, query: str) -> int:
    """One number."""
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0] or 0)
