# SPDX-License-Identifier: Apache-2.0
"""Virtual alarms: quiet detectors with a battery, a test now and then, and what faults raise."""

from typing import Final, NamedTuple, cast

from edge_agent.kinds.alarm import AlarmReading, AlarmSignal, AlarmType, Phase
from simulators.faults import ALARMS, FaultKind
from simulators.kinds.base import Entry, Holding, Timeline, VirtualDriver
from simulators.registry import Device
from simulators.spans import HOUR, Span, instant
from simulators.world import DAY, World

# Each detector is tested about once a month, in working hours.
_TESTED_A_DAY: Final = 1 / 30
_BATTERY_PCT_A_DAY: Final = 0.05


class AlarmState(NamedTuple):
    """What holds for a detector all its life."""

    armed: bool = True


class Signal(NamedTuple):
    """What the detector says."""

    event: AlarmType
    phase: Phase


class AlarmTimeline(Timeline[AlarmState, Signal]):
    """One detector or button; its blocks are local days."""

    def __init__(self, world: World, device: Device) -> None:
        """Work out how full the battery was when the detector was put into service."""
        super().__init__(world, device)
        self.battery_pct = world.draw("alarm", device.device).between(70, 100)
        self._type: AlarmType = cast("AlarmType", device.detail)

    def _build(self, number: int, span: Span) -> tuple[AlarmState, list[Entry[AlarmState, Signal]]]:
        signals: list[tuple[int, Signal]] = []
        draw = self.world.draw("alarm", self.device.device, number)
        if draw.chance(_TESTED_A_DAY):
            signals.append((span[0] + int(draw.between(9, 17) * HOUR), Signal(self._type, "test")))
        for fault in self.during(*ALARMS):
            alarm: AlarmType = cast("AlarmType", fault.detail or self._type)
            if fault.kind is FaultKind.ALARM_TEST:
                signals.append((fault.from_us, Signal(alarm, "test")))
                continue
            over: Phase = "restored" if fault.kind is FaultKind.ALARM else "aborted"
            signals.append((fault.from_us, Signal(alarm, "raised")))
            signals.append((fault.to_us, Signal(alarm, over)))
        signals.sort()
        inside = [(at, signal) for at, signal in signals if span[0] <= at < span[1]]
        return AlarmState(), [Entry(at, None, signal) for at, signal in inside]


class AlarmDriver(VirtualDriver[AlarmState, Signal]):
    """Tells a detector's timeline as the detector would."""

    timeline: AlarmTimeline

    def _reading(self, us: int, holding: Holding[AlarmState]) -> AlarmReading:
        timeline = self.timeline
        days = max(0, us - timeline.world.city.in_service_us) / DAY
        return AlarmReading(
            device=self.device,
            at=instant(us),
            armed=holding.state.armed,
            battery_pct=round(max(5.0, timeline.battery_pct - days * _BATTERY_PCT_A_DAY), 1),
        )

    def _event(self, us: int, event: Signal) -> AlarmSignal:
        zone = self.timeline.device.area
        return AlarmSignal(self.device, instant(us), event.event, event.phase, zone)
