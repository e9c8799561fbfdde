"""What a slot's function is depends on its type: none of its own code runs, and chains of wrappers are bounded."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from typing import Any
from unittest import mock

import pytest

from timbr_wamp.errors import NotCallable
from timbr_wamp.machine import Machine
from timbr_wamp.machine.slots.callables import is_async, is_unawaited


class Answers:
    """Answers every name with another of its kind, and calls."""

    def __getattr__(self, name: str) -> Answers:
        return Answers()

    def __call__(self, value: int) -> int:
        return value + 1


class Raises:
    """Each attribute that its type does not have raises, and so do its length and truth."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, value: int) -> int:
        return value + 1


class Lies:
    """Says that it is a class, or a coroutine function."""

    __class__ = type  # type: ignore[assignment]

    def __call__(self, value: int) -> int:
        return value + 1


class Properties:
    @property
    def step(self) -> Any:
        raise SystemExit

    @property
    def func(self) -> Any:
        raise SystemExit

    @property
    def __wrapped__(self) -> Any:
        raise SystemExit

    @property
    def __signature__(self) -> Any:
        raise SystemExit

    @property
    def __name__(self) -> Any:
        raise SystemExit

    def __call__(self, value: int) -> int:
        return value + 1


class AnsweringMeta(type):
    def __getattr__(cls, name: str) -> Any:
        return cls

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


class OfMeta(metaclass=AnsweringMeta):
    def __init__(self, value: int) -> None:
        self.value = value


def cycle() -> Any:
    def function(*args: int) -> int:
        return args[0] + 1

    function.__wrapped__ = function  # type: ignore[attr-defined]
    return function


def cycle_of_partials() -> Any:
    class Partial(functools.partial):  # type: ignore[type-arg]
        pass

    one = Partial(lambda value: value + 1)
    one.__setstate__((one, (), {}, {}))
    return one


class AnyFunc(functools.partial):  # type: ignore[type-arg]
    @property
    def func(self) -> Any:  # type: ignore[override]
        raise SystemExit


def odd_names() -> Any:
    def function(value: int) -> int:
        return value + 1

    function.__qualname__ = "a\nb\ud83d" * 10_000
    function.__module__ = 5  # type: ignore[assignment]
    return function


@pytest.mark.parametrize(
    "make",
    [Answers, Raises, Lies, Properties, cycle, lambda: AnyFunc(lambda value: value + 1), odd_names],
    ids=["answers", "raises", "lies", "properties", "cycle", "partial", "names"],
)
def test_an_object_with_dynamic_attributes_is_only_called(make):  # made here: pytest asks parameters
    with Machine(serve=False) as machine:
        machine[1] = make()
        (slot,) = [slot for slot in machine.slots if not slot.identity]
        assert slot.kind == "function"
        assert "\n" not in slot.function
        assert len(slot.function) <= 200
        assert machine(1).values[1] == 2
        assert slot.function in machine.graph.nodes[1].label or len(slot.function) > 60
        machine.rollback(0)
        machine.rollback(1)
        assert machine(1).values[1] == 2


def test_no_dynamic_attribute_of_a_metaclass_is_read():
    with Machine(serve=False) as machine:
        machine[0] = OfMeta
        assert machine.slots[0].function == "test_callables.OfMeta"
        assert machine.slots[0].values == 1


def test_an_endless_chain_of_wrappers_is_cut():
    with Machine(serve=False) as machine:
        machine[0] = cycle_of_partials()
        assert machine.slots[0].kind == "function"


def test_a_mock_is_called_with_all_values():
    with Machine(serve=False) as machine:
        machine[1] = mock.Mock(return_value=7)
        machine[2] = mock.MagicMock(spec=dict, return_value=8)
        assert [slot.kind for slot in machine.slots[1:3]] == ["function", "function"]
        assert machine(1).values[1:3] == (7, 8)


def test_a_step_that_is_a_property_is_refused_and_not_read():
    class Node:
        @property
        def step(self) -> Any:
            raise SystemExit

    with Machine(serve=False) as machine, pytest.raises(NotCallable, match="a step that is no method"):
        machine[0] = Node()


class Slotted:
    __slots__ = ("step",)

    def __init__(self) -> None:
        self.step = lambda value: value + 1


class Static:
    @staticmethod
    def step(value: int) -> int:
        return value + 1


class OfClass:
    @classmethod
    def step(cls, value: int) -> int:
        return value + 1


class Partial:
    def add(self, more: int, value: int) -> int:
        return value + more

    step = functools.partialmethod(add, 1)


class Dispatched:
    @functools.singledispatchmethod
    def step(self, value: int) -> int:
        return value + 1


@pytest.mark.parametrize(
    "thing",
    [
        Slotted(), Static(), OfClass(), Partial(), Dispatched(),
        types.SimpleNamespace(step=lambda value: value + 1),
    ],
)  # fmt: skip
def test_a_step_of_any_make_is_an_objects_step(thing):
    with Machine(serve=False) as machine:
        machine[0] = thing
        assert machine.slots[0].kind == "object"
        assert machine(1).values[0] == 2


async def acoro(value: int) -> int:
    return value + 1


class AsyncCall:
    async def __call__(self, value: int) -> int:
        return value + 1


class BehindFunc(AsyncCall):
    """Has an unrelated attribute ``func``."""

    func = len


class AsyncMethods:
    async def step(self, value: int) -> int:
        return value + 1

    @classmethod
    async def of_class(cls, value: int) -> int:
        return value + 1


@pytest.mark.parametrize(
    "thing",
    [
        acoro, AsyncCall(), BehindFunc(), functools.partial(acoro), functools.partial(AsyncCall()),
        AsyncCall().__call__, AsyncMethods(), AsyncMethods().step, AsyncMethods.of_class,
        functools.partial(functools.partial(acoro)), staticmethod(acoro),
        functools.partial(mock.AsyncMock(return_value=2)),
    ],
)  # fmt: skip
def test_a_callable_that_is_async_by_its_type_is_awaited(thing):
    with Machine(serve=False) as machine:
        machine[0] = thing
        assert machine(1).values[0] == 2


def test_a_function_marked_as_a_coroutine_function_is_awaited():
    mark = getattr(inspect, "markcoroutinefunction", None)

    def function(value: int) -> Any:
        return acoro(value)

    if mark is None:  # Python 3.11 has asyncio's own mark alone
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    else:
        function = mark(function)
    assert is_async(function)


@pytest.mark.parametrize("cache", [functools.cache, functools.lru_cache(maxsize=3)])
def test_a_cached_async_function_is_refused_since_a_coroutine_is_awaited_once(cache):
    with Machine(serve=False) as machine, pytest.raises(NotCallable, match="caches coroutines"):
        machine[0] = cache(acoro)


def test_awaitables_are_distinguished_from_values():
    class Awaitable:
        def __await__(self) -> Any:
            yield

    async def agenerator() -> Any:
        yield 1

    @types.coroutine
    def older() -> Any:
        yield

    coroutine = acoro(1)
    loop = asyncio.new_event_loop()
    try:
        assert all(map(is_unawaited, [coroutine, agenerator(), older(), loop.create_future()]))
    finally:
        loop.close()
        coroutine.close()
    assert not any(map(is_unawaited, [1, None, Answers(), Raises(), mock.MagicMock(), Awaitable(), iter([1])]))
