"""Calls of every procedure with odd values in every position, by plain autobahn sessions in both serializers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgpack
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.message import Call
from autobahn.wamp.request import CallRequest
from autobahn.wamp.serializer import (
    JsonObjectSerializer,
    JsonSerializer,
    MsgPackObjectSerializer,
    MsgPackSerializer,
)
from plain_wamp import PlainSession

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES, PROCEDURES, KernelInfo, MachineBrief, Procedure
from timbr_wamp.contract.exports import NODE_URIS

#: Each call must be answered within this time, seconds.
ANSWER_LIMIT_S = 20.0
#: Beginnings of the URIs of errors that say what happened.
ERRORS = ("io.timbr.error.", "wamp.error.")
#: What a callee sends that did not expect its own exception.
BARE = ("wamp.error.runtime_error", "wamp.error.canceled")

#: Calls of one session at once.
AT_ONCE = 8

#: ``(what it is, procedure, args, kwargs)``
OddCall: TypeAlias = tuple[str, str, list[Any], dict[str, Any]]


class _EscapedJson(JsonObjectSerializer):  # type: ignore[misc]
    """JSON as browsers write it: a lone surrogate is escaped, and so it can be sent."""

    def serialize(self, obj: Any) -> bytes:
        return json.dumps(obj).encode()

    def unserialize(self, payload: bytes) -> list[Any]:
        return [json.loads(payload, parse_constant=_no_json)]


def _no_json(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


class _AnyMsgPack(MsgPackObjectSerializer):  # type: ignore[misc]
    """MsgPack that sends and reads what the format allows: any keys, and texts of any bytes."""

    def serialize(self, obj: Any) -> bytes:
        return bytes(msgpack.packb(obj, use_bin_type=True, unicode_errors="surrogateescape"))

    def unserialize(self, payload: bytes) -> list[Any]:
        return [msgpack.unpackb(payload, raw=False, strict_map_key=False)]


def json_serializer() -> Any:
    made = JsonSerializer()
    made._serializer = _EscapedJson()
    return made


def msgpack_serializer() -> Any:
    made = MsgPackSerializer()
    made._serializer = _AnyMsgPack()
    return made


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


COMMON: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus one": -1,
    "half": 0.5,
    "2**53": 2**53 + 1,
    "largest": 2**64 - 1,
    "least": -(2**63),
    "huge float": 1e308,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "empty text": "",
    "text": "no such thing",
    "zero byte": "\x00",
    "zero byte and no base64": "\x00ä!",
    "control characters": "\x00\x01\x1b[31m\u2028",
    "wide": "漢字🐍" * 50,
    "empty list": [],
    "empty map": {},
    "nested": nested(60),
    "map of odd keys": {"": 1, " ": 2, "\x00": 3, "self": 4},
    "list": [1, "two", None, [3.0], {"four": 5}],
    "large": "x" * (PAYLOAD_LIMIT_BYTES + 1),
}
JSON_ONLY: dict[str, Any] = {
    "2**70": 2**70,
    "-2**70": -(2**70),
    "nested 2**70": [{"a": {"b": [2**70]}}],
    "lone surrogate": "\ud800",
    "lone surrogate as a key": {"\udfff": 1},
    "deep": nested(400),
}
MSGPACK_ONLY: dict[str, Any] = {
    "number as a key": {1: 2},
    "keys of all kinds": {None: 1, True: 2, 2.5: 3, b"x": 4, "x": 5},
    "list as a key": {(1, 2): 1, "a": {(None,): {(): 1}}},
    "bytes": b"\x00\xff",
    "no UTF-8": "\udcff",
    "timestamp": msgpack.Timestamp(1, 2),
    "extension": msgpack.ExtType(5, b"x"),
    "deep": nested(400),
}
VALUES: Mapping[str, dict[str, Any]] = {"json": COMMON | JSON_ONLY, "msgpack": COMMON | MSGPACK_ONLY}

#: Arguments that a procedure takes, so that an odd value in one place meets usual ones in the others.
USUAL: dict[str, list[Any]] = {
    "slot": [0],
    "records": ["run", 0, 10],
    "record": ["run", 1],
    "progress": [0.1, 0.2],
    "put": [1, "0" * 24],
    "put_many": [[1, 2], None, 0.0],
    "call": [1],
    "stop": [False, 1.0],
    "lookup": ["0" * 24],
    "compare": [0, 0],
    "replay": ["run", [1], None, None, 0.0],
    "retry_errors": [None, None, 0, 1.0],
    "slot_set": [1, {"kind": "source", "value": "lambda x: x"}, None, None, "why", None],
    "slot_delete": [1, "why"],
    "policy_set": [1, {"on_error": "record"}, "why"],
    "handler_set": ["BaseEventHandler", {}],
    "configure": [64, 8, 1],
    "trial": [1, {"kind": "source", "value": "lambda x: x"}, 1],
    "trial_report": [1, {"kind": "source", "value": "lambda x: x"}, 1, None, None, None, 1.0],
    "table_trial": [None, None, 1, None, None, None, None, 1.0],
    "rollback": [0, "why", None],
    "source_set": [{"kind": "source", "value": "[]"}, None, True, None],
    "execute": ["", True, False, 5.0],
    "execute_interactive": ["", True, False, 5.0],
    "complete": ["pri", 1],
    "inspect": ["print", 1, 0],
    "is_complete": ["1"],
}
#: The same for a host. No kernel is started: neither the folder nor the startup file is there.
HOST_USUAL: dict[str, list[Any]] = {
    "start": ["odd", "/no/such/startup.py", "/no/such/folder"],
    "restart": ["lab_0123456789ab"],
    "stop": ["lab_0123456789ab"],
}

#: The router's own procedures, with a number of arguments that they may take.
META: dict[str, int] = {
    "wamp.session.count": 1, "wamp.session.list": 1, "wamp.session.get": 1, "wamp.session.kill": 2,
    "wamp.session.kill_by_authid": 2, "wamp.session.kill_by_authrole": 2, "wamp.session.kill_all": 1,
    "wamp.session.add_testament": 3, "wamp.session.flush_testaments": 1, "wamp.session.modify_details": 2,
    "wamp.registration.list": 1, "wamp.registration.lookup": 2, "wamp.registration.match": 1,
    "wamp.registration.get": 1, "wamp.registration.list_callees": 1, "wamp.registration.count_callees": 1,
    "wamp.registration.remove_callee": 2,
    "wamp.subscription.list": 1, "wamp.subscription.lookup": 2, "wamp.subscription.match": 1,
    "wamp.subscription.get": 1, "wamp.subscription.list_subscribers": 1, "wamp.subscription.count_subscribers": 1,
    "wamp.subscription.remove_subscriber": 2, "wamp.subscription.get_events": 2,
}  # fmt: skip

#: Names of odd keywords.
KEYWORDS = ("fun", "self", "args", "kwargs", "options", "details", "", "a.b")


def odd_calls(serializer: str) -> Iterator[OddCall]:
    """Yield calls of every procedure of kernel and machine, with their URIs but for the kernel's prefix ``K``."""
    for procedure in PROCEDURES["kernel"].values():
        yield from _odd_calls(procedure, f"K.{procedure.name}", VALUES[serializer])
    for procedure in PROCEDURES["machine"].values():
        yield from _odd_calls(procedure, f"K.machine.{procedure.name}", VALUES[serializer])


