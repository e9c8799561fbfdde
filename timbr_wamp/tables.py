"""`StatusTable`: rows that read well in a notebook and in a terminal, and the texts of their cells.

Generic: it knows no machine. All that is shown is escaped and bounded. The HTML has inline styles
only, inherits its colours, so that it suits light and dark notebooks, and runs no script.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from timbr_wamp.errors import InvalidArgument

__all__ = ["CELL_LIMIT", "Cell", "StatusTable", "cleaned", "duration", "folded", "moment", "number", "shown"]

#: A cell shows so many characters of a text.
CELL_LIMIT = 160
#: A text behind its summary shows so many.
FOLDED_LIMIT = 4000
#: A table shows so many rows, the newest; the list that it was made of has all.
ROWS_LIMIT = 200
#: Characters of a link that stay when it is shortened.
LINK_END = 10
#: A hair line that is seen on white and on black.
HAIRLINE = "1px solid rgba(128,128,128,.35)"

_LINK = re.compile(r"https?://[^\s<>\"'`\\]+", re.IGNORECASE)
_ZERO_WIDTH_JOINER = "\u200d"  # joins emoji; harmless


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that knows how it looks; anything else in a row is shown by its text."""

    text: str
    #: HTML that its maker has escaped already; None: the text, escaped.
    html: str | None = None
    #: Numbers stand at the right.
    right: bool = False


class StatusTable:
    """A table for notebooks (HTML) and terminals (``str``).

    A row is a sequence of cells, a mapping by header, or an object with attributes named like the
    headers, such as a slot, an error or a kernel.

    Args:
        headers: headings, one a column.
        title: stands above it.
        cell_padding: pixels around a cell's text.
        abrv_links: a cell that is a link shows ``...`` and its last 10 characters, in HTML.
        rows: rows to begin with.
        empty: what stands there while there is no row.
        hide_empty: leave out columns in which no row has anything.

    >>> print(StatusTable(["slot", "calls"], rows=[("f0", 31), ("f1", 7)]))
    slot  calls
    f0       31
    f1        7
    """

    def __init__(
        self,
        headers: Sequence[str] = (),
        title: str | None = None,
        cell_padding: int = 4,
        abrv_links: bool = True,
        *,
        rows: Iterable[object] = (),
        empty: str = "none",
        hide_empty: bool = False,
    ) -> None:
        self.headers, self.title, self.empty = tuple(headers), title, empty
        self.cell_padding, self.abrv_links, self.hide_empty = int(cell_padding), abrv_links, hide_empty
        self._rows: list[list[Cell]] = []
        for row in rows:
            self.add(row)

    def add(self, row: object) -> None:
        """Append a row.

        Raises:
            InvalidArgument: a sequence with other than one cell a header.
        """
        self._rows.append([_cell(value) for value in self._values(row)])

    def __len__(self) -> int:
        return len(self._rows)

    def __str__(self) -> str:
        headers, rows = self._visible()
        right = _right_columns(rows)
        lines = [[cleaned(header) for header in headers]] if headers else []
        lines += [[cleaned(cell.text) for cell in row] for row in rows]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(_padded, line, widths, right or [False] * len(line))).rstrip() for line in lines]
        title = [cleaned(self.title)] if self.title else []
        return "\n".join([*title, *(text if rows else [cleaned(self.empty)]), *self._left_out()])

    def _repr_html_(self) -> str:
        headers, rows = self._visible()
        title = f"<div><b>{shown(self.title)}</b></div>" if self.title else ""
        if not rows:
            return f'{title}<div style="opacity:.7">{shown(self.empty)}</div>'
        right = _right_columns(rows)
        head = "".join(self._html_cell("th", shown(text), at) for text, at in zip(headers, right, strict=False))
        body = "".join(self._html_row(row, right) for row in rows)
        more = "".join(f'<div style="opacity:.7">{shown(line)}</div>' for line in self._left_out())
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

    def _visible(self) -> tuple[tuple[str, ...], list[list[Cell]]]:
        """Return the headers and rows to show."""
        rows = self._rows[-ROWS_LIMIT:]
        if not self.hide_empty or not rows:
            return self.headers, rows
        kept = [at for at in range(len(rows[0])) if any(row[at].text for row in rows)]
        headers = tuple(self.headers[at] for at in kept) if self.headers else ()
        return headers, [[row[at] for at in kept] for row in rows]

    def _left_out(self) -> list[str]:
        more = len(self._rows) - ROWS_LIMIT
        return [f"… and {more:,} rows before these"] if more > 0 else []

    def _html_cell(self, tag: str, content: str, right: bool) -> str:
        style = f"text-align:{'right' if right else 'left'};vertical-align:top;padding:{self.cell_padding}px"
        return f'<{tag} style="{style};border-bottom:{HAIRLINE}">{content}</{tag}>'

    def _html_row(self, row: Sequence[Cell], right: Sequence[bool]) -> str:
        cells = "".join(self._html_cell("td", self._html(cell), at) for cell, at in zip(row, right, strict=True))
        return f"<tr>{cells}</tr>"

    def _html(self, cell: Cell) -> str:
        if cell.html is not None:
            return cell.html
        if not _is_link(cell.text):
            return shown(cell.text)
        link = html.escape(cell.text)
        text = f"...{cell.text[-LINK_END:]}" if self.abrv_links and len(cell.text) > LINK_END + 3 else cell.text
        return f'<a href="{link}" title="{link}" target="_blank" rel="noopener">{shown(text)}</a>'


def cleaned(text: str, limit: int = CELL_LIMIT, *, lines: bool = False) -> str:
    r"""Return a text that is safe to show: cut to ``limit``, no control characters, on one line.

    What cannot be printed (also what would turn the writing direction, and halves of surrogate
    pairs) stands as its escape. ``lines`` keeps line ends and indentation.

    >>> cleaned("two\nlines \x1b[31mred")
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


def shown(text: str, limit: int = CELL_LIMIT, *, lines: bool = False) -> str:
    """Return `cleaned` text, escaped for HTML, also inside attributes."""
    return html.escape(cleaned(text, limit, lines=lines))


def folded(summary: str, text: str, limit: int = FOLDED_LIMIT) -> str:
    """Return HTML of a long text behind its summary, which opens on a click. Both are escaped."""
    block = f'<pre style="margin:.3em 0;color:inherit;background:transparent">{shown(text, limit, lines=True)}</pre>'
    return f'<details><summary style="cursor:pointer">{shown(summary)}</summary>{block}</details>'


def number(value: int | None) -> Cell:
    """Return the cell of a count."""
    return Cell("" if value is None else f"{value:,}", right=True)


def duration(seconds: float | None) -> str:
    """Return a duration as people say it; nothing for None.

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


def moment(seconds: float | None) -> str:
    """Return UTC seconds as RFC 3339 with ``Z``, to the millisecond; nothing for None and 0.

    >>> moment(1_000_000_000.5)
    '2001-09-09T01:46:40.500Z'
    """
    if not seconds:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # no calendar knows it
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
    except Exception as error:  # a foreign __str__ may do anything
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
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
