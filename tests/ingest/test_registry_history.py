# SPDX-License-Identifier: Apache-2.0
"""What is registered is remembered: a day or a night is counted by what held then."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from ingest.indicators.lighting import Place, parse_programme
from ingest.indicators.spans import from_us, to_us
from ingest.migrate import migrate
from ingest.registry import import_files
from ingest.store.devices import Device, load_registry
from tests.ingest.test_registry import (
    AREAS,
    DEVICES,
    GATEWAYS,
    add_days,
    add_nights,
    dirty,
    marked_days,
    one,
    write,
)

LAMP = "c01-lamp-001"
BEGINNING = to_us(datetime(1980, 1, 1, tzinfo=UTC))


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


class Registering:
    """Imports files, and tells the instants between one import and the next."""

    def __init__(self, conn: psycopg.Connection, folder: Path) -> None:
        self._conn = conn
        self._folder = folder
        self.instants: list[int] = []

    def __call__(self, contents: Mapping[str, str]) -> None:
        import_files(self._conn, write(self._folder, contents))
        self.instants.append(to_us(one(self._conn, "SELECT clock_timestamp()")))

    def device(self, name: str = LAMP) -> Device:
        return load_registry(self._conn).devices[name]

    def versions(self, name: str = LAMP) -> int:
        return one(
            self._conn,
            """
            SELECT count(*) FROM device_version AS v JOIN device AS d ON d.id = v.device_id
            WHERE d.device = %s
            """,
            name,
        )


@pytest.fixture
def register(conn: psycopg.Connection, tmp_path: Path) -> Registering:
    made = Registering(conn, tmp_path)
    made({"areas": AREAS, "gateways": GATEWAYS, "devices": DEVICES})
    return made


def with_columns(**values: str) -> dict[str, str]:
    """Return a devices file for the lamp, with other values in some columns."""
    columns = {"kind": "lamp", "gateway": "gw-c01-a", "area": "c01-g01"} | values
    return {"new": f"device,{','.join(columns)}\n{LAMP},{','.join(columns.values())}\n"}


def test_a_device_that_never_changed_has_no_history(register: Registering) -> None:
    device = register.device()
    assert device.history == ()
    assert device.at(BEGINNING) is device
    assert register.versions() == 1


@pytest.mark.parametrize(
    ("column", "value", "attribute"),
    [
        pytest.param("area", "c01", "area", id="moved"),
        pytest.param("life", "retired", "life", id="retired"),
        pytest.param("reporting_period_s", "30", "max_silence", id="reporting-period"),
        pytest.param("rated_power_w", "80", "rated_power_w", id="rated-power"),
        pytest.param("programme", "always", "programme", id="programme"),
        pytest.param("road", "东路", "road", id="road"),
    ],
)
def test_a_change_holds_from_its_import_on(
    register: Registering, column: str, value: str, attribute: str
) -> None:
    before = register.device()
    register(with_columns(**{column: value}))
    after = register.device()
    assert getattr(after, attribute) != getattr(before, attribute)
    assert after.at(BEGINNING) == before
    assert after.at(register.instants[0]) == before
    assert after.at(register.instants[1]) is after
    assert register.versions() == 2


def test_each_of_many_versions_is_found(register: Registering) -> None:
    for programme in ("always", "18:00-06:00", "sun"):
        register(with_columns(programme=programme))
    device = register.device()
    found = [device.at(instant).programme for instant in register.instants]
    expected = ("sun+15-10", "always", "18:00-06:00", "sun")
    assert found == [parse_programme(text) for text in expected]
    # A version holds up to its end, which is not part of it.
    until_us, then = device.history[0]
    assert device.at(until_us - 1) is then
    assert device.at(until_us) is device.history[1][1]


def test_a_moved_gateway_leaves_the_past_where_it_was(register: Registering) -> None:
    register(
        {
            "gateways": "gateway,community\ngw-c02-a,c01\n",
            "devices": "device,kind,gateway,area\nc02-gate-001,gate,gw-c02-a,c01\n",
        }
    )
    device = register.device("c02-gate-001")
    then = device.at(register.instants[0])
    assert (device.community, device.area) == ("c01", "c01")
    assert (then.community, then.area) == ("c02", "c02")
    assert then.place == Place(43.8, 87.6, "Asia/Urumqi")
    assert device.place == Place(31.2, 121.4, "Asia/Shanghai")


def test_a_corrected_place_leaves_past_nights_by_the_old_one(register: Registering) -> None:
    # Only the community's own place: its devices' rows stay as they are.
    register({"areas": "area,level,name,latitude,longitude\nc01,community,一社区,41.2,121.4\n"})
    device = register.device()
    assert device.at(register.instants[0]).place.latitude == 31.2
    assert device.place.latitude == 41.2
    assert register.versions() == 1


def test_place_and_programme_may_change_by_turns(register: Registering) -> None:
    places = "area,level,name,latitude,longitude\nc01,community,一社区,{},121.4\n"
    register(with_columns(programme="always"))
    register({"areas": places.format("41.2")})
    register(with_columns(programme="sun"))
    register({"areas": places.format("51.2")})
    device = register.device()
    found = [device.at(instant) for instant in register.instants]
    assert [(then.programme, then.place.latitude) for then in found] == [
        (parse_programme("sun+15-10"), 31.2),
        (parse_programme("always"), 31.2),
        (parse_programme("always"), 41.2),
        (parse_programme("sun"), 41.2),
        (parse_programme("sun"), 51.2),
    ]
    assert found[-1] is device


AREA_PROGRAMMES = "area,parent,level,name,programme\n"


def test_the_nearest_areas_programme_holds_and_a_lamps_own_before_it(
    register: Registering,
) -> None:
    lamp = "device,kind,gateway,area,programme\n{},lamp,gw-c01-a,c01-g01,{}\n"
    other = "c01-lamp-002"
    register({"new": lamp.format(other, "")})
    found = [register.device(other)]
    for area in ("city,,city,示范市,18:00-06:00", "c01,city,community,一社区,always",
                 "c01-g01,c01,cell,一社区一格,sun+5-5", "c01-g01,c01,cell,一社区一格,",
                 "c01,city,community,一社区,", "city,,city,示范市,"):  # fmt: skip
        register({"new": f"{AREA_PROGRAMMES}{area}\n"})
        found.append(register.device(other))
    register({"new": lamp.format(other, "12:00-13:00")})
    found.append(register.device(other))
    texts = ("sun", "18:00-06:00", "always", "sun+5-5", "always", "18:00-06:00", "sun",
             "12:00-13:00")  # fmt: skip
    assert [device.programme for device in found] == [parse_programme(text) for text in texts]
    # Each held from its import on, and is remembered.
    device = register.device(other)
    assert [device.at(instant).programme for instant in register.instants[1:]] == [
        parse_programme(text) for text in texts
    ]
    # A lamp's own stays its own all the while; what gives no light has none.
    assert register.device().programme == parse_programme("sun+15-10")
    assert register.versions() == 1
    assert register.versions("c01-bin-001") == 1


def test_a_lamp_that_moves_goes_by_the_programme_of_where_it_stands(
    register: Registering,
) -> None:
    register(with_columns(programme=""))
    register({"new": f"{AREA_PROGRAMMES}c01-g01,c01,cell,一社区一格,always\n"})
    assert register.device().programme == parse_programme("always")
    register(with_columns(area="c01"))
    assert register.device().programme == parse_programme("sun")
    register({"new": "area,parent,level,name,programme\nd1,city,district,一区,always\n"})
    register({"new": "area,parent,level,name\nc01,d1,community,一社区\n"})
    device = register.device()
    assert device.programme == parse_programme("always")
    assert device.at(register.instants[-2]).programme == parse_programme("sun")


def test_an_areas_programme_has_the_running_night_of_its_lamps_counted_again(
    register: Registering, conn: psycopg.Connection
) -> None:
    today = datetime.now(UTC).date()
    register(with_columns(programme=""))
    add_nights(conn, LAMP, today - timedelta(days=3), 5)
    register({"new": f"{AREA_PROGRAMMES}city,,city,示范市,always\n"})
    marked = dirty(conn)
    assert 2 <= len(marked) <= 3
    assert marked[-1] == today + timedelta(days=1)


def test_programmes_of_before_areas_had_any_stay_as_they_were(
    database: str, tmp_path: Path
) -> None:
    """The default that nobody chose gives way to an area's; what a lamp was given does not."""
    take_back(database, tmp_path, 6)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            """
            INSERT INTO area (area, path, level, name, latitude, longitude)
            VALUES ('c01', 'c01', 'community', '一社区', 31.2, 121.4);
            INSERT INTO gateway (gateway, community) VALUES ('gw-c01-a', 'c01');
            INSERT INTO device (device, kind, gateway, community, area, programme)
            VALUES ('lamp-1', 'lamp', 'gw-c01-a', 'c01', 'c01', 'sun'),
                   ('lamp-2', 'lamp', 'gw-c01-a', 'c01', 'c01', 'always'),
                   ('bin-1', 'bin', 'gw-c01-a', 'c01', 'c01', 'sun')
            """
        )
        migrate(database)
        rows = conn.execute("SELECT device, programme, own_programme FROM device ORDER BY device")
        assert rows.fetchall() == [
            ("bin-1", "sun", None),
            ("lamp-1", "sun", None),
            ("lamp-2", "always", "always"),
        ]
        assert one(conn, "SELECT count(*) FROM device_version") == 3


