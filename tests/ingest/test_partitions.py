# SPDX-License-Identifier: Apache-2.0
"""Several writers of one lane: each does its own partitions, and none is left out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from deploy.installation import INGEST_PROCESSES_MAX
from deploy.services import HERE
from edge_agent import topics
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import Lane, Status, StreamStatus
from edge_agent.topics import partition
from ingest.config import Config, load
from ingest.consumer import Consumer
from ingest.errors import ConfigError
from ingest.events import EventWriter
from ingest.kinds import DEVICE_SILENT
from ingest.partitions import ALL, NAMES, Partitions, member_row, of_topic, parse, share, show
from ingest.pki import service_identities
from ingest.presence import Hearing, Presence, Watch
from ingest.service import RegistryFollower
from ingest.store import connect, dead_letters, devices, held_states
from ingest.store.partitions import claim, forget_member, owners
from ingest.telemetry import TelemetryWriter
from ingest.writer import Writer
from tests.ingest.community import Bench, feed, found
from tests.services import Broker, until

MINUTE = timedelta(minutes=1)
TEN_S = timedelta(seconds=10)
LOW, HIGH = share(0, 2), share(1, 2)
BELOW, ABOVE = "gw-c01-b", "gw-c01-a"  # 06 and 3c
LAMP_BELOW, LAMP_ABOVE = "c01-lamp-101", "c01-lamp-001"


class TestSets:
    """A set of partitions is written as people write it."""

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("00", {"00"}),
            ("3F", {"3f"}),
            ("0e-11", {"0e", "0f", "10", "11"}),
            (" 02, 00 ,01", {"00", "01", "02"}),
            ("00-3f", ALL),
        ],
    )
    def test_is_read(self, text: str, names: Collection[str]) -> None:
        assert parse(text) == set(names)
        assert parse(show(parse(text))) == set(names)

    @pytest.mark.parametrize("text", ["", "0", "00-", "40", "00-40", "1f-00", "00 01", "zz", "000"])
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no"):
            parse(text)

    def test_is_shown_in_runs(self) -> None:
        assert show(["3f", "01", "00", "0f", "10"]) == "00-01,0f-10,3f"

    @pytest.mark.parametrize("members", [1, 2, 3, 5, 64])
    def test_shares_are_all_and_nobody_s_twice(self, members: int) -> None:
        shares = [share(member, members) for member in range(members)]
        assert sorted(name for one in shares for name in one) == list(NAMES)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_a_topic_names_it(self) -> None:
        assert of_topic("linli/v1/3c/gw-c01-a/up/telemetry") == partition("gw-c01-a") == "3c"
        assert of_topic("linli") == ""


class TestConfiguration:
    """What a process does is told by file, environment or option."""

    FILE = '[database]\ndsn = "host=h"\n[broker]\nca = "ca.crt"\n[ingest]\ncertificates = "s"\n'

    def read(self, folder: Path, text: str = "", **environ: str) -> Config:
        file = folder / "linli.toml"
        file.write_text(self.FILE + text)
        told = {f"LINLI_INGEST__{name.upper()}": value for name, value in environ.items()}
        return load(file, told)

    def test_one_process_does_everything(self, tmp_path: Path) -> None:
        config = self.read(tmp_path)
        assert config.lanes == ["telemetry", "event"]
        assert config.ingest.lanes == {*config.lanes, "keepers"}
        assert config.ingest.partitions == ALL
        assert [config.own_identity(lane) for lane in config.lanes] == [
            "ingest-telemetry-00",
            "ingest-event-00",
        ]

    def test_file_and_environment_say_the_same(self, tmp_path: Path) -> None:
        text = 'lanes = ["telemetry"]\npartitions = "20-3f"\nmember = 1\n'
        config = self.read(tmp_path, text)
        assert config == self.read(tmp_path, lanes="telemetry", partitions="20-3f", member="1")
        assert config.own_identity("telemetry") == "ingest-telemetry-01"

    def test_a_partition_that_looks_like_a_number_is_one(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, partitions="10").ingest.partitions == {"10"}
        assert self.read(tmp_path, "partitions = 7\n").ingest.partitions == {"07"}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('lanes = ["telemetry", "evnt"]', "ingest.lanes: 'evnt': known are telemetry, event"),
            ("lanes = []", "ingest.lanes: nothing to do"),
            ('partitions = "00-40"', "ingest.partitions: '00-40' is no range"),
            ("partitions = true", "ingest.partitions: 'True' is no partition"),
            ("member = 64", "ingest.member: 64: input should be less than or equal to 63"),
        ],
    )
    def test_a_mistake_is_named(self, tmp_path: Path, text: str, says: str) -> None:
        with pytest.raises(ConfigError) as caught:
            self.read(tmp_path, text)
        (problem,) = caught.value.problems
        assert f"linli.toml:7: {says}" in problem

    def test_the_broker_admits_every_member_that_can_be_started(self) -> None:
        users = (HERE / "mosquitto/acl").read_text().split("\nuser ")[1:]
        assert {block.split()[0] for block in users} == {*service_identities(INGEST_PROCESSES_MAX)}
        for name, rights in (block.split("\n", 1) for block in users):
            assert (f"readwrite linli/v1/probe/{name}\n" in rights) == name.startswith("ingest")


@dataclass(slots=True)
class Members(Bench):
    """Writers beside each other, as in processes of their own."""

    def member(
        self, number: int, partitions: Partitions, *, lane: Lane = "telemetry"
    ) -> TelemetryWriter | EventWriter:
        """One that shares its process with no other lane."""
        common = self._common(f"ingest-{lane}-{number:02d}")
        common["presence"] = presence = Presence({lane})
        common["consumer"] = Consumer(
            identity=common["consumer"].identity,
            host="127.0.0.1",
            port=self.broker.port,
            ca=self.broker.ca,
            certificates=self.broker.services,
            subscriptions=(),
            receive_maximum=100,
            partitions=partitions,
        )
        writer = (
            TelemetryWriter(Watch(presence, TEN_S, 3), **common)
            if lane == "telemetry"
            else EventWriter(status_interval=TEN_S, silence_intervals=3, **common)
        )
        self._writers.append(writer)
        return writer


@pytest.fixture
def start() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5)


@pytest.fixture
def bench(database: str, broker: Broker, start: datetime) -> Iterator[Members]:
    found(database, in_service_from=start)
    made = Members(database, broker)
    yield made
    made.close()


def lamp(device: str, at: datetime, *, lit: bool = True) -> LampReading:
    return LampReading(device=device, at=at, lit=lit)


def hear_since(writer: Writer, since: datetime) -> None:
    """Let a writer have listened all the while."""
    writer.healthy_since = since
    writer.consumer.hearing = Hearing(timedelta(hours=9))
    writer.consumer.hearing.came_round(since)


# -- who writes what --------------------------------------------------------------------------


def test_a_partition_of_a_lane_has_one_writer_as_long_as_it_lives(database: str) -> None:
    with connect(database, "one") as one, connect(database, "two") as two:
        assert claim(one, "telemetry", LOW) == frozenset()
        assert claim(two, "event", ALL) == frozenset()  # of another lane
        assert claim(two, "telemetry", {"1f", "20"}) == {"1f"}
        assert set(owners(two, "telemetry")) == LOW | {"20"}
        assert owners(two, "telemetry")["00"] == "linli-ingest one"
        assert owners(two, "telemetry")["20"] == "linli-ingest two"
        one.close()
        until(lambda: not claim(two, "telemetry", LOW), "the partitions of one that ended")
        assert set(owners(two, "telemetry").values()) == {"linli-ingest two"}


@pytest.mark.parametrize(
    ("number", "wanted", "says"),
    [
        (1, parse("1f-3f"), "partitions 1f of the telemetry lane are written by linli-ingest"),
        (0, HIGH, "another process is ingest-telemetry-00"),
    ],
)
def test_a_writer_of_what_another_writes_says_so_and_takes_nothing(
    bench: Members, number: int, wanted: Partitions, says: str
) -> None:
    feed(bench.member(0, LOW))
    second = bench.member(number, wanted)
    second.stop()  # it would try again for ever
    feed(second)
    assert says in second.refused_by
    assert second.refused_since is not None
    assert second.connection is None
    with connect(bench.dsn, "test") as conn:
        # What else it claimed goes with its connection, which the server ends when it can.
        until(lambda: not owners(conn, "telemetry").keys() ^ LOW, "it holds nothing")


def test_partitions_that_nobody_writes_are_told(
    bench: Members, caplog: pytest.LogCaptureFixture
) -> None:
    writer = bench.member(0, LOW)
    feed(writer)
    assert writer.connection is not None
    with caplog.at_level(logging.WARNING, "ingest.writer"):
        assert not caplog.messages  # at the first look others may be starting
        writer._tick(writer.connection, datetime.now(UTC) + MINUTE)  # pyright: ignore[reportPrivateUsage]
    assert sorted(caplog.messages) == [
        "nobody writes partitions=00-3f lane=event",
        "nobody writes partitions=20-3f lane=telemetry",
    ]


def test_what_a_killed_member_held_back_is_forgotten_once_somebody_bears_it(
    bench: Members, start: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = member_row("telemetry", "ingest-telemetry-01")
    with connect(bench.dsn, "test") as conn:
        held_states.save_held_since(conn, dead, start)
        feed(bench.member(0, LOW))
        assert not forget_member(conn, dead)
        bench.close()
        writer = bench.member(2, ALL)
        assert isinstance(writer, TelemetryWriter)
        load = writer.load_states

        def retired_meanwhile(own: psycopg.Connection) -> dict[int, devices.State]:
            assert forget_member(conn, dead)
            assert held_states.held_longest(conn) == (writer.member, start)
            return load(own)

        monkeypatch.setattr(writer, "load_states", retired_meanwhile)
        feed(writer)
        assert held_states.held_longest(conn) is None, "it has looked for all"


def test_who_was_killed_and_does_not_come_back_is_told(
    bench: Members, start: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(bench.dsn, "test") as conn:
        held_states.save_held_since(conn, "ingest-telemetry-05", start)
    writer = bench.member(0, ALL)
    with caplog.at_level(logging.WARNING, "ingest.telemetry"):
        feed(writer)
        assert not caplog.messages  # it may be starting
        assert writer.connection is not None
        writer.tick(writer.connection, datetime.now(UTC) + MINUTE)
    (said,) = caplog.messages
    assert "member=ingest-telemetry-05" in said


# -- each does its own ------------------------------------------------------------------------


def test_members_store_their_own_and_hold_nothing_else(bench: Members, start: datetime) -> None:
    low, high = bench.member(0, LOW), bench.member(1, HIGH)
    feed(low, bench.batch(1, lamp(LAMP_BELOW, start), gateway=BELOW))
    feed(high, bench.batch(1, lamp(LAMP_ABOVE, start), gateway=ABOVE))
    assert bench.value("SELECT count(*) FROM reading_lamp") == 2
    assert set(low.registry.gateways) == {BELOW}
    assert set(low.registry.devices) == {LAMP_BELOW}
    assert LAMP_BELOW not in high.registry.devices
    with connect(bench.dsn, "test") as conn:
        assert len(devices.load_states(conn)) == 2
        assert len(devices.load_states(conn, [BELOW])) == 1
    low.close()
    restarted = bench.member(0, LOW)
    feed(restarted)
    assert len(list(restarted.projection.heard)) == 1


def test_what_the_broker_kept_of_another_s_partition_is_given_back(
    bench: Members, start: datetime
) -> None:
    low = bench.member(0, LOW)
    mine = bench.batch(1, lamp(LAMP_BELOW, start), gateway=BELOW)
    other = bench.batch(1, lamp(LAMP_ABOVE, start), gateway=ABOVE)
    assert [low.consumer.is_foreign(one) for one in (mine, other)] == [False, True]
    assert low._own([other, mine]) == [mine]  # pyright: ignore[reportPrivateUsage]


def test_late_nights_are_restated_by_who_knows_the_lamp(bench: Members, start: datetime) -> None:
    low, high = bench.member(0, LOW), bench.member(1, HIGH)
    for writer, gateway, name in ((low, BELOW, LAMP_BELOW), (high, ABOVE, LAMP_ABOVE)):
        feed(writer, bench.batch(1, lamp(name, start), gateway=gateway))
        feed(writer, bench.batch(3, lamp(name, start + 20 * MINUTE), gateway=gateway))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE lamp_night SET dirty = true")
    assert low.connection is not None
    low.tick(low.connection, datetime.now(UTC) + MINUTE)
    dirty = "SELECT DISTINCT d.device FROM lamp_night AS n JOIN device AS d ON d.id = n.device_id"
    assert {row["device"] for row in bench.rows(f"{dirty} WHERE n.dirty")} >= {LAMP_ABOVE}
    assert not bench.rows(f"{dirty} WHERE n.dirty AND d.device = %s", LAMP_BELOW)
    assert high.connection is not None
    high.tick(high.connection, datetime.now(UTC) + MINUTE)
    assert not bench.rows(f"{dirty} WHERE n.dirty")


def test_dead_letters_are_judged_again_by_who_knows_the_gateway(
    bench: Members, start: datetime
) -> None:
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE gateway SET status = 'revoked'")
    low, high = bench.member(0, LOW), bench.member(1, HIGH)
    feed(low, bench.batch(1, lamp(LAMP_BELOW, start), gateway=BELOW))
    feed(high, bench.batch(1, lamp(LAMP_ABOVE, start), gateway=ABOVE))
    nowhere = bench.batch(2, lamp(LAMP_BELOW, start), gateway=BELOW)
    feed(low, bench.received(nowhere.topic.replace("/06/", "/zz/"), nowhere.payload))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE gateway SET status = 'active'")
        conn.execute("UPDATE dead_letter SET replay_asked_at = now()")
        with conn.transaction():
            asked = dead_letters.take_asked(conn, "telemetry", 9, HIGH)
        assert [one.topic for one in asked] == [topics.up(ABOVE, "telemetry")]
    for writer in (high, low):
        writer.close()  # as after a registry change
        feed(writer)
        assert writer.connection is not None
        writer._tick(writer.connection, datetime.now(UTC) + MINUTE)  # pyright: ignore[reportPrivateUsage]
    results = bench.rows("SELECT replay_result FROM dead_letter ORDER BY id")
    assert [row["replay_result"] for row in results] == ["stored", "stored", "topic.partition"]
    assert bench.value("SELECT count(*) FROM reading_lamp") == 2


def test_a_device_that_moves_to_another_s_gateway_keeps_its_state(
    bench: Members, start: datetime
) -> None:
    low, high = bench.member(0, LOW), bench.member(1, HIGH)
    feed(low, bench.batch(1, lamp(LAMP_BELOW, start), gateway=BELOW))
    feed(high)
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE device SET gateway = %s WHERE device = %s", (ABOVE, LAMP_BELOW))
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
    feed(high, bench.batch(1, lamp(LAMP_BELOW, start + 10 * MINUTE), gateway=ABOVE))
    assert bench.value("SELECT count(*) FROM reading_lamp") == 2
    # Lit from the one reading to the other, although two processes took them.
    assert bench.value("SELECT sum(lit_us)::bigint FROM lamp_night") == 600 * 10**6


def test_a_long_reading_of_the_registry_is_no_hanging_database(
    bench: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_BATCH", 2)
    writer = bench.member(0, ALL)
    feed(writer)
    assert writer.connection is not None
    seen: list[float] = []

    def progress() -> None:
        writer.asking_since = writer.turned_at = 0.0  # long ago
        Writer.progress(writer)
        seen.append(writer.asking_since)

    writer.asking_since = 0.0
    monkeypatch.setattr(writer, "progress", progress)
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
    assert writer._reload_registry(writer.connection)  # pyright: ignore[reportPrivateUsage]
    assert len(seen) == 4  # six devices, two at a time, and the end
    assert min(seen) > 0
    assert writer.turned_at > 0


def test_keepers_in_a_process_of_their_own_follow_the_registry(bench: Members) -> None:
    follower = RegistryFollower(bench.dsn)
    first = follower.latest()
    assert set(first.gateways) == {BELOW, ABOVE}
    assert follower.latest() is first
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE device SET life = 'retired' WHERE device = %s", (LAMP_BELOW,))
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
    assert follower.latest().devices[LAMP_BELOW].life == "retired"
    follower.close()


# -- who is heard -----------------------------------------------------------------------------


def silent_devices(bench: Bench) -> set[str]:
    rows = bench.rows("SELECT device FROM alert WHERE rule = %s AND active", DEVICE_SILENT.id)
    return {row["device"] for row in rows}


def test_behind_a_silent_gateway_no_device_is_silent_though_the_event_lane_is_elsewhere(
    database: str, broker: Broker
) -> None:
    now = datetime.now(UTC)
    found(database, in_service_from=now - timedelta(hours=1), reporting_period_s=20)
    bench = Members(database, broker)
    writer = bench.member(0, ALL)
    feed(writer)
    hear_since(writer, now - timedelta(minutes=30))
    gone, heard = BELOW, ABOVE
    feed(
        writer,
        bench.batch(1, lamp(LAMP_BELOW, now), gateway=gone),
        bench.batch(1, lamp(LAMP_ABOVE, now), gateway=heard),
    )
    for second in range(5, 400, 5):
        then = now + timedelta(seconds=second)
        feed(writer, bench.status(Status(state="online", status_interval_s=5), at=then))
        writer.consumer.hearing.came_round(then)
        assert writer.connection is not None
        writer.tick(writer.connection, then)
    assert silent_devices(bench) == {LAMP_ABOVE}
    assert bench.value("SELECT count(*) FROM alert WHERE rule = 'gateway.silent'") == 0
    bench.close()


def test_a_heartbeat_is_answered_by_the_lane_it_asks(bench: Members, start: datetime) -> None:
    writer = bench.member(0, ALL)
    feed(writer, bench.batch(1, lamp(LAMP_ABOVE, start)))
    streams = tuple(
        StreamStatus(lane=lane, stream=f"s-{lane}", oldest=1, next=2)
        for lane in ("telemetry", "event")
    )
    status = bench.status(Status(state="online", streams=streams))
    taken = writer.judge([status])
    writer.committed(taken, taken)
    assert writer.presence.take_asked("telemetry") == {(ABOVE, "s-telemetry")}
    assert writer.presence.take_asked("event") == set()


def test_a_status_that_is_none_is_refused_once(bench: Members) -> None:
    broken = bench.received(bench.status(Status(state="online")).topic, b"{")
    feed(bench.member(0, ALL), broken)
    assert bench.value("SELECT count(*) FROM dead_letter") == 0
    feed(bench.member(0, ALL, lane="event"), broken)
    assert bench.value("SELECT reason FROM dead_letter") == "payload.not_json"


def test_who_sends_readings_and_no_heartbeat_is_heard_by_the_event_lane(bench: Members) -> None:
    now = datetime.now(UTC)
    telemetry, events = bench.member(0, ALL), bench.member(0, ALL, lane="event")
    for writer in (telemetry, events):
        feed(writer)
        hear_since(writer, now - timedelta(minutes=30))
    status = bench.status(Status(state="online", status_interval_s=5), at=now)
    feed(events, status)
    feed(telemetry, status)

    def at(second: int, *, telling: bool) -> list[bool]:
        then = now + timedelta(seconds=second)
        if telling:
            reading = lamp(LAMP_ABOVE, now)
            feed(telemetry, bench.batch(second, reading, at=then))
        for writer in (telemetry, events):
            writer.consumer.hearing.came_round(then)
            assert writer.connection is not None
            writer.tick(writer.connection, then)
        rows = bench.rows("SELECT active FROM alert WHERE rule = 'gateway.silent'")
        return [row["active"] for row in rows]

    assert not any(at(second, telling=True) for second in range(5, 100, 5))
    assert not at(110, telling=False)
    assert at(130, telling=False) == [True]
    assert at(131, telling=True) == [True]  # told at the next saving
    assert at(140, telling=True) == [False]
