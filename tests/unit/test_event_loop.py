"""The machine's event loop: what is asked of it while it ends."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from machine_kit import LIMIT_S

from timbr_wamp.errors import LoopClosed
from timbr_wamp.machine.running.event_loop import EventLoop


class Observed(EventLoop):
    """Tells when something was scheduled in its thread."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduled, self.ending = threading.Event(), threading.Event()

    def start(self, function: Callable[[], object]) -> None:
        super().start(function)
        self.scheduled.set()

    def soon(self, function: Callable[[], object]) -> None:
        super().soon(function)
        self.ending.set()


async def forever() -> None:
    await asyncio.Event().wait()


def test_a_coroutine_whose_task_is_cancelled_before_its_first_step_is_closed() -> None:
    loop, entered, gate = Observed(), threading.Event(), threading.Event()
    loop.start(lambda: (entered.set(), gate.wait(LIMIT_S)))
    assert entered.wait(LIMIT_S)
    loop.scheduled.clear()
    coroutine = forever()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(loop.run, coroutine)
        assert loop.scheduled.wait(LIMIT_S)
        closing = pool.submit(loop.close)
        assert loop.ending.wait(LIMIT_S)
        gate.set()  # now its task is made, and the loop ends before it takes a step
        with pytest.raises((LoopClosed, asyncio.CancelledError)):
            running.result(LIMIT_S)
        closing.result(LIMIT_S)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
