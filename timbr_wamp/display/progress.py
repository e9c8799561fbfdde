"""Follow a machine's progress with a bar: asked for, or pushed by somebody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from timbr_wamp.contract import Progress
from timbr_wamp.display.bars import BarKind, open_bar
from timbr_wamp.display.live_status import RESTING
from timbr_wamp.errors import InvalidArgument


@contextmanager
def progress_bar(bar: BarKind = "auto", *, file: TextIO | None = None) -> Iterator[Callable[[Progress], None]]:
    """Open a bar; give the function that draws a `Progress` on it. Closed on the way out, also by Ctrl-C.

    >>> with progress_bar("none") as update:
    ...     update(Progress(done=3, total=10))

    Raises:
        InvalidArgument: no such kind of bar.
        PluginNotInstalled: tqdm was asked for and is not there.
    """
    shown = open_bar(bar, file)
    try:
        yield shown.update
    finally:
        shown.close()


def show_progress(
    ask: Callable[[], Progress],
    *,
    interval_s: float = 0.2,
    bar: BarKind = "auto",
    timeout_s: float | None = None,
    until: Callable[[], bool] = bool,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Show a bar until the source is exhausted and done, or the machine rests; return the last progress.

    Blocks the calling thread, which alone draws. Ctrl-C closes the bar, comes out as
    `KeyboardInterrupt` and leaves the machine running; so does what ``ask`` raises.

    Args:
        ask: asked every ``interval_s`` seconds.
        bar: ``auto``, ``tqdm``, ``rich`` or ``none``.
        timeout_s: return after so long in any case; None: wait on.
        until: it is over for another reason, such as that nothing waits and there is no source.
        file: where text is drawn; the standard error when not given.

    Raises:
        InvalidArgument: ``interval_s`` is not more than 0, or no such kind of bar.
        PluginNotInstalled: tqdm was asked for and is not there.
    """
    if not interval_s > 0:
        raise InvalidArgument("interval_s", "more than 0 seconds")
    deadline = None if timeout_s is None else clock() + timeout_s
    pause = threading.Event()
    with progress_bar(bar, file=file) as update:
        while True:
            over = until()
            progress = ask()  # after it, so that the last one drawn is of the end
            update(progress)
            left_s = interval_s if deadline is None else deadline - clock()
            if over or progress.complete or progress.state in RESTING or left_s <= 0:
                return progress
            pause.wait(min(interval_s, left_s))
