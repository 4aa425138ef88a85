# SPDX-License-Identifier: Apache-2.0
"""The program ``linli-edge`` as an operator and a supervisor see it: a real process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.kinds.lamp import LampReading
from edge_agent.outbox import Outbox
from tests.edge_agent.rig import eventually, server
from tests.services import Broker

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("LINLI_")}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edge_agent", *map(str, arguments)]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=ENVIRONMENT | environment,
    )


class Installation:
    """A gateway's folder: configuration, certificate, and one lamp that is a file."""

    def __init__(self, folder: Path, broker: Broker, gateway: str) -> None:
        self.folder = folder
        self.lamp = folder / "lamp.json"
        self.config = folder / "agent.toml"
        identity = broker.identity(gateway)
        self.config.write_text(
            f"""\
gateway = "{gateway}"
community = "c01"
[broker]
host = "{broker.host}"
port = {broker.port}
ca = "{identity.ca}"
certificate = "{identity.certificate}"
key = "{identity.key}"
reconnect_delay_min_s = 0.05
reconnect_delay_max_s = 0.2
[sampling]
poll_interval_s = 0.05
[[devices]]
device = "lamp-1"
kind = "lamp"
driver = "edge_agent.drivers.json_file:make"
options = {{ kind = "lamp", path = "{self.lamp}" }}
"""
        )
        self.switch(on=False)

    def switch(self, *, on: bool) -> None:
        draft = self.lamp.with_suffix(".new")
        draft.write_text(json.dumps({"lit": on}))
        draft.rename(self.lamp)

    @contextlib.contextmanager
    def agent(self) -> Generator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            command("run", "--config", self.config), env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def installation(broker: Broker, tmp_path: Path) -> Installation:
    return Installation(tmp_path, broker, "gw-process")


async def test_killed_agent_loses_nothing_and_doubles_no_seq(
    broker: Broker, installation: Installation
) -> None:
    on = False
    async with server(broker, "gw-process") as ingest:

        def told() -> bool:
            """Whether the newest reading that arrived says what the lamp is now."""
            newest = max(ingest.telemetry, key=lambda one: one.seq, default=None)
            return newest is not None and newest.readings[0] == LampReading(
                device="lamp-1", at=newest.readings[0].at, lit=on
            )

        for _ in range(4):
            with installation.agent() as process:
                for _ in range(5):
                    on = not on
                    installation.switch(on=on)
                    await eventually(told, "switched")
                process.send_signal(signal.SIGKILL)
                process.wait()
        contents: dict[int, bytes] = {}
        repeated = 0
        for channel, payload in ingest.received:
            if channel == "telemetry":
                seq = json.loads(payload)["seq"]
                repeated += seq in contents
                assert contents.setdefault(seq, payload) == payload, "immutable"
        assert sorted(contents) == list(range(1, len(contents) + 1))
        assert len(contents) >= 20
        assert len({one.stream for one in ingest.telemetry}) == 1
        assert repeated >= 15, "what was not acknowledged was sent again after each kill"
        outbox = Outbox(installation.folder / "data" / "outbox.db", clock=lambda: datetime.now(UTC))
        held = outbox.pending("telemetry", after=0, limit=1_000)
        assert {one.seq: one.payload for one in held} == contents
        outbox.close()


async def test_terminated_agent_says_goodbye_and_exits_cleanly(
    broker: Broker, installation: Installation
) -> None:
    async with server(broker, "gw-process") as ingest:
        with installation.agent() as process:
            await eventually(lambda: ingest.telemetry, "telemetry arrived")
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: process.poll() is not None, "exited")
            assert process.returncode == 0
        await eventually(lambda: ingest.statuses[-1].state == "offline", "said goodbye")
        assert ingest.statuses[-1].at is not None, "not the will"


def test_check_passes_and_connects_to_nothing(installation: Installation) -> None:
    done = run("run", "--config", installation.config, "--check", LINLI_BROKER__PORT="1")
    assert (done.returncode, done.stdout) == (0, "")
    assert not (installation.folder / "data").exists()
    done = run("check-config", "--config", installation.config)
    assert done.returncode == 0
    assert "gateway gw-process, 1 devices, nothing wrong" in done.stdout


def test_print_config_shows_what_is_in_force(installation: Installation) -> None:
    done = run("print-config", "--config", installation.config, LINLI_BROKER__HOST="10.0.0.7")
    assert done.returncode == 0
    assert 'host = "10.0.0.7"' in done.stdout
    assert "heartbeat_s = 60.0" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("host =", "hst =", "broker.hst: unknown, did you mean host?", id="key"),
        pytest.param("json_file:make", "jsonfile:make", "cannot load", id="driver-missing"),
        pytest.param("json_file:make", "json_file:mak", "cannot load", id="factory-missing"),
        pytest.param("path =", "file =", "unknown option file", id="driver-option"),
        pytest.param('kind = "lamp"\nd', 'kind = "bin"\nd', "makes a lamp", id="other-kind"),
    ],
)
def test_mistake_ends_with_exit_2_and_a_place(
    installation: Installation, old: str, new: str, expected: str
) -> None:
    text = installation.config.read_text()
    assert old in text
    installation.config.write_text(text.replace(old, new))
    done = run("run", "--config", installation.config)
    assert done.returncode == 2
    assert expected in done.stderr
    assert str(installation.config) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_unfit_certificate_file_is_named(
    installation: Installation, name: str, damage: str
) -> None:
    bad = installation.folder / f"bad.{name}"
    if damage == "garbage":
        bad.write_text("garbage")
    done = run(
        "check-config",
        "--config",
        installation.config,
        **{f"LINLI_BROKER__{name.upper()}": str(bad)},
    )
    assert done.returncode == 2
    assert str(bad) in done.stderr
    assert "Traceback" not in done.stderr


def test_second_agent_is_refused_with_a_reason(installation: Installation) -> None:
    outbox = Outbox(installation.folder / "data" / "outbox.db", clock=lambda: datetime.now(UTC))
    done = run("run", "--config", installation.config)
    outbox.close()
    assert done.returncode == 2
    assert "locked" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["dance"], ["run"], ["run", "--config"]], ids=["unknown", "no-config", "no-value"]
)
def test_wrong_command_line_is_told_and_exits_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "linli-edge" in done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
