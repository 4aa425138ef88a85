# SPDX-License-Identifier: Apache-2.0
"""A rate that admits what it does not know: value, bounds, coverage, verdict."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["met", "not_met", "undetermined"]


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of time, each figure a fraction from 0 to 1, or None where there is none.

    ``lower`` takes unknown time as bad, ``upper`` as good; ``coverage`` is known over all.
    """

    value: float | None
    lower: float | None
    upper: float | None
    coverage: float | None
    verdict: Verdict


def time_rate(good_us: int, bad_us: int, all_us: int, target: float) -> Rate:
    """Return good time over known time, with bounds over all time (domain.md, Lighting).

    Args:
        good_us: Known good, microseconds.
        bad_us: Known bad, microseconds.
        all_us: All that counts, microseconds; known is good and bad, the rest unknown.
        target: A fraction; ``met`` when the lower bound reaches it, ``not_met`` when the upper
            bound does not.

    Raises:
        ValueError: The parts are negative or exceed the whole.
    """
    known = good_us + bad_us
    if min(good_us, bad_us, all_us) < 0 or known > all_us:
        raise ValueError(f"not parts of a whole: {good_us} + {bad_us} of {all_us}")
    if all_us == 0:
        return Rate(None, None, None, None, "undetermined")
    lower, upper = good_us / all_us, (all_us - bad_us) / all_us
    verdict: Verdict = "undetermined"
    if lower >= target:
        verdict = "met"
    elif upper < target:
        verdict = "not_met"
    return Rate(good_us / known if known else None, lower, upper, known / all_us, verdict)
