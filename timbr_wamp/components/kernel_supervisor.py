"""`KernelSupervisor`: connect to one kernel, watch its process, restart and end it.

A kernel that timbr_wamp started is watched by its pid and restarted from its `KernelFile` when it dies,
at most `RESTART_LIMIT` times in `RESTART_WINDOW_S`; after that it stays dead. Any other kernel is watched
by its heartbeat, and neither restarted nor ended.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from timbr_wamp.components import launcher
from timbr_wamp.components.heartbeat import SILENT_S
from timbr_wamp.components.kernel_channels import KernelChannels
from timbr_wamp.components.machine_files import machine_files
from timbr_wamp.contract import IopubMessage, KernelStateName
from timbr_wamp.errors import CallTimeout, KernelDead, KernelNotManaged, KernelStartFailed, TimbrError
from timbr_wamp.kernel.startup import ERROR_ATTRIBUTE
from timbr_wamp.runtime import KernelFile, MachineFile

logger = logging.getLogger(__name__)

RESTART_LIMIT = 5
RESTART_WINDOW_S = 60.0
#: Interval for checking the process.
WATCH_INTERVAL_S = 0.5
#: Timeout for a kernel to answer after its process was started; includes its startup file.
START_TIMEOUT_S = 60.0
#: Timeout for a running kernel to answer.
ATTACH_TIMEOUT_S = 10.0
#: Timeout for a kernel to end after a shutdown request, before its process gets a signal.
SHUTDOWN_TIMEOUT_S = 3.0
#: Seconds after which the bridge of a dead, unmanaged kernel ends.
GIVE_UP_S = 60.0


class RestartLimit:
    """Allows at most ``limit`` restarts in any ``window_s`` seconds."""

    def __init__(self, limit: int = RESTART_LIMIT, window_s: float = RESTART_WINDOW_S) -> None:
        self._limit, self._window_s = limit, window_s
        self._times: deque[float] = deque()

    def allow(self, now: float) -> bool:
        """Return whether a restart is allowed now, and count it if so."""
        while self._times and now - self._times[0] >= self._window_s:
            self._times.popleft()
        if len(self._times) >= self._limit:
            return False
        self._times.append(now)
        return True


class KernelSupervisor:
    """One kernel and its process, over restarts. The loop's own thread only.

    Args:
        file: the runtime file of a kernel that timbr_wamp started; None for any other kernel.
        on_iopub, pace: see `KernelChannels`.
        on_change: called when state or reason changed.
    """

    headless = False
    give_up_s = GIVE_UP_S

    def __init__(
        self,
        kernel_id: str,
        connection_file: Path,
        runtime_dir: Path,
        *,
        file: KernelFile | None,
        on_iopub: Callable[[IopubMessage], None],
        on_change: Callable[[], None],
        pace: Callable[[], Awaitable[None]],
    ) -> None:
        self.kernel_id, self._connection_file, self._runtime_dir = kernel_id, connection_file, runtime_dir
        self.file = file
        self._on_iopub, self._on_change, self._pace = on_iopub, on_change, pace
        self.state: KernelStateName = "starting"
        #: Why the kernel is dead, or the error of its startup file; else None.
        self.reason: str | None = None
        #: Number of restarts by this supervisor, on request or after a death.
        self.restarts = 0
        self._channels = self._new_channels()
        self._limit = RestartLimit()
        #: Held while the process is restarted or ended.
        self._changing = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._ending = False

    @property
    def managed(self) -> bool:
        """Whether timbr_wamp started the kernel and can restart and end it."""
        return self.file is not None

    @property
    def channels(self) -> KernelChannels:
        """The channels of the running kernel.

        Raises:
            KernelDead: the kernel does not run.
        """
        if self.state in ("dead", "restarting", "starting"):
            raise KernelDead(self.kernel_id, self.reason or f"it is {self.state}")
        return self._channels

    @property
    def info(self) -> dict[str, object]:
        """The content of the kernel's last ``kernel_info_reply``."""
        return self._channels.info

    @property
    def subshell_id(self) -> str | None:
        """Id of the bridge's subshell in the kernel."""
        return self._channels.subshell_id

    def machines(self) -> dict[str, MachineFile]:
        """Return the kernel's machines by name."""
        return machine_files(self._runtime_dir, self._connection_file)

    async def open(self, *, old_subshell: str | None = None) -> None:
        """Connect to the kernel and start to watch it. A managed kernel that is dead is restarted.

        Raises:
            CallTimeout, NoConnectionFile: an unmanaged kernel does not answer or has no connection file.
            KernelStartFailed: a managed kernel does not start.
        """
        if self.file is not None and not self.file.alive():
            logger.warning("kernel %s: its process has ended; restarting it", self.kernel_id)
            await self._restart_process()
        else:
            await self._handshake(START_TIMEOUT_S if self.managed else ATTACH_TIMEOUT_S, old_subshell)
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Disconnect from the kernel, which keeps running. Idempotent."""
        self._ending = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._channels.close()

    async def restart(self) -> None:
        """Restart the process with the same connection file and id.

        Raises:
            KernelNotManaged: timbr_wamp did not start the kernel.
            KernelStartFailed: it did not start again; its state is dead.
        """
        if not self.managed:
            raise KernelNotManaged(self.kernel_id, "restarted")
        async with self._changing:
            await self._restart_process()

    async def shutdown(self) -> None:
        """End the kernel's process and remove its files.

        Raises:
            KernelNotManaged: timbr_wamp did not start the kernel.
        """
        if self.file is None:
            raise KernelNotManaged(self.kernel_id, "ended")
        self._ending = True
        async with self._changing:
            if self.file.alive():
                with contextlib.suppress(TimbrError):
                    await self._channels.shutdown()
                await self._wait_ended(SHUTDOWN_TIMEOUT_S)
            await asyncio.to_thread(launcher.end_process, self.file)
            self._set("dead", "it was ended")
            self._channels.fail("it was ended")
            launcher.forget_kernel(self._runtime_dir, self.file)

    # --- inside ------------------------------------------------------------------------------

    def _new_channels(self) -> KernelChannels:
        return KernelChannels(
            self._connection_file,
            kernel_id=self.kernel_id,
            on_iopub=self._on_iopub,
            on_state=self._channels_changed,
            pace=self._pace,
        )

    def _set(self, state: KernelStateName, reason: str | None = None) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._on_change()

    def _channels_changed(self) -> None:
        if self.state in ("starting", "restarting") or (self.managed and self.state == "dead"):
            return  # these states are changed by the code that restarts or ends the process
        if self._channels.silent and not self.managed:
            self._set("dead", f"no heartbeat for {SILENT_S:g} s")
            self._channels.fail_requests(f"no heartbeat for {SILENT_S:g} s")
        else:
            self._alive(None if self.state == "dead" else self.reason)

    def _alive(self, reason: str | None) -> None:
        self._set("busy" if self._channels.busy else "idle", reason)

    async def _handshake(self, timeout_s: float, old_subshell: str | None = None) -> None:
        """Open the channels; for a managed kernel fail early when its process ends."""
        opening = asyncio.create_task(self._channels.open(timeout_s, old_subshell=old_subshell))
        try:
            while not (await asyncio.wait({opening}, timeout=WATCH_INTERVAL_S))[0]:
                if self.file is not None and not self.file.alive():
                    raise KernelStartFailed("its process ended", launcher.log_tail(self.file))
            await opening
        except CallTimeout:
            if self.file is None:
                raise
            raise KernelStartFailed(f"no answer within {timeout_s:g} s", launcher.log_tail(self.file)) from None
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        self._alive(await self._startup_error())

    async def _startup_error(self) -> str | None:
        """Return the error of the startup file; None when it succeeded or there is none."""
        if self.file is None or self.file.startup is None:
            return None
        with contextlib.suppress(TimbrError):
            text = await self._channels.evaluate(f"str(getattr(get_ipython(), {ERROR_ATTRIBUTE!r}, None) or '')")
            return str(ast.literal_eval(text)) or None if text else None
        return None

    async def _restart_process(self) -> None:
        assert self.file is not None
        self._set("restarting")
        self.restarts += 1
        self._channels.fail("it was restarted")
        await self._channels.close()
        try:
            self.file = await asyncio.to_thread(launcher.restart_kernel, self._runtime_dir, self.file)
            self._channels = self._new_channels()
            await self._handshake(START_TIMEOUT_S)
        except TimbrError as error:
            self._set("dead", str(error).splitlines()[0])
            raise

    async def _watch(self) -> None:
        """Restart a managed kernel when it dies, within the limit."""
        while self.file is not None:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if self.state == "dead" or self.file.alive():
                continue
            async with self._changing:
                if not self._ending and not self.file.alive():
                    await self._died()

    async def _died(self) -> None:
        self._channels.fail("its process ended")
        while self._limit.allow(time.monotonic()):
            logger.warning("kernel %s: its process ended; restarting it", self.kernel_id)
            try:
                await self._restart_process()
            except TimbrError as error:
                logger.warning("kernel %s: %s", self.kernel_id, error)
            else:
                return
        reason = f"it ended more than {RESTART_LIMIT} times in {RESTART_WINDOW_S:g} s and is not restarted"
        logger.error("kernel %s: %s", self.kernel_id, reason)
        self._set("dead", reason)

    async def _wait_ended(self, timeout_s: float) -> bool:
        assert self.file is not None
        deadline = time.monotonic() + timeout_s
        while self.file.alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not self.file.alive()
