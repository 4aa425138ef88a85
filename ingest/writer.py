# SPDX-License-Identifier: Apache-2.0
"""The one transaction of a flush, and the loop around it; one per lane.

Take what arrived, judge it, and in one transaction: lock the streams, drop what is stored already,
store the rest with everything that follows from it, add the seqs, COMMIT. Only then PUBACK, then
the watermark (invariant 2). What cannot be stored now is tried again unchanged; what can never be
stored is bisected down to the culprit, which becomes a dead letter.
"""

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict, Unpack

import psycopg

from edge_agent.messages import Lane, Rejection
from ingest import metrics
from ingest.consumer import Consumer
from ingest.downlink import Downlink
from ingest.errors import Rejected, Unavailable
from ingest.judge import Judge, Judged, Limits, Received
from ingest.presence import Presence
from ingest.projection import Projection
from ingest.rules import RuleBook
from ingest.store import alerts, connect, dead_letters, devices, driver_errors, streams
from ingest.store.streams import Numbered, StreamKey

log = logging.getLogger(__name__)

_IDLE_S: Final = 0.2
_RETRY_DELAY_MIN_S: Final = 0.2
_RETRY_DELAY_MAX_S: Final = 10.0
_REGISTRY_INTERVAL: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """How much one flush gathers, whichever comes first."""

    linger_s: float
    messages: int
    payload_bytes: int


@dataclass(slots=True)
class Stored:
    """What a committed flush has to tell."""

    watermarks: Mapping[StreamKey, int]
    rejections: defaultdict[str, list[Rejection]] = field(
        default_factory=lambda: defaultdict[str, list[Rejection]](list)
    )


class Common(TypedDict):
    """What every lane is made of."""

    dsn: str
    consumer: Consumer
    rules: RuleBook
    limits: Limits
    flush: FlushLimits
    presence: Presence


