# SPDX-License-Identifier: Apache-2.0
"""Configuration: TOML, overridden by ``LINLI_*``; read once, refused with every error at once.

``LINLI_BROKER__HOST=10.0.0.7`` overrides ``host`` in ``[broker]``. Relative paths are relative to
the configuration file.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edge_agent.errors import ConfigError
from edge_agent.kinds import CHANGED
from edge_agent.kinds.base import GatewayId, Id
from edge_agent.outbox import LIMIT_BYTES

ENVIRONMENT_PREFIX: Final = "LINLI_"
_SECRET: Final = re.compile(r"password|passwd|secret|token|credential|(^|_)key$")
_HIDDEN: Final = "***"


class _Section(BaseModel):
    """A table of the file: unknown keys are refused, values are never coerced from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BrokerConfig(_Section):
    """Where the broker is, and how the gateway proves who it is."""

    host: str = Field(min_length=1)
    hosts: tuple[str, ...] = Field(
        default=(), max_length=16, description="further nodes of the same broker, tried in turn"
    )
    port: int = Field(default=8883, ge=1, le=65_535, strict=True)
    ca: Path
    certificate: Path
    key: Path
    keepalive_s: int = Field(default=15, ge=5, le=600)
    # Full jitter: each pause is drawn between the two, the upper end growing with each attempt.
    reconnect_delay_min_s: float = Field(default=1.0, gt=0, le=60)
    reconnect_delay_max_s: float = Field(default=30.0, gt=0, le=3_600)

    @model_validator(mode="after")
    def _delays_ordered(self) -> "BrokerConfig":
        if self.reconnect_delay_min_s > self.reconnect_delay_max_s:
            raise ValueError("reconnect_delay_min_s must not exceed reconnect_delay_max_s")
        return self


class SamplingConfig(_Section):
    """How often devices are asked and unchanged readings repeated."""

    poll_interval_s: float = Field(default=1.0, ge=0.05, le=3_600)
    heartbeat_s: float = Field(default=60.0, ge=1, le=86_400)
    status_interval_s: float = Field(default=10.0, ge=1, le=3_600)


class PublishingConfig(_Section):
    """How far publishing may run ahead of what the server confirmed."""

    window: int = Field(default=50, ge=1, le=1_000, description="messages per lane")
    resend_after_s: float = Field(
        default=30.0,
        ge=0.1,
        le=3_600,
        description="without an answer; twice as long after each time in vain, 8 times at most",
    )
    alarm_after_s: float = Field(default=300.0, ge=1, le=86_400)
    backlog_after_s: float = Field(
        default=900.0,
        ge=1,
        le=1e9,
        description="what has waited longer lets what is measured now overtake it",
    )
    backlog_messages_per_s: float = Field(default=100.0, ge=0.1, le=10_000)


class OutboxConfig(_Section):
    """How much is kept while the server is out of reach."""

    limit_bytes: int = Field(
        default=LIMIT_BYTES,
        ge=1024 * 1024,
        le=64 * 1024**3,
        description="on the disk, all files of the outbox together; then the oldest is evicted",
    )
    max_age_h: float = Field(
        default=720.0, ge=1, le=87_600, description="older telemetry is evicted"
    )


class PseudonymConfig(_Section):
    """Where the key for credentials lies; made on the first start, shared within a community."""

    key_file: Path = Path("pseudonym.key")


