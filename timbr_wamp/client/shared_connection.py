"""`SharedConnection`: the connection that a client's blocking and async objects share, in the background loop.

Methods of the async classes are coroutines that may run in any loop; this class runs what needs the
connection in the background loop. The blocking classes run the same coroutines there and wait.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from timbr_wamp.client.arguments import wire_arguments
from timbr_wamp.client.background_loop import acquire_loop, release_loop
from timbr_wamp.client.callbacks import CallbackThread
from timbr_wamp.client.connection import Connection, Subscription
from timbr_wamp.client.statistics import ConnectionStatistics, LinkChange, Unfinished
from timbr_wamp.contract import NODE, KernelInfo, Procedure
from timbr_wamp.contract.exports import NODE_URIS
from timbr_wamp.errors import AlreadyClosed, CalledFromLoop, LoopClosed, NoSuchProcedure, NotConnected
from timbr_wamp.names import kernel_of_uri, kernel_uri

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CALL_TIMEOUT_S = 30.0
#: Seconds between two looks at what `drain` waits for.
DRAIN_STEP_S = 0.02
#: Seconds before a call is repeated when the callee may still be reconnecting.
RETRY_PAUSE_S = 0.1
#: A bridge that ended is started again by its host; its kernel's procedures are back within this many seconds.
BRIDGE_RETURN_S = 15.0


class Reader(Protocol):
    """An open reader of records, as the client counts it and waits for it."""

    kernel_id: str
    machine: str

    def unread(self) -> tuple[int, int]:
        """Return the number of records that were not handed over, and about their bytes. Any thread."""

    def has_handed_over(self, run: str, seq: int) -> bool:
        """Return whether nothing up to this record is still to come."""


@dataclass
class Counts:
    """What was counted since the client was opened."""

    refills: int = 0
    gaps: int = 0


class SharedConnection:
    """The connection of one client in the background loop. Any thread, any loop."""

    def __init__(self, url: str, realm: str, token: str | None) -> None:
        self.connection = Connection(url, realm, token, on_join=self._on_join)
        self.callbacks = CallbackThread()
        #: Called in the loop's thread after each (re)connection.
        self.join_listeners: set[Callable[[], None]] = set()
        #: Called once when the client is closed, in any thread, after the connection is closed.
        self.close_callbacks: set[Callable[[], None]] = set()
        #: The open readers of records.
        self.streams: set[Reader] = set()
        self.counts = Counts()
        #: Kernel id and name of the machines to which messages were put.
        self.put_to: set[tuple[str, str]] = set()
        self._loop = acquire_loop()
        self._closing = self._released = False

    def __repr__(self) -> str:
        return repr(self.connection)

    async def _on_join(self) -> None:
        for listener in tuple(self.join_listeners):
            listener()

    # --- opening and closing -------------------------------------------------------------------------------

    def open(self, timeout_s: float, *, wait: bool) -> None:
        """Connect; see `Connection.open`. Blocks."""
        try:
            self._loop.call(partial(self.connection.open, timeout_s, wait=wait), timeout_s=timeout_s + 10.0)
        except BaseException:
            self._release()
            raise

    async def open_async(self, timeout_s: float, *, wait: bool) -> None:
        """Connect; see `Connection.open`."""
        try:
            await self._loop.run(partial(self.connection.open, timeout_s, wait=wait))
        except BaseException:
            await asyncio.to_thread(self._release)
            raise

    def close(self) -> Unfinished:
        """Close the connection and release the loop; return what was left. Idempotent. Takes at most some seconds."""
        self._loop.check()
        if self._released:
            return Unfinished()
        self._closing = True
        left = self._unfinished()
        self._loop.call(self.connection.close, timeout_s=10.0)
        self._release()
        return left

    async def close_async(self) -> Unfinished:
        """Close the connection and release the loop; return what was left. Idempotent."""
        if self._released:
            return Unfinished()
        self._closing = True
        left = self._unfinished()
        await self._loop.run(self.connection.close)
        await asyncio.to_thread(self._release)  # joins threads
        return left

    def already_closed(self) -> AlreadyClosed:
        """Return the error of whatever is called after the client was closed."""
        return AlreadyClosed(f"the connection to {self.connection.url}", "timbr_wamp.connect()")

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Raise `AlreadyClosed` for what begins, or ends without a result, after the client was closed."""
        self._loop.check()
        if self._released:
            raise self.already_closed()
        try:
            yield
        except AlreadyClosed:  # of a reader
            raise
        except LoopClosed:
            raise self.already_closed() from None
        except NotConnected:
            if not self._closing:
                raise
            raise self.already_closed() from None

    def _unfinished(self) -> Unfinished:
        now = self.statistics()
        left = Unfinished(now.calls, now.callbacks, now.buffered_rows, now.send_bytes)
        if left:
            logger.info("%s: closed with %s", self.connection.url, left)
        return left

    def _release(self) -> None:
        if not self._released:
            self._released = True
            self.callbacks.close()
            for ending in tuple(self.close_callbacks):
                ending()
            release_loop(self._loop)

    # --- the link ----------------------------------------------------------------------------

    def statistics(self) -> ConnectionStatistics:
        """Return the counts of this moment. Any thread."""
        connection, unread = self.connection, [stream.unread() for stream in tuple(self.streams)]
        return ConnectionStatistics(
            connected=connection.joined,
            reconnections=connection.reconnections,
            refills=self.counts.refills,
            gaps=self.counts.gaps,
            paced=connection.paced,
            events_dropped=self.callbacks.dropped,
            calls=connection.calls,
            callbacks=len(self.callbacks),
            send_bytes=connection.buffered_bytes(),
            buffered_rows=sum(rows for rows, _ in unread),
            buffered_bytes=sum(size_bytes for _, size_bytes in unread),
        )

    def on_link(self, callback: Callable[[LinkChange], object]) -> Callable[[], None]:
        """Call ``callback(change)`` in the callback thread when the link is lost and when it is there again."""

        def tell(joined: bool, reason: str) -> None:
            self.callbacks.post(callback, LinkChange(joined, reason, self.connection.reconnections, time.time()))

        self.connection.link_listeners.add(tell)
        return lambda: self.connection.link_listeners.discard(tell)

    async def readers_done(self, kernel_id: str, machine: str, run: str, seq: int, timeout_s: float) -> bool:
        """Wait until this client's readers of a machine have handed over all up to a record; False at the timeout."""

        def done() -> bool:
            theirs = [one for one in self.streams if (one.kernel_id, one.machine) == (kernel_id, machine)]
            return all(one.has_handed_over(run, seq) for one in theirs)

        return await self._until(done, timeout_s)

    async def quiet(self, timeout_s: float) -> bool:
        """Wait until nothing is to be sent and no callback to be called; return False at the timeout."""
        return await self._until(lambda: not self.connection.buffered_bytes() and not len(self.callbacks), timeout_s)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(DRAIN_STEP_S)
        return True

    # --- running coroutines ------------------------------------------------------------------------------

    def wait(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a coroutine function in the background loop and wait for its result.

        Raises:
            AlreadyClosed: the client was closed.
            CalledFromLoop, ForkedClient: see `BackgroundLoop.call`.
        """
        with self._open():
            return self._loop.call(partial(function, *args, **kwargs), timeout_s=None)

    def submit(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Start a coroutine function in the background loop; return a future."""
        with self._open():
            return self._loop.submit(partial(function, *args, **kwargs))

    def check_caller(self, what: str) -> None:
        """Raise `CalledFromLoop` when called in the client's own thread, where waiting would deadlock."""
        if self._loop.is_here():
            raise CalledFromLoop(what)

    def result(self, future: concurrent.futures.Future[T], what: str) -> T:
        """Wait for the result of a future from `submit`."""
        with self._open():
            return self._loop.result(future, what, None)

    async def run(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a coroutine function in the background loop; awaitable in any loop."""
        with self._open():
            return await self._loop.run(partial(function, *args, **kwargs))

    # --- calls and subscriptions ------------------------------------------------------------------------------

    async def call(
        self,
        uri: str,
        procedure: Procedure,
        *args: Any,
        timeout_s: float | None = CALL_TIMEOUT_S,
        on_progress: Callable[[Any], object] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a procedure of the contract, with checked arguments and a typed result.

        It repeats the call while the callee is not registered and about to be: shortly after this
        connection was lost, because the callee may still be reconnecting, and shortly after the
        bridge of a kernel ended, because its host starts another one.

        Raises:
            InvalidArgument: an argument is invalid; nothing was sent.
            TimbrError: see `Connection.call`.
        """
        arguments = wire_arguments(procedure, args, kwargs)
        take = None if on_progress is None else lambda value: on_progress(procedure.progress(value))
        call = partial(self._call, timeout_s=timeout_s, on_progress=take)
        return procedure.result(await self.run(call, uri, *arguments))

    async def _call(self, uri: str, *arguments: Any, **options: Any) -> Any:
        deadline: float | None = None
        while True:
            try:
                return await self.connection.call(uri, *arguments, **options)
            except NoSuchProcedure:  # the call had no effect, so it can be repeated
                if not self.connection.recently_reconnected:
                    now = asyncio.get_running_loop().time()
                    if deadline is None and await self._bridge_will_return(uri):
                        deadline = now + BRIDGE_RETURN_S
                    if deadline is None or now >= deadline:
                        raise
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _bridge_will_return(self, uri: str) -> bool:
        """Return whether the procedure is that of a kernel without a bridge, which had one a short time ago.

        A bridge that answers has no such procedure. Without one, the node's list says how the kernel is.
        """
        kernel_id = kernel_of_uri(uri)
        if kernel_id is None:
            return False
        ping = kernel_uri(kernel_id, "ping")
        try:
            if uri != ping:
                await self.connection.call(ping)
                return False
        except NoSuchProcedure:
            pass
        info = await self.known_kernel(kernel_id)
        if info is None or info.state == "dead":
            return False
        return info.state != "offline" or time.time() - info.time < BRIDGE_RETURN_S

    async def known_kernel(self, kernel_id: str) -> KernelInfo | None:
        """Return what the node's list says of a kernel; None when it is not in it."""
        listed = await self.run(self.connection.call, NODE_URIS["list"])
        kernels: list[KernelInfo] = NODE["list"].result(listed)
        return next((kernel for kernel in kernels if kernel.kernel_id == kernel_id), None)

    async def subscribe(
        self, topic: str, callback: Callable[..., object], *, get_retained: bool = False
    ) -> Subscription:
        """Call ``callback(*args, **kwargs)`` in the callback thread for each event of a topic."""

        def handler(*args: Any, details: object, **kwargs: Any) -> None:
            self.callbacks.post(callback, *args, **kwargs)

        return await self.run(self.connection.subscribe, topic, handler, get_retained=get_retained)

    def unsubscribe_soon(self, subscription: Subscription) -> None:
        """Start to end a subscription. Any thread; never blocks. No effect after the client was closed."""
        if not self._released:
            with suppress(LoopClosed):
                self._loop.submit(subscription.unsubscribe)
