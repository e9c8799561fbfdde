"""Every error that timbr_wamp raises on purpose, each with its WAMP URI.

All errors form one class tree. An error's ``args`` are the arguments of its constructor and are
JSON-safe, so an error survives pickling (Dask), WAMP and the local control socket: `to_wire`
returns URI, arguments and texts, `from_wire` rebuilds the same class and keeps the remote
traceback. In a notebook an error is shown as its sentence, see `brief_lines`. Of timbr_wamp, this
module imports only `timbr_wamp.frames` and `timbr_wamp.command_line`.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from timbr_wamp.command_line import command_line

ERROR_PREFIX = "io.timbr.error."
#: Characters of an error's message.
MESSAGE_LIMIT = 2000
#: Characters of a name that is compared with known ones.
NAME_LIMIT = 100

#: Asked of `type` itself: a metaclass may answer otherwise.
_qualname = type.__dict__["__qualname__"].__get__

#: Every error class by its URI; `TimbrError.__init_subclass__` fills it.
ERRORS: dict[str, type[TimbrError]] = {}


class TimbrError(Exception):
    """Base of all errors raised on purpose by timbr_wamp."""

    uri: ClassVar[str] = ERROR_PREFIX + "timbr"
    #: Traceback text from the process that raised the error; None when it was raised in this process.
    remote_traceback: str | None = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.uri in ERRORS:
            raise TypeError(f"{cls.__name__} and {ERRORS[cls.uri].__name__} share the URI {cls.uri}")
        ERRORS[cls.uri] = cls

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows in place of a traceback: see `brief_lines`."""
        return brief_lines(self)


ERRORS[TimbrError.uri] = TimbrError


def to_wire(error: BaseException) -> tuple[str, list[object], dict[str, object]]:
    """Return an error as ``(uri, args, kwargs)``, the form in which it is sent to another process.

    Errors outside the `TimbrError` tree are sent as `RemoteError` with their class name and text.
    """
    if not isinstance(error, TimbrError):
        sent: TimbrError = RemoteError(class_name(error), message_of(error))
    else:
        sent = error
    text = sent.remote_traceback or "".join(traceback.format_exception(error))
    return sent.uri, list(sent.args), {"message": str(sent), "traceback": text}


def from_wire(uri: str, args: Sequence[object], kwargs: Mapping[str, object] | None = None) -> TimbrError:
    """Return the error that `to_wire` described; a `RemoteError` for an unknown URI."""
    kwargs = kwargs or {}
    known = ERRORS.get(uri)
    error: TimbrError | None = None
    if known is not None:
        try:
            error = known(*args)
        except TypeError:
            error = None  # sent by another version with other arguments: keep the text only
    if error is None:
        message = kwargs.get("message") or (args[0] if args else "")
        error = RemoteError(uri, str(message))
    remote = kwargs.get("traceback")
    if isinstance(remote, str) and remote:
        error.remote_traceback = remote
    return error


def is_users_interrupt(error: BaseException) -> bool:
    """Tell whether ``error``, raised in this thread, is the user's Ctrl-C: a KeyboardInterrupt in the main thread."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def clean_text(text: str) -> str:
    """Return ``text`` without lone surrogates, which UTF-8 cannot carry: file names may hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def class_name(error: BaseException) -> str:
    """Return the qualified name of an error's class."""
    return clean_text(_qualname(type(error)))


def message_of(error: BaseException) -> str:
    """Return an error's message, cut to `MESSAGE_LIMIT` characters; if its ``__str__`` raises, a text that says so.

    Raises:
        KeyboardInterrupt: the user's, see `is_users_interrupt`.
    """
    try:
        return clean_text(str.__str__(str(error))[:MESSAGE_LIMIT])
    except BaseException as failure:  # a foreign __str__ may raise anything
        if is_users_interrupt(failure):
            raise
        return f"<its text raised {class_name(failure)}>"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a number of things in words; ``many`` is for nouns whose plural is not made with an ``s``.

    >>> counted(1, "kernel"), counted(0, "kernel"), counted(1200, "retry", "retries")
    ('1 kernel', '0 kernels', '1,200 retries')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def class_and_text(name: str, text: str) -> str:
    """Return ``"class: text"``, or the class name alone when the text is empty.

    >>> class_and_text("ValueError", "no number"), class_and_text("TimeoutError", "")
    ('ValueError: no number', 'TimeoutError')
    """
    return f"{name}: {text}" if text else name


def described(error: BaseException) -> str:
    """Return an error's class name and message; see `message_of` for a foreign error's.

    >>> described(ValueError("no number")), described(TimeoutError())
    ('ValueError: no number', 'TimeoutError')
    """
    return class_and_text(class_name(error), message_of(error))


def _with_log(text: str, log_tail: str) -> str:
    """Return an error's text with the end of a log, which may tell more, and is not the reason."""
    return f"{text}\nits log ends with:\n{log_tail}" if log_tail else text


def brief_lines(error: BaseException, *, of_cells: bool = False) -> list[str]:
    """Return an error in lines for a notebook: its class and sentence, and where in the user's own code it arose.

    The frames of users' code in another process's traceback follow. There are no control characters in the lines.
    The error's whole traceback is unchanged; ``%wamp debug last`` shows it.

    Args:
        of_cells: leave out the user's code in files, as for a magic.
    """
    from timbr_wamp.frames import own_frames, own_part

    lines = [*described(error).splitlines(), *own_frames(error, of_cells=of_cells)]
    if there := own_part(getattr(error, "remote_traceback", None) or ""):
        lines += ["", "remote traceback:", *there]
    return [_without_controls(line) for line in lines]


