# SPDX-License-Identifier: Apache-2.0
"""What a load is told: who it is, and phase by phase what to do; and what a phase came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Plan:
    """Who sends what where.

    Attributes:
        certificates: Folder with a certificate and key of each gateway and of ``listener``.
        listener: An identity that may hear ``live/#`` and its own probes; empty: nobody listens.
        devices: Behind each gateway; there is one gateway a community.
        period_s: How often each device tells.
        status_s: How often each gateway tells that it is there, as agents do.
        batch: Readings of a message; 0 cuts once a second.
        changed_every: One reading of so many says something else than the one before.
        full_bins: In how many communities one bin fills up.
        name: Of this run: streams and occurrences are named after it.
    """

    host: str
    port: int
    ca: str
    certificates: str
    listener: str
    communities: int
    devices: int
    name: str
    period_s: float = 30.0
    status_s: float = 10.0
    batch: int = 0
    changed_every: int = 10
    full_bins: int = 0
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Order:
    """One phase.

    Attributes:
        pace: ``clock`` sends when it is due, ``flow`` as soon as ``limit`` allows.
        seconds: How long it sends.
        window: Messages of a gateway in flight.
        limit: Messages of all gateways in flight (flow).
        counter: A file with the number of messages a receiver without watermarks took.
        since: Of flow: the first reading's instant, seconds since 1970.
        speed: Devices tell so many times as often as planned.
        events_per_s: Alarms raised, by one community after the other.
        probes_per_s: Of the listener to itself, the bare way through the broker.
        catch_up_s: By the clock: it goes on for so long at most, until nothing is held back.
        drain_s: How long to wait for the last watermark afterwards.
    """

    name: str
    pace: Literal["clock", "flow"] = "clock"
    seconds: float = 10.0
    window: int = 50
    limit: int = 8_000
    counter: str = ""
    since: float = 0.0
    speed: float = 1.0
    batch: int = -1
    events_per_s: float = 0.0
    probes_per_s: float = 0.0
    catch_up_s: float = 0.0
    drain_s: float = 60.0


@dataclass(slots=True)
class Tally:
    """What a phase came to."""

    messages: int = 0
    readings: int = 0
    statuses: int = 0
    refused: int = 0  # PUBACKs that said so
    stored: int = 0  # messages known as stored
    stored_readings: int = 0
    resent: int = 0
    lag_max_s: float = 0.0
    live_messages: int = 0
    events: dict[str, float] = field(default_factory=dict[str, float])
    alerts: dict[str, float] = field(default_factory=dict[str, float])
    probes: list[float] = field(default_factory=list[float])
