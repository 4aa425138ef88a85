# SPDX-License-Identifier: Apache-2.0
"""Puts the api together: routes, errors, limits, headers, and what lives with the process."""

import asyncio
import logging
import re
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from api import (
    alert_actions,
    alert_export,
    alerts,
    areas,
    auth,
    bins,
    case_actions,
    cases,
    chains,
    channels,
    devices,
    health,
    history,
    incidents,
    indicators,
    live,
    notifications,
    preferences,
    problems,
    registry,
    reports,
    response_plans,
    roads,
    rules,
    scorecard,
    shifts,
    states,
    stream,
    webhooks,
    windows,
)
from api.attempts import Attempts
from api.config import Config
from api.console import STATIC, Console
from api.errors import ConfigError, Problem
from api.live import Hub
from api.live_topic import Access
from api.metrics import Metrics
from api.paging import Cursors
from api.people import Passwords, new_token
from api.replica import Replica, wrote, wrote_cookie
from api.state import Clock, Pool, Services, check_schema, make_pool
from api.version import VERSION

log = logging.getLogger(__name__)

PREFIX: Final = "/api/v1"
BODY_BYTES_MAX: Final = 1024 * 1024
ADDRESS_BYTES_MAX: Final = 16 * 1024
HEADER_BYTES_MAX: Final = 32 * 1024
_PROBLEM: Final = {
    "description": "Any error, as RFC 9457 has it",
    "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
}
# The hub closes its connections meanwhile.
_STOP_S: Final = 3
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


def _utc_now() -> datetime:
    return datetime.now(UTC)


