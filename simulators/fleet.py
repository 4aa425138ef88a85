# SPDX-License-Identifier: Apache-2.0
"""Many real agents in one process: they replay the past, then go on live until they are stopped.

Every reading takes the real way: driver, sampler, outbox, broker. The fleet only decides what time
it is for an agent (the past) or lets it decide itself (live), cuts lines, and keeps the ledger.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from edge_agent.agent import Agent
from edge_agent.clock import Clock
from edge_agent.outbox import LANES, Accepted
from simulators.chance import Draw
from simulators.expect import outage_min_us
from simulators.fate import Fate
from simulators.faults import Fault, FaultKind
from simulators.kinds import AnyDriver, driver, timeline
from simulators.link import Link
from simulators.members import Broker, Member, configuration
from simulators.play import Player
from simulators.scenario import Recurring, Scenario, Trouble
from simulators.spans import HOUR, SECOND, instant, micros, seconds
from simulators.timetable import Timetable
from simulators.truth import Ledger
from simulators.world import World

log = logging.getLogger(__name__)

# Messages a gateway may have under way while the past is replayed: the server's answers set the
# pace, and a heartbeat sent in between is not kept waiting long enough to be missed.
BACKLOG_MAX: Final = 20
DRAIN_MAX_S: Final = 60.0
_LOOK_S: Final = 0.02
_REPORT_S: Final = 0.5
# Recurring trouble is decided, and written down, this long before it happens.
_AHEAD_US: Final = 30 * SECOND
_LOCAL_HOSTS: Final = frozenset({"127.0.0.1", "localhost"})

Report = Callable[[Mapping[str, object]], None]


class Fleet:
    """The agents of a whole city."""

    def __init__(
        self,
        scenario: Scenario,
        world: World,
        ledger: Ledger,
        broker: Broker,
        data: Path,
        clock: Clock,
        report: Report,
        *,
        on_cue: bool = False,
    ) -> None:
        """Nothing is opened before `run`.

        Args:
            scenario: What went and goes wrong.
            world: The city, with the faults that the ledger knows.
            ledger: Where everything accepted is written down.
            broker: Where the agents publish.
            data: Each gateway keeps its outbox in ``gateways/<gateway>`` of this folder.
            clock: What the agents take for the time.
            report: Called with each step of progress.
            on_cue: Whether each line of the timetable waits for `cue`, not for its second.
        """
        self._scenario = scenario
        self._world = world
        self._ledger = ledger
        self._broker = broker
        self._data = data
        self._clock = clock
        self._report = report
        self._members: list[Member] = []
        self._fate = Fate(world)
        self._timetable = Timetable(self._now_us)
        self._accepted_before = ledger.accepted
        self._stop = asyncio.Event()
        self._live = False
        self._player = Player(
            scenario.live.timetable, world, ledger, self, self._now_us, self._timetable
        )
        self.on_cue = on_cue

    def stop(self) -> None:
        """Ask `run` to come to an end in good order."""
        self._stop.set()

    async def run(self, seconds_live: float | None = None) -> bool:
        """Replay what is missing, go on live, and end in good order.

        Args:
            seconds_live: Stop by itself after this long; None: only when asked to.

        Returns:
            Whether everything accepted is known to be stored.

        Raises:
            EdgeError: An outbox cannot be opened, or another process holds it.
            BaseExceptionGroup: A part of it failed; the ledger is complete up to that point.
        """
        try:
            await self._open()
            async with asyncio.TaskGroup() as parts:
                publishers = [
                    parts.create_task(member.agent.run(sample=False)) for member in self._members
                ]
                with suppress(_Stopped):
                    await self._replay()
                    await self._go_live(parts, seconds_live)
                drained = await self._drain()
                for publisher in publishers:
                    publisher.cancel()
        finally:
            for member in self._members:
                member.agent.close()
                if member.link is not None:
                    await member.link.close()
        return drained

    # -- beginning ------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Open outboxes and lines, and bring the ledger up to date with them."""
        self._ledger.recover()
        local = self._broker.host in _LOCAL_HOSTS
        for gateway in self._world.city.gateways:
            link = Link(self._broker.host, self._broker.port) if local else None
            if link is not None:
                await link.open()
            drivers = [
                driver(self._world, device) for device in self._world.city.behind(gateway.gateway)
            ]
            config = configuration(gateway, self._world.city, self._broker, link, self._data)
            agent = await asyncio.to_thread(Agent, config, drivers, self._clock)
            agent.accepted = partial(self._take, gateway.gateway)
            self._members.append(Member(gateway, agent, drivers, link))
            self._take_over(gateway.gateway, agent)
        progress = self._ledger.progress()
        for member in self._members:
            member.told_us = progress.get(member.gateway.gateway)

    def _take_over(self, gateway: str, agent: Agent) -> None:
        for lane in LANES:
            state = agent.outbox.lane(lane)
            held = agent.outbox.pending(lane, after=0, limit=state.held)
            missed = self._ledger.take_over(
                gateway, lane, state.stream, state.next, [(one.seq, one.payload) for one in held]
            )
            if missed:
                log.warning(
                    "ledger made up for a crash gateway=%s lane=%s messages=%d",
                    gateway,
                    lane,
                    missed,
                )

    def _take(self, gateway: str, accepted: Accepted) -> None:
        """Write down what an agent accepted; called in the thread that sampled."""
        self._ledger.accept(gateway, accepted.lane, accepted.stream, accepted.seq, accepted.payload)
        if self._live:
            self._ledger.commit()

    # -- the past -------------------------------------------------------------------------------

    async def _replay(self) -> None:
        """Let every agent live through what is missing, in steps, until the present is reached."""
        step_us = seconds(self._scenario.history.step_s)
        now_us = self._now_us()
        us = self._resume(now_us, step_us)
        self._draw_past(us, now_us)
        done, total = 0, len(range(us, now_us, step_us)) + 1
        telling = asyncio.create_task(self._report_history(lambda: (done, total)))
        try:
            while True:
                await self._until(lambda: self._backlog() <= BACKLOG_MAX)
                us = min(us, self._now_us())
                await self._step_all(us)
                done += 1
                # The last step is done when all of it is stored.
                total = max(total, done + 1)
                if self._now_us() - us < step_us:
                    break
                us += step_us
            await self._until(lambda: self._depth() == 0)
        finally:
            telling.cancel()
        self._tell_history(total, total)

    def _resume(self, now_us: int, step_us: int) -> int:
        """Have every device remember where it was; return the instant of the first step."""
        oldest_us = now_us - int(self._scenario.history.hours * HOUR)
        starts: list[int] = []
        for member in self._members:
            told = member.told_us
            if told is None:
                starts.append(min(max(self._world.city.in_service_us, oldest_us), now_us))
            elif told < oldest_us:
                self._ledger.black_out(member.gateway.gateway, (told, oldest_us))
                member.told_us = None
                starts.append(oldest_us)
            else:
                for one in member.drivers:
                    one.resume(instant(told))
                starts.append(min(told + step_us, now_us))
        return min(starts)

    def _draw_past(self, first_us: int, now_us: int) -> None:
        """Draw the faults of what will be replayed, and write them down before they happen."""
        told = [member.told_us for member in self._members if member.told_us is not None]
        since = max([first_us, int(self._ledger.get("drawn_until_us") or 0), *told])
        faults = self._fate.past((since, now_us), self._scenario.history.a_day)
        self._ledger.add_faults(faults)
        self._ledger.set("drawn_until_us", now_us)
        self._ledger.commit()
        self._world.add(faults)

    async def _step_all(self, us: int) -> None:
        """Let every agent sample once, at the same instant of the past."""
        late = [one for one in self._members if one.told_us is None or one.told_us < us]
        await asyncio.gather(*(asyncio.to_thread(self._step, one, us) for one in late))

    def _step(self, member: Member, us: int) -> None:
        member.agent.sample(instant(us))
        member.told_us = us
        self._ledger.commit()

    async def _report_history(self, progress: Callable[[], tuple[int, int]]) -> None:
        """Tell how far the replay is, also while it waits for the server, until cancelled."""
        while True:
            self._tell_history(*progress())
            await asyncio.sleep(_REPORT_S)

    def _tell_history(self, done: int, total: int) -> None:
        readings = self._ledger.accepted - self._accepted_before
        self._report({"phase": "history", "done": done, "total": total, "readings": readings})

    # -- live -----------------------------------------------------------------------------------

    async def _go_live(self, parts: asyncio.TaskGroup, seconds_live: float | None) -> None:
        """Let the agents measure until stopped, then take every device's last word."""
        now_us = self._now_us()
        self._ledger.begin_session(now_us)
        self._live = True
        self._plan(now_us)
        for member in self._members:
            for one in member.drivers:
                self._expect(one, now_us)
        tasks = [parts.create_task(self._timetable.run())]
        tasks += [parts.create_task(member.agent.measure()) for member in self._members]
        self._report({"phase": "live", "at": _text(instant(now_us))})
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds_live):
                await self._stop.wait()
        self._stop.set()
        tasks[0].cancel()
        await self._mend_all()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._live = False
        end_us = self._now_us()
        for member in self._members:
            # What each device says last settles what is known up to the end, for all alike.
            member.agent.sampler.heartbeat = timedelta(microseconds=1)
        await self._step_all(end_us)
        self._ledger.end_session(end_us)

    def _expect(self, one: AnyDriver, after_us: int) -> None:
        """Have a device wake its agent at the instant at which something next happens to it."""
        # A timeline of its own: the driver's belongs to the agent's thread.
        life = timeline(self._world, one.timeline.device)

        def look(us: int) -> None:
            following = life.next_after(us)
            if following is None:
                # Nothing today or tomorrow.
                self._timetable.add(us + HOUR, look)
            else:
                self._timetable.add(following, happen)

        def happen(us: int) -> None:
            one.wake()
            look(us)

        look(after_us)

    def _plan(self, now_us: int) -> None:
        """Decide the script, and have programme and timetable decided as they come."""
        script = sorted(
            enumerate(self._scenario.live.script),
            # A gateway that will be cut off must be known before its devices are chosen.
            key=lambda item: (item[1].fault != FaultKind.GATEWAY_SILENT, item[0]),
        )
        for index, trouble in script:
            draw = self._world.draw("script", now_us, index)
            self._cause(trouble, now_us + seconds(trouble.at_s), draw)
        self._player.restore()
        if not self.on_cue:
            for line in self._scenario.live.timetable:
                self._timetable.add(now_us + seconds(line.second), lambda _: self.cue())
        for index, recurring in enumerate(self._scenario.live.programme):
            self._recur(recurring, index, now_us, 0)

    def _recur(self, trouble: Recurring, index: int, live_us: int, turn: int) -> None:
        at_us = live_us + seconds(trouble.from_s) + turn * seconds(trouble.every_s)

        def decide(us: int) -> None:
            del us
            self._cause(trouble, at_us, self._world.draw("programme", live_us, index, turn))
            self._recur(trouble, index, live_us, turn + 1)

        self._timetable.add(at_us - _AHEAD_US, decide)

    def _cause(self, trouble: Trouble, at_us: int, draw: Draw) -> None:
        """Choose where trouble happens, write it down, and let it happen."""
        communities = list(self._world.city.communities)
        first = draw.below(len(communities))
        for turn in range(trouble.times):
            start = at_us + turn * seconds(trouble.apart_s)
            span = start, start + seconds(trouble.for_s)
            offset = (first + turn) % len(communities)
            order = communities[offset:] + communities[:offset]
            faults = self._fate.live(trouble.fault, order, span, trouble.detail, draw)
            if not faults:
                log.info("nowhere free for trouble fault=%s", trouble.fault)
                continue
            self._ledger.add_faults(faults)
            self._world.add(faults)
            for fault in faults:
                self._announce(fault)

    def _announce(self, fault: Fault) -> None:
        if fault.kind is FaultKind.GATEWAY_SILENT:
            self._timetable.add(fault.from_us, lambda _: self.cut(fault.target))
            self._timetable.add(fault.to_us, lambda _: self.mend(fault.target))
            return
        # Every change a fault brings, for timelines that were asked before it was known.
        self._expect(self._driver(fault.target), fault.from_us - 1)

    # -- the timetable --------------------------------------------------------------------------

    def cue(self) -> None:
        """Play the next line of the timetable; nothing after the last, nor before it is live."""
        line = self._player.play() if self._live else None
        if line is not None:
            self._report({"phase": "timetable", "second": line.second, "line": str(line)})

    def wake(self, device: str) -> None:
        """Have a device ask for a poll."""
        self._driver(device).wake()

    def _driver(self, device: str) -> AnyDriver:
        return next(
            one for member in self._members for one in member.drivers if one.device == device
        )

    def _member(self, gateway: str) -> Member:
        return next(member for member in self._members if member.gateway.gateway == gateway)

    # -- lines ----------------------------------------------------------------------------------

    def cut(self, gateway: str) -> None:
        """Cut a gateway's link; its agent goes on measuring."""
        member = self._member(gateway)
        if member.link is None:
            log.warning("line cannot be cut, broker is remote gateway=%s", gateway)
            return
        member.cut_us = self._now_us()
        self._ledger.cut(gateway, member.cut_us)
        member.link.cut()
        log.info("line cut gateway=%s", gateway)

    def mend(self, gateway: str) -> None:
        """Mend it; what its outbox kept is delivered."""
        member = self._member(gateway)
        if member.link is not None and member.cut_us is not None:
            member.link.mend()
            self._ledger.healed(gateway, self._now_us())
            member.cut_us = None
            log.info("line mended gateway=%s", gateway)

    async def _mend_all(self) -> None:
        """Mend every line that is cut, once its silence has surely been noticed."""
        for member in self._members:
            if member.cut_us is not None:
                shown_us = outage_min_us(self._world.city.status_interval_s)
                noticed_us = member.cut_us + shown_us + SECOND
                await asyncio.sleep(max(0.0, (noticed_us - self._now_us()) / SECOND))
                self.mend(member.gateway.gateway)

    # -- end ------------------------------------------------------------------------------------

    async def _drain(self) -> bool:
        """Wait until everything accepted is known to be stored; return whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_MAX_S):
                await _look_until(lambda: self._depth() == 0)
        left = self._depth()
        if left:
            log.error("not known as stored messages=%d (is ingest running?)", left)
        return not left

    async def _until(self, check: Callable[[], bool]) -> None:
        """Wait for a condition, or for being stopped.

        Raises:
            _Stopped: The latter.
        """
        await _look_until(lambda: check() or self._stop.is_set())
        if self._stop.is_set():
            raise _Stopped

    def _backlog(self) -> int:
        return max((member.agent.outbox.depth() for member in self._members), default=0)

    def _depth(self) -> int:
        return sum(member.agent.outbox.depth() for member in self._members)

    def _now_us(self) -> int:
        return micros(self._clock.now())


class _Stopped(Exception):
    """The run was asked to stop."""


async def _look_until(check: Callable[[], bool]) -> None:
    """Return when ``check`` is true; outboxes do not call, they are looked at."""
    while True:
        if check():
            return
        await asyncio.sleep(_LOOK_S)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
