# SPDX-License-Identifier: Apache-2.0
"""The product's own conditions on readings: where each stands on each device, and what follows.

In memory, staged by transaction as all of `ingest.projection` is; of what runs a delay the table
`alert_pending` knows as much as a restart must.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

from edge_agent.kinds import Reading
from ingest.alerts import (
    HELD,
    IDLE,
    Active,
    Decision,
    Ending,
    Pending,
    Raise,
    Track,
    elapse,
    step,
)
from ingest.kinds import DEVICE_FAULT, KINDS
from ingest.kinds.base import Condition, Context
from ingest.rule_memory import subject_of
from ingest.rules import Rule, RuleBook
from ingest.store.alerts import Change, PendingRow, Standing
from ingest.store.devices import Device, Registry, State
from ingest.store.rules import MemoryKey

TrackKey = tuple[str, int, str]  # rule, device id, key
_FAULT: Final = DEVICE_FAULT.id
_NOTHING: Final[Mapping[str, Any]] = {}


class Tracks:
    """The conditions of one lane that hold, or did until now: by rule and device.

    Staged for the tables: ``changes`` of alerts, and ``pending``, the delays that run, by rule and
    device id; None: none runs any more.
    """

    def __init__(self, write_out: Callable[[int], None]) -> None:
        """Start empty; `restore` brings what the tables hold.

        Args:
            write_out: Called with a device's id when the tables are told of a condition that
                begins or ends: the state that made it so is in them then, too.
        """
        self._write_out = write_out
        self._tracks: dict[TrackKey, Track] = {}
        # Those of them of which a delay runs, in the order in which it began.
        self._running: dict[TrackKey, None] = {}
        # What people are told of a condition that holds: of the reading that said so last.
        self._params: dict[TrackKey, Mapping[str, Any]] = {}
        self._unstage()

    def follow(self, rules: RuleBook, registry: Registry, by_id: Mapping[int, Device]) -> None:
        """Go on with other rules, or another registry, whose devices ``by_id`` has, too."""
        self._rules, self._registry, self._by_id = rules, registry, by_id

    def restore(
        self,
        states: Mapping[int, State],
        standing: Iterable[Standing],
        pending: Iterable[PendingRow],
    ) -> None:
        """Replace everything by what the tables hold."""
        self._tracks, self._running, self._params = {}, {}, {}
        self._unstage()
        for alert in standing:
            device = self._registry.devices.get(alert.device or "")
            if device is not None:
                self._tracks[alert.rule, device.id, alert.key] = Active(alert.raised_at)
        for row in pending:
            state = states.get(row.device_id)
            device = self._by_id.get(row.device_id)
            if state is None or device is None:
                continue
            known_until = row.known_until or max(state.at, row.since) + device.max_silence
            key = (row.rule, row.device_id, "")
            raised = self._tracks.get(key, IDLE)
            if not row.ending:
                self._tracks[key] = Pending(row.since, known_until)
                self._params[key] = self._said(device, state, row.rule)
            elif isinstance(raised, Active):
                self._tracks[key] = Ending(raised.raised_at, row.since, known_until)
            else:
                continue
            self._running[key] = None

    def _said(self, device: Device, state: State, rule: str) -> Mapping[str, Any]:
        """Return what people are told of a condition that holds: of the last reading, as kept."""
        if rule == _FAULT:
            return {"fault": state.fault}
        kind = KINDS[device.kind]
        said: dict[str, Any] = dict.fromkeys(kind.readings.columns)
        reading = SimpleNamespace(**{**said, **state.reading})
        for one in kind.conditions(reading, Context(self._rules.at(device.area), state.lit)):
            if one.rule == rule:
                return one.params
        return {}

    def forget(self, ended: Iterable[MemoryKey]) -> None:
        """Drop where conditions stand: their rule is off there, or asks otherwise."""
        for name in ended:
            device = self._registry.devices.get(name.subject)
            if device is not None:
                key = (name.rule, device.id, name.key)
                self._tracks.pop(key, None)
                self._running.pop(key, None)
                self._params.pop(key, None)

    @property
    def remembered(self) -> Iterable[MemoryKey]:
        """What holds, or did until now."""
        by_id = self._by_id
        return [
            MemoryKey(rule, by_id[number].device, key)
            for rule, number, key in list(self._tracks)
            if number in by_id
        ]

    def ask(
        self,
        device: Device,
        reading: Reading,
        lit: bool | None,
        due: Callable[[], tuple[bool, datetime | None]],
        received_at: datetime,
    ) -> bool:
        """Let a reading speak to the rules on its class; return whether it is calm.

        Calm: nothing holds, and nothing did until now.

        Args:
            device: Whose.
            reading: Not earlier than the last one.
            lit: What it says of light.
            due: Whether light is due then, and until when that stays so.
            received_at: When it was received.
        """
        rules = self._rules.at(device.area)
        fault = Condition(_FAULT, reading.fault is not None, {"fault": reading.fault})
        context = Context(rules, lit, due)
        tracks, staged = self._tracks, self._staged
        is_calm = True
        for condition in (fault, *KINDS[device.kind].conditions(reading, context)):
            key = (condition.rule, device.id, condition.key)
            if not condition.holds and key not in tracks and key not in staged:
                continue  # the common case: idle, and stays so
            is_calm = False
            rule = rules.get(condition.rule)
            if rule is not None:
                self.advance(device, rule, condition, reading.at, received_at, rule.on_delay)
        return is_calm

    def advance(
        self,
        device: Device,
        rule: Rule,
        condition: Condition,
        at: datetime,
        received_at: datetime,
        on_delay: timedelta,
    ) -> None:
        """Let a condition say at an instant whether it holds."""
        key = (rule.id, device.id, condition.key)
        before = self._track(key)
        if before is IDLE and not condition.holds:
            return
        params = self._told(key)
        if condition.holds:
            self._staged_params[key] = condition.params
        known_until = at + device.max_silence
        if condition.until is not None:
            known_until = min(known_until, condition.until)
        after, decisions = step(
            before,
            condition.holds,
            at,
            on_delay=on_delay,
            off_delay=rule.off_delay,
            known_until=known_until,
        )
        self._stage(key, rule, before, after)
        for decision in decisions:
            # What a delay ended before was so without what is told now.
            said = params if decision.reason == HELD else condition.params
            self._decide(device, rule, key, decision, received_at, said)

    def pass_time(self, times: Mapping[str, tuple[datetime, datetime]]) -> None:
        """Let delays end behind some gateways, without a reading of the devices they run on.

        Args:
            times: By gateway, how late it is there by its own stream, and when that was learned.
        """
        running: defaultdict[str, list[TrackKey]] = defaultdict(list)
        for key in {**self._running, **self._staged}:
            device = self._by_id.get(key[1])
            if device is not None and device.gateway in times:
                running[device.gateway].append(key)
        for gateway, keys in running.items():
            now, received_at = times[gateway]
            for key in keys:
                self._elapse(key, now, received_at)

    def _elapse(self, key: TrackKey, now: datetime, received_at: datetime) -> None:
        device = self._by_id[key[1]]
        rule = self._rules.get(key[0], device.area)
        if rule is None:
            return
        before = self._track(key)
        after, decision = elapse(before, now, on_delay=rule.on_delay, off_delay=rule.off_delay)
        self._stage(key, rule, before, after)
        if decision is not None:
            self._decide(device, rule, key, decision, received_at, self._told(key))

    def commit(self) -> None:
        """Make what was staged the present."""
        self._params.update(self._staged_params)
        for key, track in self._staged.items():
            if track is IDLE:
                self._tracks.pop(key, None)
                self._params.pop(key, None)
            else:
                self._tracks[key] = track
            if isinstance(track, Pending | Ending):
                self._running[key] = None
            else:
                self._running.pop(key, None)
        self._unstage()

    def rollback(self) -> None:
        """Forget what was staged."""
        self._unstage()

    def _unstage(self) -> None:
        self._staged: dict[TrackKey, Track] = {}
        self._staged_params: dict[TrackKey, Mapping[str, Any]] = {}
        self.changes: list[Change] = []
        self.pending: dict[tuple[str, int], PendingRow | None] = {}

    def _track(self, key: TrackKey) -> Track:
        return self._staged.get(key) or self._tracks.get(key, IDLE)

    def _told(self, key: TrackKey) -> Mapping[str, Any]:
        staged = self._staged_params.get(key)
        return self._params.get(key, _NOTHING) if staged is None else staged

    def _stage(self, key: TrackKey, rule: Rule, before: Track, after: Track) -> None:
        if after is before:
            return
        self._staged[key] = after
        was, row = _pending(key, before), _pending(key, after)
        if isinstance(before, Pending | Ending) and isinstance(after, Pending | Ending):
            end = after.since + (rule.off_delay if isinstance(after, Ending) else rule.on_delay)
            known = after.since == before.since and end <= min(
                before.known_until, after.known_until
            )
            if known or row == was:
                return  # confirmed once more: the table knows it for long enough
        if row != was:
            self.pending[rule.id, key[1]] = row
        self._write_out(key[1])

    def _decide(
        self,
        device: Device,
        rule: Rule,
        key: TrackKey,
        decision: Decision,
        received_at: datetime,
        params: Mapping[str, Any],
    ) -> None:
        if not isinstance(decision, Raise):
            params = _NOTHING
        self.changes.append(
            Change(
                rule,
                subject_of(device),
                decision,
                received_at,
                key[2],
                {name: value for name, value in params.items() if value is not None},
            )
        )


def _pending(key: TrackKey, track: Track) -> PendingRow | None:
    """Return what the table has of a condition: nothing where no delay runs."""
    match track:
        case Pending(since, known_until):
            return PendingRow(key[0], key[1], since, False, known_until)
        case Ending(_, since, known_until):
            return PendingRow(key[0], key[1], since, True, known_until)
        case _:
            return None
