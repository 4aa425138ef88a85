# SPDX-License-Identifier: Apache-2.0
"""Who an indicator speaks of: one device on one day, and when it counts.

In-service time is what the registry says; accepted maintenance is taken off it; what is taken off
is told with its reason, so that every number can say what it left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from ingest.indicators.spans import Span, clip, length, overlap, subtract
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

    def settle(self, readings: Iterable[tuple[int, bool]]) -> tuple[int, int]:
        """Return good and bad time among what counts, microseconds; the rest is unknown.

        Args:
            readings: Instant and what it says, in any order; each holds until the next one, at
                most ``max_silence_us``, so those before the day that still hold belong to it. Of
                two at one instant good wins (`spans.holds`).
        """
        time = {True: 0, False: 0}
        for start, end, good in _runs(sorted(readings), self.max_silence_us):
            time[good] += overlap(self.counted, start, end)
        return time[True], time[False]

    def until(self, until_us: int) -> "Subject":
        """Return the subject as far as its day has come: what lies after is not there yet."""
        start, end = self.whole
        if until_us >= end:
            return self
        come = (start, max(start, until_us))
        return replace(self, whole=come, in_service=clip(self.in_service, come))


def _runs(
    ordered: Sequence[tuple[int, bool]], max_silence_us: int
) -> Iterator[tuple[int, int, bool]]:
    """Yield the longest spans for which readings say the same without silence.

    As `spans.holds`, and the last one too; joined, because most readings repeat the one before,
    and a day of a city has more than a hundred million.
    """
    if not ordered:
        return
    run_start, run_good = ordered[0]
    run_end = run_start
    # Beyond the last one nothing is said: it holds for as long as silence may last.
    after = (ordered[-1][0] + max_silence_us, False)
    for (start, good), (later, _) in pairwise((*ordered, after)):
        if good != run_good or start != run_end:
            yield run_start, run_end, run_good
            run_start, run_good = start, good
        run_end = min(later, start + max_silence_us)
    yield run_start, run_end, run_good


def _holds(spans: tuple[Span, ...], at_us: int) -> bool:
    return any(start <= at_us < end for start, end in spans)
