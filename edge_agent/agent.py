# SPDX-License-Identifier: Apache-2.0
"""The agent of one gateway: drivers -> sampler -> outbox -> publisher."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from pydantic import TypeAdapter

from edge_agent.clock import YEAR_CREDIBLE_MIN, Clock, StepWatch, boot_id, credible
from edge_agent.config import AgentConfig
from edge_agent.errors import NotAccepted, OutboxFull
from edge_agent.kinds import Driver, Event
from edge_agent.lanes import Accepted, AlarmKey, Draft, Unstamped
from edge_agent.messages import Config
from edge_agent.outbox import Outbox
from edge_agent.pseudonyms import Pseudonymizer, load_key
from edge_agent.publisher import Publisher
from edge_agent.sampler import Sampler, Step, event_draft

log = logging.getLogger(__name__)

OUTBOX_NAME: Final = "outbox.db"
# Events that wait in memory for an outbox that takes none.
EVENTS_HELD_MAX: Final = 1_000
EXPIRE_INTERVAL_S: Final = 3_600.0
# While the clock is not set, drivers are polled in a time of its own that begins here: one that
# the contract can hold, and in which instants differ as by the monotonic clock.
_BLIND_EPOCH: Final = datetime(YEAR_CREDIBLE_MIN, 1, 1, tzinfo=UTC)
_EVENT: Final = TypeAdapter[Event](Event)


class Agent:
    """One gateway's agent: what the command line and every simulator construct.

    Use `run`, which goes on for ever; or `sample` in time of your own while ``run(sample=False)``
    publishes. Only one of the two samples at a time; a lock sees to it.
    """

    def __init__(
        self,
        config: AgentConfig,
        drivers: Sequence[Driver],
        clock: Clock,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the outbox and attach to the drivers.

        Args:
            config: What this gateway is, and its limits.
            drivers: Its devices.
            clock: What it takes for the time.
            monotonic: Seconds since the machine was started, by a clock that is never set.

        Raises:
            ConfigError: The pseudonym key cannot be used.
            OutboxUnavailable: The outbox cannot be opened, or another agent holds it.
            ValueError: Two drivers for one device.
        """
        self._config = config
        self._clock = clock
        self._monotonic = monotonic
        self._watch = StepWatch(clock.now(), monotonic())
        self._expired_at_s = monotonic()
        self._sampling = threading.Lock()
        self._woken: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._refusing = False
        self._events: list[Draft] = []
        self._blind: list[Unstamped] = []
        self._occurrences: dict[AlarmKey, str | None] = {}
        # Called for each accepted message, after the COMMIT, in the thread that sampled.
        self.accepted: Callable[[Accepted], None] | None = None
        pseudonymizer = Pseudonymizer(load_key(config.pseudonym.key_file))
        self.outbox = Outbox(
            config.data / OUTBOX_NAME, clock=clock.now, limit_bytes=config.outbox.limit_bytes
        )
        # Whether events are held that were seen before the clock was set.
        self._holding = bool(self.outbox.unstamped())
        self.sampler = Sampler(
            drivers,
            heartbeat=timedelta(seconds=config.sampling.heartbeat_s),
            pseudonym=pseudonymizer.pseudonym,
            occurrences=self.outbox.occurrences(),
        )
        self.publisher = Publisher(config, self.outbox, clock, on_config=self._configure)
        for driver in drivers:
            driver.attach(partial(self._wake_for, driver.device))

    def sample(self, now: datetime, devices: Collection[str] | None = None) -> list[Accepted]:
        """Take one sampling step at ``now``: poll, decide, and commit once what is worth sending.

        Blocks as long as the drivers and the disk do.

        Args:
            now: The instant of the step; each call no earlier than the one before, unless the
                clock was set back.
            devices: Poll only these; None polls all.

        Returns:
            What was accepted: on disk, and therefore promised.

        Raises:
            OutboxFull: Telemetry did not fit and was not accepted; the events of this step were,
                if they fitted, and went to `accepted`.
            OutboxUnavailable: The disk failed; nothing was accepted.

            Either way events not accepted come along with the next step.
        """
        with self._sampling:
            if self._holding or self._blind:
                self._tell(self._stamp(now))
            step = self.sampler.take(now, devices)
            self._keep_events(step, now)
            try:
                accepted = self._append(step.telemetry)
            except OutboxFull as full:
                if full.lane == "telemetry":
                    self._tell(self._append(()))
                raise
            self.sampler.keep(step)
            self._tell(accepted)
            return accepted

    async def run(self, *, sample: bool = True) -> None:
        """Publish, and unless ``sample`` is False also measure, until cancelled.

        Cancelling stops cleanly: the step under way is finished, the server is told that the
        gateway is off, the outbox keeps what is not yet stored. Call `close` afterwards.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.publisher.run(), name=f"publish {self._config.gateway}")
            if sample:
                tasks.create_task(self.measure(), name=f"measure {self._config.gateway}")

    async def measure(self) -> None:
        """Sample at every poll interval, and at once for a driver that calls its wake function."""
        interval_s = self._config.sampling.poll_interval_s
        loop = asyncio.get_running_loop()
        self._loop = loop
        # A thread of its own: a slow device must not take one from others, nor they from it.
        with ThreadPoolExecutor(1, f"sample-{self._config.gateway}") as thread:
            try:
                due = loop.time()
                while True:
                    if loop.time() >= due:
                        # Missed polls (a slow device, a suspended box) are not made up for.
                        due = max(due + interval_s, loop.time())
                        self._take_woken()
                        await self._step(thread, None)
                    elif woken := self._take_woken():
                        await self._step(thread, woken)
                    else:
                        await self._woken_or(due)
            finally:
                self._loop = None

    def close(self) -> None:
        """Close the outbox; what it holds is published by the next agent that opens it."""
        self.outbox.close()

    async def _step(self, thread: ThreadPoolExecutor, devices: Collection[str] | None) -> None:
        loop = asyncio.get_running_loop()
        now = self._clock.now()
        set_s = self._watch.look(now, self._monotonic())
        if set_s:
            log.warning("clock was set gateway=%s seconds=%+.0f", self._config.gateway, set_s)
        try:
            if not credible(now):
                await loop.run_in_executor(thread, self._sample_blind, devices)
                self._refuse(
                    f"the clock says {now:%Y-%m-%d}: set it, or wait for the time service;"
                    " events are kept meanwhile"
                )
                return
            await loop.run_in_executor(thread, self.sample, now, devices)
            await loop.run_in_executor(thread, self._expire, now)
        except NotAccepted as error:
            self._refuse(str(error))
        else:
            if self._refusing:
                self._refusing = False
                log.info("accepting again gateway=%s", self._config.gateway)

    def _sample_blind(self, devices: Collection[str] | None) -> None:
        """Sample while the clock is not set: hold the events, with the monotonic clock's word.

        Raises:
            OutboxUnavailable: The disk failed; the events come along with the next step.
        """
        with self._sampling:
            now = _BLIND_EPOCH + timedelta(seconds=self._monotonic())
            step = self.sampler.take(now, devices)
            self._occurrences.update(step.occurrences)
            self._blind.extend(
                Unstamped(
                    boot_id(),
                    (event.at - _BLIND_EPOCH) // timedelta(microseconds=1),
                    event.model_dump_json(exclude_none=True),
                )
                for event in step.events
            )
            del self._blind[:-EVENTS_HELD_MAX]
            if self._blind:
                self.outbox.hold(self._blind, self._occurrences)
                self._blind.clear()
                self._occurrences.clear()
                self._holding = True

    def _stamp(self, now: datetime) -> list[Accepted]:
        """Make messages of the events held, now that the clock is set.

        Raises:
            NotAccepted: The outbox took none of them; they stay held.
        """
        held = [*self.outbox.unstamped(), *self._blind]
        up = timedelta(seconds=self._monotonic())
        drafts: list[Draft] = []
        for one in held:
            # What an earlier run of the machine saw, it saw before this one began.
            then = timedelta(microseconds=one.monotonic_us if one.boot == boot_id() else 0)
            event = _EVENT.validate_json(one.event)
            at = min(now, now - up + then)
            drafts.append(event_draft(event.model_copy(update={"at": at}), now))
        accepted = self.outbox.append(drafts, self._occurrences, stamped=held)
        self._blind.clear()
        self._occurrences.clear()
        self._holding = False
        log.info(
            "clock is set, events stamped gateway=%s count=%d", self._config.gateway, len(held)
        )
        return accepted

    def _expire(self, now: datetime) -> None:
        """Have telemetry evicted that is too old, now and then, by a clock that can be trusted.

        A clock that was set a moment ago may be wrong by years, and would evict everything.
        """
        monotonic_s = self._monotonic()
        if monotonic_s - self._expired_at_s < EXPIRE_INTERVAL_S:
            return
        if self._watch.steady_s(monotonic_s) < EXPIRE_INTERVAL_S:
            return
        self._expired_at_s = monotonic_s
        self._tell(self.outbox.expire(now - timedelta(hours=self._config.outbox.max_age_h)))

    def _keep_events(self, step: Step, now: datetime) -> None:
        """Hold what the hardware tells only once until the outbox takes it."""
        self._occurrences.update(step.occurrences)
        self._events.extend(event_draft(event, now) for event in step.events)
        excess = len(self._events) - EVENTS_HELD_MAX
        if excess > 0:
            del self._events[:excess]
            log.error("events lost, outbox takes none count=%d", excess)

    def _append(self, telemetry: Sequence[Draft]) -> list[Accepted]:
        accepted = self.outbox.append([*self._events, *telemetry], self._occurrences)
        self._events.clear()
        self._occurrences.clear()
        return accepted

    def _refuse(self, reason: str) -> None:
        """Tell people, when it begins, that nothing is accepted."""
        if not self._refusing:
            self._refusing = True
            log.error("nothing is accepted gateway=%s reason=%s", self._config.gateway, reason)

    def _tell(self, accepted: Sequence[Accepted]) -> None:
        if not accepted:
            return
        if self.accepted is not None:
            for one in accepted:
                self.accepted(one)
        self.publisher.notify()

    def _wake_for(self, device: str) -> None:
        """Have ``device`` sampled at once; called by drivers, from any thread."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop closed meanwhile: nothing to wake
                loop.call_soon_threadsafe(self._woke, device)

    def _woke(self, device: str) -> None:
        self._woken.add(device)
        self._wake.set()

    async def _woken_or(self, deadline: float) -> None:
        """Return when a driver calls, at the latest at the loop's ``deadline``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._wake.wait()
        self._wake.clear()

    def _take_woken(self) -> set[str]:
        woken, self._woken = self._woken, set()
        return woken

    def _configure(self, config: Config) -> None:
        if config.heartbeat_s is not None:
            self.sampler.heartbeat = timedelta(seconds=config.heartbeat_s)
