# SPDX-License-Identifier: Apache-2.0
"""The server's configuration as ingest reads it: one TOML file, shared with the api.

Ingest validates its own sections and leaves the api's alone; a section nobody knows is refused.
Environment variables ``LINLI_<SECTION>__<KEY>`` override the file. Paths are relative to it.
Every mistake is reported at once, with file, line and key.
"""

import difflib
import re
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeGuard, cast, get_args

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from edge_agent.kinds.base import Code, GatewayId
from edge_agent.messages import AnyLane, Lane
from ingest.capacity import ReadingIndex
from ingest.errors import ConfigError
from ingest.indicators.repairs import FaultClass
from ingest.kinds import DEFAULT_RULES
from ingest.partitions import ALL, NAMES, Partitions
from ingest.partitions import parse as parse_partitions
from ingest.pki import identity_of
from ingest.retention import DEFAULT_DAYS, MARGIN_DAYS
from ingest.rules import RuleBook, RuleError

# Sections of the same file that other services read.
FOREIGN_SECTIONS: Final = frozenset({"api"})
_PREFIX: Final = "LINLI_"


def _resolved(value: object, info: ValidationInfo) -> object:
    """Take a path from the file as relative to the file's folder."""
    if not isinstance(value, str) or not value:
        raise ValueError("a path is expected")
    folder: object = info.context
    assert isinstance(folder, Path)
    return folder / value


def _conninfo(value: str) -> str:
    try:
        conninfo_to_dict(value)
    except ProgrammingError:
        # Never the text itself, it may hold a password.
        raise ValueError("not a PostgreSQL connection string") from None
    return value


def _writable(value: str) -> str:
    """Refuse a connection string by which one could come to write to a standby."""
    told = conninfo_to_dict(_conninfo(value))
    several = "," in str(told.get("host") or told.get("hostaddr") or "")
    if several and told.get("target_session_attrs") not in ("read-write", "primary"):
        raise ValueError("several hosts need target_session_attrs=read-write")
    return value


def _partitions(value: object) -> Partitions:
    """Read ``00-1f`` or ``00,02,10-3f``; a single one may look like a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:02d}"
    return parse_partitions(value if isinstance(value, str) else repr(value))


def _work(value: object) -> object:
    """Read ``telemetry,event``, as an environment variable has it, or a list."""
    named = [one.strip() for one in value.split(",")] if isinstance(value, str) else value
    if not isinstance(named, list):
        return named
    names = cast("list[object]", named)
    for one in names:
        if one not in WORK:
            raise ValueError(f"{one!r}: known are {', '.join(WORK)}")
    if not names:
        raise ValueError(f"nothing to do: known are {', '.join(WORK)}")
    return frozenset(names)


Work = Literal["telemetry", "event", "keepers"]
WORK: Final[tuple[Work, ...]] = get_args(Work)
File = Annotated[Path, BeforeValidator(_resolved)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Setting = bool | int | float | str


class Section(BaseModel):
    """Base of all sections: unknown keys are mistakes, and ``"5"`` is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Database(Section):
    """Where TimescaleDB is: a libpq connection string or URL.

    A primary and its standby are several hosts in one string. ``replica`` is the api's.
    """

    dsn: Annotated[str, AfterValidator(_writable)] = Field(repr=False)
    replica: Annotated[str, AfterValidator(_conninfo)] | None = Field(default=None, repr=False)
    replica_lag_limit_s: float = Field(default=5, gt=0, le=3_600)


class Broker(Section):
    """Where the MQTT broker is, and who vouches for it."""

    host: str = Field(default="127.0.0.1", min_length=1)
    hosts: list[str] = Field(
        default_factory=list[str], description="further nodes of the same broker, tried in turn"
    )
    port: Port = 8883
    ca: File


class Flush(Section):
    """How much one lane gathers before it commits, whichever limit comes first."""

    linger_ms: float = Field(ge=0, le=60_000)
    messages: int = Field(ge=1, le=65_535)
    bytes: int = Field(ge=1)
    receive_maximum: int = Field(ge=1, le=65_535, description="messages not yet acknowledged")


