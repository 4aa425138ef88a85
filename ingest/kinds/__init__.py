# SPDX-License-Identifier: Apache-2.0
"""The device classes as ingest sees them, one line each, and the rules that come with them."""

from collections.abc import Mapping
from typing import Final

from ingest import hygiene
from ingest.indicator_rules import INDICATOR_RULES
from ingest.kinds import alarm, bin, gate, lamp
from ingest.kinds.base import Kind
from ingest.rules import Rule

KINDS: Final[Mapping[str, Kind]] = {
    kind.kind: kind for kind in (lamp.KIND, bin.KIND, gate.KIND, alarm.KIND)
}

# Rules that any device, and the gateway itself, can meet.
DEVICE_FAULT: Final = Rule(id="device.fault", severity="minor", reopen_s=3_600)
DEVICE_SILENT: Final = Rule(id="device.silent", severity="minor", on_delay_s=60, reopen_s=1_800)
GATEWAY_SILENT: Final = Rule(
    id="gateway.silent", kind="gateway", severity="major", reopen_s=900, lane="event"
)
# An outage fills the outbox and its end empties it: what stays full though it is heard is trouble.
GATEWAY_OUTBOX_FILLING: Final = Rule(
    id="gateway.outbox_filling", kind="gateway", severity="minor", limit=80, clear=60,
    on_delay_s=600, reopen_s=3_600, lane="event",
)  # fmt: skip
# A box without a clock of its own finds the time within minutes of being linked.
GATEWAY_CLOCK: Final = Rule(
    id="gateway.clock", kind="gateway", severity="minor", on_delay_s=3_600, off_delay_s=300,
    reopen_s=3_600, lane="event",
)  # fmt: skip
# Refused again and again: a device, or what cannot be told of one device, that turned bad.
DEVICE_REFUSED: Final = Rule(id="device.refused", severity="minor", reopen_s=3_600)
GATEWAY_REFUSED: Final = Rule(
    id="gateway.refused", kind="gateway", severity="major", reopen_s=3_600
)
# Messages that are missing below stored ones, and messages that will never come.
STREAM_HOLE: Final = Rule(
    id="stream.hole", kind="gateway", severity="minor", on_delay_s=60, reopen_s=3_600, lane="event"
)
STREAM_LOST: Final = Rule(
    id="stream.lost", kind="gateway", severity="major", reopen_s=3_600, lane="event"
)
# One cause behind many: half of a circuit's lamps, more alerts than a desk can take
# (`ingest.hygiene`).
CIRCUIT_DARK: Final = Rule(id=hygiene.CIRCUIT_DARK, severity="major")
ALERTS_FLOOD: Final = Rule(id=hygiene.FLOOD, severity="major")

DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    *(rule for kind in KINDS.values() for rule in kind.rules),
    DEVICE_FAULT,
    DEVICE_SILENT,
    GATEWAY_SILENT,
    GATEWAY_OUTBOX_FILLING,
    GATEWAY_CLOCK,
    DEVICE_REFUSED,
    GATEWAY_REFUSED,
    STREAM_HOLE,
    STREAM_LOST,
    CIRCUIT_DARK,
    ALERTS_FLOOD,
    *(one.rule for one in INDICATOR_RULES),
)