def _without_controls(line: str) -> str:
    return "".join(one if one.isprintable() or one == "\t" else one.encode("unicode_escape").decode() for one in line)


def nearest(word: object, known: Iterable[object]) -> str | None:
    """Return the known name that ``word`` may be a mistyping or an abbreviation of; None if there is none.

    >>> nearest("Pausse", ["resume", "pause"]), nearest("Retry", ["RetryHandler"]), nearest("x", ["pause"])
    ('pause', 'RetryHandler', None)
    """
    import difflib

    names = {str(name).casefold(): str(name) for name in known}
    asked = str(word)[:NAME_LIMIT].casefold()
    found = difflib.get_close_matches(asked, names, n=1)
    if not found and len(asked) >= 3:
        found = [name for name in names if name.startswith(asked)]
    return names[found[0]] if found else None


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return ``"; did you mean 'name'?"`` for the known name that ``word`` is near to; empty if there is none.

    >>> did_you_mean("conect", ["connect", "list"])
    "; did you mean 'connect'?"
    """
    near = nearest(word, known)
    return "" if near is None else f"; did you mean {near!r}?"


def not_one_of(value: object, known: Iterable[object]) -> str:
    """Return an error's text about a value that is none of those allowed, and the one that may be meant.

    >>> not_one_of("amin", ["viewer", "admin"])
    "'amin' is not one of viewer, admin; did you mean 'admin'?"
    """
    names = list(map(str, known))
    return f"{value!r} is not one of {', '.join(names)}{did_you_mean(value, names)}"


def what_there_is(word: object, kind: str, known: Iterable[object]) -> str:
    """Return the end of an error's text about an unknown name: the known ones, and the one that may be meant.

    >>> "no slot 'cleen'" + what_there_is("cleen", "named slots", ["clean"])
    "no slot 'cleen'; named slots: clean; did you mean 'clean'?"
    >>> what_there_is("x", "tokens", [])
    '; tokens: none'
    """
    names = list(map(str, known))
    return f"; {kind}: {', '.join(names) or 'none'}{did_you_mean(word, names)}"


class RemoteError(TimbrError):
    """An error from another process for which this process has no class."""

    uri = ERROR_PREFIX + "remote"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name, self.message = name, message

    def __str__(self) -> str:
        return class_and_text(self.name, self.message)


# --- names, values, settings ---------------------------------------------------------------


class InvalidName(TimbrError, ValueError):
    """A text that cannot be used in a URI, a path or a socket address."""

    uri = ERROR_PREFIX + "invalid_name"

    def __init__(self, text: str, expected: str) -> None:
        super().__init__(text, expected)
        self.text, self.expected = text, expected

    def __str__(self) -> str:
        noun, colon, _ = self.expected.partition(": ")
        return f"{self.text!r} is not {'' if colon and ' ' in noun else 'a valid name: expected '}{self.expected}"


class InvalidArgument(TimbrError, ValueError, TypeError):
    """An argument of the wrong type or value."""

    uri = ERROR_PREFIX + "invalid_argument"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"argument {self.name}: {self.problem}"


class WrongArguments(InvalidArgument):
    """A method of the client was called with an argument of the wrong type, an unknown one, or without one."""

    uri = ERROR_PREFIX + "wrong_arguments"


class InvalidSetting(TimbrError, ValueError):
    """A setting with an unusable value; the error says where the value came from."""

    uri = ERROR_PREFIX + "invalid_setting"

    def __init__(self, name: str, origin: str, problem: str) -> None:
        super().__init__(name, origin, problem)
        self.name, self.origin, self.problem = name, origin, problem

    def __str__(self) -> str:
        return f"setting {self.name} (from {self.origin}): {self.problem}"


class UnsafeFolder(TimbrError, PermissionError):
    """A folder for sockets or secrets to which other users have access."""

    uri = ERROR_PREFIX + "unsafe_folder"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; use a folder that you own with mode 0700"


class UnknownPlugin(TimbrError, LookupError):
    """The plugin group has no plugin of that name."""

    uri = ERROR_PREFIX + "unknown_plugin"

    def __init__(self, group: str, name: str, known: Sequence[str]) -> None:
        super().__init__(group, name, list(known))
        self.group, self.name, self.known = group, name, tuple(known)

    def __str__(self) -> str:
        return f"no plugin {self.name!r} in {self.group}{what_there_is(self.name, 'known plugins', self.known)}"


class PluginNotInstalled(TimbrError, ImportError):
    """A plugin needs a library that is not installed."""

    uri = ERROR_PREFIX + "plugin_not_installed"

    def __init__(self, group: str, name: str, install: str) -> None:
        super().__init__(group, name, install)
        self.group, self.plugin, self.install = group, name, install

    def __str__(self) -> str:
        return f"{self.plugin!r} of {self.group} needs a library that is not installed; run: {self.install}"


# --- machine ---------------------------------------------------------------------------------


class MachineFull(TimbrError, queue.Full):
    """The machine's queue is full; the message was not queued."""

    uri = ERROR_PREFIX + "machine_full"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.capacity = capacity

    def __str__(self) -> str:
        return f"the queue is full ({counted(self.capacity, 'message')}); put with block=True, or try again later"


