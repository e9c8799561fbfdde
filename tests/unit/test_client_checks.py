"""What the client's methods say at the call: of arguments that they cannot use, and after it was closed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from timbr_wamp.client import (
    AsyncClient,
    AsyncKernel,
    AsyncMachine,
    Client,
    RemoteKernel,
    RemoteMachine,
    connect,
    connect_async,
)
from timbr_wamp.client.arguments import wire_arguments
from timbr_wamp.client.checks import check_of, fits
from timbr_wamp.client.record_stream import RecordStream
from timbr_wamp.client.records import Records
from timbr_wamp.client.shared_connection import SharedConnection
from timbr_wamp.contract import Procedure
from timbr_wamp.errors import AlreadyClosed, InvalidArgument, NotConnected, TimbrError, WrongArguments

KERNEL_ID = "lab_0123456789ab"


class Bad:
    """An object that is of no use, and says so when it is used."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} was asked of it")


ODD: dict[str, Any] = {
    "object": Bad(), "None": None, "int": 5, "negative": -1, "zero": 0, "huge": 2**70, "half": 0.5, "NaN": float("nan"),
    "infinity": float("inf"), "1e308": 1e308, "text": "a", "empty": "", "surrogate": "\ud800", "bytes": b"x",
    "list": [], "list of odd": [Bad(), None], "dict": {}, "set": {1}, "function": lambda: None, "class": int,
    "bool": True, "slice": slice("a", None), "iterator": iter([1, 2]),
}  # fmt: skip


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class Wire(SharedConnection):
    """A client's connection that was never opened, and keeps what it would send."""

    def __init__(self) -> None:
        super().__init__("ws://127.0.0.1:1/ws", "timbr", "ada.secret")
        self.sent: list[Any] = []
        self.wait(self.connection.close)

    async def call(self, uri: str, procedure: Procedure, *args: Any, **options: Any) -> Any:
        self.sent.append(wire_arguments(procedure, args, {}))
        return await super().call(uri, procedure, *args, **options)


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


@pytest.fixture
def faces(wire: Wire) -> dict[str, Any]:
    client = Client(wire, Path("/nowhere"))
    kernel = RemoteKernel(wire, AsyncKernel(wire, KERNEL_ID, "pump"))
    machine = RemoteMachine(wire, AsyncMachine(wire, KERNEL_ID))
    found = (client, client.aio, kernel, kernel.aio, machine, machine.aio)
    return {type(each).__name__: each for each in found}


FACES = (AsyncClient, AsyncKernel, AsyncMachine, Client, RemoteKernel, RemoteMachine)
OPERATORS = ("__call__", "__getitem__", "__setitem__", "__delitem__")
PARAMETERS = [
    (cls.__name__, name, parameter.name)
    for cls in FACES
    for name, method in inspect.getmembers(cls, inspect.isfunction)
    if not name.startswith("_") or name in OPERATORS
    for parameter in list(inspect.signature(method).parameters.values())[1:]
    if parameter.kind is not parameter.VAR_KEYWORD
]

#: What the other parameters get.
USUAL: dict[str, Any] = {
    "uri": "io.timbr.kernel.list", "topic": "io.timbr.kernel.discovery", "callback": print, "code": "1", "kind": "*",
    "message": 1, "messages": [1], "run": "r", "seq": 1, "seqs": [1], "slot": 0, "function": "lambda x: x",
    "policy": "drop", "handler": "x", "number": 1, "source": "[1]", "oid": "0" * 24, "a": 0, "b": 1,
}  # fmt: skip


def outcome_of(face: Any, name: str, parameter: str, value: Any, loop: asyncio.AbstractEventLoop) -> object:
    """Call a method with a value for one parameter; return what it raised, or its result."""
    method = getattr(face, name)
    signature = inspect.signature(method)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for each in signature.parameters.values():
        wanted = each.default is each.empty or each.name == "function"
        if each.name != parameter and not (wanted and each.name in USUAL):
            continue
        given = value if each.name == parameter else USUAL[each.name]
        if each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL):
            args.append(given)
        else:
            kwargs[each.name] = given
    try:
        result = method(*args, **kwargs)
        return loop.run_until_complete(result) if inspect.iscoroutine(result) else result
    except Exception as error:
        return error


