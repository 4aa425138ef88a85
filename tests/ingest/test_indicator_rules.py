# SPDX-License-Identifier: Apache-2.0
"""Rules over indicators: certain or not, with hysteresis, in figures that do not flatter."""

from __future__ import annotations

from typing import Literal

import pytest

from ingest.indicator_rules import INDICATOR_RULES, holds, percent
from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.tally import Tally
from ingest.rules import Rule

RULE = Rule(id="indicator.any", severity="minor", limit=97, clear=98)
BARE = Rule(id="indicator.any", severity="minor", limit=97)


@pytest.mark.parametrize(
    ("asks", "rule", "tally", "expected"),
    [
        #                 good bad total
        ("value", RULE, Tally(960, 40, 1000), True),
        ("value", RULE, Tally(970, 30, 1000), None),
        ("value", RULE, Tally(979, 21, 1000), None),
        ("value", RULE, Tally(980, 20, 1000), False),
        # What is unknown may have been good: not certain, and 50 % of what is known is no recovery.
        ("value", RULE, Tally(20, 20, 1000), None),
        # As bad as it may be, what is unknown cannot mend it any more.
        ("value", RULE, Tally(0, 31, 1000), True),
        ("value", RULE, Tally(0, 30, 1000), None),
        # Recovered by what is known, although it is not proved.
        ("value", RULE, Tally(99, 1, 1000), False),
        # Nothing known, or nothing that counts.
        ("value", RULE, Tally(0, 0, 1000), None),
        ("value", RULE, Tally(), None),
        # Without a clear the limit is both.
        ("value", BARE, Tally(970, 30, 1000), False),
        ("value", BARE, Tally(969, 31, 1000), True),
        ("value", Rule(id="indicator.any", severity="minor"), Tally(0, 1, 1), None),
        ("coverage", RULE, Tally(969, 0, 1000), True),
        ("coverage", RULE, Tally(0, 969, 1000), True),
        ("coverage", RULE, Tally(500, 470, 1000), None),
        ("coverage", RULE, Tally(500, 480, 1000), False),
        ("coverage", RULE, Tally(0, 0, 1000), True),
        ("coverage", RULE, Tally(), None),
    ],
)
def test_what_days_say_to_a_rule(
    asks: Literal["value", "coverage"], rule: Rule, tally: Tally, expected: bool | None
) -> None:
    assert holds(asks, rule, tally) is expected


def test_what_is_below_is_never_told_as_reached() -> None:
    tally = Tally(96_999, 3_001, 100_000)
    assert holds("value", BARE, tally) is True
    assert percent("value", tally) == 96.9
    assert percent("coverage", Tally(0, 799, 1_000)) == 79.9
    assert percent("value", Tally(0, 0, 1_000)) is None


def test_limits_are_the_targets_that_the_indicators_have() -> None:
    for one in INDICATOR_RULES:
        definition = INDICATORS[one.indicator]
        assert definition.shape == "share"
        if one.asks == "value":
            assert definition.target is not None
            assert definition.target.better == "high"
            assert one.rule.limit == pytest.approx(100 * definition.target.value)
        assert one.rule.limit is not None
        assert one.rule.clear is not None
        assert one.rule.clear > one.rule.limit
