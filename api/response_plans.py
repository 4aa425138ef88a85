# SPDX-License-Identifier: Apache-2.0
"""Response plans by area: what is in force and who said so, changed in versions.

For the police and whoever answers for all, as cases are. A plan for danger to life alone is
changed only by an admin who answers for a whole city, as `api.rules` has it of the rules
themselves. A case keeps the plans as they stood when it began.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from api.answers import Answer, Instant, Question
from api.errors import FieldError, Problem
from api.idempotency import idempotent, writes
from api.incidents import Officer
from api.overview import Severity
from api.people import Principal
from api.places import answers_for_city, find_area
from api.preconditions import SeenVersion, seen_version
from api.remarks import Reason
from api.scope import Scope, is_within
from api.state import Connection, consistent, services
from ingest import response_plans as pure
from ingest.store import response_plans as stored

VERSIONS_MAX: Final = 100
# The plan for every rule that has none of its own.
ANY: Final = "any"

Beginning = Annotated[
    str,
    Path(
        pattern=r"^(any|[a-z]{1,32}\.[a-z0-9_-]{0,48})$",
        description="a rule's id or its beginning, `any` for every other",
    ),
]


class Text(Question):
    """What is to be done, in both languages."""

    chinese: pure.Chinese = Field(alias="zh-CN")
    english: pure.English = Field(alias="en")


class StepTold(Question):
    """One step; its name stays when its words change, for cases remember it by that."""

    step: pure.Key
    text: Text


class PlanChange(Question):
    """What is to be done from now on, in order, and why it changes."""

    steps: list[StepTold] = Field(min_length=1, max_length=pure.STEPS_MAX)
    reason: Reason


class PlanReturn(Question):
    """Why what the area says is withdrawn."""

    reason: Reason


class Step(Answer):
    """One thing to do; ``text`` by language."""

    step: str
    text: dict[Literal["zh-CN", "en"], str]


class PlanVersion(Answer):
    """Which version of which plan: ``area`` said it, ``product``, or ``above`` where not yours."""

    severity: Severity
    rule: str = Field(description="a rule's id or its beginning; any: every other")
    source: str
    version: int


class EffectivePlan(Answer):
    """A plan as it is in force in an area, for cases of a severity and rules that begin so.

    ``source`` is the area whose version ``source_version`` it is, ``product``, or ``above`` for an
    area that is not yours to see; null where no plan is in force any more. ``version`` is what this
    area says itself, 0 for nothing: the value for ``If-Match``.
    """

    severity: Severity
    rule: str = Field(description="a rule's id or its beginning; any: every other")
    steps: list[Step]
    source: str | None
    source_version: int | None
    version: int
    may_change: bool


class PlanList(Answer):
    """All plans of an area; of those that fit a case the one with the longest ``rule`` holds."""

    items: list[EffectivePlan]


class SavedPlan(Answer):
    """What an area said at a time; without steps it went back to what it inherits."""

    version: int
    steps: list[Step] | None
    author: str
    reason: str
    at: Instant


class PlanDetail(EffectivePlan):
    """A plan with what this area said of it, the latest first."""

    versions: list[SavedPlan]


router = APIRouter(tags=["cases"])


@router.get("/areas/{area}/response-plans")
async def list_response_plans(area: str, person: Officer, request: Request) -> PlanList:
    """List the response plans in force in an area, each with who said so."""
    async with services(request).pool.connection() as conn, consistent(conn):
        desk = await _desk(conn, person, area)
        versions = await stored.last_versions(conn, desk.area, person.path)
    return PlanList(
        items=[
            desk.effective(plan.severity, plan.rule, versions.get((plan.severity, plan.rule), 0))
            for plan in desk.plans
        ]
    )


@router.get("/areas/{area}/response-plans/{severity}/{rule}")
async def get_response_plan(
    area: str, severity: Severity, rule: Beginning, person: Officer, request: Request
) -> PlanDetail:
    """Return one plan as it is in force in an area, with what the area said of it."""
    async with services(request).pool.connection() as conn, consistent(conn):
        return await _detail(conn, await _desk(conn, person, area), severity, _beginning(rule))


@router.put("/areas/{area}/response-plans/{severity}/{rule}")
@idempotent
async def put_response_plan(
    area: str,
    severity: Severity,
    rule: Beginning,
    person: Officer,
    request: Request,
    change: PlanChange,
    if_match: SeenVersion = None,
) -> PlanDetail:
    """Say what is to be done in an area and below, in cases that begin from now on."""
    expected, beginning = seen_version(if_match), _beginning(rule)
    async with writes(request) as conn, conn.transaction():
        desk = await _desk(conn, person, area)
        desk.check_right(beginning)
        if not pure.is_for_cases(beginning):
            raise Problem("request.invalid", errors=[FieldError("/path/rule", "plan.rule")])
        steps = _steps(change.steps)
        await _save(conn, desk, severity, beginning, steps, expected, change.reason, request)
        return await _detail(conn, await _desk(conn, person, area), severity, beginning)


@router.delete("/areas/{area}/response-plans/{severity}/{rule}", status_code=204)
async def delete_response_plan(
    area: str,
    severity: Severity,
    rule: Beginning,
    person: Officer,
    request: Request,
    question: Annotated[PlanReturn, Query()],
    if_match: SeenVersion = None,
) -> None:
    """Withdraw what an area says of a plan: it inherits again. Its versions stay."""
    expected, beginning = seen_version(if_match), _beginning(rule)
    async with services(request).pool.connection() as conn, conn.transaction():
        desk = await _desk(conn, person, area)
        desk.check_right(beginning)
        last = await stored.versions_of(conn, severity, beginning, desk.area, person.path, 1)
        if not last or last[0].steps is None:
            raise Problem("not_found")
        await _save(conn, desk, severity, beginning, None, expected, question.reason, request)


def told_rule(beginning: str) -> str:
    """Return how people are told which rules a plan is for."""
    return beginning or ANY


def told_source(plan: pure.Plan, scope: Scope) -> str:
    """Return who says a plan, as far as somebody may know."""
    if plan.area is None or plan.path is None:
        return "product"
    return plan.area if is_within(plan.path, scope.path) else "above"


def told_text(step: pure.Step) -> dict[Literal["zh-CN", "en"], str]:
    """Return what is to be done, by language."""
    return {"zh-CN": step.chinese, "en": step.english}


def told_steps(steps: Sequence[pure.Step]) -> list[Step]:
    """Return steps as people are shown them."""
    return [Step(step=one.step, text=told_text(one)) for one in steps]


@dataclass(frozen=True, slots=True)
class _Desk:
    """What one person sees and may do of one area's plans."""

    person: Principal
    area: str
    plans: Sequence[pure.Plan]
    answers_for_city: bool

    def may_change(self, beginning: str) -> bool:
        """Whether this person may change the plan for rules that begin so."""
        if pure.is_life_safety(beginning):
            return self.person.role == "admin" and self.answers_for_city
        return True

    def check_right(self, beginning: str) -> None:
        """Refuse what is not this person's to change.

        Raises:
            Problem: ``plan.life_safety``.
        """
        if not self.may_change(beginning):
            raise Problem("plan.life_safety")

    def effective(self, severity: Severity, beginning: str, version: int) -> EffectivePlan:
        """Return a plan as people are shown it."""
        found = [plan for plan in self.plans if (plan.severity, plan.rule) == (severity, beginning)]
        plan = found[0] if found else None
        return EffectivePlan(
            severity=severity,
            rule=told_rule(beginning),
            steps=[] if plan is None else told_steps(plan.steps),
            source=None if plan is None else told_source(plan, self.person.scope),
            source_version=None if plan is None else plan.version,
            version=version,
            may_change=self.may_change(beginning),
        )


