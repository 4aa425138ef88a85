# SPDX-License-Identifier: Apache-2.0
"""What the oracles of the field domains share: raw rows, a day's bounds, one instant after another.

Shares no code with the product. Time is cut wherever anything at all begins or ends; of each piece
the first instant is asked, by going through all rows, so nothing is carried from one to the next.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

MINUTE_US = 60_000_000
MAINTENANCE, NOT_IN_SERVICE = "maintenance", "not_in_service"


@dataclass(frozen=True)
class Device:
    """A device as the registry knows it; instants in microseconds since 1970."""

    number: int
    kind: str
    area: str
    zone: str
    in_service: tuple[int, int]
    max_silence_us: int
    maintenance: tuple[tuple[int, int], ...] = ()


@dataclass
class Sum:
    """What an indicator adds up to."""

    good: int = 0
    bad: int = 0
    total: int = 0
    subjects: int = 0
    maintenance: int = 0
    not_in_service: int = 0

    def leave_out(self, reason: str, amount: int) -> None:
        if reason == MAINTENANCE:
            self.maintenance += amount
        else:
            assert reason == NOT_IN_SERVICE
            self.not_in_service += amount


@dataclass
class Sums:
    """By indicator, area and device class."""

    of: dict[tuple[str, str, str], Sum] = field(default_factory=dict[tuple[str, str, str], Sum])

    def get(self, indicator: str, area: str, kind: str = "") -> Sum:
        return self.of.setdefault((indicator, area, kind), Sum())


class Said(NamedTuple):
    """What a reading says from its instant on."""

    at_us: int
    value: int


@lru_cache(maxsize=1_000)
def bounds(day: date, zone: str) -> tuple[int, int]:
    """Find a local day's first instant and the first after it, by looking at the clock."""
    step = timedelta(minutes=15)  # no zone changes its offset at a finer time
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=20)
    found: list[int] = []
    for wanted in (day, day + timedelta(days=1)):
        while at.astimezone(ZoneInfo(zone)).date() < wanted:
            at += step
        found.append(round(at.timestamp()) * 1_000_000)
    return found[0], found[1]


def why_not(device: Device, at_us: int) -> str | None:
    """Say why an instant does not count, or None where it does."""
    if not device.in_service[0] <= at_us < device.in_service[1]:
        return NOT_IN_SERVICE
    if any(start <= at_us < end for start, end in device.maintenance):
        return MAINTENANCE
    return None


def said_at(rows: Sequence[Said], at_us: int, max_silence_us: int) -> int | None:
    """Say what the newest row at an instant says, the highest of several, None when too old."""
    before = [row for row in rows if row.at_us <= at_us]
    newest = max((row.at_us for row in before), default=None)
    if newest is None or at_us - newest >= max_silence_us:
        return None
    return max(row.value for row in before if row.at_us == newest)


def pieces(
    device: Device, rows: Iterable[Said], start_us: int, end_us: int
) -> list[tuple[int, int]]:
    """Cut a time so that within a piece nothing changes; each by its begin and its length."""
    cuts = {start_us, end_us, *device.in_service}
    for span in device.maintenance:
        cuts.update(span)
    for row in rows:
        cuts.update((row.at_us, row.at_us + device.max_silence_us))
    within = sorted(cut for cut in cuts if start_us <= cut <= end_us)
    return [(begin, end - begin) for begin, end in pairwise(within)]
