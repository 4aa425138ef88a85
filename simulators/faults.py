# SPDX-License-Identifier: Apache-2.0
"""Faults as data: what goes wrong, where, from when to when.

A fault is written down before it happens and never changed, so a restart knows what was and what
is still to come. `simulators.fate` draws those of the past, a scenario's script makes those of a
live run. Only a fault that stands (`STANDING_US`) is given its end later, when a timetable ends it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from simulators.spans import Span, micros

#: Where a fault ends of which nobody knows yet when it ends.
STANDING_US: Final = micros(datetime(2100, 1, 1, tzinfo=UTC))


class FaultKind(StrEnum):
    """What can go wrong. The value is the word of scenarios and ledgers."""

    LAMP_BROKEN = "lamp_broken"  # gives no light
    LAMP_FLICKER = "lamp_flicker"  # dark for less than the on-delay
    LAMP_DAY_BURNER = "lamp_day_burner"  # lit when not due
    LAMP_FAULT_CODE = "lamp_fault_code"  # lit, but reports its own fault code
    BIN_OVERFULL = "bin_overfull"  # a large load, and nobody empties it
    BIN_FIRE = "bin_fire"
    GATE_FORCED = "gate_forced"
    GATE_HELD_OPEN = "gate_held_open"
    ALARM = "alarm"  # raised, and restored at the end
    ALARM_ABORTED = "alarm_aborted"  # raised, and a valid code entered at the end
    ALARM_TEST = "alarm_test"  # nobody may be alerted
    DEVICE_DEAD = "device_dead"  # answers nothing
    GATEWAY_SILENT = "gateway_silent"  # its link is cut; it goes on measuring


#: Those of which the detail is an alarm's type.
ALARMS: Final = frozenset({FaultKind.ALARM, FaultKind.ALARM_ABORTED, FaultKind.ALARM_TEST})


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault of one device or gateway. ``detail``: an alarm's type or a lamp's fault code."""

    from_us: int
    to_us: int
    kind: FaultKind
    target: str
    detail: str = ""

    @property
    def span(self) -> Span:
        """From when to when."""
        return self.from_us, self.to_us
