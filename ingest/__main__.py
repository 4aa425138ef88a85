# SPDX-License-Identifier: Apache-2.0
"""The command line of ingest: ``linli-ingest``.

A mistake of the operator ends in plain sentences on standard error and exit status 2 (3 where the
database does not fit the code), a service that cannot be reached in status 1, never a traceback.
"""

import asyncio
import logging
import math
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

import psycopg
import typer

from edge_agent.kinds.base import GATEWAY_PATTERN, ID_PATTERN
from ingest import capacity, pki
from ingest.config import WORK, Config, load
from ingest.days import verify
from ingest.errors import ConfigError, OperatorError, PkiError, Unavailable
from ingest.gateways import add_gateway
from ingest.incidents import NOTE_MAX, REASON_MAX, Refused, Unchanged
from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.definition import Language
from ingest.indicators.security import CATEGORIES, DISPOSITIONS
from ingest.kinds import KINDS
from ingest.maintenance import add_maintenance
from ingest.migrate import check_schema, migrate
from ingest.partitions import ALL, member_row, show
from ingest.presence import LANES
from ingest.priority import give_way
from ingest.registry import NAMES, export_files, import_files
from ingest.registry_files import Format
from ingest.registry_tables import parse_instant
from ingest.reports.content import Report
from ingest.reports.formats import MEDIA_TYPES, write
from ingest.reports.read import read_report
from ingest.store import cities, claim, incidents, province
from ingest.store.partitions import forget_member, owners

