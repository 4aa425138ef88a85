# SPDX-License-Identifier: Apache-2.0
"""The ingest process: two lanes, the keepers of days and of storage, each with its thread."""

import gc
import logging
import signal
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from types import FrameType
from typing import Final

from psycopg import pq

from ingest import failpoints, metrics, migrate
from ingest.config import Config, Flush
from ingest.consumer import PACKET_BYTES_MAX, Consumer, Subscription
from ingest.daily import DailyKeeper
from ingest.errors import ConfigError, OperatorError, Unavailable
from ingest.events import EventWriter
from ingest.judge import Limits
from ingest.kinds import DEFAULT_RULES
from ingest.presence import Presence
from ingest.retention import StorageKeeper
from ingest.rules import RuleBook, RuleError
from ingest.store import chunks, connect, faults
from ingest.telemetry import TelemetryWriter
from ingest.writer import Common, FlushLimits, Writer

log = logging.getLogger(__name__)

TELEMETRY_IDENTITY: Final = "ingest-telemetry-00"
EVENT_IDENTITY: Final = "ingest-event-00"
_WATCH_INTERVAL_S: Final = 0.5
_GARBAGE_AT: Final = 100_000
_STOP_S: Final = 5.0
# When no probe came round through broker, network thread, queue and writer, or the writer's loop
# did not turn, for as long as this, the process ends.
_HANG_S: Final = 60.0


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
    presence = Presence()
    limits = Limits(
        timedelta(seconds=config.ingest.future_limit_s),
        timedelta(days=config.ingest.late_limit_days),
    )

    def common(identity: str, flush: Flush, *subscriptions: Subscription) -> Common:
        return Common(
            dsn=config.database.dsn,
            consumer=Consumer(
                identity=identity,
                host=config.broker.host,
                port=config.broker.port,
                ca=config.broker.ca,
                certificates=config.ingest.certificates,
                subscriptions=subscriptions,
                # The broker sends no more unacknowledged messages than this, each at most a packet:
                # so the queue is bounded in bytes too, whatever gateways send.
                receive_maximum=min(
                    flush.receive_maximum, config.ingest.queue_bytes // PACKET_BYTES_MAX
                ),
            ),
            rules=rules,
            limits=limits,
            flush=FlushLimits(flush.linger_ms / 1_000, flush.messages, flush.bytes),
            presence=presence,
        )

    telemetry = TelemetryWriter(
        **common(TELEMETRY_IDENTITY, config.ingest.telemetry, Subscription("telemetry"))
    )
    events = EventWriter(
        status_interval=timedelta(seconds=config.ingest.status_interval_s),
        silence_intervals=config.ingest.gateway_silence_intervals,
        **common(
            EVENT_IDENTITY,
            config.ingest.event,
            Subscription("event"),
            Subscription("status", retained=True),
            Subscription("result"),
        ),
    )
    keeper = DailyKeeper(config.database.dsn, lambda: telemetry.registry)
    storage = StorageKeeper(
        config.database.dsn,
        config.ingest.retention_days,
        limits.late,
        None
        if config.ingest.chunk_minutes is None
        else timedelta(minutes=config.ingest.chunk_minutes),
        config.ingest.reading_index,
    )
    _work(config, (events, telemetry), {"days": keeper, "storage": storage})


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
    """End the process when a lane neither turns nor hears itself.

    Raises:
        OperatorError: It hangs; a supervisor starts a new process, and nothing is lost.
    """
    if now - writer.turned_at > _HANG_S:
        raise OperatorError(f"the {writer.lane} lane hangs: its writer does not turn")
    healthy = writer.healthy_since is not None and writer.consumer.connected
    if healthy and now - writer.consumer.probed_at > _HANG_S:
        raise OperatorError(f"the {writer.lane} lane hangs: it does not hear itself any more")


def _work(
    config: Config,
    writers: tuple[Writer, ...],
    keepers: Mapping[str, DailyKeeper | StorageKeeper],
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

    server = metrics.serve(config.ingest.metrics_host, config.ingest.metrics_port, not_ready)
    log.info("ingest starting metrics=%s:%d", *server.server_address[:2])
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
