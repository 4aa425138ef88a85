# SPDX-License-Identifier: Apache-2.0
"""docs/reliability.md, made from the report of a full run.

``python -m deploy.faults.reliability REPORT.json [MORE.json ...]`` makes it anew from reports kept
as JSON; a fault of a later report stands in the place of the same fault of an earlier one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.installation import ROOT

FILE = ROOT / "docs" / "reliability.md"

_HEAD = """\
# Reliability: what was broken on purpose, and what came of it

> Every message the edge agent accepted (its local commit returned) is stored exactly once, unless
> the outbox limit was reached, then an explicit gap record is stored instead; or it was refused as
> invalid, then its raw bytes and the reason are in the dead-letter table and the gateway is told.
> Alarm and gate events are never evicted before telemetry.

This page is written by `./dev faults --full`; nothing in it is typed by hand. Every run uses real
processes: agents, Mosquitto, ingest, PostgreSQL with TimescaleDB. `./dev faults --quick` runs each
fault once and is part of `./dev test`; `./dev faults --only F20a --seed 3` repeats one run.

## How a run is judged

A ledger outside the system holds what agents accepted, written when their own commit had returned.
When the faults are healed and the queues drained, the database is compared with it:

- **lost**: accepted, and neither stored nor a dead letter nor covered by a gap record; by reading.
- **duplicated**: stored more often than accepted. **Phantom**: stored, never accepted.
- Content: SHA-256 of the canonical reading, made of the stored row, equals the ledger's.
- A witness hears every acknowledgement on the wire and asks the database over a connection of its
  own: nothing is acknowledged that is not stored, no watermark goes back.
- Gap records equal what agents evicted: range, number, lane.
- Every alert was opened once and closed at most once; each alarm is one alert.
- Lamp-nights and latest states equal a slow computation from the raw rows that shares no code with
  ingest; where the world's physics is known, indicators and alerts equal it as well.
- **Every fault proves that it happened** (connections were cut, a flush came twice, the disk was
  full); a run without that proof is void. It is repeated, at most twice a fault, and counted in a
  column of its own; more, or any difference, and the row fails.

The checker itself is tested by breaking the promise on purpose: `tests/system/test_checker.py`.
"""

_TAIL = """\
A zero has an n: 0 failures in n rounds bounds the rate at about 3/n (95 %).

Recovery is the time from the end of the fault until everything accepted before is stored and
ingest is ready; median and maximum over all rounds, in seconds.

## What is not covered

- **Real power cuts.** Processes are killed, machines are not. That a commit survives a power cut
  rests on `synchronous=FULL`, `fsync` and `synchronous_commit`, which are asserted and not cut.
  Cards and disks that lie about flushing are outside the promise.
- **An outbox that is destroyed** takes with it what was accepted and not yet stored. The runs F5
  and F19 count that apart; everything else must still be exact.
- **Bit rot behind a checksum.** A flipped bit in the broker's own state file can change a reading
  that is on its way, and nobody notices: TLS protects the line, not the broker's disk. The outbox
  is checked when it is opened, the database by its page checksums.
- **A flood of refusals.** Of each gateway and day the raw bytes of the first 1,000 refusals are
  kept, the rest is counted; the runs stay below that.
- **Packet loss is shown as TCP shows it** (what was lost comes later), by a proxy; no packet is
  dropped in a kernel. Real radio links are not part of any run.
- **One machine.** Broker and database share it; a replica that takes over has a drill of its own,
  `./dev drill failover`. No clock of the server
  steps. Hundreds of gateways that return at once are not part of these runs.
- **RabbitMQ** in the place of Mosquitto has a drill of its own, `./dev drill cluster`: a node of
  three is killed, frozen, cut off. The faults above run behind Mosquitto.
- **A broken ACL file.** Mosquitto that reloads one lets everybody publish everywhere; ingest still
  takes from a gateway's topic only what its own devices may say, and cannot tell who published it.
- **Exactly once ends at the database.** The live stream is a hint, repaired by snapshots.
- **Lies.** A gateway that invents readings of its own devices is believed.
"""


def render(report: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_table(report), "", _TAIL])


def write(report: Mapping[str, Any], file: Path = FILE) -> Path:
    """Write the page anew."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(report))
    return file


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    rows = report["faults"]
    rounds = sum(row["rounds"] for row in rows)
    accepted = sum(row["accepted"] for row in rows)
    yield "## The figures"
    yield ""
    runs = sum(len(row["seeds"]) for row in rows)
    yield (
        f"{len(rows)} faults, {runs:,} runs, {rounds:,} rounds, {accepted:,} readings and events "
        f"accepted; {report['mode']} run, commit `{report['commit']}`, "
        f"{report['cpus']} processors, {report['seconds'] / 60:.0f} minutes."
    )
    for other in report.get("apart", ()):
        yield ""
        yield (
            f"Run apart: {', '.join(other['faults'])}; {other['mode']} run, commit "
            f"`{other['commit']}`, {other['seconds'] / 60:.0f} minutes."
        )
    yield ""
    yield (
        "| | fault | seeds | void | rounds | accepted | lost | duplicated | phantom | dead letters "
        "| gap records | recovery s | ok |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    for row in rows:
        recovery = row["recovery_s"]
        times = "-"
        if recovery["median"] is not None:
            times = f"{recovery['median']:.1f} / {recovery['max']:.1f}"
        counts = ("rounds", "accepted", "lost", "duplicated", "phantom", "dead_lettered")
        yield " | ".join(
            [
                f"| {row['fault']}",
                f"{row['part']}: {row['name']}",
                str(len(row["seeds"])),
                str(row["void"]),
                *(f"{row[name]:,}" for name in counts),
                f"{row['gap_records']:,}",
                times,
                f"{'yes' if row['ok'] else '**no**'} |",
            ]
        )


def main() -> None:
    """Write the page from the report named on the command line."""
    report, *later = (json.loads(Path(name).read_text()) for name in sys.argv[1:])
    print(write(together(report, later)))


def together(report: Mapping[str, Any], later: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a report in which the faults of later ones stand in the place of their own."""
    rows = {row["fault"]: row for row in report["faults"]}
    for other in later:
        rows |= {row["fault"]: row for row in other["faults"]}
    apart = [
        {
            "faults": [row["fault"] for row in other["faults"]],
            **{name: other[name] for name in ("mode", "commit", "seconds")},
        }
        for other in later
    ]
    faults = list(rows.values())
    return {**report, "faults": faults, "ok": all(row["ok"] for row in faults), "apart": apart}


if __name__ == "__main__":
    main()