class MachineEmpty(TimbrError, queue.Empty):
    """The queue has no message to step."""

    uri = ERROR_PREFIX + "machine_empty"

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return "the queue is empty; put a message first, or get with block=True"


class MachineRunning(TimbrError):
    """An operation that needs an idle or paused machine was called on a running one."""

    uri = ERROR_PREFIX + "machine_running"

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation

    def __str__(self) -> str:
        return f"{self.operation} needs an idle or paused machine; pause() it first"


class MachineClosed(TimbrError):
    """The machine was closed and accepts no further calls."""

    uri = ERROR_PREFIX + "machine_closed"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"machine {self.name!r} is closed; create a new one"


class MachineForked(MachineClosed):
    """A call of a machine in a child that was forked from the process where the machine runs."""

    uri = ERROR_PREFIX + "machine_forked"

    def __init__(self, name: str, parent_pid: int) -> None:
        TimbrError.__init__(self, name, parent_pid)
        self.name, self.parent_pid = name, parent_pid

    def __str__(self) -> str:
        return (
            f"machine {self.name!r} runs in process {self.parent_pid}; this process was forked from it and has "
            "none of its threads: make a machine of its own here, or start children with the method spawn"
        )


class NameRemoved(TimbrError, AttributeError):
    """A name of timbr-machine that was removed."""

    uri = ERROR_PREFIX + "name_removed"

    def __init__(self, removed: str, instead: str) -> None:
        super().__init__(removed, instead)
        self.removed, self.instead = removed, instead

    def __str__(self) -> str:
        return f"{self.removed} was removed: use {self.instead}"


class WouldDeadlock(TimbrError, RuntimeError):
    """A slot, hook, sink or source would wait for its own machine, which waits for it."""

    uri = ERROR_PREFIX + "would_deadlock"

    def __init__(self, name: str, call: str) -> None:
        super().__init__(name, call)
        self.name, self.call = name, call

    def __str__(self) -> str:
        return (
            f"{self.call} in a slot, hook, sink or source of machine {self.name!r} would wait for what this "
            "code itself is doing, for ever: do not block here, or call it from another thread"
        )


class WrongState(TimbrError):
    """The machine's current state does not allow this operation."""

    uri = ERROR_PREFIX + "wrong_state"

    def __init__(self, verb: str, state: str, allowed: str) -> None:
        super().__init__(verb, state, allowed)
        self.verb, self.state, self.allowed = verb, state, allowed

    def __str__(self) -> str:
        return f"cannot {self.verb} while the machine is {self.state}; allowed while it is {self.allowed}"


class SlotOutOfRange(TimbrError, IndexError):
    """A slot number that the machine does not have."""

    uri = ERROR_PREFIX + "slot_out_of_range"

    def __init__(self, slot: int, slot_count: int) -> None:
        super().__init__(slot, slot_count)
        self.slot, self.slot_count = slot, slot_count

    def __str__(self) -> str:
        return f"no slot {self.slot}: this machine has slots 0 to {self.slot_count - 1}"


class UnknownSlot(TimbrError, KeyError):
    """The machine has no slot of that name."""

    uri = ERROR_PREFIX + "unknown_slot"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name, list(known))
        self.name, self.known = name, tuple(known)

    def __str__(self) -> str:
        return f"no slot named {self.name!r}{what_there_is(self.name, 'named slots', self.known)}"


class PrepFailed(TimbrError):
    """An object's ``prep`` raised; the slots were not changed."""

    uri = ERROR_PREFIX + "prep_failed"

    def __init__(self, slot: int, object_name: str, problem: str) -> None:
        super().__init__(slot, object_name, problem)
        self.slot, self.object_name, self.problem = slot, object_name, problem

    def __str__(self) -> str:
        return f"slot {self.slot} was not changed: prep() of {self.object_name} raised {self.problem}"


class MessageKept(TimbrError):
    """A stepped message failed and returned to the queue, because the slot's policy is ``pause`` or ``stop``."""

    uri = ERROR_PREFIX + "message_kept"

    def __init__(self, oid: str, verdict: str, problem: str) -> None:
        super().__init__(oid, verdict, problem)
        self.oid, self.verdict, self.problem = oid, verdict, problem

    def __str__(self) -> str:
        return f"message {self.oid} returned to the queue (policy {self.verdict!r}): {self.problem}"


class SlotTimeout(TimbrError, TimeoutError):
    """A slot took longer than its policy allows."""

    uri = ERROR_PREFIX + "slot_timeout"

    def __init__(self, task: str, timeout_s: float) -> None:
        super().__init__(task, timeout_s)
        self.task, self.timeout_s = task, timeout_s

    def __str__(self) -> str:
        return f"{self.task} did not finish within {self.timeout_s:g} s"


class WorkerDied(TimbrError, RuntimeError):
    """A slot's function ended the child process in which it ran."""

    uri = ERROR_PREFIX + "worker_died"

    def __init__(self, task: str, status: int | None) -> None:
        super().__init__(task, status)
        self.task, self.status = task, status

    def __str__(self) -> str:
        if self.status is None:
            how = "was ended"
        elif self.status < 0:
            how = f"was ended by signal {-self.status}"
        else:
            how = f"exited with status {self.status}"
        return f"{self.task}: the child process {how} while it ran"


