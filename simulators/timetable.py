# SPDX-License-Identifier: Apache-2.0
"""What is to happen at which instant of the wall clock."""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Final

from simulators.spans import SECOND

Action = Callable[[int], None]
# Never sleep longer: the wall clock may be set.
_NAP_MAX_S: Final = 5.0
# Timers of the event loop may fire a little early against the wall clock.
_LATE_S: Final = 0.0005


class Timetable:
    """Actions in the order of their instants; an action may add others, itself included."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        """Take the wall clock, in microseconds since 1970."""
        self._now_us = now_us
        self._actions: list[tuple[int, int, Action]] = []
        self._order = count()
        self._added = asyncio.Event()

    def add(self, us: int, action: Action) -> None:
        """Have ``action`` called at an instant, or at once where that has passed."""
        heappush(self._actions, (us, next(self._order), action))
        self._added.set()

    async def run(self) -> None:
        """Call what is due when it is due, until cancelled."""
        while True:
            now = self._now_us()
            while self._actions and self._actions[0][0] <= now:
                us, _, action = heappop(self._actions)
                action(us)
            self._added.clear()
            nap_s = _NAP_MAX_S
            if self._actions:
                nap_s = min(nap_s, (self._actions[0][0] - now) / SECOND + _LATE_S)
            try:
                async with asyncio.timeout(nap_s):
                    await self._added.wait()
            except TimeoutError:
                continue
