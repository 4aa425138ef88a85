# SPDX-License-Identifier: Apache-2.0
"""Which gateways are heard, by the messages that arrive, never by the broker's word.

Receipt time throughout: a gateway that drains a backlog is present. Silence counts only while
ingest itself could hear, so its own outage, or the broker's, makes no gateway silent.
"""

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from edge_agent.messages import AnyLane, Lane, Status
from ingest.store.devices import Gateway

StreamKey = tuple[str, str]  # gateway, stream
LANES: Final[frozenset[Lane]] = frozenset(("telemetry", "event"))
# How often a process that hears telemetry alone writes down whom it heard.
HEARD_INTERVAL: Final = timedelta(seconds=5)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Presence:
    """When each gateway was last heard, and what it asked; shared by the lanes of a process."""

    def __init__(self, lanes: Collection[Lane] = LANES) -> None:
        """Start without having heard anybody; ``lanes`` are those that share it."""
        self.lanes = frozenset(lanes)
        self._lock = threading.Lock()
        self._heard: dict[str, datetime] = {}
        self._silent: set[str] = set()
        self._heard_since: dict[str, datetime] = {}
        #: How often any gateway fell silent or was heard again.
        self.turns = 0
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

    @property
    def is_whole(self) -> bool:
        """Whether all lanes are here, so that nobody else hears of these gateways."""
        return self.lanes == LANES

    def ask(self, lane: AnyLane, streams: Iterable[StreamKey]) -> None:
        """Note that gateways want to know how far these streams of a lane are stored.

        Each lane answers for its own streams, over its own connection: two connections would let
        a newer answer be overtaken by an older one. What is asked of a lane of another process is
        not noted: it hears for itself.
        """
        if lane not in LANES - self.lanes:
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
            self.turns += 1

    def is_silent(self, gateway: Gateway) -> bool:
        """Return whether nothing is heard of a gateway: as noted last, else as it is registered."""
        name = gateway.gateway
        return name in self._silent or (gateway.silent and name not in self._heard_since)

    def heard_since(self, gateway: str) -> datetime | None:
        """Return since when the gateway is heard without a break; None while it is not."""
        if gateway in self._silent or gateway not in self._heard:
            return None
        return self._heard_since.get(gateway, _NEVER)


class SilentGateways:
    """The silent ones of the registered gateways, and which of them turned."""

    def __init__(self, presence: Presence) -> None:
        """Start without knowing any."""
        self._presence = presence
        self._gateways: Mapping[str, Gateway] = {}
        self._turns = -1
        self._silent: frozenset[str] = frozenset()
        self._turned: frozenset[str] = frozenset()

    def follow(self, gateways: Mapping[str, Gateway]) -> None:
        """Take those that are registered, by name."""
        self._gateways = gateways
        self._turns = -1

    def now(self) -> frozenset[str]:
        """Return the silent ones."""
        turns = self._presence.turns
        if turns != self._turns:
            self._turns = turns
            silent = frozenset(
                name for name, one in self._gateways.items() if self._presence.is_silent(one)
            )
            self._turned |= silent ^ self._silent
            self._silent = silent
        return self._silent

    def is_known(self, gateway: str) -> bool:
        """Whether a gateway is silent, was heard since we started, or never was at all."""
        if gateway in self.now() or self._presence.heard_since(gateway) is not None:
            return True
        known = self._gateways.get(gateway)
        return known is not None and known.last_seen_at is None

    def take_turned(self) -> frozenset[str]:
        """Return those that fell silent or are heard again since the last call."""
        self.now()
        turned, self._turned = self._turned, frozenset[str]()
        return turned