class TelemetryFlush(Flush):
    """Readings: many at once."""

    linger_ms: float = Field(default=100, ge=0, le=60_000)
    messages: int = Field(default=500, ge=1, le=65_535)
    bytes: int = Field(default=4 * 1024 * 1024, ge=1)
    receive_maximum: int = Field(default=1_000, ge=1, le=65_535)


class EventFlush(Flush):
    """Alarm and gate events: at once."""

    linger_ms: float = Field(default=5, ge=0, le=60_000)
    messages: int = Field(default=50, ge=1, le=65_535)
    bytes: int = Field(default=4 * 1024 * 1024, ge=1)
    receive_maximum: int = Field(default=200, ge=1, le=65_535)


class AggregateFlush(Flush):
    """What cities tell: each message holds a thousand numbers."""

    linger_ms: float = Field(default=20, ge=0, le=60_000)
    messages: int = Field(default=4, ge=1, le=65_535)
    bytes: int = Field(default=1024 * 1024, ge=1)
    receive_maximum: int = Field(default=50, ge=1, le=65_535)


class Ingest(Section):
    """The ingest service itself; several processes share the work by lane and by partition."""

    lanes: Annotated[frozenset[Work], BeforeValidator(_work)] = Field(
        default=frozenset(WORK), description="what this process does"
    )
    partitions: Annotated[Partitions, BeforeValidator(_partitions)] = Field(
        default=ALL, description="which of the 64 partitions its lanes write: 00-1f,30"
    )
    member: int = Field(
        default=0, ge=0, le=63, description="its number among the processes of a lane"
    )
    role: Literal["city", "province"] = Field(
        default="city", description="province: takes in what cities tell, beside all else"
    )
    certificates: File = Field(description="folder of <identity>.crt and .key")
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    metrics_port: int = Field(default=9101, ge=0, le=65_535, description="0: any free port")
    telemetry: TelemetryFlush = TelemetryFlush()
    event: EventFlush = EventFlush()
    aggregate: AggregateFlush = AggregateFlush()
    queue_bytes: int = Field(
        default=128 * 1024 * 1024,
        ge=1024 * 1024,
        description="bound of what is received and not yet committed, of each lane",
    )
    future_limit_s: float = Field(default=300, gt=0, le=86_400)
    late_limit_days: float = Field(default=30, gt=0, le=365)
    state_interval_s: float = Field(
        default=0,
        ge=0,
        le=600,
        description="how far latest states in the database may be behind where nothing but numbers"
        " changed; running nights are told as of up to two of these ago; 300 at city rate",
    )
    status_interval_s: float = Field(
        default=10, gt=0, le=3_600, description="of gateways that do not say theirs"
    )
    gateway_silence_intervals: float = Field(default=3, ge=1, le=1_000)
    rules: dict[str, dict[str, Setting]] = Field(
        default_factory=dict, description="rule id -> parameters that differ from the default"
    )
    faults: dict[Code, FaultClass] = Field(
        default_factory=dict, description="fault code -> class that differs from the default"
    )
    holidays: list[date] = Field(
        default_factory=list, description="on which nobody is expected to repair"
    )
    retention_days: dict[str, float] = Field(
        default_factory=dict,
        description="table of readings or events -> how long its rows are kept, if not as usual",
    )
    chunk_minutes: float | None = Field(
        default=None, ge=1, le=10_080, description="of reading tables; by the rate if not said"
    )
    reading_index: ReadingIndex = Field(
        default="always",
        description="when a chunk of readings gets its b-tree; after-close is for city rate",
    )

    @field_validator("retention_days")
    @classmethod
    def _can_be_kept(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        least = info.data.get("late_limit_days", 0.0) + MARGIN_DAYS
        for table, days in value.items():
            if table not in DEFAULT_DAYS:
                raise ValueError(f"{table}: unknown, known are {', '.join(sorted(DEFAULT_DAYS))}")
            if days < least:
                raise ValueError(
                    f"{table}: {days:g}: expected {least:g} or more, {MARGIN_DAYS:g} days longer"
                    " than late_limit_days"
                )
        return value


class Pki(Section):
    """The authority that signs gateways; needed only where they are added."""

    ca_certificate: File
    ca_key: File


class Province(Section):
    """The province that this city tells its numbers."""

    city: GatewayId = Field(description="who we are at its broker: the certificate's CN")
    host: str = Field(min_length=1, description="its broker")
    port: Port = 8883
    ca: File = Field(description="who vouches for its broker")
    certificate: File
    key: File
    level: Literal["city", "district", "street", "community"] = Field(
        default="community", description="the finest areas that are told"
    )
    status_interval_s: float = Field(default=60, ge=1, le=3_600)


def _gateway(value: str) -> str:
    """Refuse a gateway's URL without a place for the recipient; never tell it, it holds secrets."""
    if value.count("{to}") != 1:
        raise ValueError("an apprise URL with {to} in it is expected")
    return value


class Notify(Section):
    """How people and machines are told of alerts: ``linli-ingest notify``."""

    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    metrics_port: int = Field(default=9102, ge=0, le=65_535, description="0: any free port")
    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] = Field(
        default="installation", description="who we are in webhooks: urn:linli:<source>"
    )
    email: Annotated[str, AfterValidator(_gateway)] | None = Field(
        default=None, repr=False, description="apprise URL that sends e-mail, {to} is the address"
    )
    sms: Annotated[str, AfterValidator(_gateway)] | None = Field(
        default=None, repr=False, description="apprise URL that sends SMS, {to} is the number"
    )
    private_addresses: str = Field(
        default="",
        max_length=500,
        description="why webhooks may call our own network; empty: they may not",
    )

    @property
    def allow_private(self) -> bool:
        """Whether webhooks may go to addresses that are not public, and without TLS."""
        return bool(self.private_addresses.strip())


