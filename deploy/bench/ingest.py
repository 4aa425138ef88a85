# SPDX-License-Identifier: Apache-2.0
"""A city's readings from the wire to the tables, everything on the same two cores.

First the city as it is (open loop, by the clock, with alarms), then Linli and the baselines in
turns, each as fast as it can. What was stored is compared with what was accepted before a figure
is told.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg

from deploy.bench import baselines, differences, sampling
from deploy.bench.report import machine
from deploy.bench.runs import (
    EVENTS_PER_S,
    SAMPLES_MIN,
    Ratio,
    Result,
    Run,
    Settings,
    grew,
    percentiles,
    quantile,
    rate,
    short,
)
from deploy.bench.stage import CITY, LISTENER, Loading, Stage, built, pin, python
from deploy.checker import alerts
from deploy.checker.facts import Difference
from deploy.faults.ground import until
from deploy.installation import environment, module
from deploy.services import HOST, ServiceError
from simulators.orders import Order

FREE_BYTES: Final = 12 * 2**30
ALERT_BUDGET_MS: Final = 250.0
LAG_MAX_S: Final = 1.0
DENSE: Final = 50
# A period and a little: every device is heard once.
_WARM_S: Final = 35.0
WRONG_SHOWN: Final = 10
_SETTLE_S: Final = 1_800.0
_DRAIN_S: Final = 900.0
#: Readings a second that instants of a flow are laid out for: about as fast as they are stored, so
#: that they stay near the present.
_FLOW_RATE: Final = 40_000.0
_FLOW_BEHIND_S: Final = 200.0
_LOOK_S: Final = 0.1
_LOOKS_MIN: Final = 5


def measure(
    settings: Settings,
    folder: Path | None,
    tell: Callable[[str], None],
    steps: Steps,
) -> Result:
    """Measure one thing; some minutes more than the city itself is given.

    Args:
        settings: How much.
        folder: Where the database lies meanwhile.
        tell: Told each step.
        steps: What is done.

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
        with built(Path(made), settings.town, CITY, settings.ingest_processes) as stage:
            bench = Bench(stage, settings, result, tell)
            steps(bench, bench.prepare())
            stage.check()
    result.seconds = time.monotonic() - begun
    return result


