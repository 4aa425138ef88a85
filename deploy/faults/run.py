# SPDX-License-Identifier: Apache-2.0
"""One fault in one run: what it works with, what it must prove, and what came of it."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from deploy.checker.delivery import Delivery
from deploy.checker.facts import Difference
from deploy.faults import ground as grounds
from deploy.faults.city import City
from deploy.faults.ground import Broker, Ground, NotReached, until
from deploy.faults.proxy import Proxy
from deploy.faults.witness import Witness
from deploy.services import Postgres, Process, ServiceError
from deploy.verify import Terms, Verdict

SHOWN_DIFFERENCES = 10
RECOVERY_MAX_S = 60.0
# Rules about the flow of messages, of which the world's physics knows nothing.
FLOW_RULES = frozenset({"stream.hole", "stream.lost", "device.refused", "gateway.refused"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the matrix.

    Attributes:
        id: As in the fault matrix; a letter tells rows of one number apart.
        part: Which part of the system is hurt.
        name: What is done to it.
        act: Does it; raises `NotReached` when the system does not come back.
        rounds: How often, in a quick run; a full one does ``full_rounds``.
        hours: Of the past to be replayed: how long there is something to disturb.
        takes_s: About how long a quick run takes; the longest are begun first.
        once: With one seed only, because a full run takes very long.
    """

    id: str
    part: str
    name: str
    act: Callable[[Run], None]
    rounds: int = 1
    full_rounds: int = 1
    hours: float = 72.0
    takes_s: float = 6.0
    once: bool = False


FAULTS: dict[str, Fault] = {}


