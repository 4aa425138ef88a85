# SPDX-License-Identifier: Apache-2.0
"""Follows the rules that people change: no restart, and nothing left hanging.

What a rule has standing ends where the rule is switched off or asks another question, and with the
device or gateway it is about, which says nothing any more when it is retired: cleared, with that as
its reason, in the transaction that notes how far the lane has followed. So a process that dies in
between, or did not run when the rule was changed, does it when it starts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import psycopg

from edge_agent.messages import AnyLane
from ingest.alerts import Clear
from ingest.custom_rules import lane_of
from ingest.kinds import CIRCUIT_DARK, DEVICE_REFUSED, GATEWAY_REFUSED
from ingest.rule_memory import key_of
from ingest.rules import Rule, RuleBook
from ingest.store import alerts
from ingest.store import rules as stored
from ingest.store.alerts import Change, Subject
from ingest.store.rules import MemoryKey

# Told by each lane of its own messages; the occurrence's key says which.
_OF_EACH_LANE: Final = frozenset({DEVICE_REFUSED.id, GATEWAY_REFUSED.id})
# About a device, but not told by it: refusals end by themselves, circuits have their keeper.
_OUTLIVE_DEVICES: Final = _OF_EACH_LANE | {CIRCUIT_DARK.id}
Reason = Literal["rule_off", "rule_changed", "device_retired", "gateway_retired"]
FindSubject = Callable[[str, str | None], Subject | None]
IsRetired = Callable[[str, str | None], bool]


@dataclass(frozen=True, slots=True)
class Followed:
    """What became of it: of what nothing is remembered any more, and which alerts changed."""

    ended: frozenset[MemoryKey]
    alerts: list[tuple[str, UUID]]


def ended(rule: str, area: str, before: RuleBook, after: RuleBook) -> tuple[Rule, Reason] | None:
    """Return why what a rule has standing in an area ends, with the rule it stood by; or None."""
    old, new = before.find(rule, area), after.get(rule, area)
    if new is None:
        return old or after.find(rule, area) or Rule(id=rule, severity="info"), "rule_off"
    if old is not None and not old.asks_as(new):
        return old, "rule_changed"
    return None


def _area(name: MemoryKey, find_subject: FindSubject) -> str | None:
    """Return where something is remembered; None: not with us."""
    what, _, which = name.subject.rpartition(":")
    match what:
        case "cell":
            return which
        case "gateway":
            subject = find_subject(which, None)
        case _:
            subject = find_subject("", name.subject)
    return None if subject is None else subject.area


def _is_over(name: MemoryKey, is_retired: IsRetired) -> bool:
    """Whether what is remembered is of something that says nothing any more."""
    what, _, which = name.subject.rpartition(":")
    return is_retired(which, None) if what == "gateway" else is_retired("", name.subject)


class RuleFollower:
    """The rules in force, for one lane of one process."""

    def __init__(self, base: RuleBook, lane: AnyLane, member: str) -> None:
        """Take product and installation; what areas say is read from the database."""
        self._base = base
        self._lane = lane
        self._member = member
        self._seen: tuple[int, int] | None = None
        self.book = base

    def follow(
        self,
        conn: psycopg.Connection,
        registry_revision: int,
        remembered: Callable[[], Iterable[MemoryKey]],
        find_subject: FindSubject,
        is_retired: IsRetired,
        now: datetime,
    ) -> Followed | None:
        """Take up the rules as they are now; return None where they are what they were.

        Args:
            conn: Outside a transaction.
            registry_revision: Of the registry that is in memory: areas may lie elsewhere in it.
            remembered: Of what the lane remembers anything.
            find_subject: Who is meant by gateway and device; None: nobody who is ours.
            is_retired: Whether a device, or without one a gateway, says nothing any more, if it is
                one of ours.
            now: When.
        """
        revision = stored.revision(conn)
        if self._seen == (revision, registry_revision):
            return None
        before = self.book
        if self._seen is None:
            stored.save_configured(conn, self._base.configured)
            last = stored.followed(conn, self._member)
            before = stored.load(conn, self._base, revision if last is None else last)
        after = stored.load(conn, self._base, revision)
        with conn.transaction():
            followed = self._end(conn, (before, after), remembered(), find_subject, is_retired, now)
            stored.save_followed(conn, self._member, revision)
        self.book, self._seen = after, (revision, registry_revision)
        return followed

    def _end(
        self,
        conn: psycopg.Connection,
        books: tuple[RuleBook, RuleBook],
        remembered: Iterable[MemoryKey],
        find_subject: FindSubject,
        is_retired: IsRetired,
        now: datetime,
    ) -> Followed:
        changes: list[Change] = []
        over: set[MemoryKey] = set()
        for one in alerts.load_standing(conn):
            subject = find_subject(one.gateway, one.device)
            if subject is None:
                continue
            why = ended(one.rule, subject.area, *books)
            if is_retired(one.gateway, one.device) and (
                one.device is None or one.rule not in _OUTLIVE_DEVICES
            ):
                rule = books[1].find(one.rule, subject.area) or Rule(id=one.rule, severity="info")
                why = rule, "gateway_retired" if one.device is None else "device_retired"
                over.add(MemoryKey(one.rule, f"cell:{subject.area}"))
            if why is None:
                continue
            over.add(key_of(one.rule, subject, one.key))
            rule, reason = why
            if self._moves(rule, one.key):
                clear = Clear(max(now, one.raised_at), reason)
                changes.append(Change(rule, subject, clear, now, one.key))
        rows = {
            MemoryKey(row.rule, row.subject, row.key)
            for row in stored.load_memory(conn, self._lane)
        }
        pending = stored.load_pending(conn) if self._lane == "telemetry" else set[MemoryKey]()
        for name in {*remembered, *rows, *pending}:
            area = _area(name, find_subject)
            if area is not None and (
                _is_over(name, is_retired) or ended(name.rule, area, *books) is not None
            ):
                over.add(name)
        stored.save_memory(conn, self._lane, dict.fromkeys(over & rows))
        stored.forget_pending(conn, over & pending)
        return Followed(frozenset(over), alerts.write(conn, changes, now))

    def _moves(self, rule: Rule, key: str) -> bool:
        if rule.id in _OF_EACH_LANE:
            return key == self._lane
        return lane_of(rule) == self._lane