def odd_calls_of_host(serializer: str) -> Iterator[OddCall]:
    """Yield calls of every procedure of a host, with their URIs but for the host's prefix ``H``."""
    for procedure in PROCEDURES["host"].values():
        usual = HOST_USUAL.get(procedure.name, [])
        yield from _odd_calls(procedure, f"H.{procedure.name}", VALUES[serializer], usual)


def odd_calls_of_node(serializer: str, announced: Mapping[str, Any]) -> Iterator[OddCall]:
    """Yield calls of the node component's procedures; ``announced`` is a kernel that the caller may announce."""
    for procedure in PROCEDURES["node"].values():
        uri = NODE_URIS[procedure.name]
        yield from _odd_calls(procedure, uri, VALUES[serializer], [dict(announced)] * len(procedure.parameters))
    yield from _any_calls("io.timbr.node.authorize", 4, VALUES[serializer])
    for text, value in VALUES[serializer].items():
        for field in (*KernelInfo.__struct_fields__, "no_such_field"):
            kernel = {**announced, field: value}
            yield f"announce: {text} as {field}", NODE_URIS["announce"], [kernel], {}
        for field in MachineBrief.__struct_fields__:
            machine = {"name": "m", "run": "r", "state": "idle", field: value}
            yield (
                f"announce: {text} as machine.{field}",
                NODE_URIS["announce"],
                [{**announced, "machines": [machine]}],
                {},
            )


