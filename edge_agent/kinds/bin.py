# SPDX-License-Identifier: Apache-2.0
"""Refuse bins: what they report. Names follow FIWARE's WasteContainer."""

from typing import Literal

from pydantic import Field

from edge_agent.kinds.base import EventBase, Number, Percent, ReadingBase, moved

RefuseStream = Literal["recyclable", "kitchen", "hazardous", "residual"]


class BinReading(ReadingBase):
    """One bin's level and condition."""

    kind: Literal["bin"] = "bin"
    fill_pct: Percent | None = Field(default=None, description="filled share of its volume")
    weight_kg: Number | None = Field(default=None, ge=0, le=5_000, description="content, net")
    temperature_c: Number | None = Field(default=None, ge=-60, le=600, description="inside the bin")
    lid_open: bool | None = Field(
        default=None, strict=True, description="whether the lid stands open"
    )
    tilt: bool | None = Field(default=None, strict=True, description="true: fallen over")
    stream: RefuseStream | None = Field(default=None, description="what the bin is meant for")


class DepositEvent(EventBase):
    """Somebody put something in. ``sorted_ok`` is absent where nobody looked."""

    kind: Literal["bin"] = "bin"
    event: Literal["deposit"] = Field(default="deposit", description="what happened")
    weight_kg: Number = Field(ge=0, le=1_000, description="what was put in, net")
    sorted_ok: bool | None = Field(
        default=None, strict=True, description="whether it belongs into this bin"
    )
    stream: RefuseStream | None = Field(default=None, description="what the bin is meant for")


FILL_DEADBAND_PCT = 2.0
TEMPERATURE_DEADBAND_C = 2.0


def changed(previous: BinReading, current: BinReading) -> bool:
    """Whether ``current`` tells more than a repetition of ``previous`` (report by exception)."""
    return (
        previous.fault != current.fault
        or previous.lid_open != current.lid_open
        or previous.tilt != current.tilt
        or moved(previous.fill_pct, current.fill_pct, FILL_DEADBAND_PCT)
        or moved(previous.temperature_c, current.temperature_c, TEMPERATURE_DEADBAND_C)
    )
