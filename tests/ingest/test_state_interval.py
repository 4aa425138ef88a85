# SPDX-License-Identifier: Apache-2.0
"""States written less often than readings come: what waits, what does not, and what a kill loses.

Nothing: after any order of readings and any kills, the tables are those of a writer that wrote
every state at once and was never killed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edge_agent.kinds import Reading
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateReading
from edge_agent.kinds.lamp import LampReading
from ingest.indicators import lighting, spans
from ingest.kinds import DEFAULT_RULES
from ingest.projection import Projection
from ingest.rules import RuleBook
from ingest.store import held_states, lamp_nights
from ingest.store.devices import Device, Gateway, Registry
from ingest.store.light_sums import LightSum, sum_light
from ingest.telemetry import TelemetryWriter
from tests.ingest.community import DEVICES as DEVICES_FOUND
from tests.ingest.community import Bench, feed, found, heard
from tests.services import Broker

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
INTERVAL = 10 * MINUTE
LAMP = "c01-lamp-001"
START = datetime(2026, 11, 20, 10, tzinfo=UTC)


# -- what is written at once


def device(number: int, kind: str) -> Device:
    return Device(
        id=number,
        device=f"{kind}-{number}",
        kind=kind,
        gateway="gw-1",
        community="c01",
        area="c01",
        life="in_service",
        max_silence=30 * MINUTE,
        rated_power_w=100.0,
        programme=lighting.parse_programme("always"),
        place=lighting.Place(30.6, 104.0, "Asia/Shanghai"),
        in_service_from_us=spans.to_us(START - timedelta(days=2)),
    )


DEVICES = {kind: device(number, kind) for number, kind in enumerate(("lamp", "bin", "gate"), 1)}
REGISTRY = Registry(
    1,
    {"gw-1": Gateway("gw-1", "c01", "active", None, silent=False, status_interval_s=None)},
    {known.device: known for known in DEVICES.values()},
)


def projection(interval: timedelta = INTERVAL, since: datetime = START) -> Projection:
    made = Projection(RuleBook(DEFAULT_RULES), REGISTRY)
    made.hold_back(interval, since)
    return made


def fold(made: Projection, *readings: Reading) -> set[str]:
    """Fold one flush; return whose states are written."""
    made.fold([heard(DEVICES[reading.kind], reading) for reading in readings])
    return {made.device(number).kind for number in made.commit().states}  # pyright: ignore[reportOptionalMemberAccess]


def lamp(after: timedelta = timedelta(), lit: bool | None = True, **values: Any) -> LampReading:
    return LampReading(device="lamp-1", at=START + after, lit=lit, **values)


def bin_(after: timedelta = timedelta(), **values: Any) -> BinReading:
    return BinReading(device="bin-2", at=START + after, **values)


def gate(after: timedelta = timedelta(), **values: Any) -> GateReading:
    return GateReading(device="gate-3", at=START + after, **values)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(lamp(), lamp(MINUTE), id="repeated"),
        pytest.param(lamp(power_w=40), lamp(MINUTE, power_w=41.5), id="number-moves"),
        pytest.param(lamp(lit=None, power_w=40), lamp(MINUTE, lit=None, power_w=60), id="by-power"),
        pytest.param(bin_(fill_pct=40), bin_(MINUTE, fill_pct=80), id="fuller"),
        pytest.param(bin_(fill_pct=40), bin_(MINUTE, weight_kg=3), id="other-number"),
        pytest.param(lamp(), lamp(30 * MINUTE), id="light-goes-on"),
    ],
)
def test_numbers_and_time_alone_wait(first: Reading, second: Reading) -> None:
    made = projection(DAY)
    assert fold(made, first) == {first.kind}
    assert fold(made, second) == set()
    state = made.state(DEVICES[first.kind].id)
    assert state is not None
    assert (state.at, state.stored_at) == (second.at, first.at)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(lamp(), lamp(MINUTE, lit=False), id="goes-out"),
        pytest.param(lamp(lit=None, power_w=40), lamp(MINUTE, lit=None, power_w=4), id="no-power"),
        pytest.param(lamp(), lamp(MINUTE, lit=None), id="no-word-of-light"),
        pytest.param(lamp(), lamp(MINUTE, lit=None, power_w=40), id="word-of-light-by-power"),
        pytest.param(lamp(), lamp(MINUTE, fault="lamp_failure"), id="fault"),
        pytest.param(lamp(fault="lamp_failure"), lamp(MINUTE), id="fault-gone"),
        pytest.param(lamp(), lamp(), id="same-instant"),
        pytest.param(lamp(), lamp(-MINUTE), id="late"),
        pytest.param(bin_(fill_pct=40), bin_(MINUTE, fill_pct=95), id="alert"),
        pytest.param(bin_(fill_pct=95), bin_(MINUTE, fill_pct=20), id="alert-over"),
        pytest.param(bin_(lid_open=False), bin_(MINUTE, lid_open=True), id="lid"),
        pytest.param(gate(door="closed"), gate(MINUTE, door="open"), id="door"),
        pytest.param(gate(door="closed"), gate(MINUTE, door="closed", lock="locked"), id="lock"),
        pytest.param(gate(door="closed"), gate(DAY, door="closed"), id="interval"),
        pytest.param(lamp(), lamp(30 * MINUTE + SECOND), id="light-unknown-between"),
    ],
)
def test_what_matters_is_written_at_once(first: Reading, second: Reading) -> None:
    late = second.at < first.at
    made = projection(DAY)
    fold(made, first)
    if late:
        assert fold(made, lamp(MINUTE)) == set()
    assert fold(made, second) == {first.kind}
    state = made.state(DEVICES[first.kind].id)
    assert state is not None
    assert state.stored_at is None
    assert state.at == (START + MINUTE if late else second.at)


def test_condition_that_begins_or_ends_is_written_with_its_state() -> None:
    """A lamp that is dark when due: pending with its reading, raised by another's."""
    made = projection(DAY)
    assert fold(made, lamp(lit=False), bin_(fill_pct=1)) == {"lamp", "bin"}
    assert fold(made, lamp(MINUTE, lit=False)) == set()
    assert fold(made, bin_(6 * MINUTE, fill_pct=1)) == {"lamp"}
    state = made.state(DEVICES["lamp"].id)
    assert state is not None
    assert (state.at, state.stored_at) == (START + MINUTE, None)


