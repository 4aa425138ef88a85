# SPDX-License-Identifier: Apache-2.0
"""Ingest in several processes: killed, made more and fewer, with everything stored once."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import httpx2
import paho.mqtt.client as mqtt
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from deploy.faults.city import City
from deploy.faults.ground import Access
from deploy.faults.run import FLOW_RULES
from deploy.faults.wire import Parcel, Wire, lamps_telling
from deploy.installation import environment, ingest_programs, module
from deploy.services import HOST, Process, free_port
from deploy.verify import Terms
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import Status, Telemetry, encode
from edge_agent.topics import partition
from ingest.partitions import share
from ingest.priority import NICER
from simulators.truth import Ledger
from tests.bad_input.installation import Gateway
from tests.ingest.community import found
from tests.services import Broker, until

pytestmark = pytest.mark.timeout(300)

READY_S = 60.0


class Ingest:
    """The ingest processes of a city, started and ended by the test."""

    def __init__(self, city: City) -> None:
        self.city = city
        self.ports: dict[str, int] = {}
        self.processes: dict[str, Process] = {}

    def start(self, members: int) -> None:
        """Start as many as ``./dev up --ingest-processes`` would, and wait until all are ready."""
        for name, port, options in ingest_programs(members, free_port()):
            self.start_one(name, port, options)
        for name in self.processes:
            self.await_ready(name)

    def start_one(self, name: str, port: int, options: Sequence[str]) -> None:
        for lane in ("telemetry", "event"):
            for number in range(3):
                self.city.broker.identity(f"ingest-{lane}-{number:02d}")
        options = options or ("--metrics-port", str(port))
        command = module("ingest", "run", "--config", str(self.city.config), *options)
        self.ports[name] = port
        self.processes[name] = self.city.start(name, command)

    def await_ready(self, name: str) -> str:
        answer: list[str] = []

        def ready() -> bool:
            assert self.processes[name].running, self.processes[name].tail()
            try:
                got = httpx2.get(f"http://{HOST}:{self.ports[name]}/readyz", timeout=5)
            except httpx2.TransportError:
                return False
            answer[:] = [got.text]
            return got.is_success

        until(ready, f"{name} is ready", timeout_s=READY_S)
        return answer[0]

    def metric(self, name: str, series: str) -> float:
        text = httpx2.get(f"http://{HOST}:{self.ports[name]}/metrics", timeout=5).text
        lines = (line.rpartition(" ") for line in text.splitlines())
        return sum(float(value) for head, _, value in lines if head == series)

    def stop(self) -> None:
        for process in self.processes.values():
            process.ask_to_stop()
        for process in self.processes.values():
            process.stop()
        self.processes.clear()


@pytest.fixture
def city(database: str, own_broker: Broker, tmp_path: Path) -> Iterator[City]:
    made = City(database, own_broker, tmp_path, history_hours=24)
    yield made
    made.close()


def await_settled(city: City) -> None:
    dirty = "SELECT count(*) FROM lamp_night WHERE dirty"
    until(lambda: not city.count(dirty), "nights are settled", timeout_s=READY_S)


def test_members_one_of_them_killed_store_all_once_and_raise_what_one_process_raises(
    city: City,
) -> None:
    city.found()
    assert {partition(gateway) in share(0, 2) for gateway in city.gateways} == {True, False}
    ingest = Ingest(city)
    ingest.start(2)
    port = free_port()
    options = ["--lanes", "telemetry", "--member", "2", "--partitions", "1f"]
    ingest.start_one("intruder", port, [*options, "--metrics-port", str(port)])
    intruder = ingest.processes.pop("intruder")
    city.start_simulators()
    until(lambda: city.stored() > 500, "history is being stored", timeout_s=READY_S)
    victim = "ingest-telemetry-01"
    ingest.processes[victim].kill()
    port, options = next(
        (port, options) for name, port, options in ingest_programs(2, 1) if name == victim
    )
    ingest.start_one(victim, port, options)
    assert ingest.await_ready(victim) == "ready, partitions 20-3f of telemetry\n"
    base = os.getpriority(os.PRIO_PROCESS, 0)
    for name, process in ingest.processes.items():
        nice = base if name == "ingest" else min(19, base + NICER)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == nice, name
        session = Path(f"/proc/{process.pid}/autogroup")
        if name != "ingest" and session.exists():  # not every kernel weighs sessions
            assert session.read_text().split()[-1] == str(nice)
    city.stop_simulators()
    await_settled(city)
    until(lambda: not intruder.running, "who wants what another has gives up", timeout_s=READY_S)
    assert intruder.popen.returncode == 2
    assert "partitions 1f of the telemetry lane are written by" in city.log("intruder")
    ingest.stop()
    # As of one process: the ledger knows what had to be computed, and which alerts had to follow.
    verdict = city.compare()
    assert verdict.ok, verdict.differences
    assert verdict.readings.accepted > 500
    assert city.count("SELECT count(*) FROM dead_letter") == 0


class Sender:
    """A gateway's agent, as far as it matters here: sends until it knows everything as stored."""

    def __init__(self, city: City, gateway: str, ledger: Ledger, since: datetime) -> None:
        self.wire = Wire(city.broker, gateway, ledger)
        lamps = city.names("lamp", gateway)[:5]
        self._batches = iter(lamps_telling(lamps, 3_000, since, Random(gateway)))
        self._parcels: list[Parcel] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.2):
            new = [self.wire.make(next(self._batches)) for _ in range(5)]
            self._parcels = [one for one in self._parcels if one.seq > self.wire.upto] + new
            self.wire.send(self._parcels)

    def flow(self) -> None:
        """Wait until what is sent from now on is stored."""
        seq = self.wire.upto + 20
        until(lambda: self.wire.upto >= seq, f"{self.wire.gateway} is stored", timeout_s=READY_S)

    def finish(self) -> None:
        self._stopping.set()
        self._thread.join()
        self.wire.send([one for one in self._parcels if one.seq > self.wire.upto])
        self.wire.await_stored()
        self.wire.close()


