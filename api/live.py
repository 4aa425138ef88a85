# SPDX-License-Identifier: Apache-2.0
"""The live picture: one subscription a process, told to all who watch.

The live topic is a hint, the tables are the truth: at start, after each reconnect and every ten
seconds the hub reads what it watches again, so a lost QoS 0 message heals within that time. Viewers
are in `api.live_channels`, devices and gateways in `api.live_mirror`, alerts and cases in
`api.live_news`.
"""

import asyncio
import heapq
import json
import logging
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from api import people
from api.alerts import Alert
from api.answers import rfc3339
from api.cases import CaseRow, read_cases, read_open_cases
from api.errors import Problem
from api.live_channels import (
    Changes,
    Channel,
    Delta,
    DeviceChange,
    Snapshot,
    Viewer,
    event,
    version_of,
)
from api.live_mirror import Mirror
from api.live_news import Moved, News, Versions, moved_since, read_alerts_of
from api.live_topic import Access, LiveTopic
from api.metrics import Metrics
from api.overview import Overview, read_overview
from api.people import Principal
from api.places import Place, find_area
from api.scope import DURESS, Scope
from api.state import Clock, Pool
from edge_agent import topics
from edge_agent.messages import Live, PayloadError, parse_live, parse_live_devices

log = logging.getLogger(__name__)

STREAMS_MAX: Final = 10
SNAPSHOT_ALERTS_MAX: Final = 200
SNAPSHOT_CASES_MAX: Final = 200
# A thousand who come at once, after a restart, would else each read the tables.
SNAPSHOT_SHARED_S: Final = 1.0
FEED_MAX: Final = 50
# Above this an area's stream tells aggregates and alerts only: upper levels get no devices.
DEVICES_MAX: Final = 20_000
BATCH_EVERY_S: Final = 1.0
OVERVIEW_EVERY_S: Final = 5.0
# Or less often, where reading an area's overview would take more than this share of the time: a
# city's sums up every device.
OVERVIEW_SHARE: Final = 0.02
RECONCILE_EVERY_S: Final = 10.0
PING_EVERY_S: Final = 15.0
RIGHTS_EVERY_S: Final = 5.0
# Longer than any statement of ingest may run: what was committed late is still found.
_NEWS_OVERLAP: Final = timedelta(seconds=60)
# Alerts and cases also move without a message: by time, by design, by people at another process.
# Each second the last few are asked for; what was committed even later, the next reconciliation
# finds.
NEWS_EVERY_S: Final = 1.0
_NEWS_RECENT: Final = timedelta(seconds=5)
# A channel nobody watches any more is kept so long, for those who come back.
_LINGER_S: Final = 120.0

# What a reader of the database may meet and outlive: it tries again a little later.
_DATABASE_ERRORS: Final = (psycopg.OperationalError, PoolTimeout)


