# SPDX-License-Identifier: Apache-2.0
"""Faults of ingest: killed where it hurts most, frozen, doubled, flooded."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from deploy.checker.alerts import DERIVED
from deploy.faults.city import READY_TIMEOUT_S
from deploy.faults.ground import until
from deploy.faults.processes import frozen
from deploy.faults.run import FLOW_RULES, Run, fault
from deploy.faults.wire import Parcel, Wire, lamps_telling
from deploy.verify import percentile
from simulators.truth import Ledger

DIE_TIMEOUT_S = 60.0
STOP_MAX_S = 5.0
FLOOD = 10


def _killed_at(run: Run, failpoint: str) -> int:
    """Have ingest end itself at a failpoint, then start it anew; once a round.

    Returns:
        How many messages then came that were stored already.
    """
    city = run.city
    city.start_ingest()
    city.start_simulators()
    died = again = 0
    for _ in run.times():
        run.flow()
        assert city.ingest is not None
        city.ingest.kill()
        doomed = city.start_ingest(f"{failpoint}:{run.rng.randrange(1, 6)}", wait=False)
        until(
            lambda doomed=doomed: not doomed.running,
            f"{failpoint} is reached",
            timeout_s=DIE_TIMEOUT_S,
        )
        died += doomed.popen.returncode == -signal.SIGKILL
        with run.healing():
            city.start_ingest()
        again += run.duplicates()
    run.sometimes("killed there", died)
    return again


@fault("F20a", "killed after receiving, before COMMIT", rounds=4, full_rounds=10, hours=96)
def killed_before_commit(run: Run) -> None:
    """The flush is gone; the broker has to deliver it again."""
    run.found()
    _killed_at(run, "ingest.before_commit")
    run.sometimes("sessions taken up again", run.city.log("ingest").count("session_present=True"))
    run.finish()


@fault("F20b", "killed after COMMIT, before PUBACK", rounds=4, full_rounds=10, hours=96)
def killed_after_commit(run: Run) -> None:
    """The flush is stored and comes again."""
    run.found()
    run.sometimes("duplicates dropped", _killed_at(run, "ingest.after_commit"))
    run.sometimes("sessions taken up again", run.city.log("ingest").count("session_present=True"))
    run.finish()


@fault("F21", "kill -9 at random", rounds=5, full_rounds=15, hours=120)
def killed_at_random(run: Run) -> None:
    """Fifteen rounds with twenty seeds are three hundred kills."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        assert run.city.ingest is not None
        run.city.ingest.kill()
        with run.healing():
            run.city.start_ingest()
    run.sometimes("sessions taken up again", run.city.log("ingest").count("session_present=True"))
    run.finish()


@fault("F22", "SIGTERM under load", rounds=3, full_rounds=6, hours=96)
def stopped_under_load(run: Run) -> None:
    """It finishes the flush in hand and leaves in order."""
    run.found()
    run.begin()
    longest_s = 0.0
    statuses: list[int] = []
    for _ in run.times():
        run.flow()
        assert run.city.ingest is not None
        begun = time.monotonic()
        statuses.append(run.city.ingest.stop(STOP_MAX_S))
        longest_s = max(longest_s, time.monotonic() - begun)
        with run.healing():
            run.city.start_ingest()
    run.sometimes("left with status 0", len(statuses) if not any(statuses) else 0)
    run.sometimes("within 5 s", longest_s <= STOP_MAX_S)
    run.finish()


