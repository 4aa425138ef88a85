# SPDX-License-Identifier: Apache-2.0
"""What keeps the parts apart and the house portable, asked of the sources themselves."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.kinds import KINDS as API_KINDS
from edge_agent.kinds import CHANGED
from ingest.kinds import DEFAULT_RULES
from ingest.kinds import KINDS as INGEST_KINDS
from simulators.kinds import DRIVERS, TIMELINES

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("edge_agent", "ingest", "api", "simulators")
# Made on the spot: by installing, building, testing.
MADE = {
    ".git",
    ".venv",
    "node_modules",
    "static",
    "dist",
    "__pycache__",
    ".hypothesis",
    ".import_linter_cache",
    ".pytest_cache",
    ".ruff_cache",
}
# Spelled in pieces, or this file would be the one that is found.
REGISTRIES = tuple(
    re.escape(".".join(parts)).encode()
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmmirror", "com"),
        ("yarnpkg", "com"),
        ("deb", "debian", "org"),
        ("crates", "io"),
        ("docker", "io"),
    )
)
REGISTRY = re.compile(rb"[\w.-]*\b(?:" + b"|".join(REGISTRIES) + rb")\b|index-url\s*[= ]\s*\S*://")
HOME = re.compile(rb"(?<![\w.])/(?:" + b"root" + rb"|" + b"home" + rb"/[a-z][\w-]*)/[\w.]")
# A mention of a file of ours in a document: `ingest/writer.py`, [text](docs/x.md).
MENTION = re.compile(
    r"(?:`|\]\()((?:\./)?(?:api|deploy|docs|edge_agent|ingest|requirements|simulators|tests)"
    r"/[\w./-]*\w)(?:::(\w+))?(?:#[\w-]*)?[`)]"
)


def sources() -> Iterator[Path]:
    """Every file of ours that people write or commit."""
    folders = [ROOT]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if path.name in MADE or path.is_symlink():
                continue
            if path.is_dir():
                folders.append(path)
            else:
                yield path


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in a fresh interpreter after ``statement``."""
    script = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_imports_keep_their_contracts() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["edge_agent.messages", "edge_agent.topics"])
def test_the_contract_costs_pydantic_and_nothing_else(module: str) -> None:
    heavy = {"aiomqtt", "asyncio", "cryptography", "fastapi", "paho", "psycopg", "sqlite3", "typer"}
    assert not heavy & loaded_by(f"import {module}")


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        pytest.param("edge_agent.__main__", {"fastapi", "psycopg", "cryptography"}, id="edge"),
        pytest.param("ingest.__main__", {"aiomqtt", "fastapi", "uvicorn"}, id="ingest"),
        pytest.param("api.app", {"cryptography", "typer"}, id="api"),
        pytest.param("simulators.__main__", {"fastapi", "psycopg"}, id="simulators"),
    ],
)
def test_a_stage_does_not_load_what_another_needs(package: str, foreign: set[str]) -> None:
    assert not foreign & loaded_by(f"import {package}")


@pytest.mark.parametrize("stage", STAGES)
def test_importing_a_stage_imports_nothing(stage: str) -> None:
    tree = ast.parse((ROOT / stage / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1, "a docstring and nothing else"


class TestKinds:
    """A device class is known in every stage, or people meet half of one."""

    def test_every_stage_lists_the_same(self) -> None:
        assert list(INGEST_KINDS) == list(CHANGED)
        assert list(API_KINDS) == list(CHANGED)
        assert list(DRIVERS) == list(CHANGED)
        assert list(TIMELINES) == list(CHANGED)

    @pytest.mark.parametrize("stage", STAGES)
    def test_every_stage_has_a_module_for_each(self, stage: str) -> None:
        files = {path.stem for path in (ROOT / stage / "kinds").glob("*.py")}
        assert files == {"__init__", "base", *CHANGED}

    @pytest.mark.parametrize("kind", CHANGED)
    def test_each_has_a_golden_payload(self, kind: str) -> None:
        payloads = (ROOT / "tests/payloads/v1").glob("*.json")
        assert any(f'"kind":"{kind}"' in path.read_text().replace(" ", "") for path in payloads)

    @pytest.mark.parametrize("language", ["zh-CN", "en"])
    def test_each_has_a_name_and_its_rules_have_a_text(self, language: str) -> None:
        texts = json.loads((ROOT / f"ingest/locales/{language}.json").read_text(encoding="utf-8"))
        needed = {f"kind.{kind}" for kind in (*CHANGED, "gateway")}
        needed |= {
            f"rule.{rule.id}.{part}" for rule in DEFAULT_RULES for part in ("title", "about")
        }
        assert not needed - texts.keys()


@pytest.mark.parametrize("folder", ["api/locales", "ingest/locales"])
def test_both_languages_have_the_same_keys(folder: str) -> None:
    chinese, english = (
        json.loads((ROOT / folder / f"{language}.json").read_text(encoding="utf-8"))
        for language in ("zh-CN", "en")
    )
    assert chinese.keys() == english.keys()


class TestPortable:
    """What is committed works behind any mirror, in any folder, for anyone."""

    def test_no_file_names_a_registry(self) -> None:
        found = {
            str(path.relative_to(ROOT)): match[0]
            for path in sources()
            if (match := REGISTRY.search(path.read_bytes()))
        }
        assert not found

    def test_no_file_names_a_home_or_this_checkout(self) -> None:
        here = str(ROOT).encode()
        found = [
            str(path.relative_to(ROOT))
            for path in sources()
            if HOME.search(content := path.read_bytes()) or (here != b"/" and here in content)
        ]
        assert not found

    def test_python_locks_hold_versions_and_hashes_only(self) -> None:
        locks = sorted((ROOT / "requirements").glob("*.txt"))
        assert locks
        for lock in locks:
            text = lock.read_text()
            assert "://" not in text
            for line in text.replace("\\\n", "").splitlines():
                if line.strip() and not line.startswith("#"):
                    assert re.match(r"[\w.-]+==\S+.*--hash=sha256:[0-9a-f]{64}", line), line

    def test_the_console_lock_holds_no_addresses(self) -> None:
        lock = json.loads((ROOT / "api/web/package-lock.json").read_text())
        packages = {name: entry for name, entry in lock["packages"].items() if name}
        assert packages
        assert not [name for name, entry in packages.items() if "resolved" in entry]
        assert all("integrity" in entry for entry in packages.values() if "version" in entry)

    @pytest.mark.parametrize("suffix", [".py", ".sh", ".sql", ".ts", ".tsx"])
    def test_sources_name_their_licence(self, suffix: str) -> None:
        files = [path for path in sources() if path.suffix == suffix]
        assert files
        head = "SPDX-License-Identifier: Apache-2.0"
        assert not [
            str(path.relative_to(ROOT))
            for path in files
            if not any(head in line for line in path.read_text(encoding="utf-8").splitlines()[:2])
        ]


def test_documents_mention_only_what_exists() -> None:
    missing: list[str] = []
    for document in sources():
        if document.suffix != ".md":
            continue
        for path, name in MENTION.findall(document.read_text(encoding="utf-8")):
            file = ROOT / path
            if not file.exists() and not (document.parent / path).exists():
                missing.append(f"{document.relative_to(ROOT)}: {path}")
            elif name and f"def {name}(" not in file.read_text(encoding="utf-8"):
                missing.append(f"{document.relative_to(ROOT)}: {path}::{name}")
    assert not missing
