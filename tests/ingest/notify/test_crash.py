# SPDX-License-Identifier: Apache-2.0
"""The real process, killed where it hurts: told once, or twice under the same key, never not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest import failpoints
from ingest.store import messages
from tests.ingest.notify.town import Receiver, Town
from tests.services import until

pytestmark = pytest.mark.timeout(300)

DEADLINE_S = 60.0


@contextmanager
def telling(dsn: str, folder: Path, failpoint: str = "") -> Generator[subprocess.Popen[bytes]]:
    """A real process that tells, until the end of the block."""
    config = folder / "linli.toml"
    config.write_text(
        f"""
        [database]
        dsn = "{dsn}"
        [broker]
        ca = "ca.crt"
        [ingest]
        certificates = "services"
        [notify]
        metrics_port = 0
        private_addresses = "a test on one machine"
        """
    )
    command = [sys.executable, "-m", "ingest", "notify", "--config", str(config)]
    with (folder / "notify.log").open("ab") as log:
        process = subprocess.Popen(
            command, stderr=log, env={**os.environ, "LINLI_FAILPOINT": failpoint}
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def chained(place: Town, receiver: Receiver) -> Town:
    """A webhook that is told of everything; the clock is the real one."""
    hook, _ = place.webhook(receiver.url)
    place.chain("c01", steps=[{"recipients": [{"webhook": str(hook)}]}])
    place.watch.now = datetime.now(UTC)
    return place


@pytest.mark.parametrize(
    ("failpoint", "heard"),
    [
        pytest.param(failpoints.NOTIFY_PLANNED, 0, id="between-commit-and-send"),
        pytest.param(failpoints.NOTIFY_SENDING, 0, id="about-to-send"),
        pytest.param(failpoints.NOTIFY_SENT, 1, id="between-send-and-record"),
    ],
)
def test_killed_it_is_told_once_or_twice_with_the_same_key_and_never_silent(
    chained: Town, receiver: Receiver, town_dsn: str, tmp_path: Path, failpoint: str, heard: int
) -> None:
    alert = chained.raise_(chained.device())
    with telling(town_dsn, tmp_path, failpoint) as process:
        assert process.wait(DEADLINE_S) == -signal.SIGKILL, (tmp_path / "notify.log").read_text()
    assert len(receiver.requests) == heard
    chained.watch.now = datetime.now(UTC)
    messages.recover(chained.conn, chained.watch.now)
    chained.tell()
    assert len(receiver.requests) == heard + 1
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len({request.body for request in receiver.requests}) == 1
    assert receiver.requests[-1].event["data"]["alerts"][0]["id"] == str(alert)
    assert [state for _, state, _, _ in chained.log()] == ["sent"]


def test_one_tells_and_the_other_takes_over(
    chained: Town, receiver: Receiver, town_dsn: str, tmp_path: Path
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with telling(town_dsn, folders[0]) as one, telling(town_dsn, folders[1]) as other:

        def says(folder: Path, words: str) -> bool:
            return words in (folder / "notify.log").read_text()

        until(
            lambda: sorted(says(folder, "standing by") for folder in folders) == [False, True],
            "one tells and one stands by",
            timeout_s=DEADLINE_S,
        )
        until(
            lambda: any(says(folder, "telling") for folder in folders),
            "one of them tells",
            timeout_s=DEADLINE_S,
        )
        first, second = (one, other) if says(folders[1], "standing by") else (other, one)
        device = chained.device()
        chained.raise_(device)
        until(
            lambda: [state for _, state, _, _ in chained.log()] == ["sent"],
            "it was sent",
            timeout_s=DEADLINE_S,
        )
        first.kill()
        chained.watch.now = datetime.now(UTC)
        chained.clear(device)
        until(
            lambda: len(receiver.requests) == 2,
            "the clear is heard",
            timeout_s=DEADLINE_S,
        )
        types = [request.event["type"].split(".")[2] for request in receiver.requests]
        assert types == ["raised", "cleared"]
        second.terminate()
        assert second.wait(DEADLINE_S) == 0
