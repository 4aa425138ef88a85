# SPDX-License-Identifier: Apache-2.0
"""A city's readings from the wire to the tables, everything on the same two cores.

First the city as it is (open loop, by the clock, with alarms), then Linli and the baselines in
turns, each as fast as it can. What was stored is compared with what was accepted before a figure
is told.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from deploy.bench import baselines, sampling
from deploy.bench.report import commit, machine
from deploy.bench.stage import CITY, LISTENER, Loading, Stage, built, pin, python
from deploy.bench.town import Town
from deploy.checker import alerts
from deploy.checker.facts import READING_TABLES, Difference
from deploy.faults.ground import until
from deploy.installation import environment, module
from deploy.services import HOST, ServiceError
from simulators.load import Order

SCHEMA: Final = 2
FREE_BYTES: Final = 12 * 2**30
EVENTS_PER_S: Final = 10.0
SAMPLES_MIN: Final = 1_000  # below it a p99 is the luck of ten
ALERT_BUDGET_MS: Final = 250.0
SPREAD_MAX: Final = 0.15
LAG_MAX_S: Final = 1.0
DENSE: Final = 50
# A period and a little: every device is heard once.
_WARM_S: Final = 35.0
_WRONG_SHOWN: Final = 10
_SETTLE_S: Final = 1_800.0
_DRAIN_S: Final = 900.0
#: Readings a second that instants of a flow are laid out for: about as fast as they are stored, so
#: that they stay near the present.
_FLOW_RATE: Final = 40_000.0
_FLOW_BEHIND_S: Final = 200.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    town: Town
    minutes: float
    batch: int
    rounds: int
    round_s: float
    comparable: bool
    bench: str = "ingest"

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "communities": self.town.communities,
            "devices": self.town.devices,
            "period_s": self.town.period_s,
            "readings_per_s": round(self.town.rate, 1),
            "minutes": self.minutes,
            "batch": self.batch or "1 s",
            "rounds": self.rounds,
            "round_s": self.round_s,
            "events_per_s": EVENTS_PER_S,
            "changed_every": 10,
            "tls": True,
            "qos": 1,
            "comparable": self.comparable,
            "ingest": dict(CITY),
        }


@dataclass(slots=True)
class Run:
    """One phase, measured."""

    name: str
    seconds: float
    sent: int
    stored: int
    messages: int
    cpu: Mapping[str, float] = field(default_factory=dict[str, float])  # s per million readings
    cores: Mapping[str, float] = field(default_factory=dict[str, float])
    rss_mb: Mapping[str, float] = field(default_factory=dict[str, float])
    told: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self) -> dict[str, Any]:
        """One of the report's ``runs``."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 1),
            "sent": self.sent,
            "stored": self.stored,
            "messages": self.messages,
            "stored_per_s": round(self.stored / self.seconds) if self.seconds else 0,
            "cpu_s_per_million": {name: _short(one) for name, one in self.cpu.items()},
            "cores": {name: _short(one) for name, one in self.cores.items()},
            "rss_mb": {name: round(one) for name, one in self.rss_mb.items()},
            **self.told,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """One goal: all its values and what they must be, at least or (``at_most``) at most."""

    goal: str
    values: Sequence[float]
    must: float
    at_most: bool = False

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value <= self.must if self.at_most else self.value >= self.must

    @property
    def stable(self) -> bool:
        """Whether the values lie together."""
        return max(self.values) - min(self.values) <= SPREAD_MAX * abs(self.value)

    def as_json(self) -> dict[str, Any]:
        """One of the report's ``ratios``."""
        return {
            "goal": self.goal,
            "value": _short(self.value),
            "values": [_short(one) for one in self.values],
            "must": self.must,
            "at_most": self.at_most,
            "met": self.met,
            "stable": self.stable and len(self.values) > 1,
        }


