"""The control socket: answers the contract's machine procedures from a thread that runs no foreign code.

Requests and replies are single msgpack frames on a ROUTER socket:
``[id, procedure, args, kwargs, author]`` → ``[id, "progress", value]``*, then ``[id, "result",
value]`` or ``[id, "error", [uri, args, kwargs]]``. Every request that can be read is answered: with an
error if it fails or its result cannot be encoded.

Procedures that only read are answered in the control thread. Those that the contract calls *pooled* may run foreign
code (slots, hooks, handlers, a journal) or wait: each runs in a new thread, a bounded number at a time. With hooks or a
journal, all calls of `put` run in one further thread, in order.

Two more requests are for bridges: ``__changes__(event_number, error_number, timeout_s)`` is a long poll;
``__received__(topic, sent_bytes)`` acknowledges batches and is not answered, see `Listener.acknowledge`.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import zmq

from timbr_wamp import errors
from timbr_wamp.contract import MACHINE, to_builtins
from timbr_wamp.errors import class_name, message_of
from timbr_wamp.machine.serving.service import MachineService
from timbr_wamp.machine.tracebacks import traceback_text
from timbr_wamp.values import json_safe

if TYPE_CHECKING:
    from timbr_wamp.machine.machine import Machine

logger = logging.getLogger(__name__)

#: Calls that run users' code or wait, at once.
POOL_LIMIT = 8
#: Further places in that pool for the verbs that start and stop a machine: calls that hang must not block them.
POOL_RESERVE = 4
#: Places in that pool for calls that only read, so that they cannot block changes.
POOL_LOOKING = POOL_LIMIT // 2
#: Longest wait of a long poll, and least interval between reports of errors alone, seconds.
CHANGES_LIMIT_S, ERRORS_EVERY_S = 2.0, 0.1
#: Most failures in one report.
CHANGES_ROWS = 100
CHANGES, RECEIVED = "__changes__", "__received__"

#: Calls under way at which a call of that name is refused; others: `POOL_LIMIT`.
_PLACES = {
    **dict.fromkeys(("start", "pause", "resume", "stop"), POOL_LIMIT + POOL_RESERVE),
    **dict.fromkeys(("progress", "records", "record"), POOL_LOOKING),
}
#: Calls of `put` that may wait while a hook or the journal is slow.
PUTS_LIMIT = 1_000
#: The points whose hooks run in `put`.
_PUT_HOOKS = ("pre_put", "post_put")

_encode = msgspec.msgpack.Encoder(enc_hook=lambda value: to_builtins(value)).encode
_decode = msgspec.msgpack.Decoder(tuple[int, str, list[Any], dict[str, Any], str | None]).decode
_decode_any = msgspec.msgpack.Decoder().decode

#: A call: ``(identity, request id, procedure, arguments, author)``.
_Call: TypeAlias = tuple[bytes, int, str, dict[str, Any], str | None]


@dataclass(slots=True)
class Poll:
    """A long poll of a bridge."""

    identity: bytes
    request_id: int
    event_number: int
    error_number: int
    started: float
    deadline: float


class ControlServer:
    """The control thread of one machine."""

    def __init__(
        self, machine: Machine, router: zmq.Socket[bytes], acknowledge: Callable[[bytes, int | None], None]
    ) -> None:
        self._machine, self._router, self._acknowledge = machine, router, acknowledge
        self._replies: deque[tuple[bytes, bytes]] = deque()
        self._polls: list[Poll] = []
        self._pooled = 0
        self._pool_lock = threading.RLock()
        #: Calls of `put` that wait for their thread, which ends when there are none.
        self._puts: deque[_Call] = deque()
        self._putting = False
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._closing = False
        self._end_listening = machine.event_log.listen(self._wake)
        self._thread = threading.Thread(target=self._run, name=f"timbr {machine.name} control", daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering; calls under way get no reply. Idempotent, bounded."""
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
            return  # full: already awake; closed: no thread to wake

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
                self._answer_polls()
                while self._replies:
                    self._router.send_multipart(self._replies.popleft())
            except zmq.ContextTerminated:
                return
            except Exception:  # one bad request must not end control
                logger.exception("control of machine %s", self._machine.name)
        self._router.close()

    def _timeout_ms(self) -> int:
        if not self._polls:
            return 1000
        left_s = min(poll.deadline for poll in self._polls) - time.monotonic()
        return max(int(min(left_s, ERRORS_EVERY_S) * 1000), 10)  # failures send no wake-up: they are polled

    def _receive(self) -> None:
        for _ in range(64):  # then replies are sent
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                request_id, name, args, kwargs, author = _decode(frames[-1])
            except Exception as error:  # msgspec's errors, or RecursionError
                self._refuse(identity, frames, error)
                continue
            self._handle(identity, request_id, name, args, kwargs, author)

    def _refuse(self, identity: bytes, frames: list[bytes], error: Exception) -> None:
        """Answer a request that has the wrong form with an error, if it has a number."""
        try:
            request_id = _decode_any(frames[-1])[0]
        except Exception:
            request_id = None
        if type(request_id) is int:
            self._reply_error(identity, request_id, errors.InvalidArgument("request", message_of(error)))
        else:
            logger.warning("machine %s: an unreadable request was dropped", self._machine.name)

    def _handle(
        self, identity: bytes, request_id: int, name: str, args: list[Any], kwargs: dict[str, Any], author: str | None
    ) -> None:
        if name in (CHANGES, RECEIVED):
            try:
                if name == CHANGES:
                    self._add_poll(identity, request_id, *msgspec.convert(args, tuple[int, int, float]))
                else:
                    self._acknowledge(*msgspec.convert(args, tuple[bytes, int | None]))
            except msgspec.ValidationError as error:
                self._reply_error(identity, request_id, errors.InvalidArgument(name, str(error)))
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
        if name == "put":
            self._put(call)
        elif not procedure.pooled and not (name in ("records", "record") and self._machine.recorder.has_journal):
            self._perform(*call)
        elif self._enter_pool(_PLACES.get(name, POOL_LIMIT)):
            threading.Thread(
                target=self._perform_pooled, args=call, name=f"timbr {self._machine.name} {name}", daemon=True
            ).start()
        else:
            self._reply_error(identity, request_id, errors.ControlBusy(_PLACES.get(name, POOL_LIMIT)))

    def _put(self, call: _Call) -> None:
        """Put at once if no foreign code runs, else in the thread for that, after earlier puts."""
        hooks = self._machine.hooks
        with self._pool_lock:
            slow = self._putting or self._machine.recorder.has_journal or any(map(hooks.at, _PUT_HOOKS))
            if slow and len(self._puts) < PUTS_LIMIT:
                self._puts.append(call)
                if not self._putting:
                    self._putting = True
                    name = f"timbr {self._machine.name} put"
                    threading.Thread(target=self._perform_puts, name=name, daemon=True).start()
                return
        if slow:
            self._reply_error(call[0], call[1], errors.ControlBusy(PUTS_LIMIT))
        else:
            self._perform(*call)

    def _perform_puts(self) -> None:
        while True:
            with self._pool_lock:
                if not self._puts:
                    self._putting = False
                    return
                call = self._puts.popleft()
            self._perform(*call)

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
                and (errors_now <= poll.error_number or now < poll.started + ERRORS_EVERY_S)
            ):
                continue
            self._polls.remove(poll)
            try:
                self._reply(poll.identity, [poll.request_id, "result", to_builtins(self._changes(poll))])
            except Exception as error:
                self._reply_error(poll.identity, poll.request_id, error)

    def _changes(self, poll: Poll) -> dict[str, Any]:
        event_number, events = self._machine.event_log.after(poll.event_number)
        error_number, failures = self._machine.recorder.errors.after(poll.error_number)
        return {
            "status": self._machine.status, "events": events, "errors": failures[-CHANGES_ROWS:],
            "event_number": event_number, "error_number": error_number,
        }  # fmt: skip

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
            self._reply(identity, [request_id, "result", to_builtins(getattr(service, name)(**arguments))])
        except BaseException as error:  # users' code may raise anything, also SystemExit: it is the caller's answer
            self._reply_error(identity, request_id, error)

    def _reply(self, identity: bytes, reply: list[Any]) -> None:
        try:
            frame = _encode(reply)
        except Exception:  # a text or a number of users' code that msgpack does not have
            frame = _encode(json_safe(reply))
        self._send(identity, frame)

    def _send(self, identity: bytes, reply: bytes) -> None:
        self._replies.append((identity, reply))
        if threading.current_thread() is not self._thread:
            self._wake()

    def _reply_error(self, identity: bytes, request_id: int, error: BaseException) -> None:
        try:
            reply = _encode([request_id, "error", json_safe(list(errors.to_wire(error)))])
        except BaseException:  # an error of users' code, whose own text or arguments raise
            sent = errors.RemoteError(class_name(error), message_of(error))
            sent.remote_traceback = traceback_text(error)
            reply = _encode([request_id, "error", json_safe(list(errors.to_wire(sent)))])
        self._send(identity, reply)
