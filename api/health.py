# SPDX-License-Identifier: Apache-2.0
"""Whether the api lives, whether it can do its work, and its figures. No log-in needed."""

from typing import Annotated, Literal

import psycopg
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from psycopg_pool import PoolTimeout

from api.answers import Answer
from api.auth import OPEN, FromAddress, Public
from api.errors import Problem, SchemaError
from api.state import check_schema, services

router = APIRouter(tags=["operation"])

Check = Literal["ok", "failed"]


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(Answer):
    """What the api needs is there."""

    status: Literal["ok"] = "ok"
    checks: dict[str, Check]


@router.get("/livez", dependencies=[Depends(Public())], openapi_extra=OPEN)
async def get_livez() -> Alive:
    """Say that the process lives; asks nobody else."""
    return Alive()


@router.get("/readyz", dependencies=[Depends(Public())], openapi_extra=OPEN)
async def get_readyz(request: Request) -> Ready:
    """Say whether database, schema and broker are there; 503 names what is not."""
    parts = services(request)
    checks: dict[str, Check] = {
        "database": "failed",
        "schema": "failed",
        "broker": "ok" if parts.hub.is_connected else "failed",
    }
    try:
        async with parts.pool.connection(timeout=2) as conn:
            await conn.execute("SELECT 1")
            checks["database"] = "ok"
            await check_schema(conn)
            checks["schema"] = "ok"
    except (psycopg.OperationalError, PoolTimeout, SchemaError):
        pass  # the checks say it
    if "failed" in checks.values():
        raise Problem("unavailable", extra={"checks": checks}, headers={"Retry-After": "5"})
    return Ready(checks=checks)


@router.get("/metrics", response_class=Response, include_in_schema=False)
async def get_metrics(request: Request, _: Annotated[None, Depends(FromAddress())]) -> Response:
    """Return the figures of this process for Prometheus."""
    return Response(services(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)
