"""Connections to the router byte by byte, for what no client sends."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgpack

LIMIT_S = 30.0
#: Types of WAMP messages.
WELCOME, ABORT, CHALLENGE, GOODBYE = 2, 3, 4, 6
#: Serializers by name: the opcode of a websocket's frame, and the number in a rawsocket's handshake.
OPCODES = {"json": 1, "msgpack": 2}
NUMBERS = {"json": 1, "msgpack": 2}
HELLO = [1, "timbr", {"roles": {"caller": {}}, "authid": "admin", "authmethods": ["ticket"]}]


def packed(message: Any, serializer: str) -> bytes:
    """Return a message as bytes."""
    return json.dumps(message).encode() if serializer == "json" else bytes(msgpack.packb(message))


def nested(levels: int, serializer: str) -> bytes:
    """Return arrays in arrays, one value."""
    return b"[" * levels + b"]" * levels if serializer == "json" else b"\x91" * (levels - 1) + b"\x90"


@dataclass
class RawConnection:
    """An open transport; `framed` makes its frames."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    kind: str
    serializer: str

    def framed(self, content: bytes, size: int | None = None) -> bytes:
        """Return a frame; ``size`` claims another size than the content has."""
        count = len(content) if size is None else size
        if self.kind == "rawsocket":
            return struct.pack(">I", count) + content
        if count < 126:
            length = bytes((0x80 | count,))
        elif count < 2**16:
            length = b"\xfe" + struct.pack(">H", count)
        else:
            length = b"\xff" + struct.pack(">Q", count)
        return bytes((0x80 | OPCODES[self.serializer],)) + length + bytes(4) + content  # masked with zeros

    def send(self, content: bytes, size: int | None = None) -> None:
        """Send a frame, without waiting."""
        self.writer.write(self.framed(content, size))

    async def message(self) -> list[Any]:
        """Return the router's next message."""
        content = await asyncio.wait_for(self._frame(), LIMIT_S)
        return list(json.loads(content) if self.serializer == "json" else msgpack.unpackb(content))

    async def _frame(self) -> bytes:
        read = self.reader.readexactly
        if self.kind == "rawsocket":
            return await read(int.from_bytes(await read(4)))
        while True:
            opcode, size = await read(2)
            if size in (126, 127):
                size = int.from_bytes(await read(2 if size == 126 else 8))
            content = await read(size)
            if opcode & 15 == OPCODES[self.serializer]:  # else a ping
                return content

    async def until_ended(self) -> list[list[Any]]:
        """Return the router's messages until it ends the connection."""
        found = []
        try:
            while True:
                found.append(await self.message())
        except (ConnectionError, asyncio.IncompleteReadError):
            return found

    async def is_ended(self, limit_s: float = LIMIT_S) -> bool:
        """Read until the router ends the connection; return False if it does not in time."""
        try:
            await asyncio.wait_for(self.reader.read(), limit_s)
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def raw_connection(router: Any, kind: str, serializer: str) -> AsyncIterator[RawConnection]:
    """A transport after its handshake, without a wamp session: ``websocket`` or ``rawsocket``."""
    if kind == "rawsocket":
        reader, writer = await asyncio.open_unix_connection(router.unix_url.removeprefix("rs+unix://"))
        writer.write(bytes((0x7F, 0xF0 | NUMBERS[serializer], 0, 0)))
        answer = await asyncio.wait_for(reader.readexactly(4), LIMIT_S)
        assert answer[0] == 0x7F
    else:
        status, reader, writer = await upgrade(router, f"wamp.2.{serializer}")
        assert status == 101
    try:
        yield RawConnection(reader, writer, kind, serializer)
    finally:
        writer.transport.abort()


async def joined(connection: RawConnection, token: str, roles: dict[str, Any] | None = None) -> int:
    """Join over a transport; return the id of the wamp session."""
    name, _, secret = token.partition(".")
    for message, kind in (
        ([1, "timbr", {"roles": roles or {"caller": {}}, "authid": name, "authmethods": ["ticket"]}], CHALLENGE),
        ([5, secret, {}], WELCOME),
    ):
        connection.send(packed(message, connection.serializer))
        answer = await connection.message()
        assert answer[0] == kind
    return int(answer[1])


async def upgrade(router: Any, protocol: str, **headers: str) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a websocket; return the status of the answer."""
    where = urlsplit(router.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    lines = {
        "Host": where.netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": protocol,
        **headers,
    }
    request = [f"GET {where.path} HTTP/1.1", *(f"{key}: {value}" for key, value in lines.items()), "", ""]
    writer.write("\r\n".join(request).encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT_S)
    return int(head.split()[1]), reader, writer
