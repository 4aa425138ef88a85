# SPDX-License-Identifier: Apache-2.0
"""The live picture: one subscription a process, one encoding an area, one bounded queue a viewer.

The live topic is a hint, the tables are the truth: at start, after each reconnect and every ten
seconds the hub reads what it watches again, so a lost QoS 0 message heals within that time. A
batch is encoded once for all viewers of an area whose roles see the same (`Channel`); nobody's
slowness is anybody else's wait.
"""

import asyncio
import heapq
import json
import logging
import random
import ssl
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from psycopg_pool import PoolTimeout

from api import people
from api.alerts import COLUMNS, Alert, stale_before
from api.answers import Answer, Instant, Scalar, rfc3339
from api.config import BrokerAddress
from api.devices import values_of
from api.errors import Problem
from api.live_topic import LiveTopic
from api.metrics import Metrics
from api.overview import Overview, read_overview
from api.people import Principal
from api.places import Place, find_area
from api.scope import DURESS, Scope, is_within
from api.state import Clock, Connection, Pool
from edge_agent import topics
from edge_agent.messages import (
    DeviceState,
    Live,
    LiveDevice,
    LiveGateway,
    PayloadError,
    parse_live,
    parse_live_devices,
)

log = logging.getLogger(__name__)

STREAMS_MAX: Final = 10
QUEUE_MAX: Final = 256
RING_MAX: Final = 120
# While gateways send what they kept, batches are large; then fewer of them are kept.
RING_BYTES_MAX: Final = 8 * 1024 * 1024
SNAPSHOT_ALERTS_MAX: Final = 200
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
# Longer than any statement of ingest may run: an alert committed late is still found.
_ALERT_OVERLAP: Final = timedelta(seconds=60)
# Alerts also move without a message: by time, by design, by people at another process. Each second
# the last few are asked for; what was committed even later, the next reconciliation finds.
ALERTS_EVERY_S: Final = 1.0
_ALERT_RECENT: Final = timedelta(seconds=5)
# A channel nobody watches any more is kept so long, for those who come back.
_LINGER_S: Final = 120.0
_ALERTS_KNOWN_MAX: Final = 10_000

# What a reader of the database may meet and outlive: it tries again a little later.
_DATABASE_ERRORS: Final = (psycopg.OperationalError, PoolTimeout)


class DeviceChange(Answer):
    """A device's latest state, as a stream and the feed tell it."""

    device: str
    kind: str
    state: DeviceState
    at: Instant | None
    received_at: Instant | None
    values: dict[str, Scalar]
    area: str
    name: str
    name_en: str | None


class GatewayChange(Answer):
    """Whether a gateway is heard."""

    gateway: str
    silent: bool
    last_seen_at: Instant | None


class Snapshot(Answer):
    """All a screen needs to begin: ``alerts`` are those of the desk, the newest 200 at most."""

    cursor: str
    at: Instant
    overview: Overview
    alerts: list[Alert]
    feed: list[DeviceChange | Alert]


class Delta(Answer):
    """What changed since the cursor before; an alert that became quiet leaves the desk."""

    cursor: str
    at: Instant
    devices: list[DeviceChange]
    alerts: list[Alert]
    gateways: list[GatewayChange]


def event(name: str, data: bytes, cursor: str | None = None) -> bytes:
    """Return one server-sent event. An empty ``cursor`` makes the reader forget its own."""
    identity = b"" if cursor is None else b"id: " + cursor.encode() + b"\n"
    return b"event: " + name.encode() + b"\n" + identity + b"data: " + data + b"\n\n"


# An empty id: who reconnects by itself then begins with a snapshot.
RESET: Final = event("reset", b"{}", "")


class Viewer:
    """One open stream: its queue is bounded, and whoever cannot keep up begins anew."""

    def __init__(self, principal: Principal, channel: "Channel", metrics: Metrics) -> None:
        """Open the queue."""
        self.principal = principal
        self.channel = channel
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._metrics = metrics
        self._closed = False

    def put(self, item: bytes) -> None:
        """Queue an event; a full queue becomes one ``reset``, and the stream ends."""
        if self._closed:
            return
        if self.queue.qsize() >= QUEUE_MAX:
            self._metrics.stream_resets.inc()
            self._drain()
            self.queue.put_nowait(RESET)
            self.close()
            return
        self.queue.put_nowait(item)

    def close(self) -> None:
        """Let the stream end after what is queued."""
        if not self._closed:
            self._closed = True
            self.queue.put_nowait(None)

    def skip(self) -> None:
        """Drop what is queued: it is told in another way. A stream that is to end still ends."""
        if not self._closed:
            self._drain()

    def cut(self) -> None:
        """Let the stream end at once: nothing more may be told."""
        self._drain()
        self.close()

    def _drain(self) -> None:
        while not self.queue.empty():
            self.queue.get_nowait()


