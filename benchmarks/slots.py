"""The cost of what runs around the slots: executors, ``async def``, statistics, hooks."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import ROUNDS, SLOTS, Figure, clean, earthquakes, energy, label, median_ratio
from timbr_wamp import Machine
from timbr_wamp.machine.protocols import Executor
from timbr_wamp.machine.records.error_groups import ErrorGroups
from timbr_wamp.machine.records.rates import Rates
from timbr_wamp.machine.running.executors.inline import InlineExecutor
from timbr_wamp.machine.running.executors.processes import ProcessesExecutor
from timbr_wamp.machine.running.sampling import TimingSample

STAGES = 8
#: More than elsewhere: the differences are small.
WATCHED_ROUNDS = 31
BLOCKING_S, BLOCKING_MESSAGES = 0.005, 100
#: A loop of 60,000 steps takes about 2 ms.
COMPUTING_STEPS, COMPUTING_MESSAGES, WARM_UP = 60_000, 400, 20
AWAITING_S, WINDOW, WINDOWS = 0.010, 100, 8
#: In the figures with failures, one earthquake in this many fails.
FAILING_EVERY = 31


def run_through(machine: Machine, messages: Any, count: int, before: int = 0) -> float:
    """Return messages per second of a machine on a ready source, after ``before`` processed messages."""
    started = time.perf_counter()
    machine.source = messages
    machine.start()
    assert machine.wait(120)
    taken_s = time.perf_counter() - started
    status = machine.status
    assert status.processed + status.errored == before + count, status
    return count / taken_s


# --- executors ---


def fetch(message: object) -> object:
    """Wait as for a service that answers after 5 ms."""
    time.sleep(BLOCKING_S)
    return message


def look_up() -> str:
    """Wait likewise for something that depends on no message."""
    time.sleep(BLOCKING_S)
    return "found"


def blocking(executor: str) -> float:
    """Return messages per second of two independent slots of 5 ms blocking I/O, one message at a time."""
    with Machine(2, serve=False, executor=executor) as machine:
        machine[0], machine[1] = fetch, look_up
        return run_through(machine, range(BLOCKING_MESSAGES), BLOCKING_MESSAGES)


def count_down(message: int) -> int:
    """Compute for about 2 ms."""
    left = COMPUTING_STEPS
    while left:
        left -= 1
    return message


def count_again(f0: int) -> int:
    """Compute for about 2 ms, on the value of the first slot."""
    return count_down(f0)


def computing(executor: str | Executor) -> float:
    """Return messages per second of two CPU-bound slots; child processes are started before the measurement."""
    with Machine(2, serve=False, executor=executor) as machine:
        machine[0], machine[1] = count_down, count_again
        run_through(machine, range(WARM_UP), WARM_UP)
        machine.stop()
        del machine.source
        return run_through(machine, range(COMPUTING_MESSAGES), COMPUTING_MESSAGES, before=WARM_UP)


async def ask(value: object) -> object:
    """Await as for a service that answers after 10 ms."""
    await asyncio.sleep(AWAITING_S)
    return value


def awaiting() -> float:
    """Return messages per second of eight async slots, a hundred messages under way at once."""
    with Machine(STAGES, serve=False, concurrency=WINDOW) as machine:
        machine[:] = [ask] * STAGES
        return run_through(machine, range(WINDOW * WINDOWS), WINDOW * WINDOWS)


def gathering() -> float:
    """Return messages per second of the same coroutines under bare `asyncio.gather`, in the same windows."""

    async def one(message: object) -> object:
        value = message
        for _ in range(STAGES):
            value = await ask(value)
        return value

    async def all_windows() -> None:
        for window in range(WINDOWS):
            await asyncio.gather(*(one(window * WINDOW + n) for n in range(WINDOW)))

    started = time.perf_counter()
    asyncio.run(all_windows())
    return WINDOW * WINDOWS / (time.perf_counter() - started)


# --- statistics, error groups, hooks ---


class NeverTimed(TimingSample):
    """Times no message."""

    def choose(self, count: int) -> list[int]:
        """Choose none."""
        return []


class Untimed(InlineExecutor):
    """Times no message."""

    def __init__(self) -> None:
        super().__init__()
        self._sample = NeverTimed()


class NoRates(Rates):
    """Keeps no rates."""

    def note(self, now: float, count: int) -> None:
        """Remember nothing."""


class NoGroups(ErrorGroups):
    """Keeps no error groups."""

    def add(self, row: Any) -> None:
        """Keep nothing."""

    def resolve(self, oid: str) -> None:
        """Resolve nothing."""


class Bare(Machine):
    """The core without what watches it: no slot is timed, no rates, no error groups.

    Outcomes, the ring of errors, numbering, publishing and counts stay: they are the core.
    """

    def __init__(self, stages: int, **options: Any) -> None:
        super().__init__(stages, executor=Untimed(), **options)
        self.recorder._rates = NoRates(time.time())
        self.recorder.groups = NoGroups(time.time)


def sometimes(joules: float, properties: dict[str, Any]) -> dict[str, Any]:
    """Third slot: fails for one message in `FAILING_EVERY`."""
    if properties["time"] % FAILING_EVERY == 0:
        raise ValueError("one of those that fail")
    return label(joules, properties)


def watched(make: Callable[..., Machine], messages: list[dict[str, Any]], *, failing: bool = False) -> float:
    """Return messages per second of processor time; ``failing``: one in `FAILING_EVERY` fails.

    The differences are a few per cent, and other load on the computer changes wall time by more. So
    processor time is measured, and nothing is published, which would hide the difference.
    """
    with make(STAGES, serve=False) as machine:
        machine[0:3] = (clean, energy, sometimes) if failing else SLOTS
        return per_processor_second(machine, messages)


def hooked(messages: list[dict[str, Any]]) -> float:
    """Return the same for a machine with a hook that does nothing, at the most frequent point."""
    with Machine(STAGES, serve=False) as machine:
        machine[0:3] = SLOTS
        machine.hook("post_slot", lambda oid, slot, value, error: None)
        return per_processor_second(machine, messages)


def per_processor_second(machine: Machine, messages: list[dict[str, Any]]) -> float:
    """Return messages per second of this process's processor time."""
    before = time.process_time()
    run_through(machine, messages, len(messages))
    return len(messages) / (time.process_time() - before)


