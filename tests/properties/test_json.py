"""Every value has a JSON text that can be read again."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
from collections import ChainMap, OrderedDict, deque
from datetime import timedelta, timezone

import numpy
import orjson
import pandas
from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp.values import PREVIEW_LIMIT_BYTES, json_safe, text_of, to_json


class Plain(enum.Enum):
    A = 1


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __hash__ = __len__ = __iter__ = __eq__ = __repr__  # type: ignore[assignment]


@dataclasses.dataclass
class Pair:
    a: object
    b: object


DTYPES = ["?", "i1", ">i4", "u8", "f2", "f4", ">f8", "c16", "M8[s]", "M8[ns]", "m8[us]", "S3", "U2", "V3"]


@st.composite
def arrays(draw: st.DrawFn) -> numpy.ndarray:
    """Arrays of any bytes, types and shapes, side by side in memory or not."""
    dtype = numpy.dtype(draw(st.sampled_from(DTYPES)))
    rows, columns = draw(st.integers(0, 40)), draw(st.integers(1, 40))
    seed = draw(st.binary(min_size=1, max_size=16))
    size = rows * columns * dtype.itemsize
    data = bytes(size) if dtype.kind == "U" else (seed * size)[:size]  # of text not every byte is a character
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    array = numpy.frombuffer(data, dtype).reshape(rows, columns)
    return draw(st.sampled_from([array, array.T, array[::2], array[:, ::-1], array.reshape(-1)]))


cells = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=60), st.dates(), st.sets(st.integers()))
texts_or_numbers = st.one_of(st.text(max_size=60), st.integers())
tables = st.one_of(
    st.dictionaries(texts_or_numbers, st.lists(cells, min_size=3, max_size=3), max_size=12).map(pandas.DataFrame),
    st.lists(cells, max_size=12).map(lambda items: pandas.Series(items, dtype=object)),
    st.sampled_from([pandas.NaT, pandas.NA, pandas.Timestamp(0), pandas.Timedelta(1), pandas.RangeIndex(5)]),
)  # fmt: skip
files = st.builds(io.BytesIO, st.binary(max_size=50))

texts = st.text(st.characters(), max_size=20)  # lone surrogates too
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary(max_size=20), st.complex_numbers(),
    st.dates(), st.datetimes(), st.times(), st.timedeltas(), st.uuids(), st.decimals(), st.fractions(),
    st.builds(Hostile), arrays(), tables, files,
    st.sampled_from([Plain.A, Plain, object(), len, ValueError("x"), range(5), ..., 10**400, -(2**63) - 1]),
)  # fmt: skip
keys = st.one_of(texts, st.integers(), st.none(), st.booleans(), st.floats(), st.uuids(), st.dates())


def containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.tuples(inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(deque, st.lists(inner, max_size=3)),
        st.builds(OrderedDict, st.dictionaries(texts, inner, max_size=3)),
        st.builds(ChainMap, st.dictionaries(texts, inner, max_size=3)),
        st.sets(keys, max_size=4),
    )


values = st.recursive(scalars, containers, max_leaves=20)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=20,
)


@given(values)
def test_any_value_has_a_valid_text(value):
    text = to_json(value)
    assert json_safe(value) == json.loads(text.decode())
    assert text_of(value) == text


@given(st.one_of(scalars, arrays(), tables, files))
def test_the_preview_of_one_value_is_bounded(value):
    assert len(to_json(value)) <= PREVIEW_LIMIT_BYTES


@given(st.lists(st.one_of(scalars, arrays(), tables), max_size=3))
def test_a_value_has_the_same_text_by_the_fast_and_the_slow_path(value):
    assert json.loads(to_json(value)) == json_safe(value)


@given(values)
def test_the_slow_path_gives_only_json_types(value):
    assert orjson.dumps(json_safe(value))


@given(json_values)
def test_json_values_come_back_unchanged(value):
    assert json.loads(to_json(value)) == value


@given(values, st.integers(50, 200))
def test_a_text_over_its_limit_becomes_a_short_placeholder(value, limit):
    assert len(to_json(value, limit)) <= max(limit, 200)


offsets = st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds)))


@given(st.dictionaries(keys, scalars, max_size=8))
def test_no_entry_of_a_dict_is_lost(value):
    seen = json.loads(to_json(value))
    assert len(seen["items"] if "__type__" in seen and "__type__" not in value else seen) == len(value)


times = st.one_of(
    st.datetimes(timezones=st.one_of(st.none(), st.timezones(), offsets)), st.times(timezones=offsets), st.times()
)


@given(times)
def test_a_time_is_the_same_instant_when_it_is_read(value):
    read = type(value).fromisoformat(json.loads(to_json(value)))
    assert read.isoformat() == value.isoformat()
    assert read.utcoffset() == value.utcoffset()
