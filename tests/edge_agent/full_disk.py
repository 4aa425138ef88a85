# SPDX-License-Identifier: Apache-2.0
"""An outbox on a small disk that somebody else fills: a program, because it needs a mount.

``python -m tests.edge_agent.full_disk FOLDER``, FOLDER being the whole disk. Prints what happened
as JSON; that nothing accepted is lost it asserts itself.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from edge_agent.errors import NotAccepted
from edge_agent.lanes import LANES, Accepted
from edge_agent.messages import EventMessage, GapEvent, Lane
from edge_agent.outbox import Outbox
from edge_agent.outbox_file import BALLAST_BYTES
from tests.edge_agent.rig import HandClock, noise
from tests.edge_agent.test_outbox import event

LIMIT_BYTES = 64 * 1024 * 1024
POOL = [noise(100, seed) for seed in range(20)]


class Disk:
    """The outbox, what it accepted, and the other one's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        self.kept: dict[Lane, dict[int, bytes]] = {lane: {} for lane in LANES}
        self.happened: Counter[str] = Counter()
        self.outbox = self.open()

    def open(self) -> Outbox:
        path = self.folder / "data" / "outbox.db"
        return Outbox(
            path,
            clock=HandClock().now,
            limit_bytes=LIMIT_BYTES,
            monotonic=lambda: self.seconds,
        )

    @property
    def ballast(self) -> Path:
        return self.folder / "data" / "outbox.db.ballast"

    def fill(self, name: str) -> None:
        with (self.folder / name).open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                self.happened[f"{name}: {error.strerror}"] += 1

    def append(self, phase: str, times: int) -> None:
        for number in range(times):
            drafts = [POOL[number % len(POOL)], event(number)]
            try:
                accepted = self.outbox.append(drafts)
            except NotAccepted as error:
                self.happened[f"{phase}: {type(error).__name__}"] += 1
                continue
            self.happened[f"{phase}: accepted"] += 1
            for one in accepted:
                self.take(one)

    def take(self, one: Accepted) -> None:
        assert one.seq not in self.kept[one.lane], "no seq twice"
        self.kept[one.lane][one.seq] = one.payload
        if isinstance(one.message, EventMessage) and isinstance(one.message.event, GapEvent):
            gap = one.message.event
            for seq in range(gap.first, gap.last + 1):
                del self.kept[gap.lane][seq]
            self.happened["gap records"] += 1

    def settle(self) -> None:
        lane = self.outbox.lane("telemetry")
        upto = lane.oldest + 2
        self.outbox.discard(lane.stream, upto)
        for seq in [seq for seq in self.kept["telemetry"] if seq <= upto]:
            del self.kept["telemetry"][seq]

    def check(self) -> None:
        for lane in LANES:
            held = self.outbox.pending(lane, after=0, limit=100_000)
            assert {one.seq: one.payload for one in held} == self.kept[lane], lane


def main(folder: Path) -> None:
    disk = Disk(folder)
    assert disk.ballast.stat().st_size == BALLAST_BYTES
    disk.append("before", 200)
    disk.fill("filler")
    disk.append("full", 300)
    disk.happened["ballast given up"] += not disk.ballast.exists()
    disk.check()
    disk.fill("filler-2")
    disk.append("fuller", 300)
    disk.settle()
    disk.check()
    disk.outbox.close()
    disk.outbox = disk.open()
    disk.check()
    disk.append("reopened", 100)
    disk.check()
    for name in ("filler", "filler-2"):
        (folder / name).unlink()
    disk.seconds += 10
    before = disk.outbox.evicted.total()
    disk.append("after", 100)
    disk.check()
    disk.happened["ballast is back"] += disk.ballast.exists()
    disk.happened["evicted after"] += disk.outbox.evicted.total() - before
    disk.outbox.close()
    sys.stdout.write(json.dumps(disk.happened))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
