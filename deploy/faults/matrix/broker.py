# SPDX-License-Identifier: Apache-2.0
"""Faults of the broker: ended, robbed of its state, overfull, frozen, without a disk."""

from __future__ import annotations

import signal
import time

from deploy.faults.ground import until
from deploy.faults.processes import fill, frozen
from deploy.faults.run import FLOW_RULES, Run, fault
from deploy.verify import Terms
from ingest.kinds import DEVICE_FAULT, KINDS

STATE = "mosquitto.db"
# Rules that ask readings, not events.
READING_RULES = frozenset(
    {DEVICE_FAULT.id, *(rule.id for kind in ("lamp", "bin") for rule in KINDS[kind].rules)}
)


def _lost(run: Run) -> int:
    """How often ingest noticed that the broker was gone."""
    return run.city.log("ingest").count("broker lost")


def _forgotten(run: Run) -> int:
    """How often ingest found no session of its own, the first time of each lane left out."""
    return run.city.log("ingest").count("session_present=False") - 2


@fault("F9", "stopped and started (SIGTERM)", rounds=2, full_rounds=5, takes_s=15)
def restarted(run: Run) -> None:
    """Sessions and queues are saved and found again."""
    run.found()
    run.begin()
    for number in run.times():
        run.flow()
        run.broker.server.stop()
        until(lambda lost=2 * number: _lost(run) > lost, "ingest noticed")
        with run.healing():
            run.broker.server.start()
    run.sometimes("ingest lost it", _lost(run))
    run.finish()


@fault("F10a", "kill -9 with an unsaved queue", rounds=2, full_rounds=5, takes_s=40)
def killed(run: Run) -> None:
    """What it had confirmed to gateways and not yet passed on is gone."""
    city = run.found()
    run.begin()
    lost = 0
    for _ in run.times():
        run.flow()
        assert city.ingest is not None
        # So that its queue holds something when it dies.
        with frozen([city.ingest.pid]):
            until(lambda: city.accepted() > city.stored(), "the queue fills")
            time.sleep(0.5)
            lost += city.accepted() - city.stored()
            run.broker.server.kill()
        with run.healing():
            run.broker.server.start()
    run.sometimes("readings on their way when it died", lost)
    run.sometimes("sessions it had forgotten", _forgotten(run))
    run.finish()


@fault("F10b", "killed, and its state deleted", rounds=1, full_rounds=3, takes_s=40)
def wiped(run: Run) -> None:
    """As if its disk had been replaced."""
    run.found()
    run.begin()
    removed = 0
    for _ in run.times():
        run.flow()
        run.broker.server.stop()
        state = run.broker.server.folder / STATE
        removed += state.stat().st_size
        state.unlink()
        with run.healing():
            run.broker.server.start()
    run.sometimes("bytes of state deleted", removed)
    run.sometimes("sessions it had forgotten", _forgotten(run))
    run.finish()


@fault("F11", "queue overflow: ingest away, ten messages allowed", takes_s=45)
def overflow(run: Run) -> None:
    """The broker confirms to gateways what it then drops without a word."""
    city = run.found(limits={"max_queued_messages": 10})
    run.begin()
    dropped = 0
    for _ in run.times():
        run.flow()
        assert city.ingest is not None
        city.ingest.kill()
        before = run.witness.dropped
        until(lambda before=before: run.witness.dropped > before, "the broker drops", timeout_s=60)
        dropped += run.witness.dropped - before
        with run.healing(90):
            city.start_ingest()
    run.sometimes("messages dropped by the broker", dropped)
    # What was dropped comes after what followed it, and a late reading raises nothing: an alert on
    # it is then raised by the next one.
    run.finish(terms=Terms(beside=FLOW_RULES | READING_RULES))


@fault("F15a", "its disk full", takes_s=20)
def disk_full(run: Run) -> None:
    """It cannot save its state, and dies a moment later."""
    folder = run.tmpfs(run.folder / "small", 2)
    run.found(broker_folder=folder / "broker")
    run.begin()
    filler = folder / "filler"
    saved = run.broker.server
    for _ in run.times():
        run.flow()
        failed = saved.log.read_bytes().count(b"No space left")

        def fails(failed: int = failed) -> bool:
            # Again and again: a save under way gives back what the one before it took.
            fill(filler)
            saved.process.popen.send_signal(signal.SIGUSR1)  # save now
            return saved.log.read_bytes().count(b"No space left") > failed

        until(fails, "saving fails", every_s=0.2)
        run.flow(50)
        saved.kill()
        with run.healing():
            filler.unlink()
            saved.start()
    run.sometimes("saving failed", saved.log.read_bytes().count(b"No space left"))
    run.finish()


@fault("F15b", "its state file corrupt", takes_s=40)
def corrupt(run: Run) -> None:
    """It refuses to start with such a file, so the file is moved aside."""
    run.found()
    run.begin()
    aside = 0
    for _ in run.times():
        run.flow()
        run.broker.server.stop()
        state = run.broker.server.folder / STATE
        content = bytearray(state.read_bytes())
        # Its head: a flipped bit further on goes unnoticed and alters what is stored (see the
        # list of what is not covered).
        content[:64] = run.rng.randbytes(64)
        state.write_bytes(bytes(content))
        with run.healing():
            run.broker.server.start()
        aside += len(list(run.broker.server.folder.glob(f"{STATE}.corrupt-*")))
    run.sometimes("state files moved aside", aside)
    run.finish()


@fault("F16", "one gateway's rights taken and given back", takes_s=40)
def rights_taken(run: Run) -> None:
    """Its messages are refused; nothing may leave its outbox by that."""
    city = run.found()
    run.begin()
    acl = run.broker.server.acl
    victim, other = city.gateways
    rule = "pattern write linli/v1/+/%u/up/#"
    assert rule in acl
    # Nobody may write by the pattern, the other one by name; both still hear their answers.
    taken = f"{acl.replace(rule, '')}\nuser {other}\ntopic write linli/v1/+/{other}/up/#\n"
    refused = "refuses what is published gateway="
    for _ in run.times():
        run.flow()
        run.broker.server.load_acl(taken)
        until(lambda: f"{refused}{victim}" in city.log("simulators"), "the agent is refused")
        time.sleep(20.0 if run.full else 2.0)
        held = city.unsettled(victim)
        with run.healing():
            run.broker.server.load_acl(acl)
        run.sometimes("messages held back", held)
    concerned = city.log("simulators").count(f"{refused}{other}")
    run.expect("the other gateway is not concerned", concerned == 0, concerned)
    run.finish(silence=True)


@fault("F23b", "frozen (SIGSTOP)", takes_s=12)
def frozen_broker(run: Run) -> None:
    """Connections stay open, and nobody answers."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        with frozen([run.broker.server.process.pid]):
            before = run.rest()
            time.sleep(30.0 if run.full else 3.0)
            moved = run.city.stored() - before
        with run.healing():
            pass
        run.sometimes("nothing moved", moved == 0)
    run.finish()
