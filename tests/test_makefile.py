"""The Makefile and git: after what make makes, ``git status`` is as clean as before."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
#: Made by what the targets call, as files below these folders: of tests that were killed, and of Python.
ALSO_MADE = (
    "timbr_wamp/__pycache__/x.pyc",
    "tests/node/tmpabc/script0.mjs",
    ".coverage",
    "frontend/node_modules/.lock",
)


def removed() -> list[str]:
    """Return what ``make clean`` and ``make distclean`` remove: all that make makes."""
    words = " ".join(re.findall(r"^\trm -rf (.*)$", MAKEFILE, re.MULTILINE)).split()
    assert {".venv", ".router-env.lock", "dist"} <= set(words)
    return words


def test_what_make_makes_is_ignored_by_git() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    wanted = [*removed(), *ALSO_MADE]
    paths = [*wanted, *(f"{path}/" for path in wanted)]  # git takes a name for a folder's that does not exist yet
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    ignored = {path.removesuffix("/") for path in done.stdout.splitlines()}
    assert [path for path in wanted if path not in ignored] == []


def test_what_make_and_its_commands_make_is_removed_by_distclean() -> None:
    made = set(re.findall(r"(?<![\w./])\.(?:venv|router-env|soak)\b", MAKEFILE))
    assert made <= set(removed())
