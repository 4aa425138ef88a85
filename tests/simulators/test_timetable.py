# SPDX-License-Identifier: Apache-2.0
"""What is planned happens in order, at its time, and may plan more."""

import asyncio

from simulators.spans import SECOND
from simulators.timetable import Timetable
from tests.edge_agent.rig import eventually


class Wall:
    """A wall clock to turn."""

    def __init__(self) -> None:
        self.us = 0

    def __call__(self) -> int:
        return self.us


async def test_in_order_and_not_before_time() -> None:
    wall = Wall()
    timetable = Timetable(wall)
    done = list[tuple[str, int]]()
    timetable.add(30, lambda us: done.append(("third", us)))
    timetable.add(10, lambda us: done.append(("first", us)))
    timetable.add(10, lambda us: done.append(("second", us)))
    timetable.add(1_000 * SECOND, lambda us: done.append(("never", us)))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(timetable.run())
        wall.us = 9
        timetable.add(9, lambda us: done.append(("early", us)))
        await eventually(lambda: len(done) == 1, "what is due at 9")
        wall.us = 20
        timetable.add(20, lambda us: timetable.add(us + 1, lambda at: done.append(("more", at))))
        await eventually(lambda: len(done) == 3, "what is due at 10")
        wall.us = 40
        timetable.add(40, lambda us: done.append(("last", us)))
        await eventually(lambda: len(done) == 6, "all of it")
        running.cancel()
    assert done == [
        ("early", 9),
        ("first", 10),
        ("second", 10),
        ("more", 21),
        ("third", 30),
        ("last", 40),
    ]
