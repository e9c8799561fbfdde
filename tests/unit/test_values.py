"""Every Python value has a JSON text: its own, or a placeholder that describes it."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from collections import OrderedDict, UserDict, deque
from collections.abc import Mapping, Sequence

import orjson
import pytest

from timbr_wamp.values import from_json, json_safe, to_json


@pytest.mark.parametrize("value", [None, True, 0, -(2**63), 2**64 - 1, 1.5, "text", [1, [2]], {"a": {"b": None}}, []])
def test_plain_values_come_back_as_they_were(value):
    assert from_json(to_json(value)) == value


def test_numbers_that_json_does_not_have_become_null():
    assert from_json(to_json([float("nan"), float("inf"), -float("inf")])) == [None, None, None]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: float
    tags: set[str]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (UserDict(a=1), {"a": 1}),
        (Point(1.0, {"t"}), {"x": 1.0, "tags": ["t"]}),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), "2020-01-02T00:00:00Z"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
    ],
)
def test_containers_and_common_classes_have_a_natural_form(value, seen):
    assert from_json(to_json(value)) == seen


@pytest.mark.parametrize("value", [1 + 2j, object(), len, 2**70, b"bytes", bytearray(b"x"), ValueError("v"), int])
def test_what_has_no_json_form_becomes_a_placeholder_that_names_its_class(value):
    assert from_json(to_json(value))["__type__"] == type(value).__qualname__


def test_only_the_part_without_a_json_form_is_replaced():
    seen = from_json(to_json({"good": [1, 2], "bad": object()}))
    assert seen["good"] == [1, 2]
    assert seen["bad"]["__type__"] == "object"


def test_a_value_that_holds_itself_ends():
    value: list[object] = [1]
    value.append(value)
    assert from_json(to_json(value))[0] == 1


def test_a_value_that_appears_twice_side_by_side_is_shown_twice():
    part = [1j]
    first, second = from_json(to_json([part, part]))
    assert first == second
    assert first[0]["__type__"] == "complex"


def test_deep_nesting_ends_in_a_placeholder():
    value: object = object()
    for _ in range(500):
        value = [value]
    assert b"nested too deep" in to_json(value)


def test_a_huge_value_is_replaced_by_its_size():
    assert from_json(to_json("x" * 1000, limit_bytes=100)) == {"__type__": "str", "__too_large__": 1002}


def test_a_walk_ends_where_no_text_within_the_limit_could_hold_what_it_meets():
    bomb: object = {1}
    for _ in range(60):
        bomb = [bomb, bomb, {1: 2}]  # 2**60 leaves, sixty lists
    assert from_json(to_json(bomb, 1000)) == {"__type__": "list", "__too_large__": 1000}


def test_lone_surrogates_which_utf_8_cannot_carry_are_written_out():
    assert from_json(to_json({"\ud800": "\udcff"})) == {"\\ud800": "\\udcff"}


class HostileRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class HostileStr:
    def __str__(self) -> str:
        raise RuntimeError("no")


class HostileMapping(Mapping):  # type: ignore[type-arg]
    def __getitem__(self, key: object) -> object:
        raise RuntimeError("no")

    def __iter__(self):
        raise RuntimeError("no")

    def __len__(self) -> int:
        return 1


class HostileSequence(Sequence):  # type: ignore[type-arg]
    def __getitem__(self, key: object) -> object:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@dataclasses.dataclass
class HalfMade:
    __slots__ = ("x",)
    x: int


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


@pytest.mark.parametrize(
    "value",
    [
        HostileRepr(),
        {HostileStr(): 1},
        HostileMapping(),
        HostileSequence(),
        HostileError(),
        HalfMade.__new__(HalfMade),
        released(),
        memoryview(bytes(12)).cast("B", (3, 4)),
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_whose_own_code_raises_becomes_a_placeholder(value):
    seen = from_json(to_json({"bad": value, "good": 1}))
    assert seen["good"] == 1
    orjson.dumps(json_safe(value))


def test_a_sequence_without_end_is_cut():
    class Endless(Sequence):  # type: ignore[type-arg]
        def __getitem__(self, index: int) -> int:
            return index

        def __len__(self) -> int:
            return 10

    assert len(to_json(Endless())) < 50_000_000
