# SPDX-License-Identifier: Apache-2.0
"""Places where a test may end this process, or have it break a promise on purpose.

``LINLI_FAILPOINT=NAME`` or ``NAME:N`` (the N-th time). Unset, which is always so in production,
every call costs a comparison. Ingest refuses to start with it set unless its broker is on this
machine.
"""

import os
import signal
from typing import Final

BEFORE_COMMIT: Final = "ingest.before_commit"
AFTER_COMMIT: Final = "ingest.after_commit"
# These two break the promise itself, so that the checker can be seen to notice.
ACK_BEFORE_COMMIT: Final = "ingest.ack_before_commit"
SKIP_DEDUPE: Final = "ingest.skip_dedupe"
# Where `linli-ingest notify` is: messages are written, one is about to be sent, one was sent.
NOTIFY_PLANNED: Final = "notify.planned"
NOTIFY_SENDING: Final = "notify.sending"
NOTIFY_SENT: Final = "notify.sent"
NAMES: Final = (
    BEFORE_COMMIT, AFTER_COMMIT, ACK_BEFORE_COMMIT, SKIP_DEDUPE,
    NOTIFY_PLANNED, NOTIFY_SENDING, NOTIFY_SENT,
)  # fmt: skip

_name, _, _count = os.environ.get("LINLI_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def name() -> str | None:
    """Return the failpoint that is set, None in ordinary life."""
    return _name or None


def active(failpoint: str) -> bool:
    """Whether the promise named is to be broken."""
    return _name == failpoint


def reached(failpoint: str) -> None:
    """End this process, as a power cut would, when it comes here for the N-th time."""
    global _left
    if _name == failpoint:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
