# SPDX-License-Identifier: Apache-2.0
"""Several workers side by side; most faults wait rather than work."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from deploy.installation import environment, module


@dataclass(frozen=True, slots=True)
class Request:
    """One run of one fault."""

    fault: str
    seed: int
    full: bool
    keep: str | None = None


class Worker:
    """A process of `deploy.faults.worker`; to be used by the thread that made it."""

    def __init__(self) -> None:
        """Start it."""
        own = ["unshare", "--mount", "--propagation", "private"]
        if os.geteuid() != 0:
            own += ["--user", "--map-current-user", "--keep-caps"]
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [*own, "--", *module("deploy.faults.worker")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
            start_new_session=True,
        )

    def perform(self, request: Request) -> dict[str, Any] | None:
        """Have a fault performed; None if the worker did not survive it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is not None:
            return None
        line = json.dumps(
            {name: getattr(request, name) for name in ("fault", "seed", "full", "keep")}
        )
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        for answer in self._process.stdout:
            outcome: dict[str, Any] = json.loads(answer)
            if "fault" in outcome:
                return outcome
        return None

    def last_words(self) -> str:
        """What it said before it ended."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-4_000:]

    def ask_to_stop(self) -> None:
        """Have it end soon and do not wait."""
        self._process.terminate()

    def stop(self) -> None:
        """End it, and with it everything it started."""
        assert self._process.stdin is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdin.close()
        self._errors.close()


@dataclass(slots=True)
class Pool:
    """Performs requests on ``workers`` workers; iterate over `outcomes`."""

    workers: int
    requests: Sequence[Request]
    _todo: queue.SimpleQueue[Request | None] = field(
        default_factory=queue.SimpleQueue["Request | None"]
    )
    _done: queue.SimpleQueue[dict[str, Any] | None] = field(
        default_factory=queue.SimpleQueue["dict[str, Any] | None"]
    )
    _due: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _alive: set[Worker] = field(default_factory=set["Worker"])

    def outcomes(self) -> Iterator[dict[str, Any]]:
        """Yield outcomes as they come."""
        for request in self.requests:
            self._todo.put(request)
        threads = [
            threading.Thread(target=self._work, name=f"worker {number}")
            for number in range(min(self.workers, len(self.requests)))
        ]
        self._due = len(self.requests)
        for thread in threads:
            thread.start()
        try:
            while self._due:
                outcome = self._done.get()
                assert outcome is not None
                self._due -= 1
                yield outcome
        finally:
            self._stopping.set()
            for _ in threads:
                self._todo.put(None)
            # Interrupted: runs under way are of no use any more.
            for worker in list(self._alive):
                worker.ask_to_stop()
            for thread in threads:
                thread.join()

    def repeat(self, fault: str, seed: int) -> None:
        """Have a run performed once more; while `outcomes` is iterated over."""
        (request,) = (one for one in self.requests if (one.fault, one.seed) == (fault, seed))
        self._due += 1
        self._todo.put(request)

    def _work(self) -> None:
        worker = self._start()
        while not self._stopping.is_set() and (request := self._todo.get()) is not None:
            outcome = worker.perform(request)
            if outcome is None and self._stopping.is_set():
                break
            if outcome is None:
                outcome = {
                    "fault": request.fault,
                    "seed": request.seed,
                    "ok": False,
                    "error": f"the worker ended:\n{worker.last_words()}",
                }
                self._end(worker)
                worker = self._start()
            self._done.put(outcome)
        self._end(worker)

    def _start(self) -> Worker:
        worker = Worker()
        self._alive.add(worker)
        return worker

    def _end(self, worker: Worker) -> None:
        self._alive.discard(worker)
        worker.stop()


def keep_folder(path: Path | None) -> str | None:
    """As workers take it."""
    if path is None:
        return None
    path.mkdir(parents=True, exist_ok=True)
    return str(path.resolve())
