"""A traceback with source lines, causes and local variables, bounded in size and time.

The reprs of variables are foreign code: they run in another thread, within `REPRS_LIMIT_S` together. What a repr
raises is shown instead.
"""

from __future__ import annotations

import contextlib
import reprlib
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final

from timbr_wamp.errors import class_name, clean_text, is_users_interrupt
from timbr_wamp.machine.parsing import undisturbed
from timbr_wamp.machine.tracebacks import traceback_text

#: Characters of a report; the end is kept, where the error is.
REPORT_LIMIT = 20_000
FRAMES_LIMIT = 30
LOCALS_LIMIT = 30
LOCAL_LIMIT = 200
#: Time for the reprs of all variables of a report, seconds; the others are shown by type.
REPRS_LIMIT_S = 1.0
#: Texts of more bytes are cut before they are shown.
CUT_BYTES = 4 * LOCAL_LIMIT

_OURS = "timbr_wamp.machine."

_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = LOCAL_LIMIT
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 8


def report_of(error: BaseException, where: str) -> str:
    """Return the text of an error with the local variables of each frame; the machine's frames are left out."""
    try:
        described = traceback.TracebackException.from_exception(error, limit=-FRAMES_LIMIT)
        frames = list[tuple[traceback.FrameSummary, FrameType]]()
        _leave_foreign(described, error, frames, set())
        _add_locals(frames)
        text = clean_text(undisturbed(lambda: "".join(described.format())))
    except BaseException as failure:  # the error's own code runs here too
        if is_users_interrupt(failure):
            raise
        text = traceback_text(error)
    if len(text) > REPORT_LIMIT:
        text = f"… {len(text) - REPORT_LIMIT} characters left out …\n" + text[-REPORT_LIMIT:]
    return f"{class_name(error)} in {where}\n{text}"


def _leave_foreign(
    described: traceback.TracebackException,
    error: BaseException,
    found: list[tuple[traceback.FrameSummary, FrameType]],
    seen: set[int],
) -> None:
    """Remove the machine's frames from the stack, unless there are no others; collect the rest, also of causes."""
    if id(error) in seen:
        return
    seen.add(id(error))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-FRAMES_LIMIT:]
    foreign = [
        (summary, frame)
        for summary, frame in zip(described.stack, frames, strict=False)
        if not str(frame.f_globals.get("__name__", "")).startswith(_OURS)
    ]
    if foreign:
        described.stack[:] = [summary for summary, _ in foreign]
        found += foreign
    for cause, of in ((described.__cause__, error.__cause__), (described.__context__, error.__context__)):
        if cause is not None and of is not None:
            _leave_foreign(cause, of, found, seen)


def _add_locals(frames: list[tuple[traceback.FrameSummary, FrameType]]) -> None:
    """Fill in the variables: those that `traceback` would make are reprs of any size."""
    values = [
        (summary, name, value)
        for summary, frame in frames
        for name, value in sorted(frame.f_locals.items(), key=lambda item: item[0])[:LOCALS_LIMIT]
    ]
    shown = within(REPRS_LIMIT_S, [partial(safe_repr, value) for _, _, value in values])
    for number, (summary, name, value) in enumerate(values):
        if summary.locals is None:
            summary.locals = {}
        late = f"<{type(value).__qualname__}: its repr was not made in time>"
        summary.locals[name] = clean_text(shown[number]) if number < len(shown) else late


def within(limit_s: float, calls: list[Callable[[], str]]) -> list[str]:
    """Return the results of those calls, from the first on, that ended within ``limit_s`` together.

    They run in a daemon thread, which ends after the call that took too long.
    """
    results: SimpleQueue[str] = SimpleQueue()
    given_up = threading.Event()

    def run() -> None:
        for call in calls:
            if given_up.is_set():
                return
            results.put(call())

    threading.Thread(target=run, name="timbr reprs", daemon=True).start()
    done, deadline = list[str](), time.monotonic() + limit_s
    with contextlib.suppress(Empty):
        while len(done) < len(calls):
            done.append(results.get(timeout=max(deadline - time.monotonic(), 0.0)))
    given_up.set()
    return done


def safe_repr(value: object) -> str:
    """Return a short repr; of one that raises, what it raised."""
    try:
        if type(value) in (bytes, bytearray):
            value = value[:CUT_BYTES]  # type: ignore[index]
        return _short.repr(value)
    except BaseException as error:  # a foreign __repr__ may do anything
        return f"<{type(value).__qualname__}: its repr raised {class_name(error)}>"
