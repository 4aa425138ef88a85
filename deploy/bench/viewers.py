# SPDX-License-Identifier: Apache-2.0
"""People who watch: open streams that are read and counted, nothing more.

Run by `python -m deploy.bench.viewers HOST:PORT`; tokens and areas come in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys

_RETRY_S = 1.0


async def watch(host: str, port: int, token: str, area: str) -> None:
    """Read one stream for ever, again when it ends."""
    request = (
        f"GET /api/v1/stream?area={area} HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
    )
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request.encode())
            status = await reader.readline()
            if b" 200 " not in status:
                print(f"{area}: {status!r}", file=sys.stderr, flush=True)
            while await reader.read(65_536):
                pass
            writer.close()
        await asyncio.sleep(_RETRY_S)


async def main(address: str) -> None:
    """Open all streams."""
    host, _, port = address.rpartition(":")
    wanted = json.loads(os.environ["LINLI_BENCH_VIEWERS"])
    await asyncio.gather(*(watch(host, int(port), token, area) for token, area in wanted))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
