"""A machine's arguments are checked when the call is made: the error is ours and names the argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from timbr_wamp import Machine
from timbr_wamp.contract import PutResult
from timbr_wamp.errors import InvalidArgument, InvalidName, TimbrError

WRONG_OPTIONS = [
    ("stages", "a"), ("stages", -1), ("stages", 1.5), ("stages", True), ("stages", None), ("stages", 10**9),
    ("bufsize", "a"), ("bufsize", 0), ("bufsize", 1.5), ("bufsize", None),
    ("name", 1), ("name", None), ("serve", "x"), ("namespace", 1), ("namespace", []),
    ("on_error", 3), ("executor", 1), ("concurrency", "a"), ("concurrency", 0),
    ("journal", 1), ("journal", []), ("sinks", 1), ("sinks", "x"), ("sinks", None), ("sinks", [1]),
    ("hooks", 1), ("hooks", "PostJson"), ("hooks", [1]), ("handler", 1), ("clock", 1), ("clock", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG_OPTIONS, ids=lambda value: str(value))
def test_a_constructors_wrong_argument_is_named(name: str, value: object) -> None:
    options: dict[str, Any] = {"serve": False, name: value}
    with pytest.raises(InvalidArgument, match=f"argument {name.removesuffix('s')}"):
        Machine(**options)


CALLS: dict[str, Callable[[Any], object]] = {
    "put, timeout": lambda m: m.put(1, block=True, timeout="x"),
    "put, no number": lambda m: m.put(1, block=True, timeout=math.nan),
    "put_many, a text": lambda m: m.put_many("abc"),
    "put_many, a mapping": lambda m: m.put_many({"a": 1}),
    "put_many, no iterable": lambda m: m.put_many(5),
    "put_many, one id": lambda m: m.put_many([1], "0" * 24),
    "put_many, ids of other number": lambda m: m.put_many([1], ["0" * 24, "1" * 24]),
    "put_many, timeout": lambda m: m.put_many([1], timeout_s="x"),
    "put_some, a text": lambda m: m.put_some("abc"),
    "put_some, ids of other number": lambda m: m.put_some([1], []),
    "get": lambda m: m.get(block=True, timeout="x"),
    "put_many, oids": lambda m: m.put_many([1], oids=5),
    "wait": lambda m: m.wait("x"),
    "wait, no number": lambda m: m.wait(math.nan),
    "stop": lambda m: m.stop(timeout="x"),
    "close": lambda m: m.close("x"),
    "recent": lambda m: m.recent("x"),
    "recent, none": lambda m: m.recent(None),
    "recent, below 0": lambda m: m.recent(-1),
    "events": lambda m: m.events(1.5),
    "retry_errors": lambda m: m.retry_errors(1),
    "retry_errors, one text": lambda m: m.retry_errors("69216a08aabbccddee000001"),
    "replay": lambda m: m.replay(m.run, 1),
    "replay, texts": lambda m: m.replay(m.run, ["x"]),
    "slice of texts": lambda m: m["a":],
    "slice without step": lambda m: m[::0],
    "slice of one function": lambda m: m.__setitem__(slice(0, 2), abs),
    "deleted slice": lambda m: m.__delitem__(slice("a", None)),
    "assign": lambda m: m.assign(1),
    "assign, names": lambda m: m.assign({0: abs}, names=["a"]),
    "set, source": lambda m: m.set(0, abs, source=1),
    "resize": lambda m: m.resize("x"),
    "configure, stages": lambda m: m.configure(stages=1.5),
    "configure, bufsize": lambda m: m.configure(bufsize="x"),
    "display_status": lambda m: m.display_status(interval_s="x"),
    "display_status, duration": lambda m: m.display_status(duration_s="x"),
    "serve": lambda m: m.serve(transport="x"),
    "save": lambda m: m.save(3),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(3, serve=False) as made:
        yield made


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_calls_wrong_argument_is_named_and_changes_nothing(
    machine: Machine, call: Callable[[Machine], object]
) -> None:
    before = (machine.status.put, machine.revision, len(machine), machine.endpoint)
    with pytest.raises(InvalidArgument, match="argument "):
        call(machine)
    assert (machine.status.put, machine.revision, len(machine), machine.endpoint) == before


def test_a_wrong_argument_is_a_type_error_and_a_value_error_too() -> None:
    for kind in (TypeError, ValueError, TimbrError):
        with pytest.raises(kind):
            Machine("a", serve=False)  # type: ignore[arg-type]
    with pytest.raises(InvalidName):
        Machine(1, name="A b", serve=False)


def test_whole_numbers_and_seconds_of_other_libraries_are_taken() -> None:
    numpy = pytest.importorskip("numpy")
    with Machine(numpy.int64(2), numpy.int32(5), serve=False) as made:
        assert (len(made), made.status.queue_capacity) == (2, 5)
        assert made.wait(numpy.float32(0.1))
        assert made.recent(numpy.int64(3)) == []


def test_what_was_put_shows_how_many() -> None:
    result = PutResult(oids=[f"{n:024x}" for n in range(1000)], refused=2)
    assert "1,000" in repr(result)
    assert len(repr(result)) < 200
    assert str(result) == "1,000 messages queued, 2 refused: there was no room for them"
