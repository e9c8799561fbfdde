"""The program of a child process of the executor ``"processes"``: runs slot functions on pickled messages.

One request at a time, in the main thread; each gets one reply. The child does not import the user's ``__main__``: it
has a command of its own, and functions are sent by value. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import linecache
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from timbr_wamp.machine.raw import opened
from timbr_wamp.machine.running.executors.argument_changes import (
    Snapshot,
    containers_of,
    dumps_changes,
    snapshot_of,
)
from timbr_wamp.machine.running.executors.pickling import dumps
from timbr_wamp.machine.slots.arguments import given, reads_message
from timbr_wamp.machine.slots.callables import is_unawaited
from timbr_wamp.machine.tracebacks import ErrorText, error_text
from timbr_wamp.values import text_of

#: A file as `linecache` keeps it, for tracebacks of texts that are in no file.
SourceLines: TypeAlias = "tuple[int, None, list[str], str]"


#: A child's first message, sent once it answers requests.
READY = b"ready"


class ChildStep(NamedTuple):
    """One call of a batch: which function, and how many values and texts it gets."""

    function: int
    values: int
    texts: int
    carry: int


@dataclass
class Functions:
    """Precedes a request: functions that the child does not have yet, by number, and those that it may forget."""

    new: dict[int, bytes] = field(default_factory=dict)
    forget: list[int] = field(default_factory=list)
    sources: dict[str, SourceLines] = field(default_factory=dict)


@dataclass
class Batch:
    """Messages, pickled one by one, and the steps that they run through."""

    functions: Functions
    steps: tuple[ChildStep, ...]
    lead: int
    messages: list[bytes]
    #: Positions of messages whose slots are timed.
    timed: list[int]


@dataclass
class SingleCall:
    """One call of one function, with its pickled arguments."""

    functions: Functions
    function: int
    arguments: bytes


@dataclass
class Texts:
    """A message whose slots all have a value: its JSON texts ``[in, f0, …]``, without carried ones."""

    texts: list[bytes]
    timings: list[float] | None = None


@dataclass
class Raised:
    """The error of a slot: its texts, and the error itself if it can be pickled.

    ``changes``: what a single call changed in its arguments, see `argument_changes`.
    """

    text: ErrorText
    error: bytes | None
    changes: bytes | None = None


@dataclass
class Failed:
    """A message with a slot that raised: message and earlier values, pickled together (None: they cannot be).

    They are in their present state: slots may have changed them. ``unread``: the message is raw text that is no JSON.
    """

    position: int
    raised: Raised
    values: bytes | None
    texts: list[bytes]
    unread: bool


@dataclass
class Value:
    """The result of a single call, with its `argument_changes`; None: it cannot be pickled."""

    value: bytes | None


@dataclass
class CannotLoad:
    """Nothing ran, as something could not be unpickled here: a function, or with None the message or arguments."""

    function: int | None
    reason: str


@dataclass
class Unawaited:
    """A function returned a coroutine, which only the parent's event loop can await."""

    function: int


MessageResult: TypeAlias = Texts | Failed | CannotLoad | Unawaited


@dataclass
class BatchReply:
    """A result for each message of a batch, and how long the batch took."""

    results: list[MessageResult]
    seconds: float


CallResult: TypeAlias = Value | Raised | CannotLoad | Unawaited


