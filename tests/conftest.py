"""Shared by all tests: private folders, one real router for the session, a check for leaks.

Nothing here reads or writes the user's own files: the environment points every process that a test
starts to folders below a short one in /tmp (paths of unix sockets are limited to about 100 bytes).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
from machine_kit import must_end
from wait_kit import wait_until

import timbr_wamp.dashboard
from timbr_wamp.dashboard.build import packages_installed
from timbr_wamp.errors import RouterNotInstalled
from timbr_wamp.router import Router, find_crossbar
from timbr_wamp.router import free_port as pick_free_port
from timbr_wamp.settings import ENV_PREFIX, LEGACY_ENV, PROJECT_VARIABLES, Settings, load_settings

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long drawing and running take says how busy the computer is.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

#: Seconds within which a process or thread that a test ended must have ended.
LEAK_LIMIT_S = 5.0
#: Every process that a test starts inherits this variable: what still has it at the end was left behind.
SESSION_MARK = "TIMBR_TEST_SESSION"
#: Started by the standard library for the whole process.
LASTING_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@pytest.fixture(scope="session", name="require_service")
def _require_service() -> Callable[[str, Callable[[], object]], None]:
    """``require_service("Redis", probe)``: `probe` raises OSError when the service is not there."""
    return require_service


def require_service(name: str, probe: Callable[[], object]) -> None:
    """Skip the test when a service is not there; where ``CI`` is set, fail."""
    try:
        probe()
    except (OSError, RouterNotInstalled) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{name} is not there: {error}")


# --- how many processes run them, and in which order -----------------------------------------

#: Most workers that are started: each has its own router, of 130 MB.
WORKERS_LIMIT = 8
#: Number of earlier tests of the same process that a failure names.
TESTS_BEFORE = 10

_ran_here: list[str] = []


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run files and tests that are named one by one here, where a debugger works; folders on all cores."""
    if all(argument.partition("::")[0].endswith(".py") for argument in config.args):
        return 0
    cores = os.cpu_count() or 1
    return min(cores + (cores + 1) // 2, WORKERS_LIMIT)  # half of the time, a test waits for processes that start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with a failure which tests ran before it in this process: one of them may have left something."""
    report = yield
    if report.failed:
        report.sections.append(("Tests that ran before in this process", "\n".join(_ran_here[-TESTS_BEFORE:])))
    if report.when == "teardown":
        _ran_here.append(item.nodeid)
    # What a test printed or logged may hold lone surrogates, which no worker can send.
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names of tests that differ from process to process: the workers must collect the same tests."""
    named = [item.nodeid for item in items if re.search(r"\b0x[0-9a-f]{6,}\b", item.nodeid)]
    if named:
        raise pytest.UsageError(f"an address is in the name of a test, so give its parameters ids: {named}")


# --- folders and settings --------------------------------------------------------------------

#: The settings outside of the tests, which know where the router's environment is.
_USERS_SETTINGS = load_settings()


@pytest.fixture(scope="session")
def crossbar() -> Path:
    """The crossbar executable, found before the tests' own environment hides it."""
    require_service("Crossbar.io", lambda: find_crossbar(_USERS_SETTINGS))
    return find_crossbar(_USERS_SETTINGS)


@pytest.fixture(scope="session", autouse=True)
def test_folder() -> Iterator[Path]:
    """A short private folder; all our environment variables point into it."""
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    before = dict(os.environ)
    ours = {name for name in os.environ if name.startswith(ENV_PREFIX)}
    for name in ours | {legacy for names in (*LEGACY_ENV.values(), PROJECT_VARIABLES) for legacy in names}:
        os.environ.pop(name, None)
    for kind in ("runtime", "data", "config"):
        os.environ[f"{ENV_PREFIX}{kind.upper()}_DIR"] = str(folder / kind)
    os.environ[f"{ENV_PREFIX}ROUTER_ENV"] = str(folder / "router-env")  # no test makes or removes the clone's
    os.environ[f"{ENV_PREFIX}HOST"] = "lab"
    os.environ[SESSION_MARK] = folder.name
    try:
        # For `timbr-wamp up` and others that tests start as a user would; the rest find none and say so.
        os.environ[f"{ENV_PREFIX}CROSSBAR"] = str(find_crossbar(_USERS_SETTINGS))
    except RouterNotInstalled:
        os.environ.pop(f"{ENV_PREFIX}CROSSBAR", None)
    yield folder
    os.environ.clear()
    os.environ.update(before)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not _strays(folder.name), "they end", LEAK_LIMIT_S)
    strays = _strays(folder.name)
    names = [_command(process) for process in strays]
    for process in strays:
        process.kill()  # ours: its environment bears this session's mark
    shutil.rmtree(folder, ignore_errors=True)
    assert not names, f"left behind by the tests: {names}"