def test_silence_is_written_at_once_with_what_was_held_back() -> None:
    made = projection()
    fold(made, lamp())
    fold(made, lamp(MINUTE))
    rule = RuleBook(DEFAULT_RULES).get("device.silent")
    assert rule is not None
    made.silence(DEVICES["lamp"], rule, silent=True, now=START + HOUR)
    delta = made.commit()
    (state,) = delta.states.values()
    assert (state.silent, state.at, state.stored_at) == (True, START + MINUTE, None)
    assert sum(lit for lit, _ in delta.settled.values()) == 60 * 10**6


def test_old_states_are_not_held_back() -> None:
    made = projection(since=START + SECOND)
    fold(made, lamp())
    assert fold(made, lamp(MINUTE)) == {"lamp"}
    assert fold(made, lamp(2 * MINUTE)) == set()


def test_without_an_interval_every_state_is_written() -> None:
    made = Projection(RuleBook(DEFAULT_RULES), REGISTRY)
    for minutes in range(3):
        assert fold(made, lamp(minutes * MINUTE)) == {"lamp"}


def test_a_state_is_written_once_an_interval() -> None:
    made = projection()
    when = [minutes for minutes in range(60) if fold(made, gate(minutes * MINUTE, door="closed"))]
    assert when[0] == 0
    assert 0 < when[1] <= 10
    assert [later - earlier for earlier, later in itertools.pairwise(when[1:])] == [10] * 5


def test_states_that_began_together_are_not_written_together() -> None:
    lamps = [replace(DEVICES["lamp"], id=number, device=f"lamp-{number}") for number in range(400)]
    registry = replace(REGISTRY, devices={one.device: one for one in lamps})
    made = Projection(RuleBook(DEFAULT_RULES), registry)
    made.hold_back(INTERVAL, START)
    counts: list[int] = []
    for minutes in range(21):
        told = [
            heard(one, LampReading(device=one.device, at=START + minutes * MINUTE, lit=True))
            for one in lamps
        ]
        made.fold(told)
        counts.append(len(made.commit().states))
    # By chance alone between 20 and 60 a minute; here they are spread evenly.
    assert counts[0] == 400
    assert all(38 <= count <= 42 for count in counts[1:]), counts


def test_light_waits_with_its_state() -> None:
    made = projection(DAY)
    fold(made, lamp())
    for minutes in range(1, 10):
        made.fold([heard(DEVICES["lamp"], lamp(minutes * MINUTE))])
        delta = made.commit()
        assert (delta.states, delta.settled) == ({}, {})
    made.write_out([DEVICES["lamp"].id])
    assert sum(lit for lit, _ in made.commit().settled.values()) == 540 * 10**6


