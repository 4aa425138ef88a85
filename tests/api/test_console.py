# SPDX-License-Identifier: Apache-2.0
"""The console's files: served, cached, and never in place of the api."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.api.conftest import Api, running
from tests.services import Broker

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
async def built(
    city: Api, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    static = tmp_path_factory.mktemp("api") / "static"
    for name, text in {
        "index.html": "the console",
        "docs/index.html": "the documentation",
        "assets/main-Ab3.js": "script",
        "favicon.svg": "<svg/>",
        ".vite/manifest.json": "{}",
    }.items():
        (static / name).parent.mkdir(parents=True, exist_ok=True)
        (static / name).write_text(text)
    (static.parent / "secret.txt").write_text("secret")
    async with running(city.dsn, broker, static=static) as api:
        yield api


@pytest.mark.parametrize("path", ["/", "/alerts", "/areas/c01", "/login?next=%2Falerts"])
async def test_console_paths_give_the_console(built: Api, path: str) -> None:
    answer = await built.client().get(path, headers=BROWSER)
    assert (answer.status_code, answer.text) == (200, "the console")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")


async def test_documentation_has_a_page_of_its_own(built: Api) -> None:
    client = built.client()
    answer = await client.get("/docs/")
    assert (answer.status_code, answer.text) == (200, "the documentation")
    moved = await client.get("/docs")
    assert (moved.status_code, moved.headers["location"]) == (308, "/docs/")


async def test_hashed_files_are_kept_for_ever_and_others_are_not(built: Api) -> None:
    client = built.client()
    script = await client.get("/assets/main-Ab3.js")
    assert (script.status_code, script.text) == (200, "script")
    assert "immutable" in script.headers["cache-control"]
    assert "javascript" in script.headers["content-type"]
    icon = await client.get("/favicon.svg")
    assert (icon.status_code, icon.headers["cache-control"]) == (200, "no-cache")
    again = await client.get("/favicon.svg", headers={"If-None-Match": icon.headers["etag"]})
    assert again.status_code in (200, 304)
    assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/assets/gone-123.js",
        "/%2e%2e/secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/..%2fsecret.txt",
        "/.vite/manifest.json",
        "/index.html%00",
        "/api/v1/typo",
        "/api",
    ],
)
async def test_everything_else_is_a_problem(built: Api, path: str) -> None:
    answer = await built.client().get(path, headers=BROWSER)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_probe_is_not_answered_with_a_page(built: Api) -> None:
    answer = await built.client().get("/healthz", headers={"Accept": "*/*"})
    assert answer.status_code == 404


async def test_unbuilt_console_says_how_to_build_it(city: Api) -> None:
    for path in ("/", "/alerts", "/docs/"):
        answer = await city.client().get(path, headers=BROWSER)
        assert answer.status_code == 200
        assert "npm run build" in answer.text
