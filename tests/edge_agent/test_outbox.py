# SPDX-License-Identifier: Apache-2.0
"""The outbox keeps what it accepted, numbers it once, and lets go by watermark alone."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from edge_agent.errors import ImpossibleAck, OutboxFull, OutboxUnavailable, PayloadTooLarge
from edge_agent.kinds.alarm import AlarmEvent
from edge_agent.lanes import LANES, Accepted, AlarmKey, Draft, new_id
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    EventMessage,
    GapEvent,
    Lane,
    Rejection,
    Telemetry,
    encode,
    parse_event,
    parse_telemetry,
)
from edge_agent.outbox import QUARANTINE_MAX, Outbox
from edge_agent.packing import pack
from tests.edge_agent.rig import T0, HandClock, lamp, noise

MEBIBYTE = 1024 * 1024


def telemetry(mark: int = 0, readings: int = 1, at: datetime = T0) -> Draft:
    def make(stream: str, seq: int) -> Telemetry:
        found = tuple(lamp(f"lamp-{i:04d}", at, power_w=float(mark)) for i in range(readings))
        return Telemetry(stream=stream, seq=seq, sent_at=at, readings=found)

    return Draft("telemetry", make)


def too_large() -> Draft:
    def make(stream: str, seq: int) -> Telemetry:
        found = tuple(lamp(f"lamp-{i:04d}-{'x' * 50}", T0) for i in range(1_000))
        return Telemetry(stream=stream, seq=seq, sent_at=T0, readings=found)

    return Draft("telemetry", make)


def event(mark: int = 0) -> Draft:
    def make(stream: str, seq: int) -> EventMessage:
        alarm = AlarmEvent(
            device="alarm-1", at=T0, event="smoke", phase="raised", occurrence=f"o-{mark}"
        )
        return EventMessage(stream=stream, seq=seq, sent_at=T0, event=alarm)

    return Draft("event", make)


def draft(lane: Lane, mark: int = 0) -> Draft:
    return telemetry(mark) if lane == "telemetry" else event(mark)


def open_outbox(path: Path, limit_bytes: int = 64 * MEBIBYTE) -> Outbox:
    return Outbox(path, clock=HandClock().now, limit_bytes=limit_bytes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    made = open_outbox(path)
    yield made
    made.close()


def held(outbox: Outbox, lane: Lane) -> list[int]:
    return [one.seq for one in outbox.pending(lane, after=0, limit=10_000)]


def test_seqs_start_at_one_and_count_per_lane(outbox: Outbox) -> None:
    accepted = outbox.append([event(), telemetry(), telemetry(), event()])
    assert [(one.lane, one.seq) for one in accepted] == [
        ("event", 1),
        ("telemetry", 1),
        ("telemetry", 2),
        ("event", 2),
    ]
    assert {one.stream for one in accepted} == {one.stream for one in outbox.streams()}
    assert len({one.stream for one in accepted}) == 2


def test_payload_is_what_the_contract_says(outbox: Outbox) -> None:
    sent, alarm = outbox.append([telemetry(7, readings=3), event(9)])
    batch = parse_telemetry(sent.payload)
    assert (batch.stream, batch.seq, len(batch.readings)) == (sent.stream, 1, 3)
    assert parse_event(alarm.payload) == alarm.message
    assert sent.payload_bytes == len(sent.payload)
    assert [one.payload for one in outbox.pending("telemetry", after=0, limit=9)] == [sent.payload]


def test_seq_of_a_deleted_last_message_is_not_given_out_again(outbox: Outbox, path: Path) -> None:
    stream = outbox.append([telemetry(), telemetry()])[0].stream
    assert outbox.discard(stream, 2) == 2
    outbox.close()
    reopened = open_outbox(path)
    assert [one.seq for one in reopened.append([telemetry()])] == [3]
    assert reopened.lane("telemetry").stream == stream
    reopened.close()


def test_status_names_oldest_and_next(outbox: Outbox) -> None:
    stream = outbox.lane("telemetry").stream
    assert outbox.lane("telemetry").oldest == outbox.lane("telemetry").next == 1
    outbox.append([telemetry() for _ in range(5)])
    outbox.discard(stream, 3)
    status = next(one for one in outbox.streams() if one.lane == "telemetry")
    assert (status.stream, status.oldest, status.next) == (stream, 4, 6)
    outbox.discard(stream, 5)
    assert outbox.lane("telemetry").oldest == outbox.lane("telemetry").next == 6
    assert outbox.depth() == outbox.held_bytes() == 0


@pytest.mark.parametrize(
    ("stream", "upto"),
    [
        pytest.param(None, 3, id="watermark-at-next"),
        pytest.param(None, 2**53 - 1, id="watermark-far-beyond"),
        pytest.param("someone-else", 1, id="unknown-stream"),
    ],
)
def test_impossible_watermark_deletes_nothing(
    outbox: Outbox, stream: str | None, upto: int
) -> None:
    own = outbox.append([telemetry(), telemetry()])[0].stream
    with pytest.raises(ImpossibleAck):
        outbox.discard(stream or own, upto)
    assert held(outbox, "telemetry") == [1, 2]
    assert outbox.settle({stream or own: upto}, ()).impossible


def test_impossible_watermark_does_not_hold_up_the_other_lane(outbox: Outbox) -> None:
    outbox.append([telemetry(), event()])
    done = outbox.settle({outbox.lane("telemetry").stream: 99, outbox.lane("event").stream: 1}, ())
    assert (done.discarded, len(done.impossible)) == (1, 1)
    assert (held(outbox, "telemetry"), held(outbox, "event")) == ([1], [])


def test_repeated_and_falling_watermarks_change_nothing(outbox: Outbox) -> None:
    stream = outbox.append([telemetry() for _ in range(4)])[0].stream
    assert outbox.discard(stream, 3) == 3
    assert outbox.discard(stream, 3) == 0
    assert outbox.discard(stream, 1) == 0
    assert outbox.discard(stream, 0) == 0
    assert held(outbox, "telemetry") == [4]


def test_rejected_message_is_quarantined_by_seq(outbox: Outbox) -> None:
    accepted = outbox.append([telemetry(1), telemetry(2), telemetry(3)])
    done = outbox.settle({}, [Rejection(stream=accepted[1].stream, seq=2, reason="batch.empty")])
    assert done.quarantined == 1
    assert held(outbox, "telemetry") == [1, 3]
    assert outbox.quarantine() == [(accepted[1].stream, 2, "batch.empty", accepted[1].payload)]
    again = outbox.settle({}, [Rejection(stream=accepted[1].stream, seq=2, reason="batch.empty")])
    assert again.quarantined == 0


def test_rejected_message_is_quarantined_by_hash(outbox: Outbox) -> None:
    accepted = outbox.append([telemetry(1), event(2), event(3)])
    digest = hashlib.sha256(accepted[1].payload).hexdigest()
    done = outbox.settle({}, [Rejection(sha256=digest, reason="payload.not_json")])
    assert done.quarantined == 1
    assert (held(outbox, "telemetry"), held(outbox, "event")) == ([1], [2])
    assert outbox.lane("event").held == 1
    assert outbox.lane("event").held_bytes == len(pack(accepted[2].payload))


def test_rejection_and_watermark_in_one_answer_keep_the_bytes(outbox: Outbox) -> None:
    (one,) = outbox.append([telemetry()])
    done = outbox.settle({one.stream: 1}, [Rejection(stream=one.stream, seq=1, reason="x")])
    assert (done.quarantined, done.discarded) == (1, 0)
    assert outbox.quarantine()[0][3] == one.payload


def test_rejected_reading_does_not_remove_its_message(outbox: Outbox) -> None:
    (one,) = outbox.append([telemetry(readings=2)])
    done = outbox.settle(
        {}, [Rejection(stream=one.stream, seq=1, index=1, reason="device.unknown")]
    )
    assert done.quarantined == 0
    assert held(outbox, "telemetry") == [1]


def test_rejection_of_what_was_never_sent_is_impossible(outbox: Outbox) -> None:
    stream = outbox.lane("event").stream
    done = outbox.settle({}, [Rejection(stream=stream, seq=1, reason="x")])
    assert len(done.impossible) == 1


def test_quarantine_is_bounded_and_keeps_the_newest(outbox: Outbox) -> None:
    count = QUARANTINE_MAX + 20
    accepted = outbox.append([event(i) for i in range(count)])
    stream = accepted[0].stream
    outbox.settle({}, [Rejection(stream=stream, seq=i + 1, reason="x") for i in range(count)])
    assert [seq for _, seq, _, _ in outbox.quarantine()] == list(range(21, count + 1))
    assert outbox.depth() == 0


@pytest.fixture
def small(path: Path) -> Iterator[Outbox]:
    """An outbox that is soon full."""
    made = open_outbox(path, limit_bytes=MEBIBYTE)
    yield made
    made.close()


def gaps(accepted: Sequence[Accepted]) -> list[GapEvent]:
    events = [one.message.event for one in accepted if isinstance(one.message, EventMessage)]
    return [one for one in events if isinstance(one, GapEvent)]


def fill(outbox: Outbox, draft: Draft, *, until: int = 1) -> list[Accepted]:
    """Append until there were some evictions; return the gap records."""
    found: list[Accepted] = []
    while len(found) < until:
        found += [one for one in outbox.append([draft]) if gaps([one])]
    return found


def on_disk(path: Path) -> int:
    """What the outbox takes of the disk, all its files together."""
    return sum(file.stat().st_size for file in path.parent.iterdir())


def test_full_outbox_evicts_the_oldest_telemetry_and_leaves_a_gap_record(small: Outbox) -> None:
    stream = small.lane("telemetry").stream
    (record,) = fill(small, noise())
    (gap,) = gaps([record])
    assert (gap.lane, gap.stream, gap.first, gap.at) == ("telemetry", stream, 1, T0)
    kept = held(small, "telemetry")
    assert kept == list(range(gap.last + 1, small.lane("telemetry").next))
    assert gap.count == gap.last == small.evicted["telemetry"]
    assert small.lane("telemetry").oldest == kept[0]
    assert [one.payload for one in small.pending("event", after=0, limit=9)] == [record.payload]
    assert parse_event(record.payload).event == gap


def test_evictions_are_told_when_they_begin_and_end(
    small: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fill(small, noise(), until=3)
    assert caplog.text.count("outbox full") == 1
    lane = small.lane("telemetry")
    small.discard(lane.stream, lane.oldest)
    assert "room again" not in caplog.text
    small.discard(lane.stream, lane.next - 1)
    assert f"evicted_telemetry={small.evicted['telemetry']} evicted_events=0" in caplog.text


def test_all_files_together_stay_within_the_limit(small: Outbox, path: Path) -> None:
    """Also the largest single append that may happen, and the write-ahead log, are within it."""
    high = 0
    for number in range(400):
        small.append([noise(100), noise(13), event(number)])
        high = max(high, on_disk(path))
    assert small.evicted["telemetry"] > 100
    assert 0.8 * MEBIBYTE < high <= MEBIBYTE
    assert small.used_bytes() <= small.limit_bytes() <= MEBIBYTE


def test_telemetry_goes_before_events_and_never_in_their_stead(small: Outbox) -> None:
    fill(small, noise())
    while small.lane("telemetry").held:
        small.append([event(number) for number in range(50)])
    assert small.lane("event").oldest == 1
    assert small.evicted["event"] == 0
    with pytest.raises(OutboxFull) as caught:
        while True:
            small.append([noise()])
    assert caught.value.lane == "telemetry"
    assert small.evicted["event"] == 0
    told: list[GapEvent] = []
    while not small.evicted["event"]:
        told += gaps(small.append([event()]))
    assert small.lane("telemetry").held == 0
    of_events = [gap for gap in told if gap.lane == "event"]
    assert {gap.stream for gap in of_events} == {small.lane("event").stream}
    assert of_events[0].first == 2, "1 is a gap record"
    assert sum(gap.count for gap in of_events) == small.evicted["event"]


def test_gap_records_are_never_evicted_and_no_gap_spans_one(small: Outbox) -> None:
    told = gaps(fill(small, noise(), until=3))
    while small.evicted["event"] < 3_000:
        told += gaps(small.append([event(number) for number in range(50)]))
    for gap in told:
        if gap.lane == "event":
            assert gap.count == gap.last - gap.first + 1
    kept = [parse_event(one.payload) for one in small.pending("event", after=0, limit=100_000)]
    assert [one.event for one in kept if isinstance(one.event, GapEvent)] == told
    evicted = {(gap.lane, seq) for gap in told for seq in range(gap.first, gap.last + 1)}
    assert len(evicted) == small.evicted.total()
    held_seqs = {one.seq for one in kept}
    assert {("event", seq) for seq in range(1, small.lane("event").next)} == (
        {("event", seq) for seq in held_seqs} | {one for one in evicted if one[0] == "event"}
    )


def test_append_is_all_or_nothing_when_nothing_may_be_evicted(small: Outbox) -> None:
    for number in range(60):
        small.append([event(number)])
    lanes = {lane: small.lane(lane) for lane in LANES}
    with pytest.raises(OutboxFull):
        small.append([noise(100)] * 300)
    assert {lane: small.lane(lane) for lane in LANES} == lanes
    assert small.append([noise()])[0].seq == 1


def test_expired_telemetry_is_evicted_in_one_range_and_events_are_not(path: Path) -> None:
    outbox = open_outbox(path)
    outbox.append([event()])
    for day in range(10):
        outbox.append([telemetry(day, at=T0 + timedelta(days=day))])
    assert outbox.expire(T0) == []
    (gap,) = gaps(outbox.expire(T0 + timedelta(days=4)))
    assert (gap.lane, gap.first, gap.last, gap.count) == ("telemetry", 1, 4, 4)
    assert held(outbox, "telemetry") == list(range(5, 11))
    assert held(outbox, "event") == [1, 2]
    outbox.close()


def test_instant_is_found_without_reading_everything(outbox: Outbox) -> None:
    for minute in range(100):
        outbox.append([telemetry(minute, at=T0 + timedelta(minutes=minute))])
    outbox.discard(outbox.lane("telemetry").stream, 10)
    assert outbox.first_since("telemetry", T0 + timedelta(minutes=50)) == 51
    assert outbox.first_since("telemetry", T0) == 11
    assert outbox.first_since("telemetry", T0 + timedelta(days=1)) == 101
    assert outbox.first_since("event", T0) == 1


def test_hours_left_follow_from_what_came_in(path: Path) -> None:
    seconds = 0.0
    outbox = Outbox(
        path, clock=HandClock().now, limit_bytes=100 * MEBIBYTE, monotonic=lambda: seconds
    )
    assert outbox.hours() is None
    for _ in range(120):
        seconds += 60
        outbox.append([noise(100)])
    hours = outbox.hours()
    assert hours is not None
    # A message a minute, each a page of 4 KiB.
    assert hours == pytest.approx(94 * 256 / 60, rel=0.1)
    seconds += 7_200
    assert outbox.hours() is None
    outbox.close()


@pytest.mark.parametrize(
    "readings", [pytest.param(13, id="13-readings"), pytest.param(100, id="100-readings")]
)
def test_a_million_readings_fit_into_100_mb(tmp_path: Path, readings: int) -> None:
    """A share of it, measured on the files at the first eviction."""
    limit_bytes = 8_000_000
    outbox = open_outbox(tmp_path / "data" / "outbox.db", limit_bytes=limit_bytes)
    count = 0
    while not outbox.evicted:
        accepted = outbox.append([noise(readings, number) for number in range(20)])
        count += 20 * readings if not gaps(accepted) else 0
    assert on_disk(tmp_path / "data" / "outbox.db") <= limit_bytes
    per_100_mb = count * 100_000_000 // limit_bytes
    assert per_100_mb >= 1_000_000
    outbox.close()


FORMAT_1 = """
CREATE TABLE lane (lane TEXT PRIMARY KEY, stream TEXT NOT NULL) STRICT;
CREATE TABLE telemetry (seq INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL) STRICT;
CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL) STRICT;
CREATE TABLE occurrence (
    device TEXT NOT NULL, event TEXT NOT NULL, zone TEXT NOT NULL, occurrence TEXT NOT NULL,
    PRIMARY KEY (device, event, zone)
) STRICT;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, stream TEXT NOT NULL,
    seq INTEGER NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL
) STRICT;
INSERT INTO lane VALUES ('telemetry', 'old-telemetry'), ('event', 'old-event');
INSERT INTO occurrence VALUES ('alarm-1', 'smoke', '', 'o-1');
INSERT INTO quarantine VALUES (1, '2026-11-20T18:00:00+00:00', 'old-event', 1, 'x', x'7b7d');
PRAGMA user_version = 1;
"""


def written_by_the_first_format(path: Path, count: int) -> dict[Lane, dict[int, bytes]]:
    """A file as agents wrote it before payloads were packed; return what it holds."""
    payloads: dict[Lane, dict[int, bytes]] = {
        "telemetry": {
            seq: encode(noise(13, seq).make("old-telemetry", seq)) for seq in range(5, count)
        },
        "event": {seq: encode(event(seq).make("old-event", seq)) for seq in range(2, 9)},
    }
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.executescript("PRAGMA journal_mode = WAL;" + FORMAT_1)
        db.executemany("INSERT INTO telemetry VALUES (?, ?)", payloads["telemetry"].items())
        db.executemany("INSERT INTO event VALUES (?, ?)", payloads["event"].items())
    db.close()
    return payloads


def test_file_of_the_first_format_is_taken_over_and_packed(path: Path) -> None:
    payloads = written_by_the_first_format(path, 1_300)
    size = path.stat().st_size
    outbox = open_outbox(path)
    for lane, expected in payloads.items():
        found = outbox.pending(lane, after=0, limit=10_000)
        assert {one.seq: one.payload for one in found} == expected
        state = outbox.lane(lane)
        assert (state.stream, state.held) == (f"old-{lane}", len(expected))
        assert (state.oldest, state.next) == (min(expected), max(expected) + 1)
    assert outbox.occurrences() == {AlarmKey("alarm-1", "smoke", ""): "o-1"}
    assert outbox.quarantine() == [("old-event", 1, "x", b"{}")]
    assert outbox.used_bytes() < size / 2
    assert outbox.first_since("telemetry", T0 + timedelta(seconds=1)) == 1_300
    assert [one.seq for one in outbox.append([telemetry(), event()])] == [1_300, 9]
    outbox.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
    db.close()


def test_full_file_of_the_first_format_loses_nothing_by_the_upgrade(path: Path) -> None:
    payloads = written_by_the_first_format(path, 800)
    assert path.stat().st_size > 1.5 * MEBIBYTE
    outbox = open_outbox(path, limit_bytes=MEBIBYTE)
    accepted = outbox.append([telemetry()])
    assert [one.seq for one in accepted] == [800]
    assert held(outbox, "telemetry") == [*payloads["telemetry"], 800]
    outbox.close()


def test_upgrade_interrupted_at_any_point_is_resumed(path: Path) -> None:
    """Format 2: columns are there, some payloads are packed, some are not."""
    payloads = written_by_the_first_format(path, 40)
    with sqlite3.connect(path) as db:
        for table in ("telemetry", "event"):
            db.execute(f"ALTER TABLE {table} ADD COLUMN at INTEGER")
        db.execute("ALTER TABLE lane ADD COLUMN inherited INTEGER")
        db.execute("ALTER TABLE event ADD COLUMN gap INTEGER NOT NULL DEFAULT 0")
        db.execute(
            "CREATE TABLE unstamped (id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL,"
            " monotonic_us INTEGER NOT NULL, event TEXT NOT NULL) STRICT"
        )
        for seq in range(5, 20):
            row = (pack(payloads["telemetry"][seq]), 1_795_000_000_000, seq)
            db.execute("UPDATE telemetry SET payload = ?, at = ? WHERE seq = ?", row)
        db.execute("PRAGMA user_version = 2")
    db.close()
    outbox = open_outbox(path)
    for lane, expected in payloads.items():
        found = outbox.pending(lane, after=0, limit=10_000)
        assert {one.seq: one.payload for one in found} == expected
    outbox.close()


def test_message_damaged_on_disk_is_set_aside_and_accounted_for(outbox: Outbox, path: Path) -> None:
    accepted = outbox.append([telemetry(1), telemetry(2), telemetry(3)])
    outbox.close()
    content = path.read_bytes()
    packed = pack(accepted[1].payload)
    assert content.count(packed) == 1
    path.write_bytes(content.replace(packed, packed[:-3] + b"???"))
    reopened = open_outbox(path)
    assert held(reopened, "telemetry") == [1, 3]
    ((stream, seq, reason, _),) = reopened.quarantine()
    assert (stream, seq, reason) == (accepted[0].stream, 2, "payload.damaged")
    (one,) = reopened.pending("event", after=0, limit=9)
    gap = parse_event(one.payload).event
    assert isinstance(gap, GapEvent)
    assert (gap.stream, gap.first, gap.last, gap.count) == (accepted[0].stream, 2, 2, 1)
    reopened.close()


def test_stream_found_on_the_disk_awaits_the_servers_word(outbox: Outbox, path: Path) -> None:
    stream = outbox.append([telemetry(1), telemetry(2)])[0].stream
    assert outbox.lane("telemetry").confirmed, "made by this process"
    outbox.close()
    reopened = open_outbox(path)
    assert not reopened.lane("telemetry").confirmed
    assert reopened.settle({stream: 2}, ()).discarded == 2
    assert reopened.lane("telemetry").confirmed
    assert not reopened.lane("event").confirmed
    reopened.close()


@pytest.mark.parametrize("restarts", [0, 2], ids=["at-once", "after-restarts-offline"])
def test_old_copy_moves_what_was_accepted_since_to_a_new_stream(
    outbox: Outbox, path: Path, restarts: int
) -> None:
    """An image of the card is restored after the original went on: its seqs are taken."""
    old = outbox.append([telemetry(1), telemetry(2), event(1)])[0].stream
    outbox.settle({old: 1, outbox.lane("event").stream: 1}, ())
    outbox.close()
    copy = open_outbox(path)  # the original went on to seq 9
    new = copy.append([telemetry(7), telemetry(8)])
    for _ in range(restarts):
        copy.close()
        copy = open_outbox(path)
        new += copy.append([telemetry(9)])
    done = copy.settle({old: 9, copy.lane("event").stream: 1}, ())
    assert (done.renewed, done.impossible) == (("telemetry",), ())
    state = copy.lane("telemetry")
    assert state.stream != old
    assert state.confirmed
    assert (state.oldest, state.next, state.held) == (1, len(new) + 1, len(new))
    for number, (before, after) in enumerate(
        zip(new, copy.pending("telemetry", after=0, limit=99), strict=True), start=1
    ):
        batch = parse_telemetry(after.payload)
        assert (batch.stream, batch.seq, after.seq) == (state.stream, number, number)
        assert isinstance(before.message, Telemetry)
        assert [one for _, one in batch.readings] == list(before.message.readings)
    assert copy.append([telemetry()])[0].seq == len(new) + 1
    assert copy.lane("event").confirmed, "the other lane is no further than it was"
    copy.close()


def test_payload_beyond_the_contract_is_refused(outbox: Outbox) -> None:
    with pytest.raises(PayloadTooLarge, match=str(PAYLOAD_BYTES_MAX)):
        outbox.append([event(), too_large()])
    assert outbox.depth() == 0
    assert outbox.append([event()])[0].seq == 1


def test_standing_alarms_survive_a_restart(outbox: Outbox, path: Path) -> None:
    smoke, panic = AlarmKey("alarm-1", "smoke", "z1"), AlarmKey("alarm-2", "panic", "")
    outbox.append([event()], {smoke: "o-1", panic: "o-2"})
    outbox.append([event()], {panic: None})
    outbox.close()
    reopened = open_outbox(path)
    assert reopened.occurrences() == {smoke: "o-1"}
    reopened.close()


def test_second_process_is_refused(outbox: Outbox, path: Path) -> None:
    outbox.append([event()])
    code = (
        "import sys; from pathlib import Path; from edge_agent.clock import SystemClock\n"
        "from edge_agent.outbox import Outbox\n"
        "from edge_agent.errors import OutboxUnavailable\n"
        "try: Outbox(Path(sys.argv[1]), clock=SystemClock().now)\n"
        "except OutboxUnavailable as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "locked" in done.stdout


def test_durability_settings_are_in_force(path: Path) -> None:
    outbox = open_outbox(path)
    outbox.append([event()])
    outbox.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def flipped(content: bytes) -> bytes:
    """The file with its second page, which holds data, overwritten."""
    return content[:4096] + b"\xa5" * 4096 + content[8192:]


def truncated(content: bytes) -> bytes:
    return content[:5000]


def replaced(content: bytes) -> bytes:
    return b"not a database\n" * (len(content) // 15)


def emptied(content: bytes) -> bytes:
    return content[:0]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flipped, id="page-overwritten"),
        pytest.param(truncated, id="truncated"),
        pytest.param(replaced, id="replaced-by-text"),
        pytest.param(emptied, id="empty"),
    ],
)
def test_damaged_file_is_set_aside_and_begun_with_new_streams(
    path: Path, damage: Callable[[bytes], bytes]
) -> None:
    outbox = open_outbox(path)
    old = {one.stream for one in outbox.append([telemetry(i) for i in range(50)] + [event()])}
    outbox.close()
    path.write_bytes(damage(path.read_bytes()))

    reopened = open_outbox(path)
    assert not old & {one.stream for one in reopened.streams()}
    assert [one.seq for one in reopened.append([telemetry()])] == [1]
    reopened.close()


def test_damaged_file_is_kept_for_people(path: Path) -> None:
    open_outbox(path).close()
    for number in range(5):
        path.write_bytes(b"garbage %d " % number * 500)
        Outbox(path, clock=HandClock(T0.replace(minute=number)).now).close()
    kept = sorted(file.name for file in path.parent.iterdir() if "corrupt" in file.name)
    assert len(kept) == 3
    assert (path.parent / kept[-1]).read_bytes().startswith(b"garbage 4")


def test_file_of_a_newer_agent_is_refused_and_left_alone(path: Path) -> None:
    outbox = open_outbox(path)
    outbox.append([event()])
    outbox.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(OutboxUnavailable, match="newer agent"):
        open_outbox(path)
    assert not [file for file in path.parent.iterdir() if "corrupt" in file.name]


def test_disk_that_fails_accepts_nothing_and_works_again_later(outbox: Outbox) -> None:
    outbox.append([telemetry(1)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        for _ in range(3):
            with pytest.raises(OutboxUnavailable):
                outbox.append([telemetry(2, readings=100), event()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [one.seq for one in outbox.append([telemetry(3), event()])] == [2, 1]
    assert held(outbox, "telemetry") == [1, 2]


def test_disk_filled_by_somebody_else_costs_nothing_that_was_accepted(tmp_path: Path) -> None:
    """F3, on a file system of its own: SQLite cannot even delete when it is full."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    program = 'mount -t tmpfs -o size=6m none "$0" && exec "$1" -m tests.edge_agent.full_disk "$0"'
    done = subprocess.run(
        ["unshare", *as_root, "--mount", "sh", "-c", program, str(tmp_path), sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    happened = json.loads(done.stdout)
    assert happened["filler: No space left on device"] == 1
    assert happened["before: accepted"] == 200
    assert happened["ballast given up"] == 1
    assert happened["gap records"] >= 1, "there was no room, so something was evicted"
    assert happened["full: accepted"] >= 290, "in the room that evictions made"
    assert happened["reopened: accepted"] >= 90
    assert happened["after: accepted"] == 100
    assert happened["ballast is back"] == 1
    assert happened["evicted after"] == 0


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8, 12])
def test_failed_flush_to_the_disk_accepts_nothing_that_could_be_lost(
    tmp_path: Path, nth: int
) -> None:
    """F4: the nth fsync and the nth fdatasync say "I/O error"."""
    trace = tmp_path / "trace"
    calls = "fsync,fdatasync"
    strace = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}"]
    strace += ["-e", f"inject={calls}:error=EIO:when={nth}"]
    program = [sys.executable, "-m", "tests.edge_agent.failing_disk", str(tmp_path / "outbox.db")]
    done = subprocess.run([*strace, *program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert trace.read_text().count("INJECTED") >= 1
    assert done.stdout.count("refused") <= 2, "it works again at once"


def test_closed_outbox_accepts_nothing(path: Path) -> None:
    outbox = open_outbox(path)
    outbox.close()
    with pytest.raises(OutboxUnavailable):
        outbox.append([event()])


def test_ids_sort_by_time_and_never_repeat() -> None:
    clock = HandClock()
    made = [new_id(clock.step(0.002)) for _ in range(200)]
    assert made == sorted(made)
    assert len(set(made)) == 200
    assert all(one == one.lower() and len(one) == 36 and one[14] == "7" for one in made)


# -- power cuts, restarts and answers in any order, against a list and a set -----------------------


# Room for some 50 messages of 100 readings, or 2,000 alarms.
TINY = 384 * 1024
# Readings are slow to make, and their content does not matter here.
POOL = [noise(100, seed) for seed in range(3)]


def same_but_renumbered(before: bytes, after: bytes, stream: str, seq: int) -> bool:
    expected = json.loads(before) | {"stream": stream, "seq": seq}
    return expected == json.loads(after)


class OutboxMachine(RuleBasedStateMachine):
    """The outbox against a naive model: what was accepted, what was let go, what was evicted."""

    #: Over all runs: what a model proves nothing about if it never occurs.
    happened: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        # In memory, where there is such a place: the disk's speed is not what is tested.
        memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="linli-outbox-", dir=memory))
        self.generation = 0
        self.kept: dict[Lane, dict[int, bytes]] = {lane: {} for lane in LANES}
        self.ever: dict[Lane, dict[int, bytes]] = {lane: {} for lane in LANES}
        self.next: dict[Lane, int] = dict.fromkeys(LANES, 1)
        self.inherited: dict[Lane, int | None] = dict.fromkeys(LANES)
        self.records: set[int] = set()
        self.alarms: dict[AlarmKey, str] = {}
        self.mark = 0

    @property
    def path(self) -> Path:
        return self.folder / str(self.generation) / "outbox.db"

    @initialize()
    def begin(self) -> None:
        self.outbox = open_outbox(self.path, limit_bytes=TINY)
        self.streams = {one.lane: one.stream for one in self.outbox.streams()}

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
        shutil.rmtree(self.folder)

    def accept(
        self, drafts: list[Draft], occurrences: dict[AlarmKey, str | None] | None = None
    ) -> None:
        """Append, and have the model do so; evictions first, as they come before the new."""
        try:
            accepted = self.outbox.append(drafts, occurrences)
        except OutboxFull as full:
            assert full.lane == "telemetry", "it is never events that go for it"
            self.happened["telemetry refused"] += 1
            return
        for gap in gaps(accepted):
            self._evicted(gap)
        assert [one.lane for one in accepted[: len(drafts)]] == [one.lane for one in drafts]
        for one in accepted:
            assert one.stream == self.streams[one.lane]
            assert one.seq == self.next[one.lane], "no holes, none twice"
            assert json.loads(one.payload)["seq"] == one.seq
            self.next[one.lane] += 1
            self.kept[one.lane][one.seq] = self.ever[one.lane][one.seq] = one.payload
            if gaps([one]):
                self.records.add(one.seq)

    def _evicted(self, gap: GapEvent) -> None:
        """I6: the oldest, whole messages, all of the range, events only when no telemetry is."""
        self.happened[f"{gap.lane} evicted"] += 1
        assert gap.stream == self.streams[gap.lane]
        kept = self.kept[gap.lane]
        gone = [seq for seq in sorted(kept) if gap.first <= seq <= gap.last]
        assert (gone[0], gone[-1], len(gone)) == (gap.first, gap.last, gap.count)
        below = {seq for seq in kept if seq < gap.first}
        if gap.lane == "event":
            assert not self.kept["telemetry"]
            assert not self.records & set(gone)
            assert below <= self.records
        else:
            assert not below
        for seq in gone:
            del kept[seq]

    @rule(lanes=st.lists(st.sampled_from(LANES), min_size=1, max_size=6))
    def append(self, lanes: list[Lane]) -> None:
        self.accept([draft(lane, self.mark + i) for i, lane in enumerate(lanes)])
        self.mark += len(lanes)

    @rule(count=st.integers(5, 25), seed=st.integers(0, 2))
    def flood(self, count: int, seed: int) -> None:
        self.accept([POOL[seed]] * count)

    @rule(count=st.integers(100, 600))
    def alarms_flood(self, count: int) -> None:
        self.mark += 1
        self.accept([event(self.mark)] * count)

    @rule(device=st.sampled_from(["a", "b"]), raised=st.booleans())
    def alarm(self, device: str, *, raised: bool) -> None:
        key = AlarmKey(device, "smoke", "")
        self.mark += 1
        name = f"o-{self.mark}" if raised else None
        self.accept([event(self.mark)], {key: name})
        if name is None:
            self.alarms.pop(key, None)
        else:
            self.alarms[key] = name

    @rule(lane=st.sampled_from(LANES), back=st.integers(0, 5))
    def watermark(self, lane: Lane, back: int) -> None:
        """A server that knows no more than was published: nothing, before its first answer."""
        published = self.inherited[lane] or self.next[lane]
        upto = max(0, published - 1 - back)
        gone = [seq for seq in self.kept[lane] if seq <= upto]
        assert self.outbox.discard(self.streams[lane], upto) == len(gone)
        for seq in gone:
            del self.kept[lane][seq]
        self.inherited[lane] = None

    @rule(lane=st.sampled_from(LANES), beyond=st.integers(0, 3))
    def impossible_watermark(self, lane: Lane, beyond: int) -> None:
        if self.inherited[lane] is not None:
            return
        with pytest.raises(ImpossibleAck):
            self.outbox.discard(self.streams[lane], self.next[lane] + beyond)

    @rule(lane=st.sampled_from(LANES), ahead=st.integers(0, 30))
    def another_copy_went_on(self, lane: Lane, ahead: int) -> None:
        inherited = self.inherited[lane]
        if inherited is None:
            return
        done = self.outbox.settle({self.streams[lane]: inherited + ahead}, ())
        assert done.renewed == (lane,)
        self.happened[f"{lane} renewed"] += 1
        stream = self.outbox.lane(lane).stream
        assert stream not in self.streams.values()
        self.streams[lane] = stream
        moved = [seq for seq in sorted(self.kept[lane]) if seq >= inherited]
        stored = self.outbox.pending(lane, after=0, limit=100_000)
        assert [one.seq for one in stored] == list(range(1, len(moved) + 1))
        for before, after in zip(moved, stored, strict=True):
            assert same_but_renumbered(self.kept[lane][before], after.payload, stream, after.seq)
        if lane == "event":
            self.records = {moved.index(seq) + 1 for seq in self.records if seq in moved}
        self.kept[lane] = {one.seq: one.payload for one in stored}
        self.ever[lane] = dict(self.kept[lane])
        self.next[lane] = len(moved) + 1
        self.inherited[lane] = None

    @rule(lane=st.sampled_from(LANES), back=st.integers(0, 5), by_hash=st.booleans())
    def reject(self, lane: Lane, back: int, *, by_hash: bool) -> None:
        seq = self.next[lane] - 1 - back
        if seq < 1:
            return
        if by_hash:
            digest = hashlib.sha256(self.ever[lane][seq]).hexdigest()
            rejection = Rejection(sha256=digest, reason="x")
        else:
            rejection = Rejection(stream=self.streams[lane], seq=seq, reason="x")
        done = self.outbox.settle({}, [rejection])
        assert done.quarantined == (seq in self.kept[lane])
        self.kept[lane].pop(seq, None)

    def _found_on_disk(self) -> None:
        self.outbox = open_outbox(self.path, limit_bytes=TINY)
        for lane in LANES:
            if self.inherited[lane] is None:
                self.inherited[lane] = self.next[lane]

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self._found_on_disk()

    @rule(torn=st.binary(max_size=40))
    def crash(self, torn: bytes) -> None:
        """Take the files as they lie on the disk, as a killed process leaves them.

        ``torn`` is the beginning of a transaction that was being written and never committed.
        """
        before = self.path
        self.generation += 1
        shutil.copytree(before.parent, self.path.parent)
        self.outbox.close()
        wal = self.path.with_name("outbox.db-wal")
        if wal.exists():
            with wal.open("ab") as file:
                file.write(torn)
        self._found_on_disk()

    @rule(lane=st.sampled_from(LANES))
    def refused_append(self, lane: Lane) -> None:
        """A draft that fails after others of its group were numbered uses up no seq."""
        with pytest.raises(PayloadTooLarge):
            self.outbox.append([draft(lane), too_large()])

    @invariant()
    def holds_what_was_accepted_and_not_let_go(self) -> None:
        if not hasattr(self, "outbox"):
            return
        for lane in LANES:
            stored = self.outbox.pending(lane, after=0, limit=100_000)
            assert {one.seq: one.payload for one in stored} == self.kept[lane]
            assert [one.seq for one in stored] == sorted(self.kept[lane])
            state = self.outbox.lane(lane)
            assert state.next == self.next[lane]
            assert state.oldest == min(self.kept[lane], default=self.next[lane])
            assert state.held == len(self.kept[lane])
            assert state.stream == self.streams[lane]
            assert state.inherited == self.inherited[lane]
        assert self.outbox.used_bytes() <= self.outbox.limit_bytes()
        assert self.outbox.occurrences() == self.alarms


def test_outbox_agrees_with_a_naive_model_through_crashes() -> None:
    OutboxMachine.happened.clear()
    expected = {f"{lane} {what}" for lane in LANES for what in ("evicted", "renewed")}
    # What is tried is chance, so that now and then something rare is not among it.
    for _ in range(5):
        run_state_machine_as_test(
            OutboxMachine,
            settings=settings(max_examples=50, stateful_step_count=40, deadline=None),
        )
        if OutboxMachine.happened.keys() >= expected:
            break
    assert OutboxMachine.happened.keys() >= expected
