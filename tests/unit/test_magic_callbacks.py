"""Callbacks of ``%wamp subscribe``: their cell, their failures, their end."""

from __future__ import annotations

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
