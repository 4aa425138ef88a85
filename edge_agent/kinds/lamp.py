# SPDX-License-Identifier: Apache-2.0
"""Street lamps: what they report. Names follow TALQ's lamp and driver functions."""

from typing import Literal

from pydantic import Field

from edge_agent.kinds.base import Number, Percent, ReadingBase, moved


class LampReading(ReadingBase):
    """One lamp controller's view of its lamp.

    ``lit`` says whether the lamp gives light. A controller that only meters power leaves it
    out; receivers then take 20 % of rated power as the limit.
    """

    kind: Literal["lamp"] = "lamp"
    lit: bool | None = Field(default=None, strict=True, description="whether it gives light")
    level_pct: Percent | None = Field(default=None, description="dimming level, % of full output")
    power_w: Number | None = Field(default=None, ge=0, le=5_000, description="active power drawn")
    voltage_v: Number | None = Field(
        default=None, ge=0, le=1_000, description="supply voltage, effective"
    )
    current_a: Number | None = Field(
        default=None, ge=0, le=100, description="supply current, effective"
    )
    energy_kwh: Number | None = Field(
        default=None, ge=0, le=1e7, description="cumulative since installation"
    )
    burn_hours: Number | None = Field(
        default=None, ge=0, le=1e6, description="cumulative since lamp change"
    )
    lux: Number | None = Field(
        default=None, ge=0, le=200_000, description="illuminance at the lamp's light sensor"
    )
    battery_pct: Percent | None = Field(default=None, description="solar lamps: charge")
    solar_w: Number | None = Field(
        default=None, ge=0, le=5_000, description="solar lamps: power from the panel"
    )


# A metering noise of this size is not a change worth a message between heartbeats.
POWER_DEADBAND_W = 2.0
BATTERY_DEADBAND_PCT = 5.0


def changed(previous: LampReading, current: LampReading) -> bool:
    """Whether ``current`` tells more than a repetition of ``previous`` (report by exception)."""
    return (
        previous.lit != current.lit
        or previous.fault != current.fault
        or previous.level_pct != current.level_pct
        or moved(previous.power_w, current.power_w, POWER_DEADBAND_W)
        or moved(previous.battery_pct, current.battery_pct, BATTERY_DEADBAND_PCT)
    )