def test_what_no_number_depends_on_makes_no_version(register: Registering) -> None:
    register(with_columns(name="新名", owner="物业", component_code="0312-000123", model="L60"))
    assert register.versions() == 1
    assert register.device().history == ()


def test_a_moved_district_is_no_other_version_of_its_devices(
    register: Registering, conn: psycopg.Connection
) -> None:
    register({"new": "area,parent,level,name\nd1,city,district,一区\nc01,d1,community,一社区\n"})
    assert register.device().history == ()
    # The tree is remembered all the same: numbers of that time belong to where it stood then.
    paths = conn.execute(
        """
        SELECT path::text, upper(during) FROM area_version WHERE area = 'c01' ORDER BY during
        """
    ).fetchall()
    assert [path for path, _ in paths] == ["city.c01", "city.d1.c01"]
    assert register.instants[0] < to_us(paths[0][1]) <= register.instants[1]


def test_maintenance_and_start_of_service_hold_for_the_past_too(
    register: Registering, conn: psycopg.Connection
) -> None:
    register(with_columns(programme="always"))
    register(with_columns(programme="always", in_service_from="2026-02-01T00:00:00+08:00"))
    conn.execute(
        """
        INSERT INTO maintenance (device_id, during, reason)
        SELECT id, '[2026-03-01T00:00Z, 2026-03-02T00:00Z)', 'x' FROM device WHERE device = %s
        """,
        (LAMP,),
    )
    device = register.device()
    then = device.at(BEGINNING)
    assert then.programme == parse_programme("sun+15-10")
    assert from_us(then.in_service_from_us) == datetime(2026, 1, 31, 16, tzinfo=UTC)
    assert len(then.maintenance) == 1


