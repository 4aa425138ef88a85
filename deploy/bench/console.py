# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser over a community of thousands: what a person waits for.

Devices are registered and have their latest states in the tables; what changes is told on the live
topic, in the form in which ingest tells it, and the api is the real one. Beside it, in turns, the
same page of a community with a hundred devices, and for frames an empty page of the same server.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import httpx2
import psycopg
from paho.mqtt.client import Client

from deploy.bench.reads import version_of
from deploy.bench.report import Measured
from deploy.bench.stage import Stage, built, live_client
from deploy.bench.town import Town
from deploy.faults.ground import in_memory
from deploy.installation import environment, module
from deploy.services import HOST, ServiceError
from edge_agent import topics
from simulators.messages import community_of

if TYPE_CHECKING:  # only who measures a browser needs the packages that drive one
    from playwright.sync_api import Browser, CDPSession, Page, StorageState

#: From the guide: thousands are painted within two seconds, a batch within a frame.
PICTURE_MS: Final = 2_000.0
BATCH_MS: Final = 16.0
SCRIPT_KB: Final = 100.0
CHUNK_KB: Final = 40.0
CHANGES_PER_S: Final = 100
#: While memory is watched: ten minutes' changes in one.
_HURRIED: Final = 10
FEW: Final = 100
_CHROMIUM: Final = Path("/usr/bin/chromium")
_FLAGS: Final = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
_PATIENCE_MS: Final = 30_000
_FRAME_MS: Final = 1_000 / 60
_TELLS_PER_S: Final = 10

_WATCH: Final = """
(() => {
  const bench = (window.bench = { tasks: [], deltas: 0 });
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) bench.tasks.push([one.startTime, one.duration]);
  }).observe({ type: 'longtask', buffered: true });
  const Native = window.EventSource;
  window.EventSource = class extends Native {
    constructor(url) {
      super(url);
      this.addEventListener('delta', () => { bench.deltas += 1; });
    }
  };
  let paint;
  bench.picture = new Promise((done) => { paint = done; });
  const look = () => {
    const live = document.querySelector('[data-testid="live-dot"][data-state="live"]');
    const total = document.querySelector('[data-testid="tile-lamp-total"]');
    const there = live && total && /[1-9]/.test(total.textContent);
    // What this frame holds is painted when the next one begins.
    requestAnimationFrame(there ? () => paint(performance.now()) : look);
  };
  requestAnimationFrame(look);
})();
"""
_FRAMES: Final = """
(ms) => new Promise((done) => {
  const began = performance.now();
  let frames = 0;
  const step = (now) => {
    frames += 1;
    if (now - began < ms) requestAnimationFrame(step);
    else done({ began, frames, ms: now - began });
  };
  requestAnimationFrame(step);
})
"""
_SWITCH: Final = """
(language) => new Promise((done) => {
  const began = performance.now();
  document.querySelector(`[data-testid="language-${language}"]`).click();
  const look = () => {
    if (document.documentElement.lang !== language) requestAnimationFrame(look);
    else requestAnimationFrame(() => done(performance.now() - began));
  };
  look();
})
"""


def steps(rounds: int) -> int:
    """Return how often `measure` tells how far it is."""
    return 2 + 2 * rounds + 2


@dataclass(slots=True)
class Found:
    """What pages of one community came to, page by page."""

    picture: list[float] = field(default_factory=list[float])
    answers: list[float] = field(default_factory=list[float])
    lost: list[float] = field(default_factory=list[float])
    batch: list[float] = field(default_factory=list[float])
    longest: list[float] = field(default_factory=list[float])
    wrong: list[str] = field(default_factory=list[str])


