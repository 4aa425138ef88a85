# SPDX-License-Identifier: Apache-2.0
"""The command line of ingest: ``linli-ingest``.

A mistake of the operator ends in plain sentences on standard error and exit status 2 (3 where the
database does not fit the code), a service that cannot be reached in status 1, never a traceback.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from ingest import pki
from ingest.config import Config, load
from ingest.errors import ConfigError, OperatorError, PkiError, Unavailable
from ingest.migrate import check_schema, migrate
from ingest.registry import add_gateway, add_maintenance, import_files
from ingest.registry_csv import parse_instant

# Who ingest is at the broker, and whom the api is: one connection, one identity.
SERVICES = ("ingest-telemetry-00", "ingest-event-00", "api-live-00")
OWN = SERVICES[:2]

app = typer.Typer(
    help="Takes in what gateways report, stores it once, keeps indicators and raises alerts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
registry_app = typer.Typer(help="Areas, gateways and devices.", no_args_is_help=True)
gateway_app = typer.Typer(help="Gateways and their certificates.", no_args_is_help=True)
maintenance_app = typer.Typer(help="Accepted maintenance.", no_args_is_help=True)
pki_app = typer.Typer(help="The installation's certificate authority.", no_args_is_help=True)
deadletters_app = typer.Typer(help="Messages that were refused.", no_args_is_help=True)
app.add_typer(registry_app, name="registry")
app.add_typer(gateway_app, name="gateway")
app.add_typer(maintenance_app, name="maintenance")
app.add_typer(pki_app, name="pki")
app.add_typer(deadletters_app, name="deadletters")

# How long `deadletters replay` waits for ingest to take what it asked for.
REPLAY_TIMEOUT_S = 15.0

ConfigFile = Annotated[
    Path, typer.Option("--config", envvar="LINLI_CONFIG", help="The configuration file.")
]
DEFAULT_CONFIG = Path("linli.toml")


@app.command()
def run(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the service until it is told to stop."""
    from ingest.service import run as serve

    settings = _load(config)
    problems = [
        problem
        for name in OWN
        for problem in pki.check(*settings.identity(name), settings.broker.ca, identity=name)
    ]
    if problems:
        raise PkiError(problems)
    _log_to_stderr()
    serve(settings)


@app.command("migrate")
def migrate_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Bring the database to the schema this release needs."""
    applied = migrate(_load(config).database.dsn)
    print("\n".join(f"applied {name}" for name in applied) or "nothing to do")


@registry_app.command("import")
def registry_import(
    files: Annotated[list[Path], typer.Argument(help="CSV files, in any order.")],
    dry_run: Annotated[bool, typer.Option(help="Say what would change, change nothing.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Add and update areas, gateways and devices: everything, or after one mistake nothing."""
    with _connect(_load(config)) as conn:
        report = import_files(conn, files, dry_run=dry_run)
    print("\n".join(report.lines()))


