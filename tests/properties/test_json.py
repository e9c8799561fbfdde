"""Every value has a JSON text that can be read again."""

from __future__ import annotations

import dataclasses
import enum
from collections import ChainMap, OrderedDict, deque

import orjson
from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp.values import from_json, json_safe, to_json


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


texts = st.text(st.characters(), max_size=20)  # lone surrogates too
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary(max_size=20), st.complex_numbers(),
    st.dates(), st.datetimes(), st.times(), st.timedeltas(), st.uuids(), st.decimals(), st.fractions(),
    st.builds(Hostile),
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
    text.decode()
    orjson.loads(text)


@given(values)
def test_the_slow_way_gives_only_what_json_has(value):
    orjson.dumps(json_safe(value))


@given(json_values)
def test_what_json_has_comes_back_as_it_was(value):
    assert from_json(to_json(value)) == value


@given(values, st.integers(50, 200))
def test_a_text_over_its_limit_becomes_a_short_placeholder(value, limit):
    assert len(to_json(value, limit)) <= max(limit, 200)
