"""Why a router was not reached, as a sentence: from errors of the system, of TLS and of the websocket's handshake."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from urllib.parse import urlsplit

from timbr_wamp.client.session import JoinRefused
from timbr_wamp.names import ROUTER_PATH, UNIX_SCHEME

#: The status of an answer that opens no websocket, in autobahn's text or in the answer's own first line.
_HTTP_STATUS = re.compile(r"(?:upgrade failed \[|^HTTP/\d\.\d )(\d{3})\b")
#: asyncio's text when none of a name's addresses accepted the connection, and each refused it.
_REFUSED = re.compile(rf"\[Errno {errno.ECONNREFUSED}\]")
_ERRNO = re.compile(r"\[Errno \d+\]")


def reason_of(error: Exception, url: str) -> str:
    """Return why a connection to ``url`` failed."""
    if isinstance(error, JoinRefused):
        return error.message or error.reason
    text = str(error) or type(error).__name__
    if not isinstance(error, OSError) or isinstance(error, TimeoutError):
        return text
    there = where(url)
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)) or _all_refused(text):
        return f"nothing listens on {there}"
    if isinstance(error, socket.gaierror):
        return f"the name {urlsplit(url).hostname} is not known ({error.strerror})"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {there} is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"{there} does not speak TLS ({error.reason or text}); without TLS the address begins with ws://"
    return f"{there}: {error.strerror or text}"


def wrong_address(message: str, url: str, *, may_come: bool) -> str | None:
    """Return what is wrong with an address that opened no websocket; None if that may end by itself.

    Args:
        message: what was said when it closed the connection.
        may_come: a router that is not there may come: behind a proxy that answers 5xx, for example.
    """
    found = _HTTP_STATUS.search(message)
    if found is None:
        if may_come:
            return None
        hint = "; if it uses TLS, the address begins with wss://" if url.startswith("ws:") else ""
        return f"what listens on {where(url)} opens no WAMP connection ({message}){hint}"
    status = int(found[1])
    if status >= 500 and may_come:
        return None
    right = urlsplit(url)._replace(path=ROUTER_PATH, query="", fragment="").geturl()
    if 200 <= status < 300:
        return f"this is the page's address (HTTP status {status}); the WAMP address is {right}"
    hint = "" if url == right else f"; a router's is {right}"
    return f"no router has this address: HTTP status {status}{hint}"


def where(url: str) -> str:
    """Return host and port of a URL, or the path of its socket.

    >>> where("ws://localhost/ws"), where("rs+unix:///run/router.sock")
    ('localhost:80', '/run/router.sock')
    """
    if url.startswith(UNIX_SCHEME):
        return url.removeprefix(UNIX_SCHEME)
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'wss' else 80)}"
    except ValueError:
        return url


def _all_refused(text: str) -> bool:
    return bool(_ERRNO.search(text)) and len(_ERRNO.findall(text)) == len(_REFUSED.findall(text))
