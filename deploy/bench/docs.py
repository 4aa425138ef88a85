# SPDX-License-Identifier: Apache-2.0
"""Make docs/benchmarks.md of the reports under docs/bench/: `python -m deploy.bench.docs`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deploy.installation import ROOT

REPORTS: Final = ROOT / "docs/bench"
PAGE: Final = ROOT / "docs/benchmarks.md"

_HEAD: Final = """\
# Benchmarks

Made by `python -m deploy.bench.docs` from the reports in `docs/bench/`; not edited by hand.

Each report is one call of `./dev bench NAME --json FILE` on one machine. Ratios come first, because
they carry over to other machines: both sides of each were measured in the same call, in turns.
Absolute figures are those of the machine that is named. A figure is told only where what was stored
equals what was accepted. What is measured beside what, and which ratio must be reached, is said
under each name.
"""

_ABOUT: Final[Mapping[str, str]] = {
    "ingest": """\
Broker (TLS, QoS 1), database, ingest with all indicators and rules, api with 20 viewers and the
load generator share the same two cores. *The city* runs by the clock (an open loop); then Linli
and the baselines take turns, each as fast as it can:

- **C0** copies the same rows of the same devices, prepared text, 5,000 a COMMIT, into tables like
  Linli's with the same index, and does nothing else.
- **N1** receives with stock paho-mqtt, acknowledges by hand every 50 ms, and stores nothing.
- **F1** is the usual script: each reading parsed, inserted, committed.
- *Duplicates* are messages of the round before, sent again when all of them are stored: a rate of
  being found known.
- *Bare* is a message of the generator to itself through the same broker at the same time.

Each gateway tells its status beside its readings, as often as an agent does.

An alert's latency is from the instant at which its alarm should have been sent to its arrival on
`live/{community}`, on one clock.""",
    "indicators": """\
A month of indicators read as the api reads it, and what keeping the days costs ingest. A ratio is
the part of its budget that a read takes: at most 1.""",
    "latest": """\
The latest state of all devices of a community, and a year of one device, read in the database and
through the api, beside a DISTINCT ON over thirty days of raw readings.""",
    "storage": """\
COPY of a city's readings into a hypertable and into a plain table with the same index, in turns;
bytes of a stored value, heap and index, beside a layout of entity, attribute and value.""",
    "burst": """\
Three times as many readings as the city has, for as long as is said: ingest's memory stays flat,
and in the end everything is stored.""",
    "alerts": """\
From the instant at which an alarm should have been sent to the arrival of its alert: with nothing
else to do, then while a backlog of telemetry drains. *Bare* is a message of the generator to itself
through the same broker at the same time.""",
    "replay": """\
Half of the city tells, and its alarms go on, while who hears telemetry is killed, comes back, and
stores a million readings that waited: from the instant at which an alarm should have been sent to
the arrival of its alert, as long as more waits than is usual.""",
    "outage": """\
Ingest is killed and stays away. First it catches up alone. Then it is away again, and catches up
while a part of the city goes on: what it stores then, beside the most that it stores of messages of
that size when it has nothing to wait for, in the same call.""",
    "federation": """\
A city that has a month of final numbers tells its province all of them for the first time: how long
that takes, how many messages and bytes it is, and whether both have the same in the end.""",
    "partitions": """\
The same city with one ingest process and with two by partition, in turns: what a reading costs.""",
    "fanout": """\
Server-sent events over real connections with real tokens. One alert is changed in the tables and
its id told on the live topic, again as soon as one viewer heard of it; every viewer must hear the
same, and none may be cut off. **W0** is an app of the same server and stream library that tells as
many viewers an event of the same size, again and again, and does nothing else. Then ingest stores
as fast as it can, with viewers of twenty communities and without, in turns; who reads the streams
has its share of the same cores.""",
    "console": """\
Chromium opens the overview of a community with an empty cache, logged in. Changes are told on the
live topic as ingest tells them. The first picture is there when the stream is live, the tiles count
the devices, and that frame is painted; pages of a hundred devices and an empty page of the same
server are opened in turns with it. A batch is what the main thread works in all for one second's
changes, painting included.""",
    "edge": """\
A real agent with its outbox and drivers, started anew in each round: memory, processor time at
rest, from its start to its first message, and what an outbox file holds.""",
}


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the whole page.

    Args:
        reports: By file name.
    """
    parts = [_HEAD]
    for name, report in sorted(reports.items()):
        parts.append("\n".join(_section(name, report)) + "\n")
    return "\n".join(parts)


