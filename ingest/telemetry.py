# SPDX-License-Identifier: Apache-2.0
"""The telemetry lane: readings, latest states, lighting, and the rules that readings answer."""

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Unpack

import psycopg

from edge_agent.messages import AnyLane, LiveDevice
from ingest import metrics
from ingest.days import LATELY, days_over
from ingest.indicators import lighting, spans
from ingest.judge import Judged, Received
from ingest.kinds import DEVICE_SILENT, KINDS
from ingest.owed import WAIT_MAX
from ingest.partitions import NAMES
from ingest.presence import HEARD_INTERVAL, Listening, Watch, is_silent
from ingest.projection import SAID, Delta, Heard
from ingest.states import device_state
from ingest.store import (
    alerts,
    chunks,
    community_days,
    devices,
    gateways,
    held_states,
    lamp_nights,
    readings,
    rules,
)
from ingest.store.devices import Device, State
from ingest.writer import Common, Stored, Writer

log = logging.getLogger(__name__)

_RECOMPUTE_INTERVAL: Final = timedelta(seconds=1)
_RECOMPUTED_AT_ONCE: Final = 200
# Where readings get their index later, marked nights wait for it, after a city's backlog hundreds
# of thousands: these are not looked through every second for some that need not.
_WAITING_INTERVAL: Final = timedelta(seconds=60)
_SILENCE_INTERVAL: Final = timedelta(seconds=5)
_PRESENCE_INTERVAL: Final = timedelta(seconds=1)
_WINDOW_INTERVAL: Final = timedelta(seconds=60)
# Nights opened for lamps nobody heard; older ones open when a reading comes.
_NIGHTS_BACK: Final = timedelta(days=2)
# A state is held back for this many intervals after its instant at most, delivery included: the
# rest is written at once. After a crash all readings since then are looked through.
_HELD_INTERVALS: Final = 2
_FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)
# Of a city's devices and lamps: some milliseconds' work, between two flushes.
_CHECKED_AT_ONCE: Final = 5_000
_OPENED_AT_ONCE: Final = 1_000
_ASKED_AT_ONCE: Final = 500
# Nobody alive holds a state back for so long without moving its bound on.
_HELD_MAX: Final = timedelta(hours=1)
# Readings that come within this of their instants are live; those of a backlog are older.
_LIVE_WITHIN: Final = timedelta(seconds=5)
# A backlog that is older comes beside what is live (decision 0008), with a minute to come in.
_IN_ORDER: Final = timedelta(minutes=16)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def _live(device: Device, state: State) -> LiveDevice:
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


