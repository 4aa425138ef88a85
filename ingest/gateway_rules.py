# SPDX-License-Identifier: Apache-2.0
"""What a gateway's word on itself says to the rules on gateways: a full outbox, an untrue clock.

Times are of receipt: a gateway whose clock is in question is not asked how late it is.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from edge_agent.messages import Status
from ingest.kinds import GATEWAY_CLOCK, GATEWAY_OUTBOX_FILLING
from ingest.kinds.base import Condition, hysteresis
from ingest.rules import Rules

# A status says what it says until this many further ones are missing, or one that never promised.
_MISSED: Final = 3
_UNPROMISED: Final = timedelta(hours=1)


def conditions(status: Status, rules: Rules) -> Iterator[Condition]:
    """Yield what a status says to the gateway rules; one that is a farewell says nothing."""
    if status.state == "offline":
        return
    used_pct: float | None = None
    if status.outbox_bytes is not None and status.outbox_limit_bytes:
        used_pct = round(100 * status.outbox_bytes / status.outbox_limit_bytes, 1)
    yield Condition(
        GATEWAY_OUTBOX_FILLING.id,
        hysteresis(used_pct, rules.get(GATEWAY_OUTBOX_FILLING.id)),
        {"used_pct": used_pct, "outbox_hours": status.outbox_hours},
    )
    trusted = {"synchronized": True, "unsynchronized": False, "unknown": None}[status.clock]
    yield Condition(GATEWAY_CLOCK.id, None if trusted is None else not trusted)


def known_until(status: Status, received_at: datetime) -> datetime:
    """Return until when a status says what it says if no other comes."""
    promised = status.status_interval_s
    return received_at + (
        _UNPROMISED if promised is None else timedelta(seconds=_MISSED * promised)
    )
