"""The background loop and the callbacks' thread: calls into them, shutdown, callers that are refused."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading

import pytest

from timbr_wamp.client.background_loop import BackgroundLoop, acquire_loop, release_loop
from timbr_wamp.client.backoff import Backoff
from timbr_wamp.client.callbacks import CallbackThread
from timbr_wamp.errors import CalledFromLoop, CallTimeout, ForkedClient, LoopClosed, MachineFull


@pytest.fixture
def loop():
    made = acquire_loop()
    yield made
    release_loop(made)


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _thread() -> int:
    return threading.get_ident()


def test_a_call_runs_in_the_loops_thread_and_gives_its_result_or_error(loop: BackgroundLoop):
    async def fail() -> None:
        raise MachineFull(3)

    async def late() -> None:
        raise TimeoutError("its own")

    assert loop.call(_thread, timeout_s=5.0) != threading.get_ident()
    with pytest.raises(MachineFull):
        loop.call(fail, timeout_s=5.0)
    with pytest.raises(TimeoutError, match="its own"):
        loop.call(late, timeout_s=5.0)


def test_a_call_that_takes_too_long_is_cancelled(loop: BackgroundLoop):
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(CallTimeout):
        loop.call(slow, timeout_s=0.05)
    assert cancelled.wait(5.0)


def test_ctrl_c_cancels_the_coroutine(loop: BackgroundLoop):
    cancelled = threading.Event()

    async def interrupt_the_caller() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(KeyboardInterrupt):
        loop.call(interrupt_the_caller, timeout_s=None)
    assert cancelled.wait(5.0)


def test_a_blocking_call_from_the_loop_itself_is_refused(loop: BackgroundLoop):
    async def inside() -> None:
        loop.call(_for_ever, timeout_s=1.0)

    with pytest.raises(CalledFromLoop):
        loop.call(inside, timeout_s=5.0)


def test_run_is_awaitable_in_any_loop(loop: BackgroundLoop):
    async def inside() -> int:
        return await loop.run(_thread)

    other = asyncio.run(inside())
    assert other == loop.call(inside, timeout_s=5.0) != threading.get_ident()


def test_all_users_share_one_loop_and_it_ends_with_the_last():
    first, second = acquire_loop(), acquire_loop()
    assert first is second
    release_loop(first)
    assert second.call(_thread, timeout_s=5.0)
    ended: list[BaseException] = []
    entered = threading.Event()

    async def stay() -> None:
        entered.set()
        await asyncio.Event().wait()

    def wait() -> None:
        try:
            second.call(stay, timeout_s=20.0)
        except LoopClosed as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert entered.wait(5.0)
    release_loop(second)
    thread.join(10.0)
    assert len(ended) == 1
    with pytest.raises(LoopClosed):
        second.call(_thread, timeout_s=1.0)
    third = acquire_loop()
    assert third is not second
    release_loop(third)


def _in_child(loop: BackgroundLoop, pipe) -> None:
    try:
        loop.call(_thread, timeout_s=1.0)
    except ForkedClient as error:
        own = acquire_loop()
        pipe.send((error.made_in, error.used_in, own.call(_thread, timeout_s=5.0) != 0))
        release_loop(own)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_process_must_connect_again_and_can(loop: BackgroundLoop):
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(loop, theirs))
    child.start()
    assert ours.poll(10.0)
    assert ours.recv() == (os.getpid(), child.pid, True)
    child.join(10.0)
    assert child.exitcode == 0


# --- callbacks -----------------------------------------------------------------------------------


def test_callbacks_run_in_order_in_one_thread_and_survive_a_failing_one():
    callbacks, seen, done = CallbackThread(), [], threading.Event()

    def fail() -> None:
        raise ValueError("no")

    callbacks.post(fail)
    for number in range(100):
        callbacks.post(seen.append, number)
    callbacks.post(done.set)
    assert done.wait(5.0)
    assert seen == list(range(100))
    callbacks.close()
    callbacks.post(seen.append, "late")
    assert seen == list(range(100))


def test_callbacks_that_are_too_slow_lose_the_oldest_events_and_count_them():
    callbacks, seen = CallbackThread(limit=10), []
    entered, gate, done = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        gate.wait(5.0)

    callbacks.post(block)
    assert entered.wait(5.0)
    for number in range(20):
        callbacks.post(seen.append, number)
    callbacks.post(done.set)
    gate.set()
    assert done.wait(5.0)
    assert seen == list(range(11, 20))
    assert callbacks.dropped == 11
    callbacks.close()


def test_backoff_grows_to_its_cap_and_starts_short_again_after_a_reset():
    backoff = Backoff(2.0, rand=lambda: 0.0)
    waits = [backoff.next_s() for _ in range(10)]
    assert waits[0] == pytest.approx(0.1)
    assert waits == sorted(waits)
    assert waits[-1] == 2.0
    backoff.reset()
    assert backoff.next_s() == pytest.approx(0.1)
    assert Backoff(2.0, rand=lambda: 1.0).next_s() == pytest.approx(0.075)
