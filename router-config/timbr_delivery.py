"""What the router does with values that one of its serializers cannot carry: it answers, instead of nothing or a cut.

Crossbar 26.10 unpacks each message and packs it again for its receiver. What a caller's serializer carries and
the receiver's does not (JSON ``2**70`` or a lone surrogate for MsgPack, NaN or a map with keys that are no texts
for JSON) raised an exception in the router: the call was never answered, and its place never given back. And
what the router itself could not unpack, such as a MsgPack map with numbers as keys, closed the sender's
connection. `install` changes the functions of Crossbar and autobahn that do this; they were read in the versions
that ``requirements.txt`` pins.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgpack
from autobahn.exception import PayloadExceededError
from autobahn.wamp import serializer
from autobahn.wamp.exception import TransportLost
from autobahn.wamp.message import Call, Cancel, Error, Event, Interrupt, Invocation, Result
from crossbar.router.router import Router

INVALID_ARGUMENT = "io.timbr.error.invalid_argument"
REMOTE = "io.timbr.error.remote"

#: Characters of a serializer's own message in an error.
TEXT_LIMIT = 300


def install() -> None:
    """Change how routers send, and how this process packs and unpacks."""
    Router.send = answering(Router.send)
    serializer._unpackb = unpack_msgpack
    serializer._loads = load_json
    serializer._dumps = dump_json


# --- sending -------------------------------------------------------------------------------------


def answering(send: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
    """Return ``Router.send`` so that a message which cannot be packed for its receiver is answered with an error."""

    def send_or_answer(router: Any, session: Any, message: Any) -> None:
        try:
            send(router, session, message)
        except TransportLost:
            raise
        except PayloadExceededError:
            if isinstance(message, Result):
                raise  # the dealer answers it
            answer(router, session, message, "it is too large for the receiver")
        except Exception as error:  # serializers raise what their libraries raise
            answer(router, session, message, str(error).encode("utf-8", "backslashreplace").decode()[:TEXT_LIMIT])

    return send_or_answer


def answer(router: Any, session: Any, message: Any, problem: str) -> None:
    """Answer for a receiver that a message cannot reach; ``session`` is the receiver's."""
    if isinstance(message, Invocation):
        text = f"they contain a value that cannot be sent to the callee: {problem}"
        error = _error(Invocation.MESSAGE_TYPE, message.request, INVALID_ARGUMENT, "arguments", text)
        router._dealer.processInvocationError(session, error)
    elif isinstance(message, (Result, Error)):
        if isinstance(message, Result) and message.progress:
            _end_call(router, session, message.request)
        request_type = message.request_type if isinstance(message, Error) else Call.MESSAGE_TYPE
        text = f"the answer contains a value that cannot be sent to the caller: {problem}"
        router.send(session, _error(request_type, message.request, REMOTE, "SerializationError", text))
    elif isinstance(message, Event):
        router.log.warn("an event could not be sent to one of its subscribers: {problem}", problem=problem)
    else:
        raise ValueError(f"{type(message).__name__}: {problem}")


def _error(request_type: int, request: int, uri: str, name: str, text: str) -> Any:
    return Error(request_type, request, uri, args=[name, text], kwargs={"message": text, "traceback": ""})


def _end_call(router: Any, caller: Any, request: int) -> None:
    """End a call that gets an error in place of a progressive result; its later results find no call."""
    invocation = router._dealer._invocations_by_call.get((caller._session_id, request))
    if invocation is not None:
        router._dealer._remove_invoke_request(invocation)
        router.send(invocation.callee, Interrupt(invocation.id, Cancel.KILLNOWAIT))


# --- packing and unpacking -----------------------------------------------------------------------


def unpack_msgpack(data: bytes) -> Any:
    """Return an unpacked MsgPack message. Maps may have any keys; texts that are not UTF-8 get lone surrogates."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (UnicodeDecodeError, TypeError):  # not UTF-8; a key that is a list or a map
        return msgpack.unpackb(
            data, raw=False, strict_map_key=False, unicode_errors="surrogateescape", object_pairs_hook=_map
        )


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    if isinstance(key, list):
        return tuple(_key(item) for item in key)
    return str(key) if isinstance(key, dict) else key


def load_json(text: str, **_options: Any) -> Any:
    """Return a JSON message. An integer of thousands of digits is a float.

    A text that begins with ``\\0`` is bytes in base64, and stays a text if it is not. autobahn's own reader is
    written in Python for these bytes alone, and takes a second for a message of 4 MiB; Python's takes 0.1 s.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = json.loads(text, parse_int=_integer)
    return _with_bytes(value) if "\\u0000" in text else value


def _with_bytes(value: Any) -> Any:
    """Return a value with its texts that stand for bytes as bytes. How deep it is was checked before."""
    if type(value) is str:
        if value[:1] != "\0":
            return value
        try:
            return base64.b64decode(value[1:])
        except ValueError:
            return value
    if type(value) is list:
        return [_with_bytes(item) if type(item) in _MAY_HOLD_BYTES else item for item in value]
    return {key: _with_bytes(item) if type(item) in _MAY_HOLD_BYTES else item for key, item in value.items()}


_MAY_HOLD_BYTES = (str, list, dict)


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python reads no more than 4,300 digits
        return float(digits)


def dump_json(value: Any, use_binary_hex_encoding: bool = False) -> str:
    """Return the JSON text of a message; NaN and infinities, which JSON has not, raise ValueError."""
    return json.dumps(
        value, separators=(",", ":"), ensure_ascii=False, allow_nan=False,
        use_binary_hex_encoding=use_binary_hex_encoding, cls=serializer._WAMPJsonEncoder,
    )  # fmt: skip
