# SPDX-License-Identifier: Apache-2.0
"""An outbox on a disk that fails now and then: a program, to be run under ``strace``.

``python -m tests.edge_agent.failing_disk FILE``. Prints what was refused; that what was accepted is
held, it asserts itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_agent.errors import NotAccepted
from edge_agent.lanes import LANES
from edge_agent.messages import Lane
from edge_agent.outbox import Outbox
from tests.edge_agent.rig import HandClock
from tests.edge_agent.test_outbox import event, telemetry


def opened(path: Path) -> Outbox:
    while True:
        try:
            return Outbox(path, clock=HandClock().now)
        except NotAccepted:
            sys.stdout.write("open refused\n")


def main(path: Path) -> None:
    outbox = opened(path)
    kept: dict[Lane, dict[int, bytes]] = {lane: {} for lane in LANES}
    for number in range(12):
        try:
            accepted = outbox.append([telemetry(number), event(number)])
        except NotAccepted:
            sys.stdout.write("append refused\n")
            continue
        for one in accepted:
            assert one.seq not in kept[one.lane]
            kept[one.lane][one.seq] = one.payload
    outbox.close()
    again = opened(path)
    for lane in LANES:
        held = {one.seq: one.payload for one in again.pending(lane, after=0, limit=100)}
        assert kept[lane].items() <= held.items(), "accepted and lost"
        # A COMMIT that failed may have reached the disk after all; then its seqs are used up.
        assert sorted(held) == list(range(1, len(held) + 1)), "no holes"
    again.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
