"""`BridgeSupervisor`: a host's part for one kernel. It runs the bridge process and follows the kernel's state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from typing import Any

import msgspec

from timbr_wamp import runtime
from timbr_wamp.client.connection import Connection
from timbr_wamp.client.subscriptions import Subscription
from timbr_wamp.components import launcher
from timbr_wamp.components.bridge_process import BridgeEnvironment, BridgeProcess
from timbr_wamp.components.kernel_supervisor import START_TIMEOUT_S
from timbr_wamp.contract import KernelInfo
from timbr_wamp.errors import KernelStartFailed, StartupFailed
from timbr_wamp.names import host_of_kernel, kernel_uri
from timbr_wamp.processes import wait_ended
from timbr_wamp.runtime import KernelFile

logger = logging.getLogger(__name__)

#: Timeout for a bridge to end after SIGTERM.
BRIDGE_END_TIMEOUT_S = 8.0
#: Timeout for a bridge to end its kernel and itself after SIGUSR2.
SHUTDOWN_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.05


class BridgeSupervisor:
    """One kernel and its bridge. The loop's own thread only."""

    def __init__(self, environment: BridgeEnvironment, connection: Connection, file: KernelFile) -> None:
        self._environment, self._connection, self._file = environment, connection, file
        self._kernel_id = file.kernel_id
        self._bridge = BridgeProcess(environment, file.kernel_id, hosted=True)
        self._process = self._bridge.supervisor
        self._info: KernelInfo | None = None
        self._state_changed = asyncio.Event()
        self._subscription: Subscription | None = None
        self._ending = False

    async def start(self) -> None:
        """Subscribe to the kernel's state; find its bridge, or start one."""
        self._subscription = await self._connection.subscribe(
            kernel_uri(self._kernel_id, "state"), self._on_state, get_retained=True
        )
        await asyncio.to_thread(self._process.start)

    async def ready(self) -> KernelInfo:
        """Wait until the kernel answers on the router, after a start or restart that was asked for.

        Raises:
            StartupFailed: it runs, but its startup file failed.
            KernelStartFailed: the kernel or its bridge did not start, and why.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._info is None or self._info.state not in ("idle", "busy"):
            self._state_changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._state_changed.wait(), POLL_INTERVAL_S)
            if not self._process.alive:
                await asyncio.to_thread(self._process.check, may_start=False)
                raise self._failure()
            if time.monotonic() > deadline:
                raise KernelStartFailed(f"no answer in {START_TIMEOUT_S:g} s", launcher.log_tail(self._file))
        if self._info.reason is not None:  # a kernel that was started on request has no other one
            raise StartupFailed(self._kernel_id, self._info.reason)
        return self._info

    async def restart(self) -> KernelInfo:
        """Restart the kernel; return when it answers again.

        Raises:
            KernelStartFailed: it did not start again.
            StartupFailed: it did, but its startup file failed.
        """
        before, self._info = self._info, None
        if self._signal(signal.SIGUSR1):
            deadline = time.monotonic() + START_TIMEOUT_S
            while not self._restarted(before):
                if time.monotonic() > deadline or not self._process.alive:
                    raise KernelStartFailed("it did not restart", launcher.log_tail(self._current()))
                with contextlib.suppress(TimeoutError):
                    self._state_changed.clear()
                    await asyncio.wait_for(self._state_changed.wait(), POLL_INTERVAL_S)
        else:
            self._file = await asyncio.to_thread(
                launcher.restart_kernel, self._environment.runtime_dir, self._current()
            )
            await asyncio.to_thread(self._process.start)
        return await self.ready()

    def info(self) -> KernelInfo:
        """Return the kernel's state and description; the state is ``offline`` while it has no bridge."""
        known = self._info
        if known is not None and self._process.alive:
            return known
        file = self._current()
        return KernelInfo(
            kernel_id=self._kernel_id,
            name=file.name,
            host=host_of_kernel(self._kernel_id),
            state="starting" if known is None and self._process.alive else "offline",
            pid=file.pid,
            managed=True,
            cwd=file.cwd,
            started_at=file.started_at,
            reason=None if self._process.reason is None else f"its bridge: {self._process.reason}",
            time=time.time(),
        )

    async def check(self) -> bool:
        """Restart the bridge if it ended; return False when the kernel was ended on request."""
        if self._ending or (self._process.state == "running" and self._process.alive):
            return True
        if not runtime.kernel_file(self._environment.runtime_dir, self._kernel_id).exists():
            return False  # its bridge ended it on request
        # without a router the bridge would end again
        await asyncio.to_thread(self._process.check, may_start=self._connection.joined)
        return True

    async def end(self, *, kernel: bool) -> None:
        """End the bridge, and with ``kernel`` also the kernel. Idempotent, bounded in time."""
        self._ending = True
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        if kernel and self._signal(signal.SIGUSR2) and self._process.process is not None:
            await wait_ended(self._process.process, SHUTDOWN_TIMEOUT_S)
        await asyncio.to_thread(self._process.end, term_s=BRIDGE_END_TIMEOUT_S)
        if kernel:
            file = self._current()
            await asyncio.to_thread(launcher.end_process, file)
            launcher.forget_kernel(self._environment.runtime_dir, file)
        self._bridge.forget()

    # --- inside ------------------------------------------------------------------------------

    def _failure(self) -> KernelStartFailed:
        """Return why the bridge ended: its own error, if that is about the kernel's start."""
        error = self._process.error
        if isinstance(error, KernelStartFailed):
            return error
        return KernelStartFailed(f"its bridge: {self._process.reason or 'it ended'}", self._process.log)

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

    def _signal(self, number: signal.Signals) -> bool:
        """Send the bridge a signal; return False when there is no bridge that handles it."""
        process = self._process.process
        return self._bridge.ready and process is not None and process.signal(number)
