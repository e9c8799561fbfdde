"""The blocking classes are made from the async ones: same methods, signatures and docs, and they wait."""

from __future__ import annotations

import inspect
import pydoc
from types import SimpleNamespace
from typing import Any

import pytest

from timbr_wamp.client import (
    AsyncClient,
    AsyncKernel,
    AsyncMachine,
    Client,
    LiveSubscription,
    RemoteKernel,
    RemoteMachine,
)
from timbr_wamp.client.blocking import Blocking, attribute, blocking, converted, like

#: What an async method is called where it is written otherwise.
RENAMED = {"call": "__call__", "slot": "__getitem__", "delete": "__delitem__", "delete_source": "source"}
#: Written by hand: other arguments, or another way of waiting.
BY_HAND = {"wait", "close"}

PAIRS = [(AsyncClient, Client, {}), (AsyncKernel, RemoteKernel, {}), (AsyncMachine, RemoteMachine, RENAMED)]


@pytest.mark.parametrize(("asynchronous", "face", "renamed"), PAIRS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_public_method_has_a_blocking_one_with_its_signature_and_docs(
    asynchronous: type, face: type, renamed: dict[str, str]
):
    methods = [
        (name, method)
        for name, method in inspect.getmembers(asynchronous, inspect.isfunction)
        if not name.startswith("_")
    ]
    assert len(methods) > 6
    for name, method in methods:
        made = inspect.getattr_static(face, renamed.get(name, name))
        if isinstance(made, property) or made is method:  # what does not wait is the same in both
            continue
        assert not inspect.iscoroutinefunction(made), name
        assert inspect.getdoc(made), name
        if isinstance(made, attribute):
            assert made.__doc__ == method.__doc__
        elif name not in BY_HAND:
            ours, theirs = inspect.signature(made), inspect.signature(method)
            assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
            assert inspect.getdoc(made) == inspect.getdoc(method)
            assert made.__qualname__ == f"{face.__name__}.{renamed.get(name, name)}"
            assert made.__module__ == face.__module__


def test_help_shows_what_a_blocking_method_returns():
    assert "on_event(self, callback: 'Callable[[Event], object]') -> 'LiveSubscription'" in pydoc.plain(
        pydoc.render_doc(RemoteMachine.on_event)
    )
    assert inspect.signature(Client.kernel).return_annotation == "RemoteKernel"
    assert inspect.signature(RemoteMachine.records).return_annotation == "Records"
    assert inspect.get_annotations(Client.kernel)["return"] is RemoteKernel
    assert inspect.get_annotations(AsyncClient.kernel)["return"] == "AsyncKernel", (
        "the method it is made of keeps its own"
    )


class Counter:
    """An async class, with a loop that the test plays."""

    def __init__(self) -> None:
        self.count = 0

    async def add(self, number: int, *, twice: bool = False) -> int:
        """Add a number."""
        self.count += number * (1 + twice)
        return self.count

    async def total(self) -> int:
        """Return the total."""
        return self.count

    def part(self, name: str) -> str:
        """Return a part."""
        return f"{name} of {self.count}"


class Shown(Blocking[Counter]):
    add = blocking(Counter.add)
    added = blocking(Counter.add, lambda shared, result: [result])
    total = attribute(Counter.total)
    part = converted(Counter.part, lambda shared, text: text.upper())

    @like(Counter.add)
    def again(self, number: int, **options: Any) -> int:
        return self.add(number, **options) + 1000


def test_a_blocking_method_runs_the_coroutine_with_its_arguments_and_waits():
    def wait(function: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            function(*args, **kwargs).send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it waits for something")

    shared: Any = SimpleNamespace(wait=wait)
    shown = Shown(shared, Counter())
    assert shown.add(2) == 2
    assert shown.add(2, twice=True) == 6
    assert shown.added(1) == [7]
    assert shown.total == 7
    assert shown.part("half") == "HALF OF 7"
    assert shown.again(1) == 1008
    with pytest.raises(AttributeError, match="total cannot be set"):
        shown.total = 3  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        shown.add("x", thrice=True)  # type: ignore[call-arg, arg-type]
    assert LiveSubscription.__name__ in str(inspect.signature(RemoteMachine.on))
