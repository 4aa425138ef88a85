# SPDX-License-Identifier: Apache-2.0
"""Response plans as data: what officers do in a case, step by step, by severity, rule and area.

A plan is for cases of a severity whose worst alert is of a rule that begins so. Of the plans that
fit a case the one with the longest beginning holds; of that one the nearest area's. So a community
that writes a plan for all that is critical still follows its city's for duress. The product's own
are brought with the schema (``migrations/always/response_plans.sql``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ingest.cases import part_of
from ingest.kinds import DEFAULT_RULES
from ingest.rules import Severity

STEPS_MAX: Final = 20
_LIFE_SAFETY: Final = frozenset(rule.id for rule in DEFAULT_RULES if rule.life_safety)


_PRINTED: Final = r"^[^\x00-\x1f\x7f]*$"
Chinese = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=_PRINTED)
]
English = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=_PRINTED)
]
#: What a step is called within its plan: 1 to 32 letters, digits and ``_``.
Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Step(BaseModel):
    """One thing to do, told in both languages; ``step`` names it within its plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    step: Key
    chinese: Chinese = Field(alias="zh-CN")
    english: English = Field(alias="en")


@dataclass(frozen=True, slots=True)
class Plan:
    """One version of a plan, as an area says it; ``area`` None: the product.

    Attributes:
        rule: A rule's id or its beginning; "": every other.
        path: Where the area lies, an ltree as text.
        steps: In order.
    """

    severity: Severity
    rule: str
    area: str | None
    path: str | None
    version: int
    steps: tuple[Step, ...]


def fitting(plans: Iterable[Plan], severity: Severity, rule: str) -> Plan | None:
    """Return the plan for a case of a severity and its worst alert's rule; None: there is none.

    Args:
        plans: Those in force where the case is, one of each severity and beginning.
        severity: The case's.
        rule: Of its worst alert.
    """
    fit = [plan for plan in plans if plan.severity == severity and rule.startswith(plan.rule)]
    return max(fit, key=lambda plan: len(plan.rule), default=None)


def is_for_cases(beginning: str) -> bool:
    """Whether alerts of a rule that begins so are ever in a case."""
    known = (rule.id for rule in DEFAULT_RULES if part_of(rule.id) is not None)
    return any(rule.startswith(beginning) for rule in known)


def is_life_safety(beginning: str) -> bool:
    """Whether a plan is for danger to life alone."""
    fit = {
        rule.id
        for rule in DEFAULT_RULES
        if part_of(rule.id) is not None and rule.id.startswith(beginning)
    }
    return beginning in _LIFE_SAFETY or (bool(fit) and fit <= _LIFE_SAFETY)


def doubled(steps: Iterable[Step]) -> int | None:
    """Return the place of the first step that has the name of one before it; None: none has."""
    seen: set[str] = set()
    for place, step in enumerate(steps):
        if step.step in seen:
            return place
        seen.add(step.step)
    return None
