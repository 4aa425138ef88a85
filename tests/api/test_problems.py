# SPDX-License-Identifier: Apache-2.0
"""Every error is a problem document, whatever was wrong; nothing else ever comes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import Request

from api.app import BODY_BYTES_MAX
from api.problems import ERRORS_MAX, KINDS, language
from tests.api.conftest import ALERTS, SECRET, Api

DEVICES = "/api/v1/devices"
ACKNOWLEDGE = f"/api/v1/alerts/{ALERTS['dark']}/acknowledge"


def is_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check everything that all problems have in common; return the document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["instance"] == answer.headers["x-request-id"]
    assert document["type"] == f"urn:linli:problem:{code}"
    assert document["title"] in KINDS[code]
    assert answer.headers["cache-control"] == "no-store"
    return document


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api", 404, "not_found"),
        ("GET", "/api/", 404, "not_found"),
        ("GET", "/api/v1", 404, "not_found"),
        ("GET", "/api/v1/devicse", 404, "not_found"),
        ("GET", "/api/v1/devices/", 404, "not_found"),
        ("GET", "/api/v2/devices", 404, "not_found"),
        ("POST", "/api/v1/devices", 405, "method.not_allowed"),
        ("GET", ACKNOWLEDGE, 405, "method.not_allowed"),
        ("DELETE", "/api/v1/areas", 405, "method.not_allowed"),
        ("TRACE", "/api/v1/areas", 405, "method.not_allowed"),
        ("POST", "/", 405, "method.not_allowed"),
        ("PUT", "/alerts", 405, "method.not_allowed"),
        ("GET", "/favicon.png", 404, "not_found"),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/html,application/xhtml+xml"])
async def test_wrong_address_or_method(
    city: Api, method: str, path: str, status: int, code: str, accept: str
) -> None:
    answer = await city.client("root").request(method, path, headers={"Accept": accept})
    is_problem(answer, status, code)
    if status == 405:
        assert answer.headers["allow"]


async def test_format_that_is_not_given(city: Api) -> None:
    for accept in ("text/csv", "image/png, text/html"):
        answer = await city.client("root").get(DEVICES, headers={"Accept": accept})
        is_problem(answer, 406, "not_acceptable")
    for accept in ("application/*", "text/html, */*;q=0.1", "APPLICATION/JSON"):
        answer = await city.client("root").get(DEVICES, headers={"Accept": accept})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        pytest.param(b"{", "application/json", 400, "body.not_json", id="cut"),
        pytest.param(b"\xff\xfe", "application/json", 400, "body.not_json", id="not-utf-8"),
        pytest.param(b"{'a': 1}", "application/json", 400, "body.not_json", id="single-quotes"),
        pytest.param(b"", "application/json", 400, "body.missing", id="empty"),
        pytest.param(b"", None, 400, "body.missing", id="none"),
        pytest.param(b"{}", "text/plain", 415, "content_type.unsupported", id="text"),
        pytest.param(b"{}", "application/xml", 415, "content_type.unsupported", id="xml"),
        pytest.param(
            b"note=x", "application/x-www-form-urlencoded", 415, "content_type.unsupported",
            id="form",
        ),
        pytest.param(
            b"[" * 100_000, "application/json", 400, "request.malformed", id="nested-without-end"
        ),
        pytest.param(b"{}", "application/json; charset=utf-8", 404, "not_found", id="charset"),
    ],
)  # fmt: skip
async def test_bad_body(
    city: Api, body: bytes, content_type: str | None, status: int, code: str
) -> None:
    path = "/api/v1/alerts/00000000-0000-0000-0000-0000000000ff/acknowledge"
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await city.client("root").post(path, content=body, headers=headers)
    is_problem(answer, status, code)


async def test_body_over_a_mebibyte_is_refused(city: Api) -> None:
    client = city.client("root")
    headers = {"Content-Type": "application/json"}
    large = b'{"note": "' + b"x" * BODY_BYTES_MAX + b'"}'
    is_problem(
        await client.post(ACKNOWLEDGE, content=large, headers=headers), 413, "body.too_large"
    )

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    is_problem(
        await client.post(ACKNOWLEDGE, content=chunks(), headers=headers), 413, "body.too_large"
    )


@pytest.mark.parametrize(
    ("path", "pointer", "code", "bounds"),
    [
        (f"{DEVICES}?limit=0", "/query/limit", "value.range", {"min": 1}),
        (f"{DEVICES}?limit=-1", "/query/limit", "value.range", {"min": 1}),
        (f"{DEVICES}?limit=1000000", "/query/limit", "value.range", {"max": 1000}),
        (f"{DEVICES}?limit=many", "/query/limit", "field.type", {}),
        (f"{DEVICES}?stauts=fault", "/query/stauts", "field.unknown", {}),
        (f"{DEVICES}?state=broken", "/query/state", "field.enum", None),
        (f"{DEVICES}?q={'x' * 101}", "/query/q", "text.too_long", {"max": 100}),
        (f"{DEVICES}?q=a%00b", "/query/q", "text.invalid", {}),
        (f"{DEVICES}?q=", "/query/q", "text.too_short", {"min": 1}),
        ("/api/v1/alerts?severity=huge", "/query/severity", "field.enum", None),
        (
            f"{DEVICES}/c01-lamp-001/history?from=2026-11-21T00:00:00",
            "/query/from",
            "time.naive",
            {},
        ),
        (f"{DEVICES}/c01-lamp-001/history?from=yesterday", "/query/from", "time.format", {}),
        (
            f"{DEVICES}/c01-lamp-001/history?from=2026-11-21T01:00:00Z&to=2026-11-21T01:00:00Z",
            "/query/to",
            "range.reversed",
            {},
        ),
        (
            f"{DEVICES}/c01-lamp-001/history?from=2020-01-01T00:00:00Z&to=2026-11-21T01:00:00Z",
            "/query/from",
            "range.too_long",
            {"max_days": 366},
        ),
        (
            f"{DEVICES}/c01-lamp-001/history?to=0001-01-01T00:00:00%2B05:00",
            "/query/to",
            "value.range",
            None,
        ),
        (
            "/api/v1/areas/c01/indicators/lighting-uptime?from=9999-12-31",
            "/query/from",
            "value.range",
            None,
        ),
        (
            "/api/v1/areas/c01/indicators/lighting-uptime?from=2026-01-01&to=2027-12-31",
            "/query/from",
            "range.too_long",
            {"max_days": 366},
        ),
        (
            "/api/v1/areas/c01/indicators/lighting-uptime?from=2026-02-30",
            "/query/from",
            "date.format",
            {},
        ),
        ("/api/v1/areas/c01/indicators/lighting-uptime?by=hour", "/query/by", "field.enum", None),
    ],
)
async def test_bad_question_is_told_where_and_what_is_allowed(
    city: Api, path: str, pointer: str, code: str, bounds: dict[str, object] | None
) -> None:
    for tongue in ("zh-CN", "en"):
        answer = await city.client("root").get(path, headers={"Accept-Language": tongue})
        (error,) = is_problem(answer, 422, "request.invalid")["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)
        assert error["message"]
        assert "{" not in error["message"] and "…" not in error["message"]
        assert tongue == "en" or not re.search(r"[a-z]'? [a-z]", error["message"])
        if bounds is not None:
            assert error == {
                "pointer": pointer,
                "code": code,
                "message": error["message"],
                **bounds,
            }


async def test_thousands_of_parameters_are_refused(city: Api) -> None:
    query = "&".join(f"p{index}=1" for index in range(1_500))
    answer = await city.client("root").get(f"{DEVICES}?{query}")
    assert len(is_problem(answer, 422, "request.invalid")["errors"]) == ERRORS_MAX


@pytest.mark.parametrize("cursor", ["x", "a" * 43, "ÿ", "%00", "=", "{}"])
async def test_forged_cursor_is_refused(city: Api, cursor: str) -> None:
    for path in (DEVICES, "/api/v1/alerts", "/api/v1/areas", f"{DEVICES}/c01-lamp-001/history"):
        answer = await city.client("root").get(f"{path}?cursor={cursor}")
        is_problem(answer, 400, "cursor.invalid")


async def test_cursor_is_good_for_its_question_and_person_alone(city: Api) -> None:
    client = city.client("root")
    cursor = (await client.get(f"{DEVICES}?limit=2&kind=lamp")).json()["next_cursor"]
    assert (await client.get(f"{DEVICES}?kind=lamp&cursor={cursor}")).status_code == 200
    last = "A" if cursor[-1] != "A" else "B"
    for path in (
        f"{DEVICES}?cursor={cursor}",
        f"{DEVICES}?kind=bin&cursor={cursor}",
        f"/api/v1/alerts?cursor={cursor}",
        f"{DEVICES}?kind=lamp&cursor={cursor[:-4]}{last}{cursor[-3:]}",
    ):
        is_problem(await client.get(path), 400, "cursor.invalid")
    other = city.client("wang")
    is_problem(await other.get(f"{DEVICES}?kind=lamp&cursor={cursor}"), 400, "cursor.invalid")


async def test_error_of_ours_is_a_problem_without_details(own_city: Api) -> None:
    async def broken(_: Request) -> None:
        raise RuntimeError("the secret is 12345")

    own_city.app.add_api_route("/api/v1/broken", broken)
    answer = await own_city.client().get("/api/v1/broken")
    is_problem(answer, 500, "internal")
    assert "12345" not in answer.text


async def test_lost_database_is_said_to_be_temporary(own_city: Api) -> None:
    await own_city.services.pool.close()
    # A closed pool behaves as an unreachable server does: no connection in time.
    answer = await own_city.client("root").get(DEVICES)
    is_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"]


async def test_request_id_is_kept_if_it_is_one(city: Api) -> None:
    client = city.client()
    kept = await client.get("/api/v1/x", headers={"X-Request-Id": "trace-0123456789"})
    assert kept.json()["instance"] == "trace-0123456789"
    for given in ("short", "a b c d e f g", "x" * 65, "<script>alert</script>"):
        answer = await client.get("/api/v1/x", headers={"X-Request-Id": given})
        assert answer.json()["instance"] != given


async def test_titles_follow_the_readers_language(city: Api) -> None:
    client = city.client()
    for accept, title in (
        ("en", "Log in first"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "请先登录"),
        ("de", "请先登录"),
        ("en-GB;q=0.9,zh;q=0.2", "Log in first"),
    ):
        answer = await client.get("/api/v1/session", headers={"Accept-Language": accept})
        assert is_problem(answer, 401, "session.required")["title"] == title


@pytest.mark.parametrize(
    ("accept", "tongue"),
    [
        ("", "zh-CN"),
        ("en", "en"),
        ("EN-us", "en"),
        ("zh-TW,en;q=0.5", "zh-CN"),
        ("fr, en;q=0.3, zh;q=0.2", "en"),
        ("en;q=0", "zh-CN"),
        ("en;q=x", "zh-CN"),
        (";;;,,,", "zh-CN"),
    ],
)
def test_language(accept: str, tongue: str) -> None:
    assert language(accept) == tongue


async def test_log_in_body_is_checked(city: Api) -> None:
    client = city.client()
    for body, pointer, code in (
        ({"username": "wang"}, "/body/password", "field.missing"),
        ({"username": "", "password": SECRET}, "/body/username", "text.too_short"),
        ({"username": "w", "password": SECRET, "role": "admin"}, "/body/role", "field.unknown"),
        ({"username": "w", "password": "x" * 257}, "/body/password", "text.too_long"),
    ):
        answer = await client.post("/api/v1/session", json=body)
        (error,) = is_problem(answer, 422, "request.invalid")["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)


async def test_every_answer_carries_safe_headers(city: Api) -> None:
    client = city.client("root")
    for path in ("/", "/livez", "/api/v1/devices", "/api/v1/nowhere", "/docs/"):
        headers = (await client.get(path, headers={"Accept": "*/*"})).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'self'" in headers["content-security-policy"] or path.startswith(
            ("/api", "/livez")
        )
