# SPDX-License-Identifier: Apache-2.0
"""Who may not talk to the broker at all: row B49, each answered before anything is said.

A revoked certificate is row B21 in the tests of what is published: its gateway is refused by
ingest, and no list of revoked certificates is kept.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.services import HOST
from ingest import pki
from ingest.pki import Authority, Issued, create_authority, issue_client, issue_server
from tests.bad_input.packets import CONNACK, DEADLINE_S, Link, connect
from tests.services import Broker

Making = Callable[[Authority, Path], Issued | None]


def _stranger(authority: Authority, folder: Path) -> Issued:
    del authority
    return issue_client(create_authority(folder, name="Linli"), "gw-tls", out=folder)


def _own_signature(authority: Authority, folder: Path) -> Issued:
    del authority
    made = create_authority(folder, name="gw-tls").folder
    return Issued(made / "ca.crt", made / "ca.key")


def _expired(authority: Authority, folder: Path) -> Issued:
    long_ago = datetime.now(UTC) - 2 * pki.CLIENT_LIFE
    return issue_client(authority, "gw-tls", out=folder, now=long_ago)


def _not_yet_valid(authority: Authority, folder: Path) -> Issued:
    return issue_client(authority, "gw-tls", out=folder, now=datetime.now(UTC) + timedelta(days=1))


def _server(authority: Authority, folder: Path) -> Issued:
    return issue_server(authority, ["gw-tls"], out=folder)


def _none(authority: Authority, folder: Path) -> None:
    del authority, folder


def _good(authority: Authority, folder: Path) -> Issued:
    return issue_client(authority, "gw-tls", out=folder)


def _answer(broker: Broker, issued: Issued | None, newest: ssl.TLSVersion | None) -> int | None:
    """Say CONNECT; return the kind of what comes back, None where the broker hangs up instead."""
    context = ssl.create_default_context(cafile=str(broker.ca))
    if issued is not None:
        context.load_cert_chain(issued.certificate, issued.key)
    if newest is not None:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest
        context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        with (
            socket.create_connection((HOST, broker.port), timeout=DEADLINE_S) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secure,
        ):
            # TLS 1.3 tells the client that it is refused with its first read.
            one = Link(secure)
            one.send(connect())
            answer = one.hear()
    except (ssl.SSLError, ConnectionError):
        return None
    return None if answer is None else answer.kind


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("making", "newest", "answer"),
    [
        pytest.param(_good, None, CONNACK, id="good"),
        pytest.param(_good, ssl.TLSVersion.TLSv1_2, CONNACK, id="good-tls-1.2"),
        pytest.param(_stranger, None, None, id="B49-another-authority"),
        pytest.param(_own_signature, None, None, id="B49-signed-by-itself"),
        pytest.param(_expired, None, None, id="B49-expired"),
        pytest.param(_not_yet_valid, None, None, id="B49-not-yet-valid"),
        pytest.param(_server, None, None, id="B49-server-certificate"),
        pytest.param(_none, None, None, id="B49-none"),
        pytest.param(_good, ssl.TLSVersion.TLSv1_1, None, id="B49-tls-1.1"),
    ],
)
def test_broker_lets_in_whom_it_should(
    broker: Broker,
    making: Making,
    newest: ssl.TLSVersion | None,
    answer: int | None,
    tmp_path: Path,
) -> None:
    assert _answer(broker, making(broker.authority, tmp_path), newest) == answer
