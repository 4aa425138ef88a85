# SPDX-License-Identifier: Apache-2.0
"""Alert rules by area: what is in force and who said so, changed in versions, tried on history.

Every parameter is inherited by itself (`ingest.rules`). Who may change what: an admin all, a
property manager what is no matter of security, the police what is; a rule on danger to life only
an admin who answers for a whole city. What a mistake breaks is told with its place, and nothing is
changed.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal, cast

import psycopg
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, TypeAdapter, ValidationError

from api.answers import Answer, Instant, Moment, Question
from api.auth import EVERY_ROLE, Person
from api.errors import FieldError, Problem
from api.idempotency import idempotent, writes
from api.overview import Severity
from api.people import Principal
from api.places import answers_for_city, find_area
from api.preconditions import SeenVersion, seen_version
from api.problems import ERRORS_MAX, invalid
from api.remarks import Reason
from api.state import Connection, consistent, services
from ingest.conditions import Condition, check
from ingest.conditions.check import walk
from ingest.conditions.fields import KINDS, STATES, FieldType, fields_of
from ingest.conditions.models import Event
from ingest.dry_run import RANGE_MAX, Budget, DryRunError, Example, dry_run
from ingest.kinds import DEFAULT_RULES
from ingest.rules import (
    CUSTOM_PATTERN,
    POLICE_KINDS,
    Name,
    Rule,
    RuleBook,
    RuleError,
    Version,
    is_police_matter,
)
from ingest.store import rules as stored

VERSIONS_MAX: Final = 100
_CUSTOM = re.compile(CUSTOM_PATTERN)
_CONDITION: Final = TypeAdapter[Condition](Condition)
# A dry run reads much: one at a time, and not for long.
_ONE_AT_A_TIME: Final = asyncio.Semaphore(1)
_BUDGET: Final = Budget(rows=500_000, seconds=5.0)
# What a field is measured in, by the end of its name.
_UNITS: Final[Mapping[str, str]] = {
    "pct": "%", "w": "W", "v": "V", "a": "A", "kwh": "kWh", "hours": "h", "lux": "lx",
    "kg": "kg", "c": "°C",
}  # fmt: skip

Seconds = Annotated[float, Field(ge=0, le=86_400)]


class Definition(Question):
    """What an area says of a rule: the parameters that are given, no others."""

    enabled: bool | None = None
    severity: Severity | None = None
    on_delay_s: Seconds | None = None
    off_delay_s: Seconds | None = None
    reopen_s: Seconds | None = None
    latching: bool | None = None
    limit: float | None = Field(default=None, allow_inf_nan=False)
    clear: float | None = Field(default=None, allow_inf_nan=False)
    name: Name | None = Field(default=None, description="own rules")
    kind: str | None = Field(default=None, max_length=64, description="own rules: device class")
    when: dict[str, Any] | None = Field(default=None, description="own rules: what it asks")


class RuleChange(Question):
    """What is to hold from now on, and why."""

    definition: Definition
    reason: Reason


class RuleReturn(Question):
    """Why what the area says is withdrawn."""

    reason: Reason


class DryRunQuestion(Question):
    """A definition, and the time ``[from, to)`` to try it on; 31 days at most."""

    definition: Definition
    from_: Moment = Field(alias="from")
    to: Moment


class EffectiveRule(Answer):
    """A rule as it is in force in an area.

    ``sources`` names for each parameter that somebody set the area that set it, ``installation``,
    or ``above`` for an area that is not yours to see; what is not named is the product's.
    ``version`` is what this area says itself, 0 for nothing: the value for ``If-Match``.
    """

    rule: str
    kind: str | None = Field(description="device class, gateway or community; null: any device")
    name: Name | None
    severity: Severity
    enabled: bool
    on_delay_s: float
    off_delay_s: float
    reopen_s: float
    latching: bool
    life_safety: bool
    limit: float | None
    clear: float | None
    when: dict[str, Any] | None
    sources: dict[str, str]
    version: int
    may_change: bool


class RuleList(Answer):
    """All rules of an area."""

    items: list[EffectiveRule]


class RuleVersion(Answer):
    """What an area said at a time; without a definition it went back to what it inherits."""

    version: int
    definition: dict[str, Any] | None
    author: str
    reason: str
    at: Instant


class RuleDetail(EffectiveRule):
    """A rule with what this area said of it, the latest first."""

    versions: list[RuleVersion]


class FieldInfo(Answer):
    """What a field can say, and in which unit."""

    name: str
    type: Literal["number", "truth", "word"]
    unit: str | None
    words: list[str]
    min: float | None
    max: float | None


class KindFields(Answer):
    """What a device class reports."""

    kind: str
    readings: list[FieldInfo]
    events: list[FieldInfo]
    states: list[FieldInfo] = Field(description="asked like readings, known of silent devices too")


class RuleCatalogue(Answer):
    """What rules can ask about."""

    kinds: list[KindFields]


class RaisedExample(Answer):
    """An alert there would have been; ``cleared_at`` is null where it would still stand."""

    device: str
    raised_at: Instant
    cleared_at: Instant | None
    values: dict[str, Any]


class DryRunOutcome(Answer):
    """What the rule would have raised; ``truncated`` says why not all was looked at.

    ``until``: up to when; before ``to`` where the latest readings wait for their index.
    """

    alerts: int
    occurrences: int
    per_day: dict[str, int]
    noisiest: dict[str, int]
    first: list[RaisedExample]
    longest: list[RaisedExample]
    devices: int
    devices_asked: int
    rows: int
    until: Instant
    truncated: Literal["rows", "time"] | None


router = APIRouter(tags=["rules"])


@router.get("/rules/catalogue", dependencies=[Depends(EVERY_ROLE)])
async def get_rule_catalogue() -> RuleCatalogue:
    """Say which fields rules can ask about, by device class."""
    return RuleCatalogue(
        kinds=[
            KindFields(
                kind=kind,
                readings=[_field(*item) for item in fields_of(kind).readings.items()],
                events=[_field(*item) for item in fields_of(kind).events.items()],
                states=[_field(*item) for item in STATES.items()],
            )
            for kind in KINDS
        ]
    )


@router.get("/areas/{area}/rules")
async def list_rules(area: str, person: Person, request: Request) -> RuleList:
    """List the rules in force in an area, each with who said what of it."""
    async with services(request).pool.connection() as conn, consistent(conn):
        desk = await _desk(conn, person, area)
        versions = await stored.last_versions(conn, area, person.path)
    return RuleList(items=[desk.effective(rule, versions.get(rule.id, 0)) for rule in desk.visible])


@router.get("/areas/{area}/rules/{rule}")
async def get_rule(area: str, rule: str, person: Person, request: Request) -> RuleDetail:
    """Return one rule as it is in force in an area, with what the area said of it."""
    async with services(request).pool.connection() as conn, consistent(conn):
        desk = await _desk(conn, person, area)
        return await _detail(conn, desk, rule)


@router.put("/areas/{area}/rules/{rule}")
@idempotent
async def put_rule(
    area: str,
    rule: str,
    person: Person,
    request: Request,
    change: RuleChange,
    if_match: SeenVersion = None,
) -> RuleDetail:
    """Say what of a rule holds in an area and below, from now on; all else is inherited."""
    expected = seen_version(if_match)
    async with writes(request) as conn, conn.transaction():
        desk = await _desk(conn, person, area)
        definition = desk.definition(rule, change.definition)
        desk.check(rule, definition)
        await _save(
            conn, desk, rule, definition, expected, change.reason, services(request).clock()
        )
        return await _detail(conn, await _desk(conn, person, area), rule)


@router.delete("/areas/{area}/rules/{rule}", status_code=204)
async def delete_rule(
    area: str,
    rule: str,
    person: Person,
    request: Request,
    question: Annotated[RuleReturn, Query()],
    if_match: SeenVersion = None,
) -> None:
    """Withdraw what an area says of a rule: it inherits again. Its versions stay."""
    expected = seen_version(if_match)
    async with services(request).pool.connection() as conn, conn.transaction():
        desk = await _desk(conn, person, area)
        desk.find(rule)
        last = await stored.versions_of(conn, rule, area, person.path, 1)
        if not last or last[0].definition is None:
            raise Problem("not_found")
        desk.check(rule, None)
        await _save(conn, desk, rule, None, expected, question.reason, services(request).clock())


@router.post("/areas/{area}/rules/{rule}/dry-run")
async def dry_run_rule(
    area: str, rule: str, person: Person, request: Request, question: DryRunQuestion
) -> DryRunOutcome:
    """Say what a definition of an own rule would have raised; nothing is kept."""
    parts = services(request)
    async with parts.pool.connection() as conn:
        desk = await _desk(conn, person, area)
        tried = desk.check(rule, desk.definition(rule, question.definition))
    if tried is None or tried.when is None:
        raise _wrong("/body/definition/when", "rule.no_condition")
    dsn = parts.config.database.dsn.get_secret_value()
    if _ONE_AT_A_TIME.locked():
        # A queue would let a few requests keep a processor busy for minutes.
        raise Problem("rule.trying", headers={"Retry-After": "5"})
    async with _ONE_AT_A_TIME:
        return await asyncio.to_thread(_try, dsn, tried, area, question)


@dataclass(frozen=True, slots=True)
class _Desk:
    """What one person sees and may do of one area's rules."""

    person: Principal
    area: str
    book: RuleBook
    answers_for_city: bool
    within: Mapping[str, str]

    @property
    def visible(self) -> list[Rule]:
        """The rules that exist for this person."""
        hidden = self.person.scope.hidden_rules
        return [rule for rule in self.book.at(self.area) if rule.id not in hidden]

    def find(self, rule: str) -> Rule:
        """Return a rule.

        Raises:
            Problem: ``not_found``: there is none, or none for this person.
        """
        for one in self.visible:
            if one.id == rule:
                return one
        raise Problem("not_found")

    def may_change(self, *rules: Rule) -> bool:
        """Whether this person may make the one of the other."""
        role = self.person.role
        if any(rule.life_safety for rule in rules):
            return role == "admin" and self.answers_for_city
        matters = {_is_security(rule) for rule in rules}
        return role == "admin" or matters == {role == "police"}

    def definition(self, rule: str, told: Definition) -> dict[str, Any]:
        """Return what is kept of a definition.

        Raises:
            Problem: ``request.invalid``: its condition does not fit.
        """
        kept = told.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"when"})
        if told.when is not None:
            before = self.book.find(rule, self.area)
            kind = told.kind or (None if before is None else before.kind)
            if kind is None:
                raise _wrong("/body/definition/kind", "field.missing")
            kept["when"] = _condition(told.when, kind)
        return kept

    def check(self, rule: str, definition: Mapping[str, Any] | None) -> Rule | None:
        """Return the rule as it would be with a definition; None: there would be none.

        Raises:
            Problem: It does not fit, or is not this person's to change.
        """
        before = self.book.find(rule, self.area)
        if before is not None or not _CUSTOM.fullmatch(rule):
            self.find(rule)
        kind = None if definition is None else definition.get("kind")
        if before is not None and kind is not None and kind != before.kind:
            raise _wrong("/body/definition/kind", "rule.kind_stays", {"kind": before.kind})
        try:
            book = self.book.changed(Version(rule, self.area, 0, definition))
        except RuleError as error:
            if definition is None:
                raise Problem("rule.needed_below") from None
            place = f"/body/definition/{error.parameter}".rstrip("/")
            raise _wrong(place, error.code, error.bounds) from None
        after = book.find(rule, self.area)
        concerned = [one for one in (before, after) if one is not None]
        if not self.may_change(*concerned):
            danger = any(one.life_safety for one in concerned)
            raise Problem("rule.life_safety" if danger else "role.forbidden")
        return after

    def effective(self, rule: Rule, version: int) -> EffectiveRule:
        """Return a rule as people are shown it."""
        told = rule.model_dump(exclude={"id", "name", "when"})
        sources = self.book.sources(self.area).get(rule.id, {})
        return EffectiveRule(
            rule=rule.id,
            name=rule.name,
            when=None if rule.when is None else _CONDITION.dump_python(rule.when, mode="json"),
            sources={name: self._source(source) for name, source in sources.items()},
            version=version,
            may_change=self.may_change(rule),
            **told,
        )

    def _source(self, source: str) -> str:
        return source if source == "installation" or source in self.within else "above"


