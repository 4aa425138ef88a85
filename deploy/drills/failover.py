# SPDX-License-Identifier: Apache-2.0
"""The database's machine is lost and its standby promoted, under traffic: what is lost with it?

Synchronously, nothing may be: a COMMIT returns when the standby has it on its disk. Asynchronously,
what the standby had not received is gone, and what of it gateways had deleted already cannot come
again: then every message of it must be told as lost, by gateway and number, and nothing else may be
missing. The primary is killed with all its processes; once the standby has taken over it comes
back, as one does that nobody fenced, and ingest must not write to it.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx2
import psycopg
from psycopg import sql

from deploy.bench.reads import version_of
from deploy.checker import facts, streams
from deploy.checker.facts import Message
from deploy.drills.report import Figure, Report, Step
from deploy.faults import ground as grounds
from deploy.faults.ground import OWNER, PASSWORD, SMALL_SERVER, TEMPLATE, Ground, until
from deploy.faults.processes import kill_all, with_children
from deploy.faults.run import FLOW_RULES, Fault, Outcome, Run, perform
from deploy.installation import Say, module
from deploy.services import HOST, Postgres, Userland, free_port
from deploy.verify import Terms
from ingest.pki import Authority

STANDBY: Final = "standby"
HOURS: Final = 96.0
# What is stored while the standby receives nothing: enough for gateways to delete some of it.
UNSENT: Final = 2_000
# How long a standby that is waited for is away: longer than ingest waits for a COMMIT.
AWAY_S: Final = 15.0
COST_ROUNDS: Final = 100
COST_READINGS: Final = 500


# Readings and events, as they are called here and in an outcome.
_TOTALS: Final = {
    "accepted": "accepted",
    "stored": "stored",
    "lost_silently": "lost",
    "lost_and_told": "forfeited",
    "doubled": "duplicated",
    "phantom": "phantom",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary and the standby that follows it."""

    primary: Postgres
    standby: Postgres

    @property
    def dsn(self) -> str:
        """How Linli reaches whichever of the two takes data."""
        return (
            f"host={HOST},{HOST} port={self.primary.port},{self.standby.port}"
            f" dbname={TEMPLATE} user={OWNER} password={PASSWORD}"
            " target_session_attrs=read-write connect_timeout=2"
        )

    @property
    def standby_dsn(self) -> str:
        """How the api reads from the standby."""
        return grounds.dsn_of(self.standby, TEMPLATE)

    def is_following(self, state: str) -> bool:
        """Whether the standby receives what is committed: ``async``, or ``sync`` before it is."""
        with psycopg.connect(self.primary.dsn()) as conn:
            row = conn.execute(
                """
                SELECT sync_state FROM pg_stat_replication
                WHERE application_name = %s AND state = 'streaming'
                """,
                (STANDBY,),
            ).fetchone()
        return row == (state,)

    def stop_sending(self) -> None:
        """Freeze what sends to the standby: commits go on, and none of them arrives there."""
        with psycopg.connect(self.primary.dsn()) as conn:
            row = conn.execute("SELECT pid FROM pg_stat_replication").fetchone()
        assert row is not None, "nothing is sent"
        # Its number in our own namespace: the servers share it with us.
        os.kill(row[0], signal.SIGSTOP)


