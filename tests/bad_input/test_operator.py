# SPDX-License-Identifier: Apache-2.0
"""What an operator can get wrong: configuration, registry files, keys (rows B40 to B47).

Beside the tests of each loader, which hold the ordinary mistakes; here are those that come from
elsewhere: other encodings, files that are none, numbers and nesting without end. The three
programs share the rows, because an operator expects them to answer alike.

What has no row here: rules about unsafe settings (B43), and claims and signing requests (B48), of
which there are none in this release.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import api.config
import api.errors
import edge_agent.config
import edge_agent.errors
import ingest.config
import ingest.errors
from api.app import create_app
from ingest.errors import RegistryError
from ingest.pki import create_authority, issue_client
from ingest.registry import import_files

_AGENT: Final = """gateway = "gw-c01-a"
community = "c01"
[broker]
host = "127.0.0.1"
port = 8883
ca = "ca.crt"
certificate = "client.crt"
key = "client.key"
"""
_SERVER: Final = """[database]
dsn = "host=127.0.0.1 dbname=linli"
[broker]
host = "127.0.0.1"
port = 8883
ca = "pki/ca.crt"
[ingest]
certificates = "pki/services"
[api]
certificates = "pki/services"
"""


def _edge(file: Path) -> object:
    return edge_agent.config.load(file, {})


def _ingest(file: Path) -> object:
    return ingest.config.load(file, {})


def _api(file: Path) -> object:
    return api.config.load(file, {})


Load = Callable[[Path], object]
ERRORS: Final = (
    edge_agent.errors.ConfigError,
    ingest.errors.ConfigError,
    api.errors.ConfigError,
)
PROGRAMS: Final = (
    pytest.param(_edge, _AGENT, id="edge"),
    pytest.param(_ingest, _SERVER, id="ingest"),
    pytest.param(_api, _SERVER, id="api"),
)


def refused(load: Load, file: Path) -> list[str]:
    """Load what must be refused, quickly; return the problems, each of which names the file."""
    started = time.thread_time()
    with pytest.raises(ERRORS) as caught:
        load(file)
    assert time.thread_time() - started < 5
    problems = [str(problem) for problem in caught.value.problems]
    assert problems
    assert all(problem.startswith(str(file)) for problem in problems)
    return [problem.removeprefix(str(file)) for problem in problems]


def _instead(of: str, value: str) -> Callable[[str], bytes]:
    return lambda good: good.replace(of, value).encode()


# What becomes of a good file, and what must be told of it.
_SPOILED: Final[Mapping[str, tuple[Callable[[str], bytes], str]]] = {
    "B40-utf-16": (lambda good: good.encode("utf-16"), ""),
    "B40-gb18030": (lambda good: good.encode() + "# 灯".encode("gb18030"), ""),
    "B40-nul": (lambda good: b"\0" + good.encode(), "not TOML"),
    "B40-program": (lambda _: b"\x7fELF\x02\x01\x01\0", "not TOML"),
    "B40-json": (lambda good: b"{" + good.encode() + b"}", "not TOML"),
    "B40-empty": (lambda _: b"", "missing"),
    "B40-5000-digits": (lambda good: f"x = {'1' * 5_000}\n{good}".encode(), "not TOML"),
    "B40-5000-deep": (lambda good: f"x = {'[' * 5_000}\n{good}".encode(), "not TOML"),
    "B40-2000-levels": (lambda good: f"{good}[{'a.' * 2_000}a]\n".encode(), "unknown"),
    "B40-table-twice": (lambda good: good.encode() + b"[broker]\n", "not TOML"),
    "B41-port-70000": (_instead("8883", "70000"), "broker.port"),
    "B41-port-true": (_instead("8883", "true"), "broker.port"),
    "B41-port-nan": (_instead("8883", "nan"), "broker.port"),
    "B41-port-is-a-list": (_instead("8883", f"[{'0,' * 9_999}]"), "broker.port"),
    "B41-host": (_instead('"127.0.0.1"', '""'), "broker.host"),
}


@pytest.mark.parametrize(("load", "good"), PROGRAMS)
@pytest.mark.parametrize(
    ("spoil", "told"), [pytest.param(*value, id=row) for row, value in _SPOILED.items()]
)
def test_configuration_that_cannot_be_is_named(
    load: Load, good: str, spoil: Callable[[str], bytes], told: str, tmp_path: Path
) -> None:
    file = tmp_path / "linli.toml"
    file.write_text(good)
    load(file)
    file.write_bytes(spoil(good))
    problems = refused(load, file)
    assert any(told in problem for problem in problems), problems
    assert all(len(problem) < 300 for problem in problems)


@pytest.mark.parametrize(("load", "good"), PROGRAMS)
def test_b40_byte_order_mark_and_windows_lines_are_no_mistake(
    load: Load, good: str, tmp_path: Path
) -> None:
    file = tmp_path / "linli.toml"
    file.write_bytes(b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode())
    load(file)


@pytest.mark.parametrize(("load", "good"), PROGRAMS)
def test_b40_what_is_no_file_is_named(load: Load, good: str, tmp_path: Path) -> None:
    del good
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("folder", "circle", "dangling", "missing", "x" * 300, "folder/../missing/x"):
        (problem,) = refused(load, tmp_path / name)
        assert problem.startswith(": cannot read: ")


@pytest.mark.parametrize(("load", "good"), PROGRAMS)
def test_b41_every_mistake_is_named_at_once(load: Load, good: str, tmp_path: Path) -> None:
    file = tmp_path / "linli.toml"
    wrong = good.replace("port = 8883", "prot = 8883").replace('ca = "', 'ca = 5\n#"')
    file.write_text(wrong.replace('host = "127.0.0.1"', "host = 1", 1) + "\n[colours]\nx = 1\n")
    problems = refused(load, file)
    for told in (
        "colours",
        "broker.prot: unknown",
        "did you mean port",
        "broker.ca",
        "broker.host",
    ):
        assert any(told in problem for problem in problems), (told, problems)
    assert any(problem.startswith(":") and problem[1].isdigit() for problem in problems)


# -- keys and certificates --------------------------------------------------------------------


@pytest.fixture
def services(tmp_path: Path) -> Path:
    """A folder with an authority, and the api's certificate below it."""
    create_authority(tmp_path / "pki")
    issue_client(tmp_path / "pki", "api-live-00", out=tmp_path / "pki/services")
    (tmp_path / "linli.toml").write_text(_SERVER)
    return tmp_path / "pki/services"


