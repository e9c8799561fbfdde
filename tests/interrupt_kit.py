"""Interrupts at every point of a call, one after the other, so that no window is missed by chance.

CPython runs signal handlers in the main thread: after a call, at a jump back, at a function's entry. A Ctrl-C is a
`KeyboardInterrupt` raised at one of these points. Here a trace function raises it at the n-th, for every n.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

#: Prefixes of the modules in whose code an interrupt is raised.
MODULES = ("timbr_wamp.machine", "threading")


class Interruption(KeyboardInterrupt):
    """What `interrupt_at` raises; a test can tell it from a Ctrl-C of the user who runs it."""


def interrupt_at(
    call: Callable[[], Any],
    number: int,
    *,
    modules: Iterable[str] = MODULES,
    error: type[BaseException] = Interruption,
    by_signal: bool = False,
) -> bool:
    """Run ``call`` and raise ``error`` in it at its ``number``-th point; return whether it was raised.

    False: the call has fewer points, and ran to its end undisturbed. Counted are those that run in this
    thread in ``modules``; other threads are not touched. What ``call`` raises instead of, or besides, the
    interrupt is raised here; the interrupt itself is not. ``by_signal``: the handler of SIGINT that is installed
    at that moment is called instead, as CPython would do it; ``error`` is what this handler raises.
    """
    prefixes = tuple(modules)
    left = number
    raised: BaseException | None = None

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_globals.get("__name__", "")
        if event != "call" or not isinstance(name, str) or not name.startswith(prefixes):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return step

    def step(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left, raised
        if event == "opcode" and frame.f_lasti in _interruptible(frame.f_code):
            left -= 1
            if left == 0:
                raised = error(f"at {frame.f_code.co_qualname}, line {frame.f_lineno}")
                if by_signal:
                    handler = signal.getsignal(signal.SIGINT)
                    assert callable(handler)
                    handler(signal.SIGINT, frame)  # it raises, or keeps the interrupt back
                else:
                    raise raised
        return step

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except error as caught:
        if caught is not raised and not by_signal:
            raise
    finally:
        sys.settrace(before)
    return raised is not None


def interrupt_everywhere(
    make: Callable[[], Any],
    call: Callable[[Any], Any],
    check: Callable[[Any, int], Any],
    *,
    modules: Iterable[str] = MODULES,
    error: type[BaseException] = Interruption,
    by_signal: bool = False,
    every: int = 1,
    first: int = 1,
    limit: int = 20_000,
) -> int:
    """Interrupt ``call(thing)`` at every one of its points, each time with a new ``thing = make()``.

    After each interruption ``check(thing, number)`` runs; it looks whether the thing is whole: counts
    add up, locks are free, the message is queued or was not taken. It ends with the first run that is not
    interrupted any more, which is checked too. Return how many points there were.

    ``every`` and ``first``: only each so-many-th point, from the first on; for a suite that must be short.
    Call it in the main thread, with things whose own threads wait: ``call`` must run the same bytecodes
    each time.

    >>> from collections import Counter
    >>> interrupt_everywhere(Counter, lambda counts: counts.update("ab"), lambda counts, n: None, modules=["none"])
    0
    """
    assert threading.current_thread() is threading.main_thread(), "only the main thread is interrupted by signals"
    for number in range(first, limit, every):
        thing = make()
        interrupted = interrupt_at(lambda: call(thing), number, modules=modules, error=error, by_signal=by_signal)  # noqa: B023
        try:
            check(thing, number)
        except BaseException as failure:
            failure.add_note(f"after an interrupt at point {number}")
            raise
        if not interrupted:
            return number - 1
    raise AssertionError(f"the call has more than {limit} points")


def use_everywhere(
    make: Callable[[], Any],
    call: Callable[[Any], Any],
    use: Callable[[Any], Any],
    check: Callable[[Any], Any],
    *,
    modules: Iterable[str] = MODULES,
    every: int = 1,
    limit: int = 20_000,
) -> int:
    """Run ``use(thing)`` in the middle of ``call(thing)``, as a signal handler may; return the number of points.

    At every point where CPython runs a handler, each time with a new ``thing = make()``, and ``check(thing)`` after it.
    """
    prefixes = tuple(modules)
    for number in range(1, limit, every):
        thing = make()
        left = number

        def step(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal left
            if event == "opcode" and frame.f_lasti in _handler_points(frame.f_code):
                left -= 1
                if left == 0:
                    use(thing)  # noqa: B023
            return step

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if event != "call" or not str(frame.f_globals.get("__name__", "")).startswith(prefixes):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return step

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call(thing)
        finally:
            sys.settrace(before)
        if left > 0:
            return number - 1
        try:
            check(thing)
        except BaseException as failure:
            failure.add_note(f"used at point {number}")
            raise
    raise AssertionError(f"the call has more than {limit} points")


@functools.cache
def _handler_points(code: CodeType) -> frozenset[int]:
    """Return the offsets before which CPython runs handlers: after a call, at a jump back, at a function's entry."""
    steps = list(dis.get_instructions(code))
    return frozenset(
        following.offset
        for one, following in pairwise(steps)
        if one.opname.startswith(("CALL", "JUMP_BACKWARD", "RESUME"))
    )


@functools.cache
def _interruptible(code: CodeType) -> frozenset[int]:
    """Return the offsets before which a handler may run and raise."""
    return _handler_points(code) - _uninterruptible(code)


#: Between these CPython runs no handler: they keep the stack of handled exceptions in order.
_EXCEPTION_STEPS = frozenset({"PUSH_EXC_INFO", "POP_EXCEPT", "RERAISE", "WITH_EXCEPT_START"})


@functools.cache
def _uninterruptible(code: CodeType) -> frozenset[int]:
    """Return the offsets at which CPython runs no signal handler, though a trace function is called there.

    Handlers run after calls, at jumps back and at the entry of a function only. So a ``with`` releases its
    lock whatever happens in its block: between the block and the call of ``__exit__`` there is none of these.
    """
    steps = list(dis.get_instructions(code))
    found = {one.offset for one in steps if one.opname in _EXCEPTION_STEPS}
    for at in range(len(steps) - 2):
        if all(one.opname == "LOAD_CONST" and one.argval is None for one in steps[at : at + 3]):
            for one in steps[at : at + 6]:
                found.add(one.offset)
                if one.opname == "CALL":
                    break
    # What a `with` or a handler does to the stack before that.
    for one, following in zip(reversed(steps[:-1]), reversed(steps), strict=False):
        if one.opname in ("SWAP", "NOP", "COPY") and following.offset in found:
            found.add(one.offset)
    return frozenset(found)


@contextlib.contextmanager
def handler_of_sigint() -> Iterator[None]:
    """Have a SIGINT raise KeyboardInterrupt, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