# -- in the tables


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    now = datetime.now(UTC)
    local = [now + minutes * MINUTE + timedelta(hours=8) for minutes in (-9, 4)]
    programme = "-".join(f"{at:%H:%M}" for at in local)
    found(database, in_service_from=now - timedelta(days=2), programme=programme)
    made = Bench(database, broker)
    yield made
    made.close()


def stored(bench: Bench, name: str) -> dict[str, Any]:
    (row,) = bench.rows(
        """
        SELECT s.at, s.lit, s.reading, (
                   SELECT coalesce(sum(lit_us + dark_us), 0)::bigint FROM lamp_night AS n
                   WHERE n.device_id = s.device_id) AS settled_us,
               (SELECT held_since FROM ingest_lane WHERE lane = 'telemetry') AS held_since
        FROM device_state AS s JOIN device AS d ON d.id = s.device_id WHERE d.device = %s
        """,
        name,
    )
    return row


def shining(at: datetime, power_w: float = 40) -> LampReading:
    return LampReading(device=LAMP, at=at, lit=True, power_w=power_w)


def always_due(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE device SET programme = 'always'")


def test_killed_writer_finds_what_it_held_back(bench: Bench) -> None:
    always_due(bench)
    at = datetime.now(UTC) - 8 * MINUTE
    writer = bench.telemetry(INTERVAL)
    feed(writer, bench.batch(1, shining(at)))
    feed(writer, bench.batch(2, shining(at + MINUTE, 41.25)))
    feed(writer, bench.batch(3, shining(at + 2 * MINUTE, 42.5)))
    row = stored(bench, LAMP)
    assert (row["at"], row["settled_us"]) == (at, 0)
    # Killed, and started by somebody who took the setting back.
    feed(bench.telemetry())
    row = stored(bench, LAMP)
    assert (row["at"], row["settled_us"]) == (at + 2 * MINUTE, 120 * 10**6)
    assert row["reading"] == {"lit": True, "power_w": 42.5}
    assert row["held_since"] is None


def test_orderly_end_leaves_nothing_behind(bench: Bench) -> None:
    always_due(bench)
    at = datetime.now(UTC) - 8 * MINUTE
    writer = bench.telemetry(INTERVAL)
    feed(writer, bench.batch(1, shining(at)))
    feed(writer, bench.batch(2, shining(at + MINUTE)))
    assert stored(bench, LAMP)["held_since"] is not None
    writer.stop()
    writer.run()
    row = stored(bench, LAMP)
    assert (row["at"], row["settled_us"], row["held_since"]) == (at + MINUTE, 60 * 10**6, None)


def test_device_that_falls_quiet_is_written_without_another_reading(bench: Bench) -> None:
    at = datetime.now(UTC) - 8 * MINUTE
    writer = bench.telemetry(INTERVAL)
    feed(writer, bench.batch(1, shining(at), at=at))
    feed(writer, bench.batch(2, shining(at + MINUTE), at=at + MINUTE))
    tick(writer, at + 10 * MINUTE)
    assert stored(bench, LAMP)["at"] == at
    tick(writer, at + 12 * MINUTE)
    row = stored(bench, LAMP)
    assert row["at"] == at + MINUTE
    assert row["held_since"] == at + 12 * MINUTE - 2 * INTERVAL


def test_bound_never_goes_back_though_the_clock_does(bench: Bench) -> None:
    """Else a kill would lose what was held back before the table says so."""
    bound = datetime.now(UTC) + 10 * MINUTE
    with psycopg.connect(bench.dsn) as conn:
        held_states.save_held_since(conn, "telemetry", bound)
    writer = bench.telemetry(INTERVAL)
    feed(writer, bench.batch(1, shining(bound - 12 * MINUTE)))
    tick(writer, bound - 5 * MINUTE)
    assert stored(bench, LAMP)["held_since"] == bound


def tick(writer: TelemetryWriter, now: datetime) -> None:
    assert writer.connection is not None
    writer.tick(writer.connection, now)


def test_registry_that_changes_settles_by_what_held_before(bench: Bench) -> None:
    always_due(bench)
    at = datetime.now(UTC) - 8 * MINUTE
    writer = bench.telemetry(INTERVAL)
    feed(writer, bench.batch(1, shining(at)))
    feed(writer, bench.batch(2, shining(at + MINUTE)))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE device SET reporting_period_s = 5 WHERE device = %s", (LAMP,))
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
    # A device that is not known yet has the registry read again.
    stranger = LampReading(device="c01-lamp-009", at=at + 2 * MINUTE, lit=True)
    feed(writer, bench.batch(3, stranger))
    row = stored(bench, LAMP)
    assert (row["at"], row["settled_us"]) == (at + MINUTE, 60 * 10**6)


def test_night_that_is_restated_counts_what_was_held_back_once(bench: Bench) -> None:
    always_due(bench)
    at = datetime.now(UTC) - 8 * MINUTE
    writer = bench.telemetry(INTERVAL)
    feed(writer, bench.batch(1, shining(at)))
    feed(writer, bench.batch(2, shining(at + MINUTE)))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE lamp_night SET dirty = true")
    tick(writer, datetime.now(UTC) + 2 * SECOND)
    row = stored(bench, LAMP)
    assert (row["at"], row["settled_us"]) == (at + MINUTE, 60 * 10**6)
    feed(writer, bench.batch(3, shining(at + 2 * MINUTE)))
    assert stored(bench, LAMP)["at"] == at + MINUTE
    writer.stop()
    writer.run()
    assert stored(bench, LAMP)["settled_us"] == 120 * 10**6


def test_night_is_not_final_before_its_light_is_stored(bench: Bench) -> None:
    """A process that stood still for hours: the night ended long ago, its light is in memory."""
    always_due(bench)
    at = datetime.now(UTC) - 8 * MINUTE
    writer = bench.telemetry(INTERVAL)
    feed(writer, bench.batch(1, shining(at)))
    feed(writer, bench.batch(2, shining(at + MINUTE)))
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE lamp_night SET due_to = %s", (at + 2 * MINUTE,))
    status = "SELECT DISTINCT status FROM lamp_night"
    later = datetime.now(UTC) + timedelta(hours=3)
    tick(writer, later)
    assert bench.value(status) == "provisional"
    assert stored(bench, LAMP)["settled_us"] == 60 * 10**6
    tick(writer, later + lamp_nights.FINAL_AFTER)
    assert bench.rows("SELECT FROM lamp_night WHERE due_to = %s AND status = 'final'",
                      at + 2 * MINUTE)  # fmt: skip


async def light_now(dsn: str, now: datetime) -> LightSum:
    nights = (now.date() - timedelta(days=2), now.date() + timedelta(days=2))
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        (total,) = await sum_light(conn, "city", "city.c01", nights, "total", now=now)
    return total


async def test_running_night_is_told_as_of_what_is_in_the_tables(
    database: str, broker: Broker
) -> None:
    """Light that is held back is neither lit nor unknown: its time has not come."""
    now = datetime.now(UTC)
    lamps = [one for one in DEVICES_FOUND if one[1] == "lamp"][:1]
    found(database, in_service_from=now - timedelta(days=2), devices=lamps)
    bench = Bench(database, broker)
    writer = bench.telemetry(INTERVAL)
    feed(writer, bench.batch(1, shining(now - 8 * MINUTE)))
    first = await light_now(database, now)
    assert (first.lit_us, first.as_of < now - 8 * MINUTE) == (0, True)
    unknown_us = first.due_us
    for seq in range(2, 8):
        feed(writer, bench.batch(seq, shining(now - (9 - seq) * MINUTE)))
    total = await light_now(database, now)
    assert stored(bench, LAMP)["at"] < now - 2 * MINUTE
    assert total.due_us - total.lit_us == unknown_us
    tick(writer, now + 15 * MINUTE)
    total = await light_now(database, now)
    assert total.as_of == now + 15 * MINUTE - 2 * INTERVAL
    assert (total.lit_us, total.due_us - total.lit_us) == (360 * 10**6, unknown_us)
    writer.stop()
    writer.run()
    total = await light_now(database, now)
    assert (total.as_of, total.lit_us, total.due_us - total.lit_us) == (
        now, 480 * 10**6, unknown_us,
    )  # fmt: skip
    # Ingest stood still for hours: of them nothing is known.
    bench.telemetry(INTERVAL)
    feed(bench.telemetry(INTERVAL))
    later = now + 5 * HOUR
    total = await light_now(database, later)
    assert total.as_of == later - HOUR
    assert total.lit_us == 36 * 60 * 10**6
    bench.close()


# -- kills at random


@dataclass(frozen=True)
class Step:
    """One message: a reading, how it goes on, and what happens after its flush."""

    which: int
    seconds: int  # since the one before
    late: int  # but told of an instant so long before
    value: int
    is_faulty: bool
    flushes: bool
    again: bool  # delivered twice
    killed: bool
    minutes: int  # that a look round is ahead of time by; 0: there is none


_STEPS = st.lists(
    st.builds(
        Step,
        which=st.integers(0, 2),
        seconds=st.integers(1, 60),
        late=st.sampled_from((0, 0, 0, 0, 20, 90, 600)),
        value=st.sampled_from((0, 45, 95, 95, 95, 95)),
        is_faulty=st.sampled_from((False, False, False, False, True)),
        flushes=st.booleans(),
        again=st.booleans(),
        killed=st.sampled_from((False, False, True)),
        minutes=st.sampled_from((0, 0, 0, 5, 11, 20)),
    ),
    min_size=3,
    max_size=14,
)
_KINDS = ("lamp", "lamp", "bin")
_numbers = itertools.count(1)


def register(bench: Bench) -> tuple[str, list[str]]:
    """Register a gateway nobody has heard of, with its devices."""
    gateway = f"gw-{next(_numbers)}"
    names = [f"{gateway}-{kind}-{number}" for number, kind in enumerate(_KINDS)]
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("INSERT INTO gateway (gateway, community) VALUES (%s, 'c01')", (gateway,))
        for name, kind in zip(names, _KINDS, strict=True):
            conn.execute(
                """
                INSERT INTO device (device, kind, gateway, community, area, in_service_from,
                                    reporting_period_s, rated_power_w, programme)
                SELECT %s, %s, %s, 'c01', 'c01', in_service_from, 10, 100, programme
                FROM device WHERE device = %s
                """,
                (name, kind, gateway, LAMP),
            )
    return gateway, names


def run(bench: Bench, steps: Sequence[Step], start: datetime, interval: timedelta) -> Any:
    """Let one city live through the steps; return what the tables hold of it, but for its names."""
    gateway, names = register(bench)
    writer = bench.telemetry(interval)
    clock, flush = start, []
    for seq, step in enumerate(steps, start=1):
        clock += timedelta(seconds=step.seconds)
        at = clock - timedelta(seconds=step.late)
        name, fault = names[step.which], "worn" if step.is_faulty else None
        if _KINDS[step.which] == "lamp":
            told = LampReading(
                device=name, at=at, lit=step.value > 0, power_w=step.value + 0.5, fault=fault
            )
        else:
            told = BinReading(device=name, at=at, fill_pct=step.value, fault=fault)
        message = bench.batch(seq, told, gateway=gateway, at=clock)
        flush += [message, message] if step.again else [message]
        if step.flushes or seq == len(steps):
            feed(writer, *flush)
            flush = [message] if step.again else []
            if interval and step.killed:
                writer = bench.telemetry(interval)
            if interval and step.minutes:
                feed(writer)
                tick(writer, datetime.now(UTC) + step.minutes * MINUTE)
    if interval:
        writer.stop()
        writer.run()
    feed(bench.telemetry())  # restates what is dirty
    return tables(bench, gateway)


def tables(bench: Bench, gateway: str) -> list[list[dict[str, Any]]]:
    kept = "FROM {} JOIN device AS d ON d.id = t.device_id WHERE d.gateway = %s {} ORDER BY d.id"
    assert not bench.rows("SELECT FROM lamp_night WHERE dirty")
    return [
        bench.rows(
            "SELECT d.kind, t.at, t.received_at, t.since, t.silent, t.fault, t.lit, t.lit_at,"
            " t.reading " + kept.format("device_state AS t", ""),
            gateway,
        ),
        bench.rows(
            "SELECT d.kind, t.night, t.due, t.due_us, t.lit_us, t.dark_us "
            # A look ahead of time may open a night too early.
            + kept.format("lamp_night AS t", "AND t.lit_us + t.dark_us > 0")
            + ", t.night",
            gateway,
        ),
        bench.rows(
            "SELECT d.kind, t.rule, t.since " + kept.format("alert_pending AS t", "") + ", t.rule",
            gateway,
        ),
        bench.rows(
            """
            -- Not the values it was raised with: a restart does not know those of a condition whose
            -- on-delay is running, whatever is held back.
            SELECT t.rule, right(t.device, 1) AS device, t.active, t.late, t.raised_at,
                   t.received_at, t.cleared_at,
                   (SELECT array_agg(h.action || h.at ORDER BY h.id) FROM alert_history AS h
                    WHERE h.alert = t.id) AS history
            FROM alert AS t WHERE t.gateway = %s ORDER BY t.raised_at, t.rule, t.device
            """,
            gateway,
        ),
    ]


@settings(
    max_examples=12,
    deadline=None,
    # A step of shrinking takes half a second: what is found is reported as it is.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(_STEPS)
def test_kills_change_nothing(bench: Bench, steps: list[Step]) -> None:
    # Within what may be held back, up to what a gateway's clock may be ahead.
    start = datetime.now(UTC).replace(microsecond=0) - 17 * MINUTE
    otherwise = run(bench, steps, start, INTERVAL)
    for one, other in zip(otherwise, run(bench, steps, start, timedelta()), strict=True):
        assert one == other
