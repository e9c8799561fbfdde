"""Ask the router who is subscribed to our topics, whenever its meta events say that this may have changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from timbr_wamp.client.connection import Connection
from timbr_wamp.components.relay import SubscribedTopics
from timbr_wamp.errors import CallTimeout, TimbrError

logger = logging.getLogger(__name__)

#: A question that the router did not answer is asked again after this.
AGAIN_S = 1.0
ANSWER_S = 10.0

_META = "wamp.subscription."


class Counter(SubscribedTopics):
    """`SubscribedTopics` that counts. The loop's own thread only.

    Args:
        on_change: called when a topic became wanted or unwanted.
    """

    def __init__(self, connection: Connection, on_change: Callable[[], None]) -> None:
        super().__init__()
        self._connection, self._on_change = connection, on_change
        self._uncounted: set[str] = set()
        self._news = asyncio.Event()

    def follow(self, topics: Iterable[str]) -> None:
        """Begin with topics, and count them."""
        topics = list(topics)
        super().follow(topics)
        self._count(topics)

    def begin(self) -> None:
        """Count everything: there is a new wamp session."""
        self._count(self.topics)

    def clear(self) -> None:
        """Nothing is wanted: there is no wamp session."""
        changed = [self.counted(topic, {}) for topic in self.topics]
        if any(changed):
            self._on_change()

    async def run(self) -> None:
        """Follow the meta events and count, until cancelled."""
        events = {
            "on_create": lambda _, created: self._count(self.created(created["uri"], created["match"])),
            "on_subscribe": lambda _, number: self._count(self.changed(number)),
            "on_unsubscribe": lambda _, number: self._count(self.changed(number)),
            "on_delete": lambda _, number: self._count(self.changed(number)),
        }
        for name, handler in events.items():
            await self._hear(_META + name, _plain(handler))
        self.begin()  # what happened before these subscriptions
        while True:
            await self._news.wait()
            self._news.clear()
            topics, self._uncounted = self._uncounted, set()
            try:
                results = await asyncio.gather(*(self._ask(topic) for topic in topics))
            except TimbrError as error:
                if self._connection.joined:
                    logger.warning("subscribers were not counted: %s", error)
                await asyncio.sleep(AGAIN_S)
                self._count(topics)
                continue
            changed = [self.counted(topic, counts) for topic, counts in zip(topics, results, strict=True)]
            if any(changed):
                self._on_change()

    async def _hear(self, topic: str, handler: Callable[..., None]) -> None:
        while True:
            try:
                await self._connection.subscribe(topic, handler)
            except CallTimeout as error:
                logger.warning("%s", error)
            else:
                return

    def _count(self, topics: Iterable[str]) -> None:
        self._uncounted.update(topics)
        if self._uncounted:
            self._news.set()

    async def _ask(self, topic: str) -> dict[int, int]:
        await self._connection.wait_joined(ANSWER_S)
        numbers = await self._connection.call(_META + "match", topic, timeout_s=ANSWER_S) or []
        return {number: await self._subscribers(number) for number in numbers}

    async def _subscribers(self, number: int) -> int:
        try:
            return int(await self._connection.call(_META + "count_subscribers", number, timeout_s=ANSWER_S))
        except TimbrError as error:
            if "no_such_subscription" in str(error):
                return 0  # deleted since
            raise


def _plain(handler: Callable[..., None]) -> Callable[..., None]:
    def take(*args: Any, details: object, **kwargs: Any) -> None:
        handler(*args)

    return take
