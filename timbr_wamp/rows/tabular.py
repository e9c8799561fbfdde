"""Rows as dicts, as a pandas DataFrame and as an Arrow table, by the same methods for everything that has rows.

pandas and pyarrow are optional: they are imported when a method needs them. No value makes a table fail: an Arrow
column of mixed types, or of what Arrow has no type for, holds JSON texts, and its field says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, TypeAlias

from timbr_wamp.errors import PluginNotInstalled
from timbr_wamp.values import text_of

__all__ = ["JSON_FIELD", "ColumnType", "Grid", "Tabular"]

#: What a column holds, where that is known beforehand. ``time``: UTC seconds, or None.
ColumnType: TypeAlias = Literal["text", "int", "float", "bool", "time"]

#: Metadata of an Arrow field whose column holds JSON texts.
JSON_FIELD = {"encoding": "json"}
#: pandas has integers beside missing values as floats, which are exact up to here.
EXACT_IN_FLOAT = 2**53


@dataclass(frozen=True, slots=True)
class Grid:
    """A table's columns and rows, before they become anything."""

    names: Sequence[str]
    #: Each as long as ``names``.
    rows: Sequence[Sequence[Any]]
    #: Types of the columns where they do not depend on the values.
    types: Mapping[str, ColumnType] = field(default_factory=dict)

    def columns(self) -> dict[str, list[Any]]:
        """Return the values of each column."""
        return {name: [row[number] for row in self.rows] for number, name in enumerate(self.names)}


class Tabular:
    """Base of everything with rows: records, errors, statuses, slots, revisions …, single ones and lists."""

    __slots__ = ()

    def _grid(self) -> Grid:
        """Return the table."""
        raise NotImplementedError

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return each row as a dict with the names of the columns as keys. Times are UTC seconds."""
        grid = self._grid()
        return [dict(zip(grid.names, row, strict=True)) for row in grid.rows]

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame`. Times are timestamps in UTC.

        Raises:
            PluginNotInstalled: pandas is not installed.
        """
        pandas = _library("pandas", "to_frame")
        grid = self._grid()
        columns = {name: _series(pandas, values, grid.types.get(name)) for name, values in grid.columns().items()}
        return pandas.DataFrame(columns, columns=pandas.Index(list(grid.names), dtype=object))

    def to_arrow(self) -> Any:
        """Return a `pyarrow.Table`. Times are timestamps in UTC.

        A column of mixed types, or of what Arrow has no type for, holds JSON texts; its field has `JSON_FIELD`
        as metadata.

        Raises:
            PluginNotInstalled: pyarrow is not installed.
        """
        arrow = _library("pyarrow", "to_arrow")
        grid = self._grid()
        arrays, fields = [], []
        for name, values in grid.columns().items():
            array = _array(arrow, values, grid.types.get(name))
            if array is None:
                array = arrow.array([None if value is None else _json(value) for value in values], arrow.string())
                fields.append(arrow.field(name, array.type, metadata=JSON_FIELD))
            else:
                fields.append(arrow.field(name, array.type))
            arrays.append(array)
        return arrow.Table.from_arrays(arrays, schema=arrow.schema(fields))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows for what reads Arrow's streams, such as `pyarrow.RecordBatchReader.from_stream`."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)


def _library(name: str, method: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise PluginNotInstalled("tables", method, f"pip install {name}, or 'timbr-wamp[tables]'") from None


def _json(value: object) -> str:
    return text_of(value).decode()


def _micros(seconds: float | None) -> int | None:
    """Return a time in microseconds; None for one that no calendar has."""
    if seconds is None or not abs(seconds) < 1e11:
        return None
    return round(seconds * 1_000_000)


# --- pandas --------------------------------------------------------------------------------------

_PANDAS_TYPES: dict[ColumnType, str] = {"int": "int64", "float": "float64", "bool": "bool"}
_SCALARS = {bool, int, float, str}


def _series(pandas: Any, values: list[Any], kind: ColumnType | None) -> Any:
    if kind == "time":
        times = pandas.Series([_micros(value) for value in values], dtype="Int64")
        return pandas.to_datetime(times, unit="us", utc=True)
    kinds = set(map(type, values)) - {type(None)}
    if kind in _PANDAS_TYPES and len(kinds) <= 1 and None not in values:
        return pandas.Series(values, dtype=_PANDAS_TYPES[kind])
    if len(kinds) > 1 and not kinds <= {int, float}:
        return pandas.Series(values, dtype=object)
    if not kinds or not kinds <= _SCALARS or (int in kinds and _would_round(values)):
        return pandas.Series(values, dtype=object)
    return pandas.Series(values)


def _would_round(values: list[Any]) -> bool:
    """Tell whether integers would become floats, and others by that, or do not fit into 64 bits."""
    floats = any(value is None or type(value) is float for value in values)
    limit = EXACT_IN_FLOAT if floats else 2**63 - 1
    return any(type(value) is int and not -limit <= value <= limit for value in values)


# --- Arrow ---------------------------------------------------------------------------------------


def _array(arrow: Any, values: list[Any], kind: ColumnType | None) -> Any:
    """Return an Arrow array, or None where there is no Arrow type for all the values."""
    types = {
        "text": arrow.string(), "int": arrow.int64(), "float": arrow.float64(), "bool": arrow.bool_(),
        "time": arrow.timestamp("us", tz="UTC"),
    }  # fmt: skip
    if kind == "time":
        values = [_micros(value) for value in values]
    try:
        if kind is not None:
            return arrow.array(values, types[kind])
        array = arrow.array(values)
    except (arrow.ArrowException, OverflowError, UnicodeError, TypeError, ValueError):
        return None
    return array if _is_json_like(arrow, array.type) else None


def _is_json_like(arrow: Any, kind: Any) -> bool:
    """Tell whether an inferred type is one that JSON values have, which every reader of Arrow's files knows."""
    if arrow.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_json_like(arrow, kind.field(n).type) for n in range(kind.num_fields))
    if arrow.types.is_list(kind):
        return _is_json_like(arrow, kind.value_type)
    return kind in (arrow.null(), arrow.bool_(), arrow.int64(), arrow.float64(), arrow.string())
