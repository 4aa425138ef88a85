# SPDX-License-Identifier: Apache-2.0
"""The live stream: server-sent events of one area, begun by a snapshot, resumable."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import Field
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from api.answers import Question
from api.auth import Allow
from api.live import Hub
from api.live_channels import Viewer
from api.people import Principal
from api.places import find_area
from api.scope import ROLES
from api.state import services

log = logging.getLogger(__name__)

# A reader that takes nothing for so long is gone, or frozen.
_SEND_TIMEOUT_S: Final = 10.0


class LiveStream(EventSourceResponse):
    """A stream that leaves the hub when it ends, however it ends."""

    def __init__(self, hub: Hub, viewer: Viewer, first: list[bytes]) -> None:
        """Begin with ``first``, go on with what the viewer is told."""
        # Our own pings tell the server's time; the library's would be comments.
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - a bare dict in its hints
            _events(viewer, first), ping=0, send_timeout=_SEND_TIMEOUT_S
        )
        self._hub = hub
        self._viewer = viewer

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send until the viewer is closed, the reader goes away, or reads no more."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("stream cut, its reader is frozen timeout_s=%.0f", _SEND_TIMEOUT_S)
        finally:
            self._hub.leave(self._viewer)


async def _events(viewer: Viewer, first: list[bytes]) -> AsyncIterator[bytes]:
    # A comment at once: a resumed stream without news must still show that it is open.
    yield b": open\n\n"
    for item in first:
        yield item
    while (item := await viewer.queue.get()) is not None:
        yield item


class StreamQuestion(Question):
    """Which area; by default all that the person may see."""

    area: str | None = Field(default=None, max_length=64)


_WATCHER: Final = Allow(*ROLES, produces="text/event-stream")

router = APIRouter(tags=["live"])


@router.get("/stream", response_class=EventSourceResponse)
async def watch_area(
    person: Annotated[Principal, Depends(_WATCHER)],
    request: Request,
    question: Annotated[StreamQuestion, Query()],
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> LiveStream:
    """Watch an area: ``snapshot``, then ``delta``, ``overview``, ``ping``, and ``reset``.

    Cases are told to the police and admins; to property managers ``cases`` is always empty.
    ``id`` is the cursor; ``Last-Event-ID`` resumes where it is still known, else a snapshot comes.
    After ``reset`` begin anew. At most ten streams a person.
    """
    parts = services(request)
    async with parts.pool.connection() as conn:
        place = await find_area(conn, person.scope, question.area or person.area)
    viewer = await parts.hub.join(person, place)
    started = False
    try:
        first = await parts.hub.begin(viewer, last_event_id)
        started = True
    finally:
        if not started:
            parts.hub.leave(viewer)
    return LiveStream(parts.hub, viewer, first)
