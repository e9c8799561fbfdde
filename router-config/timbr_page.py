"""HTTP of the router: the page, for requests that name this router, with headers that confine it."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from crossbar.common.twisted.web import Site
from crossbar.worker import transport
from timbr_replace import replace_class
from twisted.web import server

server.version = b"timbr"  # else the Server header of static pages contains Twisted's version

#: The page has the same policy in index.html, for where something else serves it, except for what only a header can
#: say: who may frame it, and the websocket by name, for browsers in which 'self' is no websocket. Both hold.
POLICY = (
    "default-src 'self'; connect-src 'self' {websocket}; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    b"X-Frame-Options": b"DENY",
    b"X-Content-Type-Options": b"nosniff",
    b"Referrer-Policy": b"no-referrer",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
}
WEBSOCKET_PATH = b"/ws"
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")

#: Names of this computer, from the node's configuration.
_names: frozenset[str] = frozenset()


def is_ours(host: str) -> bool:
    """Return whether a Host header names this router: a name of the configuration, or a numeric address.

    A page of another site can give its own name this router's address, but cannot be called by the address.
    """
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found["name"]
    if name in _names:
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class PageRequest(server.Request):
    """A request without a body, from a page or program that names this router."""

    _refused = False

    def gotLength(self, length: int | None) -> None:
        """Refuse a body before any of it is kept: nothing here takes one."""
        super().gotLength(0)
        if length != 0:
            self._refused = True
            self.channel.transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n")
            self.channel.loseConnection()

    def handleContentChunk(self, data: bytes) -> None:
        """Keep nothing of a body."""

    def setHeader(self, name: bytes, value: bytes | str) -> None:
        """Set a header of the answer, except those with which Crossbar.io lets other sites read it."""
        if not name.lower().startswith(b"access-control-"):
            super().setHeader(name, value)

    def process(self) -> None:
        """Answer, unless the request is refused."""
        if self._refused:
            return
        for name, value in HEADERS.items():
            self.setHeader(name, value)
        host = (self.getHeader(b"host") or b"").decode("latin-1")
        # a program that is no browser may use any name: it sends no Origin, and a browser cannot leave that out
        is_program = self.path == WEBSOCKET_PATH and self.getHeader(b"origin") is None
        if not is_ours(host):
            if not is_program:
                self._misdirected()
                return
            host = ""
        scheme = "wss" if self.isSecure() else "ws"
        policy = POLICY.format(websocket=f"{scheme}://{host}" if host else "")
        self.setHeader(b"Content-Security-Policy", policy.encode("latin-1"))
        super().process()

    def _misdirected(self) -> None:
        content = b"This router does not have the name in the address; use its address in numbers, or localhost.\n"
        self.setResponseCode(421, b"Misdirected Request")
        self.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        self.setHeader(b"Content-Length", str(len(content)).encode())
        self.write(content)
        self.finish()


class PageSite(Site):
    """The site of a web transport."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.requestFactory: Callable[..., server.Request] = PageRequest

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 only over TLS: the websocket needs it, and HTTP/2 has limits of its own."""
        return [b"http/1.1"]


def install(names: list[str]) -> None:
    """Have Crossbar.io serve web transports with it; for those that start from now on."""
    global _names
    _names = frozenset(name.lower() for name in names)
    replace_class(transport, "Site", PageSite)
