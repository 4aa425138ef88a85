# SPDX-License-Identifier: Apache-2.0
"""Three RabbitMQ nodes on one machine, each with a network and processes of its own.

Everything lives in a private network (`isolate`): a bridge, and behind it one network namespace a
node. Namespaces go with the last process in them, so nothing is left on the machine, however the
run ends. A node's processes have a number space of their own too: killing its first one ends all,
as a power cut would.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import subprocess
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.faults.ground import until
from deploy.faults.processes import frozen, with_children
from deploy.services import (
    HERE,
    INSIDE,
    Process,
    ServiceError,
    Userland,
    mortal,
)

PORT: Final = 8883
# Nobody else is in this network, so the addresses need not be free anywhere.
HOSTS: Final = ("10.0.0.11", "10.0.0.12", "10.0.0.13")
_GATE: Final = "10.0.0.1"
_BRIDGE: Final = "nodes"
_PREFIX: Final = 24
_USER: Final = "rabbitmq"
_BIN: Final = "/usr/lib/rabbitmq/bin"
_READY: Final = b"Server startup complete"
_START_TIMEOUT_S: Final = 180.0
_CONTROL_TIMEOUT_S: Final = 60.0
_CLONE_NEWNET: Final = 0x40000000
# Small, and without busy waiting: three nodes share the machine with everything they serve.
_ERLANG: Final = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
_MEMORY: Final = "256MiB"


def isolate() -> None:
    """Leave the machine's network for an empty one; to be called before threads are started.

    Raises:
        ServiceError: It takes root, and the program ``ip``.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise ServiceError(f"no network of our own: {reason}; a drill needs root")
    _ip("link set lo up")
    _ip(f"link add {_BRIDGE} type bridge")
    _ip(f"addr add {_GATE}/{_PREFIX} dev {_BRIDGE}")
    _ip(f"link set {_BRIDGE} up")


def _ip(arguments: str, *, inside: int | None = None) -> None:
    enter = [] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net", "--"]
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            [*enter, "ip", *arguments.split()], capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise ServiceError(f"{error.filename} is missing: apt-get install iproute2") from error
    if done.returncode != 0:
        raise ServiceError(f"ip {arguments}: {done.stderr.decode().strip()}")


