"""Files of rows by their suffix: CSV, JSON lines, Parquet. A file is opened when it is read, and closed after that."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TextIO

from timbr_wamp.errors import PluginNotInstalled

#: Rows of larger files are not counted beforehand.
COUNTED_BYTES = 16 * 1024 * 1024
#: Separators that a CSV file may have; its first line tells which.
SEPARATORS = ",;\t|"
#: Cells of a row beyond the names of the first line.
REST = "_rest"

#: A number as JSON has it: no leading zeros or plus sign, so that ``007`` and ``+49`` stay texts.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
#: Longer numbers stay texts.
NUMBER_LIMIT = 300


class RowFile(Protocol):
    """A file that is read as rows."""

    def check(self) -> None:
        """Raise OSError, ValueError or `csv.Error` when it cannot be read."""

    def total(self) -> int | None:
        """Return the number of rows, if it is known in bounded time."""

    def rows(self, made_of_json: Callable[[bytes], object]) -> Iterator[object]:
        """Yield the rows; a JSON text is made a message by ``made_of_json``."""


class CsvFile:
    """A CSV file whose first line names the columns.

    Args:
        separators: one of these separates the cells: the one that is most frequent in the first line.
    """

    def __init__(self, path: Path, separators: str = SEPARATORS) -> None:
        self._path, self._separators = path, separators

    def check(self) -> None:
        """See `RowFile`; also unless each column has a name of its own."""
        with self._open() as file:
            names: list[str] = next(self._reader(file), [])
        if not names:
            raise ValueError("its first line names no columns")
        if len({*names}) < len(names):
            raise ValueError("two of its columns have the same name")

    def total(self) -> int | None:
        """See `RowFile`."""
        if self._path.stat().st_size > COUNTED_BYTES:
            return None
        try:
            with self._open() as file:
                return max(sum(1 for cells in self._reader(file) if cells) - 1, 0)
        except (ValueError, csv.Error):  # told when it is read
            return None

    def rows(self, made_of_json: Callable[[bytes], object]) -> Iterator[object]:
        """See `RowFile`."""
        with self._open() as file:
            reader = self._reader(file)
            names: list[str] = next(reader, [])
            for cells in reader:
                if cells:
                    yield self._row(names, cells)

    @staticmethod
    def _row(names: list[str], cells: list[str]) -> dict[str, Any]:
        values = [*map(typed, cells), *[None] * (len(names) - len(cells))]
        row: dict[str, Any] = dict(zip(names, values, strict=False))
        if len(cells) > len(names):
            row[REST] = values[len(names) :]
        return row

    def _open(self) -> TextIO:
        return self._path.open(encoding="utf-8-sig", newline="")

    def _reader(self, file: TextIO) -> Any:
        line = file.readline()
        file.seek(0)
        return csv.reader(file, delimiter=max(self._separators, key=line.count))


def typed(cell: str) -> int | float | str | None:
    """Return a CSV file's cell as a number if JSON has it as one, None if it is empty, else as it is.

    >>> [typed(cell) for cell in ("3", "2.50", "1e3", "007", "", "x", "nan")]
    [3, 2.5, 1000.0, '007', None, 'x', 'nan']
    """
    if not cell:
        return None
    found = _NUMBER.fullmatch(cell) if len(cell) <= NUMBER_LIMIT else None
    if found is None:
        return cell
    if found[1] is None and found[2] is None:
        return int(cell)
    number = float(cell)
    return number if abs(number) < float("inf") else cell


class JsonLinesFile:
    """A file with one JSON value a line. The texts are handed on as they are."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        """See `RowFile`."""
        self._path.open("rb").close()

    def total(self) -> int | None:
        """See `RowFile`."""
        if self._path.stat().st_size > COUNTED_BYTES:
            return None
        return sum(1 for _ in self.rows(bytes))

    def rows(self, made_of_json: Callable[[bytes], object]) -> Iterator[object]:
        """See `RowFile`; empty lines are left out."""
        with self._path.open("rb") as file:
            for line in file:
                if text := line.strip():
                    yield made_of_json(text)


class ParquetFile:
    """A Parquet file, read by pyarrow."""

    def __init__(self, path: Path) -> None:
        try:
            self._parquet: Any = import_module("pyarrow.parquet")
        except ModuleNotFoundError:
            raise PluginNotInstalled("sources", ".parquet", "pip install pyarrow, or 'timbr-wamp[tables]'") from None
        self._path = path

    def check(self) -> None:
        """See `RowFile`."""
        self._parquet.read_metadata(self._path)  # pyarrow's errors for files are ValueErrors and OSErrors

    def total(self) -> int | None:
        """See `RowFile`."""
        return int(self._parquet.read_metadata(self._path).num_rows)

    def rows(self, made_of_json: Callable[[bytes], object]) -> Iterator[object]:
        """See `RowFile`."""
        with self._parquet.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=512):
                yield from batch.to_pylist()


#: How files are read, by suffix.
FILES: dict[str, Callable[[Path], RowFile]] = {
    ".csv": CsvFile,
    ".tsv": lambda path: CsvFile(path, "\t"),
    ".jsonl": JsonLinesFile,
    ".ndjson": JsonLinesFile,
    ".parquet": ParquetFile,
}