class NotCallable(TimbrError, TypeError):
    """A slot was assigned something that cannot be called."""

    uri = ERROR_PREFIX + "not_callable"

    def __init__(
        self,
        slot: int,
        type_name: str,
        problem: str = "is not callable",
        advice: str = "assign a function, or del the slot",
    ) -> None:
        super().__init__(slot, type_name, problem, advice)
        self.slot, self.type_name, self.problem, self.advice = slot, type_name, problem, advice

    def __str__(self) -> str:
        return f"slot {self.slot}: {self.type_name} {self.problem}; {self.advice}"


class InvalidSource(TimbrError, ValueError):
    """Source text that defines no function: it does not compile, or defines none or several."""

    uri = ERROR_PREFIX + "invalid_source"

    def __init__(self, problem: str, line: int | None = None, text: str | None = None) -> None:
        super().__init__(problem, line, text)
        self.problem, self.line, self.text = problem, line, text

    def __str__(self) -> str:
        where = "" if self.line is None else f" (line {self.line}: {(self.text or '').strip()})"
        return f"{self.problem}{where}"


class PythonMismatch(TimbrError):
    """A cloudpickle made by another Python minor version."""

    uri = ERROR_PREFIX + "python_mismatch"

    def __init__(self, theirs: str, ours: str) -> None:
        super().__init__(theirs, ours)
        self.theirs, self.ours = theirs, ours

    def __str__(self) -> str:
        return f"Python {self.ours} cannot load a function pickled by Python {self.theirs}; send its source text"


class UnknownRevision(TimbrError, LookupError):
    """A revision that never existed or is no longer kept."""

    uri = ERROR_PREFIX + "unknown_revision"

    def __init__(self, number: int, first: int, last: int) -> None:
        super().__init__(number, first, last)
        self.number, self.first, self.last = number, first, last

    def __str__(self) -> str:
        return f"no revision {self.number}: revisions {self.first} to {self.last} are kept"


class TableChanged(TimbrError, RuntimeError):
    """The slot table was changed meanwhile; nothing was set."""

    uri = ERROR_PREFIX + "table_changed"

    def __init__(self, expected: int, current: int, change: str, author: str | None = None) -> None:
        super().__init__(expected, current, change, author)
        self.expected, self.current, self.change, self.author = expected, current, change, author

    def __str__(self) -> str:
        by = f" by {self.author}" if self.author else ""
        return (
            f"the slots are at revision {self.current} ({self.change}{by}), no longer at {self.expected}; "
            "nothing was set: try it again on the present table"
        )


class NotASource(TimbrError, TypeError):
    """A value that cannot be used as a source of messages."""

    uri = ERROR_PREFIX + "not_a_source"

    def __init__(self, type_name: str, problem: str = "is not a source of messages") -> None:
        super().__init__(type_name, problem)
        self.type_name, self.problem = type_name, problem

    def __str__(self) -> str:
        if self.type_name.startswith("the file "):
            return f"{self.type_name} {self.problem}"
        return (
            f"{self.type_name} {self.problem}; a source is an iterable, an iterator, a generator "
            f"function, an async generator, a table (DataFrame, Arrow), the path of a .csv, .jsonl or .parquet file, "
            f"or a Source object"
        )


class SourceActive(TimbrError):
    """The machine already has an active source."""

    uri = ERROR_PREFIX + "source_active"

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state

    def __str__(self) -> str:
        return f"the machine already has a source ({self.state}); del it first, or use set_source(…, replace=True)"


class UpstreamError(TimbrError):
    """A slot was skipped because a slot whose value it consumes failed."""

    uri = ERROR_PREFIX + "upstream"

    def __init__(self, task: str, because: str) -> None:
        super().__init__(task, because)
        self.task, self.because = task, because

    def __str__(self) -> str:
        return f"{self.task} did not run: {self.because} failed"


class RecordNotFound(TimbrError, LookupError):
    """A record that never existed or is no longer kept."""

    uri = ERROR_PREFIX + "record_not_found"

    def __init__(self, what: str, first: int, last: int) -> None:
        super().__init__(what, first, last)
        self.what, self.first, self.last = what, first, last

    def __str__(self) -> str:
        return f"no record {self.what}: records {self.first} to {self.last} are kept"


class UnknownMessage(TimbrError, LookupError):
    """A message that was never put here, or of which nothing is kept any more."""

    uri = ERROR_PREFIX + "unknown_message"

    def __init__(self, oid: str) -> None:
        super().__init__(oid)
        self.oid = oid

    def __str__(self) -> str:
        return f"no message {self.oid}: it was never put into this machine, or its records are no longer kept"


class UnknownErrorGroup(TimbrError, LookupError):
    """No failures of this slot, exception class and line."""

    uri = ERROR_PREFIX + "unknown_error_group"

    def __init__(self, group: str, known: Sequence[str]) -> None:
        super().__init__(group, list(known))
        self.group, self.known = group, tuple(known)

    def __str__(self) -> str:
        return f"no error group {self.group!r}{what_there_is(self.group, 'groups', self.known)}"


class CanaryFailed(TimbrError, RuntimeError):
    """Messages that were retried first did not pass; the others were left as they are."""

    uri = ERROR_PREFIX + "canary_failed"

    def __init__(self, oids: Sequence[str], left: int, reason: str) -> None:
        super().__init__(list(oids), left, reason)
        #: The messages that were retried.
        self.oids = tuple(oids)
        self.left, self.reason = left, reason

    def __str__(self) -> str:
        return (
            f"{counted(len(self.oids), 'message')} retried first: {self.reason}; "
            f"the other {self.left:,} were not retried"
        )


