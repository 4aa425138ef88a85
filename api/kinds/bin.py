# SPDX-License-Identifier: Apache-2.0
"""Refuse bins as people see them."""

from api.kinds.base import Shown

SHOWN = Shown(
    "bin",
    {
        "fill_pct": "%",
        "weight_kg": "kg",
        "temperature_c": "°C",
        "lid_open": None,
        "tilt": None,
        "stream": None,
    },
)
