# SPDX-License-Identifier: Apache-2.0
"""Whether everything the edge agent needs comes as a wheel for boxes: ``python -m deploy.wheels``.

Asks the package index, with hashes, for what requirements/edge.txt pins; builds nothing. Prints
the wheels that are for one processor only; exit status 1 where one is missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).parents[1] / "requirements/edge.txt"
# Raspberry Pi OS and Debian 12 and 13, 64 and 32 bits.
PLATFORMS: Final = ("manylinux_2_17_aarch64", "manylinux_2_17_armv7l")
PYTHONS: Final = ("311", "313")


def pinned() -> list[str]:
    """Return the names that the lock pins."""
    return re.findall(r"(?m)^([\w.-]+)==", LOCK.read_text())


def download(platform: str, python: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Have pip fetch the wheels of everything that is pinned, and nothing else."""
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
        "--only-binary=:all:", "--no-deps", "--require-hashes", "--requirement", str(LOCK),
        "--platform", platform, "--python-version", python, "--implementation", "cp",
        "--abi", f"cp{python}", "--abi", "abi3", "--abi", "none", "--dest", str(folder),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def missing(found: Sequence[str]) -> list[str]:
    """Return pinned names of which no wheel was found."""
    there = {re.sub(r"[-_.]+", "-", name.partition("-")[0]).lower() for name in found}
    return [name for name in pinned() if re.sub(r"[-_.]+", "-", name).lower() not in there]


def main() -> None:
    """Check every platform with every Python."""
    failed = False
    for platform in PLATFORMS:
        for python in PYTHONS:
            with tempfile.TemporaryDirectory(prefix="linli-wheels-") as name:
                done = download(platform, python, Path(name))
                found = sorted(file.name for file in Path(name).glob("*.whl"))
            lacking = missing(found)
            failed = failed or bool(lacking)
            print(f"{platform} cp{python}: {len(found)} wheels, missing: {lacking or 'none'}")
            for one in found:
                if not one.endswith("none-any.whl"):
                    print(f"  {one}")
            if lacking:
                print(done.stderr.strip(), file=sys.stderr)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
