# SPDX-License-Identifier: Apache-2.0
"""Faults of the database: ended, cut off, unreachable, slow, locked, read-only, full."""

from __future__ import annotations

import time

import psycopg
from psycopg import sql

from deploy.faults import ground as grounds
from deploy.faults.ground import until
from deploy.faults.processes import fill, frozen, kill_all, resident_mb, with_children
from deploy.faults.proxy import Weather
from deploy.faults.run import Run, fault

COMMIT = b"COMMIT\0"
UNCLEAN = b"database system was not properly shut down"
RSS_GROWTH_MAX_MB = 50.0


def _lost(run: Run) -> int:
    """How often ingest noticed that the database was gone."""
    return run.city.log("ingest").count("database lost")


@fault("F31a", "restarted (fast)", rounds=3, full_rounds=10)
def restarted(run: Run) -> None:
    """Sessions are ended, transactions rolled back."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        run.server.stop()
        with run.healing():
            run.server.start()
    run.sometimes("ingest lost it", _lost(run))
    run.finish()


@fault("F31b", "ingest's backend ended in mid-flush", rounds=10, full_rounds=50, hours=120)
def backend_ended(run: Run) -> None:
    """pg_terminate_backend, at moments of chance."""
    run.found()
    run.begin()
    in_flush = 0
    with psycopg.connect(run.server.dsn(), autocommit=True) as conn:
        for _ in run.times():
            # Until one is hit while it is at work: most of its time it waits.
            deadline = time.monotonic() + 5.0
            while time.monotonic() < deadline:
                hit = conn.execute(
                    """
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = %s AND application_name LIKE 'linli-ingest%%'
                      AND state <> 'idle' AND xact_start IS NOT NULL
                    """,
                    (run.database,),
                ).fetchall()
                if hit:
                    in_flush += len(hit)
                    break
            with run.healing():
                pass
    run.sometimes("ended in a transaction", in_flush)
    run.sometimes("ingest lost it", _lost(run))
    run.finish()


@fault("F32a", "crashed (immediate)", rounds=3, full_rounds=10)
def crashed(run: Run) -> None:
    """The write-ahead log is replayed; what was acknowledged must be there."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        run.server.crash()
        with run.healing():
            run.server.start()
    run.sometimes("recovered from its log", _said(run, UNCLEAN))
    run.sometimes("ingest lost it", _lost(run))
    run.finish()


@fault("F32b", "kill -9 of postmaster and backends", rounds=3, full_rounds=10)
def killed(run: Run) -> None:
    """As the kernel does when memory runs out."""
    run.found()
    run.begin()
    ended = 0
    for _ in run.times():
        run.flow()
        ended += kill_all(with_children(run.server.process.pid))
        run.server.process.popen.wait()
        with run.healing():
            run.server.start()
    run.sometimes("processes killed", ended)
    run.sometimes("recovered from its log", _said(run, UNCLEAN))
    run.finish()


@fault("F32c", "crashed, and ingest killed while it was away", rounds=2, full_rounds=5)
def crashed_with_ingest(run: Run) -> None:
    """What ingest held in memory is gone; none of it may have been acknowledged."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        lost = _lost(run)
        run.server.crash()
        until(lambda lost=lost: _lost(run) > lost, "ingest noticed")
        assert run.city.ingest is not None
        run.city.ingest.kill()
        with run.healing():
            run.server.start()
            run.city.start_ingest()
    run.sometimes("ingest lost it", _lost(run))
    run.finish()


@fault("F33", "connection cut after COMMIT was sent", rounds=10, full_rounds=50, hours=120)
def outcome_unknown(run: Run) -> None:
    """The server commits, and nobody hears of it."""
    run.found()
    line = run.before_database()
    run.begin()
    for _ in run.times():
        cuts = line.cuts
        line.cut_after_answering(COMMIT)
        until(lambda cuts=cuts: line.cuts > cuts, "a COMMIT comes by")
        with run.healing():
            pass
    run.sometimes("answers to COMMIT cut off", line.cuts)
    run.sometimes("messages that were stored already", run.duplicates())
    run.finish()


@fault("F34", "half-open: nothing answers, connections stay", takes_s=30)
def half_open(run: Run) -> None:
    """Only a guard of ingest's own can notice."""
    run.found()
    line = run.before_database()
    run.begin()
    for _ in run.times():
        run.flow()
        held = line.stall()
        begun = time.monotonic()
        lost = _lost(run)

        def noticed(lost: int = lost) -> bool:
            assert run.city.ingest is not None
            return _lost(run) > lost or not run.city.ingest.running

        until(noticed, "ingest noticed", timeout_s=40)
        run.evidence["noticed after s"] = round(time.monotonic() - begun, 1)
        with run.healing():
            line.heal()
        run.sometimes("connections held", held)
    run.finish()


