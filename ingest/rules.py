# SPDX-License-Identifier: Apache-2.0
"""Alert rules as data: what each asks, how long it must hold, how severe it is, and where.

The defaults stand beside the device class they watch (`ingest.kinds`). An installation sets single
parameters in ``[ingest.rules."lamp.dark"]`` of its configuration; people set them by area, in
versions that are never deleted (`ingest.store.rules`). Every parameter is inherited by itself: the
nearest area that says something of it wins, then the installation, then the product. So a community
that waits longer before a dark lamp is told still follows its city in all else.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from edge_agent.messages import Lane
from ingest.conditions import Condition as When

log = logging.getLogger(__name__)

Severity = Literal["critical", "major", "minor", "info"]
#: Rules of people's own begin with this; they say what they ask in ``when``.
CUSTOM: Final = "custom."
CUSTOM_PATTERN: Final = r"^custom\.[a-z0-9][a-z0-9_-]{0,47}$"
#: An alarm given under threat: nobody but the police may learn of it, and who answers for all.
DURESS: Final = "alarm.duress"
# What the police answer for: alarms and forced gates, and what people's own rules make of either.
POLICE_RULES: Final = ("alarm.", "gate.forced")
POLICE_KINDS: Final = frozenset({"alarm", "gate"})
# What a version may say of any rule, and what more of people's own.
_TUNED: Final = frozenset(
    {"enabled", "severity", "on_delay_s", "off_delay_s", "reopen_s", "latching", "limit", "clear"}
)
_OWN: Final = (_TUNED - {"limit", "clear"}) | {"name", "kind", "when"}


class Name(BaseModel):
    """What people call a rule of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    chinese: str = Field(alias="zh-CN", min_length=1, max_length=60)
    english: str = Field(alias="en", min_length=1, max_length=120)


