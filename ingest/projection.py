# SPDX-License-Identifier: Apache-2.0
"""From stored readings to latest states, lighting and alerts: in memory, staged by transaction.

What a flush changes is kept apart until its COMMIT returned (`commit`), and forgotten when it did
not (`rollback`), so memory never runs ahead of the tables.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

from edge_agent.kinds import Event, Reading
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import LiveDevice
from ingest.alerts import IDLE, Active, Decision, Pending, Raise, Track, elapse, step
from ingest.indicators import lighting, spans
from ingest.kinds import KINDS
from ingest.kinds.base import Condition, Context
from ingest.rules import Rule, RuleBook
from ingest.store.alerts import Change, PendingRow, Standing, Subject
from ingest.store.devices import Device, Registry, State
from ingest.store.lamp_nights import Night, NightKey, open_night

TrackKey = tuple[str, int, str]  # rule, device id, key
_US: Final = timedelta(microseconds=1)
_IDENTITY: Final = {"kind", "device", "at"}
_NO_DELAY: Final = timedelta(0)


@dataclass(slots=True)
class Delta:
    """What one flush changes."""

    states: dict[int, State] = field(default_factory=dict[int, State])
    settled: dict[NightKey, tuple[int, int]] = field(
        default_factory=dict[NightKey, tuple[int, int]]
    )
    opened: dict[NightKey, Night] = field(default_factory=dict[NightKey, Night])
    dirty: set[NightKey] = field(default_factory=set[NightKey])
    alerts: list[Change] = field(default_factory=list[Change])
    pending: dict[tuple[str, int], datetime | None] = field(
        default_factory=dict[tuple[str, int], datetime | None]
    )
    live: dict[str, tuple[str, LiveDevice]] = field(
        default_factory=dict[str, tuple[str, LiveDevice]]
    )


def subject_of(device: Device) -> Subject:
    """Return what an alert about ``device`` is about."""
    return Subject(device.kind, device.gateway, device.community, device.area, device.device)


class Projection:
    """Latest states, open lighting intervals and running conditions of one lane."""

    def __init__(self, rules: RuleBook, registry: Registry) -> None:
        """Start empty; `restore` brings what the tables hold."""
        self._rules = rules
        self._states: dict[int, State] = {}
        self._tracks: dict[TrackKey, Track] = {}
        self._params: dict[TrackKey, Mapping[str, Any]] = {}
        self._stream_time: dict[str, datetime] = {}
        self._nights: set[NightKey] = set()
        self._staged_tracks: dict[TrackKey, Track] = {}
        self._staged_time: dict[str, datetime] = {}
        self.delta = Delta()
        self._set_registry(registry)

    def _set_registry(self, registry: Registry) -> None:
        self._registry = registry
        self._by_id = {device.id: device for device in registry.devices.values()}
        self._due: dict[NightKey, tuple[spans.Span, ...]] = {}

    def restore(
        self,
        registry: Registry,
        states: Mapping[int, State],
        standing: Iterable[Standing],
        pending: Iterable[PendingRow],
    ) -> None:
        """Replace everything by what the tables hold."""
        self._set_registry(registry)
        self._states = dict(states)
        self._stream_time = {}
        for device_id, state in states.items():
            device = self._by_id.get(device_id)
            if device is not None:
                latest = self._stream_time.get(device.gateway, state.at)
                self._stream_time[device.gateway] = max(latest, state.at)
        self._tracks = {}
        for alert in standing:
            device = registry.devices.get(alert.device or "")
            if device is not None:
                self._tracks[alert.rule, device.id, alert.key] = Active(alert.raised_at)
        for row in pending:
            state = states.get(row.device_id)
            device = self._by_id.get(row.device_id)
            if state is None or device is None:
                continue
            # What confirmed a lamp's condition last is its last reading that told of light.
            seen = max(state.lit_at or state.at, row.since)
            known_until = seen + device.max_silence
            if device.kind == "lamp":
                _, until = self._is_due(device, seen)
                known_until = min(known_until, until or known_until)
            self._tracks[row.rule, row.device_id, ""] = Pending(row.since, known_until)
        self._nights.clear()
        self.rollback()

    def reload_registry(self, registry: Registry) -> None:
        """Go on with a changed registry."""
        self._set_registry(registry)
        self._nights.clear()

    def state(self, device_id: int) -> State | None:
        """Return a device's latest state, staged or committed."""
        return self.delta.states.get(device_id) or self._states.get(device_id)

    def commit(self) -> Delta:
        """Make what was staged the present, and return it."""
        delta = self.delta
        self._states.update(delta.states)
        for key, track in self._staged_tracks.items():
            if track is IDLE:
                self._tracks.pop(key, None)
                self._params.pop(key, None)
            else:
                self._tracks[key] = track
        self._stream_time.update(self._staged_time)
        self._nights.update(delta.opened)
        self.rollback()
        return delta

    def rollback(self) -> None:
        """Forget what was staged."""
        self._staged_tracks = {}
        self._staged_time = {}
        self.delta = Delta()

    def fold(self, readings: Iterable[tuple[Device, Reading, datetime]]) -> None:
        """Fold new readings into states, lighting and alerts, in the order of their instants."""
        touched: dict[str, datetime] = {}
        for device, reading, received_at in sorted(readings, key=lambda item: item[1].at):
            self._fold(device, reading, received_at)
            touched[device.gateway] = received_at
        for gateway, received_at in touched.items():
            self._let_time_pass(gateway, received_at)

    def fold_event(self, device: Device, event: Event, received_at: datetime) -> None:
        """Let one event speak to the rules that listen to events; they know no on-delay."""
        kind = KINDS[device.kind]
        if kind.event_conditions is None:
            return
        for condition in kind.event_conditions(event):
            rule = self._rules.get(condition.rule)
            if rule is not None:
                self._advance(device, rule, condition, event.at, received_at, _NO_DELAY)

    def silence(self, device: Device, rule: Rule, *, silent: bool, now: datetime) -> None:
        """Note that a device fell silent, or is heard again (receipt time, not device time)."""
        state = self.state(device.id)
        if state is None or state.silent == silent:
            return
        state = State(
            state.at, state.received_at, state.since, state.reading, state.fault, silent,
            state.lit, state.lit_at,
        )  # fmt: skip
        self.delta.states[device.id] = state
        self._tell(device, state)
        condition = Condition(rule.id, silent, {"last_at": state.at.isoformat()})
        self._advance(device, rule, condition, now, now, _NO_DELAY)

    def known(self) -> Iterable[tuple[Device, State]]:
        """Yield every device that was ever heard, with its committed state."""
        for device_id, state in self._states.items():
            device = self._by_id.get(device_id)
            if device is not None:
                yield device, state

    def _fold(self, device: Device, reading: Reading, received_at: datetime) -> None:
        before = self.state(device.id)
        if before is not None and reading.at < before.at:
            # Latest state only moves forward; what is past is restated from raw.
            if isinstance(reading, LampReading):
                at_us = spans.to_us(reading.at)
                zone = device.place.time_zone
                for instant in (at_us, at_us + device.max_silence // _US):
                    night = lighting.night_of(instant, zone)
                    self._due_of(device, night)  # a night nobody has heard of has no row yet
                    self.delta.dirty.add((device.id, night))
            return
        lit, lit_at = (None, None) if before is None else (before.lit, before.lit_at)
        shines: bool | None = None
        if isinstance(reading, LampReading):
            shines = lighting.is_lit(reading.lit, reading.power_w, device.rated_power_w)
            if shines is not None:
                if lit is not None and lit_at is not None:
                    self._settle(device, lit_at, lit, reading.at)
                    # Of two readings with one instant, lit wins, whatever their order.
                    shines = shines or (lit and lit_at == reading.at)
                lit, lit_at = shines, reading.at
        fault = reading.fault
        state = State(
            reading.at,
            received_at,
            reading.at if before is None or before.fault != fault else before.since,
            reading.model_dump(mode="json", exclude=_IDENTITY, exclude_none=True),
            fault,
            before is not None and before.silent,
            lit,
            lit_at,
        )
        self.delta.states[device.id] = state
        stream_time = self._staged_time.get(device.gateway) or self._stream_time.get(device.gateway)
        if stream_time is None or reading.at > stream_time:
            self._staged_time[device.gateway] = reading.at
        if before is None or before.reading != state.reading:
            self._tell(device, state)
        self._ask_rules(device, reading, shines, received_at)

    def _settle(self, device: Device, since: datetime, lit: bool, until: datetime) -> None:
        """Add what the reading at ``since`` held, now that the next one ended its hold."""
        start = spans.to_us(since)
        end = min(spans.to_us(until), start + device.max_silence // _US)
        zone = device.place.time_zone
        night, last = lighting.night_of(start, zone), lighting.night_of(end, zone)
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

    def _is_due(self, device: Device, at: datetime) -> tuple[bool, datetime | None]:
        """Return whether light is due at ``at``, and until when this stays so, if that is known."""
        at_us = spans.to_us(at)
        zone = device.place.time_zone
        night = lighting.night_of(at_us, zone)
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
        self, device: Device, reading: Reading, shines: bool | None, received_at: datetime
    ) -> None:
        context = Context(self._rules, shines, lambda at: self._is_due(device, at))
        fault = Condition("device.fault", reading.fault is not None, {"fault": reading.fault})
        for condition in (fault, *KINDS[device.kind].conditions(reading, context)):
            rule = self._rules.get(condition.rule)
            if rule is not None:
                self._advance(device, rule, condition, reading.at, received_at, rule.on_delay)

    def _advance(
        self,
        device: Device,
        rule: Rule,
        condition: Condition,
        at: datetime,
        received_at: datetime,
        on_delay: timedelta,
    ) -> None:
        key = (rule.id, device.id, condition.key)
        before = self._track(key)
        if before is IDLE and not condition.holds:
            return
        if condition.holds:
            self._params[key] = condition.params
        known_until = at + device.max_silence
        if condition.until is not None:
            known_until = min(known_until, condition.until)
        after, decisions = step(
            before, condition.holds, at, on_delay=on_delay, known_until=known_until
        )
        self._stage(key, before, after)
        for decision in decisions:
            self._decide(device, rule, key, decision, received_at)

    def _let_time_pass(self, gateway: str, received_at: datetime) -> None:
        """Raise what waited for its on-delay: the gateway's own stream says how late it is."""
        now = self._staged_time.get(gateway)
        if now is None:
            return
        running = [
            (key, track)
            for key, track in (*self._tracks.items(), *self._staged_tracks.items())
            if isinstance(track, Pending)
        ]
        for key, _ in running:
            device = self._by_id.get(key[1])
            rule = self._rules.get(key[0])
            track = self._track(key)
            if device is None or rule is None or device.gateway != gateway:
                continue
            after, raised = elapse(track, now, on_delay=rule.on_delay)
            self._stage(key, track, after)
            if raised is not None:
                self._decide(device, rule, key, raised, received_at)

    def _track(self, key: TrackKey) -> Track:
        return self._staged_tracks.get(key) or self._tracks.get(key, IDLE)

    def _stage(self, key: TrackKey, before: Track, after: Track) -> None:
        if after is before:
            return
        self._staged_tracks[key] = after
        rule, device_id, _ = key
        if isinstance(after, Pending):
            if not isinstance(before, Pending):
                self.delta.pending[rule, device_id] = after.since
        elif isinstance(before, Pending):
            self.delta.pending[rule, device_id] = None

    def _decide(
        self, device: Device, rule: Rule, key: TrackKey, decision: Decision, received_at: datetime
    ) -> None:
        params: Mapping[str, Any] = self._params.get(key, {}) if isinstance(decision, Raise) else {}
        self.delta.alerts.append(
            Change(
                rule.id,
                rule.severity,
                subject_of(device),
                decision,
                received_at,
                key[2],
                {name: value for name, value in params.items() if value is not None},
            )
        )

    def _tell(self, device: Device, state: State) -> None:
        match device.life, state.silent, state.fault:
            case "maintenance", _, _:
                shown = "maintenance"
            case _, True, _:
                shown = "offline"
            case _, _, str():
                shown = "fault"
            case _:
                shown = "normal"
        self.delta.live[device.device] = (
            device.community,
            LiveDevice(
                device=device.device,
                kind=device.kind,
                state=shown,
                at=state.at,
                received_at=state.received_at,
                values=dict(state.reading),
            ),
        )
