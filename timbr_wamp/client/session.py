"""`SafeSession`: one wamp session on which no call hangs; and the conversion of WAMP's errors.

autobahn's own sessions never end the calls in progress when the transport is lost; `SafeSession`
fails them at once. A session ends with its transport. `timbr_wamp.client.connection` creates a new
session for each reconnection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from autobahn.asyncio.wamp import ApplicationSession
from autobahn.wamp.exception import ApplicationError, InvalidUriError, SerializationError, TransportLost
from autobahn.wamp.message import Cancel, Error, Event, Interrupt, Invocation, Unregistered
from autobahn.wamp.types import ComponentConfig

from timbr_wamp.client.tasks import first_of
from timbr_wamp.client.transport import QUIET
from timbr_wamp.contract.lookup import near_procedure
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
    class_name,
    from_wire,
    message_of,
)

logger = logging.getLogger(__name__)

#: Calls wait before they are sent while more bytes than this are in the transport's buffer.
SEND_BUFFER_BYTES = 4 * 1024 * 1024
#: The reason of a session without a token, when the router answers.
NO_TOKEN = "no token"
#: Reasons for a refused join that a retry cannot change. ``authentication_failed`` is not among them,
#: because Crossbar uses it when its authenticator itself failed.
FATAL_REFUSALS = frozenset(
    {
        "wamp.error.not_authorized",
        "wamp.error.no_auth_method",
        "wamp.error.no_matching_auth_method",
        "wamp.error.no_such_principal",
    }
)


class JoinRefused(Exception):
    """The router refused the session, or the transport was lost before the session joined."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message


#: Message of the `asyncio.CancelledError` in an endpoint whose caller cancelled the call. When the caller has gone, or
#: the router's time limit is over, the router says `Cancel.KILLNOWAIT`, and there is no message.
CANCELLED_BY_CALLER = "the caller cancelled the call"


class SessionLost(Exception):
    """The error of calls in progress when their session ends."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _ClosedTransport:
    """Replaces a lost transport: it is false, and ignores late answers.

    autobahn sends results and errors from a callback that fails if the transport is None.
    """

    def __bool__(self) -> bool:
        return False

    def isOpen(self) -> bool:
        return False

    def send(self, message: object) -> None:
        """Ignore the message."""


CLOSED_TRANSPORT = _ClosedTransport()


class SafeSession(ApplicationSession):  # type: ignore[misc]
    """One wamp session. Loop's own thread only.

    Args:
        credentials: name and secret of the token; without them it only finds out whether a router answers, and then
            fails with `JoinRefused` of `NO_TOKEN`.
    """

    def __init__(self, realm: str, credentials: tuple[str, str] | None) -> None:
        super().__init__(ComponentConfig(realm))
        self.log = QUIET
        self._credentials = credentials
        #: The transport was open: what is at the address speaks the transport's protocol.
        self.opened = False
        loop = asyncio.get_running_loop()
        #: Done when the session has joined; fails with `JoinRefused`.
        self.joined: asyncio.Future[None] = loop.create_future()
        #: Done when the transport is closed; the result is the reason.
        self.ended: asyncio.Future[str] = loop.create_future()
        self._reason: str | None = None
        #: Called with the id of a registration that the router gave to another session, or took away.
        self.on_revoked: Callable[[int], None] = lambda registration: None
        self._writable = asyncio.Event()
        self._writable.set()

    def onConnect(self) -> None:
        """Send HELLO."""
        self.opened = True
        if (socket_transport := self._socket_transport()) is not None:
            socket_transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        if self._credentials is not None:
            self.join(self.config.realm, authmethods=["ticket"], authid=self._credentials[0])
        elif not self.joined.done():
            self.joined.set_exception(JoinRefused(NO_TOKEN, ""))

    def onChallenge(self, challenge: Any) -> str:
        """Return the token's secret."""
        if challenge.method != "ticket":
            raise RuntimeError(f"the router asks for {challenge.method} authentication; only tickets are supported")
        assert self._credentials is not None  # or nothing was joined
        return self._credentials[1]

    def onJoin(self, details: object) -> None:
        """Handle WELCOME."""
        if not self.joined.done():
            self.joined.set_result(None)

    def onMessage(self, msg: Any) -> None:
        """Handle a message. One of a subscription or registration that this session has not costs only itself."""
        if isinstance(msg, Event) and msg.subscription not in self._subscriptions:
            logger.debug("ignored an event of the unknown subscription %s", msg.subscription)
        elif isinstance(msg, Invocation) and msg.registration not in self._registrations:
            logger.debug("refused an invocation of the unknown registration %s", msg.registration)
            text = f"this callee has no registration {msg.registration}"
            self._transport.send(Error(Invocation.MESSAGE_TYPE, msg.request, "wamp.error.no_such_procedure", [text]))
        elif isinstance(msg, Interrupt) and msg.mode != Cancel.KILLNOWAIT and msg.request in self._invocations:
            self._invocations[msg.request].on_reply.cancel(CANCELLED_BY_CALLER)
        elif isinstance(msg, Unregistered) and msg.request == 0:  # not an answer: the router revoked it
            self._registrations.pop(msg.registration, None)
            self.on_revoked(msg.registration)
        else:
            super().onMessage(msg)

    def onLeave(self, details: Any) -> None:
        """Fail the calls in progress and close the transport."""
        self._reason = str(details.reason)
        if not self.joined.done():
            self.joined.set_exception(JoinRefused(self._reason, str(details.message or "")))
        self._errback_outstanding_requests(SessionLost(self._reason))
        if self._transport:
            try:
                self.disconnect()
            except TransportLost:
                self._reason = self._reason or "closed"

    def onDisconnect(self) -> None:
        """Fail the calls in progress."""
        self._errback_outstanding_requests(SessionLost(self._reason or "the connection dropped"))

    def onClose(self, wasClean: bool) -> None:
        """Replace the transport, which is closed."""
        super().onClose(wasClean)
        self._transport = CLOSED_TRANSPORT

    def onUserError(self, fail: Any, msg: str) -> None:
        """Log the exception of an endpoint or handler for debugging. The caller gets it as an error message."""
        QUIET.warn(msg.replace("{", "{{").replace("}", "}}"))

    def transport_gone(self, reason: str) -> None:
        """Handle a transport that was closed or did not open."""
        if not self.joined.done():
            self.joined.set_exception(JoinRefused("wamp.close.transport_lost", reason))
        if self.joined.done() and not self.joined.cancelled():
            self.joined.exception()  # mark as retrieved, in case nobody awaits it
        if not self.ended.done():
            self.ended.set_result(self._reason or reason)

    @property
    def writable(self) -> bool:
        """The buffer of what is sent has room."""
        return self._writable.is_set()

    def set_writable(self, writable: bool) -> None:
        """Handle that the buffer of what is sent became full, or has room again."""
        if writable:
            self._writable.set()
        else:
            self._writable.clear()

    async def wait_writable(self) -> None:
        """Wait until the buffer of what is sent has room, or the session has ended."""
        while not self._writable.is_set() and not self.ended.done():
            await first_of(self._writable.wait(), self.ended)

    def buffered_bytes(self) -> int:
        """Return the size of the transport's write buffer."""
        socket_transport = self._socket_transport()
        return int(socket_transport.get_write_buffer_size()) if socket_transport is not None else 0

    def _socket_transport(self) -> Any:
        return getattr(self._transport, "transport", None)

    async def end_invocations(self, timeout_s: float) -> None:
        """Cancel endpoints that still run, because their results can no longer be sent."""
        running = [invocation.on_reply for invocation in self._invocations.values()]
        for future in running:
            future.cancel()
        if running:
            await asyncio.wait(running, timeout=timeout_s)

    def drop(self) -> None:
        """Close the transport without GOODBYE."""
        socket_transport = self._socket_transport()
        if socket_transport is not None:
            socket_transport.abort()