@dataclass(slots=True)
class Node:
    """One member of a cluster."""

    userland: Userland
    folder: Path
    host: str
    log: Path
    files: Mapping[str, str]
    _keeper: Process | None = None
    _process: Process | None = None
    _said_before: int = 0

    @property
    def name(self) -> str:
        """As the cluster knows it."""
        return f"rabbit@{self.host}"

    @property
    def running(self) -> bool:
        """Whether its processes are there, be they frozen or cut off."""
        return self._process is not None and self._process.running

    def connect(self) -> None:
        """Put a network behind the bridge; it stays while the node is ended and started again."""
        self._keeper = Process(
            f"network of {self.host}",
            mortal(["unshare", "--net", "--", "sleep", "infinity"], death_signal="KILL"),
            log=self.log,
        )
        ours = Path("/proc/self/ns/net").readlink()
        theirs = Path(f"/proc/{self._keeper.pid}/ns/net")
        until(lambda: theirs.readlink() != ours and self._sleeps(), "network namespace")
        _ip(f"link add {self._wire} type veth peer name eth0 netns {self._keeper.pid}")
        _ip(f"link set {self._wire} master {_BRIDGE} up")
        for arguments in (f"addr add {self.host}/{_PREFIX} dev eth0", "link set eth0 up"):
            _ip(arguments, inside=self._keeper.pid)
        _ip("link set lo up", inside=self._keeper.pid)

    def start(self) -> None:
        """Start, and do not wait: members wait for each other."""
        self.userland.own(self.folder, _USER)
        for name, content in self.files.items():
            self.userland.give(self.folder / name, _USER, content)
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        self._process = Process(self.name, self._command("rabbitmq-server"), log=self.log)

    def await_ready(self) -> None:
        """Wait until it takes connections, by its own word.

        Raises:
            ServiceError: It ended instead.
            NotReached: It takes too long.
        """

        def ready() -> bool:
            assert self._process is not None
            if not self._process.running:
                raise ServiceError(f"{self.name} ended:\n{self._process.tail(30)}")
            return _READY in self.log.read_bytes()[self._said_before :]

        until(ready, f"{self.name} is ready, see {self.log}", timeout_s=_START_TIMEOUT_S)

    def kill(self) -> None:
        """End all its processes with SIGKILL."""
        if self._process is not None:
            self._process.kill()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Freeze all its processes for as long as the block lasts; connections stay open."""
        assert self._process is not None
        with frozen(with_children(self._process.pid)):
            yield

    @contextmanager
    def partitioned(self) -> Generator[None]:
        """Cut it off from members and clients alike, without a word to either."""
        _ip(f"link set {self._wire} nomaster")
        try:
            yield
        finally:
            _ip(f"link set {self._wire} master {_BRIDGE}")

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on this node and return what it says.

        Raises:
            ServiceError: It failed, or took too long.
        """
        command = self._command(
            "rabbitmqctl", "--silent", "--longnames", "-n", self.name, *arguments
        )
        try:
            done = subprocess.run(  # noqa: S603 - our own command
                command, capture_output=True, check=False, timeout=_CONTROL_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise ServiceError(f"rabbitmqctl {arguments[0]} at {self.name} does not end") from error
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ServiceError(f"rabbitmqctl {' '.join(arguments)} at {self.name}: {said}")
        return done.stdout.decode()

    def given_up(self, other: Node) -> int:
        """How often it has noticed that another member was gone."""
        return self.log.read_bytes().count(f"rabbit on node '{other.name}' down".encode())

    def pids(self) -> list[int]:
        """All its processes."""
        return [] if self._process is None else with_children(self._process.pid)

    def close(self) -> None:
        """End it and its network."""
        self.kill()
        if self._keeper is not None:
            self._keeper.kill()

    @property
    def _wire(self) -> str:
        return f"to-{self.host.rpartition('.')[2]}"

    def _sleeps(self) -> bool:
        assert self._keeper is not None
        return Path(f"/proc/{self._keeper.pid}/comm").read_text().strip() == "sleep"

    def _command(self, program: str, *arguments: str) -> list[str]:
        assert self._keeper is not None
        settings = {
            "HOME": INSIDE,
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_CONFIG_FILE": f"{INSIDE}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{INSIDE}/enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{INSIDE}/generated",
            "RABBITMQ_MNESIA_BASE": f"{INSIDE}/data",
            "RABBITMQ_LOG_BASE": f"{INSIDE}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": f"{INSIDE}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
        }
        run = [
            "/usr/bin/env",
            *(f"{name}={value}" for name, value in settings.items()),
            f"{_BIN}/{program}",
            *arguments,
        ]
        inside = self.userland.command(run, data=self.folder, user=_USER, death_signal="KILL")
        enter = ["nsenter", f"--net=/proc/{self._keeper.pid}/ns/net", "--"]
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
        return mortal([*enter, *apart, *inside], death_signal="KILL")


@dataclass(slots=True)
class Cluster:
    """The members, and what is true of all of them."""

    nodes: Sequence[Node]

    @staticmethod
    def prepare(
        userland: Userland,
        folder: Path,
        *,
        ca: Path,
        certificate: Path,
        key: Path,
        definitions: Mapping[str, Any],
    ) -> Cluster:
        """Give each member its network; nothing runs yet.

        Args:
            userland: With RabbitMQ in it.
            folder: For the members' data and logs.
            ca: Of everybody's certificates, PEM.
            certificate: Of all members: names every one of `HOSTS`.
            key: Of that certificate.
            definitions: Users, permissions, policies.
        """
        files = {
            "ca.crt": ca.read_text(),
            "server.crt": certificate.read_text(),
            "server.key": key.read_text(),
            "definitions.json": json.dumps(definitions),
            "enabled_plugins": (HERE / "rabbitmq/enabled_plugins").read_text(),
            "rabbitmq.conf": (HERE / "rabbitmq/rabbitmq.conf").read_text() + _own_lines(HOSTS),
            ".erlang.cookie": secrets.token_hex(16),
        }
        nodes = [
            Node(userland, folder / host, host, folder / f"{host}.log", files) for host in HOSTS
        ]
        for node in nodes:
            node.connect()
        return Cluster(nodes)

    def start(self) -> None:
        """Start all members at once, and wait for them."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.await_ready()

    def node(self, host: str) -> Node:
        """The member at an address."""
        return next(node for node in self.nodes if node.host == host)

    def whole(self) -> bool:
        """Whether every member sees every other one run."""
        try:
            said = self.nodes[0].control(
                "eval",
                "[length(erpc:call(N, rabbit_nodes, list_running, [], 5000))"
                " || N <- rabbit_nodes:list_members()].",
            )
        except ServiceError:
            return False
        count = len(self.nodes)
        return json.loads(said) == [count] * count

    def lead(self, queue: str, node: Node) -> None:
        """Have a quorum queue led by this member."""
        node.control(
            "eval",
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)), '
            f"rabbit_quorum_queue:transfer_leadership(Q, '{node.name}').",
        )

    def close(self) -> None:
        """End everything."""
        for node in self.nodes:
            node.close()


def _own_lines(hosts: Iterable[str]) -> str:
    members = "".join(
        f"cluster_formation.classic_config.nodes.{number} = rabbit@{host}\n"
        for number, host in enumerate(hosts, 1)
    )
    return f"""
ssl_options.cacertfile = {INSIDE}/ca.crt
ssl_options.certfile = {INSIDE}/server.crt
ssl_options.keyfile = {INSIDE}/server.key
load_definitions = {INSIDE}/definitions.json
cluster_formation.peer_discovery_backend = classic_config
{members}vm_memory_high_watermark.absolute = {_MEMORY}
vm_memory_calculation_strategy = allocated
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = info
"""
