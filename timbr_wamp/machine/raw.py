"""`Raw`: a message that is a JSON text, published unchanged and checked, and parsed for slots."""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec
import orjson

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.values import DEPTH_LIMIT, parse_json, text_of

#: Walks through a text by the rules of JSON without making its value. It does not look at the encoding, nor at how
#: large a number is.
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{"))


class Raw:
    """A JSON text as a message: ``machine.put(Raw(b'{"a": 1}'))``.

    Records show the text unchanged, digits and spaces included. Slots get the parsed value. A text that turns out not
    to be JSON, or is nested deeper than 100 levels, fails in the first slot that takes the message; its record shows a
    description instead. So does one with a number that no float can hold, but its record shows the text.

    Args:
        text: one JSON value in UTF-8; without line ends around it.
    """

    __slots__ = ("text",)

    def __init__(self, text: bytes | str) -> None:
        self.text = text.encode() if isinstance(text, str) else bytes(text)

    def check(self) -> None:
        """Check what records may show: a JSON text, whatever its numbers, of few levels. Makes no value: quicker.

        Raises:
            InvalidArgument: it is none.
        """
        text = self.text
        try:
            if not text.isascii():
                text.decode()
            _skip(text)
        except (ValueError, RecursionError):
            self.parsed()
        if len(text) > 2 * DEPTH_LIMIT and len(text.translate(None, _NO_BRACKETS)) > DEPTH_LIMIT:
            try:
                value = parse_json(text)
            except (ValueError, RecursionError):
                raise self._refused(f"is nested deeper than {DEPTH_LIMIT} levels") from None
            if _is_deep(value):
                raise self._refused(f"is nested deeper than {DEPTH_LIMIT} levels")

    def parsed(self) -> Any:
        """Return the value.

        Raises:
            InvalidArgument: the text is not JSON, or not every reader could parse it.
        """
        try:
            value = orjson.loads(self.text)
        except ValueError as error:
            raise self._refused(f"is not JSON: {error}") from None
        text = self.text
        if len(text) > 2 * DEPTH_LIMIT and text.count(b"[") + text.count(b"{") > DEPTH_LIMIT and _is_deep(value):
            raise self._refused(f"is nested deeper than {DEPTH_LIMIT} levels")
        return value

    def _refused(self, problem: str) -> InvalidArgument:
        return InvalidArgument("message", f"{self.text[:80].decode('utf-8', 'replace')!r} {problem}")

    def __repr__(self) -> str:
        text = self.text[:80].decode("utf-8", "replace")
        return f"Raw({text!r}{'…' if len(self.text) > 80 else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raw) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _is_deep(value: object) -> bool:
    """Tell whether a value has more levels than every parser of JSON takes."""
    level: list[Any] = [value] if type(value) in (list, dict) else []
    for _ in range(DEPTH_LIMIT):
        if not level:
            return False
        inner = chain.from_iterable(one.values() if type(one) is dict else one for one in level)
        level = [one for one in inner if type(one) in (list, dict)]
    return bool(level)


def opened(message: object) -> tuple[Any, bytes, InvalidArgument | None]:
    """Return a message's value and text; of a raw text that is not JSON a description of it, and the error."""
    if type(message) is not Raw:
        return message, text_of(message), None
    try:
        return message.parsed(), message.text, None
    except InvalidArgument as error:
        described = {"__type__": "Raw", "__invalid_json__": message.text[:200].decode("utf-8", "replace")}
        try:
            message.check()
        except InvalidArgument:
            return described, text_of(described), error
        return described, message.text, error
