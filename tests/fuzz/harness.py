# SPDX-License-Identifier: Apache-2.0
"""Fuzz one target, led by the coverage of our own code: ``python -m tests.fuzz.harness TARGET``.

Atheris (libFuzzer) does the work. Its wheels are for Linux on x86-64; elsewhere the same number of
edited seeds is tried blindly, with a seed that is printed. A defect ends the process with an error,
its input printed and kept in the given folder.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

# Bytes of an edit program; a target's own input may become longer by its words.
_PROGRAM_MAX: Final = 41
_INPUT_MAX: Final = 16_384
# libFuzzer's limit for one input, in s: for what hangs. What is merely slow fails by itself.
_TIMEOUT_S: Final = 10


def main() -> None:
    """Read the command line and fuzz."""
    parser = argparse.ArgumentParser(description="Fuzz one target.")
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=20_000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--folder", type=Path, required=True, help="for what was found")
    parser.add_argument("--blind", action="store_true", help="without coverage")
    options = parser.parse_args()
    atheris = None if options.blind else _atheris()
    if atheris is None:
        _blindly(options)
    else:
        _led(atheris, options)


def _atheris() -> ModuleType | None:
    try:
        return importlib.import_module("atheris")
    except ModuleNotFoundError:
        return None


def _led(atheris: Any, options: argparse.Namespace) -> None:
    """Fuzz with atheris, which comes without types; does not return."""
    with atheris.instrument_imports(include=["edge_agent", "ingest", "api"]):
        targets = importlib.import_module("tests.fuzz.targets")
        seeds = importlib.import_module("tests.fuzz.seeds")
    target = targets.TARGETS[options.target]

    def one_input(data: bytes) -> None:
        target(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        """Let libFuzzer edit bytes, and every third time put in words of the grammar."""
        chance = random.Random(seed)
        if chance.randrange(3):
            return atheris.Mutate(data, max_size)
        return seeds.spoil(options.target, data, chance.randbytes(11))[:max_size]

    corpus = options.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds.SEEDS[options.target]):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_len={_INPUT_MAX}",
        f"-timeout={_TIMEOUT_S}",
        f"-artifact_prefix={options.folder}/",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, one_input, custom_mutator=mutate)
    atheris.Fuzz()


def _blindly(options: argparse.Namespace) -> None:
    targets = importlib.import_module("tests.fuzz.targets")
    seeds = importlib.import_module("tests.fuzz.seeds")
    chance = random.Random(options.seed)
    for _ in range(options.runs):
        data = seeds.edit(options.target, chance.randbytes(1 + chance.randrange(_PROGRAM_MAX)))
        try:
            targets.TARGETS[options.target](data)
        except BaseException:
            options.folder.mkdir(parents=True, exist_ok=True)
            (options.folder / "crash").write_bytes(data)
            sys.stderr.write(f"seed={options.seed} input={data!r}\n")
            raise
    sys.stderr.write(f"Done {options.runs} runs, blindly\n")


if __name__ == "__main__":
    main()
