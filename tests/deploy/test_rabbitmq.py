# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ's permissions admit what Mosquitto's ACL admits, and nothing beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.rabbitmq.definitions import ACL, EXCHANGE, definitions, gateways_of, main, parse
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


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"\ufeffgateway,community\n{GATEWAY},c01\n", id="commas"),
        pytest.param(f"gateway;community;name\r\n{GATEWAY};c01;a,b\r\n", id="semicolons"),
        pytest.param(f"Gateway\n{GATEWAY}\n", id="cities-of-a-province"),
        pytest.param(
            f"community,gateway,life\nc01,{GATEWAY},\nc01,{OTHER},retired\n", id="one-is-retired"
        ),
    ],
)
def test_definitions_of_a_registry_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "gateways.csv"
    file.write_text(text, encoding="utf-8", newline="")
    main([str(file)])
    assert json.loads(capsys.readouterr().out) == definitions([GATEWAY])


def test_gateways_that_are_not_there_yet_are_users(tmp_path: Path) -> None:
    file = tmp_path / "gateways.csv"
    lives = ("planned", "installed", "in_service", "maintenance")
    file.write_text("gateway,life\n" + "".join(f"gw-{n},{life}\n" for n, life in enumerate(lives)))
    assert gateways_of(file) == ["gw-0", "gw-1", "gw-2", "gw-3"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, [": cannot read: No such file or directory"], id="no-file"),
        pytest.param("网关,c01\n".encode("gb18030"), [": is not UTF-8: save it as"], id="gb18030"),
        pytest.param(b"", [":1: no column 'gateway': take"], id="empty"),
        pytest.param(b"device,kind\nx,lamp\n", [":1: no column 'gateway': take"], id="devices"),
        pytest.param(
            b"gateway,life\n,\n\ngw-1,scrapped\n#,planned\n",
            [
                ":2: gateway: value '': not an id",
                ":4: life: value 'scrapped': expected one of planned, installed, in_service,",
                ":5: gateway: value '#': not an id",
            ],
            id="cells",
        ),
        pytest.param(b'gateway\ngw-1\n"gw-2\n', [":3: not CSV: "], id="open-quote"),
    ],
)
def test_mistakes_in_a_registry_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, told: Sequence[str]
) -> None:
    file = tmp_path / "gateways.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        main([str(file)])
    said = capsys.readouterr()
    assert (caught.value.code, said.out) == (2, "")
    lines = said.err.splitlines()
    assert len(lines) == len(told)
    for line, begin in zip(lines, told, strict=True):
        assert line.startswith(f"{file}{begin}")


def test_the_file_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "GATEWAYS.csv" in capsys.readouterr().err
