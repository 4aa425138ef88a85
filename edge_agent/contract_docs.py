# SPDX-License-Identifier: Apache-2.0
"""Writes the contract down for people and other programs: ``python -m edge_agent.contract_docs``.

Makes ``docs/contract.md``, ``docs/asyncapi.json`` (AsyncAPI 3) and ``docs/schema/v1/*.json`` (JSON
Schema) in a checkout, from the models and the golden payloads. Nothing that runs imports this.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from edge_agent import topics
from edge_agent.kinds import Event, Reading
from edge_agent.kinds.base import (
    CODE_PATTERN,
    GATEWAY_PATTERN,
    ID_PATTERN,
    YEAR_MAX,
    YEAR_MIN,
    Wire,
)
from edge_agent.kinds.gate import PSEUDONYM_PATTERN
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    READINGS_MAX,
    READINGS_SENT_MAX,
    REASONS,
    SEQ_MAX,
    ZONE_PATTERN,
    Ack,
    Aggregate,
    Command,
    Config,
    EventMessage,
    Live,
    LiveDevices,
    Result,
    Status,
    Telemetry,
)

COMMAND: Final = "python -m edge_agent.contract_docs"
PAYLOADS: Final = Path("tests/payloads/v1")

# What pydantic makes of a model; its shape is JSON Schema's own business.
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the contract: where it travels, and the golden payloads that show it."""

    name: str
    model: type[Wire]
    direction: Literal["up", "down", "live"]
    examples: Sequence[str]

    @property
    def topic(self) -> str:
        """The topic, with its variable levels in braces."""
        if self.direction == "live":
            apart = "" if self.name == "live" else f"/{self.name}"
            return f"{topics.PREFIX}/live/{{community}}{apart}"
        return f"{topics.PREFIX}/{{partition}}/{{gateway}}/{self.direction}/{self.name}"

    @property
    def qos(self) -> int:
        """The quality of service."""
        return topics.LIVE_QOS if self.direction == "live" else topics.QOS

    @property
    def retained(self) -> bool:
        """Whether the broker keeps the last one for those who subscribe later."""
        return self.name in topics.RETAINED

    @property
    def summary(self) -> str:
        """The first sentence of the model's docstring."""
        return _paragraphs(self.model.__doc__)[0]


MESSAGES: Final = (
    Message("telemetry", Telemetry, "up", ("telemetry",)),
    Message(
        "event",
        EventMessage,
        "up",
        ("event-gate-granted", "event-bin-deposit", "event-alarm-intrusion", "event-gap"),
    ),
    Message("status", Status, "up", ("status-birth", "status-will")),
    Message("result", Result, "up", ("result-applied", "result-failed")),
    Message("aggregate", Aggregate, "up", ("aggregate", "aggregate-areas")),
    Message("ack", Ack, "down", ("ack", "ack-rejections")),
    Message("command", Command, "down", ("command",)),
    Message("config", Config, "down", ("config",)),
    Message("live", Live, "live", ("live",)),
    Message("devices", LiveDevices, "live", ("devices",)),
)

PARAMETERS: Final = {
    "partition": (
        f"CRC-32 of the gateway id modulo {topics.PARTITIONS}, as two hex digits: the unit of "
        "scale-out."
    ),
    "gateway": "The gateway's id, which is also its MQTT user name and its certificate's CN.",
    "community": "The id of the community's area.",
}

# Units are the last part of a field's name.
UNITS: Final = {
    "_pct": "%",
    "_kwh": "kWh",
    "_hours": "h",
    "_bytes": "bytes",
    "_kg": "kg",
    "_w": "W",
    "_v": "V",
    "_a": "A",
    "_c": "°C",
    "_s": "s",
    "lux": "lx",
}

# A pattern that has a name is called by it.
PATTERNS: Final = {
    ID_PATTERN: "id",
    GATEWAY_PATTERN: "gateway id",
    CODE_PATTERN: "code",
    PSEUDONYM_PATTERN: "pseudonym",
    ZONE_PATTERN: "time zone",
}


