"""WAMP transports over asyncio: websocket and rawsocket on a unix socket, both with msgpack.

Thin subclasses of autobahn's protocols. They check the size of a message between serializing and
sending it, because the router drops the whole connection for an oversized message. They also skip
the values that autobahn computes for each message only to log them.

What another session sends never ends a connection: maps may have any keys, an invocation that cannot be
understood is answered with an error, and a result that msgpack cannot carry is replaced by its JSON form.
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
from autobahn.wamp.message import Cancel, Error, Event, Goodbye, Invocation, Yield  # noqa: E402
from autobahn.wamp.serializer import MsgPackObjectSerializer, MsgPackSerializer  # noqa: E402

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES  # noqa: E402
from timbr_wamp.errors import InvalidArgument, PayloadTooLarge, message_of, to_wire  # noqa: E402
from timbr_wamp.names import LOOPBACK_HOSTS, UNIX_SCHEME  # noqa: E402
from timbr_wamp.values import json_safe  # noqa: E402

logger = logging.getLogger(__name__)

#: Interval and timeout of websocket pings.
PING_INTERVAL_S = 10.0
PING_TIMEOUT_S = 15.0

#: Messages that may be sent after the transport was closed; they are ignored.
_IGNORED_WHEN_CLOSED = (Yield, Error, Cancel, Goodbye)


class QuietLog:
    """Passes autobahn's log messages to the module's logger at level debug; its warnings are mostly expected events."""

    def _off(self, *args: object, **kwargs: object) -> None:
        """Do nothing."""

    trace = debug = info = _off

    def _note(self, text: str = "", **values: object) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("autobahn: %s", text.format(**values) if values else text)

    warn = warning = error = critical = failure = _note


QUIET = QuietLog()


class _LenientMsgPack(MsgPackObjectSerializer):  # type: ignore[misc]
    """MsgPack whose maps may have any keys, and whose texts may be something else than UTF-8."""

    def unserialize(self, payload: bytes) -> list[Any]:
        """Return the one message in ``payload``."""
        unpack = self.MSGPACK_MODULE.unpackb
        try:
            return [unpack(payload, raw=False, strict_map_key=False)]
        except (UnicodeDecodeError, TypeError):  # not UTF-8; a key that is a list or a map
            options = {"unicode_errors": "surrogateescape", "object_pairs_hook": _map}
            return [unpack(payload, raw=False, strict_map_key=False, **options)]


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    if isinstance(key, list):
        return tuple(_key(item) for item in key)
    return str(key) if isinstance(key, dict) else key


class LenientSerializer(MsgPackSerializer):  # type: ignore[misc]
    """The serializer of all our sessions."""

    def __init__(self) -> None:
        super().__init__()
        self._serializer = _LenientMsgPack()


class TransportUser(Protocol):
    """What the transports need from a session in addition to autobahn's interface."""

    def set_writable(self, writable: bool) -> None:
        """Handle that the buffer of what is sent became full, or has room again."""

    def transport_gone(self, reason: str) -> None:
        """Handle a transport that was closed or did not open. Called once, after everything else."""


def is_local(url: str) -> bool:
    """Return whether ``url`` refers to this computer.

    >>> is_local("ws://127.0.0.1:8080/ws"), is_local("wss://example.org/ws")
    (True, False)
    """
    return url.startswith(UNIX_SCHEME) or urlsplit(url).hostname in LOOPBACK_HOSTS


async def open_transport(url: str, session: TransportUser) -> None:
    """Connect ``session`` to the router at ``url``; the transport calls its ``onConnect`` when it is open.

    Raises:
        InvalidArgument: the URL is malformed or has an unsupported scheme.
        OSError: the connection failed.
    """
    loop = asyncio.get_running_loop()
    # autobahn's own runners name their loop here, for the whole process and for good: it may be closed by
    # now, or be another thread's. Without it, each session's timers and futures are its own loop's.
    txaio.config.loop = None
    if url.startswith(UNIX_SCHEME):
        factory = WampRawSocketClientFactory(lambda: session, serializer=LenientSerializer())
        factory.protocol, factory.wamp_session = RawSocketTransport, session
        await loop.create_unix_connection(factory, url.removeprefix(UNIX_SCHEME))
        return
    host, port, secure = _address(url)
    try:
        factory = WampWebSocketClientFactory(lambda: session, url=url, serializers=[LenientSerializer()], loop=loop)
    except Exception as error:  # autobahn raises a bare Exception for a URL that it cannot use
        raise InvalidArgument("url", f"{url!r}: {error}") from None
    factory.protocol, factory.wamp_session = WebSocketTransport, session
    factory.setProtocolOptions(
        tcpNoDelay=True,
        openHandshakeTimeout=5.0,
        closeHandshakeTimeout=1.0,
        autoPingInterval=PING_INTERVAL_S,
        autoPingTimeout=PING_TIMEOUT_S,
        failByDrop=True,
    )
    await loop.create_connection(factory, host, port, ssl=True if secure else None)