def test_a_dry_run_leaves_no_version(
    register: Registering, conn: psycopg.Connection, tmp_path: Path
) -> None:
    import_files(conn, write(tmp_path, with_columns(programme="always")), dry_run=True)
    assert register.versions() == 1


def test_versions_never_overlap_and_never_leave_a_gap(
    register: Registering, conn: psycopg.Connection
) -> None:
    for number in range(20):
        register(with_columns(rated_power_w=str(50 + number % 3)))
    rows = conn.execute(
        """
        SELECT lower(v.during), upper(v.during)
        FROM device_version AS v JOIN device AS d ON d.id = v.device_id
        WHERE d.device = %s ORDER BY v.during
        """,
        (LAMP,),
    ).fetchall()
    assert len(rows) == 21
    assert rows[0][0] is None
    assert rows[-1][1] is None
    assert [end for _, end in rows[:-1]] == [start for start, _ in rows[1:]]


def test_a_clock_that_was_set_back_never_makes_time_overlap(
    register: Registering, conn: psycopg.Connection
) -> None:
    register(with_columns(programme="always"))
    # As if the import before had run with a clock that was an hour ahead.
    conn.execute(
        """
        UPDATE device_version
        SET during = CASE WHEN upper_inf(during)
                          THEN tstzrange(lower(during) + INTERVAL '1 hour', NULL)
                          ELSE tstzrange(NULL, upper(during) + INTERVAL '1 hour') END
        WHERE device_id = (SELECT id FROM device WHERE device = %s)
        """,
        (LAMP,),
    )
    register(with_columns(programme="sun"))
    device = register.device()
    assert device.programme == parse_programme("sun")
    # What would have held no time at all is replaced.
    assert [then.programme for _, then in device.history] == [parse_programme("sun+15-10")]