def measure(
    devices: int, seconds: float, changes: int, rounds: int, tell: Callable[[str], None]
) -> tuple[list[Measured], str]:
    """Measure pages in turns.

    Args:
        devices: Of the community that is looked at.
        seconds: For which frames are counted, all rounds together.
        changes: Told while memory is watched.
        rounds: Pages opened of each community.
        tell: Told each step.

    Raises:
        ServiceError: There is no browser, or no console.
    """
    if not _CHROMIUM.exists():
        raise ServiceError("chromium is missing: apt-get install chromium")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=in_memory())))
        tell("servers, registry, api")
        stage = stack.enter_context(built(folder, Town(2, FEW), {}))
        _fill(stage, devices)
        stage.start_api()
        stage.await_api()
        tell("a browser")
        people = {area: _person(stage, area) for area in (community_of(1), community_of(2))}
        browser = stack.enter_context(_browser())
        client = stack.enter_context(live_client(stage))
        looking = Looking(stage, browser, client, people, 1_000 * seconds / rounds)
        many, few, empty = Found(), Found(), Found()
        for turn in range(1, rounds + 1):
            tell(f"round {turn}: {devices:,} devices")
            looking.look(community_of(1), devices, many)
            tell(f"round {turn}: {FEW} devices, and none")
            looking.look(community_of(2), FEW, few)
            looking.empty(empty)
        tell("memory")
        heap = looking.memory(community_of(1), devices, changes, many)
        tell("languages, files")
        switched = looking.languages(community_of(1))
        files = _files(stage, looking.scripts)
        return _measured(devices, many, few, empty, heap, switched, files), version_of(stage.dsn)


def _measured(
    devices: int,
    many: Found,
    few: Found,
    empty: Found,
    heap: tuple[float, float],
    switched: Sequence[Sequence[float]],
    files: tuple[float, float, float],
) -> list[Measured]:
    count, wrong = f"{devices:,} devices", many.wrong[:5] + few.wrong[:5]
    lost = f"frames lost while {CHANGES_PER_S} changes/s arrive"
    return [
        Measured(f"first live picture of {count}", "ms", many.picture, PICTURE_MS, wrong),
        Measured(f"baseline: first live picture of {FEW} devices", "ms", few.picture),
        Measured(f"first live picture, {count} / {FEW}", "",
                 [a / b for a, b in zip(many.picture, few.picture, strict=True)]),
        Measured(f"picture of {count}, and no long task any more", "ms", many.answers),
        Measured("script that the page itself names, gzip", "kB", [files[0]], SCRIPT_KB),
        Measured("largest script loaded later, gzip", "kB", [files[1]], CHUNK_KB),
        Measured("all script of the first picture, as it is sent", "kB", [files[2]]),
        Measured(f"main thread, a second's batch, {count}", "ms", many.batch, BATCH_MS, wrong),
        Measured(f"baseline: main thread, a second's batch, {FEW} devices", "ms", few.batch),
        Measured(f"longest task over 50 ms, {count}", "ms", many.longest),
        Measured(f"{lost}, {count}", "%", many.lost),
        Measured(f"baseline: {lost}, {FEW} devices", "%", few.lost),
        Measured(f"baseline: {lost}, empty page", "%", empty.lost),
        Measured("script heap at first", "MB", [heap[0]]),
        Measured("script heap after the changes", "MB", [heap[1]]),
        Measured("script heap, after / at first", "", [heap[1] / heap[0]]),
        Measured("another language, for the first time", "ms", switched[0]),
        Measured("another language, again", "ms", switched[1]),
    ]  # fmt: skip


# -- what is looked at ----------------------------------------------------------------------------


