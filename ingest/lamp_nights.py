# SPDX-License-Identifier: Apache-2.0
"""What readings that come in order add to lamp-nights, and which nights late ones mark.

In memory, staged by transaction as all of `ingest.projection` is; the rows, and how a marked night
is restated, are `ingest.store.lamp_nights`.
"""

from datetime import date, datetime, timedelta
from typing import Final

from ingest.indicators import lighting, spans
from ingest.store.devices import Device
from ingest.store.lamp_nights import Night, NightKey, open_night

_DAY: Final = timedelta(days=1)
_US: Final = timedelta(microseconds=1)


class LampNights:
    """The nights of one lane's lamps: opened once, and added to.

    Staged for the tables: ``opened``, nights that may have no row yet; ``settled``, lit and dark
    microseconds to be added; ``dirty``, nights that are to be restated.
    """

    def __init__(self) -> None:
        """Start without a night: each is opened when it is first told of."""
        # Those of which the tables have a row.
        self._nights: set[NightKey] = set()
        # When light is due, as the night was opened.
        self._due: dict[NightKey, tuple[spans.Span, ...]] = {}
        # By time zone, the night that was asked for last: start, end (microseconds), date.
        self._last: dict[str, tuple[int, int, date]] = {}
        self._unstage()

    def follow(self) -> None:
        """Open all nights anew from now on: lamps may be registered otherwise."""
        self._nights, self._due, self._last = set(), {}, {}

    def forget(self, before: date) -> None:
        """Forget the nights before a date; whoever is told of one still opens it anew."""
        self._nights = {key for key in self._nights if key[1] >= before}
        self._due = {key: due for key, due in self._due.items() if key[1] >= before}

    def settle(self, lamp: Device, start: int, lit: bool, end: int) -> None:
        """Add light, or its absence, from ``start`` to ``end`` (microseconds) to its nights."""
        zone = lamp.place.time_zone
        night, last = self._night(start, zone)[2], self._night(end, zone)[2]
        while night <= last:
            covered = spans.overlap(self._due_of(lamp, night), start, end)
            if covered:
                key = (lamp.id, night)
                before = self.settled.get(key, (0, 0))
                self.settled[key] = (
                    before[0] + (covered if lit else 0),
                    before[1] + (0 if lit else covered),
                )
            night += _DAY

    def mark(self, lamp: Device, at_us: int) -> None:
        """Have those nights restated that a late reading touches while it holds."""
        zone = lamp.place.time_zone
        for instant in (at_us, at_us + lamp.max_silence // _US):
            night = self._night(instant, zone)[2]
            self._due_of(lamp, night)  # a night nobody has heard of has no row yet
            self.dirty.add((lamp.id, night))

    def is_due(self, lamp: Device, at_us: int) -> tuple[bool, datetime | None]:
        """Return whether light is due then, and until when this stays so, if that is known."""
        _, end_us, night = self._night(at_us, lamp.place.time_zone)
        for start, end in self._due_of(lamp, night):
            if at_us < start:
                return False, spans.from_us(start)
            if at_us < end:
                # Due over noon goes on in the next night.
                return True, None if end == end_us else spans.from_us(end)
        return False, None

    def end_of(self, lamp: Device, at_us: int) -> datetime:
        """Return when the night of an instant ends."""
        return spans.from_us(self._night(at_us, lamp.place.time_zone)[1])

    def commit(self) -> None:
        """Make what was staged the present."""
        self._nights.update(self.opened)
        self._unstage()

    def rollback(self) -> None:
        """Forget what was staged."""
        self._unstage()

    def _unstage(self) -> None:
        self.opened: dict[NightKey, Night] = {}
        self.settled: dict[NightKey, tuple[int, int]] = {}
        self.dirty: set[NightKey] = set()

    def _night(self, at_us: int, zone: str) -> tuple[int, int, date]:
        """Return the night of an instant as `_last` has it: hardly ever another one."""
        known = self._last.get(zone)
        if known is None or not known[0] <= at_us < known[1]:
            night = lighting.night_of(at_us, zone)
            known = self._last[zone] = (*lighting.night_span(night, zone), night)
        return known

    def _due_of(self, lamp: Device, night: date) -> tuple[spans.Span, ...]:
        if lamp.life == "installed":  # not in service yet: nothing is due, no row is made
            return ()
        key = (lamp.id, night)
        known = self._due.get(key)
        if known is None or (key not in self._nights and key not in self.opened):
            opened = open_night(lamp, night)
            known = self._due[key] = opened.due
            self.opened[key] = opened
        return known
