"""`OwnBridge`: puts this process on the router, with a runtime file and a bridge process.

For a process that runs machines without a kernel. The process runs with or without a router: a daemon
thread looks for a router, starts the bridge when it finds one, and restarts the bridge when it ends.
Thread and bridge process are separate from users' code, so that it cannot delay them.
"""

from __future__ import annotations

import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.components import processes
from timbr_wamp.components.bridge_supervisor import BridgeEnvironment
from timbr_wamp.components.host import bridge_environment
from timbr_wamp.errors import NoRouter, TimbrError
from timbr_wamp.names import checked_authid, checked_kernel_id
from timbr_wamp.runtime import HeadlessFile
from timbr_wamp.settings import Settings, working_folder

#: Interval for checking router and bridge.
POLL_INTERVAL_S = 0.25
#: First and longest wait before a bridge that ended is restarted. The wait doubles each time.
RESPAWN_S, RESPAWN_CAP_S = 1.0, 30.0
#: A bridge that ran this long resets the wait and the reported lines.
STABLE_S = 60.0
REPORT_LIMIT = 20
#: Timeout for the bridge to end by itself when the process leaves the router.
BRIDGE_END_TIMEOUT_S = 2.0


class OwnBridge:
    """The bridge of this process. Any thread.

    Args:
        name: the process's name for people.
        report: called with lines for people, each line once, in the daemon thread.
    """

    def __init__(self, settings: Settings, name: str, report: Callable[[str], None]) -> None:
        self._settings, self._name, self._report = settings, name, report
        #: The last part of the kernel id. The first part is the name of the token, which depends on the router.
        self._digits = secrets.token_hex(6)
        #: Kernel id of the process on the router; None until a router was found.
        self.kernel_id: str | None = None
        self._bridge: tuple[int, float] | None = None
        self._log: Path | None = None
        self._spawned_at, self._next_spawn, self._wait_s = 0.0, 0.0, RESPAWN_S
        self._reported: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timbr-own-bridge", daemon=True)

    def start(self) -> None:
        """Start to look for a router. Returns at once."""
        runtime.live_files(
            self._settings.runtime_dir, "headless-", HeadlessFile
        )  # removes the files of killed processes
        self._thread.start()

    def close(self) -> None:
        """Leave the router and end the bridge. Idempotent, bounded in time."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.kernel_id is not None:
            # the bridge notices it, publishes the state, and ends by itself
            runtime.headless_file(self._settings.runtime_dir, self.kernel_id).unlink(missing_ok=True)
        deadline = time.monotonic() + BRIDGE_END_TIMEOUT_S
        while self._bridge_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._end_bridge()

    # --- inside ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.wait(POLL_INTERVAL_S):
            if self._bridge_alive() or time.monotonic() < self._next_spawn:
                continue
            try:
                environment = bridge_environment(self._settings)
            except NoRouter:
                self._report_once("no router found: the machine runs, and joins a router when one starts")
                continue
            try:
                self._spawn(environment)
            except (
                OSError,
                TimbrError,
            ) as error:  # a folder that is not ours, no more processes: reported and retried
                self._report_once(f"starting the bridge failed: {error}")
                self._delay_next_spawn()

    def _spawn(self, environment: BridgeEnvironment) -> None:
        if self._bridge is not None:
            self._bridge_ended()
        kernel_id = checked_kernel_id(f"{checked_authid(environment.token.partition('.')[0])}_{self._digits}")
        if self.kernel_id not in (None, kernel_id):  # a token with another name gives another id
            runtime.headless_file(environment.runtime_dir, str(self.kernel_id)).unlink(missing_ok=True)
        self.kernel_id = kernel_id
        content = HeadlessFile(
            pid=os.getpid(), process_started=runtime.own_process_started(), kernel_id=kernel_id, name=self._name,
            cwd=str(working_folder()), started_at=time.time(), python=platform.python_version(),
        )  # fmt: skip
        runtime.write_file(runtime.headless_file(environment.runtime_dir, kernel_id), content)
        self._log = environment.runtime_dir / f"log-bridge-{kernel_id}.txt"
        self._log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "timbr_wamp", "bridge", "--kernel-id", kernel_id]
        self._bridge = processes.spawn(command, environment=environment.variables(), log_file=self._log)
        self._spawned_at = time.monotonic()
        self._report_once(f"joining {environment.url} as {kernel_id} ({self._name})")
        self._delay_next_spawn()

    def _bridge_ended(self) -> None:
        """Report why the bridge ended, and reset the wait if it ran for some time."""
        assert self._log is not None
        if time.monotonic() - self._spawned_at > STABLE_S:
            self._wait_s = RESPAWN_S
            self._reported.clear()
        lines = processes.log_tail(self._log).splitlines()
        self._report_once(
            f"disconnected from the router: {lines[-1] if lines else 'the bridge was killed'}; trying again"
        )

    def _delay_next_spawn(self) -> None:
        self._next_spawn = time.monotonic() + self._wait_s
        self._wait_s = min(self._wait_s * 2, RESPAWN_CAP_S)

    def _report_once(self, text: str) -> None:
        if text not in self._reported and len(self._reported) < REPORT_LIMIT:
            self._reported.add(text)
            self._report(text)

    def _bridge_alive(self) -> bool:
        return self._bridge is not None and runtime.process_alive(*self._bridge)

    def _end_bridge(self) -> None:
        if self._bridge is not None:
            processes.end(*self._bridge, term_s=1.0)
        if self._log is not None:
            self._log.unlink(missing_ok=True)
        if self.kernel_id is not None:
            path = runtime.bridge_file(self._settings.runtime_dir, self.kernel_id)
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)


__all__ = ["OwnBridge"]
