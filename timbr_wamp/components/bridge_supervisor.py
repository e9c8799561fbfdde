"""`BridgeSupervisor`: a host's part for one kernel. It runs the bridge process and follows the kernel's state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from timbr_wamp import runtime
from timbr_wamp.client.connection import Connection
from timbr_wamp.client.subscriptions import Subscription
from timbr_wamp.components import launcher, processes
from timbr_wamp.components.kernel_supervisor import START_TIMEOUT_S, RestartLimit
from timbr_wamp.contract import KernelInfo
from timbr_wamp.errors import KernelStartFailed
from timbr_wamp.names import host_of_kernel, kernel_uri
from timbr_wamp.runtime import BridgeFile, KernelFile
from timbr_wamp.settings import ENV_PREFIX

logger = logging.getLogger(__name__)

#: Longest wait before a bridge that ended is restarted. Waits start at 1 s and double.
RESPAWN_CAP_S = 30.0
RESPAWN_LIMIT, RESPAWN_WINDOW_S = 10, 300.0
#: Timeout for a bridge to end after SIGTERM.
BRIDGE_END_TIMEOUT_S = 8.0
#: Timeout for a bridge to end its kernel and itself after SIGUSR2.
SHUTDOWN_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class BridgeEnvironment:
    """The settings that a host passes to a bridge in its environment, because all users can see arguments."""

    runtime_dir: Path
    url: str
    realm: str
    token: str = field(repr=False)
    log_level: str = "warning"

    def variables(self) -> dict[str, str]:
        """Return this process's environment with these settings added."""
        own = {
            "RUNTIME_DIR": str(self.runtime_dir),
            "URL": self.url,
            "REALM": self.realm,
            "TOKEN": self.token,
            "LOG_LEVEL": self.log_level,
        }
        return {**os.environ, **{ENV_PREFIX + name: value for name, value in own.items()}}


