"""`Raw`: a message that is a JSON text, published unchanged and parsed only where a slot takes its value."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.values import text_of

_skip = msgspec.json.Decoder(msgspec.Raw).decode


class Raw:
    """A JSON text as a message: ``machine.put(Raw(b'{"a": 1}'))``.

    Records show the text unchanged, digits and spaces included. Slots get the parsed value. A text that turns out not
    to be JSON fails in the first slot that takes the message; its record shows a description instead.

    Args:
        text: one JSON value in UTF-8; without line ends around it.
    """

    __slots__ = ("text",)

    def __init__(self, text: bytes | str) -> None:
        self.text = text.encode() if isinstance(text, str) else bytes(text)

    def parsed(self) -> Any:
        """Return the value.

        Raises:
            InvalidArgument: the text is not JSON.
        """
        try:
            return orjson.loads(self.text)
        except ValueError as error:
            start = self.text[:80].decode("utf-8", "replace")
            raise InvalidArgument("message", f"{start!r} is not JSON: {error}") from None

    def validate(self) -> None:
        """Check the text without making its value: a quarter of the time of `parsed`.

        Raises:
            InvalidArgument: the text is not JSON.
        """
        try:
            _skip(self.text)
            if not self.text.isascii():
                self.text.decode()  # the only thing that skipping does not look at
        except ValueError:
            self.parsed()
            raise AssertionError(f"{self.text[:80]!r} is JSON for one parser and not for the other") from None

    def __repr__(self) -> str:
        text = self.text[:80].decode("utf-8", "replace")
        return f"Raw({text!r}{'…' if len(self.text) > 80 else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raw) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def opened(message: object) -> tuple[Any, bytes, InvalidArgument | None]:
    """Return a message's value and text; of a raw text that is not JSON a description of it, and the error."""
    if type(message) is not Raw:
        return message, text_of(message), None
    try:
        return message.parsed(), message.text, None
    except InvalidArgument as error:
        described = {"__type__": "Raw", "__invalid_json__": message.text[:200].decode("utf-8", "replace")}
        return described, text_of(described), error
