# SPDX-License-Identifier: Apache-2.0
"""Virtual lamps: switched by the sun, dimmed late at night, metered.

A lamp comes on some seconds after its due time begins and goes off some seconds after it ends,
each lamp with its own delay each night, as controllers with their own clocks do.
"""

from math import pi
from typing import Final, NamedTuple

from edge_agent.kinds.lamp import LampReading
from simulators.faults import FaultKind
from simulators.kinds.base import Entry, Holding, Timeline, VirtualDriver
from simulators.registry import Device
from simulators.spans import HOUR, SECOND, Span, clip, covers, instant
from simulators.world import World, day_start, night_of, night_span, ripple

FULL_PCT: Final = 100.0
DIMMED_PCT: Final = 60.0
STANDBY_W: Final = 0.4
POWER_FACTOR: Final = 0.95
# Less than half the deadband of the meter: noise alone must not cause messages.
NOISE_W: Final = 0.7
SWITCH_DELAY_S: Final = (2.0, 40.0)
_WATT_MICROSECONDS_PER_KWH: Final = 1_000 * HOUR


class LampState(NamedTuple):
    """What holds from one switching to the next; the meters as they stood when it began."""

    lit: bool
    level_pct: float
    power_w: float
    fault: str | None
    energy_kwh: float
    burn_us: int


class _Light(NamedTuple):
    """What a lamp does, without its meters."""

    lit: bool
    level_pct: float
    fault: str | None


class LampTimeline(Timeline[LampState, None]):
    """One lamp; its blocks are lighting nights, from noon to noon."""

    def __init__(self, world: World, device: Device) -> None:
        """Work out the noise's phase, and the meters' beginning."""
        super().__init__(world, device)
        self.phase = world.draw("lamp", device.device).between(0, 2 * pi)
        self.rated_w = device.rated_power_w or 0.0
        self._meters: dict[int, tuple[float, int]] = {}

    def _number(self, us: int) -> int:
        return night_of(us)

    def _span(self, number: int) -> Span:
        return night_span(number)

    def _forget(self) -> None:
        super()._forget()
        self._meters.clear()

    def _build(self, number: int, span: Span) -> tuple[LampState, list[Entry[LampState, None]]]:
        energy_kwh, burn_us = self._meters_at(number)
        lights = self._lights(number, span)
        _, before = lights[0]
        first = self._state(before, energy_kwh, burn_us)
        entries: list[Entry[LampState, None]] = []
        state, since = first, span[0]
        for at, light in lights[1:]:
            state = self._state(light, *self.advance(state, since, at))
            since = at
            entries.append(Entry(at, state))
        self._meters[number + 1] = self.advance(state, since, span[1])
        return first, entries

    def _state(self, light: _Light, energy_kwh: float, burn_us: int) -> LampState:
        power_w = self.rated_w * light.level_pct / 100 if light.lit else STANDBY_W
        return LampState(light.lit, light.level_pct, power_w, light.fault, energy_kwh, burn_us)

    def advance(self, state: LampState, since: int, at: int) -> tuple[float, int]:
        """Return the meters at an instant; they stand still before the lamp is in service."""
        us = max(0, at - max(since, self.world.city.in_service_us))
        energy_kwh = state.energy_kwh + state.power_w * us / _WATT_MICROSECONDS_PER_KWH
        return energy_kwh, state.burn_us + (us if state.lit else 0)

    def _meters_at(self, number: int) -> tuple[float, int]:
        """Return the meters at a night's beginning: the sum of all nights in service before."""
        first = night_of(self.world.city.in_service_us)
        if number <= first:
            return 0.0, 0
        known = max((night for night in self._meters if night <= number), default=first)
        for night in range(known, number):
            self._build(night, night_span(night))
        return self._meters[number]

    def _lights(self, number: int, span: Span) -> list[tuple[int, _Light]]:
        """Return what the lamp does: first just before the night, then every change within it."""
        on = self._switched_on(number, span)
        dimmed = self._dimmed(number, on)
        faults = [fault for fault in self._faults if fault.from_us < span[1]]
        edges = {edge for spans in (on, dimmed) for part in spans for edge in part}
        edges.update(edge for fault in faults for edge in fault.span)
        before = self._light(span[0] - 1, on, dimmed)
        lights = [(span[0], before)]
        for at in sorted(edge for edge in edges if span[0] <= edge < span[1]):
            light = self._light(at, on, dimmed)
            if light != lights[-1][1]:
                lights.append((at, light))
        return lights

    def _light(self, us: int, on: list[Span], dimmed: list[Span]) -> _Light:
        lit, fault_code = covers(on, us), None
        level_pct = DIMMED_PCT if covers(dimmed, us) else FULL_PCT
        for fault in self._faults:
            if not fault.from_us <= us < fault.to_us:
                continue
            match fault.kind:
                case FaultKind.LAMP_BROKEN | FaultKind.LAMP_FLICKER:
                    lit = False
                case FaultKind.LAMP_DAY_BURNER:
                    lit = True
                case FaultKind.LAMP_FAULT_CODE:
                    fault_code = fault.detail
                case _:
                    pass
        return _Light(lit, level_pct if lit else 0.0, fault_code)

    def _switched_on(self, number: int, span: Span) -> list[Span]:
        due = self.world.due(self.device, number)
        if due == [span]:
            # Burns around the clock: also just before this night.
            return [(span[0] - SECOND, span[1])]
        draw = self.world.draw("lamp", self.device.device, number)
        return [
            (
                start + int(draw.between(*SWITCH_DELAY_S) * SECOND),
                min(end + int(draw.between(*SWITCH_DELAY_S) * SECOND), span[1]),
            )
            for start, end in due
        ]

    def _dimmed(self, number: int, on: list[Span]) -> list[Span]:
        """Return when the light is turned down: from about eleven at night to about five."""
        if self.device.programme == "always":
            return []
        draw = self.world.draw("dim", self.device.device, number)
        start = day_start(number) + 23 * HOUR + int(draw.between(0, 60) * SECOND)
        end = day_start(number + 1) + 5 * HOUR + int(draw.between(0, 60) * SECOND)
        return [part for lit in on for part in clip([(start, end)], lit)]


class LampDriver(VirtualDriver[LampState, None]):
    """Tells a lamp's timeline as the lamp's controller would."""

    timeline: LampTimeline

    def _reading(self, us: int, holding: Holding[LampState]) -> LampReading:
        state = holding.state
        energy_kwh, burn_us = self.timeline.advance(state, holding.since, us)
        wave = ripple(us, self.timeline.phase, 1_800)
        power_w = state.power_w + (NOISE_W * wave if state.lit else 0.0)
        voltage_v = 228 + 3 * ripple(us, self.timeline.phase + 1, 7_200)
        return LampReading(
            device=self.device,
            at=instant(us),
            lit=state.lit,
            level_pct=state.level_pct,
            power_w=round(power_w, 1),
            voltage_v=round(voltage_v, 1),
            current_a=round(power_w / voltage_v / POWER_FACTOR, 3),
            energy_kwh=round(energy_kwh, 3),
            burn_hours=round(burn_us / HOUR, 2),
            fault=state.fault,
        )

    def _event(self, us: int, event: None) -> LampReading:
        raise AssertionError("lamps have no events")
