# SPDX-License-Identifier: Apache-2.0
"""The telemetry lane: readings, latest states, lighting, and the rules that readings answer."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from edge_agent.kinds import Reading
from edge_agent.messages import Lane
from ingest import metrics
from ingest.daily import days_over
from ingest.indicators import lighting, spans
from ingest.judge import Judged
from ingest.kinds import DEVICE_SILENT, KINDS
from ingest.kinds.base import fields
from ingest.presence import is_silent
from ingest.projection import Delta
from ingest.store import alerts, community_days, devices, lamp_nights, readings
from ingest.writer import Writer

_RECOMPUTE_INTERVAL: Final = timedelta(seconds=1)
_RECOMPUTED_AT_ONCE: Final = 200
_SILENCE_INTERVAL: Final = timedelta(seconds=5)
_WINDOW_INTERVAL: Final = timedelta(seconds=60)
# Nights opened for lamps nobody heard; older ones open when a reading comes.
_NIGHTS_BACK: Final = timedelta(days=2)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class TelemetryWriter(Writer):
    """Stores readings; alone in changing device states, lamp-nights and pending conditions."""

    lane: Lane = "telemetry"
    _recomputed_at = _NEVER
    _silence_checked_at = _NEVER
    _windows_opened_at = _NEVER

    def store(self, conn: psycopg.Connection, fresh: Sequence[Judged], now: datetime) -> None:
        """Store readings by class, fold them into what follows from them, write that too."""
        rows: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
        folded: list[tuple[devices.Device, Reading, datetime]] = []
        for item in fresh:
            received_at = item.message.received_at
            for device, reading in item.readings:
                table = KINDS[device.kind].readings
                rows[device.kind].append(
                    (device.id, reading.at, received_at, *fields(reading, table))
                )
                folded.append((device, reading, received_at))
        for kind, values in rows.items():
            readings.copy_in(conn, KINDS[kind].readings, values)
        self.projection.fold(folded)
        self._write(conn, self.projection.delta, now)
        late = days_over(((device, reading.at) for device, reading, _ in folded), now)
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
        self._changed_alerts += alerts.write(conn, delta.alerts, now)

    def committed(self, judged: Sequence[Judged], fresh: Sequence[Judged]) -> None:
        """Make the fold the present, and hand its changes to the live topic."""
        del judged
        delta = self.projection.commit()
        for item in fresh:
            for device, _ in item.readings:
                metrics.READINGS.labels(device.kind).inc()
        self._announce(delta)

    def _announce(self, delta: Delta) -> None:
        for community, device in delta.live.values():
            self.downlink.device_changed(community, device)
        for change in delta.alerts:
            metrics.ALERTS.labels(change.rule).inc()
        self.tell_alerts()

    def tick(self, conn: psycopg.Connection, now: datetime) -> None:
        """Restate dirty nights, open and close nights, notice silent devices."""
        if now - self._recomputed_at >= _RECOMPUTE_INTERVAL:
            self._recomputed_at = now
            self._recompute(conn)
        if now - self._windows_opened_at >= _WINDOW_INTERVAL:
            self._windows_opened_at = now
            self._open_windows(conn, now)
        if now - self._silence_checked_at >= _SILENCE_INTERVAL:
            self._silence_checked_at = now
            self._check_silence(conn, now)

    def _recompute(self, conn: psycopg.Connection) -> None:
        by_id = {device.id: device for device in self.registry.devices.values()}
        with conn.transaction():
            if devices.registry_revision(conn) != self.registry.revision:
                return  # what marked these nights may be a change not read yet
            for device_id, night in lamp_nights.take_dirty(conn, _RECOMPUTED_AT_ONCE):
                state = self.projection.state(device_id)
                lamp_nights.recompute(
                    conn, by_id[device_id], night, None if state is None else state.lit_at
                )

    def _open_windows(self, conn: psycopg.Connection, now: datetime) -> None:
        """Open each lamp's nights up to the present one, heard or not; close what is over."""
        now_us = spans.to_us(now)
        back_us = spans.to_us(now - _NIGHTS_BACK)
        nights: list[lamp_nights.Night] = []
        for device in self.registry.devices.values():
            if device.kind != "lamp" or device.life != "in_service":
                continue
            zone = device.place.time_zone
            night = lighting.night_of(max(back_us, device.in_service_from_us), zone)
            while night <= lighting.night_of(now_us, zone):
                nights.append(lamp_nights.open_night(device, night))
                night += timedelta(days=1)
        with conn.transaction():
            if nights:
                lamp_nights.insert_missing(conn, nights)
            lamp_nights.finalise(conn, now)

    def _check_silence(self, conn: psycopg.Connection, now: datetime) -> None:
        rule = self.rules.get(DEVICE_SILENT.id)
        listening = self.listening
        if rule is None or listening is None:
            return
        for device, state in self.projection.known():
            if device.life != "in_service":
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
        delta = self.projection.delta
        if delta.states:
            try:
                with conn.transaction():
                    self._write(conn, delta, now)
            except psycopg.Error:
                self.projection.rollback()
                raise
            self._announce(self.projection.commit())