@dataclass(slots=True)
class Result:
    """Everything of one call."""

    settings: Settings
    runs: list[Run] = field(default_factory=list[Run])
    ratios: list[Ratio] = field(default_factory=list[Ratio])
    wrong: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds: float = 0.0
    machine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    samples: Sequence[Mapping[str, Any]] = ()

    @property
    def met(self) -> bool:
        """Every must is, and nothing is wrong."""
        return not self.wrong and all(one.met for one in self.ratios)

    def as_json(self) -> dict[str, Any]:
        """The whole report; ratios only where all was correct."""
        return {
            "schema": SCHEMA,
            "bench": self.settings.bench,
            "comparable": self.settings.comparable,
            "commit": commit(),
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "settings": self.settings.as_json(),
            "seconds": round(self.seconds, 1),
            "correct": not self.wrong,
            "wrong": self.wrong,
            "notes": self.notes,
            "ratios": [] if self.wrong else [one.as_json() for one in self.ratios],
            "runs": [one.as_json() for one in self.runs],
            "samples": list(self.samples),
        }


def measure(
    settings: Settings,
    folder: Path | None,
    tell: Callable[[str], None],
    steps: Callable[[Bench, Loading], None] | None = None,
) -> Result:
    """Measure one thing; some minutes more than the city itself is given.

    Args:
        settings: How much.
        folder: Where the database lies meanwhile.
        tell: Told each step.
        steps: What is done; by default the city, then the rounds.

    Raises:
        ServiceError: A server cannot be had, or the disk is too small for it.
    """
    begun = time.monotonic()
    result = Result(settings, machine=machine() | {"cores_used": len(pin())})
    with tempfile.TemporaryDirectory(prefix="linli-bench-", dir=folder) as made:
        free = shutil.disk_usage(made).free
        if settings.comparable and free < FREE_BYTES:
            raise ServiceError(
                f"{free / 2**30:.1f} GB free, 12 GB needed: name another folder with --folder"
            )
        tell("servers, certificates, registry")
        with built(Path(made), settings.town, CITY) as stage:
            bench = Bench(stage, settings, result, tell)
            load = bench.prepare()
            if steps is not None:
                steps(bench, load)
            else:
                drained = bench.city(load)
                if settings.rounds and drained:
                    bench.rounds(load)
            stage.check()
    result.seconds = time.monotonic() - begun
    return result