class TelemetryWriter(Writer):
    """Stores readings; alone in changing device states, lamp-nights and pending conditions."""

    lane: AnyLane = "telemetry"
    _recompute_at = _NEVER
    _silence_checked_at = _NEVER
    _windows_opened_at = _NEVER
    _presence_checked_at = _NEVER
    _presence_saved_at = _NEVER

    def __init__(
        self,
        watch: Watch | None = None,
        *,
        state_interval: timedelta = timedelta(),
        **common: Unpack[Common],
    ) -> None:
        """Start with nothing looked at.

        Args:
            watch: Who is silent, where the event lane, which decides that, runs elsewhere: then
                this lane hears statuses, too.
            state_interval: How far states and lamp-nights in the tables may be behind memory where
                nothing but numbers changed.
            common: What every lane is made of.
        """
        super().__init__(**common)
        self._indexed = chunks.Indexed()
        self._watch = watch
        self._state_interval = state_interval
        # States before this instant are in the tables; None: all are. Stored, so that a restart
        # knows how far to look back.
        self._held_since: datetime | None = None
        # The same, as it will be when this round has looked at all devices.
        self._round_since: datetime | None = None
        # Devices still to be looked at in this round; a city is no work for one tick.
        self._unchecked: list[int] = []
        # Lamps whose nights are still to be opened, and what the last ones were opened for.
        self._unopened: list[Device] = []
        self._opened_for: object = None
        # Who held states back for too long at the last look, and since when.
        self._stale: tuple[str, datetime] | None = None
        # Readings by class of the flush in hand.
        self._stored: dict[str, int] = {}

    def judge(self, taken: Sequence[Received]) -> list[Judged]:
        """Judge messages; a status that is refused is the event lane's, which refuses it."""
        judged = super().judge(taken)
        if self._watch is not None:
            for item in judged:
                if item.letters and item.message.topic.endswith("/status"):
                    item.forgive()
        return judged

    def store(self, conn: psycopg.Connection, fresh: Sequence[Judged], now: datetime) -> None:
        """Store readings by class, fold them into what follows from them, write that too."""
        rows: dict[str, list[tuple[object, ...]]] = {kind: [] for kind in KINDS}
        heard: list[Heard] = []
        past: list[tuple[Device, datetime]] = []
        lately = now - LATELY
        for item in fresh:
            received_at = item.message.received_at
            for device, reading in item.readings:
                kind, at = device.kind, reading.at
                said = SAID[kind](reading)
                rows[kind].append((device.id, at, received_at, *said))
                heard.append((at, device, reading, received_at, said))
                if at <= lately:
                    past.append((device, at))
        self._stored = {kind: len(values) for kind, values in rows.items() if values}
        for kind in self._stored:
            readings.copy_in(conn, KINDS[kind].readings, rows[kind])
        self.projection.fold(heard)
        self._write(conn, self.projection.gather(), now)
        late = days_over(past, now) if past else {}
        if late:
            community_days.mark(conn, late.items(), "late")

    def _write(self, conn: psycopg.Connection, delta: Delta, now: datetime) -> None:
        if delta.states:
            devices.save_states(conn, delta.states.items())
        if delta.opened:
            lamp_nights.insert_missing(conn, list(delta.opened.values()))
        if delta.settled:
            lamp_nights.add(conn, delta.settled)
        if delta.dirty:
            lamp_nights.mark_dirty(conn, delta.dirty)
        if delta.pending:
            alerts.save_pending(conn, delta.pending)
        if delta.memory:
            rules.save_memory(conn, "telemetry", delta.memory)
        self._changed_alerts += alerts.write(conn, delta.alerts, now)

    def committed(self, judged: Sequence[Judged], fresh: Sequence[Judged]) -> None:
        """Make the fold the present, and hand its changes to the live topic."""
        if self._watch is not None:
            for item in judged:
                if item.gateway is not None and item.status is not None:
                    self._watch.note(item.gateway, item.status, item.message.received_at)
        delta = self.projection.commit()
        for kind, count in self._stored.items():
            metrics.READINGS.labels(kind).inc(count)
        self._announce(delta)

    def tell_stored(self, stored: Stored, judged: Sequence[Judged]) -> None:
        """Tell gateways how far their streams are committed, of several messages at once."""
        counts = Counter(
            (item.gateway, item.stream) for item in judged if item.gateway and item.stream
        )
        self.downlink.acknowledge_later(stored.watermarks, stored.rejections, counts)

    def _announce(self, delta: Delta) -> None:
        for device, state in delta.live.values():
            self.downlink.device_changed(device.community, _live(device, state))
        for change in delta.alerts:
            metrics.ALERTS.labels(change.rule.id).inc()
        self.tell_alerts()

    def restore_standing(self, standing: Sequence[alerts.Standing]) -> None:
        """Open all nights anew: the tables may be older ones, restored from a backup."""
        del standing
        self._opened_for = None
        self._unopened = []

    @property
    def is_busy(self) -> bool:
        """Whether lamps wait for their nights; to look round all devices there is time."""
        return bool(self._unopened)

    def tick(self, conn: psycopg.Connection, now: datetime) -> None:
        """Restate dirty nights, open and close nights, notice silent devices."""
        if not timedelta() < self._recompute_at - now <= _WAITING_INTERVAL:
            self._recompute_at = now + _RECOMPUTE_INTERVAL
            self._recompute(conn, now)
        if now - self._windows_opened_at >= _WINDOW_INTERVAL:
            self._windows_opened_at = now
            self._begin_windows(now)
            if NAMES[0] in self.consumer.partitions:  # everybody's, so somebody's
                # A night whose light may be held back, by whichever process, is still open.
                held = held_states.held_longest(conn)
                self._tell_of_dead(held, now)
                lamp_nights.finalise(
                    conn, now if held is None else min(now, held[1] + lamp_nights.FINAL_AFTER)
                )
        if self._unopened:
            self._open_windows(conn, now)
        if self._watch is not None and now - self._presence_checked_at >= _PRESENCE_INTERVAL:
            self._presence_checked_at = now
            self._look_for_gateways(conn, self._watch, now)
        if not self._unchecked and now - self._silence_checked_at >= _SILENCE_INTERVAL:
            self._silence_checked_at = now
            self._begin_round(now)
        if self._unchecked or self._round_since is not None:  # the bound moves with nobody heard
            self._look_round(conn, now)
        self._ask_due(conn, now)

    def _tell_of_dead(self, held: tuple[str, datetime] | None, now: datetime) -> None:
        """Tell of a member that was killed and never came back, from the second look on.

        Until it does, or is retired, no night is final and each start reads all readings since.
        """
        stale = held if held is not None and now - held[1] > _HELD_MAX else None
        if stale is not None and stale == self._stale:
            log.warning(
                "killed and neither started again nor retired member=%s held_since=%s",
                stale[0], stale[1].isoformat(),
            )  # fmt: skip
        self._stale = stale

    def _ask_due(self, conn: psycopg.Connection, now: datetime) -> None:
        """Ask conditions whose answer changes by time alone, some at a time."""
        listening, projection = self.listening, self.projection
        if listening is None:
            return
        projection.engine.look_for_gateways()

        def time_at(gateway: str, of_state: bool) -> datetime:
            return self._time_at(gateway, listening, of_state)

        for device, one, at in projection.engine.take_due(listening.until, _ASKED_AT_ONCE, time_at):
            projection.ask_due(device, one, at, now)
        self._write_staged(conn, now)

    def _time_at(self, gateway: str, listening: Listening, of_state: bool) -> datetime:
        """Return until when everything is known that devices behind a gateway said.

        While it hands over a backlog, or has not been heard since we or it came back, its own
        stream tells; else our clock, less what readings take to come. A state is known behind a
        silent gateway, too, and up to when one was heard again: by our clock it was offline. For
        that no stream is waited for that does not come, nor one that is older than what comes in
        order.
        """
        heard_since = self.presence.heard_since(gateway)
        told = self.projection.told_upto(gateway)
        if heard_since is None or told is None:
            # Behind a silent gateway nothing is known of a device but its state.
            return listening.until if of_state else _NEVER
        at, received_at = told
        came_at, since = received_at or _NEVER, listening.after(heard_since).since
        if came_at >= since and came_at - at <= _LIVE_WITHIN:
            return max(at, listening.until - _LIVE_WITHIN)
        if not of_state:
            return at
        if listening.until - max(came_at, since) >= WAIT_MAX:
            return listening.until
        return max(at, heard_since, listening.until - _IN_ORDER)

    def _claim(self, conn: psycopg.Connection) -> None:
        """Take over with partitions what others held back: their bound may go from here on."""
        super()._claim(conn)
        since = held_states.load_held_since(conn)
        if since is not None:
            held_states.save_held_since(conn, self.member, since)

    def load_states(self, conn: psycopg.Connection) -> dict[int, State]:
        """Read the latest states, and bring those that were held back up to the readings."""
        states = super().load_states(conn)
        self._unchecked, self._round_since, self._held_since = [], None, None
        # Whoever held them back: partitions may have had another writer before.
        since = held_states.load_held_since(conn)
        if since is not None:
            self._find_held(conn, states, since)
        elif self._state_interval:
            since = datetime.now(UTC) - _HELD_INTERVALS * self._state_interval
        if since is not None:
            held_states.save_held_since(conn, self.member, since)
            self._held_since = since
        self.projection.hold_back(self._state_interval, since if self._state_interval else None)
        return states

    def _find_held(
        self, conn: psycopg.Connection, states: dict[int, State], since: datetime
    ) -> None:
        """Bring states that were held back up to the readings."""
        stored: dict[str, dict[int, datetime]] = {kind: {} for kind in KINDS}
        for device in self.registry.devices.values():
            state = states.get(device.id)
            if state is not None:
                stored[device.kind][device.id] = state.at
        for name, kind in KINDS.items():
            for device_id, at, received_at, reading in held_states.load_held(
                conn, kind.readings, since, stored[name], datetime.now(UTC), self.progress
            ):
                states[device_id] = states[device_id].held_back(at, received_at, reading)

    def registry_changes(self, conn: psycopg.Connection, registry: devices.Registry) -> None:
        """Settle what was held back by the registry it was held back under."""
        if self._held_since is not None:
            self._write_out(conn, list(self.projection.held_by_changed(registry)))

    def finish(self, conn: psycopg.Connection) -> None:
        """Write all that is held back; what is not is found again by the next process."""
        if self._held_since is not None:
            self._write_out(conn, list(self.projection.held))
            held_states.save_held_since(conn, self.member, None)

    def _write_out(self, conn: psycopg.Connection, held: Sequence[int]) -> None:
        for first in range(0, len(held), _CHECKED_AT_ONCE):
            self.progress()
            self.projection.write_out(held[first : first + _CHECKED_AT_ONCE])
            self._write_staged(conn, datetime.now(UTC))

    def _write_staged(self, conn: psycopg.Connection, now: datetime) -> None:
        """Write what is staged without a flush, in a transaction of its own."""
        delta = self.projection.gather()
        if not (delta.states or delta.memory or delta.alerts):
            return
        try:
            with conn.transaction():
                self._write(conn, delta, now)
        except psycopg.Error:
            self.projection.rollback()
            raise
        self._announce(self.projection.commit())

    def _look_for_gateways(self, conn: psycopg.Connection, watch: Watch, now: datetime) -> None:
        """Notice silent gateways, of whose devices nothing can be said; tell who is heard."""
        present = self.registry.gateways.values()
        watch.take(watch.look(present, self.listening), now)
        if now - self._presence_saved_at >= HEARD_INTERVAL:
            heard = watch.heard_without_status(present)
            if heard:
                gateways.save_heard(conn, heard)
            self._presence_saved_at = now

    def _recompute(self, conn: psycopg.Connection, now: datetime) -> None:
        try:
            with conn.transaction():
                self._restate(conn, now)
        except psycopg.Error:
            self.projection.rollback()
            raise
        self._announce(self.projection.commit())

    def _restate(self, conn: psycopg.Connection, now: datetime) -> None:
        if devices.registry_revision(conn) != self.registry.revision:
            return  # what marked these nights may be a change not read yet
        until = self._indexed.until(conn, now)
        dirty = lamp_nights.take_dirty(conn, _RECOMPUTED_AT_ONCE, until, self.own_gateways)
        if until is not None and len(dirty) < _RECOMPUTED_AT_ONCE:
            self._recompute_at = now + _WAITING_INTERVAL
        # What is restated is settled up to the state in the table, as all nights are.
        self.projection.write_out(device_id for device_id, _ in dirty)
        self._write(conn, self.projection.gather(), now)
        for device_id, night in dirty:
            device = self.projection.device(device_id)
            assert device is not None, "who has a night is registered"
            state = self.projection.state(device_id)
            lamp_nights.recompute(conn, device, night, None if state is None else state.lit_at)

    def _begin_windows(self, now: datetime) -> None:
        """Take up all lamps, if their nights were opened for another night or registry."""
        now_us = spans.to_us(now)
        zones = {device.place.time_zone for device in self.registry.devices.values()}
        wanted = (
            self.registry.revision,
            {zone: lighting.night_of(now_us, zone) for zone in zones},
        )
        if wanted != self._opened_for:
            self._opened_for = wanted
            self.projection.nights.forget(
                min(wanted[1].values(), default=now.date()) - _NIGHTS_BACK
            )
            self._unopened = [
                device
                for device in self.registry.devices.values()
                if device.kind == "lamp" and device.life == "in_service"
            ]

    def _open_windows(self, conn: psycopg.Connection, now: datetime) -> None:
        """Open the next lamps' nights up to the present one, heard or not."""
        now_us = spans.to_us(now)
        back_us = spans.to_us(now - _NIGHTS_BACK)
        nights: list[lamp_nights.Night] = []
        taken = self._unopened[-_OPENED_AT_ONCE:]
        for device in taken:
            zone = device.place.time_zone
            night = lighting.night_of(max(back_us, device.in_service_from_us), zone)
            while night <= lighting.night_of(now_us, zone):
                nights.append(lamp_nights.open_night(device, night))
                night += timedelta(days=1)
        if nights:
            lamp_nights.insert_missing(conn, nights)
        del self._unopened[-_OPENED_AT_ONCE:]

    def _begin_round(self, now: datetime) -> None:
        """Take up all devices that were heard."""
        self._unchecked = list(self.projection.heard)
        if self._held_since is not None:
            since = _FOR_EVER
            if self._state_interval:
                # Never back, though the clock be: what was held back by then is in the tables.
                since = max(self._held_since, now - _HELD_INTERVALS * self._state_interval)
                self.projection.hold_back(self._state_interval, since)
            self._round_since = since

    def _look_round(self, conn: psycopg.Connection, now: datetime) -> None:
        """Look at the next devices of this round: who is silent, whose state has waited enough."""
        taken = self._unchecked[-_CHECKED_AT_ONCE:]
        del self._unchecked[-_CHECKED_AT_ONCE:]
        since = self._round_since
        if since is not None:
            heard = now - self._state_interval
            self.projection.write_out(self.projection.held_too_long(taken, since, heard))
        self._check_silence(taken, now)
        self._write_staged(conn, now)
        if since is not None and not self._unchecked:
            # Everybody was looked at since `hold_back` was told.
            self._round_since = None
            self._held_since = since if self._state_interval else None
            held_states.save_held_since(conn, self.member, self._held_since)

    def _check_silence(self, taken: Sequence[int], now: datetime) -> None:
        listening = self.listening
        if listening is None:
            return
        heard_after = listening.until
        for device_id in taken:
            device, state = self.projection.device(device_id), self.projection.state(device_id)
            if device is None or state is None or device.life != "in_service":
                continue
            if not state.silent and state.received_at + device.max_silence >= heard_after:
                continue  # the common case
            rule = self.rules.get(DEVICE_SILENT.id, device.area)
            if rule is None:
                continue
            gateway = self.registry.gateways[device.gateway]
            heard_since = self.presence.heard_since(gateway.gateway)
            if heard_since is None:  # behind a silent gateway nothing is known of a device
                continue
            silent = is_silent(
                state.received_at,
                listening.after(heard_since),
                device.max_silence + rule.on_delay,
            )
            if silent is not None:
                self.projection.silence(device, rule, silent=silent, now=now)