class NothingToDebug(TimbrError, LookupError):
    """No kept attempt at the message failed in a slot."""

    uri = ERROR_PREFIX + "nothing_to_debug"

    def __init__(self, oid: str) -> None:
        super().__init__(oid)
        self.oid = oid

    def __str__(self) -> str:
        return f"no slot raised for message {self.oid} in an attempt whose record is kept"


class RecordTooLarge(TimbrError, LookupError):
    """The values of a record that came without them, because its text is too large to be sent with others."""

    uri = ERROR_PREFIX + "record_too_large"

    def __init__(self, run: str, seq: int, size_bytes: int) -> None:
        super().__init__(run, seq, size_bytes)
        self.run, self.seq, self.size_bytes = run, seq, size_bytes

    def __str__(self) -> str:
        return (
            f"record {self.seq} came without its values, because they have {self.size_bytes:,} bytes; "
            f"fetch them with machine.record({self.run!r}, {self.seq})"
        )


class RunMismatch(TimbrError):
    """Records of an earlier run were requested."""

    uri = ERROR_PREFIX + "run_mismatch"

    def __init__(self, asked: str, current: str) -> None:
        super().__init__(asked, current)
        self.asked, self.current = asked, current

    def __str__(self) -> str:
        return f"run {self.asked} has ended; the machine's current run is {self.current}"


class PayloadTooLarge(TimbrError, ValueError):
    """A message or result exceeds the size limit of the wire; nothing was sent."""

    uri = ERROR_PREFIX + "payload_too_large"

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.size_bytes:,} bytes exceed the limit of {self.limit_bytes:,}; "
            f"send a reference (a path, a key), or put the message from inside the kernel"
        )


# --- wire, client, kernels -------------------------------------------------------------------


class NotConnected(TimbrError, ConnectionError):
    """The client has no wamp session at the moment."""

    uri = ERROR_PREFIX + "not_connected"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"not connected to {self.url}: {self.reason}"


class NoRouter(TimbrError, ConnectionError):
    """No router was found to connect to."""

    uri = ERROR_PREFIX + "no_router"

    def __init__(self, looked: str, cure: str = "") -> None:
        super().__init__(looked, cure)
        self.looked = looked
        #: What to do.
        self.cure = cure or f"start one with `{command_line('up')}`, or pass a url"

    def __str__(self) -> str:
        return f"no router found ({self.looked}); {self.cure}"


class ConnectionLost(TimbrError, ConnectionError):
    """The connection dropped during a call; whether the call took effect is unknown."""

    uri = ERROR_PREFIX + "connection_lost"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"the connection dropped during {self.what} ({self.reason}); the call may have taken effect"


class CallTimeout(TimbrError, TimeoutError):
    """A call got no answer in time and was cancelled."""

    uri = ERROR_PREFIX + "call_timeout"

    def __init__(self, what: str, timeout_s: float) -> None:
        super().__init__(what, timeout_s)
        self.what, self.timeout_s = what, timeout_s

    def __str__(self) -> str:
        return f"{self.what} got no answer within {self.timeout_s:g} s"


class InternalError(TimbrError, RuntimeError):
    """A part of timbr_wamp failed in a way that nobody expected: a fault of ours. The log has its traceback."""

    uri = ERROR_PREFIX + "internal"

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = where, problem

    def __str__(self) -> str:
        return f"{self.where} failed unexpectedly: {self.problem}; please report it"


class TooManyTasks(TimbrError, RuntimeError):
    """An object has as many background tasks as it may; this one was not started."""

    uri = ERROR_PREFIX + "too_many_tasks"

    def __init__(self, task: str, limit: int) -> None:
        super().__init__(task, limit)
        self.task, self.limit = task, limit

    def __str__(self) -> str:
        return f"{self.task} was not started: at most {counted(self.limit, 'task')} may run at once"


class CalledFromLoop(TimbrError, RuntimeError):
    """A blocking call was made in the background loop's own thread, where it would deadlock."""

    uri = ERROR_PREFIX + "called_from_loop"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} would deadlock in the loop's own thread; use the async client there, or another thread"


class LoopClosed(TimbrError, RuntimeError):
    """The event loop in which something ran was closed before it ended."""

    uri = ERROR_PREFIX + "loop_closed"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} did not end: its event loop was closed"


class AlreadyClosed(LoopClosed):
    """A client, or a reader of records, was used after it was closed."""

    uri = ERROR_PREFIX + "already_closed"

    def __init__(self, what: str, again: str) -> None:
        TimbrError.__init__(self, what, again)
        self.what, self.again = what, again

    def __str__(self) -> str:
        return f"{self.what} was closed; open a new one with {self.again}"


class ForkedClient(TimbrError, RuntimeError):
    """A client was used in a forked child of the process that created it."""

    uri = ERROR_PREFIX + "forked_client"

    def __init__(self, made_in: int, used_in: int) -> None:
        super().__init__(made_in, used_in)
        self.made_in, self.used_in = made_in, used_in

    def __str__(self) -> str:
        return f"this client belongs to process {self.made_in}; call connect() in process {self.used_in}"


class TokenRejected(TimbrError, PermissionError):
    """The router does not know this token, or its secret is wrong."""

    uri = ERROR_PREFIX + "token_rejected"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        create = command_line("token", "create", "--role", "viewer", "--name", "ada")
        return f"token {self.name!r} was rejected: {self.reason}; where the router runs, `{create}` creates one"