class Bench:
    """The steps, on one stage; what they come to is in ``result``."""

    def __init__(
        self, stage: Stage, settings: Settings, result: Result, tell: Callable[[str], None]
    ) -> None:
        self.stage = stage
        self.settings = settings
        self.result = result
        self.tell = tell
        self.pids: dict[str, int] = {}

    def prepare(self) -> Loading:
        """Start everything, wait until it is at rest, and connect the load."""
        stage, result = self.stage, self.result
        started = time.monotonic()
        self.tell("ingest, api, viewers")
        stage.start_services()
        result.notes.append(f"services ready after {time.monotonic() - started:.1f} s")
        self.tell("nights are opened, days computed for the first time")
        started = time.monotonic()
        until(self._settled, "nights opened, days computed", timeout_s=_SETTLE_S, every_s=1.0)
        result.notes.append(f"at rest {time.monotonic() - started:.1f} s later")
        self.tell("gateways connect")
        load = stage.generator("city")
        self.pids = {name: one.pid for name, one in stage.processes.items()}
        self.pids["load"] = load.process.pid
        result.versions = self._versions()
        return load

    def _settled(self) -> bool:
        """Whether ingest did what a first start brings: it comes once, not in every ten minutes."""
        with psycopg.connect(self.stage.dsn) as conn:
            lamps = sampling.total(conn, "SELECT count(*) FROM device WHERE kind = 'lamp'")
            nights = sampling.total(conn, "SELECT count(DISTINCT device_id) FROM lamp_night")
            days = sampling.total(conn, "SELECT count(*) FROM community_day")
            open_days = sampling.total(
                conn, "SELECT count(*) FROM community_day WHERE computed_at IS NULL"
            )
        self.stage.check()
        return nights == lamps and days > 0 and not open_days

    # -- the city as it is ---------------------------------------------------------------------

    def city(self, load: Loading) -> bool:
        """Measure the city as it is, with alarms; return whether all of it came to be stored."""
        settings, result = self.settings, self.result
        self.tell("warm-up")
        warm_s = min(_WARM_S, 60 * settings.minutes)
        warm = load.run(Order("warm-up", seconds=warm_s, batch=settings.batch, drain_s=_DRAIN_S))
        self.tell(f"the city, {settings.minutes:g} minutes")
        order = Order(
            "city",
            seconds=60 * settings.minutes,
            batch=settings.batch,
            events_per_s=EVENTS_PER_S,
            probes_per_s=EVENTS_PER_S,
            drain_s=_DRAIN_S,
        )
        sampler = sampling.Sampler(self.pids, self.stage.dsn)
        sampler.start()
        with psycopg.connect(self.stage.dsn, autocommit=True) as conn:
            before = sampling.database(conn)
        took = self.phase(load, order, checkpoint=True)
        samples = sampler.stop()
        with psycopg.connect(self.stage.dsn, autocommit=True) as conn:
            after = sampling.database(conn)
        result.samples = samples
        self.tell("comparing what is stored with what was accepted")
        result.wrong += self.differences(load, took)
        latencies = self.latencies(took)
        bare = sorted(took["probes"])
        run = took["run"]
        run.rss_mb = {name: max(one["rss_mb"][name] for one in samples) for name in self.pids}
        updates = after["state_updates"] - before["state_updates"]
        hot = after["state_hot_updates"] - before["state_hot_updates"]
        grew = _grew(load.told, order, run.messages / run.seconds)
        run.told = {
            "alert_ms": percentiles(latencies),
            "bare_ms": percentiles(bare),
            "lag_max_s": _short(took["lag_max_s"]),
            "in_flight": [one["in_flight"] + one["held"] for one in load.told],
            "queue_grew": grew,
            "drained": took["drained"],
            "drain_s": _short(took["drain_seconds"]),
            "resent": took["resent"],
            "live_messages": took["live_messages"],
            "wal_bytes_per_reading": _short((after["wal_bytes"] - before["wal_bytes"]) / run.sent),
            "hot_share": _short(hot / updates) if updates else None,
            "warm_up_drained": warm["drained"],
        }
        result.runs.append(run)
        if took["lag_max_s"] > LAG_MAX_S:
            result.notes.append(
                f"the load itself was up to {took['lag_max_s']:.1f} s late: the run is void"
            )
        sustained = took["drained"] and not grew and took["lag_max_s"] <= LAG_MAX_S
        result.ratios.append(
            Ratio(
                f"1 city sustained at {run.sent / run.seconds:,.0f} readings/s",
                [float(sustained)],
                1.0,
            )
        )
        if len(latencies) >= SAMPLES_MIN:
            p99 = 1e3 * _quantile(latencies, 0.99)
            result.ratios.append(Ratio("1 alert p99, ms", [p99], ALERT_BUDGET_MS, at_most=True))
        return took["drained"]

    def phase(self, load: Loading, order: Order, *, checkpoint: bool = False) -> dict[str, Any]:
        """Run one phase; CPU is counted while it sends, not while it drains."""
        before = self._cpu()
        load.begin(order)
        started = time.monotonic()
        half = order.seconds / 2
        time.sleep(half)
        if checkpoint:  # in production one falls into every ten minutes
            with psycopg.connect(self.stage.server.dsn(), autocommit=True) as conn:
                conn.execute("CHECKPOINT")
        time.sleep(max(0.0, started + order.seconds - time.monotonic()))
        after, seconds = self._cpu(), time.monotonic() - started
        took = load.end()
        self.stage.check()
        readings = took["at_end"]["stored_readings"] or took["readings"]
        spent = {name: after[name] - before[name] for name in after}
        took["run"] = Run(
            order.name,
            seconds,
            took["readings"],
            took["at_end"]["stored_readings"],
            took["messages"],
            {name: 1e6 * one / max(1, readings) for name, one in spent.items()},
            {name: one / seconds for name, one in spent.items()},
        )
        return took

    def _cpu(self) -> dict[str, float]:
        return {name: sampling.family_cpu_s(pid) for name, pid in self.pids.items()}

    def latencies(self, took: Mapping[str, Any]) -> list[float]:
        """Return how long a phase's alerts took, in s and in order, from when alarms were due."""
        with psycopg.connect(self.stage.dsn) as conn:
            keys: dict[str, str] = {
                str(one): key
                for one, key in conn.execute("SELECT id, key FROM alert WHERE rule = 'alarm.panic'")
            }
        heard = {keys[one]: at for one, at in took["alerts"].items() if one in keys}
        return sorted(
            heard[occurrence] - due
            for occurrence, due in took["events"].items()
            if occurrence in heard
        )

    # -- is it right? --------------------------------------------------------------------------

    def differences(self, load: Loading, took: Mapping[str, Any], *, lit: bool = True) -> list[str]:
        """Compare what is stored with the ledger; say what differs.

        Args:
            load: Whose ledger.
            took: What the phase with the alarms came to.
            lit: Whether every lamp told often enough to be known as lit all the time.
        """
        ledger = load.ledger()
        wrong: list[str] = []
        with psycopg.connect(self.stage.dsn) as conn:
            wrong += missing_seqs(conn, ledger)
            wrong += missing_readings(conn, ledger)
            wrong += doubled_readings(conn)
            wrong += wrong_lit_times(conn) if lit else []
            wrong += wrong_alarms(conn, took["events"], {str(one) for one in took["alerts"]})
            wrong += wrong_full_bins(conn, self.settings.town)
            found: list[Difference] = []
            alerts.once(conn, found)
            wrong += [str(one) for one in found]
            letters = sampling.total(conn, "SELECT count(*) FROM dead_letter")
            wrong += [f"{letters} dead letters"] if letters else []
        return wrong[:_WRONG_SHOWN]

    # -- as fast as it can, and beside it the baselines ----------------------------------------

    def rounds(self, load: Loading) -> None:
        """Measure Linli and the baselines in turns, each as fast as it can."""
        stage, result = self.stage, self.result
        baselines.create_tables(stage.dsn)
        bare = stage.generator("bare", stage.bare)
        rates: dict[str, list[float]] = {}
        for turn in range(1, self.settings.rounds + 1):
            for name, action in (
                ("C0 raw COPY", self._copy),
                ("Linli, 50 a message", lambda: self._flow(load, DENSE)),
                ("F1 row at a time", lambda: self._baseline(bare, "rows", DENSE, 100)),
                ("Linli, one a message", lambda: self._flow(load, 1)),
                ("N1 paho, nothing stored", lambda: self._baseline(bare, "paho", 1, 8_000)),
                ("aiomqtt, nothing stored", lambda: self._baseline(bare, "aiomqtt", 1, 8_000)),
            ):
                self.tell(f"round {turn}: {name}")
                run, rate = action()
                run.name = name
                result.runs.append(run)
                rates.setdefault(name, []).append(rate)
        dense, single = rates["Linli, 50 a message"], rates["Linli, one a message"]

        def over(mine: Sequence[float], name: str) -> list[float]:
            return [one / other for one, other in zip(mine, rates[name], strict=True)]

        result.ratios += [
            Ratio("2 readings/s, 50 a message / C0", over(dense, "C0 raw COPY"), 0.5),
            Ratio("3 readings/s, 50 a message / F1", over(dense, "F1 row at a time"), 15),
            Ratio("4 messages/s, one reading each / N1", over(single, "N1 paho, nothing stored"),
                  0.6),
        ]  # fmt: skip
        with psycopg.connect(stage.dsn) as conn:
            found = missing_seqs(conn, load.ledger()) + missing_readings(conn, load.ledger())
        result.wrong += found[:_WRONG_SHOWN]

    def _flow(self, load: Loading, batch: int) -> tuple[Run, float]:
        order = Order(
            f"flow-{batch}",
            pace="flow",
            seconds=self.settings.round_s,
            since=time.time() - _FLOW_BEHIND_S,
            speed=_FLOW_RATE / self.settings.town.rate,
            batch=batch,
            limit=12_000,
        )
        took = self.phase(load, order)
        return took["run"], _rate(load.told, "stored_readings", order.seconds)

    def _baseline(self, load: Loading, name: str, batch: int, limit: int) -> tuple[Run, float]:
        stage = self.stage
        counter = stage.folder / f"count-{name}"
        counter.write_bytes(bytes(8))
        told = {
            "host": HOST,
            "port": stage.bare.port,
            "ca": str(stage.bare.ca),
            "certificates": str(stage.bare.services),
            "identity": LISTENER,
            "dsn": stage.dsn,
            "counter": str(counter),
        }
        consumer = stage.program(
            name, module("deploy.bench.baselines", name), {"LINLI_BENCH": json.dumps(told)}
        )
        self.pids = {**self.pids, name: consumer.pid}
        there = baselines.hears(str(counter))
        there.unlink(missing_ok=True)
        try:
            until(there.exists, f"{name} hears: {consumer.tail()}", timeout_s=60)
            order = Order(
                name,
                pace="flow",
                seconds=self.settings.round_s,
                since=time.time() - _FLOW_BEHIND_S,
                speed=_FLOW_RATE / self.settings.town.rate,
                batch=batch,
                limit=limit,
                counter=str(counter),
            )
            took = self.phase(load, order)
        finally:
            self.pids.pop(name)
            consumer.kill()
        run = took["run"]
        run.stored = took["stored"] * min(batch, self.settings.town.devices)
        return run, run.stored / max(1, took["stored"]) * _rate(load.told, "stored", order.seconds)

    def _copy(self) -> tuple[Run, float]:
        stage = self.stage
        told = {
            "dsn": stage.dsn,
            "devices": self.settings.town.devices,
            "seconds": self.settings.round_s,
        }
        done = subprocess.run(  # noqa: S603 - our own module
            module("deploy.bench.baselines", "copy"),
            env={**environment(), "LINLI_BENCH": json.dumps(told)},
            capture_output=True,
            text=True,
            check=True,
        )
        counted: dict[str, float] = json.loads(done.stdout)
        rows, seconds = int(counted["rows"]), counted["seconds"]
        return Run("copy", seconds, rows, rows, 0), rows / seconds

    def _versions(self) -> dict[str, str]:
        with psycopg.connect(self.stage.dsn) as conn:
            row = conn.execute(
                "SELECT current_setting('server_version'), extversion FROM pg_extension"
                " WHERE extname = 'timescaledb'"
            ).fetchone()
        assert row is not None
        said = self.stage.broker.server.log.read_text(errors="replace")
        broker = next(
            (line.split("mosquitto version ")[1].split()[0] for line in said.splitlines()
             if "mosquitto version " in line), "unknown",
        )  # fmt: skip
        return {
            "python": python(),
            "postgresql": row[0],
            "timescaledb": row[1],
            "mosquitto": broker,
        }


