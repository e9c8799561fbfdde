"""Marks code that processes a machine's messages, so that calls that would deadlock are refused.

A slot, hook or sink that waits for room in its own machine's queue, or for that machine to settle, waits
for its own return. The mark is a context variable: what the marked code schedules in an event loop
(`call_soon_threadsafe`, tasks, `asyncio.to_thread`) has it too. Threads of a pool do not inherit it, so
code that runs slots there enters `processing` there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from timbr_wamp.errors import WouldDeadlock

_processed: ContextVar[tuple[object, ...]] = ContextVar("timbr_processed", default=())
#: The machine whose source is read by this code, which may wait for room but not for that source's end.
_fed: ContextVar[object] = ContextVar("timbr_fed", default=None)


@contextmanager
def processing(machine: object) -> Iterator[None]:
    """Mark the block as part of processing a message of ``machine`` (any object that identifies it)."""
    token = _processed.set((*_processed.get(), machine))
    try:
        yield
    finally:
        _processed.reset(token)


def mark_thread(machine: object) -> None:
    """Mark all that the calling thread runs from now on; for a thread that does nothing else."""
    _processed.set((*_processed.get(), machine))


def is_processing(machine: object) -> bool:
    """Tell whether the caller runs as part of processing a message of ``machine``."""
    return any(one is machine for one in _processed.get())


def refuse_deadlock(machine: object, name: str, call: str, *, waits_for_source: bool = False) -> None:
    """Raise `WouldDeadlock` if ``call`` would wait for its own caller.

    Raises:
        WouldDeadlock: the caller processes a message of ``machine``, or is its source while the call waits for that.
    """
    if is_processing(machine) or (waits_for_source and reads_source_of(machine)):
        raise WouldDeadlock(name, call)


def mark_source_thread(machine: object) -> None:
    """Mark all that the calling thread runs from now on as reading the source of ``machine``."""
    _fed.set(machine)


def reads_source_of(machine: object) -> bool:
    """Tell whether the caller is part of the source of ``machine``."""
    return _fed.get() is machine
