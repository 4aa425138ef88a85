# SPDX-License-Identifier: Apache-2.0
"""What every test can ask for, by subject; the order in which tests run; nothing hangs on speed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.proxy import proxy
from tests.services import (
    authority,
    broker,
    database,
    database_server,
    database_template,
    own_broker,
    own_database_server,
    second_database,
    service_folder,
    userland,
)

__all__ = [
    "authority",
    "broker",
    "database",
    "database_server",
    "database_template",
    "own_broker",
    "own_database_server",
    "proxy",
    "second_database",
    "service_folder",
    "userland",
]

# One example that takes longer than others, because a machine is busy, is no mistake.
settings.register_profile(
    "linli", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("linli")

_MARKERS = {
    "broker": "talks to a real Mosquitto",
    "database": "talks to a real TimescaleDB",
}
_FIXTURES = {
    "broker": "broker",
    "own_broker": "broker",
    "database": "database",
    "database_server": "database",
    "own_database_server": "database",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by what a test asks for; run what is quick first and the whole demo last."""
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        for name in names:
            if name in _FIXTURES:
                item.add_marker(_FIXTURES[name])
    items.sort(key=_weight)


def _weight(item: pytest.Item) -> int:
    if "system" not in item.path.parts:
        return 0
    return 2 if item.path.name == "test_demo.py" else 1
