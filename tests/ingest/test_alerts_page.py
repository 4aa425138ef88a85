# SPDX-License-Identifier: Apache-2.0
"""`docs/alerts.md`: the rules that come with the product are those of its table, as it has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ingest.indicator_rules import INDICATOR_RULES
from ingest.kinds import DEFAULT_RULES
from ingest.rules import Rule

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs/alerts.md").read_text(encoding="utf-8")
# Those over indicators have a table of their own, in docs/rules.md.
ELSEWHERE: Final = {one.rule.id for one in INDICATOR_RULES}
RULES: Final = [rule for rule in DEFAULT_RULES if rule.id not in ELSEWHERE]


class Row(NamedTuple):
    """One line of the table, for one of the rules it names."""

    severity: str
    raised: str
    cleared: str
    again: str


def _rows() -> dict[str, Row]:
    found: dict[str, Row] = {}
    table = PAGE.partition("## The rules that come with Linli")[2]
    for line in table.splitlines():
        names, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
        if len(cells) == len(Row._fields):
            found |= dict.fromkeys(re.findall(r"`([a-z]+\.[a-z_]+)`", names), Row(*cells))
    return found


def _words(seconds: float) -> str:
    return f"{seconds / 3_600:g} h" if seconds >= 3_600 else f"{seconds / 60:g} min"


def test_all_rules_stand_in_the_table_and_no_others() -> None:
    assert _rows().keys() == {rule.id for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_table_says_of_a_rule_what_it_is(rule: Rule) -> None:
    row = _rows()[rule.id]
    marks = [rule.severity, *["life safety"] * rule.life_safety, *["latching"] * rule.latching]
    assert row.severity.split(", ") == marks
    assert row.again.rstrip(" |") == _words(rule.reopen_s)
    for limit, cell in ((rule.limit, row.raised), (rule.clear, row.cleared)):
        assert limit is None or f"{limit:g}" in re.findall(r"\d+", cell)
