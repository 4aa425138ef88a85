# SPDX-License-Identifier: Apache-2.0
"""The live topic, heard: alerts and gateways of all communities, devices of those watched.

A city's changed devices would be hundreds of messages a second, of which people look at a few.
"""

import asyncio
import logging
import math
import random
import ssl
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import aiomqtt

from api.config import BrokerAddress
from edge_agent import topics

log = logging.getLogger(__name__)

_RECONNECT_MAX_S: Final = 30.0
# MQTT 5: the broker ends a connection because another one came under the same identity.
_SESSION_TAKEN_OVER: Final = 0x8E
# Least and most that whoever was pushed off stays away. Two that come back at once push each other
# off for ever, and neither hears much.
AWAY_S: Final = (4.0, 8.0)
# Pushed off again within this time it is the same dispute: it is told once.
DISPUTE_S: Final = 60.0
# Of one SUBSCRIBE or UNSUBSCRIBE: a packet stays far below what a broker takes.
_TOPICS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Access:
    """Where the broker is, and who we are there.

    ``tls`` has the certificate of ``identity``, which no other process bears at the same time.
    """

    broker: BrokerAddress
    identity: str
    tls: ssl.SSLContext


class LiveTopic:
    """One subscription a process, renewed whenever the broker was lost."""

    def __init__(
        self,
        access: Access,
        take: Callable[[str, bytes], None],
        connected: Callable[[bool], None],
        grown: Callable[[], None],
        taken_over: Callable[[], None],
    ) -> None:
        """Build it; nothing happens before `run`.

        Args:
            access: Where to connect, and as whom.
            take: Takes a message: its topic and payload.
            connected: Told True when alerts and gateways are heard from now on, False when nothing
                is heard any more.
            grown: Called when devices are heard from now on that were not before: what they said
                until then stands in the tables.
            taken_over: Called each time another process took our identity at the broker.
        """
        self._access = access
        self._take = take
        self._connected = connected
        self._grown = grown
        self._taken_over = taken_over
        self._taken_over_at_s = -math.inf
        self._wanted: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def watch(self, communities: Collection[str]) -> None:
        """Hear devices of these communities, and of no others, from soon on."""
        wanted = frozenset(communities)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Run for ever."""
        attempt = 0
        broker = self._access.broker
        hosts = cycle((broker.host, *broker.hosts))
        while True:
            try:
                client = aiomqtt.Client(
                    next(hosts),
                    broker.port,
                    identifier=self._access.identity,
                    protocol=aiomqtt.ProtocolVersion.V5,
                    tls_context=self._access.tls,
                    keepalive=30,
                    timeout=10,
                )
                async with AsyncExitStack() as connection:
                    await _enter(client)
                    connection.push_async_exit(client)
                    await client.subscribe(f"{topics.PREFIX}/live/+", qos=0)
                    _heed_cancellation()
                    if not self._disputed:
                        log.info("live topic subscribed")
                    attempt = 0
                    self._connected(True)
                    following = asyncio.create_task(self._follow(client), name="live-follow")
                    try:
                        async for message in client.messages:
                            self._take(str(message.topic), message.payload)
                    finally:
                        following.cancel()
                        await asyncio.gather(following, return_exceptions=True)
            except aiomqtt.MqttError as exc:
                _heed_cancellation()  # leaving the client failed, and hid that this task is to end
                if _is_takeover(exc):
                    self._connected(False)
                    self._tell_takeover()
                    await asyncio.sleep(random.uniform(*AWAY_S))  # noqa: S311 - jitter
                    continue
                if attempt == 0:
                    log.warning("broker lost, retrying until it is back: %s", exc)
            self._connected(False)
            attempt += 1
            ceiling_s = min(_RECONNECT_MAX_S, 0.5 * 2 ** min(attempt, 10))
            await asyncio.sleep(ceiling_s * random.uniform(0.5, 1))  # noqa: S311 - jitter

    @property
    def _disputed(self) -> bool:
        """Whether another process had our identity a moment ago."""
        return asyncio.get_running_loop().time() - self._taken_over_at_s < DISPUTE_S

    def _tell_takeover(self) -> None:
        if not self._disputed:
            log.error(
                "another api is %s at the broker: they push each other off, and live streams are"
                " late; give each its own [api] member (0 to 7) and that member's certificate",
                self._access.identity,
            )
        self._taken_over_at_s = asyncio.get_running_loop().time()
        self._taken_over()

    async def _follow(self, client: aiomqtt.Client) -> None:
        """Subscribe and unsubscribe as `watch` asks; a lost connection ends it with the client."""
        subscribed: frozenset[str] = frozenset()
        while True:
            wanted = self._wanted
            new, old = sorted(wanted - subscribed), sorted(subscribed - wanted)
            try:
                for first in range(0, len(new), _TOPICS_AT_ONCE):
                    await client.subscribe(
                        [
                            (topics.live_devices(community), 0)
                            for community in new[first : first + _TOPICS_AT_ONCE]
                        ]
                    )
                for first in range(0, len(old), _TOPICS_AT_ONCE):
                    await client.unsubscribe(
                        [
                            topics.live_devices(community)
                            for community in old[first : first + _TOPICS_AT_ONCE]
                        ]
                    )
            except aiomqtt.MqttError as exc:
                log.warning("live topic not followed, trying again: %s", exc)
                await asyncio.sleep(1)
                continue
            finally:
                _heed_cancellation()  # whoever ends this task waits for it
            subscribed = wanted
            if new:
                self._grown()
            await self._changed.wait()
            self._changed.clear()


async def _enter(client: aiomqtt.Client) -> None:
    """Connect; who is cancelled meanwhile leaves no connection behind, as the library would."""
    entering = asyncio.create_task(client.__aenter__())
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        with suppress(aiomqtt.MqttError):
            await entering
            await client.__aexit__(None, None, None)
        raise


def _heed_cancellation() -> None:
    """Raise this task's cancellation: where it came with an answer, waiting for that lost it.

    `asyncio.wait_for` does so before Python 3.12, and the library waits with it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _is_takeover(error: aiomqtt.MqttError) -> bool:
    """Whether the broker let go of us for the sake of another with our identity."""
    # Whoever waits for messages gets the broker's reason as the cause.
    reason = error.__cause__
    return isinstance(reason, aiomqtt.MqttCodeError) and reason.rc == _SESSION_TAKEN_OVER
