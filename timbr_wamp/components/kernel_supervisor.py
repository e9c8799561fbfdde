"""`KernelSupervisor`: connect to one kernel, watch its process, restart and end it.

A kernel that timbr_wamp started is watched by its pid and restarted from its `KernelFile` when it dies,
as `POLICY` says; after too many ends it stays dead. Any other kernel is watched
by its heartbeat, and neither restarted nor ended.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from timbr_wamp import runtime
from timbr_wamp.client.tasks import Tasks
from timbr_wamp.components import launcher, machine_files
from timbr_wamp.components.heartbeat import SILENT_S
from timbr_wamp.components.kernel_channels import KernelChannels
from timbr_wamp.contract import IopubMessage, KernelStateName
from timbr_wamp.errors import CallTimeout, KernelDead, KernelNotManaged, KernelStartFailed, StartupFailed, TimbrError
from timbr_wamp.kernel.startup import ERROR_ATTRIBUTE
from timbr_wamp.processes import Process, RestartPolicy, Restarts, wait_ended
from timbr_wamp.runtime import KernelFile

logger = logging.getLogger(__name__)

#: A kernel that dies while it starts costs a second of a processor each time.
POLICY = RestartPolicy(first_s=0.5, cap_s=10.0, limit=5, window_s=60.0)
#: Timeout for a kernel to answer after its process was started; includes its startup file.
START_TIMEOUT_S = 60.0
#: Timeout for a running kernel to answer.
ATTACH_TIMEOUT_S = 10.0
#: Timeout for a kernel to end after a shutdown request, before its process gets a signal.
SHUTDOWN_TIMEOUT_S = 3.0
#: Seconds after which the bridge of a dead, unmanaged kernel ends; and of a kernel whose file is gone as well, so
#: that it does not come back: time for publishing its state.
GIVE_UP_S, GONE_S = 60.0, 0.5


class KernelSupervisor:
    """One kernel and its process, over restarts. The loop's own thread only.

    Args:
        file: the runtime file of a kernel that timbr_wamp started; None for any other kernel.
        on_iopub, pace: see `KernelChannels`.
        on_change: called when state or reason changed.
        on_error: called with an unexpected error, after which the kernel is no longer watched.
    """

    headless = False

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
        on_error: Callable[[Exception], None],
    ) -> None:
        self.kernel_id, self._connection_file, self._runtime_dir = kernel_id, connection_file, runtime_dir
        self.file = file
        #: The kernel's machines.
        self.machine_files = machine_files.of_kernel(runtime_dir, connection_file)
        self._on_iopub, self._on_change, self._pace, self._on_error = on_iopub, on_change, pace, on_error
        self._tasks = Tasks(on_error)
        self.state: KernelStateName = "starting"
        #: Why the kernel is dead, or the error of its startup file; else None.
        self.reason: str | None = None
        #: The error of its startup file, with the file's name and line; None without one.
        self.startup_error: str | None = None
        #: Number of restarts by this supervisor, on request or after a death.
        self.restarts = 0
        self._channels = self._new_channels()
        self._restarts = Restarts(POLICY)
        #: Held while the process is restarted or ended.
        self._changing = asyncio.Lock()
        #: The process of a managed kernel, the last one if it has ended; and whether it was replaced.
        self._process = Process.of(file)
        self._replaced = asyncio.Event()
        #: Set when the kernel is being ended, or this supervisor closed: nothing restarts it any more.
        self._ending = asyncio.Event()

    @property
    def give_up_s(self) -> float:
        """Seconds after which a dead kernel counts as gone for good.

        A managed one can be restarted on request as long as it has its runtime file, any other one comes back with
        its connection file if at all.
        """
        if self.file is not None:
            here = runtime.kernel_file(self._runtime_dir, self.kernel_id).exists()
            return math.inf if here else GONE_S
        return GIVE_UP_S if self._connection_file.exists() else GONE_S

    @property
    def ended_in_order(self) -> bool:
        """Whether the kernel ended because somebody asked for it."""
        return self.state == "dead" and self._ending.is_set()

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

    async def open(self, *, old_subshell: str | None = None) -> None:
        """Connect to the kernel and start to watch it. A managed kernel that is dead is restarted.

        Raises:
            CallTimeout, NoConnectionFile: an unmanaged kernel does not answer or has no connection file.
            KernelStartFailed: a managed kernel does not start.
        """
        if self.managed and self._process is None:
            logger.warning("kernel %s: its process has ended; restarting it", self.kernel_id)
            await self._restart_process("its process ended while it had no bridge")
        else:
            await self._handshake(START_TIMEOUT_S if self.managed else ATTACH_TIMEOUT_S, old_subshell)
        self._restarts.started(now=time.monotonic())
        if self.managed:
            self._tasks.start(self._watch(), f"watch kernel {self.kernel_id}")

    async def close(self) -> None:
        """Disconnect from the kernel, which keeps running. Idempotent."""
        self._ending.set()
        await self._tasks.close()
        await self._channels.close()

    async def restart(self) -> None:
        """Restart the process with the same connection file and id.

        Raises:
            KernelNotManaged: timbr_wamp did not start the kernel.
            KernelDead: it is being ended.
            KernelStartFailed: it did not start again; its state is dead.
            StartupFailed: it runs again, but its startup file failed.
        """
        if not self.managed:
            raise KernelNotManaged(self.kernel_id, "restarted")
        async with self._changing:
            self._restarts.forgive()
            await self._restart_process(None)
            self._restarts.started(now=time.monotonic())
        if self.startup_error is not None:
            raise StartupFailed(self.kernel_id, self.startup_error)

    async def shutdown(self, reason: str = "it was ended") -> None:
        """End the kernel's process and remove its files; a restart in progress is given up.

        Args:
            reason: of the state "dead".

        Raises:
            KernelNotManaged: timbr_wamp did not start the kernel.
        """
        if self.file is None:
            raise KernelNotManaged(self.kernel_id, "ended")
        self._ending.set()
        async with self._changing:
            if self._process is not None and self._process.alive:
                with contextlib.suppress(TimbrError):
                    await self._channels.shutdown()
                await wait_ended(self._process, SHUTDOWN_TIMEOUT_S)
            await asyncio.to_thread(launcher.end_process, self.file)
            self._set("dead", reason)
            self._channels.fail(reason)
            launcher.forget_kernel(self._runtime_dir, self.file)

    # --- inside ------------------------------------------------------------------------------

    def _new_channels(self) -> KernelChannels:
        return KernelChannels(
            self._connection_file,
            kernel_id=self.kernel_id,
            on_iopub=self._on_iopub,
            on_state=self._channels_changed,
            pace=self._pace,
            on_error=self._on_error,
            heartbeat=not self.managed,
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

    async def _handshake(self, timeout_s: float, old_subshell: str | None = None, reason: str | None = None) -> None:
        """Open the channels; for a managed kernel fail early when its process ends, or is to be ended.

        Args:
            reason: why it was started, for its state.
        """
        opening = asyncio.create_task(self._channels.open(timeout_s, old_subshell=old_subshell))
        waits: list[asyncio.Task[Any]] = [opening]
        if self._process is not None:
            waits += [asyncio.create_task(wait_ended(self._process)), asyncio.create_task(self._ending.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._ending.is_set():
                raise KernelDead(self.kernel_id, "it is being ended")
            if not opening.done():
                assert self.file is not None
                raise KernelStartFailed("its process ended", launcher.log_tail(self.file))
            await opening
        except CallTimeout:
            if self.file is None:
                raise
            raise KernelStartFailed(f"no answer within {timeout_s:g} s", launcher.log_tail(self.file)) from None
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)  # the error of `opening` was raised above
        self.startup_error = await self._ask_startup_error()
        self._alive(self.startup_error or reason)

    async def _ask_startup_error(self) -> str | None:
        """Return the error of the startup file; None when it succeeded or there is none."""
        if self.file is None or self.file.startup is None:
            return None
        with contextlib.suppress(TimbrError):
            text = await self._channels.evaluate(f"str(getattr(get_ipython(), {ERROR_ATTRIBUTE!r}, None) or '')")
            return str(ast.literal_eval(text)) or None if text else None
        return None

    async def _restart_process(self, reason: str | None) -> None:
        """Start the process again; ``reason`` is why it is needed, None for a request."""
        assert self.file is not None
        if self._ending.is_set():
            raise KernelDead(self.kernel_id, "it is being ended")
        self._set("restarting", reason)
        self.restarts += 1
        self._channels.fail("it was restarted" if reason is None else reason)
        await self._channels.close()
        try:
            self.file = await asyncio.to_thread(launcher.restart_kernel, self._runtime_dir, self.file)
            self._process = Process.of(self.file)
            self._replaced.set()
            self._channels = self._new_channels()
            await self._handshake(START_TIMEOUT_S, reason=f"{reason}; it was restarted" if reason else None)
        except TimbrError as error:
            self._set("dead", str(error).splitlines()[0])
            raise

    async def _watch(self) -> None:
        """Restart a managed kernel when it dies, within the limit."""
        while True:
            self._replaced.clear()
            if self._process is None or self._is_dead():
                await self._replaced.wait()
                continue
            await wait_ended(self._process)
            async with self._changing:
                # a restart on request may have replaced it meanwhile, or failed
                if not self._ending.is_set() and not self._is_dead() and not self._process.alive:
                    await self._died()

    def _is_dead(self) -> bool:
        return self.state == "dead"

    async def _died(self) -> None:
        reason = "its process ended"
        if not runtime.kernel_file(self._runtime_dir, self.kernel_id).exists():
            reason = "it was ended"  # by whoever removed the file
            self._channels.fail(reason)
            self._set("dead", reason)
            return
        self._channels.fail(reason)
        while self._restarts.ended(reason, now=time.monotonic()) == "waiting":
            logger.warning("kernel %s: %s; restarting it", self.kernel_id, reason)
            self._set("restarting", reason)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), max(0.0, self._restarts.due_at - time.monotonic()))
            try:
                await self._restart_process(reason)
            except TimbrError as error:
                if self._ending.is_set():
                    return
                reason = str(error).splitlines()[0]
            else:
                self._restarts.started(now=time.monotonic())
                return
        logger.error("kernel %s: %s", self.kernel_id, self._restarts.reason)
        self._set("dead", self._restarts.reason)
