# SPDX-License-Identifier: Apache-2.0
"""How often somebody may try to log in: ten times in 15 minutes per account and address."""

import time
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from api.errors import Problem

_WINDOW_MINUTES: Final = 15
_PER_ACCOUNT: Final = RateLimitItemPerMinute(10, _WINDOW_MINUTES, namespace="account")
# Against one password tried on many accounts; generous, since an office shares one address.
_PER_ADDRESS: Final = RateLimitItemPerMinute(100, _WINDOW_MINUTES, namespace="address")


class Attempts:
    """Counts log-in attempts of this process; a successful one is forgiven."""

    def __init__(self) -> None:
        """Start with a clean slate."""
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, username: str, address: str) -> None:
        """Count one attempt, before its password is looked at.

        Raises:
            Problem: ``session.too_many``, with the time to wait.
        """
        for item, key in ((_PER_ACCOUNT, (username, address)), (_PER_ADDRESS, (address,))):
            if not self._limiter.hit(item, *key):
                reset_at = self._limiter.get_window_stats(item, *key).reset_time
                wait_s = max(1, round(reset_at - time.time()))
                raise Problem("session.too_many", headers={"Retry-After": str(wait_s)})

    def forgive(self, username: str, address: str) -> None:
        """Forget the attempts of somebody who knew the password after all."""
        self._limiter.clear(_PER_ACCOUNT, username, address)
