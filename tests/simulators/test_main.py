# SPDX-License-Identifier: Apache-2.0
"""The command line: what it writes, and how it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from simulators.__main__ import app
from simulators.truth import FILE, Ledger


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def run(data: Path, scenario: str | Path, *more: str) -> Result:
    nobody = ("--broker-host", "127.0.0.1", "--broker-port", "1")
    files = ("--ca", data / "none", "--certificates", data)
    return call("run", scenario, *nobody, *files, "--data", data, *more)


def test_registry(tmp_path: Path) -> None:
    result = call("registry", "--communities", "2", "--out", tmp_path)
    assert result.exit_code == 0
    files = [Path(line) for line in result.stdout.split()]
    names = ["areas.csv", "gateways.csv", "devices.csv", "population.csv"]
    assert [file.name for file in files] == names
    assert len(files[2].read_text(encoding="utf-8").splitlines()) == 2 * 88 + 1


def test_registry_of_a_scenario_with_a_town(tmp_path: Path) -> None:
    result = call("registry", "--scenario", "night", "--out", tmp_path)
    assert result.exit_code == 0
    devices = (tmp_path / "devices.csv").read_text(encoding="utf-8").splitlines()
    assert len([line for line in devices if line.startswith("lamp-")]) == 200
    kitchen = next(line for line in devices if line.startswith("kitchen,"))
    assert kitchen.startswith("kitchen,alarm,gw-south,south,厨房烟雾探测器,Kitchen smoke detector,")
    assert kitchen.split(",")[-3] == "3"
    pump = next(line for line in devices if line.startswith("tank-3,"))
    assert pump.startswith("tank-3,alarm,gw-east,west,")
    refused = call("registry", "--scenario", "night", "--communities", "2", "--out", tmp_path)
    assert refused.exit_code == 2
    assert "of one community" in refused.stderr


@pytest.mark.parametrize("text", ["yesterday", "2026-11-20T12:00:00"])
def test_instants_need_a_zone(tmp_path: Path, text: str) -> None:
    result = call("registry", "--out", tmp_path, "--in-service-from", text)
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_bad_scenario_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('name = "bad"\nseed = -1\nspeed = 3\n')
    result = run(tmp_path, file)
    assert result.exit_code == 2
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [
        f"{file}:2:seed",
        f"{file}:3:speed",
    ]
    assert not (tmp_path / FILE).exists()


def test_a_folder_belongs_to_one_city(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / FILE)
    ledger.own(1, 3)
    ledger.close()
    result = run(tmp_path, "quick", "--seed", "2")
    assert result.exit_code == 2
    assert "seed 1 with 3 communities" in result.stderr


def test_a_folder_belongs_to_one_town(tmp_path: Path) -> None:
    run(tmp_path, "night")
    result = run(tmp_path, "quick")
    assert result.exit_code == 2
    assert "another town" in result.stderr
    # Its world is known without the scenario.
    settled = call("settle", "--data", tmp_path)
    assert settled.exit_code == 0
    assert json.loads(settled.stdout) == {"lamp_nights": 0, "expected_alerts": 0}


def test_missing_certificates_are_named(tmp_path: Path) -> None:
    result = run(tmp_path, "quick")
    assert result.exit_code == 2
    missing = [Path(line.removesuffix(": no such file")).name for line in result.stderr.split("\n")]
    assert missing[:3] == ["none", "gw-c01-a.crt", "gw-c01-a.key"]


def test_settled_after_the_fact(tmp_path: Path) -> None:
    assert call("settle", "--data", tmp_path).exit_code == 2
    ledger = Ledger(tmp_path / FILE)
    ledger.own(1, 1)
    ledger.close()
    result = call("settle", "--data", tmp_path)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"lamp_nights": 0, "expected_alerts": 0}
