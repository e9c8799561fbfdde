"""Websocket and rawsocket of the router: what is checked of each message before it is decoded, and of each session.

What waits for a connection that does not read is bounded. Until its wamp session has joined, a connection may
send small flat messages only, and must join in time
(`timbr_admission`). JSON and MsgPack are the only serializers, without batches of messages.

Crossbar.io has no settings for this, so `install` puts our classes in the place of its own. They were
written for the version that ``requirements.txt`` pins.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from typing import Any

import msgpack
from autobahn.wamp import message as wamp
from autobahn.wamp.exception import InvalidUriError, ProtocolError
from autobahn.wamp.serializer import JsonSerializer, MsgPackSerializer
from crossbar.router import protocol
from crossbar.router.session import RouterSession, RouterSessionFactory
from crossbar.webservice import websocket
from crossbar.worker import transport
from timbr_access import ADMIN_CALLS, problem_of_admin_call
from timbr_admission import connection_of
from timbr_log import Complaints
from timbr_nesting import TooDeep, check_json, check_msgpack
from timbr_replace import replace_class
from txaio import make_logger


def _limited_logger() -> Any:
    """Return a logger for what connections do, which whoever connects can make write."""
    logger = make_logger()
    for name in ("warn", "error", "critical", "failure"):
        setattr(logger, name, complaints.limited(getattr(logger, name)))
    return logger


complaints = Complaints()
log = _limited_logger()

#: Largest message and deepest nesting before a wamp session has joined. A HELLO has about 1 KB and 5 levels.
UNJOINED_MAX_BYTES = 8 * 1024
UNJOINED_MAX_DEPTH = 8
#: Deepest nesting of any message. Values have at most 100 levels (``timbr_wamp.values``).
MAX_DEPTH = 128
#: Time in which a session that was expelled is to take its GOODBYE.
EXPELLED_LIMIT_S = 1.0
#: Most bytes that wait for a connection that does not read; then it is dropped. Crossbar.io would keep all.
UNSENT_LIMIT_BYTES = 64 * 1024 * 1024
#: Frames of a traceback in the log.
TRACEBACK_FRAMES = 8

INVALID_ARGUMENT = "io.timbr.error.invalid_argument"


# --- before a message is decoded -------------------------------------------------------------


class _Checked:
    """Mixin of serializers. Each connection has a copy, with its own `max_depth`."""

    max_depth = UNJOINED_MAX_DEPTH


class CheckedJson(_Checked, JsonSerializer):
    """JSON of limited nesting."""

    _HEAD = re.compile(rb"\s*\[\s*(\d{1,3})\s*,\s*(\d{1,16})\s*[,\]]")

    def unserialize(self, payload: bytes, isBinary: bool | None = None) -> list[Any]:
        """Return the messages; the nesting is checked first."""
        check_json(payload, self.max_depth)
        return super().unserialize(payload, isBinary)

    def head(self, payload: bytes) -> tuple[int, int] | None:
        """Return the type and the request id of a message that is not decoded."""
        found = self._HEAD.match(payload)
        return (int(found[1]), int(found[2])) if found else None


class CheckedMsgPack(_Checked, MsgPackSerializer):
    """MsgPack of limited nesting."""

    def unserialize(self, payload: bytes, isBinary: bool | None = None) -> list[Any]:
        """Return the messages; the nesting is checked first."""
        check_msgpack(payload, self.max_depth)
        return super().unserialize(payload, isBinary)

    def head(self, payload: bytes) -> tuple[int, int] | None:
        """Return the type and the request id of a message that is not decoded."""
        unpacker = msgpack.Unpacker()
        unpacker.feed(payload[:32])
        try:
            if unpacker.read_array_header() < 2:
                return None
            kind, request = unpacker.unpack(), unpacker.unpack()
        except (ValueError, msgpack.UnpackException):
            return None
        return (kind, request) if type(kind) is type(request) is int else None


#: Requests that the router answers, by message type.
_REQUESTS = frozenset(
    kind.MESSAGE_TYPE
    for kind in (wamp.Call, wamp.Publish, wamp.Subscribe, wamp.Unsubscribe, wamp.Register, wamp.Unregister)
)


#: Requests that the router asks the authorizer about.
_AUTHORIZED = (wamp.Call, wamp.Publish, wamp.Subscribe, wamp.Register)


# --- transports ------------------------------------------------------------------------------


class _Guarded:
    """Mixin of both transports."""

    log = log
    _session: Any
    _serializer: Any

    def connectionMade(self) -> None:
        """Start the time in which a session must join."""
        super().connectionMade()  # type: ignore[misc]
        connection_of(self).expect_join()

    def send(self, message: Any) -> None:
        """Send a message; drop the connection when too much waits for it. Who reads all joins again and refills."""
        super().send(message)  # type: ignore[misc]
        connection = connection_of(self)
        if (unsent := connection.unsent_bytes()) > UNSENT_LIMIT_BYTES:
            log.warn("dropped a connection that does not read: {unsent} bytes waited for it", unsent=unsent)
            connection.drop()

    def session_joined(self) -> None:
        """Lift the limits of connections without a session."""
        self._serializer.max_depth = MAX_DEPTH
        self._limit_size(joined=True)
        connection_of(self).joined()

    def session_left(self) -> None:
        """Set the limits of connections without a session: this one may join again."""
        self._serializer.max_depth = UNJOINED_MAX_DEPTH
        self._limit_size(joined=False)
        connection_of(self).expect_join()

    def _limit_size(self, *, joined: bool) -> None:
        raise NotImplementedError

    def _received(self, payload: bytes, binary: bool | None) -> None:
        """Check, decode and handle a message; a connection that breaks the protocol is dropped."""
        try:
            for message in self._serializer.unserialize(payload, binary):
                self._session.onMessage(message)
        except TooDeep as error:
            if not self._answered(payload, error):
                self._refuse(error)
        except (ProtocolError, InvalidUriError) as error:
            self._refuse(error)
        except Exception as error:
            if complaints.is_new(error):
                log.error("{text}", text="".join(traceback.format_exception(error, limit=-TRACEBACK_FRAMES)))
            self._refuse(error)

    def _answered(self, payload: bytes, error: TooDeep) -> bool:
        """Answer a request that was not decoded with an error; return False if the message is no request."""
        head = self._serializer.head(payload)
        if head is None or self._session._session_id is None:
            return False
        kind, request = head
        problem = {"args": ["arguments", str(error)], "kwargs": {"message": f"arguments: {error}", "traceback": ""}}
        if kind in _REQUESTS:
            self.send(wamp.Error(kind, request, INVALID_ARGUMENT, **problem))  # type: ignore[attr-defined]
            return True
        if kind == wamp.Yield.MESSAGE_TYPE:  # for the caller, who waits for this result
            self._session.onMessage(wamp.Error(wamp.Invocation.MESSAGE_TYPE, request, INVALID_ARGUMENT, **problem))
            return True
        return False

    def _refuse(self, error: Exception) -> None:
        log.warn("dropped a connection after an invalid message: {error}", error=str(error)[:300])
        connection_of(self).drop()


class GuardedWebSocket(_Guarded, protocol.WampWebSocketServerProtocol):
    """A websocket."""

    # autobahn takes these from the factory unless the class has them
    maxMessagePayloadSize = UNJOINED_MAX_BYTES
    maxFramePayloadSize = UNJOINED_MAX_BYTES

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Handle a message."""
        self._received(payload, isBinary)

    def _limit_size(self, *, joined: bool) -> None:
        factory = self.factory
        self.maxMessagePayloadSize = factory.maxMessagePayloadSize if joined else UNJOINED_MAX_BYTES
        self.maxFramePayloadSize = factory.maxFramePayloadSize if joined else UNJOINED_MAX_BYTES