def test_the_table_has_every_face():
    assert {face for face, _, _ in PARAMETERS} == {cls.__name__ for cls in FACES}
    assert len(PARAMETERS) > 150


@pytest.mark.parametrize("face", [cls.__name__ for cls in FACES])
def test_no_value_of_any_argument_raises_anything_but_our_own_errors(
    face: str, faces: dict[str, Any], loop: asyncio.AbstractEventLoop
):
    wrong = []
    for _, name, parameter in (each for each in PARAMETERS if each[0] == face):
        for text, value in ODD.items():
            outcome = outcome_of(faces[face], name, parameter, value, loop)
            if isinstance(outcome, Exception) and not isinstance(outcome, TimbrError):
                wrong.append(f"{name}({parameter}={text}): {outcome!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("face", "call", "argument"),
    [
        ("RemoteMachine", lambda m: m.put_many(5), "messages"),
        ("RemoteMachine", lambda m: m.put_many("abc"), "messages"),
        ("RemoteMachine", lambda m: m.put_many({"a": 1}), "messages"),
        ("RemoteMachine", lambda m: m.put_many([1], timeout_s="a"), "timeout_s"),
        ("RemoteMachine", lambda m: m.put(1, timeout="a"), "timeout"),
        ("RemoteMachine", lambda m: m.put(1, oid=7), "oid"),
        ("RemoteMachine", lambda m: m.wait("a"), "timeout"),
        ("RemoteMachine", lambda m: m.wait(float("nan")), "timeout"),
        ("RemoteMachine", lambda m: m.stop(timeout="a"), "timeout"),
        ("RemoteMachine", lambda m: m.records(after_seq=object()), "after_seq"),
        ("RemoteMachine", lambda m: m.records(run=b"r"), "run"),
        ("RemoteMachine", lambda m: m.replay("r", 5), "seqs"),
        ("RemoteMachine", lambda m: m.on_record(5), "callback"),
        ("RemoteMachine", lambda m: m.on(5, print), "kind"),
        ("RemoteMachine", lambda m: m.follow(5), "callback"),
        ("RemoteMachine", lambda m: m.display_status(interval_s="a"), "interval_s"),
        ("RemoteMachine", lambda m: m[1.5], "slot"),
        ("RemoteMachine", lambda m: m.__setitem__(None, "lambda x: x"), "slot"),
        ("RemoteMachine", lambda m: m.__setitem__(slice("a", "b"), ["lambda x: x"]), "slot"),
        ("RemoteMachine", lambda m: m.__setitem__(slice(0, "b"), ["lambda x: x"]), "slot"),
        ("RemoteKernel", lambda k: k.machine(3), "name"),
        ("RemoteKernel", lambda k: k.run("1", on_output=5), "on_output"),
        ("RemoteKernel", lambda k: k.execute(5), "code"),
        ("RemoteKernel", lambda k: k.execute("1", timeout_s=[]), "timeout_s"),
        ("Client", lambda c: c.kernel(3), "wanted"),
        ("Client", lambda c: c.on("a.b", 5), "callback"),
        ("Client", lambda c: c.on_link(5), "callback"),
        ("Client", lambda c: c.call(5), "uri"),
        ("Client", lambda c: c.start_kernel(host=5), "host"),
        ("Client", lambda c: c.wait_connected("a"), "timeout_s"),
    ],
)
def test_a_wrong_type_is_refused_by_the_arguments_name_before_anything_is_sent(
    faces: dict[str, Any], face: str, call: Callable[[Any], object], argument: str
):
    with pytest.raises(InvalidArgument) as raised:
        call(faces[face])
    assert raised.value.name == argument


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.put(),
        lambda m: m.put(1, True, 1.0, "0" * 24, "more"),
        lambda m: m.records(after=object()),
        lambda m: m.follow(print, every=2),
        lambda m: m.aio.records(after=1),
        lambda m: m.wait(limit=3),
    ],
)
def test_a_missing_or_unknown_argument_is_refused_with_what_the_method_takes(
    faces: dict[str, Any], call: Callable[[Any], object]
):
    with pytest.raises(WrongArguments, match="it takes") as raised:
        call(faces["RemoteMachine"])
    assert isinstance(raised.value, TypeError)
    assert "self" not in str(raised.value)


