# SPDX-License-Identifier: Apache-2.0
"""What a rule would have raised: asked of stored history before it is kept.

The same conditions and the same alert machine as when devices tell it, over readings and events as
they are stored. Devices are taken as they are registered now. Numbers are compared as the tables
keep them (most as 32-bit floats).
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from psycopg import Connection

from ingest.alerts import IDLE, Clear, Decision, Ending, Pending, Raise, Track, elapse, step
from ingest.conditions import Compiled, Memory, Told, compile_condition
from ingest.indicators import lighting, spans
from ingest.rules import Rule
from ingest.states import states_of
from ingest.store import states
from ingest.store.chunks import Indexed
from ingest.store.history import Row, Watched, stored, watched

RANGE_MAX: Final = timedelta(days=31)
EXAMPLES: Final = 10
_FOR_EVER: Final = timedelta(days=36_500)
_NEVER_HEARD: Final = "unknown"
# Rows between two looks at the clock.
_LOOK_AT_CLOCK: Final = 1_000


class DryRunError(ValueError):
    """A question that cannot be answered; ``rule`` is a code, ``bounds`` what would be allowed."""

    def __init__(self, rule: str, **bounds: object) -> None:
        """Keep them apart from the text."""
        super().__init__(rule)
        self.rule = rule
        self.bounds = bounds


@dataclass(frozen=True, slots=True)
class Budget:
    """Where a dry run stops: at so many stored rows, or after so long."""

    rows: int = 2_000_000
    seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Example:
    """One alert that there would have been; ``cleared_at`` is None where it would still stand."""

    device: str
    raised_at: datetime
    cleared_at: datetime | None
    values: Mapping[str, Any]

    def length(self, end: datetime) -> timedelta:
        """Return how long it would have stood, up to the end of the range."""
        return (self.cleared_at or end) - self.raised_at


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule would have raised.

    Attributes:
        alerts: How many alerts; raised again within the rule's ``reopen_s``, it is the same one.
        occurrences: How often it would have been raised.
        per_day: Alerts by local date.
        noisiest: The devices with the most, most first.
        first: The earliest.
        longest: Those that would have stood longest.
        devices: How many devices the rule is about; each is asked whole, or not at all.
        devices_asked: Of how many the history was looked at.
        rows: How many readings and events were looked at.
        until: Up to when: earlier than asked where the latest readings wait for their index
            (``reading_index = "after-close"``).
        truncated: Why not all devices were looked at.
    """

    alerts: int
    occurrences: int
    per_day: Mapping[date, int]
    noisiest: Sequence[tuple[str, int]]
    first: Sequence[Example]
    longest: Sequence[Example]
    devices: int
    devices_asked: int
    rows: int
    until: datetime
    truncated: Literal["rows", "time"] | None