@fault("F35a", "a table locked (ACCESS EXCLUSIVE)", takes_s=15)
def locked(run: Run) -> None:
    """As maintenance takes it; memory stays flat meanwhile."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        assert run.city.ingest is not None
        before_mb, lost = resident_mb(run.city.ingest.pid), _lost(run)
        with psycopg.connect(run.city.dsn) as conn:
            conn.execute("LOCK TABLE reading_lamp IN ACCESS EXCLUSIVE MODE")
            time.sleep(60.0 if run.full else 7.0)
            until(lambda lost=lost: _lost(run) > lost, "ingest waited in vain")
            growth_mb = resident_mb(run.city.ingest.pid) - before_mb
            conn.rollback()
        with run.healing():
            pass
        run.sometimes("ingest waited in vain", _lost(run))
        run.expect("memory stays flat", growth_mb <= RSS_GROWTH_MAX_MB, round(growth_mb, 1))
    run.finish()


@fault("F35b", "slow: 30 ms to and fro", takes_s=15)
def slow(run: Run) -> None:
    """Everything takes long and nothing fails."""
    run.found()
    line = run.before_database()
    run.begin()
    for _ in run.times():
        line.endure(Weather(delay_s=0.03))
        run.flow()
        time.sleep(20.0 if run.full else 3.0)
        carried = sum(line.forwarded.values())
        run.flow(50)
        run.sometimes("bytes carried slowly", sum(line.forwarded.values()) - carried)
        with run.healing():
            line.heal()
    run.finish()


@fault("F36a", "read-only", takes_s=10)
def read_only(run: Run) -> None:
    """Refused for now is not refused for ever: nothing becomes a dead letter."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        _set_read_only(run, on=True)
        until(lambda: not run.city.ingest_is_ready(), "ingest says that it is not ready")
        time.sleep(2.0)
        with run.healing():
            _set_read_only(run, on=False)
        run.sometimes("refused", _said(run, b"read-only transaction"))
    run.finish()


def _set_read_only(run: Run, *, on: bool) -> None:
    with psycopg.connect(run.server.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(
                sql.Identifier(run.database), sql.Literal("on" if on else "off")
            )
        )
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (run.database,),
        )


@fault("F36b", "its disk full", takes_s=25, hours=120)
def disk_full(run: Run) -> None:
    """Refused, perhaps down; never a dead letter, and everything after there is room again."""
    folder = run.tmpfs(run.folder / "small", 400)
    server = grounds.postgres(run.ground.userland, folder / "postgres")
    run.stack.callback(server.stop)
    grounds.create_template(server)
    run.found(server=server)
    run.begin()
    filler = folder / "filler"
    for _ in run.times():
        run.flow()
        lost = _lost(run)

        def refuses(lost: int = lost) -> bool:
            # Again and again: a checkpoint gives back what the log took before it.
            fill(filler)
            return _lost(run) > lost

        until(refuses, "the database refuses", timeout_s=60, every_s=0.2)
        time.sleep(1.0)
        with run.healing():
            filler.unlink()
            if not server.process.running:
                server.start()
        run.sometimes("no space left", _said(run, b"No space left"))
    run.finish()


@fault("F23c", "frozen (SIGSTOP)", takes_s=12)
def frozen_database(run: Run) -> None:
    """Every process of it, as when its machine stands still."""
    run.found()
    run.begin()
    for _ in run.times():
        run.flow()
        with frozen(with_children(run.server.process.pid)):
            time.sleep(30.0 if run.full else 4.0)
        with run.healing():
            pass
        run.sometimes("stood still", True)
    run.finish()


def _said(run: Run, text: bytes) -> int:
    return run.server.log.read_bytes()[run.server_log_start :].count(text)
