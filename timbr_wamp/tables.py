"""`StatusTable`, a table for notebooks and terminals, and functions that format the texts of its cells.

All output is escaped and bounded in size. The HTML has inline styles only and no scripts, and it
inherits its colours, so that it is readable in light and dark notebooks.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

from timbr_wamp.errors import InvalidArgument, counted

__all__ = [
    "CELL_LIMIT",
    "Cell",
    "StatusTable",
    "collapsible",
    "count_cell",
    "duration",
    "html_text",
    "printable",
    "state_cell",
    "terminal_text",
    "timestamp",
]

#: Longest text of a cell, in characters.
CELL_LIMIT = 160
#: Longest text of a `collapsible` block, in characters.
COLLAPSED_LIMIT = 4000
#: Most rows that a table shows; it leaves out the oldest.
ROWS_LIMIT = 200
#: Characters that remain of a shortened link, counted from its end.
LINK_TAIL = 10
#: CSS border that is visible on light and dark backgrounds.
HAIRLINE = "1px solid rgba(128,128,128,.35)"

_LINK = re.compile(r"https?://[^\s<>\"'`\\]+", re.IGNORECASE)
#: Colours and styles of terminals: they change nothing but the look of what follows.
_STYLE = re.compile(r"(\x1b\[[0-9;:]*m)")
_ZERO_WIDTH_JOINER = "\u200d"  # not printable by Python's definition, but part of many emoji


#: Whether a value is good, needs attention, or is bad.
Tone = Literal["", "good", "attention", "bad"]
#: Colours of tones that are readable on light and dark backgrounds.
TONES: dict[Tone, str] = {"good": "#2ea043", "attention": "#d29922", "bad": "#e5534b"}
#: Tones of the states of kernels and machines.
STATE_TONES: dict[str, Tone] = {
    "running": "good", "idle": "good", "busy": "attention", "paused": "attention", "draining": "attention",
    "starting": "attention", "restarting": "attention", "failed": "bad", "dead": "bad", "offline": "bad",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with its own formatting. Other values in a row are shown as their ``str``."""

    text: str
    #: HTML that is already escaped; None means that the table escapes ``text``.
    html: str | None = None
    #: Align right, as for numbers.
    right: bool = False
    #: What the value means, shown as a colour where there are any.
    tone: Tone = ""


