# SPDX-License-Identifier: Apache-2.0
"""What a load's gateways say: texts made once for all of them, with names and instants left open.

A message costs one join, however many readings are in it: building JSON for a city would cost the
generator as much as reading it costs ingest.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from simulators.mqtt import head

# How a community is equipped, as in `simulators.registry`; shares of all its devices.
SHARES: Final[Mapping[str, float]] = {"lamp": 60 / 88, "bin": 12 / 88, "gate": 6 / 88}
# Readings of a device until its values repeat.
_VARIANTS: Final = 10
_COMMUNITY_BYTES: Final = 5
_INSTANT_BYTES: Final = 27


def community_of(number: int) -> str:
    """Return a community's id; numbers count from 1, and have four digits."""
    return f"c{number:04d}"


def gateway_of(number: int) -> str:
    """Return the id of a community's gateway."""
    return f"gw-{community_of(number)}"


def equipment(devices: int) -> list[str]:
    """Return the class of each device of a community, mixed as they would be met in the street."""
    counts = {kind: round(share * devices) for kind, share in SHARES.items()}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    kinds += ["alarm"] * (devices - len(kinds))
    random.Random(devices).shuffle(kinds)  # noqa: S311 - the same everywhere, no secret
    return kinds


def device_of(community: str, kind: str, index: int) -> str:
    """Return the id of a community's device."""
    return f"{community}-{kind}-{index:04d}"


class Clock:
    """Instants as the wire writes them."""

    def __init__(self) -> None:
        """Start with no second known."""
        self._second = -1
        self._text = b""

    def text(self, at_us: int) -> bytes:
        """Return microseconds since 1970 as an RFC 3339 instant."""
        second, us = divmod(at_us, 1_000_000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode()
        return b"%b%06dZ" % (self._text, us)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose words a telemetry message is: the parts of it that never change.

    Attributes:
        topic: With its length before it.
        opening: A payload up to its seq.
    """

    community: bytes
    topic: bytes
    opening: bytes

    @staticmethod
    def of(community: str, topic: bytes, stream: str) -> Speaker:
        """Return the one of a gateway's stream."""
        return Speaker(community.encode(), topic, f'{{"v":1,"stream":"{stream}","seq":'.encode())


class Slice:
    """A run of readings of any community, each at the same instant: one join from the wire."""

    __slots__ = ("_bytes", "_first", "_parts", "count")

    def __init__(self, texts: list[tuple[str, str, str]]) -> None:
        """Take each reading's text before the community, before the instant, and after it."""
        self.count = len(texts)
        closed = [(b, m, e + ("]}" if n == self.count else "," ))
                  for n, (b, m, e) in enumerate(texts, 1)]  # fmt: skip
        self._parts: list[bytes] = []
        tail = ""
        for before, middle, end in closed:
            # Slots are at 1, 5, 9... and 3, 7, 11...; 0 is the head, made for each message.
            self._parts += [(tail + before).encode(), b"", middle.encode(), b""]
            tail = end
        self._parts.append(tail.encode())
        self._first = self._parts[0]
        fixed = sum(map(len, self._parts))
        self._bytes = fixed + self.count * (_COMMUNITY_BYTES + _INSTANT_BYTES)

    def packet(self, speaker: Speaker, mid: int, seq: int, at: bytes) -> bytes:
        """Return the whole PUBLISH; ``at`` is `Clock.text`."""
        count, parts = self.count, self._parts
        opening = b'%b%d,"sent_at":"%b","readings":[' % (speaker.opening, seq, at)
        parts[0] = head(speaker.topic, mid, len(opening) + self._bytes) + opening + self._first
        parts[1::4] = [speaker.community] * count
        parts[3::4] = [at] * count
        return b"".join(parts)


class Readings:
    """What every gateway says: one text a slice of its devices."""

    def __init__(self, devices: int, changed_every: int = 10) -> None:
        """Lay out a community; texts are made when they are first needed."""
        self._kinds = equipment(devices)
        self._changed_every = changed_every
        self._slices: dict[tuple[int, int, int, bool], Slice] = {}
        self._first_bin = self._kinds.index("bin") if "bin" in self._kinds else -1

    def slice(self, cursor: int, count: int, *, full_bin: bool) -> Slice:
        """Return ``count`` readings from the ``cursor``-th on that the gateway ever made."""
        devices = len(self._kinds)
        turn, first = divmod(cursor, devices)
        # A bin is full from its second reading on.
        full = full_bin and turn > 0
        key = (first, count, turn % (self._changed_every * _VARIANTS), full)
        known = self._slices.get(key)
        if known is None:
            known = self._slices[key] = Slice(
                [
                    self._reading((first + step) % devices, turn + (first + step) // devices, full)
                    for step in range(count)
                ]
            )
        return known

    def _reading(self, index: int, turn: int, full_bin: bool) -> tuple[str, str, str]:
        kind = self._kinds[index]
        value = (index + turn) // self._changed_every % _VARIANTS
        match kind:
            case "lamp":
                rest = (
                    f'"lit":true,"level_pct":100,"power_w":{58.5 + value},"voltage_v":228.4,'
                    f'"current_a":0.27,"energy_kwh":1834.2'
                )
            case "bin":
                fill = 96.0 if full_bin and index == self._first_bin else 20.0 + value
                rest = f'"fill_pct":{fill},"weight_kg":12.5,"temperature_c":21.0,"stream":"kitchen"'
            case "gate":
                rest = f'"door":"{"open" if value % 2 else "closed"}","lock":"locked"'
            case _:
                rest = f'"armed":{"false" if value % 2 else "true"},"battery_pct":90.0'
        return f'{{"kind":"{kind}","device":"', f'-{kind}-{index:04d}","at":"', f'",{rest}}}'


def alarm(stream: bytes, seq: int, device: str, at: bytes, occurrence: str) -> bytes:
    """Return an event message: somebody asks for help."""
    return (
        b'{"v":1,"stream":"%b","seq":%d,"sent_at":"%b","event":{"kind":"alarm","device":"%b",'
        b'"at":"%b","event":"panic","phase":"raised","occurrence":"%b"}}'
        % (stream, seq, at, device.encode(), at, occurrence.encode())
    )


def status(
    at: bytes, telemetry: tuple[bytes, int, int], event: tuple[bytes, int, int], interval_s: float
) -> bytes:
    """Return a heartbeat, as an agent publishes it.

    Args:
        at: When.
        telemetry: Its stream, the lowest seq not known as stored, and the one to come.
        event: The same of the other lane.
        interval_s: When the next one comes.
    """
    held = telemetry[2] - telemetry[1] + event[2] - event[1]
    return (
        b'{"v":1,"state":"online","at":"%b","agent_version":"load","streams":['
        b'{"lane":"telemetry","stream":"%b","oldest":%d,"next":%d},'
        b'{"lane":"event","stream":"%b","oldest":%d,"next":%d}],"outbox_messages":%d,'
        b'"outbox_bytes":%d,"outbox_limit_bytes":67108864,"clock":"synchronized",'
        b'"status_interval_s":%b}'
        % (at, *telemetry, *event, held, 4_096 * held, f"{interval_s:g}".encode())
    )