def _fill(stage: Stage, devices: int) -> None:
    """Give the first community lamps beside what it has, and every device a state."""
    first = community_of(1)
    with psycopg.connect(stage.dsn, autocommit=True) as conn:
        conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area, name, reporting_period_s,
                                in_service_from)
            SELECT %(first)s || '-lamp-' || lpad(n::text, 5, '0'), 'lamp', 'gw-' || %(first)s,
                   %(first)s, %(first)s, '路灯 ' || n, 30, now() - INTERVAL '30 days'
            FROM generate_series(1, %(count)s) AS n
            """,
            {"first": first, "count": devices - FEW},
        )
        conn.execute(
            """
            INSERT INTO device_state (device_id, at, received_at, since, silent, fault, lit, lit_at,
                                      reading)
            SELECT id, now(), now(), now(), false, CASE WHEN id % 50 = 3 THEN 'lamp_failure' END,
                   CASE kind WHEN 'lamp' THEN true END, CASE kind WHEN 'lamp' THEN now() END,
                   CASE kind WHEN 'lamp' THEN '{"lit": true, "power_w": 41.5}' ELSE '{}' END::jsonb
            FROM device
            ON CONFLICT (device_id) DO NOTHING
            """
        )
        conn.execute("VACUUM ANALYZE")


def _person(stage: Stage, area: str) -> str:
    """Make somebody who sees one community; return the password."""
    done = subprocess.run(  # noqa: S603 - our own module
        [*module("api"), "person", "add", f"manager-{area}", "--role", "property", "--area", area,
         "--config", str(stage.folder / "linli.toml")],
        env=dict(environment()), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()[-1]


@contextmanager
def _browser() -> Generator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Looking:
    """Pages opened by people who have logged in before, each with an empty cache."""

    def __init__(
        self,
        stage: Stage,
        browser: Browser,
        client: Client,
        people: dict[str, str],
        frames_ms: float,
    ) -> None:
        self._url = f"http://{HOST}:{stage.api_port}"
        self._stage = stage
        self._browser = browser
        self._client = client
        self._frames_ms = frames_ms
        self._sessions = {area: self._log_in(area, word) for area, word in people.items()}
        self._devices = {area: self._devices_of(area) for area in people}
        self.scripts: list[str] = []

    def _log_in(self, area: str, password: str) -> StorageState:
        context = self._browser.new_context()
        page = context.new_page()
        page.goto(self._url)
        page.get_by_test_id("login-username").fill(f"manager-{area}")
        page.get_by_test_id("login-password").fill(password)
        page.get_by_test_id("login-submit").click()
        page.locator('[data-testid="live-dot"][data-state="live"]').wait_for(timeout=_PATIENCE_MS)
        state = context.storage_state()
        context.close()
        return state

    def _devices_of(self, area: str) -> list[tuple[str, str]]:
        with psycopg.connect(self._stage.dsn) as conn:
            return conn.execute(
                "SELECT device, kind FROM device WHERE community = %s ORDER BY id", (area,)
            ).fetchall()

    @contextmanager
    def _page(self, area: str, path: str = "/") -> Generator[Page]:
        context = self._browser.new_context(
            storage_state=self._sessions[area], viewport={"width": 1440, "height": 900},
            locale="zh-CN",
        )  # fmt: skip
        context.set_default_timeout(_PATIENCE_MS)
        context.add_init_script(_WATCH)
        page = context.new_page()
        page.goto(self._url + path)
        try:
            yield page
        finally:
            context.close()

    def look(self, area: str, devices: int, found: Found) -> None:
        """Open a page, see how soon it is there, then how it lives."""
        with self._page(area) as page:
            picture: float = page.evaluate("window.bench.picture")
            tasks: list[list[float]] = page.evaluate("window.bench.tasks")
            found.picture.append(picture)
            found.answers.append(max([picture, *(start + took for start, took in tasks)]))
            found.wrong += self._wrong_total(page, devices)
            if area == community_of(1):
                self.scripts = page.evaluate(
                    "performance.getEntriesByType('resource').map((one) => one.name)"
                    ".filter((one) => one.endsWith('.js'))"
                )
            session = page.context.new_cdp_session(page)
            _ask(session, "Performance.enable")
            # Frames are counted in both: what that takes is no part of a batch.
            quiet_s = self._live(page, session)[0]
            with self._telling(area, CHANGES_PER_S):
                busy_s, batches, frames = self._live(page, session)
            if batches < self._frames_ms / 2_000:
                found.wrong.append(f"{batches} batches in {self._frames_ms / 1_000:g} s")
            found.batch.append(1_000 * max(0.0, busy_s - quiet_s) / max(1, batches))
            tasks = page.evaluate("window.bench.tasks")
            found.longest.append(
                max([0.0, *(took for start, took in tasks if start >= frames["began"])])
            )
            found.lost.append(_lost(frames))

    def _live(self, page: Page, session: CDPSession) -> tuple[float, int, dict[str, float]]:
        """Return for a while of it: the main thread's work in s, batches heard, frames."""
        before = _spent_s(session), page.evaluate("window.bench.deltas")
        frames: dict[str, float] = page.evaluate(_FRAMES, self._frames_ms)
        after = _spent_s(session), page.evaluate("window.bench.deltas")
        return after[0] - before[0], after[1] - before[1], frames

    def empty(self, found: Found) -> None:
        """Count the frames of a page that shows nothing, while as much is told."""
        with self._page(community_of(1), "/favicon.svg") as page:
            with self._telling(community_of(1), CHANGES_PER_S):
                found.lost.append(_lost(page.evaluate(_FRAMES, self._frames_ms)))

    def memory(self, area: str, devices: int, changes: int, found: Found) -> tuple[float, float]:
        """Return the script heap, in MB, before and after many changes."""
        with self._page(area) as page:
            page.evaluate("window.bench.picture")
            session = page.context.new_cdp_session(page)
            first = _heap_mb(session)
            with self._telling(area, CHANGES_PER_S * _HURRIED, changes) as told:
                told.wait()
            found.wrong += self._wrong_total(page, devices)
            return first, _heap_mb(session)

    def languages(self, area: str) -> tuple[list[float], list[float]]:
        """Switch to English and back, twice; return what the first and the later ones took."""
        with self._page(area) as page:
            page.evaluate("window.bench.picture")
            took = [page.evaluate(_SWITCH, one) for one in ("en", "zh-CN", "en", "zh-CN")]
            return took[:1], took[1:]

    def _wrong_total(self, page: Page, devices: int) -> list[str]:
        texts = page.locator('[data-testid^="tile-"][data-testid$="-total"]').all_inner_texts()
        shown = sum(int(re.sub(r"\D", "", text) or 0) for text in texts)
        return [] if shown == devices else [f"{shown} devices shown, {devices} registered"]

    @contextmanager
    def _telling(
        self, area: str, per_s: float, count: int | None = None
    ) -> Generator[threading.Event]:
        """Tell of so many changes a second meanwhile; yield what is set when all are told."""
        stop, told = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=self._tell, args=(area, per_s, count, stop, told), name="teller", daemon=True
        )
        thread.start()
        try:
            yield told
        finally:
            stop.set()
            thread.join()

    def _tell(
        self,
        area: str,
        per_s: float,
        count: int | None,
        stop: threading.Event,
        told: threading.Event,
    ) -> None:
        a_message = max(1, round(per_s / _TELLS_PER_S))
        devices = itertools.cycle(self._devices[area])
        due, done = time.monotonic(), 0
        while (count is None or done < count) and not stop.wait(max(0, due - time.monotonic())):
            due += a_message / per_s
            now = datetime.now(UTC).isoformat()
            self._client.publish(
                topics.live_devices(area),
                json.dumps({
                    "v": 1,
                    "at": now,
                    "devices": [
                        _change(device, kind, now, done + n)
                        for n, (device, kind) in enumerate(itertools.islice(devices, a_message))
                    ],
                }),
                qos=topics.LIVE_QOS,
            )  # fmt: skip
            done += a_message
        told.set()