class StatusTable:
    """A table for notebooks (HTML) and terminals (``str``).

    A row is a sequence of cells, a mapping with the headers as keys, or an object with the headers
    as attribute names, such as a slot, an error or a kernel.

    Args:
        columns: the headers, one per column. When ``headers`` is given, the rows, as the
            ancestors' notebooks call it: ``StatusTable(rows, headers=…)``.
        title: text above the table.
        cell_padding: pixels around the text of a cell.
        abrv_links: in HTML, shorten a cell that is a link to ``...`` and its last 10 characters.
        headers: the headers, one per column.
        rows: the first rows.
        empty: text that is shown when there are no rows.
        hide_empty: hide columns that are empty in every row.

    >>> print(StatusTable(["slot", "calls"], rows=[("f0", 31), ("f1", 7)]))
    slot  calls
    f0       31
    f1        7
    """

    def __init__(
        self,
        columns: Iterable[object] = (),
        /,
        title: str | None = None,
        cell_padding: int = 4,
        abrv_links: bool = True,
        *,
        headers: Iterable[object] | None = None,
        rows: Iterable[object] = (),
        empty: str = "none",
        hide_empty: bool = False,
    ) -> None:
        if headers is None:
            headers = columns
        else:
            rows = [*columns, *rows]
        self.headers = tuple(_cell(header).text for header in headers)
        self.title, self.empty = _cell(title).text, _cell(empty).text
        self.cell_padding, self.abrv_links, self.hide_empty = int(cell_padding), abrv_links, hide_empty
        self._rows: list[list[Cell]] = []
        for row in rows:
            self.add(row)

    def add(self, row: object) -> None:
        """Append a row.

        Raises:
            InvalidArgument: the row is a sequence, and its length is not the number of headers.
        """
        self._rows.append([_cell(value) for value in self._values(row)])

    def __len__(self) -> int:
        return len(self._rows)

    def __str__(self) -> str:
        headers, rows = self.visible()
        right = _right_columns(rows)
        lines = [[printable(header) for header in headers]] if headers else []
        lines += [[printable(cell.text) for cell in row] for row in rows]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(_padded, line, widths, right or [False] * len(line))).rstrip() for line in lines]
        title = [printable(self.title)] if self.title else []
        return "\n".join([*title, *(text if rows else [printable(self.empty)]), *self._left_out()])

    def __repr__(self) -> str:
        return str(self)

    def table_view(self) -> HtmlView:
        """Return the table's HTML as a `str` that a notebook renders. The ancestors' name for it."""
        return HtmlView(self._repr_html_())

    def _repr_html_(self) -> str:
        headers, rows = self.visible()
        title = f"<div><b>{html_text(self.title)}</b></div>" if self.title else ""
        if not rows:
            return f'{title}<div style="opacity:.7">{html_text(self.empty)}</div>'
        right = _right_columns(rows)
        head = "".join(self._html_cell("th", html_text(text), at) for text, at in zip(headers, right, strict=False))
        body = "".join(self._html_row(row, right) for row in rows)
        more = "".join(f'<div style="opacity:.7">{html_text(line)}</div>' for line in self._left_out())
        return (
            f'{title}<div style="overflow-x:auto"><table style="border-collapse:collapse;color:inherit;'
            f'background:transparent;margin:.3em 0">{f"<thead><tr>{head}</tr></thead>" if head else ""}'
            f"<tbody>{body}</tbody></table></div>{more}"
        )

    def _values(self, row: object) -> Sequence[object]:
        if isinstance(row, Mapping):
            return [row.get(header) for header in self.headers]
        if not isinstance(row, (list, tuple)):
            return [getattr(row, header, None) for header in self.headers]
        width = len(self.headers) or len(self._rows[0] if self._rows else row)
        if len(row) != width:
            raise InvalidArgument("row", f"{len(row)} cells for {width} columns")
        return row

    def visible(self) -> tuple[tuple[str, ...], list[list[Cell]]]:
        """Return the headers and rows that are shown. Their texts are as they were given, not escaped."""
        rows = self._rows[-ROWS_LIMIT:]
        if not self.hide_empty or not rows:
            return self.headers, rows
        kept = [at for at in range(len(rows[0])) if any(row[at].text for row in rows)]
        headers = tuple(self.headers[at] for at in kept) if self.headers else ()
        return headers, [[row[at] for at in kept] for row in rows]

    def _left_out(self) -> list[str]:
        more = len(self._rows) - ROWS_LIMIT
        return [f"… and {counted(more, 'row')} before these"] if more > 0 else []

    def _html_cell(self, tag: str, content: str, right: bool) -> str:
        style = f"text-align:{'right' if right else 'left'};vertical-align:top;padding:{self.cell_padding}px"
        return f'<{tag} style="{style};border-bottom:{HAIRLINE}">{content}</{tag}>'

    def _html_row(self, row: Sequence[Cell], right: Sequence[bool]) -> str:
        cells = "".join(self._html_cell("td", self._html(cell), at) for cell, at in zip(row, right, strict=True))
        return f"<tr>{cells}</tr>"

    def _html(self, cell: Cell) -> str:
        shown = self._html_of_text(cell)
        return f'<span style="color:{TONES[cell.tone]}">{shown}</span>' if cell.tone else shown

    def _html_of_text(self, cell: Cell) -> str:
        if cell.html is not None:
            return cell.html
        if not _is_link(cell.text):
            return html_text(cell.text)
        link = html.escape(cell.text)
        text = f"...{cell.text[-LINK_TAIL:]}" if self.abrv_links and len(cell.text) > LINK_TAIL + 3 else cell.text
        return f'<a href="{link}" title="{link}" target="_blank" rel="noopener">{html_text(text)}</a>'


class HtmlView(str):
    """HTML that a notebook renders when it is the result of a cell."""

    def _repr_html_(self) -> str:
        return str(self)


