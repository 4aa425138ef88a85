# SPDX-License-Identifier: Apache-2.0
"""Who is registered: communities of one gateway and equal devices, as the load speaks for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg import sql

from edge_agent.config import SamplingConfig
from simulators.messages import community_of, device_of, equipment, gateway_of

ZONE: Final = "Asia/Shanghai"
#: As often as an agent that is told nothing else.
STATUS_S: Final = SamplingConfig().status_interval_s
_ROWS_A_STATEMENT: Final = 100_000


@dataclass(frozen=True, slots=True)
class Town:
    """How many, how often each device tells, and each gateway that it is there; s."""

    communities: int
    devices: int
    period_s: float = 30.0
    status_s: float = STATUS_S

    @property
    def total(self) -> int:
        """All devices."""
        return self.communities * self.devices

    @property
    def rate(self) -> float:
        """Readings a second."""
        return self.total / self.period_s

    def gateways(self) -> Sequence[str]:
        """Their ids."""
        return [gateway_of(number) for number in range(1, self.communities + 1)]

    def watched(self, viewers: int) -> list[str]:
        """Which areas people look at: every tenth the whole city, the others a community each."""
        return [
            "city" if n % 10 == 0 else community_of(n % self.communities + 1)
            for n in range(viewers)
        ]


def register(dsn: str, town: Town, since: datetime) -> None:
    """Register a town whose lamps are always due.

    The triggers that keep history run once a statement, so a million devices are a few statements.

    Args:
        dsn: A migrated, empty database.
        town: What to register.
        since: When everything came into service.
    """
    numbers = range(1, town.communities + 1)
    kinds = list(enumerate(equipment(town.devices)))
    rated, null = {"lamp": "60"}, "\\N"
    with psycopg.connect(dsn) as conn:
        conn.execute("SET LOCAL synchronous_commit = off")
        _copy(
            conn,
            "area",
            "area, parent, path, level, name, time_zone, latitude, longitude",
            [
                f"city\t\\N\tcity\tcity\t城\t{ZONE}\t\\N\t\\N\n",
                *(
                    f"{community_of(n)}\tcity\tcity.{community_of(n)}\tcommunity\t社区{n}\t{ZONE}\t"
                    f"{39.9 + n % 50 / 1000:.3f}\t{116.3 + n % 47 / 1000:.3f}\n"
                    for n in numbers
                ),
            ],
        )
        _copy(
            conn,
            "gateway",
            "gateway, community",
            [f"{gateway_of(n)}\t{community_of(n)}\n" for n in numbers],
        )
        step = max(1, _ROWS_A_STATEMENT // town.devices)
        for first in range(1, town.communities + 1, step):
            _copy(
                conn,
                "device",
                "device, kind, gateway, community, area, in_service_from, reporting_period_s,"
                " rated_power_w, programme",
                [
                    f"{device_of(community, kind, index)}\t{kind}\t{gateway}\t{community}\t"
                    f"{community}\t{since}\t{town.period_s}\t"
                    f"{rated.get(kind, null)}\talways\n"
                    for n in range(first, min(first + step, town.communities + 1))
                    for community, gateway in [(community_of(n), gateway_of(n))]
                    for index, kind in kinds
                ],
            )
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE")


def _copy(conn: psycopg.Connection, table: str, columns: str, lines: Iterable[str]) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns.split(", ")))
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write("".join(lines))
