"""`OwnBridge`: puts this process on the router, with a runtime file and a bridge process.

For a process that runs machines without a kernel. The process runs with or without a router: a daemon
thread looks for a router, starts the bridge when it finds one, and restarts the bridge when it ends.
Thread and bridge process are separate from users' code, so that it cannot delay them.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
import time
from collections.abc import Callable

from timbr_wamp import runtime
from timbr_wamp.components.bridge_process import BridgeEnvironment, BridgeProcess, bridge_environment
from timbr_wamp.errors import NoRouter, TimbrError
from timbr_wamp.names import checked_authid, checked_kernel_id
from timbr_wamp.processes import RestartPolicy
from timbr_wamp.runtime import HeadlessFile
from timbr_wamp.settings import Settings, working_folder

#: Interval for checking router and bridge.
POLL_INTERVAL_S = 0.25
#: The process runs with or without a router, so it never gives up.
POLICY = RestartPolicy(limit=None)
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
        self._bridge: BridgeProcess | None = None
        self._file: HeadlessFile | None = None
        self._environment: BridgeEnvironment | None = None
        self._joined_at = 0.0
        self._reported: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timbr-own-bridge", daemon=True)

    def start(self) -> None:
        """Start to look for a router. Returns at once."""
        runtime.live_files(
            self._settings.runtime_dir, "headless-", HeadlessFile
        )  # removes the files of killed processes
        self._thread.start()

    def leave(self, limit_s: float) -> None:
        """Leave the router after the bridge has handed on all records; return after ``limit_s`` at the latest."""
        self._end_thread()
        if self._bridge is None or self._file is None or not self._bridge.supervisor.alive:
            return
        self._file.ending_s = limit_s
        runtime.write_file(runtime.headless_file(self._settings.runtime_dir, self._file.kernel_id), self._file)
        process = self._bridge.supervisor.process
        if process is not None and not process.wait(limit_s + BRIDGE_END_TIMEOUT_S):
            self._report_once(f"the bridge did not end in {limit_s:g} s; readers may miss the last records")

    def close(self) -> None:
        """Leave the router and end the bridge. Idempotent, bounded in time."""
        self._end_thread()
        if self.kernel_id is not None:
            # the bridge notices it, publishes the state, and ends by itself
            runtime.headless_file(self._settings.runtime_dir, self.kernel_id).unlink(missing_ok=True)
        self._end_bridge(BRIDGE_END_TIMEOUT_S)

    # --- inside ------------------------------------------------------------------------------

    def _end_thread(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(POLL_INTERVAL_S):
            bridge = self._bridge.supervisor if self._bridge is not None else None
            if bridge is not None and bridge.state == "running" and bridge.alive:
                continue
            try:
                environment = bridge_environment(self._settings)
            except NoRouter:
                self._report_once("no router found: the machine runs, and joins a router when one starts")
                continue
            try:
                self._keep(environment)
            except (OSError, TimbrError) as error:  # a folder that is not ours, a full disk: reported and retried
                self._report_once(f"starting the bridge failed: {error}")

    def _keep(self, environment: BridgeEnvironment) -> None:
        """Start the bridge, or restart it when that is due."""
        kernel_id = checked_kernel_id(f"{checked_authid(environment.authid)}_{self._digits}")
        if environment != self._environment:  # the first router, or another one, or another token
            self._end_bridge(0.0)
            if self.kernel_id is not None:
                runtime.headless_file(environment.runtime_dir, self.kernel_id).unlink(missing_ok=True)
            self.kernel_id, self._environment = kernel_id, environment
            self._bridge = BridgeProcess(environment, kernel_id, hosted=False, policy=POLICY)
            self._write_file(environment, kernel_id)
            self._bridge.supervisor.start()
        assert self._bridge is not None
        bridge = self._bridge.supervisor
        ran = bridge.state == "running"
        started = bridge.check()
        if ran and bridge.reason is not None:
            if time.monotonic() - self._joined_at > POLICY.stable_s:
                self._reported.clear()
            self._report_once(f"disconnected from the router: {bridge.reason}; trying again")
        elif started or ran:
            self._joined_at = time.monotonic()
            self._report_once(f"joining {environment.url} as {kernel_id} ({self._name})")

    def _write_file(self, environment: BridgeEnvironment, kernel_id: str) -> None:
        self._file = HeadlessFile(
            pid=os.getpid(), process_started=runtime.own_process_started(), kernel_id=kernel_id, name=self._name,
            cwd=str(working_folder()), started_at=time.time(), python=platform.python_version(), router=environment.url,
        )  # fmt: skip
        runtime.write_file(runtime.headless_file(environment.runtime_dir, kernel_id), self._file)

    def _report_once(self, text: str) -> None:
        if text not in self._reported and len(self._reported) < REPORT_LIMIT:
            self._reported.add(text)
            self._report(text)

    def _end_bridge(self, patience_s: float) -> None:
        """Give the bridge ``patience_s`` to end by itself; then end it and remove its files."""
        if self._bridge is not None:
            process = self._bridge.supervisor.process
            if process is not None:
                process.wait(patience_s)
            self._bridge.supervisor.end(term_s=1.0)
            self._bridge.forget()


__all__ = ["OwnBridge"]
