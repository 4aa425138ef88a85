# SPDX-License-Identifier: Apache-2.0
"""Alerts of rules over indicators: one for each community and rule, raised and cleared with days.

Asked in the transaction that makes a day final or restates it, and of all communities when rules
or areas change. What was decided before is in the occurrences that stand: asked again of the same
days, nothing changes.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from psycopg import Connection

from ingest.alerts import Clear, Raise
from ingest.indicator_rules import COMMUNITY, DAYS, INDICATOR_RULES, holds, percent
from ingest.rules import RuleBook
from ingest.store import alerts, area_days
from ingest.store import rules as stored
from ingest.store.alerts import Change, Subject

# How far back a community's latest final day may lie; what is older says nothing of today.
_REACH_DAYS: Final = 31
# Who follows the rules, beside the lanes.
_MEMBER: Final = "days"
_DOMAINS: Final = frozenset(one.domain for one in INDICATOR_RULES)
_DEFAULTS: Final = {one.rule.id: one.rule for one in INDICATOR_RULES}


class IndicatorAlerts:
    """The rules over indicators as they are in force, for whoever keeps the days."""

    def __init__(self, base: RuleBook) -> None:
        """Take product and installation; what areas say is read from the database."""
        self._base = base
        self._book = base
        self._seen: tuple[int, int] | None = None

    def follow(
        self, conn: Connection, registry_revision: int, communities: Sequence[str], now: datetime
    ) -> None:
        """Take up the rules as they are now, and ask them everywhere if they are others.

        A rule that is off, or asks another question which is not met, ends what it has standing.

        Args:
            conn: Not in a transaction.
            registry_revision: Areas may lie elsewhere in another one.
            communities: All there are.
            now: When.
        """
        revision = stored.revision(conn)
        if self._seen == (revision, registry_revision):
            return
        with conn.transaction():
            last = stored.followed(conn, _MEMBER)
            before = stored.load(conn, self._base, revision if last is None else last)
            after = stored.load(conn, self._base, revision)
            decided = _decide(conn, after, communities, _DOMAINS, now)
            ended = _ended(conn, before, after, decided, now)
            alerts.write(conn, [*ended, *decided], now)
            stored.save_followed(conn, _MEMBER, revision)
        self._book, self._seen = after, (revision, registry_revision)

    def ask(self, conn: Connection, community: str, domain: str, now: datetime) -> None:
        """Raise and clear what a community's last final days say.

        Args:
            conn: In the transaction that settled one of them.
            community: Whose.
            domain: Of which domain.
            now: When.
        """
        if domain in _DOMAINS:
            alerts.write(conn, _decide(conn, self._book, [community], {domain}, now), now)


def _decide(
    conn: Connection,
    book: RuleBook,
    communities: Sequence[str],
    domains: Collection[str],
    now: datetime,
) -> list[Change]:
    asked = [one for one in INDICATOR_RULES if one.domain in domains]
    found = area_days.last_days(
        conn,
        {one.indicator: one.domain for one in asked},
        communities,
        today=now.date(),
        reach=_REACH_DAYS,
        count=DAYS,
    )
    changes: list[Change] = []
    for days in found:
        for one in asked:
            rule = book.get(one.rule.id, days.community)
            if rule is None or one.indicator != days.indicator:
                continue
            is_below = holds(one.asks, rule, days.tally)
            if is_below is None:
                continue
            params = {
                "value_pct": percent(one.asks, days.tally),
                "target_pct": rule.limit,
                "day": days.day.isoformat(),
            }
            decision = Raise(now, "number_below") if is_below else Clear(now, "number_recovered")
            subject = _subject(days.community)
            changes.append(Change(rule, subject, decision, now, params=params))
    return changes


def _ended(
    conn: Connection,
    before: RuleBook,
    after: RuleBook,
    decided: Sequence[Change],
    now: datetime,
) -> list[Change]:
    """Return what ends since its rule is off, or asks what these days do not answer."""
    answered = {(change.rule.id, change.subject.community) for change in decided}
    ended: list[Change] = []
    for one in alerts.load_standing(conn):
        if one.rule not in _DEFAULTS:
            continue
        community = one.gateway
        old, new = before.find(one.rule, community), after.get(one.rule, community)
        if new is None:
            reason = "rule_off"
        elif (one.rule, community) not in answered and old is not None and not old.asks_as(new):
            reason = "rule_changed"
        else:
            continue
        rule = old or _DEFAULTS[one.rule]
        clear = Clear(max(now, one.raised_at), reason)
        ended.append(Change(rule, _subject(community), clear, now))
    return ended


def _subject(community: str) -> Subject:
    # The schema wants a gateway: this is the community's, and says so by its kind.
    return Subject(COMMUNITY, community, community, community)
