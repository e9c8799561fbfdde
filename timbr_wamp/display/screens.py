"""`display_status`: a status card where the user is: a notebook, a terminal, or any output.

In a notebook a daemon thread follows the machine. It publishes ``update_display_data`` itself, with
the cell as parent: what a thread prints or displays goes to whichever cell ran last.
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
from timbr_wamp.display.environment import is_terminal, notebook_shell
from timbr_wamp.display.live_status import LiveStatus, Screen

#: So many cards of one kernel are updated; the oldest ends when one more begins.
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

    In a notebook it returns at once. On a terminal it returns when the machine rests or at Ctrl-C,
    which leaves the machine alone. Elsewhere it writes the card once.

    Args:
        status: asked for the newest status, from another thread when in a notebook.
        interval_s: seconds between two questions.
        duration_s: update so long; None: as long as there is news to come.
        ended: there will be no news, since the machine was closed.
        file: where a card is written outside a notebook; the standard output when not given.

    Raises:
        InvalidArgument: ``interval_s`` is not more than 0.
        Exception: what ``status`` raises when it is asked first.
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
            with contextlib.suppress(KeyboardInterrupt):  # it ends the card, not the machine
                card.follow(until_rest=True)
    else:
        card = card_on(_Once(output))
        card.stop()
    return card


def _remember(card: LiveStatus) -> None:
    """Keep the number of cards that are updated bounded."""
    with _cards_lock:
        alive = [one for one in _cards if one.running]
        _cards.clear()
        _cards.extend([*alive, card])
        surplus = [_cards.popleft() for _ in range(len(_cards) - MAX_LIVE)]
    for old in surplus:
        old.stop()


class NotebookScreen:
    """The output of the cell that runs when this is made: drawn first by its thread, then by any."""

    def __init__(self, shell: Any) -> None:
        self._publisher, self._kernel = shell.display_pub, shell.kernel
        self._parent = shell.get_parent()
        self._id = secrets.token_hex(8)
        self._drawn = False

    def draw(self, html: str, text: str) -> None:
        """Display the card, or put it in the place of the one before."""
        data, transient = {"text/html": html, "text/plain": text}, {"display_id": self._id}
        if not self._drawn:
            self._publisher.publish(data, transient=transient)
            self._drawn = True
            return
        self._kernel.session.send(
            self._kernel.iopub_socket,  # thread-safe: it hands messages to the kernel's iopub thread
            "update_display_data",
            {"data": data, "metadata": {}, "transient": transient},
            parent=self._parent,
            ident=getattr(self._publisher, "topic", None),
        )


class _TerminalScreen:
    """Lines of a terminal that are written again."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def draw(self, html: str, text: str) -> None:
        """Put the card in the place of the one before."""
        lines = Text(text)
        for state, style in _STATE_STYLES.items():
            lines.highlight_regex(rf"^● {state}\b", style)
        self._live.update(lines, refresh=True)


class _Once:
    """An output that nobody watches: a file, a pipe, a log."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def draw(self, html: str, text: str) -> None:
        """Write the card."""
        self._output.write(f"{text}\n")