class Config(Section):
    """All that ingest reads of the file."""

    database: Database
    broker: Broker
    ingest: Ingest
    pki: Pki | None = None
    province: Province | None = None
    notify: Notify = Notify()

    def identity(self, name: str) -> tuple[Path, Path]:
        """Return certificate and key of one of the service's broker identities."""
        folder = self.ingest.certificates
        return folder / f"{name}.crt", folder / f"{name}.key"

    def own_identity(self, lane: AnyLane) -> str:
        """Return who this process is at the broker in one of its lanes."""
        return identity_of(lane, 0 if lane == "aggregate" else self.ingest.member)

    @property
    def own_identities(self) -> list[str]:
        """All that this process is at the broker."""
        lanes: list[AnyLane] = [*self.lanes, *(["aggregate"] if self.takes_aggregates else [])]
        return [self.own_identity(lane) for lane in lanes]

    @property
    def takes_aggregates(self) -> bool:
        """Whether this process writes what cities tell: of several the one with partition 00."""
        ours = "event" in self.ingest.lanes and NAMES[0] in self.ingest.partitions
        return ours and self.ingest.role == "province"

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that this process writes."""
        lanes: tuple[Lane, ...] = get_args(Lane)
        return [lane for lane in lanes if lane in self.ingest.lanes]


def load(file: Path, environ: Mapping[str, str]) -> Config:
    """Read and check the configuration.

    Args:
        file: The TOML file.
        environ: The environment; only ``LINLI_<SECTION>__...`` is looked at.

    Raises:
        ConfigError: With every mistake, a line each.
    """
    text = _read(file)
    try:
        document: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_not_toml(file, str(error))) from None
    except (ValueError, RecursionError):
        # What the parser itself does not catch.
        sentence = "a number of thousands of digits, or brackets within brackets without end"
        raise ConfigError(f"{file}: not TOML: {sentence}") from None
    lines = _lines(text)
    sources: dict[tuple[str, ...], str] = {}
    problems = _override(document, environ, sources)
    for section in FOREIGN_SECTIONS:
        document.pop(section, None)
    config: Config | None = None
    found: list[tuple[int, str]] = []
    try:
        config = Config.model_validate(document, context=file.absolute().parent)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            path = tuple(str(part) for part in item["loc"])
            sentence = f"{'.'.join(path)}: {_sentence(dict(item), path)}"
            if path in sources:
                problems.append(f"{sources[path]}: {sentence}")
            else:
                found.append((_line(lines, path), sentence))
    if config is not None:
        for rule, changes in config.ingest.rules.items():
            try:
                RuleBook(DEFAULT_RULES, {rule: changes})
            except RuleError as error:
                found.append((_line(lines, ("ingest", "rules", rule)), f"ingest.{error}"))
    problems += [
        f"{file}:{line}: {sentence}" if line else f"{file}: {sentence}"
        for line, sentence in sorted(found)
    ]
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: cannot read: is not UTF-8 text") from None


def _not_toml(file: Path, message: str) -> str:
    match = re.search(r" \(at line (\d+), column \d+\)$", message)
    if match is None:
        return f"{file}: not TOML: {message}"
    return f"{file}:{match[1]}: not TOML: {message[: match.start()]}"


def _override(
    document: dict[str, object], environ: Mapping[str, str], sources: dict[tuple[str, ...], str]
) -> list[str]:
    """Put the environment's values into ``document``; return what could not be placed."""
    problems: list[str] = []
    for variable in sorted(environ):
        section, *keys = variable.removeprefix(_PREFIX).lower().split("__")
        if not variable.startswith(_PREFIX) or not keys or section in FOREIGN_SECTIONS:
            continue
        path = (section, *keys)
        if path[:2] == ("ingest", "rules"):
            problems.append(f"{variable}: rules are set in the file only")
            continue
        table = document
        for part in path[:-1]:
            inner = table.setdefault(part, {})
            if not _is_table(inner):
                problems.append(f"{variable}: {'.'.join(path)} is no setting")
                break
            table = inner
        else:
            table[path[-1]] = _value(environ[variable])
            for length in range(1, len(path) + 1):
                sources.setdefault(path[:length], variable)
    return problems


