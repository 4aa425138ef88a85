# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser over a real city: a lamp fails live, its alert is acknowledged.

The pictures in the README are made here, from what the browser shows (``LINLI_PICTURES=1``).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe  # pyright: ignore[reportMissingTypeStubs]
from playwright.sync_api import Browser, Page, expect, sync_playwright

from deploy.faults.city import City
from deploy.installation import ROOT, environment, module
from deploy.services import HOST, Process
from ingest.registry import add_gateway, import_files
from tests.services import Broker, until

pytestmark = pytest.mark.timeout(300)

CHROMIUM = "/usr/bin/chromium"
GATEWAY = "gw-underpass"
LAMP = "c01-lamp-900"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
            ],
        )
        yield browser
        browser.close()


class Lamp:
    """A lamp controller of another maker: a program that keeps a JSON file up to date."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def shine(self, lit: bool) -> None:
        values = {"lit": lit, "power_w": 62.0 if lit else 0.0, "level_pct": 100 if lit else 0}
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps(values))
        draft.rename(self._file)


def write_csv(path: Path, row: dict[str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


@pytest.fixture
def city(database: str, own_broker: Broker, tmp_path: Path) -> Iterator[City]:
    made = City(
        database, own_broker, tmp_path, history_hours=24, rules={"lamp.dark": {"on_delay_s": 0}}
    )
    made.found()
    yield made
    made.close()


@pytest.fixture
def lamp(city: City, url: str) -> Iterator[Lamp]:
    """A real agent over a real file, in an underpass where light is due around the clock."""
    del url  # only that everything runs
    folder = city.folder / "underpass"
    folder.mkdir()
    made = Lamp(folder / "lamp.json")
    made.shine(True)
    gateways = write_csv(
        folder / "gateways.csv", {"gateway": GATEWAY, "community": "c01", "name": "地下通道"}
    )
    devices = write_csv(
        folder / "devices.csv",
        {
            "device": LAMP,
            "kind": "lamp",
            "gateway": GATEWAY,
            "area": "c01",
            "name": "地下通道灯",
            "name_en": "Underpass lamp",
            "life": "in_service",
            "in_service_from": datetime.now(UTC).isoformat(),
            "reporting_period_s": "600",
            "rated_power_w": "60",
            "programme": "always",
        },
    )
    with psycopg.connect(city.dsn, autocommit=True) as conn:
        import_files(conn, [gateways, devices])
        add_gateway(
            conn, city.broker.authority.folder, GATEWAY, "c01", folder, HOST, city.broker.port
        )
    config = folder / "agent.toml"
    config.write_text(
        config.read_text()
        + f"""
[[devices]]
device = "{LAMP}"
kind = "lamp"
driver = "edge_agent.drivers.json_file:make"
options = {{ kind = "lamp", path = {json.dumps(str(folder / "lamp.json"))} }}
"""
    )
    agent = Process(
        "agent",
        module("edge_agent", "run", "--config", str(config)),
        log=city.folder / "agent.log",
        environment=environment(),
    )
    yield made
    agent.kill()


@pytest.fixture
def url(city: City) -> Iterator[str]:
    """Address of a running api over a city that was replayed and is live."""
    city.start_ingest()
    api = Process(
        "api",
        module("api", "serve", "--config", str(city.config)),
        log=city.folder / "api.log",
        environment=environment(),
    )
    city.start_simulators("community_day")
    city.await_phase("live")
    yield city.url
    api.kill()


def password_of(city: City, name: str, role: str, area: str) -> str:
    done = subprocess.run(
        [*module("api"), *("person", "add", name, "--role", role, "--area", area),
         *("--config", str(city.config))],
        env=dict(environment()),
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.split()[-1]


def log_in(page: Page, name: str, password: str) -> None:
    page.get_by_test_id("login-username").fill(name)
    page.get_by_test_id("login-password").fill(password)
    page.get_by_test_id("login-submit").click()
    expect(page.get_by_test_id("live-dot")).to_have_attribute("data-state", "live")


def picture(page: Page, name: str) -> None:
    if os.environ.get("LINLI_PICTURES"):
        page.screenshot(path=ROOT / "docs" / name)


def accessible(page: Page) -> None:
    found = Axe().run(page)  # pyright: ignore[reportUnknownMemberType] (it has no types)
    assert found.violations_count == 0, found.generate_report()


def test_lamp_fails_live_and_its_alert_is_acknowledged(
    browser: Browser, city: City, lamp: Lamp, url: str
) -> None:
    password = password_of(city, "manager", "property", "c01")
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="zh-CN")
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    log_in(page, "manager", password)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    # 24 hours of past are on the screen: classes, last night's lighting with its verdict.
    for kind in ("lamp", "bin", "gate", "alarm"):
        expect(page.get_by_test_id(f"tile-{kind}-total")).not_to_have_text("0")
    expect(page.get_by_test_id("lighting-value")).to_be_visible()
    expect(page.get_by_test_id("lighting-tile").get_by_test_id("verdict")).to_be_visible()
    accessible(page)
    picture(page, "console-overview.zh-CN.png")
    seen_lit = f"""
        SELECT count(*) FROM device_state AS s JOIN device AS d ON d.id = s.device_id
        WHERE d.device = '{LAMP}' AND s.lit
        """
    until(lambda: city.count(seen_lit) == 1, "the lamp is seen lit")

    lamp.shine(False)

    row = page.locator('[data-testid="alert-row"][data-rule="lamp.dark"]', has_text="地下通道灯")
    page.locator('nav a[href^="/alerts"]').first.click()
    page.mouse.move(5, 500)  # rows stand still under the pointer
    expect(row).to_have_attribute("data-acknowledged", "false", timeout=15_000)
    accessible(page)
    picture(page, "console-alerts.zh-CN.png")
    row.get_by_test_id("ack-button").click()
    page.get_by_test_id("ack-note").fill("已通知电工")
    page.get_by_test_id("ack-confirm").click()
    expect(row).to_have_count(0)
    noted = "SELECT count(*) FROM alert WHERE acknowledged AND note = '已通知电工'"
    until(lambda: city.count(noted) == 1, "the acknowledgement is stored")

    # The same in English, for whoever reads English.
    page.goto(url)
    page.get_by_test_id("language-en").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.get_by_test_id("lighting-value")).to_be_visible()
    accessible(page)
    picture(page, "console-overview.png")
    strangers = [one for one in requests if not one.startswith((url, "data:", "blob:"))]
    assert not strangers, strangers
    context.close()
