"""`display_status`: show a status card in a notebook, on a terminal, or in any output.

In a notebook a daemon thread follows the machine. It sends ``update_display_data`` messages with the
cell as parent, because what a thread prints or displays appears under whichever cell ran last.
Format: https://jupyter-client.readthedocs.io/en/stable/messaging.html#update-display-data.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from timbr_wamp.contract import Status
from timbr_wamp.display.live_status import LiveStatus, Screen
from timbr_wamp.display.output_kind import is_terminal, notebook_shell

#: Most cards that a kernel updates at the same time; one more ends the oldest.
MAX_LIVE = 8

_STATE_STYLES = {"running": "green", "paused": "yellow", "draining": "yellow", "failed": "bold red"}

_cards: deque[LiveStatus] = deque()
_cards_lock = threading.Lock()


def display_status(
    status: Callable[[], Status],
    *,
    interval_s: float = 0.5,
    duration_s: float | None = None,
    ended: Callable[[], bool] = bool,
    file: TextIO | None = None,
) -> LiveStatus:
    """Show a status card and keep it up to date.

    In a notebook it returns at once. On a terminal it returns when the machine rests, or at Ctrl-C,
    which does not affect the machine. Elsewhere it writes the card once.

    Args:
        status: returns the newest status; in a notebook it is called from another thread.
        interval_s: seconds between two polls.
        duration_s: seconds for which the card is updated; None means no limit.
        ended: returns whether the machine was closed, so that its status will not change any more.
        file: file for the card outside a notebook; standard output by default.

    Raises:
        InvalidArgument: ``interval_s`` is not more than 0.
        Exception: whatever the first call of ``status`` raises.
    """
    shell = notebook_shell() if file is None else None
    output = sys.stdout if file is None else file
    first = status()

    def card_on(screen: Screen) -> LiveStatus:
        card = LiveStatus(status, screen, interval_s=interval_s, duration_s=duration_s, ended=ended)
        card.show(first)
        return card

    if shell is not None:
        card = card_on(NotebookScreen(shell))
        _remember(card)
        card.start()
    elif is_terminal(output):
        with Live(console=Console(file=output), auto_refresh=False) as live:
            card = card_on(_TerminalScreen(live))
            with contextlib.suppress(KeyboardInterrupt):  # ends the card, not the machine
                card.follow(until_rest=True)
    else:
        card = card_on(_PlainOutput(output))
        card.stop()
    return card


def _remember(card: LiveStatus) -> None:
    """Register a card, and stop the oldest ones beyond `MAX_LIVE`."""
    with _cards_lock:
        alive = [one for one in _cards if one.running]
        _cards.clear()
        _cards.extend([*alive, card])
        surplus = [_cards.popleft() for _ in range(len(_cards) - MAX_LIVE)]
    for old in surplus:
        old.stop()


class NotebookScreen:
    """The output of the cell that created this object. The cell's thread draws first, then any thread."""

    def __init__(self, shell: Any) -> None:
        self._publisher, self._kernel = shell.display_pub, shell.kernel
        self._parent = shell.get_parent()
        self._id = secrets.token_hex(8)
        self._drawn = False

    def draw(self, html: str, text: str) -> None:
        """Display the card, or replace the one displayed before."""
        data, transient = {"text/html": html, "text/plain": text}, {"display_id": self._id}
        if not self._drawn:
            self._publisher.publish(data, transient=transient)
            self._drawn = True
            return
        self._kernel.session.send(
            self._kernel.iopub_socket,  # thread-safe: passes messages to the kernel's iopub thread
            "update_display_data",
            {"data": data, "metadata": {}, "transient": transient},
            parent=self._parent,
            ident=getattr(self._publisher, "topic", None),
        )


class _TerminalScreen:
    """Lines of a terminal that are redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def draw(self, html: str, text: str) -> None:
        """Replace the card."""
        lines = Text(text)
        for state, style in _STATE_STYLES.items():
            lines.highlight_regex(rf"^● {state}\b", style)
        self._live.update(lines, refresh=True)


class _PlainOutput:
    """An output that is not interactive: a file, a pipe, a log."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def draw(self, html: str, text: str) -> None:
        """Write the card."""
        self._output.write(f"{text}\n")
