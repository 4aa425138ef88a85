# SPDX-License-Identifier: Apache-2.0
"""The written contract is current, complete, and true of what is sent."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis.strategies import SearchStrategy
from jsonschema import Draft202012Validator

from edge_agent import topics
from edge_agent.contract_docs import COMMAND, MESSAGES, PAYLOADS, Message, json_schema, render
from edge_agent.kinds.base import Wire
from edge_agent.messages import REASONS, encode
from tests import strategies

ROOT: Final = Path(__file__).parents[2]
GOLDEN: Final = sorted(path.name for path in (ROOT / PAYLOADS).glob("*.json"))
VALIDATORS: Final = {
    message.name: Draft202012Validator(json_schema(message)) for message in MESSAGES
}
GENERATED: Final[dict[str, SearchStrategy[Any]]] = {
    "telemetry": strategies.telemetry(),
    "event": strategies.event_messages(),
    "status": strategies.statuses(),
    "result": strategies.results(),
    "aggregate": strategies.aggregates(),
    "ack": strategies.acks(),
    "command": strategies.commands(),
    "config": strategies.configs(),
    "live": strategies.lives(),
    "devices": strategies.live_devices(),
}


def is_valid(name: str, payload: bytes | str) -> bool:
    return VALIDATORS[name].is_valid(json.loads(payload))  # pyright: ignore[reportUnknownMemberType] - jsonschema leaves its instance untyped


def test_written_contract_is_current() -> None:
    written = {path.relative_to(ROOT) for path in (ROOT / "docs" / "schema").rglob("*.json")}
    rendered = render(ROOT)
    stale = [
        str(path)
        for path, text in rendered.items()
        if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run: {COMMAND}"
    assert written <= set(rendered), "a schema of no message: delete it"


def test_every_channel_has_its_message() -> None:
    directions = {message.name: message.direction for message in MESSAGES}
    assert directions == (
        dict.fromkeys(topics.UP_CHANNELS, "up")
        | dict.fromkeys(topics.DOWN_CHANNELS, "down")
        | {"live": "live", "devices": "live"}
    )


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: cast("Message", message).name)
def test_topic_of_a_message_is_the_one_in_use(message: Message) -> None:
    gateway = "gw-c01-a"
    topic = message.topic.format(
        partition=topics.partition(gateway), gateway=gateway, community="c01"
    )
    match message.direction:
        case "up":
            parsed = topics.parse_up(topic)
            assert (parsed.gateway, parsed.channel) == (gateway, message.name)
        case "down":
            assert topic in {topics.down(gateway, name) for name in ("ack", "command", "config")}
        case "live":
            assert topic in {topics.live("c01"), topics.live_devices("c01")}


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for model in (schema, *schema.get("$defs", {}).values()):
        yield from model["properties"].items()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: cast("Message", message).name)
def test_every_field_is_explained(message: Message) -> None:
    unexplained = [
        name
        for name, field in _fields(json_schema(message))
        if "description" not in field and name != "kind"
    ]
    assert unexplained == []


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: cast("Message", message).name)
def test_schema_is_a_schema(message: Message) -> None:
    Draft202012Validator.check_schema(json_schema(message))


@pytest.mark.parametrize("name", [name for name in GOLDEN if "tolerated" not in name])
def test_golden_payload_fits_its_schema(name: str) -> None:
    message = name.removesuffix(".json").partition("-")[0]
    assert is_valid(message, (ROOT / PAYLOADS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GENERATED)
def test_whatever_we_send_fits_its_schema(name: str) -> None:
    @given(GENERATED[name])
    def check(message: Wire) -> None:
        assert is_valid(name, encode(message))

    check()


@pytest.mark.parametrize(
    ("name", "spoil", "by"),
    [
        pytest.param("telemetry", '"v": 1', '"v": 2', id="version"),
        pytest.param("telemetry", '"v": 1,', "", id="no-version"),
        pytest.param("telemetry", '"kind": "lamp",', "", id="no-kind"),
        pytest.param("telemetry", '"power_w": 41.5', '"power_w": 5001', id="range"),
        pytest.param("telemetry", '"power_w": 41.5', '"power_w": "41"', id="text-for-number"),
        pytest.param("telemetry", '"kind": "lamp"', '"kind": "siren"', id="kind"),
        pytest.param("event-gate-granted", '"granted"', '"blown_up"', id="enum"),
        pytest.param("event-gate-granted", '"p1-', '"', id="raw-credential"),
        pytest.param("event-bin-deposit", '"event": "deposit",', "", id="no-event"),
        pytest.param("command", '"expires_at"', '"expired_at"', id="command-without-expiry"),
        pytest.param("ack", '"018f', '"018F', id="stream-id"),
        pytest.param("aggregate", '"bad": 0', '"bad": -1', id="negative"),
        pytest.param("aggregate", '"2026-11-21"', "20261121", id="day-as-number"),
    ],
)
def test_schema_refuses_what_a_receiver_would(name: str, spoil: str, by: str) -> None:
    payload = (ROOT / PAYLOADS / f"{name}.json").read_text(encoding="utf-8")
    assert spoil in payload
    assert not is_valid(name.partition("-")[0], payload.replace(spoil, by))


# AsyncAPI


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            if key == "$ref":
                yield str(inner)
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _references(inner)


def test_asyncapi_is_whole() -> None:
    document: dict[str, Any] = json.loads((ROOT / "docs/asyncapi.json").read_text(encoding="utf-8"))
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    for reference in _references(document):
        if reference.startswith("#/"):
            found: Any = document
            for part in reference[2:].split("/"):
                found = found[part]
        else:
            assert (ROOT / "docs" / reference).is_file()
    assert {channel["address"] for channel in document["channels"].values()} == {
        message.topic for message in MESSAGES
    }
    for channel in document["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        name = operation["channel"]["$ref"].rpartition("/")[2]
        message = next(message for message in MESSAGES if message.name == name)
        assert operation["bindings"]["mqtt"]["qos"] == message.qos
        assert operation["bindings"]["mqtt"]["retain"] is message.retained
    for name, message in document["components"]["messages"].items():
        for example in message["examples"]:
            assert is_valid(name, json.dumps(example["payload"]))


def test_every_code_that_ingest_refuses_with_is_in_the_contract() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "ingest").rglob("*.py")
    )
    codes = set(re.findall(r'Rejected\(\s*"([a-z_.]+)"', sources))
    assert codes
    assert codes <= set(REASONS)


def test_importing_the_contract_costs_pydantic_and_nothing_else() -> None:
    script = (
        "import sys; import edge_agent.messages, edge_agent.topics; "
        "print(*(name for name in ('sqlite3', 'asyncio', 'aiomqtt', 'edge_agent.contract_docs')"
        " if name in sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == ""
