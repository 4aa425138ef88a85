# SPDX-License-Identifier: Apache-2.0
"""The driver for devices that another program keeps in files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.drivers.json_file import EVENTS_BYTES_MAX, JsonFile, make
from edge_agent.kinds import Observation
from edge_agent.kinds.alarm import AlarmReading, AlarmSignal
from edge_agent.kinds.bin import BinReading, DepositEvent
from edge_agent.kinds.gate import GateReading, Passage
from edge_agent.kinds.lamp import LampReading
from tests.edge_agent.rig import T0


def put(path: Path, values: Mapping[str, Any] | str, at: datetime = T0) -> None:
    """Replace the values as a careful writer does: by rename, dated ``at``."""
    draft = path.with_suffix(".new")
    draft.write_text(values if isinstance(values, str) else json.dumps(values))
    os.utime(draft, (at.timestamp(), at.timestamp()))
    draft.rename(path)


def tell(path: Path, *lines: Mapping[str, Any] | str) -> None:
    with path.with_name(path.name + ".events").open("a") as file:
        for line in lines:
            file.write(line if isinstance(line, str) else json.dumps(line) + "\n")


def driver(path: Path, kind: str) -> JsonFile:
    return make("device-1", {"kind": kind, "path": str(path)})


def events(found: Sequence[Observation]) -> list[Observation]:
    """Without the reading, which is always last."""
    return list(found[:-1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device-1.json"


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (
            "lamp",
            {"lit": True, "power_w": 41.5, "fault": "driver_overheated"},
            LampReading(
                device="device-1", at=T0, lit=True, power_w=41.5, fault="driver_overheated"
            ),
        ),
        ("bin", {"fill_pct": 30}, BinReading(device="device-1", at=T0, fill_pct=30)),
        ("gate", {"door": "held"}, GateReading(device="device-1", at=T0, door="held")),
        ("alarm", {}, AlarmReading(device="device-1", at=T0)),
    ],
    ids=["lamp", "bin", "gate", "alarm"],
)
def test_values_become_a_reading_of_the_moment_they_were_written(
    path: Path, kind: str, values: dict[str, Any], expected: Observation
) -> None:
    put(path, values)
    assert driver(path, kind).poll(T0 + timedelta(seconds=5)) == [expected]


def test_file_dated_ahead_of_the_clock_is_read_as_now(path: Path) -> None:
    put(path, {"lit": True}, T0 + timedelta(hours=1))
    assert driver(path, "lamp").poll(T0)[-1].at == T0


@pytest.mark.parametrize(
    "values",
    [
        pytest.param("", id="empty"),
        pytest.param('{"lit": tru', id="cut-short"),
        pytest.param("[1]", id="no-object"),
        pytest.param({"lit": "true"}, id="text-for-boolean"),
        pytest.param({"power_w": -1}, id="out-of-range"),
        pytest.param('{"power_w": NaN}', id="not-a-number"),
        pytest.param({"lite": True}, id="misspelt-field"),
        pytest.param({"device": "other"}, id="contradicts-the-device"),
        pytest.param("[" * 50_000, id="nested-deep"),
        pytest.param('{"lit": true}' + " " * 70_000, id="too-long"),
    ],
)
def test_values_that_fit_no_reading_are_refused(path: Path, values: Any) -> None:
    put(path, values)
    with pytest.raises(ValueError):
        driver(path, "lamp").poll(T0)


def test_missing_file_is_a_device_that_does_not_answer(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        driver(path, "lamp").poll(T0)


def test_events_are_taken_once_and_whole_lines_only(path: Path) -> None:
    put(path, {"door": "closed"})
    one = driver(path, "gate")
    assert events(one.poll(T0)) == []
    tell(path, {"event": "granted", "direction": "in", "credential": "4711", "at": T0.isoformat()})
    tell(path, '{"event": "den')
    assert events(one.poll(T0)) == [Passage("device-1", T0, "granted", "in", "4711")]
    assert events(one.poll(T0)) == []
    tell(path, 'ied"}\n')
    assert events(one.poll(T0)) == [Passage("device-1", T0, "denied")]


@pytest.mark.parametrize(
    ("kind", "line", "expected"),
    [
        (
            "bin",
            {"weight_kg": 1.5, "sorted_ok": True},
            DepositEvent(device="device-1", at=T0, weight_kg=1.5, sorted_ok=True),
        ),
        (
            "alarm",
            {"event": "smoke", "phase": "raised", "zone": "z1"},
            AlarmSignal("device-1", T0, "smoke", "raised", "z1"),
        ),
    ],
    ids=["bin", "alarm"],
)
def test_events_of_other_classes(
    path: Path, kind: str, line: dict[str, Any], expected: Observation
) -> None:
    put(path, {})
    tell(path, line)
    assert events(driver(path, kind).poll(T0)) == [expected]


def test_event_written_before_the_clock_was_set_happened_at_the_latest_now(path: Path) -> None:
    put(path, {})
    tell(path, {"event": "forced", "at": "1970-01-01T00:05:00Z"})
    assert events(driver(path, "gate").poll(T0)) == [Passage("device-1", T0, "forced")]


def test_bad_line_is_left_out_without_telling_its_content(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, {})
    tell(path, "{\n", {"event": "granted", "card": "secret-4711"}, {"event": "forced"})
    tell(path, {"event": "granted", "at": "2026-11-20T18:00:00"}, "\x00\xff\n")
    caplog.set_level(logging.DEBUG)
    assert events(driver(path, "gate").poll(T0)) == [Passage("device-1", T0, "forced")]
    assert len(caplog.records) == 4
    assert "4711" not in caplog.text


def test_offset_survives_a_restart_and_a_crash_repeats_at_worst(path: Path) -> None:
    put(path, {})
    tell(path, {"event": "granted"})
    first = driver(path, "gate")
    assert len(events(first.poll(T0))) == 1
    # Ended before it was asked again: nobody knows whether the event was kept, so it comes twice.
    second = driver(path, "gate")
    assert len(events(second.poll(T0))) == 1
    assert events(second.poll(T0)) == []
    assert events(driver(path, "gate").poll(T0)) == []


def test_file_begun_anew_is_read_from_its_beginning(path: Path) -> None:
    put(path, {})
    tell(path, {"event": "granted"}, {"event": "denied"})
    one = driver(path, "gate")
    assert len(events(one.poll(T0))) == 2
    path.with_name(path.name + ".events").unlink()
    tell(path, {"event": "forced"})
    assert events(one.poll(T0)) == [Passage("device-1", T0, "forced")]


def test_no_event_is_taken_while_the_values_cannot_be_had(path: Path) -> None:
    tell(path, {"event": "granted"})
    one = driver(path, "gate")
    with pytest.raises(FileNotFoundError):
        one.poll(T0)
    put(path, {})
    assert len(events(one.poll(T0))) == 1


def test_line_without_end_does_not_stop_what_follows(path: Path) -> None:
    put(path, {})
    tell(path, "x" * (EVENTS_BYTES_MAX + 10) + "\n", {"event": "forced"})
    one = driver(path, "gate")
    found = [event for _ in range(3) for event in events(one.poll(T0))]
    assert found == [Passage("device-1", T0, "forced")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"kind": "lamp"}, "option path", id="no-path"),
        pytest.param({"path": "/x"}, "option kind", id="no-kind"),
        pytest.param({"kind": "goat", "path": "/x"}, "expected one of lamp", id="unknown-kind"),
        pytest.param({"kind": "lamp", "path": "x.json"}, "absolute path", id="relative-path"),
        pytest.param({"kind": "lamp", "path": "/x", "paht": 1}, "unknown option", id="misspelt"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make("device-1", options)
