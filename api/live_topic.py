# SPDX-License-Identifier: Apache-2.0
"""The live topic, heard: alerts and gateways of all communities, devices of those watched.

A city's changed devices would be hundreds of messages a second, of which people look at a few.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Collection
from itertools import cycle
from typing import Final

import aiomqtt

from api.config import BrokerAddress
from edge_agent import topics

log = logging.getLogger(__name__)

IDENTITY: Final = "api-live-00"
_RECONNECT_MAX_S: Final = 30.0
# Of one SUBSCRIBE or UNSUBSCRIBE: a packet stays far below what a broker takes.
_TOPICS_AT_ONCE: Final = 500


class LiveTopic:
    """One subscription a process, renewed whenever the broker was lost."""

    def __init__(
        self,
        broker: BrokerAddress,
        tls: ssl.SSLContext,
        take: Callable[[str, bytes], None],
        connected: Callable[[bool], None],
        grown: Callable[[], None],
    ) -> None:
        """Build it; nothing happens before `run`.

        Args:
            broker: Where to connect.
            tls: With the certificate of `IDENTITY`.
            take: Takes a message: its topic and payload.
            connected: Told True when alerts and gateways are heard from now on, False when nothing
                is heard any more.
            grown: Called when devices are heard from now on that were not before: what they said
                until then stands in the tables.
        """
        self._broker = broker
        self._tls = tls
        self._take = take
        self._connected = connected
        self._grown = grown
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
        hosts = cycle((self._broker.host, *self._broker.hosts))
        while True:
            try:
                async with aiomqtt.Client(
                    next(hosts),
                    self._broker.port,
                    identifier=IDENTITY,
                    protocol=aiomqtt.ProtocolVersion.V5,
                    tls_context=self._tls,
                    keepalive=30,
                    timeout=10,
                ) as client:
                    await client.subscribe(f"{topics.PREFIX}/live/+", qos=0)
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
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # Leaving the client failed, and hid that this task is to end.
                    raise asyncio.CancelledError from exc
                if attempt == 0:
                    log.warning("broker lost, retrying until it is back: %s", exc)
            self._connected(False)
            attempt += 1
            ceiling_s = min(_RECONNECT_MAX_S, 0.5 * 2 ** min(attempt, 10))
            await asyncio.sleep(ceiling_s * random.uniform(0.5, 1))  # noqa: S311 - jitter

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
            subscribed = wanted
            if new:
                self._grown()
            await self._changed.wait()
            self._changed.clear()
