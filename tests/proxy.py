# SPDX-License-Identifier: Apache-2.0
"""The proxy of the fault runs, as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pytest

from deploy.faults.proxy import Direction, Proxy

__all__ = ["Direction", "Proxy", "ProxyFactory", "proxy"]


class ProxyFactory(Protocol):
    def __call__(self, target: int) -> Proxy: ...


@pytest.fixture
def proxy() -> Iterator[ProxyFactory]:
    """Makes proxies: ``proxy(broker.port)``; they end with the test."""
    made: list[Proxy] = []

    def make(target: int) -> Proxy:
        one = Proxy(target)
        one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop()
