# SPDX-License-Identifier: Apache-2.0
"""Faults of the edge: agents killed and frozen, outboxes destroyed, clocks wrong, disks full."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg

from deploy.checker import streams
from deploy.checker.facts import Message
from deploy.faults.ground import until
from deploy.faults.processes import fill, frozen, resident_mb
from deploy.faults.proxy import Weather
from deploy.faults.run import FLOW_RULES, Run, fault
from deploy.services import Process
from deploy.verify import Terms

DRAIN_TIMEOUT_S = 70.0


# -- the simulated city's agents ------------------------------------------------------------------


@fault("F1a", "agents killed (kill -9)", rounds=5, full_rounds=20, hours=120)
def killed(run: Run) -> None:
    """Outboxes are opened again, and what is not known as stored is sent again."""
    run.found()
    run.begin()
    held = 0
    for _ in run.times():
        run.flow()
        assert run.city.simulators is not None
        run.city.simulators.kill()
        held += run.city.unsettled()
        with run.healing():
            run.city.start_simulators()
            run.flow(20)
    run.sometimes("killed", run.rounds_done)
    run.evidence["messages held when killed"] = held
    # Where starting takes long they are not heard for as long.
    run.finish(silence=True)


@fault("F1b", "agents frozen (SIGSTOP)", takes_s=10)
def frozen_agents(run: Run) -> None:
    """As in a box that hangs and comes back."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        assert run.city.simulators is not None
        with frozen([run.city.simulators.pid]):
            before = run.rest()
            time.sleep(8.0 if run.full else 2.0)
            moved = run.city.stored() - before
        with run.healing():
            pass
        run.sometimes("nothing moved", moved == 0)
    run.finish()


def _destroyed(run: Run, destroy: Callable[[Path], None]) -> None:
    """Destroy an outbox that holds messages; what only it held is lost, and known as lost."""
    city = run.found()
    run.begin()
    forfeited: set[Message] = set()
    given_up: set[str] = set()
    for _ in run.times():
        run.flow()
        assert city.ingest is not None
        assert city.simulators is not None
        city.ingest.kill()
        until(lambda: city.unsettled() > 1, "messages pile up in the outboxes")
        city.simulators.kill()
        # Without its queue, or the broker would bring what the outbox has lost.
        run.broker.server.kill()
        (run.broker.server.folder / "mosquitto.db").unlink(missing_ok=True)
        for gateway in city.gateways:
            lost = _only_in_outbox(run, gateway)
            forfeited |= lost
            given_up |= {message.stream for message in lost}
            destroy(city.data / "gateways" / gateway / "outbox.db")
        run.broker.server.start()
        with run.healing(given_up=given_up):
            city.start_ingest()
            city.start_simulators()
            run.flow(20)
    run.sometimes("messages destroyed", len(forfeited))
    terms = Terms(physics=False, forfeited=forfeited, beside=FLOW_RULES)
    verdict = run.finish(terms=terms)
    run.sometimes("facts that are gone", verdict.readings.forfeited + verdict.events.forfeited)


def _only_in_outbox(run: Run, gateway: str) -> set[Message]:
    """What a gateway accepted and the database does not have."""
    with psycopg.connect(run.city.dsn) as conn:
        books = streams.seen(conn)
    with closing(sqlite3.connect(f"file:{run.city.truth}?mode=ro", uri=True)) as ledger:
        rows = ledger.execute(
            "SELECT DISTINCT gateway, stream, seq FROM accepted WHERE gateway = ?", (gateway,)
        ).fetchall()
    return {
        message
        for message in (Message(*row) for row in rows)
        if not any(
            first <= message.seq <= last
            for first, last in books.get((message.gateway, message.stream), ())
        )
    }


def _remove(outbox: Path) -> None:
    for file in outbox.parent.glob(f"{outbox.name}*"):
        file.unlink()


