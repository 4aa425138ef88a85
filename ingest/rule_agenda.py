# SPDX-License-Identifier: Apache-2.0
"""When conditions are asked again whose answer time alone may change."""

import heapq
from collections.abc import Callable, Iterator
from datetime import datetime

from ingest.store.rules import MemoryKey

Entry = tuple[datetime, MemoryKey]
#: A gateway, and whether what is asked behind it asks for a device's state.
Behind = tuple[str, bool]


class Agenda:
    """Names, each once, as of its earliest instant.

    What is due here and not yet behind its gateway is put off until it is as late there; what
    cannot be asked before it is known whether its gateway is heard waits for that. What was taken
    comes back with `rollback`.
    """

    def __init__(self) -> None:
        """Start with nothing to ask."""
        self._at: dict[MemoryKey, datetime] = {}
        # That it is another time by now is seen when it is popped.
        self._heap: list[Entry] = []
        self._put_off: dict[Behind, list[Entry]] = {}
        self._waiting: dict[str, list[Entry]] = {}
        self._taken: list[Entry] = []

    def add(self, name: MemoryKey, at: datetime) -> None:
        """Have it asked at an instant, unless it is before that."""
        known = self._at.get(name)
        if known is None or at < known:
            self._at[name] = at
            heapq.heappush(self._heap, (at, name))

    def at(self, name: MemoryKey) -> datetime | None:
        """Return when it is asked; None: that is not known, or it waits."""
        return self._at.get(name)

    def due(self, now: datetime, most: int) -> Iterator[Entry]:
        """Yield what is due, for the caller to take, move, put off or let wait.

        Args:
            now: How late it is.
            most: How much is looked at.
        """
        for _ in range(most):
            if not self._heap or self._heap[0][0] > now:
                return
            at, name = heapq.heappop(self._heap)
            if self._at.get(name) == at:
                yield at, name

    def take(self, at: datetime, name: MemoryKey) -> None:
        """Ask it now."""
        del self._at[name]
        self._taken.append((at, name))

    def move(self, name: MemoryKey, at: datetime) -> None:
        """Ask it at another instant, later ones too."""
        del self._at[name]
        self.add(name, at)

    def put_off(self, at: datetime, name: MemoryKey, behind: Behind) -> None:
        """Ask it once it is as late behind its gateway."""
        heapq.heappush(self._put_off.setdefault(behind, []), (at, name))

    def wait(self, at: datetime, name: MemoryKey, gateway: str) -> None:
        """Ask it once it is known whether a gateway is heard."""
        del self._at[name]
        self._waiting.setdefault(gateway, []).append((at, name))

    @property
    def put_off_behind(self) -> list[str]:
        """The gateways behind which anything is put off."""
        return [gateway for gateway, _ in self._put_off]

    @property
    def waits_for(self) -> list[str]:
        """The gateways of which it is to be known whether they are heard."""
        return list(self._waiting)

    def catch_up(self, time_at: Callable[[str, bool], datetime]) -> None:
        """Put off no more what is due behind its gateway by now."""
        for behind, entries in list(self._put_off.items()):
            there = time_at(*behind)
            while entries and entries[0][0] <= there:
                heapq.heappush(self._heap, heapq.heappop(entries))
            if not entries:
                del self._put_off[behind]

    def wait_no_more(self, gateway: str) -> None:
        """Have asked what waited for a gateway."""
        for at, name in self._waiting.pop(gateway):
            self.add(name, at)

    def recall(self) -> None:
        """Put off nothing and let nothing wait: devices may be behind another gateway now."""
        for entries in self._put_off.values():
            for entry in entries:
                heapq.heappush(self._heap, entry)
        self._put_off = {}
        for gateway in self.waits_for:
            self.wait_no_more(gateway)

    def clear(self) -> None:
        """Have nothing asked any more."""
        self._at, self._heap = {}, []
        self._put_off, self._waiting, self._taken = {}, {}, []

    def commit(self) -> None:
        """What was taken was asked."""
        self._taken = []

    def rollback(self) -> None:
        """What was taken is to be asked again."""
        for at, name in self._taken:
            self.add(name, at)
        self._taken = []
