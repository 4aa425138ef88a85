# SPDX-License-Identifier: Apache-2.0
"""The process that tells: one at work, others stand by for it. ``linli-ingest notify``."""

import logging
import signal
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Final

import psycopg

from ingest import failpoints, metrics, migrate
from ingest.config import Config
from ingest.errors import ConfigError, OperatorError, Unavailable
from ingest.notify import messengers
from ingest.notify.delivery import Dispatcher, Setting
from ingest.notify.messengers import Gateways
from ingest.store import claim, connect, driver_errors, messages

log = logging.getLogger(__name__)

#: How often it looks while there is nothing to do.
IDLE_S: Final = 1.0
_RETRY_S: Final = 2.0
_GAUGES_S: Final = 10.0
# When its loop did not turn for as long as this, the process ends, to be started anew.
_HANG_S: Final = 60.0
_WORK: Final = "notify"


@dataclass(slots=True)
class _Health:
    state: str = "database: not connected"
    turned_at: float = 0.0

    def not_ready(self) -> str | None:
        """Return what is missing; one that stands by is ready."""
        return None if self.state in ("active", "standing by") else self.state


def run(config: Config) -> None:
    """Tell until SIGTERM or SIGINT.

    Raises:
        OperatorError: The configuration or the schema is not what it must be, or it hangs (a
            supervisor then starts a new process).
    """
    local = {"127.0.0.1", "localhost"}
    if failpoints.name() is not None and config.broker.host not in local:
        raise ConfigError("LINLI_FAILPOINT is set: it is for tests on one machine only")
    messengers.silence()
    try:
        with connect(config.database.dsn, "start") as conn:
            migrate.check_schema(conn)
    except Unavailable as error:
        raise OperatorError(f"database does not answer: {error}") from None
    stopping = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    health = _Health(turned_at=time.monotonic())
    server = metrics.serve(config.notify.metrics_host, config.notify.metrics_port, health.not_ready)
    log.info("notify starting metrics=%s:%d", *server.server_address[:2])
    worker = threading.Thread(
        target=_work, args=(config, health, stopping), name="notify", daemon=True
    )
    worker.start()
    while not stopping.wait(0.5):
        if not worker.is_alive():
            raise OperatorError("notify ended by an error, see the log above")
        if time.monotonic() - health.turned_at > _HANG_S:
            raise OperatorError("notify hangs: its loop does not turn")
    worker.join(15.0)
    server.shutdown()
    log.info("notify stopped")


def _work(config: Config, health: _Health, stopping: threading.Event) -> None:
    # What takes a second must not delay what needs none of it.
    threading.Thread(target=messengers.load, name="apprise", daemon=True).start()
    while not stopping.is_set():
        health.turned_at = time.monotonic()
        try:
            with driver_errors(), closing(connect(config.database.dsn, "notify")) as conn:
                _claimed(conn, config, health, stopping)
        except Unavailable as error:
            if health.state != "database: not connected":
                log.warning("database lost, trying again: %s", error)
            health.state = "database: not connected"
            metrics.NOTIFY_ACTIVE.set(0)
            stopping.wait(_RETRY_S)


def _claimed(
    conn: psycopg.Connection, config: Config, health: _Health, stopping: threading.Event
) -> None:
    while not claim(conn, _WORK):
        if health.state != "standing by":
            log.info("another process tells, standing by for it")
        health.state, health.turned_at = "standing by", time.monotonic()
        if stopping.wait(IDLE_S):
            return
    dispatcher = Dispatcher(conn, setting(config), _utc_now)
    again = messages.recover(conn, _utc_now())
    log.info("telling, %d messages of an earlier process are sent again", again)
    health.state = "active"
    metrics.NOTIFY_ACTIVE.set(1)
    gauged_at = -_GAUGES_S
    try:
        while not stopping.is_set():
            health.turned_at = time.monotonic()
            if dispatcher.turn():
                dispatcher.wait(IDLE_S)
            else:
                stopping.wait(IDLE_S)
            if health.turned_at - gauged_at >= _GAUGES_S:
                gauged_at = health.turned_at
                count, oldest = messages.backlog(conn)
                metrics.NOTIFY_WAITING.set(count)
                age = 0.0 if oldest is None else (_utc_now() - oldest).total_seconds()
                metrics.NOTIFY_OLDEST.set(age)
    finally:
        dispatcher.close()


def setting(config: Config) -> Setting:
    """Return how an installation sends."""
    chosen = config.notify
    return Setting(
        Gateways(chosen.email, chosen.sms), chosen.allow_private, f"urn:linli:{chosen.source}"
    )


def _utc_now() -> datetime:
    return datetime.now(UTC)
