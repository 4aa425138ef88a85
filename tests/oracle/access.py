# SPDX-License-Identifier: Apache-2.0
"""Gates: availability, forced and held doors, computed a second time and slowly from raw rows."""

from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

from tests.oracle.field import Device, Said, Sums, bounds, pieces, said_at, why_not


class DoorRow(NamedTuple):
    """A stored reading of a gate."""

    number: int
    at_us: int
    door: str | None
    fault: str | None


class EventRow(NamedTuple):
    """A stored event of a gate."""

    number: int
    at_us: int
    event: str


def access(
    gates: Iterable[Device],
    doors: Iterable[DoorRow],
    events: Iterable[EventRow],
    day: date,
    now_us: int,
) -> Sums:
    """Add up the time gates worked, and how often doors were forced or held."""
    doors, events = list(doors), list(events)
    sums = Sums()
    for gate in gates:
        start, end = bounds(day, gate.zone)
        end = min(end, max(start, now_us))
        said = [
            Said(row.at_us, row.fault is None and row.door in ("closed", "open"))
            for row in doors
            if row.number == gate.number and not (row.door is None and row.fault is None)
        ]
        available = sums.get("gate-available", gate.area)
        counted = available_known = 0
        for at, length in pieces(gate, said, start, end):
            reason = why_not(gate, at)
            if reason is not None:
                available.leave_out(reason, length)
                continue
            counted += length
            works = said_at(said, at, gate.max_silence_us)
            available_known += 0 if works is None else length
            if works == 1:
                available.good += length
            elif works == 0:
                available.bad += length
        available.total += counted
        heard = available_known > 0 or any(
            event.number == gate.number
            and start <= event.at_us < end
            and why_not(gate, event.at_us) is None
            for event in events
        )
        for indicator, word in (("gate-forced", "forced"), ("gate-held", "held_open")):
            cases = sums.get(indicator, gate.area)
            cases.subjects += heard
            for event in events:
                if (event.number, event.event) != (gate.number, word):
                    continue
                if not start <= event.at_us < end:
                    continue
                reason = why_not(gate, event.at_us)
                if reason is None:
                    cases.good += 1
                    cases.total += 1
                else:
                    cases.leave_out(reason, 1)
        available.subjects += counted > 0
    return sums
