# SPDX-License-Identifier: Apache-2.0
"""The api's settings: what is told when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.config import load
from api.errors import ConfigError

GOOD = """\
[database]
dsn = "host=127.0.0.1"
[broker]
ca = "pki/ca.crt"
[ingest]
whatever = 1
[ingest.rules."lamp.dark"]
on_delay_s = 2
[pki]
ca_key = "x"
[api]
certificates = "pki/services"
"""


def _write(folder: Path, text: str) -> Path:
    file = folder / "linli.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_and_paths_beside_the_file(tmp_path: Path) -> None:
    config = load(_write(tmp_path, GOOD), {})
    assert config.broker.ca == tmp_path / "pki/ca.crt"
    assert config.api.certificates == tmp_path / "pki/services"
    assert (config.api.host, config.api.port, config.api.simulated) == ("127.0.0.1", 8080, False)
    assert not config.api.secure


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    environment = {
        "LINLI_API__PORT": "8081",
        "LINLI_API__SIMULATED": "true",
        "LINLI_DATABASE__DSN": "host=elsewhere",
        "LINLI_INGEST__METRICS_PORT": "1",
        "LINLI_SOMETHING": "x",
        "PATH": "x",
    }
    config = load(_write(tmp_path, GOOD), environment)
    assert (config.api.port, config.api.simulated) == (8081, True)
    assert config.database.dsn.get_secret_value() == "host=elsewhere"


def test_member_has_an_identity_of_its_own(tmp_path: Path) -> None:
    file = _write(tmp_path, GOOD)
    assert load(file, {}).api.identity == "api-live-00"
    assert load(file, {"LINLI_API__MEMBER": "7"}).api.identity == "api-live-07"


def test_dsn_is_not_shown(tmp_path: Path) -> None:
    assert "127.0.0.1" not in repr(load(_write(tmp_path, GOOD), {}).database)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[api]\n", "[api]\nprot = 1\n", ":12: api.prot: unknown key, did you mean port?"),
        ("[api]\n", "[api]\nport = 70000\n", ":12: api.port: "),
        ("[api]\n", '[api]\nport = "many"\n', ":12: api.port: "),
        ("[api]\n", "[api]\nport = true\n", ":12: api.port: a whole number is expected"),
        ("[api]\n", "[api]\nmember = 8\n", ":12: api.member: "),
        ("[api]\n", "[api]\nmember = -1\n", ":12: api.member: "),
        ("[api]\n", "[api]\nmember = true\n", ":12: api.member: a whole number is expected"),
        ('dsn = "host=127.0.0.1"\n', "", ":1: database.dsn: missing"),
        ("[pki]", "[pkk]", ":9: pkk: unknown section, did you mean pki?"),
        ("[api]\n", '[api]\npublic_url = "ftp://x"\n', ":12: api.public_url: write scheme"),
        ("[api]\n", '[api]\npublic_url = "http://x/y"\n', ":12: api.public_url: write scheme"),
        ("[api]\n", "[api\n", ": not TOML: "),
        ("[api]", "[apis]", "linli.toml: api: missing"),
    ],
)  # fmt: skip
def test_error_names_file_line_and_key(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load(_write(tmp_path, GOOD.replace(old, new)), {})
    assert any(told in problem for problem in caught.value.problems), caught.value.problems
    assert all(problem.startswith(str(tmp_path)) for problem in caught.value.problems)


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("[api]\n", "[api]\nport = 0\nprot = 1\n").replace("[pki]", "[pkk]")
    with pytest.raises(ConfigError) as caught:
        load(_write(tmp_path, text), {"LINLI_BROKER__PORT": "x"})
    told = "\n".join(caught.value.problems)
    for part in ("api.port", "api.prot", "pkk", "LINLI_BROKER__PORT: broker.port"):
        assert part in told


def test_unreadable_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "nothing.toml", {})
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path, {})
    (tmp_path / "linli.toml").write_bytes("[api]\n# 中".encode("gb18030"))
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "linli.toml", {})
