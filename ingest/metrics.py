# SPDX-License-Identifier: Apache-2.0
"""Counters and gauges of ingest, and the small page for a monitor: /metrics, /livez, /readyz."""

import threading
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

MESSAGES = Counter(
    "linli_ingest_messages", "Messages by lane and what became of them", ["lane", "result"]
)
READINGS = Counter("linli_ingest_readings", "Readings stored", ["kind"])
EVENTS = Counter("linli_ingest_events", "Events stored", ["kind"])
DEAD_LETTERS = Counter("linli_ingest_dead_letters", "Refused, by reason", ["reason"])
FLUSHES = Histogram("linli_ingest_flush_seconds", "From taking a flush to its COMMIT", ["lane"])
DAYS = Histogram(
    "linli_ingest_day_seconds", "From reading a community's day to its COMMIT", ["domain"]
)
DAYS_FAILED = Gauge(
    "linli_ingest_days_failed", "Days that could not be computed lately, see the log"
)
RETRIES = Counter("linli_ingest_flush_retries", "Flushes the database could not store", ["lane"])
QUEUE = Gauge("linli_ingest_queue_messages", "Received and not yet taken", ["lane"])
PARTITIONS = Gauge("linli_ingest_partitions", "Partitions that this process writes", ["lane"])
UNOWNED = Gauge(
    "linli_ingest_partitions_unowned", "Partitions of a lane that no process writes", ["lane"]
)
TOLD = Counter("linli_ingest_told_messages", "Messages that the province acknowledged")
ALERTS = Counter("linli_ingest_alert_changes", "Alerts raised and cleared", ["rule"])
SESSIONS_LOST = Gauge(
    "linli_ingest_broker_sessions_lost", "Connections that found no session at the broker", ["lane"]
)

NOTIFY_ATTEMPTS = Counter(
    "linli_notify_attempts", "Attempts to send a message", ["channel", "result"]
)
NOTIFY_GIVEN_UP = Counter(
    "linli_notify_given_up", "Messages that never arrived: tell these people otherwise", ["channel"]
)
NOTIFY_UNREACHED = Counter("linli_notify_unreached", "Alerts of which nobody at all could be told")
NOTIFY_EXHAUSTED = Counter(
    "linli_notify_exhausted", "Chains that ended without anybody acknowledging"
)
NOTIFY_FAILED = Counter(
    "linli_notify_failed", "Alerts that could not be told for an error of ours, see the log"
)
NOTIFY_WAITING = Gauge("linli_notify_waiting_messages", "Messages not yet sent")
NOTIFY_OLDEST = Gauge("linli_notify_oldest_seconds", "How long the oldest of these waits")
NOTIFY_ACTIVE = Gauge("linli_notify_active", "1 in the process that tells, 0 in those standing by")


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a monitor asks every few seconds."""


def serve(
    host: str, port: int, not_ready: Callable[[], str | None], ready: str = "ready"
) -> WSGIServer:
    """Serve the monitor's page in the background; ``not_ready`` names what is missing."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        content_type = "text/plain; charset=utf-8"
        match environ.get("PATH_INFO"):
            case "/livez":
                status, body = "200 OK", b"alive\n"
            case "/readyz":
                missing = not_ready()
                status = "200 OK" if missing is None else "503 Service Unavailable"
                body = f"{missing or ready}\n".encode()
            case "/metrics":
                status, body, content_type = "200 OK", generate_latest(), CONTENT_TYPE_LATEST
            case _:
                status, body = "404 Not Found", b"there are /metrics, /livez and /readyz\n"
        start_response(status, [("Content-Type", content_type)])
        return [body]

    server = make_server(host, port, app, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
