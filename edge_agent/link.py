# SPDX-License-Identifier: Apache-2.0
"""One connection to the broker: MQTT 5 over TLS, with the gateway's own certificate.

Also says, to an operator, why there is none.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent import topics
from edge_agent.config import AgentConfig, BrokerConfig
from edge_agent.messages import Status, encode

CONNECT_TIMEOUT_S: Final = 10.0
FAREWELL_TIMEOUT_S: Final = 2.0
_RECEIVE_MAXIMUM: Final = 100
NO_MATCHING_SUBSCRIBERS: Final = 0x10


class Link(aiomqtt.Client):
    """One connection: aiomqtt's client, opened up where it hides or forgets something.

    It hides the PUBACK's reason; it waits for each PUBACK where we bound the flight by watermarks;
    it takes a connection closed before CONNACK for one that is merely slow; and it forgets the
    socket of a connection that failed.
    """

    def __init__(
        self,
        config: AgentConfig,
        host: str,
        status_topic: str,
        context: ssl.SSLContext,
        refused: Callable[[str], None],
    ) -> None:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0
        properties.ReceiveMaximum = _RECEIVE_MAXIMUM
        super().__init__(
            host,
            config.broker.port,
            identifier=config.gateway,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=config.broker.keepalive_s,
            timeout=CONNECT_TIMEOUT_S,
            properties=properties,
            tls_context=context,
            will=aiomqtt.Will(
                status_topic, encode(Status(state="offline")), qos=topics.QOS, retain=True
            ),
        )
        self._on_refused = refused
        self._client.connect_timeout = CONNECT_TIMEOUT_S

    async def enter(self) -> None:
        """Connect.

        Raises:
            aiomqtt.MqttError: The broker cannot be reached, or refuses.
        """
        entering = asyncio.ensure_future(self.__aenter__())
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            # The thread that connects cannot be cancelled; what it opens must be closed again.
            with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                    await entering
            raise

    async def leave(self) -> None:
        """Disconnect, whatever state the connection is in."""
        if self._connected.done():
            with contextlib.suppress(aiomqtt.MqttError):
                await self.__aexit__(None, None, None)
        sock = self._client.socket()
        if sock is not None and sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
            sock.close()
        if self._misc_task is not None:
            self._misc_task.cancel()

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hand a message to the connection; whether it arrived is for a watermark to say.

        Raises:
            aiomqtt.MqttError: The connection is lost.
        """
        info = self._client.publish(topic, payload, topics.QOS, retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(info.rc, "cannot publish")

    def _on_publish(
        self,
        client: paho.Client,
        userdata: Any,  # noqa: ANN401 (paho's)
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        super()._on_publish(client, userdata, mid, reason_code, properties)
        # No failure by the standard, and yet nobody got it (MQTT 5.0, 3.4.2.1).
        if reason_code.is_failure or reason_code.value == NO_MATCHING_SUBSCRIBERS:
            self._on_refused(str(reason_code))

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,  # noqa: ANN401 (paho's)
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("closed before CONNACK"))


def heed_cancellation() -> None:
    """Raise the cancellation of this task, where something swallowed it.

    Two things do, when it comes in the same moment: `asyncio.wait_for` (aiomqtt waits with it)
    before Python 3.12 returns its result, a `TaskGroup` before 3.13 raises its children's errors.

    Only in a task in which no `TaskGroup` failed yet: before 3.13 that counts as a cancellation.

    Raises:
        asyncio.CancelledError: This task was cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Socket(ssl.SSLSocket):
    """A TLS socket that closes when its handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(broker: BrokerConfig) -> ssl.SSLContext:
    """Return the TLS settings: the broker's name is verified, the gateway shows its certificate.

    Raises:
        OSError: A file is missing, or does not hold what it should; the text names the file.
    """
    for path in (broker.ca, broker.certificate, broker.key):
        _readable(path)
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(broker.ca))
    except ssl.SSLError as error:
        raise OSError(f"{broker.ca}: holds no CA certificate in PEM form") from error
    context.sslsocket_class = _Socket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(broker.certificate, broker.key)
    except ssl.SSLError as error:
        raise OSError(
            f"{broker.certificate}, {broker.key}: no certificate with its own key in PEM form"
            f" ({error.reason})"
        ) from error
    return context


def _readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise OSError(f"{path}: cannot read: {error.strerror}") from error


_HINTS: Final = (
    # Under TLS 1.3 a client learns only after the handshake that its certificate was refused.
    ("closed before CONNACK", "certificate refused? check broker.certificate: issuer, dates"),
    ("not yet valid", "is this box's clock right?"),
    ("Unspecified error", "the connection ended without a word: link or broker went away"),
    ("Session taken over", "another client shows this gateway's certificate: is it in two boxes?"),
    ("CERTIFICATE_VERIFY_FAILED", "the broker's certificate does not fit broker.ca or broker.host"),
    ("ALERT", "the broker refused broker.certificate: check issuer, dates, revocation"),
    ("Connection refused", "nothing listens at broker.host, broker.port: is the broker running?"),
    ("WRONG_VERSION_NUMBER", "no TLS at broker.port: is it the right port?"),
)


def explain(error: BaseException) -> str:
    """Return why a connection failed, with a hint to the operator where we know one."""
    # aiomqtt keeps the broker's own reason as the cause of a general sentence.
    cause = error.__cause__ or error
    text = str(cause) or type(cause).__name__
    for mark, hint in _HINTS:
        if mark in text:
            return f"{text}: {hint}"
    return text
