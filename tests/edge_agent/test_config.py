# SPDX-License-Identifier: Apache-2.0
"""A wrong configuration is refused with every place and what is expected there."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_agent.config import AgentConfig, load, render
from edge_agent.errors import ConfigError

GOOD = """\
gateway = "gw-c01-a"
community = "c01"

[broker]
host = "127.0.0.1"
ca = "ca.crt"
certificate = "client.crt"
key = "/etc/linli/client.key"

[sampling]
heartbeat_s = 600

[[devices]]
device = "c01-lamp-001"
kind = "lamp"
driver = "edge_agent.drivers.json_file:make"
options = { kind = "lamp", path = "/run/lamp", bus_password = "sesame" }

[[devices]]
device = "c01-gate-001"
kind = "gate"
driver = "some.module:factory"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def problems(path: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environment or {})
    return list(caught.value.problems)


def test_good_configuration_is_complete_and_its_paths_absolute(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD), {})
    assert config.gateway == "gw-c01-a"
    assert config.broker.port == 8883
    assert config.broker.ca == tmp_path / "ca.crt"
    assert config.broker.key == Path("/etc/linli/client.key")
    assert config.data == tmp_path / "data"
    assert config.pseudonym.key_file == tmp_path / "pseudonym.key"
    assert config.sampling.heartbeat_s == 600
    assert [one.kind for one in config.devices] == ["lamp", "gate"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "heartbeat_s = 600",
            "hartbeat_s = 600",
            ":11: sampling.hartbeat_s: unknown, did you mean heartbeat_s?",
            id="misspelt-key",
        ),
        pytest.param(
            "[sampling]",
            "[colours]\n[sampling]",
            ":10: colours: unknown, expected one of gateway, community, data,",
            id="unknown-section",
        ),
        pytest.param(
            'host = "127.0.0.1"\n',
            "",
            ":4: broker.host: missing, a value is expected",
            id="missing-key",
        ),
        pytest.param(
            "heartbeat_s = 600",
            "heartbeat_s = 0",
            ":11: sampling.heartbeat_s: 0 is wrong: expected greater than or equal to 1",
            id="out-of-range",
        ),
        pytest.param(
            "heartbeat_s = 600",
            'heartbeat_s = "often"',
            ":11: sampling.heartbeat_s: 'often' is wrong: expected a valid number",
            id="wrong-type",
        ),
        pytest.param(
            'host = "127.0.0.1"',
            'host = "127.0.0.1"\nport = 70000',
            ":6: broker.port: 70000 is wrong: expected less than or equal to 65535",
            id="port",
        ),
        pytest.param(
            'gateway = "gw-c01-a"',
            'gateway = "gw/+"',
            ":1: gateway: 'gw/+' is wrong: string should match pattern",
            id="gateway-that-breaks-a-topic",
        ),
        pytest.param(
            'kind = "gate"',
            'kind = "goat"',
            ":21: devices[1].kind: expected one of alarm, bin, gate, lamp",
            id="unknown-kind-of-the-second-device",
        ),
        pytest.param(
            '"some.module:factory"',
            '"some.module"',
            ":22: devices[1].driver: expected module:factory",
            id="driver-without-factory",
        ),
        pytest.param(
            'device = "c01-gate-001"',
            'device = "c01-lamp-001"',
            ":1: device c01-lamp-001 is listed twice",
            id="device-twice",
        ),
        pytest.param(
            'host = "127.0.0.1"',
            'host = "127.0.0.1"\nreconnect_delay_max_s = 0.5',
            ":4: broker: reconnect_delay_min_s must not exceed reconnect_delay_max_s",
            id="limits-swapped",
        ),
        pytest.param("[sampling]", "[sampling", ":10: not TOML: ", id="not-toml"),
    ],
)
def test_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    (told,) = problems(path)
    assert told.startswith(f"{path}{expected}"), told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("heartbeat_s = 600", "hartbeat_s = 600\npoll_interval_s = -1")
    path = write(tmp_path, text.replace('kind = "gate"', "kind = 7"))
    assert [one.removeprefix(f"{path}:").partition(" ")[0] for one in problems(path)] == [
        "12:",
        "11:",
        "22:",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, "cannot read: No such file", id="missing"),
        pytest.param(b"\xff\xfe\x00", "not UTF-8 at byte 0", id="wrong-encoding"),
        pytest.param(b"", ":1: gateway: missing", id="empty"),
    ],
)
def test_unreadable_file_is_told(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "agent.toml"
    if content is not None:
        path.write_bytes(content)
    assert expected in problems(path)[0]


def test_folder_for_a_file_is_told(tmp_path: Path) -> None:
    assert "Is a directory" in problems(tmp_path)[0]


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    environment = {
        "LINLI_BROKER__HOST": "10.0.0.7",
        "LINLI_BROKER__PORT": "1884",
        "LINLI_PUBLISHING__WINDOW": "20",
        "LINLI_GATEWAY": "gw-c02-b",
        "LINLI_SOMEBODY_ELSES": "ignored",
        "PATH": "/bin",
    }
    config = load(write(tmp_path, GOOD), environment)
    assert (config.broker.host, config.broker.port) == ("10.0.0.7", 1884)
    assert config.publishing.window == 20
    assert config.gateway == "gw-c02-b"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param(
            "LINLI_BROKER__PORT",
            "many",
            "LINLI_BROKER__PORT: broker.port: 'many' is wrong: expected a valid integer",
            id="wrong-type",
        ),
        pytest.param(
            "LINLI_BROKER__PROT",
            "1",
            "LINLI_BROKER__PROT: broker.prot: unknown, did you mean port?",
            id="misspelt",
        ),
        pytest.param(
            "LINLI_GATEWAY__X",
            "1",
            "LINLI_GATEWAY__X: gateway is no table",
            id="below-a-value",
        ),
    ],
)
def test_wrong_environment_is_told_by_name(
    tmp_path: Path, name: str, value: str, expected: str
) -> None:
    (told,) = problems(write(tmp_path, GOOD), {name: value})
    assert told.startswith(expected), told


def test_printed_configuration_can_be_read_again_and_hides_secrets(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD), {})
    text = render(config)
    assert "sesame" not in text
    again = AgentConfig.model_validate(tomllib.loads(text))
    assert again.devices[0].options["bus_password"] == "***"
    assert again.model_copy(update={"devices": ()}) == config.model_copy(update={"devices": ()})
