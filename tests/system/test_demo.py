# SPDX-License-Identifier: Apache-2.0
"""What a newcomer types: it proves itself, stops without a trace, and finds its data again."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from deploy.installation import environment, started
from deploy.services import HOST
from tests.services import until

ROOT = Path(__file__).resolve().parents[2]
STOP_MAX_S = 40.0
START_MAX_S = 150.0
DEVICES_PER_COMMUNITY = 60 + 12 + 6 + 10

pytestmark = [pytest.mark.timeout(400), pytest.mark.broker, pytest.mark.database]


class Runner:
    """``python -m deploy.local`` in a process group of its own, as a shell would start it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.data = folder / "data"
        self.output = folder / "output.txt"
        command = [sys.executable, "-P", "-m", "deploy.local", *arguments]
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                [*command, "--data", str(self.data)],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def run_json(self) -> dict[str, Any]:
        return json.loads((self.data / "run.json").read_text())

    def wait_for(self, text: str, *, times: int = 1) -> None:
        """Wait until it has said so, or fail with all it said."""
        until(
            lambda: self.said.count(text) >= times or self.process.poll() is not None,
            f"{text!r} in {self.output}",
            timeout_s=START_MAX_S,
        )
        assert self.said.count(text) >= times, self.said

    def finish(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout_s:g} s:\n{self.said}")


@contextmanager
def runner(folder: Path, *arguments: str) -> Generator[Runner]:
    one = Runner(folder, *arguments)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def descendants(pid: int) -> dict[int, int]:
    """All processes below ``pid``, each with the time it began: together they name it for ever."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: dict[int, int] = {}
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(), ()):
            begun = started(child)
            if begun is not None:
                found[child] = begun
                queue.append(child)
    return found


def none_left(pids: dict[int, int]) -> bool:
    return not any(started(pid) == begun for pid, begun in pids.items())


def test_unattended_demo_proves_itself(tmp_path: Path) -> None:
    result = tmp_path / "out.json"
    with runner(
        tmp_path, "demo", "--seconds", "25", "--communities", "2", "--json", str(result)
    ) as one:
        status = one.finish(300)
        assert status == 0, one.said
    found = json.loads(result.read_text())
    assert found["ok"] is True
    for lane in ("readings", "events"):
        assert found[lane]["accepted"] == found[lane]["stored"] > 0
        assert found[lane]["lost"] == found[lane]["duplicated"] == 0
    # A day of ten-minute heartbeats, at the very least.
    assert found["readings"]["accepted"] > 2 * DEVICES_PER_COMMUNITY * 24 * 6 * 0.9
    assert found["lighting"]["lamp_nights"] >= 2 * 60
    assert found["lighting"]["max_abs_error_s"] <= 1
    assert found["lighting"]["uptime"] == pytest.approx(found["lighting"]["truth"], abs=1e-4)
    assert found["alerts"]["expected"] == found["alerts"]["raised"] > 0
    assert found["alerts"]["missing"] == found["alerts"]["unexpected"] == 0
    assert 0 < found["first_live_reading_s"] < 300
    assert not (tmp_path / "data/run.json").exists()


def test_demo_of_a_scenario_that_is_none_is_refused(tmp_path: Path) -> None:
    for arguments, reason in (
        (("--scenario", "nowhere"), "No such file"),
        (("--scenario", "night", "--communities", "3"), "of one community"),
    ):
        with runner(tmp_path, "demo", *arguments) as one:
            assert one.finish(60) == 2
            assert reason in " ".join(one.said.split())
            assert not one.data.exists()


def test_demo_stops_on_ctrl_c_and_finds_its_data_again(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Somebody else's console: the demo moves aside and says so.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # where somebody listens already, that will do
            taken.bind((HOST, 8080))
            taken.listen()
        with runner(tmp_path, "demo", "--communities", "1") as one:
            one.wait_for("to stop")
            assert "port 8080 is taken: console uses" in one.said
            run = one.run_json
            path = one.data / "run.json"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            accounts = json.loads((one.data / "accounts.json").read_text())
            assert {account["role"] for account in accounts} == {"admin", "property", "police"}
            assert all(account["password"] in one.said for account in accounts)
            assert stat.S_IMODE((one.data / "accounts.json").stat().st_mode) == 0o600
            before = _readings(run["database"]["dsn"])
            assert before > DEVICES_PER_COMMUNITY * 24 * 6 * 0.9

            children = descendants(one.process.pid)
            assert len(children) >= 5  # database, broker, ingest, api, simulators
            one.process.send_signal(signal.SIGINT)
            assert one.finish(STOP_MAX_S) == 0
            assert none_left(children)
            assert not path.exists()

    with runner(tmp_path, "demo", "--communities", "1") as again:
        again.wait_for("to stop", times=2)
        after = _readings(again.run_json["database"]["dsn"])
        # What is new is what happened since, not another day.
        assert before <= after < 1.5 * before
        children = descendants(again.process.pid)
        # As a power cut would, but for the machine: nobody is left to tidy up.
        again.process.kill()
        again.process.wait()
        until(lambda: none_left(children), "every process ended with its runner")

    with runner(tmp_path, "demo", "--communities", "2") as other:
        assert other.finish(60) == 1
        assert "holds a demo of 1 communities with seed 1" in other.said


def test_demo_interrupted_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with runner(tmp_path, "demo", "--communities", "1") as one:
        one.wait_for("ok database and broker")
        children = descendants(one.process.pid)
        assert children
        one.process.send_signal(signal.SIGINT)
        assert one.finish(STOP_MAX_S) == 130
        assert none_left(children)


def test_up_serves_foreign_programs_until_down(tmp_path: Path) -> None:
    with runner(tmp_path, "up") as one:
        assert one.finish(START_MAX_S) == 0, one.said
    run = one.run_json
    try:
        assert stat.S_IMODE((one.data / "run.json").stat().st_mode) == 0o600
        headers = {"Authorization": f"Bearer {run['admin_token']}"}
        answer = httpx2.get(f"{run['api']['url']}/api/v1/areas", headers=headers)
        assert [area["area"] for area in answer.json()["items"]] == ["city"]
        assert httpx2.get(f"{run['api']['url']}/api/v1/areas").status_code == 401
        with psycopg.connect(run["database"]["dsn"]) as conn:
            assert conn.execute("SELECT count(*) FROM person").fetchone() == (1,)
        socket.create_connection((run["broker"]["host"], run["broker"]["port"]), 5).close()
        assert Path(run["broker"]["ca"]).read_text().startswith("-----BEGIN CERTIFICATE-----")

        with runner(tmp_path, "up") as twice:
            assert twice.finish(START_MAX_S) == 0
            assert "runs already" in twice.said
        with runner(tmp_path, "demo") as busy:
            assert busy.finish(60) == 1
            assert "another runner works in" in busy.said
    finally:
        children = {run["runner"]["pid"]: run["runner"]["started"]}
        children |= descendants(run["runner"]["pid"])
        with runner(tmp_path, "down") as end:
            assert end.finish(STOP_MAX_S) == 0, end.said
    assert len(children) >= 5
    assert none_left(children)
    with runner(tmp_path, "down") as again:
        assert again.finish(STOP_MAX_S) == 0
        assert "nothing runs in" in again.said


def _readings(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            """
            SELECT (SELECT count(*) FROM reading_lamp) + (SELECT count(*) FROM reading_bin)
                 + (SELECT count(*) FROM reading_gate) + (SELECT count(*) FROM reading_alarm)
            """
        ).fetchone()
    assert row is not None
    return row[0]
