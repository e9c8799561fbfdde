"""`OwnBridge`: puts this process on the router, with a runtime file and a bridge process.

For a process that runs machines without a kernel, and for a kernel that puts itself on the router. What is
written about the process is a `Presence`. The process runs with or without a router: a daemon thread looks
for a router, starts the bridge when it finds one, and restarts the bridge when it ends. Thread and bridge
process are separate from users' code, so that it cannot delay them.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from timbr_wamp import runtime
from timbr_wamp.components.bridge_process import BridgeEnvironment, BridgeProcess, bridge_environment
from timbr_wamp.components.kernel_identity import kernel_named
from timbr_wamp.errors import NoRouter, ShareFailed, TimbrError
from timbr_wamp.names import checked_authid, checked_kernel_id
from timbr_wamp.processes import RestartPolicy
from timbr_wamp.runtime import BridgeFile, HeadlessFile
from timbr_wamp.settings import Settings, working_folder

#: Interval for checking router and bridge.
POLL_INTERVAL_S = 0.25
#: The process runs with or without a router, so it never gives up.
POLICY = RestartPolicy(limit=None)
REPORT_LIMIT = 20
#: Timeout for the bridge to end by itself when the process leaves the router.
BRIDGE_END_TIMEOUT_S = 2.0
#: Longest wait for the thread, which may be starting or ending a bridge.
THREAD_END_TIMEOUT_S = 10.0
READY_POLL_S = 0.02


class Presence(Protocol):
    """The runtime file by which the bridge finds this process. The bridge's thread only, but for `remove`."""

    #: The process's name for people.
    name: str
    #: Time for the bridge to end by itself after `remove`; then it gets SIGTERM.
    end_timeout_s: float

    def kernel_id(self, environment: BridgeEnvironment) -> str:
        """Return the kernel id under which the process is on that router."""

    def write(self, environment: BridgeEnvironment, kernel_id: str) -> None:
        """Write the file, before the bridge is started."""

    def remove(self) -> None:
        """Remove the file: the process leaves the router. Idempotent."""


class HeadlessPresence:
    """The `Presence` of a process that runs machines without a kernel."""

    end_timeout_s = BRIDGE_END_TIMEOUT_S

    def __init__(self, settings: Settings, name: str) -> None:
        self.name, self._folder = name, settings.runtime_dir
        #: The last part of the kernel id. The first part is the name of the token, which depends on the router.
        self._digits = secrets.token_hex(6)
        self._file: HeadlessFile | None = None
        runtime.live_files(self._folder, "headless-", HeadlessFile)  # removes the files of killed processes

    def kernel_id(self, environment: BridgeEnvironment) -> str:
        """Return the kernel id under which the process is on that router."""
        return checked_kernel_id(f"{checked_authid(environment.authid)}_{self._digits}")

    def write(self, environment: BridgeEnvironment, kernel_id: str) -> None:
        """Write the file."""
        self._file = HeadlessFile(
            pid=os.getpid(), process_started=runtime.own_process_started(), kernel_id=kernel_id, name=self.name,
            cwd=str(working_folder()), started_at=time.time(), python=platform.python_version(), router=environment.url,
        )  # fmt: skip
        runtime.write_file(runtime.headless_file(environment.runtime_dir, kernel_id), self._file)

    def announce_end(self, limit_s: float) -> None:
        """Tell the bridge that the process waits ``limit_s`` seconds for it, and then ends."""
        if self._file is not None:
            self._file.ending_s = limit_s
            runtime.write_file(runtime.headless_file(self._folder, self._file.kernel_id), self._file)

    def remove(self) -> None:
        """Remove the file. The bridge notices it, publishes the state, and ends by itself."""
        if self._file is not None:
            runtime.headless_file(self._folder, self._file.kernel_id).unlink(missing_ok=True)


