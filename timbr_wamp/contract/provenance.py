"""What became of one message, attempt by attempt, and how far a large replay is: structs of the wire."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from timbr_wamp.contract.displayable import Displayable
from timbr_wamp.values import parse_json

__all__ = ["Attempt", "AttemptStateName", "AttemptValue", "Lookup", "ReplayProgress", "ValueKind"]

#: Where an attempt at a message is, or how it ended.
AttemptStateName = Literal["waiting", "in_flight", "processed", "errored", "dropped"]
#: What a slot gave in an attempt; an unset slot carries the value before it.
ValueKind = Literal["value", "error", "skipped", "carried"]


class AttemptValue(msgspec.Struct, kw_only=True):
    """What one slot gave in an attempt."""

    slot: int
    #: The slot's name in the revision that made it, while that one is kept.
    name: str | None = None
    kind: ValueKind = "value"
    #: JSON text of the value; of an error or a skipped slot its description. None: too large to be sent.
    text: str | None = None
    #: Size of the text in UTF-8.
    size_bytes: int = 0
    #: What the slot's policy did: ``retry 2``, ``default``, ``drop`` …
    policy: str | None = None

    @property
    def value(self) -> Any:
        """The value, parsed; None when the text was too large to be sent."""
        return None if self.text is None else parse_json(self.text)


class Attempt(msgspec.Struct, kw_only=True):
    """One attempt at a message."""

    attempt: int
    state: AttemptStateName
    #: Number of its record; 0: it has none yet.
    seq: int = 0
    #: The revision that processed it.
    revision: int | None = None
    received_at: float = 0.0
    finished_at: float | None = None
    #: One for each slot of the revision; empty without a record.
    slots: list[AttemptValue] = []

    @property
    def failure(self) -> AttemptValue | None:
        """The first slot that raised; None: there is none."""
        return next((one for one in self.slots if one.kind == "error"), None)


class Lookup(Displayable, msgspec.Struct, kw_only=True):
    """A message, and all that became of it: each attempt with each slot's value, oldest first."""

    run: str
    oid: str
    #: JSON text of the message; None: too large to be sent.
    input: str | None
    #: The newest attempt's.
    state: AttemptStateName
    attempts: list[Attempt]

    @property
    def message(self) -> Any:
        """The message, parsed from its JSON text; None when it was too large to be sent."""
        return None if self.input is None else parse_json(self.input)


class ReplayProgress(msgspec.Struct, kw_only=True):
    """How far a retry or replay of many messages is."""

    #: ``canary``: the first messages are tried; ``put``: messages are queued.
    phase: Literal["canary", "put"]
    done: int
    total: int
