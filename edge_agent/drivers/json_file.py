# SPDX-License-Identifier: Apache-2.0
"""A device whose values another program keeps in a JSON file: a seam for any language.

    [[devices]]
    device = "c01-lamp-017"
    kind = "lamp"
    driver = "edge_agent.drivers.json_file:make"
    options = { kind = "lamp", path = "/run/lamps/c01-lamp-017.json" }

The present values are one JSON object with the fields of the class (``{"lit": true, "power_w":
41.5}``), replaced by an atomic rename. A reading is stamped with the file's modification time, for
that is when its writer vouched for it: a writer that stops is therefore noticed, and one that lives
writes the file again at least once per heartbeat, changed or not.

What happens (deposits, passages, alarms) is appended to ``<path>.events``, one JSON object a line,
with an ``at``. Lines are taken once their line feed is there. How far they were read is kept in
``<path>.events.offset`` and written when the agent asks again, so a crash in between takes the last
lines twice and never loses one. Both files of a gate hold raw credentials: keep them readable for
the agent alone.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast, get_args

from pydantic import AwareDatetime, TypeAdapter
from pydantic_core import from_json

from edge_agent.clock import credible
from edge_agent.kinds import Observation, Reading
from edge_agent.kinds.alarm import AlarmSignal
from edge_agent.kinds.base import ReadingBase
from edge_agent.kinds.bin import DepositEvent
from edge_agent.kinds.gate import Passage

log = logging.getLogger(__name__)

FILE_BYTES_MAX: Final = 64 * 1024
EVENTS_BYTES_MAX: Final = 1024 * 1024

_MODELS: Final[tuple[type[ReadingBase], ...]] = get_args(get_args(Reading)[0])
_READINGS: Final = {model.model_fields["kind"].default: model for model in _MODELS}
# Classes without events are not listed.
_EVENTS: Final[Mapping[str, type[DepositEvent | Passage | AlarmSignal]]] = {
    "bin": DepositEvent,
    "gate": Passage,
    "alarm": AlarmSignal,
}
_INSTANT: Final = TypeAdapter[datetime](AwareDatetime)
# The driver's own knowledge, which the file may not contradict.
_OURS: Final = frozenset({"device", "at", "kind"})


def make(device: str, options: Mapping[str, Any]) -> "JsonFile":
    """Return the driver; options: ``kind``, and ``path`` of the values.

    Raises:
        ValueError: An option is missing, unknown or no value it may have.
    """
    unknown = set(options) - {"kind", "path"}
    if unknown:
        raise ValueError(f"unknown option {', '.join(sorted(unknown))}, expected kind, path")
    kind, path = options.get("kind"), options.get("path")
    if not isinstance(kind, str) or kind not in _READINGS:
        raise ValueError(f"option kind = {kind!r}, expected one of {', '.join(_READINGS)}")
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise ValueError(f"option path = {path!r}, expected an absolute path")
    return JsonFile(device, kind, Path(path))


class JsonFile:
    """One device, as its files tell it."""

    # Hundreds of these live on a small box, and a path is the largest thing in them.
    __slots__ = ("_device", "_events", "_kept", "_kind", "_offset", "_path")

    def __init__(self, device: str, kind: str, path: Path) -> None:
        """Take up where the last run stopped reading events."""
        self._device = device
        self._kind = kind
        self._path = path
        self._events = path.with_name(path.name + ".events") if kind in _EVENTS else None
        self._kept = self._offset = 0 if self._events is None else _read_offset(self._events)

    @property
    def device(self) -> str:
        """The device's id."""
        return self._device

    @property
    def kind(self) -> str:
        """The device's class."""
        return self._kind

    def attach(self, wake: Callable[[], None]) -> None:
        """Ignore ``wake``: a file cannot call; it is looked at with every poll."""

    def poll(self, now: datetime) -> Sequence[Observation]:
        """Return the events appended since the last poll, and the present values.

        Raises:
            OSError: A file is missing or unreadable.
            ValueError: The values are no JSON, too long, or not of this class.
        """
        if self._events is not None and self._offset != self._kept:
            _write_offset(self._events, self._offset)
            self._kept = self._offset
        # The values first: if they cannot be had, no event is taken and none can be lost.
        reading = self._read_values(now)
        return [*self._read_events(now), reading]

    def _read_values(self, now: datetime) -> Reading:
        with self._path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
            modified = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
        if len(text) > FILE_BYTES_MAX:
            raise ValueError(f"{self._path}: more than {FILE_BYTES_MAX} bytes")
        model = _READINGS[self._kind]
        values = _object(text, set(model.model_fields) - _OURS)
        given = {**values, "device": self._device, "at": min(modified, now)}
        return cast("Reading", model.model_validate(given))

    def _read_events(self, now: datetime) -> list[Observation]:
        if self._events is None or not self._events.exists():
            return []
        model = _EVENTS[self._kind]
        with self._events.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._offset:
                log.info("events begun anew path=%s", self._events)
                self._offset = 0
            file.seek(self._offset)
            text = file.read(EVENTS_BYTES_MAX)
        whole = text[: text.rfind(b"\n") + 1]
        if not whole and len(text) == EVENTS_BYTES_MAX:
            whole = text  # a line without end would be read for ever
        self._offset += len(whole)
        found: list[Observation] = []
        for line in whole.splitlines():
            try:
                found.append(self._event(model, line, now))
            except ValueError:
                # Never the line itself: it may hold a credential.
                log.warning("event not understood, left out path=%s", self._events)
        return found

    def _event(
        self, model: type[DepositEvent | Passage | AlarmSignal], line: bytes, now: datetime
    ) -> Observation:
        values = _object(line, _fields(model) - _OURS | {"at"})
        at = _instant(values["at"], now) if "at" in values else now
        return TypeAdapter(model).validate_python({**values, "device": self._device, "at": at})


def _instant(text: str, now: datetime) -> datetime:
    """Return the instant in ``text``; ``now`` where its writer's clock was never set.

    Raises:
        ValueError: It is no instant.
    """
    at = _INSTANT.validate_strings(text)
    return min(at, now) if credible(at) else now


def _object(text: bytes, allowed: set[str]) -> dict[str, Any]:
    """Return the JSON object in ``text``.

    Raises:
        ValueError: It is none, or has other members than those allowed.
    """
    # No table of texts seen: it takes 256 KiB, and these are few and short.
    values = from_json(text, cache_strings="none")
    if not isinstance(values, dict) or set(cast("dict[str, Any]", values)) - allowed:
        raise ValueError(f"expected a JSON object with some of {', '.join(sorted(allowed))}")
    return cast("dict[str, Any]", values)


def _fields(model: type[DepositEvent | Passage | AlarmSignal]) -> set[str]:
    if dataclasses.is_dataclass(model):
        return {one.name for one in dataclasses.fields(model)}
    return set(cast("type[DepositEvent]", model).model_fields)


def _offset_file(events: Path) -> Path:
    return events.with_name(events.name + ".offset")


def _read_offset(events: Path) -> int:
    try:
        return max(0, int(_offset_file(events).read_text()))
    except (FileNotFoundError, ValueError):
        return 0  # at worst what was sent is sent once more


def _write_offset(events: Path, offset: int) -> None:
    path = _offset_file(events)
    draft = path.with_name(path.name + ".new")
    with draft.open("w") as file:
        file.write(str(offset))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