def _is_table(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _value(text: str) -> Setting:
    """Read an environment variable as a number or truth value where it looks like one."""
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line on which each table or key first stands.

    A reader for positions only: where it is unsure (inside an inline table or a long text) the
    enclosing key's line is reported instead.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("["):
            table = _path(line) or table
            path = table
        else:
            key = _path(f"{line.partition('=')[0]} = 0") if "=" in line else None
            if key is None:
                continue
            path = (*table, *key)
        for length in range(1, len(path) + 1):
            found.setdefault(path[:length], number)
    return found


def _path(line: str) -> tuple[str, ...] | None:
    """Return the dotted key that one line of TOML sets or opens."""
    try:
        return tuple(_descend(tomllib.loads(line)))
    except tomllib.TOMLDecodeError:
        return None


def _descend(value: object) -> Iterator[str]:
    while _is_table(value) and value:
        key, value = next(iter(value.items()))
        yield key


def _line(lines: Mapping[tuple[str, ...], int], path: tuple[str, ...]) -> int:
    """Return the line of a key, or of the nearest thing around it; 0 where there is none."""
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 0)


def _sentence(item: dict[str, Any], path: tuple[str, ...]) -> str:
    """Say what is wrong with one setting, and what would be right."""
    match item["type"]:
        case "extra_forbidden":
            return f"unknown, {_did_you_mean(path)}"
        case "missing":
            return "missing"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            text: str = item["msg"][:1].lower() + item["msg"][1:]
            # The connection string is never repeated: it may hold a password.
            secret = path[:1] == ("database",) or path in (("notify", "email"), ("notify", "sms"))
            given = "" if secret else f"{reprlib.repr(item['input'])}: "
            return f"{given}{text}"


def _did_you_mean(path: tuple[str, ...]) -> str:
    """Name the nearest known key, or all of them."""
    model: type[BaseModel] = Config
    for part in path[:-1]:
        field = model.model_fields.get(part)
        nested = list(_models(field.annotation if field else None))
        model = nested[0] if nested else model
    known = [*model.model_fields, *(FOREIGN_SECTIONS if len(path) == 1 else ())]
    near = difflib.get_close_matches(path[-1], known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Return the section classes that an annotation such as ``Pki | None`` names."""
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