def test_who_changes_a_device_without_a_file_leaves_history_too(
    register: Registering, conn: psycopg.Connection
) -> None:
    conn.execute("UPDATE device SET life = 'maintenance' WHERE device = %s", (LAMP,))
    conn.execute("UPDATE device SET name = 'x' WHERE device = %s", (LAMP,))
    with conn.transaction():
        conn.execute("UPDATE device SET life = 'retired' WHERE device = %s", (LAMP,))
        conn.execute("UPDATE device SET life = 'in_service' WHERE device = %s", (LAMP,))
    lives = [then.life for _, then in register.device().history]
    assert lives == ["in_service", "maintenance", "retired"]


def take_back(database: str, folder: Path, version: int) -> None:
    """Leave an empty database with the schema of an earlier version."""
    migrations = sorted((Path(__file__).parents[2] / "ingest/migrations").glob("*.sql"))
    for file in migrations[:version]:
        (folder / file.name).write_bytes(file.read_bytes())
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("DROP OWNED BY CURRENT_USER")
        conn.execute("CREATE SCHEMA IF NOT EXISTS public")
    migrate(database, folder=folder)


def test_a_database_of_the_release_before_begins_its_history(database: str, tmp_path: Path) -> None:
    """The migration gives what is registered one version, and people a figure from its day on."""
    take_back(database, tmp_path, 4)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            """
            INSERT INTO area (area, path, level, name, residents, households)
            VALUES ('c01', 'c01', 'community', 'One', 3000, 1200),
                   ('c02', 'c02', 'community', 'Two', 0, NULL)
            """
        )
        conn.execute("INSERT INTO gateway (gateway, community) VALUES ('gw-c01-a', 'c01')")
        conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area)
            VALUES ('c01-lamp-001', 'lamp', 'gw-c01-a', 'c01', 'c01')
            """
        )
    migrate(database)
    with psycopg.connect(database, autocommit=True) as conn:
        assert one(conn, "SELECT count(*) FROM device_version WHERE during = '(,)'") == 1
        assert one(conn, "SELECT count(*) FROM area_version WHERE during = '(,)'") == 2
        assert conn.execute(
            """
            SELECT area, lower(valid) = (now() AT TIME ZONE 'Asia/Shanghai')::date,
                   upper_inf(valid), residents, households
            FROM area_population
            """
        ).fetchall() == [("c01", True, True, 3000, 1200)]
        assert load_registry(conn).devices[LAMP].history == ()


def test_a_new_device_restates_the_days_it_was_in_service_already(
    register: Registering, conn: psycopg.Connection
) -> None:
    add_days(conn, "c01", date(2026, 3, 1), 4)
    add_days(conn, "c02", date(2026, 3, 1), 4)
    columns = "device,kind,gateway,area,in_service_from"
    register({"new": f"{columns}\nc01-lamp-009,lamp,gw-c01-a,c01,\n"})
    assert marked_days(conn) == []
    since = "2026-03-03T12:00:00+08:00"
    register({"new": f"{columns}\nc01-lamp-010,lamp,gw-c01-a,c01,{since}\n"})
    assert marked_days(conn) == [("c01", date(2026, 3, day), "registry") for day in (3, 4)]
