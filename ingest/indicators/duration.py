# SPDX-License-Identifier: Apache-2.0
"""How long single things took on one day: kept one by one, for medians of days make no median.

Their sum is a tally like any other, so that what is restated shows in its revision.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ingest.indicators.tally import Key, Tally


class Duration(NamedTuple):
    """One time one device took, microseconds; it counts on the day and in the area it was over.

    Attributes:
        at_us: When it was over, or was last known to last.
        finished: Whether it is over; if not it took at least ``took_us``.
    """

    indicator: str
    area: str
    device_id: int
    at_us: int
    took_us: int
    finished: bool = True


def tally(durations: Iterable[Duration]) -> dict[Key, Tally]:
    """Add up times by area: good is those that are over, the rest of the total those that last.

    Returns:
        Microseconds; ``subjects`` counts the devices with a time.
    """
    finished: dict[Key, int] = {}
    total: dict[Key, int] = {}
    devices: dict[Key, set[int]] = {}
    for one in durations:
        key = Key(one.indicator, one.area)
        finished[key] = finished.get(key, 0) + (one.took_us if one.finished else 0)
        total[key] = total.get(key, 0) + one.took_us
        devices.setdefault(key, set()).add(one.device_id)
    return {
        key: Tally(finished[key], 0, total_us, len(devices[key])) for key, total_us in total.items()
    }
