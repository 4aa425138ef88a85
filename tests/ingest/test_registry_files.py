# SPDX-License-Identifier: Apache-2.0
"""Registry files as CSV and as workbooks: read alike, and importing an export changes nothing."""

import csv
import json
import os
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

from ingest import registry_xlsx
from ingest.errors import RegistryError
from ingest.indicators.spans import from_us, to_us
from ingest.registry import export_files, import_files
from ingest.registry_files import Format, read
from ingest.registry_tables import DEVICES, TABLES, Files, Problems, quote
from tests.ingest.test_registry import AREAS, GATEWAYS, one, write
from tests.ingest.test_registry import DEVICES as DEVICES_CSV

POPULATION = "area,from,to,residents,households\nc01,2025-01-01,,3000,1200\n"
CONTENTS = {
    "areas": AREAS,
    "gateways": GATEWAYS,
    "devices": DEVICES_CSV,
    "population": POPULATION,
}
SINCE_US = to_us(datetime(1971, 1, 1, tzinfo=UTC))
# A cell of a workbook knows no zone.
NEW_YEAR = datetime(2025, 1, 1)  # noqa: DTZ001
FORMATS = pytest.mark.parametrize("form", [Format.CSV, Format.XLSX])


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def registered(conn: psycopg.Connection, tmp_path: Path) -> psycopg.Connection:
    import_files(conn, write(tmp_path, CONTENTS))
    return conn


def workbook(file: Path, sheets: Mapping[str, Sequence[Sequence[object]]]) -> Path:
    book = Workbook()
    book.remove(book["Sheet"])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(file)
    return file


def rows_of(text: str) -> list[list[object]]:
    return [[cell or None for cell in row] for row in csv.reader(text.splitlines())]


def everything(conn: psycopg.Connection) -> list[list[tuple[Any, ...]]]:
    queries = (
        "SELECT area, parent, path::text, level, name, name_en, time_zone, latitude, longitude,"
        " households, residents FROM area ORDER BY area",
        "SELECT gateway, community, name FROM gateway ORDER BY gateway",
        "SELECT device, kind, gateway, community, area, name, name_en, life, in_service_from,"
        " reporting_period_s, rated_power_w, programme, component_code, owner, maker, model,"
        " planned_on, installed_on, warranty_until, road, circuit FROM device ORDER BY device",
        "SELECT area, valid, residents, households FROM area_population ORDER BY area, valid",
    )
    return [conn.execute(query.encode()).fetchall() for query in queries]


def wipe(conn: psycopg.Connection) -> None:
    for table in ("area_population", "device", "gateway", "area"):
        conn.execute(f"DELETE FROM {table}".encode())


def refusal(conn: psycopg.Connection, file: Path) -> list[str]:
    """Import what must be refused; return the problems, after seeing that nothing was applied."""
    before = everything(conn)
    with pytest.raises(RegistryError) as caught:
        import_files(conn, [file])
    assert everything(conn) == before
    return [problem.removeprefix(f"{file.parent}/") for problem in caught.value.problems]