def command(city: City, *arguments: str) -> str:
    """What a command of ``linli-ingest`` prints."""
    done = subprocess.run(
        module("ingest", *arguments, "--config", str(city.config)),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def has_session(broker: Access, name: str) -> bool:
    """Whether the broker still keeps something for somebody; it does so afterwards, too."""
    found: queue.Queue[bool] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
    # paho leaves the type of its parameter half open.
    client.tls_set_context(broker.identity(name).context())  # pyright: ignore[reportUnknownMemberType]
    client.on_connect = lambda _c, _u, flags, _code, _p: found.put(flags.session_present)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    client.connect(HOST, broker.port, clean_start=False, properties=properties)
    client.loop_start()
    present = found.get(timeout=READY_S)
    client.disconnect()
    client.loop_stop()
    return present


def test_one_process_becomes_two_and_one_again_while_gateways_send(city: City) -> None:
    city.found()
    ingest = Ingest(city)
    ingest.start(1)
    ledger = Ledger(city.truth)
    since = datetime.now(UTC) - timedelta(hours=2)
    senders = [Sender(city, gateway, ledger, since) for gateway in city.gateways]

    def flow() -> None:
        for sender in senders:
            sender.flow()

    flow()
    # More: the first member's session held all partitions, and queues while nobody runs.
    ingest.stop()
    ingest.start(2)
    flow()
    foreign = 'linli_ingest_messages_total{lane="telemetry",result="foreign"}'
    before = ingest.metric("ingest-telemetry-00", foreign)
    flow()
    assert ingest.metric("ingest-telemetry-00", foreign) == before, "it no longer hears of them"
    assert ingest.metric("ingest", 'linli_ingest_partitions{lane="event"}') == 64
    assert ingest.metric("ingest-telemetry-01", 'linli_ingest_partitions{lane="telemetry"}') == 32

    said = command(city, "partitions").splitlines()[1:]
    assert [line.split()[:2] for line in said] == [
        ["event", "00-3f"], ["telemetry", "00-1f"], ["telemetry", "20-3f"],
    ]  # fmt: skip

    # Fewer: somebody must tell the broker that the second one is no more.
    ingest.stop()
    assert has_session(city.broker, "ingest-telemetry-01")
    assert "retired ingest-telemetry-01" in command(city, "retire", "1")
    assert not has_session(city.broker, "ingest-telemetry-01")
    ingest.start(1)
    flow()
    for sender in senders:
        sender.finish()
    ledger.close()
    await_settled(city)
    verdict = city.compare(Terms(physics=False, beside=FLOW_RULES))
    assert not verdict.differences
    assert verdict.readings.ok
    assert verdict.recomputed.ok
    assert verdict.readings.stored > 1_000
    assert city.count("SELECT count(*) FROM dead_letter") == 0
    ingest.stop()
    assert "retired ingest-telemetry-00" in command(city, "retire", "0")
    assert city.count("SELECT count(*) FROM ingest_lane") == 0, "the first one's are forgotten, too"


def test_who_is_silent_for_the_event_process_has_no_silent_devices(
    database: str, own_broker: Broker, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    # Both behind one member, which looks at all its devices in one go.
    lamps = {"gw-c01-b": "lamp-of-b", "gw-c01-c": "lamp-of-c"}
    found(
        database,
        in_service_from=now - timedelta(hours=1),
        reporting_period_s=1,
        devices=[(lamp, "lamp", gateway) for gateway, lamp in lamps.items()],
    )
    city = City(database, own_broker, tmp_path, rules={"device.silent": {"on_delay_s": 0}})
    city.write_config()
    config = city.config.read_text()
    city.config.write_text(config.replace("[ingest]", "[ingest]\nstatus_interval_s = 0.5", 1))
    ingest = Ingest(city)
    gone, stays = (Gateway(own_broker, gateway) for gateway in lamps)
    try:
        for lane in ("telemetry", "event"):
            port = free_port()
            ingest.start_one(lane, port, ["--lanes", lane, "--metrics-port", str(port)])
        for lane in ingest.processes:
            ingest.await_ready(lane)
        online = encode(Status(state="online"))
        for gateway in (gone, stays):
            now = datetime.now(UTC)
            reading = LampReading(device=lamps[gateway.name], at=now, lit=True)
            message = Telemetry(stream="s", seq=1, sent_at=now, readings=(reading,))
            gateway.publish("telemetry", encode(message))
            gateway.publish("status", online)

        def active() -> set[tuple[str, str | None]]:
            stays.publish("status", online)
            with psycopg.connect(database) as conn:
                rows = conn.execute("SELECT rule, device FROM alert WHERE active").fetchall()
            return {(rule, device) for rule, device in rows}

        both = {("gateway.silent", None), ("device.silent", "lamp-of-c")}
        until(lambda: active() >= both, "a silent gateway, a silent device", timeout_s=READY_S)
        assert active() == both
    finally:
        gone.close()
        stays.close()
        city.close()