# -- comparisons ----------------------------------------------------------------------------------


def missing_seqs(conn: psycopg.Connection, ledger: Mapping[str, Sequence[int]]) -> list[str]:
    """Each stream holds every seq from 1 to the last that was accepted, without a hole."""
    seen: dict[str, str] = dict(
        conn.execute(
            "SELECT gateway, seen::text FROM gateway_stream WHERE lane = 'telemetry'"
        ).fetchall()
    )
    return [
        f"{gateway}: stored {seen.get(gateway)}, accepted up to {sent}"
        for gateway, (sent, *_) in ledger.items()
        if sent and seen.get(gateway) != f"{{[1,{sent + 1})}}"
    ]


def missing_readings(conn: psycopg.Connection, ledger: Mapping[str, Sequence[int]]) -> list[str]:
    """Each gateway has as many rows as it made readings."""
    found: dict[str, int] = {}
    for table, _ in READING_TABLES.values():
        for gateway, count in conn.execute(
            f"""
            SELECT d.gateway, sum(r.count)::bigint
            FROM (SELECT device_id, count(*) FROM {table} GROUP BY device_id) AS r
            JOIN device AS d ON d.id = r.device_id
            GROUP BY d.gateway
            """.encode()  # noqa: S608 - names of our own
        ):
            found[gateway] = found.get(gateway, 0) + count
    return [
        f"{gateway}: {found.get(gateway, 0)} readings stored, {made} accepted"
        for gateway, (_, made, *_) in ledger.items()
        if found.get(gateway, 0) != made
    ]


