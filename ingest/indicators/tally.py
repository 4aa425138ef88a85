# SPDX-License-Identifier: Apache-2.0
"""What an area adds up to in one day: whole numbers that sum to longer times and larger areas."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

# Why something does not count; the same words in the database, the api and the reports.
Exclusion = Literal["maintenance", "not_in_service"]


class Key(NamedTuple):
    """What a tally is of: an indicator in the finest area known, by device class or ``""``."""

    indicator: str
    area: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Good, bad and all, in the indicator's parts; the rest of ``total`` is unknown.

    Attributes:
        good: Known good. Of a sum: the sum.
        bad: Known bad; 0 of a sum.
        total: All that counts; ``total - good - bad`` is unknown. Of a sum: the same as ``good``.
        subjects: How many devices, or cases, speak in it.
        excluded: What does not count, by reason, in the same parts.

    Raises:
        ValueError: The parts are negative or exceed the whole.
    """

    good: int = 0
    bad: int = 0
    total: int = 0
    subjects: int = 0
    excluded: Mapping[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        # Nothing left out for a reason is the reason left out: equal tallies are stored equal.
        object.__setattr__(
            self, "excluded", {key: value for key, value in self.excluded.items() if value}
        )
        if min(self.good, self.bad, self.subjects, *self.excluded.values(), 0) < 0:
            raise ValueError(f"negative: {self}")
        if self.good + self.bad > self.total:
            raise ValueError(f"not parts of a whole: {self}")

    def __add__(self, other: "Tally") -> "Tally":
        reasons = self.excluded.keys() | other.excluded.keys()
        return Tally(
            self.good + other.good,
            self.bad + other.bad,
            self.total + other.total,
            self.subjects + other.subjects,
            {
                reason: self.excluded.get(reason, 0) + other.excluded.get(reason, 0)
                for reason in sorted(reasons)
            },
        )


def add_up(parts: Iterable[tuple[Key, Tally]]) -> dict[Key, Tally]:
    """Sum what several devices contribute to the same tallies."""
    sums: dict[Key, Tally] = {}
    for key, part in parts:
        known = sums.get(key)
        sums[key] = part if known is None else known + part
    return sums
