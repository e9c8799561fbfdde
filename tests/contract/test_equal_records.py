"""Whatever a slot raises, returns or calls: every executor records the same, tracebacks included."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.executor_kit import EXECUTORS, MACHINES, STAGES, Run, values_of
from timbr_wamp.machine import Machine

inline = EXECUTORS["inline"]
OTHERS = {name: run for name, run in EXECUTORS.items() if name != "inline"}


def raisers() -> dict[str, Callable[[Any], Any]]:
    """Functions that raise; local, so that they are sent to child processes by value, like those of a notebook."""

    class Unpicklable(Exception):
        def __init__(self, *, keyword: int) -> None:
            super().__init__(keyword)
            self.lock = threading.Lock()

    class BadText(Exception):
        def __str__(self) -> str:
            raise SystemExit("no text")

    class BadRepr(Exception):
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    class BadReduce(ValueError):
        def __reduce__(self) -> Any:
            raise SystemExit("not to be pickled")

    class BadLoad(ValueError):
        def __reduce__(self) -> Any:
            return sys.exit, ("while unpickling",)

    def group(x: Any) -> None:
        try:
            x / 0
        except ZeroDivisionError as error:
            raise ExceptionGroup("several", [ValueError("a"), error]) from error

    def cycle(x: Any) -> None:
        a, b = ValueError("a"), ValueError("b")
        a.__cause__, b.__cause__ = b, a
        raise a

    def chained(x: Any) -> None:
        try:
            {}[x]
        except KeyError:
            raise RuntimeError("while handling")  # noqa: B904 - what people write

    def noted(x: Any) -> None:
        error = ValueError("noted")
        error.add_note("look here")
        raise error

    def unending(x: Any) -> Any:
        return unending(x)

    def throw(error: BaseException) -> Callable[[Any], Any]:
        def thrown(x: Any) -> None:
            raise error.with_traceback(None)

        return thrown

    def make(kind: Any, *args: Any, **options: Any) -> Callable[[Any], Any]:
        def made(x: Any) -> None:
            raise kind(*args, **options)

        return made

    return {
        "ValueError": make(ValueError, "text"),
        "SystemExit": lambda x: sys.exit("bye"),
        "KeyboardInterrupt": make(KeyboardInterrupt),
        "GeneratorExit": make(GeneratorExit, "why"),
        "BaseException": make(BaseException, 1, 2),
        "CancelledError": make(asyncio.CancelledError, "why"),
        "StopIteration": lambda x: next(iter([])),
        "StopAsyncIteration": make(StopAsyncIteration, "end"),
        "MemoryError": make(MemoryError),
        "OSError": lambda x: open("/no/such/file"),
        "UnicodeError": lambda x: b"\xff".decode(),
        "SyntaxError": lambda x: compile("1 +", "<text>", "eval"),
        "RecursionError": unending,
        "Unpicklable": make(Unpicklable, keyword=1),
        "BadText": make(BadText),
        "BadRepr": make(BadRepr, 1),
        "BadReduce": make(BadReduce, "text"),
        "BadLoad": make(BadLoad, "text"),
        "huge": make(ValueError, "x" * 1_000_000),
        "surrogate": make(ValueError, "\udc80"),
        "group": group,
        "cycle": cycle,
        "chained": chained,
        "noted": noted,
    }


def raises_in(functions: dict[str, Any]) -> Callable[[Machine], None]:
    """Put functions in slots from 0 on, none of which takes another's value but the first."""

    def fill(m: Machine) -> None:
        for number, function in enumerate(functions.values()):
            m[number] = function if not number else without_argument(function)

    return fill


def without_argument(function: Callable[[Any], Any]) -> Callable[[], Any]:
    """Return a function that takes no value, so that it runs whatever the slots before it do."""
    return lambda: function(7)


CASES = raisers()
#: As many at once as there are slots: a machine for each would be slow.
GROUPS = [list(CASES)[n : n + STAGES] for n in range(0, len(CASES), STAGES)]


