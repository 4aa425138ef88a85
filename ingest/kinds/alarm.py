# SPDX-License-Identifier: Apache-2.0
"""Alarm detectors in ingest: columns, and one rule for each kind of alarm.

An alarm's occurrence id, minted on the edge, is the alert's key: told twice it is one alert.
"""

from collections.abc import Iterator
from typing import get_args

from edge_agent.kinds.alarm import AlarmEvent, AlarmReading, AlarmType
from ingest.kinds.base import Condition, Context, Kind, Table
from ingest.rules import Rule, Severity

READINGS = Table("reading_alarm", ("armed", "battery_pct", "fault"), ("bool", "float4", "text"))
EVENTS = Table(
    "event_alarm", ("event", "phase", "occurrence", "zone"), ("text", "text", "text", "text")
)

# Life safety and people in danger first.
_SEVERITY: dict[AlarmType, Severity] = {
    "panic": "critical",
    "smoke": "critical",
    "gas": "critical",
    "fire": "critical",
    "duress": "critical",
    "intrusion": "major",
    "fire_lane_blocked": "major",
    "water": "minor",
    "tamper": "minor",
}


def conditions(reading: AlarmReading, context: Context) -> Iterator[Condition]:
    """Yield nothing: alarms come as events."""
    del reading, context
    yield from ()


def event_conditions(event: AlarmEvent) -> Iterator[Condition]:
    """Yield what the event says to its rule; a test raises nothing, and no code ends duress."""
    if event.phase == "test" or (event.phase, event.event) == ("aborted", "duress"):
        return
    params = {"zone": event.zone} if event.zone else {}
    yield Condition(
        f"alarm.{event.event}",
        event.phase == "raised",
        params,
        key=event.occurrence,
        ended="aborted_by_code" if event.phase == "aborted" else None,
    )


KIND = Kind(
    "alarm",
    READINGS,
    tuple(Rule(id=f"alarm.{name}", severity=_SEVERITY[name]) for name in get_args(AlarmType)),
    conditions,
    EVENTS,
    event_conditions,
)
