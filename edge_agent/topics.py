# SPDX-License-Identifier: Apache-2.0
"""MQTT topics: built, parsed, and with which QoS and retain flag each is used.

``linli/v1/{partition}/{gateway}/{up|down}/{channel}``; the partition is the unit of scale-out, the
gateway a topic level of its own so that one ACL pattern binds it to the client certificate.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args
from zlib import crc32

from edge_agent.kinds.base import GATEWAY_PATTERN, ID_PATTERN

PREFIX: Final = "linli/v1"
PARTITIONS: Final = 64

UpChannel = Literal["telemetry", "event", "status", "result", "aggregate"]
DownChannel = Literal["ack", "command", "config"]
UP_CHANNELS: Final[tuple[str, ...]] = get_args(UpChannel)
DOWN_CHANNELS: Final[tuple[str, ...]] = get_args(DownChannel)

QOS: Final = 1
# Changes are told again within a second, and the tables hold the truth.
LIVE_QOS: Final = 0
# Only what a late subscriber must know is retained: presence and desired configuration.
RETAINED: Final = frozenset({"status", "config"})

_GATEWAY = re.compile(GATEWAY_PATTERN)
_ID = re.compile(ID_PATTERN)


class TopicError(ValueError):
    """A topic that does not fit the contract; ``reason`` is a stable code."""

    def __init__(self, reason: str, topic: str) -> None:
        """Keep the code, and the topic for the log."""
        super().__init__(f"{reason}: {topic[:200]!r}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class UpTopic:
    """A parsed topic of what a gateway sends."""

    gateway: str
    channel: UpChannel


def partition(gateway: str) -> str:
    """Return the gateway's partition: CRC-32 of its id modulo 64, as two hex digits."""
    return f"{crc32(gateway.encode()) % PARTITIONS:02x}"


def _gateway(gateway: str) -> str:
    if not _GATEWAY.fullmatch(gateway):
        raise ValueError(f"not a gateway id: {gateway!r}")
    return gateway


def up(gateway: str, channel: UpChannel) -> str:
    """Return the topic on which ``gateway`` publishes ``channel``.

    Raises:
        ValueError: ``gateway`` is no gateway id.
    """
    return f"{PREFIX}/{partition(_gateway(gateway))}/{gateway}/up/{channel}"


def down(gateway: str, channel: DownChannel) -> str:
    """Return the topic on which ``gateway`` receives ``channel``.

    Raises:
        ValueError: ``gateway`` is no gateway id.
    """
    return f"{PREFIX}/{partition(_gateway(gateway))}/{gateway}/down/{channel}"


def live(community: str) -> str:
    """Return the topic on which changes of ``community`` are told after they are committed.

    Raises:
        ValueError: ``community`` is no area id.
    """
    if not _ID.fullmatch(community):
        raise ValueError(f"not a community id: {community!r}")
    return f"{PREFIX}/live/{community}"


def live_devices(community: str) -> str:
    """Return the topic on which changed devices of ``community`` are told.

    Apart from `live`, because there are so many of them: who watches a community hears its
    devices, who watches a city hears alerts and gateways of all its communities alone.

    Raises:
        ValueError: ``community`` is no area id.
    """
    return f"{live(community)}/devices"


def parse_up(topic: str) -> UpTopic:
    """Parse the topic of a message from a gateway.

    Raises:
        TopicError: With reason ``topic.malformed``, ``topic.version``, ``topic.partition`` (the
            gateway is well-formed but its partition is not this one) or ``topic.unknown_lane``.
    """
    levels = topic.split("/")
    if len(levels) != 6 or levels[0] != "linli" or levels[4] != "up":
        raise TopicError("topic.malformed", topic)
    if levels[1] != "v1":
        raise TopicError("topic.version", topic)
    gateway, channel = levels[3], levels[5]
    if not _GATEWAY.fullmatch(gateway):
        raise TopicError("topic.malformed", topic)
    if levels[2] != partition(gateway):
        raise TopicError("topic.partition", topic)
    for known in get_args(UpChannel):
        if channel == known:
            return UpTopic(gateway, known)
    raise TopicError("topic.unknown_lane", topic)
