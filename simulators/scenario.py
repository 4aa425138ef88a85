# SPDX-License-Identifier: Apache-2.0
"""Scenarios: a seed, a city, what went wrong in its past, and what goes wrong while it runs.

A TOML file; every mistake is reported at once as ``file:line:key: what is wrong``.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from edge_agent.kinds.alarm import AlarmType
from simulators import play, registry
from simulators.errors import ScenarioError
from simulators.fate import LASTS_S, WORDS
from simulators.faults import ALARMS, FaultKind
from simulators.play import Line
from simulators.registry import COMMUNITIES_MAX, City
from simulators.spans import instant
from simulators.town import Town

BUILT_IN: Final = Path(__file__).parent / "scenarios"


def _known(word: str) -> str:
    if word not in WORDS:
        raise ValueError(f"expected one of {', '.join(WORDS)}")
    return word


def _timetable(text: object) -> object:
    return play.read(text) if isinstance(text, str) else text


Word = Annotated[str, AfterValidator(_known)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class History(_Table):
    """The past that is replayed before the run goes live."""

    hours: Annotated[float, Field(ge=0, le=30 * 24)] = 24
    step_s: Annotated[float, Field(ge=60, le=3_600)] = 600
    a_day: dict[Word, Annotated[float, Field(ge=0, le=100)]] = Field(
        default_factory=dict[str, float],
        description="how many faults of each word to expect in each community and day",
    )


class Trouble(_Table):
    """One kind of fault that happens while the city is live, once or several times."""

    fault: Word
    for_s: Annotated[float, Field(ge=20, le=86_400)]
    detail: str = ""
    times: Annotated[int, Field(ge=1, le=1_000)] = 1
    apart_s: Seconds = 2.0


class Scripted(Trouble):
    """Trouble at a fixed time after the run went live."""

    at_s: Seconds


class Recurring(Trouble):
    """Trouble that comes again and again as long as the run goes on."""

    every_s: Annotated[float, Field(ge=10, le=86_400)]
    from_s: Seconds = 0.0


class Live(_Table):
    """What goes wrong while the city is live."""

    script: tuple[Scripted, ...] = ()
    programme: tuple[Recurring, ...] = ()
    timetable: Annotated[tuple[Line, ...], BeforeValidator(_timetable)] = Field(
        default=(), description="what happens to whom and when, in words: see `simulators.play`"
    )


class Scenario(_Table):
    """A named, reproducible run."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 1
    communities: Annotated[int, Field(ge=1, le=COMMUNITIES_MAX)] = 16
    history: History = History()
    live: Live = Live()
    town: Town | None = Field(
        default=None, description="one community of its own, instead of some of the usual ones"
    )

    def city(self, in_service_from: datetime) -> City:
        """Return the city in which it plays, in service since an aware instant."""
        if self.town is not None:
            return self.town.build(in_service_from)
        return registry.build(self.seed, self.communities, in_service_from)


def find(name: str) -> Path:
    """Return the file of a scenario that comes with Linli, or that a path leads to."""
    built_in = BUILT_IN / f"{name}.toml"
    return built_in if built_in.is_file() else Path(name)


def change(
    scenario: Scenario,
    *,
    seed: int | None = None,
    communities: int | None = None,
    history_hours: float | None = None,
) -> Scenario:
    """Return a scenario with what somebody wants otherwise; None: as it is.

    Raises:
        ScenarioError: It has a town of its own, which is one community.
    """
    changes: dict[str, object] = {}
    if seed is not None:
        changes["seed"] = seed
    if communities is not None:
        if scenario.town is not None and communities != scenario.communities:
            raise ScenarioError([f"{scenario.name}: has a town of its own, of one community"])
        changes["communities"] = communities
    if history_hours is not None:
        changes["history"] = scenario.history.model_copy(update={"hours": history_hours})
    return scenario.model_copy(update=changes)


