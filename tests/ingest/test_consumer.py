# SPDX-License-Identifier: Apache-2.0
"""Why there is no connection to the broker is told, once, until there is one again."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from paho.mqtt.client import MQTTMessage

from deploy.services import HOST
from ingest.consumer import Consumer, Subscription
from ingest.pki import create_authority, issue_client
from tests.bad_input.installation import Gateway
from tests.services import Broker, until


def consumer(
    broker: Broker, *, port: int, ca: Path, certificates: Path, hosts: Sequence[str] = (HOST,)
) -> Consumer:
    return Consumer(
        identity="ingest-event-00",
        host=hosts[0],
        hosts=hosts[1:],
        port=port,
        ca=ca,
        certificates=certificates,
        subscriptions=(),
        receive_maximum=10,
    )


def said(made: Consumer, caplog: pytest.LogCaptureFixture) -> str:
    """What it says of a broker it cannot reach, having tried at least twice."""
    with caplog.at_level(logging.WARNING, "ingest.consumer"):
        made.start()
        try:
            until(lambda: made.attempts >= 2, "it tries again")
        finally:
            made.stop()
    told = [one.getMessage() for one in caplog.records if one.name == "ingest.consumer"]
    assert len(told) == 1, told
    assert not made.connected
    assert made.hearing.listening is None
    return told[0]


def test_nobody_listening_is_told(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    broker.identity("ingest-event-00")
    with socket.socket() as taken:  # by us, who do not listen, so that nobody else does
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        made = consumer(broker, port=port, ca=broker.ca, certificates=Path(broker.services))
        text = said(made, caplog)
    assert f"broker=127.0.0.1:{port}" in text
    assert "Connection refused" in text


# paho drops the socket of a failed handshake without closing it; CPython closes it at once.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broker_of_another_authority_is_told(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker.identity("ingest-event-00")
    other = create_authority(tmp_path, name="other")
    made = consumer(
        broker, port=broker.port, ca=other.folder / "ca.crt", certificates=Path(broker.services)
    )
    assert "CERTIFICATE_VERIFY_FAILED" in said(made, caplog)


def test_own_certificate_that_is_refused_is_told(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = create_authority(tmp_path, name="other")
    issue_client(other, "ingest-event-00", out=tmp_path)
    made = consumer(broker, port=broker.port, ca=broker.ca, certificates=tmp_path)
    assert "is our certificate refused?" in said(made, caplog)


def test_next_node_is_tried(broker: Broker) -> None:
    broker.identity("ingest-event-00")
    nobody = "127.0.0.9"
    made = consumer(
        broker,
        port=broker.port,
        ca=broker.ca,
        certificates=Path(broker.services),
        hosts=(nobody, broker.host),
    )
    made.start()
    try:
        until(lambda: made.connected, "it is connected")
    finally:
        made.stop()
    assert made.attempts == 1


def test_a_flush_is_what_waits_and_as_much_as_makes_it_full(own_broker: Broker) -> None:
    broker = own_broker  # nobody's session, in which an earlier probe waits
    broker.identity("ingest-event-00")
    made = consumer(broker, port=broker.port, ca=broker.ca, certificates=Path(broker.services))
    made.start()

    def collect(*, messages: int, linger_s: float) -> int:
        taken = made.collect(
            idle_s=0.01, linger_s=linger_s, messages=messages, payload_bytes=1_000_000
        )
        assert all(made.is_probe(message) for message in taken)
        return len(taken)

    try:
        # It hears itself, once when it is connected.
        until(lambda: len(made) == 1, "it is connected")
        for _ in range(4):
            made.probe()
        until(lambda: len(made) == 5, "they came round")
        assert collect(messages=3, linger_s=600) == 3
        assert collect(messages=3, linger_s=0.01) == 2
        assert collect(messages=3, linger_s=600) == 0
        made.probe()
        until(lambda: len(made) == 1, "it came round")
        others = threading.Timer(0.1, lambda: [made.probe() for _ in range(2)])
        others.start()
        # The lingering ends with the third of them, not with the first or second.
        assert collect(messages=3, linger_s=600) == 3
    finally:
        made.stop()


def test_probes_that_do_not_come_round_stay_few(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nobody takes them they would fill the broker's queue, which is for gateways."""
    monkeypatch.setattr("ingest.consumer._PROBES_OUT_MAX", 5)
    own_broker.identity("ingest-event-00")
    made = consumer(
        own_broker, port=own_broker.port, ca=own_broker.ca, certificates=Path(own_broker.services)
    )

    def take() -> int:
        taken = made.collect(idle_s=0.01, linger_s=0, messages=100, payload_bytes=1_000_000)
        return sum(made.is_probe(message) for message in taken)

    made.start()
    try:
        # It hears itself, once when it is connected.
        until(lambda: len(made) == 1, "it is connected")
        for _ in range(9):
            made.probe()
        until(lambda: len(made) >= 5, "they came round")
        assert take() == 5
        made.probe()
        until(lambda: len(made) >= 1, "it came round")
        assert take() == 1
        # The broker drops what its queue does not hold: such probes are waited for no longer.
        probes = made._probes  # pyright: ignore[reportPrivateUsage]
        probes.update({f"{number}".encode(): datetime.now(UTC) for number in range(5)})
        made.probe()
        assert len(probes) == 5
        monkeypatch.setattr("ingest.consumer._PROBES_OUT_INTERVAL", timedelta())
        made.probe()
        until(lambda: len(made) >= 1, "it came round")
        assert take() == 1
        assert not probes
    finally:
        made.stop()


