# SPDX-License-Identifier: Apache-2.0
"""A task that is told to end in the very moment in which something else happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiomqtt
import pytest


class Stop:
    """Cancels a task so many turns of the loop after the library took a packet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, callback: str, turns: int) -> None:
        self.came = False
        self.running: asyncio.Task[None] | None = None
        self._turns = turns
        original: Callable[..., None] = getattr(aiomqtt.Client, callback)

        def called(client: aiomqtt.Client, *arguments: Any, **named: Any) -> None:
            original(client, *arguments, **named)
            if self.running is not None and not self.came:
                self.came = True
                self._after(self._turns)

        monkeypatch.setattr(aiomqtt.Client, callback, called)

    def _after(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._after, turns - 1)
        else:
            assert self.running is not None
            self.running.cancel()
