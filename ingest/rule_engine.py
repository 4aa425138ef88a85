# SPDX-License-Identifier: Apache-2.0
"""Rules that remember: people's own conditions, and delays of what events and statuses say.

In memory, staged by transaction as all of `ingest.projection` is; what a restart must know goes to
`rule_memory` in the transaction of what made it so. A condition is asked of each reading, event or
status of its class, and again when its answer changes by time alone.
"""

import heapq
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from edge_agent.messages import AnyLane, Lane
from ingest.alerts import (
    HELD,
    IDLE,
    Active,
    Clear,
    Decision,
    Ending,
    Pending,
    Raise,
    Track,
    elapse,
    step,
)  # fmt: skip
from ingest.conditions import (
    Answer,
    Compiled,
    ConditionError,
    Memory,
    Told,
    compile_condition,
)
from ingest.indicators import spans
from ingest.presence import Presence, SilentGateways
from ingest.rules import Rule, RuleBook, Rules, is_custom
from ingest.states import states_of
from ingest.store.alerts import Change, Standing, Subject
from ingest.store.devices import Device, Gateway, Registry, State
from ingest.store.rules import MemoryKey, MemoryRow

log = logging.getLogger(__name__)

_FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)
_EVER: Final = datetime.min.replace(tzinfo=UTC)
# How often what was begun by an event is compared with readings, which another lane hears.
_LOOK_AGAIN: Final = timedelta(seconds=10)
# Personal data: told to nobody who is not shown the event itself.
_UNTOLD: Final = frozenset({"credential"})


@dataclass(frozen=True, slots=True, eq=False)
class Custom:
    """A rule of people's own, ready to be asked."""

    rule: Rule
    asks: Compiled

    @property
    def lane(self) -> Lane:
        """Who asks it: events are heard on their own lane, where the latest state is known too."""
        return "telemetry" if self.asks.listens == "readings" else "event"


def lane_of(rule: Rule) -> Lane:
    """Return which lane raises and clears the alerts of a rule."""
    if rule.when is None or rule.kind is None:
        return rule.lane
    try:
        return Custom(rule, compile_condition(rule.when, rule.kind)).lane
    except ConditionError:
        return rule.lane


class Kept(NamedTuple):
    """What is kept of a rule on one subject.

    ``params`` are for the alert that is still to come; of a cell, which of its devices has it.
    ``due``, when to ask again, is not in the table: whoever starts asks everybody once, though not
    as of before ``asked``, when something was decided last that no reading told.
    """

    track: Track = IDLE
    memory: Any = None
    due: datetime | None = None
    params: Mapping[str, Any] = {}
    asked: datetime | None = None

    @property
    def runs(self) -> bool:
        """Whether a delay runs."""
        return isinstance(self.track, Pending | Ending)

    def row(self, key: MemoryKey) -> MemoryRow | None:
        """Return what the table has of it: nothing, if nothing but the alert need be known."""
        if not (self.runs or self.memory is not None or self.params or self.asked):
            return None
        since = known_until = None
        match self.track:
            case Pending(since, until) | Ending(_, since, until):
                known_until = None if until == _FOR_EVER else until
            case _:
                pass
        ending = isinstance(self.track, Ending)
        return MemoryRow(*key, self.memory, since, ending, known_until, self.params, self.asked)


_NOTHING: Final = Kept()


class Seen(NamedTuple):
    """What is asked about at one instant: values of the latest reading, and an event if one came.

    ``known_until`` is how long it stays so if nothing else comes; ``told_at`` when the values were
    told, where only time went on. ``heard`` is the device's state, None where it was never heard;
    ``states`` is what becomes of it for rules that ask (`Engine.ask`). With ``is_known`` false the
    values were told too long ago.
    """

    at: datetime
    values: Mapping[str, Any]
    event: Mapping[str, Any] | None = None
    lit: bool | None = None
    due: Callable[[], tuple[bool, datetime | None]] = lambda: (False, None)
    known_until: datetime = _FOR_EVER
    told_at: datetime | None = None
    heard: State | None = None
    states: Mapping[str, str] | None = None
    is_known: bool = True


def key_of(rule: str, subject: Subject, key: str = "") -> MemoryKey:
    """Return under which name something is remembered of a rule on a subject."""
    return MemoryKey(rule, subject.device or f"gateway:{subject.gateway}", key)


def subject_of(device: Device) -> Subject:
    """Return what an alert about ``device`` is about."""
    return Subject(device.kind, device.gateway, device.community, device.area, device.device)


