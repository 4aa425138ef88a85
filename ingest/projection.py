# SPDX-License-Identifier: Apache-2.0
"""From stored readings to latest states, lighting and alerts: in memory, staged by transaction.

What a flush changes is kept apart until its COMMIT returned (`commit`), and forgotten when it did
not (`rollback`), so memory never runs ahead of the tables.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any, Final, cast

from edge_agent.kinds import Reading
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import AnyLane
from ingest.custom_rules import Custom
from ingest.indicators import lighting, spans
from ingest.kinds import KINDS
from ingest.kinds.base import Condition
from ingest.lamp_nights import LampNights
from ingest.presence import Presence
from ingest.rule_engine import Engine, Seen
from ingest.rules import Rule, RuleBook
from ingest.state_interval import StateInterval
from ingest.store.alerts import Change, PendingRow, Standing
from ingest.store.devices import Device, Registry, State
from ingest.store.lamp_nights import Night, NightKey
from ingest.store.rules import MemoryKey, MemoryRow
from ingest.tracks import Tracks

_US: Final = timedelta(microseconds=1)
_NO_DELAY: Final = timedelta(0)
_EVER: Final = datetime.min.replace(tzinfo=UTC)
_FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)
#: By device class, what a reading says: as the columns of its table have it.
SAID: Final = {kind: attrgetter(*its.readings.columns) for kind, its in KINDS.items()}
#: A reading that was received: its instant, whose it is, the reading, when it came, what it says.
Heard = tuple[datetime, Device, Reading, datetime, tuple[object, ...]]
_INSTANT: Final = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one flush changes: ``held`` in memory alone, the rest in the tables."""

    states: Mapping[int, State]
    held: Mapping[int, State]
    opened: Mapping[NightKey, Night]
    settled: Mapping[NightKey, tuple[int, int]]
    dirty: Set[NightKey]
    alerts: Sequence[Change]
    # Delays that run, by rule and device; None: none runs any more.
    pending: Mapping[tuple[str, int], PendingRow | None]
    memory: Mapping[MemoryKey, MemoryRow | None]
    live: Mapping[int, tuple[Device, State]]


def _shines_on(device: Device, before: State, reading: Reading, at: datetime) -> bool:
    """Return whether a lamp told of light itself, tells the same, and was known until now."""
    return (
        cast("LampReading", reading).lit is before.lit
        and before.lit_at == before.at
        and at - before.at <= device.max_silence
    )


