"""Find Crossbar.io, or create the virtual environment for it.

Crossbar's pinned dependencies conflict with JupyterLab's, so it has an environment of its own,
created from ``router-config/requirements.txt``, which has every version and hash. uv installs it; if
there is no uv, pip installs the locked one into that environment first. A marker file in the folder
says that timbr_wamp created it and that it is complete; without the marker it is created again.

A clone has the environment in its root, an installed package has it in the data folder. Each finds the other's: where
one was made elsewhere, the data folder has a link to it.
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

from timbr_wamp.command_line import command_line
from timbr_wamp.errors import RouterInstallFailed, RouterNotInstalled
from timbr_wamp.processes import locked
from timbr_wamp.router.folder import clone_folder, shipped, tail
from timbr_wamp.settings import Settings

logger = logging.getLogger(__name__)

Report = Callable[[str], None]

#: Oldest supported version: older ones have another configuration format, or lack what the node component uses.
OLDEST_VERSION = (25, 1)
NOTE = ".timbr-wamp-router"
#: Folder of the environment in the root of a clone.
CLONE_ENVIRONMENT = ".router-env"
#: Lock files with hashes: the router's packages, build requirements of packages without a wheel, and uv.
LOCKS = ("requirements.txt", "build.txt", "uv.txt")
#: Timeout of one installation step; a slow connection needs minutes for the 130 MB of wheels.
STEP_LIMIT_S = 1200.0
LOCK_LIMIT_S = 2 * STEP_LIMIT_S
VERSION_LIMIT_S = 60.0


def find_crossbar(settings: Settings) -> Path:
    """Return the crossbar executable: from the settings, else from the router's environment, else from the PATH.

    Raises:
        RouterNotInstalled: there is none, or it is too old; the error lists the places.
    """
    if settings.crossbar is not None:
        return _checked(settings.crossbar)
    made = _complete_environment(settings)
    if made is not None:
        return made / "bin" / "crossbar"
    on_path = shutil.which("crossbar")
    if on_path is None:
        looked = f"neither in {environment_folder(settings)} nor on the PATH"
        raise RouterNotInstalled(looked, command_line("router", "install"))
    return _checked(Path(on_path))


def environment_folder(settings: Settings) -> Path:
    """Return the folder in which the router's environment is created.

    It is the folder of the settings, else for a clone a folder in its root, else a folder in the data
    folder, whose name depends on the requirements.
    """
    if settings.router_env is not None:
        return settings.router_env
    clone = clone_folder()
    return _shared_folder(settings) if clone is None else clone / CLONE_ENVIRONMENT


def _shared_folder(settings: Settings) -> Path:
    """Return the folder in the data folder; it may be a link to a clone's."""
    return settings.data_dir / f"router-{_requirements_hash()}"


def _complete_environment(settings: Settings) -> Path | None:
    """Return the folder of an environment that is complete: the own one, else one that was made elsewhere."""
    own = environment_folder(settings)
    places = (own,) if settings.router_env is not None else (own, _shared_folder(settings))
    return next((folder for folder in places if _is_complete(folder)), None)


def share_environment(settings: Settings) -> None:
    """Let other clones and installed packages find this one's environment, unless they have one."""
    folder, link = _complete_environment(settings), _shared_folder(settings)
    if folder is None or _is_complete(link) or (link.exists() and not link.is_symlink()):
        return
    new = link.with_name(f"{link.name}.{os.getpid()}.new")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        new.symlink_to(folder.absolute())
        new.replace(link)
    except OSError as error:  # they will make one of their own
        logger.info("%s is not shared: %s", folder, error)


def install_crossbar(settings: Settings, report: Report) -> Path:
    """Create the router's environment unless there is one; return its crossbar executable.

    Takes about half a minute. ``report`` is called with lines for people. Needs no compiler on Linux
    and on Macs with Apple's processors. An incomplete environment is replaced.

    Raises:
        RouterInstallFailed: a step failed; the error has the end of its output.
    """
    folder = (_complete_environment(settings) or environment_folder(settings)).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder.with_name(folder.name + ".lock"), LOCK_LIMIT_S):
            if not _is_complete(folder):
                _make(folder, report)
            share_environment(settings)
    except TimeoutError as error:
        raise RouterInstallFailed("waiting for another installation", str(error)) from None
    return folder / "bin" / "crossbar"


