# SPDX-License-Identifier: Apache-2.0
"""The checker is tested by breaking the promise on purpose: it must see what is then wrong."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from deploy.faults.ground import Ground, until
from deploy.faults.run import Fault, Outcome, Run, perform
from deploy.services import Postgres, Userland
from ingest.pki import Authority

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def ground(
    userland: Userland,
    authority: Authority,
    database_server: Postgres,
    database_template: str,
    tmp_path: Path,
) -> Ground:
    assert database_template
    return Ground(userland, tmp_path, authority, database_server)


def outcome_of(ground: Ground, act: Callable[[Run], None]) -> Outcome:
    fault = Fault("T1", "test", "a promise broken on purpose", act)
    return perform(fault, ground, 1, full=False, keep=None)


def claimed(run: Run) -> int:
    """How many telemetry messages are acknowledged on the wire and not stored."""
    with psycopg.connect(run.city.dsn) as conn:
        telemetry = conn.execute(
            """
            SELECT gateway, stream, coalesce(upper(seen), 1) - 1 FROM gateway_stream
            WHERE lane = 'telemetry'
            """
        ).fetchall()
    heard = run.witness.watermarks()
    return sum(
        max(0, heard.get((gateway, stream), 0) - upto) for gateway, stream, upto in telemetry
    )


def says(outcome: Outcome, what: str) -> bool:
    return any(what in difference for difference in outcome.differences)


def test_an_undisturbed_run_is_ok(ground: Ground) -> None:
    def act(run: Run) -> None:
        run.found(hours=18)  # always some of a night
        run.begin()
        run.city.await_phase("live")
        run.sometimes("it ran", found=True)
        verdict = run.finish()
        assert verdict.lighting is not None
        assert verdict.lighting.lamp_nights >= 60
        assert verdict.alerts is not None
        assert verdict.alerts.expected > 0

    outcome = outcome_of(ground, act)
    assert outcome.ok, outcome
    assert outcome.accepted == outcome.stored > 1_000
    assert outcome.acks_checked > 10


def test_acknowledging_before_commit_is_seen(ground: Ground) -> None:
    def act(run: Run) -> None:
        city = run.found()
        ingest = city.start_ingest("ingest.ack_before_commit")
        city.start_simulators()
        run.flow()
        with psycopg.connect(city.dsn) as conn:
            # No telemetry can be committed now; what is said to be stored meanwhile is not.
            conn.execute("LOCK TABLE reading_lamp IN ACCESS EXCLUSIVE MODE")
            until(lambda: claimed(run) > 0, "it acknowledges nevertheless")
            run.sometimes("acknowledged", claimed(run))
            ingest.kill()
        city.start_ingest()
        run.finish()

    outcome = outcome_of(ground, act)
    assert not outcome.ok
    assert outcome.sometimes
    assert says(outcome, "acknowledged before stored")
    assert outcome.lost > 0


def test_storing_without_deduplication_is_seen(ground: Ground) -> None:
    def act(run: Run) -> None:
        city = run.found()
        city.start_ingest()
        city.start_simulators()
        run.flow()
        assert city.ingest is not None
        city.ingest.kill()
        doomed = city.start_ingest("ingest.after_commit:3", wait=False)
        # It has to start first.
        until(lambda: not doomed.running, "it is killed after COMMIT", timeout_s=60)
        run.sometimes("killed", doomed.popen.returncode == -signal.SIGKILL)
        city.start_ingest("ingest.skip_dedupe")
        run.finish()

    outcome = outcome_of(ground, act)
    assert not outcome.ok
    assert outcome.duplicated > 0
    assert outcome.lost == outcome.phantom == 0


def test_a_fault_that_did_not_happen_proves_nothing(ground: Ground) -> None:
    def act(run: Run) -> None:
        run.found(hours=2)
        run.begin()
        run.sometimes("connections cut", found=0)
        run.finish()

    outcome = outcome_of(ground, act)
    assert not outcome.ok
    assert not outcome.sometimes
    assert not outcome.differences


def test_a_system_that_does_not_come_back_fails(ground: Ground) -> None:
    def act(run: Run) -> None:
        run.found(hours=2)
        run.begin()
        assert run.city.ingest is not None
        run.city.ingest.kill()
        until(run.city.ingest_is_ready, "ingest is ready", timeout_s=1)

    outcome = outcome_of(ground, act)
    assert not outcome.ok
    assert "ingest ended" in outcome.error
    assert "ingest.log" in outcome.log
