# SPDX-License-Identifier: Apache-2.0
"""The ingest process: lanes, the keepers of days and of storage, each with its thread.

One process does everything, or several share it, by lane and by partition.
"""

import gc
import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from types import FrameType
from typing import Final

import psycopg
from psycopg import pq

from edge_agent.messages import AnyLane
from ingest import failpoints, metrics, migrate
from ingest.aggregates import AggregateWriter
from ingest.alert_keeper import AlertKeeper
from ingest.config import Config
from ingest.consumer import PACKET_BYTES_MAX, Consumer, Subscription
from ingest.daily import DailyKeeper
from ingest.errors import ConfigError, OperatorError, Unavailable
from ingest.events import EventWriter
from ingest.federation import FederationKeeper
from ingest.judge import Limits
from ingest.kinds import DEFAULT_RULES
from ingest.partitions import ALL, show
from ingest.presence import Presence, Watch
from ingest.retention import StorageKeeper
from ingest.rules import RuleBook, RuleError
from ingest.store import chunks, connect, devices, driver_errors, faults
from ingest.telemetry import TelemetryWriter
from ingest.writer import Common, FlushLimits, Writer

log = logging.getLogger(__name__)

Keeper = DailyKeeper | StorageKeeper | FederationKeeper | AlertKeeper
_WATCH_INTERVAL_S: Final = 0.5
_GARBAGE_AT: Final = 100_000
_STOP_S: Final = 5.0
# When no probe came round through broker, network thread, queue and writer, or the writer's loop
# did not turn, for as long as this, the process ends.
_HANG_S: Final = 60.0
# As long as this another process may still hold what we are to write: one that was killed is
# noticed by the database at once, one whose machine is gone is not.
_REFUSED_S: Final = 15.0


def run(config: Config) -> None:
    """Run ingest until SIGTERM or SIGINT.

    Raises:
        OperatorError: The configuration, the schema or a certificate is not what it must be, or
            a lane ended by an error (a supervisor then starts a new process).
    """
    try:
        rules = RuleBook(DEFAULT_RULES, config.ingest.rules)
    except RuleError as error:
        raise ConfigError(f"ingest.{error}") from None
    if pq.__impl__ == "python":
        raise OperatorError("psycopg runs without its C library: install psycopg[binary]")
    if failpoints.name() is not None and config.broker.host not in {"127.0.0.1", "localhost"}:
        raise ConfigError("LINLI_FAILPOINT is set: it is for tests on one machine only")
    _prepare(config)
    lanes = config.lanes
    presence = Presence(lanes)
    writers: list[Writer] = []
    telemetry: TelemetryWriter | None = None
    if "event" in lanes:
        writers.append(_events(config, rules, presence))
    if "telemetry" in lanes:
        telemetry = _telemetry(config, rules, presence)
        writers.append(telemetry)
    if config.takes_aggregates:
        aggregates = _common(config, rules, presence, "aggregate", Subscription("aggregate"))
        writers.append(AggregateWriter(**aggregates))
    keepers: dict[str, Keeper] = {}
    with closing(RegistryFollower(config.database.dsn)) as follower:
        if "keepers" in config.ingest.lanes:
            latest = follower.latest
            if telemetry is not None and config.ingest.partitions == ALL:
                lane = telemetry
                latest = lambda: lane.registry  # noqa: E731 - all of it is in memory already
            keepers["days"] = DailyKeeper(config.database.dsn, latest, rules)
            keepers["storage"] = _storage(config)
            keepers["alerts"] = AlertKeeper(config.database.dsn, rules)
            if config.province is not None:
                keepers["federation"] = FederationKeeper(config.database.dsn, config.province)
        _work(config, writers, keepers)


def _common(
    config: Config,
    rules: RuleBook,
    presence: Presence,
    lane: AnyLane,
    *subscriptions: Subscription,
) -> Common:
    flush = {
        "telemetry": config.ingest.telemetry,
        "event": config.ingest.event,
        "aggregate": config.ingest.aggregate,
    }[lane]
    return Common(
        dsn=config.database.dsn,
        consumer=Consumer(
            identity=config.own_identity(lane),
            host=config.broker.host,
            hosts=config.broker.hosts,
            port=config.broker.port,
            ca=config.broker.ca,
            certificates=config.ingest.certificates,
            subscriptions=subscriptions,
            partitions=ALL if lane == "aggregate" else config.ingest.partitions,
            # The broker sends no more unacknowledged messages than this, each at most a packet:
            # so the queue is bounded in bytes too, whatever gateways send.
            receive_maximum=min(
                flush.receive_maximum, config.ingest.queue_bytes // PACKET_BYTES_MAX
            ),
        ),
        rules=rules,
        limits=_limits(config),
        flush=FlushLimits(flush.linger_ms / 1_000, flush.messages, flush.bytes),
        presence=presence,
    )


def _limits(config: Config) -> Limits:
    return Limits(
        timedelta(seconds=config.ingest.future_limit_s),
        timedelta(days=config.ingest.late_limit_days),
    )


def _telemetry(config: Config, rules: RuleBook, presence: Presence) -> TelemetryWriter:
    state_interval = timedelta(seconds=config.ingest.state_interval_s)
    if presence.is_whole:
        return TelemetryWriter(
            state_interval=state_interval,
            **_common(config, rules, presence, "telemetry", Subscription("telemetry")),
        )
    # The event lane runs elsewhere: what gateways ask and whether they are silent is heard here.
    watch = Watch(
        presence,
        timedelta(seconds=config.ingest.status_interval_s),
        config.ingest.gateway_silence_intervals,
    )
    heard = (Subscription("telemetry"), Subscription("status"))
    return TelemetryWriter(
        watch,
        state_interval=state_interval,
        **_common(config, rules, presence, "telemetry", *heard),
    )