def render(root: Path) -> dict[Path, str]:
    """Return every generated file's text by its path below ``root``, the folder of a checkout.

    Raises:
        OSError: A golden payload that serves as an example is not there.
    """
    files = {
        Path(f"docs/schema/v1/{message.name}.json"): _json(json_schema(message))
        for message in MESSAGES
    }
    examples = {
        name: (root / PAYLOADS / f"{name}.json").read_text(encoding="utf-8")
        for message in MESSAGES
        for name in message.examples
    }
    files[Path("docs/asyncapi.json")] = _json(_asyncapi(examples))
    files[Path("docs/contract.md")] = "\n".join(_contract(examples)) + "\n"
    return files


def main() -> None:
    """Write the files into the checkout that this module lies in."""
    root = Path(__file__).parents[1]
    for path, text in render(root).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


# JSON Schema


def json_schema(message: Message) -> Schema:
    """Return what a sender must keep to; receivers tolerate a little more."""
    schema = message.model.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        _tidy(part)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:linli:v1:{message.name}",
        **schema,
    }


def _tidy(model: Schema) -> None:
    """Make the fields that tell a message from others mandatory; drop what tells nothing."""
    model["description"] = " ".join(_paragraphs(model["description"]))
    required = {name for name, field in model["properties"].items() if "const" in field}
    required |= set(model.get("required", ()))
    model["required"] = [name for name in model["properties"] if name in required]
    for field in model["properties"].values():
        field.pop("title", None)
        if "const" in field or field.get("default", ...) is None:
            field.pop("default", None)
        if "patternProperties" in field:
            field["additionalProperties"] = False
        for holder in (field, field.get("items", {})):
            # Of OpenAPI, not of JSON Schema: `kind` is a constant of each branch anyway.
            holder.pop("discriminator", None)


# AsyncAPI


def _asyncapi(examples: Mapping[str, str]) -> Schema:
    """Return the contract as the server sees it: what goes up is received, the rest is sent."""
    channels: Schema = {}
    operations: Schema = {}
    messages: Schema = {}
    for message in MESSAGES:
        levels = [name for name in PARAMETERS if f"{{{name}}}" in message.topic]
        channels[message.name] = {
            "address": message.topic,
            "description": message.summary,
            "messages": {message.name: {"$ref": f"#/components/messages/{message.name}"}},
            "parameters": {name: {"$ref": f"#/components/parameters/{name}"} for name in levels},
        }
        receives = message.direction == "up"
        operations[f"{'receive' if receives else 'send'}_{message.name}"] = {
            "action": "receive" if receives else "send",
            "channel": {"$ref": f"#/channels/{message.name}"},
            "messages": [{"$ref": f"#/channels/{message.name}/messages/{message.name}"}],
            "bindings": {
                "mqtt": {"qos": message.qos, "retain": message.retained, "bindingVersion": "0.2.0"}
            },
        }
        messages[message.name] = {
            "name": message.name,
            "title": message.model.__name__,
            "summary": message.summary,
            "contentType": "application/json",
            "payload": {"$ref": f"./schema/v1/{message.name}.json"},
            "examples": [
                {"name": name, "payload": json.loads(examples[name])} for name in message.examples
            ],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Linli wire contract, as the server sees it",
            "version": "1",
            "description": (
                "What gateways and the server say to each other over MQTT 5. "
                f"Made by `{COMMAND}`; contract.md says the same for people."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "secure-mqtt",
                "protocolVersion": "5.0",
                "description": "TLS with one client certificate per gateway.",
                "variables": {
                    "host": {"description": "Where the broker listens."},
                    "port": {"default": "8883"},
                },
                "security": [{"$ref": "#/components/securitySchemes/certificate"}],
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "parameters": {name: {"description": text} for name, text in PARAMETERS.items()},
            "securitySchemes": {
                "certificate": {
                    "type": "X509",
                    "description": "The certificate's CN is the gateway id.",
                }
            },
        },
    }


# The page for people


