# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser over a real city: a lamp fails live, its alert is acknowledged.

The month's indicators are read there, too, each with its verdict and its definition.

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
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from deploy.faults.city import City
from deploy.installation import ROOT, environment, module
from deploy.services import HOST, Process
from ingest.gateways import add_gateway
from ingest.registry import import_files
from tests.services import Broker, until

pytestmark = pytest.mark.timeout(420)

CHROMIUM = "/usr/bin/chromium"
GATEWAY = "gw-underpass"
LAMP = "c01-lamp-900"
TABLE = "**/api/v1/areas/*/indicators?*"
# Browser, agents, ingest and database share the cores of one machine.
PATIENCE_S = 45


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_S * 1_000)
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
    rules = {
        "lamp.dark": {"on_delay_s": 0},
        # Without a delay a whole street is dark where the past is told of the seconds before it was
        # switched on; and the scenario is a busy one. A flood would fold the alert looked for.
        "alerts.flood": {"enabled": False},
    }
    made = City(database, own_broker, tmp_path, history_hours=24, rules=rules)
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
            "owner": "街道办",
            "road": "滨河路",
            "installed_on": "2025-02-03",
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


def month_with_numbers(city: City) -> str:
    """Wait until a day's equipment is computed; return its month, as areas count days."""
    computed = """
        SELECT coalesce(max(to_char(day, 'YYYY-MM')), '') FROM area_day
        WHERE indicator = 'equipment-good' AND kind = '' AND good > 0
        """
    # What is marked while a backlog arrives is computed every 30 s, not each time.
    until(lambda: city.texts(computed) != [""], "a day is computed", timeout_s=120)
    return city.texts(computed)[0]


def open_definition(page: Page, month: str, indicator: str) -> Locator:
    """Go from anywhere to an indicator's definition, as a person does; return the dialog."""
    page.locator('nav a[href^="/indicators"]').first.click()
    page.get_by_test_id("month").select_option(month)
    row = page.locator(f'[data-testid="indicator-row"][data-indicator="{indicator}"]')
    expect(row.get_by_test_id("indicator-value")).to_contain_text("%")
    expect(row.get_by_test_id("bounds-bar")).to_be_visible()
    expect(row.get_by_test_id("verdict")).to_be_visible()
    accessible(page)
    row.get_by_test_id("indicator-open").click()
    dialog = page.get_by_test_id("indicator-dialog")
    expect(dialog.get_by_test_id("indicator-formula")).to_contain_text("=")
    expect(dialog.get_by_test_id("day-chart")).to_be_visible()
    expect(dialog.get_by_test_id("indicator-children").locator("tbody tr")).not_to_have_count(0)
    accessible(page)
    return dialog


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
    page.get_by_test_id("lighting-definition").click()
    definition = page.get_by_test_id("definition")
    expect(definition.locator("tbody tr")).not_to_have_count(0)
    expect(definition).to_contain_text("97 %")
    page.keyboard.press("Escape")
    # What the registry says of one thing; and of things that do not count yet.
    page.get_by_test_id("tile-lamp").locator(".tile-more").click()
    listed = page.get_by_test_id("device-list")
    lives = listed.get_by_test_id("life")
    lives.select_option("retired")
    expect(listed.get_by_test_id("device-row")).to_have_count(0)
    lives.select_option("in_service")
    listed.locator(f'[data-device="{LAMP}"]').get_by_role("button").click()
    facility = page.get_by_test_id("facility")
    for text in ("在用", "街道办", "滨河路", "2025-02-03", "always", "60 W"):
        expect(facility).to_contain_text(text)
    expect(facility).not_to_contain_text("质保期")
    accessible(page)
    page.keyboard.press("Escape")
    expect(facility).to_have_count(0)
    page.keyboard.press("Escape")
    expect(listed).to_have_count(0)
    seen_lit = f"""
        SELECT count(*) FROM device_state AS s JOIN device AS d ON d.id = s.device_id
        WHERE d.device = '{LAMP}' AND s.lit
        """
    until(lambda: city.count(seen_lit) == 1, "the lamp is seen lit", timeout_s=PATIENCE_S)

    lamp.shine(False)

    row = page.locator('[data-testid="alert-row"][data-rule="lamp.dark"]', has_text="地下通道灯")
    page.locator('nav a[href^="/alerts"]').first.click()
    page.mouse.move(5, 500)  # rows stand still under the pointer
    expect(row).to_have_attribute("data-acknowledged", "false")
    accessible(page)
    picture(page, "console-alerts.zh-CN.png")
    row.get_by_test_id("ack-button").click()
    page.get_by_test_id("ack-note").fill("已通知电工")
    page.get_by_test_id("ack-confirm").click()
    expect(row).to_have_count(0)
    noted = "SELECT count(*) FROM alert WHERE acknowledged AND note = '已通知电工'"
    until(lambda: city.count(noted) == 1, "the acknowledgement is stored", timeout_s=PATIENCE_S)

    # The month in numbers: what is proved, how sure that is, and what it means.
    month = month_with_numbers(city)
    dialog = open_definition(page, month, "equipment-good")
    expect(dialog).to_contain_text("设备完好率")
    expect(dialog).to_contain_text("R0")
    for kind in ("路灯", "垃圾桶", "门禁", "报警器"):
        expect(dialog.get_by_role("rowheader", name=kind, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    row = page.locator('[data-testid="indicator-row"][data-indicator="equipment-good"]')
    expect(row.get_by_test_id("indicator-open")).to_be_focused()
    # Nobody said who is satisfied: that is no 0 %.
    row = page.locator('[data-testid="indicator-row"][data-indicator="satisfaction"]')
    expect(row.get_by_test_id("indicator-missing")).to_have_text("无数据")
    report = f"/api/v1/areas/c01/reports/{month}.pdf?language=zh-CN"
    expect(page.get_by_test_id("report-pdf")).to_have_attribute("href", report)
    # A month before there was anything, and an answer that does not come.
    page.get_by_test_id("month").select_option(index=11)
    good = page.locator('[data-testid="indicator-row"][data-indicator="equipment-good"]')
    expect(good.get_by_test_id("indicator-missing")).to_have_text("无数据")
    # People lived there, and nobody confirmed a case: that is a number.
    rate = page.locator('[data-testid="indicator-row"][data-indicator="incident-rate"]')
    expect(rate.get_by_test_id("indicator-missing")).to_have_count(0)
    accessible(page)
    page.route(TABLE, lambda route: route.abort())
    page.get_by_test_id("month").select_option(month)
    expect(page.get_by_test_id("state-error")).to_be_visible()
    accessible(page)
    page.unroute(TABLE)
    page.get_by_test_id("state-error").get_by_role("button").click()
    expect(row).to_be_visible()

    # The same in English, for whoever reads English.
    page.goto(url)
    page.get_by_test_id("language-en").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.get_by_test_id("lighting-value")).to_be_visible()
    accessible(page)
    picture(page, "console-overview.png")
    dialog = open_definition(page, month, "lighting-uptime")
    expect(dialog).to_contain_text("Lighting uptime")
    # On a telephone nothing is cut off.
    page.set_viewport_size({"width": 390, "height": 844})
    accessible(page)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    accessible(page)
    page_width = page.evaluate("document.documentElement.scrollWidth")
    assert page_width == 390, f"the page is {page_width} px wide"
    strangers = [one for one in requests if not one.startswith((url, "data:", "blob:"))]
    assert not strangers, strangers
    context.close()
