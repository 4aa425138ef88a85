# SPDX-License-Identifier: Apache-2.0
"""A night as a timetable: at which second, where, what; and the player that makes it happen.

``  8 | lodge      panic``: the panic button of the lodge is pressed, and stands. ``gate-[123]
held_open x4``: each of the three is held open four times, and closed. ``roof-* restored`` ends what
stands there. A gateway ``falls silent`` and ``is back``: its link is cut and mended, and what its
agent measured meanwhile waits in its outbox.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple, Protocol

from simulators.faults import STANDING_US, Fault, FaultKind
from simulators.registry import City, Device
from simulators.spans import SECOND
from simulators.timetable import Timetable
from simulators.truth import Ledger
from simulators.world import World

FALLS_SILENT: Final = "falls silent"
IS_BACK: Final = "is back"
RESTORED: Final = "restored"
_ENDS: Final = frozenset({IS_BACK, RESTORED})
_OF_GATEWAYS: Final = frozenset({FALLS_SILENT, IS_BACK})
_LINE: Final = re.compile(r"(\d{1,5}(?:\.\d+)?)\s*\|\s*(\S+)\s+(\S.*?)(?:\s+x(\d{1,4}))?")
TIMES_MAX: Final = 100
SECOND_MAX: Final = 86_400
_GATE: Final[Mapping[str, FaultKind]] = {
    "forced": FaultKind.GATE_FORCED,
    "held_open": FaultKind.GATE_HELD_OPEN,
}
# What is raised and restored over and over lasts so long, and as long again until the next time.
HOLDS_US: Final = SECOND // 20
# How long before they happen things are decided.
_AHEAD_US: Final = SECOND // 10
# What happens in several places happens in each at an instant of its own.
_APART_US: Final = 1_000


class Line(NamedTuple):
    """One line of a timetable; ``times`` is 0 where it stands."""

    second: float
    where: str
    what: str
    times: int = 0

    def __str__(self) -> str:
        """As it stands in the timetable, without the second."""
        return f"{self.where} {self.what}" + (f" x{self.times}" if self.times else "")


def read(text: str) -> tuple[Line, ...]:
    """Read a timetable, one line for each thing that happens.

    Raises:
        ValueError: A line is none, or comes before the one above it.
    """
    lines: list[Line] = []
    for row in text.strip().splitlines():
        match = _LINE.fullmatch(row.strip())
        if match is None:
            raise ValueError(f"{row.strip()!r}: expected second | where what [xN]")
        second, where, what, times = match.groups()
        line = Line(float(second), where, what, int(times or 0))
        if not (lines[-1].second if lines else 0) <= line.second <= SECOND_MAX:
            raise ValueError(f"{row.strip()!r}: seconds grow from 0 to {SECOND_MAX}")
        if line.times > TIMES_MAX:
            raise ValueError(f"{row.strip()!r}: at most x{TIMES_MAX}")
        lines.append(line)
    return tuple(lines)


def mistakes(lines: Iterable[Line], city: City) -> Iterator[str]:
    """Yield what cannot happen in a city: who is not there, what it cannot do, or not then."""
    standing: set[str] = set()
    for line in lines:
        places = _places(line, city)
        if not places:
            yield f"{line}: nobody there"
        for place in places:
            if not _can(line, city.by_id.get(place)):
                yield f"{line}: {place} cannot do that"
            elif (place in standing) != (line.what in _ENDS):
                already = "stands already" if place in standing else "does not stand"
                yield f"{line}: {place} {already}"
            elif line.what in _ENDS:
                standing.remove(place)
            elif not line.times:
                standing.add(place)


def _places(line: Line, city: City) -> list[str]:
    """Return the devices, or the gateways, that a line is about."""
    known = (
        [gateway.gateway for gateway in city.gateways]
        if line.what in _OF_GATEWAYS
        else list(city.by_id)
    )
    return [place for place in known if fnmatchcase(place, line.where)]


def _can(line: Line, device: Device | None) -> bool:
    if device is None or line.what == RESTORED:
        return not line.times
    return line.what in _GATE if device.kind == "gate" else line.what == device.detail


def _faults(line: Line, device: Device, start_us: int) -> Iterator[Fault]:
    gate = _GATE.get(line.what)
    kind, detail = (FaultKind.ALARM, line.what) if gate is None else (gate, "")
    for turn in range(line.times or 1):
        from_us = start_us + turn * 2 * HOLDS_US
        to_us = from_us + HOLDS_US if line.times else STANDING_US
        yield Fault(from_us, to_us, kind, device.device, detail)


class Stage(Protocol):
    """Who has the devices and the links."""

    def wake(self, device: str) -> None:
        """Have a device ask for a poll: something has just happened to it."""
        ...

    def cut(self, gateway: str) -> None:
        """Cut a gateway's link."""
        ...

    def mend(self, gateway: str) -> None:
        """Mend it."""
        ...


class Player:
    """Plays a timetable, one line after the other."""

    def __init__(
        self,
        lines: Iterable[Line],
        world: World,
        ledger: Ledger,
        stage: Stage,
        now_us: Callable[[], int],
        coming: Timetable,
    ) -> None:
        """Nothing happens before `restore` or `play`; what is decided is given to ``coming``."""
        self._lines = iter(lines)
        self._world = world
        self._ledger = ledger
        self._stage = stage
        self._now_us = now_us
        self._coming = coming

    def restore(self) -> None:
        """End what still stands of an earlier play."""
        self._end(self._world.city.by_id)

    def play(self) -> Line | None:
        """Make the next line happen and return it; None after the last."""
        line = next(self._lines, None)
        if line is None:
            return None
        places = _places(line, self._world.city)
        if line.what == FALLS_SILENT:
            for gateway in places:
                self._stage.cut(gateway)
        elif line.what == IS_BACK:
            for gateway in places:
                self._stage.mend(gateway)
        elif line.what == RESTORED:
            self._end(places)
        else:
            self._begin(line, places)
        return line

    def _begin(self, line: Line, places: Iterable[str]) -> None:
        start_us = self._now_us() + _AHEAD_US
        faults = [
            fault
            for index, place in enumerate(places)
            for fault in _faults(line, self._world.city.by_id[place], start_us + index * _APART_US)
        ]
        # The world first: they are near, and no disk may keep a device from seeing them.
        self._world.add(faults)
        for fault in faults:
            self._wake(fault.target, fault.from_us)
            if fault.to_us != STANDING_US:
                self._wake(fault.target, fault.to_us)
        self._ledger.add_faults(faults)

    def _end(self, places: Iterable[str]) -> None:
        faults = [fault for place in places for fault in self._world.faults_of(place)]
        standing = [fault for fault in faults if fault.to_us == STANDING_US]
        us = self._now_us() + _AHEAD_US
        self._world.end(standing, us)
        for fault in standing:
            self._wake(fault.target, us)
        self._ledger.end(standing, us)

    def _wake(self, device: str, us: int) -> None:
        self._coming.add(us, lambda _: self._stage.wake(device))