def doubled_readings(conn: psycopg.Connection) -> list[str]:
    """No device told two things at one instant."""
    wrong: list[str] = []
    for table, _ in READING_TABLES.values():
        query = (
            f"SELECT count(*) FROM (SELECT FROM {table} GROUP BY device_id, at"  # noqa: S608
            " HAVING count(*) > 1) AS twice"
        )
        if twice := sampling.total(conn, query):
            wrong.append(f"{table}: {twice} readings stored twice")
    return wrong


def wrong_lit_times(conn: psycopg.Connection) -> list[str]:
    """Lamps here are always lit and due: their time is from the first reading to the last."""
    row = conn.execute(
        """
        SELECT count(*), count(*) FILTER (WHERE n.lit_us IS DISTINCT FROM r.us OR n.dark_us > 0)
        FROM (SELECT device_id, (extract(epoch FROM max(at) - min(at)) * 1000000)::bigint AS us
              FROM reading_lamp GROUP BY device_id) AS r
        LEFT JOIN (SELECT device_id, sum(lit_us)::bigint AS lit_us, sum(dark_us)::bigint AS dark_us
                   FROM lamp_night GROUP BY device_id) AS n USING (device_id)
        """
    ).fetchone()
    assert row is not None
    return (
        [f"{row[1]} of {row[0]} lamps have another lit time than their readings"] if row[1] else []
    )


