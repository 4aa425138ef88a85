# SPDX-License-Identifier: Apache-2.0
"""What runs stand on: an authority, a database server, brokers; shared where a fault allows it."""

from __future__ import annotations

import re
import shutil
import ssl
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from deploy.services import HERE, HOST, Mosquitto, Postgres, Userland, free_port
from ingest.migrate import migrate
from ingest.pki import Authority, create_authority, issue_client, issue_server

OWNER = "linli"
PASSWORD = "only-for-tests"  # noqa: S105 - the server listens on 127.0.0.1, for as long as the run
TEMPLATE = "linli_template"
SMALL_SERVER = {"shared_buffers": "128MB", "max_wal_size": "512MB"}
ROOMY_BYTES = 2_000_000_000

# Who may hear every acknowledgement: a witness, known to brokers of fault runs only.
WITNESS = "witness-00"
WITNESS_ACL = f"\nuser {WITNESS}\ntopic read linli/v1/+/+/down/#\ntopic read $SYS/broker/#\n"


class NotReached(AssertionError):
    """What was waited for did not come in time."""


def until(
    check: Callable[[], object], what: str, *, timeout_s: float = 30.0, every_s: float = 0.02
) -> None:
    """Wait until ``check`` is true.

    Raises:
        NotReached: Time is over; the text says ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise NotReached(f"after {timeout_s:g} s still not: {what}")
        time.sleep(every_s)


@dataclass(frozen=True, slots=True)
class Identity:
    """The files a client needs to be somebody at the broker."""

    name: str
    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """As a client's side of TLS."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Access:
    """Where a broker listens, and the files of everybody who may talk to it."""

    authority: Authority
    port: int
    host: str = HOST

    @property
    def ca(self) -> Path:
        """The certificate of the authority that vouches for it."""
        return self.authority.folder / "ca.crt"

    def identity(self, name: str) -> Identity:
        """Certificate and key of a gateway or a service, issued on the first call."""
        folder = self.services
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        if not certificate.exists():
            issue_client(self.authority.folder, name, out=folder)
        return Identity(name, self.ca, certificate, key)

    @property
    def services(self) -> Path:
        """The folder of `identity`, as ``certificates`` in a configuration."""
        return self.authority.folder / "services"


@dataclass(frozen=True, slots=True)
class Broker(Access):
    """A running broker of our own, to be disturbed."""

    server: Mosquitto = field(kw_only=True)


def authority_for(folder: Path) -> Authority:
    """An authority that vouches for servers on this machine."""
    made = create_authority(folder)
    issue_server(folder, [HOST, "localhost"])
    return made


def broker(
    userland: Userland,
    folder: Path,
    authority: Authority,
    *,
    acl: str = "",
    limits: Mapping[str, object] | None = None,
) -> Broker:
    """Start a broker; ``acl`` is added to Linli's, ``limits`` take the place of some of Linli's."""
    stated = (HERE / "mosquitto/limits.conf").read_text()
    for name, value in (limits or {}).items():
        stated, found = re.subn(rf"(?m)^{name} .*$", f"{name} {value}", stated)
        assert found == 1, f"no limit {name}"
    server = Mosquitto(
        userland,
        folder,
        free_port(),
        folder.parent / "log" / f"{folder.name}.log",
        ca=authority.folder / "ca.crt",
        certificate=authority.folder / "server.crt",
        key=authority.folder / "server.key",
        acl=(HERE / "mosquitto/acl").read_text() + acl,
        # The broker's own counts, soon enough to be waited for.
        limits=stated + "\nsys_interval 1\n",
    )
    server.start()
    return Broker(authority, server.port, server=server)


def postgres(userland: Userland, folder: Path) -> Postgres:
    """Start a small database server of its own."""
    log = folder.parent / "log" / f"{folder.name}.log"
    server = Postgres(userland, folder, free_port(), log, settings=SMALL_SERVER)
    server.start()
    return server


def in_memory() -> Path | None:
    """A folder in memory if there is room, for speed.

    Nothing is taken from durability that a run could see: processes are killed, machines not.
    """
    memory = Path("/dev/shm")  # noqa: S108 - what is put there gets a folder of its own
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOMY_BYTES
    return memory if roomy else None


def create_template(server: Postgres) -> None:
    """Make the migrated, empty database that every run gets a copy of."""
    migrate(server.create_database(TEMPLATE, owner=OWNER, password=PASSWORD))


def dsn_of(server: Postgres, name: str) -> str:
    """How Linli itself connects to one database of a server of this kind."""
    return f"host={HOST} port={server.port} dbname={name} user={OWNER} password={PASSWORD}"


@dataclass(slots=True)
class Ground:
    """One worker's servers; to be used by one run after another, not by two at a time."""

    userland: Userland
    folder: Path
    authority: Authority
    server: Postgres
    _stack: ExitStack = field(default_factory=ExitStack)

    @staticmethod
    def prepare() -> Ground:
        """Start the database server; some seconds."""
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="linli-faults-", dir=in_memory())
                )
            )
            userland = Userland.find()
            server = postgres(userland, folder / "postgres")
            stack.callback(server.stop)
            create_template(server)
            return Ground(userland, folder, authority_for(folder / "pki"), server, stack.pop_all())

    def close(self) -> None:
        """Stop everything and leave nothing."""
        self._stack.close()

    def ensure(self) -> None:
        """Have the database server run, however the run before left it."""
        if not self.server.process.running:
            self.server.start()

    def database(self) -> str:
        """The DSN of an empty, migrated database."""
        name = f"run_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.server.dsn(), autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                    sql.Identifier(name), sql.Identifier(TEMPLATE), sql.Identifier(OWNER)
                )
            )
        return dsn_of(self.server, name)

    def drop(self, dsn: str) -> None:
        """Remove a database, ending whoever is connected."""
        name = conninfo_to_dict(dsn)["dbname"]
        with psycopg.connect(self.server.dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(name))))
