# SPDX-License-Identifier: Apache-2.0
"""The event lane: alarm and gate events, gaps, and what gateways say of themselves.

A lane of its own, so that no telemetry backlog delays an alarm.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Unpack

import psycopg

from edge_agent.kinds import Event
from edge_agent.kinds.alarm import AlarmEvent
from edge_agent.messages import AnyLane, GapEvent, Lane, LiveGateway, Status
from ingest import event_rules, gateway_rules, metrics
from ingest.alerts import Clear, Raise
from ingest.days import days_over
from ingest.judge import Judged
from ingest.kinds import GATEWAY_SILENT, KINDS, STREAM_HOLE, STREAM_LOST
from ingest.kinds.base import fields
from ingest.owed import WAIT_MAX, Owed
from ingest.presence import HEARD_INTERVAL, Listening, Watch
from ingest.rule_engine import Seen
from ingest.rule_memory import subject_of_gateway
from ingest.rules import Rule
from ingest.store import (
    alerts,
    cases,
    cities,
    community_days,
    dead_letters,
    devices,
    gateways,
    readings,
    rules,
    streams,
)
from ingest.store.devices import Device, Gateway
from ingest.store.rules import MemoryKey
from ingest.store.streams import Hole, StreamKey
from ingest.writer import Common, Writer

_PRESENCE_INTERVAL: Final = timedelta(seconds=1)
_SAVE_INTERVAL: Final = timedelta(seconds=5)
_HOLES_INTERVAL: Final = timedelta(seconds=2)
_ASKED_AT_ONCE: Final = 500
# What an event may take from its instant to the broker: the gateway writes it to disk first.
_ON_THE_WAY: Final = timedelta(seconds=1)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class EventWriter(Writer):
    """Stores events; alone in changing gateways and the alerts that events raise."""

    lane: AnyLane = "event"
    _presence_checked_at = _NEVER
    _presence_saved_at = _NEVER
    _holes_looked_at = _NEVER

    def __init__(
        self, *, status_interval: timedelta, silence_intervals: float, **common: Unpack[Common]
    ) -> None:
        """Take the heartbeat of gateways that do not say theirs, and how many may be missed."""
        super().__init__(**common)
        self._watch = Watch(self.presence, status_interval, silence_intervals)
        self._owed = Owed()
        # Since when each stream has a hole, and of which people were told.
        self._holes: dict[StreamKey, datetime] = {}
        self._hole_alerts: set[StreamKey] = set()

    def store(self, conn: psycopg.Connection, fresh: Sequence[Judged], now: datetime) -> None:
        """Store events by class, gaps and statuses; let events speak to their rules."""
        rows: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
        known: list[tuple[Device, datetime]] = []
        aborted: list[tuple[int, tuple[Device, Event]]] = []
        engine, latest = self.projection.engine, partial(devices.latest, conn)
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
                    event_rules.tell(engine, device, event, item.message.received_at, latest)
                    known.append((device, event.at))
                    if isinstance(event, AlarmEvent) and event.phase == "aborted":
                        aborted.append((len(self.projection.gather().alerts), (device, event)))
        for kind, values in rows.items():
            table = KINDS[kind].events
            assert table is not None
            readings.copy_in(conn, table, values)
        self._end_what_is_over(conn, fresh)
        self._close_vanished(conn, fresh, now)
        statuses = {
            item.gateway: (item.status, item.message.received_at)
            for item in fresh
            if item.status is not None and item.gateway is not None
        }
        if statuses:
            gateways.save_status(conn, statuses)
            self._ask_gateway_rules(statuses)
        told = {city: said for city, said in statuses.items() if self._is_city(city)}
        if told:
            cities.save_status(conn, told)
        self._write(conn, now, aborted)
        # Last, as whoever settles a case does: alerts, cases, days.
        late = days_over(known, now)
        if late:
            community_days.mark(conn, late.items(), "late")

    def _end_what_is_over(self, conn: psycopg.Connection, fresh: Sequence[Judged]) -> None:
        """Clear alarms whose end was stored before them: a dead letter that was judged again."""
        raised = [
            (device, event, item.message.received_at)
            for item in fresh
            if isinstance(item.event, tuple)
            for device, event in (item.event,)
            if isinstance(event, AlarmEvent) and event.phase == "raised"
        ]
        if not raised:
            return
        named = [(device.id, event.occurrence, event.at) for device, event, _ in raised]
        for end in readings.ends(conn, named):
            device, event, received_at = raised[end.number]
            over = event.model_copy(update={"phase": end.phase, "at": end.at})
            event_rules.tell_built_in(self.projection.engine, device, over, received_at)

    def _write(
        self,
        conn: psycopg.Connection,
        now: datetime,
        aborted: Iterable[tuple[int, tuple[Device, Event]]] = (),
    ) -> None:
        """Write what followed; each abort after as many alerts as had changed when it was told."""
        delta = self.projection.gather()
        if delta.memory:
            rules.save_memory(conn, "event", delta.memory)
        written = 0
        for upto, told in aborted:
            self._changed_alerts += alerts.write(conn, delta.alerts[written:upto], now)
            cases.abort(conn, [told], now)
            written = upto
        self._changed_alerts += alerts.write(conn, delta.alerts[written:], now)

    def _ask_gateway_rules(self, statuses: Mapping[str, tuple[Status, datetime]]) -> None:
        """Let what gateways say of themselves speak to the rules on gateways."""
        for name, (status, received_at) in statuses.items():
            gateway = self.registry.gateways.get(name)
            if gateway is None or gateway.is_city:
                continue
            in_force = self.rules.at(gateway.community)
            seen = Seen(received_at, {}, known_until=gateway_rules.known_until(status, received_at))
            for condition in gateway_rules.conditions(status, in_force):
                rule = in_force.get(condition.rule)
                if rule is not None:
                    self.projection.engine.advance(
                        rule,
                        subject_of_gateway(gateway),
                        condition.holds,
                        seen,
                        received_at,
                        params=condition.params,
                    )

    def _let_time_pass(self, conn: psycopg.Connection, now: datetime) -> None:
        """Let delays end and ask conditions whose answer changes by time alone, some at a time.

        No stream of readings tells how late it is at a gateway: it is as late as when our last
        probe was sent, because what was published before is stored.
        """
        listening, engine = self.listening, self.projection.engine
        if listening is None:
            return
        until = listening.until - _ON_THE_WAY
        waiting = engine.waiting
        owing = self._owed.owing(conn, waiting, now)
        times = {one: self._time_at(one, listening, one in owing) for one in waiting}

        def time_at(gateway: str, of_state: bool) -> datetime:
            del of_state  # what states are the table tells, as of now
            if gateway not in times:
                owes = bool(self._owed.owing(conn, [gateway], now))
                times[gateway] = self._time_at(gateway, listening, owes)
            return times[gateway]

        if times:
            engine.pass_time({one: (at, now) for one, at in times.items()})
        latest = partial(devices.latest, conn)
        for device, one, at in engine.take_due(until, _ASKED_AT_ONCE, time_at):
            event_rules.ask_due(engine, device, one, at, now, latest)
        delta = self.projection.gather()
        if not (delta.memory or delta.alerts):
            return
        try:
            with conn.transaction():
                self._write(conn, now)
        except psycopg.Error:
            self.projection.rollback()
            raise
        self.projection.commit()
        for change in delta.alerts:
            metrics.ALERTS.labels(change.rule.id).inc()
        self.tell_alerts()

    def _time_at(self, gateway: str, listening: Listening, owes: bool) -> datetime:
        """Return until when everything is known that a gateway had to tell.

        Behind one that is silent it is as late as here: a gate that was forced, and of which
        nothing is heard any more, is to be told. Where our link broke, the gateway's may have,
        too: what it could not send it names once it is back.
        """
        known = self.registry.gateways.get(gateway)
        if known is not None and not self._watch.is_silent(known):
            is_new = listening.until - listening.since < WAIT_MAX
            heard_at = self.presence.last_heard(gateway)
            if owes or (is_new and (heard_at is None or heard_at < listening.since)):
                return _NEVER
        return listening.until - _ON_THE_WAY

    def rules_changed(self, ended: frozenset[MemoryKey]) -> None:
        """Holes of which people are not told any more are told anew when they are again."""
        self._hole_alerts = {
            key
            for key in self._hole_alerts
            if MemoryKey(STREAM_HOLE.id, f"gateway:{key[0]}", key[1]) not in ended
        }

    def _is_city(self, name: str) -> bool:
        known = self.registry.gateways.get(name)
        return known is not None and known.is_city

    def _close_vanished(
        self, conn: psycopg.Connection, fresh: Sequence[Judged], now: datetime
    ) -> None:
        """Close holes that can never be filled: the gateway no longer holds what is missing.

        What it evicted it says itself, on the event lane; so its word on what it still holds counts
        only once all its events up to that word are stored.
        """
        # Of each gateway the last word counts.
        said = {
            item.gateway: item.status
            for item in fresh
            if item.gateway is not None and item.status is not None
        }
        bounds = {
            (gateway, lane.stream): lane.oldest
            for gateway, status in said.items()
            for lane in status.streams
        }
        missing_of: defaultdict[str, list[tuple[StreamKey, int, int]]] = defaultdict(list)
        for hole in streams.missing_below(conn, bounds) if bounds else ():
            missing_of[hole[0][0]].append(hole)
        for gateway, missing in missing_of.items():
            status = said[gateway]
            events = [lane for lane in status.streams if lane.lane == "event"]
            # Events it still holds may tell of evictions: wait until all of them are here.
            unheard = streams.missing_below(
                conn, {(gateway, lane.stream): lane.next for lane in events}
            )
            if any(last >= bounds[key] for key, _, last in unheard):
                continue
            lanes: dict[str, Lane] = {lane.stream: lane.lane for lane in status.streams}
            for key, first, last in missing:
                self._lose(conn, key, lanes[key[1]], (first, last), now)

    def _lose(
        self,
        conn: psycopg.Connection,
        key: StreamKey,
        lane: Lane,
        span: tuple[int, int],
        now: datetime,
    ) -> None:
        """Record known loss, and tell people once."""
        first, last = span
        count = streams.add_range(conn, *key, lane, first, last)
        streams.insert_gap(
            conn,
            key,
            first=first,
            last=last,
            count=count,
            cause="vanished",
            at=now,
            received_at=now,
        )
        subject = self.subject(key[0], None)
        rule = None if subject is None else self.rules.get(STREAM_LOST.id, subject.area)
        if rule is None or subject is None:
            return
        name = f"{key[1]}:{first}"
        params = {"stream": key[1], "lane": lane, "first": first, "last": last, "count": count}
        raised = alerts.Change(rule, subject, Raise(now, "vanished"), now, name, params)
        # A loss is a fact, not a condition: it stays until somebody took note, and is not active.
        ended = replace(raised, decision=Clear(now, "vanished"))
        self._changed_alerts += alerts.write(conn, [raised, ended], now)

    def _look_for_holes(self, conn: psycopg.Connection, now: datetime) -> None:
        """Raise an alert for a stream that lacks messages for too long; clear it when filled."""
        present = {
            (hole.gateway, hole.stream): hole
            for hole in streams.holes(conn)
            if (known := self.registry.gateways.get(hole.gateway)) is not None and not known.is_away
        }
        changes: list[alerts.Change] = []
        for key, hole in present.items():
            since = self._holes.setdefault(key, now)
            rule = self._hole_rule(key)
            if rule is None:
                continue
            if key not in self._hole_alerts and now - since >= rule.on_delay:
                changes += self._hole_change(
                    rule, hole.gateway, hole.stream, Raise(now, "hole"), now, hole
                )
        for key in self._hole_alerts - present.keys():
            rule = self._hole_rule(key) or STREAM_HOLE
            gateway = self.registry.gateways.get(key[0])
            is_retired = gateway is not None and gateway.status == "retired"
            why = "gateway_retired" if is_retired else "hole_filled"
            changes += self._hole_change(rule, *key, Clear(now, why), now, None)
        for key in self._holes.keys() - present.keys():
            del self._holes[key]
        if changes:
            with conn.transaction():
                self._changed_alerts += alerts.write(conn, changes, now)
            for change in changes:
                key = (change.subject.gateway, change.key)
                if isinstance(change.decision, Raise):
                    self._hole_alerts.add(key)
                else:
                    self._hole_alerts.discard(key)
            self.tell_alerts()
            self.downlink.tell()

    def _hole_rule(self, key: StreamKey) -> Rule | None:
        gateway = self.registry.gateways.get(key[0])
        return None if gateway is None else self.rules.get(STREAM_HOLE.id, gateway.community)

    def _hole_change(
        self,
        rule: Rule,
        gateway: str,
        stream: str,
        decision: Raise | Clear,
        now: datetime,
        hole: Hole | None,
    ) -> list[alerts.Change]:
        subject = self.subject(gateway, None)
        if subject is None:
            return []
        params: dict[str, str | int] = {"stream": stream}
        if hole is not None:
            params |= {
                "lane": hole.lane,
                "first": hole.first,
                "last": hole.last,
                "count": hole.count,
            }
        return [alerts.Change(rule, subject, decision, now, stream, params)]

    def _gap_fault(self, conn: psycopg.Connection, gateway: str, gap: GapEvent) -> str | None:
        """Return why a gap may not be recorded: gaps make streams and ranges, as messages do."""
        key = (gateway, gap.stream)
        known = streams.ids_of(conn, [key])
        if not known:
            begun = streams.new_streams_today(conn, [gateway]).get(gateway, 0)
            if begun >= streams.NEW_STREAMS_A_DAY_MAX:
                return "stream.too_many"
        return streams.gap_fault(conn, known.get(key, 0), gap.first, gap.last)

    def _store_gap(self, conn: psycopg.Connection, item: Judged, gap: GapEvent) -> None:
        assert item.gateway is not None
        reason = self._gap_fault(conn, item.gateway, gap)
        if reason is not None:
            item.refuse_all(reason, gap.stream)
            dead_letters.insert(conn, self.lane, item.letters)
            return
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
            if item.gateway is not None and item.status is not None:
                self._watch.note(item.gateway, item.status, item.message.received_at)
                self._owed.note(item.gateway, item.status)
        for change in delta.alerts:
            metrics.ALERTS.labels(change.rule.id).inc()
        self.tell_alerts()
        self.downlink.tell()

    def restore_standing(self, standing: Sequence[alerts.Standing]) -> None:
        """Take up the holes of which people know."""
        self._hole_alerts = {
            (alert.gateway, alert.key)
            for alert in standing
            if alert.rule == STREAM_HOLE.id and alert.gateway in self.registry.gateways
        }

    def tick(self, conn: psycopg.Connection, now: datetime) -> None:
        """Notice gateways that fell silent or are heard again; keep when they were heard."""
        self._let_time_pass(conn, now)
        if now - self._presence_checked_at < _PRESENCE_INTERVAL:
            return
        self._presence_checked_at = now
        if now - self._holes_looked_at >= _HOLES_INTERVAL:
            self._holes_looked_at = now
            self._look_for_holes(conn, now)
        flipped = self._look(conn)
        save_all = now - self._presence_saved_at >= _SAVE_INTERVAL
        if not flipped and not save_all:
            return
        changes: list[alerts.Change] = []
        for gateway, silent in flipped:
            rule = self.rules.get(GATEWAY_SILENT.id, gateway.community)
            if rule is not None:
                changes.append(self._change(gateway, rule, silent=silent, now=now))
        told = {gateway.gateway: silent for gateway, silent in flipped}
        with conn.transaction():
            self._changed_alerts += alerts.write(conn, changes, now)
            presence = [
                (
                    gateway.gateway,
                    self._watch.last_heard(gateway),
                    told.get(gateway.gateway, self._watch.is_silent(gateway)),
                )
                for gateway in self.registry.gateways.values()
                if save_all or gateway.gateway in told
            ]
            gateways.save_presence(conn, presence)
            of_cities = [row for row in presence if self._is_city(row[0])]
            if of_cities:
                cities.save_presence(conn, of_cities)
        if save_all:
            self._presence_saved_at = now
        self._watch.take(flipped, now)
        for gateway, silent in flipped:
            self.downlink.gateway_changed(
                gateway.community,
                LiveGateway(
                    gateway=gateway.gateway,
                    silent=silent,
                    last_seen_at=self._watch.last_heard(gateway),
                ),
            )
        self.tell_alerts()
        self.downlink.tell()

    def _look(self, conn: psycopg.Connection) -> list[tuple[Gateway, bool]]:
        """Return who fell silent or is heard again, whichever process heard it."""
        present = self.registry.gateways.values()
        flipped = self._watch.look(present, self.listening)
        if self.presence.is_whole:
            return flipped
        # Telemetry processes write down whom they hear without a heartbeat: somewhat later.
        doubtful = [one.gateway for one in present if self._watch.is_silent(one)]
        doubtful += [one.gateway for one, silent in flipped if silent]
        if doubtful:
            self.presence.heard(gateways.load_heard(conn, doubtful))
            flipped = self._watch.look(present, self.listening, HEARD_INTERVAL + _PRESENCE_INTERVAL)
        return flipped

    def _change(
        self, gateway: Gateway, rule: Rule, *, silent: bool, now: datetime
    ) -> alerts.Change:
        last = self._watch.last_heard(gateway)
        return alerts.Change(
            rule,
            alerts.Subject("gateway", gateway.gateway, gateway.community, gateway.community),
            Raise(now, "gateway_silent")
            if silent
            else Clear(now, "gateway_retired" if gateway.status == "retired" else "gateway_heard"),
            now,
            params={} if last is None else {"last_seen_at": last.isoformat()},
        )
