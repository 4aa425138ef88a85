# SPDX-License-Identifier: Apache-2.0
"""Who lived where, day by day: the denominators of rates per resident."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any, Final

from psycopg import Connection

# Residents from one day until before another.
Figure = tuple[int, int, int]
_NONE: Final[tuple[Figure, ...]] = ()
# A query rather than a call, as in `sums`: the numbers are read over asynchronous connections.
BELOW: Final = """
    SELECT l.path::text, greatest(l.since, %(first)s), least(l.until, %(end)s),
           lower(p.valid), upper(p.valid), p.residents
    FROM area_lay AS l
    LEFT JOIN area_population AS p
        ON p.area = l.area AND p.valid && daterange(%(first)s, %(end)s)
    WHERE l.path ~ ('*.' || subpath(%(area)s::ltree, -1)::text || '.*')::lquery
      AND l.since < %(end)s AND l.until > %(first)s
    ORDER BY nlevel(l.path) DESC, l.path, p.valid
"""


@dataclass(frozen=True, slots=True)
class Population:
    """The residents of an area, summed over the days of a window.

    Attributes:
        person_days: Residents times days, over the days on which all residents are known.
        days_covered: How many such days there are: ``person_days / days_covered`` is the average.
        days: How many days of the window it lay there; a rate needs all of them covered.
    """

    person_days: int
    days_covered: int
    days: int

    def plus(self, other: "Population") -> "Population":
        """Return both together; of other days."""
        return Population(
            self.person_days + other.person_days,
            self.days_covered + other.days_covered,
            self.days + other.days,
        )


def person_days(conn: Connection, path: str, first: date, end: date) -> Population:
    """Return the population of one area from ``first`` until before ``end``, see `below`.

    Raises:
        KeyError: There is no area with this path.
        ValueError: The window is empty.
    """
    return below(conn, path, first, end)[path.rpartition(".")[2]]


def below(conn: Connection, path: str, first: date, end: date) -> dict[str, Population]:
    """Return the population of an area and of every area below it, by the label of its path.

    On each day the areas directly below are added up where all of them are known, themselves so
    determined; else the area's own figure counts. So nobody is counted twice, a level may be
    missing, and a figure for some cells only never stands for a whole community. Where neither is
    known the day is not covered. The tree is that of the day: of an area that lay elsewhere for
    some of the window only the days count on which it lay here.

    Raises:
        ValueError: The window is empty.
    """
    return fold(conn.execute(BELOW, parameters(path, first, end)), first, end)


def parameters(path: str, first: date, end: date) -> Mapping[str, object]:
    """Return what `BELOW` is asked with.

    Raises:
        ValueError: The window is empty.
    """
    if first >= end:
        raise ValueError(f"no day from {first} until before {end}")
    return {"first": first, "end": end, "area": path}


def fold(rows: Iterable[Sequence[Any]], first: date, end: date) -> dict[str, Population]:
    """Return what the rows of `BELOW` come to, see `below`."""
    start, stop = first.toordinal(), end.toordinal()
    lay = [
        (
            path,
            since.toordinal(),
            until.toordinal(),
            None
            if residents is None
            else (
                max(start, valid_from.toordinal()),
                stop if valid_to is None else min(stop, valid_to.toordinal()),
                residents,
            ),
        )
        for path, since, until, valid_from, valid_to, residents in rows
    ]
    # The tree stands still between the days on which something in it moved: mostly all the time.
    cuts = {day for _, since, until, _ in lay for day in (since, until) if start < day < stop}
    found: dict[str, Population] = {}
    for begin, finish in pairwise([start, *sorted(cuts), stop]):
        own: dict[str, list[Figure]] = {}  # in the order of the rows: what lies below comes first
        for path, since, until, figure in lay:
            if since <= begin and finish <= until:
                figures = own.setdefault(path, [])
                if figure is not None and figure[0] < finish and begin < figure[1]:
                    figures.append((max(begin, figure[0]), min(finish, figure[1]), figure[2]))
        for path, figures in _up_the_tree(own).items():
            label = path.rpartition(".")[2]
            part = _sum(figures, finish - begin)
            found[label] = found[label].plus(part) if label in found else part
    return found


def _up_the_tree(own: Mapping[str, Sequence[Figure]]) -> Mapping[str, Sequence[Figure]]:
    """Return what is known of each area; of those below another the other's comes later."""
    children: defaultdict[str, list[str]] = defaultdict(list)
    known: dict[str, Sequence[Figure]] = {}
    for area, figures in own.items():
        known[area] = _either(_all_of([known[child] for child in children[area]]), figures)
        children[area.rpartition(".")[0]].append(area)
    return known


def _sum(figures: Iterable[Figure], days: int) -> Population:
    spans = [(end - start, residents) for start, end, residents in figures]
    return Population(
        sum(length * residents for length, residents in spans),
        sum(length for length, _ in spans),
        days,
    )


def _all_of(parts: Sequence[Sequence[Figure]]) -> Sequence[Figure]:
    """Return the sum of figures for the days on which every part has one."""
    if not parts or not all(parts):
        return _NONE
    if len(parts) == 1:
        return parts[0]
    # By day: how many parts begin or end to be known, and how many residents come or go with them.
    steps: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for figures in parts:
        for start, end, residents in figures:
            for day, sign in ((start, 1), (end, -1)):
                steps[day][0] += sign
                steps[day][1] += sign * residents
    return _figures(steps, len(parts))


def _figures(steps: Mapping[int, Sequence[int]], parts: int) -> Sequence[Figure]:
    figures: list[Figure] = []
    count = residents = since = 0
    for day, (more, people) in sorted(steps.items()):
        if count == parts:
            figures.append((since, day, residents))
        count, residents, since = count + more, residents + people, day
    return figures


def _either(first: Sequence[Figure], second: Sequence[Figure]) -> Sequence[Figure]:
    """Return ``first``, and ``second`` for the days that it leaves open; both in order."""
    if not first or not second:
        return first or second
    figures = list(first)
    for start, end, residents in second:
        for taken_from, taken_to, _ in first:
            if start < min(taken_from, end):
                figures.append((start, min(taken_from, end), residents))
            start = max(start, min(taken_to, end))
        if start < end:
            figures.append((start, end, residents))
    return sorted(figures)
