"""A revision as bytes for a journal, and back: what another process needs to show it and to run it again.

A function made from source text is kept as that text; another one as a cloudpickle, if it can be pickled and is not
large. A slot whose function cannot be had again raises `SlotNotRestored` for each message, until it is set.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle
import msgspec

from timbr_wamp.contract import FunctionRef, Policy
from timbr_wamp.errors import SlotNotRestored, described
from timbr_wamp.machine.slots.functions import PYTHON, load
from timbr_wamp.machine.slots.table import NOT_LOADED, RECORD, Revision, Slot

logger = logging.getLogger(__name__)

#: A larger pickle of a function or object is not kept.
PICKLE_LIMIT_BYTES = 16 * 1024 * 1024

_PLAIN = ("number", "name", "source", "author", "since", "kind", "function_name", "made_of")


class _Policies(msgspec.Struct):
    """The policies of a revision: the table's, and the slots' own."""

    table: Policy
    slots: list[Policy | None]


def packed(revision: Revision) -> bytes:
    """Return a revision as bytes. Runs foreign code: what a function or object does when it is pickled."""
    slots = [{name: getattr(slot, name) for name in _PLAIN} | {"pickled": _pickled(slot)} for slot in revision.slots]
    policies = _Policies(revision.policy, [slot.policy for slot in revision.slots])
    plain = (revision.number, revision.time, revision.author, revision.change, revision.reason)
    return pickle.dumps((plain, slots, msgspec.json.encode(policies)), 5)


def unpacked(body: bytes) -> Revision:
    """Return what `packed` made bytes of, without steps; its functions are not loaded, see `load_slot`."""
    (number, time, author, change, *more), slots, policies = pickle.loads(body)
    own = msgspec.json.decode(policies, type=_Policies)
    made = tuple(
        Slot(function=None if slot["kind"] == "identity" else NOT_LOADED, policy=policy, **slot)
        for slot, policy in zip(slots, own.slots, strict=True)
    )
    reason = more[0] if more else None  # an earlier version kept none
    return Revision(number, made, (), len(made), time, author, change, own.table or RECORD, reason)


@dataclass(frozen=True, slots=True)
class NotRestored:
    """In place of a function that could not be had again after a restart."""

    task: str
    reason: str

    def __call__(self, value: object) -> object:
        raise SlotNotRestored(self.task, self.reason)


def load_slot(slot: Slot, namespace: Callable[[], Mapping[str, object]]) -> tuple[Any, str | None]:
    """Return the function of an unpacked slot, and why it could not be had, if so. Runs the function's own code."""
    reason = "it could not be pickled when it was set"
    try:
        if slot.made_of is not None:
            return load(FunctionRef(kind="source", text=slot.made_of), namespace()), None
        if slot.pickled is not None:
            ref = FunctionRef(kind="cloudpickle", data=slot.pickled, python=PYTHON, text=slot.source)
            return load(ref), None
    except Exception as error:
        reason = described(error)
    return NotRestored(slot.task, reason), reason


def _pickled(slot: Slot) -> bytes | None:
    if slot.function is None or slot.function is NOT_LOADED or slot.made_of is not None:
        return slot.pickled
    try:
        data = bytes(cloudpickle.dumps(slot.function))
    except Exception as error:  # foreign code
        logger.info("%s is not kept beyond this process: %s", slot.task, described(error))
        return None
    return data if len(data) <= PICKLE_LIMIT_BYTES else None
