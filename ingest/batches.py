# SPDX-License-Identifier: Apache-2.0
"""Telemetry read quickly: what is plain and good, as the contract's models would read it.

`edge_agent.messages.parse_telemetry` is the contract, and has the last word: whatever is not read
here (a field of tomorrow, an escape, an instant with an offset, anything wrong) it reads. So this
reader may be narrow, and must never take what the contract refuses, or take it for something else:
the two are held against each other in ``tests/ingest/test_batches.py``. It is made from the JSON
schema of the models, so a device class is added in one place; one with a field that is not known
how to read here is left to the contract.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Protocol, cast

import msgspec

from edge_agent.kinds import Reading
from edge_agent.kinds.base import YEAR_MAX, YEAR_MIN
from edge_agent.messages import PAYLOAD_BYTES_MAX, Telemetry

log = logging.getLogger(__name__)

# The contract cuts what is finer than a microsecond, the decoder here rounds it.
_TOO_FINE: Final = re.compile(rb"\.[0-9]{7,}[Zz+-]")


class Batch(Protocol):
    """A telemetry message of which every reading is good by itself."""

    stream: str
    seq: int
    readings: Sequence[Reading]


def read(payload: bytes) -> Batch | None:
    """Return a telemetry message, or None: `parse_telemetry` is to be asked.

    Ids of devices are not looked at: whoever registered one knows that it is an id. Instants of
    readings are aware, and of any year.
    """
    if (
        len(payload) > PAYLOAD_BYTES_MAX
        or not payload.isascii()
        or b"\\" in payload
        or _TOO_FINE.search(payload)
    ):
        return None
    try:
        batch = _DECODER.decode(payload)
    except msgspec.DecodeError:
        return None
    if batch.sent_at.tzinfo is not UTC or not YEAR_MIN < batch.sent_at.year < YEAR_MAX:
        return None
    return batch


class _Unknown(Exception):
    """A field that this reader does not know how to read."""


def _decoder() -> msgspec.json.Decoder[Any]:
    schema = Telemetry.model_json_schema()
    fields = schema["properties"]
    classes: list[Any] = []
    for kind, name in fields["readings"]["items"]["discriminator"]["mapping"].items():
        model = schema["$defs"][name.rpartition("/")[2]]
        try:
            classes.append(_reading(kind, model))
        except _Unknown as field:
            log.info("read by the contract alone kind=%s field=%s", kind, field)
    readings = fields["readings"]
    message = msgspec.defstruct(
        "Telemetry",
        [
            # Demanded, as on the wire; our own constructors may leave it out.
            ("v", Annotated[int, msgspec.Meta(ge=1, le=1)]),
            ("stream", _type(fields["stream"])),
            ("seq", _type(fields["seq"])),
            ("sent_at", _type(fields["sent_at"])),
            (
                "readings",
                Annotated[
                    list[_union(classes)],
                    msgspec.Meta(min_length=readings["minItems"], max_length=readings["maxItems"]),
                ],
            ),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    return msgspec.json.Decoder(message)


def _union(types: Sequence[Any]) -> Any:  # noqa: ANN401 - a type, as it is written
    union = types[0]
    for one in types[1:]:
        union |= one
    return union


def _reading(kind: str, model: Mapping[str, Any]) -> type[msgspec.Struct]:
    """Return the struct of a device class: its fields by name, and ``kind``."""
    required: list[Any] = []
    optional: list[Any] = []
    for name, field in model["properties"].items():
        if name == "kind":
            continue
        try:
            type_ = str if name == "device" else _type(field)
        except _Unknown as error:
            raise _Unknown(f"{name}: {error}") from None
        if name in model["required"]:
            required.append((name, type_))
        else:
            optional.append((name, type_, field["default"]))
    return msgspec.defstruct(
        model["title"],
        required + optional,
        namespace={"kind": kind},
        tag_field="kind",
        tag=kind,
        forbid_unknown_fields=True,
        frozen=True,
        gc=False,  # nothing in it can lead back to it
    )


# What a schema says of a field for people, or says of it elsewhere.
_SAID: Final = {"title", "description", "default", "type", "format"}


def _type(field: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a type, as it is written
    """Return what the decoder is to make of a field.

    Raises:
        _Unknown: The schema says something of it that is not known here.
    """
    if "anyOf" in field:
        return _union([_type(one) for one in field["anyOf"]])
    said = {name: value for name, value in field.items() if name not in _SAID}
    match field.get("type"), field.get("format"):
        case "null", None:
            type_: Any = None
        case "boolean", None:
            type_ = bool
        case "number", None:
            # Without bounds the two might disagree on what is infinite.
            bounds = {"ge": said.pop("minimum", None), "le": said.pop("maximum", None)}
            if None in bounds.values():
                raise _Unknown("no bounds")
            type_ = Annotated[float, msgspec.Meta(**bounds)]
        case "integer", None:
            bounds = {"ge": said.pop("minimum", None), "le": said.pop("maximum", None)}
            type_ = Annotated[int, msgspec.Meta(**bounds)]
        case "string", "date-time":
            type_ = Annotated[datetime, msgspec.Meta(tz=True)]
        case "string", None if "enum" in said:
            type_ = Literal[tuple(said.pop("enum"))]
        case "string", None if "pattern" in said:
            # Here "$" alone would let a line end after it.
            pattern = cast("str", said.pop("pattern")).replace("$", r"\Z")
            type_ = Annotated[
                str, msgspec.Meta(pattern=pattern, max_length=said.pop("maxLength", None))
            ]
        case other:
            raise _Unknown(str(other))
    if said:
        raise _Unknown(", ".join(said))
    return type_


_DECODER: Final = _decoder()
