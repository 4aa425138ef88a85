# SPDX-License-Identifier: Apache-2.0
"""What windows of maintenance take out of indicators and restate, over a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.kinds.gate import GateReading
from edge_agent.kinds.lamp import LampReading
from ingest import days
from ingest.daily import DailyKeeper
from ingest.indicators import spans
from ingest.indicators.spans import Span, day_span, from_us, to_us
from ingest.store import community_days, connect, exclusions, windows
from ingest.store.devices import Device, load_registry
from ingest.store.exclusions import Exclusions, Stood
from ingest.store.lamp_nights import open_night
from ingest.store.windows import Node
from tests.ingest.community import GATEWAY, OTHER_GATEWAY, Bench, feed, found
from tests.services import Broker

NOW = datetime.now(UTC)
# Two days ago: over, and final for long.
DAY = (NOW - timedelta(days=2)).date()
MIDNIGHT = from_us(day_span(DAY, "Asia/Shanghai")[0])
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
HOUR_US = 3_600_000_000


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=MIDNIGHT - timedelta(days=5))
    made = Bench(database, broker)
    yield made
    made.close()


def lamp_hours(bench: Bench, seq: int, start: datetime, hours: int, *, lit: bool = True) -> None:
    """Lamps told every ten minutes, the last at the end."""
    readings = [
        LampReading(device=device, at=start + n * 10 * MINUTE, lit=lit)
        for n in range(6 * hours + 1)
        for device in ("c01-lamp-001", "c01-lamp-002")
    ]
    feed(bench.telemetry(), bench.batch(seq, *readings))


def create(bench: Bench, node: Node, start: datetime, end: datetime) -> UUID:
    async def made() -> UUID:
        async with await psycopg.AsyncConnection[Any].connect(bench.dsn, autocommit=True) as conn:
            return await windows.create(
                conn, node, start, end, within="city", actor="root", reason="new lamp heads",
                afterwards=True, now=NOW,
            )  # fmt: skip

    return asyncio.run(made())


def annul(bench: Bench, window: UUID) -> None:
    async def cancel() -> None:
        async with await psycopg.AsyncConnection[Any].connect(bench.dsn, autocommit=True) as conn:
            await windows.cancel(
                conn, window, within="city", actor="root", reason="was not so", annul=True,
                afterwards=True, expected_version=None, now=NOW,
            )  # fmt: skip

    asyncio.run(cancel())


def keep(bench: Bench, now: datetime) -> None:
    """Do all that is due at one moment."""
    with connect(bench.dsn, "test") as conn:
        registry = load_registry(conn)
        keeper = DailyKeeper(bench.dsn, lambda: registry)
        while keeper.keep(conn, now):
            pass


def number(bench: Bench, indicator: str, kind: str = "") -> tuple[float, ...]:
    """Good, total and time in maintenance, in hours, and the revision."""
    (row,) = bench.rows(
        """
        SELECT good, total, coalesce((excluded ->> 'maintenance')::bigint, 0) AS excluded, revision
        FROM area_day
        WHERE indicator = %s AND day = %s AND area = 'c01' AND kind = %s AND status = 'final'
        """,
        indicator,
        DAY,
        kind,
    )
    return (*(row[name] / HOUR_US for name in ("good", "total", "excluded")), row["revision"])


def verify(bench: Bench) -> tuple[int, list[str]]:
    with connect(bench.dsn, "test") as conn:
        compared, differences = days.verify(
            conn, DAY - timedelta(days=3), DAY + timedelta(days=3), lambda done, of: None
        )
    return compared, [str(one) for one in differences]


def test_a_window_restates_the_days_it_touches_and_taken_back_it_never_was(bench: Bench) -> None:
    lamp_hours(bench, 1, MIDNIGHT + 20 * HOUR, 2)
    keep(bench, NOW)
    before = number(bench, "equipment-good", "lamp")
    # Two lamps of the three are known from 20:00 to 22:30, for the last report holds on.
    assert before == (5, 72, 0, 1)
    lit = number(bench, "lighting-uptime")
    assert (lit[0], lit[3]) == (5, 1)

    window = create(bench, Node("gateway", GATEWAY), MIDNIGHT + 19 * HOUR, MIDNIGHT + 21 * HOUR)
    # Until the days are marked nobody takes them for right or wrong.
    with connect(bench.dsn, "test") as conn:
        assert community_days.known(conn, DAY, DAY + timedelta(days=1)) == []
    assert verify(bench)[1] == []
    keep(bench, NOW + MINUTE)
    assert number(bench, "equipment-good", "lamp") == (3, 68, 4, 2)
    uptime = number(bench, "lighting-uptime")
    assert (uptime[0], uptime[2], uptime[3]) == (3, 4, 2)
    assert uptime[1] == lit[1] - 4
    reasons = bench.rows("SELECT DISTINCT reason FROM area_day_revision")
    assert reasons == [{"reason": "maintenance"}]
    compared, differences = verify(bench)
    assert (compared > 0, differences) == (True, [])

    annul(bench, window)
    keep(bench, NOW + 2 * MINUTE)
    assert number(bench, "equipment-good", "lamp") == (5, 72, 0, 3)
    assert number(bench, "lighting-uptime") == (*lit[:3], 3)
    assert verify(bench)[1] == []


def test_a_wrong_number_is_found_where_a_window_holds(bench: Bench) -> None:
    """What `verify` computes knows the window: without it this would be no difference."""
    lamp_hours(bench, 1, MIDNIGHT + 20 * HOUR, 2)
    create(bench, Node("area", "city"), MIDNIGHT + 20 * HOUR, MIDNIGHT + 21 * HOUR)
    keep(bench, NOW)
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE maintenance_window SET annulled = true")
    assert any("equipment-good" in one for one in verify(bench)[1])


@pytest.mark.parametrize(
    ("node", "hours"),
    [
        pytest.param(Node("device", "c01-lamp-001"), 1, id="device"),
        pytest.param(Node("gateway", GATEWAY), 2, id="gateway"),
        pytest.param(Node("gateway", OTHER_GATEWAY), 1, id="other-gateway"),
        pytest.param(Node("area", "c01"), 3, id="community"),
        pytest.param(Node("area", "city"), 3, id="city"),
    ],
)
def test_a_window_takes_out_whoever_is_under_its_node(bench: Bench, node: Node, hours: int) -> None:
    lamp_hours(bench, 1, MIDNIGHT + 20 * HOUR, 2)
    create(bench, node, MIDNIGHT + 20 * HOUR, MIDNIGHT + 21 * HOUR)
    keep(bench, NOW)
    assert number(bench, "equipment-good", "lamp")[2] == hours


def test_two_windows_and_maintenance_of_one_hour_are_an_hour(bench: Bench) -> None:
    gate = GateReading(device="c01-gate-001", at=MIDNIGHT + HOUR, door="closed", lock="locked")
    feed(bench.telemetry(), bench.batch(1, gate))
    start, end = MIDNIGHT + 2 * HOUR, MIDNIGHT + 3 * HOUR
    create(bench, Node("area", "city"), start, end)
    create(bench, Node("device", "c01-gate-001"), start, end)
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(
            """
            INSERT INTO maintenance (device_id, during, reason)
            SELECT id, tstzrange(%s, %s), 'x' FROM device WHERE device = 'c01-gate-001'
            """,
            (start, end),
        )
    keep(bench, NOW)
    assert number(bench, "gate-available")[2] == 1


def test_a_window_restates_lamp_nights_and_the_lane_goes_by_it(bench: Bench) -> None:
    lamp_hours(bench, 1, MIDNIGHT + 20 * HOUR, 2)
    create(bench, Node("device", "c01-lamp-001"), MIDNIGHT + 20 * HOUR, MIDNIGHT + 21 * HOUR)
    keep(bench, NOW)
    dirty = bench.rows(
        """
        SELECT d.device, n.night FROM lamp_night AS n JOIN device AS d ON d.id = n.device_id
        WHERE n.dirty
        """
    )
    assert dirty == [{"device": "c01-lamp-001", "night": DAY}]
    # Another hour comes after the lane read the registry again, half of it in a second window.
    feed(bench.telemetry())
    create(bench, Node("area", "c01"), MIDNIGHT + 22 * HOUR, MIDNIGHT + 22 * HOUR + 30 * MINUTE)
    lamp_hours(bench, 2, MIDNIGHT + 22 * HOUR + 10 * MINUTE, 1)
    keep(bench, NOW + MINUTE)
    feed(bench.telemetry())  # restates what is dirty
    nights = bench.rows(
        """
        SELECT d.device, n.lit_us, n.dirty,
               n.due && tstzmultirange(tstzrange(%s, %s)) AS due
        FROM lamp_night AS n JOIN device AS d ON d.id = n.device_id
        WHERE n.night = %s AND d.device LIKE 'c01-lamp-00%%' ORDER BY d.device
        """,
        MIDNIGHT + 22 * HOUR,
        MIDNIGHT + 22 * HOUR + 30 * MINUTE,
        DAY,
    )
    # Lit from 20:00 to 23:10, less what is out; what the last report holds is not settled.
    minutes = [(row["device"][-1], row["lit_us"] // 60_000_000) for row in nights]
    assert minutes == [("1", 190 - 60 - 30), ("2", 190 - 30)]
    assert not any(row["dirty"] or row["due"] for row in nights)


def test_devices_are_marked_a_few_at_a_time(bench: Bench) -> None:
    lamp_hours(bench, 1, MIDNIGHT + 20 * HOUR, 1)
    keep(bench, NOW)
    create(bench, Node("area", "city"), MIDNIGHT + 20 * HOUR, MIDNIGHT + 21 * HOUR)
    with connect(bench.dsn, "test") as conn:
        steps = 0
        while exclusions.restate(conn, at_once=4):
            steps += 1
            assert bench.value("SELECT count(*) FROM lamp_night WHERE dirty") > 0
    assert steps == 2  # of six devices
    marked = bench.rows("SELECT DISTINCT dirty FROM community_day WHERE day = %s", DAY)
    assert {row["dirty"] for row in marked} >= {"maintenance"}
    assert bench.value("SELECT count(*) FROM maintenance_window WHERE NOT isempty(restate)") == 0


# -- by the registry's history


def test_who_moves_is_out_for_as_long_as_it_stood_there(bench: Bench) -> None:
    """A lamp moves out of the window's cell, another in; a district gets the community."""
    with psycopg.connect(bench.dsn, autocommit=True) as conn:
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            VALUES ('c01-g01', 'c01', 'city.c01.c01_g01', 'cell', 'x'),
                   ('d-1', 'city', 'city.d_1', 'district', 'x')
            """
        )
        conn.execute("UPDATE device SET area = 'c01-g01' WHERE device = 'c01-lamp-001'")
        start = datetime.now(UTC)
        create(bench, Node("area", "c01-g01"), start, start + HOUR)
        create(bench, Node("area", "d-1"), start, start + 2 * HOUR)
        conn.execute("UPDATE device SET area = 'c01' WHERE device = 'c01-lamp-001'")
        conn.execute("UPDATE device SET area = 'c01-g01' WHERE device = 'c01-lamp-002'")
        conn.execute("UPDATE area SET path = 'city.d_1.c01', parent = 'd-1' WHERE area = 'c01'")
        registry = load_registry(conn)
        moved_out, moved_in, district = (
            to_us(row[0])
            for row in conn.execute(
                """
                (SELECT lower(during) FROM device_version AS v JOIN device AS d ON d.id = device_id
                 WHERE upper_inf(during) AND device IN ('c01-lamp-001', 'c01-lamp-002')
                 ORDER BY device)
                UNION ALL
                SELECT lower(during) FROM area_version WHERE area = 'c01' AND upper_inf(during)
                """
            )
        )
    begin, end = to_us(start), to_us(start + HOUR)
    late = (district, to_us(start + 2 * HOUR))
    assert registry.devices["c01-lamp-001"].maintenance == tuple(sorted(((begin, moved_out), late)))
    assert registry.devices["c01-lamp-002"].maintenance == ((moved_in, end),)
    assert registry.devices["c01-bin-001"].maintenance == (late,)
    # What it was before is out for the same time: an indicator asks the device of its day's end.
    then = registry.devices["c01-lamp-001"].at(begin)
    assert (then.area, then.maintenance) == (
        "c01-g01",
        registry.devices["c01-lamp-001"].maintenance,
    )


SPANS = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda one: (one[0], sum(one)))
BY_NODE = st.dictionaries(st.sampled_from("ab"), st.lists(SPANS, max_size=3), max_size=2)


@given(
    BY_NODE,
    BY_NODE,
    BY_NODE,
    st.lists(st.integers(1, 39), unique=True, max_size=3),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=4, max_size=4),
)
def test_what_is_out_is_what_an_instant_by_instant_look_finds(
    areas: dict[str, list[Span]],
    gateways: dict[str, list[Span]],
    devices: dict[str, list[Span]],
    moves: list[int],
    places: list[tuple[str, str]],
) -> None:
    ends = [*sorted(moves), 1_000]
    stood = [Stood(end, *place) for end, place in zip(ends, places, strict=False)]
    *past, (_, area, gateway) = stood
    out = Exclusions(areas, gateways, devices).of("a", area, gateway, past)

    def is_out(at: int) -> bool:
        (there, *_) = (one for one in stood if at < one.until_us)
        nodes = (areas.get(there.area), gateways.get(there.gateway), devices.get("a"))
        return any(start <= at < end for node in nodes for start, end in node or ())

    for at in range(41):
        assert any(start <= at < end for start, end in out) == is_out(at)


def test_what_a_city_has_in_common_is_held_once(bench: Bench) -> None:
    create(bench, Node("area", "city"), NOW, NOW + HOUR)
    with connect(bench.dsn, "test") as conn:
        registered = load_registry(conn).devices.values()
    held: set[int] = {id(device.maintenance) for device in registered}
    # Six devices behind two gateways.
    assert (len(registered), len(held)) == (6, 2)


def test_the_plan_of_a_night_leaves_a_window_of_tonight_out(bench: Bench) -> None:
    tonight: date = DAY + timedelta(days=3)
    start = MIDNIGHT + timedelta(days=3, hours=20)
    create(bench, Node("area", "c01"), start, start + HOUR)
    with connect(bench.dsn, "test") as conn:
        lamp: Device = load_registry(conn).devices["c01-lamp-001"]
    due = open_night(lamp, tonight).due
    assert spans.overlap(due, to_us(start), to_us(start + HOUR)) == 0
    assert spans.overlap(due, to_us(start - HOUR), to_us(start)) == HOUR_US