class TestExport:
    """What is written is what is registered."""

    @FORMATS
    def test_importing_an_export_changes_nothing(
        self, registered: psycopg.Connection, tmp_path: Path, form: Format
    ) -> None:
        files = export_files(registered, tmp_path / "out", form=form)
        report = import_files(registered, files)
        assert report.changed == []
        assert report.opened == {}
        assert not any(report.added.values())

    @FORMATS
    def test_an_export_fills_an_empty_database_alike(
        self, registered: psycopg.Connection, tmp_path: Path, form: Format
    ) -> None:
        before = everything(registered)
        files = export_files(registered, tmp_path / "out", form=form)
        wipe(registered)
        import_files(registered, files)
        assert everything(registered) == before

    def test_only_the_tables_asked_for_are_written(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        files = export_files(registered, tmp_path / "out", tables={"device", "population"})
        assert [file.name for file in files] == ["devices.csv", "population.csv"]
        (file,) = export_files(
            registered, tmp_path / "out", form=Format.XLSX, tables={"device", "area"}
        )
        book = load_workbook(file)
        assert book.sheetnames == ["area", "device"]
        assert [cell.value for cell in book["device"][1]] == [c.name for c in DEVICES.columns]
        assert book["area"].freeze_panes == "A2"

    def test_parents_stand_before_their_children(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        (file,) = export_files(registered, tmp_path / "out", tables={"area"})
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        assert [line.partition(",")[0] for line in lines] == [
            "area", "city", "c01", "c01-g01", "c02",
        ]  # fmt: skip

    def test_a_folder_that_cannot_be_written_is_named(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RegistryError, match=r"file: cannot write: "):
            export_files(registered, tmp_path / "file")


_PRINTABLE = st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"], include_characters=" ")
_NAMES = st.one_of(
    st.text(_PRINTABLE, max_size=200),
    st.text("'=+-@\t #N/A0", max_size=8),
    st.sampled_from(["=1+1", "'=1+1", "''=1+1", "#N/A", "TRUE", "007", "1e5", "2026-01-01", "'"]),
).filter(lambda text: text.isprintable() and text == text.strip())
_FLOATS = st.floats(1e-300, 5_000, exclude_min=True)
_DAYS = st.none() | st.dates(date(1950, 1, 1), date(2099, 12, 31))
_TEXTS = _NAMES.map(lambda text: text or None)


@given(
    name=_NAMES,
    texts=st.tuples(_TEXTS, _TEXTS, _TEXTS, _TEXTS, _TEXTS),
    days=st.tuples(_DAYS, _DAYS),
    rated=st.none() | _FLOATS,
    period=_FLOATS,
    place=st.tuples(st.floats(-90, 90), st.floats(-180, 180)).filter(lambda p: p != (0, 0)),
    since_us=st.integers(0, 4_000_000_000_000_000),
    figures=st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=3),
    code=st.none() | st.from_regex(r"[0-9A-Za-z][0-9A-Za-z./_-]{0,63}", fullmatch=True),
)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_value_survives_export_and_import(
    conn: psycopg.Connection,
    tmp_path: Path,
    name: str,
    texts: tuple[str | None, ...],
    days: tuple[date | None, ...],
    rated: float | None,
    period: float,
    place: tuple[float, float],
    since_us: int,
    figures: list[int],
    code: str | None,
) -> None:
    wipe(conn)
    import_files(conn, write(tmp_path, CONTENTS | {"population": POPULATION.splitlines()[0]}))
    conn.execute("DELETE FROM area_population")
    conn.execute("UPDATE area SET latitude = %s, longitude = %s", place)
    conn.execute("UPDATE area SET name_en = %s WHERE area = 'c02'", (texts[4],))
    conn.execute("UPDATE gateway SET name = %s", (name,))
    conn.execute(
        """
        UPDATE device
        SET name = %s, name_en = %s, owner = %s, maker = %s, model = %s, road = %s,
            planned_on = %s, warranty_until = %s, rated_power_w = %s, reporting_period_s = %s,
            in_service_from = %s, component_code = %s, programme = 'always',
            own_programme = 'always'
        WHERE kind = 'lamp'
        """,
        (name, *texts, *days, rated, period, from_us(SINCE_US + since_us), code),
    )
    for number, residents in enumerate(figures):
        start = date(2025, 1, 1) + timedelta(days=400 * number)
        conn.execute(
            "INSERT INTO area_population VALUES ('c01', daterange(%s, %s), %s, NULL)",
            (start, start + timedelta(days=300 + number), residents),
        )
    before = everything(conn)
    for form in Format:
        files = export_files(conn, tmp_path / "out", form=form)
        report = import_files(conn, files)
        assert (report.changed, report.opened) == ([], {})
        assert not any(report.added.values())
        wipe(conn)
        import_files(conn, files)
        assert everything(conn) == before


@given(_NAMES)
def test_no_spreadsheet_takes_what_is_written_for_a_formula(text: str) -> None:
    assert not quote(text).startswith(("=", "+", "-", "@"))


def test_text_stays_text_in_a_workbook(registered: psycopg.Connection, tmp_path: Path) -> None:
    registered.execute("UPDATE device SET name = '=1+1', owner = '#N/A', maker = '007'")
    (file,) = export_files(registered, tmp_path, form=Format.XLSX)
    row = load_workbook(file)["device"][2]
    found = {cell.value: cell.data_type for cell in row if cell.value is not None}
    assert found["=1+1"] == found["#N/A"] == found["007"] == "s"


@pytest.fixture
def command(database: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "linli.toml").write_text(
        f"""
        database.dsn = {json.dumps(database)}
        broker.ca = "pki/ca.crt"
        ingest.certificates = "pki/services"
        """
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ingest", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_command_line_exports_and_imports(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    names = [file.name for file in write(tmp_path, CONTENTS)]
    assert command("registry", "import", *names).returncode == 0
    done = command("registry", "export", "out", "--table", "area", "--table", "population")
    assert (done.stdout, done.stderr) == ("wrote out/areas.csv\nwrote out/population.csv\n", "")
    done = command("registry", "export", "out", "--format", "xlsx")
    assert (done.stdout, done.stderr) == ("wrote out/registry.xlsx\n", "")
    done = command("registry", "import", "out/registry.xlsx")
    assert done.stdout == "0 added, 0 changed, 10 unchanged\n"
    done = command("registry", "export", "out", "--table", "lamps")
    assert (done.returncode, done.stderr) == (
        2,
        "--table: value 'lamps': expected one of area, device, gateway, population\n",
    )


class TestWorkbook:
    """A workbook is read as CSV is, sheet by sheet."""

    def test_it_says_what_csv_says(self, conn: psycopg.Connection, tmp_path: Path) -> None:
        import_files(conn, write(tmp_path, CONTENTS))
        before = everything(conn)
        wipe(conn)
        book = workbook(
            tmp_path / "city.xlsx", {name: rows_of(text) for name, text in CONTENTS.items()}
        )
        import_files(conn, [book])
        after = everything(conn)
        # Who is silent of it is in service since the import.
        assert [row[:8] for row in after[2]] == [row[:8] for row in before[2]]
        assert (after[0], after[1], after[3]) == (before[0], before[1], before[3])

    def test_numbers_and_dates_may_be_such(self, conn: psycopg.Connection, tmp_path: Path) -> None:
        sheets = {name: rows_of(text) for name, text in CONTENTS.items()}
        sheets["areas"][1][6:8] = [31.2, 121.4]
        sheets["population"][1][1:5] = [NEW_YEAR, date(2026, 1, 1), 3000, 1200.0]
        import_files(conn, [workbook(tmp_path / "city.xlsx", sheets)])
        assert one(conn, "SELECT latitude FROM area WHERE area = 'city'") == 31.2
        assert one(
            conn, "SELECT lower(valid), upper(valid), residents, households FROM area_population"
        ) == (date(2025, 1, 1), date(2026, 1, 1), 3000, 1200)

    def test_sheets_of_any_name_are_told_by_their_header(
        self, conn: psycopg.Connection, tmp_path: Path
    ) -> None:
        book = workbook(tmp_path / "city", {"区域": rows_of(AREAS), "empty": []})
        assert len(import_files(conn, [book]).added["area"]) == 4

    @pytest.mark.parametrize(
        ("cell", "value", "expected"),
        [
            ("D5", "nowhere", "D5: area: value 'nowhere': no such area"),
            ("B5", "lamb", "B5: kind: value 'lamb': expected one of lamp, bin, gate, alarm"),
            ("E5", "=1+1", "E5: name: is a formula: put its value there"),
            ("E5", "#N/A", "E5: name: value '#N/A': is an error"),
            (
                "A5",
                1234567890123456.0,
                "A5: device: value '1234567890123456': is a number, cut to 15 digits:"
                " make the column text and type it again",
            ),
            (
                "H5",
                NEW_YEAR,
                "H5: in_service_from: value '2025-01-01': expected an instant with its zone,"
                " such as 2026-03-01T00:00:00+08:00",
            ),
            ("M5", "x", "5: has cells beyond its 11 columns"),
        ],
    )
    def test_a_mistake_is_named_by_its_cell(
        self,
        registered: psycopg.Connection,
        tmp_path: Path,
        cell: str,
        value: str | float | datetime,
        expected: str,
    ) -> None:
        rows = rows_of(DEVICES_CSV)
        row: list[object] = ["c01-lamp-002", "lamp", "gw-c01-a", "c01"]
        book = Workbook()
        sheet = book.worksheets[0]
        for cells in [*rows, row]:
            sheet.append(cells)
        sheet[cell] = value
        book.save(tmp_path / "city.xlsx")
        assert refusal(registered, tmp_path / "city.xlsx") == [f"city.xlsx: Sheet!{expected}"]

    @pytest.mark.parametrize(
        ("sheets", "expected"),
        [
            ({"device": rows_of(AREAS)}, "device!1: has the header of areas, not of devices"),
            ({"notes": [["remember", "the milk"]]}, "notes!1: not a registry file: its header"),
            ({"a": [[None], *rows_of(AREAS)]}, "a!1: the first row is empty: put the header"),
            ({"a": [["area", "level", "name", None, "area"]]}, "a!1: unknown column"),
        ],
    )
    def test_a_sheet_that_is_no_table_is_named(
        self,
        conn: psycopg.Connection,
        tmp_path: Path,
        sheets: Mapping[str, Sequence[Sequence[object]]],
        expected: str,
    ) -> None:
        first = refusal(conn, workbook(tmp_path / "city.xlsx", sheets))[0]
        assert first.startswith(f"city.xlsx: {expected}")

    def test_merged_cells_are_refused(self, conn: psycopg.Connection, tmp_path: Path) -> None:
        file = workbook(tmp_path / "city.xlsx", {"empty": [], "area": rows_of(AREAS)})
        book = load_workbook(file)
        book["area"].merge_cells("E4:F5")
        book.save(file)
        assert refusal(conn, file)[0] == "city.xlsx: area!4: merged cells E4:F5: take them apart"

    def test_a_dry_run_names_the_cell_of_each_change(
        self, registered: psycopg.Connection, tmp_path: Path
    ) -> None:
        text = "device,kind,gateway,area,life\nc01-lamp-001,lamp,gw-c01-a,c01,retired\n"
        book = workbook(tmp_path / "city.xlsx", {"device": rows_of(text)})
        lines = import_files(registered, [book], dry_run=True).lines()
        assert [line.removeprefix(f"{tmp_path}/") for line in lines][:2] == [
            "city.xlsx: device!D2: device c01-lamp-001: area: 'c01-g01' -> 'c01'",
            "city.xlsx: device!E2: device c01-lamp-001: life: 'in_service' -> 'retired'",
        ]


def repacked(file: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> None:
    """Write a workbook anew with other parts; None leaves a part out."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**parts, **more}.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)


_INLINE = re.compile(rb't="inlineStr"><is><t[^>]*>([^<]*)</t></is>')


def with_shared_texts(file: Path) -> Path:
    """Keep texts apart from the sheets, as spreadsheets do and the library does not."""
    texts: list[bytes] = []

    def share(match: re.Match[bytes]) -> bytes:
        texts.append(match[1])
        return b't="s"><v>%d</v>' % (len(texts) - 1)

    def change(name: str, content: bytes) -> bytes:
        if name == "[Content_Types].xml":
            part = (
                b'<Override PartName="/xl/sharedStrings.xml" ContentType="application/'
                b'vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"/></Types>'
            )
            return content.replace(b"</Types>", part)
        return _INLINE.sub(share, content) if "worksheets" in name else content

    repacked(file, change)
    items = b"".join(b"<si><t>%s</t></si>" % text for text in texts)
    space = b"http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    part = b'<sst xmlns="%s">%s</sst>' % (space, items)
    repacked(file, same, **{"xl/sharedStrings.xml": part})
    return file


def same(name: str, content: bytes) -> bytes:
    del name
    return content


def _not_a_zip(file: Path) -> None:
    file.write_bytes(b"PK\x03\x04 and then nothing")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def _old(file: Path) -> None:
    file.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(2_000))


def _another_archive(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<a/>")


def _macros(file: Path) -> None:
    repacked(file, same, **{"xl/vbaProject.bin": b"x"})


def _macros_by_type(file: Path) -> None:
    repacked(
        file,
        lambda name, content: (
            content.replace(b"sheet.main+xml", b"sheet.macroEnabled.main+xml")
            if name == "[Content_Types].xml"
            else content
        ),
    )


def _password(file: Path) -> None:
    content = bytearray(file.read_bytes())
    at = content.rfind(b"PK\x01\x02", 0, content.find(b"PK\x01\x02") + 4)
    content[at + 8] |= 1
    file.write_bytes(content)


def _doctype(file: Path) -> None:
    def declare(name: str, content: bytes) -> bytes:
        entities = b'<!DOCTYPE a [<!ENTITY b "c">]>'
        return entities + content if name == "xl/workbook.xml" else content

    repacked(file, declare)


def _too_much(file: Path) -> None:
    zeros = bytes(registry_xlsx.UNPACKED_BYTES_MAX // 4)
    repacked(file, same, **{f"xl/media/{number}": zeros for number in range(4)})


def _too_much_text(file: Path) -> None:
    zeros = bytes(registry_xlsx.TEXTS_BYTES_MAX + 1)
    repacked(file, lambda name, old: zeros if name == "xl/sharedStrings.xml" else old)


def _more_than_declared(file: Path) -> None:
    """A part that says it holds one byte, and unpacks to a sheet."""
    content = bytearray(file.read_bytes())
    at = content.find(b"xl/worksheets/sheet1.xml", content.find(b"PK\x01\x02")) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    content[at + 24 : at + 28] = struct.pack("<I", 1)
    file.write_bytes(content)


def _too_many_parts(file: Path) -> None:
    repacked(file, same, **{f"x{number}": b"" for number in range(1_001)})


def _no_sheet(file: Path) -> None:
    repacked(file, lambda name, old: None if name == "xl/worksheets/sheet1.xml" else old)


def _broken_sheet(file: Path) -> None:
    repacked(file, lambda name, old: old[:-40] if name == "xl/worksheets/sheet1.xml" else old)


def _broken_texts(file: Path) -> None:
    repacked(file, lambda name, old: old[:-40] if name == "xl/sharedStrings.xml" else old)


def _text_that_is_not_there(file: Path) -> None:
    def point(name: str, old: bytes) -> bytes:
        return old.replace(b"<v>3</v>", b"<v>999999</v>") if "sheet1" in name else old

    repacked(file, point)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_not_a_zip, "is not a workbook, or a broken one"),
        (_cut, "is not a workbook, or a broken one"),
        (_old, "is an old workbook or has a password: save it as .xlsx without one"),
        (_another_archive, "is not a workbook: save it as .xlsx or CSV UTF-8"),
        (_macros, "holds macros: save it as .xlsx"),
        (_macros_by_type, "holds macros: save it as .xlsx"),
        (_password, "has a password: save it without one"),
        (_doctype, "declares a document type in xl/workbook.xml"),
        (_too_much, "unpacks to more than 256 MiB: use CSV"),
        (_too_much_text, "holds more than 32 MiB of text: use CSV"),
        (_more_than_declared, ""),
        (_too_many_parts, "has more than 1000 parts"),
        (_no_sheet, "is not a workbook, or a broken one"),
        (_broken_sheet, "sheet 'area': broken"),
        (_broken_texts, "is not a workbook, or a broken one"),
        (_text_that_is_not_there, "sheet 'area': broken"),
    ],
)
def test_a_workbook_that_cannot_be_is_named(
    conn: psycopg.Connection, tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    file = with_shared_texts(workbook(tmp_path / "city.xlsx", {"area": rows_of(AREAS)}))
    assert len(import_files(conn, [file], dry_run=True).added["area"]) == 4
    spoil(file)
    (problem,) = refusal(conn, file)
    assert problem.startswith(f"city.xlsx: {expected}"), problem


def test_too_many_rows_and_cells_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = workbook(tmp_path / "city.xlsx", {"area": rows_of(AREAS)})
    for limit, expected in (
        ("ROWS_MAX", f"{file}: area!5: more than 3 rows: use CSV"),
        ("CELLS_MAX", f"{file}: sheet 'area': more than 3 cells: use CSV"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(registry_xlsx, limit, 3)
            problems = Problems()
            files = read({file: str(file)}, problems)
            assert problems.all() == [expected]
            assert not files.whole


def test_what_a_sheet_claims_to_hold_is_not_believed(
    conn: psycopg.Connection, tmp_path: Path
) -> None:
    file = workbook(tmp_path / "city.xlsx", {"area": rows_of(AREAS)})

    def claim(name: str, content: bytes) -> bytes:
        claimed = content.replace(b'ref="A1:J5"', b'ref="A1:XFD1048576"')
        assert claimed != content or "sheet1" not in name
        return claimed

    repacked(file, claim)
    assert len(import_files(conn, [file]).added["area"]) == 4


@given(st.data())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_workbook_is_read_or_named(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a part holds, nothing but a problem comes of it."""
    file = with_shared_texts(workbook(tmp_path / "city.xlsx", {"area": rows_of(AREAS)}))
    with zipfile.ZipFile(file) as archive:
        name = data.draw(st.sampled_from(sorted(archive.namelist())))
        content = bytearray(archive.read(name))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 30))] = data.draw(
            st.binary(max_size=8) | st.sampled_from([b"<", b'"', b"/>", b"999999999", b"-1", b"t="])
        )
        if not content:
            break
    repacked(file, lambda part, old: bytes(content) if part == name else old)
    problems, files = Problems(), Files()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry_xlsx.read_file(file, "city.xlsx", files, problems)
    assert files.whole or problems.all()
    assert set(files.rows) == {table.name for table in TABLES}
