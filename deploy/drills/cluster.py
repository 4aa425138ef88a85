# SPDX-License-Identifier: Apache-2.0
"""``./dev drill cluster``: a RabbitMQ cluster in the place of Mosquitto loses one node of three.

Each time it is the node to which ingest is connected and which leads its queues, the worst of the
three: first it is killed, then frozen, then cut off from members and clients alike.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
import psycopg

from deploy import cluster
from deploy.cluster import Cluster, Node
from deploy.drills.cost import cpu_per_message_us
from deploy.drills.flow import Flow
from deploy.drills.intruder import attempts
from deploy.drills.report import Figure, Report, Step
from deploy.faults.city import City
from deploy.faults.ground import WITNESS_ACL, Access, Ground, in_memory, until
from deploy.faults.ground import broker as mosquitto
from deploy.faults.run import FLOW_RULES
from deploy.faults.witness import Witness
from deploy.installation import Say, module
from deploy.rabbitmq.definitions import ACL, definitions
from deploy.services import HOST, Process, Userland
from deploy.verify import Terms, Verdict
from ingest.pki import issue_server

PAUSE_S: Final = 30.0
PARTITION_S: Final = 60.0
STEADY_S: Final = 15.0
DRAIN_MAX_S: Final = 90.0
# Of the boxes: how often each device tells, and how long a dead connection goes unnoticed, half.
POLL_S: Final = 0.5
KEEPALIVE_S: Final = 5
RECOVERY_MAX_S: Final = 120.0
SCENARIO: Final = Path(__file__).with_suffix(".toml")
_LANES: Final = ("ingest-telemetry-00", "ingest-event-00")
_CONNECTED: Final = re.compile(r"broker connected identity=(\S+) broker=([\d.]+):")
_LOST: Final = re.compile(r"broker out of reach gateway=(\S+)")


def drill(say: Say) -> Report:
    """Kill, freeze and cut off a node under traffic; compare what is stored with the ledger."""
    begun = time.monotonic()
    userland = Userland.find("rabbitmq")
    Userland.find()  # before the network is left behind
    cluster.isolate()
    with ExitStack() as stack:
        say("database, authority, three nodes ...")
        ground = Ground.prepare()
        stack.callback(ground.close)
        site = Site.prepare(ground, userland, stack, say)
        refusals = attempts(site.broker, *site.city.gateways[:2])
        say("what a message costs ...")
        cost_ratio = site.cost(ground)
        say("ingest, api, gateways ...")
        site.start(stack)
        steps = [
            site.step("killed", site.killed),
            site.step(f"frozen {PAUSE_S:g} s", site.frozen),
            site.step(f"cut off {PARTITION_S:g} s", site.cut_off),
        ]
        verdict = site.finish()
        wrong = [
            *(f"allowed {what}" for what, reason in refusals.items() if not reason),
            *site.wrong,
            *site.flow_alarms(),
            *map(str, site.witness.differences()),
            *map(str, verdict.differences),
        ]
        return Report(
            drill="cluster",
            versions=site.versions(),
            settings={
                "nodes": len(site.cluster.nodes),
                "gateways": len(site.city.gateways),
                "partition_handling": "pause_minority",
                **{f"refused {what}": reason or None for what, reason in refusals.items()},
            },
            steps=steps,
            totals=_totals(verdict, site) | {"cpu_ratio_to_mosquitto": round(cost_ratio, 1)},
            wrong=wrong,
            seconds=time.monotonic() - begun,
        )


@dataclass(slots=True)
class Site:
    """The installation under the drill."""

    cluster: Cluster
    city: City
    broker: Access
    witness: Witness
    flow: Flow
    say: Say
    boxes: list[Process] = field(default_factory=list[Process])
    wrong: list[str] = field(default_factory=list[str])

    @staticmethod
    def prepare(ground: Ground, userland: Userland, stack: ExitStack, say: Say) -> Site:
        """Register a city, and start a cluster that knows its gateways."""
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="linli-drill-", dir=in_memory()))
        )
        issue_server(ground.authority.folder, [HOST, "localhost", *cluster.HOSTS])
        # The witness meets the node that ingest tries last.
        broker = Access(ground.authority, cluster.PORT, cluster.HOSTS[-1])
        dsn = ground.database()
        city = City(
            dsn, broker, folder, hosts=cluster.HOSTS, communities=5, simulated=3, history_hours=1
        )
        stack.callback(city.close)
        city.found()
        members = Cluster.prepare(
            userland,
            folder,
            ca=ground.authority.folder / "ca.crt",
            certificate=ground.authority.folder / "server.crt",
            key=ground.authority.folder / "server.key",
            definitions=definitions(city.gateways, ACL.read_text() + WITNESS_ACL),
        )
        stack.callback(members.close)
        members.start()
        return Site(members, city, broker, Witness(broker, dsn), Flow(dsn), say)

    def start(self, stack: ExitStack) -> None:
        """Start our own processes, and wait until the city lives and nothing is behind."""
        self.witness.start()
        self.city.start_ingest()
        self.city.start("api", module("api", "serve", "--config", str(self.city.config)))
        self.city.start_simulators(str(SCENARIO))
        self.city.await_phase("live")
        # The simulated city changes as slowly as a real one: boxes are the steady traffic. Bins
        # alone, whose values are such that no alert is due.
        simulated = 2 * self.city.simulated
        for gateway in self.city.gateways[simulated:]:
            box = self.city.start_box(
                gateway, gateway, kinds=("bin",), poll_interval_s=POLL_S, keepalive_s=KEEPALIVE_S
            )
            self.boxes.append(box)
        stack.enter_context(self.flow)
        self._settled()

    def finish(self) -> Verdict:
        """Let every agent deliver what it holds, and compare everything with the ledger."""
        for box in self.boxes:
            box.ask_to_stop()
        for box in self.boxes:
            status = box.popen.wait(DRAIN_MAX_S)
            if status != 0:
                self.wrong.append(f"{box.name} did not drain, status {status}")
        self.city.stop_simulators()
        self.witness.stop()
        until(
            lambda: self.city.count("SELECT count(*) FROM lamp_night WHERE dirty") == 0,
            "late readings are settled",
            timeout_s=RECOVERY_MAX_S,
        )
        return self.city.compare(Terms(beside=FLOW_RULES | {"gateway.silent"}))

    def cost(self, ground: Ground) -> float:
        """How many times Mosquitto's CPU the three nodes take for the same messages."""
        gateway = self.city.gateways[0]
        alone = mosquitto(ground.userland, self.city.folder / "mosquitto", ground.authority)
        try:
            one = cpu_per_message_us(alone, gateway, lambda: [alone.server.process.pid])
        finally:
            alone.server.stop()
        three = cpu_per_message_us(
            self.broker,
            gateway,
            lambda: [pid for node in self.cluster.nodes for pid in node.pids()],
        )
        return three / one

    # -- the faults --------------------------------------------------------------------------

    def step(self, name: str, act: Callable[[Node], None]) -> Step:
        """Do something to the worst node, wait until all is well, and say what it cost."""
        time.sleep(STEADY_S)
        usual = self.flow.pause_s(time.monotonic() - STEADY_S)
        node = self._worst()
        lost_before = self._lost()
        silent_before = self._silent()
        others = [other for other in self.cluster.nodes if other is not node]
        given_up_before = [other.given_up(node) for other in others]
        stored_before = self.city.stored()
        self.say(f"{name}: {node.name}")
        begun = time.monotonic()
        act(node)
        self._settled()
        pause = self.flow.pause_s(begun)
        seconds = time.monotonic() - begun
        lost = self._lost() - lost_before
        silent = self._silent() - silent_before
        self.wrong += [
            f"{name}: {gateway} was called silent and never lost its connection"
            for gateway, _ in silent
            if gateway not in lost
        ]
        given_up_by = sum(
            other.given_up(node) > before
            for other, before in zip(others, given_up_before, strict=True)
        )
        if not given_up_by:
            self.wrong.append(f"{name}: no other member noticed, so nothing is proved")
        ready = httpx2.get(f"{self.city.url}/readyz", timeout=5.0)
        if not ready.is_success:
            self.wrong.append(f"{name}: the api is not ready: {ready.text}")
        figures: dict[str, Figure] = {
            "pause_s": round(pause, 1),
            "usual_pause_s": round(usual, 1),
            "until_whole_s": round(seconds, 1),
            "stored_meanwhile": self.city.stored() - stored_before,
            "given_up_by": given_up_by,
            "gateways_moved": len(lost),
            "gateways_silent": len(silent),
        }
        self.say(", ".join(f"{key} {value}" for key, value in figures.items()))
        return Step(name, figures)

    def killed(self, node: Node) -> None:
        """SIGKILL to all its processes; started again once the others have taken over."""
        node.kill()
        self._settled(everybody=False)
        node.start()
        node.await_ready()

    def frozen(self, node: Node) -> None:
        """SIGSTOP, and SIGCONT: connections stay open and nobody answers."""
        with node.paused():
            self._hold(PAUSE_S)

    def cut_off(self, node: Node) -> None:
        """Its link to members and clients is cut without a word, and mended."""
        with node.partitioned():
            self._hold(PARTITION_S)

    # -- looking -----------------------------------------------------------------------------

    def _hold(self, seconds: float) -> None:
        time.sleep(seconds)
        self.city.check()

    def _worst(self) -> Node:
        """The node that ingest's telemetry lane is connected to, made to lead both queues."""
        where = dict(_CONNECTED.findall(self.city.log("ingest")))
        node = self.cluster.node(where[_LANES[0]])
        for lane in _LANES:
            self.cluster.lead(f"mqtt-subscription-{lane}qos1", node)
        return node

    def _settled(self, *, everybody: bool = True) -> None:
        """Wait until what is accepted by now is stored, and every member sees every other."""
        due = self.city.recorded()
        until(
            lambda: self.city.covers(due) and self.city.ingest_is_ready(),
            "everything accepted by now is stored",
            timeout_s=RECOVERY_MAX_S,
            every_s=0.1,
        )
        if everybody:
            until(self.cluster.whole, "the cluster is whole", timeout_s=RECOVERY_MAX_S, every_s=1)
        self.city.check()

    def _lost(self) -> Counter[str]:
        """How often each gateway has said that its connection is gone."""
        logs = ("simulators", *(box.name for box in self.boxes))
        return Counter(gateway for log in logs for gateway in _LOST.findall(self.city.log(log)))

    def _silent(self) -> set[tuple[str, str]]:
        """Alerts that a gateway is silent: which, and when."""
        with psycopg.connect(self.city.dsn) as conn:
            return {
                (gateway, str(at))
                for gateway, at in conn.execute(
                    "SELECT gateway, raised_at FROM alert_occurrence WHERE rule = 'gateway.silent'"
                )
            }

    def flow_alarms(self) -> list[str]:
        """Alerts about holes in the flow of messages: nothing was lost, so none is true."""
        return self.city.texts(
            "SELECT 'false alarm: ' || rule || ' of ' || gateway FROM alert_occurrence"
            " WHERE rule LIKE 'stream.%'"
        )

    def versions(self) -> dict[str, str]:
        """Of the engines."""
        node = self.cluster.nodes[0]
        return {
            "rabbitmq": node.control("version").strip(),
            "erlang": node.control("eval", "erlang:system_info(otp_release).").strip().strip('"'),
            "postgresql": self.city.texts("SHOW server_version")[0],
        }


def _totals(verdict: Verdict, site: Site) -> dict[str, Figure]:
    parts = (verdict.readings, verdict.events)
    raised = verdict.alerts
    assert raised is not None
    return {
        "accepted": sum(part.accepted for part in parts),
        "stored": sum(part.stored for part in parts),
        "lost": sum(part.lost for part in parts),
        "doubled": sum(part.duplicated for part in parts),
        "alerts_due": raised.expected,
        "alerts_missing": raised.missing,
        "alerts_unexpected": raised.unexpected,
        "acknowledgements_checked": site.witness.checked,
    }
