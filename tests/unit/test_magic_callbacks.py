"""Callbacks of ``%wamp subscribe``: their thread, their cell, their failures, their bound."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from timbr_wamp.magic.callbacks import QUEUE_LIMIT, CallbackThread, Watch


class PinningShell:
    """Takes down what a thread is pinned to, as ipykernel's shell pins it."""

    def __init__(self) -> None:
        self.pinned: list[object] = []

    def set_thread_parent(self, parent: object) -> object:
        self.pinned.append(parent)
        return parent

    def reset_thread_parent(self, token: object) -> None:
        assert self.pinned.pop() == token


@pytest.fixture
def shell() -> PinningShell:
    return PinningShell()


@pytest.fixture
def thread(shell: PinningShell) -> Iterator[CallbackThread]:
    thread = CallbackThread(shell)
    yield thread
    thread.close()


def test_events_are_called_in_order_in_another_thread_pinned_to_the_cell(shell, thread):
    seen: queue.Queue[tuple[object, ...]] = queue.Queue()
    watch = Watch("machine", "f", lambda: lambda n: seen.put((n, *shell.pinned, threading.get_ident())), "cell 1")
    for n in range(3):
        thread.submit(watch, (n,), {})
    calls = [seen.get(timeout=5.0) for _ in range(3)]
    assert [call[:2] for call in calls] == [(0, "cell 1"), (1, "cell 1"), (2, "cell 1")]
    assert threading.get_ident() not in {call[2] for call in calls}


def test_a_batch_is_one_call_for_each_item(thread):
    seen: queue.Queue[object] = queue.Queue()
    watch = Watch("records", "f", lambda: seen.put, decode=lambda args: ((item,) for item in args[0]))
    thread.submit(watch, ([1, 2, 3],), {})
    assert [seen.get(timeout=5.0) for _ in range(3)] == [1, 2, 3]
    assert watch.calls == 3


def test_a_failing_callback_is_shown_once_counted_and_called_again(thread, capsys):
    seen: queue.Queue[object] = queue.Queue()

    def fail(n: int) -> None:
        if n < 3:
            raise ZeroDivisionError("division by zero")
        seen.put(n)

    watch = Watch("machine", "fail", lambda: fail)
    for n in range(4):
        thread.submit(watch, (n,), {})
    assert seen.get(timeout=5.0) == 3
    assert (watch.calls, watch.failures, watch.last_error) == (4, 3, "ZeroDivisionError: division by zero")
    shown = capsys.readouterr().err
    assert shown.count("callback fail for machine failed") == 1
    assert "Traceback" in shown


def test_a_redefined_function_takes_effect(thread):
    seen: queue.Queue[object] = queue.Queue()
    namespace = {"f": lambda n: seen.put(("old", n))}
    watch = Watch("machine", "f", lambda: namespace["f"])
    thread.submit(watch, (1,), {})
    assert seen.get(timeout=5.0) == ("old", 1)
    namespace["f"] = lambda n: seen.put(("new", n))
    thread.submit(watch, (2,), {})
    assert seen.get(timeout=5.0) == ("new", 2)


def test_what_finds_no_room_is_dropped_and_counted(thread):
    gate, entered = threading.Event(), threading.Event()

    def wait(n: int) -> None:
        entered.set()
        assert gate.wait(5.0)

    watch = Watch("machine", "wait", lambda: wait)
    thread.submit(watch, (0,), {})
    assert entered.wait(5.0)
    for n in range(QUEUE_LIMIT + 5):
        thread.submit(watch, (n,), {})
    assert watch.dropped == 5
    assert "5 events dropped" in repr(watch)
    watch.ended = True
    gate.set()


def test_an_ended_watch_is_called_no_more(thread):
    calls: list[object] = []
    watch = Watch("machine", "f", lambda: calls.append, ended=True)
    thread.submit(watch, (1,), {})
    thread.close()
    assert calls == []
    thread.close()
