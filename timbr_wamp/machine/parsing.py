"""Parsing Python in a process of many threads.

CPython 3.11 before 3.11.8 counts the depth of syntax trees in one place for all threads, so that
`ast.parse` now and then raises SystemError for text that is right
(https://github.com/python/cpython/issues/106905). `inspect.getsource` of a class parses, and so does
`traceback` for each line that it underlines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Number of tries; another thread does not disturb all of them.
TRIES = 5


def undisturbed(parse: Callable[[], T]) -> T:
    """Return what ``parse()`` gives; try again when another thread's parsing disturbed it.

    Raises:
        Exception: whatever ``parse`` raises, SystemError only at the last try.
    """
    for _ in range(TRIES - 1):
        try:
            return parse()
        except SystemError:
            continue
    return parse()
