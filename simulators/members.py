# SPDX-License-Identifier: Apache-2.0
"""What a fleet is made of: gateways with their agents, and the broker where they publish."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.agent import Agent
from edge_agent.config import (
    AgentConfig,
    BrokerConfig,
    PseudonymConfig,
    PublishingConfig,
    SamplingConfig,
)
from simulators.errors import ScenarioError
from simulators.expect import SILENT_AFTER
from simulators.kinds import AnyDriver
from simulators.link import HOST, Link
from simulators.registry import City, Gateway

POLL_INTERVAL_S: Final = 1.0
HEARTBEAT_S: Final = 60.0
RECONNECT_MAX_S: Final = 2.0
KEEPALIVE_S: Final = 15
# Two of these, and a node that died without a word is left before its gateways are taken for
# silent.
CLUSTER_KEEPALIVE_S: Final = 5
BACKLOG_AFTER_S: Final = 1e9


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and where the gateways' certificates and keys lie.

    ``hosts`` are further nodes of it, if it is a cluster.
    """

    host: str
    port: int
    ca: Path
    certificates: Path
    hosts: tuple[str, ...] = ()

    def identity(self, gateway: str) -> tuple[Path, Path]:
        """Return a gateway's certificate and key.

        ``<gateway>.crt`` and ``.key``, or ``client.crt`` and ``.key`` in the folder that
        ``linli-ingest gateway add`` wrote for the gateway.
        """
        folder = self.certificates / gateway
        if folder.is_dir():
            return folder / "client.crt", folder / "client.key"
        return self.certificates / f"{gateway}.crt", self.certificates / f"{gateway}.key"

    def check(self, gateways: Iterable[str]) -> None:
        """Look whether everything is there.

        Raises:
            ScenarioError: Files are missing.
        """
        files = [self.ca, *(file for gateway in gateways for file in self.identity(gateway))]
        missing = [f"{file}: no such file" for file in files if not file.is_file()]
        if missing:
            raise ScenarioError(missing)


@dataclass(slots=True)
class Member:
    """One gateway: its agent, its virtual devices, its line, and up to when it has replayed."""

    gateway: Gateway
    agent: Agent
    drivers: Sequence[AnyDriver]
    link: Link | None
    told_us: int | None = None
    cut_us: int | None = None


def configuration(
    gateway: Gateway, city: City, broker: Broker, link: Link | None, data: Path
) -> AgentConfig:
    """Return what one gateway's agent is told.

    Args:
        gateway: Whose agent it is.
        city: How often its devices and gateways are heard.
        broker: Where it publishes.
        link: Through what it reaches the broker; None: directly.
        data: Each gateway keeps its outbox in ``gateways/<gateway>`` of this folder.
    """
    folder = data / "gateways"
    certificate, key = broker.identity(gateway.gateway)
    return AgentConfig(
        gateway=gateway.gateway,
        community=gateway.community,
        data=folder / gateway.gateway,
        broker=BrokerConfig(
            host=broker.host if link is None else HOST,
            hosts=broker.hosts if link is None else (),
            port=broker.port if link is None else link.port,
            ca=broker.ca,
            certificate=certificate,
            key=key,
            keepalive_s=CLUSTER_KEEPALIVE_S if broker.hosts else KEEPALIVE_S,
            reconnect_delay_max_s=RECONNECT_MAX_S,
        ),
        sampling=SamplingConfig(
            poll_interval_s=POLL_INTERVAL_S,
            heartbeat_s=min(HEARTBEAT_S, city.reporting_period_s / SILENT_AFTER),
            status_interval_s=city.status_interval_s,
        ),
        # The past is replayed, and told in order.
        publishing=PublishingConfig(backlog_after_s=BACKLOG_AFTER_S),
        pseudonym=PseudonymConfig(key_file=folder / f"{gateway.community}.key"),
    )