def _address(url: str) -> tuple[str, int, bool]:
    """Return host and port of a websocket's URL, and whether it uses TLS."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # or the resolver raises it
    except ValueError as error:
        raise InvalidArgument("url", f"{url!r}: {error}") from None
    if parts.scheme not in ("ws", "wss") or not host:
        raise InvalidArgument("url", f"{url!r} is not ws://…, wss://… or {UNIX_SCHEME}/path")
    secure = parts.scheme == "wss"
    return host, port or (443 if secure else 80), secure


class _Sender:
    """Mixin that serializes messages, checks their size and sends them, and hands over what is received."""

    _serializer: Any
    _session: Any

    factory: Any
    isOpen: Callable[[], bool]
    _send_bytes: Callable[[bytes, bool], None]

    def send(self, message: Any) -> None:
        """Send one WAMP message.

        Raises:
            PayloadTooLarge: the message is too large; nothing was sent, and the connection stays open.
                A result or error is replaced by this error instead, which is sent to the caller.
            SerializationError: the message contains a value that msgpack cannot encode. In a result or an
                error it is replaced by its JSON form instead.
            TransportLost: the transport is closed.
        """
        if not self.isOpen():
            if isinstance(message, _IGNORED_WHEN_CLOSED):
                return
            raise TransportLost
        try:
            payload, binary = self._serialized(message)
        except SerializationError:
            if not isinstance(message, (Yield, Error)):
                raise
            payload, binary = self._serialized(_in_json_form(message))
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            payload, binary = self._serialized(_too_large_error(message, len(payload)))
        self._send_bytes(payload, binary)

    def pause_writing(self) -> None:
        """Tell the session that the buffer of what is sent is full. Called by asyncio."""
        self.factory.wamp_session.set_writable(False)

    def resume_writing(self) -> None:
        """Tell the session that the buffer has room again. Called by asyncio."""
        self.factory.wamp_session.set_writable(True)

    def _serialized(self, message: Any) -> tuple[bytes, bool]:
        try:
            payload, binary = self._serializer.serialize(message)
        except Exception as error:  # msgpack may run code of users' objects
            raise SerializationError(str(error)) from error
        return payload, binary

    def _receive(self, payload: bytes, binary: bool | None) -> None:
        """Hand a received message to the session.

        Raises:
            ProtocolError: the router broke the protocol.
        """
        for message in self._serializer.unserialize(payload, binary):
            if not isinstance(message, (Invocation, Event)):
                self._session.onMessage(message)
                continue
            try:
                self._session.onMessage(message)
            except Exception as error:  # another session sent it: its arguments, or a registration that just ended
                self._answer_unusable(message, error)

    def _answer_unusable(self, message: Any, error: Exception) -> None:
        logger.warning("a message of another session could not be handled: %s", error)
        if isinstance(message, Invocation):
            uri, args, kwargs = to_wire(
                InvalidArgument("arguments", f"the call cannot be handled: {message_of(error)}")
            )
            self.send(Error(Invocation.MESSAGE_TYPE, message.request, uri, args=args, kwargs=kwargs))


def _in_json_form(message: Any) -> Any:
    """Return a result or error in which everything that JSON does not have is replaced."""
    args, kwargs = json_safe(list(message.args or ())), json_safe(message.kwargs or {})
    if isinstance(message, Error):
        return Error(message.request_type, message.request, message.error, args=args, kwargs=kwargs)
    return Yield(message.request, args=args, kwargs=kwargs, progress=message.progress)


def _too_large_error(message: Any, size_bytes: int) -> Any:
    """Return the error message that is sent in place of a result that is too large."""
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
            self._receive(payload, isBinary)
        except Exception as error:  # a faulty peer; autobahn closes the connection in this case too
            unexpected = not isinstance(error, ProtocolError)
            logger.warning("closing the connection after an invalid message: %s", error, exc_info=unexpected)
            self._bailout(1002, "protocol error")

    def connection_lost(self, exc: Exception | None) -> None:
        """Inform the session, also when the handshake was not finished."""
        super().connection_lost(exc)
        reason = str(exc or getattr(self, "wasNotCleanReason", None) or "closed by the router")
        if reason.startswith("Unsupported HTTP version"):
            reason = str(self.http_status_line)  # a web server of the old protocol: what it said
        self.factory.wamp_session.transport_gone(reason)


class RawSocketTransport(_Sender, WampRawSocketClientProtocol):  # type: ignore[misc]
    """WAMP over a rawsocket."""

    log = QUIET

    def _send_bytes(self, payload: bytes, binary: bool) -> None:
        self.sendString(payload)

    def stringReceived(self, payload: bytes) -> None:
        """Hand a received message to the session."""
        try:
            self._receive(payload, None)
        except Exception as error:  # a faulty peer; autobahn closes the connection in this case too
            unexpected = not isinstance(error, ProtocolError)
            logger.warning("closing the connection after an invalid message: %s", error, exc_info=unexpected)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Inform the session, also when the handshake was not finished."""
        super().connection_lost(exc)
        self.factory.wamp_session.transport_gone(str(exc or "closed by the router"))
