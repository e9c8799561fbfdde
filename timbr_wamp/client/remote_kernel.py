"""`RemoteKernel`: blocking access to a kernel on the router."""

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

#: Capacity of the queue of output messages for ``on_output``; further messages are dropped, counted and logged.
OUTPUT_LIMIT = 10_000


class RemoteKernel:
    """A kernel on the router. Any thread but the client's own; calls block.

    Every call may raise `NotConnected`, `ConnectionLost`, `NoSuchProcedure` (the kernel is gone),
    `NotAuthorized`, and the errors that the contract lists for the procedure.
    """

    def __init__(self, shared: SharedConnection, kernel: AsyncKernel) -> None:
        self._shared = shared
        #: The same methods as coroutines.
        self.aio = kernel

    def __repr__(self) -> str:
        return f"<kernel {self.id} ({self.name})>"

    @property
    def id(self) -> str:
        """The kernel id, which is part of its URIs."""
        return self.aio.id

    @property
    def name(self) -> str:
        """The kernel's name for people."""
        return self.aio.name

    def info(self) -> KernelInfo:
        """Return the kernel's state and description."""
        return self._shared.wait(self.aio.info)

    def ping(self) -> float:
        """Return the time of the bridge's clock, in UTC seconds."""
        return self._shared.wait(self.aio.ping)

    def interrupt(self) -> None:
        """Interrupt the running cell; it raises ``KeyboardInterrupt``."""
        self._shared.wait(self.aio.interrupt)

    def restart(self) -> KernelInfo:
        """Restart the kernel's process; it keeps its id."""
        return self._shared.wait(self.aio.restart)

    def shutdown(self) -> None:
        """End the kernel's process and its bridge."""
        self._shared.wait(self.aio.shutdown)

    def execute(
        self, code: str, timeout_s: float | None = None, *, silent: bool = False, store_history: bool = True
    ) -> ExecuteReply:
        """Run code and return its ``execute_reply``. Output is published on the kernel's topic ``iopub``.

        Without ``timeout_s`` there is no limit other than the connection. Ctrl-C in this
        process ends the waiting, not the cell; use `interrupt` for that.

        Raises:
            OwnKernel: it is the kernel in which this code runs.
        """
        return self._shared.wait(self.aio.execute, code, timeout_s, silent=silent, store_history=store_history)

    def run(
        self,
        code: str,
        *,
        on_output: Callable[[IopubMessage], object] | None = None,
        timeout_s: float | None = None,
        silent: bool = False,
        store_history: bool = True,
    ) -> ExecuteReply:
        """Run code and pass each output message to ``on_output``, in the calling thread.

        What ``on_output`` prints or displays therefore appears under the calling cell.

        Raises:
            OwnKernel: it is the kernel in which this code runs.
        """
        if on_output is None:
            on_output = _ignore
        outputs = _OutputQueue()
        future = self._shared.submit(
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
        return self._shared.result(future, "run")

    def complete(self, code: str, cursor_pos: int | None = None) -> CompleteReply:
        """Return completions at the cursor (None: at the end). Works while a cell runs."""
        return self._shared.wait(self.aio.complete, code, cursor_pos)

    def inspect(self, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> InspectReply:
        """Return the documentation of the name at the cursor. Works while a cell runs."""
        return self._shared.wait(self.aio.inspect, code, cursor_pos, detail_level)

    def is_complete(self, code: str) -> IsCompleteReply:
        """Return whether the code is a complete cell."""
        return self._shared.wait(self.aio.is_complete, code)

    def machine(self, name: str = DEFAULT_MACHINE) -> RemoteMachine:
        """Return the machine of that name. Calls raise `NoMachine` if it does not exist."""
        return RemoteMachine(self._shared, self.aio.machine(name))

    def machines(self) -> list[MachineBrief]:
        """Return the kernel's current machines."""
        return self._shared.wait(self.aio.machines)


class _OutputQueue:
    """A bounded queue of output messages from the loop's thread to the thread that waits for them."""

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
            logger.warning("%d output messages were dropped because on_output was too slow", self._dropped)


def _ignore(message: IopubMessage) -> None:
    """Default of ``on_output``: discard the message."""
