"""`Hooks`: foreign functions that run at named points of a machine's life, isolated and counted.

The points and their arguments are `POINTS`. Points around a stage (``pre_…``, ``post_…``) run where the
stage runs, in its thread: a slow hook makes its stage slow. Points named ``on_…`` run in the bus thread
of `timbr_wamp.machine.events.log`, which decides when; this module only keeps and calls.

A hook that raises anything loses no message: the failure is reported, and the hook is called again the
next time, however often it failed.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from types import CoroutineType, FunctionType, MethodType
from typing import Any, Final, TypeAlias, get_args

from timbr_wamp import plugins
from timbr_wamp.contract import EventKind
from timbr_wamp.errors import InvalidArgument, did_you_mean, is_users_interrupt
from timbr_wamp.machine.checks import checked_list
from timbr_wamp.machine.events.failure_log import FailureLog
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.slots.callables import is_async, is_class, is_kind, method_of

logger = logging.getLogger(__name__)

#: A hook; its return value is ignored.
HookFunction: TypeAlias = Callable[..., object]

KINDS: Final[tuple[str, ...]] = get_args(EventKind)

#: Stages in whose thread a pair of hooks runs, and what ``pre_…`` and ``post_…`` get.
_STAGES: Final = {
    "put": ("message", "oid, message"),
    "message": ("oid, message", "oid, values, failures"),
    "slot": ("oid, slot, arguments", "oid, slot, value, error"),
    "publish": ("rows", "rows"),
    "get": ("", "row"),
    "start": ("", ""),
    "pause": ("", ""),
    "resume": ("", ""),
    "stop": ("", ""),
    "shutdown": ("", ""),
    "change": ("functions", "revision"),
    "source": ("source", "status"),
}

#: Other names of points.
ALIASES: Final = {"on_shutdown": "on_closed", "on_restart": "on_restarted"}

#: The name of each point → its arguments.
POINTS: Final[dict[str, str]] = {
    **{f"pre_{stage}": before for stage, (before, _) in _STAGES.items()},
    **{f"post_{stage}": after for stage, (_, after) in _STAGES.items()},
    "on_event": "event",
    **{f"on_{kind}": "event" for kind in KINDS},
    **dict.fromkeys(ALIASES, "event"),
    "on_error": "error_row",
}

#: Why an async function is refused as a hook.
NOT_AWAITED: Final = "hooks and callbacks are called, not awaited: give a plain function, not an async one"

_PREFIXES = ("pre_", "post_", "on_")


class Hooks:
    """The hooks of one machine. Any thread; a change takes effect at the next call of `at`."""

    def __init__(self, failures: FailureLog | None = None) -> None:
        #: Grows with each change, for callers that cache the result of `at`.
        self.version = 0
        #: Called after each change; quick, never raises. The machine sets it.
        self.on_change: Callable[[], None] = lambda: None
        #: Where failures of hooks, and of the machine's other foreign code, are reported.
        self.failures = FailureLog() if failures is None else failures
        self._lock = short_lock()
        self._at: dict[str, tuple[HookFunction, ...]] = {}

    def at(self, point: str) -> tuple[HookFunction, ...]:
        """Return the hooks of a point in the order in which they were added. One look-up in an immutable table."""
        return self._at.get(point, ())

    def add(self, point: str, function: HookFunction) -> Callable[[], None]:
        """Call ``function`` at ``point`` from now on; return a function that ends that. Added twice, it runs twice.

        Raises:
            InvalidArgument: no such point, not callable, or an async function.
        """
        name = checked_point(point)
        if not callable(function):
            raise InvalidArgument("function", f"a hook must be callable, not {type(function).__name__}")
        return self._add([(name, function)])

    def add_object(self, hook: object, *, required: bool = True) -> Callable[[], None]:
        """Add every method of an object that is named like a point; return a function that removes them.

        Raises:
            InvalidArgument: it has no such method, unless ``required`` is False; or one of them is async.
        """
        if is_class(hook):
            raise InvalidArgument("hook", f"{_name(hook)} is a class: give an instance of it")
        found = ((name, method_of(hook, name)) for name in POINTS)
        methods = [(ALIASES.get(name, name), method) for name, method in found if method is not None]
        if not methods and required:
            raise InvalidArgument("hook", f"{type(hook).__name__} has no method named like a hook point")
        _warn_of_typos(hook)
        return self._add(methods)

    def _add(self, pairs: list[tuple[str, HookFunction]]) -> Callable[[], None]:
        for name, function in pairs:
            if is_async(function):
                raise InvalidArgument("function", f"{_name(function)} at {name}: {NOT_AWAITED}")
        with self._lock:
            for name, function in pairs:
                self._at = {**self._at, name: (*self._at.get(name, ()), function)}
            self.version += 1
            self.on_change()
        waiting = list(pairs)

        def remove() -> None:
            with self._lock:
                while waiting:
                    self._take_away(*waiting.pop())
                self.version += 1
                self.on_change()

        return remove

    def _take_away(self, name: str, function: HookFunction) -> None:
        kept = list(self._at[name])
        kept.pop(next(n for n, present in enumerate(kept) if present is function))
        self._at = {**self._at, name: tuple(kept)}

    def call(self, point: str, *arguments: object) -> None:
        """Call the hooks of a point in order, each isolated: see `timbr_wamp.machine.isolation`.

        Raises:
            KeyboardInterrupt: the user's Ctrl-C, after the last hook was called.
        """
        interrupt: BaseException | None = None
        for function in self._at.get(point, ()):
            try:
                result = function(*arguments)
                if result is not None and type(result) is CoroutineType:
                    result.close()
                    raise InvalidArgument("function", NOT_AWAITED)
            except BaseException as error:
                if is_users_interrupt(error):
                    interrupt = error
                else:
                    self.failures.report(f"hook {_name(function)} at {point}", error, "hook")
        if interrupt is not None:
            raise interrupt


def checked_point(point: str) -> str:
    """Return the name under which a point's hooks are kept.

    >>> checked_point("on_shutdown")
    'on_closed'

    Raises:
        InvalidArgument: no such point; the text names similar ones.
    """
    if point not in POINTS:
        near = did_you_mean(point, POINTS) or f"; points begin with {', '.join(_PREFIXES)}"
        raise InvalidArgument("point", f"no hook point {point!r}{near}")
    return ALIASES.get(point, point)


def load_hooks(parts: Iterable[object]) -> list[object]:
    """Return hook objects: a name is looked up among the plugins, a class is instantiated.

    ``(name or class, options)`` gives a class its arguments.

    Raises:
        UnknownPlugin, PluginNotInstalled: an unknown name, or one whose library is missing.
        InvalidArgument: options that the class does not take, or a missing one.
    """
    return [_loaded(part) for part in checked_list("hooks", parts, "objects, classes or names")]


def _loaded(part: object) -> object:
    options: Mapping[str, object] = {}
    if isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[1], Mapping):
        part, options = part
    if isinstance(part, str):
        part = plugins.load(plugins.HOOKS, part)
    if inspect.isclass(part):
        return plugins.instantiate(part, options)
    if options:
        raise InvalidArgument("hooks", f"{type(part).__name__} is an object already: options go to a name or class")
    return part


def _warn_of_typos(hook: object) -> None:
    for name in sorted({name for base in type.mro(type(hook)) for name in vars(base)}):
        if name.startswith(_PREFIXES) and name not in POINTS:
            near = difflib.get_close_matches(name, POINTS, 1, cutoff=0.8)
            if near:
                logger.warning("%s.%s is no hook point and is never called; there is %s", _name(hook), name, near[0])


def _name(part: object) -> str:
    """Return the name of a hook for people: of the function, else of its type."""
    named: Any = part if is_kind(part, FunctionType, MethodType, type) else type(part)
    return str(named.__qualname__)
