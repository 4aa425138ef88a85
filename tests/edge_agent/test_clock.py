# SPDX-License-Identifier: Apache-2.0
"""Whether the clock can be trusted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.clock import (
    CLOCK_FILE,
    StepWatch,
    SystemClock,
    boot_id,
    judge,
    kernel_synchronized,
)
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


def test_clock_file_shifts_the_time_in_mid_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "clock"
    monkeypatch.setenv(CLOCK_FILE, str(file))
    clock = SystemClock()

    def shift_s() -> float:
        return (clock.now() - datetime.now(UTC)).total_seconds()

    assert shift_s() == pytest.approx(0, abs=5)
    for seconds in (3_600.0, -3_600.0):
        file.write_text(f"{seconds}\n")
        assert shift_s() == pytest.approx(seconds, abs=5)
    file.write_text(str(-datetime.now(UTC).timestamp() + 60))
    assert clock.now().year == 1970
    assert clock.quality() == "unsynchronized"
    for nonsense in ("", "soon", "nan", "1e300"):
        file.write_text(nonsense)
        assert shift_s() == pytest.approx(0, abs=5)


def test_setting_the_clock_is_noticed_and_slewing_is_not() -> None:
    watch = StepWatch(CREDIBLE, 100.0)
    assert watch.look(CREDIBLE + timedelta(seconds=60.5), 160.0) == 0.0
    assert watch.steady_s(160.0) == 60.0
    assert watch.look(CREDIBLE + timedelta(hours=1), 161.0) == pytest.approx(3_538.5)
    assert watch.look(CREDIBLE + timedelta(hours=1, seconds=9), 170.0) == 0.0
    assert watch.steady_s(170.0) == 9.0
    assert watch.look(CREDIBLE, 171.0) < -3_600


def test_boot_has_one_id() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) >= 32
