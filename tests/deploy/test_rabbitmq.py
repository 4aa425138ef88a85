# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ's permissions admit what Mosquitto's ACL admits, and nothing beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deploy.rabbitmq.definitions import ACL, EXCHANGE, definitions, main, parse
from edge_agent import topics
from ingest.pki import API_MEMBERS_MAX

GATEWAY, OTHER = "gw-c01-a", "gw-c01-b"


def may(user: str, access: str, topic: str) -> bool:
    """What RabbitMQ decides: the topic in its notation, against the user's expression."""
    (rights,) = (
        one for one in definitions([GATEWAY, OTHER])["topic_permissions"] if one["user"] == user
    )
    assert rights["exchange"] == EXCHANGE
    key = topic.replace(".", "!").replace("/", ".").replace("!", "/").replace("+", "*")
    return re.search(rights[access].replace("{username}", user), key) is not None


@pytest.mark.parametrize("channel", ["telemetry", "event", "status", "result"])
def test_gateway_writes_its_own_topics_alone(channel: topics.UpChannel) -> None:
    assert may(GATEWAY, "write", topics.up(GATEWAY, channel))
    assert not may(GATEWAY, "write", topics.up(OTHER, channel))
    assert not may(GATEWAY, "read", topics.up(GATEWAY, channel))


@pytest.mark.parametrize("channel", ["ack", "command", "config"])
def test_gateway_hears_what_is_meant_for_it_alone(channel: topics.DownChannel) -> None:
    assert may(GATEWAY, "read", topics.down(GATEWAY, channel))
    assert not may(GATEWAY, "read", topics.down(OTHER, channel))
    assert not may(GATEWAY, "write", topics.down(GATEWAY, channel))


@pytest.mark.parametrize(
    "subscription",
    [
        "#",
        "linli/#",
        "linli/v1/#",
        "linli/v1/+/+/down/ack",
        f"linli/v1/+/{OTHER}/down/#",
        f"linli/v1/00/+/down/{GATEWAY}",
        f"x/linli/v1/00/{GATEWAY}/down/ack",
        f"linli/v1/00/{GATEWAY}x/down/ack",
        f"linli/v1/00/x.{GATEWAY}/down/ack",
        f"linli/v1/00/extra/{GATEWAY}/down/ack",
        "linli/v1/live/#",
        "linli/v1/probe/ingest-event-00",
        "$SYS/#",
    ],
)
def test_gateway_hears_nothing_else(subscription: str) -> None:
    assert not may(GATEWAY, "read", subscription)
    assert not may(GATEWAY, "write", subscription)


@pytest.mark.parametrize("service", ["ingest-telemetry-00", "ingest-event-00"])
def test_ingest_hears_all_gateways_and_answers_them(service: str) -> None:
    assert may(service, "read", "linli/v1/+/+/up/telemetry")
    assert may(service, "write", topics.down(GATEWAY, "ack"))
    assert may(service, "write", topics.live("c01"))
    assert may(service, "read", f"linli/v1/probe/{service}")
    assert not may(service, "write", topics.up(GATEWAY, "event"))


@pytest.mark.parametrize("member", range(API_MEMBERS_MAX))
def test_api_hears_the_live_topic_and_says_nothing(member: int) -> None:
    name = f"api-live-{member:02d}"
    assert may(name, "read", "linli/v1/live/+")
    assert may(name, "read", topics.live_devices("c01"))
    assert not may(name, "read", topics.up(GATEWAY, "event"))
    assert not may(name, "write", topics.live("c01"))


def test_each_user_has_the_queues_of_its_own_session() -> None:
    for permission in definitions([GATEWAY, OTHER])["permissions"]:
        user = permission["user"]
        for access in ("configure", "write", "read"):
            assert re.search(permission[access], f"mqtt-subscription-{user}qos1")
            assert not re.search(permission[access], f"mqtt-subscription-{user}xqos1")
            assert not re.search(permission[access], f"mqtt-subscription-x{user}qos1")
        assert re.search(permission["write"], EXCHANGE)
        assert not re.search(permission["configure"], EXCHANGE)


def test_users_have_no_password() -> None:
    assert {one["password_hash"] for one in definitions([GATEWAY])["users"]} == {""}


def test_line_of_the_acl_that_is_not_understood_is_refused() -> None:
    with pytest.raises(ValueError, match="deny"):
        parse(ACL.read_text() + "\ntopic deny linli/v1/#\n")


def test_definitions_of_a_registry_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateways.csv"
    file.write_text(f"﻿gateway,community\n{GATEWAY},c01\n", encoding="utf-8")
    main(file)
    assert json.loads(capsys.readouterr().out) == definitions([GATEWAY])
