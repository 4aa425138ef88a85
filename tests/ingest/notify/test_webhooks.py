# SPDX-License-Identifier: Apache-2.0
"""Webhooks as a receiver sees them, over real HTTP: signed, in order, again, and not anywhere."""

from __future__ import annotations

import ipaddress
import logging
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from ingest.notify import addresses, webhook
from ingest.notify.addresses import Forbidden, check, is_public, parse
from tests.ingest.notify.receiver import verify
from tests.ingest.notify.town import Receiver, Town


def to(*webhooks: object) -> list[dict[str, Any]]:
    return [{"recipients": [{"webhook": str(one)} for one in webhooks]}]


def test_a_receiver_can_verify_who_signed_and_that_nothing_changed(
    place: Town, receiver: Receiver
) -> None:
    hook, secret = place.webhook(receiver.url)
    place.chain("c01", steps=to(hook))
    alert = place.raise_(place.device())
    place.tell()
    (request,) = receiver.requests
    now = int(place.watch.now.timestamp())
    assert verify(secret, request.headers, request.body, now) is True
    assert verify(webhook.new_secret(), request.headers, request.body, now) is False
    assert verify(secret, request.headers, request.body + b" ", now) is False
    assert verify(secret, request.headers, request.body, now + 3600) is False
    event = request.event
    assert event["specversion"] == "1.0"
    assert event["id"] == request.headers["webhook-id"]
    assert (event["type"], event["source"]) == (
        "linli.alert.raised.v1",
        "urn:linli:installation",
    )
    assert request.headers["content-type"].startswith("application/cloudevents+json")
    assert [one["id"] for one in event["data"]["alerts"]] == [str(alert)]


def test_a_signature_is_that_of_the_standards_example() -> None:
    """The example that the Standard Webhooks specification gives of its own scheme."""
    body = b'{"test": 2432232314}'
    signed = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    at = datetime.fromtimestamp(1614265330, UTC)
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert webhook.sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, body) == signed


