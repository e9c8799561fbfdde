"""`LiveSubscription`, the blocking handle of a subscription, and `run_with_progress`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.errors import LoopClosed

T = TypeVar("T")
P = TypeVar("P")


class LiveSubscription:
    """A callback on a topic. It is restored after reconnections. Any thread but the client's own.

    Calling the object unsubscribes, as for the result of `Machine.on`.
    """

    def __init__(self, shared: SharedConnection, subscription: Subscription) -> None:
        self._shared, self._subscription = shared, subscription

    def __repr__(self) -> str:
        return f"<subscription to {self.topic}>"

    @property
    def topic(self) -> str:
        """The topic's URI."""
        return self._subscription.topic

    def unsubscribe(self) -> None:
        """Unsubscribe. Idempotent. Events that are already queued may still be delivered."""
        with suppress(LoopClosed):  # the client is closed, and with it the subscription
            self._shared.wait(self._subscription.unsubscribe)

    def __call__(self) -> None:
        self.unsubscribe()

    def __enter__(self) -> LiveSubscription:
        return self

    def __exit__(self, *exception: object) -> None:
        self.unsubscribe()


def run_with_progress(
    shared: SharedConnection,
    function: Callable[[Callable[[P], None]], Awaitable[T]],
    draw: Callable[[P], object],
) -> T:
    """Run ``function(take)`` in the client's loop; draw each progress passed to ``take`` in this thread.

    Returns the function's result. When progress arrives faster than it is drawn, only the newest is
    drawn. An exception in this thread, such as Ctrl-C, cancels the function.

    Raises:
        CalledFromLoop: called from the client's own thread.
    """
    shared.check_caller("progress")
    newest: deque[P] = deque(maxlen=1)
    changed = threading.Event()

    def take(progress: P) -> None:
        newest.append(progress)
        changed.set()

    future = shared.submit(function, take)
    future.add_done_callback(lambda _: changed.set())
    try:
        while True:
            changed.wait()
            changed.clear()
            finished = future.done()
            if newest:
                draw(newest.pop())
            if finished:
                return shared.result(future, "progress")
    finally:
        future.cancel()
