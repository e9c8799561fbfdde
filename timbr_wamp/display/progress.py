"""Show a machine's progress as a bar, from progress that the caller pushes or that is polled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from timbr_wamp.contract import Progress
from timbr_wamp.display.bars import BarKind, open_bar
from timbr_wamp.display.live_status import RESTING, checked_interval


@contextmanager
def progress_bar(bar: BarKind = "auto", *, file: TextIO | None = None) -> Iterator[Callable[[Progress], None]]:
    """Open a bar and yield the function that draws a `Progress` on it. The bar is closed at the end, also on Ctrl-C.

    >>> with progress_bar("none") as update:
    ...     update(Progress(done=3, total=10))

    Raises:
        InvalidArgument: unknown kind of bar.
        PluginNotInstalled: tqdm was requested and is not installed.
    """
    opened = open_bar(bar, file)
    try:
        yield opened.update
    finally:
        opened.close()


def show_progress(
    poll: Callable[[], Progress],
    *,
    interval_s: float = 0.2,
    bar: BarKind = "auto",
    timeout_s: float | None = None,
    until: Callable[[], bool] = bool,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Show a bar until the source is exhausted and processed, or the machine rests; return the last progress.

    Blocks the calling thread, which also draws. Ctrl-C closes the bar, raises `KeyboardInterrupt`
    and leaves the machine running. An exception of ``poll`` closes the bar and propagates.

    Args:
        poll: returns the progress; called every ``interval_s`` seconds.
        bar: ``auto``, ``tqdm``, ``rich``, ``text`` or ``none``.
        timeout_s: return after this many seconds at the latest; None means no limit.
        until: returns whether to end for another reason, such as an empty queue without a source.
        file: file that text bars are drawn on; standard error by default.

    Raises:
        InvalidArgument: ``interval_s`` is not more than 0, or the kind of bar is unknown.
        PluginNotInstalled: tqdm was requested and is not installed.
    """
    checked_interval(interval_s)
    deadline = None if timeout_s is None else clock() + timeout_s
    pause = threading.Event()
    with progress_bar(bar, file=file) as update:
        while True:
            ended = until()
            progress = poll()  # after until(), so that the last progress that is drawn is the final one
            update(progress)
            left_s = interval_s if deadline is None else deadline - clock()
            if ended or progress.complete or progress.state in RESTING or left_s <= 0:
                return progress
            pause.wait(min(interval_s, left_s))
