# SPDX-License-Identifier: Apache-2.0
"""Which faults happen: those of past days drawn by seed, those of a live run chosen as they come.

Every fault keeps a margin from the platform's rules: a lamp is dark for clearly less than the
on-delay of "lamp dark" or for clearly more, a bin is full or far from it, and a fault of the past
begins and ends well within the time that is replayed. So what must be raised is never a close call.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from simulators.chance import Draw
from simulators.faults import ALARMS, Fault, FaultKind
from simulators.registry import Device
from simulators.spans import HOUR, MINUTE, SECOND, Span, covers, seconds
from simulators.world import World, day_of, day_start, night_of

# How far inside the replayed time a drawn fault lies, and how far from others of its device.
MARGIN_US: Final = 20 * MINUTE
APART_US: Final = 30 * MINUTE
# A forced gate, and an intruder seen in the same grid cell within half a minute.
BREAK_IN: Final = "break_in"
INTRUDER_SEEN_S: Final = (5.0, 25.0)
FAULT_CODES: Final = ("driver_overheat", "voltage_low", "surge_protection")
# "lamp dark" is raised after 300 s, "day burner" after 900 s, "device silent" after 1,860 s.
FLICKER_S: Final = (60.0, 200.0)
# How long a fault may last, in seconds, where some durations are a close call for a rule.
LASTS_S: Final[Mapping[str, tuple[float, float]]] = {
    FaultKind.LAMP_BROKEN: (420, 86_400),
    FaultKind.LAMP_FLICKER: FLICKER_S,
    FaultKind.LAMP_DAY_BURNER: (1_200, 86_400),
    FaultKind.BIN_FIRE: (90, 86_400),
    FaultKind.DEVICE_DEAD: (2_400, 86_400),
    FaultKind.GATEWAY_SILENT: (30, 86_400),
}
_NEVER: Final[Span] = (0, 0)

WORDS: Final[tuple[str, ...]] = (*FaultKind, BREAK_IN)
# Of which class of device, and for alarms of which type, each fault is.
_KIND_OF: Final[Mapping[str, str]] = {
    FaultKind.LAMP_BROKEN: "lamp",
    FaultKind.LAMP_FLICKER: "lamp",
    FaultKind.LAMP_DAY_BURNER: "lamp",
    FaultKind.LAMP_FAULT_CODE: "lamp",
    FaultKind.BIN_OVERFULL: "bin",
    FaultKind.BIN_FIRE: "bin",
    FaultKind.GATE_FORCED: "gate",
    FaultKind.GATE_HELD_OPEN: "gate",
    FaultKind.ALARM: "alarm",
    FaultKind.ALARM_ABORTED: "alarm",
    FaultKind.ALARM_TEST: "alarm",
    BREAK_IN: "gate",
}


class Fate:
    """Chooses faults for one world, never two at a time on one device."""

    def __init__(self, world: World) -> None:
        """Take note of the faults that the world already knows."""
        self._world = world
        self._taken: defaultdict[str, list[Span]] = defaultdict(list)
        for fault in world.faults:
            self._take(fault)

    def past(self, span: Span, a_day: Mapping[str, float]) -> list[Fault]:
        """Draw the faults of a stretch of the past.

        Args:
            span: What is going to be replayed; drawn faults lie within it, with a margin.
            a_day: How many to expect in each community and day, by word (`WORDS`).
        """
        within = span[0] + MARGIN_US, span[1] - MARGIN_US
        result: list[Fault] = []
        # A night's faults belong to the day of its dusk, so begin a day early.
        for day in range(day_of(span[0]) - 1, day_of(span[1]) + 1):
            for community in self._world.city.communities:
                draw = self._world.draw("fate", community, day)
                for word in WORDS:
                    rate = a_day.get(word, 0.0)
                    count = int(rate) + draw.chance(rate % 1)
                    for _ in range(count):
                        result += self._one_past(word, community, day, within, draw)
        return result

    def live(
        self, word: str, communities: Sequence[str], span: Span, detail: str, draw: Draw
    ) -> list[Fault]:
        """Choose where a fault happens from ``span[0]`` to ``span[1]``; [] where nobody is free.

        Args:
            word: One of `WORDS`.
            communities: Where to look, in this order.
            detail: An alarm's type, or a lamp's fault code.
            draw: Decides among the devices that are free.
        """
        for community in communities:
            if word == FaultKind.GATEWAY_SILENT:
                gateways = [
                    row.gateway
                    for row in self._world.city.gateways
                    if row.community == community and self._is_free(row.gateway, span)
                ]
                if gateways:
                    return self._keep([Fault(*span, FaultKind.GATEWAY_SILENT, draw.pick(gateways))])
                continue
            candidates = [
                device
                for device in self._candidates(word, community, detail)
                if self._is_free(device.device, span)
                and self._is_free(device.gateway, span)
                and self._is_the_hour(word, device, span)
            ]
            while candidates:
                device = candidates.pop(draw.below(len(candidates)))
                faults = self._faults(word, device, span, detail, draw)
                if faults:
                    return self._keep(faults)
        return []

    def _one_past(
        self, word: str, community: str, day: int, within: Span, draw: Draw
    ) -> list[Fault]:
        # Everything is drawn before anything is refused: what is free must not move the rest.
        device = draw.pick(self._candidates(word, community, ""))
        span = _SHAPES[word](self._world, device, day, draw)
        faults = self._faults(word, device, span, "", draw)
        if span == _NEVER or not faults:
            return []
        inside = all(within[0] <= one.from_us and one.to_us <= within[1] for one in faults)
        if not inside or not self._is_free(device.device, span):
            return []
        if word == FaultKind.DEVICE_DEAD and not self._is_the_hour(word, device, span):
            return []
        return self._keep(faults)

    def _candidates(self, word: str, community: str, detail: str) -> list[Device]:
        kind = _KIND_OF.get(word)
        alarm_type = detail if word in ALARMS else ""
        return [
            device
            for device in self._world.city.devices
            if device.community == community
            and kind in {None, device.kind}
            and alarm_type in {"", device.detail}
        ]

    def _is_the_hour(self, word: str, device: Device, span: Span) -> bool:
        """Whether a lamp can have this fault then: dark when due, lit by day, dead in between."""
        if device.kind != "lamp" or word == FaultKind.LAMP_FAULT_CODE:
            return True
        nights = range(night_of(span[0]) - 1, night_of(span[1]) + 2)
        due = [part for night in nights for part in self._world.due(device, night)]
        if word == FaultKind.DEVICE_DEAD:
            # The last thing it said must not be a lamp about to be switched.
            early, late = span[0] - MARGIN_US, span[0] + 2 * MARGIN_US
            return not any(early < edge < late for part in due for edge in part)
        if word == FaultKind.LAMP_DAY_BURNER:
            start, end = span[0] - MARGIN_US, span[1] + MARGIN_US
            return not any(start < until and since < end for since, until in due)
        early, late = span[0] - MINUTE, span[1] + MINUTE
        # The nights of lamps that are always due touch: both ends must be due, and nothing else.
        return all(covers(due, us) for us in (early, (early + late) // 2, late))

    def _faults(
        self, word: str, device: Device, span: Span, detail: str, draw: Draw
    ) -> list[Fault]:
        target = device.device
        if word == BREAK_IN:
            seen = span[0] + seconds(draw.between(*INTRUDER_SEEN_S))
            detectors = [
                one.device
                for one in self._world.city.devices
                if one.area == device.area and one.detail == "intrusion"
            ]
            if not self._is_free(detectors[0], span):
                return []
            return [
                Fault(*span, FaultKind.GATE_FORCED, target),
                Fault(seen, span[1], FaultKind.ALARM, detectors[0], "intrusion"),
            ]
        kind = FaultKind(word)
        if kind is FaultKind.LAMP_FAULT_CODE:
            detail = detail or draw.pick(FAULT_CODES)
        elif kind in ALARMS:
            detail = detail or device.detail
        return [Fault(*span, kind, target, detail)]

    def _is_free(self, target: str, span: Span) -> bool:
        start, end = span[0] - APART_US, span[1] + APART_US
        return not any(since < end and start < until for since, until in self._taken[target])

    def _keep(self, faults: Iterable[Fault]) -> list[Fault]:
        kept = list(faults)
        for fault in kept:
            self._take(fault)
        return kept

    def _take(self, fault: Fault) -> None:
        self._taken[fault.target].append(fault.span)


def _lasting(start: int, draw: Draw, low_us: float, high_us: float) -> Span:
    return start, start + int(draw.between(low_us, high_us))


def _in_a_day(low_h: float, high_h: float) -> Callable[[World, Device, int, Draw], Span]:
    """Return a shape: at any time of the day, lasting between two numbers of hours."""

    def shape(world: World, device: Device, day: int, draw: Draw) -> Span:
        del world, device
        start = day_start(day) + int(draw.between(0, 24) * HOUR)
        return _lasting(start, draw, low_h * HOUR, high_h * HOUR)

    return shape


def _dark(world: World, device: Device, day: int, draw: Draw) -> Span:
    """Return a whole night without light, or half an hour to two hours of one."""
    due = world.due(device, day)
    start, end = due[0][0], due[-1][1]
    whole = draw.chance(0.5)
    into = draw.unit()
    lasting = int(draw.between(0.5, 2) * HOUR)
    if whole and device.programme != "always":
        return start - HOUR, end + HOUR
    begin = start + HOUR // 2 + int(into * (end - start - HOUR - lasting))
    return begin, begin + lasting


def _flicker(world: World, device: Device, day: int, draw: Draw) -> Span:
    due = world.due(device, day)
    start, end = due[0][0] + HOUR, due[-1][1] - HOUR
    begin = start + int(draw.unit() * (end - start))
    return _lasting(begin, draw, FLICKER_S[0] * SECOND, FLICKER_S[1] * SECOND)


def _by_day(world: World, device: Device, day: int, draw: Draw) -> Span:
    """Return one to three hours between dawn and dusk, an hour away from both."""
    start = world.due(device, day - 1)[-1][1] + HOUR
    end = world.due(device, day)[0][0] - HOUR
    begin = start + int(draw.unit() * (end - start))
    span = _lasting(begin, draw, HOUR, 3 * HOUR)
    return span if span[1] <= end else _NEVER


def _uncollected(world: World, device: Device, day: int, draw: Draw) -> Span:
    del world, device
    start = day_start(day) + int(draw.between(10, 21) * HOUR)
    return _lasting(start, draw, 3 * HOUR, 9 * HOUR)


def _without_trace(world: World, device: Device, day: int, draw: Draw) -> Span:
    """Return nothing: a link that was cut in the past kept no agent from measuring."""
    del world, device, day, draw
    return _NEVER


_SHAPES: Final[Mapping[str, Callable[[World, Device, int, Draw], Span]]] = {
    FaultKind.LAMP_BROKEN: _dark,
    FaultKind.LAMP_FLICKER: _flicker,
    FaultKind.LAMP_DAY_BURNER: _by_day,
    FaultKind.LAMP_FAULT_CODE: _in_a_day(1, 4),
    FaultKind.BIN_OVERFULL: _uncollected,
    FaultKind.BIN_FIRE: _in_a_day(5 / 60, 15 / 60),
    FaultKind.GATE_FORCED: _in_a_day(5 / 60, 0.5),
    FaultKind.GATE_HELD_OPEN: _in_a_day(5 / 60, 20 / 60),
    FaultKind.ALARM: _in_a_day(10 / 60, 40 / 60),
    FaultKind.ALARM_ABORTED: _in_a_day(0.5 / 60, 5 / 60),
    FaultKind.ALARM_TEST: _in_a_day(1 / 60, 2 / 60),
    FaultKind.DEVICE_DEAD: _in_a_day(0.75, 2),
    FaultKind.GATEWAY_SILENT: _without_trace,
    BREAK_IN: _in_a_day(10 / 60, 0.5),
}
