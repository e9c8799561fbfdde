"""`LocalServices`: the processes of ``up``, router and host. They are started, watched, and ended in reverse order.

They run in sessions of their own, so that Ctrl-C in the terminal reaches this process only. Kernels keep
running after the host, and a later ``up`` adopts them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from timbr_wamp import runtime
from timbr_wamp.errors import ServiceEnded
from timbr_wamp.runtime import BridgeFile, KernelFile

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
#: Most restarts of a router that ends by itself, within this time; one more is an error.
ROUTER_RESTARTS, ROUTER_RESTARTS_WITHIN_S = 5, 300.0
#: Interval for checking the processes.
WATCH_INTERVAL_S = 0.5
LOG_TAIL_LINES = 15


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
        self._host: subprocess.Popen[bytes] | None = None
        self._host_log: Path | None = None
        self._shortened = threading.Event()
        self._page: Path | None = None
        #: When the router ended by itself, `time.monotonic`.
        self._router_ends: list[float] = []

    @property
    def router(self) -> Router:
        """The router; available after `start_router`."""
        assert self._router is not None
        return self._router

    def start_router(self, *, next_free_port: bool) -> None:
        """Start the router, after installing Crossbar.io if necessary; return when it answers.

        Raises:
            AlreadyUp, PortBusy, NoFreePort, RouterInstallFailed, RouterStartFailed.
        """
        from timbr_wamp.dashboard import page_dir
        from timbr_wamp.errors import AlreadyUp, RouterNotInstalled
        from timbr_wamp.router import Router, find_crossbar, install_crossbar

        there = runtime.read_file(runtime.node_file(self._settings.runtime_dir), runtime.NodeFile)
        if there is not None and there.alive():
            raise AlreadyUp(there.pid, there.page_url)
        try:
            find_crossbar(self._settings)
        except RouterNotInstalled:
            install_crossbar(self._settings, self._report)
        page = page_dir()
        if page is None:
            self._report("the page is not built, so the router shows a placeholder; build it with: make page")
        self._page = page
        self._router = Router.start(self._settings, next_free_port=next_free_port, page_dir=page, report=self._report)

    def _restart_router(self) -> None:
        """Restart the router on its port, unless it ended too often.

        Host, bridges and clients reconnect by themselves. Records of the meantime stay in the machines.

        Raises:
            ServiceEnded: it ended too often.
            PortBusy, RouterStartFailed: it could not be restarted.
        """
        from timbr_wamp.router import Router

        now = time.monotonic()
        self._router_ends = [at for at in self._router_ends if now - at < ROUTER_RESTARTS_WITHIN_S] + [now]
        status = self.router.poll()
        if len(self._router_ends) > ROUTER_RESTARTS:
            raise ServiceEnded("the router", f"ended by itself {len(self._router_ends)} times (status {status})", "")
        self._report(f"the router ended by itself (status {status}); restarting it")
        port = self.router.port
        self.router.stop(timeout_s=SHORTENED_STOP_S)
        self._router = None
        self._router = Router.start(self._settings, port=port, page_dir=self._page, report=self._report)

    def start_host(self) -> None:
        """Start the host as a child process; return when it answers on the router.

        Raises:
            ServiceEnded: it ended or did not answer in time; the error has the end of its log.
        """
        router = self.router
        self._end_stray_host()
        self._host_log = Path(router.node_dir) / "host.log"
        log = os.open(self._host_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        authid = router.host_token.partition(".")[0]
        environ = {
            **os.environ,
            "TIMBR_WAMP_URL": router.unix_url,
            "TIMBR_WAMP_TOKEN": router.host_token,
            "TIMBR_WAMP_HOST": authid,
        }
        try:
            self._host = subprocess.Popen(
                [sys.executable, "-m", "timbr_wamp", "host"],
                env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(log)
        self._wait_for_host(self._host)

    def _end_stray_host(self) -> None:
        """End a host whose `up` was killed; the new host adopts its kernels."""
        stray = runtime.read_file(runtime.host_file(self._settings.runtime_dir), runtime.HostFile)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if stray is None or not stray.alive():
                return
            self._report(f"ending the host of an earlier run (process {stray.pid})")
            with suppress(ProcessLookupError):
                os.kill(stray.pid, number)
            self._wait(lambda: not stray.alive(), HOST_STOP_S)

    def _wait_for_host(self, host: subprocess.Popen[bytes]) -> None:
        """Wait for the host's runtime file, which it writes when its procedures are registered."""
        path = runtime.host_file(self._settings.runtime_dir)
        deadline = time.monotonic() + HOST_START_S
        while (written := runtime.read_file(path, runtime.HostFile)) is None or written.pid != host.pid:
            if (ended := self.ended()) is not None:
                raise ended
            if time.monotonic() > deadline:
                raise ServiceEnded("the host", f"did not answer within {HOST_START_S:g} s", self._tail())
            time.sleep(START_POLL_S)

    def watch(self) -> None:
        """Wait until the host ends; restart the router when it ends. Ended by `KeyboardInterrupt`.

        Raises:
            ServiceEnded: a process ended; the error has the end of its log.
        """
        while True:
            if self._router is not None and self._router.poll() is not None:
                self._restart_router()
            if (ended := self.ended()) is not None:
                raise ended
            time.sleep(WATCH_INTERVAL_S)

    def ended(self) -> ServiceEnded | None:
        """Return the error for a process that ended by itself; None while all run."""
        if self._router is not None and self._router.poll() is not None:
            return ServiceEnded("the router", f"ended by itself (status {self._router.poll()})", "")
        if self._host is not None and self._host.poll() is not None:
            return ServiceEnded("the host", f"ended by itself (status {self._host.returncode})", self._tail())
        return None

    def _tail(self) -> str:
        if self._host_log is None or not self._host_log.exists():
            return ""
        lines = self._host_log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def shorten_stop(self) -> None:
        """Shorten the remaining timeouts of `stop`. Any thread, also a signal handler."""
        self._shortened.set()

    def stop(self) -> None:
        """End host, bridges, the kernels selected by ``ends_kernel``, and router. Idempotent, bounded in time.

        The host is ended first, because it restarts bridges that end.
        """
        if self._host is not None:
            self._report("ending the host")
            self._end(self._host, HOST_STOP_S)
            self._host = None
            self._end_bridges()
            self._end_kernels()
        if self._router is not None:
            self._report("ending the router")
            self._router.stop(timeout_s=self._timeout_s(ROUTER_STOP_S))
            self._router = None

    def _end(self, child: subprocess.Popen[bytes], patience_s: float) -> None:
        child.terminate()
        if not self._wait(lambda: child.poll() is not None, patience_s):
            child.kill()
            child.wait()

    def _end_bridges(self) -> None:
        """End bridges that a killed host left running."""
        folder = self._settings.runtime_dir
        left = runtime.live_files(folder, "bridge-", BridgeFile)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for bridge in left.values():
                if bridge.alive():
                    with suppress(ProcessLookupError):
                        os.kill(bridge.pid, number)
            if self._wait(lambda: not any(bridge.alive() for bridge in left.values()), BRIDGE_STOP_S):
                return

    def _end_kernels(self) -> None:
        from timbr_wamp.components.launcher import end_process, forget_kernel

        folder = self._settings.runtime_dir
        kept = []
        for kernel in runtime.live_files(folder, "kernel-", KernelFile, clean=False).values():
            if not self._ends_kernel(kernel):
                kept.append(kernel.name)
                continue
            self._report(f"ending kernel {kernel.name}")
            if end_process(kernel):
                forget_kernel(folder, kernel)
        if kept:
            self._report(f"these kernels keep running, and the next `timbr-wamp up` adopts them: {', '.join(kept)}")

    def _wait(self, done: Callable[[], bool], patience_s: float) -> bool:
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > self._timeout_s(patience_s):
                return False
            time.sleep(0.02)
        return True

    def _timeout_s(self, patience_s: float) -> float:
        return min(patience_s, SHORTENED_STOP_S) if self._shortened.is_set() else patience_s


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
