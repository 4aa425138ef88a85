# SPDX-License-Identifier: Apache-2.0
"""Registry files are applied whole or not at all, and every mistake in them is named."""

import re
import ssl
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from edge_agent.config import load as load_agent_config
from ingest import pki
from ingest.errors import PkiError, RegistryError
from ingest.gateways import add_gateway
from ingest.maintenance import add_maintenance
from ingest.registry import import_files
from ingest.registry_tables import TABLES

AREAS = """\
area,parent,level,name,name_en,time_zone,latitude,longitude,households,residents
city,,city,示范市,Model City,Asia/Shanghai,31.2,121.4,,
c01,city,community,一社区,Community 1,,,,1200,3000
c01-g01,c01,cell,一社区一格,,,,,,
c02,city,community,二社区,,Asia/Urumqi,43.8,87.6,,
"""
GATEWAYS = """\
gateway,community,name
gw-c01-a,c01,东门
gw-c02-a,c02,
"""
DEVICES = """\
device,kind,gateway,area,name,name_en,life,in_service_from,\
reporting_period_s,rated_power_w,programme
c01-lamp-001,lamp,gw-c01-a,c01-g01,东路 1 号灯,East 1,in_service,2026-01-01T00:00:00+08:00,\
600,60,sun+15-10
c01-bin-001,bin,gw-c01-a,c01,,,,,,,
c02-gate-001,gate,gw-c02-a,c02,西门,,planned,,30,,
"""


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write(tmp_path, {"areas": AREAS, "gateways": GATEWAYS, "devices": DEVICES})


