# SPDX-License-Identifier: Apache-2.0
"""The device classes as people see them, one line each, in the order of the screens."""

from collections.abc import Mapping
from typing import Final

from api.kinds import alarm, bin, gate, lamp
from api.kinds.base import Shown

KINDS: Final[Mapping[str, Shown]] = {
    shown.kind: shown for shown in (lamp.SHOWN, bin.SHOWN, gate.SHOWN, alarm.SHOWN)
}
