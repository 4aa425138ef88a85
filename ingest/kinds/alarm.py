# SPDX-License-Identifier: Apache-2.0
"""Alarm detectors in ingest: columns, and one rule for each kind of alarm.

An alarm's occurrence id, minted on the edge, is the alert's key: told twice it is one alert.
"""

from collections.abc import Iterator
from typing import Final, get_args

from edge_agent.kinds.alarm import AlarmEvent, AlarmReading, AlarmType
from ingest.kinds.base import Condition, Context, Kind, Table, hysteresis
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


_LIFE_SAFETY: Final[frozenset[AlarmType]] = frozenset(("panic", "smoke", "gas", "fire", "duress"))
# A loose cover shakes.
_REOPEN_S: dict[AlarmType, float] = {"tamper": 3_600, "fire_lane_blocked": 1_800, "water": 1_800}

LOW_BATTERY: Final = Rule(
    id="detector.low_battery", kind="alarm", severity="minor", limit=15, clear=25, reopen_s=86_400
)


def conditions(reading: AlarmReading, context: Context) -> Iterator[Condition]:
    """Yield what the reading says of the detector itself; alarms come as events."""
    yield Condition(
        LOW_BATTERY.id,
        hysteresis(reading.battery_pct, context.rules.get(LOW_BATTERY.id)),
        {"battery_pct": reading.battery_pct},
    )


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


def _rule(name: AlarmType) -> Rule:
    return Rule(
        id=f"alarm.{name}",
        kind="alarm",
        severity=_SEVERITY[name],
        life_safety=name in _LIFE_SAFETY,
        # Whoever restores a threatened person's alarm may be under threat too.
        latching=name == "duress",
        reopen_s=_REOPEN_S.get(name, 600),
        lane="event",
    )


KIND = Kind(
    "alarm",
    READINGS,
    (*(_rule(name) for name in get_args(AlarmType)), LOW_BATTERY),
    conditions,
    EVENTS,
    event_conditions,
)
