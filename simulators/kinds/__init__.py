# SPDX-License-Identifier: Apache-2.0
"""The device classes as the simulators have them, one line each."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from simulators.kinds import alarm, bin, gate, lamp
from simulators.kinds.base import Timeline, VirtualDriver
from simulators.registry import Device
from simulators.world import World

# Any: each class has states and events of its own, which only its driver looks into.
AnyTimeline = Timeline[Any, Any]
AnyDriver = VirtualDriver[Any, Any]

TIMELINES: Final[Mapping[str, Callable[[World, Device], AnyTimeline]]] = {
    "lamp": lamp.LampTimeline,
    "bin": bin.BinTimeline,
    "gate": gate.GateTimeline,
    "alarm": alarm.AlarmTimeline,
}
DRIVERS: Final[Mapping[str, Callable[[Any], AnyDriver]]] = {
    "lamp": lamp.LampDriver,
    "bin": bin.BinDriver,
    "gate": gate.GateDriver,
    "alarm": alarm.AlarmDriver,
}


def timeline(world: World, device: Device) -> AnyTimeline:
    """Return the past and future of one device."""
    return TIMELINES[device.kind](world, device)


def driver(world: World, device: Device) -> AnyDriver:
    """Return a virtual device that an agent can poll."""
    return DRIVERS[device.kind](timeline(world, device))
