"""`HeadlessSupervisor`: a bridge's part for a process that runs machines without a kernel.

It has the interface of `KernelSupervisor`. The process is a user's program. It is watched by its runtime
file and its pid, and gets SIGTERM on ``shutdown``; it is never restarted or killed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from timbr_wamp import runtime
from timbr_wamp.client.tasks import Tasks
from timbr_wamp.components import machine_files
from timbr_wamp.components.kernel_channels import KernelChannels
from timbr_wamp.components.kernel_supervisor import KernelSupervisor
from timbr_wamp.contract import KernelStateName
from timbr_wamp.errors import CallTimeout, KernelDead, NotAKernel
from timbr_wamp.processes import Process
from timbr_wamp.runtime import HeadlessFile

logger = logging.getLogger(__name__)

#: Interval for checking file and process.
WATCH_INTERVAL_S = 0.25
#: Time between the state "dead" and the end of the bridge, for publishing the state.
GIVE_UP_S = 0.5
ENDED_IN_ORDER = "it ended in order"
#: Timeout for the process to end after SIGTERM; it first processes the messages queued in its machine.
SHUTDOWN_TIMEOUT_S = 20.0


class HeadlessSupervisor:
    """One headless process. The loop's own thread only.

    Args:
        file: the process's runtime file, which it removes when it ends in order.
        on_change: called when state or reason changed.
        on_ending: called once when the process is about to end, with the seconds that it waits for its bridge.
        on_error: called with an unexpected error, after which the process is no longer watched.
    """

    headless = True
    give_up_s = GIVE_UP_S
    #: A user started the program, so the bridge can neither restart nor kill it.
    managed = False
    restarts = 0
    subshell_id: str | None = None
    startup_error: str | None = None

    def __init__(
        self,
        kernel_id: str,
        runtime_dir: Path,
        *,
        file: HeadlessFile,
        on_change: Callable[[], None],
        on_ending: Callable[[float], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.kernel_id, self._runtime_dir, self.file = kernel_id, runtime_dir, file
        #: The machines of the process.
        self.machine_files = machine_files.of_headless(runtime_dir, file)
        self._on_change, self._on_ending = on_change, on_ending
        self.state: KernelStateName = "starting"
        self.reason: str | None = None
        self._tasks = Tasks(on_error)
        self._left = self._asked = False

    @property
    def channels(self) -> KernelChannels:
        """The channels of a kernel, which a headless process does not have.

        Raises:
            NotAKernel: always.
        """
        raise NotAKernel(self.kernel_id, "run, complete or interrupt cells")

    @property
    def info(self) -> dict[str, object]:
        """The process's description, in the format of a kernel's."""
        return {"language_info": {"name": "python", "version": self.file.python}}

    async def open(self, *, old_subshell: str | None = None) -> None:
        """Start to watch the process.

        Raises:
            KernelDead: the process has already ended.
        """
        if (ended := self._ended()) is not None:
            raise KernelDead(self.kernel_id, ended)
        self._set("idle")
        self._tasks.start(self._watch(), f"watch process {self.file.pid}")

    async def close(self) -> None:
        """Stop watching the process, which keeps running. Idempotent."""
        await self._tasks.close()

    async def restart(self) -> None:
        """Refuse to restart a user's program.

        Raises:
            NotAKernel: always.
        """
        raise NotAKernel(self.kernel_id, "be restarted; end it with `shutdown` and start it again by hand")

    async def shutdown(self, reason: str = "it was ended") -> None:
        """Send SIGTERM and wait until the process has ended. It first processes the messages queued in its machine.

        Raises:
            CallTimeout: it still runs after `SHUTDOWN_TIMEOUT_S`.
        """
        self._asked = True
        if (process := Process.of(self.file)) is not None:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
        while self._ended() is None and not self._left:
            if time.monotonic() > deadline:
                raise CallTimeout("shutdown", SHUTDOWN_TIMEOUT_S)
            await asyncio.sleep(0.05)
        self._set("dead", reason)

    @property
    def ended_in_order(self) -> bool:
        """Whether the process said that it would end before it did, or somebody asked it to end."""
        return self.state == "dead" and (self._asked or self.reason == ENDED_IN_ORDER)

    def leave(self) -> None:
        """Count the process as ended, because it waits for nothing but the end of its bridge."""
        self._left = True
        self._set("dead", ENDED_IN_ORDER)

    # --- inside ------------------------------------------------------------------------------

    def _ended(self) -> str | None:
        """Return why the process counts as ended; None while it runs."""
        path = runtime.headless_file(self._runtime_dir, self.kernel_id)
        if not self.file.alive():
            path.unlink(missing_ok=True)
            return "its process ended"
        return None if path.exists() else ENDED_IN_ORDER

    def _ending_s(self) -> float | None:
        file = runtime.read_file(runtime.headless_file(self._runtime_dir, self.kernel_id), HeadlessFile)
        return file.ending_s if file is not None else None

    def _set(self, state: KernelStateName, reason: str | None = None) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._on_change()

    async def _watch(self) -> None:
        told = False
        while (ended := self._ended()) is None:
            if not told and (limit_s := self._ending_s()) is not None:
                told = True
                self._on_ending(limit_s)
            await asyncio.sleep(WATCH_INTERVAL_S)
        logger.info("headless process %s: %s", self.kernel_id, ended)
        if self.state != "dead":
            self._set("dead", ended)


#: A bridge works with either of them.
Supervisor: TypeAlias = KernelSupervisor | HeadlessSupervisor