def _contract(examples: Mapping[str, str]) -> Iterator[str]:
    yield "# The wire contract"
    yield ""
    yield f"<!-- Made from edge_agent by `{COMMAND}`; not edited by hand. -->"
    yield ""
    yield "What gateways and the server say to each other, over MQTT 5. Every payload is JSON in"
    yield f"UTF-8, one object of at most {PAYLOAD_BYTES_MAX:,} bytes. The same for programs:"
    yield "[asyncapi.json](asyncapi.json), [schema/v1/](schema/v1/), and every payload ever shipped"
    yield "in [tests/payloads/v1/](../tests/payloads/v1/)."
    yield ""
    yield from _topics()
    yield from RULES.splitlines()
    yield ""
    yield "## Messages"
    yield ""
    for message in MESSAGES:
        yield f"### {message.name}"
        yield ""
        yield f"`{message.topic}`"
        yield ""
        schema = json_schema(message)
        apart = {model.__name__ for model in (*_members(Reading), *_members(Event))}
        yield from _model(message.model.__doc__, schema)
        for name, part in schema.get("$defs", {}).items():
            if name not in apart:
                yield f"**{name}**: {part['description']}"
                yield ""
                yield from _fields(part)
        for name in message.examples:
            yield "```json"
            yield examples[name].rstrip()
            yield "```"
            yield ""
    yield "## Device classes"
    yield ""
    yield "A reading says how a device is, in whichever of its class's fields it knows: an absent"
    yield "field (or null) says nothing. An event says that something happened."
    yield ""
    readings = json_schema(MESSAGES[0])["$defs"]
    events = json_schema(MESSAGES[1])["$defs"]
    for reading in _members(Reading):
        kind = reading.model_fields["kind"].default
        yield f"### {kind}"
        yield ""
        yield "Reading:"
        yield ""
        yield from _model(reading.__doc__, readings[reading.__name__])
        for event in _members(Event):
            if event.model_fields["kind"].default == kind:
                yield "Event:"
                yield ""
                yield from _model(event.__doc__, events[event.__name__])
    yield "## Reason codes"
    yield ""
    yield "Why a message, or one reading of it, was refused: told in `ack` and kept with the bytes"
    yield "in the dead letters. A refusal by the database itself is `db.` and its SQLSTATE. Codes"
    yield "are added, never renamed."
    yield ""
    yield from _table(("code", "meaning"), ((f"`{c}`", text) for c, text in REASONS.items()))


def _topics() -> Iterator[str]:
    yield "## Topics"
    yield ""
    directions = {"up": "gateway to server", "down": "server to gateway", "live": "server to api"}
    yield from _table(
        ("topic", "direction", "QoS", "retained", "carries"),
        (
            (
                f"`{message.topic}`",
                directions[message.direction],
                str(message.qos),
                "yes" if message.retained else "no",
                f"[{message.name}](#{message.name}): {message.summary}",
            )
            for message in MESSAGES
        ),
    )
    for name, text in PARAMETERS.items():
        yield f"- `{{{name}}}`: {text}"
    yield ""


RULES: Final = f"""## Rules

**What a sender keeps to.** `(gateway, stream, seq)` names one immutable message for ever: `seq`
starts at 1 in every stream, has no holes and is never used again. At most {READINGS_SENT_MAX}
readings go into one telemetry message, one event into one event message. Both stay on disk until
`down/ack` says that their `seq` is committed, however often the broker confirmed them.

**What a receiver tolerates.** Fields it does not know, whatever is in them. Up to {READINGS_MAX:,}
readings a message. Of a key that stands twice in an object, the last. Null, where a field may be
left out. Instants in any zone, with a space or `_` for `T`, with more than six decimals (cut off),
or as seconds or milliseconds since 1970 written as text; all are kept in UTC to the microsecond.

**What a receiver refuses.** The impossible: NaN and infinities, numbers outside their range, text
or booleans for numbers, instants without a zone or outside {YEAR_MIN + 1} to {YEAR_MAX - 1}, ids
that would break a topic, U+0000 and lone surrogates in text, an unknown `v`, `kind` or enum member.
Of a batch it refuses the bad readings and keeps the others. What is refused is kept with its bytes
and told in `ack`; sending it again changes nothing.

**How the contract changes.** Safe: a new optional field, a new device class, a new enum member;
older receivers ignore the first and set the others apart, to be taken in after their upgrade.
Never: renaming a field, narrowing a range, making a field mandatory, another meaning for a name.
That takes a new `v` beside the old one. Gateways are older than servers: every payload version ever
shipped still parses.

| word | form |
|---|---|
| id | `{ID_PATTERN}` |
| gateway id | `{GATEWAY_PATTERN}` |
| code | `{CODE_PATTERN}` |
| pseudonym | `{PSEUDONYM_PATTERN}` |
| instant | RFC 3339 with a zone, for example `2026-11-21T10:00:00.950Z` |
| day | an ISO 8601 date, for example `2026-11-21` |
| time zone | an IANA name, for example `Asia/Shanghai` |
| seq | an integer from 1 to 2^53 - 1 ({SEQ_MAX}) |
"""


