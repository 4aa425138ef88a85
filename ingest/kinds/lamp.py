# SPDX-License-Identifier: Apache-2.0
"""Street lamps in ingest: columns, and the rules on light at the wrong time."""

from collections.abc import Iterator

from edge_agent.kinds.lamp import LampReading
from ingest.kinds.base import Condition, Context, Kind, Table
from ingest.rules import Rule

READINGS = Table(
    "reading_lamp",
    (
        "lit",
        "level_pct",
        "power_w",
        "voltage_v",
        "current_a",
        "energy_kwh",
        "burn_hours",
        "lux",
        "battery_pct",
        "solar_w",
        "fault",
    ),
    ("bool", *["float4"] * 4, "float8", *["float4"] * 4, "text"),
)


def conditions(reading: LampReading, context: Context) -> Iterator[Condition]:
    """Yield what the reading says to the lamp rules."""
    lit = context.lit
    due, until = context.due()
    params = {"power_w": reading.power_w, "level_pct": reading.level_pct}
    dark = None if lit is None else due and not lit
    yield Condition("lamp.dark", dark, params, "", until)
    burning = None if lit is None else lit and not due
    yield Condition("lamp.day_burner", burning, params, "", until)


KIND = Kind(
    "lamp",
    READINGS,
    (
        # A lamp that comes and goes all night is one alert.
        Rule(id="lamp.dark", kind="lamp", severity="major", on_delay_s=300, reopen_s=3_600),
        Rule(id="lamp.day_burner", kind="lamp", severity="minor", on_delay_s=900, reopen_s=3_600),
    ),
    conditions,
)
