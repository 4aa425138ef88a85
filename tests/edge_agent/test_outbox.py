# SPDX-License-Identifier: Apache-2.0
"""The outbox keeps what it accepted, numbers it once, and lets go by watermark alone."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

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
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    EventMessage,
    Lane,
    Rejection,
    Telemetry,
    parse_event,
    parse_telemetry,
)
from edge_agent.outbox import (
    LANES,
    QUARANTINE_MAX,
    Accepted,
    AlarmKey,
    Draft,
    Outbox,
    new_id,
)
from tests.edge_agent.rig import T0, HandClock, lamp

MEBIBYTE = 1024 * 1024


def telemetry(mark: int = 0, readings: int = 1) -> Draft:
    def make(stream: str, seq: int) -> Telemetry:
        found = tuple(lamp(f"lamp-{i:04d}", T0, power_w=float(mark)) for i in range(readings))
        return Telemetry(stream=stream, seq=seq, sent_at=T0, readings=found)

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
    assert outbox.lane("event").held_bytes == len(accepted[2].payload)


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


def test_append_is_all_or_nothing_when_full(path: Path) -> None:
    outbox = open_outbox(path, limit_bytes=MEBIBYTE)
    batch = [telemetry(readings=100) for _ in range(40)]
    outbox.append(batch)
    depth = outbox.depth()
    with pytest.raises(OutboxFull) as caught:
        outbox.append(batch * 3)
    assert caught.value.lane == "telemetry"
    assert outbox.depth() == depth
    assert outbox.append([telemetry()])[0].seq == depth + 1
    outbox.close()


def test_events_fit_long_after_telemetry_is_refused(path: Path) -> None:
    outbox = open_outbox(path, limit_bytes=MEBIBYTE)
    with pytest.raises(OutboxFull):
        while True:
            outbox.append([telemetry(readings=100)])
    accepted = outbox.append([event(i) for i in range(400)])
    assert len(accepted) == 400
    with pytest.raises(OutboxFull) as caught:
        while True:
            outbox.append([event()])
    assert caught.value.lane == "event"
    outbox.discard(outbox.lane("telemetry").stream, outbox.lane("telemetry").next - 1)
    assert outbox.append([telemetry()])
    outbox.close()


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


class OutboxMachine(RuleBasedStateMachine):
    """The outbox against a naive model: what was accepted, and what was let go."""

    def __init__(self) -> None:
        super().__init__()
        # In memory, where there is such a place: the disk's speed is not what is tested.
        memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="linli-outbox-", dir=memory))
        self.generation = 0
        self.kept: dict[Lane, dict[int, bytes]] = {lane: {} for lane in LANES}
        self.ever: dict[Lane, dict[int, bytes]] = {lane: {} for lane in LANES}
        self.next: dict[Lane, int] = dict.fromkeys(LANES, 1)
        self.alarms: dict[AlarmKey, str] = {}
        self.mark = 0

    @property
    def path(self) -> Path:
        return self.folder / str(self.generation) / "outbox.db"

    @initialize()
    def begin(self) -> None:
        self.outbox = open_outbox(self.path, limit_bytes=MEBIBYTE)
        self.streams = {one.lane: one.stream for one in self.outbox.streams()}

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
        shutil.rmtree(self.folder)

    @rule(lanes=st.lists(st.sampled_from(LANES), min_size=1, max_size=6))
    def append(self, lanes: list[Lane]) -> None:
        drafts = [draft(lane, self.mark + i) for i, lane in enumerate(lanes)]
        self.mark += len(lanes)
        for one in self.outbox.append(drafts):
            self._accepted(one)

    def _accepted(self, one: Accepted) -> None:
        assert one.stream == self.streams[one.lane]
        assert one.seq == self.next[one.lane], "no holes, none twice"
        assert json.loads(one.payload)["seq"] == one.seq
        self.next[one.lane] += 1
        self.kept[one.lane][one.seq] = self.ever[one.lane][one.seq] = one.payload

    @rule(device=st.sampled_from(["a", "b"]), raised=st.booleans())
    def alarm(self, device: str, *, raised: bool) -> None:
        key = AlarmKey(device, "smoke", "")
        self.mark += 1
        name = f"o-{self.mark}" if raised else None
        for one in self.outbox.append([event(self.mark)], {key: name}):
            self._accepted(one)
        if name is None:
            self.alarms.pop(key, None)
        else:
            self.alarms[key] = name

    @rule(lane=st.sampled_from(LANES), back=st.integers(0, 5))
    def watermark(self, lane: Lane, back: int) -> None:
        upto = max(0, self.next[lane] - 1 - back)
        gone = [seq for seq in self.kept[lane] if seq <= upto]
        assert self.outbox.discard(self.streams[lane], upto) == len(gone)
        for seq in gone:
            del self.kept[lane][seq]

    @rule(lane=st.sampled_from(LANES), beyond=st.integers(0, 3))
    def impossible_watermark(self, lane: Lane, beyond: int) -> None:
        with pytest.raises(ImpossibleAck):
            self.outbox.discard(self.streams[lane], self.next[lane] + beyond)

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

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.outbox = open_outbox(self.path, limit_bytes=MEBIBYTE)

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
        self.outbox = open_outbox(self.path, limit_bytes=MEBIBYTE)

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
            assert state.held_bytes == sum(map(len, self.kept[lane].values()))
            assert state.stream == self.streams[lane]
        assert self.outbox.occurrences() == self.alarms


def test_outbox_agrees_with_a_naive_model_through_crashes() -> None:
    run_state_machine_as_test(
        OutboxMachine,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )
