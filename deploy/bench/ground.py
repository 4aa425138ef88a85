# SPDX-License-Identifier: Apache-2.0
"""What a measurement stands on: a database server of its own, and what a writer needs to exist."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.faults.ground import OWNER, PASSWORD, authority_for, in_memory
from deploy.services import HOST, Postgres, Userland, free_port, settings_for_machine
from ingest.consumer import Consumer
from ingest.migrate import migrate
from ingest.pki import Authority, issue_client

DATABASE: Final = "linli_bench"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ground:
    """A migrated, empty database, and an authority for clients that never connect."""

    dsn: str
    authority: Authority

    def consumer(self, identity: str) -> Consumer:
        """A consumer that is never started: what it is asked to publish goes nowhere."""
        folder = self.authority.folder / "services"
        issue_client(self.authority.folder, identity, out=folder)
        return Consumer(
            identity=identity,
            host=HOST,
            port=1,
            ca=self.authority.folder / "ca.crt",
            certificates=folder,
            subscriptions=(),
            receive_maximum=1,
        )


@contextmanager
def prepared() -> Generator[Ground]:
    """Start a server with the memory that an installation gives it; stop it, leave nothing."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="linli-bench-", dir=in_memory()))
        )
        server = Postgres(
            Userland.find(),
            folder / "postgres",
            free_port(),
            folder / "log/postgres.log",
            settings=settings_for_machine(),
        )
        stack.callback(server.stop)
        server.start()
        dsn = server.create_database(DATABASE, owner=OWNER, password=PASSWORD)
        migrate(dsn)
        yield Ground(dsn, authority_for(folder / "pki"))


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, to a hundredth."""
    # The name in parentheses may hold spaces; what follows it does not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
