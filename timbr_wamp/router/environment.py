"""Find Crossbar.io, or make the environment that it lives in.

Its pins cannot live beside JupyterLab's, so it has a virtual environment of its own, made from
``router-config/requirements.txt``, which names every version and hash. uv installs it; where there
is none, pip brings the locked one into that environment first. A note in the folder says that it is
ours and complete; without the note it is made again.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from timbr_wamp.errors import RouterInstallFailed, RouterNotInstalled
from timbr_wamp.router.folder import clone_folder, locked, shipped, tail
from timbr_wamp.settings import Settings

logger = logging.getLogger(__name__)

Report = Callable[[str], None]

INSTALL_COMMAND = "timbr-wamp router install"
#: Older ones have another configuration, or lack what the node component uses.
OLDEST_VERSION = (25, 1)
NOTE = ".timbr-wamp-router"
#: Where a clone has its own, in its root.
CLONE_ENVIRONMENT = ".router-env"
#: What it is made from: the router's packages, what builds those that exist as source, and uv. All with hashes.
LOCKS = ("requirements.txt", "build.txt", "uv.txt")
#: One step of an installation; a slow line needs minutes for the 130 MB of wheels.
STEP_LIMIT_S = 1200.0
LOCK_LIMIT_S = 2 * STEP_LIMIT_S
VERSION_LIMIT_S = 60.0


def find_crossbar(settings: Settings) -> Path:
    """Return the crossbar executable: the one of the settings, else of our environment, else on the PATH.

    Raises:
        RouterNotInstalled: there is none, or it is too old; the error says where was looked.
    """
    if settings.crossbar is not None:
        return _checked(settings.crossbar)
    folder = environment_folder(settings)
    if _is_complete(folder):
        return folder / "bin" / "crossbar"
    on_path = shutil.which("crossbar")
    if on_path is None:
        raise RouterNotInstalled(f"not in {folder}, not on the PATH", INSTALL_COMMAND)
    return _checked(Path(on_path))


def environment_folder(settings: Settings) -> Path:
    """Return where our environment is or would be.

    The setting comes first. A clone has its own in its root, whoever asks. Otherwise it is in the
    data folder, where other requirements give another folder.
    """
    if settings.router_env is not None:
        return settings.router_env
    clone = clone_folder()
    if clone is not None:
        return clone / CLONE_ENVIRONMENT
    return settings.data_dir / f"router-{_requirements_hash()}"


def install_crossbar(settings: Settings, report: Report) -> Path:
    """Make the router's environment unless it is there; return its crossbar executable.

    Takes about half a minute. ``report`` gets lines for people. Needs no compiler on Linux and on
    Macs with Apple's processors. What a broken attempt left is made anew.

    Raises:
        RouterInstallFailed: a step failed; the error has the end of its output.
    """
    folder = environment_folder(settings).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder.with_name(folder.name + ".lock"), LOCK_LIMIT_S):
            if not _is_complete(folder):
                _make(folder, report)
    except TimeoutError as error:
        raise RouterInstallFailed("waiting for another installation", str(error)) from None
    return folder / "bin" / "crossbar"


def crossbar_version(crossbar: Path) -> str | None:
    """Return the version of a crossbar executable; None if it is not one, or does not run."""
    for found in crossbar.resolve().parents[1].glob("lib/python*/site-packages/crossbar-*.dist-info"):
        return found.name.removeprefix("crossbar-").removesuffix(".dist-info")  # asking it takes two seconds
    try:
        done = subprocess.run(
            [crossbar, "version"],
            capture_output=True,
            text=True,
            timeout=VERSION_LIMIT_S,
            stdin=subprocess.DEVNULL,
            env=clean_environment(os.environ),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("%s does not run: %s", crossbar, error)
        return None
    version = re.search(r"Crossbar\.io\s*:\s*(\d+(?:\.\d+)+)", done.stdout)
    return version[1] if version else None


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the router's processes: no secret, and nothing of this Python."""
    left_out = {"VIRTUAL_ENV", "JPY_PARENT_PID", "TIMBR_WAMP_TOKEN", "JUNO_AUTH_TOKEN"}
    return {name: value for name, value in environ.items() if name not in left_out and not name.startswith("PYTHON")}


