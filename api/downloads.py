# SPDX-License-Identifier: Apache-2.0
"""Files made for one request and read once: in memory while small, then on disk, never for long."""

import asyncio
from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import Final

from fastapi.responses import StreamingResponse

_IN_MEMORY: Final = 4_000_000
_CHUNK: Final = 65_536


def scratch() -> SpooledTemporaryFile[bytes]:
    """Return an empty file for `answer`, which closes it."""
    return SpooledTemporaryFile(_IN_MEMORY)


def answer(content: SpooledTemporaryFile[bytes], media_type: str, name: str) -> StreamingResponse:
    """Return a file that was written to its end; it ends with the answer, read whole or not."""
    size = content.tell()
    content.seek(0)

    async def chunks() -> AsyncGenerator[bytes]:
        with content:
            while chunk := await asyncio.to_thread(content.read, _CHUNK):
                yield chunk

    return StreamingResponse(
        chunks(),
        media_type=media_type,
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Length": str(size),
        },
    )
