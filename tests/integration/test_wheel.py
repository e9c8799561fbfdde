"""Without a clone: the wheel, installed alone in a fresh environment, does what the clone does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_home import Home

from timbr_wamp import examples
from timbr_wamp.dashboard import page_dir

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
#: What a build reads; nothing else of the clone is there.
PARTS = (
    "timbr_wamp",
    "router-config",
    "locks",
    "examples/data",
    "setup.cfg",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
)
TEXTS = ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md")
INSTALL_LIMIT_S = 240.0
#: Without what would lead a fresh environment to a clone.
OWN_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=OWN_ENVIRONMENT, capture_output=True, text=True,
        timeout=INSTALL_LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing of an earlier build gets in."""
    if page_dir() is None:
        pytest.fail("the page is not built: make page")
    source = tmp_path_factory.mktemp("source")
    for part in (*PARTS, *TEXTS):
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / part, source / part)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel and what the lock names for it; its folder of commands."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert uv is not None, "uv is in the lock: make test"
    _run(uv, "venv", "--python", sys.executable, folder)
    install = (uv, "pip", "install", "--python", folder / "bin" / "python", "--no-deps")
    _run(*install, "--require-hashes", "-r", ROOT / "locks" / "runtime.txt")
    _run(*install, wheel)
    _run(uv, "pip", "check", "--python", folder / "bin" / "python")
    return folder / "bin"


@pytest.fixture
def installed(environment: Path, crossbar: Path) -> Iterator[Home]:
    """A home whose command is the installed one."""
    home = Home(crossbar, [str(environment / "timbr-wamp")])
    yield home
    home.close()


def test_the_wheel_carries_page_router_configuration_and_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    carried = {
        "timbr_wamp/py.typed",
        "timbr_wamp/dashboard/static/index.html",
        "timbr_wamp/cli/demo/metrics.py",
        "timbr_wamp/streams/backends/redis.lua",
        "timbr_wamp/cli/demo/earthquakes.py",
        *(f"timbr_wamp/example_data/{name}" for name in (*examples.NAMES, "README.md")),
        *(f"timbr_wamp/router/config/{path.name}" for path in (ROOT / "router-config").iterdir() if path.is_file()),
        "timbr_wamp/router/config/uv.txt",
        "timbr_wamp/router/config/build.txt",
    }
    assert carried <= names
    assert not [name for name in names if name.startswith(("tests/", "frontend/", "benchmarks/")) or ".pyc" in name]


def test_a_bare_install_imports_and_runs_a_machine(environment: Path, tmp_path: Path) -> None:
    program = "from timbr_wamp import Machine; m = Machine(); m[0] = lambda x: x**2; print(m(14)[2])"
    assert _run(environment / "python", "-c", program, cwd=tmp_path) == "196\n"


def test_the_package_is_the_installed_one(environment: Path, tmp_path: Path) -> None:
    where = _run(environment / "python", "-c", "import timbr_wamp; print(timbr_wamp.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment.parent))


def test_both_commands_are_there(environment: Path) -> None:
    assert "Commands:" in _run(environment / "timbr-wamp", "--help")
    assert "--wamp-url" in _run(environment / "wampify", "--help")


def test_the_demo_runs_from_the_wheel_alone(installed: Home) -> None:
    with installed.up("--source", "earthquakes", command="demo") as printed:
        with urllib.request.urlopen(printed["page_url"].partition("#")[0], timeout=10) as answer:
            page = answer.read().decode()
        assert "assets/" in page, "the built page, not the placeholder"
        records = installed.run("tail", "demo", "--all", "--json", "--count", "5").splitlines()
    assert [json.loads(record)["seq"] for record in records] == [1, 2, 3, 4, 5]
    assert json.loads(records[0])["values"]["f0"]["region"]
    assert installed.processes() == []