@contextmanager
def pair(userland: Userland, folder: Path, *, synchronous: bool) -> Generator[Pair]:
    """Run a primary with an empty, migrated database, and a standby that follows it."""
    primary = grounds.postgres(userland, folder / "primary")
    try:
        grounds.create_template(primary)
        log = folder / "log" / "standby.log"
        standby = Postgres(userland, folder / "standby", free_port(), log, settings=SMALL_SERVER)
        try:
            standby.follow(primary, STANDBY)
            standby.start()
            made = Pair(primary, standby)
            if synchronous:
                primary.wait_for(STANDBY)
            state = "sync" if synchronous else "async"
            until(lambda: made.is_following(state), f"the standby follows, {state}")
            yield made
        finally:
            standby.stop()
    finally:
        primary.stop()


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the loss of the primary."""

    promoted: float
    ingest_ready: float
    next_stored: float
    api_ready: float


def rehearse(
    userland: Userland,
    authority: Authority,
    folder: Path,
    *,
    synchronous: bool,
    hours: float = HOURS,
    seed: int = 1,
    away_s: float = 0,
    before: Callable[[Pair], None] | None = None,
) -> tuple[Outcome, dict[str, Figure]]:
    """Lose the primary of a running city once.

    Args:
        userland: Where the servers' programs are.
        authority: Vouches for the broker.
        folder: Holds everything of the run.
        synchronous: Whether a COMMIT waits for the standby.
        hours: Of the past that is replayed meanwhile: the traffic.
        seed: Of the city.
        away_s: How long the standby is away first, and comes back.
        before: Called with the pair before anything else uses it.

    Returns:
        What the comparison with the ledger said, and the figures of the failover.
    """
    figures: dict[str, Figure] = {}
    with pair(userland, folder, synchronous=synchronous) as servers:
        if before is not None:
            before(servers)

        def act(run: Run) -> None:
            figures.update(_lose(run, servers, synchronous=synchronous, away_s=away_s))

        name = "synchronous" if synchronous else "asynchronous"
        fault = Fault(f"failover-{name}", "database", f"{name} failover", act, hours=hours)
        ground = Ground(userland, folder, authority, servers.primary)
        outcome = perform(fault, ground, seed, full=False, keep=None)
    return outcome, figures


def _lose(run: Run, servers: Pair, *, synchronous: bool, away_s: float) -> dict[str, Figure]:
    city = run.found(server=servers.primary, dsn=servers.dsn)
    run.begin()
    api = city.start(
        "api",
        module("api", "serve", "--config", str(city.config)),
        {"LINLI_DATABASE__REPLICA": servers.standby_dsn},
    )
    until(lambda: _is_ready(city.url), "the api is ready", timeout_s=30)
    run.flow()
    figures: dict[str, Figure] = {}
    if away_s:
        figures["flow_back_s"] = _wait_for_standby(run, servers, city.url, away_s)
    if not synchronous:
        servers.stop_sending()
        run.flow(UNSENT)
        # What was acknowledged so far was looked at where it was stored; it is about to be lost.
        run.witness.stop()
    times = _fail_over(run, servers, city.url)
    run.expect("the api survived", api.running)
    run.flow()
    figures |= {
        "promoted_s": times.promoted,
        "ingest_ready_s": times.ingest_ready,
        "next_stored_s": times.next_stored,
        "api_ready_s": times.api_ready,
    }
    courses = city.log("ingest").count("database course")
    run.expect("each lane follows a new course", courses == 4, courses)
    _come_back(run, servers)
    city.stop_simulators()
    if synchronous:
        run.judge()
        return figures | {"lost_messages": 0}
    # A heartbeat tells what gateways still hold; what they do not is given up, and recorded.
    until(lambda: city.unsettled() == 0, "what is lost is recorded", timeout_s=30)
    return figures | _judge_loss(run)


def _wait_for_standby(run: Run, servers: Pair, api: str, away_s: float) -> float:
    """Take the standby away that each COMMIT waits for; return after how long the flow is back."""
    servers.standby.stop()
    time.sleep(1.0)  # what it had confirmed becomes visible
    before = run.city.stored()
    time.sleep(away_s)
    run.expect("nothing is stored that only one server has", run.city.stored() == before)
    run.expect("ingest says that it waits", not run.city.ingest_is_ready())
    ready = httpx2.get(f"{api}/readyz", timeout=5)
    run.expect("the api is ready without its replica", ready.is_success, ready.text)
    run.expect("and says so", ready.json()["replica"]["status"] == "away")
    back = time.monotonic()
    servers.standby.start()
    until(lambda: run.city.stored() > before, "the flow is back", timeout_s=30)
    until(lambda: servers.is_following("sync"), "the standby follows again", timeout_s=30)
    return round(time.monotonic() - back, 2)


def _fail_over(run: Run, servers: Pair, api: str) -> Times:
    """Kill the primary, promote the standby, and take the time."""
    lost = time.monotonic()
    run.sometimes("processes killed", kill_all(with_children(servers.primary.process.pid)))
    servers.primary.process.popen.wait()
    servers.standby.promote()
    promoted = time.monotonic() - lost
    before = run.city.stored()

    def seconds_until(check: Callable[[], bool], what: str) -> float:
        until(check, what, timeout_s=60)
        return round(time.monotonic() - lost, 2)

    with ThreadPoolExecutor() as watching:
        ingest_ready, next_stored, api_ready = (
            watching.submit(seconds_until, check, what)
            for check, what in (
                (run.city.ingest_is_ready, "ingest is ready again"),
                (lambda: run.city.stored() > before, "the next reading is stored"),
                (lambda: _is_ready(api), "the api is ready again"),
            )
        )
    run.rounds_done += 1
    return Times(
        round(promoted, 2), ingest_ready.result(), next_stored.result(), api_ready.result()
    )


def _come_back(run: Run, servers: Pair) -> None:
    """Have the old primary come back, unfenced: ingest must not write to it."""
    servers.primary.start()
    old = grounds.dsn_of(servers.primary, TEMPLATE)
    with psycopg.connect(old) as conn:
        before = streams.seen(conn)
    with psycopg.connect(servers.standby.dsn(), autocommit=True) as conn:
        # The next connection finds it first.
        conn.execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'linli-ingest%'
            """
        )
    until(lambda: "an old primary came back" in run.city.log("ingest"), "ingest refuses it")
    with psycopg.connect(old) as conn:
        run.expect("nothing is written to the old primary", streams.seen(conn) == before)
    servers.primary.stop()
    until(run.city.ingest_is_ready, "ingest is ready once it is gone", timeout_s=30)