@dataclass(frozen=True, slots=True)
class Listening:
    """The time without a break in which what was published certainly reached us.

    None of it, with ``until`` before ``since``, while what is heard was published before we began.
    """

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
        # When the last probe came.
        self._came_at = _NEVER

    @property
    def listening(self) -> Listening | None:
        """Since when, and up to when, everything was heard; None where nothing proves it."""
        return self._listening

    def came_round(self, sent_at: datetime, received_at: datetime | None = None) -> None:
        """Note a probe: whatever was published before it was sent, and waited, is received.

        Args:
            sent_at: When it was sent.
            received_at: When it came; None: at once. All may come late, behind a backlog: no break,
                while they keep coming. After a pause the broker, or we, may have been frozen.
        """
        known, before = self._listening, self._came_at
        self._came_at = received_at or sent_at
        if (
            known is None
            or not timedelta() <= sent_at - known.until <= self._break_limit
            or not timedelta() <= self._came_at - before <= self._break_limit
        ):
            self._listening = Listening(self._came_at, sent_at)
        else:
            self._listening = Listening(known.since, sent_at)

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


class Watch:
    """Which gateways fell silent, as one process hears them."""

    def __init__(self, presence: Presence, status_interval: timedelta, intervals: float) -> None:
        """Take the heartbeat of gateways that do not say theirs, and how many may be missed."""
        self.presence = presence
        self._status_interval = status_interval
        self._missed = intervals
        self._intervals: dict[str, timedelta] = {}
        self._silent: dict[str, bool] = {}
        # When each gateway last told its status, by receipt time.
        self._told_at: dict[str, datetime] = {}

    def note(self, gateway: str, status: Status, received_at: datetime) -> None:
        """Note what a gateway says of itself, and what it asks."""
        self._told_at[gateway] = received_at
        if status.status_interval_s:
            self._intervals[gateway] = timedelta(seconds=status.status_interval_s)
        # Each birth and heartbeat is answered with how far the streams it names are stored.
        for lane in status.streams:
            self.presence.ask(lane.lane, [(gateway, lane.stream)])

    def look(
        self,
        gateways: Iterable[Gateway],
        listening: Listening | None,
        slack: timedelta = timedelta(),
    ) -> list[tuple[Gateway, bool]]:
        """Return those that are silent now and were not (True), or the other way round.

        Args:
            gateways: Whom to look at.
            listening: When this process could have heard them.
            slack: How much longer silence may last.
        """
        flipped: list[tuple[Gateway, bool]] = []
        for gateway in gateways:
            limit = self._missed * self._interval(gateway) + slack
            # Of one that is not there nobody expects a word.
            silent = (
                False if gateway.is_away else is_silent(self.last_heard(gateway), listening, limit)
            )
            if silent is not None and silent != self.is_silent(gateway):
                flipped.append((gateway, silent))
        return flipped

    def take(self, flipped: Iterable[tuple[Gateway, bool]], now: datetime) -> None:
        """Make what `look` returned the present."""
        for gateway, silent in flipped:
            self._silent[gateway.gateway] = silent
            self.presence.set_silent(gateway.gateway, silent=silent, now=now)

    def is_silent(self, gateway: Gateway) -> bool:
        """Return whether a gateway is known as silent."""
        return self._silent.get(gateway.gateway, gateway.silent)

    def last_heard(self, gateway: Gateway) -> datetime | None:
        """Return when a gateway was last heard, None where it never was."""
        return self.presence.last_heard(gateway.gateway) or gateway.last_seen_at

    def heard_without_status(self, gateways: Iterable[Gateway]) -> list[tuple[str, datetime]]:
        """Return who is heard but owes its heartbeat, and when: whoever waits for it cannot know.

        A gateway of which no status came since the start owes one, too.
        """
        found: list[tuple[str, datetime]] = []
        for gateway in gateways:
            at = self.presence.last_heard(gateway.gateway)
            if at is None:
                continue
            told_at = self._told_at.get(gateway.gateway)
            if told_at is None or at - told_at > self._interval(gateway):
                found.append((gateway.gateway, at))
        return found

    def _interval(self, gateway: Gateway) -> timedelta:
        known = self._intervals.get(gateway.gateway)
        if known is not None:
            return known
        if gateway.status_interval_s is not None:
            return timedelta(seconds=gateway.status_interval_s)
        return self._status_interval
