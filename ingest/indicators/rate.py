# SPDX-License-Identifier: Apache-2.0
"""A rate that admits what it does not know: value, bounds, coverage, verdict."""

from dataclasses import dataclass
from typing import Literal

from ingest.indicators.definition import Target
from ingest.indicators.tally import Tally

Verdict = Literal["met", "not_met", "undetermined"]


@dataclass(frozen=True, slots=True)
class Rate:
    """A share, each figure a fraction from 0 to 1, or None where there is none.

    ``lower`` takes what is unknown as bad, ``upper`` as good; ``coverage`` is known over all.
    """

    value: float | None
    lower: float | None
    upper: float | None
    coverage: float | None
    verdict: Verdict


def share(tally: Tally, target: Target | None) -> Rate:
    """Return good over known, with bounds over all (domain.md, Lighting).

    The verdict is ``met`` or ``not_met`` only where both bounds lie on one side of the target, so
    nothing that is unknown could change it; without a target it is ``undetermined``.
    """
    known, whole = tally.good + tally.bad, tally.total
    if whole == 0:
        return Rate(None, None, None, None, "undetermined")
    lower, upper = tally.good / whole, (whole - tally.bad) / whole
    return Rate(
        tally.good / known if known else None,
        lower,
        upper,
        known / whole,
        "undetermined" if target is None else judge(lower, upper, target),
    )


def judge(lower: float, upper: float, target: Target) -> Verdict:
    """Return the verdict on something that lies between two bounds."""
    if target.better == "high":
        worst_meets, best_meets = lower >= target.value, upper >= target.value
    else:
        worst_meets, best_meets = upper <= target.value, lower <= target.value
    if worst_meets:
        return "met"
    return "undetermined" if best_meets else "not_met"
