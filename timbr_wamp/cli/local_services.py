"""`LocalServices`: the processes of ``up``, router and host. They are started, watched, and ended in reverse order.

They run in sessions of their own, so that Ctrl-C in the terminal reaches this process only. Kernels keep
running after the host, and a later ``up`` adopts them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from timbr_wamp import runtime
from timbr_wamp.command_line import command_line
from timbr_wamp.errors import ServiceEnded
from timbr_wamp.processes import Process, RestartPolicy, Restarts, Supervisor, end_all, spawn
from timbr_wamp.runtime import BridgeFile, HostFile, KernelFile

if TYPE_CHECKING:
    from timbr_wamp.router import Router
    from timbr_wamp.settings import Settings

#: Timeout for the host to answer after its start; it may adopt kernels later.
HOST_START_S = 20.0
START_POLL_S = 0.05
#: Timeouts for the processes to end after SIGTERM, before they are killed.
HOST_STOP_S = 15.0
BRIDGE_STOP_S = 5.0
ROUTER_STOP_S = 10.0
#: Timeout that replaces the others after a second Ctrl-C.
SHORTENED_STOP_S = 0.5
#: Restarts of a router or host that ends by itself; one more is an error.
POLICY = RestartPolicy(limit=5)
#: Interval for checking the processes.
WATCH_INTERVAL_S = 0.5


class LocalServices:
    """The router and host of one ``up``. Main thread only.

    Args:
        report: called with lines for people.
        ends_kernel: returns whether `stop` ends a kernel; by default it ends none.
    """

    def __init__(
        self,
        settings: Settings,
        report: Callable[[str], None],
        *,
        ends_kernel: Callable[[KernelFile], bool] = lambda kernel: False,
    ) -> None:
        self._settings = settings
        self._report = report
        self._ends_kernel = ends_kernel
        self._router: Router | None = None
        self._router_restarts = Restarts(POLICY)
        self._host: Supervisor | None = None
        self._shortened = threading.Event()
        self._page: Path | None = None

    @property
    def router(self) -> Router:
        """The router; available after `start_router`."""
        assert self._router is not None
        return self._router

    def start_router(self, *, next_free_port: bool) -> None:
        """Start the router, after installing Crossbar.io if necessary; return when it answers.

        A router whose `up` was killed is taken over as it runs.

        Raises:
            AlreadyUp, PortBusy, NoFreePort, RouterInstallFailed, RouterStartFailed.
        """
        from timbr_wamp.dashboard import page_dir
        from timbr_wamp.errors import RouterNotInstalled
        from timbr_wamp.router import Router, find_crossbar, install_crossbar

        self._page = page_dir()
        self._router = Router.take_over(self._settings)
        if self._router is not None:
            self._report(f"taking over the router of an earlier run that was killed (process {self._router.pid})")
            self._router_restarts.started(now=time.monotonic())
            return
        try:
            find_crossbar(self._settings)
        except RouterNotInstalled:
            Router.check(self._settings, next_free_port=next_free_port)  # before the download
            install_crossbar(self._settings, self._report)
        if self._page is None:
            self._report("the page is not built, so the router shows a placeholder; build it with: make page")
        self._router = Router.start(
            self._settings, next_free_port=next_free_port, page_dir=self._page, report=self._report
        )
        self._router_restarts.started(now=time.monotonic())

    def start_host(self) -> None:
        """Find the host of this router, or start it; return when it answers on the router.

        Raises:
            ServiceEnded: it ended or did not answer in time, and why.
        """
        log = Path(self.router.node_dir) / "host.log"
        self._host = Supervisor(
            "the host", lambda: self._spawn_host(log), find=self._find_host, log_file=log,
            reason_file=_reason_file(log),
        )  # fmt: skip
        if (found := self._find_host()) is not None:
            self._report(f"taking over the host of an earlier run that was killed (process {found.pid})")
        self._host.start()
        deadline = time.monotonic() + HOST_START_S
        while (found := self._find_host()) is None or not self._host.alive:
            if not self._host.alive and not self._host.check():
                raise ServiceEnded("the host", f"ended by itself ({self._host.reason})", self._host.log)
            if time.monotonic() > deadline:
                raise ServiceEnded("the host", f"did not answer within {HOST_START_S:g} s", self._host.log)
            time.sleep(START_POLL_S)

    def _host_file(self) -> HostFile | None:
        """The file of this router's host, which it writes when its procedures are registered."""
        path = runtime.host_file(self._settings.runtime_dir, self.router.unix_url)
        return runtime.read_file(path, HostFile)

    def _find_host(self) -> Process | None:
        return Process.of(self._host_file())

    def _spawn_host(self, log: Path) -> Process:
        environ = {
            **os.environ,
            "TIMBR_WAMP_URL": self.router.unix_url,
            "TIMBR_WAMP_TOKEN": self.router.host_token,
            "TIMBR_WAMP_HOST": self.router.host_token.partition(".")[0],
        }
        command = [sys.executable, "-m", "timbr_wamp", "host"]
        return spawn(command, environment=environ, log_file=log, reason_file=_reason_file(log))

    def watch(self) -> None:
        """Restart router and host when they end by themselves; return when the router was stopped on request.

        Ended by `KeyboardInterrupt`.

        Raises:
            ServiceEnded: one of them ended too often, and why.
        """
        while not self.router.stopped_on_request:
            if not self.router.alive:
                self._restart_router()
            if self._host is not None:
                self._watch_host(self._host)
            time.sleep(WATCH_INTERVAL_S)
        self._report("the router was stopped")

    def _restart_router(self) -> None:
        """Restart the router on its port, unless it ended too often.

        Host, bridges and clients reconnect by themselves. Records of the meantime stay in the machines.

        Raises:
            ServiceEnded: it ended too often.
            PortBusy, RouterStartFailed: it could not be restarted.
        """
        from timbr_wamp.router import Router

        status, restarts = self.router.exit_status, self._router_restarts
        reason = "killed" if status is None else f"status {status}"
        if restarts.ended(reason, now=time.monotonic()) == "given_up":
            raise ServiceEnded("the router", f"ended by itself: {restarts.reason}", "")
        self._report(f"the router ended by itself ({reason}); restarting it")
        time.sleep(max(0.0, restarts.due_at - time.monotonic()))
        port = self.router.port
        self.router.stop(timeout_s=SHORTENED_STOP_S)
        self._router = Router.start(self._settings, port=port, page_dir=self._page, report=self._report)
        restarts.started(now=time.monotonic())

    def _watch_host(self, host: Supervisor) -> None:
        """Restart the host, whose bridges and kernels keep running meanwhile."""
        if host.state == "running" and host.alive:
            return
        ran = host.state == "running"
        host.check()
        if host.state == "given_up":
            raise ServiceEnded("the host", f"ended by itself: {host.reason}", host.log)
        if ran:
            self._report("the host ended by itself; restarting it")

    def shorten_stop(self) -> None:
        """Shorten the remaining timeouts of `stop`. Any thread, also a signal handler."""
        self._shortened.set()

    def stop(self) -> None:
        """End host, bridges, the kernels selected by ``ends_kernel``, and router. Idempotent, bounded in time.

        The host is ended first, because it restarts bridges that end.
        """
        if self._host is not None:
            self._report("ending the host")
            self._end([self._host.process] if self._host.process is not None else [], HOST_STOP_S)
            self._host = None
            self._end_bridges()
            self._end_kernels()
        if self._router is not None:
            self._report("ending the router")
            self._router.stop(timeout_s=self._timeout_s(ROUTER_STOP_S))
            self._router = None

    def _end_bridges(self) -> None:
        """End bridges that a killed host of this router left running; those that users started keep running."""
        files = runtime.live_files(self._settings.runtime_dir, "bridge-", BridgeFile).values()
        left = [file for file in files if file.hosted and file.router == self.router.unix_url]
        self._end([process for file in left if (process := Process.of(file)) is not None], BRIDGE_STOP_S)

    def _end(self, processes: list[Process], patience_s: float) -> None:
        """End processes: SIGTERM to all, then SIGKILL to those that still run."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                process.signal(number)
            if self._wait(lambda: not any(process.alive for process in processes), patience_s):
                return

    def _end_kernels(self) -> None:
        from timbr_wamp.components.launcher import forget_kernel

        folder = self._settings.runtime_dir
        kept: list[str] = []
        ended: list[KernelFile] = []
        for kernel in runtime.live_files(folder, "kernel-", KernelFile, clean=False).values():
            if not runtime.is_of_router(kernel.router, self.router.unix_url):
                continue
            if not self._ends_kernel(kernel):
                kept.append(kernel.name)
                continue
            self._report(f"ending kernel {kernel.name}")
            ended.append(kernel)
        running = end_all([process for kernel in ended if (process := Process.of(kernel)) is not None])
        for kernel in ended:
            if kernel.pid not in [process.pid for process in running]:
                forget_kernel(folder, kernel)
        if kept:
            up, stop = command_line("up"), command_line("kernel", "stop", kept[0])
            self._report(
                f"these kernels keep running: {', '.join(kept)}; the next `{up}` adopts them, and `{stop}` ends "
                f"{'it' if len(kept) == 1 else 'the first'}"
            )

    def _wait(self, done: Callable[[], bool], patience_s: float) -> bool:
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > self._timeout_s(patience_s):
                return False
            time.sleep(0.02)
        return True

    def _timeout_s(self, patience_s: float) -> float:
        return min(patience_s, SHORTENED_STOP_S) if self._shortened.is_set() else patience_s


def _reason_file(log: Path) -> Path:
    """Return where the process of a log says why it ends."""
    return log.with_suffix(".reason")


@contextmanager
def interruptible(services: LocalServices) -> Iterator[None]:
    """End the body at SIGINT, SIGTERM or SIGHUP, then call `LocalServices.stop`.

    A second signal shortens the timeouts of `stop`. Main thread only.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, _raise_interrupt) for number in signals}
    try:
        try:
            with suppress(KeyboardInterrupt):
                yield
        finally:
            for number in signals:
                signal.signal(number, lambda *_: services.shorten_stop())
            services.stop()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _raise_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
