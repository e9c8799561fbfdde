"""The control socket: answers the contract's machine procedures from a thread that runs no user code.

Requests and replies are single msgpack frames on a ROUTER socket:
``[id, procedure, args, kwargs, author]`` → ``[id, "progress", value]``*, then ``[id, "result",
value]`` or ``[id, "error", [uri, args, kwargs]]``. Procedures that the contract calls *pooled* run
in threads of their own, a bounded number at a time, so that ``status`` is answered meanwhile.

``__changes__(event_number, error_number, timeout_s)`` is a long poll for bridges.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from timbr_wamp import errors
from timbr_wamp.contract import MACHINE, to_builtins
from timbr_wamp.machine.serving.service import MachineService
from timbr_wamp.values import json_safe

if TYPE_CHECKING:
    from timbr_wamp.machine.machine import Machine

logger = logging.getLogger(__name__)

#: Calls that run users' code or wait, at the same time.
POOL_LIMIT = 8
#: Further places in that pool for `stop` alone: calls that hang must not keep anybody from stopping the machine.
POOL_RESERVE = 2
#: Of that pool those who only look may have so much, so that they cannot keep others from changing anything.
POOL_LOOKING = POOL_LIMIT // 2
#: A long poll waits at most so long, and errors alone are told at most this often.
CHANGES_LIMIT_S, ERRORS_EVERY_S = 2.0, 0.1
CHANGES = "__changes__"

#: How much of the pool may be taken when a call of that name comes; others: `POOL_LIMIT`.
_PLACES = {"stop": POOL_LIMIT + POOL_RESERVE, "progress": POOL_LOOKING}

_encode = msgspec.msgpack.Encoder(enc_hook=lambda value: to_builtins(value)).encode
_decode = msgspec.msgpack.Decoder(tuple[int, str, list[Any], dict[str, Any], str | None]).decode


@dataclass(slots=True)
class Poll:
    """A bridge that waits for changes."""

    identity: bytes
    request_id: int
    event_number: int
    error_number: int
    begun: float
    deadline: float


class ControlServer:
    """The control thread of one machine."""

    def __init__(self, machine: Machine, router: zmq.Socket[bytes]) -> None:
        self._machine, self._router = machine, router
        self._replies: deque[tuple[bytes, bytes]] = deque()
        self._polls: list[Poll] = []
        self._pooled = 0
        self._pool_lock = threading.Lock()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._closing = False
        self._end_listening = machine.event_log.listen(self._wake)
        self._thread = threading.Thread(target=self._run, name=f"timbr {machine.name} control", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more; calls under way get no reply. Idempotent, bounded."""
        self._end_listening()
        self._closing = True
        self._wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(2.0)
        self._waker.close()
        self._woken.close()

    def _wake(self) -> None:
        try:
            self._waker.send(b"x")
        except OSError:
            return  # full: it is awake already; closed: there is nobody to wake

    # --- its own thread ---

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        while not self._closing:
            try:
                for ready, _ in poller.poll(self._timeout_ms()):
                    if ready is self._router:
                        self._receive()
                    else:
                        self._woken.recv(4096)
                while self._replies:
                    self._router.send_multipart(self._replies.popleft())
                self._answer_polls()
            except zmq.ContextTerminated:
                return
            except Exception:  # one bad request must not end control
                logger.exception("control of machine %s", self._machine.name)
        self._router.close()

    def _timeout_ms(self) -> int:
        if not self._polls:
            return 1000
        left_s = min(poll.deadline for poll in self._polls) - time.monotonic()
        return max(int(min(left_s, ERRORS_EVERY_S) * 1000), 10)  # failures wake nobody: they are looked for

    def _receive(self) -> None:
        for _ in range(64):  # then replies get their turn
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                request_id, name, args, kwargs, author = _decode(frames[-1])
            except (msgspec.MsgspecError, IndexError):
                logger.warning("machine %s: an unreadable request was dropped", self._machine.name)
                continue
            self._handle(identity, request_id, name, args, kwargs, author)

    def _handle(
        self, identity: bytes, request_id: int, name: str, args: list[Any], kwargs: dict[str, Any], author: str | None
    ) -> None:
        if name == CHANGES:
            try:
                self._add_poll(identity, request_id, *msgspec.convert(args, tuple[int, int, float]))
            except msgspec.ValidationError as error:
                self._reply_error(identity, request_id, errors.InvalidArgument(CHANGES, str(error)))
            return
        procedure = MACHINE.get(name)
        if procedure is None:
            self._reply_error(identity, request_id, errors.NoSuchProcedure(name))
            return
        try:
            arguments = procedure.bind(args, kwargs)
        except errors.TimbrError as error:
            self._reply_error(identity, request_id, error)
            return
        call = (identity, request_id, name, arguments, author)
        if not procedure.pooled:
            self._perform(*call)
        elif self._enter_pool(_PLACES.get(name, POOL_LIMIT)):
            threading.Thread(
                target=self._perform_pooled, args=call, name=f"timbr {self._machine.name} {name}", daemon=True
            ).start()
        else:
            self._reply_error(identity, request_id, errors.ControlBusy(_PLACES.get(name, POOL_LIMIT)))

    def _add_poll(self, identity: bytes, request_id: int, event_number: int, error_number: int, wait_s: float) -> None:
        now = time.monotonic()
        self._polls = [poll for poll in self._polls if poll.identity != identity]
        deadline = now + min(max(wait_s, 0.0), CHANGES_LIMIT_S)
        self._polls.append(Poll(identity, request_id, event_number, error_number, now, deadline))

    def _answer_polls(self) -> None:
        now, log = time.monotonic(), self._machine.event_log
        for poll in list(self._polls):
            errors_now = self._machine.recorder.errors.number
            if (
                log.number <= poll.event_number
                and now < poll.deadline
                and (errors_now <= poll.error_number or now < poll.begun + ERRORS_EVERY_S)
            ):
                continue
            self._polls.remove(poll)
            event_number, events = log.after(poll.event_number)
            error_number, failures = self._machine.recorder.errors.after(poll.error_number)
            value = {
                "status": self._machine.status, "events": events, "errors": failures[-100:],
                "event_number": event_number, "error_number": error_number,
            }  # fmt: skip
            self._router.send_multipart((poll.identity, _encode([poll.request_id, "result", to_builtins(value)])))

    # --- performing ---

    def _enter_pool(self, limit: int) -> bool:
        with self._pool_lock:
            if self._pooled >= limit:
                return False
            self._pooled += 1
            return True

    def _perform_pooled(self, *call: Any) -> None:
        try:
            self._perform(*call)
        finally:
            with self._pool_lock:
                self._pooled -= 1
            self._wake()

    def _perform(
        self, identity: bytes, request_id: int, name: str, arguments: dict[str, Any], author: str | None
    ) -> None:
        service = MachineService(
            self._machine, author, lambda value: self._reply(identity, [request_id, "progress", to_builtins(value)])
        )
        try:
            reply = _encode([request_id, "result", to_builtins(getattr(service, name)(**arguments))])
        except BaseException as error:  # users' code runs below `slot_set` and others; who asked gets it, exits too
            self._reply_error(identity, request_id, error)
        else:
            self._send(identity, reply)

    def _reply(self, identity: bytes, reply: list[Any]) -> None:
        self._send(identity, _encode(reply))

    def _send(self, identity: bytes, reply: bytes) -> None:
        self._replies.append((identity, reply))
        if threading.current_thread() is not self._thread:
            self._wake()

    def _reply_error(self, identity: bytes, request_id: int, error: BaseException) -> None:
        uri, args, kwargs = errors.to_wire(error)
        self._reply(identity, [request_id, "error", json_safe([uri, args, kwargs])])