class Writer(ABC):
    """One lane's thread: it owns the database connection and the lane's memory."""

    lane: Lane

    def __init__(self, **common: Unpack[Common]) -> None:
        """Prepare; `run` does everything, in the thread that calls it."""
        self._dsn = common["dsn"]
        self.consumer = common["consumer"]
        self.rules = common["rules"]
        self.presence = common["presence"]
        self._limits = common["limits"]
        self._flush_limits = common["flush"]
        # Streams of the flush in hand: their watermarks are told even if nothing was new.
        self._heard: set[int] = set()
        self._flush_ids: dict[StreamKey, int] = {}
        self._stopping = threading.Event()
        # Open while the database answers.
        self.connection: psycopg.Connection | None = None
        self._stream_ids: dict[StreamKey, int] = {}
        self._registry_checked_at = datetime.min.replace(tzinfo=UTC)
        self.registry = devices.Registry(0)
        self._judge = Judge(self.registry, self._limits)
        self.projection = Projection(self.rules, self.registry)
        self._downlink: Downlink | None = None
        self.healthy_since: datetime | None = None

    @property
    def downlink(self) -> Downlink:
        """What is told after COMMIT; there is one as soon as the database was reached."""
        assert self._downlink is not None
        return self._downlink

    @property
    def listening_since(self) -> datetime | None:
        """Since when this lane hears and stores without a break; None while it does not."""
        connected_since = self.consumer.connected_since
        if connected_since is None or self.healthy_since is None:
            return None
        return max(connected_since, self.healthy_since)

    def stop(self) -> None:
        """Let `run` return after the flush in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Store what arrives until `stop`; an unexpected error ends the thread."""
        while not self._stopping.is_set():
            taken = (
                self.consumer.collect(
                    idle_s=_IDLE_S,
                    linger_s=self._flush_limits.linger_s,
                    messages=self._flush_limits.messages,
                    payload_bytes=self._flush_limits.payload_bytes,
                )
                if self.connection is not None
                else []
            )
            metrics.QUEUE.labels(self.lane).set(len(self.consumer))
            metrics.SESSIONS_LOST.labels(self.lane).set(self.consumer.sessions_lost)
            self.persist(taken)
        self.close()

    def close(self) -> None:
        """Give the connection back; `persist` would open another."""
        self._forget_connection()

    def persist(self, taken: Sequence[Received]) -> None:
        """Store a flush and do what is due, however often the database has to be asked."""
        delay_s = _RETRY_DELAY_MIN_S
        while True:
            try:
                conn = self._connection()
                if taken:
                    self._store(conn, taken)
                    taken = ()
                with driver_errors():
                    self._tick(conn, datetime.now(UTC))
            except Unavailable as error:
                if self.healthy_since is not None:
                    log.warning("database lost, retrying lane=%s error=%s", self.lane, error)
                self._forget_connection()
                metrics.RETRIES.labels(self.lane).inc()
                # Full jitter, so that two lanes do not knock together.
                if self._stopping.wait(random.uniform(0, delay_s)):  # noqa: S311 - no secret
                    return
                delay_s = min(2 * delay_s, _RETRY_DELAY_MAX_S)
            else:
                return

    def _connection(self) -> psycopg.Connection:
        """Return the connection, made anew with the memory that belongs to it after a loss."""
        if self.connection is None:
            conn = connect(self._dsn, self.lane)
            with driver_errors():
                self.connection = conn
                self._restore(conn)
            self.healthy_since = datetime.now(UTC)
            log.info("database connected lane=%s", self.lane)
        return self.connection

    def _forget_connection(self) -> None:
        self.healthy_since = None
        self._stream_ids.clear()
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _restore(self, conn: psycopg.Connection) -> None:
        """Read the memory back: whether a lost COMMIT took is known only to the tables."""
        self._take_registry(devices.load_registry(conn))
        self.projection.restore(
            self.registry,
            devices.load_states(conn),
            alerts.load_standing(conn),
            alerts.load_pending(conn),
        )
        if self._downlink is None:
            row = conn.execute("SELECT epoch FROM installation").fetchone()
            assert row is not None
            self._downlink = Downlink(self.consumer, row[0])

    def _take_registry(self, registry: devices.Registry) -> None:
        self.registry = registry
        self._judge = Judge(registry, self._limits)

    def _tick(self, conn: psycopg.Connection, now: datetime) -> None:
        if now - self._registry_checked_at >= _REGISTRY_INTERVAL:
            self._registry_checked_at = now
            self._reload_registry(conn)
        self.tick(conn, now)
        self.downlink.tell()

    def _reload_registry(self, conn: psycopg.Connection) -> bool:
        """Read the registry where it changed; return whether it did."""
        with driver_errors():
            if devices.registry_revision(conn) == self.registry.revision:
                return False
            self._take_registry(devices.load_registry(conn))
        self.projection.reload_registry(self.registry)
        log.info(
            "registry loaded lane=%s revision=%d devices=%d",
            self.lane,
            self.registry.revision,
            len(self.registry.devices),
        )
        return True

    def _store(self, conn: psycopg.Connection, taken: Sequence[Received]) -> None:
        """Store a flush; bisect it when the database says that some of it can never be stored."""
        started = time.monotonic()
        judged = [self._judge.judge(message) for message in taken]
        if any(item.is_stranger for item in judged) and self._reload_registry(conn):
            judged = [self._judge.judge(message) for message in taken]
        try:
            stored = self._transact(conn, judged)
        except Rejected as error:
            if len(taken) > 1:
                middle = len(taken) // 2
                self._store(conn, taken[:middle])
                self._store(conn, taken[middle:])
                return
            culprit = judged[0]
            culprit.readings.clear()
            culprit.event = culprit.status = None
            culprit.refuse(error.reason, error.detail)
            stored = self._transact(conn, judged)
        metrics.FLUSHES.labels(self.lane).observe(time.monotonic() - started)
        self.consumer.acknowledge(taken)
        self.downlink.acknowledge(stored.watermarks, stored.rejections)

    def _transact(self, conn: psycopg.Connection, judged: Sequence[Judged]) -> Stored:
        now = datetime.now(UTC)
        self.presence.heard(
            (item.gateway, item.message.received_at)
            for item in judged
            if item.gateway is not None
            and item.gateway in self.registry.gateways
            and not item.message.retain
            and not (item.status is not None and item.status.state == "offline")
        )
        try:
            with driver_errors(), conn.transaction():
                numbered, fresh = self._pick_new(conn, judged)
                letters = [letter for item in fresh for letter in item.letters]
                if letters:
                    dead_letters.insert(conn, letters)
                self.store(conn, fresh, now)
                if numbered:
                    streams.add(conn, numbered)
                watermarks = dict(
                    streams.watermarks(conn, sorted({n.stream_id for n in numbered} | self._heard))
                )
                watermarks.update(self.asked_watermarks(conn, judged))
        except (Rejected, Unavailable):
            self.projection.rollback()
            raise
        self._stream_ids = self._flush_ids  # known from now on: they are committed
        self.committed(judged, fresh)
        self._count(judged, fresh, letters)
        stored = Stored(watermarks)
        for item in fresh:
            if item.gateway is not None and item.rejections:
                stored.rejections[item.gateway].extend(item.rejections)
        return stored

    def _pick_new(
        self, conn: psycopg.Connection, judged: Sequence[Judged]
    ) -> tuple[list[Numbered], list[Judged]]:
        """Return the numbers and messages not stored before, the first of equal ones."""
        keys: dict[tuple[str, str, int], int] = {}
        unnumbered: list[int] = []
        for index, item in enumerate(judged):
            if item.gateway is None or item.stream is None or item.seq is None:
                unnumbered.append(index)
            elif item.gateway in self.registry.gateways:
                keys.setdefault((item.gateway, item.stream, item.seq), index)
            else:
                unnumbered.append(index)
        wanted = {(gateway, stream) for gateway, stream, _ in keys}
        unknown = sorted(wanted - self._stream_ids.keys())
        ids = dict(self._stream_ids)
        if unknown:
            ids.update(streams.ensure(conn, self.lane, unknown))
        numbered = [
            Numbered(index, ids[gateway, stream], seq)
            for (gateway, stream, seq), index in keys.items()
        ]
        self._heard = {ids[key] for key in wanted}
        self._flush_ids = ids
        new = streams.lock_and_pick_new(conn, numbered) if numbered else set[int]()
        fresh = [judged[index] for index in sorted([*new, *unnumbered])]
        return [number for number in numbered if number.index in new], fresh

    def _count(
        self,
        judged: Sequence[Judged],
        fresh: Sequence[Judged],
        letters: Sequence[dead_letters.DeadLetter],
    ) -> None:
        metrics.MESSAGES.labels(self.lane, "stored").inc(len(fresh))
        metrics.MESSAGES.labels(self.lane, "duplicate").inc(len(judged) - len(fresh))
        for letter in letters:
            metrics.DEAD_LETTERS.labels(letter.reason).inc()
            log.warning(
                "refused gateway=%s reason=%s detail=%s",
                letter.gateway,
                letter.reason,
                letter.detail,
            )

    @abstractmethod
    def store(self, conn: psycopg.Connection, fresh: Sequence[Judged], now: datetime) -> None:
        """Store new messages and all that follows from them, within the transaction."""

    @abstractmethod
    def committed(self, judged: Sequence[Judged], fresh: Sequence[Judged]) -> None:
        """Make what was staged in memory the present."""

    def asked_watermarks(
        self, conn: psycopg.Connection, judged: Sequence[Judged]
    ) -> Mapping[StreamKey, int]:
        """Return watermarks that messages ask for beside those of their own streams."""
        del conn, judged
        return {}

    @abstractmethod
    def tick(self, conn: psycopg.Connection, now: datetime) -> None:
        """Do what time alone makes due; called several times a second."""
