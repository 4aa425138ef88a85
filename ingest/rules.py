# SPDX-License-Identifier: Apache-2.0
"""Alert rules as data: what each asks, how long it must hold, how severe it is.

The defaults stand beside the device class they watch (`ingest.kinds`); an installation overrides
single parameters in ``[ingest.rules."lamp.dark"]`` of its configuration.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest.conditions import Condition

Severity = Literal["critical", "major", "minor", "info"]


class Rule(BaseModel):
    """One rule. Limits are in the unit of the reading that the rule watches."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    severity: Severity
    enabled: bool = True
    on_delay_s: float = Field(default=0, ge=0, le=86_400)
    off_delay_s: float = Field(default=0, ge=0, le=86_400)
    reopen_s: float = Field(
        default=600, ge=0, le=86_400, description="raised again within this it is the same alert"
    )
    latching: bool = Field(default=False, description="stays until a person resets it")
    life_safety: bool = Field(default=False, description="danger to life: never muted")
    limit: float | None = Field(default=None, description="raised at or above this")
    clear: float | None = Field(default=None, description="cleared below this (hysteresis)")
    when: Condition | None = Field(default=None, description="null: the class's own code asks")

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


class RuleError(ValueError):
    """An override that does not fit; the message names the rule and the parameter."""


class RuleBook:
    """The rules in force: defaults with an installation's overrides."""

    def __init__(
        self, defaults: Iterable[Rule], overrides: Mapping[str, Mapping[str, object]] | None = None
    ) -> None:
        """Apply ``overrides``.

        Raises:
            RuleError: An override names an unknown rule or parameter, or a value out of range.
        """
        self._rules = {rule.id: rule for rule in defaults}
        for rule_id, changes in (overrides or {}).items():
            default = self._rules.get(rule_id)
            if default is None:
                known = ", ".join(sorted(self._rules))
                raise RuleError(f"rules.{rule_id}: unknown rule; there are {known}")
            try:
                changed = Rule.model_validate({**default.model_dump(), **changes, "id": rule_id})
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(str(part) for part in first["loc"])
                raise RuleError(f"rules.{rule_id}.{where}: {first['msg']}") from None
            self._rules[rule_id] = changed

    def get(self, rule_id: str) -> Rule | None:
        """Return the rule where it is in force, None where it is switched off."""
        rule = self._rules[rule_id]
        return rule if rule.enabled else None
