# SPDX-License-Identifier: Apache-2.0
"""Wall time, and whether it can be trusted: a Raspberry Pi has no battery for its clock."""

import ctypes
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

from edge_agent.messages import ClockQuality

log = logging.getLogger(__name__)

CLOCK_FILE: Final = "LINLI_CLOCK_FILE"

# A clock that shows a year before this program was written has not been set since power-on.
YEAR_CREDIBLE_MIN: Final = 2025
YEAR_CREDIBLE_MAX: Final = 2099

_STA_UNSYNC: Final = 0x0040
_TIME_ERROR: Final = 5


class Clock(Protocol):
    """Where the agent takes its time from; simulators and tests bring their own."""

    def now(self) -> datetime:
        """Return the present instant, timezone-aware, in UTC."""
        ...

    def quality(self) -> ClockQuality:
        """Return whether `now` can be trusted."""
        ...


class SystemClock:
    """The machine's clock, with the kernel's own word on whether something disciplines it.

    For fault tests, and for nothing else, `CLOCK_FILE` in the environment names a file whose text
    shifts it, in seconds; it is read with each look, so that the clock can be set in mid-run.
    """

    def __init__(self) -> None:
        """Take the file, where the environment names one."""
        name = os.environ.get(CLOCK_FILE)
        self._shift = None if name is None else Path(name)
        if name is not None:
            log.warning("clock is shifted for a test file=%s", name)

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        now = datetime.now(UTC)
        if self._shift is None:
            return now
        try:
            return now + timedelta(seconds=float(self._shift.read_text()))
        except (OSError, ValueError, OverflowError):  # not there, being written, beyond all years
            return now

    def quality(self) -> ClockQuality:
        """Return what the kernel says; an incredible year overrules it."""
        return judge(self.now(), kernel_synchronized() if self._shift is None else None)


def credible(now: datetime) -> bool:
    """Return whether ``now`` can be true at all; nothing is stamped with an instant that cannot."""
    return YEAR_CREDIBLE_MIN <= now.year <= YEAR_CREDIBLE_MAX


def judge(now: datetime, synchronized: bool | None) -> ClockQuality:
    """Return the clock quality at ``now``; ``synchronized`` is None where nobody can tell."""
    if not credible(now):
        return "unsynchronized"
    if synchronized is None:
        return "unknown"
    return "synchronized" if synchronized else "unsynchronized"


# What a daemon slews within a look is less; what people and daemons set at once is more.
_STEP_MIN_S: Final = 5.0


class StepWatch:
    """Notices when the clock is set, because the monotonic clock does not go along."""

    def __init__(self, now: datetime, monotonic_s: float) -> None:
        """Begin with both clocks as they are."""
        self._offset_s = now.timestamp() - monotonic_s
        self._steady_since_s = monotonic_s

    def look(self, now: datetime, monotonic_s: float) -> float:
        """Return by how many seconds the clock was set since the last look; 0.0: it was not."""
        offset_s = now.timestamp() - monotonic_s
        step_s = offset_s - self._offset_s
        self._offset_s = offset_s
        if abs(step_s) < _STEP_MIN_S:
            return 0.0
        self._steady_since_s = monotonic_s
        return step_s

    def steady_s(self, monotonic_s: float) -> float:
        """Return for how many seconds the clock has not been set."""
        return monotonic_s - self._steady_since_s


@cache
def boot_id() -> str:
    """Return what tells this run of the machine, and so of its monotonic clock, from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid4())


class _Timex(ctypes.Structure):
    """The head of Linux's ``struct timex``, padded beyond the size of any known layout."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


def kernel_synchronized() -> bool | None:
    """Return whether a time daemon keeps the kernel clock; None where the kernel cannot be asked.

    Every daemon (timesyncd, chrony, ntpd) clears the kernel's STA_UNSYNC flag; reading it needs
    no privilege.
    """
    adjtimex = _adjtimex()
    if adjtimex is None:
        return None
    timex = _Timex(modes=0)
    state = adjtimex(ctypes.byref(timex))
    if state < 0:
        return None
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC


@cache
def _adjtimex() -> Callable[..., int] | None:
    """Return Linux's ``adjtimex(2)``; None elsewhere."""
    if os.name != "posix":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.POINTER(_Timex)]
    function.restype = ctypes.c_int
    return function