class Hub:
    """Turns live messages and re-read tables into what viewers are told."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        metrics: Metrics,
        access: Access,
        *,
        devices_max: int = DEVICES_MAX,
    ) -> None:
        """Build it; nothing happens before `run`."""
        self._pool = pool
        self._clock = clock
        self._metrics = metrics
        self._devices_max = devices_max
        self._channels: dict[tuple[str, tuple[str, ...]], Channel] = {}
        self._opening = asyncio.Lock()
        self._news = News()
        self._read_again = asyncio.Event()
        self._news_missed = False
        self._topic = LiveTopic(
            access, self._receive, self._connected, self._read_again.set, metrics.live_takeovers.inc
        )
        self._mirror = Mirror(self._channels.values, self._topic.watch)
        self._closing = False
        self.is_connected = False

    # -- what others call

    async def run(self) -> None:
        """Run for ever; an error that is no outage ends it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._topic.run(), name="live-topic")
            group.create_task(self._reconcile_for_ever(), name="live-reconcile")
            group.create_task(self._tell_news_for_ever(), name="live-news")
            group.create_task(self._look_for_news_for_ever(), name="live-news-moved")
            group.create_task(self._tick_for_ever(), name="live-tick")
            group.create_task(self._overview_for_ever(), name="live-overview")
            group.create_task(self._rights_for_ever(), name="live-rights")
            group.create_task(self._ping_for_ever(), name="live-ping")

    def close(self) -> None:
        """End all streams, for good: the process is about to stop."""
        self._closing = True
        for viewer in self._viewers():
            viewer.close()

    def drop(self, credential: bytes) -> None:
        """End the streams of a session that ended."""
        for viewer in self._viewers():
            if viewer.principal.credential == credential:
                viewer.cut()

    def tell_alert(self, alert: UUID) -> None:
        """Tell viewers of an alert that changed, without waiting for anything."""
        self._news.add(Moved(alerts={alert}))

    def tell_case(self, case: UUID) -> None:
        """Tell those who may see it of a case that changed, without waiting for anything."""
        self._news.add(Moved(cases={case}))

    async def join(self, principal: Principal, place: Place) -> Viewer:
        """Open a stream for somebody who may see ``place``.

        Raises:
            Problem: ``stream.too_many``, or ``unavailable`` while the process stops.
        """
        mine = [viewer for viewer in self._viewers() if viewer.principal.name == principal.name]
        if len(mine) >= STREAMS_MAX:
            raise Problem("stream.too_many", headers={"Retry-After": "30"})
        channel = await self._channel(principal, place)
        if self._closing:
            raise Problem("unavailable", headers={"Retry-After": "5"})
        viewer = Viewer(principal, channel, self._metrics)
        channel.viewers.add(viewer)
        channel.empty_since = None
        self._metrics.streams.inc()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a stream that ended."""
        channel = viewer.channel
        if viewer in channel.viewers:
            channel.viewers.remove(viewer)
            self._metrics.streams.dec()
            if not channel.viewers:
                channel.empty_since = asyncio.get_running_loop().time()

    async def begin(self, viewer: Viewer, last_event_id: str | None) -> list[bytes]:
        """Return what a stream begins with: what was missed, or else a snapshot.

        The viewer has joined, so whatever changes meanwhile comes after it; told twice does no
        harm, for every item carries its version or its time.
        """
        if last_event_id:
            missed = viewer.channel.since(last_event_id)
            if missed is not None:
                # Joined a moment ago: what is queued already is among what was missed.
                viewer.skip()
                return missed
        return await self._beginning(viewer)

    async def _beginning(self, viewer: Viewer) -> list[bytes]:
        """Return a snapshot; who comes together shares one reading, and what was told since."""
        channel, loop = viewer.channel, asyncio.get_running_loop()
        async with channel.beginning:
            if channel.snapshot is not None and loop.time() < channel.snapshot[0]:
                _, cursor, encoded = channel.snapshot
                missed = channel.since(cursor)
                if missed is not None:
                    viewer.skip()
                    return [encoded, *missed]
            cursor, encoded = await self._snapshot(viewer)
            channel.snapshot = loop.time() + SNAPSHOT_SHARED_S, cursor, encoded
            return [encoded]

    # -- channels

    def _viewers(self) -> list[Viewer]:
        return [viewer for channel in self._channels.values() for viewer in channel.viewers]

    async def _channel(self, principal: Principal, place: Place) -> Channel:
        hidden = tuple(principal.scope.hidden_rules)
        key = (place.area, hidden)
        async with self._opening:
            channel = self._channels.get(key)
            if channel is not None and channel.place.path == place.path:
                return channel
            async with self._pool.connection() as conn:
                cursor = await conn.execute(
                    "SELECT count(*) FROM device_view WHERE path <@ %s::ltree", (place.path,)
                )
                row = await cursor.fetchone()
                with_devices = row is not None and row[0] <= self._devices_max
                # What is told depends on the area and on what is hidden, not on who asked first.
                scope = Scope("property" if DURESS in hidden else "admin", place.area, place.path)
                epoch = f"{random.getrandbits(40):010x}"
                if channel is not None:  # the area was moved: whoever watches it begins anew
                    for viewer in channel.viewers:
                        viewer.cut()
                channel = Channel(place, hidden, epoch, scope, with_devices)
                self._channels[key] = channel
                await self._mirror.read(conn, [channel])
            return channel

    # -- what comes in

    def _connected(self, now: bool) -> None:
        self.is_connected = now
        self._metrics.live_connected.set(int(now))
        if now:
            # Whatever happened while nobody listened.
            self._news_missed = True
            self._read_again.set()

    def _receive(self, topic: str, payload: bytes) -> None:
        """Take in one live message; what cannot be read is counted and healed from the tables."""
        community, _, devices = topic.removeprefix(f"{topics.PREFIX}/live/").partition("/")
        try:
            message = parse_live_devices(payload) if devices else parse_live(payload)
        except PayloadError:
            self._metrics.live_messages.labels("malformed").inc()
            return
        self._metrics.live_messages.labels("read").inc()
        if not self._channels:
            return
        if isinstance(message, Live):
            self._alerts_changed(message.alerts)
        self._mirror.take(community, message)

    def _alerts_changed(self, ids: Iterable[str]) -> None:
        moved = Moved()
        for text in ids:
            try:
                moved.alerts.add(UUID(text))
            except ValueError:
                self._metrics.live_messages.labels("malformed").inc()
        self._news.add(moved)

    async def _reconcile_for_ever(self) -> None:
        is_down = False
        while True:
            try:
                async with asyncio.timeout(RECONCILE_EVERY_S):
                    await self._read_again.wait()
            except TimeoutError:
                self._news_missed = True
            self._read_again.clear()
            self._forget_unwatched()
            if not self._channels:
                self._news_missed = False  # a snapshot tells it to whoever comes
                continue
            try:
                await self._reconcile()
            except _DATABASE_ERRORS as exc:
                if not is_down:
                    log.warning("live state not read again, database not available: %s", exc)
                is_down = True
            else:
                if is_down:
                    log.info("live state read again")
                is_down = False

    async def _reconcile(self) -> None:
        late = Moved()
        async with self._pool.connection() as conn:
            healed = await self._mirror.read(conn, list(self._channels.values()))
            if self._news_missed:
                late = self._news.untold(await moved_since(conn, self._clock() - _NEWS_OVERLAP))
                self._news_missed = False
        self._metrics.live_healed.labels("device").inc(healed)
        self._metrics.live_healed.labels("alert").inc(len(late.alerts))
        self._metrics.live_healed.labels("case").inc(len(late.cases))
        self._news.add(late)

    async def _look_for_news_for_ever(self) -> None:
        while True:
            try:
                async with self._pool.connection() as conn:
                    moved = await moved_since(conn, self._clock() - _NEWS_RECENT)
                if self._channels:
                    self._news.add(self._news.untold(moved))
                else:  # whoever comes from now on has it in the snapshot
                    self._news.note(moved)
            except _DATABASE_ERRORS:
                pass  # reconciling says so, and finds what was missed
            await asyncio.sleep(NEWS_EVERY_S)

    def _forget_unwatched(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for key, channel in list(self._channels.items()):
            if channel.empty_since is not None and now_s - channel.empty_since > _LINGER_S:
                del self._channels[key]
        self._mirror.forget_unwatched()

    # -- what goes out

    async def _tell_news_for_ever(self) -> None:
        while True:
            await self._news.wanted.wait()
            moved = self._news.take()
            if not self._channels:
                continue
            try:
                await self._tell_news(moved)
            except _DATABASE_ERRORS as exc:
                # Every ten seconds the tables are asked what was not told yet.
                log.warning("alerts and cases not told yet count=%d: %s", len(moved), exc)

    async def _tell_news(self, moved: Moved) -> None:
        found: dict[Channel, list[CaseRow]] = {}
        async with self._pool.connection() as conn:
            alerts = await self._news.alerts(conn, moved.alerts, self._clock())
            cases = await self._news.cases(conn, moved)
            for channel in list(self._channels.values()) if cases else ():
                if channel.scope.sees_cases:
                    mine = [key for key, (path, _) in cases.items() if channel.covers(path)]
                    found[channel] = (
                        await read_cases(conn, channel.place.path, mine) if mine else []
                    )
        asked = {key: version for key, (_, version) in cases.items()}
        self._news.note(Versions({alert.id: version_of(alert) for _, alert in alerts}, asked))
        for channel in self._channels.values():
            mine = [alert for path, alert in alerts if channel.covers(path, alert.rule)]
            if channel in found:
                self._tell_changes(channel, Changes(mine, found[channel], asked))
            else:  # who came meanwhile has the cases in the snapshot
                self._tell_changes(channel, Changes(mine, [], {}))

    def _tell_changes(self, channel: Channel, changes: Changes) -> None:
        """Tell a channel's viewers, once a snapshot that is being read for one of them is there.

        They may have been read before what it shows, and none of them is to see less than before.
        """
        if channel.held is not None:
            channel.held.append(changes)
            return
        alerts, cases, gone = channel.note(changes)
        if alerts or cases or gone:
            self._tell(channel, alerts, cases, gone)

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(BATCH_EVERY_S)
            for channel in self._channels.values():
                if channel.devices or channel.gateways:
                    self._tell(channel)

    def _tell(
        self,
        channel: Channel,
        alerts: Iterable[Alert] = (),
        cases: Iterable[CaseRow] = (),
        cases_gone: Iterable[UUID] = (),
    ) -> None:
        delta = Delta(
            cursor=channel.next_cursor,
            at=self._clock(),
            devices=list(channel.devices.values()),
            alerts=list(alerts),
            cases=list(cases),
            cases_gone=list(cases_gone),
            gateways=list(channel.gateways.values()),
        )
        channel.devices, channel.gateways = {}, {}
        channel.overview_is_due = True
        channel.publish("delta", delta.encode())

    async def _overview_for_ever(self) -> None:
        while True:
            await asyncio.sleep(OVERVIEW_EVERY_S)
            for channel in list(self._channels.values()):
                began = asyncio.get_running_loop().time()
                if not channel.viewers or not channel.overview_is_due:
                    continue
                if began < channel.overview_not_before:
                    continue
                channel.overview_is_due = False
                try:
                    await self._tell_overview(channel)
                except _DATABASE_ERRORS as exc:
                    channel.overview_is_due = True
                    log.warning("overview not told, database not available: %s", exc)
                except Problem:  # the area was moved or removed: its viewers find out anew
                    for viewer in channel.viewers:
                        viewer.cut()
                finally:
                    ended = asyncio.get_running_loop().time()
                    channel.overview_not_before = ended + (ended - began) / OVERVIEW_SHARE

    async def _tell_overview(self, channel: Channel) -> None:
        overview = await self._read_overview(channel)
        # The moment of reading alone is no news.
        content = overview.model_dump_json(by_alias=True, exclude={"at"}).encode()
        if content != channel.overview:
            channel.overview = content
            channel.publish("overview", overview.encode())

    async def _read_overview(self, channel: Channel) -> Overview:
        async with self._pool.connection() as conn:
            place = await find_area(conn, channel.scope, channel.place.area)
            return await read_overview(conn, channel.scope, place, now=self._clock())

    async def _snapshot(self, viewer: Viewer) -> tuple[str, bytes]:
        """Return the cursor from where on this viewer is told, and what there is until then."""
        channel, now = viewer.channel, self._clock()
        cases: list[CaseRow] = []
        async with self._pool.connection() as conn:
            viewer.skip()  # it is in what is read now
            cursor, channel.held = channel.cursor, []
            try:
                alerts = await read_alerts_of(
                    conn, channel, open_only=True, count=SNAPSHOT_ALERTS_MAX, now=now
                )
                recent = await read_alerts_of(
                    conn, channel, open_only=False, count=FEED_MAX, now=now
                )
                if channel.scope.sees_cases:
                    cases = await read_open_cases(conn, channel.place.path, SNAPSHOT_CASES_MAX)
                channel.note(Changes([*alerts, *recent], cases, {}))
            finally:
                held, channel.held = channel.held, None
                for changes in held:
                    self._tell_changes(channel, changes)
        snapshot = Snapshot(
            cursor=cursor,
            at=now,
            overview=await self._read_overview(channel),
            alerts=alerts,
            cases=cases,
            feed=self._feed(channel, recent),
        )
        return cursor, event("snapshot", snapshot.encode(), cursor)

    def _feed(self, channel: Channel, alerts: list[Alert]) -> list[DeviceChange | Alert]:
        """Return the last things that happened, newest first."""
        items: list[tuple[datetime, DeviceChange | Alert]] = [
            (max(at for at in (a.last_raised_at, a.cleared_at, a.acknowledged_at) if at), a)
            for a in alerts
        ]
        if channel.with_devices:
            items += [
                (change.at, change)
                for path, change in self._mirror.changes()
                if change.at is not None and channel.covers(path)
            ]
        newest = heapq.nlargest(FEED_MAX, items, key=lambda item: item[0])
        return [item for _, item in newest]

    async def _ping_for_ever(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_S)
            ping = event("ping", json.dumps({"at": rfc3339(self._clock())}).encode())
            for viewer in self._viewers():
                viewer.put(ping)

    async def _rights_for_ever(self) -> None:
        """End the streams of those who may no longer; an open stream keeps its session in use."""
        while True:
            await asyncio.sleep(RIGHTS_EVERY_S)
            viewers = self._viewers()
            if not viewers:
                continue
            credentials = {viewer.principal.credential for viewer in viewers}
            now = self._clock()
            try:
                async with self._pool.connection() as conn:
                    rights = await people.rights(conn, credentials, now=now)
                    await people.touch(conn, list(rights), now=now)
            except _DATABASE_ERRORS as exc:
                log.warning("rights not checked, database not available: %s", exc)
                continue
            for viewer in viewers:
                who = viewer.principal
                if rights.get(who.credential) != (who.role, who.path):
                    viewer.cut()