def _truncate(outbox: Path) -> None:
    _remove_log(outbox)
    with outbox.open("r+b") as file:
        file.truncate(outbox.stat().st_size // 2 + 100)


def _flip(outbox: Path) -> None:
    _remove_log(outbox)
    content = bytearray(outbox.read_bytes())
    for place in range(100, len(content), 97):
        content[place] ^= 0x10
    outbox.write_bytes(bytes(content))


def _remove_log(outbox: Path) -> None:
    for suffix in ("-wal", "-shm"):
        outbox.with_name(outbox.name + suffix).unlink(missing_ok=True)


@fault("F5a", "outboxes deleted", takes_s=12)
def outbox_deleted(run: Run) -> None:
    """Agents go on with new streams."""
    _destroyed(run, _remove)


@fault("F5b", "outboxes truncated", takes_s=12)
def outbox_truncated(run: Run) -> None:
    """Half a file and no log: agents notice and set it aside."""
    _destroyed(run, _truncate)


@fault("F5c", "outboxes with flipped bits", takes_s=12)
def outbox_flipped(run: Run) -> None:
    """Agents notice and set the file aside."""
    _destroyed(run, _flip)


@fault("F19", "an old copy of the outboxes restored", takes_s=14)
def old_copy(run: Run) -> None:
    """Numbers given out before are not given out again for something else."""
    city = run.found()
    run.begin()
    forfeited: set[Message] = set()
    given_up: set[str] = set()
    for _ in run.times():
        run.flow()
        assert city.simulators is not None
        city.simulators.kill()
        copy = run.folder / "copy"
        shutil.copytree(city.data / "gateways", copy)
        before = sum(city.recorded().values())
        city.start_simulators()
        run.flow(1_000)
        city.simulators.kill()
        run.sometimes("messages since the copy", sum(city.recorded().values()) - before)
        given_up |= set(city.recorded())
        # What had not left the newer outbox is gone with it.
        for gateway in city.gateways:
            forfeited |= _only_in_outbox(run, gateway)
        shutil.rmtree(city.data / "gateways")
        copy.rename(city.data / "gateways")
        with run.healing(given_up=given_up):
            city.start_simulators()
            run.flow(100)
    terms = Terms(physics=False, forfeited=forfeited, given_up=given_up, beside=FLOW_RULES)
    run.finish(terms=terms)


# -- a gateway of its own: a real agent over busy devices -----------------------------------------


def _drain(run: Run, *boxes: Process) -> None:
    """Have agents drain and end."""
    for box in boxes:
        box.ask_to_stop()
    _await_drained(run, *boxes)


def _await_drained(run: Run, *boxes: Process) -> None:
    for box in boxes:
        until(lambda box=box: not box.running, f"{box.name} drains", timeout_s=DRAIN_TIMEOUT_S)
        run.expect(f"{box.name} drained", box.popen.returncode == 0, box.popen.returncode)


@fault("F2", "outbox limit reached", hours=1, takes_s=25)
def limit_reached(run: Run) -> None:
    """The oldest telemetry goes, in whole messages, and a gap record says so."""
    city = run.found()
    line = run.before_broker()
    city.start_ingest()
    box = run.box(city.gateways[0], limit_bytes=1 << 20, poll_interval_s=0.05)
    for _ in run.times():
        run.flow(200)
        line.cut(refuse=True)
        until(lambda: city.gaps_told() > 0, "something is evicted", timeout_s=60)
        time.sleep(2.0)
        with run.healing():
            line.heal()
    run.sometimes("gap records", city.gaps_told())
    _drain(run, box)
    run.judge(physics=False)


@fault("F3", "disk full at the edge", hours=1, takes_s=20)
def disk_full(run: Run) -> None:
    """Nothing is accepted that is not on disk; what was accepted stays."""
    city = run.found()
    city.start_ingest()
    folder = run.tmpfs(run.folder / "small", 6)
    box = run.box(city.gateways[0], data=folder / "data", poll_interval_s=0.1)
    filler = folder / "filler"
    for _ in run.times():
        run.flow(200)
        assert city.ingest is not None
        with frozen([city.ingest.pid]):  # so that nothing leaves the outbox
            fill(filler)
            until(lambda: "disk full" in city.log(box.name), "the agent notices", timeout_s=30)
            # What the agent freed is taken as well.
            fill(folder / "more")
            time.sleep(3.0)
        run.expect("the agent lives", box.running)
        before = city.accepted()
        with run.healing():
            filler.unlink()
            (folder / "more").unlink()
            until(lambda before=before: city.accepted() > before, "it accepts again")
    run.sometimes("times the disk was full", city.log(box.name).count("disk full"))
    _drain(run, box)
    run.judge(physics=False)


@fault("F6", "boot in 1970, without a network", hours=1, takes_s=12)
def boot_in_1970(run: Run) -> None:
    """Nothing is stamped with a time that cannot be; what matters is told when it can be."""
    city = run.found()
    line = run.before_broker()
    city.start_ingest()
    clock = run.clock(-time.time() + 120)
    line.cut(refuse=True)
    box = run.box(city.gateways[0], clock=clock, poll_interval_s=0.1)
    for _ in run.times():
        until(lambda: "starting" in city.log(box.name) or city.log(box.name), "the agent runs")
        time.sleep(3.0)
        early = city.accepted(lane="telemetry")
        with run.healing():
            run.set_clock(0)
            line.heal()
            run.flow(100)
        run.sometimes("no reading before the time was known", early == 0)
    _drain(run, box)
    oldest = city.count(
        "SELECT count(*) FROM reading_lamp WHERE at < now() - interval '30 days'"
        " OR at > now() + interval '5 min'"
    )
    run.expect("nothing is stored at an impossible time", oldest == 0, oldest)
    run.judge(physics=False)


def _stepped(run: Run, offset_s: float) -> None:
    city = run.found()
    city.start_ingest()
    clock = run.clock(0)
    box = run.box(city.gateways[0], clock=clock, poll_interval_s=0.1)
    run.flow(200)
    for _ in run.times():
        run.set_clock(offset_s)
        before = city.accepted()
        until(lambda before=before: city.accepted() > before + 200, "it goes on")
        run.set_clock(0)
        with run.healing():
            run.flow(200)
    refused = city.count("SELECT count(*) FROM dead_letter WHERE reason = 'time.future'")
    ahead_s = city.column("SELECT extract(epoch FROM at - received_at)::float8 FROM reading_lamp")
    stepped = refused + sum(abs(one_s - offset_s) < 60 for one_s in ahead_s)
    run.sometimes("told with the wrong time", stepped)
    _drain(run, box)
    run.judge(physics=False, letters=offset_s > 0)


@fault("F7a", "clock steps one hour ahead and back", rounds=2, hours=1, takes_s=12)
def clock_ahead(run: Run) -> None:
    """What comes from the future is refused with that reason, and kept."""
    _stepped(run, 3_600)


@fault("F7b", "clock steps one hour back and forth", rounds=2, full_rounds=5, hours=1, takes_s=12)
def clock_back(run: Run) -> None:
    """What comes late is stored, and moves no latest state backwards."""
    _stepped(run, -3_600)


@fault("F28b", "two agents with one identity", hours=1, takes_s=20)
def two_agents(run: Run) -> None:
    """They throw each other off the broker; each has streams of its own."""
    city = run.found()
    city.start_ingest()
    gateway = city.gateways[0]
    one = run.box(gateway, poll_interval_s=0.2)
    run.flow(100)
    two = run.box(gateway, name="box-2", data=run.folder / "box-2", poll_interval_s=0.2)
    for _ in run.times():
        until(
            lambda: city.log(one.name).count("connected gateway") >= 3,
            "they take turns",
            timeout_s=40,
        )
        run.sometimes("connections of the first", city.log(one.name).count("connected gateway"))
        with run.healing():
            _drain(run, two)
    _drain(run, one)
    run.judge(physics=False)


OVERLOAD = 3.0
GROWTH_MAX_MB = 30.0


@fault("F30", "three times more than can be stored", hours=1, takes_s=55, once=True)
def overload(run: Run) -> None:
    """The excess waits in outboxes; nobody's memory grows."""
    city = run.found()
    line = run.before_database()
    city.ingest_settings = {"LINLI_INGEST__TELEMETRY__MESSAGES": "5"}
    city.start_ingest()
    boxes = [
        run.box(gateway, name=f"box-{gateway}", poll_interval_s=0.1) for gateway in city.gateways
    ]
    for _ in run.times():
        run.flow(500)
        line.endure(Weather(delay_s=0.025))
        time.sleep(3.0)
        assert city.ingest is not None
        pids = {
            "ingest": city.ingest.pid,
            "broker": run.broker.server.process.pid,
            **{box.name: box.pid for box in boxes},
        }
        before_mb = {name: resident_mb(pid) for name, pid in pids.items()}
        accepted, stored, begun = city.accepted(), city.stored(), time.monotonic()
        time.sleep(600.0 if run.full else 25.0)
        took_s = time.monotonic() - begun
        offered = (city.accepted() - accepted) / took_s
        taken = (city.stored() - stored) / took_s
        for name, pid in pids.items():
            growth = resident_mb(pid) - before_mb[name]
            run.expect(f"{name} grew by MiB", growth <= GROWTH_MAX_MB, round(growth, 1))
        run.evidence["readings a second"] = round(offered)
        run.evidence["stored a second"] = round(taken)
        run.sometimes("offered for one stored", offered >= OVERLOAD * taken and offered / taken)
        for box in boxes:
            box.ask_to_stop()
        with run.healing(300.0):
            line.heal()
    _await_drained(run, *boxes)
    run.judge(physics=False)
