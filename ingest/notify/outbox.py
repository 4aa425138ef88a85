# SPDX-License-Identifier: Apache-2.0
"""From the history of alerts to what people are to be told of them.

What happened is taken from the history, row by row; what is still worth telling is asked of the
alert as it is now. All of it is one transaction: taken and planned, or neither.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import Connection, DataError, IntegrityError
from uuid_utils.compat import uuid7

from ingest import metrics
from ingest.notify.chains import BUILT_IN, DURESS_CHAIN, SEVERITIES, Chain, choose, turns
from ingest.notify.grouping import NAMED_MAX, Group, grouped, held_until, ready
from ingest.notify.recipients import DURESS, Matter, Telling, who
from ingest.store import escalations, messages, notifications, recipients
from ingest.store.escalations import Escalation
from ingest.store.notifications import Facts

log = logging.getLogger(__name__)

_RAISED: Final = frozenset({"raised", "raised_again"})
# What may let an alert be seen that was put aside, and what puts it aside.
_BACK: Final = frozenset({"unshelved", "unsuppressed", "in_service"})
_PUT_OFF: Final = timedelta(minutes=1)
_AWAY: Final = frozenset({"shelved", "suppressed", "out_of_service"})


def plan(conn: Connection, now: datetime) -> None:
    """Take what happened, and what is due, and note who is to be told; in one transaction."""
    with conn.transaction():
        entries = notifications.take_untold(conn)
        known = notifications.facts(conn, (entry.alert for entry in entries))
        for entry in entries:
            with _by_itself(conn, entry.alert):
                _take(conn, known[entry.alert], entry.action, now)
        due = escalations.due(conn, now)
        known |= notifications.facts(conn, (one.alert for one in due))
        for escalation in due:
            # Where something is wrong with it, it is looked at again, and nothing waits for it.
            escalations.put_off(conn, escalation.alert, now + _PUT_OFF)
            with _by_itself(conn, escalation.alert):
                _go_on(conn, escalation, known[escalation.alert], now)


@contextmanager
def _by_itself(conn: Connection, alert: UUID) -> Generator[None]:
    """Let what is wrong with one alert, or with what is set for it, silence no other."""
    try:
        with conn.transaction():
            yield
    except (ValueError, LookupError, TypeError, DataError, IntegrityError):
        metrics.NOTIFY_FAILED.inc()
        log.exception("an alert cannot be told alert=%s", alert)


def _take(conn: Connection, fact: Facts, action: str, now: datetime) -> None:
    if action in _RAISED or action in _BACK:
        if action == "raised_again" and notifications.end_was_told(conn, fact.id):
            escalations.end(conn, fact.id)  # whoever heard that it is over must hear that it is not
        _begin(conn, fact, now)
    elif action in _AWAY:
        if fact.quiet:
            escalations.end(conn, fact.id)
            notifications.cancel(conn, fact.id, now)
    elif action == "acknowledged":
        if fact.acknowledged:
            escalations.end(conn, fact.id)
            notifications.cancel(conn, fact.id, now)
    elif action == "cleared" and not fact.active:
        _clear(conn, fact, now)


def _begin(conn: Connection, fact: Facts, now: datetime) -> None:
    if fact.quiet or fact.acknowledged:
        return
    if fact.late and not (fact.active and _matter(fact).is_urgent):
        return  # news of long ago is for the record
    chain = _chain(conn, fact, now)
    if fact.active or _persists(fact, chain):
        escalations.begin(conn, fact.id, chain, now)


def _chain(conn: Connection, fact: Facts, now: datetime) -> Chain:
    chain = choose(
        recipients.chains(conn, fact.path),
        fact.path,
        fact.severity,
        now.astimezone(ZoneInfo(fact.time_zone)),
    )
    return DURESS_CHAIN if fact.rule == DURESS and chain is BUILT_IN[fact.severity] else chain


def _persists(fact: Facts, chain: Chain) -> bool:
    """Whether an alert is told on although it is over."""
    return chain.persists or fact.latched or _matter(fact).is_urgent


def _matter(fact: Facts) -> Matter:
    return Matter(fact.rule, fact.severity, fact.path, fact.life_safety)


def _clear(conn: Connection, fact: Facts, now: datetime) -> None:
    chain = _chain(conn, fact, now)
    if fact.acknowledged or not _persists(fact, chain):
        escalations.end(conn, fact.id)
        notifications.cancel(conn, fact.id, now)
    heard = notifications.heard(conn, fact.id)
    if not heard:
        return
    local = now.astimezone(ZoneInfo(fact.time_zone))
    wishes = {
        channel.id: person.preferences
        for person in recipients.people(conn, fact.path)
        for channel in person.channels
    }
    # Whoever heard of it and may not see it any more, does not hear its end.
    hooks = {hook.id for hook in recipients.webhooks(conn, fact.path)}
    tellings: list[Telling] = []
    for channel in heard:
        if channel in hooks or (channel in wishes and _matter(fact).is_urgent):
            tellings.append(Telling(channel, now))
        elif channel in wishes:
            tellings.append(Telling(channel, wishes[channel].quiet_until(local) or now))
    notifications.notify(conn, fact, "cleared", tellings, now)


@dataclass(slots=True)
class _Progress:
    position: int
    reached: bool
    hurry: bool


def _go_on(conn: Connection, escalation: Escalation, fact: Facts, now: datetime) -> None:
    chain = Chain.model_validate(escalation.chain)
    over = not fact.active and not _persists(fact, chain)
    if fact.acknowledged or fact.quiet or over:
        escalations.end(conn, fact.id)
        return
    plan = turns(chain.steps)
    at = _Progress(escalation.position, escalation.reached, escalation.hurry)
    while at.position < len(plan):
        if at.hurry:
            # The next to be told for the first time; what is repeated to others meanwhile is not.
            steps = (n for n in range(at.position, len(plan)) if plan[n].round == 0)
            following = next(steps, None)
            if following is None and not at.reached:
                break
            at.hurry = following is not None
            at.position = at.position if following is None else following
        turn = plan[at.position]
        if not at.hurry and escalation.started_at + turn.after > now:
            next_at = escalation.started_at + turn.after
            escalations.go_on(conn, fact.id, at.position, next_at, reached=at.reached)
            return
        local = now.astimezone(ZoneInfo(fact.time_zone))
        told = who(
            chain.steps[turn.step].recipients,
            _matter(fact),
            recipients.people(conn, fact.path),
            recipients.webhooks(conn, fact.path),
            local,
        )
        first = at.position == 0
        notifications.notify(conn, fact, "raised" if first else "repeated", told.tellings, now)
        if not first and turn.round == 0:
            notifications.note_step(conn, fact.id, now, turn.step, len(told.tellings))
        at.position += 1
        at.reached |= told.reached
        # A step that has nobody to tell is none: the next is not waited for.
        at.hurry = not told.reached
    escalations.end(conn, fact.id)
    if at.reached:
        metrics.NOTIFY_EXHAUSTED.inc()
    else:
        _unreached(conn, chain, fact, now)


def _unreached(conn: Connection, chain: Chain, fact: Facts, now: datetime) -> None:
    usual = DURESS_CHAIN if fact.rule == DURESS else BUILT_IN[fact.severity]
    if chain != usual:
        escalations.begin(conn, fact.id, usual, now)
        return
    metrics.NOTIFY_UNREACHED.inc()
    if fact.severity in ("critical", "major"):
        log.error("nobody can be told of an alert alert=%s community=%s", fact.id, fact.community)


# -- messages -------------------------------------------------------------------------------------


def compose(conn: Connection, now: datetime) -> None:
    """Make messages of what is due; what comes soon after a message waits for company."""
    with conn.transaction():
        for channel, waiting in notifications.waiting(conn, now).items():
            for group in grouped(ready(waiting, now)):
                _compose(conn, channel, group, now)


def _compose(conn: Connection, channel: UUID, group: Group, now: datetime) -> None:
    parts = [part.id for part in group.parts]
    until = held_until(messages.last_message_at(conn, channel, group.community))
    if until is not None and until > now and not _composed_now(until, now):
        notifications.hold(conn, parts, until)
        return
    kind = "digest" if group.digest else group.kind
    content = describe(notifications.facts(conn, group.alerts), group.alerts)
    messages.add_message(
        conn, uuid7(), channel, kind, content, now, community=group.community, parts=parts
    )


def _composed_now(until: datetime, now: datetime) -> bool:
    """Whether the last message was made this very moment: then this one follows it in order."""
    return until == held_until(now)


def describe(known: dict[UUID, Facts], alerts: Sequence[UUID]) -> dict[str, Any]:
    """Return what a message says, as JSON; the gravest alert first. Any: JSON."""
    facts = sorted(
        (known[alert] for alert in alerts),
        key=lambda fact: (SEVERITIES.index(fact.severity), fact.raised_at, fact.id),
    )
    return {
        "community": {
            "id": facts[0].community,
            "name": facts[0].community_name,
            "name_en": facts[0].community_name_en,
        },
        "severity": facts[0].severity,
        "count": len(facts),
        "alerts": [_told(fact) for fact in facts[:NAMED_MAX]],
    }


def _told(fact: Facts) -> dict[str, Any]:
    return {
        "id": str(fact.id),
        "rule": fact.rule,
        "rule_name": fact.rule_name,
        "severity": fact.severity,
        "life_safety": fact.life_safety,
        "active": fact.active,
        "raised_at": fact.raised_at.isoformat(),
        "cleared_at": None if fact.cleared_at is None else fact.cleared_at.isoformat(),
        "repeats": fact.repeats,
        "late": fact.late,
        "confidential": fact.rule == DURESS,
        "subject": {"id": fact.subject, "name": fact.name, "name_en": fact.name_en},
        "area": {
            "id": fact.community,
            "name": fact.community_name,
            "name_en": fact.community_name_en,
        },
        "time_zone": fact.time_zone,
    }
