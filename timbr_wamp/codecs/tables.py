"""Codecs of pandas' tables, columns, indexes, times and its missing values. Pandas is never imported here.

A preview tells shape, names and types, and the first rows. The full form has each column whole: the
bytes of its numpy array where it is one, else its values one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timbr_wamp.codecs.base import HEAD_ITEMS, HEAD_ROWS, ClassCodec, Codec, brief, loaded, natural, not_restored, same

#: So many columns stand in a preview.
HEAD_COLUMNS = 10


def _table(value: Any) -> dict[str, object]:
    head = value.iloc[:HEAD_ROWS, :HEAD_COLUMNS]
    return {
        "shape": list(value.shape),
        "columns": [brief(name) for name in head.columns],
        "dtypes": [brief(str(dtype)) for dtype in head.dtypes],
        "index": [brief(label) for label in head.index],
        "head": [[_cell(item) for item in row] for row in head.itertuples(index=False, name=None)],
    }


def _cell(value: Any) -> object:
    return None if _missing(value) else brief(natural(value))


def _missing(value: object) -> bool:
    pandas = loaded("pandas")
    return value is pandas.NaT or value is pandas.NA


def _column(value: Any) -> dict[str, object]:
    head = value[:HEAD_ITEMS] if _is_index(value) else value.iloc[:HEAD_ITEMS]
    return {
        "dtype": brief(str(value.dtype)),
        "length": len(value),
        "name": brief(value.name),
        "head": [_cell(item) for item in head],
    }


def _is_index(value: Any) -> bool:
    return isinstance(value, loaded("pandas").Index)


def _values(value: Any) -> dict[str, object]:
    """Return a column's or an index's values: as an array where numpy has the type, else one by one."""
    dtype = value.dtype
    plain = getattr(dtype, "kind", "O") in "biufcmM" and hasattr(dtype, "itemsize") and hasattr(dtype, "fields")
    return {"dtype": str(dtype), "values": value.to_numpy() if plain else value.astype(object).tolist()}


def _table_in_full(value: Any) -> dict[str, object]:
    columns = [_values(value.iloc[:, position]) for position in range(value.shape[1])]
    return {"shape": list(value.shape), "columns": value.columns, "index": value.index, "data": columns}


def _column_in_full(value: Any) -> dict[str, object]:
    return {"name": value.name, **_values(value), "index": value.index}


def _index_in_full(value: Any) -> dict[str, object]:
    pandas = loaded("pandas")
    if isinstance(value, pandas.MultiIndex):
        return {"names": list(value.names), "tuples": [list(labels) for labels in value.tolist()]}
    if isinstance(value, pandas.RangeIndex):
        return {"name": value.name, "start": value.start, "stop": value.stop, "step": value.step}
    return {"name": value.name, **_values(value)}


def _array(form: Mapping[str, Any]) -> Any:
    return loaded("pandas").Series(form["values"], dtype=_dtype(form["dtype"]))


def _dtype(name: object) -> str:
    if not isinstance(name, str) or len(name) > 100:
        raise TypeError(name)
    return name


def _load_table(form: Mapping[str, Any]) -> object:
    columns = {position: _array(column) for position, column in enumerate(form["data"])}
    length = form["shape"][0]
    if any(len(column) != length for column in columns.values()):
        raise ValueError("columns of unequal length")
    table = loaded("pandas").DataFrame(columns, index=range(length))
    table.columns, table.index = form["columns"], form["index"]
    return table


def _load_column(form: Mapping[str, Any]) -> object:
    column = _array(form)
    column.index, column.name = form["index"], form["name"]
    return column


def _load_index(form: Mapping[str, Any]) -> object:
    pandas = loaded("pandas")
    if "tuples" in form:
        return pandas.MultiIndex.from_tuples([tuple(labels) for labels in form["tuples"]], names=form["names"])
    if "start" in form:
        return pandas.RangeIndex(form["start"], form["stop"], form["step"], name=form["name"])
    return pandas.Index(form["values"], dtype=_dtype(form["dtype"]), name=form["name"])


def _timedelta(value: Any) -> dict[str, object]:
    return {"value": value.isoformat()}


#: In a preview its text, as of every date; missing ones are null.
_TIMESTAMP = ClassCodec(
    "Timestamp",
    lambda value: value.isoformat().replace("+00:00", "Z"),
    lambda value: {"value": value.isoformat(), "unit": getattr(value, "unit", "ns")},
    lambda form: loaded("pandas").Timestamp(str(form["value"])).as_unit(str(form["unit"])),
)
_TIMEDELTA = same("Timedelta", _timedelta, lambda form: loaded("pandas").Timedelta(str(form["value"])))
_PERIOD = same("Period", lambda value: {"value": str(value), "freq": value.freqstr}, not_restored)


def _nothing(name: str, attribute: str) -> Codec:
    return ClassCodec(name, lambda value: None, lambda value: {}, lambda form: getattr(loaded("pandas"), attribute))


CODECS: dict[type | str, Codec] = {
    "pandas.DataFrame": ClassCodec("DataFrame", _table, _table_in_full, _load_table),
    "pandas.Series": ClassCodec("Series", _column, _column_in_full, _load_column),
    "pandas.Index": ClassCodec("Index", _column, _index_in_full, _load_index),
    "pandas.Timestamp": _TIMESTAMP,
    "pandas.Timedelta": _TIMEDELTA,
    "pandas.Period": _PERIOD,
    "pandas.NaTType": _nothing("NaT", "NaT"),
    "pandas.NAType": _nothing("NA", "NA"),
}
