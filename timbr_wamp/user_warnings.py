"""Warnings to the user, at the line of the user's code that they are about."""

from __future__ import annotations

import sys
import warnings
from typing import Final

from timbr_wamp.frames import is_foreign

__all__ = ["MachineReplaced", "NotRunning", "not_running_text", "warn_user"]

#: What has to be called before a machine in such a state processes messages.
_VERBS: Final = {"idle": "start()", "stopped": "start()", "paused": "resume()"}


class MachineReplaced(UserWarning):
    """A new machine took the name of one that was running or had messages waiting, which is stopped."""


class NotRunning(UserWarning):
    """Messages were waited for that are not processed, because the machine does not run."""


def warn_user(text: str, category: type[Warning]) -> None:
    """Warn at the innermost line of the caller's that is no code of this package or of an installed one.

    Each time, also when a cell runs again: a notebook's cells share one module, and Python shows a warning of the
    same text and line number of a module only once.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and is_foreign(frame.f_code.co_filename):
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__", "__main__"))
    warnings.warn_explicit(text, category, frame.f_code.co_filename, frame.f_lineno, module=module)


def not_running_text(name: str, state: str) -> str | None:
    """Return what to say to those who wait for a machine that a verb, or nothing, has put into this state.

    >>> not_running_text("machine", "idle")
    "machine 'machine' is idle, so nothing is processed: start() it first"
    """
    verb = _VERBS.get(state)
    return None if verb is None else f"machine {name!r} is {state}, so nothing is processed: {verb} it first"