def _events(config: Config, rules: RuleBook, presence: Presence) -> EventWriter:
    return EventWriter(
        status_interval=timedelta(seconds=config.ingest.status_interval_s),
        silence_intervals=config.ingest.gateway_silence_intervals,
        **_common(
            config,
            rules,
            presence,
            "event",
            Subscription("event"),
            Subscription("status", retained=True, patient=True),
            Subscription("result"),
        ),
    )


def _storage(config: Config) -> StorageKeeper:
    minutes = config.ingest.chunk_minutes
    return StorageKeeper(
        config.database.dsn,
        config.ingest.retention_days,
        _limits(config).late,
        None if minutes is None else timedelta(minutes=minutes),
        config.ingest.reading_index,
    )


class RegistryFollower:
    """The registry for keepers beside whom nobody holds all of it; for one thread."""

    def __init__(self, dsn: str) -> None:
        """Take where it is; nothing is read before it is asked for."""
        self._dsn = dsn
        self._conn: psycopg.Connection | None = None
        self._registry = devices.Registry(-1)

    def latest(self) -> devices.Registry:
        """Return the registry as it is now.

        Raises:
            Unavailable: The database does not answer.
        """
        try:
            with driver_errors():
                if self._conn is None:
                    self._conn = connect(self._dsn, "registry")
                if devices.registry_revision(self._conn) != self._registry.revision:
                    self._registry = devices.load_registry(self._conn)
                    # Walked through by no collection, as in the lanes.
                    gc.freeze()
        except Unavailable:
            self.close()
            raise
        return self._registry

    def close(self) -> None:
        """Give the connection back; `latest` would open another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None


def _prepare(config: Config) -> None:
    try:
        with connect(config.database.dsn, "start") as conn:
            migrate.check_schema(conn)
            faults.configure(conn, config.ingest.faults, config.ingest.holidays)
            if config.ingest.reading_index != "always" and not chunks.may_index(conn):
                raise OperatorError(
                    "ingest.reading_index: the database's user may not index chunks, let a"
                    " superuser GRANT CREATE ON SCHEMA _timescaledb_internal to it"
                )
    except Unavailable as error:
        raise OperatorError(f"database does not answer: {error}") from None


def _check_progress(writer: Writer, now: float) -> None:
    """End the process when a lane neither turns nor hears itself, or has nothing to write.

    Raises:
        OperatorError: It hangs, or another process writes what it is to write; a supervisor starts
            a new process, and nothing is lost.
    """
    if writer.refused_since is not None and now - writer.refused_since > _REFUSED_S:
        raise OperatorError(f"{writer.refused_by}: a partition has one writer, or none")
    if now - writer.turned_at > _HANG_S:
        raise OperatorError(f"the {writer.lane} lane hangs: its writer does not turn")
    healthy = writer.healthy_since is not None and writer.consumer.connected
    if healthy and now - writer.consumer.probed_at > _HANG_S:
        raise OperatorError(f"the {writer.lane} lane hangs: it does not hear itself any more")


def _work(
    config: Config,
    writers: Sequence[Writer],
    keepers: Mapping[str, Keeper],
) -> None:
    stopping = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    threads = [
        threading.Thread(target=writer.run, name=writer.lane, daemon=True) for writer in writers
    ]

    def not_ready() -> str | None:
        for writer in writers:
            if writer.healthy_since is None:
                return f"database: {writer.lane} lane not connected"
            if not writer.consumer.connected:
                return f"broker: {writer.lane} lane not connected"
        return None

    ready = f"ready, partitions {show(config.ingest.partitions)} of {', '.join(config.lanes)}"
    server = metrics.serve(
        config.ingest.metrics_host,
        config.ingest.metrics_port,
        not_ready,
        ready if config.lanes else "ready",
    )
    log.info(
        "ingest starting lanes=%s partitions=%s member=%02d metrics=%s:%d",
        ",".join(sorted(config.ingest.lanes)),
        show(config.ingest.partitions),
        config.ingest.member,
        *server.server_address[:2],
    )
    keeping = [
        threading.Thread(target=keeper.run, name=name, daemon=True)
        for name, keeper in keepers.items()
    ]
    for thread in (*threads, *keeping):
        thread.start()
    gc.freeze()
    # What a flush makes, it leaves to reference counts; cycles are rare here, walks are not.
    gc.set_threshold(_GARBAGE_AT)
    # A dead thread would look like silence: end the process, so that it is started anew.
    while not stopping.wait(_WATCH_INTERVAL_S):
        now = time.monotonic()
        for thread in keeping:
            if not thread.is_alive():
                raise OperatorError(f"keeping {thread.name} ended by an error, see the log above")
        for writer, thread in zip(writers, threads, strict=True):
            if not thread.is_alive() or not writer.consumer.alive:
                raise OperatorError(f"the {writer.lane} lane ended by an error, see the log above")
            writer.abort_if_stuck(now)
            _check_progress(writer, now)
            writer.consumer.probe()
    for keeper in keepers.values():
        keeper.stop()
    for writer in writers:
        writer.stop()
    for thread in (*threads, *keeping):
        thread.join(_STOP_S)
    for writer in writers:
        writer.consumer.stop()
    server.shutdown()
    log.info("ingest stopped")
