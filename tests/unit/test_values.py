"""Every Python value has a JSON text: its own, or a placeholder that describes it."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import mmap
import sys
import threading
import uuid
import weakref
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest.mock import MagicMock, Mock
from zoneinfo import ZoneInfo

import numpy
import orjson
import pandas
import pytest

from timbr_wamp.values import DEPTH_LIMIT, json_form, json_safe, text_of, to_json


@pytest.mark.parametrize("value", [None, True, 0, -(2**63), 2**64 - 1, 1.5, "text", [1, [2]], {"a": {"b": None}}, []])
def test_plain_values_come_back_as_they_were(value):
    assert json.loads(to_json(value)) == value


def test_numbers_that_json_does_not_have_become_null():
    assert json.loads(to_json([float("nan"), float("inf"), -float("inf")])) == [None, None, None]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: float
    tags: set[str]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({1: "a", None: "b", 2**70: "c"}, {"1": "a", "None": "b", str(2**70): "c"}),
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
    assert json.loads(to_json(value)) == seen


@pytest.mark.parametrize("value", [1 + 2j, object(), len, 2**70, b"bytes", bytearray(b"x"), ValueError("v"), int])
def test_what_has_no_json_form_becomes_a_placeholder_that_names_its_class(value):
    assert json.loads(to_json(value))["__type__"] == type(value).__qualname__


def test_only_the_part_without_a_json_form_is_replaced():
    seen = json.loads(to_json({"good": [1, 2], "bad": object()}))
    assert seen["good"] == [1, 2]
    assert seen["bad"]["__type__"] == "object"


def test_a_value_that_holds_itself_ends():
    value: list[object] = [1]
    value.append(value)
    assert json.loads(to_json(value))[0] == 1


def test_a_value_that_appears_twice_side_by_side_is_shown_twice():
    part = [1j]
    first, second = json.loads(to_json([part, part]))
    assert first == second
    assert first[0]["__type__"] == "complex"


def nested(leaf: object, levels: int, kind: Callable[[object], object]) -> object:
    for _ in range(levels):
        leaf = kind(leaf)
    return leaf


KINDS = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"a": inner},
    "tuple": lambda inner: (inner,),
    "numbered": lambda inner: {1: inner},
    "set": lambda inner: frozenset({inner}),
}


@pytest.mark.parametrize("leaf", ["plain", 1, 2**70, 1j, "\ud800"], ids=ascii)
@pytest.mark.parametrize("kind", KINDS)
def test_nesting_beyond_the_limit_has_the_same_form_whatever_it_holds(leaf, kind):
    plain = leaf if kind != "set" or leaf != 2**70 else "set"
    allowed = to_json(nested(plain, DEPTH_LIMIT - 1, KINDS[kind]))
    assert b"__too_deep__" not in allowed
    seen = json.loads(to_json(nested(plain, 500, KINDS[kind])))
    for _ in range(DEPTH_LIMIT):
        seen = next(iter(seen.values() if isinstance(seen, dict) else seen))
    assert seen == {"__type__": seen["__type__"], "__too_deep__": DEPTH_LIMIT}


def test_a_huge_value_is_replaced_by_its_size():
    assert json.loads(to_json("x" * 1000, limit_bytes=100)) == {"__type__": "str", "__too_large__": 1002}


def test_a_walk_ends_where_no_text_within_the_limit_could_hold_what_it_meets():
    bomb: object = {1}
    for _ in range(60):
        bomb = [bomb, bomb, {1: 2}]  # 2**60 leaves, sixty lists
    assert json.loads(to_json(bomb, 1000)) == {"__type__": "list", "__too_large__": 1000}


def test_lone_surrogates_which_utf_8_cannot_carry_are_written_out():
    assert json.loads(to_json({"\ud800": "\udcff"})) == {"\\ud800": "\\udcff"}


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
    seen = json.loads(to_json({"bad": value, "good": 1}))
    assert seen["good"] == 1
    orjson.dumps(json_safe(value))


def test_a_sequence_without_end_is_cut():
    class Endless(Sequence):  # type: ignore[type-arg]
        def __getitem__(self, index: int) -> int:
            return index

        def __len__(self) -> int:
            return 10

    assert len(to_json(Endless())) < 50_000_000


# --- keys ---


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "no text of its own"

    __repr__ = encode = __str__  # type: ignore[assignment]


class Named(enum.StrEnum):
    A = "a"


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        ({1: "a", "1": "b"}, [[1, "a"], ["1", "b"]]),
        ({None: 1, "None": 2}, [[None, 1], ["None", 2]]),
        ({True: 1, "True": 2}, [[True, 1], ["True", 2]]),
        ({1.5: [1j], "1.5": 2}, [[1.5, [{"__type__": "complex", "value": "1j"}]], ["1.5", 2]]),
        ({float("nan"): 1, "nan": 2}, [[None, 1], ["nan", 2]]),
        ({numpy.int64(1): 1, "1": 2}, [[{"__type__": "int64", "__repr__": repr(numpy.int64(1))}, 1], ["1", 2]]),
        (
            {Colour.RED: 1, "Colour.RED": 2},
            [[{"__type__": "Colour", "__repr__": "<Colour.RED: 'red'>"}, 1], ["Colour.RED", 2]],
        ),
        ({Text("x"): {1}, "y": 0, 1: 1, "1": 2}, [["x", [1]], ["y", 0], [1, 1], ["1", 2]]),
        ({"\ud800": 1, "\\ud800": 2}, [["\\ud800", 1], ["\\ud800", 2]]),
        ({2**70: 1, str(2**70): 2}, [[{"__type__": "int", "value": str(2**70)}, 1], [str(2**70), 2]]),
        (UserDict({1: "a", "1": "b"}), [[1, "a"], ["1", "b"]]),
    ],
    ids=ascii,
)  # fmt: skip
def test_no_entry_is_lost_where_two_keys_have_the_same_text(value, pairs):
    seen = json.loads(to_json([value]))[0]
    assert seen["__type__"] == "dict"
    assert seen["items"] == pairs
    assert json_safe([value]) == [seen]


class Raising(enum.Enum):
    A = 1

    @property
    def value(self) -> object:  # type: ignore[override]
        raise RuntimeError("no")


# --- forms without descriptions ---


def test_a_form_has_lists_and_texts_for_what_json_does_not_know():
    value = {1: numpy.zeros(1000), "at": datetime.date(2020, 1, 2), "set": {2, 1}, "point": (1, Colour.RED)}
    assert json_form(value) == {"1": [0.0] * 1000, "at": "2020-01-02", "set": [1, 2], "point": [1, "red"]}


@pytest.mark.parametrize(
    "value",
    [object(), 1j, decimal.Decimal(1), 2**70, "\ud800", {1: 1, "1": 2}, {1: [1], "1": [2]}, b"x", Raising.A],
    ids=lambda value: type(value).__name__,
)
def test_what_could_only_be_described_is_refused(value):
    with pytest.raises(TypeError):
        json_form({"a": [value]})


# --- times ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.datetime(1971, 1, 1, tzinfo=ZoneInfo("Africa/Monrovia")), "1971-01-01T00:00:00-00:44:30"),
        (datetime.datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")), None),
        (
            datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(0, 1, 1))),
            "2020-01-01T00:00:00+00:00:01.000001",
        ),
        (datetime.datetime(9999, 12, 31, 23, 59, 59, 999999), "9999-12-31T23:59:59.999999"),
        (datetime.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Vienna")), "2020-10-25T02:30:00+01:00"),
        (datetime.datetime(2020, 10, 25, 2, 30, fold=0, tzinfo=ZoneInfo("Europe/Vienna")), "2020-10-25T02:30:00+02:00"),
        (datetime.time(0, 0, 0, 10), "00:00:00.000010"),
        (datetime.time(1, tzinfo=datetime.timezone(datetime.timedelta(hours=2))), "01:00:00+02:00"),
        (datetime.date(1, 1, 1), "0001-01-01"),
    ],
)
def test_a_time_is_written_as_the_instant_that_it_is(value, text):
    seen = json.loads(to_json([value]))[0]
    assert text is None or seen == text
    read = type(value).fromisoformat(seen)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        assert read.astimezone(datetime.UTC) == value.astimezone(datetime.UTC)
    else:
        assert read == value


# --- what values do while they are written ---


class Unnamed(datetime.tzinfo):
    pass


class Clearing(enum.Enum):
    A = 1

    @property
    def value(self) -> object:  # type: ignore[override]
        HELD.clear()
        return "cleared"


HELD: list[object] = []


@dataclasses.dataclass(init=False)
class ClearingField:
    first: object

    def __init__(self, around: list[object]) -> None:
        object.__setattr__(self, "around", around)


def _clear(self: Any) -> object:
    self.around.clear()
    return 1


ClearingField.first = property(_clear)


class Exiting:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error("no")

    __str__ = __repr__


class ForeignMeta(type):
    def __hash__(cls) -> int:
        raise SystemExit

    def __getattr__(cls, name: str) -> object:
        raise SystemExit(name)

    def __eq__(cls, other: object) -> bool:
        raise SystemExit

    @property
    def __mro__(cls) -> object:  # type: ignore[override]
        raise SystemExit


def class_of_foreign_metaclass() -> type:
    """Return a class that pytest does not see: it would ask it for attributes."""

    class OfForeignMeta(metaclass=ForeignMeta):
        pass

    return OfForeignMeta


class WithoutClass:
    @property
    def __class__(self) -> object:  # type: ignore[override]
        raise RuntimeError("no")


class Recursive:
    def __repr__(self) -> str:
        return repr(self)


class NoText:
    def __repr__(self) -> object:  # type: ignore[override]
        return 1


class Endless(Sequence):  # type: ignore[type-arg]
    def __getitem__(self, index: int) -> int:
        return index

    def __len__(self) -> int:
        return 2**60


class EndlessMapping(Mapping):  # type: ignore[type-arg]
    def __getitem__(self, key: object) -> object:
        return key

    def __iter__(self):
        return itertools.count()

    def __len__(self) -> int:
        return 1


class Odd(int):
    def __add__(self, other: object) -> int:
        raise RuntimeError("no")

    __str__ = __repr__ = __int__ = __index__ = __float__ = __add__  # type: ignore[assignment]


class LyingList(list):  # type: ignore[type-arg]
    def __iter__(self):
        raise RuntimeError("no")

    __len__ = __getitem__ = __iter__  # type: ignore[assignment]


def closed_map() -> mmap.mmap:
    mapped = mmap.mmap(-1, 10)
    mapped.close()
    return mapped


def dead_proxy() -> object:
    return weakref.proxy(threading.Event())


def numbers_without_end():
    while True:
        yield 1


FOREIGN = {
    "a zone without offsets": datetime.datetime(2020, 1, 1, tzinfo=Unnamed()),
    "an enum whose value raises": Raising.A,
    "a UUID without state": object.__new__(uuid.UUID),
    "a fragment of no JSON": [orjson.Fragment(b"no json")],
    "a text with methods of its own": Text("t"),
    "a number with methods of its own": Odd(3),
    "a list with methods of its own": LyingList([1, 1j]),
    "a huge integer": 10**5000,
    "a key that is a huge integer": {10**5000: 1},
    "keys of bytes": {b"a": 1, "b'a'": 2},
    "a mixed set": {1, "a", None, (1,), 2.5, b"x"},
    "Decimal NaN": decimal.Decimal("sNaN"),
    "a class of a foreign metaclass": class_of_foreign_metaclass(),
    "its object": class_of_foreign_metaclass()(),
    "__class__ raises": WithoutClass(),
    "__repr__ without end": Recursive(),
    "__repr__ that is no text": NoText(),
    "iterator without end": numbers_without_end(),
    "sequence without end": Endless(),
    "mapping without end": EndlessMapping(),
    "closed memory map": closed_map(),
    "dead proxy": dead_proxy(),
    "proxy of a list": weakref.proxy(LyingList([1])),
    "mock": Mock(),
    "magic mock": MagicMock(),
    "ctypes": ctypes.c_char_p(b"x"),
    "ctypes array": (ctypes.c_int * 3)(1, 2, 3),
    "bytes in ctypes": memoryview((ctypes.c_int * 3)(1, 2, 3)),
    "SystemExit": Exiting(SystemExit),
    "GeneratorExit": Exiting(GeneratorExit),
    "a key that exits": {Exiting(SystemExit): 1},
    "object array": numpy.array([{1}, Mock(), Exiting(SystemExit)], dtype=object),
    "missing": [pandas.NaT, pandas.NA],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_whatever_a_value_does_it_has_a_text_that_json_reads(name):
    for value in (FOREIGN[name], [FOREIGN[name]], {"a": {"b": FOREIGN[name]}, "c": [1]}):
        text = to_json(value, 100_000)
        assert "without end" in name or text_of(value) == text
        assert len(text) <= 100_000
        json.loads(text.decode())


def test_what_json_has_is_written_as_it_is_whatever_its_class_says():
    assert to_json([Text("t"), Odd(3), LyingList([1]), Named.A]) == b'["t",3,[1],"a"]'


def test_objects_that_answer_to_every_name_are_described_by_their_class():
    for value in (Mock(), MagicMock(), Mock(spec=dict), MagicMock(__dataclass_fields__={})):
        assert json.loads(to_json(value))["__type__"] == type(value).__qualname__


def test_a_value_that_clears_its_container_is_written():
    HELD[:] = [Clearing.A, *range(1000)]
    assert json.loads(to_json(HELD))[0] == "cleared"
    around: list[object] = []
    around[:] = [ClearingField(around), *range(1000)]
    assert len(json.loads(to_json(around))) == 1001


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_no_exception_of_foreign_code_leaves_another_thread(kind):
    texts: list[bytes] = []
    thread = threading.Thread(target=lambda: texts.append(to_json([Exiting(kind), 1])))
    thread.start()
    thread.join(10)
    assert json.loads(texts[0])[1] == 1


def test_the_users_own_interrupt_is_raised():
    with pytest.raises(KeyboardInterrupt):
        to_json([Exiting(KeyboardInterrupt)])
    assert to_json([1]) == b"[1]"


@pytest.mark.parametrize(
    "bomb_of", [lambda inner: [inner, inner], lambda inner: {"a": inner, "b": inner}, lambda inner: (inner, inner)]
)
def test_a_value_that_holds_the_same_parts_again_and_again_ends(bomb_of):
    bomb: object = [1]
    for _ in range(60):
        bomb = bomb_of(bomb)
    assert b"__too_large__" in to_json(bomb, 100_000)


def test_a_value_is_written_while_there_is_hardly_any_stack_left():
    seen: list[object] = []

    def down() -> None:
        try:
            down()
        except RecursionError:
            with contextlib.suppress(RecursionError):
                seen.append(json.loads(to_json({"a": [[1j]]})))
            raise

    with pytest.raises(RecursionError):
        down()
    assert seen


def mutate(value: Any, items: Sequence[object], over: threading.Event) -> None:
    """Insert and remove in a container and in what it holds, until it is over."""
    number = 0
    while not over.is_set():
        number += 1
        item = items[number % len(items)]
        if isinstance(value, dict):
            value[f"x{number % 50}"] = item
            value.pop(f"x{(number + 25) % 50}", None)
        elif isinstance(value, set):
            value.add(number % 5000)
            value.discard((number + 2500) % 5000)
        else:
            value.append(item)
            value.pop()
            value.append(item)
            if len(value) > 6000:
                value.clear()


@pytest.mark.parametrize(
    "make",
    [
        lambda leaf: {f"k{n}": leaf for n in range(3000)},
        lambda leaf: [leaf] * 3000,
        lambda leaf: deque([leaf] * 3000),
        lambda leaf: UserDict({f"k{n}": leaf for n in range(3000)}).data,
        lambda leaf: set(range(3000)),
        lambda leaf: OrderedDict.fromkeys(map(str, range(3000)), leaf),
    ],
    ids=["dict", "list", "deque", "data of a UserDict", "set", "ordered dict"],
)
def test_values_are_written_while_other_threads_change_them(make):
    leaves = [decimal.Decimal(1), Colour.RED, 1, "a", datetime.datetime(2020, 1, 1), [1], {"a": 1j}, uuid.UUID(int=1)]
    before, over = sys.getswitchinterval(), threading.Event()
    values = [make(leaf) for leaf in leaves[:3]]
    threads = [threading.Thread(target=mutate, args=(value, leaves, over)) for value in values]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(4):
            assert len(json.loads(to_json(values))) == len(values)
            for value in values:
                assert json.loads(text_of(value)) is not None
    finally:
        over.set()
        for thread in threads:
            thread.join(10)
        sys.setswitchinterval(before)