def _is_security(rule: Rule) -> bool:
    """Whether the police answer for what a rule tells of."""
    if rule.when is None or rule.kind is None:
        return is_police_matter(rule.id, rule.kind or "")
    kinds = {rule.kind, *(one.kind for _, one in walk(rule.when) if isinstance(one, Event))}
    return not kinds.isdisjoint(POLICE_KINDS)


async def _desk(conn: Connection, person: Principal, area: str) -> _Desk:
    place = await find_area(conn, person.scope, area)
    book = await stored.load_async(conn, DEFAULT_RULES, place.area)
    cursor = await conn.execute(
        """
        SELECT a.area, a.path::text FROM area AS a
        WHERE a.path @> %(path)s::ltree
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        """,
        {"path": place.path, "scope": person.path},
    )
    within: dict[str, str] = dict(await cursor.fetchall())
    return _Desk(person, place.area, book, await answers_for_city(conn, person.scope), within)


async def _detail(conn: Connection, desk: _Desk, rule: str) -> RuleDetail:
    versions = await stored.versions_of(conn, rule, desk.area, desk.person.path, VERSIONS_MAX)
    effective = desk.effective(desk.find(rule), versions[0].version if versions else 0)
    return RuleDetail(
        **dict(effective),
        versions=[
            RuleVersion(
                version=one.version,
                definition=None if one.definition is None else dict(one.definition),
                author=one.author,
                reason=one.reason,
                at=one.at,
            )
            for one in versions
        ],
    )


