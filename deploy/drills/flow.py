# SPDX-License-Identifier: Apache-2.0
"""Watches from outside whether anything is being stored, and for how long nothing was."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from types import TracebackType
from typing import Final, Self

import psycopg

_LOOK_S: Final = 0.05


class Flow:
    """Looks twenty times a second how many messages are stored, over a connection of its own."""

    def __init__(self, dsn: str) -> None:
        """Take the database; `__enter__` begins to look."""
        self._dsn = dsn
        self._grew: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="flow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(10)

    def pause_s(self, since: float, until: float | None = None) -> float:
        """The longest time in which nothing was stored between two monotonic instants."""
        return longest(list(self._grew), since, time.monotonic() if until is None else until)

    def _look(self) -> None:
        stored = -1
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=2) as conn:
                    while not self._stopping.wait(_LOOK_S):
                        row = conn.execute("SELECT sum(upper(seen)) FROM gateway_stream").fetchone()
                        if row is not None and row[0] is not None and row[0] != stored:
                            stored = row[0]
                            self._grew.append(time.monotonic())
            except psycopg.OperationalError:
                self._stopping.wait(_LOOK_S)


def longest(instants: list[float], since: float, until: float) -> float:
    """The longest stretch between ``since`` and ``until`` without any of the instants."""
    edges = [since, *sorted(one for one in instants if since < one < until), until]
    return max(later - earlier for earlier, later in pairwise(edges))
