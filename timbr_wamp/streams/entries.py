"""What streams are made of, as values: entries, claims, retention, and what is told of a stream and its groups."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from timbr_wamp.errors import InvalidArgument, InvalidName
from timbr_wamp.values import JsonValue, json_form

#: An entry's number in its stream: 1, 2, 3 …; never given twice.
Position: TypeAlias = int

#: Most bytes of a message's JSON text.
MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024
#: Most characters of an idempotency key.
KEY_LIMIT = 256
#: Names of dead-letter streams end with this.
DEAD_SUFFIX = ".dead"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is to be appended."""

    #: The message as JSON text.
    text: bytes
    #: A second entry with the same key is not appended.
    key: str | None = None


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """A message in a stream."""

    position: Position
    #: When it was appended: UTC seconds since the epoch, by the clock of the storage.
    appended_at: float
    key: str | None
    #: The message as JSON text.
    text: bytes = field(repr=False)

    @property
    def message(self) -> JsonValue:
        """The message, parsed anew at each access."""
        message: JsonValue = orjson.loads(self.text)
        return message


@dataclass(frozen=True, slots=True)
class Claim(StreamEntry):
    """An entry that one consumer of a group has until its lease ends."""

    group: str
    consumer: str
    #: The fencing id: larger than that of every earlier claim in the group. Hand it on to what must refuse latecomers.
    fence: int
    #: 1 for the first claim of this entry in this group.
    attempt: int
    #: When the lease ends: UTC seconds since the epoch.
    until: float


@dataclass(frozen=True, slots=True)
class Retention:
    """What a stream keeps at most; None: no bound.

    Entries that a group has not acknowledged are kept in any case; `GroupInfo.position` tells which group that is.
    """

    #: Seconds.
    age_s: float | None = None
    count: int | None = None
    #: Of the messages' JSON texts.
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("age_s", "count", "size_bytes"):
            value = getattr(self, name)
            if value is None:
                continue
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise InvalidArgument(name, f"{value!r} is not a number of at least 0")


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """State of a consumer group."""

    name: str
    #: All entries up to this one are acknowledged, or in the dead-letter stream.
    position: Position
    #: Claimed and not acknowledged, and given back and not claimed again.
    pending: int
    #: Appended and never claimed.
    waiting: int
    #: An entry that was claimed so often is not claimed again: it goes to the dead-letter stream.
    max_attempts: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """State of a stream."""

    name: str
    #: Positions of the oldest kept and the newest entry; 0: there was none.
    first: Position
    last: Position
    #: Entries kept, and bytes of their JSON texts.
    count: int
    size_bytes: int
    groups: tuple[GroupInfo, ...] = ()
    retention: Retention = Retention()
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)


def checked_name(text: str, what: str = "stream") -> str:
    """Return the name of a stream, group or consumer.

    Raises:
        InvalidName: it is not 1 to 100 letters, digits, ``_``, ``-`` or ``.``.
    """
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise InvalidName(str(text)[:120], f"the name of a {what}: 1 to 100 of A-Z, a-z, 0-9, _, - and .")
    return text


def checked_key(key: str | None) -> str | None:
    """Return an idempotency key.

    Raises:
        InvalidArgument: it is not a text of 1 to 256 characters.
    """
    if key is not None and (type(key) is not str or not 0 < len(key) <= KEY_LIMIT or not key.isprintable()):
        raise InvalidArgument("key", f"{str(key)[:80]!r} is not a text of 1 to {KEY_LIMIT} printable characters")
    return key


def message_text(message: Any) -> bytes:
    """Return a message's JSON text.

    Raises:
        InvalidArgument: it has no form in JSON that could be read back, or its text is too long.
    """
    try:
        text = orjson.dumps(json_form(message))
    except (TypeError, ValueError) as error:
        raise InvalidArgument("message", f"it cannot be kept as JSON: {error}") from None
    if len(text) > MESSAGE_LIMIT_BYTES:
        raise InvalidArgument("message", f"its JSON text has {len(text)} bytes; at most {MESSAGE_LIMIT_BYTES} are kept")
    return text


def dead_letter(claim: Claim, stream: str, error: str | None) -> NewEntry:
    """Return what the dead-letter stream keeps of an entry; its key makes it be there once."""
    content = {
        "stream": stream, "group": claim.group, "position": claim.position, "attempts": claim.attempt,
        "error": error, "key": claim.key, "appended_at": claim.appended_at,
    }  # fmt: skip
    head = orjson.dumps(content)
    return NewEntry(b'%b,"message":%b}' % (head[:-1], claim.text), f"{claim.group}:{claim.position}")