@gateway_app.command("add")
def gateway_add(
    gateway: Annotated[str, typer.Argument(help="Its id.")],
    community: Annotated[str, typer.Option(help="The community it stands in.")],
    out: Annotated[Path, typer.Option(help="Folder for its certificate and configuration.")],
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
    broker_host: Annotated[
        str, typer.Option(help="The broker as the gateway sees it; default: as configured.")
    ] = "",
    broker_port: Annotated[
        int, typer.Option(help="Its port; default: as configured.", min=0, max=65_535)
    ] = 0,
    reissue: Annotated[bool, typer.Option(help="Replace the certificate that is there.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Register a gateway; write its certificate, its key and a configuration for its agent."""
    settings = _load(config)
    if settings.pki is None:
        raise ConfigError(f"{config}: pki: missing, it names the authority that signs gateways")
    authority = pki.load_pair(settings.pki.ca_certificate, settings.pki.ca_key)
    with _connect(settings) as conn:
        written = add_gateway(
            conn,
            authority,
            gateway,
            community,
            out,
            broker_host or settings.broker.host,
            broker_port or settings.broker.port,
            name=name,
            reissue=reissue,
        )
    print("\n".join(f"wrote {file}" for file in written) or "nothing to do")


@maintenance_app.command("add")
def maintenance_add(
    device: Annotated[str, typer.Argument(help="Its id.")],
    start: Annotated[str, typer.Option("--from", help="2026-03-01T08:00+08:00")],
    end: Annotated[str, typer.Option("--to", help="The first instant after it.")],
    reason: Annotated[str, typer.Option(help="For the record.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Accept maintenance of a device: in this time it is neither due nor counted."""
    problems: list[str] = []
    during = [_instant(name, text, problems) for name, text in (("--from", start), ("--to", end))]
    if problems:
        raise ConfigError(problems)
    with _connect(_load(config)) as conn:
        nights = add_maintenance(conn, device, during[0], during[1], reason)
    print(f"accepted; {nights} nights will be counted again")


@pki_app.command("init")
def pki_init(
    out: Annotated[Path, typer.Option(help="Folder of the authority; keep it to yourself.")],
    host: Annotated[list[str], typer.Option(help="Name or address of the broker; repeatable.")],
    reissue: Annotated[
        bool, typer.Option(help="Replace all certificates but the authority's.")
    ] = False,
) -> None:
    """Make the authority, the broker's certificate and those of our own services."""
    authority = pki.create_authority(out)
    services = out / "services"
    if reissue or not (out / "server.crt").exists():
        pki.issue_server(authority, host)
        print(f"wrote {out / 'server.crt'} for {', '.join(host)}")
    for name in SERVICES:
        if reissue or not (services / f"{name}.crt").exists():
            print(f"wrote {pki.issue_client(authority, name, out=services).certificate}")


@deadletters_app.command("list")
def deadletters_list(
    gateway: Annotated[str | None, typer.Option(help="Of this gateway only.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1)] = 50,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """List what was refused, newest first."""
    with _connect(_load(config)) as conn:
        rows = conn.execute(
            """
            SELECT id, received_at, gateway, reason, stream, seq, at_index,
                   CASE WHEN replay_asked_at IS NULL THEN replay_result
                        ELSE coalesce(replay_result, 'asked') END,
                   detail
            FROM dead_letter
            WHERE %(gateway)s::text IS NULL OR gateway = %(gateway)s
            ORDER BY received_at DESC, id DESC
            LIMIT %(limit)s
            """,
            {"gateway": gateway, "limit": limit},
        ).fetchall()
    header = (
        "id",
        "received_at",
        "gateway",
        "reason",
        "stream",
        "seq",
        "index",
        "replay",
        "detail",
    )
    _print_table(header, [[_cell(value) for value in row] for row in rows])


_LETTER = (
    "received_at", "gateway", "topic", "reason", "detail", "stream", "seq", "index", "sha256",
)  # fmt: skip


@deadletters_app.command("show")
def deadletters_show(
    letter: Annotated[int, typer.Argument(metavar="ID", help="As `list` shows it.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Show one refused message with its raw bytes."""
    with _connect(_load(config)) as conn:
        row = conn.execute(
            """
            SELECT d.received_at, d.gateway, d.topic, d.reason, d.detail, d.stream, d.seq,
                   d.at_index, encode(d.sha256, 'hex'), coalesce(d.raw, first.raw)
            FROM dead_letter AS d
            LEFT JOIN LATERAL (
                SELECT raw FROM dead_letter
                WHERE sha256 = d.sha256 AND raw IS NOT NULL
                  AND received_at = d.received_at  -- rows of one message lie together
                LIMIT 1
            ) AS first ON true
            WHERE d.id = %s
            """,
            (letter,),
        ).fetchone()
    if row is None:
        raise ConfigError(f"dead letter {letter}: there is none with this id")
    for name, value in zip(_LETTER, row, strict=False):
        print(f"{name:<12} {_cell(value)}")
    raw: bytes = row[len(_LETTER)] or b""
    print(f"\n{_cell(raw.decode('utf-8', 'backslashreplace'))}")


@deadletters_app.command("replay")
def deadletters_replay(
    letters: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="As `list` shows them.")
    ] = None,
    gateway: Annotated[str | None, typer.Option(help="All of this gateway.")] = None,
    reason: Annotated[str | None, typer.Option(help="All refused for this reason.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Have refused messages judged again, after what was wrong is mended; ingest must run."""
    if not (letters or gateway or reason):
        raise ConfigError("say which: ids, --gateway or --reason")
    with _connect(_load(config)) as conn:
        asked = [
            letter
            for (letter,) in conn.execute(
                """
                UPDATE dead_letter SET replay_asked_at = now(), replay_result = NULL
                WHERE replayed_at IS NULL
                  AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s))
                  AND (%(gateway)s::text IS NULL OR gateway = %(gateway)s)
                  AND (%(reason)s::text IS NULL OR reason = %(reason)s)
                RETURNING id
                """,
                {"ids": letters, "gateway": gateway, "reason": reason},
            )
        ]
        if not asked:
            raise ConfigError("no such dead letter that is not replayed already")
        deadline = time.monotonic() + REPLAY_TIMEOUT_S
        while True:
            results = dict(
                conn.execute(
                    """
                    SELECT coalesce(replay_result, 'waiting'), count(*) FROM dead_letter
                    WHERE id = ANY (%s) GROUP BY 1 ORDER BY 1
                    """,
                    (asked,),
                ).fetchall()
            )
            if "waiting" not in results or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    _print_table(("result", "letters"), [(name, str(count)) for name, count in results.items()])
    if "waiting" in results:
        raise Unavailable("ingest has not taken them yet: is it running? they are not forgotten")


def _load(file: Path) -> Config:
    return load(file, os.environ)


def _connect(config: Config) -> psycopg.Connection:
    """Open a connection to a database that fits this code."""
    try:
        conn = psycopg.connect(
            config.database.dsn,
            autocommit=True,
            application_name="linli-ingest command",
            connect_timeout=10,
        )
        check_schema(conn)
    except psycopg.OperationalError as error:
        raise Unavailable(f"database: {str(error).strip()}") from error
    return conn


def _instant(option: str, text: str, problems: list[str]) -> datetime:
    try:
        return parse_instant(text)
    except ValueError as error:
        problems.append(f"{option}: value {text!r}: {error}")
        return datetime.min  # noqa: DTZ901 - never used: the problem is raised


def _cell(value: object) -> str:
    """Return a value as text that cannot steer the terminal: devices wrote some of it."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    text = "" if value is None else str(value)
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _log_to_stderr() -> None:
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def main() -> None:
    """Run the command line; usage mistakes and Ctrl-C (130) are typer's to report."""
    try:
        try:
            app()
        finally:
            # Now, not at exit: a reader that went away (`| head`) shall not cause a traceback.
            sys.stdout.flush()
    except OperatorError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except Unavailable as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