def odd_calls_of_router(serializer: str) -> Iterator[OddCall]:
    """Yield calls of the router's own procedures."""
    for uri, count in META.items():
        yield from _any_calls(uri, count, VALUES[serializer])


def _any_calls(uri: str, count: int, values: Mapping[str, Any]) -> Iterator[OddCall]:
    """Yield each value in each position of a procedure that the contract does not have."""
    for text, value in values.items():
        for position in range(count + 1):
            yield f"{uri}: {text} at {position}", uri, [*[1] * position, value], {}
    for keyword in KEYWORDS:
        yield f"{uri}: keyword {keyword!r}", uri, [1] * count, {keyword: 1}


def _odd_calls(
    procedure: Procedure, name: str, values: Mapping[str, Any], usual: list[Any] | None = None
) -> Iterator[OddCall]:
    """Yield each value in each position, in one position too many, and by name; and odd names."""
    usual, parameters = USUAL.get(procedure.name, []) if usual is None else usual, procedure.parameters
    for text, value in values.items():
        for position in range(len(parameters) + 1):
            args = [*usual[:position], *[None] * (position - len(usual)), value, *usual[position + 1 :]]
            yield f"{name}: {text} at {position}", name, args, {}
        if parameters:
            last = parameters[-1].name
            yield f"{name}: {text} as {last}", name, usual[: len(parameters) - 1], {last: value}
    for keyword in KEYWORDS:
        yield f"{name}: keyword {keyword!r}", name, usual, {keyword: 1}


async def answer_of(session: PlainSession, uri: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    """Call, with any keywords, and return ``"result"`` or the error's URI.

    Raises:
        TimeoutError: no answer.
    """
    number = session._request_id_gen.next()
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    session._call_reqs[number] = CallRequest(number, uri, reply, {})
    session._transport.send(Call(number, uri, args=args, kwargs=kwargs))
    try:
        await asyncio.wait_for(reply, ANSWER_LIMIT_S)
    except ApplicationError as error:
        return str(error.error)
    return "result"


async def unanswered(session: PlainSession, prefixes: Mapping[str, str], calls: Sequence[OddCall]) -> list[str]:
    """Make calls, some at a time; return those that got no answer, or none that says what was wrong.

    ``prefixes`` are what ``K`` and ``H`` stand for at the beginning of a name.
    """
    wrong: list[str] = []

    async def one(odd: OddCall) -> None:
        what, name, args, kwargs = odd
        try:
            first, dot, rest = name.partition(".")
            uri = prefixes.get(first, first) + dot + rest
            answer = await answer_of(session, uri, args, kwargs)
        except TimeoutError:
            wrong.append(f"{what}: no answer")
        else:
            if answer in BARE or not (answer == "result" or answer.startswith(ERRORS)):
                wrong.append(f"{what}: {answer}")

    for start in range(0, len(calls), AT_ONCE):
        await asyncio.gather(*(one(odd) for odd in calls[start : start + AT_ONCE]))
    return wrong


def sampled(calls: Iterable[OddCall], count: int, seed: int) -> list[OddCall]:
    """Return ``count`` of the calls in random order, all of them if there are fewer."""
    everything = list(calls)
    return random.Random(seed).sample(everything, min(count, len(everything)))
