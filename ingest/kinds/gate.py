# SPDX-License-Identifier: Apache-2.0
"""Access gates in ingest: columns, and the rules on forced and held doors.

Forced and held are told on the event lane, raised and restored alike, so that no telemetry
backlog delays them and one lane alone moves these alerts.
"""

from collections.abc import Iterator

from edge_agent.kinds.gate import GateEvent, GateReading
from ingest.kinds.base import Condition, Context, Kind, Table
from ingest.rules import Rule

READINGS = Table("reading_gate", ("door", "lock", "fault"), ("text", "text", "text"))
EVENTS = Table("event_gate", ("event", "direction", "credential"), ("text", "text", "text"))


def conditions(reading: GateReading, context: Context) -> Iterator[Condition]:
    """Yield nothing: a gate's rules listen to its events."""
    del reading, context
    yield from ()


def event_conditions(event: GateEvent) -> Iterator[Condition]:
    """Yield what the event says to the gate rules."""
    match event.event:
        case "forced":
            yield Condition("gate.forced", holds=True)
        case "held_open":
            yield Condition("gate.held_open", holds=True)
        case "restored":
            yield Condition("gate.forced", holds=False)
            yield Condition("gate.held_open", holds=False)
        case _:
            pass


KIND = Kind(
    "gate",
    READINGS,
    (
        Rule(id="gate.forced", kind="gate", severity="major", lane="event"),
        # The gate waited before it said so; held again and again while people move in is one alert.
        Rule(id="gate.held_open", kind="gate", severity="minor", reopen_s=1_800, lane="event"),
    ),
    conditions,
    EVENTS,
    event_conditions,
)
