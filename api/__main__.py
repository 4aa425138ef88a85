# SPDX-License-Identifier: Apache-2.0
"""``linli-api``: serve; add people and service tokens."""

import asyncio
import logging
import os
import re
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import psycopg
import typer
import uvicorn

from api import people
from api.app import create_app
from api.config import Config, load
from api.errors import CommandError, ConfigError, OperatorError, SchemaError
from api.scope import ROLES, Role
from api.server import SHUTDOWN_TIMEOUT_S, Protocol, Server
from api.state import Connection, check_schema

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,39}")

cli = typer.Typer(
    help="The Linli API: HTTP, live stream and console.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
person = typer.Typer(help="People who log in.", no_args_is_help=True)
token = typer.Typer(help="Tokens of services.", no_args_is_help=True)
cli.add_typer(person, name="person")
cli.add_typer(token, name="token")

ConfigFile = Annotated[
    Path, typer.Option("--config", envvar="LINLI_CONFIG", help="The servers' linli.toml.")
]
# As `linli-ingest` has it: one file for both.
DEFAULT_CONFIG = Path("linli.toml")
Name = Annotated[str, typer.Argument(help="Lower-case letters, digits, '.', '_', '-'.")]
RoleName = Annotated[str, typer.Option("--role", help=f"One of {', '.join(ROLES)}.")]
AreaName = Annotated[
    str, typer.Option("--area", help="Id of the area they may see, with all in it.")
]
ResultT = TypeVar("ResultT")


@cli.command()
def serve(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Serve until told to stop."""
    settings = _settings(config)
    failed = False

    def fail() -> None:
        nonlocal failed
        failed = True
        server.stop()

    try:
        app = create_app(settings, on_failure=fail)
        _run(settings, _nothing)
    except OperatorError as exc:
        raise _exit(exc) from None
    server = Server(
        uvicorn.Config(
            app,
            host=settings.api.host,
            port=settings.api.port,
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=bool(settings.api.trusted_proxies),
            forwarded_allow_ips=list(settings.api.trusted_proxies),
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            timeout_keep_alive=30,
            limit_concurrency=2_000,
        ),
        app.state.services.hub.close,
    )
    log.info("serving at %s", settings.api.public_url)
    server.run()
    if failed or not server.started:
        raise typer.Exit(1)


@person.command("add")
def add_person(
    name: Name,
    role: RoleName,
    area: AreaName,
    config: ConfigFile = DEFAULT_CONFIG,
    password_file: Annotated[
        str | None,
        typer.Option(help="File with the password, '-' for standard input; else one is made."),
    ] = None,
) -> None:
    """Add a person; a password that was made is printed, once."""
    settings = _settings(config)
    try:
        _check_name(name)
        known_role = _role(role)
        given = None if password_file is None else _read_password(password_file)
        password = given or secrets.token_urlsafe(12)

        async def add(conn: Connection) -> None:
            await _check_area(conn, area)
            stored = await people.Passwords().hash(password)
            if not await people.add_person(conn, name, stored, known_role, area):
                raise CommandError(f"{name}: there is such a person or token already")

        _run(settings, add)
    except OperatorError as exc:
        raise _exit(exc) from None
    if given is None:
        typer.echo(password)


@token.command("add")
def add_token(
    name: Name, role: RoleName, area: AreaName, config: ConfigFile = DEFAULT_CONFIG
) -> None:
    """Add a service and print its token, once."""
    settings = _settings(config)
    secret = people.new_token()
    try:
        _check_name(name)
        known_role = _role(role)

        async def add(conn: Connection) -> None:
            await _check_area(conn, area)
            if not await people.add_token(conn, name, secret, known_role, area):
                raise CommandError(f"{name}: there is such a person or token already")

        _run(settings, add)
    except OperatorError as exc:
        raise _exit(exc) from None
    typer.echo(secret)


def _settings(path: Path) -> Config:
    logging.basicConfig(
        level=os.environ.get("LINLI_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        return load(path, os.environ)
    except ConfigError as exc:
        raise _exit(exc) from None


def _exit(error: OperatorError) -> typer.Exit:
    for problem in error.problems:
        typer.echo(problem, err=True)
    return typer.Exit(error.exit_code)


def _run(settings: Config, work: Callable[[Connection], Awaitable[ResultT]]) -> ResultT:
    """Do some work in one transaction.

    Raises:
        OperatorError: The database is not there, or not what this code needs.
    """

    async def run() -> ResultT:
        async with await psycopg.AsyncConnection.connect(
            settings.database.dsn.get_secret_value(),
            connect_timeout=10,
            application_name="linli-api command",
        ) as conn:
            await check_schema(conn)
            return await work(conn)

    try:
        return asyncio.run(run())
    except psycopg.OperationalError as exc:
        reason = str(exc).strip().partition("\n")[0]
        raise SchemaError(f"database: cannot be reached: {reason}") from exc


async def _nothing(_: Connection) -> None:
    """Only the checks are wanted."""


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CommandError(
            f"{name!r}: a name has 2 to 40 lower-case letters, digits, '.', '_' or '-'"
        )
    if name in people.RESERVED_NAMES:
        raise CommandError(f"{name}: this name is reserved")


def _role(role: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise CommandError(f"--role {role}: there are {', '.join(ROLES)}")


async def _check_area(conn: Connection, area: str) -> None:
    if not await people.area_exists(conn, area):
        raise CommandError(f"--area {area}: there is no such area")


def _read_password(source: str) -> str:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandError(f"--password-file {source}: cannot read: {exc}") from exc
    password = text.removesuffix("\n").removesuffix("\r")
    low, high = people.PASSWORD_LENGTH_MIN, people.PASSWORD_LENGTH_MAX
    if not low <= len(password) <= high:
        raise CommandError(f"--password-file {source}: a password has {low} to {high} characters")
    return password


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
