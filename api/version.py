# SPDX-License-Identifier: Apache-2.0
"""Which release this is."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final


def _installed() -> str:
    try:
        return version("linli")
    except PackageNotFoundError:
        # Run from a source tree that was never installed.
        project = Path(__file__).resolve().parent.parent / "pyproject.toml"
        declared: str = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
        return declared


VERSION: Final = _installed()
