# SPDX-License-Identifier: Apache-2.0
"""A city tells its province: what travels, what is stored of it, in whatever order it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.services import Postgres
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    Aggregate,
    AreaDay,
    AreaPlace,
    AreaRecord,
    AreaTally,
    Level,
    PayloadError,
    Rejection,
    parse_aggregate,
)
from ingest import numbers
from ingest.indicators.catalogue import SINGLE
from ingest.store import cities, province
from ingest.store.area_days import verify_sums
from tests.ingest.federation import (
    DAYS,
    END,
    FIRST,
    NOW,
    TOLD,
    assert_equal,
    asynchronous,
    connect,
    databases,
    found_city,
    found_province,
    read,
    write,
)

PAYLOADS = Path(__file__).parents[1] / "payloads" / "v1"


@pytest.fixture
def new_database(database_server: Postgres, database_template: str) -> Iterator[Callable[[], str]]:
    with databases(database_server, database_template) as make:
        yield make


@pytest.fixture
def city(new_database: Callable[[], str]) -> Iterator[psycopg.Connection]:
    """A city with people and some weeks of numbers, which tells a province down to communities."""
    with connect(new_database()) as conn:
        found_city(conn)
        province.begin(conn, "metro-city", "community")
        yield conn


@pytest.fixture
def centre(new_database: Callable[[], str]) -> Iterator[psycopg.Connection]:
    """A province that admitted two cities."""
    with connect(new_database()) as conn:
        found_province(conn)
        yield conn


def all_messages(conn: psycopg.Connection) -> list[Aggregate]:
    """Everything that waits, made into messages and taken as told."""
    province.note_areas(conn)
    while province.note_history(conn) is not None:
        pass
    found: list[Aggregate] = []
    while (made := province.next_message(conn, NOW)) is not None:
        seq, payload = made
        assert len(payload) <= PAYLOAD_BYTES_MAX
        found.append(parse_aggregate(payload))
        province.settle(conn, found[-1].stream, seq, (), NOW)
    return found


def take(
    conn: psycopg.Connection, messages: Sequence[Aggregate], name: str = "metro-city"
) -> list[str]:
    """Let a province take messages, each in a transaction of its own; what is refused, and why."""
    reasons: list[str] = []
    for message in messages:
        with conn.transaction():
            refused = (
                cities.take_areas(conn, name, message.areas)
                if message.areas is not None
                else cities.take_days(conn, name, message.days or (), NOW)
            )
        reasons += [one.reason for one in refused]
    return reasons


# What arrives


async def test_a_provinces_numbers_are_the_citys_own(
    city: psycopg.Connection, centre: psycopg.Connection
) -> None:
    assert take(centre, all_messages(city)) == []
    await assert_equal(city, centre)
    rates = await read(centre, "metro", "total", ["incident-rate"])
    assert rates[0].number.verdict is not None
    assert rates[0].number.denominator == sum(
        4 * (2900 if day < date(2026, 3, 28) else 3100) for day in DAYS
    )


async def test_a_restated_day_travels_alone_and_replaces(
    city: psycopg.Connection, centre: psycopg.Connection
) -> None:
    take(centre, all_messages(city))
    write(city, ("c1-a", DAYS[2], "lamps-lit", "", 1, 2, 4), revision=2)
    (message,) = all_messages(city)
    assert message.days is not None
    assert [(one.area, one.day) for one in message.days] == [("c1", DAYS[2])]
    assert take(centre, [message]) == []
    await assert_equal(city, centre)
    kept = centre.execute("SELECT area, day, indicator, reason FROM area_day_revision").fetchall()
    assert kept == [("c1", DAYS[2], "lamps-lit", "city")]


async def test_an_area_that_moves_leaves_its_past_where_it_was(
    city: psycopg.Connection, centre: psycopg.Connection
) -> None:
    take(centre, all_messages(city))
    city.execute("UPDATE area SET parent = 's2', path = 'metro.s2.c2' WHERE area = 'c2'")
    messages = all_messages(city)
    assert [one.area for message in messages for one in message.areas or ()] == ["c2"]
    assert take(centre, messages) == []
    assert centre.execute("SELECT path::text FROM area WHERE area = 'c2'").fetchone() == (
        "north.metro.s2.c2",
    )
    await assert_equal(city, centre)


async def test_the_sum_of_two_cities_is_that_of_their_days(
    city: psycopg.Connection, centre: psycopg.Connection
) -> None:
    messages = all_messages(city)
    take(centre, messages)
    take(centre, [renamed(one) for one in messages], "other-city")
    own, both = (
        next(one.number for one in found if not one.number.kind)
        for found in (
            await read(city, "metro", "total", ["equipment-good"]),
            await read(centre, "north", "total", ["equipment-good"]),
        )
    )
    assert (both.numerator, both.total) == (2 * (own.numerator or 0), 2 * (own.total or 0))
    assert (both.value, both.lower) == (own.value, own.lower)


def renamed(message: Aggregate) -> Aggregate:
    """The same, told by a city whose areas have other names."""
    text = message.model_dump_json(exclude_none=True)
    for area in ("c1", "c2", "c3", "c4", "s1", "s2"):
        text = text.replace(f'"{area}"', f'"o-{area}"')
    return parse_aggregate(text.replace('"metro"', '"other"').encode())


async def test_single_times_are_absent_and_it_is_said_why(
    city: psycopg.Connection, centre: psycopg.Connection
) -> None:
    take(centre, all_messages(city))
    assert await read(centre, "c1", "total", sorted(SINGLE)) == []
    assert {
        one.number.indicator for one in await read(city, "c1", "total", sorted(SINGLE))
    } == SINGLE
    async with asynchronous(centre) as conn:
        assert await numbers.untold(conn, "north.metro.s1.c1") == SINGLE
        assert await numbers.untold(conn, "north") == SINGLE
    async with asynchronous(city) as conn:
        assert await numbers.untold(conn, "metro") == frozenset()


# In whatever order


def day_of(area: str, day: date, version: int, good: int) -> AreaDay:
    return AreaDay(
        area=area,
        day=day,
        version=version,
        computed_at=NOW,
        tallies=tuple(
            AreaTally(
                indicator=indicator, good=good, bad=0, total=good, subjects=1, revision=version,
                rule_version=1,
            )
            for indicator in ("lamps-lit", "refuse-sorted")[: 1 + good % 2]
        ),
    )  # fmt: skip


def told(*days: AreaDay) -> Aggregate:
    return Aggregate(stream="s", seq=1, sent_at=NOW, days=days)


AREAS = [
    AreaRecord(
        area=path[-1],
        parent=path[-2] if len(path) > 1 else None,
        level=level,
        name="",
        version=1,
        places=(AreaPlace(path=path, time_zone="Asia/Shanghai"),),
    )
    for path, level in cast(
        "tuple[tuple[tuple[str, ...], Level], ...]",
        (
            (("metro",), "city"),
            (("metro", "c1"), "community"),
            (("metro", "c2"), "community"),
        ),
    )
]

versions = st.lists(
    st.tuples(st.sampled_from(("c1", "c2")), st.integers(0, 1), st.integers(1, 4)),
    min_size=1,
    max_size=8,
)


@given(versions, st.randoms(use_true_random=False))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_order_and_repetition_end_in_the_same_tables(
    centre: psycopg.Connection, versions: list[tuple[str, int, int]], random: Any
) -> None:
    centre.execute("TRUNCATE area_day, area_sum, city_day, area_day_revision")
    take(centre, [Aggregate(stream="s", seq=1, sent_at=NOW, areas=tuple(AREAS))])
    days = [
        day_of(area, DAYS[number], version, 10 * version + number)
        for area, number, version in versions
    ]
    random.shuffle(days)
    cut = random.randint(0, len(days))
    for part in (days[:cut], days[cut:]):
        if part:
            assert take(centre, [told(*part)]) == []
    last: dict[tuple[str, int], int] = {}
    for area, number, version in versions:
        last[area, number] = max(version, last.get((area, number), 0))
    expected = {
        (area, DAYS[number], one.indicator): (one.good, one.revision)
        for (area, number), version in last.items()
        for one in day_of(area, DAYS[number], version, 10 * version + number).tallies
    }
    rows = centre.execute("SELECT area, day, indicator, good, revision FROM area_day").fetchall()
    assert {row[:3]: row[3:] for row in rows} == expected
    assert verify_sums(centre, FIRST, END)[1] == []


# What is not taken


@pytest.fixture
def settled(centre: psycopg.Connection) -> psycopg.Connection:
    take(centre, [Aggregate(stream="s", seq=1, sent_at=NOW, areas=tuple(AREAS))])
    take(centre, [told(day_of("c1", DAYS[0], 5, 50))])
    return centre


@pytest.mark.parametrize(
    ("name", "day", "reasons"),
    [
        pytest.param("metro-city", day_of("c1", DAYS[0], 4, 41), [], id="older"),
        pytest.param("metro-city", day_of("c1", DAYS[0], 5, 50), [], id="again"),
        pytest.param(
            "metro-city", day_of("c1", DAYS[0], 5, 51), ["aggregate.conflict"], id="other-content"
        ),
        pytest.param("metro-city", day_of("c9", DAYS[0], 6, 60), ["area.unknown"], id="unknown"),
        pytest.param("other-city", day_of("c1", DAYS[0], 6, 60), ["area.foreign"], id="foreign"),
        pytest.param("metro-city", day_of("north", DAYS[0], 6, 60), ["area.foreign"], id="ours"),
        pytest.param(
            "metro-city", day_of("c1", date(2026, 5, 3), 6, 60), ["time.future"], id="future"
        ),
    ],
)
def test_a_day_that_is_not_to_be_taken_changes_nothing(
    settled: psycopg.Connection, name: str, day: AreaDay, reasons: list[str]
) -> None:
    before = settled.execute("SELECT area, day, indicator, good, revision FROM area_day").fetchall()
    assert take(settled, [told(day)], name) == reasons
    after = settled.execute("SELECT area, day, indicator, good, revision FROM area_day").fetchall()
    assert after == before


@pytest.mark.parametrize("revision", [4, 6])
def test_what_a_number_was_is_kept_when_its_revision_changes(
    settled: psycopg.Connection, revision: int
) -> None:
    one = day_of("c1", DAYS[0], 6, 60)
    tallies = tuple(tally.model_copy(update={"revision": revision}) for tally in one.tallies)
    assert take(settled, [told(one.model_copy(update={"tallies": tallies}))]) == []
    now = settled.execute("SELECT good, revision FROM area_day").fetchall()
    before = settled.execute("SELECT good, revision FROM area_day_revision").fetchall()
    assert (now, before) == ([(60, revision)], [(50, 5)])


def record(area: str, path: Sequence[str], level: str = "community", **changes: Any) -> AreaRecord:
    return AreaRecord.model_validate(
        {
            "area": area,
            "parent": path[-2] if len(path) > 1 else None,
            "level": level,
            "name": "",
            "version": 9,
            "places": [{"path": path, "time_zone": "Asia/Shanghai"}],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("name", "one", "reason"),
    [
        pytest.param("other-city", record("c1", ["other", "c1"]), "area.foreign", id="of-another"),
        pytest.param("metro-city", record("north", ["north"]), "area.foreign", id="the-province"),
        pytest.param("metro-city", record("other", ["other"]), "area.foreign", id="another-city"),
        pytest.param("metro-city", record("c3", ["metro", "x", "c3"]), "area.unknown", id="orphan"),
        pytest.param(
            "metro-city", record("c3", ["metro", "c1", "c3"]), "area.impossible", id="level"
        ),
        pytest.param(
            "metro-city", record("c3", ["metro", "c1"]), "area.impossible", id="path-of-another"
        ),
        pytest.param(
            "metro-city",
            record(
                "c3",
                ["metro", "c3"],
                places=[{"path": ["metro", "c3"], "time_zone": "Asia/Atlantis"}],
            ),
            "area.impossible",
            id="zone",
        ),
        pytest.param(
            "metro-city",
            record(
                "c3",
                ["metro", "c3"],
                population=[
                    {"first": date(2026, 1, 1), "residents": 5},
                    {"first": date(2026, 2, 1), "residents": 5},
                ],
            ),
            "area.impossible",
            id="people-twice",
        ),
    ],
)
def test_an_area_that_cannot_be_is_refused_alone(
    settled: psycopg.Connection, name: str, one: AreaRecord, reason: str
) -> None:
    top = name.removesuffix("-city")
    good = record("fine", [top, "fine"])
    first = record(top, [top], "city")
    message = Aggregate(stream="s", seq=1, sent_at=NOW, areas=(first, one, good))
    assert take(settled, [message], name) == [reason]
    assert settled.execute("SELECT city FROM city_area WHERE area = 'fine'").fetchone() == (name,)
    owners = settled.execute("SELECT city FROM city_area WHERE area = 'c1'").fetchall()
    assert owners == [("metro-city",)]


@pytest.mark.parametrize(
    ("spoil", "by", "reason"),
    [
        pytest.param('"bad": 0', '"bad": 5184000000001', "tally.impossible", id="parts"),
        pytest.param('"bad": 0', '"bad": -1', "value.range", id="negative"),
        pytest.param('"bad": 0', '"bad": 0.5', "field.type", id="half"),
        pytest.param('"2026-11-21"', "20260101", "time.format", id="day-as-number"),
        pytest.param('"2026-11-21"', '"21.11.2026"', "time.format", id="day-as-text"),
        pytest.param('"c01"', '"c/01"', "text.pattern", id="id"),
        pytest.param('"days"', '"nights"', "batch.empty", id="nothing"),
    ],
)
def test_what_breaks_the_contract_is_refused(spoil: str, by: str, reason: str) -> None:
    text = (PAYLOADS / "aggregate.json").read_text()
    assert spoil in text
    with pytest.raises(PayloadError) as caught:
        parse_aggregate(text.replace(spoil, by).encode())
    assert caught.value.reason == reason


def test_unknown_fields_are_ignored() -> None:
    document = json.loads((PAYLOADS / "aggregate.json").read_text())
    plain = parse_aggregate(json.dumps(document).encode())
    document["new"] = document["days"][0]["new"] = document["days"][0]["tallies"][0]["new"] = [1]
    assert parse_aggregate(json.dumps(document).encode()) == plain


# What a city tells

# All that travels. Whoever adds a field says here that it names no person and no device.
FIELDS = {
    "Aggregate": {"v", "stream", "seq", "sent_at", "areas", "days"},
    "AreaRecord": {"area", "parent", "level", "name", "name_en", "version", "places", "population"},
    "AreaPlace": {"since", "path", "time_zone"},
    "Residents": {"first", "end", "residents", "households"},
    "AreaDay": {"area", "day", "version", "computed_at", "tallies"},
    "AreaTally": {
        "indicator", "kind", "good", "bad", "total", "subjects", "excluded", "revision",
        "rule_version",
    },
}  # fmt: skip


def test_only_these_fields_travel(city: psycopg.Connection) -> None:
    schema = Aggregate.model_json_schema()
    models = {"Aggregate": schema, **schema["$defs"]}
    assert {name: set(model["properties"]) for name, model in models.items()} == FIELDS
    names = set[str]().union(*FIELDS.values(), {"maintenance", "not_in_service"})

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for key, inner in cast("dict[str, object]", value).items():
                assert key in names
                walk(inner)
        elif isinstance(value, list):
            for inner in cast("list[object]", value):
                walk(inner)

    messages = all_messages(city)
    for message in messages:
        walk(json.loads(message.model_dump_json(exclude_none=True)))
    days = [one for message in messages for one in message.days or ()]
    assert {tally.indicator for one in days for tally in one.tallies} == {one for one, _ in TOLD}
    assert {one.area for one in days} == {"c1", "c2", "c3", "c4"}  # no cell
    areas = {one.area for message in messages for one in message.areas or ()}
    assert areas == {"metro", "s1", "s2", "c1", "c2", "c3", "c4"}


def test_a_city_may_tell_of_streets_only(city: psycopg.Connection) -> None:
    province.begin(city, "metro-city", "street")
    messages = all_messages(city)
    areas = {one.area for message in messages for one in message.areas or ()}
    assert areas == {"metro", "s1", "s2"}
    assert {one.area for message in messages for one in message.days or ()} == {"s1", "s2"}


def test_areas_come_first_and_then_the_newest_months(city: psycopg.Connection) -> None:
    messages = all_messages(city)
    assert [one.seq for one in messages] == list(range(1, len(messages) + 1))
    first, *rest = messages
    assert first.areas is not None
    days = [one.day for message in rest for one in message.days or ()]
    assert [one.month for one in days] == sorted((one.month for one in days), reverse=True)
    assert sorted(set(days)) == DAYS


def test_what_is_not_final_stays_in_the_city(city: psycopg.Connection) -> None:
    all_messages(city)
    write(city, ("c1", END, "lamps-lit", "", 1, 1, 2), status="provisional")
    assert all_messages(city) == []
    write(city, ("c1", END, "lamps-lit", "", 1, 1, 2))
    assert [one.day for message in all_messages(city) for one in message.days or ()] == [END]


def test_a_message_on_its_way_stays_what_it_is(city: psycopg.Connection) -> None:
    province.note_areas(city)
    made = province.next_message(city, NOW)
    assert made is not None
    city.execute("UPDATE area SET name = 'new' WHERE area = 'c1'")
    province.note_areas(city)
    assert province.messages(city) == [made]
    stream = parse_aggregate(made[1]).stream
    assert province.settle(city, "an-earlier-one", 1, (), NOW) == 0
    assert province.settle(city, stream, 1, (), NOW) == 1
    # What changed meanwhile is told next, under the next number.
    again = province.next_message(city, NOW)
    assert again is not None
    message = parse_aggregate(again[1])
    assert (message.seq, [one.name for one in message.areas or ()]) == (2, ["new"])


def test_a_refusal_is_kept_with_what_it_is_of(city: psycopg.Connection) -> None:
    province.note_areas(city)
    made = province.next_message(city, NOW)
    assert made is not None
    stream = parse_aggregate(made[1]).stream
    refusal = Rejection(stream=stream, seq=1, index=1, reason="area.foreign")
    province.settle(city, stream, 1, [refusal], NOW)
    assert province.refusals(city, 5) == [(NOW, "area.foreign", "s1", None)]


async def test_a_province_restored_from_a_backup_is_told_everything_again(
    city: psycopg.Connection, centre: psycopg.Connection
) -> None:
    before = all_messages(city)
    assert province.know_epoch(city, "one")
    assert province.know_epoch(city, "one")
    assert not province.know_epoch(city, "another")
    again = all_messages(city)
    assert again[0].stream != before[0].stream
    assert (again[0].seq, len(again)) == (1, len(before))
    take(centre, before[: len(before) // 2])
    assert take(centre, again) == []
    await assert_equal(city, centre)


def test_a_city_goes_on_where_it_was(city: psycopg.Connection) -> None:
    (first, *rest) = all_messages(city)
    for _ in range(2):
        known = province.begin(city, "metro-city", "community")
        assert known.stream == first.stream
        assert (known.acknowledged, known.next_seq) == (1 + len(rest), 2 + len(rest))
    assert all_messages(city) == []


@pytest.mark.parametrize("timeline", [0, 2])
async def test_a_city_on_another_course_of_its_database_tells_everything_again(
    city: psycopg.Connection, centre: psycopg.Connection, timeline: int
) -> None:
    before = all_messages(city)
    take(centre, before)
    # As a promoted standby, or a backup restored up to some moment, finds it: on another timeline.
    city.execute(
        "UPDATE province SET epoch = (SELECT epoch FROM installation) || %s", (f"-{timeline}",)
    )
    assert province.begin(city, "metro-city", "community").stream != before[0].stream
    again = all_messages(city)
    assert (again[0].seq, len(again)) == (1, len(before))
    assert take(centre, again) == []
    await assert_equal(city, centre)


def test_the_first_message_is_what_a_city_asks_by(city: psycopg.Connection) -> None:
    assert province.question(city) is None
    silent = province.load(city)
    # A backup may know of nothing that was said: so what was never used is not used.
    assert silent != province.begin(city, "metro-city", "community")
    first, *rest = all_messages(city)
    asked = province.question(city)
    assert asked is not None
    assert (asked[0], parse_aggregate(asked[1])) == (1, first)
    assert rest
    province.renew(city, None)
    assert province.question(city) is None


def test_a_city_that_tells_nobody_notes_nothing(new_database: Callable[[], str]) -> None:
    with connect(new_database()) as conn:
        found_city(conn)
        assert conn.execute("SELECT count(*) FROM province_day").fetchone() == (0,)
        province.begin(conn, "metro-city", "community")
        write(conn, ("c1", END, "lamps-lit", "", 1, 1, 2))
        assert conn.execute("SELECT area, day FROM province_day").fetchall() == [("c1", END)]
        province.stop(conn)
        write(conn, ("c1", END, "lamps-lit", "", 2, 1, 3))
        assert conn.execute("SELECT count(*) FROM province_day").fetchone() == (0,)


def test_two_claims_to_one_name_are_refused(centre: psycopg.Connection) -> None:
    with pytest.raises(ValueError, match="registered already"):
        cities.admit(centre, "third-city", "metro", "", "north")
    with pytest.raises(ValueError, match="tells of"):
        cities.admit(centre, "metro-city", "elsewhere", "", "north")
    with pytest.raises(KeyError):
        cities.admit(centre, "third-city", "third", "", "nowhere")
    cities.admit(centre, "metro-city", "metro", "", "north")
    assert [one.city for one in cities.listed(centre)] == ["metro-city", "other-city"]
