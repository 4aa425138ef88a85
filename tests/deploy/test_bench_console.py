# SPDX-License-Identifier: Apache-2.0
"""`./dev bench console`, tiny, and what counts the events of those who watch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.bench import console
from deploy.bench.__main__ import app
from deploy.bench.viewers import DELTA, RESET, Stream

pytestmark = pytest.mark.timeout(300)

EVENTS = b"c\r\n" + DELTA + b"id: a-1\ndata: {}\n\n" + RESET + b"id: \n\n" + DELTA + b"data: {}\n\n"


@pytest.mark.parametrize("piece", [1, 5, len(EVENTS)])
def test_events_are_counted_once_however_they_are_cut(piece: int) -> None:
    for cut in range(1, len(EVENTS)):
        stream, rest = Stream("", "/"), EVENTS[cut:]
        pieces = [EVENTS[:cut], *(rest[n : n + piece] for n in range(0, len(rest), piece))]
        buffer = bytearray(DELTA * 20)  # what a buffer holds beyond is not of this read
        for one in pieces:
            buffer[: len(one)] = one
            stream.take(buffer, len(one))
        assert (stream.deltas, stream.resets) == (2, 1), cut


def test_pages_are_measured_and_show_what_is_registered(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    done = CliRunner().invoke(
        app,
        ["console", "--json", str(file), "--devices", "200", "--seconds", "1", "--changes", "500",
         "--rounds", "1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(file.read_text())
    assert [one["wrong"] for one in report["runs"] if one["wrong"]] == []
    budgets = [one["budget"] for one in report["runs"] if one["budget"] is not None]
    assert budgets == [
        console.PICTURE_MS, console.SCRIPT_KB, console.CHUNK_KB, console.BATCH_MS,
    ]  # fmt: skip