def test_what_fails_is_sent_again_under_its_key_and_what_follows_waits(
    place: Town, receiver: Receiver
) -> None:
    hook, _ = place.webhook(receiver.url)
    place.chain("c01", steps=to(hook))
    device = place.device()
    receiver.answer = 503
    place.raise_(device)
    place.tell()
    place.clear(device)
    place.tell(seconds=5)
    receiver.answer = 204
    for _ in range(4):
        place.tell(seconds=5)
    types = [request.event["type"].split(".")[2] for request in receiver.requests]
    assert types == ["raised", "raised", "raised", "cleared"]
    keys = [request.headers["webhook-id"] for request in receiver.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert receiver.requests[0].body == receiver.requests[2].body


def test_what_waits_while_a_secret_is_replaced_is_signed_by_both_and_then_by_the_new_one(
    place: Town, receiver: Receiver
) -> None:
    hook, old = place.webhook(receiver.url)
    place.chain("c01", steps=to(hook))
    receiver.answer = 503
    place.raise_(place.device())
    place.tell()
    new = webhook.new_secret()
    place.conn.execute(
        "INSERT INTO webhook_former_secret VALUES (%s, %s, %s)",
        (hook, old, place.watch.now + timedelta(seconds=10)),
    )
    place.conn.execute("UPDATE notification_channel SET secret = %s WHERE id = %s", (new, hook))
    verified: list[tuple[bool, bool]] = []
    for request, seconds in ((0, 0), (1, 5), (2, 10)):
        place.tell(seconds=seconds)
        sent, now = receiver.requests[request], int(place.watch.now.timestamp())
        seen = [verify(one, sent.headers, sent.body, now) for one in (old, new)]
        verified.append((seen[0], seen[1]))
    assert verified == [(True, False), (True, True), (False, True)]
    # Whatever signed it, it is the same message.
    assert len({sent.headers["webhook-id"] for sent in receiver.requests}) == 1
    assert len({sent.body for sent in receiver.requests}) == 1


def test_nobody_is_sent_on_by_a_redirect(place: Town, receiver: Receiver) -> None:
    hook, _ = place.webhook(receiver.url)
    place.chain("c01", steps=to(hook))
    receiver.answer, receiver.location = 302, f"http://127.0.0.1:{receiver.port}/elsewhere"
    place.raise_(place.device())
    place.tell()
    assert [request.path for request in receiver.requests] == ["/hook"]
    assert place.log()[0] == ("raised", "waiting", 1, "http_302")


def test_gone_is_not_asked_again(place: Town, receiver: Receiver) -> None:
    hook, _ = place.webhook(receiver.url)
    place.chain("c01", steps=to(hook))
    receiver.answer = 410
    place.raise_(place.device())
    place.tell()
    assert place.log()[0] == ("raised", "given_up", 1, "http_410")


def test_duress_goes_to_a_webhook_that_may_know_and_to_no_other(
    place: Town, receiver: Receiver
) -> None:
    place.contact("liaison")
    may, _ = place.webhook(receiver.url + "/may", duress=True)
    other, _ = place.webhook(receiver.url + "/other")
    place.chain("c01", severities=["critical"], steps=to(may, other))
    place.raise_(place.device(), severity="critical", rule="alarm.duress", life_safety=True)
    place.tell()
    assert [request.path for request in receiver.requests] == ["/hook/may"]


def test_a_name_that_leads_inside_when_it_is_called_is_not_called(
    place: Town, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebinding name: public when it was saved, loopback when it is called."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *rest: Any, **named: Any) -> Any:
        if host != "hook.example.org":
            return real(host, *rest, **named)
        asked.append(host)
        ip = "8.8.8.8" if len(asked) == 1 else "127.0.0.1"
        return real(ip, *rest, **named)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", rebinding)
    url = f"https://hook.example.org:{receiver.port}/hook"
    assert str(check(url).ip) == "8.8.8.8"
    outcome = webhook.send(
        url, [webhook.new_secret()], uuid7(), b"{}", now=place.watch.now, allow_private=False
    )
    assert (outcome.sent, outcome.error, outcome.final) == (False, "url.private", True)
    assert receiver.requests == []


def test_the_address_that_was_checked_is_the_one_that_is_called(
    place: Town, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def once(host: str, *rest: Any, **named: Any) -> Any:
        if host == "hook.example.org":
            asked.append(host)
            return real("127.0.0.1", *rest, **named)
        return real(host, *rest, **named)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", once)
    url = f"http://hook.example.org:{receiver.port}/hook?a=1"
    secret = webhook.new_secret()
    outcome = webhook.send(url, [secret], uuid7(), b"{}", now=place.watch.now, allow_private=True)
    assert outcome.sent
    assert asked == ["hook.example.org"]
    (request,) = receiver.requests
    assert request.headers["host"] == f"hook.example.org:{receiver.port}"
    assert request.path == "/hook?a=1"


def test_no_log_line_names_an_address(
    place: Town, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    from ingest.notify.messengers import silence

    silence()
    caplog.set_level(logging.DEBUG)
    hook, secret = place.webhook(receiver.url + "?token=s3cr3t")
    place.contact("guard", "url", "wecombot://s3cr3t")
    place.contact("manager", "url", "json://s3cr3t:s3cr3t@127.0.0.1:1/s3cr3t")
    place.chain("c01", steps=[{"recipients": [
        {"webhook": str(hook)}, {"role": "property", "level": "community"},
    ]}])  # fmt: skip
    receiver.answer = 410
    place.raise_(place.device())
    place.tell()
    assert len(receiver.requests) == 1
    assert "given up" in caplog.text
    assert "s3cr3t" not in caplog.text
    assert secret not in caplog.text


@given(st.integers(0, 2**32 - 1))
@example(int(ipaddress.IPv4Address("169.254.169.254")))
@example(int(ipaddress.IPv4Address("10.0.0.1")))
@example(int(ipaddress.IPv4Address("8.8.8.8")))
def test_an_address_is_as_private_in_ipv6_clothes(number: int) -> None:
    ip = ipaddress.IPv4Address(number)
    mapped = ipaddress.IPv6Address(f"::ffff:{ip}")
    assert is_public(mapped) is is_public(ip)
    if not is_public(ip):
        assert not is_public(ipaddress.IPv6Address(f"64:ff9b::{ip}"))
        assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))


@pytest.mark.parametrize("ip", ["fec0::1", "feff:ffff::1"])
def test_what_was_meant_for_one_site_is_not_public(ip: str) -> None:
    assert not is_public(ipaddress.IPv6Address(ip))


@given(st.text(max_size=60))
def test_whatever_is_no_url_is_refused_in_order(text: str) -> None:
    try:
        scheme, host, port, _ = parse(text)
    except Forbidden:
        return
    assert scheme in ("http", "https")
    assert host
    assert 0 < port < 65536
