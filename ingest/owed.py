# SPDX-License-Identifier: Apache-2.0
"""Which gateways still have events for us, by their own word: until then it is no later there.

Our probe proves that nothing waits at the broker. What waits in a gateway's outbox only its status
tells: the number its next event will get.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import psycopg

from edge_agent.messages import Status
from ingest.store import streams
from ingest.store.streams import StreamKey

# Nobody is waited for any longer: what may have ended stands, rather than never being told.
WAIT_MAX: Final = timedelta(seconds=60)
# Whom nobody asked about for longer owes something else by now.
_ASKED_WITHIN: Final = timedelta(seconds=10)


class Owed:
    """Events that gateways had when they spoke last, until it was looked whether they came."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self._upto: dict[str, Mapping[StreamKey, int]] = {}
        # Since when somebody waits for those that did not come, and who was asked about last.
        self._waited: dict[str, tuple[datetime, datetime]] = {}

    def note(self, gateway: str, status: Status) -> None:
        """Note up to where a gateway has numbered its events."""
        lanes = [lane for lane in status.streams if lane.lane == "event"]
        if status.state == "online" and lanes:
            self._upto[gateway] = {(gateway, lane.stream): lane.next for lane in lanes}

    def owing(self, conn: psycopg.Connection, gateways: Iterable[str], now: datetime) -> set[str]:
        """Return those of some gateways that have events which are not stored.

        Args:
            conn: Where events are stored.
            gateways: Who is asked about; of nobody else anything is looked up.
            now: Whoever was waited for, asked about again and again, for longer than `WAIT_MAX` is
                left out.
        """
        known = [one for one in gateways if one in self._upto]
        if not known:
            return set()
        bounds = {key: upto for one in known for key, upto in self._upto[one].items()}
        owing = {gateway for (gateway, _), _, _ in streams.missing_below(conn, bounds)}
        for one in known:
            if one in owing:
                since, asked_at = self._waited.get(one, (now, now))
                if not timedelta() <= now - asked_at <= _ASKED_WITHIN:
                    since = now
                self._waited[one] = since, now
            else:
                del self._upto[one]
                self._waited.pop(one, None)
        return {one for one in owing if now - self._waited[one][0] <= WAIT_MAX}
