# SPDX-License-Identifier: Apache-2.0
"""Equipment in good condition, computed a second time and slowly from raw rows."""

from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

from tests.oracle.field import Device, Said, Sums, bounds, pieces, said_at, why_not


class Row(NamedTuple):
    """A stored reading: whose, when, and the fault it carries."""

    number: int
    at_us: int
    fault: str | None


def equipment(devices: Iterable[Device], rows: Iterable[Row], day: date, now_us: int) -> Sums:
    """Add up good and faulty time of every class and of all."""
    rows = list(rows)
    sums = Sums()
    for device in devices:
        start, end = bounds(day, device.zone)
        said = [Said(row.at_us, row.fault is None) for row in rows if row.number == device.number]
        for kind in ("", device.kind):
            total = sums.get("equipment-good", device.area, kind)
            counted = 0
            for at, length in pieces(device, said, start, min(end, max(start, now_us))):
                reason = why_not(device, at)
                if reason is not None:
                    total.leave_out(reason, length)
                    continue
                counted += length
                good = said_at(said, at, device.max_silence_us)
                if good == 1:
                    total.good += length
                elif good == 0:
                    total.bad += length
            total.total += counted
            total.subjects += counted > 0
    return sums