def fault(
    id: str,
    name: str,
    *,
    rounds: int = 1,
    full_rounds: int | None = None,
    hours: float = 72.0,
    takes_s: float = 6.0,
    once: bool = False,
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Make a function a row of the matrix."""

    def register(act: Callable[[Run], None]) -> Callable[[Run], None]:
        assert id not in FAULTS, id
        part = act.__module__.rpartition(".")[2]
        FAULTS[id] = Fault(id, part, name, act, rounds, full_rounds or rounds, hours, takes_s, once)
        return act

    return register


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of one fault proved; the JSON of a fault."""

    fault: str
    part: str
    name: str
    seed: int
    ok: bool
    rounds: int
    accepted: int
    stored: int
    lost: int
    duplicated: int
    phantom: int
    altered: int
    dead_lettered: int
    gap_records: int
    evicted: int
    vanished: int
    forfeited: int
    acks_checked: int
    sometimes: bool
    evidence: Mapping[str, object]
    recoveries: Sequence[float]
    seconds: float
    differences: Sequence[str]
    error: str = ""
    log: str = ""

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


@dataclass(slots=True)
class Run:
    """What a fault works with. Everything it opens through here is closed with the run."""

    fault: Fault
    ground: Ground
    folder: Path
    seed: int
    full: bool
    rng: random.Random
    stack: ExitStack
    evidence: dict[str, object] = field(default_factory=dict[str, object])
    recoveries: list[float] = field(default_factory=list[float])
    verdict: Verdict | None = None
    rounds_done: int = 0
    server_log_start: int = 0
    _broken: list[Difference] = field(default_factory=list[Difference])
    _proofs: list[bool] = field(default_factory=list[bool])
    _city: City | None = None
    _broker: Broker | None = None
    _witness: Witness | None = None
    _dsn: str = ""
    _server: Postgres | None = None

    # -- what there is -----------------------------------------------------------------------

    @property
    def city(self) -> City:
        """The installation under test."""
        assert self._city is not None
        return self._city

    @property
    def broker(self) -> Broker:
        """Its broker, which is its own."""
        assert self._broker is not None
        return self._broker

    @property
    def server(self) -> Postgres:
        """Its database server, which other runs use before and after."""
        return self._server or self.ground.server

    @property
    def database(self) -> str:
        """The name of the run's database."""
        return str(conninfo_to_dict(self._dsn)["dbname"])

    @property
    def witness(self) -> Witness:
        """Who hears the acknowledgements."""
        assert self._witness is not None
        return self._witness

    def found(
        self,
        *,
        limits: Mapping[str, object] | None = None,
        broker_folder: Path | None = None,
        server: Postgres | None = None,
        dsn: str | None = None,
        rules: Mapping[str, Mapping[str, float]] | None = None,
        hours: float | None = None,
    ) -> City:
        """Make an installation: broker, database, registry, identities; no process of ours."""
        self._server = server
        if server is None:
            self.ground.ensure()
            self._dsn = self.ground.database()
            self.stack.callback(self._drop)
        else:
            self._dsn = dsn or grounds.dsn_of(server, grounds.TEMPLATE)
        log = self.server.log
        self.server_log_start = log.stat().st_size if log.exists() else 0
        self._broker = grounds.broker(
            self.ground.userland,
            broker_folder or self.folder / "broker",
            self.ground.authority,
            acl=grounds.WITNESS_ACL,
            limits=limits,
        )
        self.stack.callback(lambda: self.broker.server.process.kill())
        self._city = City(
            self._dsn,
            self._broker,
            self.folder,
            history_hours=self.fault.hours if hours is None else hours,
            seed=self.seed + 6,
            rules=rules or {},
        )
        self.stack.callback(self._city.close)
        self._city.found()
        self._witness = Witness(self._broker, self._dsn)
        self._witness.start()
        self.stack.callback(self._witness.stop)
        return self._city

    def proxy(self, target: int) -> Proxy:
        """A line that can be disturbed."""
        made = Proxy(target, self.seed)
        made.start()
        self.stack.callback(made.stop)
        return made

    def before_database(self) -> Proxy:
        """Put a line between ingest and its database; before ingest is started."""
        made = self.proxy(self.server.port)
        self.city.ingest_dsn = self.city.dsn.replace(
            f"port={self.server.port}", f"port={made.port}"
        )
        self.city.write_config()
        return made

    def before_broker(self) -> Proxy:
        """Put a line between gateways and the broker; before they are started."""
        made = self.proxy(self.broker.port)
        self.city.edge_port = made.port
        return made

    def box(
        self,
        gateway: str,
        *,
        name: str = "box",
        data: Path | None = None,
        limit_bytes: int = 64 << 20,
        poll_interval_s: float = 0.1,
        clock: Path | None = None,
    ) -> Process:
        """Start a real agent over busy devices in the place of one of the city's."""
        return self.city.start_box(
            gateway,
            name,
            data=data,
            limit_bytes=limit_bytes,
            poll_interval_s=poll_interval_s,
            settings={} if clock is None else {"LINLI_CLOCK_FILE": str(clock)},
        )

    def clock(self, offset_s: float) -> Path:
        """The file from which agents take how wrong their clock is."""
        self.set_clock(offset_s)
        return self.folder / "clock"

    def set_clock(self, offset_s: float) -> None:
        """Step the clock of the agents that look at the file."""
        partial = self.folder / "clock.partial"
        partial.write_text(f"{offset_s}\n")
        partial.rename(self.folder / "clock")

    def tmpfs(self, folder: Path, size_mb: float) -> Path:
        """A file system of so many megabytes, in memory."""
        folder.mkdir(parents=True, exist_ok=True)
        size = f"size={int(size_mb * 1024)}k"
        command = ["mount", "-t", "tmpfs", "-o", size, "linli-faults", str(folder)]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command
        self.stack.callback(_unmount, folder)
        return folder

    def _drop(self) -> None:
        # A server that the fault left dead takes its databases along.
        with suppress(psycopg.Error, ServiceError):
            self.ground.ensure()
            self.ground.drop(self._dsn)

    # -- the ordinary course -----------------------------------------------------------------

    def begin(self, scenario: str = "quick", *, failpoint: str = "") -> None:
        """Start ingest and the simulated city, and wait until something is stored."""
        self.city.start_ingest(failpoint, wait=not failpoint)
        self.city.start_simulators(scenario)
        if not failpoint:
            self.flow()

    def times(self) -> Iterator[int]:
        """Count the rounds of this fault, as many as the kind of run asks for."""
        for number in range(self.fault.full_rounds if self.full else self.fault.rounds):
            yield number
            self.rounds_done += 1

    def flow(self, count: int | None = None) -> None:
        """Wait until ``count`` more readings are stored, a few hundred by chance if None."""
        wanted = self.rng.randrange(100, 900) if count is None else count
        before = self.city.stored()

        def moved() -> bool:
            simulators = self.city.simulators
            self.city.check()
            if self.city.stored() >= before + wanted:
                return True
            told = self.city.told() if simulators is not None else []
            # Nothing more to come from the past: what is left to disturb is the present.
            return bool(told) and told[-1].get("phase") == "live" and before > 0

        until(moved, f"{wanted} more readings", timeout_s=RECOVERY_MAX_S, every_s=0.05)

    @contextmanager
    def healing(
        self, timeout_s: float = RECOVERY_MAX_S, *, given_up: Collection[str] = ()
    ) -> Generator[None]:
        """Heal within the block; how long it takes from its start until all is stored is noted.

        Until all that had been accepted when the fault was healed is stored, and not earlier than
        ingest is ready. Streams ``given_up`` are not waited for.
        """
        with suppress(psycopg.OperationalError):
            self.evidence["messages waiting when healed"] = self.city.unsettled()
        healed = time.monotonic()
        yield
        recorded = self.city.recorded()
        due = {stream: seq for stream, seq in recorded.items() if stream not in given_up}

        def back() -> bool:
            self._supervise()
            try:
                return self.city.covers(due) and self.city.ingest_is_ready()
            except psycopg.OperationalError:
                return False

        until(
            back,
            "everything accepted before the end of the fault",
            timeout_s=timeout_s,
            every_s=0.05,
        )
        self.recoveries.append(time.monotonic() - healed)

    def rest(self) -> int:
        """Wait until what was on its way is stored, now that nothing follows it; return the sum."""
        found = -1

        def still() -> bool:
            nonlocal found
            before, found = found, self.city.stored()
            return found == before

        until(still, "nothing moves", timeout_s=RECOVERY_MAX_S, every_s=1.0)
        return found

    def _supervise(self) -> None:
        """Start ingest again if it ended by itself, as systemd or the runner would."""
        ingest = self.city.ingest
        if ingest is not None and not ingest.running:
            self.evidence["ingest restarted"] = ingest.popen.returncode
            self.city.start_ingest(wait=False)

    def duplicates(self) -> int:
        """How many messages ingest found to be stored already, since it was started."""
        return int(self.city.metric("linli_ingest_messages_total", 'result="duplicate"'))

    def expect(self, what: str, holds: bool, found: object = None) -> None:
        """Demand something beside delivery; what does not hold fails the run."""
        if found is not None:
            self.evidence[what] = found
        if not holds:
            self._broken.append(Difference("expected", f"{what}: {found}"))

    def sometimes(self, what: str, found: object) -> None:
        """Prove that the fault did happen: ``found`` is what shows it, and must be true."""
        self.evidence[what] = found
        self._proofs.append(bool(found))

    def finish(self, terms: Terms | None = None, *, silence: bool = False) -> Verdict:
        """Let everything drain, and judge.

        Args:
            terms: Others than those of a run in which the world's physics tells everything.
            silence: Whether gateways may have been silent for so long that an alert was due.
        """
        self.city.stop_simulators()
        if silence and terms is None:
            terms = Terms(beside=FLOW_RULES | {"gateway.silent"})
        return self.judge(terms=terms)

    def judge(
        self, *, physics: bool = True, letters: bool = False, terms: Terms | None = None
    ) -> Verdict:
        """Compare what is stored with the ledger, once late readings are settled too.

        Args:
            physics: Whether the ledger's world tells what had to be computed and raised.
            letters: Whether something had to become a dead letter; if not, nothing may.
            terms: Others than these.
        """
        until(
            lambda: self.city.count("SELECT count(*) FROM lamp_night WHERE dirty") == 0,
            "late readings are settled",
            timeout_s=RECOVERY_MAX_S,
        )
        found = self.city.count("SELECT count(*) FROM dead_letter")
        self.expect("dead letters" if letters else "no dead letters", bool(found) == letters, found)
        self.witness.stop()
        self.verdict = self.city.compare(terms or Terms(physics=physics, beside=FLOW_RULES))
        return self.verdict

    # -- what came of it ---------------------------------------------------------------------

    def outcome(self, seconds: float, error: str) -> Outcome:
        """Put everything together."""
        verdict = self.verdict
        none = Delivery(0, 0, 0, 0, 0)
        readings, events = (verdict.readings, verdict.events) if verdict else (none, none)
        differences = list(self._broken)
        if verdict is not None:
            differences += [*self.witness.differences(), *verdict.differences]
        sometimes = bool(self._proofs) and all(self._proofs)

        def both(name: str) -> int:
            return getattr(readings, name) + getattr(events, name)

        return Outcome(
            fault=self.fault.id,
            part=self.fault.part,
            name=self.fault.name,
            seed=self.seed,
            ok=(
                not error
                and sometimes
                # Every part that is not ok leaves a difference.
                and not differences
                and both("accepted") > 0
                and self.witness.acks > 0
            ),
            rounds=self.rounds_done,
            accepted=both("accepted"),
            stored=both("stored"),
            lost=both("lost"),
            duplicated=both("duplicated"),
            phantom=both("phantom"),
            altered=both("altered"),
            dead_lettered=both("dead_lettered"),
            gap_records=verdict.gaps.records if verdict else 0,
            evicted=both("evicted"),
            vanished=verdict.gaps.vanished if verdict else 0,
            forfeited=both("forfeited"),
            acks_checked=self._witness.checked if self._witness else 0,
            sometimes=sometimes,
            evidence=self.evidence,
            recoveries=[round(one, 3) for one in self.recoveries],
            seconds=round(seconds, 1),
            differences=[str(one) for one in differences[:SHOWN_DIFFERENCES]]
            + ([f"... {len(differences)} in all"] if len(differences) > SHOWN_DIFFERENCES else []),
            error=error,
            log=self._logs() if error else "",
        )

    def _logs(self) -> str:
        parts: list[str] = []
        for file in sorted(self.folder.glob("*.log")):
            lines = file.read_text(errors="replace").splitlines()[-8:]
            parts += [f"--- {file.name}", *lines]
        return "\n".join(parts)


def perform(fault: Fault, ground: Ground, seed: int, *, full: bool, keep: Path | None) -> Outcome:
    """Run one fault once."""
    folder = ground.folder / f"run-{fault.id}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Not hash(): the same seed must give the same run in every process.
    rng = random.Random(f"{fault.id} {seed}")  # noqa: S311 - not for secrets
    started = time.monotonic()
    error = ""
    with ExitStack() as stack:
        run = Run(fault, ground, folder, seed, full, rng, stack)
        try:
            fault.act(run)
            outcome = run.outcome(time.monotonic() - started, "")
        except (NotReached, ServiceError, psycopg.Error, OSError) as problem:
            error = f"{type(problem).__name__}: {problem}"
            outcome = run.outcome(time.monotonic() - started, error)
        if keep is not None and not outcome.ok:
            shutil.copytree(
                folder, keep / folder.name, dirs_exist_ok=True, ignore_dangling_symlinks=True
            )
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)  # noqa: S603, S607
