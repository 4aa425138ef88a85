# SPDX-License-Identifier: Apache-2.0
"""Street lamps as people see them."""

from api.kinds.base import Shown

SHOWN = Shown(
    "lamp",
    {
        "lit": None,
        "level_pct": "%",
        "power_w": "W",
        "voltage_v": "V",
        "current_a": "A",
        "energy_kwh": "kWh",
        "burn_hours": "h",
        "lux": "lx",
        "battery_pct": "%",
        "solar_w": "W",
    },
)
