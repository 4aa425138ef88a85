# SPDX-License-Identifier: Apache-2.0
"""The device classes as ingest sees them, one line each, and the rules that come with them."""

from collections.abc import Mapping
from typing import Final

from ingest import hygiene
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
# Refused again and again: a device, or what cannot be told of one device, that turned bad.
DEVICE_REFUSED: Final = Rule(id="device.refused", severity="minor")
GATEWAY_REFUSED: Final = Rule(id="gateway.refused", severity="major")
# Messages that are missing below stored ones, and messages that will never come.
STREAM_HOLE: Final = Rule(id="stream.hole", severity="minor", on_delay_s=60)
STREAM_LOST: Final = Rule(id="stream.lost", severity="major")
# One cause behind many: half of a circuit's lamps, more alerts than a desk can take
# (`ingest.hygiene`).
CIRCUIT_DARK: Final = Rule(id=hygiene.CIRCUIT_DARK, severity="major")
ALERTS_FLOOD: Final = Rule(id=hygiene.FLOOD, severity="major")

DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    *(rule for kind in KINDS.values() for rule in kind.rules),
    DEVICE_FAULT,
    DEVICE_SILENT,
    GATEWAY_SILENT,
    DEVICE_REFUSED,
    GATEWAY_REFUSED,
    STREAM_HOLE,
    STREAM_LOST,
    CIRCUIT_DARK,
    ALERTS_FLOOD,
)
