# SPDX-License-Identifier: Apache-2.0
"""The registry over HTTP: who may, what is told, and nothing half applied."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

from api.errors import Problem
from api.registry import BODY_BYTES_MAX
from api.uploads import FILES_MAX, read_uploads
from ingest.indicators.lighting import parse_programme
from ingest.registry import export_files
from ingest.registry_files import Format
from ingest.store.devices import load_registry
from tests.api.conftest import Api
from tests.api.test_problems import is_problem

IMPORT = "/api/v1/registry/import"
EXPORT = "/api/v1/registry/export"
NEW_CELL = "area,parent,level,name\nc01-g03,c01,cell,北区\n"


async def post(
    client: httpx2.AsyncClient, files: Mapping[str, str | bytes], *, dry_run: bool = False
) -> httpx2.Response:
    parts = [
        ("file", (name, content.encode() if isinstance(content, str) else content))
        for name, content in files.items()
    ]
    return await client.post(f"{IMPORT}?dry_run={str(dry_run).lower()}", files=parts)


def everything(dsn: str) -> list[Any]:
    """What is registered, its history and its revision. Any: columns differ in type."""
    queries = (
        "SELECT registry_revision FROM installation",
        "SELECT area, parent, path::text, programme, residents FROM area ORDER BY area",
        "SELECT gateway, community, name, life FROM gateway ORDER BY gateway",
        "SELECT device, area, life, programme, own_programme, owner FROM device ORDER BY device",
        "SELECT area, valid, residents FROM area_population ORDER BY area, valid",
        "SELECT device_id, during FROM device_version ORDER BY device_id, during",
        "SELECT area, during FROM area_version ORDER BY area, during",
    )
    with psycopg.connect(dsn) as conn:
        return [conn.execute(query).fetchall() for query in queries]


# -- who


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        pytest.param(None, 401, "session.required", id="nobody"),
        pytest.param("wang", 403, "role.forbidden", id="property"),
        pytest.param("li", 403, "role.forbidden", id="police"),
        pytest.param("chen", 403, "area.forbidden", id="admin-of-a-cell"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
async def test_only_an_admin_of_all_areas_imports(
    city: Api, who: str | None, status: int, code: str, dry_run: bool
) -> None:
    before = everything(city.dsn)
    answer = await post(city.client(who), {"areas.csv": NEW_CELL}, dry_run=dry_run)
    is_problem(answer, status, code)
    assert everything(city.dsn) == before


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        pytest.param(None, 401, "session.required", id="nobody"),
        pytest.param("wang", 403, "role.forbidden", id="property"),
        pytest.param("li", 403, "role.forbidden", id="police"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "xlsx"])
async def test_only_admins_export(
    city: Api, who: str | None, status: int, code: str, form: str
) -> None:
    is_problem(await city.client(who).get(f"{EXPORT}.{form}"), status, code)


async def test_a_service_imports_without_a_page(own_city: Api) -> None:
    service = own_city.client(Authorization="Bearer token-of-robot", Origin="")
    assert (await post(service, {"areas.csv": NEW_CELL})).status_code == 200


async def test_an_import_from_another_sites_page_is_refused(city: Api) -> None:
    client = city.client("root", Origin="https://elsewhere.example")
    is_problem(await post(client, {"areas.csv": NEW_CELL}), 403, "csrf")


async def test_an_export_holds_the_admins_area_and_nothing_else(city: Api) -> None:
    answer = await city.client("chen").get(f"{EXPORT}.zip")
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        texts = {name: archive.read(name).decode("utf-8-sig") for name in archive.namelist()}
    assert sorted(texts) == ["areas.csv", "devices.csv", "gateways.csv", "population.csv"]
    rows = {name: text.splitlines()[1:] for name, text in texts.items()}
    # Nor what it lies in: the cell's parent is not the cell admin's to see.
    assert [row.split(",")[:3] for row in rows["areas.csv"]] == [["c01-g01", "", "cell"]]
    assert {row.split(",")[3] for row in rows["devices.csv"]} == {"c01-g01"}
    assert rows["gateways.csv"] == rows["population.csv"] == []
    assert "c02" not in "".join(texts.values())


async def test_there_is_no_second_root_for_others_to_own(own_city: Api) -> None:
    client = own_city.client("root")
    before = everything(own_city.dsn)
    for text in (
        "area,parent,level,name\nelsewhere,,city,别处\n",
        "area,parent,level,name\nc02,,community,槐树里\n",
        "area,parent,level,name\ncity,c02,city,北城\n",
    ):
        is_problem(await post(client, {"areas.csv": text}), 422, "registry.refused")
    assert everything(own_city.dsn) == before


# -- what


async def test_an_import_is_applied_and_told_in_full(own_city: Api) -> None:
    client = own_city.client("root")
    files = {
        "areas.csv": NEW_CELL,
        "devices.csv": "device,kind,gateway,area,owner,road,installed_on\n"
        "c01-lamp-001,lamp,gw-c01-a,c01-g03,街道办,西路,2025-02-03\n"
        "c01-lamp-009,lamp,gw-c01-a,c01-g03,,,\n",
        "population.csv": "area,from,residents\nc01,2026-01-01,2000\n",
    }
    before = everything(own_city.dsn)
    dry = await post(client, files, dry_run=True)
    assert dry.status_code == 200, dry.text
    assert everything(own_city.dsn) == before
    done = await post(client, files)
    assert done.status_code == 200, done.text
    assert dry.json() | {"dry_run": False} == done.json()
    assert done.json() == {
        "dry_run": False,
        "added": [
            {"table": "area", "id": "c01-g03", "where": "areas.csv:2"},
            {"table": "device", "id": "c01-lamp-009", "where": "devices.csv:3"},
            {"table": "population", "id": "c01 2026-01-01", "where": "population.csv:2"},
        ],
        "changed": [
            {
                "table": "device",
                "id": "c01-lamp-001",
                "column": column,
                "before": was,
                "after": now,
                "where": "devices.csv:2",
            }
            for column, was, now in (
                ("area", "c01-g01", "c01-g03"),
                ("road", "东路", "西路"),
            )
        ],
        "opened": [],
        "unchanged": 6 + 4 + 12,
    }
    device = (await client.get("/api/v1/devices/c01-lamp-001")).json()
    assert (device["area"], device["road"]) == ("c01-g03", "西路")
    again = (await post(client, files)).json()
    assert (again["added"], again["changed"], again["opened"]) == ([], [], [])


@pytest.mark.parametrize("form", ["zip", "xlsx"])
async def test_an_export_imported_changes_nothing(own_city: Api, form: str) -> None:
    client = own_city.client("root")
    answer = await client.get(f"{EXPORT}.{form}")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == (
        f'attachment; filename="linli-registry-city.{form}"'
    )
    assert int(answer.headers["content-length"]) == len(answer.content)
    if form == "zip":
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    else:
        files = {"registry.xlsx": answer.content}
    before = everything(own_city.dsn)
    report = (await post(client, files)).json()
    assert (report["added"], report["changed"], report["opened"]) == ([], [], [])
    assert report["unchanged"] == 6 + 4 + 13
    assert everything(own_city.dsn) == before


async def test_an_export_is_that_of_the_command(city: Api, tmp_path: Path) -> None:
    with psycopg.connect(city.dsn, autocommit=True) as conn:
        files = export_files(conn, tmp_path, form=Format.CSV)
    answer = await city.client("root").get(f"{EXPORT}.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {file.name: file.read_bytes() for file in files} == {
            name: archive.read(name) for name in archive.namelist()
        }


async def test_an_export_may_be_of_one_table(city: Api) -> None:
    answer = await city.client("root").get(f"{EXPORT}.xlsx?table=area&table=gateway")
    assert load_workbook(io.BytesIO(answer.content)).sheetnames == ["area", "gateway"]
    wrong = await city.client("root").get(f"{EXPORT}.xlsx?table=person")
    assert is_problem(wrong, 422, "request.invalid")["errors"][0]["pointer"] == "/query/table/0"
    is_problem(await city.client("root").get(f"{EXPORT}.pdf"), 404, "not_found")


# -- what is wrong

_AREA = "area,parent,level,name"
# What every mistake tells.
MISTAKE = {"pointer", "code", "message", "place", "file", "row", "column", "rule"}
_LAMP = "device,kind,gateway,area,programme\nc01-lamp-001,lamp,gw-c01-a,c01-g01"


@pytest.mark.parametrize(
    ("name", "text", "row", "column", "code", "rule"),
    [
        pytest.param(
            "population.csv",
            "area,from,to,residents\nc01,2026-01-01,2026-07-01,9\nc01,2026-06-01,,9\n",
            3, "from", "population.overlap",
            "overlaps the figure from 2026-01-01 to 2026-07-01", id="overlap",
        ),
        pytest.param(
            "population.csv", "area,from,residents\nc01,2026-01-01,0\n",
            2, "residents", "number.whole",
            "expected a whole number from 1 to 2147483647", id="nobody",
        ),
        pytest.param(
            "population.csv", "area,from,residents\nc01,2026-01-01,-2000\n",
            2, "residents", "number.whole",
            "expected a whole number from 1 to 2147483647", id="negative",
        ),
        pytest.param(
            "devices.csv", "device,kind,gateway,area,rated_power_w\n"
            "c01-lamp-001,lamp,gw-c01-a,c01,-60\n",
            2, "rated_power_w", "number.above",
            "expected a number above 0 and at most 5000", id="negative-power",
        ),
        pytest.param(
            "devices.csv", f"{_LAMP},sun+720-720\n",
            2, "programme", "programme.night",
            "never lights: no night at community 'c01' is long enough",
            id="never-lights",
        ),
        pytest.param(
            "devices.csv", f'{_LAMP},"sun@100,23:00@10"\n',
            2, "programme", "programme",
            "expected sun, sun+15-10, always or 18:00-06:00, with levels sun@100,23:00@50",
            id="level",
        ),
        pytest.param(
            "areas.csv", f"{_AREA},programme\nc01,city,community,梧桐苑,sun+720-720\n",
            2, "programme", "programme.night",
            "never lights: no night at community 'c01' is long enough",
            id="area-never-lights",
        ),
        pytest.param(
            "areas.csv", f"{_AREA}\nc01,c01,community,梧桐苑\n",
            2, "parent", "area.circle", "the areas form a circle: c01 > c01", id="its-own-parent",
        ),
        pytest.param(
            "areas.csv", f"{_AREA}\nc01,c01-g01,community,梧桐苑\n",
            2, "parent", "area.circle",
            "the areas form a circle: c01 > c01-g01 > c01", id="its-own-ancestor",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_mistake_is_named_and_nothing_is_applied(
    own_city: Api,
    name: str,
    text: str,
    row: int,
    column: str,
    code: str,
    rule: str,
    dry_run: bool,
) -> None:
    before = everything(own_city.dsn)
    # A good file beside it is not applied either.
    good = {"gateways.csv": "gateway,community,name\ngw-c01-a,c01,新名\n"}
    client = own_city.client("root", **{"Accept-Language": "en"})
    answer = await post(client, good | {name: text}, dry_run=dry_run)
    error = is_problem(answer, 422, "registry.refused")["errors"][0]
    value = error.pop("value")
    assert value in text
    # What the sentence names stands beside it, too.
    assert all(str(error.pop(name)) in rule for name in error.keys() - MISTAKE)
    assert error == {
        "pointer": f"/body/{name}/{row}/{column}",
        "code": f"registry.{code}",
        "message": rule,
        "place": f"{name}:{row}",
        "file": name,
        "row": row,
        "column": column,
        "rule": rule,
    }
    assert everything(own_city.dsn) == before


async def test_a_mistake_is_told_in_the_readers_language(city: Api) -> None:
    files = {
        "areas.csv": f"{_AREA},latitude,longitude\nc01,city,community,,121,31\n",
        "devices.csv": "device,kind,gateway,area\nx,robot,gw-c01-a,c01\n",
    }
    told: dict[str, list[str]] = {}
    for language in ("zh-CN", "en"):
        client = city.client("root", **{"Accept-Language": language})
        errors = is_problem(await post(client, files), 422, "registry.refused")["errors"]
        told[language] = [error["message"] for error in errors]
        told["rule"] = [error["rule"] for error in errors]
    assert told["zh-CN"] == [
        "不得为空",
        "须为 -90 至 90 的数；纬度与经度是否填反？",
        "须为以下之一：lamp, bin, gate, alarm",
    ]
    assert told["en"] == [
        "must not be empty",
        "expected a number from -90 to 90; latitude and longitude swapped?",
        "expected one of lamp, bin, gate, alarm",
    ]
    assert told["rule"] == told["en"]


async def test_a_gateways_life_is_tried_out_imported_and_exported(own_city: Api) -> None:
    root = own_city.client("root")
    before = everything(own_city.dsn)
    text = "gateway,community,life\ngw-c01-b,c01,retired\n"
    needed = is_problem(await post(root, {"gateways.csv": text}), 422, "registry.refused")
    (error,) = needed["errors"]
    assert (error["place"], error["column"]) == ("gateways.csv:2", "life")
    devices = "device,kind,gateway,area,life\nc01-bin-001,bin,gw-c01-b,c01-g01,retired\n"
    files = {"gateways.csv": text, "devices.csv": devices}
    tried = await post(root, files, dry_run=True)
    assert tried.status_code == 200, tried.text
    assert [
        (one["table"], one["id"], one["column"], one["before"], one["after"])
        for one in tried.json()["changed"]
    ] == [
        ("gateway", "gw-c01-b", "life", "in_service", "retired"),
        ("device", "c01-bin-001", "life", "in_service", "retired"),
    ]
    assert everything(own_city.dsn) == before
    assert (await post(root, files)).status_code == 200
    book = await root.get(f"{EXPORT}.xlsx?table=gateway")
    rows = list(load_workbook(io.BytesIO(book.content))["gateway"].values)
    assert rows[0] == ("gateway", "community", "name", "life")
    assert [row[3] for row in rows[1:] if row[0] == "gw-c01-b"] == ["retired"]


async def test_every_mistake_of_every_file_is_told(city: Api) -> None:
    rows = "".join(f"A{number},,cell,x\n" for number in range(1_100))
    files = {
        "areas.csv": f"area,parent,level,name\n{rows}",
        "devices.csv": "device,kind,gateway,area\nx,robot,gw-c01-a,c01\n",
    }
    document = is_problem(await post(city.client("root"), files), 422, "registry.refused")
    assert len(document["errors"]) == 1_000
    assert document["more"] is True
    few = files | {"areas.csv": "area,parent,level,name\nA1,,cell,x\nB2,,cell,\n"}
    document = is_problem(await post(city.client("root"), few), 422, "registry.refused")
    assert [(error["file"], error["row"], error["column"]) for error in document["errors"]] == [
        ("areas.csv", 2, "area"),
        ("areas.csv", 3, "area"),
        ("areas.csv", 3, "name"),
        ("devices.csv", 2, "kind"),
    ]
    assert "more" not in document


async def test_what_is_registered_and_no_longer_fits_is_told_without_a_row(city: Api) -> None:
    files = {"a.csv": "area,parent,level,name\nc01-g01,c02,cell,东区\n"}
    document = is_problem(await post(city.client("root"), files), 422, "registry.refused")
    error = document["errors"][0]
    assert (error["pointer"], error["file"], error["row"]) == ("/body/area", "", None)
    assert error["place"].startswith("registered device c01-")


async def test_a_mistake_in_a_workbook_is_told_by_its_cell(city: Api) -> None:
    book, content = Workbook(), io.BytesIO()
    sheet = book.create_sheet("population")
    for row in (["area", "from", "residents"], ["c01", "2026-01-01", 2_000], ["c02", "soon", 1]):
        sheet.append(row)
    book.save(content)
    answer = await post(city.client("root"), {"city.xlsx": content.getvalue()})
    (error,) = is_problem(answer, 422, "registry.refused")["errors"]
    assert error["place"] == "city.xlsx: population!B3"
    assert (error["file"], error["row"], error["column"]) == ("city.xlsx", 3, "from")
    assert error["value"] == "soon"


async def test_files_of_one_name_are_told_apart(city: Api) -> None:
    parts = [("file", ("a.csv", text.encode())) for text in (NEW_CELL, f"{NEW_CELL}X,c01,cell,x\n")]
    answer = await city.client("root").post(IMPORT, files=parts)
    document = is_problem(answer, 422, "registry.refused")
    assert [(error["file"], error["rule"]) for error in document["errors"]] == [
        ("a.csv (2)", "stands already in a.csv:2"),
        ("a.csv (2)", "must match ^[a-z0-9][a-z0-9-]{0,63}$"),
    ]


@pytest.mark.parametrize(
    ("content", "row", "rule"),
    [
        pytest.param(b"PK\x03\x04" + b"x" * 99, None, "is not a workbook", id="no-archive"),
        pytest.param("city".encode("utf-16"), 1, "is not UTF-8, it is UTF-16", id="utf-16"),
        pytest.param(b"", 1, "not a registry file", id="empty"),
    ],
)
async def test_a_file_that_is_none_is_named_as_its_owner_calls_it(
    city: Api, content: bytes, row: int | None, rule: str
) -> None:
    answer = await post(city.client("root"), {"../../登记 1.csv": content})
    (error,) = is_problem(answer, 422, "registry.refused")["errors"]
    assert (error["file"], error["row"]) == ("登记 1.csv", row)
    assert error["rule"].startswith(rule)


async def test_a_workbook_that_unpacks_to_too_much_is_refused(city: Api) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", b"\0" * (257 * 1024 * 1024))
    answer = await post(city.client("root"), {"bomb.xlsx": bomb.getvalue()})
    (error,) = is_problem(answer, 422, "registry.refused")["errors"]
    assert error["rule"] == "unpacks to more than 256 MiB: use CSV"


# -- the body


async def test_a_body_over_the_limit_is_refused_and_one_within_is_not(city: Api) -> None:
    client = city.client("root")
    large = b"area,parent,level,name\n" + b"\n" * BODY_BYTES_MAX
    is_problem(await post(client, {"a.csv": large}), 413, "body.too_large")
    answer = await post(client, {"a.csv": large[: 2 * 1024 * 1024]}, dry_run=True)
    assert answer.status_code == 200


async def test_a_body_without_length_is_cut_at_the_limit(city: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 65_536 + 2):
            yield b"x" * 65_536

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await city.client("root").post(IMPORT, content=chunks(), headers=headers)
    is_problem(answer, 413, "body.too_large")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        pytest.param("application/json", b"{}", 415, "content_type.unsupported", id="json"),
        pytest.param("text/csv", b"area", 415, "content_type.unsupported", id="csv"),
        pytest.param("", b"", 400, "body.not_multipart", id="none"),
        pytest.param("multipart/form-data", b"--\r\n", 400, "body.not_multipart", id="no-boundary"),
        pytest.param(
            "multipart/form-data; boundary=x", b"--x--\r\n", 400, "body.not_multipart", id="empty"
        ),
        pytest.param(
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
            400, "body.not_multipart", id="cut",
        ),
        pytest.param(
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\n\r\n'
            b'--x\r\nContent-Disposition: form-data; filename="b"\r\n\r\ncut o',
            400, "body.not_multipart", id="second-file-cut",
        ),
        pytest.param(
            "multipart/form-data; boundary=x; charset=undefined",
            b'--x\r\nContent-Disposition: form-data; filename="a\xff"\r\n\r\n\r\n--x--\r\n',
            400, "body.not_multipart", id="charset-that-decodes-nothing",
        ),
        pytest.param(
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; filename="a"\r\n' + b"A: b\r\n" * 9
            + b"\r\n\r\n--x--\r\n",
            400, "body.not_multipart", id="many-headers",
        ),
        pytest.param(
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="dry_run"\r\n\r\ntrue\r\n--x--\r\n',
            400, "body.not_multipart", id="no-file",
        ),
        pytest.param(
            "multipart/form-data; boundary=x",
            b"x" + b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\n\r\n--x--\r\n',
            400, "body.not_multipart", id="text-before",
        ),
        pytest.param(
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; filename="a\xff"\r\n\r\n\r\n--x--\r\n',
            400, "body.not_multipart", id="name-not-utf-8",
        ),
        pytest.param(
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\n\r\n' * 21 + b"--x--",
            413, "files.too_many", id="too-many",
        ),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_form_of_files_is_refused(
    city: Api, content_type: str, body: bytes, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await city.client("root").post(IMPORT, content=body, headers=headers)
    is_problem(answer, status, code)


@given(
    files=st.lists(
        st.tuples(st.text(max_size=120), st.binary(max_size=2_000)),
        min_size=1,
        max_size=FILES_MAX,
    )
)
def test_what_a_client_sends_is_what_is_read(files: list[tuple[str, bytes]]) -> None:
    request = httpx2.Request(
        "POST", "http://x", files=[("file", (name or "x", content)) for name, content in files]
    )
    uploads = read_uploads(request.headers["content-type"], request.read())
    assert [upload.content for upload in uploads] == [content for _, content in files]
    names = [upload.name for upload in uploads]
    assert len(set(names)) == len(names)
    assert all(name.isprintable() and "/" not in name and "\\" not in name for name in names)


@given(
    content_type=st.text(max_size=60) | st.just("multipart/form-data; boundary=x"),
    body=st.lists(
        st.sampled_from(
            [
                b"--x",
                b"--x--",
                b"\r\n",
                b"\n",
                b'Content-Disposition: form-data; filename="a"',
                b" ",
            ]
        )
        | st.binary(max_size=5),
        max_size=12,
    ).map(b"".join),
)
def test_any_body_is_read_or_refused(content_type: str, body: bytes) -> None:
    try:
        uploads = read_uploads(content_type, body)
    except Problem as problem:
        assert problem.code in ("body.not_multipart", "files.too_many")
    else:
        assert all(upload.content in body for upload in uploads)


# -- at work


async def test_two_imports_at_once_come_one_after_the_other(own_city: Api) -> None:
    client = own_city.client("root")
    files = [{"a.csv": NEW_CELL.replace("g03", f"g1{number}")} for number in range(4)]
    answers = await asyncio.gather(*(post(client, one) for one in files))
    assert [answer.status_code for answer in answers] == [200] * 4
    with psycopg.connect(own_city.dsn) as conn:
        cells = conn.execute("SELECT count(*) FROM area WHERE area LIKE 'c01-g1_'").fetchone()
    assert cells == (4,)


async def test_while_the_registry_is_locked_others_are_answered(own_city: Api) -> None:
    client = own_city.client("root")
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("SELECT FROM installation FOR UPDATE")
        waiting = asyncio.create_task(post(client, {"a.csv": NEW_CELL}))
        # Once it waits at the lock, the api goes on.
        while not conn.execute(
            "SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        ).fetchall():
            assert (await client.get("/api/v1/areas")).status_code == 200
        assert (await client.get("/api/v1/areas")).status_code == 200
        assert not waiting.done()
        conn.rollback()
    assert (await waiting).status_code == 200


async def test_an_areas_programme_holds_for_its_lamps_from_now_on(own_city: Api) -> None:
    client = own_city.client("root")
    text = "area,parent,level,name,programme\nc01,city,community,梧桐苑,18:00-06:00\n"
    report = (await post(client, {"areas.csv": text})).json()
    assert [
        (change["table"], change["id"], change["column"], change["where"])
        for change in report["changed"]
    ] == [
        ("area", "c01", "programme", "areas.csv:2"),
        *(("device", f"c01-lamp-00{n}", "effective_programme", "") for n in range(1, 5)),
    ]
    device = (await client.get("/api/v1/devices/c01-lamp-001")).json()
    assert device["programme"] == "18:00-06:00"
    with psycopg.connect(own_city.dsn, autocommit=True) as conn:
        lamp = load_registry(conn).devices["c01-lamp-001"]
    assert lamp.at(0).programme == parse_programme("sun")
    assert lamp.programme == parse_programme("18:00-06:00")