def printable(text: str, limit: int = CELL_LIMIT, *, lines: bool = False) -> str:
    r"""Return a text that is safe to print: at most ``limit`` characters, one line, no control characters.

    Unprintable characters, such as control characters, bidirectional overrides and lone
    surrogates, are replaced by their escapes. ``lines`` keeps line ends and tabs.

    >>> printable("two\nlines \x1b[31mred")
    'two lines \\x1b[31mred'
    """
    text = text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"
    if not lines:
        text = " ".join(text.split())
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one == _ZERO_WIDTH_JOINER or (lines and one in "\n\t") else _escape(one)
        for one in text
    )


def terminal_text(text: str, *, styles: bool = False) -> str:
    r"""Return a text of any length that is safe to write to a terminal; line ends and tabs are kept.

    Args:
        text: what another process sent.
        styles: keep colours and styles (SGR sequences) and carriage returns, for the output of cells.

    >>> terminal_text("\x1b[31mred\x1b]0;title\x07", styles=True)
    '\x1b[31mred\\x1b]0;title\\x07'
    """
    if not styles:
        return "\n".join(printable(line, len(line), lines=True) for line in text.split("\n"))
    parts = _STYLE.split(text)
    parts[::2] = ["\r".join(map(terminal_text, part.split("\r"))) for part in parts[::2]]
    return "".join(parts)


def without_styles(text: str) -> str:
    r"""Return a text without colours and styles (SGR sequences), where they cannot be shown.

    >>> without_styles("\x1b[31mred\x1b[0m")
    'red'
    """
    return _STYLE.sub("", text)


def html_text(text: str, limit: int = CELL_LIMIT, *, lines: bool = False) -> str:
    """Return `printable` text, escaped for HTML text and attribute values."""
    return html.escape(printable(text, limit, lines=lines))


def collapsible(summary: str, text: str, limit: int = COLLAPSED_LIMIT) -> str:
    """Return HTML that shows ``summary`` and unfolds ``text`` on a click. Both are escaped."""
    block = (
        f'<pre style="margin:.3em 0;color:inherit;background:transparent">{html_text(text, limit, lines=True)}</pre>'
    )
    return f'<details><summary style="cursor:pointer">{html_text(summary)}</summary>{block}</details>'


def state_cell(state: str) -> Cell:
    """Return a cell for the state of a kernel or machine."""
    return Cell(state, tone=STATE_TONES.get(state, ""))


def count_cell(value: int | None) -> Cell:
    """Return a right-aligned cell for a count; an empty one for None."""
    return Cell("" if value is None else f"{value:,}", right=True)


def duration(seconds: float | None) -> str:
    """Return a duration with a unit that suits its size; an empty text for None.

    >>> duration(0.00025), duration(0.3), duration(75), duration(7300)
    ('250 µs', '300 ms', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size_text(size_bytes: int) -> str:
    """Return a number of bytes with a unit that suits it.

    >>> size_text(512), size_text(16_384), size_text(3_000_000_000)
    ('512 B', '16.0 KiB', '2.8 GiB')
    """
    size, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, _ = size / 1024, units.pop(0)
    return f"{size:,.0f} B" if units[0] == "B" else f"{size:,.1f} {units[0]}"


def timestamp(seconds: float | None) -> str:
    """Return UTC seconds as RFC 3339 with ``Z``, to the millisecond; an empty text for None and 0.

    >>> timestamp(1_000_000_000.5)
    '2001-09-09T01:46:40.500Z'
    """
    if not seconds:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # outside the range of datetime
        return str(seconds)


def _cell(value: object) -> Cell:
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, float):
        return Cell(f"{value:.4g}", right=True)
    try:
        return Cell(str(value), right=isinstance(value, int))
    except Exception as error:  # a user's __str__ may raise anything
        return Cell(f"<{type(value).__qualname__}: its text raised {type(error).__name__}>")


def _is_link(text: str) -> bool:
    if len(text) > 2000 or not text.isprintable() or not _LINK.fullmatch(text):
        return False
    try:
        return bool(urlsplit(text).hostname)
    except ValueError:
        return False


def _right_columns(rows: Sequence[Sequence[Cell]]) -> list[bool]:
    return [all(cell.right or not cell.text for cell in column) for column in zip(*rows, strict=True)]


def _escape(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")


def _width(text: str) -> int:
    """Return the number of terminal columns that a text occupies."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