def test_a_status_waits_for_company_and_an_alarm_for_nothing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.consumer._PATIENCE_S", 600.0)
    broker.identity("ingest-event-00")
    made = Consumer(
        identity="ingest-event-00",
        host="127.0.0.1",
        port=broker.port,
        ca=broker.ca,
        certificates=Path(broker.services),
        subscriptions=(Subscription("event"), Subscription("status", patient=True)),
        receive_maximum=40,
    )

    def come(channel: str, times: int = 1) -> None:
        for _ in range(times):
            message = MQTTMessage(0, f"linli/v1/00/gw-1/up/{channel}".encode())
            made._on_message(made._client, None, message)  # pyright: ignore[reportPrivateUsage]

    def collect(messages: int = 50) -> int:
        return len(
            made.collect(idle_s=0.01, linger_s=0, messages=messages, payload_bytes=1_000_000)
        )

    come("status")
    later = threading.Timer(0.05, come, ("event",))
    later.start()
    assert collect() == 2
    # As many as a quarter of what the broker sends unacknowledged wait for nobody.
    come("status", 10)
    assert collect() == 10
    # What a full flush left behind has waited.
    come("status", 3)
    come("event")
    assert collect(messages=3) == 3
    assert collect() == 1
    come("status", 12)
    assert collect(messages=11) == 11
    assert collect() == 1


def test_a_probe_waits_behind_what_was_published_before_it(own_broker: Broker) -> None:
    """Only so does it prove how far we have heard: more waits than the broker sends at once."""
    own_broker.identity("ingest-event-00")

    def started() -> Consumer:
        made = Consumer(
            identity="ingest-event-00",
            host="127.0.0.1",
            port=own_broker.port,
            ca=own_broker.ca,
            certificates=Path(own_broker.services),
            subscriptions=(Subscription("event"),),
            receive_maximum=10,
        )
        made.start()
        until(lambda: made.connected, "it is connected")
        return made

    started().stop()  # the session stays, and the broker keeps what comes
    gateway = Gateway(own_broker, "gw-c01-a")
    sent = [f"{number}".encode() for number in range(35)]
    ids = {gateway.publish("event", payload) for payload in sent}
    until(lambda: gateway.reasons.keys() >= ids, "the broker has them all")
    before = datetime.now(UTC)
    made = started()
    heard: list[bytes] = []
    upto: list[datetime | None] = []

    def all_heard() -> bool:
        taken = made.collect(idle_s=0.01, linger_s=0, messages=4, payload_bytes=1_000_000)
        for message in taken:
            if not made.is_probe(message):
                heard.append(message.payload)
                upto.append(listening.until if (listening := made.hearing.listening) else None)
        made.acknowledge([one for one in taken if one.topic != made.probe_topic])
        return made.hearing.listening is not None and len(heard) == len(sent)

    try:
        until(all_heard, "everything is heard")
        listening = made.hearing.listening
    finally:
        made.stop()
        gateway.close()
    assert heard == sent
    assert set(upto) == {None}, "it had come round before"
    assert listening is not None
    assert before <= listening.until <= datetime.now(UTC)
