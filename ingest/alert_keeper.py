# SPDX-License-Identifier: Apache-2.0
"""Keeps alerts where no reading does: what ends by time, causes that come and go, floods.

Each second two statements ask whether there is anything to do. All it knows is in rows: each
occurrence waits until it was looked at after its COMMIT, so a restart at any point costs a second,
and neither a child nor its parent can slip past the other.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg

from ingest import hygiene
from ingest.alerts import Acknowledge, Action, Clear, PutBack, Raise, Shelve, Unshelve
from ingest.errors import Unavailable
from ingest.kinds import ALERTS_FLOOD, CIRCUIT_DARK
from ingest.rules import RuleBook
from ingest.store import alerts, claim, connect, driver_errors, windows
from ingest.store import hygiene as stored
from ingest.store import rules as stored_rules
from ingest.store.alerts import Change, Subject
from ingest.store.hygiene import Circuit, CircuitKey, News

log = logging.getLogger(__name__)

Changed = list[tuple[str, UUID]]

_IDLE_S: Final = 1.0
_RETRY_S: Final = 5.0
# Of one transaction: short, for the lanes come first.
_AT_ONCE: Final = 200
# Of one second; what is left waits for the next.
_ROUNDS_MAX: Final = 20
# How often floods that go on are looked at where nothing new comes: a storm may flood a whole city.
_FLOODS_INTERVAL: Final = timedelta(seconds=10)


class AlertKeeper:
    """Moves alerts by time and by design; a thread of its own beside the lanes."""

    def __init__(self, dsn: str, rules: RuleBook) -> None:
        """Take where the alerts are; what areas say of circuits and floods is read from there."""
        self._dsn = dsn
        self._base = self._rules = rules
        self._stopping = threading.Event()
        # Of rules and registry, as they were when all that is muted was looked at last.
        self._revisions: tuple[int, int] | None = None
        self._floods_looked_at: datetime | None = None

    def stop(self) -> None:
        """Let `run` return after the second in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Keep alerts until `stop`."""
        while not self._stopping.is_set():
            try:
                with connect(self._dsn, "alerts") as conn:
                    claim_alerts(conn)
                    self._revisions = self._floods_looked_at = None
                    while not self._stopping.wait(_IDLE_S):
                        self.keep(conn, datetime.now(UTC))
            except Unavailable as error:
                log.warning("database lost, retrying keeper=alerts error=%s", error)
                self._stopping.wait(_RETRY_S)

    def keep(self, conn: psycopg.Connection, now: datetime) -> Changed:
        """Do what is due at ``now``; return ``(community, alert)`` of what changed.

        Args:
            conn: Not in a transaction.
            now: Server time.

        Raises:
            Unavailable: The database does not answer; nothing is lost.
        """
        with driver_errors():
            probe = stored.probe(conn, now)
            changed: Changed = []
            if probe.due:
                changed += _end_by_time(conn, now)
            revisions = probe.rules_revision, probe.registry_revision
            if revisions != self._revisions:
                # Who was behind a gateway, or on a circuit, may be there no more; or be told of it.
                self._rules = stored_rules.load(conn, self._base, probe.rules_revision)
                changed += self._follow(conn, stored.parents(conn), now, everything=True)[0]
                self._revisions, self._floods_looked_at = revisions, None
            looked_at = self._floods_looked_at
            if looked_at is None or not timedelta() <= now - looked_at < _FLOODS_INTERVAL:
                self._floods_looked_at = now
                changed += self._watch_floods(conn, probe.floods, now)
            for _ in range(_ROUNDS_MAX if probe.news or changed else 0):
                news = stored.news(conn)
                if not news or self._stopping.is_set():
                    break
                followed, all_free = self._follow(conn, news, now)
                changed += followed
                if not all_free:
                    break  # somebody moves one of them just now: a second later
                stored.look(conn, news)
                changed += self._watch_floods(conn, {one.community for one in news}, now)
            changed += windows.reconcile(conn, now)
        return changed

    def _follow(
        self,
        conn: psycopg.Connection,
        news: Sequence[News],
        now: datetime,
        *,
        everything: bool = False,
    ) -> tuple[Changed, bool]:
        """Let what follows from occurrences happen; return what changed, and if all was free."""
        lit = {(one.community, one.circuit or "") for one in news if one.circuit is not None}
        if everything:
            lit |= set(stored.dark_circuits(conn))
        changed = self._watch_circuits(conn, sorted(lit), now)
        moves: dict[UUID, list[Action]] = {}
        for noisy in _nuisances(conn, news):
            shelve = _shelve(conn, noisy, now)
            if shelve is not None:
                moves[noisy.id] = [shelve]
        for muting in stored.mutings(
            conn,
            alerts=[one.alert for one in news],
            gateways=[one.gateway for one in news if one.rule == hygiene.GATEWAY_SILENT],
            circuits=[
                (one.community, one.circuit)
                for one in news
                if one.rule == hygiene.CIRCUIT_DARK and one.circuit is not None
            ],
            communities=[one.gateway for one in news if one.rule == hygiene.FLOOD],
            everything=everything,
        ):
            moves.setdefault(muting.id, []).extend(muting.actions(now))
        moved, all_free = _move(conn, moves, now)
        return changed + moved, all_free

    def _watch_circuits(
        self, conn: psycopg.Connection, keys: Sequence[CircuitKey], now: datetime
    ) -> Changed:
        """Raise one alert for a circuit that is dark, and clear it when it is not any more."""
        changes: list[Change] = []
        for circuit in stored.circuits(conn, keys) if keys else ():
            change = self._circuit_change(circuit, now)
            if change is not None:
                changes.append(change)
        return _write(conn, changes, now)

    def _circuit_change(self, circuit: Circuit, now: datetime) -> Change | None:
        rule = self._rules.get(CIRCUIT_DARK.id, circuit.community)
        is_dark = rule is not None and hygiene.circuit_is_dark(circuit.dark, circuit.lamps)
        is_told = circuit.told_gateway is not None
        if is_dark == is_told:
            return None
        gateway = circuit.told_gateway or circuit.gateway
        assert gateway is not None, "a circuit that is dark has lamps"
        subject = Subject(
            "lamp",
            gateway,
            circuit.community,
            circuit.area or circuit.community,
            circuit.told_device or circuit.device,
        )
        if not is_dark:
            why = "rule_off" if rule is None else "circuit_lit"
            return Change(rule or CIRCUIT_DARK, subject, Clear(now, why), now)
        assert rule is not None
        params = {"circuit": circuit.circuit, "dark": circuit.dark, "lamps": circuit.lamps}
        return Change(rule, subject, Raise(now, "circuit_dark"), now, params=params)

    def _watch_floods(
        self, conn: psycopg.Connection, communities: Iterable[str], now: datetime
    ) -> Changed:
        """Begin and end floods; keep on the alert of one that goes on how much it folds."""
        wanted = sorted(communities)
        if not wanted:
            return []
        changes: list[Change] = []
        for one in stored.incoming(conn, wanted, now):
            rule = self._rules.get(ALERTS_FLOOD.id, one.community)
            is_flood = rule is not None and hygiene.is_flood(one.is_flood, one.alerts)
            # The schema wants a gateway: a flood is the community's, and says so by its kind.
            subject = Subject("community", one.community, one.community, one.community)
            if one.is_flood:
                stored.tell_flood(conn, one)
            if is_flood and not one.is_flood:
                assert rule is not None
                params = {"count": one.alerts, "children": 0}
                changes.append(Change(rule, subject, Raise(now, "flood"), now, params=params))
            elif one.is_flood and not is_flood:
                decision = Clear(now, "rule_off" if rule is None else "flood_over")
                changes.append(Change(rule or ALERTS_FLOOD, subject, decision, now))
        return _write(conn, changes, now)


def claim_alerts(conn: psycopg.Connection) -> None:
    """Claim the alerts' keeping: two would do the same work twice, and count shelves twice.

    Raises:
        Unavailable: Another process has it.
    """
    with driver_errors():
        if not claim(conn, "alerts"):
            raise Unavailable("another ingest keeps the alerts, waiting for it")


def _write(conn: psycopg.Connection, changes: Sequence[Change], now: datetime) -> Changed:
    """Write parents, each in a transaction of its own: nothing is held while another is waited for.

    Only the keeper raises and clears these rules.
    """
    changed: Changed = []
    for change in changes:
        with conn.transaction():
            changed += alerts.write(conn, [change], now)
    return changed


def _move(
    conn: psycopg.Connection, moves: Mapping[UUID, Sequence[Action]], now: datetime
) -> tuple[Changed, bool]:
    changed: Changed = []
    all_free = True
    ids = sorted(moves)
    for first in range(0, len(ids), _AT_ONCE):
        some = {one: moves[one] for one in ids[first : first + _AT_ONCE]}
        with conn.transaction():
            moved, were_free = alerts.move_free(conn, some, now)
        changed += moved
        all_free = all_free and were_free
    return changed, all_free


def _end_by_time(conn: psycopg.Connection, now: datetime) -> Changed:
    """Bring back what is shelved, or out of service, for no longer than until now."""
    changed: Changed = []
    while due := stored.due(conn, now, _AT_ONCE):
        moves: dict[UUID, Sequence[Action]] = {}
        for alert, is_shelf_over, is_service_due, was_nuisance in due:
            actions: list[Action] = []
            if is_shelf_over:
                if was_nuisance:
                    # A nuisance that is over returns to normal unannounced (ISA-18.2).
                    actions.append(Acknowledge(now, hygiene.ACTOR, reason="over_while_shelved"))
                actions.append(Unshelve(now, hygiene.ACTOR, "expired"))
            if is_service_due:
                actions.append(PutBack(now, hygiene.ACTOR, "expired"))
            moves[alert] = actions
        moved, all_free = _move(conn, moves, now)
        changed += moved
        if not all_free:
            break
    return changed


def _nuisances(conn: psycopg.Connection, news: Sequence[News]) -> list[stored.Noisy]:
    cleared = [one.alert for one in news if not one.active]
    return stored.noisy(conn, cleared) if cleared else []


def _shelve(conn: psycopg.Connection, noisy: stored.Noisy, now: datetime) -> Shelve | None:
    """Return the shelf for a nuisance; None where it is none, or is to stay in sight."""
    reason = hygiene.nuisance(noisy.cycles)
    if reason is None:
        return None
    seen, shelves, is_wanted = stored.shelves(conn, noisy.id, now)
    if is_wanted or not hygiene.may_shelve(noisy.rule, noisy.severity, seen=seen):
        return None
    length = hygiene.shelf(shelves)
    return None if length is None else Shelve(now, hygiene.ACTOR, now + length, reason)
