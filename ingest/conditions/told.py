# SPDX-License-Identifier: Apache-2.0
"""What a condition is told, and what it answers."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from ingest.indicators.lighting import Place

Listens = Literal["readings", "events", "both"]
MemoryOf = Literal["device", "cell"]
#: JSON as it is; made and read by `Compiled.ask` alone.
Memory = Mapping[str, Any]


class Told(NamedTuple):
    """A reading, an event, or that only time went on.

    Attributes:
        cell: The finest area known of the device.
        at: When the device saw it, or until when time went on.
        values: The reading's fields that say something; on an event or when only time went on,
            those of the latest reading, as far as they are known.
        event: The event's fields that say something.
        lit: What a lamp's values say of light (`lighting.is_lit`).
        due: Whether a lamp's light is due at that instant.
        due_until: Until when this stays so, if that is known.
        seen: When the values were told, if it was not now: only time went on since. Whoever asks
            again at `Answer.until` says so, or what was told once would count twice.
        states: What is known of the device by itself (`fields.STATES`); nothing where it is not in
            use.
        is_known: Whether the values still say anything; what was told too long ago does not.
    """

    device: str
    kind: str
    cell: str
    place: Place
    at: datetime
    values: Mapping[str, Any] = {}
    event: Mapping[str, Any] | None = None
    lit: bool | None = None
    due: bool | None = None
    due_until: datetime | None = None
    seen: datetime | None = None
    states: Mapping[str, str] = {}
    is_known: bool = True


class Answer(NamedTuple):
    """What a condition says.

    Attributes:
        holds: None where it is not known.
        memory: What to hand in the next time; the same object where nothing changed.
        until: When the answer may change though nothing is told: then ask again, with ``seen``.
    """

    holds: bool | None
    memory: Memory | None
    until: datetime | None = None
