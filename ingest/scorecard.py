# SPDX-License-Identifier: Apache-2.0
"""How good the alarms themselves are: definitions, and what is usual; pure.

Sources: EEMUA Publication 191 (3rd ed.) and ISA-18.2-2016, clause 16 (monitoring and assessment).
An operator is a community's desk. An alarm is one occurrence that was not kept from the desk when
it was raised: what was muted or shelved disturbed nobody, and is counted by itself. All by the time
of receipt, for that is when a desk is disturbed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ingest import hygiene

#: Rates are given per so long (EEMUA 191, ISA-18.2 table 7).
SLOT: Final = timedelta(minutes=10)
RANGE_MAX: Final = timedelta(days=31)
#: So many of the noisiest are told (both sources).
NOISY: Final = 10

#: What is usual, or at most manageable: alarms per 10 minutes and operator on average and at most,
#: share of time in flood, share of the ten noisiest, chattering ones, stale ones.
TARGETS: Final[Mapping[str, float]] = {
    "average": 1.0,
    "peak": 10.0,
    "flood_share": 0.01,
    "noisy_share": 0.05,
    "chattering": 0.0,
    "stale": 5.0,
}
#: The mix of priorities that lets people tell them apart (ISA-18.2): low 80, medium 15, high 5 %.
#: What is for information is no alarm to either, and is shown beside them.
PRIORITY_TARGETS: Final[Mapping[str, float]] = {"minor": 0.8, "major": 0.15, "critical": 0.05}


@dataclass(frozen=True, slots=True)
class Load:
    """How many alarms desks had to take.

    Attributes:
        alarms: All of them.
        average: Per `SLOT` and operator, quiet times included.
        peak: The most of any operator in one slot.
        flood: How long any operator was in flood, summed over operators.
        flood_share: Of all operators' time.
    """

    alarms: int
    average: float
    peak: int
    flood: timedelta
    flood_share: float


def load(slots: Mapping[tuple[str, int], int], operators: int, length: timedelta) -> Load:
    """Return the load of a time.

    Args:
        slots: Alarms by operator and number of the slot since the start; empty ones may lack.
        operators: How many there are, those without an alarm included.
        length: Of the time; the last slot may be a short one.

    Raises:
        ValueError: No time at all, or nobody to be disturbed.
    """
    if length <= timedelta(0) or operators < 1:
        raise ValueError("a load needs a time and an operator")
    by_operator: dict[str, dict[int, int]] = {}
    for (operator, number), count in slots.items():
        by_operator.setdefault(operator, {})[number] = count
    alarms = sum(slots.values())
    flood = sum(map(flood_slots, by_operator.values())) * SLOT
    total = operators * length
    return Load(
        alarms,
        alarms / (total / SLOT),
        max(slots.values(), default=0),
        min(flood, total),
        min(1.0, flood / total),
    )


def flood_slots(counts: Mapping[int, int]) -> int:
    """Return how many slots of one operator belong to floods; numbers that lack had no alarm.

    A flood begins with a slot above the limit, and ends with the first one below the lower limit,
    which is no longer part of it (ISA-18.2; `ingest.hygiene.is_flood`).
    """
    was, slots = False, 0
    before: int | None = None
    for number in sorted(counts):
        if before is not None and number > before + 1:
            was = False  # a slot without any alarm lies between
        was = hygiene.is_flood(was, counts[number])
        slots += was
        before = number
    return slots


def share(part: int, whole: int) -> float | None:
    """Return a share from 0 to 1; None of nothing."""
    return part / whole if whole else None


def mix(by_severity: Mapping[str, int]) -> dict[str, float | None]:
    """Return each severity's share of the alarms."""
    whole = sum(by_severity.values())
    return {severity: share(count, whole) for severity, count in by_severity.items()}


def false_alarm_share(dispositions: Iterable[str]) -> float | None:
    """Return false alarms and tests among the settled ones; None while none is settled.

    As the indicator ``false-alarms`` counts: duplicates and what was withdrawn do not.
    """
    settled: Sequence[str] = [one for one in dispositions if one in _SETTLED]
    return share(sum(one != "confirmed" for one in settled), len(settled))


_SETTLED: Final = frozenset(("confirmed", "false_alarm", "test"))
