"""Callbacks of ``%wamp subscribe``: their cell, their failures, their end."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from timbr_wamp.magic.callbacks import CallbackSubscription


class PinningShell:
    """Takes down what a thread is pinned to, as ipykernel's shell pins it."""

    def __init__(self) -> None:
        self.pinned: list[object] = []

    def get_parent(self) -> object:
        return "the cell"

    def set_thread_parent(self, parent: object) -> object:
        self.pinned.append(parent)
        return parent

    def reset_thread_parent(self, token: object) -> None:
        assert self.pinned.pop() == token


class Topic:
    """Stands for the client: one topic with at most one handler."""

    handler: Callable[..., None] | None = None

    def subscribe(self, handler: Callable[..., None]) -> Topic:
        self.handler = handler
        return self

    def unsubscribe(self) -> None:
        self.handler = None


@pytest.fixture
def topic() -> Topic:
    return Topic()


def test_a_callback_gets_the_events_arguments_while_pinned_to_the_cell(topic):
    shell, seen = PinningShell(), []
    subscription = CallbackSubscription(
        shell, "machine", "f", lambda: lambda *args, **words: seen.append((args, words, *shell.pinned))
    )
    subscription.begin(topic.subscribe)
    topic.handler("oid", [1, 2], sampled=4)
    assert seen == [(("oid", [1, 2]), {"sampled": 4}, "the cell")]
    assert shell.pinned == []


class Callbacks:
    """Callbacks as people write them, and what each may be called with when an event has the keyword ``sampled``."""

    @staticmethod
    def plain(oid: str, values: list[int]) -> tuple[object, ...]:
        return oid, values

    @staticmethod
    def asking(oid: str, values: list[int], *, sampled: int = 1) -> tuple[object, ...]:
        return oid, values, sampled

    @staticmethod
    def asking_by_position(oid: str, values: list[int], sampled: int = 1) -> tuple[object, ...]:
        return oid, values, sampled

    @staticmethod
    def another(sampled: str, values: list[int]) -> tuple[object, ...]:
        return sampled, values

    @staticmethod
    def all_words(*args: object, **words: int) -> tuple[object, ...]:
        return *args, *words.values()


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("plain", ("oid", [1])),
        ("asking", ("oid", [1], 4)),
        ("asking_by_position", ("oid", [1], 4)),
        ("another", ("oid", [1])),
        ("all_words", ("oid", [1], 4)),
    ],
)
def test_a_callback_gets_the_keywords_that_it_takes(topic, name, result):
    seen: list[object] = []

    @functools.wraps(getattr(Callbacks, name))
    def callback(*args: object, **words: object) -> None:
        seen.append(getattr(Callbacks, name)(*args, **words))

    subscription = CallbackSubscription(object(), "machine", name, lambda: callback)
    subscription.begin(topic.subscribe)
    topic.handler("oid", [1], sampled=4)
    assert (seen, subscription.failures) == ([result], 0)


def test_a_builtin_without_a_signature_gets_no_keywords(topic):
    seen: dict[str, object] = {}
    subscription = CallbackSubscription(object(), "machine", "f", lambda: seen.update)  # type: ignore[arg-type, return-value]
    subscription.begin(topic.subscribe)
    topic.handler({"oid": 1}, sampled=4)
    assert seen == {"oid": 1}


def test_a_batch_is_one_call_for_each_item(topic):
    seen: list[object] = []
    subscription = CallbackSubscription(object(), "records", "f", lambda: seen.append)
    subscription.begin(topic.subscribe, lambda args, _: (((item,), {}) for item in args[0]))
    topic.handler([1, 2, 3])
    assert seen == [1, 2, 3]
    assert subscription.calls == 3


def test_a_failing_callback_is_shown_once_counted_and_called_again(topic, capsys):
    seen: list[object] = []

    def fail(n: int) -> None:
        if n < 3:
            raise ZeroDivisionError("division by zero")
        seen.append(n)

    shell = PinningShell()
    subscription = CallbackSubscription(shell, "machine", "fail", lambda: fail)
    subscription.begin(topic.subscribe)
    for n in range(4):
        topic.handler(n)
    assert seen == [3]
    assert (subscription.calls, subscription.failures, subscription.last_error) == (
        4,
        3,
        "ZeroDivisionError: division by zero",
    )
    assert "3 failed" in repr(subscription)
    assert shell.pinned == []
    shown = capsys.readouterr().err
    assert shown.count("callback fail for machine failed") == 1
    assert "Traceback" in shown


def test_an_event_that_cannot_be_read_is_a_failure_too(topic, capsys):
    subscription = CallbackSubscription(object(), "records", "f", lambda: print)
    subscription.begin(topic.subscribe, lambda args, _: args[0]["block"])
    topic.handler({})
    assert subscription.failures == 1
    assert "KeyError" in capsys.readouterr().err


def test_a_redefined_function_takes_effect(topic):
    seen: list[object] = []
    namespace = {"f": lambda n: seen.append(("old", n))}
    subscription = CallbackSubscription(object(), "machine", "f", lambda: namespace["f"])
    subscription.begin(topic.subscribe)
    topic.handler(1)
    namespace["f"] = lambda n: seen.append(("new", n))
    topic.handler(2)
    assert seen == [("old", 1), ("new", 2)]


def test_an_ended_watch_is_called_no_more(topic):
    seen: list[object] = []
    subscription = CallbackSubscription(object(), "machine", "f", lambda: seen.append)
    subscription.begin(topic.subscribe)
    late = topic.handler
    subscription.end()
    subscription.end()
    late(1)  # it waited in the client's queue
    assert topic.handler is None
    assert seen == []