class Rule(BaseModel):
    """One rule. Limits are in the unit of the reading that the rule watches."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    severity: Severity
    kind: str | None = Field(
        default=None, description="device class, gateway or community; null: any"
    )
    name: Name | None = Field(default=None, description="null: in the product's own words")
    enabled: bool = True
    on_delay_s: float = Field(default=0, ge=0, le=86_400)
    off_delay_s: float = Field(default=0, ge=0, le=86_400)
    reopen_s: float = Field(
        default=600, ge=0, le=86_400, description="raised again within this it is the same alert"
    )
    latching: bool = Field(default=False, description="stays until a person resets it")
    life_safety: bool = Field(default=False, description="danger to life: never muted")
    limit: float | None = Field(default=None, description="raised at or beyond this")
    clear: float | None = Field(
        default=None,
        description="cleared beyond this (hysteresis); above the limit: low values are raised",
    )
    when: When | None = Field(default=None, description="null: the class's own code asks")
    lane: Lane = Field(default="telemetry", exclude=True, description="who moves its alerts")

    @field_validator("clear")
    @classmethod
    def _needs_a_limit(cls, clear: float | None, info: ValidationInfo) -> float | None:
        if clear is not None and info.data.get("limit") is None:
            raise PydanticCustomError("rule.clear_alone", "clear without a limit")
        return clear

    @property
    def on_delay(self) -> timedelta:
        """How long the condition must hold, in device time, before the alert is raised."""
        return timedelta(seconds=self.on_delay_s)

    @property
    def off_delay(self) -> timedelta:
        """How long it must not hold, in device time, before the alert is cleared."""
        return timedelta(seconds=self.off_delay_s)

    @property
    def reopen(self) -> timedelta:
        """How long after its end an alert is raised again rather than anew."""
        return timedelta(seconds=self.reopen_s)

    def asks_as(self, other: "Rule") -> bool:
        """Whether the two ask the same question: what stands by one stands by the other."""
        mine, its = ((rule.kind, rule.limit, rule.clear, rule.when) for rule in (self, other))
        return mine == its


class RuleError(ValueError):
    """A definition that does not fit: the rule, the parameter, and what is wrong with it.

    Attributes:
        code: What is wrong, for programs: ``field.missing``, ``rule.not_settable``,
            ``rule.clear_alone``, or ``rule.parameter`` for all else.
        bounds: What would be allowed, and for ``rule.parameter`` the sentence.
    """

    def __init__(
        self, rule: str, parameter: str, problem: str, code: str = "", **bounds: str
    ) -> None:
        """Keep them apart from the sentence."""
        super().__init__(f"rules.{rule}{'.' if parameter else ''}{parameter}: {problem}")
        self.rule, self.parameter = rule, parameter
        self.code = code or "rule.parameter"
        self.bounds: Mapping[str, str] = bounds if code else {"problem": problem}


class Version(NamedTuple):
    """What an area says of a rule: the parameters it sets; None: nothing any more."""

    rule: str
    area: str
    version: int
    definition: Mapping[str, Any] | None


def is_police_matter(rule_id: str, kind: str) -> bool:
    """Whether the police answer for what a rule tells of a device class, or a gateway."""
    is_own = is_custom(rule_id) and kind in POLICE_KINDS
    return is_own or rule_id.startswith(POLICE_RULES)


def is_custom(rule_id: str) -> bool:
    """Whether a rule is people's own rather than the product's."""
    return rule_id.startswith(CUSTOM)


def tuned(rule_id: str, inherited: Rule | None, definition: Mapping[str, Any]) -> Rule:
    """Return a rule with what ``definition`` says of it.

    Args:
        rule_id: Which rule.
        inherited: The rule without it; None where there is none: it must say all then.
        definition: Parameters by name.

    Raises:
        RuleError: Unknown, not to be set, missing or out of range.
    """
    if inherited is None and not is_custom(rule_id):
        raise RuleError(rule_id, "", "unknown rule")
    may_be_set = _OWN if is_custom(rule_id) else _TUNED
    for parameter in definition:
        if parameter not in may_be_set:
            known = ", ".join(sorted(may_be_set))
            problem = f"cannot be set; there are {known}"
            raise RuleError(rule_id, parameter, problem, "rule.not_settable", known=known)
    before = {} if inherited is None else dict(inherited)
    if is_custom(rule_id):
        for parameter in ("kind", "name", "when"):
            if definition.get(parameter, before.get(parameter)) is None:
                raise RuleError(rule_id, parameter, "is required", "field.missing")
    try:
        return Rule.model_validate({**before, **definition, "id": rule_id})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        code = first["type"] if first["type"].startswith("rule.") else ""
        raise RuleError(rule_id, where, first["msg"], code) from None


class Rules:
    """The rules of one area. Compared by identity, so that what follows from them can be kept."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        """Take all of them, those switched off too."""
        self._rules = rules
        self._in_force = {name: rule for name, rule in rules.items() if rule.enabled}

    def get(self, rule_id: str) -> Rule | None:
        """Return the rule where it is in force, None where it is switched off."""
        return self._in_force.get(rule_id)

    def find(self, rule_id: str) -> Rule | None:
        """Return the rule, switched off or not; None where there is none."""
        return self._rules.get(rule_id)

    def __iter__(self) -> Iterator[Rule]:
        """Yield all rules, those switched off too."""
        return iter(self._rules.values())


class RuleBook:
    """The rules of an installation, by area."""

    def __init__(
        self,
        defaults: Iterable[Rule],
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        versions: Iterable[Version] = (),
        lies: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Put them together.

        Args:
            defaults: The product's.
            overrides: The installation's: parameters by rule.
            versions: What areas say, the latest of each rule and area.
            lies: For each area within one of these, the areas with versions that it lies in, from
                the root down. What is not named lies in none.

        Raises:
            RuleError: An override names an unknown rule or parameter, or a value out of range.
        """
        rules = {rule.id: rule for rule in defaults}
        #: What the installation says.
        self.configured = dict(overrides or {})
        for rule_id, changes in (overrides or {}).items():
            if rule_id not in rules:
                known = ", ".join(sorted(rules))
                raise RuleError(rule_id, "", f"unknown rule; there are {known}")
            rules[rule_id] = tuned(rule_id, rules[rule_id], changes)
        self._base = Rules(rules)
        self._said: dict[str, dict[str, Mapping[str, Any]]] = {}
        for version in versions:
            if version.definition is not None:
                self._said.setdefault(version.area, {})[version.rule] = version.definition
        self._lies = lies or {}
        #: Whether there is any rule of people's own.
        self.has_custom = any(is_custom(rule) for said in self._said.values() for rule in said)
        self._made: dict[tuple[str, ...], Rules] = {(): self._base}
        # Asked of each reading: by area what `_made` has by chain.
        self._of: dict[str, Rules] = {}

    def renewed(self, versions: Iterable[Version], lies: Mapping[str, Sequence[str]]) -> "RuleBook":
        """Return the same installation's rules with other versions."""
        made = RuleBook(self._base, None, versions, lies)
        made.configured = self.configured
        return made

    def at(self, area: str | None) -> Rules:
        """Return the rules of an area."""
        if not self._said or area is None:
            return self._base
        found = self._of.get(area)
        if found is None:
            chain = tuple(one for one in self._lies.get(area, ()) if one in self._said)
            found = self._made.get(chain)
            if found is None:
                found = self._made[chain] = self._make(chain)
            self._of[area] = found
        return found

    def get(self, rule_id: str, area: str | None = None) -> Rule | None:
        """Return the rule where it is in force, None where it is switched off, or is not known."""
        return self.at(area).get(rule_id)

    def find(self, rule_id: str, area: str | None = None) -> Rule | None:
        """Return the rule, switched off or not; None where there is none."""
        return self.at(area).find(rule_id)

    def sources(self, area: str) -> Mapping[str, Mapping[str, str]]:
        """Return who said what: by rule and parameter an area, or ``installation``."""
        found: dict[str, dict[str, str]] = {
            rule: dict.fromkeys(said, "installation") for rule, said in self.configured.items()
        }
        for one in self._lies.get(area, ()):
            for rule, said in self._said.get(one, {}).items():
                found.setdefault(rule, {}).update(dict.fromkeys(said, one))
        return found

    def changed(self, version: Version) -> "RuleBook":
        """Return the book with a further version, which must fit wherever it is inherited.

        Raises:
            RuleError: It does not, there or in an area below, which has a version of its own.
        """
        versions = [
            Version(rule, area, 0, said)
            for area, by_rule in self._said.items()
            for rule, said in by_rule.items()
            if (rule, area) != (version.rule, version.area)
        ]
        made = self.renewed([*versions, version], self._lies)
        for chain in {tuple(made._lies.get(area, ())) for area in {version.area, *made._said}}:
            if version.area in chain:
                rule = made._base.find(version.rule)
                for area in chain:
                    said = made._said.get(area, {}).get(version.rule)
                    if said is not None:
                        rule = tuned(version.rule, rule, said)
        return made

    def _make(self, chain: Sequence[str]) -> Rules:
        rules = {rule.id: rule for rule in self._base}
        for area in chain:
            for rule_id, definition in self._said[area].items():
                try:
                    rules[rule_id] = tuned(rule_id, rules.get(rule_id), definition)
                except RuleError as error:
                    # It fitted when it was saved: an upgrade changed what it builds on.
                    log.warning("left out what area=%s says: %s", area, error)
        return Rules(rules)