def _other_key(folder: Path) -> None:
    other = issue_client(folder.parent, "gw-other", out=folder)
    other.key.replace(folder / "api-live-00.key")


def _encrypted_key(folder: Path) -> None:
    key = serialization.load_pem_private_key((folder / "api-live-00.key").read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    _write_key(folder, key.private_bytes(_PEM, _PKCS8, secret))


def _rsa_key(folder: Path) -> None:
    key = rsa.generate_private_key(65_537, 2_048)
    _write_key(folder, key.private_bytes(_PEM, _PKCS8, serialization.NoEncryption()))


_PEM, _PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def _write_key(folder: Path, content: bytes) -> None:
    (folder / "api-live-00.key").write_bytes(content)


def _empty_key(folder: Path) -> None:
    _write_key(folder, b"")


def _no_authority(folder: Path) -> None:
    (folder.parent / "ca.crt").write_text("x")


def _no_authority_at_all(folder: Path) -> None:
    (folder.parent / "ca.crt").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(_other_key, "api-live-00.key: is the key of another", id="B42-other-key"),
        pytest.param(_encrypted_key, "no certificate and its unencrypted", id="B42-encrypted-key"),
        pytest.param(_rsa_key, "api-live-00.key", id="B42-key-of-another-kind"),
        pytest.param(_empty_key, "api-live-00.key", id="B42-empty-key"),
        pytest.param(_no_authority, "ca.crt: holds no certificate", id="B42-authority-is-none"),
        pytest.param(_no_authority_at_all, "ca.crt: no such file", id="B42-no-authority"),
    ],
)
def test_key_that_does_not_fit_is_named(
    services: Path, spoil: Callable[[Path], object], told: str
) -> None:
    """The api; ingest checks all of this and dates too before it starts (tests of `pki.check`)."""
    config = api.config.load(services.parents[1] / "linli.toml", {})
    create_app(config)
    spoil(services)
    with pytest.raises(api.errors.ConfigError) as caught:
        create_app(config)
    (problem,) = caught.value.problems
    assert told in problem
    assert "SSL" not in problem


# -- registry files ---------------------------------------------------------------------------

