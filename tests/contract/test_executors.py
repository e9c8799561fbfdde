"""One contract for every executor: inline, threads, processes and plain Dask make equal records."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.executor_kit import EXECUTORS, Run, values_of
from timbr_wamp.machine import Machine


async def doubled(value: int) -> int:
    await asyncio.sleep(0)
    if value == 3:
        raise ValueError(value)
    return value * 2


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain decorator, as people write them for timing or logging."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class AroundAsync:
    """A plain call around an async attribute."""

    function = staticmethod(doubled)

    def __call__(self, value: int) -> Any:
        return self.function(value)


class DoublesLater:
    """An object whose plain ``step`` gives a coroutine."""

    def step(self, value: int) -> Any:
        return doubled(value)


async def gives_another(value: int) -> Any:
    return doubled(value)


@pytest.mark.parametrize("run", EXECUTORS.values(), ids=EXECUTORS)
@pytest.mark.parametrize(
    "function",
    [lambda value: doubled(value), wrapping(doubled), AroundAsync(), DoublesLater(), gives_another],
    ids=["lambda", "decorated", "attribute", "object", "async"],
)
def test_a_coroutine_that_only_the_call_shows_is_awaited(run, function):
    def fill(machine: Machine) -> None:
        machine[1] = function
        machine[2] = lambda value, before: value + 1
        machine[4] = lambda: "apart"

    one, three = run(fill, [2, 3])
    assert values_of(one) == [2, 4, 5, 5, "apart", "apart"]
    assert values_of(three) == [3, "ValueError", "UpstreamError", "UpstreamError", "apart", "apart"]


@pytest.mark.parametrize("run", EXECUTORS.values(), ids=EXECUTORS)
def test_a_coroutine_that_only_the_call_shows_is_called_again_by_a_retry(run):
    tries: list[int] = []

    async def second_time(value: int) -> int:
        tries.append(value)
        if len(tries) % 2:
            raise OSError
        return value + 1

    seen = run(lambda machine: machine.set(0, lambda value: second_time(value), policy={"retries": 1}), [1])
    assert values_of(seen[0])[0] == 2


@pytest.mark.parametrize("run", EXECUTORS.values(), ids=EXECUTORS)
class TestExecutor:
    """What every executor does."""

    def test_slots_get_as_many_values_as_they_require_newest_first(self, run: Run) -> None:
        def fill(m: Machine) -> None:
            m[0] = lambda message: message + 1
            m[2] = lambda f1, f0, message: [f1, f0, message]
            m[3] = lambda: "alone"
            m[4] = lambda *values: len(values)
            m[5] = lambda f4, f3: [f4, f3]

        assert [values_of(one) for one in run(fill, [1, 10])] == [
            [2, 2, [2, 2, 1], "alone", 5, [5, "alone"]],
            [11, 11, [11, 11, 10], "alone", 5, [5, "alone"]],
        ]

    def test_parameters_beyond_the_values_get_the_json_texts(self, run: Run) -> None:
        def fill(m: Machine) -> None:
            m[0] = lambda message: {"a": message}
            m[1] = lambda f0, message, f0_s, in_s: [f0_s, in_s]

        assert values_of(run(fill, ["x"])[0])[1] == ['{"a":"x"}', '"x"']

    def test_a_failed_slots_consumers_are_skipped_and_others_run(self, run: Run) -> None:
        def fill(m: Machine) -> None:
            m[0] = lambda message: 1 / message
            m[1] = lambda f0: f0
            m[2] = lambda: "alone"
            m[4] = lambda f3: f3 + "!"
            m[5] = lambda f4, f3, f2, f1: "never"

        failed, well = run(fill, [0, 1])
        assert values_of(failed) == [
            "ZeroDivisionError", "UpstreamError", "alone", "alone", "alone!", "UpstreamError",
        ]  # fmt: skip
        assert failed[0][2]["_exception"]["exc_value"] == "f1 did not run: f0 failed"
        assert (failed[1], well[1]) == (True, False)

    @pytest.mark.parametrize("verdict", ["record", "drop", "dead_letter"])
    def test_verdicts(self, run: Run, verdict: str) -> None:
        def fill(m: Machine) -> None:
            m.set(0, lambda message: 1 / message, policy=verdict)
            m[1] = lambda: "alone"

        seen = run(fill, [0])[0]
        alone = "alone" if verdict == "record" else "UpstreamError"
        assert values_of(seen)[:2] == ["ZeroDivisionError", alone]
        assert (seen[1], seen[2]) == (verdict != "drop", verdict == "drop")
        assert seen[3] == (None if verdict == "record" else {"f0": verdict})

    def test_a_default_takes_the_failed_values_place(self, run: Run) -> None:
        def fill(m: Machine) -> None:
            m.set(0, lambda message: 1 / message, policy={"on_error": "default", "default": [0]})
            m[1] = lambda f0: [*f0, 1]

        seen = run(fill, [0])[0]
        assert values_of(seen)[:2] == [[0], [0, 1]]
        assert (seen[1], seen[3]) == (False, {"f0": "default"})

    @pytest.mark.parametrize("backoff_s", [0.0, 0.001])
    def test_a_retry_that_goes_well(self, run: Run, backoff_s: float, tmp_path: Path) -> None:
        tries = tmp_path / "tries"  # a file, as a child process has variables of its own

        def unlucky(message: int) -> int:
            with tries.open("a") as file:
                file.write(f"{message} ")
            if len(tries.read_text().split()) < 3:
                raise ValueError("not yet")
            return message

        def fill(m: Machine) -> None:
            m.set(0, unlucky, policy={"retries": 5, "backoff_s": backoff_s})
            m[1] = lambda f0: f0 + 1

        seen = run(fill, [7])[0]
        assert values_of(seen)[:2] == [7, 8]
        assert (seen[1], seen[3], tries.read_text()) == (False, {"f0": "retry 2"}, "7 7 7 ")

    def test_values_are_published_as_they_were_right_after_their_slot(self, run: Run) -> None:
        def fill(m: Machine) -> None:
            m[0] = lambda message: message
            m[1] = lambda f0: f0.append("changed") or f0

        assert run(fill, [["a"]])[0][0][:3] == [["a"], ["a"], ["a", "changed"]]

    def test_async_slots_and_objects(self, run: Run) -> None:
        async def awaited(f0: int) -> int:
            await asyncio.sleep(0)
            return f0 * 2

        class Adds:
            def prep(self) -> None:
                self.by = 10

            def step(self, f1: int) -> int:
                return f1 + self.by

        def fill(m: Machine) -> None:
            m[0] = int
            m[1] = awaited
            m[2] = Adds()

        assert values_of(run(fill, ["3"])[0])[:3] == [3, 6, 16]

    @pytest.mark.parametrize("message", ["f0", "in_outcome", ("f0", "in"), (len, "in"), None, [], {"in": "f0"}])
    def test_a_message_is_never_taken_for_something_else(self, run: Run, message: Any) -> None:
        def fill(m: Machine) -> None:
            m[0] = lambda message: repr(message)

        assert values_of(run(fill, [message])[0])[0] == repr(message)