class InvalidToken(TimbrError, ValueError):
    """A text that is not a token. The text may be a secret, so the error does not contain it."""

    uri = ERROR_PREFIX + "invalid_token"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"no valid token: {self.problem}; a token has the form <name>.<secret>"


class TokenRevoked(TimbrError, PermissionError):
    """The token was revoked while a wamp session used it."""

    uri = ERROR_PREFIX + "token_revoked"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"token {self.name!r} was revoked; ask the administrator for a new one"


class UnknownToken(TimbrError, LookupError):
    """No token has that name."""

    uri = ERROR_PREFIX + "unknown_token"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name, list(known))
        self.name, self.known = name, tuple(known)

    def __str__(self) -> str:
        return f"no token named {self.name!r}{what_there_is(self.name, 'known tokens', self.known)}"


class TokenExists(TimbrError):
    """A token with that name already exists."""

    uri = ERROR_PREFIX + "token_exists"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"a token named {self.name!r} already exists; revoke it first, or choose another name"


class NotAuthorized(TimbrError, PermissionError):
    """The token's role does not permit this."""

    uri = ERROR_PREFIX + "not_authorized"

    def __init__(self, action: str, name: str, role: str | None = None, needed: str | None = None) -> None:
        super().__init__(action, name)
        self.args = action, name, role, needed  # an OSError keeps no more than two
        #: ``role`` is that of the token, and ``needed`` the lowest role that may; None where it is not known.
        self.action, self.name, self.role, self.needed = action, name, role, needed

    def __str__(self) -> str:
        whose = "this token's role" if self.role is None else f"this token's role {self.role!r}"
        if self.action == "register" or self.needed == "host":
            create = command_line("token", "create", "--role", "host", "--name", "lab")
            advice = f"that takes a token of the role host, from where the router runs: `{create}`"
        elif self.needed is not None:
            advice = f"that takes a token of the role {self.needed}"
        else:
            advice = "ask for one with a higher role"
        return f"{whose} may not {self.action} {self.name}; {advice}"


#: `UnknownKernel.kernel` when none was named, and when the only one is the kernel that asks.
ANY_KERNEL, OTHER_KERNEL = "(any)", "(any other)"
#: `AmbiguousKernel.kernel` when no host was named.
ANY_HOST = "(any host)"


class UnknownKernel(TimbrError, LookupError):
    """No kernel on the router has that id or name."""

    uri = ERROR_PREFIX + "unknown_kernel"

    def __init__(self, kernel: str, known: Sequence[str], near: str | None = None) -> None:
        super().__init__(kernel, list(known), near)
        #: ``near`` is the name or id that may be meant.
        self.kernel, self.known, self.near = kernel, tuple(known), near

    def __str__(self) -> str:
        unnamed = {ANY_KERNEL: "kernel", OTHER_KERNEL: "kernel but this one"}
        which = unnamed.get(self.kernel) or f"kernel {self.kernel!r}"
        known = ", ".join(self.known) or "none"
        near = "" if self.near is None else f"; did you mean {self.near!r}?"
        return f"no {which} on the router; known kernels: {known}{near}"


class OwnKernel(TimbrError, RuntimeError):
    """The kernel was asked to run code by a cell of its own."""

    uri = ERROR_PREFIX + "own_kernel"

    def __init__(self, kernel_id: str) -> None:
        super().__init__(kernel_id)
        self.kernel_id = kernel_id

    def __str__(self) -> str:
        return (
            f"kernel {self.kernel_id} is the one that asks: it runs one cell after the other, so it would wait for "
            "itself; run the code directly, or select another kernel"
        )


class AmbiguousKernel(TimbrError, LookupError):
    """More than one kernel matches."""

    uri = ERROR_PREFIX + "ambiguous_kernel"

    def __init__(self, kernel: str, candidates: Sequence[str]) -> None:
        super().__init__(kernel, list(candidates))
        self.kernel, self.candidates = kernel, tuple(candidates)

    def __str__(self) -> str:
        names = ", ".join(self.candidates)
        if self.kernel in (ANY_KERNEL, OTHER_KERNEL, ANY_HOST):
            return f"there are several {'hosts' if self.kernel == ANY_HOST else 'kernels'}; name one of: {names}"
        return f"{self.kernel!r} matches several kernels; name one of them by its full id: {names}"


class NoSuchProcedure(TimbrError, LookupError):
    """The procedure is not registered: the kernel, its machine or the host is gone."""

    uri = ERROR_PREFIX + "no_such_procedure"

    def __init__(self, procedure: str, near: str | None = None) -> None:
        super().__init__(procedure, near)
        #: ``near`` is the procedure of the contract that may be meant, if this is none.
        self.procedure, self.near = procedure, near

    def __str__(self) -> str:
        why = "the kernel is gone, or it has no such machine" if self.near is None else f"did you mean {self.near!r}?"
        return f"{self.procedure} is not registered: {why}"


class CallCancelled(TimbrError):
    """The caller cancelled this call, or has gone."""

    uri = ERROR_PREFIX + "call_cancelled"

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.call = call

    def __str__(self) -> str:
        return f"{self.call} was cancelled by its caller"


class ControlBusy(TimbrError):
    """Too many calls that run code are in progress in the machine; this one was not started."""

    uri = ERROR_PREFIX + "control_busy"

    def __init__(self, under_way: int) -> None:
        super().__init__(under_way)
        self.under_way = under_way

    def __str__(self) -> str:
        return f"{self.under_way} calls are already in progress in this machine; try again when one has ended"


