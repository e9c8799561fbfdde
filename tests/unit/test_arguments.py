"""A slot function gets as many values as it requires, newest first, then JSON texts.

Every slot below is the fourth (f3) of a machine whose input is "in" and whose earlier slots gave
"f0", "f1" and "f2".
"""

from __future__ import annotations

import functools
import inspect
import math
import operator

import pytest

from timbr_wamp.errors import NotCallable
from timbr_wamp.machine import Machine


class Method:
    def one(self, a):
        return [a]

    def two(self, a, b):
        return [a, b]

    @classmethod
    def of_class(cls, a, b):
        return [a, b]

    @staticmethod
    def static(a):
        return [a]


class Callable:
    def __call__(self, a, b):
        return [a, b]


class Made:
    def __init__(self, a, b=0):
        self.given = [a, b]

    def __eq__(self, other):
        return [*self.given] == other

    __hash__ = None  # type: ignore[assignment]


def default(a=None):
    return [a]


def one_and_default(a, b=5):
    return [a, b]


def keyword_only(a, *, k=1):
    return [a, k]


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@wrapped
def decorated(a, b):
    return [a, b]


def named(function):
    @functools.wraps(function)
    def wrapper(x):
        return [x]

    return wrapper


@named
def adapted(state, x):
    return [state, x]


def by_hand(*args):
    return list(args)


by_hand.__signature__ = inspect.signature(lambda a, b: None)  # type: ignore[attr-defined]


def one_stated_as_two(x):
    return [x]


one_stated_as_two.__signature__ = inspect.signature(lambda a, b: None)  # type: ignore[attr-defined]


class Decorator:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args):
        return self.function(*args)


class NamedDecorator(Decorator):
    def __call__(self, x):
        return [x]


class Decorated:
    @wrapped
    def two(self, a, b):
        return [a, b]

    @named
    def adapted(self, a, b):
        raise AssertionError

    @classmethod
    @wrapped
    def of_class(cls, a, b):
        return [a, b]


def forwarding(function):
    @functools.wraps(function)
    def wrapper(self, *args, **options):
        return function(self, *args, **options)

    return wrapper


class Forwarded:
    @forwarding
    def two(self, a, b):
        return [a, b]

    @forwarding
    def __call__(self, a, b, c):
        return [a, b, c]


class ByNew:
    def __new__(cls, a, b):
        return [a, b]


class Meta(type):
    def __call__(cls, x):
        return [x]


class ByMeta(metaclass=Meta):
    def __init__(self, a, b, c):
        raise AssertionError


@functools.singledispatch
def dispatched(a, b):
    return [a, b]


ALL = ["f2", "f1", "f0", "in"]


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (lambda: "nothing", "nothing"),
        (lambda a: [a], ALL[:1]),
        (lambda a, b: [a, b], ALL[:2]),
        (lambda a, b, c: [a, b, c], ALL[:3]),
        (lambda a, b, c, d: [a, b, c, d], ALL),
        (lambda *a: list(a), ALL),
        (lambda a, *rest: [a, *rest], ALL),
        (lambda a, b, /: [a, b], ALL[:2]),
        (lambda **options: sorted(options), []),
        (lambda a, **options: [a], ALL[:1]),
        (default, ALL[:1]),
        (one_and_default, ["f2", 5]),
        (keyword_only, ["f2", 1]),
        (lambda a, b, c, d, s: [a, b, c, d, s], [*ALL, '"f2"']),
        (lambda a, b, c, d, s, t: [a, b, c, d, s, t], [*ALL, '"f2"', '"f1"']),
        (
            lambda a, b, c, d, s, t, u, v: [a, b, c, d, s, t, u, v],
            [*ALL, '"f2"', '"f1"', '"f0"', '"in"'],
        ),
        (Method().one, ALL[:1]),
        (Method().two, ALL[:2]),
        (Method.of_class, ALL[:2]),
        (Method.static, ALL[:1]),
        (Callable(), ALL[:2]),
        (functools.partial(lambda a, b, c: [a, b, c], 0), [0, "f2", "f1"]),
        (functools.partial(lambda a, b, k=1: [a, b, k], k=2), ["f2", "f1", 2]),
        (functools.partial(Method().two), ALL[:2]),
        (decorated, ALL[:2]),
        (adapted, ALL[:1]),
        (functools.partial(adapted), ALL[:1]),
        (functools.lru_cache(lambda a, b: [a, b]), ALL[:2]),
        (functools.lru_cache(adapted), ALL[:1]),
        (by_hand, ALL[:2]),
        (one_stated_as_two, ALL[:1]),
        (Decorator(lambda a, b: [a, b]), ALL[:2]),
        (NamedDecorator(lambda a, b: [a, b]), ALL[:1]),
        (Decorated().two, ALL[:2]),
        (Decorated.of_class, ALL[:2]),
        (Forwarded().two, ALL[:2]),
        (Forwarded(), ALL[:3]),
        (ByNew, ALL[:2]),
        (dispatched, ALL[:2]),
        (functools.partial(lambda a, b, c=1: [a, b, c], c=2), [*ALL[:2], 2]),
        (functools.partial(lambda a, b=1, *rest: [a, b, rest], b=2), ["f2", 2, ()]),
        (functools.partial(wrapped(lambda a, b, c: [a, b, c]), 0), [0, *ALL[:2]]),
        (functools.partial(functools.partial(lambda a, b, c: [a, b, c], 0), 1), [0, 1, "f2"]),
        (functools.partial(lambda a, *, k: [a, k], k=3), ["f2", 3]),
        (str, "f2"),
        (len, 2),
        (list, ["f", "2"]),
        (tuple, ("f", "2")),
        (repr, "'f2'"),
        (bool, True),
        (operator.itemgetter(1), "2"),
        (operator.methodcaller("upper"), "F2"),
        (str.upper, "F2"),
        ("-".join, "f-2"),
        (Made, ["f2", 0]),
    ],
)
def test_a_callable_of_any_kind_gets_what_it_requires(function, result):
    with Machine(serve=False) as machine:
        machine[0:3] = [lambda a: "f0", lambda a: "f1", lambda a: "f2"]
        machine[3] = function
        assert machine("in").values[3] == result


