"""One thread calls functions when they are due, and ends when none is registered."""

from __future__ import annotations

import threading

from machine_kit import LIMIT_S
from wait_kit import wait_until

from timbr_wamp.machine.intake.timers import Timers


def ended(watcher: Timers) -> bool:
    return watcher._thread is None


def test_a_function_is_called_as_often_as_it_asks():
    watcher, looks, done = Timers(), [], threading.Event()

    def look():
        looks.append(1)
        if len(looks) < 3:
            return 0.001
        done.set()
        return None

    watcher.watch(look, 0.001)
    assert done.wait(LIMIT_S)
    wait_until(lambda: ended(watcher), "its thread ended")
    assert len(looks) == 3


def test_the_function_due_first_is_called_first():
    watcher, looks, done = Timers(), [], threading.Event()

    def late():
        looks.append("late")

    watcher.watch(late, 3600.0)
    watcher.watch(lambda: (looks.append("soon"), done.set())[0], 0.001)
    assert done.wait(LIMIT_S)
    assert looks == ["soon"]
    watcher.forget(late)


def test_a_forgotten_function_is_not_called_again_and_the_thread_ends_at_once():
    watcher, looks = Timers(), []

    def look():
        looks.append(1)
        return 3600.0

    watcher.watch(look, 3600.0)
    watcher.forget(look)
    watcher.forget(look)
    wait_until(lambda: ended(watcher), "its thread ended")
    assert looks == []


def test_a_failing_function_does_not_affect_the_others(caplog):
    watcher, done = Timers(), threading.Event()

    def bad():
        raise ValueError("on purpose")

    watcher.watch(bad, 0.001)
    watcher.watch(lambda: done.set(), 0.01)
    assert done.wait(LIMIT_S)
    wait_until(lambda: ended(watcher), "its thread ended")
    assert "on purpose" in caplog.text
