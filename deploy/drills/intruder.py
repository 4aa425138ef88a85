# SPDX-License-Identifier: Apache-2.0
"""A gateway that says it is another: what the broker answers."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deploy.faults.ground import Access, NotReached
from edge_agent import topics

_ANSWER_TIMEOUT_S: Final = 15.0


def attempts(broker: Access, gateway: str, victim: str) -> dict[str, str]:
    """Try with one gateway's certificate what only another may.

    Returns:
        For each attempt the reason with which it was refused; an empty text where it was not.
    """
    said = topics.up(victim, "telemetry")
    heard = topics.down(victim, "command")
    return {
        "to publish as another": _ask(
            broker, gateway, gateway, lambda client: client.publish(said, b"{}", qos=1)
        ),
        "to hear another's commands": _ask(
            broker, gateway, gateway, lambda client: client.subscribe(heard, qos=1)
        ),
        "to take another's session": _ask(broker, gateway, victim, lambda client: None),
    }


def _ask(broker: Access, certificate: str, client_id: str, act: Callable[[Client], object]) -> str:
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    # paho leaves the type of its parameter half open.
    client.tls_set_context(broker.identity(certificate).context())  # pyright: ignore[reportUnknownMemberType]

    def on_connect(
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del userdata, flags, properties
        if reason.is_failure:
            answers.put(str(reason))
        elif act(client) is None:
            answers.put("")

    def on_subscribe(
        client: Client,
        userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        del client, userdata, mid, properties
        answers.put(str(reasons[0]) if reasons[0].is_failure else "")

    def on_publish(
        client: Client,
        userdata: object,
        mid: int,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, mid, properties
        answers.put(str(reason) if reason.is_failure else "")

    def on_disconnect(
        client: Client,
        userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, flags, properties
        answers.put(f"disconnected: {reason}")

    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_publish = on_publish
    client.on_disconnect = on_disconnect
    client.connect(broker.host, broker.port, keepalive=30)
    client.loop_start()
    try:
        return answers.get(timeout=_ANSWER_TIMEOUT_S)
    except queue.Empty:
        raise NotReached("the broker does not answer an intruder") from None
    finally:
        client.disconnect()
        client.loop_stop()