def _checked(crossbar: Path) -> Path:
    version = crossbar_version(crossbar) if os.access(crossbar, os.X_OK) else None
    if version is None:
        raise RouterNotInstalled(f"{crossbar} is no crossbar that runs", INSTALL_COMMAND)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        wanted = ".".join(map(str, OLDEST_VERSION))
        raise RouterNotInstalled(f"{crossbar} is {version}, older than {wanted}", INSTALL_COMMAND)
    return crossbar


def _is_complete(folder: Path) -> bool:
    try:
        noted = (folder / NOTE).read_text(encoding="utf-8")
    except OSError:
        return False
    return noted == _requirements_hash() and os.access(folder / "bin" / "crossbar", os.X_OK)


@functools.cache
def _requirements_hash() -> str:
    return hashlib.sha256(shipped("requirements.txt").read_bytes()).hexdigest()[:12]


# --- making it -------------------------------------------------------------------------------


def _make(folder: Path, report: Report) -> None:
    _clear(folder)
    report(f"making the router's own environment in {folder}")
    folder.mkdir()
    note = folder / NOTE
    note.write_text("not complete", encoding="utf-8")
    for name in LOCKS:
        (folder / name).write_bytes(shipped(name).read_bytes())
    python = str(folder / "bin" / "python")
    uv = _uv(folder, python, report)
    report("installing Crossbar.io: about 130 MB to download, once")

    def progress(line: str) -> None:
        if line.startswith(("Resolved", "Prepared", "Installed")):
            report(f"  {line}")

    install = [uv, "pip", "install", "--python", python, "--no-deps", "--require-hashes"]
    install += ["--build-constraints", str(folder / "build.txt"), "-r", str(folder / "requirements.txt")]
    _run(install, "installing the packages", progress)
    _run([str(folder / "bin" / "crossbar"), "version"], "running crossbar", _ignore)
    note.write_text(_requirements_hash(), encoding="utf-8")
    report(f"Crossbar.io {crossbar_version(folder / 'bin' / 'crossbar')} is installed")


def _uv(folder: Path, python: str, report: Report) -> str:
    """Make the empty environment; return the uv that fills it: one that is here, else the locked one, in there."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")
    if uv is not None:
        venv = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)]
        _run(venv, "making a virtual environment", _ignore)
        return uv
    report("bringing uv, which installs the rest")
    venv = [sys.executable, "-m", "venv", str(folder)]
    _run(venv, "making a virtual environment (Debian: apt install python3-venv)", _ignore)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    install += ["--no-deps", "--require-hashes", "-r", str(folder / "uv.txt")]
    _run(install, "installing uv", _ignore)
    return str(folder / "bin" / "uv")


def _ignore(line: str) -> None:
    """Take a line of output that nobody needs; a failed step shows its output all the same."""


def _clear(folder: Path) -> None:
    """Remove what a broken attempt left; never a folder that is not ours."""
    if not folder.exists():
        return
    if not (folder / NOTE).exists() and any(folder.iterdir()):
        problem = f"{folder} was not made by timbr-wamp; remove it, or set router_env to another folder"
        raise RouterInstallFailed("clearing the folder", problem)
    shutil.rmtree(folder)


def _run(command: Sequence[str], step: str, on_line: Report) -> None:
    """Run one step, its output by lines to ``on_line``; end it whole at the limit or when interrupted.

    Raises:
        RouterInstallFailed: it could not be started, failed, or took too long.
    """
    recent: collections.deque[str] = collections.deque(maxlen=50)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=clean_environment(os.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise RouterInstallFailed(step, str(error)) from None
    watchdog = threading.Timer(STEP_LIMIT_S, _end_session, [process])
    watchdog.daemon = True
    watchdog.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            recent.append(line.rstrip())
            on_line(line.rstrip())
        status = process.wait()
    except BaseException:
        _end_session(process)
        process.wait()
        raise
    finally:
        watchdog.cancel()
        if process.stdout is not None:
            process.stdout.close()
    if status != 0:
        took_too_long = f"\nended after {STEP_LIMIT_S:g} s" if status == -signal.SIGKILL else ""
        raise RouterInstallFailed(step, tail("\n".join(recent)) + took_too_long)


def _end_session(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
