# SPDX-License-Identifier: Apache-2.0
"""Freezing processes, finding their children, measuring what they hold; filling disks."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def frozen(pids: Iterable[int]) -> Generator[None]:
    """Stop processes for as long as the block lasts, then let them go on."""
    stopped = list(pids)
    _signal(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(stopped, signal.SIGCONT)


def kill_all(pids: Iterable[int]) -> int:
    """End processes at once; returns how many there were."""
    return _signal(pids, signal.SIGKILL)


def with_children(pid: int) -> list[int]:
    """A process and all its descendants, the oldest first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def resident_mb(pid: int) -> float:
    """Memory a process holds, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def fill(file: Path) -> None:
    """Write a file, or go on with it, until its file system is full."""
    block = bytes(1 << 20)
    with file.open("ab", buffering=0) as out:
        # In ever smaller helpings, until not even a block of it is left.
        for size in (1 << 20, 1 << 16, 1 << 12):
            with suppress(OSError):
                while True:
                    out.write(block[:size])


def _signal(pids: Iterable[int], number: signal.Signals) -> int:
    count = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            count += 1
    return count
