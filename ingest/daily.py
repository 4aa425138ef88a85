# SPDX-License-Identifier: Apache-2.0
"""Keeps the days: opened, computed while they run, once more when over, again when marked.

A day is opened when it begins, computed now and then while it runs, and once more when it is over;
after that whoever stores something that belongs to it marks it (`ingest.store.community_days`).
The number is the same however often and whenever it is computed (invariant 5), so marks may be
generous, and a crash costs nothing but time.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from ingest import metrics
from ingest.days import Places, compute
from ingest.domains import DOMAINS
from ingest.errors import Unavailable
from ingest.indicator_alerts import IndicatorAlerts
from ingest.indicators.spans import from_us, to_us
from ingest.rules import RuleBook
from ingest.store import (
    area_days,
    chunks,
    claim,
    community_days,
    connect,
    device_durations,
    devices,
    driver_errors,
    exclusions,
    road_nights,
)
from ingest.store.area_days import Status
from ingest.store.community_days import CommunityDay, DayKey
from ingest.store.devices import Registry

log = logging.getLogger(__name__)

_IDLE_S: Final = 1.0
_RETRY_S: Final = 5.0
_OPEN_INTERVAL: Final = timedelta(seconds=60)
_AT_ONCE: Final = 20
# Days that nobody opened are looked for at the start, and after the database was away.
_MISSING_INTERVAL: Final = timedelta(hours=1)
_MISSING_REACH: Final = timedelta(days=92)
# What runs is brought up to date this often, or less often where that would take more than this
# share of what ingest takes of a processor otherwise, and more than this share of what it leaves.
RUNNING_INTERVAL: Final = timedelta(seconds=30)
RUNNING_SHARE: Final = 0.05
RUNNING_FREE: Final = 0.1
# A day that could not be computed is left alone for so long: others come first.
FAILED_INTERVAL: Final = timedelta(minutes=10)
# All that is due takes no more than this share, however much it is.
SHARE: Final = 0.2
_DAY: Final = timedelta(days=1)


def running_interval(total_s: float, busy: float) -> timedelta:
    """Return how often all days that run can be brought up to date.

    Args:
        total_s: How long once takes, seconds; what the database does for it included.
        busy: How much of a processor ingest takes otherwise.
    """
    share = max(RUNNING_SHARE * busy, RUNNING_FREE * (1.0 - busy))
    return max(RUNNING_INTERVAL, timedelta(seconds=total_s / share))


class DailyKeeper:
    """Keeps the days: opens, computes, settles; a thread of its own beside the lanes."""

    def __init__(
        self, dsn: str, registry: Callable[[], Registry], rules: RuleBook | None = None
    ) -> None:
        """Take where to store, whom to ask for the registry, and rules; None: no alerts."""
        self._dsn = dsn
        self._registry = registry
        self._alerts = None if rules is None else IndicatorAlerts(rules)
        self._places = Places(Registry(-1))
        self._stopping = threading.Event()
        self._opened_at = datetime.min.replace(tzinfo=UTC)
        self._running: Mapping[DayKey, datetime] = {}
        # How long the last running day of each domain took; seconds.
        self._costs: dict[str, float] = {}
        self._busy = 0.0
        self._watched = (time.monotonic(), time.process_time())
        self._failed: dict[DayKey, datetime] = {}
        self._indexed = chunks.Indexed()

    def stop(self) -> None:
        """Let `run` return after the day in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Keep the days until `stop`."""
        while not self._stopping.is_set():
            try:
                with connect(self._dsn, "days") as conn:
                    _claim(conn)
                    while not self._stopping.wait(_IDLE_S):
                        self._keep_all(conn)
            except Unavailable as error:
                log.warning("database lost, retrying keeper=days error=%s", error)
                self._stopping.wait(_RETRY_S)

    def _keep_all(self, conn: psycopg.Connection) -> None:
        """Do what is due, in pauses: a city has thousands of days, and the lanes come first."""
        begun = time.thread_time()
        while self.keep(conn, datetime.now(UTC)):
            spent_s = time.thread_time() - begun
            if self._stopping.wait(spent_s * (1 / SHARE - 1)):
                return
            begun = time.thread_time()

    def keep(self, conn: psycopg.Connection, now: datetime) -> int:
        """Do what is due at ``now``; return how much that was: days computed, marks made."""
        registry = self._registry()
        with driver_errors():
            if registry.revision != devices.registry_revision(conn):
                return 0  # what marked a day may be a change that is not read yet
            if registry.revision != self._places.revision:
                self._places = Places(registry)
                self._opened_at = datetime.min.replace(tzinfo=UTC)
            if self._alerts is not None:
                self._alerts.follow(conn, registry.revision, list(self._places.zones), now)
            if not now - _OPEN_INTERVAL < self._opened_at <= now:
                is_new = not now - _MISSING_INTERVAL < self._opened_at <= now
                self._opened_at = now
                self._watch()
                self._running = self._places.running(to_us(now))
                missed = self._missed(conn, now) if is_new else {}
                with conn.transaction():
                    community_days.open_days(conn, sorted({**missed, **self._running}.items()))
            self._failed = {
                key: since
                for key, since in self._failed.items()
                if now - FAILED_INTERVAL < since <= now
            }
            marked = exclusions.restate(conn)
            until = self._indexed.until(conn, now)
            due = community_days.due(
                conn, now, _AT_ONCE, running=self._interval, besides=self._failed, until=until
            )
            for day in due:
                if self._stopping.is_set():
                    break
                self._keep_one(conn, day, now, until)
        metrics.DAYS_FAILED.set(len(self._failed))
        return len(due) + marked

    def _missed(self, conn: psycopg.Connection, now: datetime) -> dict[DayKey, datetime]:
        """Return the days that went by while nobody opened them: unknown, but due all the same."""
        today = now.date()
        found: dict[DayKey, datetime] = {}
        for key in community_days.missing(conn, today - _MISSING_REACH, today + _DAY):
            zone = self._places.zones.get(key.community)
            if zone is not None and key.domain in DOMAINS:
                ends_at = from_us(DOMAINS[key.domain].span(key.day, zone)[1])
                if ends_at <= now:
                    found[key] = ends_at
        return found

    def _keep_one(
        self, conn: psycopg.Connection, day: CommunityDay, now: datetime, until: datetime | None
    ) -> None:
        """Compute one day; where that fails others go on, and it is tried again later."""
        started = time.monotonic()
        try:
            keep_day(conn, self._places, day, now, until, self._alerts)
        except (
            psycopg.errors.QueryCanceled,
            psycopg.DataError,
            psycopg.IntegrityError,
            ValueError,
        ):
            # A day with more rows than can be read in time, or with one that no rule foresaw. What
            # ends the connection is not of the day and goes on up.
            self._failed[day.key] = now
            log.exception("day not computed domain=%s day=%s community=%s", *day.key)
        if day.key in self._running:
            self._costs[day.domain] = time.monotonic() - started

    def _watch(self) -> None:
        """Note how much of a processor this process took lately, days not counted."""
        at, spent = time.monotonic(), time.process_time() - time.thread_time()
        before_at, before_spent = self._watched
        if at > before_at:
            self._busy = max(0.0, (spent - before_spent) / (at - before_at))
        self._watched = (at, spent)

    @property
    def _interval(self) -> timedelta:
        total_s = sum(self._costs.get(key.domain, 0.0) for key in self._running)
        return running_interval(total_s, self._busy)


def _claim(conn: psycopg.Connection) -> None:
    """Claim the days: sums of months are added up from days, of which two at once would miss some.

    Raises:
        Unavailable: Another process has them.
    """
    with driver_errors():
        if not claim(conn, "days"):
            raise Unavailable("another ingest keeps the days, waiting for it")


def keep_day(
    conn: psycopg.Connection,
    places: Places,
    day: CommunityDay,
    now: datetime,
    until: datetime | None = None,
    alerts: IndicatorAlerts | None = None,
) -> int:
    """Compute one day and store it; return how many numbers changed.

    Args:
        conn: Not in a transaction.
        places: The registry, with its history.
        day: Which.
        now: The time.
        until: Younger readings are not asked for (`chunks.Indexed`); None: up to ``now``.
        alerts: Who asks rules of a day that is over, in its transaction; None: nobody.
    """
    come = now if until is None or not DOMAINS[day.domain].kinds else min(now, until)
    status: Status = "final" if day.is_over else "provisional"
    indicators = DOMAINS[day.domain].indicators
    started = time.monotonic()
    with conn.transaction():
        # One snapshot for all that is read; what is stored after it marks the day again.
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        outcome = compute(conn, places, day.key, to_us(come))
        stored = area_days.load(conn, [one.id for one in indicators], day.day, day.community)
    with conn.transaction():
        changed = area_days.store(
            conn,
            stored,
            outcome.tallies,
            day.day,
            rule_versions={one.id: one.rule_version for one in indicators},
            status=status,
            reason=day.dirty,
            now=now,
        )
        names = [one.id for one in indicators if one.shape == "times"]
        device_durations.replace(conn, names, day.key, outcome.durations)
        if day.domain == "lighting":
            road_nights.replace(conn, day.key, outcome.roads)
        community_days.settle(conn, day, now)
        if alerts is not None and day.is_over:
            alerts.ask(conn, day.community, day.domain, now)
    metrics.DAYS.labels(day.domain).observe(time.monotonic() - started)
    return changed
