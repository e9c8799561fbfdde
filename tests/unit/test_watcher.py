"""One thread looks at what is due, and ends when nothing is watched."""

from __future__ import annotations

import threading

from machine_kit import LIMIT_S, wait_until

from timbr_wamp.machine.intake.timers import Timers


def ended(watcher: Timers) -> bool:
    return watcher._thread is None


def test_it_looks_as_often_as_is_wanted_and_then_no_more():
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


def test_what_is_due_first_is_looked_at_first_though_it_came_later():
    watcher, looks, done = Timers(), [], threading.Event()
    watcher.watch(lambda: looks.append("late"), 3600.0)
    watcher.watch(lambda: (looks.append("soon"), done.set())[0], 0.001)
    assert done.wait(LIMIT_S)
    assert looks == ["soon"]


def test_what_is_forgotten_is_looked_at_no_more_and_the_thread_ends_at_once():
    watcher = Timers()

    def look():
        return 3600.0

    watcher.watch(look, 3600.0)
    watcher.forget(look)
    watcher.forget(look)
    wait_until(lambda: ended(watcher), "its thread ended")


def test_a_look_that_fails_costs_the_others_nothing(caplog):
    watcher, done = Timers(), threading.Event()

    def bad():
        raise ValueError("on purpose")

    watcher.watch(bad, 0.001)
    watcher.watch(lambda: done.set(), 0.01)
    assert done.wait(LIMIT_S)
    wait_until(lambda: ended(watcher), "its thread ended")
    assert "on purpose" in caplog.text
