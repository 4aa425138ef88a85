# SPDX-License-Identifier: Apache-2.0
"""Wall time, and whether it can be trusted: a Raspberry Pi has no battery for its clock."""

import ctypes
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Final, Protocol

from edge_agent.messages import ClockQuality

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
    """The machine's clock, with the kernel's own word on whether something disciplines it."""

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        return datetime.now(UTC)

    def quality(self) -> ClockQuality:
        """Return what the kernel says; an incredible year overrules it."""
        return judge(self.now(), kernel_synchronized())


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
