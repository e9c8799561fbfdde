"""Progress bars: tqdm or text in notebooks, rich on terminals, or none. The thread that calls `Bar.update` draws."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TextIO, TypeAlias, get_args

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from timbr_wamp.contract import Progress
from timbr_wamp.display.output_kind import is_terminal, notebook_shell
from timbr_wamp.display.screens import NotebookScreen
from timbr_wamp.errors import InvalidArgument, PluginNotInstalled
from timbr_wamp.faces.cards import progress_counts, progress_html, progress_text

#: ``auto``: in a notebook tqdm if it is installed, else text; rich on a terminal; else none.
BarKind: TypeAlias = Literal["auto", "tqdm", "rich", "text", "none"]


class Bar(Protocol):
    """A progress bar."""

    def update(self, progress: Progress) -> None:
        """Draw ``progress``."""

    def close(self) -> None:
        """Stop drawing; leave the last state visible and the cursor below it. Idempotent."""


def open_bar(kind: BarKind, file: TextIO | None = None) -> Bar:
    """Return a bar, which is drawn at its first update. ``file`` is standard error by default.

    Raises:
        InvalidArgument: unknown kind.
        PluginNotInstalled: tqdm was requested and is not installed.
    """
    if kind not in get_args(BarKind):
        raise InvalidArgument("bar", f"one of {', '.join(get_args(BarKind))}, not {kind!r}")
    output = sys.stderr if file is None else file
    if kind == "auto":
        kind = _best(output)
    if kind == "tqdm":
        return TqdmBar(output)
    if kind == "text":
        return TextBar(output)
    return RichBar(output) if kind == "rich" else NoBar()


def _best(output: TextIO) -> BarKind:
    if notebook_shell() is not None:
        return "tqdm" if find_spec("tqdm") is not None else "text"
    return "rich" if is_terminal(output) else "none"


class NoBar:
    """A bar that draws nothing."""

    def update(self, progress: Progress) -> None:
        """Draw nothing."""

    def close(self) -> None:
        """Draw nothing."""


class TextBar:
    """A bar of characters, which needs no other library.

    In a notebook it is drawn again in the cell's output, on a terminal in its line; elsewhere only its end is written.
    """

    def __init__(self, output: TextIO) -> None:
        self._shell, self._output, self._live = notebook_shell(), output, is_terminal(output)
        self._screen: NotebookScreen | None = None
        self._last: Progress | None = None
        self._width = 0

    def update(self, progress: Progress) -> None:
        """Draw ``progress``."""
        self._last = progress
        text = progress_text(progress)
        if self._shell is not None:
            self._screen = self._screen or NotebookScreen(self._shell)
            self._screen.draw(progress_html(progress), text)
        elif self._live:
            self._output.write(f"\r{text.ljust(self._width)}")
            self._output.flush()
            self._width = len(text)

    def close(self) -> None:
        """Stop drawing; end the line."""
        last, self._last = self._last, None
        if last is not None and self._shell is None:
            self._output.write("\n" if self._live else f"{progress_text(last)}\n")


class RichBar:
    """A bar on a terminal; it pulses while the total is unknown."""

    def __init__(self, output: TextIO) -> None:
        # rich's refresh thread would write between the user's own output lines
        self._bar = RichProgress(
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(file=output),
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=None)

    def update(self, progress: Progress) -> None:
        """Draw ``progress``."""
        text = progress_counts(progress)
        self._bar.start()
        self._bar.update(self._task, total=progress.total, completed=progress.done, description=text, refresh=True)

    def close(self) -> None:
        """Stop drawing and restore the cursor."""
        self._bar.stop()


class TqdmBar:
    """A tqdm bar: a widget when ipywidgets is installed, else text."""

    def __init__(self, output: TextIO) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tqdm warns when it falls back to text without ipywidgets
                from tqdm.auto import tqdm
        except ModuleNotFoundError:
            raise PluginNotInstalled("progress bars", "tqdm", "pip install 'timbr-wamp[progress]'") from None
        self._make, self._output = tqdm, output
        self._bar: Any = None

    def update(self, progress: Progress) -> None:
        """Draw ``progress``, in a new bar when the total has changed."""
        bar = self._bar
        if bar is None or bar.total != progress.total:
            self.close()
            bar = self._bar = self._make(
                total=progress.total, initial=progress.done, unit=" messages", file=self._output, dynamic_ncols=True
            )
        bar.n = progress.done
        bar.set_postfix_str(f"{progress.errored:,} errored" if progress.errored else "", refresh=False)
        bar.refresh()

    def close(self) -> None:
        """Stop drawing and leave the last state visible."""
        if self._bar is not None:
            self._bar.close()
