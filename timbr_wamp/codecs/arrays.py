"""Codecs of numpy's arrays and numbers. Numpy is never imported here.

Small arrays of numbers, dates or text are lists, and numbers are numbers. Everything else tells dtype and
shape, with its first items.
"""

from __future__ import annotations

import math
from typing import Any

from timbr_wamp.codecs.base import HEAD_ITEMS, ClassCodec, Codec, cell, cut, loaded, python_number

#: An array within these numbers of items (or empty lists), bytes and dimensions is written as a list.
LIST_ITEMS, LIST_BYTES, LIST_DIMENSIONS = 500, 16 * 1024, 4


def _array(value: Any) -> object:
    items = math.prod(max(length, 1) for length in value.shape)
    small = items <= LIST_ITEMS and value.nbytes <= LIST_BYTES and value.ndim <= LIST_DIMENSIONS
    if small and value.dtype.kind in "biufMU":
        return _listed(value)
    head = value.ravel()[:HEAD_ITEMS] if value.flags.c_contiguous else value.flat[:HEAD_ITEMS]
    return {
        "dtype": cut(value.dtype.str if value.dtype.names is None else str(value.dtype)),
        "shape": list(value.shape),
        "nbytes": int(value.nbytes),
        "head": [cell(python_number(item)) for item in head],
    }


def _listed(value: Any) -> object:
    """Return an array as nested lists; half and single numbers with no more digits than they have."""
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind == "f" and size < 8:
        return _each(value.astype("U").tolist(), float)
    if kind == "f" and size > 8:
        return value.astype("f8").tolist()
    if kind == "M":  # of any unit: years beyond 9999 and nanoseconds too, which `datetime` does not have
        return _each(loaded("numpy").datetime_as_string(value).tolist(), _date)
    return value.tolist()


def _each(items: Any, form: Any) -> Any:
    return [_each(item, form) for item in items] if isinstance(items, list) else form(items)


def _date(text: str) -> str | None:
    """Return a date's text with the digits of a second that it has; None for none."""
    if text == "NaT":
        return None
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scalar(value: Any) -> object:
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind in "biu" or (kind == "f" and size == 8):
        return value.item()
    if kind == "f" and size < 8:
        return float(str(value))
    if kind == "M":
        return _date(str(value))
    if kind == "c" and size <= 16:
        return complex(value)
    return {"dtype": cut(str(value.dtype)), "text": cell(value)}


CODECS: dict[type | str, Codec] = {
    "numpy.ndarray": ClassCodec("ndarray", _array),
    "numpy.generic": ClassCodec("generic", _scalar),
}
