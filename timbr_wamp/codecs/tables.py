"""Codecs of pandas' tables, columns, indexes, times and its missing values. Pandas is never imported here.

A form tells shape, names and types, and the first rows.
"""

from __future__ import annotations

from typing import Any

from timbr_wamp.codecs.base import HEAD_ITEMS, HEAD_ROWS, ClassCodec, Codec, cell, loaded, python_number

#: So many columns stand in a preview.
HEAD_COLUMNS = 10


def _table(value: Any) -> dict[str, object]:
    head = value.iloc[:HEAD_ROWS, :HEAD_COLUMNS]
    return {
        "shape": list(value.shape),
        "columns": [cell(name) for name in head.columns],
        "dtypes": [cell(str(dtype)) for dtype in head.dtypes],
        "index": [cell(label) for label in head.index],
        "head": [[_table_cell(item) for item in row] for row in head.itertuples(index=False, name=None)],
    }


def _table_cell(value: Any) -> object:
    pandas = loaded("pandas")
    return None if value is pandas.NaT or value is pandas.NA else cell(python_number(value))


def _column(value: Any) -> dict[str, object]:
    head = value[:HEAD_ITEMS] if isinstance(value, loaded("pandas").Index) else value.iloc[:HEAD_ITEMS]
    return {
        "dtype": cell(str(value.dtype)),
        "length": len(value),
        "name": cell(value.name),
        "head": [_table_cell(item) for item in head],
    }


def _timestamp(value: Any) -> str:
    text: str = value.isoformat()
    return text.replace("+00:00", "Z")


def _period(value: Any) -> dict[str, object]:
    return {"value": str(value), "freq": value.freqstr}


def _missing(value: Any) -> None:
    return None


CODECS: dict[type | str, Codec] = {
    "pandas.DataFrame": ClassCodec("DataFrame", _table),
    "pandas.Series": ClassCodec("Series", _column),
    "pandas.Index": ClassCodec("Index", _column),
    "pandas.Timestamp": ClassCodec("Timestamp", _timestamp),
    "pandas.Timedelta": ClassCodec("Timedelta", lambda value: {"value": value.isoformat()}),
    "pandas.Period": ClassCodec("Period", _period),
    "pandas.NaTType": ClassCodec("NaT", _missing),
    "pandas.NAType": ClassCodec("NA", _missing),
}