@dataclass(eq=False, slots=True)
class Channel:
    """All viewers of one area whose roles see the same, and the last batches they were told."""

    place: Place
    hidden_rules: tuple[str, ...]
    epoch: str
    scope: Scope
    with_devices: bool
    sequence: int = 0
    ring: deque[tuple[int, bytes]] = field(default_factory=deque[tuple[int, bytes]])
    ring_bytes: int = 0
    viewers: set[Viewer] = field(default_factory=set[Viewer])
    devices: dict[str, DeviceChange] = field(default_factory=dict[str, DeviceChange])
    gateways: dict[str, GatewayChange] = field(default_factory=dict[str, GatewayChange])
    snapshot: tuple[float, str, bytes] | None = None  # shared until, cursor, encoded
    beginning: asyncio.Lock = field(default_factory=asyncio.Lock)
    overview: bytes = b""
    overview_is_due: bool = False
    overview_not_before: float = 0.0  # the loop's time
    empty_since: float | None = None

    @property
    def cursor(self) -> str:
        """Where the channel is."""
        return f"{self.epoch}-{self.sequence}"

    def covers(self, path: str, rule: str | None = None) -> bool:
        """Whether something at ``path``, or an alert of ``rule`` there, is told here."""
        return rule not in self.hidden_rules and is_within(path, self.place.path)

    def publish(self, name: str, data: bytes) -> None:
        """Tell all viewers, and keep it for those who come back; data holds `next_cursor`."""
        self.sequence += 1
        encoded = event(name, data, self.cursor)
        self.ring.append((self.sequence, encoded))
        self.ring_bytes += len(encoded)
        while len(self.ring) > RING_MAX or self.ring_bytes > RING_BYTES_MAX:
            self.ring_bytes -= len(self.ring.popleft()[1])
        for viewer in self.viewers:
            viewer.put(encoded)

    @property
    def next_cursor(self) -> str:
        """The cursor of the batch to be published next."""
        return f"{self.epoch}-{self.sequence + 1}"

    def since(self, cursor: str) -> list[bytes] | None:
        """Return what was told after ``cursor``, None where that is not known."""
        epoch, _, number = cursor.rpartition("-")
        if epoch != self.epoch or not number.isascii() or not number.isdigit() or len(number) > 15:
            return None
        seen = int(number)
        oldest = self.ring[0][0] if self.ring else self.sequence + 1
        if not oldest - 1 <= seen <= self.sequence:
            return None
        return [encoded for sequence, encoded in self.ring if sequence > seen]


@dataclass(slots=True)
class _Known:
    """A device of a watched community: where it is, and what was told of it last."""

    path: str
    change: DeviceChange


@dataclass(slots=True)
class _Community:
    """The mirror of one community: latest wins."""

    path: str
    devices: dict[str, _Known] = field(default_factory=dict[str, _Known])
    gateways: dict[str, GatewayChange] = field(default_factory=dict[str, GatewayChange])


