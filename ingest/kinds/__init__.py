# SPDX-License-Identifier: Apache-2.0
"""The device classes as ingest sees them, one line each, and the rules that come with them."""

from collections.abc import Mapping
from typing import Final

from ingest.kinds import alarm, bin, gate, lamp
from ingest.kinds.base import Kind
from ingest.rules import Rule

KINDS: Final[Mapping[str, Kind]] = {
    kind.kind: kind for kind in (lamp.KIND, bin.KIND, gate.KIND, alarm.KIND)
}

# Rules that any device, and the gateway itself, can meet.
DEVICE_FAULT: Final = Rule(id="device.fault", severity="minor")
DEVICE_SILENT: Final = Rule(id="device.silent", severity="minor", on_delay_s=60)
GATEWAY_SILENT: Final = Rule(id="gateway.silent", severity="major")

DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    *(rule for kind in KINDS.values() for rule in kind.rules),
    DEVICE_FAULT,
    DEVICE_SILENT,
    GATEWAY_SILENT,
)
