# SPDX-License-Identifier: Apache-2.0
"""Who an indicator speaks of: one device on one day, and when it counts.

In-service time is what the registry says; accepted maintenance is taken off it; what is taken off
is told with its reason, so that every number can say what it left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ingest.indicators.spans import Hold, Span, clip, covered, length, subtract
from ingest.indicators.tally import Exclusion


@dataclass(frozen=True)
class Subject:
    """A device on one local day (or night); all instants are whole microseconds since 1970.

    Attributes:
        kind: Its device class.
        area: The finest area known it stood in.
        in_service: When it was in service: disjoint spans within ``whole``, maintenance still in.
        maintenance: Accepted maintenance; may overlap itself and reach beyond the day.
        whole: The day, from its start to its end.
        max_silence_us: How long one of its readings holds when no later one comes.
    """

    device_id: int
    kind: str
    area: str
    in_service: tuple[Span, ...]
    maintenance: tuple[Span, ...]
    whole: Span
    max_silence_us: int

    @cached_property
    def counted(self) -> tuple[Span, ...]:
        """In service and not in maintenance: the time that counts, disjoint."""
        return subtract(self.in_service, self.maintenance)

    @cached_property
    def counted_us(self) -> int:
        """How much time counts, microseconds."""
        return length(self.counted)

    @property
    def excluded(self) -> Mapping[str, int]:
        """What does not count, microseconds by reason; with ``counted_us`` it makes the day."""
        in_service_us = length(self.in_service)
        return {
            "maintenance": in_service_us - self.counted_us,
            "not_in_service": self.whole[1] - self.whole[0] - in_service_us,
        }

    def why_excluded(self, at_us: int) -> Exclusion | None:
        """Return why an instant of the day does not count, or None where it does."""
        if _holds(self.counted, at_us):
            return None
        return "maintenance" if _holds(self.in_service, at_us) else "not_in_service"

    def settle(self, runs: Sequence[Hold]) -> tuple[int, int]:
        """Return good and bad time among what counts, microseconds; the rest is unknown.

        Args:
            runs: From when to when it is known to have been one or the other (`spans.runs`).
        """
        good, bad = (covered(self.counted, runs, good=one) for one in (True, False))
        return good, bad

    def until(self, until_us: int) -> "Subject":
        """Return the subject as far as its day has come: what lies after is not there yet."""
        start, end = self.whole
        if until_us >= end:
            return self
        come = (start, max(start, until_us))
        return replace(self, whole=come, in_service=clip(self.in_service, come))


def _holds(spans: tuple[Span, ...], at_us: int) -> bool:
    return any(start <= at_us < end for start, end in spans)
