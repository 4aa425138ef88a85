# SPDX-License-Identifier: Apache-2.0
"""Seeded chance: numbers that depend on a label and on nothing else.

BLAKE2b of the label instead of a generator with state: the same label gives the same numbers on
every platform and Python version, in any order, after any restart.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final, TypeVar

T = TypeVar("T")

_WORDS: Final = Struct("<8Q")
_SCALE: Final = 2.0**-53


class Draw:
    """A sequence of numbers named by its label, for example ``Draw(seed, "c01-bin-003", day)``."""

    __slots__ = ("_key", "_left", "_round")

    def __init__(self, *label: object) -> None:
        """Join the parts of the label; no part may contain a slash."""
        self._key = "/".join(map(str, label)).encode()
        self._round = 0
        self._left: list[int] = []

    def unit(self) -> float:
        """Return the next number, evenly spread over [0, 1)."""
        if not self._left:
            block = blake2b(self._key, salt=self._round.to_bytes(8, "little")).digest()
            self._left = list(_WORDS.unpack(block))
            self._round += 1
        return (self._left.pop() >> 11) * _SCALE

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, limit: int) -> int:
        """Return a whole number in [0, limit)."""
        return int(self.unit() * limit)

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of ``items``.

        Raises:
            IndexError: There are none.
        """
        return items[self.below(len(items))]
