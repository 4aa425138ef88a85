# SPDX-License-Identifier: Apache-2.0
"""The ledger: nothing accepted is missing from it, and what it settles is what is true."""

import hashlib
import json
import sqlite3
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from edge_agent.kinds.alarm import AlarmEvent
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import EventMessage, Telemetry, encode
from simulators.errors import LedgerError
from simulators.expect import OUTAGE_MIN_US, max_silence_us
from simulators.faults import Fault, FaultKind
from simulators.spans import HOUR, MINUTE, SECOND, Span, covers, instant, micros
from simulators.truth import FILE, Ledger, canonical, digest, settle
from simulators.world import DAY, World, night_of
from tests.simulators.town import NOON, device, every, fault, live_through, world

LAMP, ALWAYS = "c01-lamp-001", "c01-lamp-060"
STREAM = "stream-1"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / FILE)
    yield made
    made.close()


def rows(ledger: Ledger, query: str) -> list[tuple[object, ...]]:
    """What another program finds in the file."""
    with closing(sqlite3.connect(f"file:{ledger.file}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def telemetry(seq: int, *readings: LampReading) -> bytes:
    return encode(
        Telemetry(stream=STREAM, seq=seq, sent_at=readings[-1].at, readings=tuple(readings))
    )


def lamp(us: int, lit: bool = True) -> LampReading:
    return LampReading(device=LAMP, at=instant(us), lit=lit, power_w=41.5)


def alarm(us: int) -> EventMessage:
    event = AlarmEvent(
        device="c01-alarm-001", at=instant(us), event="panic", phase="raised", occurrence="o1"
    )
    return EventMessage(stream="stream-2", seq=1, sent_at=instant(us), event=event)


def test_canonical_json_is_written_down() -> None:
    reading = lamp(NOON + 500_000)
    item = json.loads(telemetry(1, reading))["readings"][0]
    text = (
        '{"at":"2026-11-20T04:00:00.500000Z","device":"c01-lamp-001",'
        '"kind":"lamp","lit":true,"power_w":41.5}'
    )
    assert canonical(item) == text
    assert digest(item) == hashlib.sha256(text.encode()).hexdigest()
    assert canonical({"b": "桂园", "a": 1.0}) == '{"a":1.0,"b":"桂园"}'


def test_a_row_for_each_reading_and_event(ledger: Ledger) -> None:
    assert (
        ledger.accept("gw-c01-a", "telemetry", STREAM, 1, telemetry(1, lamp(NOON), lamp(NOON + 9)))
        == 2
    )
    assert ledger.accept("gw-c01-a", "event", "stream-2", 1, encode(alarm(NOON + 5))) == 1
    assert rows(ledger, "SELECT 1 FROM accepted") == []
    ledger.commit()
    assert ledger.accepted == 3
    assert rows(ledger, "SELECT lane, gateway, stream, seq, kind, device, at_us FROM accepted") == [
        ("telemetry", "gw-c01-a", STREAM, 1, "lamp", LAMP, NOON),
        ("telemetry", "gw-c01-a", STREAM, 1, "lamp", LAMP, NOON + 9),
        ("event", "gw-c01-a", "stream-2", 1, "alarm", "c01-alarm-001", NOON + 5),
    ]
    assert ledger.progress() == {"gw-c01-a": NOON + 9}


def test_written_from_many_threads(ledger: Ledger) -> None:
    def write(gateway: str) -> None:
        for seq in range(1, 51):
            ledger.accept(gateway, "telemetry", gateway, seq, telemetry(seq, lamp(NOON + seq)))
            ledger.commit()

    threads = [threading.Thread(target=write, args=(f"gw-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(ledger, "SELECT count(*), count(DISTINCT gateway || seq) FROM accepted") == [
        (300, 300)
    ]


class TestAfterACrash:
    """The outbox committed, and the ledger did not."""

    def take_over(self, ledger: Ledger, following: int, held: Sequence[int]) -> int:
        messages = [(seq, telemetry(seq, lamp(NOON + seq))) for seq in held]
        return ledger.take_over("gw-c01-a", "telemetry", STREAM, following, messages)

    def recorded(self, ledger: Ledger) -> list[object]:
        return [seq for (seq,) in rows(ledger, "SELECT seq FROM accepted ORDER BY seq")]

    def unrecorded(self, ledger: Ledger) -> list[object]:
        return [seq for (seq,) in rows(ledger, "SELECT seq FROM unrecorded ORDER BY seq")]

    def test_the_outbox_still_holds_it(self, ledger: Ledger) -> None:
        self.take_over(ledger, 4, [1, 2, 3])
        assert self.take_over(ledger, 7, [2, 3, 4, 5, 6]) == 3
        assert self.recorded(ledger) == [1, 2, 3, 4, 5, 6]
        assert self.unrecorded(ledger) == []

    def test_the_outbox_was_emptied(self, ledger: Ledger) -> None:
        self.take_over(ledger, 3, [1, 2])
        assert self.take_over(ledger, 6, []) == 3
        assert self.take_over(ledger, 8, [7]) == 2
        assert self.recorded(ledger) == [1, 2, 7]
        assert self.unrecorded(ledger) == [3, 4, 5, 6]

    def test_nothing_was_missed(self, ledger: Ledger) -> None:
        self.take_over(ledger, 3, [1, 2])
        assert self.take_over(ledger, 3, [1, 2]) == 0
        assert self.take_over(ledger, 3, []) == 0
        assert self.recorded(ledger) == [1, 2]

    def test_sessions_and_lines_come_to_an_end(self, ledger: Ledger) -> None:
        ledger.begin_session(NOON)
        ledger.cut("gw-c01-a", NOON + 1 - OUTAGE_MIN_US)
        ledger.cut("gw-c01-b", NOON)
        self.take_over(ledger, 2, [1])
        assert ledger.sessions() == [(NOON, NOON + 1)]
        ledger.recover()
        ledger.begin_session(NOON + 10)
        ledger.cut("gw-c01-b", NOON + 11)
        ledger.healed("gw-c01-b", NOON + 12)
        ledger.end_session(NOON + 20)
        assert ledger.sessions() == [(NOON, NOON + 1), (NOON + 10, NOON + 20)]
        # One had been silent for long when the crash came, of the other nobody can be sure.
        assert ledger.outages() == [
            ("gw-c01-a", NOON + 1 - OUTAGE_MIN_US, NOON + 1),
            ("gw-c01-b", NOON + 11, NOON + 12),
        ]


def test_faults_are_kept(ledger: Ledger) -> None:
    faults = [
        fault(FaultKind.ALARM, "c01-alarm-001", NOON, 60, "smoke"),
        fault(FaultKind.BIN_FIRE, "c01-bin-001", NOON + 1, 60),
    ]
    ledger.add_faults(faults)
    ledger.add_faults(faults[:1])
    file = ledger.file
    ledger.close()
    with closing(Ledger(file)) as again:
        assert again.faults() == faults


def test_bound_to_one_city(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="nothing was run"):
        ledger.owner()
    assert ledger.own(7, 2) == (7, 2)
    assert ledger.owner() == (7, 2)
    with pytest.raises(LedgerError, match="seed 7 with 2"):
        ledger.own(8, 2)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, and long enough to be looked at " * 10)
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger(tmp_path / "text")
    with closing(sqlite3.connect(tmp_path / "other")) as db:
        db.execute("CREATE TABLE meta (key TEXT, value TEXT)")
        db.commit()
    with pytest.raises(LedgerError, match="another version"):
        Ledger(tmp_path / "other")


# -- settlement -------------------------------------------------------------------------------

SPAN = NOON, NOON + DAY
DUSK = NOON + 6 * HOUR
FAULTS = {
    "nothing wrong": (),
    "broken": (fault(FaultKind.LAMP_BROKEN, LAMP, NOON + 9 * HOUR, 5_000),),
    "flicker": (fault(FaultKind.LAMP_FLICKER, LAMP, NOON + 9 * HOUR, 100),),
    "day burner": (fault(FaultKind.LAMP_DAY_BURNER, LAMP, NOON + HOUR, 5_000),),
    "dead over dusk": (fault(FaultKind.DEVICE_DEAD, LAMP, DUSK - 10 * MINUTE, 7_000),),
    "dead by night": (fault(FaultKind.DEVICE_DEAD, LAMP, NOON + 9 * HOUR, 7_000),),
    "dead over dawn": (fault(FaultKind.DEVICE_DEAD, LAMP, NOON + 19 * HOUR, 7_000),),
    "dead for a moment while broken": (
        fault(FaultKind.LAMP_BROKEN, LAMP, NOON + 9 * HOUR, 5_000),
        fault(FaultKind.DEVICE_DEAD, LAMP, NOON + 9 * HOUR - 5 * MINUTE, 1_200),
    ),
}


def report(town: World, ledger: Ledger, name: str, polls: Sequence[int]) -> list[LampReading]:
    """Let a lamp live, and accept all that it tells."""
    told = [one for one in live_through(town, name, polls) if isinstance(one, LampReading)]
    for seq, one in zip(count(1), told, strict=False):
        ledger.accept("gw-c01-a", "telemetry", STREAM, seq, telemetry(seq, one))
    ledger.commit()
    return told


def spans(ledger: Ledger, table: str, name: str) -> list[Span]:
    found = rows(
        ledger, f"SELECT from_us, to_us FROM {table} WHERE device = '{name}' ORDER BY from_us"
    )
    return [(start, end) for start, end in found if isinstance(start, int) and isinstance(end, int)]


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("name", [LAMP, ALWAYS])
def test_settled_as_the_readings_say(ledger: Ledger, name: str, faults: tuple[Fault, ...]) -> None:
    """Second by second: what the last reading says, as long as it holds."""
    town = world(Fault(one.from_us, one.to_us, one.kind, name, one.detail) for one in faults)
    told = report(town, ledger, name, every(SPAN, 600))
    settle(ledger, town)
    lit, observed = spans(ledger, "lit", name), spans(ledger, "observed", name)
    instants = [micros(one.at) for one in told]
    for us in range(*SPAN, 11 * SECOND):
        index = bisect_right(instants, us) - 1
        known = us - instants[index] < max_silence_us(town.city) and us < instants[-1]
        assert covers(observed, us) == known, us
        if known:
            assert covers(lit, us) == told[index].lit, us


def test_settled_up_to_the_last_word(ledger: Ledger) -> None:
    town = world()
    report(town, ledger, ALWAYS, every((NOON + HOUR, NOON + 2 * HOUR), 600))
    settlement = settle(ledger, town)
    assert spans(ledger, "lit", ALWAYS) == [(NOON + HOUR, NOON + 2 * HOUR)]
    assert spans(ledger, "observed", ALWAYS) == [(NOON + HOUR, NOON + 2 * HOUR)]
    assert (settlement.lamps, settlement.lamp_nights, settlement.alerts) == (1, 1, 0)


def test_due_in_each_night_while_in_service(ledger: Ledger) -> None:
    town = world()
    report(town, ledger, LAMP, every((NOON, NOON + 2 * DAY), 600))
    settle(ledger, town)
    nights = rows(ledger, "SELECT night, from_us, to_us FROM due ORDER BY night")
    first, second = (town.due(device(town, LAMP), night_of(NOON) + n)[0] for n in range(2))
    assert nights[:2] == [("2026-11-20", *first), ("2026-11-21", *second)]
    # In service since noon: the night before, which ended then, is none of this lamp's.
    assert len(nights) == 3


def test_a_time_that_nobody_replayed_is_unknown(ledger: Ledger) -> None:
    town = world()
    gap = NOON + 5 * HOUR, NOON + 10 * HOUR
    before = report(town, ledger, LAMP, every((NOON, gap[0]), 600))
    ledger.black_out(device(town, LAMP).gateway, gap)
    report(town, ledger, LAMP, every((gap[1], NOON + DAY), 600))
    settle(ledger, town)
    assert micros(before[-1].at) == gap[0]
    observed = spans(ledger, "observed", LAMP)
    assert observed == [(NOON, gap[0] + max_silence_us(town.city)), (gap[1], NOON + DAY)]
    # It came on unseen: known to be lit only from the first reading after.
    assert spans(ledger, "lit", LAMP)[0][0] == gap[1]


def test_settled_anew_each_time(ledger: Ledger) -> None:
    one = fault(FaultKind.LAMP_BROKEN, LAMP, NOON + 9 * HOUR, 5_000)
    town = world([one])
    report(town, ledger, LAMP, every((NOON, NOON + 9 * HOUR), 600))
    assert settle(ledger, town).alerts == 0
    report(town, ledger, LAMP, every((NOON + 9 * HOUR, NOON + DAY), 600))
    assert settle(ledger, town).alerts == settle(ledger, town).alerts == 1
    assert rows(ledger, "SELECT rule, subject, cause_us FROM expected_alert") == [
        ("lamp.dark", LAMP, one.from_us)
    ]
