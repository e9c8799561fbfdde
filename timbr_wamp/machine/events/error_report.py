"""A traceback in depth: source lines, causes and local variables, of a bounded size whatever they hold."""

from __future__ import annotations

import reprlib
import traceback

from timbr_wamp.machine.parsing import undisturbed
from timbr_wamp.values import clean_text

#: Characters of a report; the end is kept, where the error is.
REPORT_LIMIT = 20_000
FRAMES_LIMIT = 30
LOCALS_LIMIT = 30
LOCAL_LIMIT = 200

_OURS = "timbr_wamp.machine."

_short = reprlib.Repr()
_short.maxstring = _short.maxother = LOCAL_LIMIT
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 8


def report_of(error: BaseException, where: str) -> str:
    """Return the text of an error with the local variables of each frame; those of the machine are left out."""
    described = traceback.TracebackException.from_exception(error, limit=-FRAMES_LIMIT)
    seen: set[int] = set()
    _add_locals(described, error, seen)
    text = clean_text(undisturbed(lambda: "".join(described.format())))
    if len(text) > REPORT_LIMIT:
        text = f"… {len(text) - REPORT_LIMIT} characters left out …\n" + text[-REPORT_LIMIT:]
    return f"{type(error).__name__} in {where}\n{text}"


def _add_locals(described: traceback.TracebackException, error: BaseException, seen: set[int]) -> None:
    """Fill in the locals by ourselves: traceback's own are whole reprs, of any size."""
    if id(error) in seen:
        return
    seen.add(id(error))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-FRAMES_LIMIT:]
    foreign = []
    for summary, frame in zip(described.stack, frames, strict=False):
        if not str(frame.f_globals.get("__name__", "")).startswith(_OURS):
            names = sorted(frame.f_locals)[:LOCALS_LIMIT]
            summary.locals = {name: _safe_repr(frame.f_locals[name]) for name in names}
            foreign.append(summary)
    described.stack[:] = foreign or described.stack  # an error of the machine itself has no others
    for cause, of in ((described.__cause__, error.__cause__), (described.__context__, error.__context__)):
        if cause is not None and of is not None:
            _add_locals(cause, of, seen)


def _safe_repr(value: object) -> str:
    try:
        return _short.repr(value)
    except Exception as error:  # a foreign __repr__ may do anything
        return f"<{type(value).__qualname__}: its repr raised {type(error).__name__}>"
