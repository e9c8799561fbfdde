"""The processes that one ``up`` starts: router and host. Started in order, watched, ended in reverse order.

They run in sessions of their own, so that Ctrl-C in the terminal reaches only us. Kernels are not
ours to end: they outlive the host, and a later ``up`` finds them.
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

#: A host answers within this time of its start; kernels that it adopts may come later.
HOST_START_S = 20.0
START_POLL_S = 0.05
#: After SIGTERM a child has so long before it is killed.
HOST_STOP_S = 15.0
BRIDGE_STOP_S = 5.0
ROUTER_STOP_S = 10.0
#: A second Ctrl-C shortens each of those waits to this.
HURRIED_STOP_S = 0.5
#: A router that ends by itself is started again, so often within this time; then it is an error.
ROUTER_RESTARTS, ROUTER_RESTARTS_WITHIN_S = 5, 300.0
#: How often the children are looked at.
WATCH_INTERVAL_S = 0.5
LOG_TAIL_LINES = 15


class LocalServices:
    """Router and host of one ``up``. One thread: the main one.

    Args:
        report: gets lines for people.
        ends_with_us: which kernels `stop` ends; none otherwise, and they are named.
    """

    def __init__(
        self,
        settings: Settings,
        report: Callable[[str], None],
        *,
        ends_with_us: Callable[[KernelFile], bool] = lambda kernel: False,
    ) -> None:
        self._settings = settings
        self._report = report
        self._ends_with_us = ends_with_us
        self._router: Router | None = None
        self._host: subprocess.Popen[bytes] | None = None
        self._host_log: Path | None = None
        self._hurry = threading.Event()
        self._page: Path | None = None
        #: When the router ended by itself, `time.monotonic`.
        self._router_ends: list[float] = []

    @property
    def router(self) -> Router:
        """The router; only after `start_router`."""
        assert self._router is not None
        return self._router

    def start_router(self, *, next_free_port: bool) -> None:
        """Start the router, with its environment made first when it is missing; return when it answers.

        Raises:
            AlreadyUp, PortBusy, NoFreePort, RouterInstallFailed, RouterStartFailed: as they say.
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

    def _router_again(self) -> None:
        """Start the router again on its port, unless that was needed too often.

        Host, bridges and clients find it by themselves; what flows meanwhile waits in the machines.

        Raises:
            ServiceEnded: it ended too often.
            PortBusy, RouterStartFailed: as they say.
        """
        from timbr_wamp.router import Router

        now = time.monotonic()
        self._router_ends = [at for at in self._router_ends if now - at < ROUTER_RESTARTS_WITHIN_S] + [now]
        status = self.router.poll()
        if len(self._router_ends) > ROUTER_RESTARTS:
            raise ServiceEnded("the router", f"ended by itself {len(self._router_ends)} times (status {status})", "")
        self._report(f"the router ended by itself (status {status}); starting it again")
        port = self.router.port
        self.router.stop(timeout_s=HURRIED_STOP_S)
        self._router = None
        self._router = Router.start(self._settings, port=port, page_dir=self._page, report=self._report)

    def start_host(self) -> None:
        """Start the host as a child process; return when it answers on the router.

        Raises:
            ServiceEnded: it ended, or gave no answer in time; with its log's tail.
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
        """End a host whose `up` was killed; its kernels live on and are found by the new one."""
        stray = runtime.read_file(runtime.host_file(self._settings.runtime_dir), runtime.HostFile)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if stray is None or not stray.alive():
                return
            self._report(f"ending a host that was left behind (process {stray.pid})")
            with suppress(ProcessLookupError):
                os.kill(stray.pid, number)
            self._wait(lambda: not stray.alive(), HOST_STOP_S)

    def _wait_for_host(self, host: subprocess.Popen[bytes]) -> None:
        """Wait for the host's runtime file: it writes that when its procedures are registered."""
        path = runtime.host_file(self._settings.runtime_dir)
        deadline = time.monotonic() + HOST_START_S
        while (written := runtime.read_file(path, runtime.HostFile)) is None or written.pid != host.pid:
            if (ended := self.ended()) is not None:
                raise ended
            if time.monotonic() > deadline:
                raise ServiceEnded("the host", f"gave no answer in {HOST_START_S:g} s", self._tail())
            time.sleep(START_POLL_S)

    def watch(self) -> None:
        """Wait until the host ends, and start the router again when that does. Interrupted by `KeyboardInterrupt`.

        Raises:
            ServiceEnded: which child, and the tail of its log.
        """
        while True:
            if self._router is not None and self._router.poll() is not None:
                self._router_again()
            if (ended := self.ended()) is not None:
                raise ended
            time.sleep(WATCH_INTERVAL_S)

    def ended(self) -> ServiceEnded | None:
        """Return what is to be said of a child that ended by itself, None while all live."""
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

    def hurry(self) -> None:
        """Shorten what is left of `stop`. Any thread, also a signal handler."""
        self._hurry.set()

    def stop(self) -> None:
        """End host, bridges, kernels if they end with us, and router, within bounded time. Idempotent.

        The host goes first, since it would start again what ends under it.
        """
        if self._host is not None:
            self._report("ending the host")
            self._end(self._host, HOST_STOP_S)
            self._host = None
            self._end_bridges()
            self._end_kernels()
        if self._router is not None:
            self._report("ending the router")
            self._router.stop(timeout_s=self._patience(ROUTER_STOP_S))
            self._router = None

    def _end(self, child: subprocess.Popen[bytes], patience_s: float) -> None:
        child.terminate()
        if not self._wait(lambda: child.poll() is not None, patience_s):
            child.kill()
            child.wait()

    def _end_bridges(self) -> None:
        """End bridges that their host left behind."""
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
        living_on = []
        for kernel in runtime.live_files(folder, "kernel-", KernelFile, clean=False).values():
            if not self._ends_with_us(kernel):
                living_on.append(kernel.name)
                continue
            self._report(f"ending kernel {kernel.name}")
            if end_process(kernel):
                forget_kernel(folder, kernel)
        if living_on:
            self._report(f"these kernels live on, and the next `timbr-wamp up` finds them: {', '.join(living_on)}")

    def _wait(self, done: Callable[[], bool], patience_s: float) -> bool:
        begun = time.monotonic()
        while not done():
            if time.monotonic() - begun > self._patience(patience_s):
                return False
            time.sleep(0.02)
        return True

    def _patience(self, patience_s: float) -> float:
        return min(patience_s, HURRIED_STOP_S) if self._hurry.is_set() else patience_s


@contextmanager
def interruptible(house: LocalServices) -> Iterator[None]:
    """Run a house: SIGINT, SIGTERM or SIGHUP end the body quietly; then `LocalServices.stop`.

    A second signal while it ends shortens the waits. Main thread only.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, _raise_interrupt) for number in signals}
    try:
        try:
            with suppress(KeyboardInterrupt):
                yield
        finally:
            for number in signals:
                signal.signal(number, lambda *_: house.hurry())
            house.stop()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _raise_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
