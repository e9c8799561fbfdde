"""Connections before they have joined: how many there may be, and for how long. Of every transport.

The listening ports of Crossbar.io are built with a factory that counts connections
(`MaxConnectionsFactory`). Ours keeps a list of those without a wamp session. A full list drops its oldest
one, so that whoever holds many connections open keeps nobody else out.
"""

from __future__ import annotations

from typing import Any

from crossbar.common.twisted import endpoint
from timbr_replace import replace_class
from twisted.internet.interfaces import IDelayedCall
from twisted.protocols.policies import ProtocolWrapper

#: Connections that may be open without a wamp session.
MAX_WAITING = 128
#: Age at which a connection is dropped that only fetches the page.
PAGE_LIMIT_S = 60.0
#: Time for the handshake, HELLO and the authentication.
JOIN_LIMIT_S = 10.0


class AdmittedConnection(endpoint._CountedConnection):
    """A connection, under whatever it carries: TLS, HTTP, websocket or rawsocket."""

    factory: Admission
    _deadline: IDelayedCall | None = None

    def makeConnection(self, transport: Any) -> None:
        """Start the connection's time."""
        self.factory.wait(self)
        self.expire_in(PAGE_LIMIT_S)
        super().makeConnection(transport)

    def connectionLost(self, reason: Any) -> None:
        """Forget the connection."""
        self._cancel()
        self.factory.waiting.pop(self, None)
        super().connectionLost(reason)

    def expect_join(self) -> None:
        """Give the connection the time to join; it may use nothing else meanwhile."""
        self.factory.wait(self)
        self.expire_in(JOIN_LIMIT_S)

    def joined(self) -> None:
        """Lift the limits: a wamp session joined over the connection."""
        self._cancel()
        self.factory.waiting.pop(self, None)

    def expire_in(self, seconds: float) -> None:
        """Drop the connection after that time."""
        self._cancel()
        self._deadline = self.factory.reactor.callLater(seconds, self.drop)

    def drop(self) -> None:
        """End the connection at once, whatever is still to be sent."""
        if self.transport is not None:
            self.transport.abortConnection()

    def unsent_bytes(self) -> int:
        """Return how much waits to be sent, because the other side does not read as fast as it gets."""
        buffer: Any = self.transport  # twisted.internet.abstract.FileDescriptor, of the version that is pinned
        return len(buffer.dataBuffer) - buffer.offset + int(buffer._tempDataLen)

    def _cancel(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None


class Admission(endpoint.MaxConnectionsFactory):
    """The outermost factory of a listening port."""

    protocol = AdmittedConnection

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reactor = self._reactor
        #: Connections without a wamp session, the oldest first; a dict for its order.
        self.waiting: dict[AdmittedConnection, None] = {}

    def wait(self, connection: AdmittedConnection) -> None:
        """Put a connection at the end of those that have not joined; drop the oldest one beyond the limit."""
        self.waiting.pop(connection, None)
        self.waiting[connection] = None
        if len(self.waiting) > MAX_WAITING:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            oldest.drop()


def connection_of(protocol: Any) -> AdmittedConnection:
    """Return the connection under a protocol."""
    transport = protocol.transport
    while isinstance(transport, ProtocolWrapper):  # TLS
        transport = transport.transport
    connection = transport.protocol
    assert isinstance(connection, AdmittedConnection)
    return connection


def install() -> None:
    """Have Crossbar.io build listening ports with it; for those that start from now on."""
    replace_class(endpoint, "MaxConnectionsFactory", Admission)
