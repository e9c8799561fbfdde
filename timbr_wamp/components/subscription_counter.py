"""`SubscriptionCounter`: count the subscribers of the bridge's topics, whenever a meta event says that they changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from timbr_wamp.client.connection import Connection
from timbr_wamp.components.relay import SubscribedTopics
from timbr_wamp.errors import CallTimeout, TimbrError

logger = logging.getLogger(__name__)

#: Wait before a failed count is repeated.
RETRY_S = 1.0
ANSWER_TIMEOUT_S = 10.0

_META = "wamp.subscription."


class SubscriptionCounter(SubscribedTopics):
    """`SubscribedTopics` with counts from the router. The loop's own thread only.

    Args:
        on_change: called when a topic got its first or lost its last subscriber.
    """

    def __init__(self, connection: Connection, on_change: Callable[[], None]) -> None:
        super().__init__()
        self._connection, self._on_change = connection, on_change
        self._to_count: set[str] = set()
        self._count_requested = asyncio.Event()

    def add(self, topics: Iterable[str]) -> None:
        """Add topics and count their subscribers."""
        topics = list(topics)
        super().add(topics)
        self._count(topics)

    def count_all(self) -> None:
        """Count the subscribers of all topics, for a new wamp session."""
        self._count(self.topics)

    def clear(self) -> None:
        """Set all counts to zero, because there is no wamp session."""
        changed = [self.set_counts(topic, {}) for topic in self.topics]
        if any(changed):
            self._on_change()

    async def run(self) -> None:
        """Subscribe to the meta events and count subscribers, until cancelled."""
        events = {
            "on_create": lambda _, created: self._count(self.affected_by_creation(created["uri"], created["match"])),
            "on_subscribe": lambda _, number: self._count(self.affected_by_change(number)),
            "on_unsubscribe": lambda _, number: self._count(self.affected_by_change(number)),
            "on_delete": lambda _, number: self._count(self.affected_by_change(number)),
        }
        for name, handler in events.items():
            await self._subscribe(_META + name, _without_details(handler))
        self.count_all()  # for changes before these subscriptions
        while True:
            await self._count_requested.wait()
            self._count_requested.clear()
            topics, self._to_count = self._to_count, set()
            try:
                results = await asyncio.gather(*(self._ask(topic) for topic in topics))
            except TimbrError as error:
                if self._connection.joined:
                    logger.warning("counting subscribers failed: %s", error)
                await asyncio.sleep(RETRY_S)
                self._count(topics)
                continue
            changed = [self.set_counts(topic, counts) for topic, counts in zip(topics, results, strict=True)]
            if any(changed):
                self._on_change()

    async def _subscribe(self, topic: str, handler: Callable[..., None]) -> None:
        while True:
            try:
                await self._connection.subscribe(topic, handler)
            except CallTimeout as error:
                logger.warning("%s", error)
            else:
                return

    def _count(self, topics: Iterable[str]) -> None:
        self._to_count.update(topics)
        if self._to_count:
            self._count_requested.set()

    async def _ask(self, topic: str) -> dict[int, int]:
        await self._connection.wait_joined(ANSWER_TIMEOUT_S)
        numbers = await self._connection.call(_META + "match", topic, timeout_s=ANSWER_TIMEOUT_S) or []
        return {number: await self._subscribers(number) for number in numbers}

    async def _subscribers(self, number: int) -> int:
        try:
            return int(await self._connection.call(_META + "count_subscribers", number, timeout_s=ANSWER_TIMEOUT_S))
        except TimbrError as error:
            if "no_such_subscription" in str(error):
                return 0  # deleted meanwhile
            raise


def _without_details(handler: Callable[..., None]) -> Callable[..., None]:
    def take(*args: Any, details: object, **kwargs: Any) -> None:
        handler(*args)

    return take