def _ask(session: CDPSession, method: str) -> dict[str, Any]:
    return cast(
        "dict[str, Any]",
        session.send(method),  # pyright: ignore[reportUnknownMemberType]
    )


def _spent_s(session: CDPSession) -> float:
    """Return how long the page's main thread has worked, in seconds."""
    metrics: list[dict[str, Any]] = _ask(session, "Performance.getMetrics")["metrics"]
    return next(one["value"] for one in metrics if one["name"] == "TaskDuration")


def _heap_mb(session: CDPSession) -> float:
    _ask(session, "HeapProfiler.collectGarbage")
    return _ask(session, "Runtime.getHeapUsage")["usedSize"] / 1e6


def _change(device: str, kind: str, at: str, number: int) -> dict[str, Any]:
    values = {"lit": True, "power_w": 40 + number % 97 / 10} if kind == "lamp" else {}
    state = "fault" if number % 50 == 0 else "normal"
    return {"device": device, "kind": kind, "state": state, "at": at, "received_at": at,
            "values": values}  # fmt: skip


def _lost(frames: dict[str, float]) -> float:
    """Return which part of the frames that were due never came, in percent."""
    return 100 * max(0.0, 1 - frames["frames"] * _FRAME_MS / frames["ms"])


def _files(stage: Stage, scripts: Sequence[str]) -> tuple[float, float, float]:
    """Return kB of script: what the page names, the largest of the others, all as it is sent."""
    url = f"http://{HOST}:{stage.api_port}"
    page = httpx2.get(url).text
    packed: dict[bool, list[float]] = {True: [], False: []}
    sent = 0
    for script in scripts:
        content = httpx2.get(script).content
        named = script.removeprefix(url) in page
        packed[named].append(len(gzip.compress(content)) / 1_000)
        sent += len(content)
    return sum(packed[True]), max([0.0, *packed[False]]), sent / 1_000
