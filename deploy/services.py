# SPDX-License-Identifier: Apache-2.0
"""Start and stop the two servers Linli runs on: PostgreSQL with TimescaleDB, and Mosquitto.

The demo, ``./dev up`` and the tests share this module, so what is tested is what runs. Each
server gets a data folder and a port on 127.0.0.1, runs in the userland that ``userland.sh``
provides, never runs as root, and dies with the process that started it.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import psycopg
from psycopg import sql

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 8.0
LOG_BYTES_MAX = 10_000_000


class ServiceError(Exception):
    """A server cannot be had or does not run; the text tells the operator what to do."""


# -- processes ------------------------------------------------------------------------------------


class Process:
    """A child that ends when its parent does, with its output in a log file.

    The kernel ties a child's death signal to the thread that started it, so start from a thread
    that lives as long as the child shall.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        kill_signal: signal.Signals = signal.SIGKILL,
        environment: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] | None = None,
    ) -> None:
        """Start at once.

        Args:
            name: For messages.
            command: Must arrange for its own death signal: see `mortal` and `Userland.command`.
            log: Appended to; see `rotate`.
            stop_signal: Asks for a clean end.
            kill_signal: What follows when the clean end takes too long.
            environment: Replaces the inherited one.
            stdout: Where standard output goes, if not into the log.
        """
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        self._kill_signal = kill_signal
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.popen: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - our own commands
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=out,
                env=None if environment is None else dict(environment),
                # Ctrl-C in a terminal goes to the runner alone, which then stops in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The server's own pid: what enters the userland replaces itself."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """False from the moment it ended, however it did."""
        return self.popen.poll() is None

    def ask_to_stop(self) -> None:
        """Send the signal for a clean end and do not wait."""
        if self.running:
            self.popen.send_signal(self._stop_signal)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """End it cleanly, by force after ``timeout_s``; returns the exit status."""
        self.ask_to_stop()
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(self._kill_signal)
        try:
            return self.popen.wait(2.0)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it as a power cut would, with SIGKILL."""
        if self.running:
            self.popen.kill()
        return self.popen.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of the log, for messages."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def rotate(log: Path) -> None:
    """Set a log over 10 MB aside; for whoever is about to start its writer."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))


def mortal(command: Sequence[str], *, death_signal: str = "TERM") -> list[str]:
    """The command, changed to receive a signal when the thread that started it ends."""
    return ["setpriv", f"--pdeathsig={death_signal}", "--", *command]


# Below those that Linux gives to outgoing connections (net.ipv4.ip_local_port_range).
_PORTS: Final = range(15_000, 32_000)


def free_port(preferred: int = 0, *, avoid: Sequence[int] = ()) -> int:
    """``preferred`` if nobody listens there on 127.0.0.1, else another one.

    Not one the kernel picks: it picks the same for outgoing connections, and one of these may have
    taken the port before its server listens there.
    """
    chosen = (_PORTS[secrets.randbelow(len(_PORTS))] for _ in range(100))
    for port in (*([preferred] if preferred else []), *chosen):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            if port not in avoid:
                return port
    raise ServiceError(f"no free TCP port on {HOST}")


# -- the userland ---------------------------------------------------------------------------------

# Runs inside a mount namespace of its own: nothing mounted here is seen, or left, outside.
# In a chroot whose root is no mount point the first line cannot be had; whether anything is seen
# outside is then found out by looking.
_ENTER = """\
set -e
root=$1 data=$2 passwd=$3
shift 3
mount --make-rprivate / 2>/dev/null || unsure=1
target=${root%/}/srv
mount --bind "$data" "$target"
if [ -n "${unsure-}" ] && grep -qF " $target " "/proc/$PPID/mountinfo"; then
    umount "$target"
    echo "mounts made here are seen outside: bind-mount the root of this chroot on itself" >&2
    exit 1
fi
if [ "$root" != / ]; then
    mount --rbind /dev "$root/dev"
    mount --rbind /proc "$root/proc"
    [ -z "$passwd" ] || mount --bind "$passwd" "$root/etc/passwd"
fi
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
"""
INSIDE = "/srv"