def _beginning(rule: str) -> str:
    return "" if rule == ANY else rule


def _steps(told: Sequence[StepTold]) -> list[pure.Step]:
    steps = [
        pure.Step.model_validate({"step": one.step, **one.text.model_dump(by_alias=True)})
        for one in told
    ]
    twice = pure.doubled(steps)
    if twice is not None:
        error = FieldError(f"/body/steps/{twice}/step", "step.twice")
        raise Problem("request.invalid", errors=[error])
    return steps


async def _desk(conn: Connection, person: Principal, area: str) -> _Desk:
    place = await find_area(conn, person.scope, area)
    return _Desk(
        person,
        place.area,
        await stored.in_force(conn, place.area),
        await answers_for_city(conn, person.scope),
    )


async def _detail(conn: Connection, desk: _Desk, severity: Severity, rule: str) -> PlanDetail:
    versions = await stored.versions_of(
        conn, severity, rule, desk.area, desk.person.path, VERSIONS_MAX
    )
    effective = desk.effective(severity, rule, versions[0].version if versions else 0)
    if effective.source is None and not versions:
        raise Problem("not_found")
    return PlanDetail(
        **dict(effective),
        versions=[
            SavedPlan(
                version=one.version,
                steps=None if one.steps is None else told_steps(one.steps),
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
    severity: Severity,
    rule: str,
    steps: Sequence[pure.Step] | None,
    expected: int,
    reason: str,
    request: Request,
) -> None:
    try:
        await stored.save(
            conn,
            severity,
            rule,
            desk.area,
            steps,
            expected=expected,
            author=desk.person.name,
            reason=reason,
            now=services(request).clock(),
        )
    except stored.Changed as changed:
        raise Problem("plan.changed", extra={"version": changed.version}) from None
