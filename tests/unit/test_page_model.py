"""The page's decisions, by the tests in ``tests/page``: their types are checked, then Node.js runs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.conftest import require_service

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "frontend" / "node_modules"


def installed() -> None:
    """Raise an OSError when Node.js or the page's packages are missing."""
    if shutil.which("node") is None:
        raise FileNotFoundError("node is not on the PATH")
    for package in ("vite", "typescript"):
        if not (MODULES / package).is_dir():
            raise FileNotFoundError(f"{package} is not installed in frontend: make page")


def check_exits_0(*command: str | Path) -> None:
    done = subprocess.run(["node", *command], cwd=ROOT / "frontend", capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_decides_as_its_own_tests_say(tmp_path: Path) -> None:
    require_service("Node.js with the page's packages", installed)
    tests = ROOT / "tests" / "page"
    check_exits_0(MODULES / "typescript/bin/tsc", "--noEmit", "-p", tests)
    vite = ("build", "--configLoader", "native", "--logLevel", "error", "--emptyOutDir", "--outDir", tmp_path)
    check_exits_0(MODULES / "vite/bin/vite.js", *vite, "--ssr", tests / "model.test.ts")
    check_exits_0("--test", tmp_path / "model.test.js")
