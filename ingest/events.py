# SPDX-License-Identifier: Apache-2.0
"""The event lane: alarm and gate events, gaps, and what gateways say of themselves.

A lane of its own, so that no telemetry backlog delays an alarm.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Unpack
from uuid import UUID

import psycopg

from edge_agent.messages import GapEvent, Lane, LiveGateway
from ingest import metrics
from ingest.alerts import Clear, Raise
from ingest.judge import Judged
from ingest.kinds import GATEWAY_SILENT, KINDS
from ingest.kinds.base import fields
from ingest.presence import is_silent
from ingest.store import alerts, gateways, readings, streams
from ingest.store.devices import Gateway
from ingest.store.streams import StreamKey
from ingest.writer import Common, Writer

_PRESENCE_INTERVAL: Final = timedelta(seconds=1)
_SAVE_INTERVAL: Final = timedelta(seconds=5)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class EventWriter(Writer):
    """Stores events; alone in changing gateways and the alerts that events raise."""

    lane: Lane = "event"
    _presence_checked_at = _NEVER
    _presence_saved_at = _NEVER

    def __init__(
        self, *, status_interval: timedelta, silence_intervals: float, **common: Unpack[Common]
    ) -> None:
        """Take the heartbeat of gateways that do not say theirs, and how many may be missed."""
        super().__init__(**common)
        self._status_interval = status_interval
        self._silence_intervals = silence_intervals
        self._intervals: dict[str, timedelta] = {}
        self._silent: dict[str, bool] = {}
        self._changed_alerts: list[tuple[str, UUID]] = []

    def store(self, conn: psycopg.Connection, fresh: Sequence[Judged], now: datetime) -> None:
        """Store events by class, gaps and statuses; let events speak to their rules."""
        rows: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
        for item in fresh:
            match item.event:
                case None:
                    pass
                case GapEvent():
                    self._store_gap(conn, item, item.event)
                case (device, event):
                    table = KINDS[device.kind].events
                    assert table is not None
                    rows[device.kind].append(
                        (device.id, event.at, item.message.received_at, *fields(event, table))
                    )
                    self.projection.fold_event(device, event, item.message.received_at)
        for kind, values in rows.items():
            table = KINDS[kind].events
            assert table is not None
            readings.copy_in(conn, table, values)
        statuses = {
            item.gateway: (item.status, item.message.received_at)
            for item in fresh
            if item.status is not None and item.gateway is not None
        }
        if statuses:
            gateways.save_status(conn, statuses)
        self._changed_alerts = alerts.write(conn, self.projection.delta.alerts, now)

    def _store_gap(self, conn: psycopg.Connection, item: Judged, gap: GapEvent) -> None:
        assert item.gateway is not None
        missing = streams.add_range(conn, item.gateway, gap.stream, gap.lane, gap.first, gap.last)
        if missing:
            streams.insert_gap(
                conn,
                (item.gateway, gap.stream),
                first=gap.first,
                last=gap.last,
                count=missing,
                cause="evicted",
                at=gap.at,
                received_at=item.message.received_at,
            )

    def committed(self, judged: Sequence[Judged], fresh: Sequence[Judged]) -> None:
        """Make the fold the present; alerts are told at once."""
        delta = self.projection.commit()
        for item in fresh:
            if isinstance(item.event, tuple):
                metrics.EVENTS.labels(item.event[0].kind).inc()
        for item in judged:
            status = item.status
            if item.gateway is not None and status is not None and status.status_interval_s:
                self._intervals[item.gateway] = timedelta(seconds=status.status_interval_s)
        for change in delta.alerts:
            metrics.ALERTS.labels(change.rule).inc()
        self._tell_alerts()

    def _tell_alerts(self) -> None:
        for community, alert in self._changed_alerts:
            self.downlink.alert_changed(community, alert)
        self._changed_alerts = []
        self.downlink.tell()

    def asked_watermarks(
        self, conn: psycopg.Connection, judged: Sequence[Judged]
    ) -> Mapping[StreamKey, int]:
        """Answer each birth and heartbeat with the watermarks of the streams it names."""
        asked = {
            (item.gateway, stream.stream)
            for item in judged
            if item.gateway is not None and item.status is not None
            for stream in item.status.streams
        }
        if not asked:
            return {}
        known = streams.watermarks_of(conn, sorted(asked))
        return {key: known.get(key, 0) for key in asked}

    def tick(self, conn: psycopg.Connection, now: datetime) -> None:
        """Notice gateways that fell silent or are heard again; keep when they were heard."""
        if now - self._presence_checked_at < _PRESENCE_INTERVAL:
            return
        self._presence_checked_at = now
        rule = self.rules.get(GATEWAY_SILENT.id)
        flipped: list[tuple[Gateway, bool]] = []
        for gateway in self.registry.gateways.values():
            limit = self._silence_intervals * self._interval(gateway)
            silent = is_silent(self._last_heard(gateway), self.listening_since, now, limit)
            if silent is not None and silent != self._is_silent(gateway):
                flipped.append((gateway, silent))
        save_all = now - self._presence_saved_at >= _SAVE_INTERVAL
        if not flipped and not save_all:
            return
        changes: list[alerts.Change] = []
        for gateway, silent in flipped:
            if rule is not None:
                changes.append(self._change(gateway, rule.severity, silent=silent, now=now))
        told = {gateway.gateway: silent for gateway, silent in flipped}
        with conn.transaction():
            self._changed_alerts = alerts.write(conn, changes, now)
            gateways.save_presence(
                conn,
                [
                    (
                        gateway.gateway,
                        self._last_heard(gateway),
                        told.get(gateway.gateway, self._is_silent(gateway)),
                    )
                    for gateway in self.registry.gateways.values()
                    if save_all or gateway.gateway in told
                ],
            )
        if save_all:
            self._presence_saved_at = now
        for gateway, silent in flipped:
            self._silent[gateway.gateway] = silent
            self.presence.set_silent(gateway.gateway, silent=silent, now=now)
            self.downlink.gateway_changed(
                gateway.community,
                LiveGateway(
                    gateway=gateway.gateway, silent=silent, last_seen_at=self._last_heard(gateway)
                ),
            )
        self._tell_alerts()

    def _change(
        self, gateway: Gateway, severity: alerts.Severity, *, silent: bool, now: datetime
    ) -> alerts.Change:
        last = self._last_heard(gateway)
        return alerts.Change(
            GATEWAY_SILENT.id,
            severity,
            alerts.Subject("gateway", gateway.gateway, gateway.community, gateway.community),
            Raise(now, "gateway_silent") if silent else Clear(now, "gateway_heard"),
            now,
            params={} if last is None else {"last_seen_at": last.isoformat()},
        )

    def _is_silent(self, gateway: Gateway) -> bool:
        return self._silent.get(gateway.gateway, gateway.silent)

    def _last_heard(self, gateway: Gateway) -> datetime | None:
        return self.presence.last_heard(gateway.gateway) or gateway.last_seen_at

    def _interval(self, gateway: Gateway) -> timedelta:
        known = self._intervals.get(gateway.gateway)
        if known is not None:
            return known
        if gateway.status_interval_s is not None:
            return timedelta(seconds=gateway.status_interval_s)
        return self._status_interval
