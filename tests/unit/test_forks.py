"""A forked child neither hangs on a lock of its parent nor changes the parent's machine."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable

import pytest
from machine_kit import LIMIT_S, assert_counts_add_up
from wait_kit import wait_until

from timbr_wamp.errors import MachineClosed, MachineForked
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.intake.timers import TIMERS

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def in_child(call: Callable[[], object]) -> int:
    """Run a call in a forked child; return the child's exit status: 0 when it returned, 1 when it raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    try:
        _, status = wait_until(lambda: (ended := os.waitpid(pid, os.WNOHANG))[0] and ended, "the child ends", LIMIT_S)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)  # ours
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(status)


CALLS = [
    lambda queue: queue.put(("0" * 24, 1, 0.0, 1)),
    lambda queue: queue.put(("0" * 24, 1, 0.0, 1), block=True),
    lambda queue: queue.take(1, 60.0),
    lambda queue: queue.snapshot(),
    lambda queue: queue.wake(),
    lambda queue: queue.wait_change(60.0),
]


def test_every_call_in_a_child_is_refused_at_once_although_another_thread_held_the_lock():
    queue = MessageQueue(1, "parent")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with queue._lock:
            held.set()
            release.wait(LIMIT_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LIMIT_S)

    def calls() -> None:
        assert queue.closed
        for call in CALLS:
            with pytest.raises(MachineForked, match="forked") as caught:
                call(queue)
            assert isinstance(caught.value, MachineClosed)
            assert caught.value.parent_pid == os.getppid()

    try:
        assert in_child(calls) == 0
    finally:
        release.set()
        holder.join()
    assert queue.put(("0" * 24, 1, 0.0, 1)) is True, "the parent continues"
    assert_counts_add_up(queue.snapshot())


def test_a_child_has_timers_of_its_own_although_the_parents_were_just_changed():
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with TIMERS._monitor.lock:
            held.set()
            release.wait(LIMIT_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LIMIT_S)

    def watch() -> None:
        looked = threading.Event()
        TIMERS.watch(lambda: looked.set(), 0.001)
        assert looked.wait(LIMIT_S)

    try:
        assert in_child(watch) == 0
    finally:
        release.set()
        holder.join()