@pytest.fixture
def registered(conn: psycopg.Connection, files: Sequence[Path]) -> psycopg.Connection:
    import_files(conn, files)
    return conn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority."""
    folder = tmp_path_factory.mktemp("pki")
    pki.create_authority(folder)
    return folder


def write(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    paths: list[Path] = []
    for name, content in contents.items():
        paths.append(folder / f"{name}.csv")
        paths[-1].write_text(content, encoding="utf-8", newline="")
    return paths


def one(conn: psycopg.Connection, query: str, *parameters: object) -> Any:
    row = conn.execute(query.encode(), parameters).fetchone()
    return None if row is None else row[0] if len(row) == 1 else row


def revision(conn: psycopg.Connection) -> int:
    return one(conn, "SELECT registry_revision FROM installation")


def refusal(conn: psycopg.Connection, folder: Path, contents: Mapping[str, str]) -> list[str]:
    """Import what must be refused; return the problems, after seeing that nothing was applied."""
    count = """
        SELECT (SELECT count(*) FROM area), (SELECT count(*) FROM gateway),
               (SELECT count(*) FROM device), (SELECT registry_revision FROM installation)
    """
    before = one(conn, count)
    paths = write(folder, contents)
    with pytest.raises(RegistryError) as caught:
        import_files(conn, paths)
    assert one(conn, count) == before
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


class TestImport:
    """What good files do."""

    def test_all_three_files_are_stored(
        self, conn: psycopg.Connection, files: Sequence[Path]
    ) -> None:
        # Later files may be named first: they are read together.
        report = import_files(conn, [*reversed(files)])
        assert {table: len(ids) for table, ids in report.added.items()} == {
            "area": 4,
            "gateway": 2,
            "device": 3,
            "population": 0,
        }
        assert report.opened == {"c01": 3000}
        assert one(conn, "SELECT path::text FROM area WHERE area = 'c01-g01'") == "city.c01.c01_g01"
        assert one(
            conn,
            """
            SELECT kind, gateway, community, area, name_en, life, in_service_from,
                   reporting_period_s, rated_power_w, programme
            FROM device WHERE device = 'c01-lamp-001'
            """,
        ) == (
            "lamp",
            "gw-c01-a",
            "c01",
            "c01-g01",
            "East 1",
            "in_service",
            datetime(2025, 12, 31, 16, tzinfo=UTC),
            600.0,
            60.0,
            "sun+15-10",
        )

    def test_a_cell_left_empty_takes_the_default(self, registered: psycopg.Connection) -> None:
        assert one(
            registered,
            """
            SELECT name, name_en, life, reporting_period_s, rated_power_w, programme,
                   in_service_from > now() - INTERVAL '1 minute'
            FROM device WHERE device = 'c01-bin-001'
            """,
        ) == ("", None, "in_service", 600.0, None, "sun", True)

    def test_place_and_zone_are_the_parents_where_left_empty(
        self, registered: psycopg.Connection
    ) -> None:
        query = "SELECT time_zone, latitude, longitude FROM area WHERE area = %s"
        assert one(registered, query, "c01-g01") == ("Asia/Shanghai", 31.2, 121.4)
        assert one(registered, query, "c02") == ("Asia/Urumqi", 43.8, 87.6)

    def test_importing_again_changes_nothing(
        self, registered: psycopg.Connection, files: Sequence[Path]
    ) -> None:
        before = revision(registered)
        report = import_files(registered, files)
        assert (report.changed, report.unchanged) == ([], 10)
        assert not any(report.added.values())
        assert revision(registered) == before

    def test_importing_again_updates_what_differs(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        before = revision(registered)
        paths = write(
            tmp_path, {"new": DEVICES.replace("East 1", "East One").replace(",60,", ",,")}
        )
        report = import_files(registered, paths)
        assert [str(change) for change in report.changed] == [
            "device c01-lamp-001: name_en: 'East 1' -> 'East One'",
            "device c01-lamp-001: rated_power_w: 60.0 -> None",
        ]
        assert one(
            registered, "SELECT name_en, rated_power_w FROM device WHERE device = 'c01-lamp-001'"
        ) == ("East One", None)
        assert revision(registered) == before + 1

    def test_columns_the_file_lacks_keep_their_values(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        paths = write(
            tmp_path,
            {"new": "device,kind,gateway,area,life\nc01-lamp-001,lamp,gw-c01-a,c01,maintenance\n"},
        )
        import_files(registered, paths)
        assert one(
            registered,
            "SELECT area, life, rated_power_w FROM device WHERE device = 'c01-lamp-001'",
        ) == ("c01", "maintenance", 60.0)

    def test_a_moved_area_takes_its_cells_along(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        paths = write(
            tmp_path,
            {"new": "area,parent,level,name\nd1,city,district,一区\nc01,d1,community,一社区\n"},
        )
        import_files(registered, paths)
        query = "SELECT path::text FROM area WHERE area = 'c01-g01'"
        assert one(registered, query) == "city.d1.c01.c01_g01"

    def test_a_moved_gateway_takes_its_devices_along(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        paths = write(
            tmp_path,
            {
                "gateways": "gateway,community\ngw-c02-a,c01\n",
                "devices": "device,kind,gateway,area\nc02-gate-001,gate,gw-c02-a,c01\n",
            },
        )
        import_files(registered, paths)
        query = "SELECT community FROM device WHERE device = 'c02-gate-001'"
        assert one(registered, query) == "c01"

    def test_a_dry_run_reports_the_same_and_changes_nothing(
        self, conn: psycopg.Connection, files: Sequence[Path]
    ) -> None:
        before = revision(conn)
        report = import_files(conn, files, dry_run=True)
        assert [line.removeprefix(f"{files[0].parent}/") for line in report.lines()] == [
            "areas.csv:2: area city: would be added",
            "areas.csv:3: area c01: would be added",
            "areas.csv:4: area c01-g01: would be added",
            "areas.csv:5: area c02: would be added",
            "area: 4 would be added: city, c01, c01-g01, c02",
            "gateways.csv:2: gateway gw-c01-a: would be added",
            "gateways.csv:3: gateway gw-c02-a: would be added",
            "gateway: 2 would be added: gw-c01-a, gw-c02-a",
            "devices.csv:2: device c01-lamp-001: would be added",
            "devices.csv:3: device c01-bin-001: would be added",
            "devices.csv:4: device c02-gate-001: would be added",
            "device: 3 would be added: c01-lamp-001, c01-bin-001, c02-gate-001",
            "population c01: 3000 residents, would hold from today on",
            "9 would be added, 0 would be changed, 0 unchanged",
        ]
        assert one(conn, "SELECT count(*) FROM area") == 0
        assert revision(conn) == before

    def test_a_dry_run_tells_each_change_with_its_row(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        text = DEVICES.replace("East 1", "East One").replace(",planned,,30,", ",in_service,,60,")
        moved = "area,parent,level,name\nd1,city,district,一区\nc01,d1,community,一社区\n"
        paths = write(tmp_path, {"new": text, "moved": moved})
        report = import_files(registered, paths, dry_run=True)
        assert [line.removeprefix(f"{tmp_path}/") for line in report.lines()] == [
            "moved.csv:2: area d1: would be added",
            "area: 1 would be added: d1",
            "moved.csv:3: area c01: parent: 'city' -> 'd1'",
            "area c01: path: 'city.c01' -> 'city.d1.c01'",
            "area c01-g01: path: 'city.c01.c01_g01' -> 'city.d1.c01.c01_g01'",
            "new.csv:2: device c01-lamp-001: name_en: 'East 1' -> 'East One'",
            "new.csv:4: device c02-gate-001: life: 'planned' -> 'in_service'",
            "new.csv:4: device c02-gate-001: reporting_period_s: 30.0 -> 60.0",
            "1 would be added, 4 would be changed, 6 unchanged",
        ]
        assert one(registered, "SELECT count(*) FROM area WHERE area = 'd1'") == 0

    def test_the_facility_register_is_stored(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        header = (
            "device,kind,gateway,area,component_code,owner,maker,model,planned_on,installed_on,"
            "warranty_until,road,circuit"
        )
        row = (
            "c01-lamp-001,lamp,gw-c01-a,c01,0312-000123,街道办,ACME,L60/4000K,2024-11-01,"
            "2025-02-03,2030-02-03,东路,FP-7/2"
        )
        report = import_files(registered, write(tmp_path, {"new": f"{header}\n{row}\n"}))
        assert "installed_on: None -> 2025-02-03" in "\n".join(report.lines())
        assert one(
            registered,
            """
            SELECT component_code, owner, maker, model, planned_on, installed_on, warranty_until,
                   road, circuit
            FROM device WHERE device = 'c01-lamp-001'
            """,
        ) == (
            "0312-000123",
            "街道办",
            "ACME",
            "L60/4000K",
            date(2024, 11, 1),
            date(2025, 2, 3),
            date(2030, 2, 3),
            "东路",
            "FP-7/2",
        )

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param("\ufeff" + AREAS, id="byte-order-mark"),
            pytest.param(AREAS.replace(",", ";"), id="semicolons"),
            pytest.param(AREAS.replace("\n", "\r\n"), id="windows-line-ends"),
            pytest.param(AREAS.replace("示范市", '"示范,市"'), id="quotes"),
            pytest.param(AREAS + "\n,,,,,,,,,\n", id="empty-rows"),
            pytest.param(AREAS.replace(",", " , "), id="blanks"),
        ],
    )
    def test_spreadsheets_may_write_as_they_do(
        self, conn: psycopg.Connection, tmp_path: Path, content: str
    ) -> None:
        file = tmp_path / "areas.csv"
        file.write_text(content, encoding="utf-8", newline="")
        assert len(import_files(conn, [file]).added["area"]) == 4

    def test_a_corrected_start_of_service_has_its_nights_counted_again(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        add_nights(registered, "c01-lamp-001", date(2026, 1, 1), 5)
        text = DEVICES.replace("2026-01-01T00:00:00+08:00", "2026-01-03T20:00:00+08:00")
        import_files(registered, write(tmp_path, {"new": text}))
        assert dirty(registered) == [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]

    def test_a_corrected_start_of_service_has_its_days_computed_again(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        add_days(registered, "c01", date(2025, 12, 30), 8)
        text = DEVICES.replace("2026-01-01T00:00:00+08:00", "2026-01-03T20:00:00+08:00")
        import_files(registered, write(tmp_path, {"new": text}))
        days = [day for _, day, reason in marked_days(registered) if reason == "registry"]
        assert days[-3:] == [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            pytest.param("sun+15-10", "always", id="programme"),
            pytest.param("600,60,", "600,80,", id="rated-power"),
            pytest.param("31.2,121.4", "41.2,121.4", id="place"),
        ],
    )
    def test_what_decides_on_light_holds_from_the_running_night_on(
        self, registered: psycopg.Connection, tmp_path: Path, before: str, after: str
    ) -> None:
        today = datetime.now(UTC).date()
        add_nights(registered, "c01-lamp-001", today - timedelta(days=3), 5)
        contents = {"areas": AREAS, "devices": DEVICES}
        paths = write(tmp_path, {k: v.replace(before, after) for k, v in contents.items()})
        assert import_files(registered, paths).changed
        marked = dirty(registered)
        # Noon in China is at 4:00, so the running night is yesterday's or today's.
        assert 2 <= len(marked) <= 3
        assert marked[-1] == today + timedelta(days=1)


def add_nights(conn: psycopg.Connection, device: str, first: date, count: int) -> None:
    conn.execute(
        """
        INSERT INTO lamp_night (device_id, night, community, due, due_us, due_to)
        SELECT d.id, night::date, d.community, '{}', 0,
               (night::date + 1 + TIME '12:00') AT TIME ZONE 'Asia/Shanghai'
        FROM device AS d, generate_series(%(first)s, %(last)s, INTERVAL '1 day') AS night
        WHERE d.device = %(device)s
        """,
        {"device": device, "first": first, "last": first + timedelta(days=count - 1)},
    )


def add_days(conn: psycopg.Connection, community: str, first: date, count: int) -> None:
    conn.execute(
        """
        INSERT INTO community_day (domain, day, community, ends_at)
        SELECT 'equipment', day::date, %(community)s,
               (day::date + 1)::timestamp AT TIME ZONE 'Asia/Shanghai'
        FROM generate_series(%(first)s, %(last)s, INTERVAL '1 day') AS day
        """,
        {"community": community, "first": first, "last": first + timedelta(days=count - 1)},
    )


def marked_days(conn: psycopg.Connection) -> list[tuple[str, date, str]]:
    return conn.execute(
        """
        SELECT community, day, dirty FROM community_day WHERE dirty IS NOT NULL
        ORDER BY community, day
        """
    ).fetchall()


def dirty(conn: psycopg.Connection) -> list[date]:
    rows = conn.execute("SELECT night FROM lamp_night WHERE dirty ORDER BY night").fetchall()
    return [row[0] for row in rows]


class TestRefusal:
    """What is wrong is named with file, line, column and value; nothing is applied."""

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            pytest.param(
                "c02,city",
                "C02,city",
                "areas.csv:5: area: value 'C02': must match ^[a-z0-9][a-z0-9-]{0,63}$",
                id="id",
            ),
            pytest.param(
                "c02,city,",
                "c02,town,",
                "areas.csv:5: parent: value 'town': no such area",
                id="unknown-parent",
            ),
            pytest.param(
                "city,,city",
                "city,c02,city",
                "areas.csv:2: parent: value 'c02': the areas form a circle: city > c02 > city",
                id="circle",
            ),
            pytest.param(
                "c02,city,community",
                "c02,city,village",
                "areas.csv:5: level: value 'village':"
                " expected one of province, city, district, street, community, cell",
                id="level",
            ),
            pytest.param(
                "c01-g01,c01,cell",
                "c01-g01,c01,street",
                "areas.csv:4: level: value 'street': must lie below its parent's,"
                " which is community",
                id="level-above-its-parent",
            ),
            pytest.param(
                "Asia/Urumqi",
                "Asia/Atlantis",
                "areas.csv:5: time_zone: value 'Asia/Atlantis':"
                " expected an IANA time zone, such as Asia/Shanghai",
                id="zone",
            ),
            pytest.param(
                "Asia/Urumqi",
                "../../etc/passwd",
                "areas.csv:5: time_zone: value '../../etc/passwd':"
                " expected an IANA time zone, such as Asia/Shanghai",
                id="zone-that-is-a-path",
            ),
            pytest.param(
                "31.2,121.4",
                "121.4,31.2",
                "areas.csv:2: latitude: value '121.4': expected a number from -90 to 90;"
                " latitude and longitude swapped?",
                id="swapped",
            ),
            pytest.param(
                "31.2,121.4",
                "31.2,inf",
                "areas.csv:2: longitude: value 'inf': expected a number from -180 to 180",
                id="infinite",
            ),
            pytest.param(
                "31.2,121.4",
                "31.2,",
                "areas.csv:2: longitude: latitude and longitude go together",
                id="half-a-place",
            ),
            pytest.param(
                "31.2,121.4",
                "0,0.0",
                "areas.csv:2: latitude: value '0': 0,0 lies in the sea;"
                " leave both empty where the place is not known",
                id="nowhere",
            ),
            pytest.param(
                "1200,3000",
                "1200,3e3",
                "areas.csv:3: residents: value '3e3': expected a whole number from 1 to 2147483647",
                id="residents",
            ),
            pytest.param(
                "1200,3000",
                "1200,0",
                "areas.csv:3: residents: value '0': expected a whole number from 1 to 2147483647",
                id="nobody-lives-there",
            ),
            pytest.param(
                "c01,city,community",
                "c01,c01,community",
                "areas.csv:3: parent: value 'c01': the areas form a circle: c01 > c01",
                id="its-own-parent",
            ),
            pytest.param(
                "sun+15-10",
                "sun+720-720",
                "devices.csv:2: programme: value 'sun+720-720':"
                " never lights: no night at community 'c01' is long enough",
                id="programme-that-never-lights",
            ),
            pytest.param(
                "Model City",
                "=1+1",
                "areas.csv:2: name_en: value '=1+1':"
                " must not begin with = + - @, which spreadsheets take for a formula",
                id="formula",
            ),
            pytest.param(
                "Model City",
                "Model\x00City",
                "areas.csv:2: name_en: value 'Model\\x00City': must hold printable characters only",
                id="unprintable",
            ),
            pytest.param(
                "c01,city,community,一社区",
                "c01,city,community,",
                "areas.csv:3: name: must not be empty",
                id="no-name",
            ),
            pytest.param(
                "c02,city,community",
                "c01,city,community",
                "areas.csv:5: area: value 'c01': stands already in areas.csv:3",
                id="double",
            ),
            pytest.param(
                "gw-c02-a,c02",
                "gw-c02-a,c01-g01",
                "gateways.csv:3: community: value 'c01-g01': is a cell, not a community",
                id="gateway-in-a-cell",
            ),
            pytest.param(
                "gw-c02-a,c02,",
                "gw-c02-a,c03,",
                "gateways.csv:3: community: value 'c03': no such area",
                id="gateway-nowhere",
            ),
            pytest.param(
                "gw-c01-a,c01,",
                "g+,c01,",
                "gateways.csv:2: gateway: value 'g+': must match ^[a-z0-9][a-z0-9-]{2,39}$",
                id="gateway-id",
            ),
            pytest.param(
                ",bin,",
                ",robot,",
                "devices.csv:3: kind: value 'robot': expected one of lamp, bin, gate, alarm",
                id="kind",
            ),
            pytest.param(
                "c02-gate-001,gate,gw-c02-a,c02",
                "c02-gate-001,gate,gw-c02-a,c01",
                "devices.csv:4: area: value 'c01': lies outside its gateway's community 'c02'",
                id="area-of-another-community",
            ),
            pytest.param(
                "c02-gate-001,gate,gw-c02-a",
                "c02-gate-001,gate,gw-c09-a",
                "devices.csv:4: gateway: value 'gw-c09-a': no such gateway",
                id="device-without-gateway",
            ),
            pytest.param(
                "sun+15-10",
                "sundown",
                "devices.csv:2: programme: value 'sundown':"
                " expected sun, sun+15-10, always or 18:00-06:00, with levels sun@100,23:00@50",
                id="programme",
            ),
            pytest.param(
                ",planned,",
                ",plannned,",
                "devices.csv:4: life: value 'plannned':"
                " expected one of planned, installed, in_service, maintenance, retired",
                id="life",
            ),
            pytest.param(
                "2026-01-01T00:00:00+08:00",
                "2026-01-01 00:00",
                "devices.csv:2: in_service_from: value '2026-01-01 00:00':"
                " expected an instant with its zone, such as 2026-03-01T00:00:00+08:00",
                id="instant-without-zone",
            ),
            pytest.param(
                "planned,,30,",
                "planned,,0,",
                "devices.csv:4: reporting_period_s: value '0':"
                " expected a number above 0 and at most 86400",
                id="period",
            ),
            pytest.param(
                "planned,,30,,",
                "planned,,30,5,",
                "devices.csv:4: rated_power_w: value '5': only lamps have one",
                id="power-of-a-gate",
            ),
            pytest.param(
                "c01-bin-001,bin,gw-c01-a,c01,,,,,,,",
                "c01-bin-001,bin,gw-c01-a,c01",
                "devices.csv:3: has 4 cells, the header has 11",
                id="cells",
            ),
            pytest.param(
                "东路 1 号灯",
                '"东路"x',
                "devices.csv:2: not CSV: ',' expected after '\"'",
                id="quotes",
            ),
            pytest.param(
                "rated_power_w",
                "ratd_power_w",
                "devices.csv:1: ratd_power_w: unknown column, known are device, kind, gateway,"
                " area, name, name_en, life, in_service_from, reporting_period_s, rated_power_w,"
                " programme, component_code, owner, maker, model, planned_on, installed_on,"
                " warranty_until, road, circuit",
                id="column",
            ),
            pytest.param(
                "area,name,",
                "area,area,",
                "devices.csv:1: area: stands there twice",
                id="column-twice",
            ),
            pytest.param(
                "device,kind,gateway,",
                "device,kind,",
                "devices.csv:1: gateway: column is missing",
                id="column-missing",
            ),
            pytest.param(
                "gateway,community",
                "gw,community",
                "gateways.csv:1: not a registry file: its header must have at least"
                " area,level,name; gateway,community; device,kind,gateway,area;"
                " area,from,residents",
                id="not-a-registry-file",
            ),
        ],
    )
    def test_a_mistake_is_named(
        self, conn: psycopg.Connection, tmp_path: Path, before: str, after: str, expected: str
    ) -> None:
        contents = {"areas": AREAS, "gateways": GATEWAYS, "devices": DEVICES}
        place = expected.partition(".")[0]
        assert before in contents[place]
        contents[place] = contents[place].replace(before, after, 1)
        found = refusal(conn, tmp_path, contents)
        # What follows from it may come after it, such as who names an id that is not there.
        assert found[0].replace(f"{tmp_path}/", "") == expected

    def test_all_mistakes_in_all_files_are_named(
        self, conn: psycopg.Connection, tmp_path: Path
    ) -> None:
        problems = refusal(
            conn,
            tmp_path,
            {
                "areas": AREAS.replace("Asia/Urumqi", "Mars").replace("1200", "many"),
                "gateways": GATEWAYS.replace("gw-c02-a,c02", "gw-c02-a,nowhere"),
                "devices": DEVICES.replace(",bin,", ",bun,"),
            },
        )
        # Neither c01 nor c02 are called unknown: their own rows say what is wrong.
        assert [problem.partition(": value")[0] for problem in problems] == [
            "areas.csv:3: households",
            "areas.csv:5: time_zone",
            "devices.csv:3: kind",
            "gateways.csv:3: community",
        ]

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            pytest.param(
                AREAS.encode("gb18030"), "2: is not UTF-8, it looks like GB18030", id="gb18030"
            ),
            pytest.param(AREAS.encode("utf-16"), "1: is not UTF-8, it is UTF-16", id="utf-16"),
            pytest.param(AREAS.encode() + b"\xff", "6: is not UTF-8:", id="broken"),
            pytest.param(b"", "1: not a registry file", id="empty"),
        ],
    )
    def test_an_unreadable_file_is_named(
        self, conn: psycopg.Connection, tmp_path: Path, content: bytes, expected: str
    ) -> None:
        file = tmp_path / "areas.csv"
        file.write_bytes(content)
        with pytest.raises(RegistryError) as caught:
            import_files(conn, [file])
        assert str(caught.value).startswith(f"{file}:{expected}")

    def test_a_missing_file_is_named(self, conn: psycopg.Connection, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match=r"areas\.csv: cannot read: No such file"):
            import_files(conn, [tmp_path / "areas.csv"])

    def test_a_device_never_changes_its_kind(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        text = "device,kind,gateway,area\nc01-bin-001,gate,gw-c01-a,c01\n"
        assert refusal(registered, tmp_path, {"d": text}) == [
            "d.csv:2: kind: value 'gate': is registered as a bin;"
            " give the new device an id of its own"
        ]

    def test_a_sun_programme_needs_a_place(self, conn: psycopg.Connection, tmp_path: Path) -> None:
        contents = {
            "areas": AREAS.replace("31.2,121.4", ","),
            "gateways": GATEWAYS,
            "devices": DEVICES,
        }
        assert refusal(conn, tmp_path, contents) == [
            "devices.csv:2: programme: value 'sun+15-10': follows the sun,"
            " but community 'c01' has no latitude and longitude"
        ]
        contents["devices"] = DEVICES.replace("sun+15-10", "18:00-06:00")
        import_files(conn, write(tmp_path, contents))

    @pytest.mark.parametrize(
        ("areas", "expected"),
        [
            pytest.param(
                "city,,city,示范市,sun+720-720\n",
                "areas.csv:2: programme: value 'sun+720-720': never lights: no night at city"
                " 'city' is long enough",
                id="never-lights-in-the-city",
            ),
            pytest.param(
                "c01,city,community,一社区,sun+720-720\n",
                "areas.csv:2: programme: value 'sun+720-720': never lights: no night at community"
                " 'c01' is long enough",
                id="never-lights-in-the-community",
            ),
            pytest.param(
                "c01-g01,c01,cell,一社区一格,sun+720-720\n",
                "areas.csv:2: programme: value 'sun+720-720': never lights: no night at community"
                " 'c01' is long enough",
                id="never-lights-in-the-cell",
            ),
            pytest.param(
                "c01-g01,c01,cell,一社区一格,dusk\n",
                "areas.csv:2: programme: value 'dusk': expected sun, sun+15-10, always or"
                " 18:00-06:00, with levels sun@100,23:00@50",
                id="none",
            ),
            pytest.param(
                "c03,city,community,三社区,always\nc03-g01,c03,cell,格,sun@5\n",
                "areas.csv:3: programme: value 'sun@5': expected sun, sun+15-10, always or"
                " 18:00-06:00, with levels sun@100,23:00@50",
                id="level",
            ),
        ],
    )
    def test_a_mistake_in_an_areas_programme_is_named(
        self, registered: psycopg.Connection, tmp_path: Path, areas: str, expected: str
    ) -> None:
        text = f"area,parent,level,name,programme\n{areas}"
        assert refusal(registered, tmp_path, {"areas": text}) == [expected]

    def test_an_areas_programme_is_blamed_once_for_all_its_lamps(
        self, conn: psycopg.Connection, tmp_path: Path
    ) -> None:
        areas = AREAS.replace("31.2,121.4", ",").replace("residents\n", "residents,programme\n")
        contents = {
            "areas": areas.replace(",,,,\nc01,", ",,,,,sun+15-10\nc01,", 1)
            .replace(",3000\n", ",3000,\n")
            .replace("一格,,,,,,\n", "一格,,,,,,,\n")
            .replace("87.6,,\n", "87.6,,,\n"),
            "gateways": GATEWAYS,
            "devices": "device,kind,gateway,area\n"
            + "".join(f"c01-lamp-{number},lamp,gw-c01-a,c01\n" for number in range(3)),
        }
        assert refusal(conn, tmp_path, contents) == [
            "areas.csv:2: programme: value 'sun+15-10': follows the sun,"
            " but community 'c01' has no latitude and longitude"
        ]
        # Whom it is not lent, it does not trouble.
        contents["devices"] = "device,kind,gateway,area,programme\nl,lamp,gw-c01-a,c01,always\n"
        import_files(conn, write(tmp_path, contents))

    def test_a_registered_areas_programme_blames_the_lamp_that_comes_to_it(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        text = (
            "area,parent,level,name,programme\n"
            "d3,,district,三区,sun+15-10\nc03,d3,community,三社区,\n"
        )
        gateway = "gateway,community\ngw-c03-a,c03\n"
        import_files(registered, write(tmp_path, {"a": text, "g": gateway}))
        lamp = "device,kind,gateway,area,programme\nc03-lamp-1,lamp,gw-c03-a,c03,\n"
        assert refusal(registered, tmp_path, {"d": lamp}) == [
            "d.csv:2: programme: value '': follows the sun,"
            " but community 'c03' has no latitude and longitude"
        ]

    def test_what_is_registered_must_still_fit(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        text = "area,parent,level,name\nc01-g01,c02,cell,搬走的格\n"
        assert refusal(registered, tmp_path, {"a": text}) == [
            "registered device c01-lamp-001: area: lies outside its gateway's community 'c01'"
        ]

    def test_a_million_mistakes_are_not_a_million_lines(
        self, conn: psycopg.Connection, tmp_path: Path
    ) -> None:
        rows = "".join(f"A{number},,cell,x\n" for number in range(1_500))
        problems = refusal(conn, tmp_path, {"a": f"area,parent,level,name\n{rows}"})
        assert len(problems) == 1_001
        assert problems[-1] == "and 500 more"


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("installed_on", "0000-01-01", "expected a date from 1950 to 2099, such as 2026-03-01"),
        ("installed_on", "1949-12-31", "expected a date from 1950 to 2099, such as 2026-03-01"),
        ("installed_on", "2026-02-30", "expected a date from 1950 to 2099, such as 2026-03-01"),
        ("installed_on", "20260203", "expected a date from 1950 to 2099, such as 2026-03-01"),
        ("planned_on", "3.2.2026", "expected a date from 1950 to 2099, such as 2026-03-01"),
        ("warranty_until", "2025-02-02", "must not lie before installed_on 2025-02-03"),
        ("component_code", "03 12", "must match ^[0-9A-Za-z][0-9A-Za-z./_-]{0,63}$"),
        ("owner", "=HYPERLINK(1)", "must not begin with = + - @, which spreadsheets take for a"
         " formula"),
        ("road", "x" * 201, "at most 200 characters"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_facility_register_is_named(
    registered: psycopg.Connection, tmp_path: Path, column: str, value: str, expected: str
) -> None:
    cells = {
        "device": "c01-lamp-001",
        "kind": "lamp",
        "gateway": "gw-c01-a",
        "area": "c01",
        "installed_on": "2025-02-03",
    } | {column: value}
    text = f"{','.join(cells)}\n{','.join(cells.values())}\n"
    assert refusal(registered, tmp_path, {"d": text}) == [
        f"d.csv:2: {column}: value {value!r}: {expected}"
    ]


def test_every_column_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/registry.md").read_text(encoding="utf-8")
    for table in TABLES:
        section = text.partition(f"## {table.file}.csv")[2].partition("\n## ")[0]
        listed = re.findall(r"^\| `(\w+)` \| (yes|) *\|", section, re.MULTILINE)
        assert listed == [
            (column.name, "yes" if column.required else "") for column in table.columns
        ]


class TestGateway:
    """A gateway's folder is what its agent needs, and making it twice is making it once."""

    def test_a_new_gateway_is_registered_and_equipped(
        self, registered: psycopg.Connection, folder: Path, tmp_path: Path
    ) -> None:
        before = revision(registered)
        written = add_gateway(
            registered, folder, "gw-c01-b", "c01", tmp_path, "broker.example", 8883, name="西门"
        )
        assert sorted(file.name for file in written) == [
            "agent.toml",
            "ca.crt",
            "client.crt",
            "client.key",
        ]
        assert stat.S_IMODE((tmp_path / "client.key").stat().st_mode) == 0o600
        assert one(
            registered, "SELECT community, name, status FROM gateway WHERE gateway = 'gw-c01-b'"
        ) == ("c01", "西门", "active")
        assert revision(registered) == before + 1
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        context.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")

    def test_the_configuration_is_one_the_agent_accepts(
        self, registered: psycopg.Connection, folder: Path, tmp_path: Path
    ) -> None:
        add_gateway(registered, folder, "gw-c01-a", "c01", tmp_path, "broker.example", 8884)
        config = load_agent_config(tmp_path / "agent.toml", {})
        assert (config.gateway, config.community) == ("gw-c01-a", "c01")
        assert (config.broker.host, config.broker.port) == ("broker.example", 8884)
        assert config.broker.key == tmp_path / "client.key"
        assert config.devices == ()

    def test_the_devices_of_the_gateway_wait_for_their_drivers(
        self, registered: psycopg.Connection, folder: Path, tmp_path: Path
    ) -> None:
        add_gateway(registered, folder, "gw-c01-a", "c01", tmp_path, "broker.example", 8883)
        lines = (tmp_path / "agent.toml").read_text().splitlines()
        start = lines.index("# [[devices]]")
        text = "\n".join(line.removeprefix("# ") for line in lines[start:] if line != "#")
        assert [(item["device"], item["kind"]) for item in tomllib.loads(text)["devices"]] == [
            ("c01-bin-001", "bin"),
            ("c01-lamp-001", "lamp"),
        ]

    def test_twice_is_once(
        self, registered: psycopg.Connection, folder: Path, tmp_path: Path
    ) -> None:
        def add(*, reissue: bool = False) -> list[Path]:
            return add_gateway(
                registered, folder, "gw-c01-a", "c01", tmp_path, "b", 8883, reissue=reissue
            )

        add()
        (tmp_path / "agent.toml").write_text("# completed by hand\n")
        before, key = revision(registered), (tmp_path / "client.key").read_bytes()
        assert add() == []
        assert (tmp_path / "client.key").read_bytes() == key
        assert revision(registered) == before
        add(reissue=True)
        assert (tmp_path / "client.key").read_bytes() != key
        assert (tmp_path / "agent.toml").read_text() == "# completed by hand\n"

    @pytest.mark.parametrize(
        ("gateway", "community", "expected"),
        [
            pytest.param("gw-c01-a", "c02", "belongs to community 'c01'", id="of-another"),
            pytest.param("gw-c01-b", "c09", "no such area; import areas first", id="nowhere"),
            pytest.param("gw-c01-b", "city", "is a city, not a community", id="city"),
            pytest.param("GW", "c01", "must match", id="id"),
            pytest.param("gw-gone", "c01", "is revoked", id="revoked"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self,
        registered: psycopg.Connection,
        folder: Path,
        tmp_path: Path,
        gateway: str,
        community: str,
        expected: str,
    ) -> None:
        registered.execute("INSERT INTO gateway VALUES ('gw-gone', 'c01', '', 'revoked')")
        with pytest.raises(RegistryError, match=expected):
            add_gateway(registered, folder, gateway, community, tmp_path / "out", "b", 8883)
        assert not (tmp_path / "out").exists()

    def test_a_folder_of_another_gateway_is_refused(
        self, registered: psycopg.Connection, folder: Path, tmp_path: Path
    ) -> None:
        add_gateway(registered, folder, "gw-c01-a", "c01", tmp_path, "b", 8883)
        with pytest.raises(PkiError, match=r"client\.crt: is CN=gw-c01-a, not CN=gw-c01-b"):
            add_gateway(registered, folder, "gw-c01-b", "c01", tmp_path, "b", 8883)
        assert one(registered, "SELECT count(*) FROM gateway WHERE gateway = 'gw-c01-b'") == 0

    def test_a_folder_that_cannot_be_written_registers_nothing(
        self, registered: psycopg.Connection, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RegistryError, match="cannot write"):
            add_gateway(registered, folder, "gw-c01-b", "c01", tmp_path / "file", "b", 8883)
        assert one(registered, "SELECT count(*) FROM gateway WHERE gateway = 'gw-c01-b'") == 0


class TestMaintenance:
    """Accepted maintenance is stored once, and the nights it touches are counted again."""

    START = datetime(2026, 1, 2, 3, tzinfo=UTC)  # in the night of the 1st, China's noon is 4:00
    END = datetime(2026, 1, 4, 2, tzinfo=UTC)

    def test_the_nights_it_touches_are_marked(self, registered: psycopg.Connection) -> None:
        add_nights(registered, "c01-lamp-001", date(2025, 12, 30), 8)
        before = revision(registered)
        count = add_maintenance(registered, "c01-lamp-001", self.START, self.END, "换灯")
        assert dirty(registered) == [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
        assert count == 3
        assert revision(registered) == before + 1

    def test_the_days_it_touches_are_marked(self, registered: psycopg.Connection) -> None:
        add_days(registered, "c01", date(2025, 12, 30), 8)
        add_days(registered, "c02", date(2025, 12, 30), 8)
        add_maintenance(registered, "c01-lamp-001", self.START, self.END, "换灯")
        assert marked_days(registered) == [
            ("c01", date(2026, 1, day), "maintenance") for day in (2, 3, 4)
        ]

    def test_days_are_marked_where_the_device_stood_then(
        self, registered: psycopg.Connection
    ) -> None:
        add_days(registered, "c01", date(2025, 12, 30), 8)
        add_days(registered, "c02", date(2025, 12, 30), 8)
        registered.execute(
            """
            UPDATE device SET gateway = 'gw-c02-a', community = 'c02', area = 'c02'
            WHERE device = 'c01-lamp-001'
            """
        )
        add_maintenance(registered, "c01-lamp-001", self.START, self.END, "换灯")
        assert {area for area, _, _ in marked_days(registered)} == {"c01"}

    def test_twice_is_once(self, registered: psycopg.Connection) -> None:
        for _ in range(2):
            add_maintenance(registered, "c01-lamp-001", self.START, self.END, "换灯")
        assert one(registered, "SELECT count(*) FROM maintenance") == 1

    def test_everything_wrong_is_named(self, registered: psycopg.Connection) -> None:
        with pytest.raises(RegistryError) as caught:
            add_maintenance(registered, "c01-lamp-999", self.END, self.START, " ")
        assert caught.value.problems == (
            "maintenance: from 2026-01-04T02:00:00+00:00 must lie before 2026-01-02T03:00:00+00:00",
            "maintenance: a reason is needed",
            "device 'c01-lamp-999': is not registered",
        )
