"""`Hooks`: foreign functions that run at named points of a machine's life, isolated and counted.

The points and their arguments are `POINTS`. Points around a stage (``pre_…``, ``post_…``) run where the
stage runs, in its thread: a slow hook makes its stage slow. Points named ``on_…`` run in the bus thread
of `timbr_wamp.machine.events.log`, which decides when; this module only keeps and calls.

A hook that raises costs nobody a message: the failure is counted and logged, and the hook is called
again the next time, however often it failed. One that ceased by itself would be a silent fault.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, get_args

from timbr_wamp import plugins
from timbr_wamp.contract import EventKind
from timbr_wamp.errors import InvalidArgument

logger = logging.getLogger(__name__)

#: What a hook is: what it returns is not looked at.
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

#: Every point by its name → what its arguments are.
POINTS: Final[dict[str, str]] = {
    **{f"pre_{stage}": before for stage, (before, _) in _STAGES.items()},
    **{f"post_{stage}": after for stage, (_, after) in _STAGES.items()},
    "on_event": "event",
    **{f"on_{kind}": "event" for kind in KINDS},
    **dict.fromkeys(ALIASES, "event"),
    "on_error": "error_row",
}

#: A hook that fails again and again is logged at most so often.
LOG_INTERVAL_S = 1.0
#: Of so many failing hooks each is counted apart; `Hooks.failures` counts them all.
FAILING_KEPT = 1_000

_PREFIXES = ("pre_", "post_", "on_")


class _Failing:
    """How often one hook failed, and when that was logged."""

    __slots__ = ("count", "logged_at", "unlogged")

    def __init__(self) -> None:
        self.count, self.unlogged, self.logged_at = 0, 0, -LOG_INTERVAL_S


class Hooks:
    """The hooks of one machine. Any thread; a change is seen by whoever asks next."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        #: Grows with each change, for those who keep what `at` gave.
        self.version = 0
        #: Failures of all hooks so far.
        self.failures = 0
        #: Told ``(error, point)`` of each failure, in the hook's thread: the machine sets it.
        self.on_failure: Callable[[Exception, str], None] | None = None
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._at: dict[str, tuple[HookFunction, ...]] = {}
        #: By the function's id, as long as it is a hook (the tables keep it alive), or by a text.
        self._failing: dict[int | str, _Failing] = {}

    def at(self, point: str) -> tuple[HookFunction, ...]:
        """Return the hooks of a point in the order they came. One look-up in a table that is replaced whole."""
        return self._at.get(point, ())

    def add(self, point: str, function: HookFunction) -> Callable[[], None]:
        """Call ``function`` at ``point`` from now on; return what ends that. The same one twice runs twice.

        Raises:
            InvalidArgument: no such point, or nothing that can be called.
        """
        name = checked_point(point)
        if not callable(function):
            raise InvalidArgument("function", f"a hook must be callable, not {type(function).__name__}")
        return self._add([(name, function)])

    def add_object(self, hook: object, *, required: bool = True) -> Callable[[], None]:
        """Add every method of an object that is named like a point; return what takes all away again.

        Raises:
            InvalidArgument: it has none, unless ``required`` is False.
        """
        if inspect.isclass(hook):
            raise InvalidArgument("hook", f"{hook.__name__} is a class: give an instance of it")
        methods = [(ALIASES.get(name, name), getattr(hook, name)) for name in POINTS if callable(_member(hook, name))]
        if not methods and required:
            raise InvalidArgument("hook", f"{type(hook).__name__} has no method named like a hook point")
        _warn_of_typos(hook)
        return self._add(methods)

    def _add(self, pairs: list[tuple[str, HookFunction]]) -> Callable[[], None]:
        with self._lock:
            for name, function in pairs:
                self._at = {**self._at, name: (*self._at.get(name, ()), function)}
            self.version += 1
        waiting = list(pairs)

        def remove() -> None:
            with self._lock:
                while waiting:
                    self._take_away(*waiting.pop())
                self.version += 1

        return remove

    def _take_away(self, name: str, function: HookFunction) -> None:
        kept = list(self._at[name])
        kept.pop(next(n for n, present in enumerate(kept) if present is function))
        self._at = {**self._at, name: tuple(kept)}
        if not any(present is function for present in kept):
            self._failing.pop(id(function), None)

    def call(self, point: str, *arguments: object) -> None:
        """Call the hooks of a point in order, each isolated. KeyboardInterrupt and SystemExit pass."""
        for function in self._at.get(point, ()):
            try:
                function(*arguments)
            except Exception as error:  # a hook is foreign code
                self.failed(point, error, function)

    def failed(self, point: str, error: Exception, function: HookFunction | None = None) -> None:
        """Count and log a failure: for callers that have their own loop over `at`.

        Without ``function`` it is other foreign code that failed, which ``point`` names; `on_failure`
        is not told of it, since it may be that very code.
        """
        with self._lock:
            self.failures += 1
            failing = self._failing_of(point if function is None else id(function))
            failing.count += 1
            now = self._monotonic()
            due = now - failing.logged_at >= LOG_INTERVAL_S
            count, unlogged = failing.count, failing.unlogged
            failing.logged_at, failing.unlogged = (now, 0) if due else (failing.logged_at, unlogged + 1)
        if due:
            who = point if function is None else f"hook {_name(function)} at {point}"
            logger.error("%s failed, %d times so far, %d of them unlogged", who, count, unlogged, exc_info=error)
        if function is not None and self.on_failure is not None:
            self.on_failure(error, point)

    def _failing_of(self, key: int | str) -> _Failing:
        if key not in self._failing and len(self._failing) >= FAILING_KEPT:
            self._failing.pop(next(iter(self._failing)))
        return self._failing.setdefault(key, _Failing())

    def failures_of(self, function: HookFunction) -> int:
        """Return how often one hook failed; 0 for what is no hook any more."""
        failing = self._failing.get(id(function))
        return failing.count if failing is not None else 0


def checked_point(point: str) -> str:
    """Return the name under which a point's hooks are kept.

    >>> checked_point("on_shutdown")
    'on_closed'

    Raises:
        InvalidArgument: no such point; the text names those that are spelled alike.
    """
    if point not in POINTS:
        near = difflib.get_close_matches(point, POINTS, 3) if isinstance(point, str) else []
        hint = f"did you mean {' or '.join(near)}?" if near else f"points begin with {', '.join(_PREFIXES)}"
        raise InvalidArgument("point", f"no hook point {point!r}; {hint}")
    return ALIASES.get(point, point)


def load_hooks(parts: Iterable[object]) -> list[object]:
    """Return hook objects: a name is looked up among the plugins, a class is instantiated.

    ``(name or class, options)`` gives a class its arguments.

    Raises:
        UnknownPlugin, PluginNotInstalled: a name that is none, or one whose library is missing.
        InvalidArgument: options that the class does not take, or one missing.
    """
    return [_loaded(part) for part in parts]


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


def _member(hook: object, name: str) -> Any:
    """Return an attribute that the object really has: one that answers to every name is no hook for all."""
    try:
        inspect.getattr_static(hook, name)
    except AttributeError:
        return None
    return getattr(hook, name)


def _warn_of_typos(hook: object) -> None:
    for name in dir(type(hook)):
        if name.startswith(_PREFIXES) and name not in POINTS:
            near = difflib.get_close_matches(name, POINTS, 1, cutoff=0.8)
            if near:
                logger.warning("%s.%s is no hook point and is never called; there is %s", _name(hook), name, near[0])


def _name(part: object) -> str:
    return getattr(part, "__qualname__", None) or type(part).__qualname__