class GuardedRawSocket(_Guarded, protocol.WampRawSocketServerProtocol):
    """A rawsocket."""

    def _on_handshake_complete(self) -> None:
        self._limit_size(joined=False)  # the handshake negotiates the size for joined sessions
        super()._on_handshake_complete()

    def stringReceived(self, payload: bytes) -> None:
        """Handle a message."""
        self._received(payload, None)

    def lengthLimitExceeded(self, length: int) -> None:
        """Drop the connection. The method of the base class raises, which writes a traceback to the log."""
        self._refuse(ValueError(f"{length} bytes are more than {self.MAX_LENGTH}"))

    def _limit_size(self, *, joined: bool) -> None:
        self.MAX_LENGTH = self._max_message_size if joined else UNJOINED_MAX_BYTES


class GuardedWebSocketFactory(protocol.WampWebSocketServerFactory):
    """Makes the websockets of a path."""

    protocol = GuardedWebSocket

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._serializers = {each.SERIALIZER_ID: each for each in (CheckedMsgPack(), CheckedJson())}
        self.protocols = [f"wamp.2.{name}" for name in self._serializers]


class GuardedRawSocketFactory(protocol.WampRawSocketServerFactory):
    """Makes the rawsockets of a port."""

    protocol = GuardedRawSocket

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._serializers = {each.RAWSOCKET_SERIALIZER_ID: each for each in (CheckedMsgPack(), CheckedJson())}