def subject_of_gateway(gateway: Gateway) -> Subject:
    """Return what an alert about ``gateway`` is about."""
    return Subject("gateway", gateway.gateway, gateway.community, gateway.community)


class Engine:
    """The rules of one lane that remember."""

    def __init__(
        self, lane: AnyLane, rules: RuleBook, registry: Registry, presence: Presence
    ) -> None:
        """Start empty; `restore` brings what the tables hold."""
        self._lane = lane
        self._silent = SilentGateways(presence)
        self._kept: dict[MemoryKey, Kept] = {}
        # Of which a delay runs, by gateway, in the order in which it began.
        self._running: dict[str, dict[MemoryKey, None]] = {}
        # When to ask again, each once; that it is later by now is seen when it is taken out.
        self._due: list[tuple[datetime, MemoryKey]] = []
        self._scheduled: dict[MemoryKey, datetime] = {}
        self._taken: list[tuple[datetime, MemoryKey]] = []
        # Of that, what is due here and not yet there: by gateway, and whether a state is asked for.
        self._early: dict[tuple[str, bool], list[tuple[datetime, MemoryKey]]] = {}
        # What asks for states, by gateway of which it is not known whether it is heard.
        self._waiting: dict[str, list[tuple[datetime, MemoryKey]]] = {}
        self._staged: dict[MemoryKey, Kept] = {}
        self._failed: set[str] = set()
        # Decided within the flush, and what of memory it changed.
        self.changes: list[Change] = []
        self.memory: dict[MemoryKey, MemoryRow | None] = {}
        self.follow(rules, registry)

    def follow(self, rules: RuleBook, registry: Registry) -> None:
        """Go on with other rules, or another registry."""
        self._rules = rules
        self._registry = registry
        self._custom: dict[Rules, Mapping[str, tuple[Custom, ...]]] = {}
        self._looked_at: dict[str, frozenset[str]] = {}
        self._asks_states: bool | None = None
        self._silent.follow(registry.gateways)
        self._in_cell: dict[tuple[str, str], str] = {}
        for early in self._early.values():  # devices may be behind another gateway now
            for entry in early:
                heapq.heappush(self._due, entry)
        self._early = {}
        for gateway in list(self._waiting):
            self._wait_no_more(gateway)

    def restore(self, standing: Iterable[Standing], rows: Iterable[MemoryRow]) -> None:
        """Replace everything by what the tables hold."""
        self._kept, self._running, self._due, self._taken = {}, {}, [], []
        self._scheduled, self._early, self._waiting = {}, {}, {}
        self._unstage()
        for one in standing:
            key = MemoryKey(one.rule, one.device or f"gateway:{one.gateway}", one.key)
            self._kept[key] = Kept(Active(one.raised_at))
        for row in rows:
            key = MemoryKey(row.rule, row.subject, row.key)
            if self.subject(key) is None and not key.subject.startswith("cell:"):
                continue  # another process's
            track = self._kept.get(key, _NOTHING).track
            until = row.known_until or _FOR_EVER
            if row.since is not None:
                if not row.ending:
                    track = Pending(row.since, until)
                elif isinstance(track, Active):
                    track = Ending(track.raised_at, row.since, until)
            self._take(key, Kept(track, row.memory, None, row.params, row.asked))
            if is_custom(key.rule) and self._lane == "event":
                self._schedule(key, _EVER)  # of readings `begin` asks

    def custom(self, area: str, kind: str) -> tuple[Custom, ...]:
        """Return people's own rules on a device class in an area that this lane asks."""
        return self._in(area).get(kind, ())

    def _in(self, area: str) -> Mapping[str, tuple[Custom, ...]]:
        rules = self._rules.at(area)
        found = self._custom.get(rules)
        if found is None:
            found = self._custom[rules] = self._compile(rules)
        return found

    def _in_all(self) -> list[Mapping[str, tuple[Custom, ...]]]:
        if not self._rules.has_custom:
            return []
        return [self._in(area) for area in {one.area for one in self._registry.devices.values()}]

    def _compile(self, rules: Rules) -> Mapping[str, tuple[Custom, ...]]:
        found: dict[str, tuple[Custom, ...]] = {}
        for rule in rules:
            if rule.enabled and rule.when is not None and rule.kind is not None:
                try:
                    one = Custom(rule, compile_condition(rule.when, rule.kind))
                except ConditionError as error:
                    # It fitted when it was saved: an upgrade changed what can be asked.
                    log.warning("left out rule=%s: %s", rule.id, error)
                    continue
                if one.lane == self._lane:
                    for kind in one.asks.kinds:
                        found[kind] = (*found.get(kind, ()), one)
                else:
                    names = self._looked_at.get(rule.kind, frozenset())
                    self._looked_at[rule.kind] = names | one.asks.names
        return found

    def looked_at(self) -> Mapping[str, frozenset[str]]:
        """Return, by device class, the fields of readings that rules of another lane look at."""
        self._in_all()
        return self._looked_at

    def subject(self, key: MemoryKey) -> Subject | None:
        """Return whom something is remembered of; None: nobody who is registered here."""
        if key.subject.startswith("gateway:"):
            gateway = self._registry.gateways.get(key.subject.removeprefix("gateway:"))
            return None if gateway is None else subject_of_gateway(gateway)
        device = self._registry.devices.get(key.subject)
        return None if device is None else subject_of(device)

    def stands(self, key: MemoryKey) -> bool:
        """Whether anything is remembered: an alert that stands, a delay, a count."""
        return key in self._staged or key in self._kept

    def advance(
        self,
        rule: Rule,
        subject: Subject,
        holds: bool | None,
        seen: Seen,
        received_at: datetime,
        *,
        key: str = "",
        params: Mapping[str, Any] | None = None,
        ended: str | None = None,
    ) -> None:
        """Let a built-in condition of an event or a status say whether it holds.

        ``ended`` is why it ended otherwise than by itself: then at once, and the alert says so.
        """
        name = key_of(rule.id, subject, key)
        before = self._now(name)
        if before.track is IDLE and not holds:
            return
        told = dict(params or {}) if holds else before.params
        kept = Kept(params=told)
        self._step(rule, subject, name, before, holds, seen, received_at, kept, ended)

    def ask(self, one: Custom, device: Device, seen: Seen, received_at: datetime) -> bool:
        """Ask one of people's own conditions; return whether it is calm.

        Calm: as long as the device says the same and nothing is remembered, the answer stays.
        """
        subject = subject_of(device)
        own = key_of(one.rule.id, subject)
        if one.asks.memory_of == "cell":
            return self._ask_cell(one, device, seen, received_at)
        if one.asks.states:
            heard, silent = seen.heard, device.gateway in self._silent.now()
            states = states_of(
                device.life,
                heard=heard is not None,
                silent=heard is not None and heard.silent,
                gateway_silent=silent,
                fault=None if heard is None else heard.fault,
            )
            seen = seen._replace(states=states)
        before = self._now(own)
        answer = self._answer(one, device, seen, before.memory)
        if answer is None:
            return False
        after = Kept(
            IDLE,
            answer.memory,
            self._again(one, answer, seen.at),
            (answer.holds and _told(one, seen)) or before.params,
        )
        seen = seen._replace(known_until=_known_until(one, answer, device, seen))
        kept = self._step(one.rule, subject, own, before, answer.holds, seen, received_at, after)
        return one.asks.is_calm and kept == _NOTHING

    def _ask_cell(self, one: Custom, device: Device, seen: Seen, received_at: datetime) -> bool:
        """Ask what a cell's devices share; the alert is on the device that made it true."""
        cell = MemoryKey(one.rule.id, f"cell:{device.area}")
        before = self._now(cell)
        if before.params and before.params["device"] not in self._registry.devices:
            return False  # another process has the device that has the alert
        answer = self._answer(one, device, seen, before.memory)
        if answer is None:
            return False
        holder = self._registry.devices[before.params.get("device", device.device)]
        subject = subject_of(holder)
        own = key_of(one.rule.id, subject)
        has = self._now(own)
        after = Kept(params=(answer.holds and _told(one, seen)) or has.params)
        seen = seen._replace(known_until=_known_until(one, answer, device, seen))
        kept = self._step(one.rule, subject, own, has, answer.holds, seen, received_at, after)
        due = self._again(one, answer, seen.at)
        due = _earliest(due, kept.track, one.rule, seen)
        params = {} if kept.track is IDLE else {"device": holder.device}
        asked = before.asked
        if kept.track is not has.track:
            asked = seen.at if asked is None else max(asked, seen.at)
        self._stage(cell, before, Kept(IDLE, answer.memory, due, params, asked))
        return False

    def _answer(
        self, one: Custom, device: Device, seen: Seen, memory: Memory | None
    ) -> Answer | None:
        due, due_until = seen.due() if device.kind == "lamp" else (None, None)
        told = Told(
            device=device.device,
            kind=device.kind,
            cell=device.area,
            place=device.place,
            at=seen.at,
            values=seen.values,
            event=seen.event,
            lit=seen.lit,
            due=due,
            due_until=due_until,
            seen=seen.told_at,
            states=seen.states or {},
            is_known=seen.is_known,
        )
        try:
            return one.asks.ask(told, memory)
        except Exception:  # what people wrote must not stop what devices say from being stored
            if one.rule.id not in self._failed:
                self._failed.add(one.rule.id)
                log.exception("rule fails rule=%s device=%s", one.rule.id, told.device)
            return None

    def _again(self, one: Custom, answer: Answer, at: datetime) -> datetime | None:
        """Return when to ask again; what also looks at readings is told of them now and then."""
        due = answer.until if answer.until is not None and answer.until > at else None
        if one.asks.listens == "both" and answer.memory is not None:
            look = at + _LOOK_AGAIN
            return look if due is None else min(due, look)
        return due

    def _step(
        self,
        rule: Rule,
        subject: Subject,
        name: MemoryKey,
        before: Kept,
        holds: bool | None,
        seen: Seen,
        received_at: datetime,
        after: Kept,
        ended: str | None = None,
    ) -> Kept:
        track, decisions = step(
            before.track,
            holds,
            seen.at,
            on_delay=rule.on_delay,
            off_delay=rule.off_delay if ended is None else timedelta(),
            known_until=seen.known_until,
        )
        for decision in decisions:
            if ended is not None and isinstance(decision, Clear):
                decision = replace(decision, reason=ended)
            # What a delay ended before was so without what is told now.
            is_over = decision.reason == HELD
            params = before.params if is_over else after.params
            self._decide(rule, subject, name, decision, received_at, params)
        kept = after._replace(
            track=track, params=after.params if isinstance(track, Pending) else {}
        )
        if rule.when is not None and (
            seen.told_at is not None or seen.event is not None or seen.states is not None
        ):
            # Nothing else lets time pass for a condition that was asked without a reading.
            kept = kept._replace(due=_earliest(kept.due, track, rule, seen))
        if seen.told_at is not None:
            kept = kept._replace(asked=seen.at if decisions else before.asked)
        elif kept.memory is not None and seen.event is not None:
            # What it remembers may be older: asked as of then, it would decide once more.
            decided = before.asked or seen.at
            kept = kept._replace(asked=max(decided, seen.at) if decisions else before.asked)
        self._stage(name, before, kept)
        return kept

    def pass_time(self, times: Mapping[str, tuple[datetime, datetime]]) -> None:
        """Let time pass for the delays that run behind some gateways.

        Args:
            times: By gateway, how late it is there, and when that was learned.
        """
        names = {name: None for gateway in times for name in self._running.get(gateway, ())}
        for name in [*names, *(name for name in self._staged if name not in names)]:
            before, subject = self._now(name), self.subject(name)
            if subject is None or subject.gateway not in times or not before.runs:
                continue
            rule = self._rules.get(name.rule, subject.area)
            if rule is None:
                continue
            now, received_at = times[subject.gateway]
            if self._asks_state(name, subject):
                now = min(now, _known(before.track))  # what the state says then is asked then
            track, decision = elapse(
                before.track, now, on_delay=rule.on_delay, off_delay=rule.off_delay
            )
            if decision is not None:
                self._decide(rule, subject, name, decision, received_at, before.params)
            params: Mapping[str, Any] = before.params if isinstance(track, Pending) else {}
            self._stage(name, before, before._replace(track=track, params=params))

    def _asks_state(self, name: MemoryKey, of: Subject | Device) -> bool:
        """Whether a rule on a subject asks for its state."""
        found = self.custom(of.area, of.kind)
        return any(one.asks.states and one.rule.id == name.rule for one in found)

    def _wait_no_more(self, gateway: str) -> None:
        for due, name in self._waiting.pop(gateway):
            self._schedule(name, due)

    @property
    def may_wait(self) -> bool:
        """Whether a delay may run anywhere; else no time need be told."""
        return bool(self._running or self._staged)

    @property
    def waiting(self) -> Iterable[str]:
        """The gateways behind which delays run, or something is due here and not yet there."""
        return {**self._running, **{gateway: None for gateway, _ in self._early}}

    @property
    def is_idle(self) -> bool:
        """Whether nobody need be asked without having spoken: events alone are nothing."""
        return self._lane != "telemetry" or not self._rules.has_custom

    @property
    def asks_states(self) -> bool:
        """Whether any rule of this lane asks for a device's state."""
        if self._asks_states is None:
            self._asks_states = any(
                one.asks.states
                for by_kind in self._in_all()
                for of in by_kind.values()
                for one in of
            )
        return self._asks_states

    def look_for_gateways(self) -> None:
        """Ask anew of devices whose gateway fell silent or is heard again, as of the next look."""
        if not self.asks_states:
            return
        for gateway in [one for one in self._waiting if self._silent.is_known(one)]:
            self._wait_no_more(gateway)
        turned = self._silent.take_turned()
        if turned:
            for device in self._registry.devices.values():
                if device.gateway in turned:
                    self.begin(device, None)

    def begin(self, device: Device, since: datetime | None) -> None:
        """Ask once what time alone may change: nobody knows any more when it is due.

        What asks for the state is asked as of now (while a delay of it runs, as late as it is
        behind the gateway), and all else as of ``since``; not at all where that is None.
        """
        for one in self.custom(device.area, device.kind):
            name = key_of(one.rule.id, subject_of(device))
            if one.asks.states:
                kept = self._kept.get(name)
                if kept is not None and kept.due is not None:
                    self._kept[name] = kept._replace(due=None)  # it would wait for that
                self._schedule(name, _EVER)
            elif since is not None and not one.asks.is_calm and one.asks.memory_of == "device":
                self._schedule(name, since)

    def take_due(
        self,
        now: datetime,
        most: int,
        time_at: Callable[[str, bool], datetime] = lambda gateway, of_state: _FOR_EVER,
    ) -> Iterator[tuple[Device, Custom, datetime]]:
        """Yield what is to be asked again, and as of when.

        Args:
            now: How late it is.
            most: How much is looked at.
            time_at: How late it is behind a gateway, where that is not as late as here: for what
                asks for a device's state (True), and for all else.
        """
        for behind, early in list(self._early.items()):
            there = time_at(*behind)
            while early and early[0][0] <= there:
                heapq.heappush(self._due, heapq.heappop(early))
            if not early:
                del self._early[behind]
        for _ in range(most):
            if not self._due or self._due[0][0] > now:
                return
            at, name = heapq.heappop(self._due)
            if self._scheduled.get(name) != at:
                continue
            device = self._device(name)
            there = now
            if device is not None:
                of_state = self._lane == "telemetry" and self._asks_state(name, device)
                # What the state is shows once it is known whether the gateway is heard.
                if of_state and not self._silent.is_known(device.gateway):
                    del self._scheduled[name]
                    self._waiting.setdefault(device.gateway, []).append((at, name))
                    continue
                there = time_at(device.gateway, of_state)
                if at > there:
                    early = self._early.setdefault((device.gateway, of_state), [])
                    heapq.heappush(early, (at, name))
                    continue
            del self._scheduled[name]
            kept = self._now(name)
            if kept.due is not None and kept.due > at:
                self._schedule(name, kept.due)  # it was asked meanwhile
                continue
            self._taken.append((at, name))
            if device is None:
                continue
            if at == _EVER and self._lane == "telemetry":
                # Begun: what its state was before is not known, unless a delay ran.
                at = min(now, _known(kept.track))
                if isinstance(kept.track, Pending | Ending):
                    # What ended it may still be on its way.
                    at = min(at, max(there, kept.track.since))
            for one in self.custom(device.area, device.kind):
                if one.rule.id == name.rule:
                    yield device, one, self._as_of(kept, at)

    def take_overdue(self, one: Custom, device: Device, at: datetime) -> Iterator[datetime]:
        """Yield as of when a rule is to be asked before it is told what a device saw at ``at``.

        What time alone changed until then comes first: else it would depend on how fast messages
        come whether it is noticed.
        """
        in_cell = one.asks.memory_of == "cell"
        name = MemoryKey(one.rule.id, f"cell:{device.area}" if in_cell else device.device)
        while (due := self._scheduled.get(name)) is not None:
            as_of = self._as_of(self._now(name), due)
            if as_of > at or (due == _EVER and one.asks.states):  # as of now, not of then
                return
            del self._scheduled[name]
            self._taken.append((due, name))
            yield as_of

    def _as_of(self, kept: Kept, due: datetime) -> datetime:
        """Return as of when to ask: never before what is remembered, that would be late."""
        changed = _EVER if kept.memory is None else spans.from_us(kept.memory["at"])
        return max(kept.due or due, changed, kept.asked or _EVER)

    def _device(self, name: MemoryKey) -> Device | None:
        """Return who is asked in whose name: of a cell, any device of the rule's class."""
        devices = self._registry.devices
        if not name.subject.startswith("cell:"):
            return devices.get(name.subject)
        cell = name.subject.removeprefix("cell:")
        rule = self._rules.find(name.rule, cell)
        if not self._in_cell:
            self._in_cell = {(one.area, one.kind): one.device for one in devices.values()}
        kind = None if rule is None else rule.kind
        return None if kind is None else devices.get(self._in_cell.get((cell, kind), ""))

    def _schedule(self, name: MemoryKey, due: datetime) -> None:
        known = self._scheduled.get(name)
        if known is None or due < known:
            self._scheduled[name] = due
            heapq.heappush(self._due, (due, name))

    def forget(self, names: Iterable[MemoryKey]) -> None:
        """Drop what is remembered, and written no more: its rule is gone, or another."""
        for name in names:
            self._take(name, _NOTHING)

    @property
    def remembered(self) -> Iterable[MemoryKey]:
        """Of what anything is remembered."""
        return list(self._kept)

    def commit(self) -> None:
        """Make what was staged the present."""
        for name, kept in self._staged.items():
            self._take(name, kept)
        self._taken = []
        self._unstage()

    def rollback(self) -> None:
        """Forget what was staged."""
        for due, name in self._taken:
            self._schedule(name, due)
        self._taken = []
        self._unstage()

    def _unstage(self) -> None:
        self._staged = {}
        self.changes = []
        self.memory = {}

    def _now(self, name: MemoryKey) -> Kept:
        return self._staged.get(name) or self._kept.get(name, _NOTHING)

    def _stage(self, name: MemoryKey, before: Kept, after: Kept) -> None:
        if after == before:
            return
        self._staged[name] = after
        if after.due is not None:
            self._schedule(name, after.due)
        row = after.row(name)
        if row != before.row(name):
            self.memory[name] = row

    def _take(self, name: MemoryKey, kept: Kept) -> None:
        if kept == _NOTHING:
            self._kept.pop(name, None)
        else:
            self._kept[name] = kept
        subject = self.subject(name)
        if subject is not None:
            running = self._running.setdefault(subject.gateway, {})
            if kept.runs:
                running[name] = None
            else:
                running.pop(name, None)
            if not running:
                del self._running[subject.gateway]
        if kept.due is not None:
            self._schedule(name, kept.due)

    def _decide(
        self,
        rule: Rule,
        subject: Subject,
        name: MemoryKey,
        decision: Decision,
        received_at: datetime,
        params: Mapping[str, Any],
    ) -> None:
        told = {key: value for key, value in params.items() if value is not None}
        self.changes.append(
            Change(
                rule,
                subject,
                decision,
                received_at,
                name.key,
                told if isinstance(decision, Raise) else {},
            )
        )