_AREAS: Final = """\
area,parent,level,name,latitude,longitude,households,residents
city,,city,City,31.2,121.4,,
c01,city,community,One,,,960,2500
"""


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(
            _AREAS.replace("960", f"{'0' * 13}{'9' * 12}"), ":3: households: ", id="B47-leading-0"
        ),
        pytest.param(_AREAS.replace("960", "9" * 5_000), ":3: households: ", id="B47-5000-digits"),
        pytest.param(_AREAS.replace("960", "2147483648"), ":3: households: ", id="B47-2^31"),
        pytest.param(_AREAS.replace("960", "٩٦٠"), ":3: households: ", id="B47-other-digits"),
        pytest.param(_AREAS.replace("31.2", "1e999"), ":2: latitude: ", id="B47-1e999"),
        pytest.param(_AREAS.replace("31.2", "nan"), ":2: latitude: ", id="B47-nan"),
        pytest.param(_AREAS.replace("One", "O\0ne"), ":3: name: ", id="B47-nul"),
        pytest.param(_AREAS.replace("One", "\u202eenO"), ":3: name: ", id="B47-right-to-left"),
        pytest.param(_AREAS.replace("One", "@SUM(1)"), ":3: name: ", id="B47-formula-at"),
        pytest.param(_AREAS.replace("One", "-1+1"), ":3: name: ", id="B47-formula-minus"),
        pytest.param(_AREAS.replace("One", "x" * 201), ":3: name: ", id="B47-long-name"),
        pytest.param(_AREAS.replace("One", "x" * 200_000), ": not CSV: ", id="B47-endless-cell"),
        pytest.param(_AREAS.replace("One", '"One'), ": not CSV: ", id="B47-open-quote"),
        pytest.param(_AREAS.replace("One", '"One"x'), ": not CSV: ", id="B47-text-after-quote"),
        pytest.param(_AREAS.replace(",", "\t"), ":1: not a registry file", id="B47-tabs"),
        pytest.param(_AREAS.replace(",", ";", 3), ":1: ", id="B47-mixed-separators"),
        pytest.param(_AREAS.replace("c01", "../c01"), ":3: area: ", id="B47-path-as-id"),
        pytest.param(_AREAS.replace("c01", "' OR 1=1--"), ":3: area: ", id="B47-sql-as-id"),
        pytest.param(_AREAS.replace("c01", "c01\n"), ":3: ", id="B47-line-end-in-row"),
        pytest.param("\n" + _AREAS, ":1: not a registry file", id="B47-empty-first-line"),
        pytest.param(_AREAS.replace("city,,city", "city,c01,city"), ":2: ", id="B47-cycle"),
        pytest.param(_AREAS + _AREAS.splitlines()[2], ":4: area: ", id="B47-two-parents"),
        pytest.param(_AREAS.replace("2500", "0"), ":3: residents: ", id="B47-nobody"),
        pytest.param(_AREAS.replace("2500", "-1"), ":3: residents: ", id="B47-fewer-than-nobody"),
    ],
)
def test_registry_file_that_cannot_be_is_named(
    conn: psycopg.Connection, content: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "areas.csv"
    file.write_text(content, newline="")
    with pytest.raises(RegistryError) as caught:
        import_files(conn, [file])
    assert any(problem.startswith(f"{file}{told}") for problem in caught.value.problems) or any(
        told.startswith(": not CSV") and told in problem for problem in caught.value.problems
    ), caught.value.problems
    assert conn.execute("SELECT count(*) FROM area").fetchone() == (0,)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        pytest.param("c01,2026-01-01,,1\nc01,2025-01-01,2026-01-02,1", ":2: from: ", id="overlap"),
        pytest.param("c01,2026-01-02,2026-01-01,1", ":2: to: ", id="ends-before-it-begins"),
        pytest.param("c01,0000-01-01,,1", ":2: from: ", id="year-0"),
        pytest.param("c01,-2026-01-01,,1", ":2: from: ", id="before-year-0"),
        pytest.param("c01,2026-13-01,,1", ":2: from: ", id="month-13"),
        pytest.param("c01,２０２６-01-01,,1", ":2: from: ", id="wide-digits"),
        pytest.param("c01,2026-01-01,,0", ":2: residents: ", id="nobody"),
        pytest.param("c01,2026-01-01,,-1", ":2: residents: ", id="fewer-than-nobody"),
        pytest.param("c01,2026-01-01,,1e3", ":2: residents: ", id="exponent"),
        pytest.param("c01,2026-01-01,,2147483648", ":2: residents: ", id="2^31"),
        pytest.param("c99,2026-01-01,,1", ":2: area: ", id="no-such-area"),
    ],
)
def test_b47_population_that_cannot_be_is_named(
    conn: psycopg.Connection, tmp_path: Path, rows: str, told: str
) -> None:
    (tmp_path / "areas.csv").write_text(_AREAS.replace("960,2500", ","))
    import_files(conn, [tmp_path / "areas.csv"])
    file = tmp_path / "population.csv"
    file.write_text(f"area,from,to,residents\n{rows}\n")
    with pytest.raises(RegistryError) as caught:
        import_files(conn, [file])
    assert any(problem.startswith(f"{file}{told}") for problem in caught.value.problems)
    assert conn.execute("SELECT count(*) FROM area_population").fetchone() == (0,)


