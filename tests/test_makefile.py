"""The Makefile and git: after what make makes, ``git status`` is as clean as before."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
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


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_what_make_runs_for_an_environment_says_why_it_fails_and_nothing_when_it_is_interrupted(tmp_path: Path) -> None:
    """Python's traceback of Ctrl-C would be 20 lines."""
    (briefly,) = re.findall(r"^briefly = .*$", MAKEFILE, re.MULTILINE)
    script = tmp_path / "step.py"
    (tmp_path / "Makefile").write_text(f"{briefly}\nall:\n\t@$(call briefly,{sys.executable} {script})\n")

    def said() -> str:
        done = subprocess.run(
            ["make", "-C", str(tmp_path), "all"], capture_output=True, text=True, timeout=60, start_new_session=True
        )
        assert done.returncode != 0
        return done.stdout + done.stderr

    script.write_text("raise SystemExit('no space left')")
    assert "no space left" in said()
    script.write_text("import os, signal\nos.killpg(0, signal.SIGINT)\nsignal.pause()\n")
    assert "Traceback" not in said()