@pytest.mark.parametrize(("function", "result"), [(float, 2.0), (int, 2), (math.sqrt, 2**0.5), (round, 2), (abs, 2)])
def test_builtins_of_numbers_get_the_newest_value_alone(function, result):
    with Machine(serve=False) as machine:
        machine[3] = function
        assert machine(2).values[3] == result


def test_print_takes_all_values(capsys):
    with Machine(serve=False) as machine:
        machine[0] = lambda message: "f0"
        machine[1] = print
        assert machine("in").values[1] is None
    assert capsys.readouterr().out == "f0 in\n"


def test_the_first_slot_has_only_the_message_and_its_text():
    with Machine(serve=False) as machine:
        machine[0] = lambda message, text: [message, text]
        assert machine({"a": 1}).values[0] == [{"a": 1}, '{"a":1}']


def test_texts_are_what_was_published_also_after_a_slot_changed_the_value():
    with Machine(serve=False) as machine:
        machine[0] = lambda message: [1]
        machine[1] = lambda f0: f0.append(2)
        machine[2] = lambda f1, f0, message, f1_s, f0_s, in_s: [f0, f0_s]
        assert machine("in").values[2] == [[1, 2], "[1]"]


def generator(a):
    yield a


async def async_generator(a):
    yield a


class GeneratorCallable:
    def __call__(self, a):
        yield a


class Node:
    def step(self, a):
        return a


class GeneratorNode:
    def step(self, a):
        yield a


@pytest.mark.parametrize(
    "thing",
    [
        5, b"text", [1], generator, async_generator, functools.partial(functools.partial(generator)),
        GeneratorCallable(), Node, GeneratorNode(),
    ],
)  # fmt: skip
def test_what_cannot_be_a_slot_is_refused_and_changes_nothing(thing):
    with Machine(serve=False) as machine:
        with pytest.raises(NotCallable, match="slot 2"):
            machine[2] = thing
        assert machine.revision == 0
        assert machine(1).values == (1,) * 8


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a, b, c: a, "requires 3 arguments"),
        (Made, None),
        (type("Three", (), {"__init__": lambda self, a, b, c: None}), "requires 3 arguments"),
        (lambda a, *, key: a, "requires the keyword key"),
        (functools.partial(lambda a, b: a, 1, 2, 3), "partial with 3 arguments"),
        (functools.partial(lambda a: a, k=1), "keyword k"),
        (functools.partial(lambda a, b, c: a, b=1), "requires the keyword c"),
        (functools.partial(lambda a, /: a, a=1), "keyword a"),
        (functools.partial(lambda a, /, **k: a, a=1), None),
        (wrapped(lambda a, b, c: a), "requires 3 arguments"),
        (Method.two, "requires 3 arguments"),
        (lambda a, b, c, *rest: a, "requires 3 arguments"),
        (functools.partial(lambda a, b, c: a, 0), None),
    ],
)
def test_a_function_that_no_message_can_satisfy_is_refused_when_set_with_the_reason(function, reason):
    with Machine(serve=False) as machine:
        if reason is None:
            machine[0] = function
            assert machine.revision == 1
            return
        with pytest.raises(NotCallable, match=reason):
            machine[0] = function
        assert machine.revision == 0


def test_a_metaclass_decides_what_its_class_is_called_with():
    with Machine(serve=False) as machine:
        machine[1] = ByMeta
        assert machine.slots[1].values == 1
        assert machine(5).values[1] == [5]


def test_a_ufunc_gets_as_many_values_as_it_has_inputs():
    numpy = pytest.importorskip("numpy")
    with Machine(serve=False) as machine:
        machine[0] = lambda x: 10
        machine[1] = numpy.add
        machine[2] = numpy.sqrt
        machine[3] = numpy.mean
        assert [slot.values for slot in machine.slots[:4]] == [1, 2, 1, 1]
        assert machine(6).values[1:4] == (16, 4.0, 4.0)