app = typer.Typer(
    help="Takes in what gateways report, stores it once, keeps indicators and raises alerts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
registry_app = typer.Typer(
    help="Areas and who lives there, gateways, devices.", no_args_is_help=True
)
gateway_app = typer.Typer(help="Gateways and their certificates.", no_args_is_help=True)
maintenance_app = typer.Typer(help="Accepted maintenance.", no_args_is_help=True)
pki_app = typer.Typer(help="The installation's certificate authority.", no_args_is_help=True)
deadletters_app = typer.Typer(help="Messages that were refused.", no_args_is_help=True)
incident_app = typer.Typer(help="What officers confirmed.", no_args_is_help=True)
app.add_typer(registry_app, name="registry")
app.add_typer(gateway_app, name="gateway")
app.add_typer(maintenance_app, name="maintenance")
app.add_typer(pki_app, name="pki")
app.add_typer(deadletters_app, name="deadletters")
indicators_app = typer.Typer(help="The numbers a community has to prove.", no_args_is_help=True)
app.add_typer(indicators_app, name="indicators")
app.add_typer(incident_app, name="incident")
federation_app = typer.Typer(help="Cities and the province they tell.", no_args_is_help=True)
app.add_typer(federation_app, name="federation")

DIFFERENCES_MAX = 100
# How long `deadletters replay` waits for ingest to take what it asked for.
REPLAY_TIMEOUT_S = 15.0

ConfigFile = Annotated[
    Path, typer.Option("--config", envvar="LINLI_CONFIG", help="The configuration file.")
]
DEFAULT_CONFIG = Path("linli.toml")


@app.command()
def run(
    config: ConfigFile = DEFAULT_CONFIG,
    lanes: Annotated[
        str | None, typer.Option(help=f"What it does, any of {','.join(WORK)}; default: all.")
    ] = None,
    partitions: Annotated[
        str | None, typer.Option(help="Which of the 64 it writes, as 00-1f,30; default: all.")
    ] = None,
    member: Annotated[
        int | None, typer.Option(help="Its number among the processes of a lane.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Where it tells how it is.")] = None,
) -> None:
    """Run the service until it is told to stop; options win over the configuration."""
    from ingest.service import run as serve

    options = {
        "LANES": lanes, "PARTITIONS": partitions, "MEMBER": member, "METRICS_PORT": metrics_port,
    }  # fmt: skip
    settings = _load(
        config,
        {f"LINLI_INGEST__{name}": str(one) for name, one in options.items() if one is not None},
    )
    problems = [
        problem
        for name in settings.own_identities
        for problem in pki.check(*settings.identity(name), settings.broker.ca, identity=name)
    ]
    if problems:
        raise PkiError(problems)
    _log_to_stderr()
    if not settings.ingest.lanes - {"telemetry"}:
        give_way()
    serve(settings)


@app.command()
def notify(
    config: ConfigFile = DEFAULT_CONFIG,
    metrics_port: Annotated[int | None, typer.Option(help="Where it tells how it is.")] = None,
) -> None:
    """Tell people and machines of alerts until stopped; one does, others stand by for it."""
    from ingest.notify.service import run as tell

    port = {} if metrics_port is None else {"LINLI_NOTIFY__METRICS_PORT": str(metrics_port)}
    settings = _load(config, port)
    _log_to_stderr()
    tell(settings)


@app.command("partitions")
def partitions_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """List who writes which partitions; exit status 1 where nobody does."""
    complete = True
    rows: list[tuple[str, str, str]] = []
    with _connect(_load(config)) as conn:
        for lane in sorted(LANES):
            by_owner: defaultdict[str, set[str]] = defaultdict(set)
            for name, owner in owners(conn, lane).items():
                by_owner[owner].add(name)
            unowned = ALL.difference(*by_owner.values())
            rows += [(lane, show(names), owner) for owner, names in sorted(by_owner.items())]
            if unowned:
                rows.append((lane, show(unowned), "nobody"))
                complete = False
    _print_table(("lane", "partitions", "written by"), rows)
    raise typer.Exit(0 if complete else 1)


@app.command()
def retire(
    members: Annotated[list[int], typer.Argument(help="Numbers of members that run no more.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Have the broker forget members of ingest: it would queue for them for a week."""
    from ingest.consumer import forget_session

    settings = _load(config)
    folder = settings.ingest.certificates
    with _connect(settings) as conn:
        rows = {row for (row,) in conn.execute("SELECT lane FROM ingest_lane")}
        found: dict[str, str] = {}
        problems: list[str] = []
        for n in members:
            identities = {lane: pki.identity_of(lane, n) for lane in sorted(LANES)}
            of_member = {
                identity: row
                for lane, identity in identities.items()
                if (row := member_row(lane, identity)) in rows
                or settings.identity(identity)[0].exists()
            }
            found |= of_member
            if not of_member:
                problems.append(
                    f"member {n}: nothing to retire: {folder} holds no certificate of it, and the"
                    " database knows nothing of it"
                )
        if problems:
            raise ConfigError(problems)
        for identity, row in found.items():
            if not claim(conn, identity):
                raise OperatorError(f"{identity} runs: stop it first")
            if not forget_member(conn, row):
                raise OperatorError(
                    f"{identity} was killed, and held states back: start those who take over"
                    " its partitions first"
                )
            if not settings.identity(identity)[0].exists():
                print(
                    f"retired {identity}, in the database alone: {folder} holds no certificate of"
                    " it, and the broker forgets it after a week by itself"
                )
                continue
            forget_session(
                identity,
                settings.broker.host,
                settings.broker.port,
                ca=settings.broker.ca,
                certificates=folder,
            )
            print(f"retired {identity}")


@app.command("migrate")
def migrate_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Bring the database to the schema this release needs."""
    applied = migrate(_load(config).database.dsn)
    print("\n".join(f"applied {name}" for name in applied) or "nothing to do")


@registry_app.command("import")
def registry_import(
    files: Annotated[list[Path], typer.Argument(help="CSV files or workbooks, in any order.")],
    dry_run: Annotated[bool, typer.Option(help="Say what would change, change nothing.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Add and update what the files say: everything, or after one mistake nothing."""
    with _connect(_load(config)) as conn:
        report = import_files(conn, files, dry_run=dry_run)
    print("\n".join(report.lines()))


@registry_app.command("export")
def registry_export(
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.")],
    form: Annotated[Format, typer.Option("--format", help="How.")] = Format.CSV,
    table: Annotated[
        list[str] | None, typer.Option(help=f"Only {', '.join(sorted(NAMES))}; repeatable.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write what is registered to files that `import` takes; importing them changes nothing."""
    unknown = sorted(set(table or ()) - NAMES)
    if unknown:
        expected = f"expected one of {', '.join(sorted(NAMES))}"
        raise ConfigError([f"--table: value {name!r}: {expected}" for name in unknown])
    with _connect(_load(config)) as conn:
        written = export_files(conn, folder, form=form, tables=frozenset(table or NAMES))
    print("\n".join(f"wrote {file}" for file in written))


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
    members: Annotated[
        int,
        typer.Option(
            help="For so many processes of ingest, and as many of the api, 8 at most.",
            min=1,
            max=64,
        ),
    ] = 1,
) -> None:
    """Make the authority, the broker's certificate and those of our own services."""
    authority = pki.create_authority(out)
    services = out / "services"
    if reissue or not (out / "server.crt").exists():
        pki.issue_server(authority, host)
        print(f"wrote {out / 'server.crt'} for {', '.join(host)}")
    for name in pki.service_identities(members):
        if reissue or not (services / f"{name}.crt").exists():
            print(f"wrote {pki.issue_client(authority, name, out=services).certificate}")


@indicators_app.command("list")
def indicators_list() -> None:
    """List every indicator with its target."""
    rows = [
        (
            one.id,
            one.domain,
            "-" if one.target is None else f"{one.target.value:g} ({one.target.source})",
            one.name["zh-CN"],
            one.name["en"],
        )
        for one in INDICATORS.values()
    ]
    _print_table(("indicator", "domain", "target", "名称", "name"), rows)


@indicators_app.command("verify")
def indicators_verify(
    first: Annotated[str, typer.Option("--from", help="The first day: 2026-03-01.")],
    end: Annotated[str, typer.Option("--to", help="The day after the last.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Compute final numbers again from raw readings; exit status 1 where one differs."""
    problems: list[str] = []
    window = [_day(name, text, problems) for name, text in (("--from", first), ("--to", end))]
    if not problems and window[0] >= window[1]:
        problems.append(f"--to: value {end!r}: expected a day after --from")
    if problems:
        raise ConfigError(problems)
    with _connect(_load(config)) as conn:
        conn.autocommit = True
        compared, differences = verify(conn, window[0], window[1], _progress("days computed"))
    for one in differences[:DIFFERENCES_MAX]:
        print(one)
    if len(differences) > DIFFERENCES_MAX:
        print(f"and {len(differences) - DIFFERENCES_MAX} more")
    print(f"{compared} numbers computed again, {len(differences)} differ")
    if differences:
        raise typer.Exit(1)


@app.command("capacity")
def capacity_command(
    devices: Annotated[int, typer.Option(help="How many.", min=1, max=10**10)],
    period: Annotated[float, typer.Option(help="How often each reports; s.", min=0.1)] = 30.0,
    months: Annotated[float, typer.Option(help="How long readings are kept.", min=0.1)] = 1.0,
    kinds: Annotated[
        str, typer.Option(help="Their classes, in any parts: lamp=60,bin=12.")
    ] = ",".join(f"{kind}={share:g}" for kind, share in capacity.EQUIPMENT.items()),
    reading_index: Annotated[
        capacity.ReadingIndex, typer.Option(help="When a chunk of readings gets its b-tree.")
    ] = "always",
) -> None:
    """Estimate what devices take: messages, disk, memory, and what to set for them."""
    shares: dict[str, float] = {}
    for part in kinds.split(","):
        kind, _, share = part.partition("=")
        try:
            shares[kind] = float(share)
        except ValueError:
            shares[kind] = -1.0
        if kind not in KINDS or not 0 < shares[kind] < math.inf:
            expected = f"expected class=part, of {', '.join(KINDS)}"
            raise ConfigError(f"--kinds: value {part!r}: {expected}")
    rows = capacity.lines(capacity.city_of(devices, period, months, shares, reading_index))
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name.ljust(width)}  {value}" for name, value in rows))


@app.command("report")
def report_command(
    area: Annotated[str, typer.Argument(help="Its id.")],
    month: Annotated[str, typer.Option(help="2026-03")],
    out: Annotated[Path, typer.Option(help="The file; .xlsx, .pdf or .csv says what it becomes.")],
    language: Annotated[Language, typer.Option(help="Its language.")] = "zh-CN",
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write the monthly report of an area."""
    problems: list[str] = []
    begin = _day("--month", f"{month}-01", problems)
    if out.suffix not in MEDIA_TYPES:
        problems.append(f"--out: value {out.name!r}: expected a name ending in .xlsx, .pdf, .csv")
    if problems:
        raise ConfigError(problems)
    settings = _load(config)

    async def read() -> Report:
        conn = await psycopg.AsyncConnection.connect(settings.database.dsn)
        async with conn:
            await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            return await read_report(conn, area, begin, language, now=datetime.now(UTC))

    try:
        content = asyncio.run(read())
    except psycopg.OperationalError as error:
        raise Unavailable(str(error)) from None
    partial = out.with_suffix(f"{out.suffix}.partial")
    try:
        with partial.open("wb") as file:
            write(content, out.suffix, file, _progress("rows written"))
        partial.replace(out)
    except OSError as error:
        raise OperatorError(f"{out}: cannot write: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    print(f"wrote {out}")


def _progress(what: str) -> Callable[[int, int], None]:
    """Return what tells how far a long command is, to people only."""

    def tell(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{done}/{total} {what}", end=end, file=sys.stderr, flush=True)

    return tell


def _day(name: str, text: str, problems: list[str]) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        problems.append(f"{name}: value {text!r}: expected a date such as 2026-03-01")
        return date.min


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


@incident_app.command("add")
def incident_add(
    area: Annotated[str, typer.Option(help="The finest known: cell or community.")],
    category: Annotated[str, typer.Option(help=", ".join(CATEGORIES))],
    at: Annotated[str, typer.Option("--at", help="When it occurred: 2026-03-01T08:00+08:00")],
    by: Annotated[str, typer.Option(help="User name of the officer or admin who reports it.")],
    confirmed: Annotated[bool, typer.Option(help="It is confirmed; else it is open.")] = False,
    alert: Annotated[str | None, typer.Option(help="Id of the alert that told of it.")] = None,
    note: Annotated[str | None, typer.Option(help="Details; no names, please.")] = None,
    reason: Annotated[str, typer.Option(help="For the record.")] = "reported",
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Report an incident; print its id."""
    problems: list[str] = []
    occurred_at = _instant("--at", at, problems)
    known_category = _one_of("--category", category, CATEGORIES, problems)
    known_alert = None if alert is None else _id("--alert", alert, problems)
    _check_texts(note, reason, problems, area, by)
    if problems:
        raise ConfigError(problems)
    assert known_category is not None

    async def add(conn: psycopg.AsyncConnection) -> UUID:
        officer = await incidents.find_officer(conn, by)
        return await incidents.report(
            conn,
            incidents.Draft(
                known_category,
                area,
                occurred_at,
                "confirmed" if confirmed else "open",
                known_alert,
                note,
            ),
            within=officer.area,
            actor=officer.name,
            reason=reason,
            now=datetime.now(UTC),
        )

    print(_with_incidents(_load(config), add))


@incident_app.command("list")
def incident_list(
    area: Annotated[str | None, typer.Option(help="Of this area and below only.")] = None,
    disposition: Annotated[str | None, typer.Option(help=", ".join(DISPOSITIONS))] = None,
    start: Annotated[str | None, typer.Option("--from", help="2026-03-01T08:00+08:00")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The first instant after it.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1)] = 50,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """List incidents, newest first; their notes are for the console."""
    problems: list[str] = []
    known = None
    if disposition is not None:
        known = _one_of("--disposition", disposition, DISPOSITIONS, problems)
    first = None if start is None else _instant("--from", start, problems)
    last = None if end is None else _instant("--to", end, problems)
    if problems:
        raise ConfigError(problems)

    async def read(conn: psycopg.AsyncConnection) -> list[incidents.Listed]:
        return await incidents.listed(
            conn, area=area, disposition=known, start=first, end=last, limit=limit
        )

    header = ("id", "occurred_at", "area", "category", "disposition", "confirmed_by", "version")
    rows = _with_incidents(_load(config), read)
    _print_table(header, [[_cell(getattr(row, name)) for name in header] for row in rows])


@incident_app.command("settle")
def incident_settle(
    incident: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    disposition: Annotated[str, typer.Argument(help=", ".join(DISPOSITIONS))],
    by: Annotated[str, typer.Option(help="User name of the officer or admin who settles it.")],
    reason: Annotated[str, typer.Option(help="For the record.")],
    note: Annotated[str | None, typer.Option(help="Replaces the note; empty removes it.")] = None,
    version: Annotated[
        int | None, typer.Option(help="Only if it is still this version.", min=1)
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Say what an incident was found to be; what was said before stays in its history."""
    problems: list[str] = []
    known = _id("ID", incident, problems)
    settled = _one_of("DISPOSITION", disposition, DISPOSITIONS, problems)
    _check_texts(note, reason, problems, by)
    if problems:
        raise ConfigError(problems)
    assert known is not None

    async def settle(conn: psycopg.AsyncConnection) -> None:
        officer = await incidents.find_officer(conn, by)
        await incidents.change(
            conn,
            known,
            incidents.Wanted(disposition=settled, note=note),
            within=officer.area,
            actor=officer.name,
            reason=reason,
            expected_version=version,
            now=datetime.now(UTC),
        )

    _with_incidents(_load(config), settle)
    print(f"{known} is {settled}")


_T = TypeVar("_T")
_INCIDENT_MISSING = {
    "person": "--by: no active person of that name may write incidents; police and admins may",
    "area": "--area: no such community or cell that this person may see",
    "alert": "--alert: no such alert that this person may see",
    "incident": "ID: no such incident that this person may see; `incident list` shows them",
}


def _with_incidents(
    config: Config, action: Callable[[psycopg.AsyncConnection], Awaitable[_T]]
) -> _T:
    """Let ``action`` work on a connection of its own; tell the operator what it refuses."""
    _connect(config).close()  # tells what is wrong with the database

    async def work() -> _T:
        async with await psycopg.AsyncConnection.connect(
            config.database.dsn,
            autocommit=True,
            application_name="linli-ingest command",
            connect_timeout=10,
        ) as conn:
            return await action(conn)

    try:
        return asyncio.run(work())
    except incidents.Missing as error:
        raise ConfigError(_INCIDENT_MISSING[error.what]) from None
    except incidents.AlertTaken:
        raise ConfigError("--alert: has an incident already") from None
    except incidents.Stale as error:
        raise ConfigError(f"--version: it is version {error.version} by now, look again") from None
    except Unchanged:
        raise ConfigError("nothing would change: it is like that already") from None
    except Refused as error:
        raise ConfigError(str(error)) from None
    except psycopg.OperationalError as error:
        raise Unavailable(f"database: {str(error).strip()}") from error


def _one_of(option: str, text: str, known: Sequence[_T], problems: list[str]) -> _T | None:
    for value in known:
        if value == text:
            return value
    problems.append(f"{option}: value {text!r}: write one of {', '.join(map(str, known))}")
    return None


def _id(option: str, text: str, problems: list[str]) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        problems.append(f"{option}: value {text!r}: not an id as `list` shows it")
        return None


def _check_texts(note: str | None, reason: str, problems: list[str], *names: str) -> None:
    if not 1 <= len(reason.strip()) <= REASON_MAX:
        problems.append(f"--reason: write 1 to {REASON_MAX} characters")
    if len(note or "") > NOTE_MAX:
        problems.append(f"--note: write at most {NOTE_MAX} characters")
    # What the shell handed over in another encoding.
    problems.extend(
        f"value {text!r}: is not UTF-8"
        for text in (note or "", reason, *names)
        if any("\ud800" <= char <= "\udfff" for char in text)
    )


@federation_app.command("admit")
def federation_admit(
    city: Annotated[str, typer.Argument(help="Who it is at our broker: an id as of a gateway.")],
    area: Annotated[str, typer.Option(help="The area it tells of: its own topmost.")],
    under: Annotated[str, typer.Option(help="The area of ours that this lies in.")],
    out: Annotated[Path, typer.Option(help="Folder for its certificate.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """In a province: let a city tell us its numbers; write the certificate it needs for that."""
    settings = _load(config)
    if settings.pki is None:
        raise ConfigError(f"{config}: pki: missing, it names the authority that signs cities")
    authority = pki.load_pair(settings.pki.ca_certificate, settings.pki.ca_key)
    problems = [
        f"{name}: value {text!r}: not an id"
        for name, text, form in (("CITY", city, GATEWAY_PATTERN), ("--area", area, ID_PATTERN))
        if not re.fullmatch(form, text)
    ]
    if problems:
        raise ConfigError(problems)
    with _connect(settings) as conn:
        try:
            cities.admit(conn, city, area, area, under)
        except KeyError:
            raise ConfigError(f"--under: there is no area {under!r}") from None
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if not (out / f"{city}.crt").exists():
        pki.issue_client(authority, city, out=out)
    pki.write(out / "ca.crt", pki.encode(authority.certificate))
    print(f"{city} may tell of {area}; its certificate is in {out}")


@federation_app.command("cities")
def federation_cities(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """In a province: list the cities and when they were last heard."""
    with _connect(_load(config)) as conn:
        rows = cities.listed(conn)
    header = (
        "city", "area", "status", "last_seen_at", "silent", "told_at", "waiting", "areas",
    )  # fmt: skip
    _print_table(header, [[_cell(getattr(row, name)) for name in header] for row in rows])


@federation_app.command("status")
def federation_status(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """In a city: say what the province was told, what waits, and what it refused."""
    with _connect(_load(config)) as conn:
        known = province.load(conn)
        if known is None:
            raise ConfigError("this city tells no province: see [province] in the configuration")
        done, refused = province.progress(conn), province.refusals(conn, 20)
    print(f"as {known.city}, down to {known.level}, acknowledged {_cell(known.acknowledged_at)}")
    print(f"areas {done.areas}, waiting {done.areas_waiting}")
    print(f"days {done.days}, waiting {done.days_waiting}, messages on their way {done.messages}")
    if refused:
        rows = [[_cell(value) for value in row] for row in refused]
        _print_table(("refused_at", "reason", "area", "day"), rows)


@federation_app.command("resend")
def federation_resend(
    first: Annotated[str, typer.Option("--from", help="The first day: 2026-03-01.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """In a city: tell the province all days from one on again, once what was wrong is mended."""
    problems: list[str] = []
    begin = _day("--from", first, problems)
    if problems:
        raise ConfigError(problems)
    with _connect(_load(config)) as conn:
        print(f"{province.resend(conn, begin)} days will be told again")


@federation_app.command("stop")
def federation_stop(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """In a city whose configuration names no province any more: note no changes for it."""
    settings = _load(config)
    if settings.province is not None:
        raise ConfigError(f"{config}: province: take it out first, or it begins anew")
    with _connect(settings) as conn:
        province.stop(conn)
    print("no province is told any more; what it was told stays there")


def _load(file: Path, options: Mapping[str, str] | None = None) -> Config:
    return load(file, {**os.environ, **(options or {})})


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
