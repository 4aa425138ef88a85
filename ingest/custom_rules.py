# SPDX-License-Identifier: Apache-2.0
"""People's own rules, compiled: which of them a lane asks of which devices."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.messages import AnyLane, Lane
from ingest.conditions import Compiled, ConditionError, compile_condition
from ingest.rules import Rule, RuleBook, Rules
from ingest.store.devices import Registry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Custom:
    """A rule of people's own, ready to be asked."""

    rule: Rule
    asks: Compiled

    @property
    def lane(self) -> Lane:
        """Who asks it: events are heard on their own lane, where the latest state is known too."""
        return "telemetry" if self.asks.listens == "readings" else "event"


def lane_of(rule: Rule) -> Lane:
    """Return which lane raises and clears the alerts of a rule."""
    if rule.when is None or rule.kind is None:
        return rule.lane
    try:
        return Custom(rule, compile_condition(rule.when, rule.kind)).lane
    except ConditionError:
        return rule.lane


class CustomRules:
    """People's own rules that one lane asks, by area and device class."""

    def __init__(self, lane: AnyLane, rules: RuleBook, registry: Registry) -> None:
        """Start with those in force."""
        self._lane = lane
        self.follow(rules, registry)

    def follow(self, rules: RuleBook, registry: Registry) -> None:
        """Go on with other rules, or another registry."""
        self._rules = rules
        self._registry = registry
        self._by_kind: dict[Rules, Mapping[str, tuple[Custom, ...]]] = {}
        self._looked_at: dict[str, frozenset[str]] = {}
        self._asks_states: bool | None = None

    def of(self, area: str, kind: str) -> tuple[Custom, ...]:
        """Return the rules on a device class in an area."""
        return self._in(area).get(kind, ())

    def asks_for_state(self, rule: str, area: str, kind: str) -> bool:
        """Whether a rule on a device class in an area asks for a device's state."""
        return any(one.asks.states and one.rule.id == rule for one in self.of(area, kind))

    @property
    def asks_states(self) -> bool:
        """Whether any of them asks for a device's state."""
        if self._asks_states is None:
            self._asks_states = any(
                one.asks.states
                for by_kind in self._in_all()
                for of in by_kind.values()
                for one in of
            )
        return self._asks_states

    def looked_at(self) -> Mapping[str, frozenset[str]]:
        """Return, by device class, the fields of readings that rules of another lane look at."""
        self._in_all()
        return self._looked_at

    def _in(self, area: str) -> Mapping[str, tuple[Custom, ...]]:
        rules = self._rules.at(area)
        found = self._by_kind.get(rules)
        if found is None:
            found = self._by_kind[rules] = self._compile(rules)
        return found

    def _in_all(self) -> list[Mapping[str, tuple[Custom, ...]]]:
        if not self._rules.has_custom:
            return []
        return [self._in(area) for area in {one.area for one in self._registry.devices.values()}]

    def _compile(self, rules: Rules) -> Mapping[str, tuple[Custom, ...]]:
        found: dict[str, tuple[Custom, ...]] = {}
        for rule in rules:
            if rule.enabled and rule.when is not None and rule.kind is not None:
                try:
                    one = Custom(rule, compile_condition(rule.when, rule.kind))
                except ConditionError as error:
                    # It fitted when it was saved: an upgrade changed what can be asked.
                    log.warning("left out rule=%s: %s", rule.id, error)
                    continue
                if one.lane == self._lane:
                    for kind in one.asks.kinds:
                        found[kind] = (*found.get(kind, ()), one)
                else:
                    names = self._looked_at.get(rule.kind, frozenset())
                    self._looked_at[rule.kind] = names | one.asks.names
        return found