@pytest.fixture(scope="session")
def settings(test_folder: Path) -> Settings:
    """The settings of the session's router: `timbr_wamp.connect` finds it by these."""
    return load_settings()


@pytest.fixture
def own_settings(crossbar: Path) -> Iterator[Settings]:
    """Settings with folders for one test alone, for who starts a router or host of its own."""
    with _in_own_folders(crossbar) as settings:
        yield settings


@pytest.fixture(scope="module")
def module_settings(crossbar: Path) -> Iterator[Settings]:
    """The same for the tests of one file."""
    with _in_own_folders(crossbar) as settings:
        yield settings


@contextlib.contextmanager
def _in_own_folders(crossbar: Path) -> Iterator[Settings]:
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    folders = {name: folder / name.removesuffix("_dir") for name in ("runtime_dir", "data_dir", "router_env")}
    yield load_settings(environ={}, host="lab", crossbar=crossbar, **folders)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def free_port() -> int:
    """A TCP port that is free now."""
    return pick_free_port()


# --- the router ------------------------------------------------------------------------------

_lasting_routers: list[Router] = []


@pytest.fixture(scope="session")
def lasting_routers() -> list[Router]:
    """Routers that outlive the test that started them; who adds one stops it."""
    return _lasting_routers


@pytest.fixture(scope="session")
def router(settings: Settings, crossbar: Path) -> Iterator[Router]:
    """One real router for all tests; give each test kernel ids of its own."""
    page = Path(timbr_wamp.dashboard.__file__).parent / "static"
    page_dir = page if (page / "index.html").is_file() else None
    node = Router.start(settings, port=pick_free_port(), page_dir=page_dir)
    _lasting_routers.append(node)
    try:
        yield node
    finally:
        _lasting_routers.remove(node)
        node.stop(timeout_s=10.0)


# --- Node.js ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """The folder ``tests/node`` with the libraries that its lock file names."""
    folder = Path(__file__).parent / "node"

    def probe() -> None:
        if shutil.which("node") is None:
            raise FileNotFoundError("node is not on the PATH")
        if not packages_installed(folder):
            raise FileNotFoundError("the packages are not installed: make node-packages")

    require_service("Node.js with the packages of tests/node", probe)
    return folder


# --- leaks -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(test_folder: Path) -> Iterator[None]:
    """Fail a test that leaves threads which hold up the exit, or processes."""
    threads_before, processes_before = set(threading.enumerate()), _children()
    yield
    commands: dict[psutil.Process, str] = {}
    threads, processes = list[threading.Thread](), set[psutil.Process]()

    def all_ended() -> bool:
        nonlocal threads, processes
        threads = [thread for thread in threading.enumerate() if thread not in threads_before and must_end(thread)]
        processes = _children() - processes_before
        for process in processes - commands.keys():
            commands[process] = _command(process)  # one that ended meanwhile has none
        return not threads and not processes

    with contextlib.suppress(AssertionError):
        wait_until(all_ended, "they end", LEAK_LIMIT_S)
    if not threads and not processes:
        return
    names = [f"{commands[process]} ({_status(process)})" for process in processes]
    for process in processes:
        process.kill()  # ours: a child of this process that was not there before
    pytest.fail(f"left behind: threads {[thread.name for thread in threads]}, processes {names}")


def _children() -> set[psutil.Process]:
    routers = {process for node in _lasting_routers for process in _family(node.pid)}
    return {process for process in _family(os.getpid()) if process not in routers and _counts(process)}


def _strays(mark: str) -> list[psutil.Process]:
    """Return the processes that tests started in sessions of their own and nobody ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SESSION_MARK) == mark and _counts(process):
                found.append(process)
        except psutil.Error:
            continue  # ended meanwhile, or another user's
    return [process for process in found if process.pid != os.getpid()]


def _family(pid: int) -> set[psutil.Process]:
    try:
        process = psutil.Process(pid)
        members = set(process.children(recursive=True))
    except psutil.Error:
        return set()
    return members if pid == os.getpid() else {process, *members}


def _counts(process: psutil.Process) -> bool:
    """Whether a process was left behind: one that runs, or a child of ours that ended and is not waited for."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return process.ppid() == os.getpid()
        return not any(name in argument for argument in process.cmdline() for name in LASTING_PROCESSES)
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) or f"{process.name()}, process {process.pid}"
    return f"process {process.pid}"


def _status(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str(process.status())
    return "ended"
