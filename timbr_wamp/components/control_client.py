"""Call a machine's procedures through its control socket.

Requests and replies are one msgpack frame each. The request ``[id, name, args, kwargs, author]`` is
answered with any number of ``[id, "progress", value]`` and then ``[id, "result", value]`` or
``[id, "error", [uri, args, kwargs]]``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import zmq

from timbr_wamp.components.zmq_reader import Reader
from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES
from timbr_wamp.errors import (
    CallTimeout,
    ControlBusy,
    InvalidArgument,
    NoMachine,
    PayloadTooLarge,
    TimbrError,
    from_wire,
    message_of,
)
from timbr_wamp.places import Places
from timbr_wamp.runtime import MachineFile

logger = logging.getLogger(__name__)

#: Most requests in progress, shared among their authors; further ones are refused.
PENDING_LIMIT = 1_000
#: Most replies that are handled before other tasks of the loop run.
TURN_REPLIES = 100

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class ControlClient:
    """A client of one machine's control socket. The loop's own thread only."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], file: MachineFile, kernel_id: str) -> None:
        self._name, self._kernel_id = file.name, kernel_id
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        encrypt(self._socket, file)
        self._socket.connect(file.control)
        self._numbers = itertools.count(1)
        self._places = Places(PENDING_LIMIT)
        self._pending: dict[int, tuple[asyncio.Future[Any], Callable[[Any], None] | None]] = {}
        #: Why it is closed; None while it is open.
        self._closed: TimbrError | None = None
        self._reader = Reader(self._socket, self._drain)

    async def request(
        self,
        name: str,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        *,
        author: str | None = None,
        timeout_s: float | None,
        on_progress: Callable[[Any], None] | None = None,
    ) -> Any:
        """Call a procedure and return its result as plain values. ``timeout_s=None`` means no timeout.

        When the awaiting task is cancelled, or the time is over, the call is cancelled in the machine too.

        Raises:
            NoMachine, KernelDead: the machine is gone, as `close` was told.
            ControlBusy: too many requests are in progress, of all or of this author.
            InvalidArgument: an argument has no form in msgpack: a number beyond 64 bits, a lone surrogate.
            PayloadTooLarge: the arguments are larger than `PAYLOAD_LIMIT_BYTES`.
            CallTimeout: no answer in time.
            TimbrError: the error that the machine raised.
        """
        if self._closed is not None:
            raise again(self._closed)
        number = next(self._numbers)
        frame = _encoded(name, [number, name, args, kwargs or {}, author])
        if not self._places.enter(author):
            raise ControlBusy(self._places.held(author))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = future, on_progress
        try:
            self._socket.send(frame, zmq.NOBLOCK)
            self._reader.wake()
            async with asyncio.timeout(timeout_s):
                return await future
        except zmq.Again:
            raise ControlBusy(PENDING_LIMIT) from None
        except TimeoutError:
            raise CallTimeout(f"{self._name}.{name}", timeout_s or 0.0) from None
        finally:
            self._places.leave(author)
            del self._pending[number]
            if not future.done() or future.cancelled():  # nobody waits any more: the machine need not go on
                self._cancel(number)

    def send(self, name: str, args: Sequence[object]) -> None:
        """Send a request that is not answered; it is dropped if it cannot be sent now."""
        if self._closed is None:
            with contextlib.suppress(zmq.Again):
                self._socket.send(_encode([next(self._numbers), name, args, {}, None]), zmq.NOBLOCK)
            self._reader.wake()

    def _cancel(self, number: int) -> None:
        if self._closed is None:
            with contextlib.suppress(zmq.Again):
                self._socket.send(_encode([number, "__cancel__", [], {}, None]), zmq.NOBLOCK)
            self._reader.wake()

    def close(self, reason: TimbrError | None = None) -> None:
        """Disconnect; requests in progress and later ones fail with ``reason``, by default `NoMachine`. Idempotent."""
        self._closed = self._closed or reason or NoMachine(self._kernel_id, self._name)
        self._reader.close()
        for future, _ in self._pending.values():
            if not future.done():
                future.set_exception(again(self._closed))
                future.exception()  # mark as retrieved, in case nobody awaits it

    def _drain(self) -> bool:
        for _ in range(TURN_REPLIES):
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return False
            try:
                number, kind, value = _decode(frame)
            except (msgspec.DecodeError, ValueError):
                logger.warning("machine %s of kernel %s sent an invalid reply", self._name, self._kernel_id)
                continue
            future, on_progress = self._pending.get(number, (None, None))
            if future is None or future.done():
                continue  # the caller has given up
            if kind == "progress":
                if on_progress is not None:
                    self._progress(future, on_progress, value)
            elif kind == "result":
                future.set_result(value)
            else:
                future.set_exception(from_wire(*value))
        return True

    def _progress(self, future: asyncio.Future[Any], on_progress: Callable[[Any], None], value: object) -> None:
        try:
            on_progress(value)
        except Exception as error:  # the connection to the caller is gone, or the value is too large
            future.set_exception(error)


def _encoded(name: str, request: list[Any]) -> bytes:
    try:
        frame = _encode(request)
    except Exception as error:  # msgspec's and Python's own, by what the value is
        raise InvalidArgument(name, f"it has an argument that cannot be sent: {message_of(error)}") from None
    if len(frame) > PAYLOAD_LIMIT_BYTES:
        raise PayloadTooLarge(len(frame), PAYLOAD_LIMIT_BYTES)
    return frame


def again(error: TimbrError) -> TimbrError:
    """Return an equal error, for each who gets it: a raised error keeps its own traceback."""
    return type(error)(*error.args)


def encrypt(socket: zmq.Socket[bytes], file: MachineFile) -> None:
    """Set the CurveZMQ keys of a machine with tcp endpoints on a socket."""
    if file.curve_server_key and file.curve_client_public and file.curve_client_secret:
        socket.setsockopt(zmq.CURVE_SERVERKEY, file.curve_server_key.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, file.curve_client_public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, file.curve_client_secret.encode())
