"""The control socket: answers the contract's machine procedures from a thread that runs no foreign code.

Requests and replies are single msgpack frames on a ROUTER socket:
``[id, procedure, args, kwargs, author]`` → ``[id, "progress", value]``*, then ``[id, "result",
value]`` or ``[id, "error", [uri, args, kwargs]]``. Every request that can be read is answered: with an
error if it fails or its result cannot be encoded.

Procedures that only read are answered in the control thread. Those that the contract calls *pooled* may run foreign
code (slots, hooks, handlers, a journal): each runs in a new thread, a bounded number at a time for each kind of call,
and for each author (`Places`). With hooks or a journal, messages are put in one further thread, in order. Calls that
wait have no thread (`timbr_wamp.machine.serving.waiting_calls`).

``[id, "__cancel__", [], {}, null]`` cancels the request with that id of the same client, as does the end of its
connection: it is not answered, gives its place back, and what runs for it is ended where that can be
(`timbr_wamp.machine.running.cancellation`).

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
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from timbr_wamp import errors
from timbr_wamp.contract import MACHINE, to_builtins
from timbr_wamp.errors import class_name, message_of
from timbr_wamp.machine.running.cancellation import performing
from timbr_wamp.machine.serving.counter_samples import CounterSamples
from timbr_wamp.machine.serving.service import MachineService
from timbr_wamp.machine.serving.waiting_calls import (
    WAITS,
    Call,
    ChangesPoll,
    PutMany,
    WaitingCall,
    Wakeup,
    WatchProgress,
)
from timbr_wamp.machine.tracebacks import traceback_text
from timbr_wamp.places import Places
from timbr_wamp.values import json_safe

if TYPE_CHECKING:
    from timbr_wamp.machine.machine import Machine

logger = logging.getLogger(__name__)

CHANGES, RECEIVED, CANCEL = "__changes__", "__received__", "__cancel__"

#: Threads for calls that only look, that run messages, that change the machine, that start and stop it: calls of one
#: kind, or of one author (see `Places`), cannot keep out the others.
LOOKING, RUNNING, CHANGING, STARTING = 8, 16, 16, 16
#: Calls that wait without a thread; calls that put messages and what they hold, while a hook or the journal is slow.
WAITING, PUTTING, PUTTING_BYTES = 512, 2_000, 128 * 1024 * 1024
#: Places of each pooled procedure; others change the machine.
KINDS = {
    **dict.fromkeys(("records", "record", "lookup", "compare"), "looking"),
    **dict.fromkeys(("call", "trial", "trial_report", "table_trial", "replay", "retry_errors"), "running"),
    **dict.fromkeys(("start", "pause", "resume", "stop"), "starting"),
}
#: The points whose hooks run in `put`.
_PUT_HOOKS = ("pre_put", "post_put")

_encode = msgspec.msgpack.Encoder(enc_hook=lambda value: to_builtins(value)).encode
_decode = msgspec.msgpack.Decoder(tuple[int, str, list[Any], dict[str, Any], str | None]).decode
_decode_any = msgspec.msgpack.Decoder().decode


class ControlServer:
    """The control thread of one machine."""

    def __init__(
        self, machine: Machine, router: zmq.Socket[bytes], acknowledge: Callable[[bytes, int | None], None]
    ) -> None:
        self._machine, self._router, self._acknowledge = machine, router, acknowledge
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else a reply to a client that has gone would tell nothing
        self._replies: deque[tuple[bytes, bytes]] = deque()
        #: Requests under way that can be cancelled, by client and number.
        self._calls: dict[tuple[bytes, int], Call] = {}
        self._waiting: list[WaitingCall] = []
        #: Those that another thread has continued.
        self._continued: deque[WaitingCall] = deque()
        self._places = {
            "looking": Places(LOOKING), "running": Places(RUNNING), "changing": Places(CHANGING),
            "starting": Places(STARTING), "waiting": Places(WAITING), "putting": Places(PUTTING),
        }  # fmt: skip
        self._bytes = Places(PUTTING_BYTES)
        self._lock = threading.RLock()
        #: What puts messages and waits for the thread that does, which ends when there is nothing.
        self._puts: deque[Callable[[], None]] = deque()
        self._putting = False
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._room, self._change, self._events = (Wakeup(self._wake) for _ in range(3))
        self._closing = False
        self._samples = CounterSamples(lambda: machine.status)
        self._end_listening = machine.event_log.listen(self._events.release)
        self._thread = threading.Thread(target=self._run, name=f"timbr {machine.name} control", daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering soon, see `wait_closed`; calls under way get no reply. Idempotent, returns at once."""
        self._end_listening()
        self._closing = True
        self._wake()
        if self._thread.ident is None:  # it was never started
            self._close_sockets()

    def wait_closed(self) -> None:
        """Wait until its thread has closed its sockets, after `close`. Not in that thread."""
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is the control thread."""
        return threading.current_thread() is self._thread

    def _close_sockets(self) -> None:
        self._router.close()
        self._waker.close()
        self._woken.close()

    def _wake(self) -> None:
        try:
            self._waker.send(b"x")
        except OSError:
            return  # full: already awake; closed: no thread to wake

    # --- its own thread ---

    def _run(self) -> None:
        try:
            self._answer()
        finally:
            self._close_sockets()

    def _answer(self) -> None:
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
                self._advance_waiting()
                while self._replies:
                    self._send_reply(*self._replies.popleft())
            except zmq.ContextTerminated:
                return
            except Exception:  # one bad request must not end control
                logger.exception("control of machine %s", self._machine.name)

    def _timeout_ms(self) -> int:
        """Take a sample of the counters if one is due; return how long there is nothing to do."""
        now = time.monotonic()
        left_s = min([self._samples.note(now), *(waiting.due_at - now for waiting in self._waiting)])
        return min(max(int(left_s * 1000) + 1, 0), 1000)

    def _receive(self) -> None:
        for _ in range(64):  # then replies are sent
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                number, name, args, kwargs, author = _decode(frames[-1])
            except Exception as error:  # msgspec's errors, or RecursionError
                self._refuse(identity, frames, error)
                continue
            if name == CANCEL:
                self._cancel(identity, number)
                continue
            try:
                self._handle(identity, number, name, args, kwargs, author, len(frames[-1]))
            except errors.TimbrError as error:
                self._reply_error(identity, number, error)
            except msgspec.ValidationError as error:
                self._reply_error(identity, number, errors.InvalidArgument(name, str(error)))

    def _send_reply(self, identity: bytes, frame: bytes) -> None:
        try:
            self._router.send_multipart((identity, frame), zmq.NOBLOCK)
        except zmq.Again:  # it does not read: its requests will time out
            logger.warning("machine %s: a client is too slow; a reply was dropped", self._machine.name)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            for gone, number in [key for key in self._calls if key[0] == identity]:
                self._cancel(gone, number)

    def _refuse(self, identity: bytes, frames: list[bytes], error: Exception) -> None:
        """Answer a request that has the wrong form with an error, if it has a number."""
        try:
            number = _decode_any(frames[-1])[0]
        except Exception:
            number = None
        if type(number) is int:
            self._reply_error(identity, number, errors.InvalidArgument("request", message_of(error)))
        else:
            logger.warning("machine %s: an unreadable request was dropped", self._machine.name)

    def _handle(
        self,
        identity: bytes,
        number: int,
        name: str,
        args: list[Any],
        kwargs: dict[str, Any],
        author: str | None,
        size_bytes: int,
    ) -> None:
        if name == RECEIVED:
            self._acknowledge(*msgspec.convert(args, tuple[bytes, int | None]))
            return
        if name == CHANGES:
            numbers = msgspec.convert(args, tuple[int, int, float])
            for poll in [one for one in self._waiting if one.call.name == CHANGES and one.call.identity == identity]:
                self._end(poll)  # a client has one poll
            call = Call(identity, number, name, {}, author, 0)
            self._waiting.append(ChangesPoll(self._machine, call, self._events, *numbers))
            return
        procedure = MACHINE.get(name)
        if procedure is None:
            raise errors.NoSuchProcedure(name)
        call = Call(identity, number, name, procedure.bind(args, kwargs), author, size_bytes)
        if name == "put":
            self._put(call)
        elif name == "put_many":
            waiting = PutMany(self._machine, call, self._room)
            self._enter("waiting", call)
            self._advance(waiting)
        elif name == "progress":
            self._enter("waiting", call)
            send = partial(self._progress, call)
            self._waiting.append(WatchProgress(self._machine, call, self._change, send))
        elif not procedure.pooled and not (name in ("records", "record") and self._machine.recorder.has_journal):
            self._perform(call)
        else:
            self._enter(KINDS.get(name, "changing"), call)
            threading.Thread(
                target=self._perform_pooled, args=(call,), name=f"timbr {self._machine.name} {name}", daemon=True
            ).start()

    # --- places; any thread ---

    def _enter(self, kind: str, call: Call) -> None:
        """Take a place, and one for the bytes of a call that holds messages.

        Raises:
            ControlBusy: there is none for its author.
        """
        places = self._places[kind]
        if not places.enter(call.author):
            raise errors.ControlBusy(places.held(call.author))
        if not self._bytes.enter(call.author, call.size_bytes):
            places.leave(call.author)
            raise errors.ControlBusy(places.held(call.author))
        self._calls[call.identity, call.number] = call

    def _leave(self, kind: str, call: Call) -> None:
        if self._calls.get((call.identity, call.number)) is call:
            del self._calls[call.identity, call.number]
        self._places[kind].leave(call.author)
        self._bytes.leave(call.author, call.size_bytes)

    def _cancel(self, identity: bytes, number: int) -> None:
        call = self._calls.get((identity, number))
        if call is not None:
            call.cancellation.cancel()
            for waiting in [one for one in self._waiting if one.call is call]:
                self._end(waiting)

    # --- calls that wait ---

    def _end(self, waiting: WaitingCall) -> None:
        self._waiting.remove(waiting)
        if waiting.call.name != CHANGES:
            self._leave("waiting", waiting.call)

    def _advance_waiting(self) -> None:
        """Continue the calls whose time has come, or whose listener was told."""
        while self._continued:
            self._waiting.append(self._continued.popleft())
        told = [wakeup for wakeup in (self._room, self._change, self._events) if wakeup.told]
        for wakeup in told:
            wakeup.told = False
        now = time.monotonic()
        for one in [w for w in self._waiting if w.due_at <= now or w.wakeup in told or w.call.cancellation.cancelled]:
            self._waiting.remove(one)
            self._advance(one)

    def _advance(self, waiting: WaitingCall) -> None:
        """Continue a call, which is not in the list, in this thread or in the one that puts messages."""

        def continue_there() -> None:
            self._continue(waiting, self._continued.append)
            self._wake()

        if not (isinstance(waiting, PutMany) and self._put_later(continue_there)):
            self._continue(waiting, self._waiting.append)

    def _continue(self, waiting: WaitingCall, wait: Callable[[WaitingCall], None]) -> None:
        call = waiting.call
        try:
            call.cancellation.check()
            result = waiting.advance(time.monotonic())
            if result is WAITS:
                wait(waiting)
                return
            self._reply(call.identity, [call.number, "result", to_builtins(result)])
        except BaseException as error:  # users' hooks may raise anything
            self._reply_error(call.identity, call.number, error)
        if call.name != CHANGES:
            self._leave("waiting", call)

    # --- messages that are put ---

    def _put(self, call: Call) -> None:
        """Put at once if no foreign code runs, else in the thread for that, after earlier puts."""
        if not self._puts_are_slow():
            self._perform(call)
            return
        self._enter("putting", call)

        def perform() -> None:
            try:
                if not call.cancellation.cancelled:
                    self._perform(call)
            finally:
                self._leave("putting", call)

        if not self._put_later(perform):
            perform()

    def _puts_are_slow(self) -> bool:
        """Whether putting a message may run foreign code, or comes after what does."""
        return self._putting or self._machine.recorder.has_journal or any(map(self._machine.hooks.at, _PUT_HOOKS))

    def _put_later(self, work: Callable[[], None]) -> bool:
        """Have the thread that puts messages do something, after what waits for it; False: there is no need."""
        with self._lock:
            if not self._puts_are_slow():
                return False
            self._puts.append(work)
            if not self._putting:
                self._putting = True
                name = f"timbr {self._machine.name} put"
                threading.Thread(target=self._perform_puts, name=name, daemon=True).start()
        return True

    def _perform_puts(self) -> None:
        while True:
            with self._lock:
                if not self._puts:
                    self._putting = False
                    return
                work = self._puts.popleft()
            work()

    # --- performing ---

    def _perform_pooled(self, call: Call) -> None:
        try:
            with performing(call.cancellation):
                self._perform(call)
        finally:
            self._leave(KINDS.get(call.name, "changing"), call)
            self._wake()

    def _perform(self, call: Call) -> None:
        progress = partial(self._progress, call)
        service = MachineService(self._machine, call.author, progress, self._samples)
        try:
            result = getattr(service, call.name)(**call.arguments)
            self._reply(call.identity, [call.number, "result", to_builtins(result)])
        except BaseException as error:  # users' code may raise anything, also SystemExit: it is the caller's answer
            self._reply_error(call.identity, call.number, error)

    def _progress(self, call: Call, value: Any) -> None:
        self._reply(call.identity, [call.number, "progress", to_builtins(value)])

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

    def _reply_error(self, identity: bytes, number: int, error: BaseException) -> None:
        try:
            reply = _encode([number, "error", json_safe(list(errors.to_wire(error)))])
        except BaseException:  # an error of users' code, whose own text or arguments raise
            sent = errors.RemoteError(class_name(error), message_of(error))
            sent.remote_traceback = traceback_text(error)
            reply = _encode([number, "error", json_safe(list(errors.to_wire(sent)))])
        self._send(identity, reply)
