"""One wamp session, from transport to goodbye, on which no call ever hangs.

autobahn's own sessions leave calls under way waiting for ever when the transport is lost;
`SafeSession` fails them at once. It lives as long as its transport: who wants to come back makes a
new one (`timbr_wamp.client.connection`). Also here: WAMP's errors as ours.
"""

from __future__ import annotations

import asyncio
from typing import Any

from autobahn.asyncio.wamp import ApplicationSession
from autobahn.wamp.exception import ApplicationError, InvalidUriError, SerializationError, TransportLost
from autobahn.wamp.types import ComponentConfig

from timbr_wamp.client.transport import QUIET
from timbr_wamp.errors import (
    ERROR_PREFIX,
    ConnectionLost,
    InvalidArgument,
    InvalidName,
    InvalidToken,
    NoSuchProcedure,
    NotAuthorized,
    RemoteError,
    TimbrError,
    from_wire,
)

#: A router that refuses to let us join for one of these would do so again. Not among them:
#: ``authentication_failed``, which says that the router itself could not come to an end with it.
FATAL_REFUSALS = frozenset(
    {
        "wamp.error.not_authorized",
        "wamp.error.no_auth_method",
        "wamp.error.no_matching_auth_method",
        "wamp.error.no_such_principal",
    }
)


class JoinRefused(Exception):
    """The router did not let the session join, or the transport was lost before it could."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message


class LinkLost(Exception):
    """What calls under way get when their session ends."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Gone:
    """Stands for a lost transport: false, and takes late answers without a word.

    autobahn sends a result or error from a callback that does not expect the transport to be None.
    """

    def __bool__(self) -> bool:
        return False

    def isOpen(self) -> bool:
        return False

    def send(self, message: object) -> None:
        """Drop it: nobody is left who could hear it."""


GONE = _Gone()


class SafeSession(ApplicationSession):  # type: ignore[misc]
    """One wamp session. Loop's own thread only."""

    def __init__(self, realm: str, name: str, secret: str) -> None:
        super().__init__(ComponentConfig(realm))
        self.log = QUIET
        self._name, self._secret = name, secret
        loop = asyncio.get_running_loop()
        #: Done when the router welcomed us; fails with `JoinRefused`.
        self.joined: asyncio.Future[None] = loop.create_future()
        #: Done, with the reason, when the transport is closed.
        self.ended: asyncio.Future[str] = loop.create_future()
        self._reason: str | None = None

    def onConnect(self) -> None:
        """Ask to join."""
        self.join(self.config.realm, authmethods=["ticket"], authid=self._name)

    def onChallenge(self, challenge: Any) -> str:
        """Answer with the secret."""
        if challenge.method != "ticket":
            raise RuntimeError(f"the router asks for {challenge.method}, we know tickets only")
        return self._secret

    def onJoin(self, details: object) -> None:
        """Take note that the router welcomed us."""
        if not self.joined.done():
            self.joined.set_result(None)

    def onLeave(self, details: Any) -> None:
        """Fail what is under way, and close the transport."""
        self._reason = str(details.reason)
        if not self.joined.done():
            self.joined.set_exception(JoinRefused(self._reason, str(details.message or "")))
        self._errback_outstanding_requests(LinkLost(self._reason))
        if self._transport:
            try:
                self.disconnect()
            except TransportLost:
                self._reason = self._reason or "closed"

    def onDisconnect(self) -> None:
        """Fail what is still under way."""
        self._errback_outstanding_requests(LinkLost(self._reason or "the link dropped"))

    def onClose(self, wasClean: bool) -> None:
        """Take note that the transport is gone."""
        super().onClose(wasClean)
        self._transport = GONE

    def onUserError(self, fail: Any, msg: str) -> None:
        """Note what an endpoint or handler raised; whoever called is told by other ways."""
        QUIET.warn(msg.replace("{", "{{").replace("}", "}}"))

    def transport_gone(self, reason: str) -> None:
        """Take note that the transport is closed, or never opened."""
        if not self.joined.done():
            self.joined.set_exception(JoinRefused("wamp.close.transport_lost", reason))
        if self.joined.done() and not self.joined.cancelled():
            self.joined.exception()  # seen: nobody may be waiting any more
        if not self.ended.done():
            self.ended.set_result(self._reason or reason)

    def buffered_bytes(self) -> int:
        """Return how much waits in the transport's write buffer."""
        socket_transport = getattr(self._transport, "transport", None)
        return int(socket_transport.get_write_buffer_size()) if socket_transport is not None else 0

    async def end_invocations(self, timeout_s: float) -> None:
        """Cancel what still runs for callers: nobody can hear their answer any more."""
        running = [invocation.on_reply for invocation in self._invocations.values()]
        for future in running:
            future.cancel()
        if running:
            await asyncio.wait(running, timeout=timeout_s)

    def drop(self) -> None:
        """Close the transport without a goodbye."""
        socket_transport = getattr(self._transport, "transport", None)
        if socket_transport is not None:
            socket_transport.abort()


def split_token(token: str) -> tuple[str, str]:
    """Return name and secret of a token.

    Raises:
        InvalidToken: it does not read ``<name>.<secret>``.
    """
    name, dot, secret = token.strip().partition(".")
    if not dot:
        raise InvalidToken("there is no dot in it")
    if not name or not secret:
        raise InvalidToken("name or secret is empty")
    return name, secret


def our_error(action: str, uri: str, error: Exception) -> TimbrError:
    """Return the error of our tree for what autobahn raised when we wanted to ``action`` at ``uri``."""
    if isinstance(error, TimbrError):
        return error
    if isinstance(error, LinkLost):
        return ConnectionLost(f"{action} {uri}", error.reason)
    if isinstance(error, TransportLost):
        return ConnectionLost(f"{action} {uri}", "the link is closed")
    if isinstance(error, ApplicationError):
        return _from_application_error(action, uri, error)
    if isinstance(error, SerializationError):
        return InvalidArgument(uri, f"it holds what cannot be sent: {error}")
    if isinstance(error, InvalidUriError):
        return InvalidName(uri, "a WAMP URI")
    return RemoteError(type(error).__name__, str(error))


def _from_application_error(action: str, uri: str, error: Any) -> TimbrError:
    name = str(error.error)
    text = "; ".join(map(str, error.args)) or name
    if name.startswith(ERROR_PREFIX):
        return from_wire(name, error.args, error.kwargs)
    if name in ("wamp.error.not_authorized", "wamp.error.authorization_failed"):
        return NotAuthorized(action, uri)
    if name == "wamp.error.no_such_procedure":
        return NoSuchProcedure(uri)
    if name == "wamp.error.canceled" or name.startswith("wamp.close."):
        return ConnectionLost(f"{action} {uri}", text)
    if name == "wamp.error.invalid_uri":
        return InvalidName(uri, "a WAMP URI")
    return RemoteError(name, text)
