# SPDX-License-Identifier: Apache-2.0
"""The one transaction of a flush, and the loop around it; one per lane.

Take what arrived, judge it, and in one transaction: lock the streams, drop what is stored already,
store the rest with everything that follows from it, add the seqs, COMMIT. Only then PUBACK, then
the watermark (invariant 2). What cannot be stored now is tried again unchanged; what can never be
stored is bisected down to the culprit, which becomes a dead letter.
"""

import contextlib
import gc
import logging
import os
import random
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict, Unpack
from uuid import UUID

import psycopg

from edge_agent.messages import AnyLane, Rejection
from edge_agent.topics import partition
from ingest import failpoints, metrics
from ingest.alerts import Clear, Decision, Raise
from ingest.consumer import Consumer
from ingest.downlink import Downlink
from ingest.errors import Busy, Rejected, Unavailable
from ingest.judge import Judge, Judged, Limits, Received
from ingest.kinds import DEVICE_REFUSED, GATEWAY_REFUSED
from ingest.numbering import Numbering
from ingest.partitions import ALL, Partitions, member_row, show
from ingest.presence import LANES, Listening, Presence
from ingest.projection import Projection
from ingest.refusals import Refusals
from ingest.rule_memory import subject_of
from ingest.rule_reload import RuleFollower
from ingest.rules import RuleBook
from ingest.store import (
    Course,
    alerts,
    attempts,
    claim,
    connect,
    course,
    dead_letters,
    devices,
    driver_errors,
    partitions,
    rules,
    streams,
)
from ingest.store.alerts import Subject
from ingest.store.devices import State
from ingest.store.rules import MemoryKey
from ingest.store.streams import Mark, StreamKey

log = logging.getLogger(__name__)

_IDLE_S: Final = 0.2
_RETRY_DELAY_MIN_S: Final = 0.2
# Half of what the promise allows: flow is back within ten seconds of the database.
_RETRY_DELAY_MAX_S: Final = 5.0
# How often a flush is tried again at once that others were in the way of.
_BUSY_MAX: Final = 3
# A database call that takes longer hangs on a half-open connection, which nothing else ends:
# statement_timeout is the server's, and the server is what cannot be heard.
_STUCK_S: Final = 12.0
_REGISTRY_INTERVAL: Final = timedelta(seconds=2)
_REPLAY_INTERVAL: Final = timedelta(seconds=1)
_REPLAYED_AT_ONCE: Final = 100
_OWNERS_INTERVAL: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """How much one flush gathers, whichever comes first."""

    linger_s: float
    messages: int
    payload_bytes: int


