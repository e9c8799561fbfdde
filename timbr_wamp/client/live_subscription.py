"""What synchronous code holds of something live: a subscription, and progress drawn by its own thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.contract import Progress

T = TypeVar("T")


class LiveSubscription:
    """One callback on one topic; survives reconnections. Any thread but the client's own.

    Called, it ends: as what `Machine.on` returns.
    """

    def __init__(self, link: SharedConnection, subscription: Subscription) -> None:
        self._link, self._subscription = link, subscription

    def __repr__(self) -> str:
        return f"<subscription to {self.topic}>"

    @property
    def topic(self) -> str:
        """The topic's URI."""
        return self._subscription.topic

    def unsubscribe(self) -> None:
        """Stop calling back. Idempotent. What waits already may still come."""
        self._link.wait(self._subscription.unsubscribe)

    def __call__(self) -> None:
        self.unsubscribe()

    def __enter__(self) -> LiveSubscription:
        return self

    def __exit__(self, *exception: object) -> None:
        self.unsubscribe()


def draw_while(
    link: SharedConnection,
    function: Callable[[Callable[[Progress], None]], Awaitable[T]],
    draw: Callable[[Progress], object],
) -> T:
    """Run ``function(take)`` in the client's loop and return its result; what it takes is drawn by this thread.

    Of what comes faster than it is drawn, only the newest is. Whatever ends this, Ctrl-C too, cancels
    the function.

    Raises:
        CalledFromLoop: called from the client's own thread.
    """
    link.check_caller("progress")
    newest: deque[Progress] = deque(maxlen=1)
    changed = threading.Event()

    def take(progress: Progress) -> None:
        newest.append(progress)
        changed.set()

    future = link.submit(function, take)
    future.add_done_callback(lambda _: changed.set())
    try:
        while True:
            changed.wait()
            changed.clear()
            over = future.done()
            if newest:
                draw(newest.pop())
            if over:
                return link.result(future, "progress")
    finally:
        future.cancel()
