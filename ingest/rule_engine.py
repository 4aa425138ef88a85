# SPDX-License-Identifier: Apache-2.0
"""People's own rules, asked; and delays of what events and statuses say to the product's own.

In memory, staged by transaction as all of `ingest.projection` is. A condition is asked of each
reading, event or status of its class, and again when its answer changes by time alone.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from edge_agent.messages import AnyLane
from ingest.alerts import (
    HELD,
    IDLE,
    Clear,
    Decision,
    Ending,
    Pending,
    Raise,
    Track,
    elapse,
    step,
)  # fmt: skip
from ingest.conditions import Answer, Memory, Told
from ingest.custom_rules import Custom, CustomRules
from ingest.indicators import spans
from ingest.presence import Presence, SilentGateways
from ingest.rule_agenda import Agenda
from ingest.rule_memory import NOTHING, Kept, RuleMemory, key_of, key_of_cell, subject_of
from ingest.rules import Rule, RuleBook, is_custom
from ingest.states import states_of
from ingest.store.alerts import Change, Standing, Subject
from ingest.store.devices import Device, Registry, State
from ingest.store.rules import MemoryKey, MemoryRow

log = logging.getLogger(__name__)

_FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)
_EVER: Final = datetime.min.replace(tzinfo=UTC)
# How often what was begun by an event is compared with readings, which another lane hears.
_LOOK_AGAIN: Final = timedelta(seconds=10)
# Personal data: told to nobody who is not shown the event itself.
_UNTOLD: Final = frozenset({"credential"})


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


class Engine:
    """The ``rules`` of one lane that remember; ``custom`` are people's own.

    Staged for the tables: ``changes`` of alerts, and ``rows`` of what is remembered.
    """

    def __init__(
        self, lane: AnyLane, rules: RuleBook, registry: Registry, presence: Presence
    ) -> None:
        """Start empty; `restore` brings what the tables hold."""
        self._lane = lane
        self._silent = SilentGateways(presence)
        self.custom = CustomRules(lane, rules, registry)
        self._agenda = Agenda()
        self._memory = RuleMemory(self._agenda, registry)
        self._failed: set[str] = set()
        self.changes: list[Change] = []
        self.follow(rules, registry)

    def follow(self, rules: RuleBook, registry: Registry) -> None:
        """Go on with other rules, or another registry."""
        self.rules = rules
        self._registry = registry
        self.custom.follow(rules, registry)
        self._memory.follow(registry)
        self._silent.follow(registry.gateways)
        self._in_cell: dict[tuple[str, str], str] = {}
        self._agenda.recall()

    def restore(self, standing: Iterable[Standing], rows: Iterable[MemoryRow]) -> None:
        """Replace everything by what the tables hold."""
        self.changes = []
        self._agenda.clear()
        for name in self._memory.restore(standing, rows):
            if is_custom(name.rule) and self._lane == "event":
                self._agenda.add(name, _EVER)  # of readings `begin` asks

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
        before = self._memory.of(name)
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
        before = self._memory.of(own)
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
        return one.asks.is_calm and kept == NOTHING

    def _ask_cell(self, one: Custom, device: Device, seen: Seen, received_at: datetime) -> bool:
        """Ask what a cell's devices share; the alert is on the device that made it true."""
        cell = key_of_cell(one.rule.id, device.area)
        before = self._memory.of(cell)
        if before.params and before.params["device"] not in self._registry.devices:
            return False  # another process has the device that has the alert
        answer = self._answer(one, device, seen, before.memory)
        if answer is None:
            return False
        holder = self._registry.devices[before.params.get("device", device.device)]
        subject = subject_of(holder)
        own = key_of(one.rule.id, subject)
        has = self._memory.of(own)
        after = Kept(params=(answer.holds and _told(one, seen)) or has.params)
        seen = seen._replace(known_until=_known_until(one, answer, device, seen))
        kept = self._step(one.rule, subject, own, has, answer.holds, seen, received_at, after)
        due = self._again(one, answer, seen.at)
        due = _earliest(due, kept.track, one.rule, seen)
        params = {} if kept.track is IDLE else {"device": holder.device}
        asked = before.asked
        if kept.track is not has.track:
            asked = seen.at if asked is None else max(asked, seen.at)
        self._memory.stage(cell, before, Kept(IDLE, answer.memory, due, params, asked))
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
        self._memory.stage(name, before, kept)
        return kept

    def pass_time(self, times: Mapping[str, tuple[datetime, datetime]]) -> None:
        """Let time pass for the delays that run behind some gateways.

        Args:
            times: By gateway, how late it is there, and when that was learned.
        """
        for name in self._memory.may_run_behind(times):
            before, subject = self._memory.of(name), self._memory.subject(name)
            if subject is None or subject.gateway not in times or not before.runs:
                continue
            rule = self.rules.get(name.rule, subject.area)
            if rule is None:
                continue
            now, received_at = times[subject.gateway]
            if self.custom.asks_for_state(name.rule, subject.area, subject.kind):
                now = min(now, _known(before.track))  # what the state says then is asked then
            track, decision = elapse(
                before.track, now, on_delay=rule.on_delay, off_delay=rule.off_delay
            )
            if decision is not None:
                self._decide(rule, subject, name, decision, received_at, before.params)
            params: Mapping[str, Any] = before.params if isinstance(track, Pending) else {}
            self._memory.stage(name, before, before._replace(track=track, params=params))

    @property
    def may_wait(self) -> bool:
        """Whether a delay may run anywhere; else no time need be told."""
        return self._memory.may_run

    @property
    def waiting(self) -> Collection[str]:
        """The gateways behind which delays run, or something is due here and not yet there."""
        return dict.fromkeys([*self._memory.runs_behind, *self._agenda.put_off_behind]).keys()

    @property
    def is_idle(self) -> bool:
        """Whether nobody need be asked without having spoken: events alone are nothing."""
        return self._lane != "telemetry" or not self.rules.has_custom

    def look_for_gateways(self) -> None:
        """Ask anew of devices whose gateway fell silent or is heard again, as of the next look."""
        if not self.custom.asks_states:
            return
        for gateway in self._agenda.waits_for:
            if self._silent.is_known(gateway):
                self._agenda.wait_no_more(gateway)
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
        for one in self.custom.of(device.area, device.kind):
            name = key_of(one.rule.id, subject_of(device))
            if one.asks.states:
                self._memory.forget_due(name)
                self._agenda.add(name, _EVER)
            elif since is not None and not one.asks.is_calm and one.asks.memory_of == "device":
                self._agenda.add(name, since)

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
        agenda = self._agenda
        agenda.catch_up(time_at)
        for at, name in agenda.due(now, most):
            device, there = self._device(name), now
            if device is not None:
                of_state = self._lane == "telemetry" and self.custom.asks_for_state(
                    name.rule, device.area, device.kind
                )
                # What the state is shows once it is known whether the gateway is heard.
                if of_state and not self._silent.is_known(device.gateway):
                    agenda.wait(at, name, device.gateway)
                    continue
                there = time_at(device.gateway, of_state)
                if at > there:
                    agenda.put_off(at, name, (device.gateway, of_state))
                    continue
            kept = self._memory.of(name)
            if kept.due is not None and kept.due > at:
                agenda.move(name, kept.due)  # it was asked meanwhile
                continue
            agenda.take(at, name)
            if device is None:
                continue
            if at == _EVER and self._lane == "telemetry":
                # Begun: what its state was before is not known, unless a delay ran.
                at = min(now, _known(kept.track))
                if isinstance(kept.track, Pending | Ending):
                    # What ended it may still be on its way.
                    at = min(at, max(there, kept.track.since))
            for one in self.custom.of(device.area, device.kind):
                if one.rule.id == name.rule:
                    yield device, one, self._as_of(kept, at)

    def take_overdue(self, one: Custom, device: Device, at: datetime) -> Iterator[datetime]:
        """Yield as of when a rule is to be asked before it is told what a device saw at ``at``.

        What time alone changed until then comes first: else it would depend on how fast messages
        come whether it is noticed.
        """
        in_cell = one.asks.memory_of == "cell"
        rule = one.rule.id
        name = key_of_cell(rule, device.area) if in_cell else MemoryKey(rule, device.device)
        while (due := self._agenda.at(name)) is not None:
            as_of = self._as_of(self._memory.of(name), due)
            if as_of > at or (due == _EVER and one.asks.states):  # as of now, not of then
                return
            self._agenda.take(due, name)
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
        rule = self.rules.find(name.rule, cell)
        if not self._in_cell:
            self._in_cell = {(one.area, one.kind): one.device for one in devices.values()}
        kind = None if rule is None else rule.kind
        return None if kind is None else devices.get(self._in_cell.get((cell, kind), ""))

    def forget(self, names: Iterable[MemoryKey]) -> None:
        """Drop what is remembered, and written no more: its rule is gone, or another."""
        self._memory.forget(names)

    @property
    def remembered(self) -> Collection[MemoryKey]:
        """Of what anything is remembered."""
        return self._memory.names

    @property
    def rows(self) -> Mapping[MemoryKey, MemoryRow | None]:
        """What is remembered otherwise than before; None: nothing any more."""
        return self._memory.rows

    def commit(self) -> None:
        """Make what was staged the present."""
        self._memory.commit()
        self._agenda.commit()
        self.changes = []

    def rollback(self) -> None:
        """Forget what was staged."""
        self._agenda.rollback()
        self._memory.rollback()
        self.changes = []

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
