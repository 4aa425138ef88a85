# SPDX-License-Identifier: Apache-2.0
"""What a sensor wrote, in whole numbers."""

from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache


@lru_cache(maxsize=50_000)
def half_up(value: float, digits: int) -> int:
    """Return ``value`` in units of the last of ``digits`` behind the point, halves rounded up.

    What the sensor wrote is rounded, not what became of it: the tables keep single precision,
    which brings back seven digits, and 1.0005 read from one in binary is 1.00049996.
    """
    return int(Decimal(f"{value:.7g}").scaleb(digits).to_integral_value(ROUND_HALF_UP))
