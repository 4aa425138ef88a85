# SPDX-License-Identifier: Apache-2.0
"""What people do with alerts, one by one or many at once.

The pure machine (`ingest.alerts`) says what is possible; here is said who may, within which area,
and how each refusal reads. Whoever acts on what somebody changed meanwhile is told who that was.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from psycopg.errors import LockNotAvailable
from pydantic import Field, ValidationError

from api.alerts import Alert, find_alert
from api.answers import Answer, Instant, Moment, Question, rfc3339
from api.auth import Person
from api.errors import FieldError, Problem
from api.idempotency import afterwards, idempotent, writes
from api.people import Principal
from api.preconditions import NamedVersion, named_version, parse_id
from api.remarks import Note, Reason
from api.state import Connection, services
from ingest import alerts as machine
from ingest.store import alerts as stored

Action = Literal[
    "acknowledge", "shelve", "unshelve", "out-of-service", "in-service", "reset", "note"
]
Result = Literal["done", "already", "changed", "refused", "missing"]

BULK_MAX: Final = 500
_SHELVED_MAX_MIN: Final = machine.SHELVED_MAX // timedelta(minutes=1)
# Each of many is a transaction of its own: none keeps ingest, which tells of a fire, waiting for
# the others. So many at once leave connections to everybody else.
_BULKS_AT_ONCE: Final = asyncio.Semaphore(2)
# What a refusal says of one among many; all others are "refused".
_RESULTS: Final[Mapping[str, Result]] = {
    "alert.acknowledged": "already",
    "alert.already": "already",
    "alert.changed": "changed",
    "not_found": "missing",
}

Minutes = Annotated[int, Field(ge=1, le=_SHELVED_MAX_MIN)]


class Acknowledgement(Question):
    """What a person says when taking note."""

    note: Note | None = None

    def move(self, now: datetime, actor: str) -> machine.Action:
        """Return what the machine is asked for."""
        return machine.Acknowledge(now, actor, self.note or None)


class Shelving(Question):
    """For how long, ``minutes`` or ``until``, at most 24 h, and why.

    ``once``: or until the alert is cleared, if that is earlier.
    """

    minutes: Minutes | None = None
    until: Moment | None = None
    once: bool = False
    reason: Reason

    def move(self, now: datetime, actor: str) -> machine.Action:
        """Return what the machine is asked for.

        Raises:
            Problem: ``request.invalid``: there is no end, two, or one it may not have.
        """
        if self.minutes is not None and self.until is not None:
            raise _unfit("field.unfitting")
        if self.minutes is not None:
            until = now + timedelta(minutes=self.minutes)
        elif self.until is not None:
            until = self.until
        else:
            raise _unfit("time.endless", {"max": now + machine.SHELVED_MAX})
        return _possible(machine.Shelve(now, actor, until, self.reason, self.once))


class OutOfService(Question):
    """Until when, at most 31 days, and why."""

    until: Moment | None = None
    reason: Reason

    def move(self, now: datetime, actor: str) -> machine.Action:
        """Return what the machine is asked for.

        Raises:
            Problem: ``request.invalid``: there is no end, or one it may not have.
        """
        if self.until is None:
            raise _unfit("time.endless", {"max": now + machine.OUT_OF_SERVICE_MAX})
        return _possible(machine.TakeOut(now, actor, self.until, self.reason))


class Unshelving(Question):
    """Nothing is to be said."""

    def move(self, now: datetime, actor: str) -> machine.Action:
        """Return what the machine is asked for."""
        return machine.Unshelve(now, actor, "person")


class InService(Question):
    """Nothing is to be said."""

    def move(self, now: datetime, actor: str) -> machine.Action:
        """Return what the machine is asked for."""
        return machine.PutBack(now, actor, "person")


class Resetting(Question):
    """What a person says when letting it go."""

    note: Note | None = None

    def move(self, now: datetime, actor: str) -> machine.Action:
        """Return what the machine is asked for."""
        return machine.Reset(now, actor, self.note or None)


class Remark(Question):
    """What a person writes down; it takes the place of the note before, the timeline has all."""

    note: Annotated[Note, Field(min_length=1)]

    def move(self, now: datetime, actor: str) -> machine.Action:
        """Return what the machine is asked for."""
        return machine.Note(now, actor, self.note)


Wanted = Acknowledgement | Shelving | Unshelving | OutOfService | InService | Resetting | Remark
_WANTED: Final[Mapping[Action, type[Wanted]]] = {
    "acknowledge": Acknowledgement,
    "shelve": Shelving,
    "unshelve": Unshelving,
    "out-of-service": OutOfService,
    "in-service": InService,
    "reset": Resetting,
    "note": Remark,
}


class Bulk(Question):
    """One action on many alerts, with what the action asks for by itself.

    ``versions``: an alert that is named here is acted on only if it still is that version.
    """

    action: Action
    alerts: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=BULK_MAX)
    versions: dict[str, int] = Field(default_factory=dict[str, int], max_length=BULK_MAX)
    note: Note | None = None
    minutes: Minutes | None = None
    until: Moment | None = None
    once: bool | None = None
    reason: Reason | None = None

    def wanted(self) -> Wanted:
        """Return what the action asks for.

        Raises:
            RequestValidationError: It does not go with the action, or something is missing.
        """
        given = self.model_dump(exclude={"action", "alerts", "versions"}, exclude_unset=True)
        try:
            return _WANTED[self.action].model_validate(given)
        except ValidationError as error:
            raise RequestValidationError(
                [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
            ) from None


class Outcome(Answer):
    """What became of one alert: the same for every action.

    ``done``, or ``already`` so, or ``changed`` meanwhile, or ``refused``, or ``missing``; ``code``
    says why, as a problem would. ``version`` is the present one; ``actor`` and ``at`` tell who
    brought it there: whoever asks, or who was first.
    """

    alert: str
    outcome: Result
    code: str | None = None
    version: int | None = None
    actor: str | None = None
    at: Instant | None = None


class Outcomes(Answer):
    """What became of each, in the order that was asked; ``counts`` by outcome."""

    action: Action
    counts: dict[Result, int]
    outcomes: list[Outcome]


router = APIRouter(tags=["alerts"])


@router.post("/alerts/actions")
@idempotent
async def act_on_alerts(person: Person, request: Request, bulk: Bulk) -> Outcomes:
    """Do one thing with up to 500 alerts; each for itself, whatever becomes of the others."""
    parts = services(request)
    now = parts.clock()
    action = bulk.wanted().move(now, person.name)
    outcomes: list[Outcome] = []
    async with _BULKS_AT_ONCE, parts.pool.connection() as conn, _impatient(conn):
        rules = await _rules(conn, person, bulk.alerts)
        for alert in bulk.alerts:
            outcome = await _outcome(conn, person, alert, rules, action, bulk.versions.get(alert))
            if outcome.outcome == "done":
                parts.hub.tell_alert(UUID(alert))
            outcomes.append(outcome)
    counts: dict[Result, int] = dict.fromkeys(Result.__args__, 0)
    for outcome in outcomes:
        counts[outcome.outcome] += 1
    return Outcomes(action=bulk.action, counts=counts, outcomes=outcomes)


@router.post("/alerts/{alert}/acknowledge")
@idempotent
async def acknowledge_alert(
    alert: str,
    person: Person,
    request: Request,
    acknowledgement: Acknowledgement,
    if_match: NamedVersion = None,
) -> Alert:
    """Take note of an alert; with ``If-Match`` only if it is still what was seen."""
    return await _act(person, request, alert, acknowledgement, if_match)


@router.post("/alerts/{alert}/shelve")
@idempotent
async def shelve_alert(
    alert: str, person: Person, request: Request, shelving: Shelving, if_match: NamedVersion = None
) -> Alert:
    """Put an alert aside for a time; danger to life is never put aside."""
    return await _act(person, request, alert, shelving, if_match)


@router.post("/alerts/{alert}/unshelve")
@idempotent
async def unshelve_alert(
    alert: str,
    person: Person,
    request: Request,
    unshelving: Unshelving | None = None,
    if_match: NamedVersion = None,
) -> Alert:
    """Bring an alert back that was shelved."""
    return await _act(person, request, alert, unshelving or Unshelving(), if_match)


@router.post("/alerts/{alert}/out-of-service")
@idempotent
async def take_alert_out(
    alert: str,
    person: Person,
    request: Request,
    out_of_service: OutOfService,
    if_match: NamedVersion = None,
) -> Alert:
    """Take an alert out of service while what it watches is mended; danger to life stays seen."""
    return await _act(person, request, alert, out_of_service, if_match)


@router.post("/alerts/{alert}/in-service")
@idempotent
async def put_alert_back(
    alert: str,
    person: Person,
    request: Request,
    in_service: InService | None = None,
    if_match: NamedVersion = None,
) -> Alert:
    """Put an alert back in service."""
    return await _act(person, request, alert, in_service or InService(), if_match)


@router.post("/alerts/{alert}/reset")
@idempotent
async def reset_alert(
    alert: str,
    person: Person,
    request: Request,
    resetting: Resetting | None = None,
    if_match: NamedVersion = None,
) -> Alert:
    """Let a latched alert go, once its condition ended."""
    return await _act(person, request, alert, resetting or Resetting(), if_match)


@router.post("/alerts/{alert}/note")
@idempotent
async def note_alert(
    alert: str, person: Person, request: Request, remark: Remark, if_match: NamedVersion = None
) -> Alert:
    """Write something down about an alert."""
    return await _act(person, request, alert, remark, if_match)


async def _act(
    person: Principal, request: Request, alert: str, wanted: Wanted, if_match: str | None
) -> Alert:
    parts = services(request)
    now, expected = parts.clock(), named_version(if_match)
    async with writes(request) as conn:
        found = await find_alert(conn, person.scope, parse_id(alert), now=now)
        action = wanted.move(now, person.name)
        await _move(conn, person, found.id, (found.rule, found.kind), action, expected)
        changed = await find_alert(conn, person.scope, found.id, now=now)
    afterwards(request, lambda: parts.hub.tell_alert(changed.id))
    return changed


@asynccontextmanager
async def _impatient(conn: Connection) -> AsyncGenerator[None]:
    """Wait for no lock for long: one alert that somebody holds is one of many."""
    await conn.execute("SET lock_timeout = '100ms'")
    try:
        yield
    finally:
        if not conn.closed:
            await conn.execute("RESET lock_timeout")


async def _outcome(
    conn: Connection,
    person: Principal,
    alert: str,
    rules: Mapping[str, tuple[UUID, tuple[str, str]]],
    action: machine.Action,
    expected: int | None,
) -> Outcome:
    """Act on one of many."""
    if alert not in rules:
        return Outcome(alert=alert, outcome="missing", code="not_found")
    try:
        version = await _move(conn, person, *rules[alert], action, expected)
    except Problem as problem:
        first = {name: problem.extra.get(name) for name in ("version", "actor", "at")}
        return Outcome.model_validate(
            {
                "alert": alert,
                "outcome": _RESULTS.get(problem.code, "refused"),
                "code": problem.code,
                **first,
            }
        )
    except LockNotAvailable:
        return Outcome(alert=alert, outcome="refused", code="unavailable")
    return Outcome(alert=alert, outcome="done", version=version, actor=person.name, at=action.at)


async def _rules(
    conn: Connection, person: Principal, alerts: list[str]
) -> dict[str, tuple[UUID, tuple[str, str]]]:
    """Return those alerts that the person may see, by the name they were given.

    Of each its id, and its rule with the device class that it is about.
    """
    ids: dict[str, UUID] = {}
    for alert in alerts:
        try:
            ids[alert] = UUID(alert)
        except ValueError:
            continue
    cursor = await conn.execute(
        """
        SELECT t.id, t.rule, t.kind
        FROM alert_view AS t
        WHERE t.id = ANY (%(ids)s)
          AND t.path <@ %(scope)s::ltree  -- invariant 9
          AND NOT t.rule = ANY (%(hidden)s)
        """,
        {
            "ids": list(ids.values()),
            "scope": person.path,
            "hidden": person.scope.hidden_rules,
        },
    )
    rules = {found: (rule, kind) async for found, rule, kind in cursor}
    return {alert: (one, rules[one]) for alert, one in ids.items() if one in rules}


async def _move(
    conn: Connection,
    person: Principal,
    alert: UUID,
    rule: tuple[str, str],
    action: machine.Action,
    expected: int | None,
) -> int:
    """Let a person move an alert; return its version after it.

    Raises:
        Problem: It is not there, not theirs to move, not possible, or somebody was first.
    """
    if not person.scope.may_acknowledge(*rule):
        raise Problem("role.forbidden")
    try:
        after = await stored.act(
            conn,
            alert,
            action,
            area=person.area,
            hidden_rules=person.scope.hidden_rules,
            expected_version=expected,
            now=action.at,
        )
    except stored.Missing:
        raise Problem("not_found") from None
    except stored.Stale as stale:
        raise await _too_late(conn, person, alert, action, stale.alert, expected) from None
    except machine.Refused as refused:
        raise Problem(refused.rule) from None
    return after.version


async def _too_late(
    conn: Connection,
    person: Principal,
    alert: UUID,
    action: machine.Action,
    now: machine.Alert,
    expected: int | None,
) -> Problem:
    """Say who was first: who did the same, or else who changed it last."""
    changed = expected is not None and expected != now.version
    cursor = await conn.execute(
        """
        SELECT h.actor, h.at, h.action
        FROM alert_history AS h
        JOIN alert_view AS t ON t.id = h.alert
        WHERE h.alert = %(alert)s
          AND t.path <@ %(scope)s::ltree  -- invariant 9
          AND (%(action)s::text IS NULL OR h.action = %(action)s)
        ORDER BY h.id DESC
        LIMIT 1
        """,
        {
            "alert": alert,
            "scope": person.path,
            "action": None if changed else machine.done(action),
        },
    )
    actor, at, done = await cursor.fetchone() or (None, None, None)
    same = "alert.acknowledged" if isinstance(action, machine.Acknowledge) else "alert.already"
    return Problem(
        "alert.changed" if changed else same,
        extra={
            "version": now.version,
            "actor": actor,
            "at": _told(at),
            "action": done,
            "active": now.active,
            "acknowledged": now.acknowledged,
            "acknowledged_by": now.acknowledged_by,
            "acknowledged_at": _told(now.acknowledged_at),
            "note": now.note,
        },
    )


def _told(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(at)


def _possible(action: machine.Shelve | machine.TakeOut) -> machine.Action:
    """Return an action whose end the machine allows.

    Raises:
        Problem: ``request.invalid``, with the bound.
    """
    try:
        machine.apply(machine.raised(action.at), action)
    except machine.Refused as refused:
        raise _unfit(refused.rule, refused.bounds) from None
    return action


def _unfit(code: str, bounds: Mapping[str, object] | None = None) -> Problem:
    told = {
        name: rfc3339(bound) if isinstance(bound, datetime) else bound
        for name, bound in (bounds or {}).items()
    }
    return Problem("request.invalid", errors=[FieldError("/body/until", code, told)])
