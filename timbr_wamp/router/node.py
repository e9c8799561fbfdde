"""Start and stop the router: a node folder and one tree of Crossbar processes.

The node folder (mode 0700) holds configuration, tokens, log and the node component; it is kept. The
runtime file ``node.json`` tells the user's other processes how to reach the router; it is removed when
the router stops.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from timbr_wamp import runtime
from timbr_wamp.errors import AlreadyUp, NoFreePort, PortBusy, RouterStartFailed
from timbr_wamp.names import UNIX_SCHEME
from timbr_wamp.processes import Process, locked, spawn
from timbr_wamp.router.environment import clean_environment, find_crossbar
from timbr_wamp.router.folder import tail
from timbr_wamp.router.plan import NodePlan, local_tokens
from timbr_wamp.router.probe import http_answers, node_answers
from timbr_wamp.runtime import NodeFile, private_folder
from timbr_wamp.settings import Settings

logger = logging.getLogger(__name__)

Report = Callable[[str], None]

NODE_FOLDER = "node"
LOG_FILE = "router.log"
PID_FILE = "node.pid"  # written by Crossbar

#: Timeout of a start. It takes 4 to 6 s, and several times that on a busy computer with a cold disk.
START_LIMIT_S = 60.0
#: Number of further ports that ``next_free_port`` tries.
PORT_RANGE = 100
#: Timeout for the port of a killed router: a worker runs up to two seconds longer than its controller.
CRASHED_PORT_LIMIT_S = 5.0
POLL_S = 0.05
PROBE_LIMIT_S = 5.0
KILL_LIMIT_S = 5.0


def free_port(interface: str = "127.0.0.1") -> int:
    """Return a TCP port that is free at the moment. Another process may take it at any time."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((interface, 0))
        return int(sock.getsockname()[1])