@pytest.mark.parametrize(
    "programme",
    [
        pytest.param("sun+720-720", id="never-lights"),
        pytest.param("sun+999-999", id="never-lights-by-far"),
        pytest.param("sun-15+10", id="offsets-swapped"),
        pytest.param("sun+1e3-0", id="exponent"),
        pytest.param("sun+１５-10", id="wide-digits"),
        pytest.param("24:00-06:00", id="hour-24"),
        pytest.param("18:00-06:60", id="minute-60"),
        pytest.param("18:00–06:00", id="dash-of-another-kind"),
        pytest.param("sun@0", id="level-0"),
        pytest.param("sun@101", id="level-101"),
        pytest.param("sun@-50", id="level-negative"),
        pytest.param('"sun@100,25:00@50"', id="level-at-hour-25"),
        pytest.param('"sun@100,23:00@50,23:00@60"', id="two-levels-at-once"),
        pytest.param(f'"sun@100{",23:00@50" * 9_000}"', id="levels-without-end"),
        pytest.param("always" * 20_000, id="endless"),
    ],
)
def test_b47_programme_of_an_area_that_cannot_be_is_named(
    conn: psycopg.Connection, tmp_path: Path, programme: str
) -> None:
    file = tmp_path / "areas.csv"
    header, *rows = _AREAS.splitlines()
    file.write_text("\n".join([f"{header},programme", f"{rows[0]},", f"{rows[1]},{programme}"]))
    with pytest.raises(RegistryError) as caught:
        import_files(conn, [file])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}:3: programme: value ")
    assert conn.execute("SELECT count(*) FROM area").fetchone() == (0,)


@pytest.mark.parametrize("name", ["areas.xlsx", "areas.xls", "areas.xlsm"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(_AREAS.encode(), id="csv-of-another-name"),
        pytest.param(b"PK\x05\x06" + bytes(18), id="archive-of-nothing"),
        pytest.param(b"PK\x03\x04" + bytes(1_000), id="no-archive"),
        pytest.param(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(1_000), id="old-or-secret"),
        pytest.param(b"\x7fELF\x02\x01\x01\0", id="program"),
    ],
)
def test_b47_workbook_that_is_none_is_named(
    conn: psycopg.Connection, tmp_path: Path, name: str, content: bytes
) -> None:
    """What an archive may hold and unpack to: the tests of `ingest.registry_xlsx`."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(RegistryError) as caught:
        import_files(conn, [file])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}: is ")


def test_b47_file_that_is_none_is_named(conn: psycopg.Connection, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for file in (tmp_path, tmp_path / "circle", tmp_path / "missing.csv"):
        with pytest.raises(RegistryError, match="cannot read"):
            import_files(conn, [file])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_AREAS.replace("One", "🏘️ 梧桐苑".replace("\ufe0f", "")), id="B47-emoji"),
        pytest.param(_AREAS.replace("One", "O'Brien <b>&amp; {{7*7}}"), id="B47-markup"),
        pytest.param(_AREAS.replace("\n", "\r"), id="B47-old-line-ends"),
        pytest.param(_AREAS.rstrip("\n"), id="B47-no-last-line-end"),
        pytest.param(_AREAS.splitlines()[0], id="B47-header-alone"),
    ],
)
def test_registry_file_that_is_only_odd_is_taken(
    conn: psycopg.Connection, content: str, tmp_path: Path
) -> None:
    file = tmp_path / "areas.csv"
    file.write_text(content, newline="")
    import_files(conn, [file])
    expected = 0 if "City" not in content else 2
    assert conn.execute("SELECT count(*) FROM area").fetchone() == (expected,)


def test_b47_many_rows_take_no_more_than_their_time(
    conn: psycopg.Connection, tmp_path: Path
) -> None:
    count = 20_000
    file = tmp_path / "areas.csv"
    rows = "".join(f"c{n},city,community,Community {n},,,,\n" for n in range(count))
    file.write_text(_AREAS + rows.replace("c01,", "c-01,"))
    started = os.times().user
    import_files(conn, [file])
    assert os.times().user - started < 10
    assert conn.execute("SELECT count(*) FROM area").fetchone() == (count + 2,)
