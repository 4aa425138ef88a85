# SPDX-License-Identifier: Apache-2.0
"""Rules as data: who said what, area by area, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ingest.kinds import DEFAULT_RULES
from ingest.rules import RuleBook, RuleError, Version

# city > c01 > c01-g01, and c02 beside c01.
LIES: dict[str, list[str]] = {
    "city": ["city"],
    "c01": ["city", "c01"],
    "c01-g01": ["city", "c01", "c01-g01"],
    "c02": ["city", "c02"],
}
OWN: dict[str, Any] = {
    "name": {"zh-CN": "半满", "en": "Half full"},
    "kind": "bin",
    "severity": "info",
    "when": {"type": "threshold", "field": "fill_pct", "above": 50},
}


def book(rule: str, said: Mapping[str, Mapping[str, Any] | None], **configured: Any) -> RuleBook:
    versions = [Version(rule, area, 1, definition) for area, definition in said.items()]
    return RuleBook(DEFAULT_RULES, {rule: configured} if configured else {}, versions, LIES)


@pytest.mark.parametrize(
    ("configured", "said", "limits"),
    [
        #                                             city, c01, c01-g01, c02
        ({}, {}, (90, 90, 90, 90)),
        ({"limit": 80}, {}, (80, 80, 80, 80)),
        ({"limit": 80}, {"city": {"limit": 85}}, (85, 85, 85, 85)),
        ({}, {"c01": {"limit": 85}}, (90, 85, 85, 90)),
        ({}, {"city": {"limit": 80}, "c01-g01": {"limit": 95}}, (80, 80, 95, 80)),
        # Said of something else: the limit comes from above all the same.
        ({}, {"city": {"limit": 80}, "c01": {"on_delay_s": 9}}, (80, 80, 80, 80)),
        # Withdrawn: as if it had never been said.
        ({}, {"city": {"limit": 80}, "c01": None}, (80, 80, 80, 80)),
        ({}, {"c01": {"enabled": False}}, (90, None, None, 90)),
        # Switched off above, and on again where it is wanted.
        ({"enabled": False}, {"c01": {"enabled": True}}, (None, 90, 90, None)),
    ],
)
def test_the_nearest_word_on_each_parameter_counts(
    configured: dict[str, Any],
    said: dict[str, dict[str, Any] | None],
    limits: tuple[float | None, ...],
) -> None:
    rules = book("bin.full", said, **configured)
    found = [rules.get("bin.full", area) for area in LIES]
    assert tuple(None if rule is None else rule.limit for rule in found) == limits


def test_who_said_what_is_known() -> None:
    rules = book("bin.full", {"city": {"limit": 80, "clear": 60}, "c01": {"limit": 85}}, clear=70)
    assert rules.sources("c01-g01")["bin.full"] == {"limit": "c01", "clear": "city"}
    assert rules.sources("nowhere")["bin.full"] == {"clear": "installation"}


def test_an_own_rule_exists_where_it_was_made_and_below() -> None:
    rules = book("custom.half", {"c01": OWN, "c01-g01": {"on_delay_s": 60}})
    assert rules.get("custom.half", "c02") is None
    cell = rules.get("custom.half", "c01-g01")
    assert cell is not None
    assert (cell.on_delay_s, cell.kind) == (60, "bin")


@pytest.mark.parametrize(
    ("rule", "definition", "parameter"),
    [
        ("bin.nothing", {"limit": 1}, ""),
        ("bin.full", {"limits": 1}, "limits"),
        ("bin.full", {"life_safety": True}, "life_safety"),
        ("bin.full", {"id": "bin.fire"}, "id"),
        ("bin.full", {"limit": "much"}, "limit"),
        ("bin.full", {"reopen_s": 90_000}, "reopen_s"),
        ("gate.forced", {"clear": 1}, "clear"),
        ("custom.half", {"on_delay_s": 60}, "kind"),
    ],
)
def test_what_does_not_fit_is_refused(
    rule: str, definition: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(RuleError) as refused:
        RuleBook(DEFAULT_RULES, {}, (), LIES).changed(Version(rule, "c01", 1, definition))
    assert refused.value.parameter == parameter


def test_what_an_area_below_builds_on_cannot_be_withdrawn() -> None:
    rules = book("custom.half", {"city": OWN, "c01": {"on_delay_s": 60}})
    with pytest.raises(RuleError):
        rules.changed(Version("custom.half", "city", 2, None))
    rules.changed(Version("custom.half", "c01", 2, None)).changed(
        Version("custom.half", "city", 2, None)
    )


def test_what_an_upgrade_made_unfit_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """A word that fitted the release it was said in stops nothing in the next one."""
    rules = book("bin.full", {"city": {"limit": 80}, "c01": {"gone": 1}})
    found = rules.get("bin.full", "c01")
    assert found is not None
    assert found.limit == 80
    assert "gone" in caplog.text


def test_danger_to_life_is_marked_and_duress_stays_until_it_is_reset() -> None:
    assert {rule.id for rule in DEFAULT_RULES if rule.life_safety} == {
        "alarm.panic", "alarm.smoke", "alarm.gas", "alarm.fire", "alarm.duress", "bin.fire",
    }  # fmt: skip
    assert [rule.id for rule in DEFAULT_RULES if rule.latching] == ["alarm.duress"]
