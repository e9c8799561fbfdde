"""Keep one kernel: shake hands, watch its process, start it again when it dies, restart and end it.

A kernel of ours is watched by its pid and started again by its `KernelFile`, at most `RESTART_LIMIT`
times in `RESTART_WINDOW_S`; then it stays dead, with the reason. A kernel that somebody else started is
watched by its heartbeat only, and neither restarted nor ended from here.
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
#: How often the process is looked at.
WATCH_S = 0.5
#: A kernel of ours has this long to answer after its process was made; its startup file runs meanwhile.
START_S = 60.0
#: A kernel that was there before us answers at once, or not at all.
ATTACH_S = 10.0
#: Asked to end, a kernel has this long before its process is ended.
SHUTDOWN_S = 3.0
#: A kernel of somebody else's that has been dead so long will not come back.
GIVE_UP_S = 60.0


class RestartLimit:
    """Allow so many restarts in so many seconds."""

    def __init__(self, limit: int = RESTART_LIMIT, window_s: float = RESTART_WINDOW_S) -> None:
        self._limit, self._window_s = limit, window_s
        self._times: deque[float] = deque()

    def allow(self, now: float) -> bool:
        """Tell whether another restart may be made now, and count it if so."""
        while self._times and now - self._times[0] >= self._window_s:
            self._times.popleft()
        if len(self._times) >= self._limit:
            return False
        self._times.append(now)
        return True


class KernelSupervisor:
    """One kernel and its process, over all its incarnations. The loop's own thread only.

    Args:
        file: the runtime file of a kernel of ours; None for one that somebody else started.
        on_iopub, pace: see `KernelChannels`.
        on_change: called when state, reason or incarnation changed.
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
        #: Why it is dead; what its startup file failed with.
        self.reason: str | None = None
        #: Restarts since this keeper began, asked for or not.
        self.restarts = 0
        self._link = self._new_link()
        self._limit = RestartLimit()
        #: Held while the process changes: a restart, a death noticed, the end.
        self._changing = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._ending = False

    @property
    def managed(self) -> bool:
        """We started it: it can be restarted and ended from here."""
        return self.file is not None

    @property
    def link(self) -> KernelChannels:
        """The channels of the living kernel.

        Raises:
            KernelDead: there is none now.
        """
        if self.state in ("dead", "restarting", "starting"):
            raise KernelDead(self.kernel_id, self.reason or f"it is {self.state}")
        return self._link

    @property
    def info(self) -> dict[str, object]:
        """The kernel's own description of itself, as it last gave it."""
        return self._link.info

    @property
    def subshell_id(self) -> str | None:
        """Name of the subshell that this bridge keeps in the kernel."""
        return self._link.subshell_id

    def machines(self) -> dict[str, MachineFile]:
        """Return the kernel's living machines by name."""
        return machine_files(self._runtime_dir, self._connection_file)

    async def open(self, *, old_subshell: str | None = None) -> None:
        """Shake hands with the kernel, start it again if it is ours and dead, and begin to watch it.

        Raises:
            CallTimeout, NoConnectionFile: a kernel that is not ours does not answer, or is not there.
            KernelStartFailed: a kernel of ours does not come up.
        """
        if self.file is not None and not self.file.alive():
            logger.warning("kernel %s: its process is gone; starting it again", self.kernel_id)
            await self._start_again()
        else:
            await self._shake_hands(START_S if self.managed else ATTACH_S, old_subshell)
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Let go of the kernel; it lives on. Idempotent."""
        self._ending = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._link.close()

    async def restart(self) -> None:
        """End the process and start it again: same connection file, same id, new everything else.

        Raises:
            KernelNotManaged: somebody else started it.
            KernelStartFailed: it does not come up again; it is dead then.
        """
        if not self.managed:
            raise KernelNotManaged(self.kernel_id, "restarted")
        async with self._changing:
            await self._start_again()

    async def shutdown(self) -> None:
        """End the kernel's process and remove its files.

        Raises:
            KernelNotManaged: somebody else started it.
        """
        if self.file is None:
            raise KernelNotManaged(self.kernel_id, "ended")
        self._ending = True
        async with self._changing:
            if self.file.alive():
                with contextlib.suppress(TimbrError):
                    await self._link.shutdown()
                await self._gone(SHUTDOWN_S)
            await asyncio.to_thread(launcher.end_process, self.file)
            self._set("dead", "it was ended")
            self._link.fail("it was ended")
            launcher.forget_kernel(self._runtime_dir, self.file)

    # --- inside ------------------------------------------------------------------------------

    def _new_link(self) -> KernelChannels:
        return KernelChannels(
            self._connection_file,
            kernel_id=self.kernel_id,
            on_iopub=self._on_iopub,
            on_state=self._link_changed,
            pace=self._pace,
        )

    def _set(self, state: KernelStateName, reason: str | None = None) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._on_change()

    def _link_changed(self) -> None:
        if self.state in ("starting", "restarting") or (self.managed and self.state == "dead"):
            return  # what counts now is decided below
        if self._link.silent and not self.managed:
            self._set("dead", f"no heartbeat for {SILENT_S:g} s")
            self._link.fail_requests(f"no heartbeat for {SILENT_S:g} s")
        else:
            self._alive(None if self.state == "dead" else self.reason)

    def _alive(self, reason: str | None) -> None:
        self._set("busy" if self._link.busy else "idle", reason)

    async def _shake_hands(self, timeout_s: float, old_subshell: str | None = None) -> None:
        """Open the link; for a kernel of ours give up early when its process ends."""
        opening = asyncio.create_task(self._link.open(timeout_s, old_subshell=old_subshell))
        try:
            while not (await asyncio.wait({opening}, timeout=WATCH_S))[0]:
                if self.file is not None and not self.file.alive():
                    raise KernelStartFailed("its process ended at once", launcher.log_tail(self.file))
            await opening
        except CallTimeout:
            if self.file is None:
                raise
            raise KernelStartFailed(f"no answer in {timeout_s:g} s", launcher.log_tail(self.file)) from None
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        self._alive(await self._startup_error())

    async def _startup_error(self) -> str | None:
        """Return how the startup file failed, None when it did not or there is none."""
        if self.file is None or self.file.startup is None:
            return None
        with contextlib.suppress(TimbrError):
            text = await self._link.evaluate(f"str(getattr(get_ipython(), {ERROR_ATTRIBUTE!r}, None) or '')")
            return str(ast.literal_eval(text)) or None if text else None
        return None

    async def _start_again(self) -> None:
        assert self.file is not None
        self._set("restarting")
        self.restarts += 1
        self._link.fail("it was restarted")
        await self._link.close()
        try:
            self.file = await asyncio.to_thread(launcher.restart_kernel, self._runtime_dir, self.file)
            self._link = self._new_link()
            await self._shake_hands(START_S)
        except TimbrError as error:
            self._set("dead", str(error).splitlines()[0])
            raise

    async def _watch(self) -> None:
        """Notice the death of a kernel of ours, and start it again within the limits."""
        while self.file is not None:
            await asyncio.sleep(WATCH_S)
            if self.state == "dead" or self.file.alive():
                continue
            async with self._changing:
                if not self._ending and not self.file.alive():
                    await self._died()

    async def _died(self) -> None:
        self._link.fail("its process ended")
        while self._limit.allow(time.monotonic()):
            logger.warning("kernel %s: its process ended; starting it again", self.kernel_id)
            try:
                await self._start_again()
            except TimbrError as error:
                logger.warning("kernel %s: %s", self.kernel_id, error)
            else:
                return
        reason = f"it ended more than {RESTART_LIMIT} times in {RESTART_WINDOW_S:g} s and is not started again"
        logger.error("kernel %s: %s", self.kernel_id, reason)
        self._set("dead", reason)

    async def _gone(self, timeout_s: float) -> bool:
        assert self.file is not None
        deadline = time.monotonic() + timeout_s
        while self.file.alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not self.file.alive()
