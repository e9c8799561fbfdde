"""What records tell of an error: its texts, bounded, whatever a foreign error does.

`str` of an exception and the traceback module call foreign code (``__str__``, ``__notes__``, ``__dir__`` for
suggestions), which may raise anything.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import NamedTuple

from timbr_wamp.errors import MESSAGE_LIMIT, class_and_text, class_name, clean_text, is_users_interrupt, message_of
from timbr_wamp.machine.parsing import undisturbed

#: The last characters and frames of a traceback, which are kept.
TRACEBACK_LIMIT, TRACEBACK_FRAMES = 6000, 30

#: Modules that call slots; the names of compiled passes' modules begin so, too.
_OURS = ("timbr_wamp.machine.", "dask.", "concurrent.futures", "asyncio.", "threading")


class ErrorText(NamedTuple):
    """What records tell of an error."""

    exc_class: str
    exc_value: str
    exc_tb: str
    #: ``file:line``, see `where_raised`.
    where: str


class RaisedElsewhere(Exception):
    """Stands for an error that a slot raised in another process, with its texts made there.

    ``original`` is the error itself, without its traceback; None when it could not be sent.
    """

    def __init__(self, text: ErrorText, original: BaseException | None = None) -> None:
        super().__init__(text, original)
        self.text, self.original = text, original

    def __str__(self) -> str:
        return class_and_text(self.text.exc_class, self.text.exc_value)


def error_text(error: BaseException) -> ErrorText:
    """Return what records tell of an error that a slot raised, here or in another process."""
    if type(error) is RaisedElsewhere:
        return error.text
    return ErrorText(class_name(error), message_of(error), traceback_text(error), where_raised(error))


def original_of(error: BaseException) -> BaseException:
    """Return the error that a slot raised, as far as it is at hand, for those who get it as an object."""
    if type(error) is RaisedElsewhere and error.original is not None:
        return error.original
    return error


def traceback_text(error: BaseException) -> str:
    """Return a traceback without the machine's own frames before the foreign ones."""
    try:
        lines = undisturbed(
            lambda: traceback.format_exception(type(error), error, _foreign(error), limit=-TRACEBACK_FRAMES)
        )
    except BaseException as failure:  # what formatting calls is foreign, too
        if is_users_interrupt(failure):
            raise
        lines = [f"{class_name(error)} (its text raised {class_name(failure)})"]
    return clean_text("".join(map(_clipped, lines))[-TRACEBACK_LIMIT:])


def _clipped(part: str) -> str:
    """Return a part of a traceback, its middle left out when it is long: a message of any length hides no frame."""
    return part if len(part) <= MESSAGE_LIMIT + 100 else f"{part[:MESSAGE_LIMIT]}… ({len(part):,} characters)\n"


def where_raised(error: BaseException) -> str:
    """Return ``file:line`` of the last place in the slot's own file on the way to the error; empty if unknown."""
    frame = _foreign(error)
    if frame is None:
        return ""
    own, line = frame.tb_frame.f_code.co_filename, frame.tb_lineno
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == own:
            line = frame.tb_lineno
        frame = frame.tb_next
    return clean_text(f"{own}:{line}")


def _foreign(error: BaseException) -> TracebackType | None:
    """Return the traceback from the first foreign frame on: ours, which called it, come first."""
    trace = error.__traceback__
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith(_OURS):
        trace = trace.tb_next
    return trace
