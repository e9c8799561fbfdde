"""A subscription as synchronous code holds it."""

from __future__ import annotations

from timbr_wamp.client.connection import Subscription
from timbr_wamp.client.link import Link


class LiveSubscription:
    """One callback on one topic; survives reconnections. Any thread but the client's own."""

    def __init__(self, link: Link, subscription: Subscription) -> None:
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

    def __enter__(self) -> LiveSubscription:
        return self

    def __exit__(self, *exception: object) -> None:
        self.unsubscribe()
