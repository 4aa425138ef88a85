# SPDX-License-Identifier: Apache-2.0
"""What is remembered of rules on devices, gateways and cells, staged by transaction.

What a restart must know of it goes to the table `rule_memory` in the transaction of what made it
so.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from ingest.alerts import IDLE, Active, Ending, Pending, Track
from ingest.rule_agenda import Agenda
from ingest.store.alerts import Standing, Subject
from ingest.store.devices import Device, Gateway, Registry
from ingest.store.rules import MemoryKey, MemoryRow

_FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)


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


#: Of whatever nothing is remembered.
NOTHING: Final = Kept()


def key_of(rule: str, subject: Subject, key: str = "") -> MemoryKey:
    """Return under which name something is remembered of a rule on a subject."""
    return MemoryKey(rule, subject.device or f"gateway:{subject.gateway}", key)


def key_of_cell(rule: str, area: str) -> MemoryKey:
    """Return under which name something is remembered of what a cell's devices share."""
    return MemoryKey(rule, f"cell:{area}")


def subject_of(device: Device) -> Subject:
    """Return what an alert about ``device`` is about."""
    return Subject(device.kind, device.gateway, device.community, device.area, device.device)


def subject_of_gateway(gateway: Gateway) -> Subject:
    """Return what an alert about ``gateway`` is about."""
    return Subject("gateway", gateway.gateway, gateway.community, gateway.community)


class RuleMemory:
    """What one lane remembers of rules; what is due of it is on the agenda.

    Staged for the table: ``rows``; None: nothing is to be known any more.
    """

    def __init__(self, agenda: Agenda, registry: Registry) -> None:
        """Start empty; `restore` brings what the tables hold."""
        self._agenda = agenda
        self._registry = registry
        self._kept: dict[MemoryKey, Kept] = {}
        # Of which a delay runs, by gateway, in the order in which it began.
        self._running: dict[str, dict[MemoryKey, None]] = {}
        self._unstage()

    def follow(self, registry: Registry) -> None:
        """Go on with another registry: devices may be behind another gateway now."""
        self._registry = registry
        running, self._running = self._running, {}
        for before, names in running.items():
            for name in names:
                subject = self.subject(name)
                gateway = before if subject is None else subject.gateway
                self._running.setdefault(gateway, {})[name] = None

    def restore(self, standing: Iterable[Standing], rows: Iterable[MemoryRow]) -> list[MemoryKey]:
        """Replace everything by what the tables hold; return which rows are of ours."""
        taken: list[MemoryKey] = []
        self._kept, self._running = {}, {}
        self._unstage()
        for one in standing:
            key = MemoryKey(one.rule, one.device or f"gateway:{one.gateway}", one.key)
            self._kept[key] = Kept(Active(one.raised_at))
        for row in rows:
            key = MemoryKey(row.rule, row.subject, row.key)
            if self.subject(key) is None and not key.subject.startswith("cell:"):
                continue  # another process's
            track = self.of(key).track
            until = row.known_until or _FOR_EVER
            if row.since is not None:
                if not row.ending:
                    track = Pending(row.since, until)
                elif isinstance(track, Active):
                    track = Ending(track.raised_at, row.since, until)
            self._keep(key, Kept(track, row.memory, None, row.params, row.asked))
            taken.append(key)
        return taken

    def subject(self, key: MemoryKey) -> Subject | None:
        """Return whom something is remembered of; None: nobody who is registered here."""
        if key.subject.startswith("gateway:"):
            gateway = self._registry.gateways.get(key.subject.removeprefix("gateway:"))
            return None if gateway is None else subject_of_gateway(gateway)
        device = self._registry.devices.get(key.subject)
        return None if device is None else subject_of(device)

    def of(self, name: MemoryKey) -> Kept:
        """Return what is remembered, staged or committed."""
        return self._staged.get(name) or self._kept.get(name, NOTHING)

    @property
    def names(self) -> list[MemoryKey]:
        """Of what anything is remembered, as committed."""
        return list(self._kept)

    @property
    def runs_behind(self) -> Collection[str]:
        """The gateways behind which delays run, as committed."""
        return self._running.keys()

    @property
    def may_run(self) -> bool:
        """Whether a delay may run anywhere."""
        return bool(self._running or self._staged)

    def may_run_behind(self, gateways: Iterable[str]) -> list[MemoryKey]:
        """Return whatever a delay may run of behind some gateways, in the order it began."""
        names = {name: None for one in gateways for name in self._running.get(one, ())}
        return list({**names, **dict.fromkeys(self._staged)})

    def stage(self, name: MemoryKey, before: Kept, after: Kept) -> None:
        """Remember something else than before, from the COMMIT on."""
        if after == before:
            return
        self._staged[name] = after
        if after.due is not None:
            self._agenda.add(name, after.due)
        row = after.row(name)
        if row != before.row(name):
            self.rows[name] = row

    def forget_due(self, name: MemoryKey) -> None:
        """Forget when it is due: it is asked at once, and would wait for that."""
        kept = self._kept.get(name)
        if kept is not None and kept.due is not None:
            self._kept[name] = kept._replace(due=None)

    def forget(self, names: Iterable[MemoryKey]) -> None:
        """Drop what is remembered, and written no more: its rule is gone, or another."""
        for name in names:
            self._keep(name, NOTHING)

    def commit(self) -> None:
        """Make what was staged the present."""
        for name, kept in self._staged.items():
            self._keep(name, kept)
        self._unstage()

    def rollback(self) -> None:
        """Forget what was staged."""
        self._unstage()

    def _unstage(self) -> None:
        self._staged: dict[MemoryKey, Kept] = {}
        self.rows: dict[MemoryKey, MemoryRow | None] = {}

    def _keep(self, name: MemoryKey, kept: Kept) -> None:
        if kept == NOTHING:
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
            self._agenda.add(name, kept.due)