class NoMachine(TimbrError, LookupError):
    """The kernel has no machine of that name. ``reason``: why, if it is known."""

    uri = ERROR_PREFIX + "no_machine"

    def __init__(self, kernel: str, name: str, known: Sequence[str] = (), reason: str = "") -> None:
        super().__init__(kernel, name, list(known), reason)
        #: ``known`` are the machines that the kernel has.
        self.kernel, self.name, self.known, self.reason = kernel, name, tuple(known), reason

    def __str__(self) -> str:
        text = f"kernel {self.kernel} has no machine {self.name!r}"
        if self.known:
            return text + what_there_is(self.name, "its machines", self.known)
        if self.reason:
            return f"{text}: {self.reason}"
        return f"{text}; create one there: m = timbr_wamp.Machine()"


class KernelDead(TimbrError):
    """The kernel's process has ended."""

    uri = ERROR_PREFIX + "kernel_dead"

    def __init__(self, kernel: str, reason: str) -> None:
        super().__init__(kernel, reason)
        self.kernel, self.reason = kernel, reason

    def __str__(self) -> str:
        return f"kernel {self.kernel} is dead: {self.reason}"


class KernelStartFailed(TimbrError):
    """A kernel did not start."""

    uri = ERROR_PREFIX + "kernel_start_failed"

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason, log_tail)
        self.reason, self.log_tail = reason, log_tail

    def __str__(self) -> str:
        return _with_log(f"the kernel did not start: {self.reason}", self.log_tail)


class StartupFailed(TimbrError):
    """A kernel that was (re)started runs, but its startup file failed. ``reason`` names file, line and error."""

    uri = ERROR_PREFIX + "startup_failed"

    def __init__(self, kernel: str, reason: str) -> None:
        super().__init__(kernel, reason)
        self.kernel, self.reason = kernel, reason

    def __str__(self) -> str:
        return f"kernel {self.kernel} runs, but its {self.reason}; mend the file and restart the kernel"


class KernelNameTaken(TimbrError):
    """Another kernel of this computer has the name, on the same router."""

    uri = ERROR_PREFIX + "kernel_name_taken"

    def __init__(self, name: str, kernel: str) -> None:
        super().__init__(name, kernel)
        self.name, self.kernel = name, kernel

    def __str__(self) -> str:
        return f"a kernel named {self.name!r} runs already: {self.kernel}; end it, or choose another name"


class KernelNotManaged(TimbrError):
    """An operation on a kernel that timbr_wamp did not start, so the bridge cannot do it."""

    uri = ERROR_PREFIX + "kernel_not_managed"

    def __init__(self, kernel: str, operation: str) -> None:
        super().__init__(kernel, operation)
        self.kernel, self.operation = kernel, operation

    def __str__(self) -> str:
        return f"kernel {self.kernel} was not started by timbr_wamp, so it cannot be {self.operation} from here"


class NotAKernel(TimbrError):
    """An operation that needs a kernel was called on a headless machine process."""

    uri = ERROR_PREFIX + "not_a_kernel"

    def __init__(self, kernel: str, operation: str) -> None:
        super().__init__(kernel, operation)
        self.kernel, self.operation = kernel, operation

    def __str__(self) -> str:
        return f"{self.kernel} is a headless machine process, not a kernel: it cannot {self.operation}"


class AlreadyBridged(TimbrError):
    """Another bridge serves this kernel."""

    uri = ERROR_PREFIX + "already_bridged"

    def __init__(self, kernel: str, pid: int) -> None:
        super().__init__(kernel, pid)
        self.kernel, self.pid = kernel, pid

    def __str__(self) -> str:
        return f"kernel {self.kernel} already has a bridge (process {self.pid})"


class ShareFailed(TimbrError):
    """A kernel could not be put on the router, or taken off it, from itself."""

    uri = ERROR_PREFIX + "share_failed"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class NoConnectionFile(TimbrError, FileNotFoundError):
    """A Jupyter connection file is missing or cannot be read."""

    uri = ERROR_PREFIX + "no_connection_file"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"connection file {self.path}: {self.problem}; `jupyter --runtime-dir` prints the folder that has them"


class AlreadyHosted(TimbrError):
    """Another host already uses this runtime folder."""

    uri = ERROR_PREFIX + "already_hosted"

    def __init__(self, folder: str, pid: int) -> None:
        super().__init__(folder, pid)
        self.folder, self.pid = folder, pid

    def __str__(self) -> str:
        return f"a host (process {self.pid}) already uses {self.folder}; use that one, or stop it first"


class HostNameTaken(TimbrError):
    """Another host answers on the router with a token of the same name."""

    uri = ERROR_PREFIX + "host_name_taken"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"another host is on the router as {self.name!r}; stop that one, or give this one a token of its own, "
            f"from where the router runs: `{command_line('token', 'create', '--role', 'host', '--name', 'lab2')}`"
        )


# --- projects --------------------------------------------------------------------------------


class InvalidProject(TimbrError, ValueError):
    """A project file that cannot be used; the error lists all its problems."""

    uri = ERROR_PREFIX + "invalid_project"

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        super().__init__(path, list(problems))
        self.path, self.problems = path, list(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.path}: {self.problems[0]}"
        return "\n  ".join([f"{self.path}: {counted(len(self.problems), 'problem')}", *self.problems])


