# SPDX-License-Identifier: Apache-2.0
"""What the agent costs a small box: 200 devices behind one real ``linli-edge``.

What a process takes differs from machine to machine, so its limits are wide. What it must not load,
build or keep is therefore asked for by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from edge_agent.kinds.base import Wire
from edge_agent.messages import Ack, Command, Config
from edge_agent.outbox import LIMIT_BYTES
from edge_agent.outbox_file import OutboxFile
from edge_agent.packing import pack
from tests.edge_agent.rig import T0, eventually, server
from tests.services import Broker

DEVICES = 200
# Of some 43 MiB, 17 are pages of shared libraries (Python, OpenSSL, pydantic, SQLite); what is the
# agent's own is bounded apart.
RSS_MAX_KIB = 45 * 1024
PRIVATE_MAX_KIB = 28 * 1024
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


# Beside its libraries the agent loads itself, asks the kernel for the clock, has threads of its
# own, and parses by type.
BESIDE = (
    "edge_agent",
    "_ctypes",
    "ctypes",
    "_queue",
    "queue",
    "concurrent.futures.thread",
    "pydantic.type_adapter",
)
# Of the contract: what a gateway sends and takes. The device classes come on top.
SPOKEN = {
    "Ack",
    "Command",
    "Config",
    "EventMessage",
    "GapEvent",
    "Rejection",
    "Result",
    "Status",
    "StreamStatus",
    "Telemetry",
}


def asked(script: str, *arguments: str) -> list[str]:
    """The words a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_agent_loads_little_beside_its_libraries() -> None:
    libraries = """\
import argparse, asyncio, hashlib, hmac, json, logging, sqlite3, ssl, sys, tomllib, aiomqtt
from pydantic import BaseModel
class One(BaseModel):
    one: int
print(*sys.modules)"""
    agent = "import sys, edge_agent.__main__, edge_agent.drivers.json_file\nprint(*sys.modules)"
    more = {*asked(agent)} - {*asked(libraries)}
    assert not {name for name in more if not name.startswith(BESIDE)}


def test_agent_builds_only_the_messages_a_gateway_speaks() -> None:
    script = """\
import edge_agent.__main__, edge_agent.drivers.json_file
from edge_agent import messages
from edge_agent.kinds.base import Wire
for one in vars(messages).values():
    if isinstance(one, type) and issubclass(one, Wire) and one.__module__ == messages.__name__:
        if one.__pydantic_complete__ and not one.__name__.startswith("_"):
            print(one.__name__)"""
    assert {*asked(script)} == SPOKEN


def test_nothing_is_kept_of_the_devices_but_their_drivers(broker: Broker, tmp_path: Path) -> None:
    config = installation(tmp_path, broker, "gw-kept")
    script = """\
import gc, sys
from collections import Counter
from pathlib import Path
from edge_agent import __main__ as command
settings, drivers = command._checked(Path(sys.argv[1]))
gc.collect()
kept = Counter(type(one).__name__ for one in gc.get_objects())
print(len(drivers), kept["DeviceConfig"], kept["PosixPath"] // len(drivers))"""
    assert asked(script, str(config)) == [str(DEVICES), "0", "1"]


@pytest.mark.parametrize("message", [Ack, Command, Config])
def test_what_a_gateway_takes_is_parsed_without_a_table_of_texts(message: type[Wire]) -> None:
    assert message.model_config.get("cache_strings") == "none"


def test_outbox_keeps_few_pages_in_memory(tmp_path: Path) -> None:
    file = OutboxFile(
        tmp_path / "outbox.db", clock=lambda: T0, limit_bytes=LIMIT_BYTES, load=lambda _: None
    )
    with contextlib.closing(file):
        assert file.ready().execute("PRAGMA cache_size").fetchone() == (-256,)  # KiB


def test_messages_are_packed_with_a_small_window() -> None:
    assert pack(b"{}")[0] >> 4 == 14 - 8  # RFC 1950: CINFO, of 16 KiB


def test_threads_share_one_heap() -> None:
    script = """\
import ctypes, threading
from edge_agent import __main__ as command
command._share_one_heap()
c = ctypes.CDLL(None)
c.fopen.restype = ctypes.c_void_p
together = threading.Barrier(4)
def work():
    together.wait()
    kept.append(bytearray(100_000))
    together.wait()
kept = []
for _ in range(3):
    threading.Thread(target=work).start()
together.wait(), together.wait()
out = ctypes.c_void_p(c.fopen(b"/dev/stdout", b"w"))
c.malloc_info(0, out), c.fclose(out)"""
    assert sum(word.startswith("nr=") for word in asked(script)) == 1


async def test_agent_with_200_devices_stays_small(broker: Broker, tmp_path: Path) -> None:
    config = installation(tmp_path, broker, "gw-footprint")
    async with server(broker, "gw-footprint") as ingest:
        ingest.stores = True
        with agent(config) as pid:
            await eventually(lambda: ingest.telemetry, "telemetry arrived")
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
