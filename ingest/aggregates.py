# SPDX-License-Identifier: Apache-2.0
"""The aggregate lane of a province: what cities tell of their areas and of these areas' days.

A city is here what a gateway is elsewhere: numbered messages, stored once, acknowledged after
COMMIT; what is refused lies in the dead letters and is told.
"""

import logging
from collections.abc import Sequence
from datetime import datetime

import psycopg

from edge_agent.messages import AnyLane
from ingest import metrics
from ingest.judge import Judged
from ingest.store import cities, dead_letters
from ingest.writer import Writer

log = logging.getLogger(__name__)


class AggregateWriter(Writer):
    """Stores what cities tell; alone in changing their areas and numbers."""

    lane: AnyLane = "aggregate"

    def store(self, conn: psycopg.Connection, fresh: Sequence[Judged], now: datetime) -> None:
        """Store areas and days in the order they came in; refuse what is not the city's to tell."""
        del now
        for item in fresh:
            message = item.aggregate
            if message is None or item.gateway is None:
                continue
            letters = len(item.letters)
            refused = (
                cities.take_areas(conn, item.gateway, message.areas)
                if message.areas is not None
                else cities.take_days(
                    conn, item.gateway, message.days or (), item.message.received_at
                )
            )
            for one in refused:
                item.refuse(one.reason, one.detail, one.place)
                metrics.DEAD_LETTERS.labels(one.reason).inc()
                log.warning(
                    "refused city=%s reason=%s detail=%s", item.gateway, one.reason, one.detail
                )
            if refused:
                dead_letters.insert(conn, self.lane, item.letters[letters:])

    def committed(self, judged: Sequence[Judged], fresh: Sequence[Judged]) -> None:
        """Keep nothing in memory: the tables are all there is."""
        del judged, fresh

    def tick(self, conn: psycopg.Connection, now: datetime) -> None:
        """Do nothing: what is told is final."""
        del conn, now
