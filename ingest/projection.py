# SPDX-License-Identifier: Apache-2.0
"""From stored readings to latest states, lighting and alerts: in memory, staged by transaction.

What a flush changes is kept apart until its COMMIT returned (`commit`), and forgotten when it did
not (`rollback`), so memory never runs ahead of the tables.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter, itemgetter
from types import SimpleNamespace
from typing import Any, Final, cast

from edge_agent.kinds import Event, Reading
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import AnyLane, LiveDevice
from ingest.alerts import (
    HELD,
    IDLE,
    Active,
    Decision,
    Ending,
    Pending,
    Raise,
    Track,
    elapse,
    step,
)
from ingest.conditions.fields import DURESS
from ingest.indicators import lighting, spans
from ingest.kinds import DEVICE_FAULT, KINDS
from ingest.kinds.base import Condition, Context
from ingest.presence import Presence
from ingest.rule_engine import Custom, Engine, Seen, subject_of
from ingest.rules import Rule, RuleBook
from ingest.states import device_state
from ingest.store.alerts import Change, PendingRow, Standing
from ingest.store.devices import Device, Registry, State
from ingest.store.lamp_nights import Night, NightKey, open_night
from ingest.store.rules import MemoryKey, MemoryRow

TrackKey = tuple[str, int, str]  # rule, device id, key
_US: Final = timedelta(microseconds=1)
_NOTHING: Final[Mapping[str, Any]] = {}
_FAULT: Final = DEVICE_FAULT.id
_NO_DELAY: Final = timedelta(0)
_EVER: Final = datetime.min.replace(tzinfo=UTC)
_FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)
#: By device class, what a reading says: as the columns of its table have it.
SAID: Final = {kind: attrgetter(*its.readings.columns) for kind, its in KINDS.items()}
#: A reading that was received: its instant, whose it is, the reading, when it came, what it says.
Heard = tuple[datetime, Device, Reading, datetime, tuple[object, ...]]
_INSTANT: Final = itemgetter(0)
# What a reading says otherwise than by numbers: a change of it is written at once.
_WORDS: Final = {
    kind: tuple(
        name
        for name, type_ in zip(its.readings.columns, its.readings.types, strict=True)
        if type_ in {"bool", "text"}
    )
    for kind, its in KINDS.items()
}


# The golden ratio: multiples of it, but for their whole part, fall far apart.
_SPREAD: Final = (1 + 5**0.5) / 2


@dataclass(slots=True)
class Delta:
    """What one flush changes: ``held`` in memory alone, the rest in the tables."""

    states: dict[int, State] = field(default_factory=dict[int, State])
    held: dict[int, State] = field(default_factory=dict[int, State])
    settled: dict[NightKey, tuple[int, int]] = field(
        default_factory=dict[NightKey, tuple[int, int]]
    )
    opened: dict[NightKey, Night] = field(default_factory=dict[NightKey, Night])
    dirty: set[NightKey] = field(default_factory=set[NightKey])
    alerts: list[Change] = field(default_factory=list[Change])
    # Delays that run, by rule and device; None: none runs any more.
    pending: dict[tuple[str, int], PendingRow | None] = field(
        default_factory=dict[tuple[str, int], PendingRow | None]
    )
    memory: dict[MemoryKey, MemoryRow | None] = field(
        default_factory=dict[MemoryKey, MemoryRow | None]
    )
    live: dict[int, tuple[Device, State]] = field(default_factory=dict[int, tuple[Device, State]])


def _pending(key: TrackKey, track: Track) -> PendingRow | None:
    """Return what the table has of a condition: nothing where no delay runs."""
    match track:
        case Pending(since, known_until):
            return PendingRow(key[0], key[1], since, False, known_until)
        case Ending(_, since, known_until):
            return PendingRow(key[0], key[1], since, True, known_until)
        case _:
            return None


def live_device(device: Device, state: State) -> LiveDevice:
    """Return what people who watch are told of a device."""
    return LiveDevice(
        device=device.device,
        kind=device.kind,
        # Whether its gateway is silent is told of the gateway.
        state=device_state(
            device.life, heard=True, silent=state.silent, gateway_silent=False, fault=state.fault
        ),
        at=state.at,
        received_at=state.received_at,
        values=dict(state.reading),
    )


def _shines_on(device: Device, before: State, reading: Reading, at: datetime) -> bool:
    """Return whether a lamp told of light itself, tells the same, and was known until now."""
    return (
        cast("LampReading", reading).lit is before.lit
        and before.lit_at == before.at
        and at - before.at <= device.max_silence
    )


class Projection:
    """Latest states, open lighting intervals and running conditions of one lane."""

    def __init__(
        self,
        rules: RuleBook,
        registry: Registry,
        lane: AnyLane = "telemetry",
        presence: Presence | None = None,
    ) -> None:
        """Start empty; `restore` brings what the tables hold."""
        self._rules = rules
        self.engine = Engine(lane, rules, registry, presence or Presence())
        self._states: dict[int, State] = {}
        self._tracks: dict[TrackKey, Track] = {}
        # Those of them of which a delay runs, in the order in which it began.
        self._running: dict[TrackKey, None] = {}
        self._params: dict[TrackKey, Mapping[str, Any]] = {}
        self._stream_time: dict[str, datetime] = {}
        # When a gateway's readings were received last.
        self._heard_at: dict[str, datetime] = {}
        self._nights: set[NightKey] = set()
        self._interval = _NO_DELAY
        self._held_since: datetime | None = None
        self._staged_tracks: dict[TrackKey, Track] = {}
        self._staged_time: dict[str, datetime] = {}
        self._staged_heard: Mapping[str, datetime] = {}
        self.delta = Delta()
        self._set_registry(registry)

    def _set_registry(self, registry: Registry) -> None:
        self._registry = registry
        self._follow()
        self._by_id = {device.id: device for device in registry.devices.values()}
        self._due: dict[NightKey, tuple[spans.Span, ...]] = {}
        # Until when a device that says the same as before concerns no rule.
        self._calm_until: dict[int, datetime] = {}
        # By time zone, the night that was asked for last: start, end (microseconds), date.
        self._night_last: dict[str, tuple[int, int, date]] = {}

    def _follow(self) -> None:
        self.engine.follow(self._rules, self._registry)
        # A change of these is written at once; rules on events look at readings in the table.
        looked_at = self.engine.looked_at()
        self._at_once = {kind: (*words, *looked_at.get(kind, ())) for kind, words in _WORDS.items()}

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
        self._tracks, self._running, self._params = {}, {}, {}
        for alert in standing:
            device = registry.devices.get(alert.device or "")
            if device is not None:
                self._tracks[alert.rule, device.id, alert.key] = Active(alert.raised_at)
        for row in pending:
            state = states.get(row.device_id)
            device = self._by_id.get(row.device_id)
            if state is None or device is None:
                continue
            known_until = row.known_until or max(state.at, row.since) + device.max_silence
            key = (row.rule, row.device_id, "")
            raised = self._tracks.get(key, IDLE)
            if not row.ending:
                self._tracks[key] = Pending(row.since, known_until)
                self._params[key] = self._told(device, state, row.rule)
            elif isinstance(raised, Active):
                self._tracks[key] = Ending(raised.raised_at, row.since, known_until)
            else:
                continue
            self._running[key] = None
        self._nights.clear()
        self.rollback()
        self.engine.restore(standing, memory)
        self._begin_asking()

    def _told(self, device: Device, state: State, rule: str) -> Mapping[str, Any]:
        """Return what people are told of a condition that holds: of the last reading, as kept."""
        if rule == _FAULT:
            return {"fault": state.fault}
        kind = KINDS[device.kind]
        said: dict[str, Any] = dict.fromkeys(kind.readings.columns)
        reading = SimpleNamespace(**{**said, **state.reading})
        for one in kind.conditions(reading, Context(self._rules.at(device.area), state.lit)):
            if one.rule == rule:
                return one.params
        return {}

    def _begin_asking(self) -> None:
        """Ask people's own rules once of everybody who was heard: time may have changed them."""
        if self.engine.is_idle:
            return
        for number, state in self._states.items():
            device = self._by_id.get(number)
            if device is not None:
                self.engine.begin(device, state.at)
        if self.engine.asks_states:
            for number in self._by_id.keys() - self._states.keys():  # never heard
                self.engine.begin(self._by_id[number], None)

    def follow_rules(self, rules: RuleBook, ended: Iterable[MemoryKey]) -> None:
        """Go on with other rules.

        Args:
            rules: Those in force from now on.
            ended: Of what nothing is to be remembered: the rule is off there, or asks otherwise.
        """
        self._rules = rules
        self._calm_until = {}
        self._follow()
        ended = list(ended)
        self.engine.forget(ended)
        for name in ended:
            device = self._registry.devices.get(name.subject)
            if device is not None:
                key = (name.rule, device.id, name.key)
                self._tracks.pop(key, None)
                self._running.pop(key, None)
                self._params.pop(key, None)
        self._begin_asking()

    @property
    def remembered(self) -> Iterable[MemoryKey]:
        """Of what a condition holds, a delay runs or anything else is remembered."""
        by_id = self._by_id
        own = (
            MemoryKey(rule, by_id[number].device, key)
            for rule, number, key in list(self._tracks)
            if number in by_id
        )
        return {*own, *self.engine.remembered}

    def reload_registry(self, registry: Registry) -> None:
        """Go on with a changed registry.

        What was held back of devices that are another process's now is forgotten: it is found from
        their readings there.
        """
        before = self._by_id
        self._set_registry(registry)
        self._nights.clear()
        if self.engine.asks_states:
            for number, device in self._by_id.items():
                old = before.get(number)
                if old is None or (old.life, old.gateway) != (device.life, device.gateway):
                    self.engine.begin(device, None)
        for number in [number for number in self.held if number not in self._by_id]:
            del self._states[number]

    def forget_nights(self, before: date) -> None:
        """Forget the nights before a date; whoever is told of one still opens it anew."""
        self._nights = {key for key in self._nights if key[1] >= before}
        self._due = {key: due for key, due in self._due.items() if key[1] >= before}

    def hold_back(self, interval: timedelta, since: datetime | None) -> None:
        """Write states that say nothing new no more often than this, from now on.

        Args:
            interval: How far the table may be behind.
            since: States before this instant are not held back; None: none are.
        """
        self._interval, self._held_since = interval, since

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
            state = self.state(device_id)
            if state is not None and state.stored_at is not None:
                self._settle_held(self._by_id[device_id], state)
                self.delta.states[device_id] = state.written()
                self.delta.held.pop(device_id, None)

    def state(self, device_id: int) -> State | None:
        """Return a device's latest state, staged or committed."""
        delta = self.delta
        return (
            delta.states.get(device_id) or delta.held.get(device_id) or self._states.get(device_id)
        )

    def commit(self) -> Delta:
        """Make what was staged the present, and return it."""
        delta = self.gather()
        self.engine.commit()
        self._states.update(delta.states)
        self._states.update(delta.held)
        for key, track in self._staged_tracks.items():
            if track is IDLE:
                self._tracks.pop(key, None)
                self._params.pop(key, None)
            else:
                self._tracks[key] = track
            if isinstance(track, Pending | Ending):
                self._running[key] = None
            else:
                self._running.pop(key, None)
        self._stream_time.update(self._staged_time)
        for gateway, at in self._staged_heard.items():
            # A dead letter that is judged again was received long ago.
            self._heard_at[gateway] = max(at, self._heard_at.get(gateway, _EVER))
        self._nights.update(delta.opened)
        self._unstage()
        return delta

    def rollback(self) -> None:
        """Forget what was staged."""
        self._calm_until = {}
        self.engine.rollback()
        self._unstage()

    def _unstage(self) -> None:
        self._staged_tracks = {}
        self._staged_time, self._staged_heard = {}, {}
        self.delta = Delta()

    def fold(self, heard: Iterable[Heard]) -> None:
        """Fold new readings into states, lighting and alerts, in the order of their instants."""
        last: dict[str, tuple[datetime, datetime]] = {}
        states, calm_until = self._states, self._calm_until
        written, held = self.delta.states, self.delta.held
        since = self._held_since or _FOR_EVER
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
        touched = {gateway: received_at for gateway, (_, received_at) in last.items()}
        self._staged_heard = touched
        running: defaultdict[str, list[TrackKey]] = defaultdict(list)
        for key in {**self._running, **self._staged_tracks}:
            device = self._by_id.get(key[1])
            if device is not None and device.gateway in touched:
                running[device.gateway].append(key)
        for gateway, keys in running.items():
            self._let_time_pass(gateway, keys, touched[gateway])

        if self.engine.may_wait:
            self.engine.pass_time(
                {
                    gateway: (
                        self._staged_time.get(gateway) or self._stream_time[gateway],
                        received_at,
                    )
                    for gateway, received_at in touched.items()
                }
            )
        self.gather()

    def fold_event(
        self,
        device: Device,
        event: Event,
        received_at: datetime,
        latest: Callable[[int], State | None] = lambda device_id: None,
    ) -> None:
        """Let one event speak to the rules that listen to events.

        Args:
            device: Whose.
            event: What happened.
            received_at: When it was received.
            latest: A device's latest state, by device id; asked where a rule needs it.
        """
        self.tell_built_in(device, event, received_at)
        if event.event != DURESS:
            # What is given under threat speaks to its own rule alone: the alert of another, which
            # more people see, would give it away.
            told = event.model_dump(exclude={"kind", "device", "at"}, exclude_none=True)
            for one in self.engine.custom(device.area, device.kind):
                heard = None
                if one.asks.listens == "both":
                    # With the readings of now nothing can be asked as of then.
                    heard = latest(device.id)
                else:
                    for at in self.engine.take_overdue(one, device, event.at):
                        self.engine.ask(one, device, Seen(at, {}, told_at=at), received_at)
                seen = Seen(event.at, _NOTHING if heard is None else heard.reading, told)
                self.engine.ask(one, device, seen._replace(heard=heard), received_at)
        self.gather()

    def tell_built_in(self, device: Device, event: Event, received_at: datetime) -> None:
        """Let an event speak to the product's own rules alone."""
        rules, kind = self._rules.at(device.area), KINDS[device.kind]
        if kind.event_conditions is None:
            return
        for condition in kind.event_conditions(event):
            rule = rules.get(condition.rule)
            if rule is not None:
                self.engine.advance(
                    rule,
                    subject_of(device),
                    condition.holds,
                    Seen(event.at, {}),
                    received_at,
                    key=condition.key,
                    params=condition.params,
                    ended=condition.ended,
                )

    def ask_due(
        self,
        device: Device,
        one: Custom,
        at: datetime,
        now: datetime,
        latest: Callable[[int], State | None] | None = None,
    ) -> None:
        """Ask one of people's own rules again, now that its time, or another state, has come.

        Args:
            device: Whose.
            one: The rule.
            at: As of when.
            now: When that is.
            latest: A device's latest state, where this lane does not hear readings.
        """
        if latest is not None:
            heard = latest(device.id) if one.asks.listens == "both" else None
            values = _NOTHING if heard is None else heard.reading
            seen = Seen(at, values, told_at=at, heard=heard)
        else:
            said = self._said(one, device, self.state(device.id), at)
            if said is None:
                return
            seen = said
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
        due = self._due_at(device, at)
        said = Seen(at, state.reading, None, state.lit, due, told_at=state.at)
        return said._replace(heard=state, is_known=is_known)

    def _due_at(self, device: Device, at: datetime) -> Callable[[], tuple[bool, datetime | None]]:
        return lambda: self._is_due(device, spans.to_us(at))

    def gather(self) -> Delta:
        """Return the delta, with what the engine decided."""
        delta, engine = self.delta, self.engine
        if engine.changes:
            delta.alerts += engine.changes
            engine.changes = []
        delta.memory = engine.memory
        return delta

    def silence(self, device: Device, rule: Rule, *, silent: bool, now: datetime) -> None:
        """Note that a device fell silent, or is heard again (receipt time, not device time)."""
        state = self.state(device.id)
        if state is None or state.silent == silent:
            return
        self.write_out((device.id,))
        state = State(
            state.at, state.received_at, state.since, state.reading, state.fault, silent,
            state.lit, state.lit_at,
        )  # fmt: skip
        self.delta.states[device.id] = state
        self._tell(device, state)
        condition = Condition(rule.id, silent, {"last_at": state.at.isoformat()})
        self._advance(device, rule, condition, now, now, _NO_DELAY)
        for one in self.engine.custom(device.area, device.kind):
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
        write_by = None if before is None else self._write_by(device.id, before)
        if (
            before is not None
            and write_by is not None
            and at < write_by
            and self._may_wait(device, before, at, shines, values, is_news)
        ):
            state = self.delta.held[device.id] = before.held_back(
                at, received_at, values, said, write_by
            )
        else:
            if before is not None and before.stored_at is not None:
                self.write_out((device.id,))
            lit, lit_at = (None, None) if before is None else (before.lit, before.lit_at)
            if shines is not None:
                if lit is not None and lit_at is not None:
                    # What the reading before held, now that this one ends its hold.
                    start = spans.to_us(lit_at)
                    self._settle(device, start, lit, min(at_us, start + device.max_silence // _US))
                    # Of two readings with one instant, lit wins, whatever their order.
                    shines = shines or (lit and lit_at == at)
                lit, lit_at = shines, at
            fault = reading.fault
            state = self.delta.states[device.id] = State(
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
                at + self._interval if write_by is not None and at >= write_by else None,
            )
        if is_news:
            self._tell(device, state)
        if is_news or at >= self._calm_until.get(device.id, _EVER):
            self._ask_rules(device, before, reading, at_us, shines, values, received_at)

    def _fold_late(self, device: Device, reading: Reading, at_us: int) -> None:
        """Latest state only moves forward; what is past is restated from raw."""
        # All readings newer than the state in the table are held back, in order, and say the same:
        # what a restart needs to know of them is the last one alone.
        self.write_out((device.id,))
        if device.kind == "lamp":
            zone = device.place.time_zone
            for instant in (at_us, at_us + device.max_silence // _US):
                night = self._night(instant, zone)
                self._due_of(device, night)  # a night nobody has heard of has no row yet
                self.delta.dirty.add((device.id, night))

    def _write_by(self, device_id: int, before: State) -> datetime | None:
        """Return from when on a reading is written whatever it says; None: at once."""
        since, stored_at = self._held_since, before.stored_at or before.at
        if since is None or stored_at < since:
            return None
        if before.write_by is not None:
            return before.write_by
        # A part of the interval at first, each device another: what began together would be
        # written together for ever, a city's states all at once.
        return stored_at + self._interval * (1 - device_id * _SPREAD % 1)

    def _may_wait(
        self,
        device: Device,
        before: State,
        at: datetime,
        shines: bool | None,
        values: Mapping[str, Any],
        is_news: bool,
    ) -> bool:
        """Return whether a reading says nothing that has to be in the table now."""
        if device.id in self.delta.states or before.at >= at or shines is not before.lit:
            return False
        # Told by each reading, each while the one before held: then light that goes on is all there
        # is from the state in the table to the latest one.
        if shines is not None and (
            before.lit_at != before.at or at - before.at > device.max_silence
        ):
            return False
        if is_news:
            old = before.reading
            for name in self._at_once[device.kind]:
                if old.get(name) != values.get(name):
                    return False
        return True

    def _settle_held(self, device: Device, state: State) -> None:
        """Add what the readings held from the state in the table to the latest one."""
        if state.lit is not None and state.stored_at is not None:
            self._settle(device, spans.to_us(state.stored_at), state.lit, spans.to_us(state.at))

    def _settle(self, device: Device, start: int, lit: bool, end: int) -> None:
        """Add light, or its absence, from ``start`` to ``end`` to the nights of a lamp."""
        zone = device.place.time_zone
        night, last = self._night(start, zone), self._night(end, zone)
        while night <= last:
            covered = spans.overlap(self._due_of(device, night), start, end)
            if covered:
                key = (device.id, night)
                before = self.delta.settled.get(key, (0, 0))
                self.delta.settled[key] = (
                    before[0] + (covered if lit else 0),
                    before[1] + (0 if lit else covered),
                )
            night += timedelta(days=1)

    def _night(self, at_us: int, zone: str) -> date:
        """Return the night of an instant: hardly ever another than the last one."""
        known = self._night_last.get(zone)
        if known is None or not known[0] <= at_us < known[1]:
            night = lighting.night_of(at_us, zone)
            known = self._night_last[zone] = (*lighting.night_span(night, zone), night)
        return known[2]

    def _due_of(self, device: Device, night: date) -> tuple[spans.Span, ...]:
        if device.life == "installed":  # not in service yet: nothing is due, no row is made
            return ()
        key = (device.id, night)
        known = self._due.get(key)
        if known is None or (key not in self._nights and key not in self.delta.opened):
            opened = open_night(device, night)
            known = self._due[key] = opened.due
            self.delta.opened[key] = opened
        return known

    def _is_due(self, device: Device, at_us: int) -> tuple[bool, datetime | None]:
        """Return whether light is due then, and until when this stays so, if that is known."""
        zone = device.place.time_zone
        night = self._night(at_us, zone)
        for start, end in self._due_of(device, night):
            if at_us < start:
                return False, spans.from_us(start)
            if at_us < end:
                # Due over noon goes on in the next night.
                if end == lighting.night_span(night, zone)[1]:
                    return True, None
                return True, spans.from_us(end)
        return False, None

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
        calm, calm_until = True, _FOR_EVER

        def due() -> tuple[bool, datetime | None]:
            nonlocal calm_until
            is_due, until = self._is_due(device, at_us)
            night_end = self._night_last[device.place.time_zone][1]
            calm_until = spans.from_us(night_end) if until is None else until
            return is_due, until

        rules = self._rules.at(device.area)
        context = Context(rules, shines, due)
        fault = Condition(_FAULT, reading.fault is not None, {"fault": reading.fault})
        tracks, staged = self._tracks, self._staged_tracks
        for condition in (fault, *KINDS[device.kind].conditions(reading, context)):
            key = (condition.rule, device.id, condition.key)
            if not condition.holds and key not in tracks and key not in staged:
                continue  # the common case: idle, and stays so
            calm = False
            rule = rules.get(condition.rule)
            if rule is not None:
                self._advance(device, rule, condition, reading.at, received_at)
        custom = self.engine.custom(device.area, device.kind)
        if custom:
            seen = Seen(
                reading.at,
                values,
                None,
                shines,
                due,
                heard=self.state(device.id),
            )
            for one in custom:
                if before is not None:
                    for at in self.engine.take_overdue(one, device, reading.at):
                        said = self._said(one, device, before, at)
                        if said is not None:
                            self.engine.ask(one, device, said, received_at)
                calm = self.engine.ask(one, device, seen, received_at) and calm
        self._calm_until[device.id] = calm_until if calm else _EVER

    def _advance(
        self,
        device: Device,
        rule: Rule,
        condition: Condition,
        at: datetime,
        received_at: datetime,
        on_delay: timedelta | None = None,  # that of the rule
    ) -> None:
        key = (rule.id, device.id, condition.key)
        before = self._track(key)
        if before is IDLE and not condition.holds:
            return
        params = self._params.get(key, {})
        if condition.holds:
            self._params[key] = condition.params
        known_until = at + device.max_silence
        if condition.until is not None:
            known_until = min(known_until, condition.until)
        after, decisions = step(
            before,
            condition.holds,
            at,
            on_delay=rule.on_delay if on_delay is None else on_delay,
            off_delay=rule.off_delay,
            known_until=known_until,
        )
        self._stage(key, rule, before, after)
        for decision in decisions:
            # What a delay ended before was so without what is told now.
            said = params if decision.reason == HELD else condition.params
            self._decide(device, rule, key, decision, received_at, said)

    def _let_time_pass(
        self, gateway: str, running: Iterable[TrackKey], received_at: datetime
    ) -> None:
        """Raise what waited for its on-delay: the gateway's own stream says how late it is."""
        now = self._staged_time.get(gateway)
        if now is None:
            return
        for key in running:
            device = self._by_id[key[1]]
            rule = self._rules.get(key[0], device.area)
            track = self._track(key)
            if rule is None:
                continue
            after, decision = elapse(track, now, on_delay=rule.on_delay, off_delay=rule.off_delay)
            self._stage(key, rule, track, after)
            if decision is not None:
                self._decide(device, rule, key, decision, received_at, self._params.get(key, {}))

    def _track(self, key: TrackKey) -> Track:
        return self._staged_tracks.get(key) or self._tracks.get(key, IDLE)

    def _stage(self, key: TrackKey, rule: Rule, before: Track, after: Track) -> None:
        if after is before:
            return
        self._staged_tracks[key] = after
        was, row = _pending(key, before), _pending(key, after)
        if isinstance(before, Pending | Ending) and isinstance(after, Pending | Ending):
            end = after.since + (rule.off_delay if isinstance(after, Ending) else rule.on_delay)
            known = after.since == before.since and end <= min(
                before.known_until, after.known_until
            )
            if known or row == was:
                return  # confirmed once more: the table knows it for long enough
        if row != was:
            self.delta.pending[rule.id, key[1]] = row
        self.write_out((key[1],))

    def _decide(
        self,
        device: Device,
        rule: Rule,
        key: TrackKey,
        decision: Decision,
        received_at: datetime,
        params: Mapping[str, Any],
    ) -> None:
        if not isinstance(decision, Raise):
            params = {}
        self.delta.alerts.append(
            Change(
                rule,
                subject_of(device),
                decision,
                received_at,
                key[2],
                {name: value for name, value in params.items() if value is not None},
            )
        )

    def _tell(self, device: Device, state: State) -> None:
        self.delta.live[device.id] = (device, state)
