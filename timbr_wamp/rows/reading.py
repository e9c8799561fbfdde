"""Tables and files of tables as rows: what they are is told by their type, and they are read row by row.

DataFrames of pandas and polars, Arrow tables, batches and streams, and what offers Arrow's stream; files by their
suffix. A row is a dict with the columns' names as keys; missing values are None. The libraries are never imported
for a table: who has one has imported it. An object is asked for no attribute that its type does not have.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any

from timbr_wamp.errors import NotASource, PluginNotInstalled
from timbr_wamp.rows.files import FILES, RowFile
from timbr_wamp.rows.tabular import Tabular

#: Rows of a table that are converted at a time.
CHUNK_ROWS = 512
#: Classes that offer Arrow's stream and hold values, not rows: they are read value by value, as they iterate.
_COLUMNS = frozenset({"Series", "Array", "ChunkedArray"})


@dataclass(frozen=True, slots=True)
class RowSource:
    """A table or file as rows."""

    #: Makes an iterator from the first row; of a stream only once. JSON texts are made messages by its argument.
    rows: Callable[[Callable[[bytes], object]], Iterator[object]]
    #: Returns the number of rows, if it is known in bounded time.
    total: Callable[[], int | None]


def row_source(source: object) -> RowSource | None:
    """Return a table or a file of a table as rows; None for anything else, other texts included.

    Raises:
        NotASource: the file is not there or of no known kind, or columns cannot be told apart by their names.
        PluginNotInstalled: it takes pyarrow to read it.
    """
    read = _way_to_read(source)
    return None if read is None else read(source)


def has_rows(source: object) -> bool:
    """Tell whether `row_source` would read it, by its type alone; nothing is opened."""
    return _way_to_read(source) is not None


def _way_to_read(source: object) -> Callable[[Any], RowSource] | None:
    kind = type(source)
    if issubclass(kind, str):
        return _file if has_table_suffix(str.__str__(source)) else None
    if issubclass(kind, PurePath):
        return _file
    if issubclass(kind, (list, tuple, dict, set, frozenset, Tabular)):
        return None
    for (package, name), read in _TABLES.items():
        known = getattr(sys.modules.get(package), name, None)
        if isinstance(known, type) and known in kind.__mro__:
            return read
    names = {base.__name__ for base in kind.__mro__}
    if any("__arrow_c_stream__" in vars(base) for base in kind.__mro__) and not names & _COLUMNS:
        return _arrow_stream
    return None


def has_table_suffix(text: str) -> bool:
    """Tell whether a text is the name of a file that could be read as rows: one line, with a known suffix.

    >>> has_table_suffix("data/readings.csv"), has_table_suffix("lambda: rows"), has_table_suffix("rows.parquet")
    (True, False, True)
    """
    return len(text) < 4096 and text.isprintable() and PurePath(text).suffix.lower() in FILES


# --- tables ----------------------------------------------------------------------------------


def _in_memory(source: Any, names: Iterable[object], count: int, chunks: Callable[[], Iterator[Any]]) -> RowSource:
    _check_names(type(source).__name__, list(names))
    return RowSource(lambda _: (row for chunk in chunks() for row in chunk), lambda: count)


def _pandas_frame(frame: Any) -> RowSource:
    names = [_text_of(name) for name in frame.columns.tolist()]
    starts = range(0, len(frame), CHUNK_ROWS)

    def chunks() -> Iterator[Iterator[dict[str, Any]]]:
        for start in starts:
            part = frame.iloc[start : start + CHUNK_ROWS]
            columns = [_pandas_values(part.iloc[:, number]) for number in range(len(names))]
            yield (dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True))

    return _in_memory(frame, names, len(frame), chunks)


def _pandas_values(column: Any) -> list[Any]:
    """Return a column's values as Python's own where it has them; None for NaN, NaT and NA."""
    missing = column.isna().tolist()
    return [None if is_missing else value for value, is_missing in zip(column.tolist(), missing, strict=True)]


def _text_of(name: object) -> str:
    """Return a column's name as a text; the parts of one with several levels are joined by dots."""
    return ".".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _polars_frame(frame: Any) -> RowSource:
    chunks = lambda: (part.to_dicts() for part in frame.iter_slices(CHUNK_ROWS))  # noqa: E731
    return _in_memory(frame, frame.columns, frame.height, chunks)


def _arrow_table(table: Any) -> RowSource:
    batches = partial(_arrow_chunks, lambda: table.to_batches())
    return _in_memory(table, table.schema.names, table.num_rows, batches)


def _arrow_batch(batch: Any) -> RowSource:
    return _in_memory(batch, batch.schema.names, batch.num_rows, partial(_arrow_chunks, lambda: [batch]))


def _arrow_reader(reader: Any) -> RowSource:
    _check_names(type(reader).__name__, reader.schema.names)
    chunks = partial(_arrow_chunks, lambda: reader)
    return RowSource(lambda _: (row for chunk in chunks() for row in chunk), lambda: None)


def _arrow_chunks(batches: Callable[[], Iterable[Any]]) -> Iterator[list[dict[str, Any]]]:
    for batch in batches():
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            yield batch.slice(start, CHUNK_ROWS).to_pylist()


def _arrow_stream(source: object) -> RowSource:
    """Return the rows of whatever offers Arrow's stream; it may do so only once."""
    try:
        arrow: Any = import_module("pyarrow")
    except ModuleNotFoundError:
        name = type(source).__name__
        raise PluginNotInstalled("sources", name, "pip install pyarrow, or 'timbr-wamp[tables]'") from None
    try:
        return _arrow_reader(arrow.RecordBatchReader.from_stream(source))
    except (TypeError, arrow.ArrowException) as error:
        raise NotASource(type(source).__name__, f"offers a stream of Arrow's that has no rows ({error})") from None


def _check_names(kind: str, names: Sequence[object]) -> None:
    if not names:
        raise NotASource(kind, "has no columns")
    seen = set()
    for name in names:
        if name in seen:
            raise NotASource(kind, f"has two columns named {name!r}; rename one of them")
        seen.add(name)


_TABLES: dict[tuple[str, str], Callable[[Any], RowSource]] = {
    ("pandas", "DataFrame"): _pandas_frame,
    ("polars", "DataFrame"): _polars_frame,
    ("pyarrow", "Table"): _arrow_table,
    ("pyarrow", "RecordBatch"): _arrow_batch,
    ("pyarrow", "RecordBatchReader"): _arrow_reader,
}


# --- files -----------------------------------------------------------------------------------


def _file(source: str | PurePath) -> RowSource:
    name = str(source)
    path = Path(name)
    make = FILES.get(path.suffix.lower())
    if make is None:
        raise NotASource(f"the file {name!r}", f"is of no kind that is read as rows ({', '.join(FILES)})")
    if not path.is_file():
        problem = "is no file" if path.exists() else f"is not there (the working folder is {Path.cwd()})"
        raise NotASource(f"the file {name!r}", problem)
    file: RowFile = make(path)
    try:
        file.check()
    except (OSError, ValueError, csv.Error) as error:  # a UnicodeError is a ValueError
        raise NotASource(f"the file {name!r}", f"cannot be read: {error}") from None
    return RowSource(file.rows, file.total)
