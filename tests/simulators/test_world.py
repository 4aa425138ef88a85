# SPDX-License-Identifier: Apache-2.0
"""Sun, weather and people of the simulated world."""

from datetime import date, datetime
from itertools import pairwise
from math import acos, cos, degrees, radians, sin

import pytest

from simulators.chance import Draw
from simulators.registry import Area
from simulators.spans import HOUR, MINUTE, SECOND, length, micros
from simulators.world import (
    DAY,
    ZONE,
    day_of,
    day_start,
    due,
    night_of,
    night_span,
    people_time,
    people_times,
)
from tests.simulators.town import NOON, world

NIGHT = date(2026, 11, 20).toordinal()
CHENGDU = Area("c01", "city", "community", "", "", 30.6, 104.0, 0, 0)


def local(day: int, hour: int, minute: int = 0) -> int:
    return micros(datetime(2026, 11, day, hour, minute, tzinfo=ZONE))


def test_nights_run_from_noon_to_noon() -> None:
    assert night_span(NIGHT) == (NOON, NOON + DAY)
    assert night_of(NOON) == night_of(NOON + DAY - 1) == NIGHT
    assert night_of(NOON - 1) == NIGHT - 1
    assert day_of(day_start(NIGHT)) == NIGHT
    assert day_of(day_start(NIGHT) - 1) == NIGHT - 1


def test_the_sun_over_chengdu() -> None:
    # By hand: the sun stands 19.7 degrees south that day, and is 14.2 minutes early.
    south, place, horizon = radians(-19.7), radians(30.6), radians(-0.833)
    cosine = (sin(horizon) - sin(place) * sin(south)) / (cos(place) * cos(south))
    half_day = int(degrees(acos(cosine)) / 15 * HOUR)
    # Clocks follow the meridian of 120 degrees east, four minutes a degree.
    sun_noon = NOON + int((4 * (120 - 104) - 14.2) * MINUTE)
    ((dusk, dawn),) = due("sun", CHENGDU, NIGHT)
    assert abs(dusk - (sun_noon + half_day)) < 2 * MINUTE
    assert abs(dawn - (sun_noon + DAY - half_day)) < 2 * MINUTE


@pytest.mark.parametrize(
    ("programme", "after", "before"), [("sun", 0, 0), ("sun+15-10", 15, 10), ("sun+0-30", 0, 30)]
)
def test_offsets_shorten_the_night(programme: str, after: int, before: int) -> None:
    ((dusk, dawn),) = due("sun", CHENGDU, NIGHT)
    assert due(programme, CHENGDU, NIGHT) == [(dusk + after * MINUTE, dawn - before * MINUTE)]


def test_programmes_by_the_clock() -> None:
    assert due("always", CHENGDU, NIGHT) == [(NOON, NOON + DAY)]
    assert due("18:00-06:00", CHENGDU, NIGHT) == [(local(20, 18), local(21, 6))]
    assert due("13:00-15:30", CHENGDU, NIGHT) == [(local(20, 13), local(20, 15, 30))]
    assert due("02:00-03:00", CHENGDU, NIGHT) == [(local(21, 2), local(21, 3))]
    # Due over noon: the morning belongs to the end of a night, the afternoon to the next.
    over = due("10:00-14:00", CHENGDU, NIGHT)
    assert length(over) == 4 * HOUR
    assert sorted(over) == [(NOON, local(20, 14)), (local(21, 10), NOON + DAY)]


def test_an_unknown_programme_is_refused() -> None:
    with pytest.raises(ValueError, match="dusk"):
        due("dusk-dawn", CHENGDU, NIGHT)


def test_weather_is_credible_all_year() -> None:
    town = world()
    hours = [town.ambient_c("c01", NOON + hour * HOUR) for hour in range(0, 366 * 24, 5)]
    assert -5 < min(hours) < 8
    assert 25 < max(hours) < 45
    afternoon, morning = (town.ambient_c("c01", local(20, hour)) for hour in (15, 4))
    assert afternoon > morning + 4


def test_people_come_and_go_by_day() -> None:
    assert people_time(0) == 0
    assert people_time(0.999_999) < DAY
    draw = Draw("people")
    times = [us for _ in range(50) for us in people_times(draw, 40, 30 * SECOND)]
    rush = sum(7 * HOUR <= us < 9 * HOUR for us in times)
    asleep = sum(us < 5 * HOUR for us in times)
    assert rush > 10 * asleep > 0


def test_people_keep_their_distance() -> None:
    times = people_times(Draw("distance"), 500, 30 * SECOND)
    assert len(times) > 300
    assert all(b - a >= 30 * SECOND for a, b in pairwise(times))
    assert times[0] >= MINUTE
    assert times[-1] < DAY - MINUTE