def crossbar_version(crossbar: Path) -> str | None:
    """Return the version of a crossbar executable; None if it is not crossbar, or does not run."""
    for found in crossbar.resolve().parents[1].glob("lib/python*/site-packages/crossbar-*.dist-info"):
        return found.name.removeprefix("crossbar-").removesuffix(".dist-info")  # running it takes two seconds
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
    """Return the environment of the router's processes, without secrets and without variables of this Python."""
    left_out = {"VIRTUAL_ENV", "JPY_PARENT_PID", "TIMBR_WAMP_TOKEN", "JUNO_AUTH_TOKEN"}
    return {name: value for name, value in environ.items() if name not in left_out and not name.startswith("PYTHON")}


def _checked(crossbar: Path) -> Path:
    version = crossbar_version(crossbar) if os.access(crossbar, os.X_OK) else None
    if version is None:
        raise RouterNotInstalled(f"{crossbar} is not a working crossbar", command_line("router", "install"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        wanted = ".".join(map(str, OLDEST_VERSION))
        raise RouterNotInstalled(f"{crossbar} is {version}, older than {wanted}", command_line("router", "install"))
    return crossbar


def _is_complete(folder: Path) -> bool:
    try:
        noted = (folder / NOTE).read_text(encoding="utf-8")
    except OSError:
        return False
    return noted == _requirements_hash() and os.access(folder / "bin" / "crossbar", os.X_OK) and _is_in_place(folder)


def _is_in_place(folder: Path) -> bool:
    """Return whether the environment's commands find its Python: not after it was moved, or the Python removed."""
    with (folder / "bin" / "crossbar").open(encoding="utf-8", errors="replace") as script:
        head = script.readline() + script.readline()  # a long path, or one with spaces, is in the second line
    found = re.search(r"""(/[^"'\n]*/bin/python[0-9.]*)""", head)
    return found is None or os.access(found[1], os.X_OK)


@functools.cache
def _requirements_hash() -> str:
    return hashlib.sha256(shipped("requirements.txt").read_bytes()).hexdigest()[:12]


# --- creating it -------------------------------------------------------------------------------


def _make(folder: Path, report: Report) -> None:
    _clear(folder)
    report(f"creating the router's environment in {folder}")
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
    """Create an empty environment; return the uv for it: an installed one, else the locked one, installed into it."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")
    if uv is not None:
        venv = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)]
        _run(venv, "creating a virtual environment", _ignore)
        return uv
    report("installing uv, which installs the rest")
    venv = [sys.executable, "-m", "venv", str(folder)]
    _run(venv, "creating a virtual environment (Debian: apt install python3-venv)", _ignore)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    install += ["--no-deps", "--require-hashes", "-r", str(folder / "uv.txt")]
    _run(install, "installing uv", _ignore)
    return str(folder / "bin" / "uv")


def _ignore(line: str) -> None:
    """Ignore a line of output; the output of a failed step is shown in any case."""


def _clear(folder: Path) -> None:
    """Remove an incomplete environment; refuse to remove any other folder."""
    if folder.is_symlink() and not folder.exists():
        folder.unlink()  # it led to a clone that is gone
    if not folder.exists():
        return
    if not (folder / NOTE).exists() and any(folder.iterdir()):
        problem = f"{folder} was not created by timbr-wamp; remove it, or set router_env to another folder"
        raise RouterInstallFailed("clearing the folder", problem)
    shutil.rmtree(folder)


def _run(command: Sequence[str], step: str, on_line: Report) -> None:
    """Run one step and pass its output to ``on_line``; kill its processes at the timeout or when interrupted.

    Raises:
        RouterInstallFailed: it could not be started, failed, or timed out.
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
        timeout = f"\nkilled after {STEP_LIMIT_S:g} s" if status == -signal.SIGKILL else ""
        raise RouterInstallFailed(step, tail("\n".join(recent)) + timeout)


def _end_session(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