class Projection:
    """Latest states of one lane, and what follows from them.

    That is kept by ``nights`` (light), ``engine`` (rules that remember) and the tracks of the
    product's own conditions; all of it is staged, committed and rolled back together.
    """

    def __init__(
        self,
        rules: RuleBook,
        registry: Registry,
        lane: AnyLane = "telemetry",
        presence: Presence | None = None,
    ) -> None:
        """Start empty; `restore` brings what the tables hold."""
        self._rules = rules
        self.nights = LampNights()
        self.engine = Engine(lane, rules, registry, presence or Presence())
        self._tracks = Tracks(self._write_out)
        self._interval = StateInterval()
        self._states: dict[int, State] = {}
        self._stream_time: dict[str, datetime] = {}
        # When a gateway's readings were received last.
        self._heard_at: dict[str, datetime] = {}
        self._set_registry(registry)
        self._unstage()

    def _set_registry(self, registry: Registry) -> None:
        self._registry = registry
        self._by_id = {device.id: device for device in registry.devices.values()}
        self.nights.follow()
        self._follow()

    def _follow(self) -> None:
        # Until when a device that says the same as before concerns no rule.
        self._calm_until: dict[int, datetime] = {}
        self._tracks.follow(self._rules, self._registry, self._by_id)
        self.engine.follow(self._rules, self._registry)
        # Rules on events look at readings in the table.
        self._interval.follow(self.engine.custom.looked_at())

    def restore(
        self,
        registry: Registry,
        states: Mapping[int, State],
        standing: Iterable[Standing],
        pending: Iterable[PendingRow],
        memory: Iterable[MemoryRow] = (),
    ) -> None:
        """Replace everything by what the tables hold."""
        standing = list(standing)
        self._set_registry(registry)
        self._states = dict(states)
        self._stream_time, self._heard_at = {}, {}
        for device_id, state in states.items():
            device = self._by_id.get(device_id)
            if device is not None:
                latest = self._stream_time.get(device.gateway, state.at)
                self._stream_time[device.gateway] = max(latest, state.at)
        self.rollback()
        self._tracks.restore(states, standing, pending)
        self.engine.restore(standing, memory)
        self._begin_asking()

    def _begin_asking(self) -> None:
        """Ask people's own rules once of everybody who was heard: time may have changed them."""
        if self.engine.is_idle:
            return
        for number, state in self._states.items():
            device = self._by_id.get(number)
            if device is not None:
                self.engine.begin(device, state.at)
        if self.engine.custom.asks_states:
            for number in self._by_id.keys() - self._states.keys():  # never heard
                self.engine.begin(self._by_id[number], None)

    def follow_rules(self, rules: RuleBook, ended: Iterable[MemoryKey]) -> None:
        """Go on with other rules.

        Args:
            rules: Those in force from now on.
            ended: Of what nothing is to be remembered: the rule is off there, or asks otherwise.
        """
        self._rules = rules
        self._follow()
        ended = list(ended)
        self._tracks.forget(ended)
        self.engine.forget(ended)
        self._begin_asking()

    @property
    def remembered(self) -> Iterable[MemoryKey]:
        """Of what a condition holds, a delay runs or anything else is remembered."""
        return {*self._tracks.remembered, *self.engine.remembered}

    def reload_registry(self, registry: Registry) -> None:
        """Go on with a changed registry.

        What was held back of devices that are another process's now is forgotten: it is found from
        their readings there.
        """
        before = self._by_id
        self._set_registry(registry)
        if self.engine.custom.asks_states:
            for number, device in self._by_id.items():
                old = before.get(number)
                if old is None or (old.life, old.gateway) != (device.life, device.gateway):
                    self.engine.begin(device, None)
        for number in [number for number in self.held if number not in self._by_id]:
            del self._states[number]

    def hold_back(self, interval: timedelta, since: datetime | None) -> None:
        """Write states that say nothing new no more often than this, from now on.

        Args:
            interval: How far the table may be behind.
            since: States before this instant are not held back; None: none are.
        """
        self._interval.hold_back(interval, since)

    @property
    def held(self) -> Iterator[int]:
        """The devices whose states are held back, by id; not to be walked across a flush."""
        return (number for number, state in self._states.items() if state.stored_at is not None)

    def held_too_long(
        self, device_ids: Iterable[int], since: datetime, heard: datetime
    ) -> list[int]:
        """Return those of some devices whose states are to be written without a reading.

        Args:
            device_ids: Devices that were heard.
            since: The table has a state from before this instant.
            heard: Or nothing was received from them after this one.
        """
        states = self._states
        return [
            number
            for number in device_ids
            if (state := states.get(number)) is not None
            and state.stored_at is not None
            and (state.stored_at < since or state.received_at < heard)
        ]

    def held_by_changed(self, registry: Registry) -> Iterator[int]:
        """Return those of them that another registry knows otherwise."""
        known = {device.id: device for device in registry.devices.values()}
        return (
            number
            for number in self.held
            if number in known and known[number] != self._by_id[number]
        )

    def write_out(self, device_ids: Iterable[int]) -> None:
        """Stage what is held back of these devices."""
        for device_id in device_ids:
            self._write_out(device_id)

    def _write_out(self, device_id: int) -> None:
        state = self.state(device_id)
        if state is None or state.stored_at is None:
            return
        if state.lit is not None:
            # What the readings held from the state in the table to the latest one.
            start, end = spans.to_us(state.stored_at), spans.to_us(state.at)
            self.nights.settle(self._by_id[device_id], start, state.lit, end)
        self._staged[device_id] = state.written()
        self._staged_held.pop(device_id, None)

    def state(self, device_id: int) -> State | None:
        """Return a device's latest state, staged or committed."""
        return (
            self._staged.get(device_id)
            or self._staged_held.get(device_id)
            or self._states.get(device_id)
        )

    def gather(self) -> Delta:
        """Return what is staged."""
        tracks, engine, nights = self._tracks, self.engine, self.nights
        for made in (tracks, engine):
            if made.changes:
                self._alerts += made.changes
                made.changes = []
        return Delta(
            self._staged,
            self._staged_held,
            nights.opened,
            nights.settled,
            nights.dirty,
            self._alerts,
            tracks.pending,
            engine.rows,
            self._live,
        )

    def commit(self) -> Delta:
        """Make what was staged the present, and return it."""
        delta = self.gather()
        self._tracks.commit()
        self.engine.commit()
        self.nights.commit()
        self._states.update(self._staged)
        self._states.update(self._staged_held)
        self._stream_time.update(self._staged_time)
        for gateway, at in self._staged_heard.items():
            # A dead letter that is judged again was received long ago.
            self._heard_at[gateway] = max(at, self._heard_at.get(gateway, _EVER))
        self._unstage()
        return delta

    def rollback(self) -> None:
        """Forget what was staged."""
        self._calm_until = {}
        self._tracks.rollback()
        self.engine.rollback()
        self.nights.rollback()
        self._unstage()

    def _unstage(self) -> None:
        # States that are written, states that are held back, and of either what people see.
        self._staged: dict[int, State] = {}
        self._staged_held: dict[int, State] = {}
        self._live: dict[int, tuple[Device, State]] = {}
        self._alerts: list[Change] = []
        self._staged_time: dict[str, datetime] = {}
        self._staged_heard: dict[str, datetime] = {}

    def fold(self, heard: Iterable[Heard]) -> None:
        """Fold new readings into states, lighting and alerts, in the order of their instants."""
        last: dict[str, tuple[datetime, datetime]] = {}
        states, calm_until = self._states, self._calm_until
        written, held = self._staged, self._staged_held
        since = self._interval.since or _FOR_EVER
        for at, device, reading, received_at, said in sorted(heard, key=_INSTANT):
            number = device.id
            last[device.gateway] = (at, received_at)
            before = held.get(number) or states.get(number)
            # Nearly all of a city's readings say what the last one said, and wait as that did:
            # what `_fold` would do with them, and nothing more.
            if (
                before is not None
                and before.write_by is not None
                and before.said == said
                and before.at < at < before.write_by
                and at < calm_until.get(number, _EVER)
                and number not in written
                and before.stored_at is not None
                and before.stored_at >= since
                and (before.lit is None or _shines_on(device, before, reading, at))
            ):
                held[number] = before.goes_on(at, received_at)
            else:
                self._fold(device, reading, received_at, said)
        for gateway, (at, _) in last.items():
            if at > self._stream_time.get(gateway, _EVER):
                self._staged_time[gateway] = at
        self._staged_heard = {gateway: received_at for gateway, (_, received_at) in last.items()}
        self._let_time_pass(self._staged_heard)
        self.gather()

    def _let_time_pass(self, heard: Mapping[str, datetime]) -> None:
        """Let delays end behind gateways: each one's own stream says how late it is there."""
        moved = self._staged_time
        self._tracks.pass_time({one: (moved[one], heard[one]) for one in heard if one in moved})
        if self.engine.may_wait:
            self.engine.pass_time(
                {one: (moved.get(one) or self._stream_time[one], heard[one]) for one in heard}
            )

    def ask_due(self, device: Device, one: Custom, at: datetime, now: datetime) -> None:
        """Ask one of people's own rules again, now that its time, or another state, has come.

        Args:
            device: Whose.
            one: The rule.
            at: As of when.
            now: When that is.
        """
        seen = self._said(one, device, self.state(device.id), at)
        if seen is not None:
            self._calm_until.pop(device.id, None)
            self.engine.ask(one, device, seen, now)
            self.gather()

    def _said(self, one: Custom, device: Device, state: State | None, at: datetime) -> Seen | None:
        """Return what a state says to a rule at an instant.

        None: nothing is known any more, and that it is silent is another rule's business. A rule
        that asks for the device's state can be asked all the same.
        """
        asks = one.asks
        if state is None:
            return Seen(at, {}, told_at=at, is_known=False) if asks.states else None
        at, known_until = max(at, state.at), state.at + device.max_silence
        # As of the very instant at which that ends, the state goes on to be known by itself.
        is_known = not asks.names or (at < known_until if asks.states else at <= known_until)
        if not is_known and not asks.states:
            return None

        def due() -> tuple[bool, datetime | None]:
            return self.nights.is_due(device, spans.to_us(at))

        said = Seen(at, state.reading, None, state.lit, due, told_at=state.at)
        return said._replace(heard=state, is_known=is_known)

    def silence(self, device: Device, rule: Rule, *, silent: bool, now: datetime) -> None:
        """Note that a device fell silent, or is heard again (receipt time, not device time)."""
        state = self.state(device.id)
        if state is None or state.silent == silent:
            return
        self._write_out(device.id)
        state = State(
            state.at, state.received_at, state.since, state.reading, state.fault, silent,
            state.lit, state.lit_at,
        )  # fmt: skip
        self._staged[device.id] = state
        self._live[device.id] = (device, state)
        condition = Condition(rule.id, silent, {"last_at": state.at.isoformat()})
        self._tracks.advance(device, rule, condition, now, now, on_delay=_NO_DELAY)
        for one in self.engine.custom.of(device.area, device.kind):
            if one.asks.states:
                self.ask_due(device, one, now, now)

    def told_upto(self, gateway: str) -> tuple[datetime, datetime | None] | None:
        """Return how late it is in a gateway's telemetry; None where nobody behind it was heard.

        With it, when its readings were received last; None: not since everything was read anew.
        """
        at = self._stream_time.get(gateway)
        return None if at is None else (at, self._heard_at.get(gateway))

    def device(self, device_id: int) -> Device | None:
        """Return a registered device."""
        return self._by_id.get(device_id)

    @property
    def heard(self) -> Iterable[int]:
        """The devices that were ever heard, by id; not to be walked across a flush."""
        return self._states

    def _fold(
        self, device: Device, reading: Reading, received_at: datetime, said: tuple[object, ...]
    ) -> None:
        at, at_us = reading.at, spans.to_us(reading.at)
        before = self.state(device.id)
        if before is not None and at < before.at:
            self._fold_late(device, reading, at_us)
            return
        shines: bool | None = None
        if device.kind == "lamp":
            lamp = cast("LampReading", reading)
            shines = lighting.is_lit(lamp.lit, lamp.power_w, device.rated_power_w)
        if before is not None and before.said == said:
            is_news, values = False, before.reading
        else:
            # Numbers, words and truth values only: JSON as they are.
            names = KINDS[device.kind].readings.columns
            values = {
                name: value for name, value in zip(names, said, strict=True) if value is not None
            }
            # A state that was read from the table has the fields alone.
            is_news = before is None or before.reading != values
        waits = self._interval
        write_by = None if before is None else waits.write_by(device.id, before)
        if (
            before is not None
            and write_by is not None
            and at < write_by
            and device.id not in self._staged
            and waits.may_wait(device, before, at, shines, values, is_news=is_news)
        ):
            state = self._staged_held[device.id] = before.held_back(
                at, received_at, values, said, write_by
            )
        else:
            if before is not None and before.stored_at is not None:
                self._write_out(device.id)
            lit, lit_at = (None, None) if before is None else (before.lit, before.lit_at)
            if shines is not None:
                if lit is not None and lit_at is not None:
                    # What the reading before held, now that this one ends its hold.
                    start = spans.to_us(lit_at)
                    end = min(at_us, start + device.max_silence // _US)
                    self.nights.settle(device, start, lit, end)
                    # Of two readings with one instant, lit wins, whatever their order.
                    shines = shines or (lit and lit_at == at)
                lit, lit_at = shines, at
            fault = reading.fault
            state = self._staged[device.id] = State(
                at,
                received_at,
                at if before is None or before.fault != fault else before.since,
                values,
                fault,
                before is not None and before.silent,
                lit,
                lit_at,
                None,
                said,
                # What is written because it waited waits for a whole interval again.
                waits.after(at) if write_by is not None and at >= write_by else None,
            )
        if is_news:
            self._live[device.id] = (device, state)
        if is_news or at >= self._calm_until.get(device.id, _EVER):
            self._ask_rules(device, before, reading, at_us, shines, values, received_at)

    def _fold_late(self, device: Device, reading: Reading, at_us: int) -> None:
        """Latest state only moves forward; what is past is restated from raw."""
        # All readings newer than the state in the table are held back, in order, and say the same:
        # what a restart needs to know of them is the last one alone.
        self._write_out(device.id)
        if device.kind == "lamp":
            self.nights.mark(device, at_us)

    def _ask_rules(
        self,
        device: Device,
        before: State | None,
        reading: Reading,
        at_us: int,
        shines: bool | None,
        values: Mapping[str, Any],
        received_at: datetime,
    ) -> None:
        calm_until = _FOR_EVER

        def due() -> tuple[bool, datetime | None]:
            nonlocal calm_until
            is_due, until = self.nights.is_due(device, at_us)
            calm_until = until or self.nights.end_of(device, at_us)
            return is_due, until

        calm = self._tracks.ask(device, reading, shines, due, received_at)
        custom = self.engine.custom.of(device.area, device.kind)
        if custom:
            heard = self.state(device.id)
            seen = Seen(reading.at, values, None, shines, due, heard=heard)
            for one in custom:
                if before is not None:
                    for at in self.engine.take_overdue(one, device, reading.at):
                        said = self._said(one, device, before, at)
                        if said is not None:
                            self.engine.ask(one, device, said, received_at)
                calm = self.engine.ask(one, device, seen, received_at) and calm
        self._calm_until[device.id] = calm_until if calm else _EVER