def wrong_alarms(
    conn: psycopg.Connection, events: Mapping[str, float], heard: set[str]
) -> list[str]:
    """Each alarm raised one alert, which was told."""
    stored: dict[str, list[str]] = {}
    for key, one in conn.execute("SELECT key, id::text FROM alert WHERE rule = 'alarm.panic'"):
        stored.setdefault(key, []).append(one)
    wrong = [
        f"alarm {key}: {len(stored.get(key, ()))} alerts"
        for key in events
        if len(stored.get(key, ())) != 1
    ]
    silent = sum(1 for key in events for one in stored.get(key, ()) if one not in heard)
    return [*wrong, *([f"{silent} alerts were not told"] if silent else [])]


def wrong_full_bins(conn: psycopg.Connection, town: Town) -> list[str]:
    """In each community one bin fills up on its second reading: one alert."""
    due = sampling.total(
        conn, "SELECT count(DISTINCT device_id) FROM reading_bin WHERE fill_pct > 90"
    )
    raised = sampling.total(conn, "SELECT count(*) FROM alert WHERE rule = 'bin.full'")
    if raised != due or due > town.communities:
        return [f"{raised} alerts on full bins, {due} are full"]
    return []


# -- figures --------------------------------------------------------------------------------------


def _rate(told: Sequence[Mapping[str, Any]], what: str, seconds: float) -> float:
    """Return what was stored per second of the middle of a phase: not its ramp, nor its end."""
    points = [(one["t"], one[what]) for one in told if 0.2 * seconds <= one["t"] <= seconds]
    if len(points) < 2:
        return 0.0
    (begin, first), (end, last) = points[0], points[-1]
    return (last - first) / (end - begin)


def _grew(told: Sequence[Mapping[str, Any]], order: Order, messages_per_s: float) -> bool:
    """Whether queues grew over the second half, by more than half a second's messages."""
    half = [
        one["in_flight"] + one["held"]
        for one in told
        if order.seconds / 2 <= one["t"] <= order.seconds
    ]
    if len(half) < 4:
        return False
    middle = len(half) // 2
    return statistics.mean(half[middle:]) - statistics.mean(half[:middle]) > messages_per_s / 2


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(ordered: Sequence[float]) -> dict[str, Any]:
    """Return n and percentiles in ms; a p99 only of a thousand samples or more."""
    found: dict[str, Any] = {"n": len(ordered)}
    if ordered:
        found["p50"] = _short(1e3 * _quantile(ordered, 0.5))
        found["p90"] = _short(1e3 * _quantile(ordered, 0.9))
        found["max"] = _short(1e3 * ordered[-1])
    if len(ordered) >= SAMPLES_MIN:
        found["p99"] = _short(1e3 * _quantile(ordered, 0.99))
    return found


def _short(value: float) -> float:
    with suppress(OverflowError, ValueError):
        return float(f"{value:.4g}")
    return value