def dry_run(
    conn: Connection,
    rule: Rule,
    kind: str,
    area: str,
    start: datetime,
    end: datetime,
    *,
    budget: Budget = Budget(),
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Return what a rule would have raised from ``start`` on and before ``end``.

    Args:
        conn: Outside a transaction; held for as long as the budget allows.
        rule: With a condition.
        kind: The device class it is about.
        area: Its devices, and those of all areas below. Whoever asks may see all of it.
        start: An aware instant of device time.
        end: Likewise, at most 31 days later.
        budget: What it may cost.
        clock: Seconds that pass.

    Raises:
        DryRunError: ``rule.no_condition``, ``time.order`` or ``time.too_long``;
            ``state.no_history``: it asks who was never heard, and since when somebody was is kept
            nowhere.
        ConditionError: The rule's condition has mistakes.
    """
    if rule.when is None:
        raise DryRunError("rule.no_condition")
    if end <= start:
        raise DryRunError("time.order", min=start)
    if end - start > RANGE_MAX:
        raise DryRunError("time.too_long", max=start + RANGE_MAX)
    compiled = compile_condition(rule.when, kind)
    if "state" in compiled.states and _NEVER_HEARD in compiled.words:
        raise DryRunError("state.no_history", found=_NEVER_HEARD)
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if compiled.listens != "events":
            within_reach = Indexed().until(conn, datetime.now(UTC))
            end = end if within_reach is None else max(start, min(end, within_reach))
        run = _Run(rule, compiled, budget, clock, clock() + budget.seconds, _Tally(end))
        devices = watched(conn, area, sorted(compiled.kinds))
        if compiled.states:
            run.past = states.load(conn, [device.id for device in devices], start, run.tally.end)
        asked = 0
        for group in _groups(devices, compiled):
            if not run.replay(conn, group, start, end):
                break
            asked += len(group)
        return run.tally.outcome(len(devices), asked, run.rows, run.truncated)


@dataclass(slots=True)
class _Run:
    rule: Rule
    compiled: Compiled
    budget: Budget
    clock: Callable[[], float]
    deadline: float
    tally: "_Tally"
    past: states.Past | None = None
    rows: int = 0
    truncated: Literal["rows", "time"] | None = None

    def replay(
        self, conn: Connection, group: Sequence[Watched], start: datetime, end: datetime
    ) -> bool:
        """Take one device or cell from start to end; return whether the budget allowed it."""
        course = _Course(self.rule, self.compiled, {device.id: device for device in group})
        if self.past is not None:
            (device,) = group
            course.changes = deque(self.past.of(device.id, device.device))
        if self._is_late():
            return False
        rows = stored(
            conn,
            group,
            start,
            end,
            readings=self.compiled.listens != "events",
            events=self.compiled.listens != "readings",
        )
        for row in rows:
            self.rows += 1
            if self.rows > self.budget.rows:
                self.truncated = "rows"
                return False
            if self.rows % _LOOK_AT_CLOCK == 0 and self._is_late():
                return False
            course.tell(row)
        course.finish(end)
        self.tally.add(course.alerts, group[0].place.time_zone)
        return True

    def _is_late(self) -> bool:
        if self.clock() > self.deadline:
            self.truncated = "time"
        return self.truncated is not None


def _groups(devices: Sequence[Watched], compiled: Compiled) -> Iterator[Sequence[Watched]]:
    """Yield the devices that share a memory: each alone, or those of a cell."""
    if compiled.memory_of == "device":
        yield from ((device,) for device in devices)
    else:
        for _, group in groupby(devices, attrgetter("cell")):
            yield tuple(group)


@dataclass(slots=True)
class _Course:
    """One device, or one cell, from the start of the range to its end."""

    rule: Rule
    compiled: Compiled
    devices: Mapping[int, Watched]
    alerts: list[list[Example]] = field(default_factory=list[list[Example]])
    # Of a rule that asks for states: what will be known of the device, and what is.
    changes: deque[states.Known] = field(default_factory=deque[states.Known])
    _known: states.Known | None = None
    _track: Track = IDLE
    _memory: Memory | None = None
    # What was told last, of whom and when.
    _latest: tuple[Watched, datetime, Told] | None = None
    _asked_at: datetime | None = None
    _states: Mapping[str, str] = field(default_factory=dict[str, str])
    _until: datetime | None = None
    _values: dict[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])

    def tell(self, row: Row) -> None:
        """Go on to a reading or an event."""
        self._change(row.at)
        self.pass_time(row.at)
        device = self.devices[row.device_id]
        if not row.is_event:
            self._values[row.device_id] = row.said
        told = _told(device, row, self._values.get(row.device_id, {}))
        self._latest = (device, row.at, told)
        self._ask(told, device)

    def finish(self, end: datetime) -> None:
        """Go on to the end of the range."""
        self._change(end)
        self.pass_time(end)

    def _change(self, to: datetime) -> None:
        """Ask again after each change of what is known without a reading."""
        while self.changes and self.changes[0].at <= to:
            self.pass_time(self.changes[0].at)
            known = self._known = self.changes.popleft()
            if self._latest is None:
                (device,) = self.devices.values()
                told = Told(device.device, device.kind, device.cell, device.place, known.at)
                # As if it had been told too long ago.
                self._latest = (device, known.at - device.max_silence, told)
            self._ask_again(known.at)

    def pass_time(self, to: datetime) -> None:
        """Let time pass without news: ask again where the answer changes by itself."""
        while self._latest is not None and (at := self._again()) is not None and at <= to:
            device, seen, _ = self._latest
            if self.compiled.names and at > seen + device.max_silence and self._known is None:
                break  # what was told is not known any more
            self._ask_again(at)
        self._track, decided = elapse(
            self._track, to, on_delay=self.rule.on_delay, off_delay=self.rule.off_delay
        )
        if decided is not None:
            self._note(decided)

    def _again(self) -> datetime | None:
        """Return when to ask though nothing is told: the answer, or what it rests on, changes."""
        until, track = self._until, self._track
        if self._known is None or self._asked_at is None or not isinstance(track, Pending | Ending):
            return until
        if track.known_until <= self._asked_at:
            return until
        return track.known_until if until is None else min(until, track.known_until)

    def _ask_again(self, at: datetime) -> None:
        assert self._latest is not None
        device, seen, told = self._latest
        due, due_until = _due(device, at)
        again = told._replace(at=at, event=None, seen=seen, due=due, due_until=due_until)
        if self._known is not None:
            again = again._replace(is_known=at < seen + device.max_silence)
        self._ask(again, device)

    def _ask(self, told: Told, device: Watched) -> None:
        if self._known is not None:
            said = self._values.get(device.id)
            told = told._replace(
                states=states_of(
                    self._known.life,
                    heard=None if said is None else True,
                    silent=self._known.silent,
                    gateway_silent=self._known.gateway_silent,
                    fault=(said or {}).get("fault"),
                )
            )
            self._states = {
                name: told.states[name] for name in self.compiled.states & told.states.keys()
            }
        self._asked_at = told.at
        answer = self.compiled.ask(told, self._memory)
        self._memory, self._until = answer.memory, answer.until
        seen = told.seen or told.at
        # What an event says stands until something ends it; what a reading says, while it is valid.
        silence = device.max_silence if self.compiled.names and told.is_known else _FOR_EVER
        known_until = seen + silence
        if answer.until is not None:
            known_until = min(known_until, answer.until)
        self._track, decided = step(
            self._track,
            answer.holds,
            told.at,
            on_delay=self.rule.on_delay,
            off_delay=self.rule.off_delay,
            known_until=known_until,
        )
        for decision in decided:
            self._note(decision)

    def _note(self, decision: Decision) -> None:
        match decision:
            case Raise(at):
                assert self._latest is not None
                _, _, told = self._latest
                values = {**told.values, **self._states, **(told.event or {})}
                example = Example(told.device, at, None, values)
                last = self.alerts[-1][-1].cleared_at if self.alerts else None
                if last is not None and at - last <= self.rule.reopen:
                    self.alerts[-1].append(example)
                else:
                    self.alerts.append([example])
            case Clear(at):
                example = self.alerts[-1].pop()
                self.alerts[-1].append(
                    Example(example.device, example.raised_at, at, example.values)
                )


def _told(device: Watched, row: Row, values: Mapping[str, Any]) -> Told:
    lit = due = due_until = None
    if device.kind == "lamp":
        lit = lighting.is_lit(values.get("lit"), values.get("power_w"), device.rated_power_w)
        due, due_until = _due(device, row.at)
    return Told(
        device.device,
        device.kind,
        device.cell,
        device.place,
        row.at,
        values,
        row.said if row.is_event else None,
        lit,
        due,
        due_until,
    )


def _due(device: Watched, at: datetime) -> tuple[bool | None, datetime | None]:
    """Return whether a lamp's light is due, and until when this stays so within the night."""
    if device.kind != "lamp":
        return None, None
    at_us = spans.to_us(at)
    night = lighting.night_of(at_us, device.place.time_zone)
    for start, end in lighting.due(device.programme, device.place, night):
        if at_us < start:
            return False, spans.from_us(start)
        if at_us < end:
            return True, spans.from_us(end)
    return False, spans.from_us(lighting.night_span(night, device.place.time_zone)[1])


@dataclass(slots=True)
class _Tally:
    """Counts alerts, and keeps the few that people are shown."""

    end: datetime
    occurrences: int = 0
    per_day: Counter[date] = field(default_factory=Counter[date])
    per_device: Counter[str] = field(default_factory=Counter[str])
    first: list[Example] = field(default_factory=list[Example])
    longest: list[Example] = field(default_factory=list[Example])

    def add(self, alerts: Sequence[Sequence[Example]], zone: str) -> None:
        """Add the alerts of one device or cell, each as its occurrences."""
        tz = ZoneInfo(zone)
        whole = [
            replace(occurrences[0], cleared_at=occurrences[-1].cleared_at) for occurrences in alerts
        ]
        self.occurrences += sum(map(len, alerts))
        for one in whole:
            self.per_day[one.raised_at.astimezone(tz).date()] += 1
            self.per_device[one.device] += 1
        self.first = sorted([*self.first, *whole], key=_since)[:EXAMPLES]
        self.longest = sorted([*self.longest, *whole], key=self._length)[:EXAMPLES]

    def _length(self, one: Example) -> tuple[timedelta, datetime, str]:
        return -one.length(self.end), *_since(one)

    def outcome(
        self,
        devices: int,
        devices_asked: int,
        rows: int,
        truncated: Literal["rows", "time"] | None,
    ) -> Outcome:
        """Return what was counted."""
        noisiest = sorted(self.per_device.items(), key=lambda item: (-item[1], item[0]))
        return Outcome(
            self.per_device.total(),
            self.occurrences,
            dict(sorted(self.per_day.items())),
            noisiest[:EXAMPLES],
            self.first,
            self.longest,
            devices,
            devices_asked,
            rows,
            self.end,
            truncated,
        )


def _since(one: Example) -> tuple[datetime, str]:
    return one.raised_at, one.device