def load(folder: Path = REPORTS) -> dict[str, dict[str, Any]]:
    """Read all reports."""
    return {file.name: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def _section(name: str, report: Mapping[str, Any]) -> Iterator[str]:
    bench = report["bench"]
    yield f"## {bench}: `docs/bench/{name}`"
    yield ""
    if bench in _ABOUT:
        yield _ABOUT[bench]
        yield ""
    if not report.get("comparable", True):
        yield "**Not comparable**: a short run for profiling."
        yield ""
    for line in report.get("wrong", ()):
        yield f"**Wrong**: {line}"
        yield ""
    if "ratios" in report:
        yield from _ratios(report["ratios"])
        yield from _city_runs(report["runs"])
    else:
        yield from _measured(report["runs"])
    yield f"Measured on {_machine(report)}. Commit {report['commit']}."
    settings = "; ".join(f"{key} {_plain(value)}" for key, value in report["settings"].items())
    yield ""
    yield f"Settings: {settings}."
    for note in report.get("notes", ()):
        yield f"Note: {note}."


def _ratios(ratios: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| goal | value | must | | all values |"
    yield "|---|---:|---:|---|---|"
    for one in ratios:
        verdict = "met" if one["met"] else "**missed**"
        if not one["stable"] and len(one["values"]) > 1:
            verdict += ", unstable"
        sign = "≤" if one["at_most"] else "≥"
        values = " ".join(f"{value:,g}" for value in one["values"])
        row = (one["goal"], f"{one['value']:,g}", f"{sign} {one['must']:g}", verdict, values)
        yield f"| {' | '.join(row)} |"
    yield ""


def _city_runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in runs:
        if "queue_grew" in one:
            yield (
                f"The city, {one['seconds']:,.0f} s: {one['sent']:,} readings in"
                f" {one['messages']:,} messages; alerts {_words(one['alert_ms'])}; bare"
                f" {_words(one['bare_ms'])}; queues"
                f" {'grew' if one['queue_grew'] else 'did not grow'}; the last watermark came"
                f" {one['drain_s']:g} s after the last message; {one['wal_bytes_per_reading']:g} B"
                f" of log a reading; {_share(one['hot_share'])} of the updates of `device_state`"
                " were HOT."
            )
            yield ""
        elif "alert_ms" in one:
            bare = f"; bare {_words(one['bare_ms'])}" if "bare_ms" in one else ""
            yield f"{one['name'].capitalize()}: {_words(one['alert_ms'])}{bare}."
            yield ""
    yield from _deliveries([one for one in runs if "deliveries" in one])
    yield "| run | s | readings/s | messages | CPU seconds a million readings | resident, MB |"
    yield "|---|---:|---:|---:|---|---|"
    for one in runs:
        if "deliveries" in one:
            continue
        cpu = ", ".join(f"{name} {value:g}" for name, value in one["cpu_s_per_million"].items())
        rss = ", ".join(f"{name} {value:,}" for name, value in one["rss_mb"].items())
        yield (
            f"| {one['name']} | {one['seconds']:,.0f} | {one['stored_per_s']:,} "
            f"| {one['messages']:,} | {cpu} | {rss} |"
        )
    yield ""


def _deliveries(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not runs:
        return
    yield "| run | s | deliveries/s | bytes each | CPU µs each |"
    yield "|---|---:|---:|---:|---|"
    for one in runs:
        cpu = ", ".join(f"{name} {value:g}" for name, value in one["cpu_us_a_delivery"].items())
        yield (
            f"| {one['name']} | {one['seconds']:,.0f} | {one['deliveries_per_s']:,} "
            f"| {one['bytes_a_delivery']:,} | {cpu} |"
        )
    yield ""


def _measured(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| | ratio | median | budget | |"
    yield "|---|---:|---:|---:|---|"
    for one in sorted(runs, key=lambda run: run["ratio"] is None):
        unit = f" {one['unit']}".rstrip()
        budget = "" if one["budget"] is None else f"{one['budget']:,g}{unit}"
        verdict = "" if one["budget"] is None else ("met" if one["ok"] else "**missed**")
        if not one["stable"]:
            verdict = f"{verdict}, unstable".removeprefix(", ")
        ratio = "" if one["ratio"] is None else f"{one['ratio']:.2f}"
        yield f"| {one['name']} | {ratio} | {one['value']:,g}{unit} | {budget} | {verdict} |"
    yield ""


def _machine(report: Mapping[str, Any]) -> str:
    found, versions = report["machine"], report["versions"]
    cores = found.get("cores_used")
    return (
        f"{found['cpus']} CPUs of {found['model']}"
        + (f" ({cores} used)" if cores else "")
        + f", {found['memory_gb']:g} GB, Linux {found['kernel']}, load before it "
        + " ".join(f"{one:g}" for one in found["load"])
        + "; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def _words(found: Mapping[str, Any]) -> str:
    times = ", ".join(f"{key} {value:g} ms" for key, value in found.items() if key != "n")
    return f"{times} (n = {found['n']:,})"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(load()))
