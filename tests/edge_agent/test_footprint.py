# SPDX-License-Identifier: Apache-2.0
"""What the agent costs a small box: 200 devices behind one real ``linli-edge``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from tests.edge_agent.rig import eventually, server
from tests.services import Broker

DEVICES = 200
# Of some 44 MiB, 17 are pages of shared libraries (Python, OpenSSL, pydantic, SQLite); what is the
# agent's own is bounded apart.
RSS_MAX_KIB = 46 * 1024
PRIVATE_MAX_KIB = 30 * 1024
# Of one core. Some ten times what it takes: the measurement must bear a busy machine.
CPU_SHARE_MAX = 0.10
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("LINLI_")}


def installation(folder: Path, broker: Broker, gateway: str) -> Path:
    """A gateway with 200 lamps, each a file; returns its configuration."""
    identity = broker.identity(gateway)
    text = f"""\
gateway = "{gateway}"
community = "c01"
[broker]
host = "{broker.host}"
port = {broker.port}
ca = "{identity.ca}"
certificate = "{identity.certificate}"
key = "{identity.key}"
"""
    for number in range(DEVICES):
        path = folder / f"lamp-{number:03d}.json"
        path.write_text(json.dumps({"lit": True, "power_w": 40.0 + number / 10, "level_pct": 100}))
        text += f"""\
[[devices]]
device = "lamp-{number:03d}"
kind = "lamp"
driver = "edge_agent.drivers.json_file:make"
options = {{ kind = "lamp", path = "{path}" }}
"""
    config = folder / "agent.toml"
    config.write_text(text)
    return config


@contextlib.contextmanager
def agent(config: Path) -> Generator[int]:
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(config)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def memory_kib(pid: int, kind: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{kind}:")[2].split()[0])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_agent_with_200_devices_stays_small(broker: Broker, tmp_path: Path) -> None:
    config = installation(tmp_path, broker, "gw-footprint")
    async with server(broker, "gw-footprint") as ingest:
        ingest.stores = True
        with agent(config) as pid:
            await eventually(lambda: ingest.telemetry, "telemetry arrived", timeout_s=20)
            before, started = cpu_s(pid), time.monotonic()
            # Some minutes' worth: each write is a change of every device.
            for round_ in range(5):
                seen = sum(len(one.readings) for one in ingest.telemetry)
                for number in range(DEVICES):
                    path = tmp_path / f"lamp-{number:03d}.json"
                    draft = path.with_suffix(".new")
                    draft.write_text(json.dumps({"lit": round_ % 2 == 0, "power_w": 3.0 * round_}))
                    draft.rename(path)
                await eventually(
                    lambda seen=seen: (
                        sum(len(one.readings) for one in ingest.telemetry) >= seen + DEVICES
                    ),
                    "every device told its change",
                )
            spent, took = cpu_s(pid) - before, time.monotonic() - started
            rss, private = memory_kib(pid, "VmRSS"), memory_kib(pid, "RssAnon")
    assert rss <= RSS_MAX_KIB
    assert private <= PRIVATE_MAX_KIB
    assert spent / took <= CPU_SHARE_MAX