def city_and_rounds(bench: Bench, load: Loading) -> None:
    """Measure the city as it is, then in turns what is compared."""
    if bench.city(load) and bench.settings.rounds:
        bench.rounds(load)


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
        if self.settings.viewers:
            stage.watch(self.settings.viewers)
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
        queue_grew = grew(load.told, order, run.messages / run.seconds)
        run.told = {
            "alert_ms": percentiles(latencies),
            "bare_ms": percentiles(bare),
            "lag_max_s": short(took["lag_max_s"]),
            "in_flight": [one["in_flight"] + one["held"] for one in load.told],
            "queue_grew": queue_grew,
            "drained": took["drained"],
            "drain_s": short(took["drain_seconds"]),
            "resent": took["resent"],
            "statuses": took["statuses"],
            "live_messages": took["live_messages"],
            "wal_bytes_per_reading": short((after["wal_bytes"] - before["wal_bytes"]) / run.sent),
            "hot_share": short(hot / updates) if updates else None,
            "warm_up_drained": warm["drained"],
        }
        result.runs.append(run)
        if took["lag_max_s"] > LAG_MAX_S:
            result.notes.append(
                f"the load itself was up to {took['lag_max_s']:.1f} s late: the run is void"
            )
        sustained = took["drained"] and not queue_grew and took["lag_max_s"] <= LAG_MAX_S
        result.ratios.append(
            Ratio(
                f"1 city sustained at {run.sent / run.seconds:,.0f} readings/s",
                [float(sustained)],
                1.0,
            )
        )
        if len(latencies) >= SAMPLES_MIN:
            p99 = 1e3 * quantile(latencies, 0.99)
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
                for one, key in conn.execute(
                    # Raised again it is the same alert: the first time is what is measured.
                    "SELECT DISTINCT ON (alert) alert, key FROM alert_occurrence"
                    " WHERE rule = 'alarm.panic' ORDER BY alert, id"
                )
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
            wrong += differences.missing_seqs(conn, ledger)
            wrong += differences.missing_readings(conn, ledger)
            wrong += differences.doubled_readings(conn)
            wrong += differences.wrong_lit_times(conn) if lit else []
            heard = {str(one) for one in took["alerts"]}
            wrong += differences.wrong_alarms(conn, took["events"], heard)
            wrong += differences.wrong_full_bins(conn, self.settings.town)
            found: list[Difference] = []
            alerts.once(conn, found)
            wrong += [str(one) for one in found]
            letters = sampling.total(conn, "SELECT count(*) FROM dead_letter")
            wrong += [f"{letters} dead letters"] if letters else []
        return wrong[:WRONG_SHOWN]

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
                ("Linli, 50 a message", lambda: self.flow(load, DENSE)),
                ("Linli, nothing but duplicates", lambda: self._replay(load)),
                ("F1 row at a time", lambda: self._baseline(bare, "rows", DENSE, 100)),
                ("Linli, one a message", lambda: self.flow(load, 1)),
                ("N1 paho, nothing stored", lambda: self._baseline(bare, "paho", 1, 8_000)),
                ("aiomqtt, nothing stored", lambda: self._baseline(bare, "aiomqtt", 1, 8_000)),
            ):
                self.tell(f"round {turn}: {name}")
                run, rate = action()
                run.name = name
                result.runs.append(run)
                rates.setdefault(name, []).append(rate)
        for goal, mine, other, must in (
            ("2 readings/s, 50 a message / C0", "Linli, 50 a message", "C0 raw COPY", 0.5),
            ("3 readings/s, 50 a message / F1", "Linli, 50 a message", "F1 row at a time", 15),
            ("4 messages/s, one reading each / N1", "Linli, one a message",
             "N1 paho, nothing stored", 0.6),
            ("6 duplicates/s / readings/s, 50 a message", "Linli, nothing but duplicates",
             "Linli, 50 a message", 3),
        ):  # fmt: skip
            result.compare(goal, rates[mine], rates[other], must)
        with psycopg.connect(stage.dsn) as conn:
            found = differences.missing_seqs(conn, load.ledger())
            found += differences.missing_readings(conn, load.ledger())
        result.wrong += found[:WRONG_SHOWN]

    def flow(self, load: Loading, batch: int) -> tuple[Run, float]:
        """Have stored as much as can be, ``batch`` readings a message; readings/s in the middle."""
        order = Order(
            f"flow-{batch}",
            pace="flow",
            seconds=self.settings.round_s,
            since=time.time() - _FLOW_BEHIND_S,
            speed=_FLOW_RATE / self.settings.town.rate,
            batch=batch,
            limit=self.settings.flow_limit,
        )
        took = self.phase(load, order)
        return took["run"], rate(load.told, "stored_readings", order.seconds)

    def _replay(self, load: Loading) -> tuple[Run, float]:
        """Send what was just stored again, as much as the broker queues; readings/s found known."""
        before, count = self._cpu(), self._duplicates()
        sent = load.replay(self.settings.flow_limit)
        points = [(time.monotonic(), 0.0)]
        while points[-1][1] < sent["messages"]:
            self.stage.check()
            time.sleep(_LOOK_S)
            points.append((time.monotonic(), self._duplicates() - count))
            if points[-1][0] - points[0][0] > _DRAIN_S:
                self.result.wrong.append(f"replay: {points[-1][1]:g} of {sent['messages']} known")
                break
        seconds, readings = points[-1][0] - sent["begun"], sent["readings"]
        run = Run("replay", seconds, readings, readings, sent["messages"],
                  {name: 1e6 * (after - before[name]) / max(1, readings)
                   for name, after in self._cpu().items()})  # fmt: skip
        # Without the first and the last: neither begins nor ends with a look.
        inner = [one for one in points if 0 < one[1] < sent["messages"]]
        if len(inner) < _LOOKS_MIN:
            return run, readings / seconds
        (begin, first), (end, last) = inner[0], inner[-1]
        return run, (last - first) / (end - begin) * readings / sent["messages"]

    def _duplicates(self) -> float:
        labels = ('lane="telemetry"', 'result="duplicate"')
        return self.stage.metric("linli_ingest_messages_total", *labels)

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
        return run, run.stored / max(1, took["stored"]) * rate(load.told, "stored", order.seconds)

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


Steps = Callable[[Bench, Loading], None]