@pytest.mark.parametrize("run", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_whatever_a_slot_raises_is_recorded_alike(run: Run, names: list[str]) -> None:
    functions = raisers()
    fill = raises_in({name: functions[name] for name in names})
    expected = inline(fill, [7])
    assert all(value["_exception"] for value in expected[0][0][1:])
    assert run(fill, [7]) == expected


def awaiting_first(function: Callable[[Any], Any]) -> Callable[[], Any]:
    """Return a coroutine function that awaits something, then does what ``function`` does."""

    async def awaiting() -> Any:
        await asyncio.sleep(0)
        return function(7)

    return awaiting


@pytest.mark.parametrize("run", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_whatever_an_async_slot_raises_is_recorded_alike(run: Run, names: list[str]) -> None:
    functions = raisers()

    def fill(m: Machine) -> None:
        for number, name in enumerate(names):
            m[number] = awaiting_first(functions[name])

    expected = inline(fill, [7])
    assert all(value["_exception"] for value in expected[0][0][1:])
    assert run(fill, [7]) == expected


def test_an_errors_place_and_source_line_are_in_its_traceback_wherever_it_was_raised() -> None:
    def fails(x: Any) -> Any:
        return x / 0  # here

    for run in EXECUTORS.values():
        trace = run(lambda m: m.__setitem__(0, fails), [1])[0][0][1]["_exception"]["exc_tb"]
        assert "return x / 0  # here" in trace
        assert "test_equal_records.py" in trace
        assert "timbr_wamp" not in trace.replace("timbr_wamp/tests", "")


@pytest.mark.parametrize("run", OTHERS.values(), ids=OTHERS)
def test_one_failure_has_one_class_however_many_messages_meet_it(run: Run) -> None:
    def fill(m: Machine) -> None:
        m[0] = lambda x: next(iter([]))

    assert {values_of(seen)[0] for seen in run(fill, range(100))} == {"StopIteration"}


@pytest.mark.parametrize("run", OTHERS.values(), ids=OTHERS)
def test_whatever_slots_return_is_recorded_alike(run: Run) -> None:
    def mutate(x: Any) -> Any:
        x["list"].append(1)
        return x

    def fill(m: Machine) -> None:
        m[0] = mutate
        m[1] = lambda x: (1, {2})
        m[2] = lambda f1: [f1, {Decimal("1.5")}, b"bytes", None]
        m[3] = lambda x: ValueError("as a value")
        m[4] = lambda f3, f2, f1: [type(f3), f1, len(f2)]
        m[5] = lambda f4, f4_s="unused": float("nan")

    messages = [{"list": []}, {"list": ["x"] * 3, "é": "\ud800"}]
    assert run(fill, messages) == inline(fill, [{"list": []}, {"list": ["x"] * 3, "é": "\ud800"}])


@pytest.mark.parametrize("run", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("fails_first", [False, True], ids=["at once", "at the second try"])
def test_later_slots_see_what_a_slot_changed_in_its_arguments(run: Run, fails_first: bool) -> None:
    def grow(message: Any) -> Any:
        message["list"].append(len(message["list"]))
        message.setdefault("set", set()).add("grown")
        if fails_first and len(message["list"]) == 1:
            raise ValueError("too short")
        return message["list"]

    def change_all(f0: Any, message: Any) -> Any:
        f0.append(message)
        del message["gone"]
        message["nested"][0][1]["deep"] = bytearray(b"a")
        return (f0, message["nested"])

    def extend(nested: Any) -> Any:
        nested[1][0][1]["deep"].extend(b"bc")
        nested[0][-1] = "the message"
        return None

    def fill(m: Machine) -> None:
        m.set(0, grow, policy={"retries": 1})
        m[1] = change_all
        m[2] = extend
        m[3] = lambda f2, f1, f0, message: [repr((f1, f0, message)), f0 is message["list"], f1[0] is f0]

    def message() -> Any:
        return {"list": [], "gone": 1, "nested": [(0, {}), "same"]}

    seen, expected = run(fill, [message()]), inline(fill, [message()])
    assert seen == expected
    assert expected[0][0][4][1:] == [True, True]


@pytest.mark.parametrize("run", OTHERS.values(), ids=OTHERS)
def test_a_value_that_cannot_be_sent_and_a_later_failure_are_recorded_alike(run: Run) -> None:
    def fill(m: Machine) -> None:
        m[0] = lambda x: threading.Lock()
        m[1] = lambda lock: 1 / 0
        m[3] = lambda f2, f1, lock: "never"
        m[4] = lambda: "apart"

    seen, expected = run(fill, [1])[0], inline(fill, [1])[0]
    assert values_of(seen)[1:] == values_of(expected)[1:]
    assert seen[0][1].keys() == expected[0][1].keys()


@pytest.mark.parametrize("run", OTHERS.values(), ids=OTHERS)
def test_a_message_that_cannot_be_sent_is_processed_like_others(run: Run) -> None:
    def fill(m: Machine) -> None:
        m[0] = lambda x: type(x).__name__

    assert [values_of(seen)[0] for seen in run(fill, [1, threading.Lock(), "x"])] == ["int", "lock", "str"]


# --- the machine's own verbs ---


def verb(name: str) -> Callable[[Machine], Callable[[Any], Any]]:
    """Return what makes a slot that calls a verb of its own machine."""
    return {
        "put": lambda m: lambda x: len(m.put("another", oid=None)) if x == "m" else 24,
        "put that would wait": lambda m: lambda x: [m.configure(bufsize=1), m.put(1, block=True, timeout=60.0)][0],
        "status": lambda m: lambda x: [m.status.state, m.status.running],
        "pause": lambda m: lambda x: m.pause(),
        "pause and resume": lambda m: lambda x: [m.pause(), m.resume()],
        "stop": lambda m: lambda x: m.stop(),
        "stop and start": lambda m: lambda x: [m.stop(), m.start()],
        "get": lambda m: lambda x: m.get(),
        "wait": lambda m: lambda x: m.wait(),
        "call": lambda m: lambda x: m(x - 1).values[0] + 1 if isinstance(x, int) and x else 0,
        "set": lambda m: lambda x: str(m.set(2, len).change),
        "records": lambda m: lambda x: len(m.recent()) * 0,
        "configure": lambda m: lambda x: m.configure(concurrency=3),
    }[name]  # type: ignore[return-value]


VERBS = ["put", "put that would wait", "status", "pause", "pause and resume", "stop", "stop and start", "get", "wait",
         "call", "set", "records", "configure"]  # fmt: skip
IN_MACHINES = {name: run for name, run in MACHINES.items() if name != "inline"}


@pytest.mark.parametrize("run", IN_MACHINES.values(), ids=IN_MACHINES)
@pytest.mark.parametrize("name", VERBS)
def test_a_slot_may_call_its_machines_verbs(run: Run, name: str) -> None:
    def fill(m: Machine) -> None:
        m[0] = verb(name)(m)

    message = 3 if name == "call" else "m"
    seen, expected = run(fill, [message])[0], inline(fill, [message])[0]
    assert values_of(seen)[0] == values_of(expected)[0]
    assert seen[1:] == expected[1:]