def load(file: Path) -> Scenario:
    """Read a scenario.

    Raises:
        ScenarioError: The file cannot be read, or says what no scenario can say.
    """
    try:
        text = file.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ScenarioError([f"{file}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ScenarioError([f"{file}: not UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+)", str(error))
        raise ScenarioError([f"{file}:{place.group(1) if place else 1}: {error}"]) from error
    try:
        scenario = Scenario.model_validate(document)
    except ValidationError as error:
        lines = dict(_lines(text))
        raise ScenarioError(
            [
                f"{file}:{_line(lines, item['loc'])}:{_key(item['loc'])}: {item['msg']}"
                for item in error.errors(include_url=False)
            ]
        ) from None
    mistakes = list(_mistakes(scenario, str(file), dict(_lines(text))))
    if mistakes:
        raise ScenarioError(mistakes)
    return scenario


_ALARM_TYPES: Final = get_args(AlarmType)
_CODE: Final = re.compile("[a-z][a-z0-9_]{0,63}")


def _mistakes(scenario: Scenario, file: str, lines: Mapping[str, int]) -> Iterator[str]:
    """Yield what each key allows but not together with the others of its table."""
    if scenario.town is not None:
        if scenario.communities != 1:
            yield f"{file}:{_line(lines, ('communities',))}:communities: a town is 1"
        if scenario.history.a_day or scenario.live.script or scenario.live.programme:
            where = f"{file}:{_line(lines, ('town',))}:town"
            yield f"{where}: what happens in a town stands in its timetable only"
    place = ("live", "timetable")
    for mistake in play.mistakes(scenario.live.timetable, scenario.city(instant(0))):
        yield f"{file}:{_line(lines, place)}:{_key(place)}: {mistake}"
    lists: tuple[tuple[str, tuple[Trouble, ...]], ...] = (
        ("script", scenario.live.script),
        ("programme", scenario.live.programme),
    )
    for name, troubles in lists:
        for index, trouble in enumerate(troubles):
            for key, mistake in _unfit(trouble):
                place = ("live", name, index, key)
                yield f"{file}:{_line(lines, place)}:{_key(place)}: {mistake}"


def _unfit(trouble: Trouble) -> Iterator[tuple[str, str]]:
    """Yield the keys that do not fit their fault, with what is wrong."""
    low, high = LASTS_S.get(trouble.fault, (0, 86_400))
    if not low <= trouble.for_s <= high:
        yield "for_s", f"{trouble.fault} lasts {low:g} to {high:g} s, or it is a close call"
    if not trouble.detail:
        return
    if trouble.fault in ALARMS:
        if trouble.detail not in _ALARM_TYPES:
            yield "detail", f"expected one of {', '.join(_ALARM_TYPES)}"
    elif trouble.fault != FaultKind.LAMP_FAULT_CODE:
        yield "detail", f"{trouble.fault} has no detail"
    elif not _CODE.fullmatch(trouble.detail):
        yield "detail", "expected a code of a-z, 0-9 and _"


_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_ASSIGNMENT: Final = re.compile(r"""\s*["']?([\w.-]+)["']?\s*=""")


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Yield each key of a TOML text, by its path, with the line on which it stands."""
    prefix = ""
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            prefix = header.group(2).replace('"', "")
            if header.group(1) == "[[":
                index = counts.get(prefix, 0)
                counts[prefix] = index + 1
                prefix = f"{prefix}.{index}"
            yield prefix, number
        elif assignment := _ASSIGNMENT.match(line):
            key = assignment.group(1)
            yield (f"{prefix}.{key}" if prefix else key), number


def _key(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place if part != "[key]")


def _line(lines: Mapping[str, int], place: tuple[int | str, ...]) -> int:
    """Return the line of a key; where it is missing, that of the table it should stand in."""
    parts = [str(part) for part in place if part != "[key]"]
    while parts:
        found = lines.get(".".join(parts))
        if found is not None:
            return found
        parts.pop()
    return 1