class DeviceConfig(_Section):
    """One device behind this gateway and the driver that speaks to it."""

    device: Id
    kind: str
    driver: str = Field(description="module:factory; factory(device, options) returns a Driver")
    options: dict[str, Any] = Field(default_factory=dict[str, Any])

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CHANGED:
            raise ValueError(f"expected one of {', '.join(sorted(CHANGED))}")
        return value

    @field_validator("driver")
    @classmethod
    def _module_and_factory(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
            raise ValueError(
                "expected module:factory, for example edge_agent.drivers.json_file:make"
            )
        return value


class AgentConfig(_Section):
    """Everything one agent is told."""

    gateway: GatewayId
    community: Id
    data: Path = Path("data")
    broker: BrokerConfig
    sampling: SamplingConfig = SamplingConfig()
    publishing: PublishingConfig = PublishingConfig()
    outbox: OutboxConfig = OutboxConfig()
    pseudonym: PseudonymConfig = PseudonymConfig()
    devices: tuple[DeviceConfig, ...] = Field(default=(), max_length=1_000)

    @model_validator(mode="after")
    def _devices_unique(self) -> "AgentConfig":
        seen: set[str] = set()
        for one in self.devices:
            if one.device in seen:
                raise ValueError(f"device {one.device} is listed twice")
            seen.add(one.device)
        return self


def load(path: Path, environment: Mapping[str, str]) -> AgentConfig:
    """Read the file, apply the environment, resolve relative paths.

    Raises:
        ConfigError: With one ``file:line: key: what is wrong, what is expected`` per mistake.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no mistake
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror}") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(path, str(error))) from None
    except (ValueError, RecursionError) as error:  # digits without end, nesting without end
        raise ConfigError(f"{path}: not TOML: {error}") from None
    overridden, problems = _override(document, environment)
    try:
        config = AgentConfig.model_validate(document)
    except ValidationError as error:
        lines = _lines(text)
        problems += [_problem(path, lines, overridden, item) for item in error.errors()]
        raise ConfigError(*problems) from None
    if problems:
        raise ConfigError(*problems)
    return _resolved(config, path.parent.resolve())


def render(config: AgentConfig) -> str:
    """Return the effective configuration as TOML, with secrets hidden."""
    document = config.model_dump(mode="json", exclude_none=True)
    devices: list[dict[str, Any]] = document.pop("devices")
    out = [f"{key} = {_value(value)}" for key, value in document.items() if not _is_table(value)]
    for name, table in document.items():
        if _is_table(table):
            out += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    for device in devices:
        device["options"] = _hide(device["options"])
        out += ["", "[[devices]]", *(f"{key} = {_value(value)}" for key, value in device.items())]
    return "\n".join(out) + "\n"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _value(value: object) -> str:
    """Return one TOML value; JSON's texts, numbers, booleans and arrays are TOML's."""
    match value:
        case dict():
            table = cast("dict[str, object]", value)
            return (
                "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in table.items()) + " }"
            )
        case list():
            return "[" + ", ".join(_value(one) for one in cast("list[object]", value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def _hide(options: dict[str, Any]) -> dict[str, Any]:
    """Return driver options (the only place where secrets stand in this file) without them."""
    return {
        name: _HIDDEN
        if _SECRET.search(name.lower())
        else _hide(cast("dict[str, Any]", value))
        if isinstance(value, dict)
        else value
        for name, value in options.items()
    }


def _resolved(config: AgentConfig, folder: Path) -> AgentConfig:
    broker = config.broker
    return config.model_copy(
        update={
            "data": folder / config.data,
            "broker": broker.model_copy(
                update={
                    "ca": folder / broker.ca,
                    "certificate": folder / broker.certificate,
                    "key": folder / broker.key,
                }
            ),
            "pseudonym": PseudonymConfig(key_file=folder / config.pseudonym.key_file),
        }
    )


def _override(
    document: dict[str, Any], environment: Mapping[str, str]
) -> tuple[dict[tuple[str, ...], str], list[str]]:
    """Write ``LINLI_*`` into the document; return which variable set which key, and mistakes.

    A name without ``__`` that is no key of ours belongs to somebody else and is left alone.
    """
    overridden: dict[tuple[str, ...], str] = {}
    problems: list[str] = []
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        if len(path) == 1 and path[0] not in AgentConfig.model_fields:
            continue
        table = document
        for part in path[:-1]:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                problems.append(f"{name}: {part} is no table, so nothing in it can be set")
                break
            table = cast("dict[str, Any]", inner)
        else:
            table[path[-1]] = _parsed(environment[name])
            overridden[path] = name
    return overridden, problems


def _parsed(text: str) -> object:
    """Return a TOML value where ``text`` is one (41, true, [1]), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_POSITION: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def _syntax(path: Path, message: str) -> str:
    found = _POSITION.search(message)
    line = f":{found[1]}" if found and found[1] else ""
    what = message[: found.start()] if found else message
    return f"{path}{line}: not TOML: {what}"


_HEADER: Final = re.compile(r"^\s*(\[\[?)\s*([\w.\-\"' ]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY: Final = re.compile(r"^\s*([\w.\-\"']+)\s*=")

_Location = tuple[str | int, ...]


def _lines(text: str) -> dict[_Location, int]:
    """Return in which line each table and key of a valid TOML text stands, counted from 1.

    Keys inside inline tables are not looked for; they are found under the key they belong to.
    """
    lines: dict[_Location, int] = {}
    table: _Location = ()
    counts: dict[_Location, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _path(header[2])
            if header[1] == "[[":
                index = counts.get(table, 0)
                counts[table] = index + 1
                table = (*table, index)
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_path(key[1])), number)
    return lines


def _path(dotted: str) -> _Location:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _problem(
    path: Path,
    lines: Mapping[_Location, int],
    overridden: Mapping[tuple[str, ...], str],
    item: Any,  # noqa: ANN401 (pydantic's ErrorDetails, whose ctx is free-form)
) -> str:
    location: _Location = tuple(item["loc"])
    name = _name(location)
    if location in overridden:
        place = overridden[cast("tuple[str, ...]", location)]
    else:
        known = next(
            (lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), 1
        )
        place = f"{path}:{known}"
    return f"{place}: {name + ': ' if name else ''}{_what(location, item)}"


def _name(location: _Location) -> str:
    name = ""
    for part in location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def _what(location: _Location, item: Any) -> str:  # noqa: ANN401 (as above)
    match item["type"]:
        case "extra_forbidden":
            import difflib

            allowed = _allowed(location[:-1])
            close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(allowed)}"
            return f"unknown, {hint}"
        case "missing":
            return "missing, a value is expected"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            message = str(item["msg"]).replace("Input should be", "expected").replace("Input", "it")
            given = item["input"]
            shown = f"{given!r} is wrong: " if isinstance(given, str | int | float) else ""
            return shown + message[:1].lower() + message[1:]


def _allowed(location: _Location) -> list[str]:
    """Return the keys allowed in the table at ``location``."""
    model: type[BaseModel] = AgentConfig
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        inner = next(iter(get_args(annotation)), annotation)
        assert isinstance(inner, type) and issubclass(inner, BaseModel), annotation
        model = inner
    return list(model.model_fields)
