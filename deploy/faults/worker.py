# SPDX-License-Identifier: Apache-2.0
"""A worker: performs faults one after another on servers of its own.

``python -m deploy.faults.worker`` reads one request a line on standard input and answers with one
outcome a line, both JSON. It runs in a mount namespace of its own, so that file systems made for
a run end with it.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import signal
import sys
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import NoReturn

from deploy.faults import matrix
from deploy.faults.ground import Ground
from deploy.faults.run import FAULTS, Fault, perform


def load() -> dict[str, Fault]:
    """All faults of the matrix by id."""
    for module in pkgutil.iter_modules(matrix.__path__):
        importlib.import_module(f"{matrix.__name__}.{module.name}")
    return FAULTS


def main() -> None:
    """Perform what is asked for until standard input ends."""
    signal.signal(signal.SIGTERM, _leave)
    faults = load()
    with closing(Ground.prepare()) as ground:
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            keep = asked["keep"]
            outcome = perform(
                faults[asked["fault"]],
                ground,
                asked["seed"],
                full=asked["full"],
                keep=None if keep is None else Path(keep),
            )
            print(json.dumps(outcome.as_json()), flush=True)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    sys.exit(1)


if __name__ == "__main__":
    main()
