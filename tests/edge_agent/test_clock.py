# SPDX-License-Identifier: Apache-2.0
"""Whether the clock can be trusted."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from edge_agent.clock import SystemClock, judge, kernel_synchronized
from edge_agent.messages import ClockQuality

CREDIBLE = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "synchronized", "expected"),
    [
        pytest.param(CREDIBLE, True, "synchronized", id="disciplined"),
        pytest.param(CREDIBLE, False, "unsynchronized", id="free-running"),
        pytest.param(CREDIBLE, None, "unknown", id="nobody-can-tell"),
        pytest.param(datetime(1970, 1, 1, tzinfo=UTC), True, "unsynchronized", id="never-set"),
        pytest.param(datetime(2124, 1, 1, tzinfo=UTC), True, "unsynchronized", id="far-ahead"),
    ],
)
def test_quality(now: datetime, synchronized: bool | None, expected: ClockQuality) -> None:
    assert judge(now, synchronized) == expected


def test_system_clock_is_aware_and_has_an_opinion() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.quality() in {"synchronized", "unsynchronized", "unknown"}
    assert kernel_synchronized() in {True, False, None}
