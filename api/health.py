# SPDX-License-Identifier: Apache-2.0
"""Whether the api lives, whether it can do its work, and its figures. No log-in needed."""

from dataclasses import asdict
from typing import Annotated, Literal

import psycopg
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from psycopg_pool import PoolTimeout
from pydantic import Field

from api.answers import Answer
from api.auth import OPEN, FromAddress, Public
from api.errors import Problem, SchemaError
from api.replica import Status
from api.state import check_schema, services

router = APIRouter(tags=["operation"])

Check = Literal["ok", "failed"]


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReplicaHealth(Answer):
    """The replica for reads: unless it is ``ok``, the primary serves them all.

    ``away``: it does not answer. ``lagging``: it is further behind than allowed. ``schema``: it has
    not received the latest migration. ``foreign``: it is no standby of this primary. ``unknown``:
    the primary was not there to be compared with.
    """

    status: Status
    lag_s: float | None = Field(description="all that was committed so long ago is there")
    lag_bytes: int | None


class Ready(Answer):
    """What the api needs is there; it is ready without its replica."""

    status: Literal["ok"] = "ok"
    checks: dict[str, Check]
    replica: ReplicaHealth | None = Field(description="null: none is configured")


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
    replica = None if parts.replica is None else ReplicaHealth(**asdict(parts.replica.health))
    if "failed" in checks.values():
        told = {"checks": checks, "replica": None if replica is None else replica.model_dump()}
        raise Problem("unavailable", extra=told, headers={"Retry-After": "5"})
    return Ready(checks=checks, replica=replica)


@router.get("/metrics", response_class=Response, include_in_schema=False)
async def get_metrics(request: Request, _: Annotated[None, Depends(FromAddress())]) -> Response:
    """Return the figures of this process for Prometheus."""
    return Response(services(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)