@pytest.mark.parametrize("options", [{"url": 5}, {"token": b"a.b"}, {"realm": 1}, {"timeout_s": "a"}, {"settings": {}}])
def test_connect_refuses_wrong_types(options: dict[str, Any]):
    with pytest.raises(WrongArguments) as raised:
        connect(**options)
    with pytest.raises(WrongArguments) as raised_later:
        asyncio.run(connect_async(**options))
    assert raised.value.name == raised_later.value.name == next(iter(options))


def test_what_other_libraries_use_for_numbers_and_lists_is_taken():
    numpy = pytest.importorskip("numpy")
    assert fits(numpy.float64(1.5), float | None)
    assert fits(numpy.int64(3), int)
    assert fits(numpy.array([1, 2]), Sequence[int])
    assert fits(iter([1, 2]), Sequence[int])


def test_an_iterator_of_messages_is_put_whole(wire: Wire, faces: dict[str, Any]):
    with pytest.raises(NotConnected):
        faces["RemoteMachine"].put_many(n for n in range(3))
    messages, oids, *_ = wire.sent[0]
    assert messages == [0, 1, 2]
    assert len(set(oids)) == 3


def test_an_argument_may_be_given_by_any_name(wire: Wire, faces: dict[str, Any]):
    """Also by one that the client itself uses on the way."""
    with pytest.raises(NotConnected):
        faces["RemoteMachine"].set(slot=0, function="lambda x: x")
    assert wire.sent[0][0] == 0


def test_every_argument_is_checked_but_those_of_types_that_are_slow_to_import():
    unchecked = set()
    for face, name, parameter in PARAMETERS:
        method = next(getattr(cls, name) for cls in FACES if cls.__name__ == face)
        check, function = check_of(method)
        if parameter not in check.hints and parameter in inspect.signature(function).parameters:
            unchecked.add((face, name, parameter))
    assert unchecked == {("RemoteMachine", "wait", "progress")}


# --- after close ---------------------------------------------------------------------------------

CLOSED = "the connection to ws://127.0.0.1:1/ws was closed; open a new one with timbr_wamp.connect()"
#: What needs no connection: it makes an object, or ends something.
WITHOUT = {"machine", "on_link", "close", "AsyncMachine.records"}
VERBS = [
    (cls.__name__, name)
    for cls in FACES
    for name, method in inspect.getmembers(cls, inspect.isfunction)
    if (not name.startswith("_") or name in OPERATORS) and not {name, f"{cls.__name__}.{name}"} & WITHOUT
]


@pytest.mark.parametrize("other_is_open", [False, True], ids=["the only client", "another one is open"])
def test_after_close_every_method_says_that_it_was_closed_and_how_to_go_on(
    other_is_open: bool, wire: Wire, faces: dict[str, Any], loop: asyncio.AbstractEventLoop
):
    other = Wire() if other_is_open else None
    try:
        wire.close()
        found = {f"{face}.{name}": outcome_of(faces[face], name, "", None, loop) for face, name in VERBS}
        found["status"] = raised_by(lambda: faces["RemoteMachine"].status)
        found["records"] = raised_by(lambda: next(iter(Records(wire, stream_of(wire), None))))
        wrong = [f"{verb}: {error!r}" for verb, error in found.items() if str(error) != CLOSED]
        assert not wrong, "\n".join(wrong)
        assert {type(error) for error in found.values()} == {AlreadyClosed}
        assert len(found) > 100
    finally:
        if other is not None:
            other.close()


def raised_by(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as error:
        return error


def stream_of(wire: Wire) -> RecordStream:
    return RecordStream(wire, KERNEL_ID, "machine", run=None, after_seq=0, status=False)


def test_what_was_made_with_a_client_may_be_closed_after_it(wire: Wire, faces: dict[str, Any]):
    subscription = faces["Client"].on("a.b", print)
    records = Records(wire, stream_of(wire), None)
    wire.close()
    subscription()
    records.close()
    records.close()
    assert list(records) == []
    assert not faces["Client"].close()
    assert "closed" in repr(faces["Client"])