@dataclass(frozen=True, slots=True)
class Userland:
    """The root folder the servers' programs live under: ``/`` on Debian 13."""

    root: Path

    @staticmethod
    def find(*edition: str) -> Userland:
        """Find the userland, building it where there is none yet.

        Args:
            edition: Which one, as ``userland.sh`` names it; PostgreSQL's and Mosquitto's if none.

        Raises:
            ServiceError: It cannot be had.
        """
        done = subprocess.run(  # noqa: S603 - our own script
            ["/bin/sh", str(HERE / "userland.sh"), "root", *edition],
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceError("the servers' programs cannot be had, see above")
        return Userland(Path(done.stdout.decode().strip()))

    def own(self, folder: Path, user: str) -> None:
        """Make ``folder`` the server's: created, mode 0700, owned by ``user`` of the userland.

        A userland built anew may number its users differently; then all in the folder moves.
        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if os.geteuid() != 0:
            return
        uid, gid = self._ids(user)
        if folder.stat().st_uid == uid:
            return
        os.chown(folder, uid, gid)
        for path in folder.rglob("*"):
            os.chown(path, uid, gid, follow_symlinks=False)

    def give(self, path: Path, user: str, content: str) -> None:
        """Write a file only the server may read."""
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_text(content)
        if os.geteuid() == 0:
            os.chown(path, *self._ids(user))

    def command(
        self, program: Sequence[str], *, data: Path, user: str, death_signal: str
    ) -> list[str]:
        """The program as run in the userland, ``data`` seen as `INSIDE`, without any privilege.

        Every step replaces itself by the next, so the process started is the server itself.
        """
        unshare = ["unshare", "--mount", "--propagation", "unchanged"]
        setpriv = ["setpriv", f"--pdeathsig={death_signal}", "--no-new-privs"]
        passwd = ""
        if os.geteuid() == 0:
            setpriv += [f"--reuid={user}", f"--regid={user}", "--init-groups"]
            setpriv += ["--inh-caps=-all", "--bounding-set=-all"]
        else:
            # Without root: a user namespace in which we stay ourselves and may mount and chroot.
            unshare += ["--user", "--map-current-user", "--keep-caps"]
            setpriv += ["--inh-caps=-all", "--ambient-caps=-all"]
            passwd = str(self._passwd(data))
        enter = ["/bin/sh", "-c", _ENTER, "linli", str(self.root), str(data), passwd]
        return [*unshare, "--", *enter, *setpriv, "--", *program]

    def _ids(self, user: str) -> tuple[int, int]:
        for line in (self.root / "etc/passwd").read_text().splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == user:
                return int(uid), int(gid)
        raise ServiceError(f"no user {user} in {self.root}: remove that folder and start again")

    @staticmethod
    def _passwd(data: Path) -> Path:
        # initdb insists on a name for its user.
        path = data / ".passwd"
        me = pwd.getpwuid(os.geteuid())
        path.write_text(f"{me.pw_name}:x:{me.pw_uid}:{me.pw_gid}::/:/bin/sh\n")
        return path


# -- PostgreSQL -----------------------------------------------------------------------------------

_POSTGRES_BIN = "/usr/lib/postgresql/17/bin"
_SUPERUSER = "postgres"

# synchronous_commit and fsync stay on: the delivery promise rests on them.
POSTGRES_SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "password_encryption": "scram-sha-256",
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    # Nothing here is a job of TimescaleDB's, and databases in use by its workers refuse cloning.
    "timescaledb.max_background_workers": "0",
    "synchronous_commit": "on",
    "checkpoint_timeout": "15min",
    "wal_compression": "lz4",
    "jit": "off",
    "random_page_cost": "1.1",
    "max_parallel_workers_per_gather": "0",
    "maintenance_work_mem": "256MB",
    "autovacuum_naptime": "15s",
    "max_locks_per_transaction": "256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %u@%d ",
    "logging_collector": "off",
    # Of a pair both have the same, for either may become the other. docs/decisions/0014.
    "hot_standby_feedback": "on",
    "max_standby_streaming_delay": "2s",
    "max_slot_wal_keep_size": "4GB",
    "wal_sender_timeout": "10s",
    "wal_receiver_timeout": "10s",
    "wal_retrieve_retry_interval": "1s",
}
SMALL: Mapping[str, str] = {"shared_buffers": "256MB", "max_wal_size": "1GB"}


def settings_for_machine() -> Mapping[str, str]:
    """Memory settings for a database that lasts: a quarter of the memory, at most 2 GB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    buffers_mb = max(128, min(2048, total // 4 // 2**20))
    return {
        "shared_buffers": f"{buffers_mb}MB",
        "wal_buffers": "64MB" if buffers_mb >= 1024 else "16MB",
        "max_wal_size": f"{4 * buffers_mb}MB",
    }


@dataclass(slots=True)
class Postgres:
    """One PostgreSQL server with TimescaleDB; TCP on 127.0.0.1 with scram, nothing else."""

    userland: Userland
    folder: Path
    port: int
    log: Path
    settings: Mapping[str, str] = field(default_factory=lambda: SMALL)
    _process: Process | None = None
    _password: str = ""

    @property
    def process(self) -> Process:
        """The running server; `start` comes first."""
        assert self._process is not None, "not started"
        return self._process

    def dsn(self, database: str = "postgres") -> str:
        """As superuser; Linli itself connects as the owner that `create_database` names."""
        return _dsn(self.port, database, _SUPERUSER, self._password)

    def start(self) -> None:
        """Start, creating the cluster the first time, and wait until TimescaleDB answers.

        Raises:
            ServiceError: It did not come up, or has no TimescaleDB.
        """
        rotate(self.log)
        self.userland.own(self.folder, _SUPERUSER)
        if not (self.folder / "data/PG_VERSION").exists():
            self._create_cluster()
        self._password = (self.folder / "password").read_text().strip()
        lines = {**POSTGRES_SETTINGS, **self.settings, "port": str(self.port)}
        lines["data_directory"] = f"{INSIDE}/data"
        lines["hba_file"] = f"{INSIDE}/pg_hba.conf"
        lines["ident_file"] = f"{INSIDE}/pg_ident.conf"
        self.userland.give(
            self.folder / "postgresql.conf",
            _SUPERUSER,
            "".join(f"{key} = '{value}'\n" for key, value in lines.items()),
        )
        rule = f"{HOST}/32 scram-sha-256"
        self.userland.give(
            self.folder / "pg_hba.conf",
            _SUPERUSER,
            f"host all all {rule}\nhost replication {_SUPERUSER} {rule}\n",
        )
        self.userland.give(self.folder / "pg_ident.conf", _SUPERUSER, "")
        program = [f"{_POSTGRES_BIN}/postgres", "-c", f"config_file={INSIDE}/postgresql.conf"]
        self._process = Process(
            "PostgreSQL",
            # SIGINT is the fast shutdown: sessions are ended, nothing needs recovery.
            self.userland.command(program, data=self.folder, user=_SUPERUSER, death_signal="INT"),
            log=self.log,
            stop_signal=signal.SIGINT,
            kill_signal=signal.SIGQUIT,
        )
        self._wait_ready()

    def ask_to_stop(self) -> None:
        """Begin to shut down and do not wait."""
        if self._process is not None:
            self._process.ask_to_stop()

    def stop(self) -> None:
        """Shut down cleanly, ending every session."""
        if self._process is not None:
            self._process.stop()

    def crash(self) -> None:
        """End at once, as in a power cut: the next start recovers from the log."""
        self.process.popen.send_signal(signal.SIGQUIT)
        self.process.popen.wait()

    def follow(self, primary: Postgres, name: str) -> None:
        """Become a standby of a running server: copy it now, stream from it after `start`.

        Args:
            primary: Keeps what this server has not received, up to ``max_slot_wal_keep_size``.
            name: How the primary knows this server; letters, digits, underscores.

        Raises:
            ServiceError: The copy failed.
        """
        self.userland.own(self.folder, _SUPERUSER)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        password = (primary.folder / "password").read_text().strip()
        self.userland.give(self.folder / "password", _SUPERUSER, password)
        # A file: whoever lists the processes of this machine reads their arguments.
        self.userland.give(
            self.folder / "pgpass", _SUPERUSER, f"{HOST}:*:*:{_SUPERUSER}:{password}\n"
        )
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            conn.execute(
                """
                SELECT pg_create_physical_replication_slot(%(name)s)
                WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %(name)s)
                """,
                {"name": name},
            )
        source = f"host={HOST} port={primary.port} user={_SUPERUSER} passfile={INSIDE}/pgpass"
        self._make_data(
            "pg_basebackup",
            f"--dbname={source} application_name={name}",
            f"--slot={name}",
            "--write-recovery-conf",
            "--checkpoint=fast",
        )

    def wait_for(self, standby: str) -> None:
        """Let no COMMIT return before a standby has it on its disk too; ``""``: not any more."""
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            conn.execute(
                sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(
                    sql.Literal(standby)
                )
            )
            conn.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make a standby the primary; returns when it takes data.

        Whoever does this answers for the old primary: it must not come back as a second one.
        """
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            # Copied with all else: nobody follows this server yet, so it would wait for ever.
            conn.execute("ALTER SYSTEM RESET synchronous_standby_names")
            conn.execute("SELECT pg_reload_conf()")
            conn.execute("SELECT pg_promote(true, %s)", (int(START_TIMEOUT_S),))

    def create_database(self, name: str, *, owner: str, password: str) -> str:
        """Create role, database and extension where missing; returns the owner's DSN."""
        role, database = sql.Identifier(owner), sql.Identifier(name)
        secret = sql.Literal(password)
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            known = conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (owner,)).fetchone()
            verb = sql.SQL("ALTER ROLE" if known else "CREATE ROLE")
            conn.execute(sql.SQL("{} {} LOGIN PASSWORD {}").format(verb, role, secret))
            there = conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if not there:
                conn.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
        with psycopg.connect(self.dsn(name), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            # For indexes of single chunks. docs/decisions/0016.
            conn.execute(sql.SQL("GRANT CREATE ON SCHEMA _timescaledb_internal TO {}").format(role))
        return _dsn(self.port, name, owner, password)

    def _create_cluster(self) -> None:
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        self.userland.give(self.folder / "password", _SUPERUSER, secrets.token_urlsafe(24))
        self._make_data(
            "initdb",
            f"--pwfile={INSIDE}/password",
            f"--username={_SUPERUSER}",
            "--auth=scram-sha-256",
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        )

    def _make_data(self, program: str, *arguments: str) -> None:
        """Have a program of PostgreSQL's make the data folder.

        Raises:
            ServiceError: It failed; with what it said.
        """
        command = [f"{_POSTGRES_BIN}/{program}", f"--pgdata={INSIDE}/new", *arguments]
        shutil.rmtree(self.folder / "new", ignore_errors=True)
        process = Process(
            program,
            self.userland.command(command, data=self.folder, user=_SUPERUSER, death_signal="KILL"),
            log=self.log,
        )
        if process.popen.wait(START_TIMEOUT_S) != 0:
            raise ServiceError(f"{program} failed:\n{process.tail()}")
        # Renamed when complete, so a start cut short begins again.
        (self.folder / "new").rename(self.folder / "data")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with psycopg.connect(self.dsn(), connect_timeout=2) as conn:
                    found = conn.execute(
                        "SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'"
                    ).fetchone()
            except psycopg.OperationalError as exc:
                if not self.process.running or time.monotonic() > deadline:
                    text = self.process.tail()
                    self.stop()
                    hint = ""
                    if 'access file "timescaledb"' in text:
                        hint = (
                            f"TimescaleDB is missing in {self.userland.root}: "
                            "install postgresql-17-timescaledb there\n"
                        )
                    raise ServiceError(f"PostgreSQL does not run: {exc}\n{hint}{text}") from exc
                time.sleep(0.05)
                continue
            if found:
                return
            self.stop()
            raise ServiceError(
                f"the PostgreSQL in {self.userland.root} has no TimescaleDB, which Linli needs: "
                "install postgresql-17-timescaledb there"
            )


def _dsn(port: int, database: str, user: str, password: str) -> str:
    return f"host={HOST} port={port} dbname={database} user={user} password={password}"


# -- Mosquitto ------------------------------------------------------------------------------------

_BROKER_USER = "mosquitto"
_READY = re.compile(rb"mosquitto version \S+ running")


@dataclass(slots=True)
class Mosquitto:
    """One Mosquitto broker: TLS on 127.0.0.1, a client certificate for everybody, an ACL.

    ``ca``, ``certificate`` and ``key`` are PEM files; the broker gets copies it alone can read.
    ``acl`` and ``limits`` are the contents of the files that come with Linli, unless a test says
    otherwise.
    """

    userland: Userland
    folder: Path
    port: int
    log: Path
    ca: Path
    certificate: Path
    key: Path
    acl: str = field(default_factory=(HERE / "mosquitto/acl").read_text)
    limits: str = field(default_factory=(HERE / "mosquitto/limits.conf").read_text)
    _process: Process | None = None

    @property
    def process(self) -> Process:
        """The running server; `start` comes first."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        """Start, and wait until it takes connections.

        A broker that does not come up is started once more without the state it had saved: it
        refuses to run with a damaged file, and nothing depends on that file.

        Raises:
            ServiceError: It did not come up.
        """
        try:
            self._start()
        except ServiceError:
            state = self.folder / "mosquitto.db"
            if not state.exists():
                raise
            state.rename(state.with_name(f"{state.name}.corrupt-{time.time_ns()}"))
            self._start()

    def _start(self) -> None:
        rotate(self.log)
        self.userland.own(self.folder, _BROKER_USER)
        own_files = {
            "ca.crt": self.ca.read_text(),
            "server.crt": self.certificate.read_text(),
            "server.key": self.key.read_text(),
            "acl": self.acl,
            "mosquitto.conf": self._config(),
        }
        for name, content in own_files.items():
            self.userland.give(self.folder / name, _BROKER_USER, content)
        said_before = self.log.stat().st_size if self.log.exists() else 0
        program = ["/usr/sbin/mosquitto", "-c", f"{INSIDE}/mosquitto.conf"]
        self._process = Process(
            "Mosquitto",
            self.userland.command(
                program, data=self.folder, user=_BROKER_USER, death_signal="TERM"
            ),
            log=self.log,
        )
        self._wait_ready(said_before)

    def ask_to_stop(self) -> None:
        """Begin to shut down and do not wait."""
        if self._process is not None:
            self._process.ask_to_stop()

    def stop(self) -> None:
        """Shut down cleanly; sessions and queues are saved."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End with SIGKILL; what was not saved in the last 30 s is gone, as it may be."""
        self.process.kill()

    def load_acl(self, acl: str) -> None:
        """Have the running broker obey another ACL, as a rename and SIGHUP do."""
        self.acl = acl
        partial = self.folder / "acl.partial"
        self.userland.give(partial, _BROKER_USER, acl)
        partial.rename(self.folder / "acl")
        self.process.popen.send_signal(signal.SIGHUP)

    def _config(self) -> str:
        lines = [
            f"listener {self.port} {HOST}",
            f"cafile {INSIDE}/ca.crt",
            f"certfile {INSIDE}/server.crt",
            f"keyfile {INSIDE}/server.key",
            "tls_version tlsv1.2",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "allow_anonymous false",
            f"acl_file {INSIDE}/acl",
            f"persistence_location {INSIDE}/",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
            "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        ]
        return "\n".join(lines) + "\n\n" + self.limits

    def _wait_ready(self, said_before: int) -> None:
        # Its own word, not a connection: that might reach somebody else's broker on the port.
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _READY.search(self.log.read_bytes()[said_before:]):
            if not self.process.running or time.monotonic() > deadline:
                self.stop()
                raise ServiceError(f"Mosquitto does not run:\n{self.process.tail()}")
            time.sleep(0.02)


# -- one writer per data folder -------------------------------------------------------------------


def write_private(path: Path, content: object) -> None:
    """Write JSON that only this user can read, all or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(0o600)
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    partial.replace(path)
