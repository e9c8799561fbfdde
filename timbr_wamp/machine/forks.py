"""What a fork of the process does to a machine: the child's copy refuses every call, and waits for no lock.

A fork copies one thread only. A lock that another thread held stays locked in the child for ever, and the
threads that process messages do not exist there. Objects that hold a machine's locks register here,
and in the child their locks are replaced: by one that raises `MachineForked` where a call would
change the machine, or by a new one where a call is harmless. The parent is not affected.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from _thread import RLock
from types import TracebackType
from typing import Any, NoReturn, Protocol

from timbr_wamp.errors import MachineForked

logger = logging.getLogger(__name__)


class SurvivesFork(Protocol):
    """An object with locks or threads."""

    def after_fork_in_child(self) -> None:
        """Replace locks and forget threads. Called in the child's only thread; must not block."""


_registered: weakref.WeakSet[SurvivesFork] = weakref.WeakSet()
_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def short_lock() -> RLock:
    """Return a lock for a few steps without foreign code, which the same thread can enter again.

    In a forked child it is free: whoever held it in the parent does not exist there.
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def survive_forks(thing: SurvivesFork) -> None:
    """Call ``thing.after_fork_in_child()`` in each forked child of the process while the object lives."""
    _registered.add(thing)


def _after_fork_in_child() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # as the standard library does with its own
    for thing in list(_registered):
        try:
            thing.after_fork_in_child()
        except Exception:  # the others must not stay locked
            logger.exception("%r could not be made safe after a fork", thing)


os.register_at_fork(after_in_child=_after_fork_in_child)


class ForkedLock:
    """Replaces a lock of a machine in a forked child: acquiring it raises `MachineForked`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = os.getppid()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> NoReturn:
        """Refuse."""
        raise MachineForked(self._name, self._pid)

    def __enter__(self) -> NoReturn:
        raise MachineForked(self._name, self._pid)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was acquired."""
