"""`RemoteKernel`: a kernel on the router, as plain blocking calls."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator

from timbr_wamp.client.async_client import AsyncKernel
from timbr_wamp.client.remote_machine import RemoteMachine
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.contract import (
    CompleteReply,
    ExecuteReply,
    InspectReply,
    IopubMessage,
    IsCompleteReply,
    KernelInfo,
    MachineBrief,
)
from timbr_wamp.names import DEFAULT_MACHINE

logger = logging.getLogger(__name__)

#: Messages of output that wait for ``on_output``; more are dropped, counted and logged.
OUTPUT_LIMIT = 10_000


class RemoteKernel:
    """A kernel on the router. Any thread but the client's own; each call blocks until it is answered.

    All raise `NotConnected`, `ConnectionLost`, `NoSuchProcedure` (the kernel is gone),
    `NotAuthorized`, and what the contract lists for the procedure.
    """

    def __init__(self, link: SharedConnection, kernel: AsyncKernel) -> None:
        self._link = link
        #: The same verbs as coroutines.
        self.aio = kernel

    def __repr__(self) -> str:
        return f"<kernel {self.id} ({self.name})>"

    @property
    def id(self) -> str:
        """The kernel id, a part of its URIs."""
        return self.aio.id

    @property
    def name(self) -> str:
        """How people call it."""
        return self.aio.name

    def info(self) -> KernelInfo:
        """Return what is known of the kernel."""
        return self._link.wait(self.aio.info)

    def ping(self) -> float:
        """Return the bridge's clock, UTC seconds."""
        return self._link.wait(self.aio.ping)

    def interrupt(self) -> None:
        """Interrupt the running cell: it gets a ``KeyboardInterrupt``."""
        self._link.wait(self.aio.interrupt)

    def restart(self) -> KernelInfo:
        """End the kernel's process and start it again under the same id."""
        return self._link.wait(self.aio.restart)

    def shutdown(self) -> None:
        """End the kernel's process and its bridge."""
        self._link.wait(self.aio.shutdown)

    def execute(
        self, code: str, timeout_s: float | None = None, *, silent: bool = False, store_history: bool = True
    ) -> ExecuteReply:
        """Run code and return how it ended; its output goes to the kernel's topic ``iopub``.

        Without ``timeout_s`` it may run as long as the link lives. An interrupt (Ctrl-C) here ends
        the waiting, not the cell: that is what `interrupt` is for.
        """
        return self._link.wait(self.aio.execute, code, timeout_s, silent=silent, store_history=store_history)

    def run(
        self,
        code: str,
        *,
        on_output: Callable[[IopubMessage], object] | None = None,
        timeout_s: float | None = None,
        silent: bool = False,
        store_history: bool = True,
    ) -> ExecuteReply:
        """Run code; ``on_output`` gets each message of its output, in the calling thread.

        So what it prints or displays appears in the cell that called.
        """
        if on_output is None:
            on_output = _ignore
        outputs = _Outputs()
        future = self._link.submit(
            self.aio.run,
            code,
            on_output=outputs.put,
            timeout_s=timeout_s,
            silent=silent,
            store_history=store_history,
        )
        future.add_done_callback(lambda _: outputs.end())
        try:
            for message in outputs:
                on_output(message)
        except BaseException:
            future.cancel()
            raise
        return self._link.result(future, "run")

    def complete(self, code: str, cursor_pos: int | None = None) -> CompleteReply:
        """Return completions at the cursor (None: at the end); works while a cell runs."""
        return self._link.wait(self.aio.complete, code, cursor_pos)

    def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> InspectReply:
        """Return documentation of the name at the cursor; works while a cell runs."""
        return self._link.wait(self.aio.inspect, code, cursor_pos, detail_level)

    def is_complete(self, code: str) -> IsCompleteReply:
        """Tell whether the code is a whole cell."""
        return self._link.wait(self.aio.is_complete, code)

    def machine(self, name: str = DEFAULT_MACHINE) -> RemoteMachine:
        """Return the machine of that name; whether it is there shows when it is asked something."""
        return RemoteMachine(self._link, self.aio.machine(name))

    def machines(self) -> list[MachineBrief]:
        """Return the machines that the kernel has now."""
        return self._link.wait(self.aio.machines)


class _Outputs:
    """Output on its way from the loop's thread to the one that waits for it. Bounded."""

    def __init__(self) -> None:
        self._messages: deque[IopubMessage] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._dropped = 0

    def put(self, message: IopubMessage) -> None:
        with self._changed:
            if len(self._messages) >= OUTPUT_LIMIT:
                self._dropped += 1
                return
            self._messages.append(message)
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def __iter__(self) -> Iterator[IopubMessage]:
        while True:
            with self._changed:
                while not self._messages and not self._ended:
                    self._changed.wait()
                if not self._messages:
                    break
                message = self._messages.popleft()
            yield message
        if self._dropped:
            logger.warning("%d messages of output came too fast and were dropped", self._dropped)


def _ignore(message: IopubMessage) -> None:
    """Let it go by: nobody asked for the output."""