async def _save(
    conn: Connection,
    desk: _Desk,
    rule: str,
    definition: Mapping[str, Any] | None,
    expected: int,
    reason: str,
    now: datetime,
) -> None:
    try:
        await stored.save(
            conn,
            rule,
            desk.area,
            definition,
            expected=expected,
            author=desk.person.name,
            reason=reason,
            now=now,
        )
    except stored.Changed as changed:
        raise Problem("rule.changed", extra={"version": changed.version}) from None
    except stored.TooMany:
        raise Problem("rule.too_many", extra={"max": stored.CUSTOM_MAX}) from None


def _wrong(pointer: str, code: str, bounds: Mapping[str, object] | None = None) -> Problem:
    return Problem("request.invalid", errors=[FieldError(pointer, code, bounds or {})])


def _condition(told: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition as it is kept.

    Raises:
        Problem: ``request.invalid``, with the place of each mistake.
    """
    try:
        condition = _CONDITION.validate_python(told)
    except ValidationError as error:
        raise invalid(
            [
                {**one, "loc": ("body", "definition", "when", *_place(told, one["loc"]))}
                for one in error.errors(include_url=False)
            ]
        ) from None
    except RecursionError:
        raise _wrong("/body/definition/when", "condition.too_deep") from None
    mistakes = check(condition, kind)
    if mistakes:
        raise Problem(
            "request.invalid",
            errors=[
                FieldError(f"/body/definition/when{one.pointer}", one.rule, one.bounds)
                for one in mistakes[:ERRORS_MAX]
            ],
        )
    return _CONDITION.dump_python(condition, mode="json")


def _place(told: Mapping[str, Any], location: Sequence[str | int]) -> list[str | int]:
    """Return where in what was told an error lies: pydantic also names the model it tried."""
    place: list[str | int] = []
    here: object = told
    for step in location:
        match here, step:
            case dict(), _ if step in here:
                here = cast("dict[str | int, object]", here)[step]
            case list(), int() if step < len(cast("list[object]", here)):
                here = cast("list[object]", here)[step]
            case dict(), _ if step in (here.get("type"), here.get("by")):  # pyright: ignore[reportUnknownMemberType] - JSON
                continue
            case _:
                pass
        place.append(step)
    return place


def _field(name: str, field: FieldType) -> FieldInfo:
    end = name.rpartition("_")[2]
    return FieldInfo(
        name=name,
        type=field.is_a,
        unit=_UNITS.get(end if "_" in name else {"lux": "lux"}.get(name, ""))
        if field.is_a == "number"
        else None,
        words=list(field.words),
        min=field.least,
        max=field.most,
    )


def _try(dsn: str, rule: Rule, area: str, question: DryRunQuestion) -> DryRunOutcome:
    """Try a rule on what is stored. For a thread: it takes its time."""
    assert rule.kind is not None
    try:
        with psycopg.connect(
            dsn,
            autocommit=True,
            application_name="linli-api-dry-run",
            connect_timeout=5,
            options="-c statement_timeout=10s -c timezone=UTC",
        ) as conn:
            found = dry_run(
                conn, rule, rule.kind, area, question.from_, question.to, budget=_BUDGET
            )
    except DryRunError as error:
        if error.rule == "state.no_history":
            raise _wrong("/body/definition/when", error.rule, error.bounds) from None
        codes = {"time.order": ("/body/to", "range.reversed")}
        pointer, code = codes.get(error.rule, ("/body/from", "range.too_long"))
        raise _wrong(pointer, code, {"max_days": RANGE_MAX.days}) from None
    return DryRunOutcome(
        alerts=found.alerts,
        occurrences=found.occurrences,
        per_day={day.isoformat(): count for day, count in found.per_day.items()},
        noisiest=dict(found.noisiest),
        first=[_example(one) for one in found.first],
        longest=[_example(one) for one in found.longest],
        devices=found.devices,
        devices_asked=found.devices_asked,
        rows=found.rows,
        until=found.until,
        truncated=found.truncated,
    )


def _example(one: Example) -> RaisedExample:
    return RaisedExample(
        device=one.device,
        raised_at=one.raised_at,
        cleared_at=one.cleared_at,
        # Who passed a gate is shown to those who may ask for it, elsewhere.
        values={name: value for name, value in one.values.items() if name != "credential"},
    )
