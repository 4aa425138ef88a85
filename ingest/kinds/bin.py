# SPDX-License-Identifier: Apache-2.0
"""Refuse bins in ingest: columns, and the rules on full and burning bins."""

from collections.abc import Iterator

from edge_agent.kinds.bin import BinReading
from ingest.kinds.base import Condition, Context, Kind, Table, hysteresis
from ingest.rules import Rule

READINGS = Table(
    "reading_bin",
    ("fill_pct", "weight_kg", "temperature_c", "lid_open", "tilt", "stream", "fault"),
    ("float4", "float4", "float4", "bool", "bool", "text", "text"),
)
EVENTS = Table(
    "event_bin",
    ("event", "weight_kg", "sorted_ok", "stream"),
    ("text", "float4", "bool", "text"),
)


def conditions(reading: BinReading, context: Context) -> Iterator[Condition]:
    """Yield what the reading says to the bin rules."""
    rules = context.rules
    yield Condition(
        "bin.full",
        hysteresis(reading.fill_pct, rules.get("bin.full")),
        {"fill_pct": reading.fill_pct},
    )
    yield Condition(
        "bin.fire",
        hysteresis(reading.temperature_c, rules.get("bin.fire")),
        {"temperature_c": reading.temperature_c},
    )


KIND = Kind(
    "bin",
    READINGS,
    (
        Rule(id="bin.full", kind="bin", severity="minor", limit=90, clear=70, reopen_s=1_800),
        Rule(id="bin.fire", kind="bin", severity="critical", limit=60, clear=50, life_safety=True),
    ),
    conditions,
    EVENTS,
)