def _judge_loss(run: Run) -> dict[str, Figure]:
    """Compare what is recorded as lost with what is missing: they must be the same messages."""
    with psycopg.connect(run.city.dsn) as conn:
        told = {
            Message(gateway, stream, seq)
            for gateway, stream, first, last in conn.execute(
                """
                SELECT s.gateway, s.stream, g.first, g.last
                FROM stream_gap AS g JOIN gateway_stream AS s ON s.id = g.stream_id
                WHERE g.cause = 'vanished'
                """
            )
            for seq in range(first, last + 1)
        }
        there = {
            one.digest
            for tables in (facts.READING_TABLES, facts.EVENT_TABLES)
            for one in facts.stored(conn, tables)
        }
        alerts = conn.execute(
            "SELECT count(*) FROM alert_occurrence WHERE rule = 'stream.lost'"
        ).fetchone()
    with closing(sqlite3.connect(f"file:{run.city.truth}?mode=ro", uri=True)) as ledger:
        due = [*facts.accepted(ledger, "telemetry"), *facts.accepted(ledger, "event")]
    missing = {one.message for one in due} - {one.message for one in due if one.digest in there}
    run.sometimes("messages lost", len(missing))
    run.expect("lost and not told", not missing - told, len(missing - told))
    run.expect("told as lost and stored", not told - missing, len(told - missing))
    run.expect("people are alerted", alerts is not None and alerts[0] > 0)
    # Of alarms that were lost nobody can be told; all else is compared as ever.
    run.judge(terms=Terms(physics=False, forfeited=told, beside=FLOW_RULES))
    by_gateway = Counter(one.gateway for one in told)
    named = ", ".join(f"{gateway} {count}" for gateway, count in sorted(by_gateway.items()))
    return {"lost_messages": len(missing), "told_as_lost": len(told), "by_gateway": named}


def _is_ready(url: str) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(f"{url}/readyz", timeout=5).is_success
    return False


def measure_cost(servers: Pair) -> dict[str, Figure]:
    """Time commits of a flush's size that wait for the standby, and some that do not, in turns.

    Returns:
        Medians in milliseconds, and their ratio.
    """
    name = sql.Identifier("cost")
    with psycopg.connect(servers.primary.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(TEMPLATE))
        )
    taken: dict[str, list[float]] = {"on": [], "local": []}
    with psycopg.connect(servers.primary.dsn("cost"), autocommit=True) as conn:
        for number in range(COST_ROUNDS + 1):
            for wait, values in taken.items():
                begun = time.monotonic()
                with conn.transaction():
                    conn.execute("SELECT set_config('synchronous_commit', %s, true)", (wait,))
                    _copy(conn)
                if number:  # the first makes the chunk
                    values.append(1000 * (time.monotonic() - begun))
    with psycopg.connect(servers.primary.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
    waits, does_not = (statistics.median(taken[wait]) for wait in ("on", "local"))
    return {
        "flush_waiting_ms": round(waits, 2),
        "flush_not_waiting_ms": round(does_not, 2),
        "waiting_to_not_waiting": round(waits / does_not, 2),
    }


def _copy(conn: psycopg.Connection) -> None:
    now = datetime.now(UTC)
    with conn.cursor() as cursor:
        with cursor.copy(
            "COPY reading_lamp (at, received_at, device_id, lit, power_w)"
            " FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.set_types(["timestamptz", "timestamptz", "int4", "bool", "float4"])
            for device in range(COST_READINGS):
                copy.write_row((now, now, device, True, 41.5))


def drill(say: Say) -> Report:
    """Lose the primary twice: with a standby that is waited for, and with one that is not."""
    begun = time.monotonic()
    steps: list[Step] = []
    wrong: list[str] = []
    versions: dict[str, str] = {}
    totals: Counter[str] = Counter()

    def measure(servers: Pair) -> None:
        versions["database"] = version_of(servers.primary.dsn(TEMPLATE))
        steps.append(Step("cost of waiting", measure_cost(servers)))

    userland = Userland.find()
    with tempfile.TemporaryDirectory(prefix="linli-drill-", dir=grounds.in_memory()) as name:
        authority = grounds.authority_for(Path(name) / "pki")
        for synchronous in (True, False):
            mode = "synchronous" if synchronous else "asynchronous"
            say(f"{mode}: the primary is lost and its standby promoted")
            outcome, figures = rehearse(
                userland,
                authority,
                Path(name) / mode,
                synchronous=synchronous,
                away_s=AWAY_S if synchronous else 0,
                before=measure if synchronous else None,
            )
            steps.append(Step(mode, figures | {"accepted": outcome.accepted}))
            for told, total in _TOTALS.items():
                totals[f"{mode}_{told}"] = getattr(outcome, total)
            wrong += [f"{mode}: {one}" for one in (*outcome.differences, outcome.error) if one]
            if not outcome.ok and not (outcome.differences or outcome.error):
                wrong.append(f"{mode}: it did not happen: {outcome.evidence}")
    settings: dict[str, Figure] = {
        "hours": HOURS,
        "away_s": AWAY_S, "cost_rounds": COST_ROUNDS, "cost_readings": COST_READINGS,
    }  # fmt: skip
    return Report("failover", versions, settings, steps, totals, wrong, time.monotonic() - begun)
