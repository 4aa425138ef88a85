# SPDX-License-Identifier: Apache-2.0
"""Who goes first where cores are short: alarms, not readings."""

import contextlib
import os
from pathlib import Path
from typing import Final

#: So much nicer than it was started is a process that stores readings and no events.
NICER: Final = 10
_AUTOGROUP: Final = Path("/proc/self/autogroup")


def give_way() -> None:
    """Let all others on this machine go first; what they leave is ours.

    Linux weighs sessions against one another before it looks who in them is nice (sched(7), "The
    autogroup feature"), unless control groups say otherwise: so this session, too, if it is ours.
    """
    nice = os.nice(NICER)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # there is no such feature, or it is not ours to set
            _AUTOGROUP.write_text(str(nice))
