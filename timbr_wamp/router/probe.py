"""Check whether a router answers: by HTTP, and by a wamp session with one call over its unix socket.

A minimal blocking client for the WAMP basic profile (rawsocket, JSON), so that starting a router needs
neither a client library nor an event loop. Formats: https://wamp-proto.org/wamp_latest_ietf.html
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

#: Rawsocket handshake: magic octet, maximum length 2^24 and serializer JSON, two reserved octets.
_HANDSHAKE = bytes((0x7F, 0xF1, 0, 0))
_HELLO, _WELCOME, _CHALLENGE, _AUTHENTICATE, _CALL, _RESULT = 1, 2, 4, 5, 48, 50
_PING = 1


def http_answers(host: str, port: int, *, tls: bool, timeout_s: float) -> bool:
    """Return whether the router serves the page."""
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # a local port; no secrets are sent
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def node_answers(path: Path, realm: str, token: str, *, timeout_s: float) -> bool:
    """Return whether a client can join over the unix socket and the node component answers a call."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            return _call(sock, realm, token, "io.timbr.kernel.list")
    except (OSError, EOFError):
        return False


def _call(sock: socket.socket, realm: str, token: str, procedure: str) -> bool:
    sock.sendall(_HANDSHAKE)
    if _exactly(sock, 4)[0] != 0x7F:
        return False
    name, _, secret = token.partition(".")
    details = {"roles": {"caller": {}}, "authid": name, "authmethods": ["ticket"]}
    _send(sock, [_HELLO, realm, details])
    if _receive(sock)[0] != _CHALLENGE:
        return False
    _send(sock, [_AUTHENTICATE, secret, {}])
    if _receive(sock)[0] != _WELCOME:
        return False
    _send(sock, [_CALL, 1, {}, procedure])
    return bool(_receive(sock)[0] == _RESULT)


def _send(sock: socket.socket, message: list[object]) -> None:
    content = json.dumps(message).encode()
    sock.sendall(struct.pack(">I", len(content)) + content)


def _receive(sock: socket.socket) -> list[Any]:
    while True:
        (head,) = struct.unpack(">I", _exactly(sock, 4))
        content = _exactly(sock, head & 0xFFFFFF)
        if head >> 24 != _PING:
            message: list[Any] = json.loads(content)
            return message
        sock.sendall(struct.pack(">I", 2 << 24 | len(content)) + content)


def _exactly(sock: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = sock.recv(count - len(content))
        if not part:
            raise EOFError("the router closed the connection")
        content += part
    return content
