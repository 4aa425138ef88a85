# SPDX-License-Identifier: Apache-2.0
"""``linli-api``: serve, person add, token add, as operators call it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from api.__main__ import cli
from api.people import Passwords, digest
from tests.services import Broker


def run(
    arguments: Sequence[str], config: Path, given: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api", *arguments, "--config", str(config)],
        input=given,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "LINLI_LOG_LEVEL": "WARNING"},
    )


@pytest.fixture
def config(own_database: str, broker: Broker, tmp_path: Path) -> Path:
    file = tmp_path / "linli.toml"
    broker.identity("api-live-00")
    file.write_text(
        f"""
[database]
dsn = "{own_database}"
[broker]
ca = "{broker.ca}"
[api]
certificates = "{broker.services}"
"""
    )
    return file


def _hash(dsn: str, name: str) -> str:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT password_hash FROM person WHERE username = %s", (name,)
        ).fetchone()
    assert row is not None
    return row[0]


async def test_person_add_prints_a_password_once(config: Path, own_database: str) -> None:
    done = await asyncio.to_thread(
        run, ["person", "add", "sun", "--role", "police", "--area", "c02"], config
    )
    assert (done.returncode, done.stderr) == (0, "")
    password = done.stdout.strip()
    assert len(password) >= 16
    stored = _hash(own_database, "sun")
    assert stored.startswith("$argon2id$")
    assert await Passwords().verify(stored, password)
    again = await asyncio.to_thread(
        run, ["person", "add", "sun", "--role", "admin", "--area", "c02"], config
    )
    assert again.returncode == 2
    assert "such a person or token already" in again.stderr
    assert again.stdout == ""


async def test_person_add_takes_a_password_from_standard_input(
    config: Path, own_database: str
) -> None:
    arguments = ["person", "add", "qian", "--role", "admin", "--area", "city"]
    done = await asyncio.to_thread(
        run, [*arguments, "--password-file", "-"], config, "a long password\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert await Passwords().verify(_hash(own_database, "qian"), "a long password")


async def test_token_add_prints_a_token_once(config: Path, own_database: str) -> None:
    arguments = ["token", "add", "auditor", "--role", "admin", "--area", "city"]
    done = await asyncio.to_thread(run, arguments, config)
    assert done.returncode == 0
    with psycopg.connect(own_database) as conn:
        row = conn.execute(
            "SELECT token_sha256 FROM service_token WHERE name = 'auditor'"
        ).fetchone()
    assert row == (digest(done.stdout.strip()),)
    again = await asyncio.to_thread(run, arguments, config)
    assert (again.returncode, again.stdout) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "given", "told"),
    [
        (["person", "add", "Wang!", "--role", "police", "--area", "c01"], "", "a name has"),
        (["person", "add", "sun", "--role", "boss", "--area", "c01"], "", "there are admin"),
        (["person", "add", "sun", "--role", "police", "--area", "c99"], "", "no such area"),
        (
            ["person", "add", "sun", "--role", "police", "--area", "c01", "--password-file", "-"],
            "short\n",
            "12 to 256 characters",
        ),
        (
            ["person", "add", "sun", "--role", "police", "--area", "c01", "--password-file", "/no"],
            "",
            "cannot read",
        ),
        (["person", "add", "rule", "--role", "admin", "--area", "city"], "", "reserved"),
        (["person", "add", "robot", "--role", "admin", "--area", "city"], "", "already"),
        (["token", "add", "wang", "--role", "admin", "--area", "city"], "", "already"),
        (["token", "add", "x", "--role", "admin", "--area", "city"], "", "a name has"),
    ],
)
def test_wrong_argument_is_told(
    config: Path, own_database: str, arguments: list[str], given: str, told: str
) -> None:
    done = run(arguments, config, given)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    with psycopg.connect(own_database) as conn:
        row = conn.execute("SELECT count(*) FROM person WHERE username = 'sun'").fetchone()
    assert row == (0,)


def test_serve_names_what_is_wrong_with_its_settings(config: Path) -> None:
    config.write_text(config.read_text() + "prot = 1\n")
    done = run(["serve"], config)
    assert done.returncode == 2
    assert f"{config}:8: api.prot: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_needs_its_certificate(config: Path, tmp_path: Path) -> None:
    text = config.read_text()
    certificates = text.split('certificates = "')[1].split('"')[0]
    config.write_text(text.replace(certificates, str(tmp_path)))
    done = run(["serve"], config)
    assert done.returncode == 2
    assert "api-live-00.crt: no such file" in done.stderr


def test_serve_needs_the_certificate_of_its_member(config: Path) -> None:
    config.write_text(config.read_text() + "member = 6\n")
    done = run(["serve"], config)
    assert done.returncode == 2
    assert "api-live-06.crt: no such file" in done.stderr


def test_serve_refuses_a_database_without_schema(config: Path, own_database: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as conn:
        conn.execute("DELETE FROM schema_migration WHERE version > 1")
    done = run(["serve"], config)
    assert done.returncode == 3
    assert "run `linli-ingest migrate`" in done.stderr


def test_serve_tells_that_the_database_is_gone(config: Path) -> None:
    config.write_text(config.read_text().replace("port=", "port=1 connect_timeout=1 #="))
    text = config.read_text().replace('dsn = "', 'dsn = "host=127.0.0.1 port=1 user=x #', 1)
    config.write_text(
        text.split("\n[broker]")[0].split(" #")[0] + '"\n[broker]' + text.split("[broker]")[1]
    )
    done = run(["serve"], config)
    assert done.returncode == 3
    assert "database: cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["serve", "person add", "token add"])
def test_the_configuration_is_where_ingest_looks_for_it(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LINLI_CONFIG", raising=False)
    whom = [] if verb == "serve" else ["sun", "--role", "police", "--area", "c02"]
    for environment, file in ({}, "linli.toml"), ({"LINLI_CONFIG": "other.toml"}, "other.toml"):
        ended = CliRunner().invoke(cli, [*verb.split(), *whom], env=environment)
        assert ended.exit_code == 2
        assert ended.stderr.startswith(f"{file}: cannot read: ")
