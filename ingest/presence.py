# SPDX-License-Identifier: Apache-2.0
"""Which gateways are heard, by the messages that arrive, never by the broker's word.

Receipt time throughout: a gateway that drains a backlog is present. Silence counts only while
ingest itself could hear, so its own outage, or the broker's, makes no gateway silent.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

StreamKey = tuple[str, str]  # gateway, stream


class Presence:
    """When each gateway was last heard, and what it asked; shared by the lanes."""

    def __init__(self) -> None:
        """Start without having heard anybody."""
        self._lock = threading.Lock()
        self._heard: dict[str, datetime] = {}
        self._silent: set[str] = set()
        self._heard_since: dict[str, datetime] = {}
        self._asked: dict[str, set[StreamKey]] = {}

    def heard(self, gateways: Iterable[tuple[str, datetime]]) -> None:
        """Note that messages of these gateways arrived."""
        with self._lock:
            for gateway, at in gateways:
                before = self._heard.get(gateway)
                if before is None or at > before:
                    self._heard[gateway] = at

    def last_heard(self, gateway: str) -> datetime | None:
        """Return when the gateway was last heard, None where it never was."""
        return self._heard.get(gateway)

    def ask(self, lane: str, streams: Iterable[StreamKey]) -> None:
        """Note that gateways want to know how far these streams of a lane are stored.

        Each lane answers for its own streams, over its own connection: two connections would let
        a newer answer be overtaken by an older one.
        """
        with self._lock:
            self._asked.setdefault(lane, set()).update(streams)

    def take_asked(self, lane: str) -> set[StreamKey]:
        """Return what was asked of a lane since the last call."""
        with self._lock:
            return self._asked.pop(lane, set())

    def set_silent(self, gateway: str, *, silent: bool, now: datetime) -> None:
        """Note that a gateway fell silent, or that it is heard again since ``now``."""
        with self._lock:
            if silent:
                self._silent.add(gateway)
            else:
                self._silent.discard(gateway)
                self._heard_since[gateway] = now

    def heard_since(self, gateway: str) -> datetime | None:
        """Return since when the gateway is heard without a break; None while it is not."""
        if gateway in self._silent or gateway not in self._heard:
            return None
        return self._heard_since.get(gateway, datetime.min.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Listening:
    """The time without a break in which what was published certainly reached us."""

    since: datetime
    until: datetime

    def after(self, moment: datetime) -> "Listening":
        """Return what is left of it from ``moment`` on."""
        return Listening(max(self.since, moment), self.until)


class Hearing:
    """One lane's proof that it hears: its own probes, which come round through the broker.

    A connection that stands proves nothing: a broker that is frozen, or a link that swallows what
    it is given, leaves it standing for as long as keep-alive allows.
    """

    def __init__(self, break_limit: timedelta) -> None:
        """Take how long probes may stay away before that is a break."""
        self._break_limit = break_limit
        self._listening: Listening | None = None

    @property
    def listening(self) -> Listening | None:
        """Since when, and up to when, everything was heard; None where nothing proves it."""
        return self._listening

    def came_round(self, at: datetime) -> None:
        """Note a probe, by its receipt time."""
        known = self._listening
        if known is None or not timedelta() <= at - known.until <= self._break_limit:
            self._listening = Listening(at, at)
        else:
            self._listening = Listening(known.since, at)

    def lost(self) -> None:
        """Note that the link is gone."""
        self._listening = None


def is_silent(last: datetime | None, listening: Listening | None, limit: timedelta) -> bool | None:
    """Return whether somebody last heard at ``last`` is silent.

    Args:
        last: When it was last heard; None where it never was.
        listening: When ingest could have heard it; None while it cannot.
        limit: How long silence may last.

    Returns:
        None where nothing can be said: never heard, or not listened to for long enough.
    """
    if last is None or listening is None:
        return None
    if listening.until - last <= limit:
        return False
    return True if listening.until - listening.since > limit else None