class BridgeSupervisor:
    """One kernel and its bridge. The loop's own thread only."""

    def __init__(self, environment: BridgeEnvironment, connection: Connection, file: KernelFile) -> None:
        self._environment, self._connection, self._file = environment, connection, file
        self._kernel_id = file.kernel_id
        self._log = environment.runtime_dir / f"log-bridge-{file.kernel_id}.txt"
        self._bridge: tuple[int, float] | None = None
        self._info: KernelInfo | None = None
        self._state_changed = asyncio.Event()
        self._subscription: Subscription | None = None
        self._respawns = RestartLimit(RESPAWN_LIMIT, RESPAWN_WINDOW_S)
        self._wait_s = 0.0
        self._next_spawn = 0.0
        self._given_up = False
        self._ending = False

    async def start(self) -> None:
        """Subscribe to the kernel's state; find its bridge, or start one."""
        self._subscription = await self._connection.subscribe(
            kernel_uri(self._kernel_id, "state"), self._on_state, get_retained=True
        )
        bridge = self._bridge_file()
        if bridge is not None and bridge.alive():
            self._bridge = bridge.pid, bridge.process_started
        else:
            await asyncio.to_thread(self._spawn)

    async def ready(self) -> KernelInfo:
        """Wait until the kernel answers on the router.

        Raises:
            KernelStartFailed: the kernel or its bridge did not start; the error has the end of its log.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._info is None or self._info.state not in ("idle", "busy"):
            self._state_changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._state_changed.wait(), POLL_INTERVAL_S)
            if not self._bridge_alive():
                raise KernelStartFailed(processes.log_tail(self._log) or "its bridge ended")
            if time.monotonic() > deadline:
                raise KernelStartFailed(f"no answer in {START_TIMEOUT_S:g} s", launcher.log_tail(self._file))
        return self._info

    async def restart(self) -> KernelInfo:
        """Restart the kernel; return when it answers again.

        Raises:
            KernelStartFailed: it did not start again.
        """
        before, self._info = self._info, None
        if self._signal(signal.SIGUSR1):
            deadline = time.monotonic() + START_TIMEOUT_S
            while not self._restarted(before):
                if time.monotonic() > deadline or not self._bridge_alive():
                    raise KernelStartFailed("it did not restart", launcher.log_tail(self._current()))
                with contextlib.suppress(TimeoutError):
                    self._state_changed.clear()
                    await asyncio.wait_for(self._state_changed.wait(), POLL_INTERVAL_S)
        else:
            self._file = await asyncio.to_thread(
                launcher.restart_kernel, self._environment.runtime_dir, self._current()
            )
            self._given_up = False
            await asyncio.to_thread(self._spawn)
        return await self.ready()

    def info(self) -> KernelInfo:
        """Return the kernel's state and description; the state is ``offline`` while it has no bridge."""
        known = self._info
        if known is not None and self._bridge_alive():
            return known
        file = self._current()
        return KernelInfo(
            kernel_id=self._kernel_id,
            name=file.name,
            host=host_of_kernel(self._kernel_id),
            state="offline" if known is not None or self._given_up else "starting",
            pid=file.pid,
            managed=True,
            cwd=file.cwd,
            started_at=file.started_at,
            reason="its bridge ended too often; see its log" if self._given_up else None,
            time=time.time(),
        )

    async def check(self) -> bool:
        """Restart the bridge if it ended; return False when the kernel was ended on request."""
        if self._ending or self._bridge_alive():
            return True
        if not runtime.kernel_file(self._environment.runtime_dir, self._kernel_id).exists():
            return False  # its bridge ended it on request
        now = time.monotonic()
        if self._given_up or now < self._next_spawn or not self._connection.joined:
            return True  # without a router the bridge would end again
        if not self._respawns.allow(now):
            self._given_up = True
            logger.error("the bridge of kernel %s ended too often: %s", self._kernel_id, processes.log_tail(self._log))
            return True
        self._wait_s = min(max(1.0, self._wait_s * 2), RESPAWN_CAP_S)
        self._next_spawn = now + self._wait_s
        logger.warning("the bridge of kernel %s ended; restarting it", self._kernel_id)
        await asyncio.to_thread(self._spawn)
        return True

    async def end(self, *, kernel: bool) -> None:
        """End the bridge, and with ``kernel`` also the kernel. Idempotent, bounded in time."""
        self._ending = True
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        if kernel and self._signal(signal.SIGUSR2):
            await self._wait_bridge_ended(SHUTDOWN_TIMEOUT_S)
        if self._bridge is not None:
            await asyncio.to_thread(processes.end, *self._bridge, term_s=BRIDGE_END_TIMEOUT_S)
        if kernel:
            file = self._current()
            await asyncio.to_thread(launcher.end_process, file)
            launcher.forget_kernel(self._environment.runtime_dir, file)
        self._log.unlink(missing_ok=True)

    # --- inside ------------------------------------------------------------------------------

    def _spawn(self) -> None:
        self._log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "timbr_wamp", "bridge", "--kernel-id", self._kernel_id]
        try:
            self._bridge = processes.spawn(command, environment=self._environment.variables(), log_file=self._log)
        except OSError as error:
            logger.error("the bridge of kernel %s could not be started: %s", self._kernel_id, error)

    def _on_state(self, value: Any, *, details: object) -> None:
        try:
            self._info = msgspec.convert(value, KernelInfo, strict=False)
        except msgspec.ValidationError as error:
            logger.warning("the state of kernel %s is invalid: %s", self._kernel_id, error)
        self._state_changed.set()

    def _restarted(self, before: KernelInfo | None) -> bool:
        now = self._info
        return now is not None and (now.state == "dead" or before is None or now.pid != before.pid)

    def _current(self) -> KernelFile:
        """Return the kernel's current runtime file, which the bridge rewrites when it restarts the kernel."""
        path = runtime.kernel_file(self._environment.runtime_dir, self._kernel_id)
        self._file = runtime.read_file(path, KernelFile) or self._file
        return self._file

    def _bridge_file(self) -> BridgeFile | None:
        return runtime.read_file(runtime.bridge_file(self._environment.runtime_dir, self._kernel_id), BridgeFile)

    def _bridge_alive(self) -> bool:
        return self._bridge is not None and runtime.process_alive(*self._bridge)

    def _signal(self, number: signal.Signals) -> bool:
        """Send the bridge a signal; return False when there is no bridge that handles it."""
        bridge = self._bridge_file()
        # before the bridge has written its runtime file it has no signal handlers, and the signal would end it
        if bridge is None or self._bridge is None or bridge.pid != self._bridge[0]:
            return False
        return processes.send_signal(*self._bridge, number)

    async def _wait_bridge_ended(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._bridge_alive() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_INTERVAL_S)
