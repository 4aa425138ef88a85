# SPDX-License-Identifier: Apache-2.0
"""The settings of the api: ``[database]``, ``[broker]`` and ``[api]`` of the servers' linli.toml.

``LINLI_API__PORT=8081`` in the environment overrides ``port`` of ``[api]``; relative paths start
at the folder of the file. All errors are told at once, each with file, line and key.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from api.errors import ConfigError

# Sections of the same file that others read; what is in them is none of the api's business.
OTHER_SECTIONS: Final = frozenset({"ingest", "pki", "province"})


def _no_truth(value: object) -> object:
    """Refuse true and false, which pass for 1 and 0 otherwise."""
    if isinstance(value, bool):
        raise ValueError("a whole number is expected")  # noqa: TRY004 - what pydantic takes
    return value


Host = Annotated[str, Field(min_length=1)]
Port = Annotated[int, BeforeValidator(_no_truth), Field(ge=1, le=65_535)]
# The broker admits as many (deploy/mosquitto/acl).
Member = Annotated[int, BeforeValidator(_no_truth), Field(ge=0, le=7)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _conninfo(value: SecretStr) -> SecretStr:
    try:
        conninfo_to_dict(value.get_secret_value())
    except ProgrammingError:
        # Never the text itself, it may hold a password.
        raise ValueError("not a PostgreSQL connection string") from None
    return value


def _writable(value: SecretStr) -> SecretStr:
    """Refuse a connection string by which one could come to write to a standby."""
    told = conninfo_to_dict(_conninfo(value).get_secret_value())
    several = "," in str(told.get("host") or told.get("hostaddr") or "")
    if several and told.get("target_session_attrs") not in ("read-write", "primary"):
        raise ValueError("several hosts need target_session_attrs=read-write")
    return value


Dsn = Annotated[SecretStr, Field(min_length=1)]


class Database(_Section):
    """Where the database is: libpq connection strings or URLs.

    A primary and its standby are several hosts in one ``dsn``. ``replica`` is for reads that may be
    ``replica_lag_limit_s`` late; it may be the standby of the same pair.
    """

    dsn: Annotated[Dsn, AfterValidator(_writable)]
    replica: Annotated[Dsn, AfterValidator(_conninfo)] | None = None
    replica_lag_limit_s: float = Field(
        default=5, gt=0, le=3_600, description="beyond it all reads go to the primary"
    )


class BrokerAddress(_Section):
    """Where the broker is, and which authority vouches for it."""

    host: Host = "127.0.0.1"
    hosts: tuple[Host, ...] = Field(
        default=(), description="further nodes of the same broker, tried in turn"
    )
    port: Port = 8883
    ca: Path


class Api(_Section):
    """How the api serves."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    member: Member = Field(default=0, description="its number among the api processes")
    certificates: Path = Field(description="folder of api-live-<member>.crt and .key")
    public_url: str = "http://127.0.0.1:8080"
    simulated: bool = Field(default=False, description="hardware is simulated; the console says so")
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="addresses whose X-Forwarded-For is believed"
    )
    metrics_from: tuple[str, ...] = Field(
        default=("127.0.0.1", "::1"), description="addresses that may read /metrics"
    )

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
            raise ValueError("write scheme and host only, for example https://linli.example.org")
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def identity(self) -> str:
        """Who this process is at the broker; of two with one identity it lets go of the first."""
        return f"api-live-{self.member:02d}"

    @property
    def secure(self) -> bool:
        """Whether people reach the api by https."""
        return self.public_url.startswith("https:")


class Notify(BaseModel):
    """What the api must know of how people are told; the rest of it is ingest's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    private_addresses: str = Field(
        default="", description="why webhooks may call our own network; empty: they may not"
    )

    @property
    def allow_private(self) -> bool:
        """Whether webhooks may go to addresses that are not public, and without TLS."""
        return bool(self.private_addresses.strip())


class Config(_Section):
    """All settings of the api."""

    database: Database
    broker: BrokerAddress
    api: Api
    notify: Notify = Notify()


def load(path: Path, environment: Mapping[str, str]) -> Config:
    """Read the settings.

    Raises:
        ConfigError: The file cannot be read, or something in it is wrong; names every error.
    """
    try:
        # As ingest reads the same file: with or without a byte-order mark.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot read: {exc}") from exc
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not TOML: {exc}") from exc
    except (ValueError, RecursionError):
        # What the parser itself does not catch.
        sentence = "a number of thousands of digits, or brackets within brackets without end"
        raise ConfigError(f"{path}: not TOML: {sentence}") from None
    sources = _lines(path, text)
    problems: list[str] = []
    own: dict[str, object] = {}
    for section, content in document.items():
        if section in Config.model_fields:
            own[section] = content
        elif section not in OTHER_SECTIONS:
            known = sorted({*Config.model_fields, *OTHER_SECTIONS})
            place = sources.get((section,), str(path))
            problems.append(f"{place}: {section}: unknown section{_hint(section, known)}")
    _override(own, environment, sources)
    try:
        config = Config.model_validate(own)
    except ValidationError as exc:
        problems += [_explain(error, sources, path) for error in exc.errors(include_url=False)]
        raise ConfigError(problems) from None
    if problems:
        raise ConfigError(problems)
    folder = path.resolve().parent
    return config.model_copy(
        update={
            "broker": config.broker.model_copy(update={"ca": folder / config.broker.ca}),
            "api": config.api.model_copy(update={"certificates": folder / config.api.certificates}),
        }
    )


_HEADER = re.compile(r"^\s*\[\s*([A-Za-z0-9_-]+)\s*(\..*)?\]")
_KEY = re.compile(r"^\s*([A-Za-z0-9_-]+)\s*=")


def _lines(path: Path, text: str) -> dict[tuple[str, ...], str]:
    """Return ``file:line`` of each section and each of its plain keys."""
    found: dict[tuple[str, ...], str] = {}
    section: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = str(header[1])
            found.setdefault((section,), f"{path}:{number}")
        elif key := _KEY.match(line):
            keys: tuple[str, ...] = (str(key[1]),) if section is None else (section, str(key[1]))
            found.setdefault(keys, f"{path}:{number}")
    return found


def _override(
    own: dict[str, object],
    environment: Mapping[str, str],
    sources: dict[tuple[str, ...], str],
) -> None:
    for name, value in environment.items():
        section, separator, key = name.removeprefix("LINLI_").lower().partition("__")
        if not name.startswith("LINLI_") or not separator or section not in Config.model_fields:
            continue
        content = own.get(section)
        known = cast("dict[str, object]", content) if isinstance(content, dict) else {}
        own[section] = {**known, key: value}
        sources[section, key] = name


def _explain(error: Mapping[str, Any], sources: Mapping[tuple[str, ...], str], path: Path) -> str:
    """Return one line for people; Any: pydantic's error details are untyped."""
    location = tuple(str(part) for part in error["loc"])
    name = ".".join(location)
    place = sources.get(location[:2]) or sources.get(location[:1]) or str(path)
    if error["type"] == "missing":
        return f"{place}: {name}: missing"
    if error["type"] == "extra_forbidden":
        model = Config.model_fields[location[0]].annotation
        known = sorted(cast("type[BaseModel]", model).model_fields)
        return f"{place}: {name}: unknown key{_hint(location[-1], known)}"
    return f"{place}: {name}: {str(error['msg']).removeprefix('Value error, ')}"


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else f"; allowed: {', '.join(known)}"