def _known_until(one: Custom, answer: Answer, device: Device, seen: Seen) -> datetime:
    """Return how long an answer stands if nothing comes: as long as the values it rests on."""
    told_at = seen.told_at or seen.at
    until = told_at + device.max_silence if one.asks.names and seen.is_known else _FOR_EVER
    return until if answer.until is None else min(until, answer.until)


def _told(one: Custom, seen: Seen) -> dict[str, Any]:
    """Return what a person is told of what made a condition true."""
    said = {name: seen.values[name] for name in sorted(one.asks.names) if name in seen.values}
    states = seen.states or {}
    said |= {name: states[name] for name in sorted(one.asks.states) if name in states}
    return said | {name: value for name, value in (seen.event or {}).items() if name not in _UNTOLD}


def _known(track: Track) -> datetime:
    """Return how long what a delay rests on is known; for ever where none runs."""
    return track.known_until if isinstance(track, Pending | Ending) else _FOR_EVER


def _earliest(due: datetime | None, track: Track, rule: Rule, seen: Seen) -> datetime | None:
    """Return when to ask again, now that a delay may run."""
    match track:
        case Pending(since):
            deadline = since + rule.on_delay
        case Ending(_, since):
            deadline = since + rule.off_delay
        case _:
            return due
    if seen.states is not None and seen.at < _known(track):
        # Once the values say nothing any more, the state alone may say the same.
        deadline = min(deadline, _known(track))
    return deadline if due is None else min(due, deadline)