@dataclass(slots=True)
class Stored:
    """What a committed flush has to tell."""

    watermarks: Mapping[StreamKey, Mark]
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

    lane: AnyLane

    def __init__(self, **common: Unpack[Common]) -> None:
        """Prepare; `run` does everything, in the thread that calls it."""
        self._dsn = common["dsn"]
        self.consumer = common["consumer"]
        self.rules = common["rules"]
        self.presence = common["presence"]
        self._limits = common["limits"]
        self._flush_limits = common["flush"]
        self._numbering = Numbering(self.lane)
        self._stopping = threading.Event()
        # Open while the database answers.
        self.connection: psycopg.Connection | None = None
        self._registry_checked_at = datetime.min.replace(tzinfo=UTC)
        self._replayed_at = self._owners_checked_at = self._registry_checked_at
        self.registry = devices.Registry(0)
        self._judge = Judge(self.registry, self._limits)
        self.projection = Projection(self.rules, self.registry, self.lane, self.presence)
        self._downlink: Downlink | None = None
        self._course: Course | None = None
        self.healthy_since: datetime | None = None
        self._told = ""  # the trouble that was logged: once when it begins, not each time
        self._refusals: Refusals[Subject] = Refusals()
        self._changed_alerts: list[tuple[str, UUID]] = []
        # After a process that did not end in order, what is redelivered is taken one by one.
        self._suspicious: bool | None = None
        self._begun: set[bytes] = set()  # by this process
        # For the watchdog, monotonic: when the loop last came round, and since when the database
        # has been asked without an answer.
        self.turned_at = time.monotonic()
        self.asking_since: float | None = None
        # Monotonic: since when what we are to write is held by others, and by whom.
        self.refused_since: float | None = None
        self.refused_by = ""
        # By lane, what nobody wrote at the last look: told from the second look on.
        self._unowned: dict[AnyLane, Partitions] = {}
        # Attempts are counted by each member for itself.
        self.member = member_row(self.lane, self.consumer.identity)
        self._follower = RuleFollower(self.rules, self.lane, self.member)

    @property
    def own_gateways(self) -> list[str] | None:
        """The gateways of our partitions; None where these are all."""
        return None if self.consumer.partitions == ALL else list(self.registry.gateways)

    @property
    def downlink(self) -> Downlink:
        """What is told after COMMIT; there is one as soon as the database was reached."""
        assert self._downlink is not None
        return self._downlink

    @property
    def listening(self) -> Listening | None:
        """When this lane heard and stored without a break; None while it does not."""
        heard = self.consumer.hearing.listening
        if heard is None or self.healthy_since is None:
            return None
        return heard.after(self.healthy_since)

    @property
    def is_busy(self) -> bool:
        """Whether `tick` has more to do, and is not to wait for messages."""
        return False

    def stop(self) -> None:
        """Let `run` return after the flush in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Store what arrives until `stop`; an unexpected error ends the thread."""
        while not self._stopping.is_set():
            taken = (
                self.consumer.collect(
                    idle_s=0.0 if self.is_busy else _IDLE_S,
                    linger_s=self._flush_limits.linger_s,
                    messages=self._flush_limits.messages,
                    payload_bytes=self._flush_limits.payload_bytes,
                )
                if self.connection is not None
                else []
            )
            if taken:
                # Whatever comes round proves that broker, thread and queue move, as a probe does;
                # behind a long backlog no probe comes for minutes.
                self.consumer.probed_at = time.monotonic()
            metrics.QUEUE.labels(self.lane).set(len(self.consumer))
            metrics.SESSIONS_LOST.labels(self.lane).set(self.consumer.sessions_lost)
            self.persist(
                self._own([message for message in taken if not self.consumer.is_probe(message)])
            )
            if self.connection is not None:
                self.consumer.start()
        if self.connection is not None and self._suspicious is not None:
            with contextlib.suppress(Unavailable), driver_errors():
                attempts.end(self.connection, self.member)
                self.finish(self.connection)
        self.close()

    def _own(self, taken: Sequence[Received]) -> Sequence[Received]:
        """Return the messages of our partitions, and give the others back."""
        foreign = [message for message in taken if self.consumer.is_foreign(message)]
        if not foreign:
            return taken
        self.consumer.acknowledge(foreign)
        metrics.MESSAGES.labels(self.lane, "foreign").inc(len(foreign))
        return [message for message in taken if not self.consumer.is_foreign(message)]

    def abort_if_stuck(self, now: float) -> None:
        """Cut the database connection when it hangs; for another thread to call.

        Args:
            now: Of the monotonic clock.
        """
        since, connection = self.asking_since, self.connection
        if since is None or connection is None or now - since < _STUCK_S:
            return
        log.error("database hangs, cutting the connection lane=%s", self.lane)
        with contextlib.suppress(OSError, psycopg.Error):
            # A duplicate: closing it must not close what the driver still holds.
            with socket.socket(fileno=os.dup(connection.fileno())) as half:
                half.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection back; `persist` would open another."""
        self._forget_connection()

    def persist(self, taken: Sequence[Received]) -> None:
        """Store a flush and do what is due, however often the database has to be asked."""
        delay_s = _RETRY_DELAY_MIN_S
        while True:
            self.turned_at = time.monotonic()
            try:
                conn = self._connection()
                self.asking_since = time.monotonic()
                if taken:
                    self._take(conn, taken)
                    taken = ()
                with driver_errors():
                    self._tick(conn, datetime.now(UTC))
            except Unavailable as error:
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning("database lost, retrying lane=%s error=%s", self.lane, error)
                self._forget_connection()
                metrics.RETRIES.labels(self.lane).inc()
                # Full jitter, so that two lanes do not knock together.
                if self._stopping.wait(random.uniform(0, delay_s)):  # noqa: S311 - no secret
                    return
                delay_s = min(2 * delay_s, _RETRY_DELAY_MAX_S)
            else:
                return
            finally:
                self.asking_since = None

    def _take(self, conn: psycopg.Connection, taken: Sequence[Received]) -> None:
        """Store a flush; after a crash, what comes again is begun one by one and counted."""
        if not self._suspicious:
            self._store(conn, taken)
            return
        again = [message for message in taken if message.dup]
        with driver_errors():
            begun = attempts.begun(conn, self.member) if again else dict[bytes, int]()
        worst: defaultdict[str, int] = defaultdict(int)
        for message in again:
            worst[message.topic] = max(worst[message.topic], begun.get(message.sha256, 0))
        # A stream's own order is kept: alerts follow from it.
        for message in sorted(again, key=lambda one: worst[one.topic]):
            digest = message.sha256
            before = begun.get(digest, 0)
            if digest in self._begun:  # the database was lost meanwhile, not the process
                before -= 1
            else:
                with driver_errors():
                    attempts.begin(conn, self.member, digest)
                self._begun.add(digest)
            self._store(conn, [message], crashed=before >= attempts.ATTEMPTS_MAX)
        rest = [message for message in taken if not message.dup]
        if rest:
            self._store(conn, rest)
        if not again:
            self._suspicious = False
            self._begun.clear()
            with driver_errors():
                attempts.forget(conn, self.member)

    def _connection(self) -> psycopg.Connection:
        """Return the connection, made anew with the memory that belongs to it after a loss."""
        if self.connection is None:
            conn = connect(self._dsn, self.consumer.identity)
            with driver_errors():
                self.connection = conn
                present = course(conn)
                if self._course is not None and present.is_before(self._course):
                    # What is written there would be a second truth.
                    raise Unavailable(
                        "an old primary came back: fence it (restart ingest if it is meant)"
                    )
                self._claim(conn)
                self._restore(conn)
            self._follow(present)
            self.healthy_since = datetime.now(UTC)
            self.consumer.probed_at = time.monotonic()  # none was looked for meanwhile
            self._told = ""
            log.info("database connected lane=%s", self.lane)
        return self.connection

    def _claim(self, conn: psycopg.Connection) -> None:
        """Be the only one to write our partitions, and the only one under our identity.

        What is in memory (open intervals, running conditions) is true for one writer only. Messages
        would be stored once all the same, by their numbers.

        Raises:
            Unavailable: Another process is that.
        """
        taken = partitions.claim(conn, self.lane, self.consumer.partitions)
        if not taken and claim(conn, self.consumer.identity):
            self.refused_since = None
            metrics.PARTITIONS.labels(self.lane).set(len(self.consumer.partitions))
            return
        # Two under one identity would also throw each other out at the broker.
        self.consumer.stop()
        owners = partitions.owners(conn, self.lane)
        holders = sorted({owners.get(name, "unknown") for name in taken})
        self.refused_by = (
            f"partitions {show(taken)} of the {self.lane} lane are written by {', '.join(holders)}"
            if taken
            else f"another process is {self.consumer.identity}"
        )
        self.refused_since = self.refused_since or time.monotonic()
        raise Unavailable(f"{self.refused_by}, waiting for it")

    def _look_for_owners(self, conn: psycopg.Connection) -> None:
        """Tell which partitions nobody writes: of this lane, and of one that runs elsewhere."""
        for lane in (self.lane, *(LANES - self.presence.lanes)):
            if lane == self.lane and self.consumer.partitions == ALL:
                unowned: Partitions = frozenset()
            else:
                unowned = ALL - partitions.owners(conn, lane).keys()
            metrics.UNOWNED.labels(lane).set(len(unowned))
            lasting = unowned & self._unowned.get(lane, frozenset())
            if lasting:
                log.warning("nobody writes partitions=%s lane=%s", show(lasting), lane)
            self._unowned[lane] = unowned

    def _forget_connection(self) -> None:
        self.healthy_since = None
        self._numbering.forget()
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _restore(self, conn: psycopg.Connection) -> None:
        """Read the memory back: whether a lost COMMIT took is known only to the tables."""
        self._take_registry(devices.load_registry(conn, self._owns, self.progress))
        self.follow_rules(conn)
        standing = alerts.load_standing(conn)
        self.projection.restore(
            self.registry,
            self.load_states(conn),
            standing,
            alerts.load_pending(conn),
            rules.load_memory(conn, self.lane),
        )
        self.progress()
        self.restore_standing(standing)
        self._refusals.restore(
            [
                subject
                for alert in standing
                if alert.rule in {DEVICE_REFUSED.id, GATEWAY_REFUSED.id} and alert.key == self.lane
                if (subject := self.subject(alert.gateway, alert.device)) is not None
            ],
            datetime.now(UTC),
        )
        if self._suspicious is None:
            self._suspicious = not attempts.start(conn, self.member)

    def _follow(self, present: Course) -> None:
        """Speak for this course of the database from now on."""
        if self._course != present:
            log.info("database course lane=%s epoch=%s", self.lane, present)
        self._course = present
        if self._downlink is None:
            self._downlink = Downlink(self.consumer)
        self._downlink.follow(str(present))

    def _owns(self, gateway: str) -> bool:
        return partition(gateway) in self.consumer.partitions

    def progress(self) -> None:
        """Note that a long reading goes on: the watchdog ends only what stands still."""
        self.turned_at = time.monotonic()
        if self.asking_since is not None:
            self.asking_since = self.turned_at

    def _take_registry(self, registry: devices.Registry) -> None:
        self.registry = registry
        self._judge = Judge(registry, self._limits)
        # A million devices are walked through by no collection: they go by reference counts.
        gc.freeze()

    def _tick(self, conn: psycopg.Connection, now: datetime) -> None:
        if now - self._registry_checked_at >= _REGISTRY_INTERVAL:
            self._registry_checked_at = now
            self._reload_registry(conn)
            self.follow_rules(conn)
        self.tick(conn, now)
        asked = self.presence.take_asked(self.lane)
        if asked:
            known = streams.watermarks_of(conn, sorted(asked))
            self.downlink.acknowledge({key: known.get(key, Mark(0)) for key in asked}, {})
        if now - self._replayed_at >= _REPLAY_INTERVAL:
            self._replayed_at = now
            self._replay(conn, now)
        if now - self._owners_checked_at >= _OWNERS_INTERVAL:
            self._owners_checked_at = now
            self._look_for_owners(conn)
        calmed = self._refusals.calmed(now)
        if calmed:
            with conn.transaction():
                changes = [
                    self._refusal_change(subject, Clear(now, "refusals_ended"), now)
                    for subject in calmed
                ]
                self._changed_alerts += alerts.write(conn, changes, now)
        self.tell_alerts()
        self.downlink.tell()

    def _replay(self, conn: psycopg.Connection, now: datetime) -> None:
        """Judge dead letters again that somebody asked for, each stored at most once.

        A letter's number is among the stored ones since it was refused, so it goes by its row: the
        row says, in the transaction that stores it, that it is stored.
        """
        while True:
            try:
                with driver_errors(), conn.transaction():
                    asked = dead_letters.take_asked(
                        conn, self.lane, _REPLAYED_AT_ONCE, self.consumer.partitions
                    )
                    judged = [self._judge_again(letter) for letter in asked]
                    good = [item for item in judged if not item.letters]
                    self.store(conn, good, now)
                    for letter, item in zip(asked, judged, strict=True):
                        refused = item.letters[0].reason if item.letters else None
                        dead_letters.settle_asked(conn, letter.id, now, refused)
            except (Rejected, Unavailable):
                self.projection.rollback()
                self._changed_alerts = []
                raise
            self.committed(judged, good)
            if len(asked) < _REPLAYED_AT_ONCE:
                return

    def _judge_again(self, letter: dead_letters.Asked) -> Judged:
        item = self._judge.judge(
            Received(-1, 0, 0, letter.topic, letter.raw, False, False, letter.received_at)
        )
        if letter.at_index is not None:
            item.keep_only(letter.at_index)
        elif item.letters and item.readings:
            # Some of it is good now: take that, and let the rest be refused for good.
            item.letters.clear()
        return item

    def tell_stored(self, stored: Stored, judged: Sequence[Judged]) -> None:
        """Tell gateways how far their streams are committed, at once."""
        del judged
        self.downlink.acknowledge(stored.watermarks, stored.rejections)

    def tell_alerts(self) -> None:
        """Hand the alerts that changed to the live topic."""
        for community, alert in self._changed_alerts:
            self.downlink.alert_changed(community, alert)
        self._changed_alerts = []

    def _reload_registry(self, conn: psycopg.Connection) -> bool:
        """Read the registry where it changed; return whether it did."""
        with driver_errors():
            if devices.registry_revision(conn) == self.registry.revision:
                return False
            before = self.registry.devices
            registry = devices.load_registry(conn, self._owns, self.progress)
            self.registry_changes(conn, registry)
            self._take_registry(registry)
            come = [device.id for name, device in registry.devices.items() if name not in before]
            if self.own_gateways is not None and devices.have_states(conn, come):
                # Moved here from behind a gateway of another process: its state is in the tables.
                self._restore(conn)
                return True
        self.projection.reload_registry(self.registry)
        log.info(
            "registry loaded lane=%s revision=%d devices=%d",
            self.lane,
            self.registry.revision,
            len(self.registry.devices),
        )
        return True

    def follow_rules(self, conn: psycopg.Connection) -> None:
        """Take up the rules where people changed them, or areas lie elsewhere."""
        with driver_errors():
            followed = self._follower.follow(
                conn,
                self.registry.revision,
                lambda: self.projection.remembered,
                self.subject,
                self._is_retired,
                datetime.now(UTC),
            )
        if followed is not None:
            self.rules = self._follower.book
            self.projection.follow_rules(self.rules, followed.ended)
            self._changed_alerts += followed.alerts
            self.rules_changed(followed.ended)

    def _store(
        self,
        conn: psycopg.Connection,
        taken: Sequence[Received],
        *,
        crashed: bool = False,
        tried: int = 0,
    ) -> None:
        """Store a flush; bisect it when the database says that some of it can never be stored."""
        started = time.monotonic()
        judged = self.judge(taken)
        if any(item.is_stranger for item in judged) and self._reload_registry(conn):
            judged = self.judge(taken)
        if crashed:
            judged[0].refuse_all("process.crashed", "began and never ended, several times")
        if failpoints.active(failpoints.ACK_BEFORE_COMMIT):
            self.consumer.acknowledge(taken)
            self.downlink.acknowledge(
                {
                    (item.gateway, item.stream): Mark(item.seq)
                    for item in judged
                    if item.gateway and item.stream and item.seq
                },
                {},
            )
        try:
            stored = self._transact(conn, judged)
        except Busy as error:
            if tried >= _BUSY_MAX:
                raise
            # Rolled back, memory with it: reading all of that anew would keep alarms waiting.
            log.info("others were in the way, trying again lane=%s error=%s", self.lane, error)
            metrics.RETRIES.labels(self.lane).inc()
            self.progress()
            self._store(conn, taken, crashed=crashed, tried=tried + 1)
            return
        except Rejected as error:
            if len(taken) > 1:
                middle = len(taken) // 2
                self._store(conn, taken[:middle])
                self._store(conn, taken[middle:])
                return
            judged[0].refuse_all(error.reason, error.detail)
            stored = self._transact(conn, judged)
        metrics.FLUSHES.labels(self.lane).observe(time.monotonic() - started)
        # One of many, maybe: after a crash each message is stored by itself.
        self.progress()
        self.consumer.acknowledge(taken)
        self.tell_stored(stored, judged)

    def judge(self, taken: Sequence[Received]) -> list[Judged]:
        """Return what messages are worth."""
        is_stored = self._numbering.is_stored
        return [self._judge.judge(message, is_stored) for message in taken]

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
        turned: list[alerts.Change] = []
        try:
            with driver_errors(), conn.transaction():
                picked = self._numbering.pick(conn, judged, self.registry.gateways)
                fresh = picked.fresh
                letters = [letter for item in fresh for letter in item.letters]
                if letters:
                    dead_letters.insert(conn, self.lane, letters)
                    turned = self._turned_bad(fresh, now)
                    self._changed_alerts = alerts.write(conn, turned, now)
                self.store(conn, fresh, now)
                if picked.numbered:
                    streams.add(conn, picked.numbered)
                watermarks = streams.watermarks(conn, sorted(picked.heard))
                failpoints.reached(failpoints.BEFORE_COMMIT)
        except (Rejected, Unavailable):
            self.projection.rollback()
            self._refusals.take_back(change.subject for change in turned)
            self._changed_alerts = []
            raise
        failpoints.reached(failpoints.AFTER_COMMIT)
        self._numbering.committed(watermarks)
        self.committed(judged, fresh)
        self._count(judged, fresh, letters)
        stored = Stored(watermarks)
        for item in fresh:
            if item.gateway is not None and item.rejections:
                stored.rejections[item.gateway].extend(item.rejections)
        return stored

    def _turned_bad(self, fresh: Sequence[Judged], now: datetime) -> list[alerts.Change]:
        """Return the alerts on devices and gateways of which too much is refused."""
        changes: list[alerts.Change] = []
        for item in fresh:
            for letter, device in zip(item.letters, item.blamed, strict=True):
                subject = self.subject(
                    item.gateway or "", None if device is None else device.device
                )
                if (
                    subject is not None
                    # One that was scrapped and speaks all the same: refused, and no news.
                    and not self._is_retired(subject.gateway, None)
                    and self._refusals.note(subject, now)
                ):
                    decision = Raise(now, "refused_often")
                    change = self._refusal_change(subject, decision, now)
                    changes.append(replace(change, params={"reason": letter.reason}))
        return [
            change
            for change in changes
            if self.rules.get(change.rule.id, change.subject.area) is not None
        ]

    def _refusal_change(self, subject: Subject, decision: Decision, now: datetime) -> alerts.Change:
        default = GATEWAY_REFUSED if subject.device is None else DEVICE_REFUSED
        # One that is switched off may still be cleared.
        rule = self.rules.get(default.id, subject.area) or default
        return alerts.Change(rule, subject, decision, now, key=self.lane)

    def subject(self, gateway: str, device: str | None) -> Subject | None:
        """Return what an alert on a device, or else on a gateway, is about; None if unknown."""
        known = self.registry.devices.get(device or "")
        if known is not None:
            return subject_of(known)
        box = self.registry.gateways.get(gateway)
        if box is None:
            return None
        return Subject("gateway", box.gateway, box.community, box.community)

    def _is_retired(self, gateway: str, device: str | None) -> bool:
        if device is None:
            box = self.registry.gateways.get(gateway)
            return box is not None and box.status == "retired"
        known = self.registry.devices.get(device)
        return known is not None and known.life == "retired"

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

    def load_states(self, conn: psycopg.Connection) -> dict[int, State]:
        """Read the latest state of every device, by device id."""
        return devices.load_states(conn, self.own_gateways, self.progress)

    def registry_changes(self, conn: psycopg.Connection, registry: devices.Registry) -> None:
        """Do what is still to be done with the registry as it was before."""
        del conn, registry

    def rules_changed(self, ended: frozenset[MemoryKey]) -> None:
        """Forget what belongs to rules that are off, or ask otherwise, beside the projection's."""
        del ended

    def finish(self, conn: psycopg.Connection) -> None:
        """Write what is in memory alone, before the process ends in order."""
        del conn

    def restore_standing(self, standing: Sequence[alerts.Standing]) -> None:
        """Take up alerts that stand beside those of the projection."""
        del standing

    @abstractmethod
    def tick(self, conn: psycopg.Connection, now: datetime) -> None:
        """Do what time alone makes due; called several times a second."""
