# SPDX-License-Identifier: Apache-2.0
"""The simulated city and the files that register it."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from edge_agent import topics
from edge_agent.kinds import CHANGED
from simulators.errors import ScenarioError
from simulators.registry import COMMUNITIES_MAX, build, in_service_from, write
from simulators.spans import instant
from tests.simulators.town import NOON


def test_size_of_the_first_requirement_document() -> None:
    city = build(1, 16, instant(NOON))
    assert len(city.communities) == 16
    assert len(city.gateways) == 32
    kinds = Counter((one.community, one.kind) for one in city.devices)
    for community in city.communities:
        counts = {kind: kinds[community, kind] for kind in CHANGED}
        assert counts == {"lamp": 60, "bin": 12, "gate": 6, "alarm": 10}
    assert all(1_000 <= one.households <= 3_000 for one in city.communities.values())
    assert len({one.name for one in city.communities.values()}) == 16


def test_ids_are_unique_and_fit_the_contract() -> None:
    city = build(1, COMMUNITIES_MAX, instant(NOON))
    assert len(city.by_id) == len(city.devices)
    for gateway in city.gateways:
        assert topics.parse_up(topics.up(gateway.gateway, "event")).gateway == gateway.gateway
    cells = {area.area for area in city.areas if area.level == "cell"}
    assert {one.area for one in city.devices} == cells


def test_each_cell_reports_through_both_gateways_and_sees_intruders() -> None:
    city = build(1, 1, instant(NOON))
    for area in (area.area for area in city.areas if area.level == "cell"):
        here = [one for one in city.devices if one.area == area]
        assert {one.gateway for one in here} == {"gw-c01-a", "gw-c01-b"}
        assert [one.detail for one in here].count("intrusion") == 1


def test_a_larger_city_contains_the_smaller() -> None:
    small, large = build(3, 2, instant(NOON)), build(3, 5, instant(NOON))
    assert list(large.devices[: len(small.devices)]) == list(small.devices)


def test_files_say_what_the_city_is(tmp_path: Path) -> None:
    city = build(1, 2, instant(NOON))
    files = write(city, tmp_path / "registry")
    areas, gateways, devices, population = (
        list(csv.DictReader(file.read_text(encoding="utf-8").splitlines())) for file in files
    )
    assert [row["area"] for row in areas] == [one.area for one in city.areas]
    assert [row["gateway"] for row in gateways] == [one.gateway for one in city.gateways]
    assert len(devices) == len(city.devices)
    assert [row["area"] for row in population] == [one.area for one in city.areas if one.residents]
    by_id = {row["device"]: row for row in devices}
    assert by_id["c01-lamp-060"]["programme"] == "always"
    assert by_id["c02-bin-001"]["rated_power_w"] == ""
    place = city.communities["c02"]
    row = next(row for row in areas if row["area"] == "c02")
    assert (float(row["latitude"]), float(row["longitude"])) == (place.latitude, place.longitude)
    assert in_service_from(tmp_path / "registry") == instant(NOON)


def test_a_folder_without_registry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"devices\.csv"):
        in_service_from(tmp_path)
    (tmp_path / "devices.csv").write_text("device,kind\nx,lamp\n")
    with pytest.raises(ScenarioError, match="in_service_from"):
        in_service_from(tmp_path)
