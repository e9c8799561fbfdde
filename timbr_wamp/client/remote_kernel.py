"""`RemoteKernel`: blocking access to a kernel on the router."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from timbr_wamp.client.async_client import AsyncKernel
from timbr_wamp.client.blocking import Blocking, blocking, like
from timbr_wamp.client.remote_machine import RemoteMachine
from timbr_wamp.contract import ExecuteReply, IopubMessage

logger = logging.getLogger(__name__)

#: Capacity of the queue of output messages for ``on_output``; further messages are dropped, counted and logged.
OUTPUT_LIMIT = 10_000


class RemoteKernel(Blocking[AsyncKernel]):
    """A kernel on the router. Any thread but the client's own; calls block.

    Every call may raise `NotConnected`, `ConnectionLost`, `NoSuchProcedure` (the kernel is gone),
    `NotAuthorized`, and the errors that the contract lists for the procedure.
    """

    @property
    def id(self) -> str:
        """The kernel id, which is part of its URIs."""
        return self.aio.id

    @property
    def name(self) -> str:
        """The kernel's name for people."""
        return self.aio.name

    info = blocking(AsyncKernel.info)
    ping = blocking(AsyncKernel.ping)
    interrupt = blocking(AsyncKernel.interrupt)
    restart = blocking(AsyncKernel.restart)
    shutdown = blocking(AsyncKernel.shutdown)
    execute = blocking(AsyncKernel.execute)

    @like(AsyncKernel.run)
    def run(
        self, code: str, *, on_output: Callable[[IopubMessage], object] | None = None, **options: Any
    ) -> ExecuteReply:
        if on_output is None:
            on_output = _ignore
        outputs = _OutputQueue()
        future = self._shared.submit(self.aio.run, code, on_output=outputs.put, **options)
        future.add_done_callback(lambda _: outputs.end())
        try:
            for message in outputs:
                on_output(message)
        except BaseException:
            future.cancel()
            raise
        return self._shared.result(future, "run")

    complete = blocking(AsyncKernel.complete)
    inspect = blocking(AsyncKernel.inspect)
    is_complete = blocking(AsyncKernel.is_complete)
    machine = blocking(AsyncKernel._find_machine, RemoteMachine, face=AsyncKernel.machine)
    machines = blocking(AsyncKernel.machines)


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
