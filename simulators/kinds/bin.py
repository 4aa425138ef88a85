# SPDX-License-Identifier: Apache-2.0
"""Virtual refuse bins: filled by people's day, emptied each morning, warmed by the weather.

A deposit opens the lid, adds volume and weight, and closes the lid; between two collections a bin
in good order stays clearly below the limit of "full".
"""

from math import pi
from typing import Final, Literal, NamedTuple, cast

from edge_agent.kinds.bin import BinReading, DepositEvent, RefuseStream
from simulators.faults import Fault, FaultKind
from simulators.kinds.base import Entry, Holding, Timeline, VirtualDriver
from simulators.registry import Device
from simulators.spans import HOUR, MINUTE, SECOND, Span, covers, instant
from simulators.world import World, people_times, ripple

# One day's refuse, in per cent of the bin's volume; well below the 90 % of "full".
DAY_FILL_PCT: Final = (40.0, 70.0)
ORDINARY_FILL_MAX_PCT: Final = 82.0
OVERFULL_PCT: Final = (93.0, 97.0)
DEPOSITS_A_DAY: Final = 30
_DEPOSITS_HAZARDOUS: Final = 4
# Weight of one per cent of volume, by what is thrown in.
_KG_PER_PCT: Final[dict[str, float]] = {
    "residual": 0.35,
    "kitchen": 0.9,
    "recyclable": 0.2,
    "hazardous": 0.3,
}
_APART_US: Final = 30 * SECOND
# A fire as the sensor under the lid sees it: seconds after its start, degrees Celsius.
_FIRE: Final = ((0, 66.0), (10, 110.0), (20, 180.0), (40, 260.0))
# And how it dies down: seconds before its end.
_EMBERS: Final = ((30, 95.0), (15, 48.0))
FIRE_MIN_S: Final = 90


class BinState(NamedTuple):
    """What holds from one change to the next; ``fire_c`` while the bin burns."""

    fill_pct: float = 0.0
    weight_kg: float = 0.0
    lid_open: bool = False
    fire_c: float | None = None


class Deposit(NamedTuple):
    """What somebody put in."""

    weight_kg: float
    sorted_ok: bool


class _Step(NamedTuple):
    """Something that happens to a bin."""

    at: int
    what: Literal["open", "deposit", "collect", "load", "unload", "fire"]
    fill_pct: float = 0.0
    weight_kg: float = 0.0
    sorted_ok: bool = True
    fire_c: float | None = None


