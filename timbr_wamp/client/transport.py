"""WAMP transports over asyncio: websocket and rawsocket on a unix socket, both with msgpack.

Thin subclasses of autobahn's protocols. They check a message's size after it was serialized and
before it is sent, so that nothing is serialized twice and an oversized message never reaches the
router, which would drop the whole connection for it. They also leave out what autobahn computes for
each message only to log it. Sessions: `timbr_wamp.client.session`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import txaio

txaio.use_asyncio()  # before autobahn.wamp.serializer, which otherwise refuses to be imported

from autobahn.asyncio.rawsocket import WampRawSocketClientFactory, WampRawSocketClientProtocol  # noqa: E402
from autobahn.asyncio.websocket import WampWebSocketClientFactory, WampWebSocketClientProtocol  # noqa: E402
from autobahn.wamp.exception import ProtocolError, SerializationError, TransportLost  # noqa: E402
from autobahn.wamp.message import Cancel, Error, Goodbye, Invocation, Yield  # noqa: E402
from autobahn.wamp.serializer import MsgPackSerializer  # noqa: E402

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES  # noqa: E402
from timbr_wamp.errors import InvalidArgument, PayloadTooLarge, to_wire  # noqa: E402

logger = logging.getLogger(__name__)

UNIX_SCHEME = "rs+unix://"
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})

#: A silent websocket peer is asked so often, and given up when it does not answer for so long.
PING_INTERVAL_S = 10.0
PING_TIMEOUT_S = 15.0

#: Answers and farewells that come too late: nobody is left who could hear them.
_LATE = (Yield, Error, Cancel, Goodbye)


class QuietLog:
    """autobahn's logger interface on our own: what it calls a warning is mostly our daily bread."""

    def _off(self, *args: object, **kwargs: object) -> None:
        """Say nothing."""

    trace = debug = info = _off

    def _note(self, text: str = "", **values: object) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("autobahn: %s", text.format(**values) if values else text)

    warn = warning = error = critical = failure = _note


QUIET = QuietLog()


class TransportUser(Protocol):
    """What the transports want of a session beside autobahn's own interface."""

    def transport_gone(self, reason: str) -> None:
        """Take note that the transport is closed, or never opened. Called once, last of all."""


def is_local(url: str) -> bool:
    """Tell whether ``url`` leads to this computer.

    >>> is_local("ws://127.0.0.1:8080/ws"), is_local("wss://example.org/ws")
    (True, False)
    """
    return url.startswith(UNIX_SCHEME) or urlsplit(url).hostname in LOOPBACK_HOSTS


async def open_transport(url: str, session: TransportUser) -> None:
    """Connect ``session`` to the router at ``url``; it is told when the transport is open.

    Raises:
        InvalidArgument: the URL has a scheme that we do not speak.
        OSError: nobody answers there.
    """
    loop = asyncio.get_running_loop()
    if url.startswith(UNIX_SCHEME):
        factory = WampRawSocketClientFactory(lambda: session, serializer=MsgPackSerializer())
        factory.protocol, factory.wamp_session = RawSocketTransport, session
        await loop.create_unix_connection(factory, url.removeprefix(UNIX_SCHEME))
        return
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise InvalidArgument("url", f"{url!r} is not ws://…, wss://… or {UNIX_SCHEME}/path")
    factory = WampWebSocketClientFactory(lambda: session, url=url, serializers=[MsgPackSerializer()], loop=loop)
    factory.protocol, factory.wamp_session = WebSocketTransport, session
    factory.setProtocolOptions(
        tcpNoDelay=True,
        openHandshakeTimeout=5.0,
        closeHandshakeTimeout=1.0,
        autoPingInterval=PING_INTERVAL_S,
        autoPingTimeout=PING_TIMEOUT_S,
        failByDrop=True,
    )
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    await loop.create_connection(factory, parts.hostname, port, ssl=True if secure else None)


class _Sender:
    """Serialize, check the size, send."""

    _serializer: Any

    isOpen: Callable[[], bool]
    _send_bytes: Callable[[bytes, bool], None]

    def send(self, message: Any) -> None:
        """Send one WAMP message.

        Raises:
            PayloadTooLarge: it is over the wire's limit; nothing was sent, the link stays. A result
                is replaced by this error, for the caller.
            SerializationError: it holds what msgpack cannot carry.
            TransportLost: the transport is closed.
        """
        if not self.isOpen():
            if isinstance(message, _LATE):
                return
            raise TransportLost
        payload, binary = self._serialized(message)
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            payload, binary = self._serialized(_instead_of(message, len(payload)))
        self._send_bytes(payload, binary)

    def _serialized(self, message: Any) -> tuple[bytes, bool]:
        try:
            payload, binary = self._serializer.serialize(message)
        except Exception as error:  # foreign objects' own code may run in there
            raise SerializationError(str(error)) from error
        return payload, binary


def _instead_of(message: Any, size_bytes: int) -> Any:
    """Return the error that goes out in place of a result that is too large."""
    error = PayloadTooLarge(size_bytes, PAYLOAD_LIMIT_BYTES)
    if not isinstance(message, (Yield, Error)) or getattr(message, "progress", False):
        raise error
    uri, args, kwargs = to_wire(error)
    return Error(Invocation.MESSAGE_TYPE, message.request, uri, args=args, kwargs=kwargs)


class WebSocketTransport(_Sender, WampWebSocketClientProtocol):  # type: ignore[misc]
    """WAMP over a websocket."""

    log = QUIET

    def _send_bytes(self, payload: bytes, binary: bool) -> None:
        self.sendMessage(payload, binary)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Hand a received message to the session."""
        try:
            for message in self._serializer.unserialize(payload, isBinary):
                self._session.onMessage(message)
        except Exception as error:  # a broken peer; autobahn fails the connection too
            unexpected = not isinstance(error, ProtocolError)
            logger.warning("closing the link: a message made no sense: %s", error, exc_info=unexpected)
            self._bailout(1002, "protocol error")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the session, also when the handshake was never finished."""
        super().connection_lost(exc)
        reason = str(exc or getattr(self, "wasNotCleanReason", None) or "closed by the router")
        self.factory.wamp_session.transport_gone(reason)


class RawSocketTransport(_Sender, WampRawSocketClientProtocol):  # type: ignore[misc]
    """WAMP over a rawsocket."""

    log = QUIET

    def _send_bytes(self, payload: bytes, binary: bool) -> None:
        self.sendString(payload)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the session, also when the handshake was never finished."""
        super().connection_lost(exc)
        self.factory.wamp_session.transport_gone(str(exc or "closed by the router"))
