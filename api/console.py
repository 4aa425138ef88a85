# SPDX-License-Identifier: Apache-2.0
"""Serves the built console, and a page saying how to build it where it is not.

Files come from ``static/`` and nowhere else. Hashed files under ``assets/`` may be kept for ever,
pages never. A path of the console's own router (no file extension, asked for by a browser) gets
the console's page; below ``/api`` nothing does.
"""

from pathlib import Path
from typing import Final

from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC: Final = Path(__file__).with_name("static")

_POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
    " object-src 'none'"
)
# The bundled documentation draws its icons from addresses inside its own style sheet.
_DOCS_POLICY: Final = f"{_POLICY}; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
_FOR_EVER: Final = "public, max-age=31536000, immutable"

_MISSING_PAGE: Final = """<!doctype html>
<html lang="zh-CN">
<meta charset="utf-8">
<title>Linli</title>
<h1>控制台尚未构建</h1>
<p>在 <code>api/web</code> 中运行 <code>npm ci &amp;&amp; npm run build</code>，然后重新载入此页。
REST 接口不受影响：<a href="/api/v1/openapi.json">/api/v1/openapi.json</a>。</p>
<h1 lang="en">The console is not built yet</h1>
<p lang="en">Run <code>npm ci &amp;&amp; npm run build</code> in <code>api/web</code>, then load
this page again. REST works regardless:
<a href="/api/v1/openapi.json">/api/v1/openapi.json</a>.</p>
</html>
"""


class Console:
    """Answers what no route of the api answered."""

    def __init__(self, static: Path, otherwise: ASGIApp) -> None:
        """Serve ``static``; ``otherwise`` refuses the rest."""
        self._static = static.resolve()
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or _is_api(scope["path"]):
            await self._otherwise(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        response = self._respond(scope["path"], Headers(scope=scope).get("accept", ""))
        await response(scope, receive, send)

    def _respond(self, path: str, accept: str) -> Response:
        is_page = "." not in path.rpartition("/")[2]
        if path == "/docs":
            return RedirectResponse("/docs/", status_code=308)
        page = {"/": "index.html", "/docs/": "docs/index.html"}.get(path)
        file = self._find(page or path.lstrip("/"))
        if file is None and is_page and page is None and "text/html" in accept:
            page, file = "index.html", self._find("index.html")
        if file is None:
            if page is None:
                raise HTTPException(404)
            # The console may be built while the api runs.
            return HTMLResponse(_MISSING_PAGE, headers=_page_headers(path))
        if file.suffix == ".html":
            return FileResponse(file, headers=_page_headers(path))
        lasting = path.startswith("/assets/")
        return FileResponse(file, headers={"Cache-Control": _FOR_EVER if lasting else "no-cache"})

    def _find(self, name: str) -> Path | None:
        """Return the file of that name, None for anything that is none or lies elsewhere."""
        if "\x00" in name or any(part.startswith(".") for part in name.split("/")):
            return None
        try:
            file = (self._static / name).resolve()
            return file if file.is_relative_to(self._static) and file.is_file() else None
        except OSError:  # a name too long for any file
            return None


def _is_api(path: str) -> bool:
    return path == "/api" or path.startswith("/api/")


def _page_headers(path: str) -> dict[str, str]:
    policy = _DOCS_POLICY if path.startswith("/docs") else _POLICY
    return {"Cache-Control": "no-cache", "Content-Security-Policy": policy}
