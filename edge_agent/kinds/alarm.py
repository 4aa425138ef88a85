# SPDX-License-Identifier: Apache-2.0
"""Alarm detectors and panic buttons: condition, and alarms raised and restored (SIA DC-09 terms).

An occurrence id is minted on the edge when an alarm is raised and repeated when it is restored,
so edge and server never hold two copies of one alarm.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from edge_agent.kinds.base import EventBase, Id, Percent, ReadingBase, moved

AlarmType = Literal[
    "intrusion",
    "panic",
    "smoke",
    "gas",
    "fire",
    "water",
    "tamper",
    "fire_lane_blocked",
    "duress",
]
Phase = Literal["raised", "restored", "test", "aborted"]


class AlarmReading(ReadingBase):
    """One detector's own condition, so that a dead detector is noticed without an alarm."""

    kind: Literal["alarm"] = "alarm"
    armed: bool | None = Field(
        default=None, strict=True, description="whether it would report an alarm now"
    )
    battery_pct: Percent | None = Field(default=None, description="charge of its battery")


class AlarmEvent(EventBase):
    """One phase of one alarm occurrence."""

    kind: Literal["alarm"] = "alarm"
    event: AlarmType = Field(description="what is reported")
    phase: Phase = Field(
        description="test: raised by somebody who tries the detector; aborted: a valid code was"
        " entered after the alarm (SIA DC-09 cancel), which ends it as restored does; servers"
        " that do not know aborted yet dead-letter it, so update the server before the gateways"
    )
    occurrence: Id = Field(
        description="minted on the edge; the same for raised, restored and aborted"
    )
    zone: Id | None = Field(default=None, description="the detector's zone or grid cell")


@dataclass(frozen=True, slots=True)
class AlarmSignal:
    """What an alarm driver saw; the sampler adds the occurrence id."""

    device: str
    at: datetime
    event: AlarmType
    phase: Phase
    zone: str | None = None


BATTERY_DEADBAND_PCT = 5.0


def changed(previous: AlarmReading, current: AlarmReading) -> bool:
    """Whether ``current`` tells more than a repetition of ``previous`` (report by exception)."""
    return (
        previous.armed != current.armed
        or previous.fault != current.fault
        or moved(previous.battery_pct, current.battery_pct, BATTERY_DEADBAND_PCT)
    )
