"""What all faces of one client share: the connection, the loop it lives in, and contract calls.

A method of an async face is a coroutine that may run in any loop; what needs the connection hops
into the background loop here. A synchronous face runs the same coroutine in that loop and waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

import orjson

from timbr_wamp.client.background_loop import acquire_loop, release_loop
from timbr_wamp.client.callbacks import Callbacks
from timbr_wamp.client.connection import Connection, Subscription
from timbr_wamp.contract import Procedure, to_builtins
from timbr_wamp.errors import CalledFromLoop, InvalidArgument, LoopClosed, NoSuchProcedure

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CALL_TIMEOUT_S = 30.0
#: How long a call waits before it asks again for a callee that is on its way back.
SETTLING_PAUSE_S = 0.1

_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


class SharedConnection:
    """One client's connection in the background loop. Any thread, any loop."""

    def __init__(self, url: str, realm: str, token: str) -> None:
        self.connection = Connection(url, realm, token, on_join=self._on_join)
        self.callbacks = Callbacks()
        #: Called in the loop's thread after each (re)connection.
        self.join_listeners: set[Callable[[], None]] = set()
        #: Called once when the client closes; in any thread, after the connection is gone.
        self.endings: set[Callable[[], None]] = set()
        self._loop = acquire_loop()
        self._released = False

    def __repr__(self) -> str:
        return repr(self.connection)

    async def _on_join(self) -> None:
        for listener in tuple(self.join_listeners):
            listener()

    # --- life -------------------------------------------------------------------------------

    def open(self, timeout_s: float) -> None:
        """Connect; see `Connection.open`. Blocks."""
        try:
            self._loop.call(self.connection.open, timeout_s, timeout_s=timeout_s + 10.0)
        except BaseException:
            self._release()
            raise

    async def open_async(self, timeout_s: float) -> None:
        """Connect; see `Connection.open`."""
        try:
            await self._loop.run(self.connection.open, timeout_s)
        except BaseException:
            await asyncio.to_thread(self._release)
            raise

    def close(self) -> None:
        """Say goodbye and give the loop back. Idempotent. Blocks, some seconds at most."""
        self._loop.check()
        if not self._released:
            self._loop.call(self.connection.close, timeout_s=10.0)
            self._release()

    async def close_async(self) -> None:
        """Say goodbye and give the loop back. Idempotent."""
        if not self._released:
            await self._loop.run(self.connection.close)
            await asyncio.to_thread(self._release)  # it waits for threads

    def _release(self) -> None:
        if not self._released:
            self._released = True
            self.callbacks.close()
            for ending in tuple(self.endings):
                ending()
            release_loop(self._loop)

    # --- doors ------------------------------------------------------------------------------

    def wait(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an async face's coroutine function in the background loop and wait for it.

        Raises:
            CalledFromLoop, LoopClosed, ForkedClient: see `BackgroundLoop.call`.
        """
        return self._loop.call(partial(function, *args, **kwargs), timeout_s=None)

    def submit(
        self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Begin to run a coroutine function in the background loop."""
        return self._loop.submit(partial(function, *args, **kwargs))

    def check_caller(self, what: str) -> None:
        """Raise `CalledFromLoop` in the client's own thread, where one must not wait."""
        if self._loop.is_here():
            raise CalledFromLoop(what)

    def result(self, future: concurrent.futures.Future[T], what: str) -> T:
        """Wait for what `submit` returned."""
        return self._loop.result(future, what, None)

    async def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a coroutine function in the background loop; awaitable in any loop."""
        return await self._loop.run(partial(function, *args, **kwargs))

    # --- verbs ------------------------------------------------------------------------------

    async def call(
        self,
        uri: str,
        procedure: Procedure,
        *args: Any,
        timeout_s: float | None = CALL_TIMEOUT_S,
        on_progress: Callable[[Any], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a procedure of the contract: arguments are checked here first, the result is typed.

        Just after a reconnection it waits for a callee who lost the link too, and is not back yet.

        Raises:
            InvalidArgument: nothing was sent.
            TimbrError: see `Connection.call`.
        """
        words = _words(procedure, args, kwargs)
        take = None if on_progress is None else lambda value: on_progress(procedure.progress(value))
        call = partial(self._call, timeout_s=timeout_s, on_progress=take)
        try:
            result = await self.run(call, uri, *words)
        except InvalidArgument as error:
            if error.name != uri or error.remote_traceback:  # not msgpack's refusal
                raise
            result = await self.run(call, uri, *map(_json_form, words))
        return procedure.result(result)

    async def _call(self, uri: str, *words: Any, **options: Any) -> Any:
        while True:
            try:
                return await self.connection.call(uri, *words, **options)
            except NoSuchProcedure:  # so nothing was done, and the same call may be made again
                if not self.connection.settling:
                    raise
            await asyncio.sleep(SETTLING_PAUSE_S)

    async def subscribe(
        self, topic: str, callback: Callable[..., object], *, get_retained: bool = False
    ) -> Subscription:
        """Let ``callback(*args, **kwargs)`` run in the callbacks' thread for each event."""

        def handler(*args: Any, details: object, **kwargs: Any) -> None:
            self.callbacks.post(callback, *args, **kwargs)

        return await self.run(self.connection.subscribe, topic, handler, get_retained=get_retained)

    def leave(self, subscription: Subscription) -> None:
        """End a subscription soon. Any thread; never blocks; with a closed client it has ended already."""
        if not self._released:
            with suppress(LoopClosed):
                self._loop.submit(subscription.unsubscribe)


def _words(procedure: Procedure, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the checked arguments as they go over the wire: by position, without trailing defaults."""
    bound = procedure.bind(args, kwargs)
    words = []
    for parameter in procedure.parameters[: _last(procedure, bound) + 1]:
        if parameter.name not in bound:
            words.append(parameter.default)
        elif procedure.types[parameter.name] in (Any, list[Any]):
            words.append(bound[parameter.name])  # a message: as it is, without a walk through it
        else:
            words.append(to_builtins(bound[parameter.name]))
    return words


def _last(procedure: Procedure, bound: dict[str, Any]) -> int:
    """Return the position of the last argument that differs from its default; -1 when none does."""
    positions = [
        position
        for position, parameter in enumerate(procedure.parameters)
        if parameter.default is inspect.Parameter.empty
        or bound.get(parameter.name, parameter.default) is not parameter.default
    ]
    return positions[-1] if positions else -1


def _json_form(message: Any) -> Any:
    """Return a message that msgpack cannot carry in the form that JSON gives it (arrays, times …)."""
    try:
        return orjson.loads(orjson.dumps(message, option=_JSON_OPTIONS))
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"it cannot be sent: {error}; make it of dicts, lists, texts and numbers"
        raise InvalidArgument("message", problem) from None