class Child:
    """Keeps the functions of a child and answers its requests."""

    def __init__(self) -> None:
        self._functions: dict[int, Callable[..., Any]] = {}
        #: Functions that could not be loaded, with the reason.
        self._unloadable: dict[int, str] = {}

    def reply(self, request: Batch | SingleCall) -> Any:
        """Answer a request."""
        self._prepare(request.functions)
        if isinstance(request, SingleCall):
            return self._call(request)
        before, results = perf_counter(), list[MessageResult]()
        for position, message in enumerate(request.messages):
            results.append(self._message(request, message, timed=position in request.timed))
        return BatchReply(results, perf_counter() - before)

    def _prepare(self, functions: Functions) -> None:
        linecache.cache.update(functions.sources)
        for number in functions.forget:
            self._functions.pop(number, None)
            self._unloadable.pop(number, None)
        for number, data in functions.new.items():
            try:
                self._functions[number] = pickle.loads(data)
            except BaseException as error:  # users' imports and constructors may raise anything
                self._unloadable[number] = str(error_text(error)[:2])

    def _message(self, batch: Batch, data: bytes, *, timed: bool) -> MessageResult:
        for step in batch.steps:
            if step.function in self._unloadable:
                return CannotLoad(step.function, self._unloadable[step.function])
        try:
            message = pickle.loads(data)
        except BaseException as error:  # constructors of the user
            return CannotLoad(None, str(error_text(error)[:2]))
        value, text, unread = opened(message)
        values, texts = [value] * (batch.lead + 1), [text] * (batch.lead + 1)
        made_values: list[Any] = [value]
        made_texts, timings = texts[:1], list[float]()
        for position, step in enumerate(batch.steps):
            before = perf_counter()
            try:
                if unread is not None and reads_message(step, len(values), batch.lead):
                    raise unread
                value = self._functions[step.function](*given(step, values, texts))
            except BaseException as error:  # whatever a slot raises is the message's outcome
                return Failed(position, raised(error), pickled(made_values), made_texts, unread is not None)
            timings.append(perf_counter() - before)
            if is_unawaited(value):
                close_unawaited(value)
                return Unawaited(step.function)
            text = text_of(value)
            made_values.append(value)
            made_texts.append(text)
            values += [value] * (step.carry + 1)
            texts += [text] * (step.carry + 1)
        return Texts(made_texts, timings if timed else None)

    def _call(self, call: SingleCall) -> CallResult:
        if call.function in self._unloadable:
            return CannotLoad(call.function, self._unloadable[call.function])
        try:
            arguments: Sequence[Any] = pickle.loads(call.arguments)
        except BaseException as error:
            return CannotLoad(None, str(error_text(error)[:2]))
        before = snapshot_of(containers_of(arguments))
        try:
            value = self._functions[call.function](*arguments)
        except BaseException as error:
            result = raised(error)
            result.changes = with_changes(None, before)
            return result
        if is_unawaited(value):
            close_unawaited(value)
            return Unawaited(call.function)
        return Value(with_changes(value, before))


def raised(error: BaseException) -> Raised:
    """Describe an error for the parent."""
    text = error_text(error)
    error.__traceback__ = None
    return Raised(text, pickled(error))


def pickled(value: object) -> bytes | None:
    """Return a value as bytes that the parent can load; None when there are none."""
    try:
        return dumps(value)
    except BaseException:  # __reduce__ and the like are foreign
        return None


def with_changes(value: object, before: Snapshot) -> bytes | None:
    """Return a value as `pickled` does, with what a call changed in its arguments."""
    try:
        return dumps_changes(value, before)
    except BaseException:  # as above
        return None


def close_unawaited(value: Any) -> None:
    """Close a coroutine that is not awaited here, or Python would warn of it."""
    with contextlib.suppress(BaseException):
        value.close()


# --- the process ---


def main() -> None:
    """Answer requests until the parent closes the connection or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's
    connection, lifeline = Connection(int(sys.argv[1])), int(sys.argv[2])
    end_with_parent(lifeline)
    # What slots print goes to the parent's stderr: nobody reads a stdout here.
    os.dup2(2, 1)
    sys.stdout = io.TextIOWrapper(os.fdopen(os.dup(2), "wb", 0), write_through=True, errors="backslashreplace")
    child, own_pid = Child(), os.getpid()
    connection.send_bytes(READY)
    while True:
        try:
            request = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)  # also while a slot's thread runs
        reply = child.reply(request)
        if os.getpid() != own_pid:
            os._exit(0)  # a slot forked, and its child came back: the answer is the real child's
        try:
            connection.send_bytes(pickle.dumps(reply, 5))
        except OSError:
            os._exit(0)


def end_with_parent(lifeline: int) -> None:
    """End this process when the parent ends in any way, which closes the writing end of the pipe ``lifeline``.

    On Linux the kernel sends the signal, so that also code which keeps the interpreter lock is ended.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_exit_at_end_of, args=(lifeline,), name="timbr lifeline", daemon=True).start()


def _exit_at_end_of(lifeline: int) -> None:
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    os._exit(1)