class Hub:
    """Turns live messages and re-read tables into what viewers are told."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        metrics: Metrics,
        broker: BrokerAddress,
        tls: ssl.SSLContext,
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
        self._communities: dict[str, _Community] = {}
        self._alerts_told: OrderedDict[UUID, int] = OrderedDict()
        self._alert_ids: set[UUID] = set()
        self._alerts_wanted = asyncio.Event()
        self._read_again = asyncio.Event()
        self._alerts_missed = False
        self._topic = LiveTopic(broker, tls, self._receive, self._connected, self._read_again.set)
        self._closing = False
        self.is_connected = False

    # -- what others call

    async def run(self) -> None:
        """Run for ever; an error that is no outage ends it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._topic.run(), name="live-topic")
            group.create_task(self._reconcile_for_ever(), name="live-reconcile")
            group.create_task(self._tell_alerts_for_ever(), name="live-alerts")
            group.create_task(self._look_for_alerts_for_ever(), name="live-alerts-moved")
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
        self._alert_ids.add(alert)
        self._alerts_wanted.set()

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
            cursor = channel.cursor
            encoded = await self._snapshot(channel)
            channel.snapshot = loop.time() + SNAPSHOT_SHARED_S, cursor, encoded
            return [encoded]

    # -- channels and the mirror

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
                await self._read_communities(conn, [channel])
            return channel

    async def _read_communities(self, conn: Connection, channels: Iterable[Channel]) -> int:
        """Bring the mirror up to the tables; returns how many changes nobody had told."""
        paths = [channel.place.path for channel in channels if channel.with_devices]
        found: dict[str, _Community] = {}
        healed = 0
        cursor = await conn.execute(
            """
            SELECT d.community, d.community_path::text, d.path::text, d.device, d.kind, d.state,
                   d.at, d.received_at, d.reading::text, d.area, d.name, d.name_en
            FROM device_view AS d
            WHERE d.community IN (
                SELECT o.area FROM area AS o
                WHERE o.path <@ ANY (%(paths)s::ltree[]) OR o.path @> ANY (%(paths)s::ltree[]))
              AND d.life IN ('in_service', 'maintenance')
            """,
            {"paths": paths},
        )
        async for community, community_path, path, *rest in cursor:
            mirror = found.setdefault(community, _Community(community_path))
            known = self._communities.get(community)
            before = known.devices.get(rest[0]) if known is not None else None
            is_news, entry = _compare(before, path, rest)
            mirror.devices[rest[0]] = entry
            # Of a community whose devices nobody watched until now, nothing was missed.
            if is_news and known is not None and known.devices:
                healed += 1
                self._device_changed(entry)
        cursor = await conn.execute(
            """
            SELECT g.community, a.path::text, g.gateway, g.silent, g.last_seen_at
            FROM gateway AS g
            JOIN area AS a ON a.area = g.community
            WHERE a.path <@ ANY (%(paths)s::ltree[]) OR a.path @> ANY (%(paths)s::ltree[])
            """,
            {"paths": [channel.place.path for channel in channels]},
        )
        async for community, community_path, gateway, silent, last_seen_at in cursor:
            mirror = found.setdefault(community, _Community(community_path))
            known = self._communities.get(community)
            before_gateway = known.gateways.get(gateway) if known is not None else None
            change = GatewayChange(gateway=gateway, silent=silent, last_seen_at=last_seen_at)
            if before_gateway is not None and _is_older(last_seen_at, before_gateway.last_seen_at):
                change = before_gateway
            mirror.gateways[gateway] = change
            if known is not None and change != before_gateway:
                self._gateway_changed(community_path, change)
        self._communities.update(found)
        self._watch()
        return healed

    def _device_changed(self, known: _Known) -> None:
        for channel in self._channels.values():
            if channel.with_devices and channel.covers(known.path):
                channel.devices[known.change.device] = known.change

    def _gateway_changed(self, community_path: str, change: GatewayChange) -> None:
        for channel in self._channels.values():
            if channel.covers(community_path):
                channel.gateways[change.gateway] = change

    # -- what comes in

    def _connected(self, now: bool) -> None:
        self.is_connected = now
        self._metrics.live_connected.set(int(now))
        if now:
            # Whatever happened while nobody listened.
            self._alerts_missed = True
            self._read_again.set()

    def _watch(self) -> None:
        """Hear the devices of the communities that are mirrored."""
        self._topic.watch([name for name, mirror in self._communities.items() if mirror.devices])

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
        mirror = self._communities.get(community)
        if isinstance(message, Live):
            self._alerts_changed(message.alerts)
            if mirror is not None:
                self._gateways_told(mirror, message.gateways)
        if mirror is not None:
            self._devices_told(mirror, message.devices)

    def _alerts_changed(self, ids: Iterable[str]) -> None:
        for text in ids:
            try:
                self._alert_ids.add(UUID(text))
            except ValueError:
                self._metrics.live_messages.labels("malformed").inc()
        if self._alert_ids:
            self._alerts_wanted.set()

    def _devices_told(self, mirror: _Community, devices: Iterable[LiveDevice]) -> None:
        for device in devices:
            known = mirror.devices.get(device.device)
            if known is None:
                continue  # registered a moment ago; the next reading of the tables finds it
            before = known.change
            if _is_older(device.at, before.at):
                continue
            change = before.model_copy(
                update={
                    "state": device.state,
                    "at": device.at,
                    "received_at": device.received_at,
                    "values": values_of(device.kind, device.values),
                }
            )
            if change != before:
                known.change = change
                self._device_changed(known)

    def _gateways_told(self, mirror: _Community, gateways: Iterable[LiveGateway]) -> None:
        for gateway in gateways:
            told = GatewayChange(
                gateway=gateway.gateway, silent=gateway.silent, last_seen_at=gateway.last_seen_at
            )
            if mirror.gateways.get(gateway.gateway) != told:
                mirror.gateways[gateway.gateway] = told
                self._gateway_changed(mirror.path, told)

    async def _reconcile_for_ever(self) -> None:
        is_down = False
        while True:
            try:
                async with asyncio.timeout(RECONCILE_EVERY_S):
                    await self._read_again.wait()
            except TimeoutError:
                self._alerts_missed = True
            self._read_again.clear()
            self._forget_unwatched()
            if not self._channels:
                self._alerts_missed = False  # a snapshot tells them to whoever comes
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
        late: set[UUID] = set()
        async with self._pool.connection() as conn:
            healed = await self._read_communities(conn, list(self._channels.values()))
            if self._alerts_missed:
                late = set(await self._untold(conn, self._clock() - _ALERT_OVERLAP))
                self._alerts_missed = False
        self._metrics.live_healed.labels("device").inc(healed)
        self._metrics.live_healed.labels("alert").inc(len(late))
        if late:
            self._alert_ids |= late
            self._alerts_wanted.set()

    async def _untold(self, conn: Connection, since: datetime) -> dict[UUID, int]:
        """Return the alerts that changed since then and of which nobody was told yet."""
        cursor = await conn.execute("SELECT id, version FROM alert WHERE changed_at > %s", (since,))
        return {
            alert: version
            async for alert, version in cursor
            if self._alerts_told.get(alert) != version
        }

    async def _look_for_alerts_for_ever(self) -> None:
        while True:
            is_watched = bool(self._channels)
            try:
                async with self._pool.connection() as conn:
                    moved = await self._untold(conn, self._clock() - _ALERT_RECENT)
            except _DATABASE_ERRORS:
                moved = {}  # reconciling says so, and finds what was missed
            if not is_watched:
                # Whoever comes from now on has them in the snapshot.
                self._alerts_told.update(moved)
                self._forget_told()
            elif moved:
                self._alert_ids |= moved.keys()
                self._alerts_wanted.set()
            await asyncio.sleep(ALERTS_EVERY_S)

    def _forget_told(self) -> None:
        while len(self._alerts_told) > _ALERTS_KNOWN_MAX:
            self._alerts_told.popitem(last=False)

    def _forget_unwatched(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for key, channel in list(self._channels.items()):
            if channel.empty_since is not None and now_s - channel.empty_since > _LINGER_S:
                del self._channels[key]
        if not self._channels:
            self._communities.clear()
        shown = [channel for channel in self._channels.values() if channel.with_devices]
        for mirror in self._communities.values():
            if not any(
                channel.covers(mirror.path) or is_within(channel.place.path, mirror.path)
                for channel in shown
            ):
                mirror.devices.clear()
        self._watch()

    # -- what goes out

    async def _tell_alerts_for_ever(self) -> None:
        while True:
            await self._alerts_wanted.wait()
            self._alerts_wanted.clear()
            wanted, self._alert_ids = self._alert_ids, set()
            if not self._channels:
                continue
            try:
                await self._tell_alerts(wanted)
            except _DATABASE_ERRORS as exc:
                # Every ten seconds the tables are asked what was not told yet.
                log.warning("alerts not told yet count=%d: %s", len(wanted), exc)

    async def _tell_alerts(self, wanted: set[UUID]) -> None:
        async with self._pool.connection() as conn:
            cursor = await conn.execute(
                "SELECT id, path::text FROM alert_view WHERE id = ANY (%s)", (list(wanted),)
            )
            paths: dict[UUID, str] = {alert: path async for alert, path in cursor}
            alerts = await _read_alerts(conn, list(paths), now=self._clock())
        news: list[tuple[str, Alert]] = []
        for alert in alerts:
            if self._alerts_told.get(alert.id, 0) >= alert.version:
                continue
            self._alerts_told[alert.id] = alert.version
            self._alerts_told.move_to_end(alert.id)
            news.append((paths[alert.id], alert))
        self._forget_told()
        for channel in self._channels.values():
            mine = [alert for path, alert in news if channel.covers(path, alert.rule)]
            if mine:
                self._tell(channel, mine)

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(BATCH_EVERY_S)
            for channel in self._channels.values():
                if channel.devices or channel.gateways:
                    self._tell(channel)

    def _tell(self, channel: Channel, alerts: Iterable[Alert] = ()) -> None:
        delta = Delta(
            cursor=channel.next_cursor,
            at=self._clock(),
            devices=list(channel.devices.values()),
            alerts=list(alerts),
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

    async def _snapshot(self, channel: Channel) -> bytes:
        cursor, now = channel.cursor, self._clock()
        overview = await self._read_overview(channel)
        async with self._pool.connection() as conn:
            alerts = await _read_alerts_of(
                conn, channel, open_only=True, count=SNAPSHOT_ALERTS_MAX, now=now
            )
            recent = await _read_alerts_of(conn, channel, open_only=False, count=FEED_MAX, now=now)
        snapshot = Snapshot(
            cursor=cursor,
            at=now,
            overview=overview,
            alerts=alerts,
            feed=self._feed(channel, recent),
        )
        return event("snapshot", snapshot.encode(), cursor)

    def _feed(self, channel: Channel, alerts: list[Alert]) -> list[DeviceChange | Alert]:
        """Return the last things that happened, newest first."""
        items: list[tuple[datetime, DeviceChange | Alert]] = [
            (max(at for at in (a.last_raised_at, a.cleared_at, a.acknowledged_at) if at), a)
            for a in alerts
        ]
        if channel.with_devices:
            items += [
                (known.change.at, known.change)
                for mirror in self._communities.values()
                for known in mirror.devices.values()
                if known.change.at is not None and channel.covers(known.path)
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


def _is_older(at: datetime | None, than: datetime | None) -> bool:
    return than is not None and (at is None or at < than)


def _compare(before: _Known | None, path: str, row: list[Any]) -> tuple[bool, _Known]:
    """Return whether a device's row is news, and what is known from now on.

    Any: the row's columns differ in type. The reading is parsed only where something changed.
    """
    device, kind, state, at, received_at, reading, area, name, name_en = row
    if before is not None:
        old = before.change
        same_place = before.path == path and (old.name, old.name_en) == (name, name_en)
        if same_place and (_is_older(at, old.at) or (old.state, old.at) == (state, at)):
            return False, before
    values: Mapping[str, Scalar] = json.loads(reading) if reading else {}
    change = DeviceChange(
        device=device,
        kind=kind,
        state=state,
        at=at,
        received_at=received_at,
        values=values_of(kind, values),
        area=area,
        name=name,
        name_en=name_en,
    )
    return before is not None, _Known(path, change)


async def _read_alerts(conn: Connection, ids: list[UUID], *, now: datetime) -> list[Alert]:
    """Return alerts by id; who may be told of them is decided channel by channel."""
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            sql.SQL("SELECT {} FROM alert_view AS t WHERE t.id = ANY (%(ids)s)").format(COLUMNS),
            {"ids": ids, "stale": stale_before(now)},
        )
        return await cursor.fetchall()


async def _read_alerts_of(
    conn: Connection, channel: Channel, *, open_only: bool, count: int, now: datetime
) -> list[Alert]:
    """Return the newest alerts of a channel: the open ones, or those that changed last.

    What is quiet is neither: it is kept from the desk.
    """
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            sql.SQL(
                """
                SELECT {columns}
                FROM alert_view AS t
                WHERE t.path <@ %(scope)s::ltree  -- invariant 9
                  AND NOT t.rule = ANY (%(hidden)s)
                  AND NOT t.quiet
                  AND (NOT %(open_only)s OR t.active OR t.latched OR NOT t.acknowledged)
                ORDER BY CASE WHEN %(open_only)s THEN t.raised_at ELSE t.changed_at END DESC,
                         t.id DESC
                LIMIT %(count)s
                """
            ).format(columns=COLUMNS),
            {
                "scope": channel.scope.path,
                "hidden": list(channel.hidden_rules),
                "open_only": open_only,
                "count": count,
                "stale": stale_before(now),
            },
        )
        return await cursor.fetchall()
