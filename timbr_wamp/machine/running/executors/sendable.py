"""Which functions run in child processes, and their pickled bytes.

Functions, classes and builtins do. Callables with state do not: bound methods, callable objects, partials of these.
A child would get a copy, and copies would not share their state.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from collections.abc import Callable
from itertools import count
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple, cast

from timbr_wamp.errors import described, is_users_interrupt
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.protocols import PlanStep
from timbr_wamp.machine.running.executors.pickling import dumps
from timbr_wamp.machine.slots.callables import innermost, is_class, is_kind

logger = logging.getLogger(__name__)

#: Functions whose bytes are kept.
KEPT = 1_000


class Sendable(NamedTuple):
    """A function that can be sent: its number, and its bytes."""

    number: int
    data: bytes
    #: When the file of its module was changed last, UTC seconds. A child that started before may have imported the
    #: module as it was.
    changed_at: float


class SendableFunctions:
    """The functions of one executor. Any thread."""

    def __init__(self) -> None:
        self._lock = short_lock()
        self._numbers = count(1)
        #: By the function's id, with the function itself, so that the id is not reused; None: it is not sent.
        self._known: dict[int, tuple[Callable[..., Any], Sendable | None]] = {}

    def of(self, step: PlanStep) -> Sendable | None:
        """Return a step's function as bytes; None when it runs in this process."""
        function = step.function
        if step.is_async:
            return None
        with self._lock:
            known = self._known.get(id(function))
            if known is None:
                data = _data_of(function)
                sendable = None if data is None else Sendable(next(self._numbers), data, _changed_at(function))
                known = self._known[id(function)] = (function, sendable)
                if len(self._known) > KEPT:
                    del self._known[next(iter(self._known))]
            return known[1]

    def keep_here(self, number: int, reason: str) -> None:
        """Stop sending a function: it runs in this process from now on."""
        with self._lock:
            for key, (function, sendable) in self._known.items():
                if sendable is not None and sendable.number == number:
                    self._known[key] = (function, None)
                    logger.warning("%r runs in this process, not in a child: %s", function, reason)
                    return


def _data_of(function: Callable[..., Any]) -> bytes | None:
    if not is_stateless(function):
        return None
    try:
        return dumps(function)
    except BaseException as error:  # `__reduce__` of its globals is foreign code
        if is_users_interrupt(error):
            raise
        logger.info("%r runs in this process, not in a child: %s", function, described(error))
        return None


def _changed_at(function: object) -> float:
    module = sys.modules.get(str(getattr(innermost(function), "__module__", None)))
    file = getattr(module, "__file__", None)
    try:
        # Never later than now: else every child would be older than the file.
        return min(os.stat(file).st_mtime, time.time()) if isinstance(file, str) else 0.0
    except OSError:
        return 0.0


def is_stateless(function: object) -> bool:
    """Tell by its type whether a copy of a callable does what the callable does."""
    if is_kind(function, functools.partial):
        return is_stateless(functools.partial.__dict__["func"].__get__(function))
    if is_kind(function, MethodType):
        return is_class(cast("MethodType", function).__self__)
    if is_kind(function, BuiltinFunctionType):
        owner = cast("BuiltinFunctionType", function).__self__
        return owner is None or is_class(owner) or is_kind(owner, ModuleType)
    return is_class(function) or is_kind(function, FunctionType, MethodDescriptorType, WrapperDescriptorType)