class CannotSave(TimbrError):
    """A part of a machine cannot be written to a project file."""

    uri = ERROR_PREFIX + "cannot_save"

    def __init__(self, part: str, problem: str) -> None:
        super().__init__(part, problem)
        self.part, self.problem = part, problem

    def __str__(self) -> str:
        return f"{self.part} cannot be saved: {self.problem}"


# --- router ----------------------------------------------------------------------------------


class RouterNotInstalled(TimbrError):
    """The router's environment with Crossbar.io is missing."""

    uri = ERROR_PREFIX + "router_not_installed"

    def __init__(self, looked: str, install: str) -> None:
        super().__init__(looked, install)
        self.looked, self.install = looked, install

    def __str__(self) -> str:
        return f"Crossbar.io not found ({self.looked}); install it with: {self.install}"


class RouterInstallFailed(TimbrError):
    """The router's environment could not be created."""

    uri = ERROR_PREFIX + "router_install_failed"

    def __init__(self, step: str, log_tail: str) -> None:
        super().__init__(step, log_tail)
        self.step, self.log_tail = step, log_tail

    def __str__(self) -> str:
        return f"creating the router's environment failed at: {self.step}\n{self.log_tail}"


class RouterStartFailed(TimbrError):
    """The router ended or did not answer in time."""

    uri = ERROR_PREFIX + "router_start_failed"

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason, log_tail)
        self.reason, self.log_tail = reason, log_tail

    def __str__(self) -> str:
        return _with_log(f"the router did not start: {self.reason}", self.log_tail)


class PortBusy(TimbrError, OSError):
    """The port is in use."""

    uri = ERROR_PREFIX + "port_busy"

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port

    def __str__(self) -> str:
        return f"port {self.port} is in use; choose another with --port, or use --next-free-port"


class NoFreePort(TimbrError, OSError):
    """Every port of the range that was tried is in use."""

    uri = ERROR_PREFIX + "no_free_port"

    def __init__(self, first: int, last: int) -> None:
        super().__init__(first, last)
        self.first, self.last = first, last

    def __str__(self) -> str:
        return f"no free port from {self.first} to {self.last}; choose another with --port"


class AlreadyUp(TimbrError):
    """A router already runs from this folder."""

    uri = ERROR_PREFIX + "already_up"

    def __init__(self, pid: int, url: str) -> None:
        super().__init__(pid, url)
        self.pid, self.url = pid, url

    def __str__(self) -> str:
        return (
            f"timbr-wamp already runs (process {self.pid}) at {self.url}; use it, or stop it: "
            f"Ctrl-C where it runs, or `{command_line('router', 'stop')}`"
        )


class ServiceEnded(TimbrError):
    """A child process of ``up`` ended by itself or did not answer."""

    uri = ERROR_PREFIX + "service_ended"

    def __init__(self, what: str, reason: str, log_tail: str = "") -> None:
        super().__init__(what, reason, log_tail)
        self.what, self.reason, self.log_tail = what, reason, log_tail

    def __str__(self) -> str:
        return _with_log(f"{self.what} {self.reason}; all services were stopped", self.log_tail)


# --- storage, streams ------------------------------------------------------------------------


class StorageBusy(TimbrError, TimeoutError):
    """Other processes, or a slow disk, used a storage for too long; ``holder`` says who, if it is known."""

    uri = ERROR_PREFIX + "storage_busy"

    def __init__(self, place: str, waited_s: float, holder: str = "another process") -> None:
        super().__init__(place, waited_s, holder)
        self.args = (place, waited_s, holder)  # OSError takes a third one for a file's name
        self.place, self.waited_s, self.holder = place, waited_s, holder

    def __str__(self) -> str:
        cure = "close it there first" if self.holder == "this process" else "try again, or end that one"
        return f"{self.place} is in use by {self.holder} (waited {self.waited_s:.1f} s); {cure}"


class StorageFailed(TimbrError, OSError):
    """A file, or a server that stores data, refused or failed; nothing was changed."""

    uri = ERROR_PREFIX + "storage_failed"

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class StorageClosed(TimbrError):
    """A call of a stream, journal or another storage after its ``close()``."""

    uri = ERROR_PREFIX + "storage_closed"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place

    def __str__(self) -> str:
        return f"{self.place} was closed here; open it again"


class SlotNotRestored(TimbrError):
    """A slot whose function could not be had again after a restart."""

    uri = ERROR_PREFIX + "slot_not_restored"

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(task, reason)
        self.task, self.reason = task, reason

    def __str__(self) -> str:
        return (
            f"{self.task} was not restored from the journal ({self.reason}); set the slot, and retry the messages "
            "with retry_errors()"
        )


class LeaseLost(TimbrError):
    """Claims of a stream's entries that ran out, or were given back: their entries may be others' now."""

    uri = ERROR_PREFIX + "lease_lost"

    def __init__(self, stream: str, group: str, positions: Sequence[int]) -> None:
        super().__init__(stream, group, list(positions))
        self.stream, self.group, self.positions = stream, group, tuple(positions)

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.positions[:5])) + (", …" if len(self.positions) > 5 else "")
        return (
            f"stream {self.stream!r}, group {self.group!r}: the claim of entry {shown} has ended; another consumer may "
            "have it. Nothing of it was acknowledged: claim with a longer lease_s, or extend the claim in time"
        )


# --- page ------------------------------------------------------------------------------------


class PageBuildFailed(TimbrError):
    """The build of the dashboard page failed."""

    uri = ERROR_PREFIX + "page_build_failed"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the build of the page failed: {self.reason}"