class BinTimeline(Timeline[BinState, Deposit]):
    """One bin; its blocks are local days."""

    def __init__(self, world: World, device: Device) -> None:
        """Work out what is the bin's own: when it is emptied, how well people sort."""
        super().__init__(world, device)
        draw = world.draw("bin", device.device)
        self.stream: RefuseStream = cast("RefuseStream", device.detail)
        self.phase = draw.between(0, 2 * pi)
        self._collected_at = int(draw.between(5.5, 8.5) * HOUR)
        self._sorted_ok = draw.between(0.55, 0.85)

    def _build(self, number: int, span: Span) -> tuple[BinState, list[Entry[BinState, Deposit]]]:
        before = state = self._carried(number)
        entries: list[Entry[BinState, Deposit]] = []
        for step in self._steps(number, span):
            after, deposit = self._apply(state, step)
            if after != state or deposit is not None:
                entries.append(Entry(step.at, None if after == state else after, deposit))
            state = after
        return before, entries

    def _carried(self, number: int) -> BinState:
        """Return what a day begins with: what was put in since the bin was last emptied."""
        steps: list[_Step] = []
        while not any(step.what == "collect" for step in steps):
            number -= 1
            steps = self._steps(number, self._span(number)) + steps
        state = BinState()
        for step in steps:
            state, _ = self._apply(state, step)
        return state

    def _steps(self, number: int, span: Span) -> list[_Step]:
        """Return all that happens in one day, in order."""
        start = span[0]
        draw = self.world.draw("bin", self.device.device, number)
        overfull = [fault.span for fault in self.during(FaultKind.BIN_OVERFULL)]
        steps: list[_Step] = []
        collected = start + self._collected_at + int(draw.between(-10, 10) * MINUTE)
        if not covers(overfull, collected):
            steps.append(_Step(collected, "collect"))
        count = _DEPOSITS_HAZARDOUS if self.stream == "hazardous" else DEPOSITS_A_DAY
        mean_pct = draw.between(*DAY_FILL_PCT) / DEPOSITS_A_DAY
        for time in people_times(draw, count, _APART_US):
            fill_pct = mean_pct * draw.between(0.5, 1.5)
            weight_kg = round(fill_pct * _KG_PER_PCT[self.stream] * draw.between(0.8, 1.2), 2)
            closed = start + time
            opened = closed - int(draw.between(3, 9) * SECOND)
            steps.append(_Step(opened, "open"))
            sorted_ok = draw.chance(self._sorted_ok)
            steps.append(_Step(closed, "deposit", fill_pct, weight_kg, sorted_ok))
        for fault in self._faults:
            steps += [step for step in _fault_steps(fault, self) if span[0] <= step.at < span[1]]
        return sorted(steps, key=lambda step: step.at)

    def _apply(self, state: BinState, step: _Step) -> tuple[BinState, Deposit | None]:
        deposit: Deposit | None = None
        match step.what:
            case "open":
                state = state._replace(lid_open=True)
            case "deposit":
                deposit = Deposit(step.weight_kg, step.sorted_ok)
                limit = 100.0 if state.fill_pct > ORDINARY_FILL_MAX_PCT else ORDINARY_FILL_MAX_PCT
                state = state._replace(
                    lid_open=False,
                    fill_pct=min(limit, state.fill_pct + step.fill_pct),
                    weight_kg=state.weight_kg + step.weight_kg,
                )
            case "collect" | "unload":
                state = state._replace(fill_pct=0.0, weight_kg=0.0)
            case "load":
                added = max(0.0, step.fill_pct - state.fill_pct)
                state = state._replace(
                    fill_pct=state.fill_pct + added,
                    weight_kg=state.weight_kg + added * _KG_PER_PCT[self.stream],
                )
            case "fire":
                state = state._replace(fire_c=step.fire_c)
        return state, deposit


def _fault_steps(fault: Fault, bin: BinTimeline) -> list[_Step]:
    match fault.kind:
        case FaultKind.BIN_OVERFULL:
            level = bin.world.draw("overfull", fault.target, fault.from_us).between(*OVERFULL_PCT)
            return [_Step(fault.from_us, "load", level), _Step(fault.to_us, "unload")]
        case FaultKind.BIN_FIRE:
            return [
                *(_Step(fault.from_us + s * SECOND, "fire", fire_c=c) for s, c in _FIRE),
                *(_Step(fault.to_us - s * SECOND, "fire", fire_c=c) for s, c in _EMBERS),
                _Step(fault.to_us, "fire"),
            ]
        case _:
            return []


class BinDriver(VirtualDriver[BinState, Deposit]):
    """Tells a bin's timeline as the bin's sensor would."""

    timeline: BinTimeline

    def _reading(self, us: int, holding: Holding[BinState]) -> BinReading:
        state, timeline = holding.state, self.timeline
        temperature_c = state.fire_c
        if temperature_c is None:
            outdoors = timeline.world.ambient_c(timeline.device.community, us)
            temperature_c = outdoors + 0.3 * ripple(us, timeline.phase, 3_600)
        return BinReading(
            device=self.device,
            at=instant(us),
            fill_pct=round(state.fill_pct, 1),
            weight_kg=round(state.weight_kg, 2),
            temperature_c=round(temperature_c, 1),
            lid_open=state.lid_open,
            tilt=False,
            stream=timeline.stream,
        )

    def _event(self, us: int, event: Deposit) -> DepositEvent:
        return DepositEvent(
            device=self.device,
            at=instant(us),
            weight_kg=event.weight_kg,
            sorted_ok=event.sorted_ok,
            stream=self.timeline.stream,
        )