class OwnBridge:
    """The bridge of this process. Any thread.

    Args:
        report: called with lines for people, each line once, in the daemon thread.
    """

    def __init__(self, settings: Settings, presence: Presence, report: Callable[[str], None]) -> None:
        self._settings, self._presence, self._report = settings, presence, report
        #: Kernel id of the process on the router; None until a router was found.
        self.kernel_id: str | None = None
        self._bridge: BridgeProcess | None = None
        self._environment: BridgeEnvironment | None = None
        self._joined_at = 0.0
        self._reported: set[str] = set()
        #: Why the last bridge could not work, as it said or as it was started; each time another object.
        self._failure: Exception | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timbr-own-bridge", daemon=True)

    def start(self) -> None:
        """Start to look for a router. Returns at once."""
        self._thread.start()

    @property
    def bridge_file(self) -> BridgeFile | None:
        """The file of the bridge that runs; None without one."""
        if self.kernel_id is None:
            return None
        file = runtime.read_file(runtime.bridge_file(self._settings.runtime_dir, self.kernel_id), BridgeFile)
        return file if file is not None and file.alive() else None

    def wait_ready(self, machines: Callable[[], Mapping[str, str]], timeout_s: float) -> None:
        """Wait until the router lists this process with ``machines()``, ``name → run``, and they answer.

        Raises:
            ShareFailed: not in time.
            TimbrError, OSError: the bridge cannot work, for instance because the token is not of the role host.
        """
        deadline, before = time.monotonic() + timeout_s, self._failure
        while not _lists(self.bridge_file, machines()):
            if (failure := self._failure) is not None and failure is not before:
                raise failure
            if time.monotonic() > deadline:
                raise ShareFailed(f"the router does not list it after {timeout_s:g} s")
            time.sleep(READY_POLL_S)

    def leave(self, limit_s: float) -> None:
        """Leave the router after the bridge has handed on all records; return after ``limit_s`` at the latest.

        For a headless process.
        """
        self._end_thread()
        if self._bridge is None or not self._bridge.supervisor.alive:
            return
        assert isinstance(self._presence, HeadlessPresence)
        self._presence.announce_end(limit_s)
        process = self._bridge.supervisor.process
        if process is not None and not process.wait(limit_s + BRIDGE_END_TIMEOUT_S):
            self._report_once(f"the bridge did not end in {limit_s:g} s; readers may miss the last records")

    def close(self) -> None:
        """Leave the router and end the bridge. Idempotent, bounded in time."""
        self._end_thread()
        self._presence.remove()
        self._end_bridge(self._presence.end_timeout_s)

    # --- inside ------------------------------------------------------------------------------

    def _end_thread(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(THREAD_END_TIMEOUT_S)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._closing.wait(wait_s):
            wait_s = POLL_INTERVAL_S
            bridge = self._bridge.supervisor if self._bridge is not None else None
            if bridge is not None and bridge.state == "running" and bridge.alive:
                continue
            try:
                self._keep(bridge_environment(self._settings))
            except NoRouter:
                self._report_once("no router found: the machine runs, and joins a router when one starts")
            except (OSError, TimbrError) as error:  # a folder that is not ours, a full disk: reported and retried
                self._failure = error
                self._report_once(f"starting the bridge failed: {error}")

    def _keep(self, environment: BridgeEnvironment) -> None:
        """Start the bridge, or restart it when that is due."""
        kernel_id = self._presence.kernel_id(environment)
        if environment != self._environment:  # the first router, or another one, or another token
            self._end_bridge(0.0)
            self._presence.remove()
            self._presence.write(environment, kernel_id)
            self.kernel_id, self._environment = kernel_id, environment
            self._bridge = BridgeProcess(environment, kernel_id, hosted=False, policy=POLICY)
            self._bridge.supervisor.start()
        assert self._bridge is not None
        bridge = self._bridge.supervisor
        ran = bridge.state == "running"
        if ran and not bridge.alive:  # one that was adopted, or killed, says nothing about the next one
            self._failure = bridge.error or self._failure
        started = bridge.check()
        if ran and bridge.reason is not None:
            if time.monotonic() - self._joined_at > POLICY.stable_s:
                self._reported.clear()
            self._report_once(f"disconnected from the router: {bridge.reason}; trying again")
        elif started or ran:
            self._joined_at = time.monotonic()
            self._report_once(f"joining {environment.url} as {kernel_id} ({self._presence.name})")
            other = kernel_named(environment.runtime_dir, self._presence.name, environment.url, but=kernel_id)
            if other is not None:
                self._report_once(f"{other} is named {self._presence.name!r} too: call them by their ids")

    def _report_once(self, text: str) -> None:
        if text not in self._reported and len(self._reported) < REPORT_LIMIT:
            self._reported.add(text)
            self._report(text)

    def _end_bridge(self, timeout_s: float) -> None:
        """Give the bridge ``timeout_s`` to end by itself; then end it and remove its files."""
        if self._bridge is not None:
            process = self._bridge.supervisor.process
            if process is not None:
                process.wait(timeout_s)
            self._bridge.supervisor.end(term_s=1.0)
            self._bridge.forget()


def _lists(file: BridgeFile | None, machines: Mapping[str, str]) -> bool:
    return file is not None and file.machines is not None and machines.items() <= file.machines.items()


__all__ = ["HeadlessPresence", "OwnBridge", "Presence"]
