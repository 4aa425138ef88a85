# SPDX-License-Identifier: Apache-2.0
"""What an indicator is: name, formula, unit, target and where the target comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# share: good / (good + bad), with bounds for what is unknown. sum: what adds up. rate: cases among
# people and time, with its interval. times: how long something took, as median and p90.
Shape = Literal["share", "sum", "rate", "times"]
# What the parts of a number are counted in; the unit of a share itself is a fraction.
Parts = Literal["us", "g", "Wh", "devices", "roads", "cases"]
Language = Literal["zh-CN", "en"]
Text = Mapping[Language, str]


@dataclass(frozen=True, slots=True)
class Target:
    """A limit that somebody set, and where it is written (docs/indicators.md lists the sources)."""

    value: float
    source: str
    #: Whether the number should lie at or above the target, or at or below it.
    better: Literal["high", "low"] = "high"


@dataclass(frozen=True, slots=True)
class Definition:
    """One indicator, explained where it is shown.

    Attributes:
        id: Lower case with hyphens; never changes its meaning.
        domain: The module it comes from: lighting, equipment, refuse, access, security.
        by_kind: Whether it is also told by device class.
        formula: As in the docstring of the function that computes it.
        rule_version: Grows when the rule of computation does.
    """

    id: str
    domain: str
    shape: Shape
    parts: Parts
    name: Text
    formula: Text
    target: Target | None = None
    by_kind: bool = False
    rule_version: int = 1