def create_app(
    config: Config,
    *,
    clock: Clock = _utc_now,
    static: Path = STATIC,
    on_failure: Callable[[], None] = lambda: None,
    devices_max: int = live.DEVICES_MAX,
) -> FastAPI:
    """Return the app; its connections open when it starts.

    Args:
        config: All settings.
        clock: The time, in UTC.
        static: Folder of the built console.
        on_failure: Called when something that lives with the process ended by an error.
        devices_max: Larger areas are streamed without their devices.

    Raises:
        ConfigError: The broker identity's files are missing or do not fit.
    """
    metrics = Metrics()
    pool = make_pool(config.database.dsn.get_secret_value())
    parts = Services(
        config=config,
        clock=clock,
        pool=pool,
        passwords=Passwords(),
        attempts=Attempts(),
        metrics=metrics,
        hub=Hub(pool, clock, metrics, _access(config), devices_max=devices_max),
        cursors=Cursors(new_token().encode()),
        replica=_replica(config, pool, metrics),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await pool.open()
        try:
            async with pool.connection() as conn:
                await check_schema(conn)
                cursor = await conn.execute("SELECT cursor_key FROM installation")
                row = await cursor.fetchone()
                assert row is not None, "the first migration makes the row"
                parts.cursors = Cursors(row[0])
            living = [asyncio.create_task(parts.hub.run(), name="hub")]
            if parts.replica is not None:
                await parts.replica.pool.open()
                living.append(asyncio.create_task(parts.replica.run(), name="replica"))
            for task in living:
                task.add_done_callback(lambda task: _report(task, on_failure))
            try:
                yield
            finally:
                for task in living:
                    task.cancel()
                await asyncio.wait(living, timeout=_STOP_S)
        finally:
            if parts.replica is not None:
                await parts.replica.pool.close()
            await pool.close()

    app = App(
        title="Linli",
        version=VERSION,
        summary="Devices, indicators and alerts of residential communities",
        lifespan=lifespan,
        # The document and the page about it are routes of ours, the page without any network.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=BODY_BYTES_MAX,
        generate_unique_id_function=_operation_id,
        # FastAPI would describe its own document for 422, which is never given.
        responses=dict.fromkeys(("default", 422), _PROBLEM),
    )
    app.cookie_name = auth.cookie_name(config)
    app.around = Envelope.around(config, metrics)
    app.state.services = parts
    problems.install(app)
    shown = (areas, states, devices, history, bins, incidents, indicators, roads, reports)
    # Before the alerts by id: an export is none.
    desk = (alert_export, alert_actions, alerts)
    cases_desk = (cases, case_actions, response_plans, shifts)
    work = (rules, *cases_desk, windows, scorecard)
    told = (chains, channels, preferences, webhooks, notifications)
    for module in (auth, *shown, *desk, *work, *told, registry, stream):
        app.include_router(module.router, prefix=PREFIX)
    app.include_router(_description(app), prefix=PREFIX)
    app.include_router(health.router)
    app.router.default = Console(static, app.router.default)
    return app


def _replica(config: Config, primary: Pool, metrics: Metrics) -> Replica | None:
    database = config.database
    if database.replica is None:
        return None
    dsn = database.replica.get_secret_value()
    return Replica(dsn, database.replica_lag_limit_s, primary, metrics)


def _description(app: FastAPI) -> APIRouter:
    router = APIRouter()

    @router.get("/openapi.json", include_in_schema=False)
    async def get_openapi(_: Annotated[None, Depends(auth.ANYBODY)]) -> JSONResponse:
        return JSONResponse(app.openapi())

    return router


def _operation_id(route: APIRoute) -> str:
    """Return ``listDevices`` for ``list_devices``."""
    first, *rest = route.name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _access(config: Config) -> Access:
    """Return how the api shows the broker who it is.

    Raises:
        ConfigError: A file is missing, unreadable or does not fit; named.
    """
    certificate = config.api.certificates / f"{config.api.identity}.crt"
    key = config.api.certificates / f"{config.api.identity}.key"
    missing = [file for file in (config.broker.ca, certificate, key) if not file.is_file()]
    if missing:
        raise ConfigError([f"{file}: no such file" for file in missing])
    try:
        context = ssl.create_default_context(cafile=config.broker.ca)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(f"{config.broker.ca}: holds no certificate in PEM form") from exc
    try:
        # Asked for a password, OpenSSL would wait for one at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError) as exc:
        if isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
            problem = f"{key}: is the key of another certificate than {certificate}"
        else:
            problem = f"{certificate}, {key}: no certificate and its unencrypted key in PEM form"
        raise ConfigError(problem) from exc
    return Access(config.broker, config.api.identity, context)


def _report(task: "asyncio.Task[None]", on_failure: Callable[[], None]) -> None:
    if task.cancelled():
        return
    log.critical("%s ended", task.get_name(), exc_info=task.exception())
    on_failure()


def _too_much(scope: Scope, headers: Headers) -> str | None:
    """Return the code of the limit that a request is over, None if it is within all."""
    length = headers.get("content-length", "")
    is_import = scope["path"] == f"{PREFIX}/registry/import"
    length_max = registry.BODY_BYTES_MAX if is_import else BODY_BYTES_MAX
    if length.isascii() and length.isdigit() and int(length[:20]) > length_max:
        return "body.too_large"
    if len(scope["raw_path"]) + len(scope["query_string"]) > ADDRESS_BYTES_MAX:
        return "address.too_long"
    if sum(len(name) + len(value) for name, value in headers.raw) > HEADER_BYTES_MAX:
        return "headers.too_large"
    return None


class App(FastAPI):
    """FastAPI with something around all of it, its own answers to our errors included."""

    around: Callable[[ASGIApp], ASGIApp]
    cookie_name: str

    def build_middleware_stack(self) -> ASGIApp:
        """Return the whole app, wrapped."""
        return self.around(super().build_middleware_stack())

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document; Any: it is JSON."""
        document = super().openapi()
        problem = problems.ProblemDocument.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        document["components"]["schemas"] |= problem.pop("$defs")
        document["components"]["schemas"]["ProblemDocument"] = problem
        document["components"]["securitySchemes"] = {
            "session": {"type": "apiKey", "in": "cookie", "name": self.cookie_name},
            "token": {"type": "http", "scheme": "bearer"},
        }
        document["security"] = [{"session": []}, {"token": []}]
        return document


class Envelope:
    """What every request and answer gets: an id, a limit, safe headers, a place in the figures."""

    def __init__(self, app: ASGIApp, config: Config, metrics: Metrics) -> None:
        """Wrap ``app``."""
        self._app = app
        self._metrics = metrics
        self._headers = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        }
        if config.api.secure:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"
        self._wrote_cookie = wrote_cookie(config)

    @classmethod
    def around(cls, config: Config, metrics: Metrics) -> Callable[[ASGIApp], ASGIApp]:
        """Return what wraps an app."""
        return lambda app: cls(app, config, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid7())
        scope["linli.request_id"] = request_id
        started_s = time.perf_counter()

        async def send_dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                self._dress(headers, request_id, scope["path"])
                if self._wrote_cookie and wrote(scope["method"], message["status"]):
                    headers.append("Set-Cookie", self._wrote_cookie)
                self._count(scope, message["status"], time.perf_counter() - started_s)
            await send(message)

        too_much = _too_much(scope, headers)
        if too_much is not None:
            refusal = problems.answer(Request(scope), Problem(too_much))
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, send_dressed)
            return
        await self._app(scope, receive, send_dressed)

    def _dress(self, headers: MutableHeaders, request_id: str, path: str) -> None:
        headers["X-Request-Id"] = request_id
        for name, value in self._headers.items():
            headers.setdefault(name, value)
        if path.startswith("/api/"):
            headers.setdefault("Cache-Control", "no-store")

    def _count(self, scope: Scope, status: int, duration_s: float) -> None:
        # By operation, never by path: a path holds ids.
        route: object = scope.get("route")
        operation = _operation_id(route) if isinstance(route, APIRoute) else "other"
        self._metrics.requests.labels(operation, str(status)).inc()
        self._metrics.request_duration.labels(operation).observe(duration_s)
