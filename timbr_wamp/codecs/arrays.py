"""Codecs of numpy's arrays and numbers. Numpy is never imported here.

Small arrays of numbers, dates or text are lists in a preview, and numbers are numbers in both forms.
Everything else tells dtype and shape, with its first items in a preview and its bytes in full.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from timbr_wamp.codecs.base import HEAD_ITEMS, ClassCodec, Codec, brief, cut, loaded, natural
from timbr_wamp.codecs.plain import load_bytes

#: An array with at most so many items (or empty lists), bytes and dimensions is a list in a preview.
LIST_ITEMS, LIST_BYTES, LIST_DIMENSIONS = 500, 16 * 1024, 4
#: Nested deeper, numpy's own limit.
SHAPE_LIMIT = 64


def _preview(value: Any) -> object:
    items = math.prod(max(length, 1) for length in value.shape)
    small = items <= LIST_ITEMS and value.nbytes <= LIST_BYTES and value.ndim <= LIST_DIMENSIONS
    if small and value.dtype.kind in "biufMU":
        return _listed(value)
    head = value.ravel()[:HEAD_ITEMS] if value.flags.c_contiguous else value.flat[:HEAD_ITEMS]
    return {
        "dtype": cut(value.dtype.str if value.dtype.names is None else str(value.dtype)),
        "shape": list(value.shape),
        "nbytes": int(value.nbytes),
        "head": [brief(natural(item)) for item in head],
    }


def _listed(value: Any) -> object:
    """Return an array as nested lists; half and single numbers with no more digits than they have."""
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind == "f" and size < 8:
        return _floats(value.astype("U").tolist())
    if kind == "f" and size > 8:
        return value.astype("f8").tolist()
    if kind == "M":
        return value.astype("M8[us]").tolist()
    return value.tolist()


def _floats(texts: Any) -> Any:
    return [_floats(text) for text in texts] if isinstance(texts, list) else float(texts)


def _dtype(dtype: Any) -> object:
    return dtype.str if dtype.names is None else loaded("numpy").lib.format.dtype_to_descr(dtype)


def _full(value: Any) -> dict[str, object]:
    form = {"dtype": _dtype(value.dtype), "shape": list(value.shape)}
    if value.dtype.hasobject or hasattr(value, "mask"):  # what is masked is None in the list
        return {**form, "items": value.ravel().tolist()}
    return {**form, "__data__": base64.b64encode(value.tobytes()).decode()}


def _load(form: Mapping[str, Any]) -> object:
    numpy = loaded("numpy")
    shape = tuple(int(length) for length in form["shape"][:SHAPE_LIMIT])
    if "items" in form:
        items = list(form["items"])
        array = numpy.empty(len(items), dtype=object)
        for position, item in enumerate(items):
            array[position] = item
        return array.reshape(shape)
    return numpy.frombuffer(load_bytes(form), dtype=_read_dtype(form["dtype"])).reshape(shape).copy()


def _read_dtype(described: Any) -> Any:
    """Return a dtype of plain bytes. Raises ValueError for one that holds objects."""
    numpy = loaded("numpy")
    dtype = (
        numpy.lib.format.descr_to_dtype(_fields(described)) if isinstance(described, list) else numpy.dtype(described)
    )
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(described)
    return dtype


def _fields(described: list[Any]) -> list[tuple[Any, ...]]:
    """Return a structured dtype's fields as numpy wants them: JSON made lists of its tuples."""
    return [
        (name, _fields(kind) if isinstance(kind, list) else kind, *(tuple(part) for part in rest))
        for name, kind, *rest in described
    ]


def _scalar(value: Any) -> object:
    if _is_number(value):
        return value.item()
    if value.dtype.kind == "f" and value.dtype.itemsize < 8:
        return float(str(value))
    if value.dtype.kind == "M":
        return value.astype("M8[us]").item()
    if value.dtype.kind == "c" and value.dtype.itemsize <= 16:
        return complex(value)
    return {"dtype": cut(str(value.dtype)), "text": brief(value)}


def _scalar_in_full(value: Any) -> object:
    if _is_number(value) or (value.dtype.kind == "f" and value.dtype.itemsize < 8):
        return value.item()
    form = {"dtype": _dtype(value.dtype), "text": brief(value)}
    if value.dtype.hasobject:
        return form
    return {**form, "__data__": base64.b64encode(value.tobytes()).decode()}


def _is_number(value: Any) -> bool:
    return value.dtype.kind in "biu" or (value.dtype.kind == "f" and value.dtype.itemsize == 8)


def _load_scalar(form: Mapping[str, Any]) -> object:
    return loaded("numpy").frombuffer(load_bytes(form), dtype=_read_dtype(form["dtype"]))[0]


CODECS: dict[type | str, Codec] = {
    "numpy.ndarray": ClassCodec("ndarray", _preview, _full, _load),
    "numpy.generic": ClassCodec("generic", _scalar, _scalar_in_full, _load_scalar),
}