def split_token(token: str) -> tuple[str, str]:
    """Return the name and secret of a token.

    Raises:
        InvalidToken: it does not have the form ``<name>.<secret>``.
    """
    name, dot, secret = token.strip().partition(".")
    if not dot:
        raise InvalidToken("it contains no dot")
    if not name or not secret:
        raise InvalidToken("its name or secret is empty")
    return name, secret


def to_timbr_error(action: str, uri: str, error: Exception) -> TimbrError:
    """Return a `TimbrError` for an exception of autobahn, raised by ``action`` (such as ``call``) on ``uri``."""
    if isinstance(error, TimbrError):
        return error
    if isinstance(error, SessionLost):
        return ConnectionLost(f"{action} {uri}", error.reason)
    if isinstance(error, TransportLost):
        return ConnectionLost(f"{action} {uri}", "the connection is closed")
    if isinstance(error, ApplicationError):
        return _from_application_error(action, uri, error)
    if isinstance(error, SerializationError):
        return InvalidArgument(uri, f"it contains a value that cannot be sent: {error}")
    if isinstance(error, InvalidUriError):
        return InvalidName(uri, "a WAMP URI")
    return RemoteError(class_name(error), message_of(error))


def _from_application_error(action: str, uri: str, error: Any) -> TimbrError:
    name = str(error.error)
    text = "; ".join(map(str, error.args)) or name
    if name.startswith(ERROR_PREFIX):
        return from_wire(name, error.args, error.kwargs)
    if name in ("wamp.error.not_authorized", "wamp.error.authorization_failed"):
        return NotAuthorized(action, uri)
    if name == "wamp.error.no_such_procedure":
        return NoSuchProcedure(uri, near_procedure(uri))
    if name == "wamp.error.canceled" or name.startswith("wamp.close."):
        return ConnectionLost(f"{action} {uri}", text)
    if name == "wamp.error.invalid_uri":
        return InvalidName(uri, "a WAMP URI")
    return RemoteError(name, text)