@dataclass
class Router:
    """A router that this process started or took over. It keeps running when this process ends; `stop` ends it."""

    url: str
    unix_url: str
    page_url: str
    pid: int
    node_dir: Path
    settings: Settings
    admin_token: str = field(repr=False)
    host_token: str = field(repr=False)
    _process: Process = field(repr=False)

    @classmethod
    def start(
        cls,
        settings: Settings,
        *,
        port: int | None = None,
        next_free_port: bool = False,
        page_dir: Path | None = None,
        report: Report = lambda text: None,
    ) -> Router:
        """Start the router; return when page, unix socket and node component answer.

        Args:
            port: TCP port; None means the port of the settings.
            next_free_port: take the next free port when it is in use.
            page_dir: folder of the built page; None serves a page that says how to build it.
            report: called with lines for people.

        Raises:
            AlreadyUp: a router already runs from this folder.
            PortBusy: the port is in use.
            NoFreePort: the port and the next ones are in use.
            RouterNotInstalled: there is no Crossbar.io.
            RouterStartFailed: it ended, or did not answer in time; the error has the end of its log.
        """
        crossbar = find_crossbar(settings)
        node_dir = private_folder(settings.data_dir / NODE_FOLDER)
        private_folder(settings.runtime_dir)
        with _starting(node_dir):
            crashed = _check_not_running(settings, node_dir)
            wanted = settings.port if port is None else port
            chosen = _choose_port(settings.interface, wanted, next_free_port, crashed)
            if chosen != wanted:
                report(f"port {wanted} is in use; using {chosen}")
            plan = NodePlan.make(settings, node_dir, chosen, page_dir)
            return cls._start(crossbar, plan, report)

    @classmethod
    def check(cls, settings: Settings, *, next_free_port: bool = False) -> None:
        """Refuse what `start` would refuse: for who still has to install Crossbar.io.

        Raises:
            AlreadyUp, PortBusy, NoFreePort: see `start`.
        """
        node_dir = private_folder(settings.data_dir / NODE_FOLDER)
        private_folder(settings.runtime_dir)
        with _starting(node_dir):
            crashed = _check_not_running(settings, node_dir)
            _choose_port(settings.interface, settings.port, next_free_port, crashed)

    @classmethod
    def _start(cls, crossbar: Path, plan: NodePlan, report: Report) -> Router:
        admin_token, host_token = local_tokens(plan.node_dir, plan.settings.host)
        plan.write()
        report(f"starting the router on port {plan.port}")
        process = _spawn(crossbar, plan.node_dir)
        try:
            _wait_until_answering(process, plan, admin_token)
            router = cls(
                url=plan.url,
                unix_url=plan.unix_url,
                page_url=plan.page_url,
                pid=process.pid,
                node_dir=plan.node_dir,
                settings=plan.settings,
                admin_token=admin_token,
                host_token=host_token,
                _process=process,
            )
            router._write_runtime_file()
        except BaseException:
            _end(process, KILL_LIMIT_S)
            raise
        return router

    @classmethod
    def take_over(cls, settings: Settings) -> Router | None:
        """Return the local router if the process that started it was killed; this one owns it from now on.

        Raises:
            AlreadyUp: that process runs.
        """
        node = runtime.read_file(runtime.node_file(settings.runtime_dir), NodeFile)
        process = Process.of(node)
        if node is None or process is None:
            return None
        if node.owned:
            raise AlreadyUp(node.pid, node.page_url)
        router = cls(
            url=node.url, unix_url=node.unix_url, page_url=node.page_url, pid=node.pid, node_dir=Path(node.node_dir),
            settings=settings, admin_token=node.token, host_token=node.host_token, _process=process,
        )  # fmt: skip
        router._write_runtime_file()
        return router

    def _write_runtime_file(self) -> None:
        if not self.alive:
            raise RouterStartFailed("it ended right after it had answered", _log_tail(self.node_dir))
        content = NodeFile(
            pid=self.pid,
            process_started=self._process.started,
            url=self.url,
            unix_url=self.unix_url,
            page_url=self.page_url,
            realm=self.settings.realm,
            node_dir=str(self.node_dir),
            token=self.admin_token,
            host_token=self.host_token,
            owner_pid=os.getpid(),
            owner_started=runtime.own_process_started(),
        )
        runtime.write_file(runtime.node_file(self.settings.runtime_dir), content)

    @property
    def port(self) -> int:
        """The TCP port of page and websocket."""
        port = urlsplit(self.url).port
        assert port is not None  # _choose_port set it
        return port

    @property
    def local_url(self) -> str:
        """URL for clients on this computer; see `timbr_wamp.runtime.NodeFile.local_url`."""
        return self.unix_url if self.url.startswith("wss:") else self.url

    @property
    def alive(self) -> bool:
        """Whether the router runs."""
        return self._process.alive

    @property
    def exit_status(self) -> int | None:
        """Its exit status; None while it runs, and of a router that was taken over."""
        return self._process.exit_status

    @property
    def stopped_on_request(self) -> bool:
        """Whether another process ended it by `stop_node`."""
        node = runtime.read_file(runtime.node_file(self.settings.runtime_dir), NodeFile)
        return not self.alive and (node is None or node.pid != self.pid)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the router with SIGTERM, and after ``timeout_s`` with SIGKILL. Idempotent."""
        _end(self._process, timeout_s)
        _remove_traces(self.settings.runtime_dir, self.pid, Path(self.unix_url.removeprefix(UNIX_SCHEME)))

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def stop_node(settings: Settings, timeout_s: float = 10.0) -> bool:
    """End the local router, also when another process started it; return False if none runs."""
    node = runtime.read_file(runtime.node_file(settings.runtime_dir), NodeFile)
    process = Process.of(node)
    if node is None or process is None:
        return False
    # the file first: whoever watches the router then knows that it was ended on request
    _remove_traces(settings.runtime_dir, node.pid, Path(node.unix_url.removeprefix(UNIX_SCHEME)))
    _end(process, timeout_s)
    return True


# --- before it starts ------------------------------------------------------------------------


@contextmanager
def _starting(node_dir: Path) -> Iterator[None]:
    """Lock the folder, so that only one process at a time starts a router from it."""
    try:
        with locked(node_dir / "start.lock", START_LIMIT_S + KILL_LIMIT_S):
            yield
    except TimeoutError as error:
        raise RouterStartFailed(str(error)) from None


def _check_not_running(settings: Settings, node_dir: Path) -> bool:
    """Remove the files of a router that was killed; return whether there was one.

    Raises:
        AlreadyUp: a router runs, according to its runtime file or Crossbar's pid file.
    """
    node = runtime.local_node(settings.runtime_dir)
    if node is not None:
        raise AlreadyUp(node.pid, node.page_url)
    runtime.node_file(settings.runtime_dir).unlink(missing_ok=True)
    crossbar_file = node_dir / PID_FILE
    pid = _pid_in(crossbar_file)
    if pid is not None and _is_crossbar_of(pid, node_dir):
        raise AlreadyUp(pid, f"the folder {node_dir}")
    crashed = crossbar_file.exists()
    crossbar_file.unlink(missing_ok=True)
    return crashed


def _pid_in(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_bytes())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_crossbar_of(pid: int, node_dir: Path) -> bool:
    """Return whether a process is a router of this folder, and not another process with a reused pid.

    It compares the working folder, because Crossbar overwrites its command line.
    """
    try:
        return Path(psutil.Process(pid).cwd()).samefile(node_dir)
    except (psutil.Error, OSError):
        return False


def _choose_port(interface: str, wanted: int, next_free: bool, crashed: bool) -> int:
    deadline = time.monotonic() + (CRASHED_PORT_LIMIT_S if crashed else 0.0)
    while not _is_free(interface, wanted):
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    else:
        return wanted
    if not next_free:
        raise PortBusy(wanted)
    last = min(wanted + PORT_RANGE, 65535)
    for port in range(wanted + 1, last + 1):
        if _is_free(interface, port):
            return port
    raise NoFreePort(wanted, last)


def _is_free(interface: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Twisted does, so that TIME_WAIT does not count
        try:
            sock.bind((interface, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise RouterStartFailed(f"cannot listen on {interface}: {error.strerror}") from None
    return True


# --- its process -----------------------------------------------------------------------------


def _spawn(crossbar: Path, node_dir: Path) -> Process:
    """Start Crossbar in a session of its own, so that Ctrl-C in this terminal does not reach it."""
    command = [str(crossbar), "start", "--cbdir", str(node_dir), "--color", "false", "--loglevel", "warn"]
    log = node_dir / LOG_FILE
    if log.exists():
        os.replace(log, log.with_name(LOG_FILE + ".1"))
    try:
        return spawn(command, environment=clean_environment(os.environ), log_file=log, cwd=node_dir)
    except OSError as error:
        raise RouterStartFailed(f"{crossbar}: {error.strerror}") from None


def _wait_until_answering(process: Process, plan: NodePlan, token: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    realm = plan.settings.realm
    while time.monotonic() < deadline:
        if not process.alive:
            log_tail = _log_tail(plan.node_dir)
            if "cannot_listen" in log_tail or "CannotListenError" in log_tail:
                raise PortBusy(plan.port)  # another process took it meanwhile
            raise RouterStartFailed(f"it ended with status {process.exit_status}", log_tail)
        if (
            plan.socket_path.exists()
            and http_answers(plan.host, plan.port, tls=plan.tls, timeout_s=PROBE_LIMIT_S)
            and node_answers(plan.socket_path, realm, token, timeout_s=PROBE_LIMIT_S)
        ):
            return
        time.sleep(POLL_S)
    raise RouterStartFailed(f"it did not answer within {START_LIMIT_S:g} s", _log_tail(plan.node_dir))


def _log_tail(node_dir: Path) -> str:
    try:
        return tail((node_dir / LOG_FILE).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""


def _end(process: Process, timeout_s: float) -> None:
    """End a router: SIGTERM to the controller, which ends its worker; after ``timeout_s`` SIGKILL to both."""
    if not process.end(term_s=timeout_s, kill_s=KILL_LIMIT_S, term_group=False):
        logger.warning("process %d of the router did not end", process.pid)


def _remove_traces(runtime_dir: Path, pid: int, socket_path: Path) -> None:
    path = runtime.node_file(runtime_dir)
    node = runtime.read_file(path, NodeFile)
    if node is not None and node.pid == pid:
        path.unlink(missing_ok=True)
        socket_path.unlink(missing_ok=True)
        if socket_path.parent != runtime_dir:
            with suppress(OSError):
                socket_path.parent.rmdir()  # a short folder created for the socket only