# --- sessions --------------------------------------------------------------------------------


class GuardedSession(RouterSession):
    """The router's side of a wamp session."""

    log = log
    _expelled = False
    #: Whether a caller of a role may be told that nobody answers a procedure; the node component sets it.
    may_be_missing: Callable[[str, str], bool] = staticmethod(lambda role, procedure: False)

    def onJoin(self, details: Any) -> None:
        """Lift the limits of the transport."""
        sessions[details.session] = self
        super().onJoin(details)
        if not self._expelled:
            self._transport.session_joined()

    def onLeave(self, details: Any) -> None:
        """Set the limits of the transport, if it is still there."""
        sessions.pop(self._session_id or self._previous_session_id, None)
        super().onLeave(details)
        if self._transport is not None:
            self._transport.session_left()

    def onMessage(self, message: Any) -> None:
        """Handle a message, unless the session was expelled; none speaks for another session.

        ``forward_for`` is for links between routers, of which there are none. Requests with it are refused by
        the authorizer (`timbr_node`); the other messages lose it here.
        """
        if self._expelled:
            return
        if getattr(message, "forward_for", None) is not None and not isinstance(message, _AUTHORIZED):
            message.forward_for = None
        answer = self._answer_of(message) if isinstance(message, wamp.Call) and message.forward_for is None else None
        if answer is not None:
            self._transport.send(answer)
        else:
            super().onMessage(message)

    def _answer_of(self, call: Any) -> Any:
        """Return the error of a call that nobody would answer as the caller needs it; None for others."""
        uri, kind = call.procedure, wamp.Call.MESSAGE_TYPE
        if self._is_missing(uri):
            text = f"no callee registered for procedure <{uri}>"
            return wamp.Error(kind, call.request, "wamp.error.no_such_procedure", [text])
        if self._authrole == "admin" and ADMIN_CALLS.fullmatch(uri):
            problem = problem_of_admin_call(uri, call.args, call.kwargs)
            if problem is not None:
                texts = {"message": f"arguments: {problem}", "traceback": ""}
                return wamp.Error(kind, call.request, INVALID_ARGUMENT, ["arguments", problem], texts)
        return None

    def _is_missing(self, procedure: str) -> bool:
        """Return whether nobody answers a procedure, and the caller may be told so.

        The authorizer refuses whatever the contract does not have, which reads as if another role could call it.
        """
        if self._session_id is None or not self.may_be_missing(self._authrole, procedure):
            return False
        registrations = self._router._dealer._registration_map
        return registrations.best_matching_observation(procedure) is None

    def expel(self, reason: str, message: str) -> None:
        """Send GOODBYE and close the transport. Nothing comes in or goes out any more, whatever the peer does."""
        if self._expelled or self._transport is None:
            return
        self._expelled = True
        transport_ = self._transport
        if not self._goodbye_sent:
            self.leave(reason, message)
        transport_.send = _not_sent
        connection_of(transport_).expire_in(EXPELLED_LIMIT_S)
        transport_.transport.loseConnection()


#: The joined sessions of this worker by session id.
sessions: dict[int, GuardedSession] = {}


def _not_sent(message: Any) -> None:
    """Take the place of ``send`` of a transport that is closing."""


def install() -> None:
    """Have Crossbar.io make transports and sessions with these classes; for transports that start from now on."""
    replace_class(websocket, "WampWebSocketServerFactory", GuardedWebSocketFactory)
    replace_class(transport, "WampRawSocketServerFactory", GuardedRawSocketFactory)
    replace_class(RouterSessionFactory, "session", GuardedSession)
