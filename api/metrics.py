# SPDX-License-Identifier: Apache-2.0
"""Figures of one api process, in Prometheus' text format; never a person in them."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from api.version import VERSION

_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The figures of one api, in a registry of their own."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "linli_api_requests",
            "Requests answered.",
            ("operation", "status"),
            registry=self._registry,
        )
        self.request_duration = Histogram(
            "linli_api_request_duration_seconds",
            "Time to the first byte of the answer.",
            ("operation",),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self.streams = Gauge("linli_api_streams", "Open live streams.", registry=self._registry)
        self.stream_resets = Counter(
            "linli_api_stream_resets",
            "Streams cut because their reader was too slow.",
            registry=self._registry,
        )
        self.live_messages = Counter(
            "linli_api_live_messages",
            "Messages on the live topic, by what became of them.",
            ("outcome",),
            registry=self._registry,
        )
        self.live_healed = Counter(
            "linli_api_live_healed",
            "Changes that no live message told, found by reading the tables again.",
            ("what",),
            registry=self._registry,
        )
        self.live_connected = Gauge(
            "linli_api_live_connected",
            "1 while the live topic is subscribed.",
            registry=self._registry,
        )
        self.live_takeovers = Counter(
            "linli_api_live_takeovers",
            "Times another process connected to the broker as this one: same [api] member.",
            registry=self._registry,
        )
        self.replica_used = Gauge(
            "linli_api_replica_used",
            "1 while the replica serves reads, 0 while the primary serves all.",
            registry=self._registry,
        )
        self.replica_lag_s = Gauge(
            "linli_api_replica_lag_seconds",
            "All that was committed so long ago is on the replica; NaN: not known.",
            registry=self._registry,
        )
        self.replica_lag_bytes = Gauge(
            "linli_api_replica_lag_bytes",
            "Of the primary's log, not replayed on the replica; NaN: not known.",
            registry=self._registry,
        )
        self.replica_retries = Counter(
            "linli_api_replica_retries",
            "Reads that failed on the replica and were asked of the primary, by SQLSTATE.",
            ("sqlstate",),
            registry=self._registry,
        )
        build = Gauge("linli_build_info", "Always 1.", ("part", "version"), registry=self._registry)
        build.labels("api", VERSION).set(1)

    def text(self) -> bytes:
        """Return all figures as text."""
        return generate_latest(self._registry)