@fault("F23a", "frozen (SIGSTOP)", hours=96, takes_s=9)
def frozen_ingest(run: Run) -> None:
    """As in a long pause of the machine."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        assert run.city.ingest is not None
        before = run.city.stored()
        with frozen([run.city.ingest.pid]):
            time.sleep(20.0 if run.full else 3.0)
            moved = run.city.stored() - before
        with run.healing():
            pass
        # What was on its way to the database when the signal came may still arrive.
        run.sometimes("nothing moved", moved < 500)
    run.finish()


def _lamps(run: Run, gateway: str) -> list[str]:
    rows = run.city.names("lamp", gateway)
    assert rows
    return rows


@fault("F24", "every message ten times", rounds=1, hours=1)
def duplicate_flood(run: Run) -> None:
    """Ten copies of each, also after the first was stored."""
    city = run.found()
    city.start_ingest()
    gateway = city.gateways[0]
    ledger = Ledger(city.truth)
    wire = Wire(run.broker, gateway, ledger)
    try:
        count = 500 if run.full else 150
        since = datetime.now(UTC) - timedelta(minutes=20)
        batches = lamps_telling(_lamps(run, gateway)[:10], count, since, run.rng)
        parcels = [wire.make(batch) for batch in batches]
        copies = [parcel for parcel in parcels for _ in range(FLOOD)]
        run.rng.shuffle(copies)
        for _ in run.times():
            wire.send(copies)
            wire.await_stored()
        with run.healing():
            wire.send([wire.make(lamps_telling(_lamps(run, gateway)[:1], 1, since, run.rng)[0])])
        run.sometimes("duplicates dropped", run.duplicates())
    finally:
        wire.close()
        ledger.close()
    run.judge(physics=False)


@fault("F25", "out of order within 30 s", rounds=1, hours=1)
def out_of_order(run: Run) -> None:
    """Each message up to thirty places away from where it belongs."""
    city = run.found()
    city.start_ingest()
    gateway = city.gateways[0]
    ledger = Ledger(city.truth)
    wire = Wire(run.broker, gateway, ledger)
    try:
        since = datetime.now(UTC) - timedelta(minutes=20)
        batches = lamps_telling(_lamps(run, gateway)[:10], 600 if run.full else 200, since, run.rng)
        parcels = [wire.make(batch) for batch in batches]
        shuffled = sorted(parcels, key=lambda one: one.seq + run.rng.uniform(-15, 15))
        for _ in run.times():
            # In small helpings, so that the disorder reaches across flushes.
            for first in range(0, len(shuffled), 20):
                wire.send(shuffled[first : first + 20])
                time.sleep(0.02)
        with run.healing():
            wire.await_stored()
        backwards = sum(one.seq > other.seq for one, other in pairwise(shuffled))
        run.sometimes("messages that came after a later one", backwards)
    finally:
        wire.close()
        ledger.close()
    run.judge(physics=False)


@fault("F26", "one poison message among a hundred", rounds=3, full_rounds=20, hours=1)
def poison(run: Run) -> None:
    """What can never be stored is set aside; its neighbours are not held up."""
    city = run.found()
    city.start_ingest()
    gateway = city.gateways[0]
    ledger = Ledger(city.truth)
    wire = Wire(run.broker, gateway, ledger)
    poisons = (
        b'{"v":1,"stream":"%s","seq":%d,"sent_at":"2026-01-01T00:00:00Z","readings":[]}',
        b'{"v":1,"stream":"%s","seq":%d,"sent_at":"yesterday","readings":[{"kind":"lamp"}]}',
        b'{"v":9,"stream":"%s","seq":%d}',
        b'{"v":1,"stream":"%s","seq":%d,"sent_at":"2026-01-01T00:00:00Z","readings":[[[[]]]]}',
    )
    try:
        lamps = _lamps(run, gateway)[:5]
        for number in run.times():
            since = datetime.now(UTC) - timedelta(minutes=2 * (30 - number))
            parcels = [wire.make(one) for one in lamps_telling(lamps, 99, since, run.rng)]
            seq = wire.number()
            text = run.rng.choice(poisons) % (wire.stream.encode(), seq)
            parcels.insert(run.rng.randrange(99), Parcel(seq, text))
            with run.healing():
                wire.send(parcels)
                wire.await_stored()
        letters = city.count("SELECT count(*) FROM dead_letter")
        run.sometimes("dead letters", letters == run.rounds_done and letters)
        run.sometimes("refusals told", len(wire.rejected) >= run.rounds_done)
    finally:
        wire.close()
        ledger.close()
    run.judge(physics=False, letters=True)


@fault("F28a", "started twice", hours=96, takes_s=10)
def started_twice(run: Run) -> None:
    """Two processes for the same lanes, under the same names."""
    run.found()
    run.begin()
    for _ in run.times():
        second = run.city.start_second_ingest()
        until(
            lambda: "ingest starting" in run.city.log("ingest-2"),
            "the second one starts",
            timeout_s=READY_TIMEOUT_S,
        )
        run.flow(200)
        time.sleep(10.0 if run.full else 3.0)
        run.sometimes("the second one started", run.city.log("ingest-2").count("ingest starting"))
        with run.healing():
            second.kill()
    run.finish()


DAY = timedelta(days=1)


@fault("F8", "data of 29 and of 31 days ago", hours=700, takes_s=6)
def very_late(run: Run) -> None:
    """Power comes back: the late is stored, the too late refused with that reason."""
    city = run.found()
    city.start_ingest()
    gateway = city.gateways[0]
    ledger = Ledger(city.truth)
    wire = Wire(run.broker, gateway, ledger)
    try:
        lamps = _lamps(run, gateway)[:10]
        now = datetime.now(UTC)
        for _ in run.times():
            for days in (29, 31, 7):
                late = lamps_telling(lamps, 50, now - days * DAY, run.rng)
                wire.send([wire.make(batch) for batch in late])
            with run.healing():
                wire.await_stored()
        refused = city.count("SELECT count(*) FROM dead_letter WHERE reason = 'time.too_old'")
        run.sometimes("readings refused as too old", refused == 500 and refused)
        told = city.texts("SELECT DISTINCT rule FROM alert WHERE NOT late")
        prompt = [rule for rule in told if rule not in FLOW_RULES and rule not in DERIVED]
        run.expect("every alert says that it is late", not prompt, prompt)
    finally:
        wire.close()
        ledger.close()
    run.judge(physics=False, letters=True)


ALARM_MAX_S = 2.0
# Where everything is slow: as long as so many messages of the backlog take. Behind all of it no
# alarm waits.
ALARM_MAX_MESSAGES = 500


@fault("F29", "a backlog of telemetry while alarms arrive", hours=1, takes_s=15)
def alarms_beside_backlog(run: Run) -> None:
    """The event lane has a connection and a writer of its own."""
    city = run.found()
    # Small flushes, so that a little telemetry keeps the lane busy for long.
    city.ingest_settings = {"LINLI_INGEST__TELEMETRY__MESSAGES": "10"}
    city.start_ingest()
    flooding, alarming = city.gateways
    ledger = Ledger(city.truth)
    wire = Wire(run.broker, flooding, ledger)
    box = run.box(alarming, poll_interval_s=0.1)
    try:
        run.flow(50)
        lamps = _lamps(run, flooding)[:8]
        count = 20_000 if run.full else 2_500
        since = datetime.now(UTC) - timedelta(seconds=count + 60)
        batches = lamps_telling(lamps, count, since, run.rng)
        parcels = [wire.make(batch) for batch in batches]
        allowed_s = ALARM_MAX_S
        for _ in run.times():
            begun = time.monotonic()
            wire.send(parcels)
            with run.healing(120):
                wire.await_stored(120)
            backlog_s = time.monotonic() - begun
            allowed_s = max(allowed_s, ALARM_MAX_MESSAGES * backlog_s / count)
            run.sometimes("seconds of backlog", backlog_s > 1 and round(backlog_s, 1))
    finally:
        wire.close()
        ledger.close()
    box.ask_to_stop()
    until(lambda: not box.running, "the agent drains", timeout_s=60)
    waited = city.column(
        """
        SELECT extract(epoch FROM changed_at - coalesce(cleared_at, last_raised_at))::float8
        FROM alert
        WHERE starts_with(rule, 'alarm.')
        """
    )
    slowest_s = percentile(waited, 0.99)
    run.sometimes("alarms meanwhile", len(waited))
    run.expect(
        "s from alarm to alert, p99", slowest_s is not None and slowest_s < allowed_s, slowest_s
    )
    run.judge(physics=False)