def figures() -> list[Figure]:
    """Measure and return the figures."""
    (threads,), sleeping = median_ratio(ROUNDS, lambda: blocking("inline"), lambda: blocking("threads"))
    (processes,), computed = median_ratio(ROUNDS, lambda: computing("inline"), lambda: computing(ProcessesExecutor(2)))
    (gathered,), windows = median_ratio(ROUNDS, gathering, awaiting)
    many = earthquakes(5)
    (watching, hook), rates = median_ratio(
        WATCHED_ROUNDS, lambda: watched(Bare, many), lambda: watched(Machine, many), lambda: hooked(many)
    )
    (failing,), _ = median_ratio(
        WATCHED_ROUNDS, lambda: watched(Bare, many, failing=True), lambda: watched(Machine, many, failing=True)
    )
    hook = statistics.median(h / m for h, m in zip(rates[2], rates[1], strict=True))
    return [
        Figure("two slots of 5 ms blocking I/O: threads ÷ inline", threads, ">=", 1.7, note=_rates(sleeping)),
        Figure("two slots that compute 2 ms: two processes ÷ inline", processes, ">=", 1.7, note=_rates(computed)),
        Figure("8 async slots of 10 ms, 100 at once ÷ bare gather", gathered, ">=", 0.8, note=_rates(windows)),
        Figure("timings, rates, error groups on ÷ the core without", watching, ">=", 0.95, note=_rates(rates)),
        Figure(f"the same while every {FAILING_EVERY}st message fails", failing, ">=", 0.95),
        Figure("one hook that does nothing, at post_slot ÷ none", hook, ">=", 0.85),
    ]


def _rates(values: list[list[float]]) -> str:
    return f"{statistics.median(values[1]):,.0f}/s against {statistics.median(values[0]):,.0f}/s"