def _members(union: object) -> tuple[type[Wire], ...]:
    """Return the models of a discriminated union."""
    return get_args(get_args(union)[0])


def _paragraphs(doc: str | None) -> list[str]:
    """Return a docstring's paragraphs, each on one line, as Markdown."""
    blocks = (doc or "").replace("``", "`").split("\n\n")
    return [" ".join(block.split()) for block in blocks if block.strip()]


def _model(doc: str | None, schema: Schema) -> Iterator[str]:
    for paragraph in _paragraphs(doc):
        yield paragraph
        yield ""
    yield from _fields(schema)


def _fields(schema: Schema) -> Iterator[str]:
    """Yield the table of a model's fields: those that must be there are marked."""
    rows: list[Sequence[str]] = []
    for name, field in schema["properties"].items():
        form, limits = _form(name, field)
        mandatory = "yes" if name in schema["required"] else ""
        meaning = field.get("description", "tells what this is" if name == "kind" else "")
        rows.append((f"`{name}`", mandatory, form, limits, meaning))
    yield from _table(("field", "mandatory", "type", "range, unit", "meaning"), rows)


def _form(name: str, field: Schema) -> tuple[str, str]:
    """Return a field's type in words, and its range with unit."""
    choices = [choice for choice in field.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        return _form(name, choices[0])
    if choices:
        return " or ".join(_form(name, choice)[0] for choice in choices), ""
    if "const" in field:
        return f"`{json.dumps(field['const'])}`", ""
    if "enum" in field:
        return ", ".join(f"`{json.dumps(member)}`" for member in field["enum"]), ""
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2], ""
    if "oneOf" in field:
        return " or ".join(_form(name, choice)[0] for choice in field["oneOf"]), ""
    match field["type"]:
        case "array" if "prefixItems" in field:
            inside = ", ".join(_form(name, item)[0] for item in field["prefixItems"])
            return f"array of exactly ({inside})", ""
        case "array":
            return f"array of {_form(name, field['items'])[0]}", _range(field, "Items", "entries")
        case "object":
            inner = field.get("additionalProperties")
            (inner,) = [inner] if inner else field["patternProperties"].values()
            return f"object of {_form(name, inner)[0]} by name", ""
        case "string" if field.get("format") == "date-time":
            return "instant", ""
        case "string" if field.get("format") == "date":
            return "day", ""
        case "string" if field.get("pattern") in PATTERNS:
            return PATTERNS[field["pattern"]], ""
        case "string" if "pattern" in field:
            return "text", f"`{field['pattern']}`"
        case "string":
            return "text", _range(field, "Length", "characters")
        case kind:
            unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
            return kind, _range(field, "imum", unit)


def _range(field: Schema, suffix: str, unit: str) -> str:
    """Return a range in words; ``suffix`` tells JSON Schema's min and max of each type apart."""
    above = field.get("exclusiveMinimum")
    low: float | None = field.get(f"min{suffix}", above)
    high: float | None = field.get(f"max{suffix}")
    if low is not None and high is not None:
        words = f"{_number(low)} to {_number(high)}"
    elif low is not None:
        words = f"from {_number(low)}"
    elif high is not None:
        words = f"at most {_number(high)}"
    else:
        return unit if suffix == "imum" else ""
    return f"{'above ' if above is not None else ''}{words} {unit}".strip()


def _number(value: float) -> str:
    return "2^53 - 1" if value == SEQ_MAX else f"{value:,.10g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"
    yield ""


if __name__ == "__main__":
    main()
