"""Plain autobahn sessions, without anything of ours between the test and the router."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import txaio

txaio.use_asyncio()  # before anything else of autobahn

from autobahn.asyncio.wamp import ApplicationSession  # noqa: E402
from autobahn.asyncio.websocket import WampWebSocketClientFactory  # noqa: E402
from autobahn.wamp.serializer import JsonSerializer  # noqa: E402
from autobahn.wamp.types import ComponentConfig  # noqa: E402

TEST_LIMIT_S = 90.0
JOIN_LIMIT_S = 10.0


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in a loop of its own, with a limit."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), TEST_LIMIT_S))

    return run


class Refused(Exception):
    """The router did not let the session join; ``args`` are reason and message."""


class PlainSession(ApplicationSession):
    """Joins with a token; tells when it joined and why it left."""

    def __init__(self, realm: str, token: str | None) -> None:
        super().__init__(ComponentConfig(realm=realm))
        loop = asyncio.get_running_loop()
        self.token = token
        self.joined: asyncio.Future[None] = loop.create_future()
        self.left: asyncio.Future[str] = loop.create_future()
        self.events: asyncio.Queue[Any] = asyncio.Queue()

    def onConnect(self) -> None:
        if self.token is None:
            self.join(self.config.realm)
        else:
            self.join(self.config.realm, ["ticket"], self.token.partition(".")[0])

    def onChallenge(self, challenge: Any) -> str:
        assert self.token is not None
        return self.token.partition(".")[2]

    def onJoin(self, details: Any) -> None:
        self.details = details
        self.joined.set_result(None)

    def onLeave(self, details: Any) -> None:
        if not self.joined.done():
            self.joined.set_exception(Refused(details.reason, details.message))
        if not self.left.done():
            self.left.set_result(details.reason)
        self.disconnect()

    def onDisconnect(self) -> None:
        if not self.joined.done():
            self.joined.set_exception(Refused("transport", "closed before joining"))
        if not self.left.done():
            self.left.set_result("transport lost")

    async def listen(self, topic: str, **options: Any) -> None:
        """Subscribe; events go to `events` as ``(args, kwargs)``."""
        from autobahn.wamp.types import SubscribeOptions

        def put(*args: Any, **kwargs: Any) -> None:
            self.events.put_nowait((args, kwargs))

        await self.subscribe(put, topic, options=SubscribeOptions(**options))

    async def event(self) -> Any:
        """Return the next event's first argument."""
        args, _ = await asyncio.wait_for(self.events.get(), JOIN_LIMIT_S)
        return args[0]

    def cut(self) -> None:
        """Drop the TCP connection without a goodbye, as a killed process does."""
        self._transport.transport.abort()


@asynccontextmanager
async def session(
    url: str,
    token: str | None,
    *,
    realm: str = "timbr",
    origin: str | None = None,
    kind: type[PlainSession] = PlainSession,
    serializer: Any = None,
) -> AsyncIterator[PlainSession]:
    """A joined session, with JSON unless another ``serializer`` is given.

    Raises:
        Refused: it may not join.
    """
    made = kind(realm, token)
    factory = WampWebSocketClientFactory(
        lambda: made, url=url, serializers=[serializer or JsonSerializer()], origin=origin
    )
    where = urlsplit(url)
    transport, protocol = await asyncio.get_running_loop().create_connection(factory, where.hostname, where.port)
    try:
        await asyncio.wait((made.joined, protocol.is_closed), timeout=JOIN_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        if not made.joined.done():
            raise Refused("transport", "the websocket was not opened")
        made.joined.result()
        yield made
    finally:
        if not made.left.done() and made.is_attached():
            made.leave()
            await asyncio.wait_for(made.left, JOIN_LIMIT_S)
        transport.abort()
        await asyncio.sleep(0)  # let the loop close the socket


def kernel_info(kernel_id: str) -> dict[str, Any]:
    """A kernel's state as its bridge announces it."""
    return {"kernel_id": kernel_id, "name": "test", "host": kernel_id[:-13], "state": "idle", "machines": []}
